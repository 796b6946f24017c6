//! Who is told when there are new events, for streams. One look at the database serves all streams of a server,
//! and nobody looks while there are none. Other servers write events too, so it is looked once a second; what
//! this server writes itself wakes it at once.

use std::collections::HashMap;
use std::fmt;
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
    open: Arc<Mutex<Open>>,
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The project has the most streams that it may have.
    OfProject,
    /// The server has the most streams that it may have, and no other project has more than this one.
    OfServer,
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfProject => write!(
                f,
                "The project has {STREAMS_PER_PROJECT_MAX} open event streams on this server, the most it may have: \
                 close one"
            ),
            Self::OfServer => write!(
                f,
                "The server has {STREAMS_MAX} open event streams, the most it may have, and this project has its \
                 share of them: close one, or try again later"
            ),
        }
    }
}

/// The open streams, the newest last.
#[derive(Debug, Default)]
struct Open {
    opened: u64,
    of: HashMap<ProjectId, Vec<(u64, Arc<Notify>)>>,
}

impl Open {
    fn all(&self) -> usize {
        self.of.values().map(Vec::len).sum()
    }

    fn of(&self, project: ProjectId) -> usize {
        self.of.get(&project).map_or(0, Vec::len)
    }

    /// Ends the newest stream of the project with the most, if that project still has at least as many as `project`
    /// afterwards.
    fn make_room_for(&mut self, project: ProjectId) -> bool {
        let own = self.of(project);
        let most = self.of.iter_mut().max_by_key(|(id, streams)| (streams.len(), **id));
        let Some((_, streams)) = most.filter(|(_, streams)| streams.len() > own + 1) else { return false };
        if let Some((_, ended)) = streams.pop() {
            ended.notify_one();
        }
        true
    }

    fn close(&mut self, project: ProjectId, stream: u64) {
        if let Some(streams) = self.of.get_mut(&project) {
            streams.retain(|(id, _)| *id != stream);
            if streams.is_empty() {
                self.of.remove(&project);
            }
        }
    }
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
    stream: u64,
    ended: Arc<Notify>,
    open: Arc<Mutex<Open>>,
}

impl StreamPlace {
    /// Completes when the place was given to another project.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        lock(&self.open).close(self.project, self.stream);
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streams {
    /// Takes a place for a stream of a project, unless it has its share. If no place is free, the project with the
    /// most streams loses its newest one. So shares become equal, and no place moves back and forth. A reader of the
    /// lost stream reconnects, and is refused or misses nothing.
    pub(crate) fn place(&self, project: ProjectId) -> Result<StreamPlace, NoPlace> {
        let mut open = lock(&self.open);
        if open.of(project) >= STREAMS_PER_PROJECT_MAX {
            return Err(NoPlace::OfProject);
        }
        if open.all() >= STREAMS_MAX && !open.make_room_for(project) {
            return Err(NoPlace::OfServer);
        }
        open.opened += 1;
        let (stream, ended) = (open.opened, Arc::new(Notify::new()));
        open.of.entry(project).or_default().push((stream, Arc::clone(&ended)));
        Ok(StreamPlace { project, stream, ended, open: Arc::clone(&self.open) })
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        lock(&self.open).all()
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
            (0..STREAMS_PER_PROJECT_MAX).filter_map(|_| streams.place(project).ok()).collect();
        assert_eq!((places.len(), streams.open()), (STREAMS_PER_PROJECT_MAX, STREAMS_PER_PROJECT_MAX));
        assert_eq!(streams.place(project).err(), Some(NoPlace::OfProject));
        places.pop();
        assert!(streams.place(project).is_ok(), "a place that was given back");
        let of_others: Vec<_> =
            (0..STREAMS_MAX * 2).filter_map(|_| streams.place(ProjectId::random(&entropy)).ok()).collect();
        assert_eq!(streams.open(), STREAMS_MAX);
        assert_eq!(streams.place(project).err(), Some(NoPlace::OfServer));
        drop((places, of_others));
        assert!(lock(&streams.open).of.is_empty(), "nothing is kept of those that are gone");
    }

    #[tokio::test]
    async fn when_all_places_are_taken_a_project_with_fewer_gets_one_of_the_project_with_most() {
        let (streams, entropy) = (Streams::default(), SeededEntropy::new(1));
        let greedy: Vec<ProjectId> =
            (0..STREAMS_MAX / STREAMS_PER_PROJECT_MAX).map(|_| ProjectId::random(&entropy)).collect();
        let taken: Vec<_> = greedy
            .iter()
            .flat_map(|project| (0..STREAMS_PER_PROJECT_MAX).map(|_| streams.place(*project).unwrap()))
            .collect();
        let late = ProjectId::random(&entropy);
        let own: Vec<_> = (0..STREAMS_PER_PROJECT_MAX).map_while(|_| streams.place(late).ok()).collect();
        assert_eq!(streams.open(), STREAMS_MAX);
        let counts: Vec<usize> = greedy.iter().map(|project| lock(&streams.open).of(*project)).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(own.len() >= *most - 1 && most - least <= 1, "{} {counts:?}", own.len());
        // The stream that lost its place ends, and gets no other place.
        let told = taken.iter().map(|place| tokio::time::timeout(std::time::Duration::ZERO, place.ended()));
        let told = futures_util::future::join_all(told).await;
        assert_eq!(told.iter().filter(|told| told.is_ok()).count(), own.len());
        assert_eq!(streams.place(greedy[0]).err(), Some(NoPlace::OfServer));
        drop((taken, own));
        assert!(lock(&streams.open).of.is_empty(), "nothing is kept of those that are gone");
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
