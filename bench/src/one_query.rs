//! What the least program asks of PostgreSQL for each grant: one `SELECT` for one client, the product's own text,
//! prepared, and sent without waiting for the one before it.
//!
//! This is the way without group reads, made as fast as it can be: no pool to wait for, as many queries on the way as
//! there are requests.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use tokio_postgres::{Client, NoTls, Statement};

/// Connections that the queries are spread over.
const CONNECTIONS: usize = 4;
/// The narrow read of the token path (`crates/store/src/access.rs`), for one client.
const NARROW_READ: &str = "SELECT c.id, c.name, c.active, c.token_lifetime_ms, c.grant_types, c.default_scope, \
    c.active_id, c.active_proof, NULL, c.active_created, c.retiring_id, c.retiring_proof, NULL, c.retiring_created, \
    m.id, m.active, m.admin, m.policy_id, m.profile_type, m.profile_id, r.version_id, r.content, \
    p.id, p.name, p.active, p.super_admin, p.secret_once, c.revoked_until \
    FROM client c JOIN project p ON p.id = c.project_id \
    LEFT JOIN membership m ON m.client_id = c.id AND m.project_id = c.project_id \
    LEFT JOIN resource r ON r.id = m.policy_id AND r.resource_type = 'AccessPolicy' AND NOT r.deleted \
    WHERE c.id IN ($1)";

/// Connections with the query prepared.
pub struct OneQuery {
    connections: Vec<(Client, Statement)>,
    next: AtomicUsize,
}

impl OneQuery {
    /// Connects to a database that the product has filled.
    ///
    /// # Errors
    /// When it cannot be reached, or does not know the query.
    pub async fn connect(url: &str) -> Result<Self> {
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let (client, connection) =
                tokio_postgres::connect(url, NoTls).await.context("connecting to PostgreSQL")?;
            tokio::spawn(connection);
            let statement = client.prepare(NARROW_READ).await.context("preparing the query")?;
            connections.push((client, statement));
        }
        Ok(Self { connections, next: AtomicUsize::new(0) })
    }

    /// Reads one client. It must be there, and active.
    ///
    /// # Errors
    /// When it is not, or the database does not answer.
    pub async fn read(&self, client_id: &str) -> Result<()> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let (client, statement) = &self.connections[turn];
        let row = client.query_opt(statement, &[&client_id]).await?.context("there is no such client")?;
        let (client, project): (bool, bool) = (row.try_get(2)?, row.try_get(24)?);
        let proof: Option<&[u8]> = row.try_get(7)?;
        ensure!(client && project && proof.is_some(), "the client is not as the run has made it");
        Ok(())
    }
}
