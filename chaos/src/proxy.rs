//! A TCP proxy that fails as networks do: it cuts connections, holds everything back without closing
//! anything, or takes its time.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Bytes that one direction of a connection holds.
const CHUNK_BYTES: usize = 16 * 1024;
/// A commit as it is sent: the end of a simple query.
const COMMIT: &[u8] = b"COMMIT\0";

/// What the proxy does with what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It goes through.
    Pass,
    /// It goes through later.
    Delay(Duration),
    /// It is kept, and goes through when this ends.
    Hang,
    /// It is lost, and so is everything later on the same connection, which nobody closes: as when a host
    /// is gone and another has taken its address.
    Lose,
    /// A commit is lost, as by [`Mode::Lose`]; what comes before it goes through.
    KeepCommits,
    /// A commit goes through, and its answer is lost.
    LoseAnswersToCommits,
}

/// A proxy on loopback. It ends when this is dropped, with its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Connections of an earlier generation end.
    generation: watch::Sender<u64>,
    /// How many commits or answers to commits were lost.
    commits_lost: watch::Sender<u64>,
    task: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Takes a free port, and leads from there to `target`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (mode, generation) = (watch::Sender::new(Mode::Pass), watch::Sender::new(0));
        let commits_lost = watch::Sender::new(0);
        let (modes, generations, lost) = (mode.subscribe(), generation.subscribe(), commits_lost.clone());
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (modes, mut cut, lost) = (modes.clone(), generations.clone(), lost.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = cut.changed() => {}
                        _ = lead(near, target, modes, &lost) => {}
                    }
                });
            }
        });
        Ok(Self { address, mode, generation, commits_lost, task: task.abort_handle() })
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what is done from now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// How many commits were lost on the way, or their answers on the way back.
    #[must_use]
    pub fn commits_lost(&self) -> watch::Receiver<u64> {
        self.commits_lost.subscribe()
    }

    /// Ends all connections, on both sides.
    pub fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

async fn lead(
    near: TcpStream,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    commits_lost: &watch::Sender<u64>,
) -> io::Result<()> {
    // Whoever connects to a host that hangs is let in by its kernel, and gets no further.
    let _ = mode.wait_for(|mode| *mode != Mode::Hang).await;
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let commit_passed = &AtomicBool::new(false);
    let modes = mode.clone();
    let there =
        Pump { from: near_read, to: far_write, mode: modes, commit_passed, commits_lost, is_back: false };
    let back = Pump { from: far_read, to: near_write, mode, commit_passed, commits_lost, is_back: true };
    tokio::try_join!(there.run(), back.run()).map(drop)
}

/// One direction of a connection.
struct Pump<'a, R, W> {
    from: R,
    to: W,
    mode: watch::Receiver<Mode>,
    /// Whether a commit went through whose answer is to be lost.
    commit_passed: &'a AtomicBool,
    commits_lost: &'a watch::Sender<u64>,
    is_back: bool,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Pump<'_, R, W> {
    async fn run(mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = self.from.read(&mut chunk).await?;
            let mode = self.mode.wait_for(|mode| *mode != Mode::Hang).await.map_or(Mode::Pass, |mode| *mode);
            let is_commit = !self.is_back && chunk[..count].windows(COMMIT.len()).any(|part| part == COMMIT);
            match mode {
                Mode::Lose => return self.lose().await,
                Mode::KeepCommits if is_commit => return self.lose_commit().await,
                Mode::LoseAnswersToCommits if is_commit => self.commit_passed.store(true, Ordering::SeqCst),
                Mode::LoseAnswersToCommits if self.is_back && self.commit_passed.load(Ordering::SeqCst) => {
                    return self.lose_commit().await;
                }
                Mode::Delay(time) => sleep(time).await,
                Mode::Pass | Mode::Hang | Mode::KeepCommits | Mode::LoseAnswersToCommits => {}
            }
            if count == 0 {
                return self.to.shutdown().await;
            }
            self.to.write_all(&chunk[..count]).await?;
        }
    }

    async fn lose_commit(self) -> io::Result<()> {
        self.commits_lost.send_modify(|lost| *lost += 1);
        self.lose().await
    }

    /// From now on nothing arrives, and nobody hears of it.
    async fn lose(mut self) -> io::Result<()> {
        tokio::io::copy(&mut self.from, &mut tokio::io::sink()).await?;
        std::future::pending().await
    }
}
