//! Who is told when there are new events, for streams. One look at the database serves all streams of a server,
//! and nobody looks while there are none. Other servers write events too, so it is looked once a second; what
//! this server writes itself wakes it at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyrelay_core::id::ProjectId;
use keyrelay_core::limits::{STREAM_INTERVAL, STREAM_WAKES_APART, STREAMS_MAX, STREAMS_PER_PROJECT_MAX};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::App;

/// What a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// There are events up to this number.
    UpTo(i64),
    /// The server stops.
    NoMore,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Streams {
    news: watch::Sender<News>,
    /// Wakes who looks, when somebody begins to listen.
    came: Notify,
    /// How many streams are open, by project.
    open: Arc<Mutex<HashMap<ProjectId, usize>>>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { news: watch::channel(News::UpTo(0)).0, came: Notify::new(), open: Arc::default() }
    }
}

/// The place of one stream among those that may be open; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    project: ProjectId,
    open: Arc<Mutex<HashMap<ProjectId, usize>>>,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        let left = open.get(&self.project).map_or(0, |n| n.saturating_sub(1));
        if left == 0 {
            open.remove(&self.project);
        } else {
            open.insert(self.project, left);
        }
    }
}

fn lock(open: &Mutex<HashMap<ProjectId, usize>>) -> MutexGuard<'_, HashMap<ProjectId, usize>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streams {
    /// Takes a place for a stream of a project; none if there are too many.
    pub(crate) fn place(&self, project: ProjectId) -> Option<StreamPlace> {
        let mut open = lock(&self.open);
        let all: usize = open.values().sum();
        let of_project = open.get(&project).copied().unwrap_or_default();
        if all >= STREAMS_MAX || of_project >= STREAMS_PER_PROJECT_MAX {
            return None;
        }
        open.insert(project, of_project + 1);
        Some(StreamPlace { project, open: Arc::clone(&self.open) })
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        lock(&self.open).values().sum()
    }

    /// What there is, and what comes.
    pub(crate) fn listen(&self) -> watch::Receiver<News> {
        let news = self.news.subscribe();
        self.came.notify_one();
        news
    }

    /// Takes up that there are events up to a number.
    pub(crate) fn take_up(&self, seq: i64) {
        self.news.send_if_modified(|news| {
            let is_newer = matches!(news, News::UpTo(known) if *known < seq);
            if is_newer {
                *news = News::UpTo(seq);
            }
            is_newer
        });
    }
}

/// Looks for new events while anybody listens, until the server drains; then all streams end.
pub(crate) async fn run(app: App, mut draining: watch::Receiver<bool>) {
    let look = async {
        let mut told = app.store.events_told();
        loop {
            if app.streams.news.receiver_count() == 0 {
                app.streams.came.notified().await;
                continue;
            }
            look(&app).await;
            sleep(STREAM_WAKES_APART).await;
            if matches!(timeout(STREAM_INTERVAL, told.changed()).await, Ok(Err(_))) {
                return;
            }
        }
    };
    tokio::select! {
        _ = draining.wait_for(|draining| *draining) => {}
        () = look => {}
    }
    app.streams.news.send_replace(News::NoMore);
}

/// Numbers what is new, and tells the streams.
pub(crate) async fn look(app: &App) {
    let looked = async {
        if !app.store.refuses_changes() {
            app.store.number_events().await?;
        }
        app.store.last_event().await
    };
    match looked.await {
        Ok(seq) => app.streams.take_up(seq),
        Err(error) => tracing::warn!(%error, "it could not be looked for new events; it is tried again"),
    }
}

#[cfg(test)]
mod tests {
    use keyrelay_core::random::SeededEntropy;

    use super::*;

    #[test]
    fn a_server_and_a_project_have_so_many_streams_and_no_more() {
        let (streams, entropy) = (Streams::default(), SeededEntropy::new(1));
        let project = ProjectId::random(&entropy);
        let mut places: Vec<_> =
            (0..STREAMS_PER_PROJECT_MAX).filter_map(|_| streams.place(project)).collect();
        assert_eq!((places.len(), streams.open()), (STREAMS_PER_PROJECT_MAX, STREAMS_PER_PROJECT_MAX));
        assert!(streams.place(project).is_none());
        places.pop();
        assert!(streams.place(project).is_some(), "a place that was given back");
        let of_others: Vec<_> =
            (0..STREAMS_MAX * 2).filter_map(|_| streams.place(ProjectId::random(&entropy))).collect();
        assert_eq!(streams.open(), STREAMS_MAX);
        assert!(streams.place(project).is_none(), "the server has none left");
        drop((places, of_others));
        assert!(lock(&streams.open).is_empty(), "nothing is kept of those that are gone");
    }

    #[test]
    fn news_never_go_back_and_nothing_comes_after_the_end() {
        let streams = Streams::default();
        let mut heard = streams.listen();
        streams.take_up(7);
        assert_eq!(*heard.borrow_and_update(), News::UpTo(7));
        streams.take_up(7);
        streams.take_up(6);
        assert!(!heard.has_changed().unwrap());
        streams.news.send_replace(News::NoMore);
        streams.take_up(8);
        assert_eq!(*heard.borrow_and_update(), News::NoMore);
    }
}
