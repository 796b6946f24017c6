//! Which origins client applications name as theirs. There is no table of its own: it is one value of
//! the search index, which follows every write of a client.

use keyrelay_core::id::ClientId;
use keyrelay_core::origin::Origin;

use crate::change::args;
use crate::database::Arg;
use crate::{Store, StoreError};

impl Store {
    /// Whether an origin is an `allowedOrigin` of that client, or, if none is named, of any; of clients
    /// only that are active in an active project.
    pub async fn allows_origin(&self, origin: &Origin, client: Option<ClientId>) -> Result<bool, StoreError> {
        let any = client.is_none();
        let sql = "SELECT 1 FROM search_index s JOIN client c ON c.id = s.resource_id \
                   JOIN project p ON p.id = c.project_id \
                   WHERE s.resource_type = 'ClientApplication' AND s.code = 'allowed-origin' AND s.value = $1 \
                   AND ($2 OR c.id = $3) AND c.active AND p.active LIMIT 1";
        let args = args![origin.as_str(), any, client];
        Ok(!self.0.database.fetch_access(sql, args).await?.is_empty())
    }
}
