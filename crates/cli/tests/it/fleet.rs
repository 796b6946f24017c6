//! Workers that read their client's secret anew each time they ask for a token, from where a rotation
//! delivers it, and count how often they are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;

use crate::process::http;

/// Where a worker reads the secret.
#[derive(Clone)]
pub enum From {
    File(PathBuf),
    Dotenv(PathBuf),
}

impl From {
    fn read(&self) -> String {
        match self {
            Self::File(path) => std::fs::read_to_string(path).unwrap(),
            Self::Dotenv(path) => dotenv(path),
        }
    }
}

/// The value of `SECRET` in a file.
pub fn dotenv(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("SECRET="));
    line.unwrap_or_else(|| panic!("{text}")).trim_matches('"').to_owned()
}

/// Workers at work.
pub struct Fleet {
    stop: Arc<AtomicBool>,
    granted: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    workers: JoinSet<()>,
}

impl Fleet {
    /// Starts two for each place.
    pub fn start(base: &str, id: &str, places: &[From]) -> Self {
        let mut fleet = Self {
            stop: Arc::default(),
            granted: Arc::default(),
            refused: Arc::default(),
            workers: JoinSet::new(),
        };
        for (n, place) in places.iter().flat_map(|place| [place, place]).enumerate() {
            let (stop, granted, refused) =
                (Arc::clone(&fleet.stop), Arc::clone(&fleet.granted), Arc::clone(&fleet.refused));
            let (place, url, id, http) =
                (place.clone(), format!("{base}oauth2/token"), id.to_owned(), http());
            fleet.workers.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let secret = place.read();
                    let form = [
                        ("grant_type", "client_credentials"),
                        ("client_id", &id),
                        ("client_secret", &secret),
                    ];
                    let request =
                        http.post(&url).form(&form).header("x-client-instance", format!("worker-{n}"));
                    let counted =
                        if request.send().await.unwrap().status() == 200 { &granted } else { &refused };
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        fleet
    }

    /// Ends when every worker has had time for another round.
    pub async fn goes_on(&self) {
        let before = self.granted.load(Ordering::SeqCst);
        while self.granted.load(Ordering::SeqCst) < before + 20 && self.refused.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Stops them, and gives how often they were let in and refused.
    pub async fn stop(mut self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.workers.join_next().await {
            ended.unwrap();
        }
        (self.granted.load(Ordering::SeqCst), self.refused.load(Ordering::SeqCst))
    }
}
