//! Profiles that several people share, for `keyrelay doctor`. They were made before that was refused.

use super::Place;
use super::direct::Direct;
use crate::StoreError;

/// Most shared profiles that a report lists.
const SHARED_PROFILES_NAMED: usize = 10;

/// A profile that memberships of several users have in one project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedProfile {
    /// The project, by its id.
    pub project: String,
    /// As a relative reference.
    pub profile: String,
    /// How many users have it.
    pub users: i64,
}

/// Finds the first few profiles that several users share.
pub async fn shared_profiles(place: &Place) -> Result<Vec<SharedProfile>, StoreError> {
    let direct = Direct::open(place).await?;
    super::schema::require_known(&direct).await?;
    let sql = format!(
        "SELECT project_id, profile_type, profile_id, COUNT(*) FROM membership WHERE user_id IS NOT NULL \
         GROUP BY project_id, profile_type, profile_id HAVING COUNT(*) > 1 \
         ORDER BY project_id, profile_id LIMIT {SHARED_PROFILES_NAMED}"
    );
    let rows = direct.fetch(&sql, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(SharedProfile {
                project: row.text(0)?,
                profile: format!("{}/{}", row.text(1)?, row.text(2)?),
                users: row.int(3)?,
            })
        })
        .collect()
}
