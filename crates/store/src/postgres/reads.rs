//! Group reads over one connection: one query at a time, so that a query that is slow holds up nobody
//! but those who wait for its answer. What comes meanwhile is taken by the next connection that is free.

use std::hash::Hash;
use std::sync::Arc;

use keyrelay_core::limits::DATABASE_READ_MAX;
use keyrelay_core::survive::survive_waiting;

use super::link::Link;
use crate::group::{GroupQuery, Lane};

/// Answers groups until their queue ends. A group is taken only while there is a connection to ask over,
/// and its query is sent after that, so that every request of it has arrived before (P3).
pub(super) async fn serve<K, V>(link: Link, mut lane: Lane<K, V>, query: Arc<GroupQuery<K, V>>)
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    while let Some(session) = link.connected().await {
        let group = tokio::select! {
            biased;
            () = link.lost(&session) => continue,
            group = lane.next() => group,
        };
        let Some(group) = group else { return };
        // After a panic, the dropped channels report the failure to the callers, and the next group is read.
        let _ = survive_waiting(async {
            let (sql, args) = query.ask(&group);
            let found = link.fetch_within(DATABASE_READ_MAX, &sql, &args).await;
            query.tell(group, found);
        })
        .await;
    }
}
