//! Untrusted peers of the product: receivers and servers whose answers never end. Each is a thread that ends with the
//! value, or after its own bound.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

/// How long a peer waits to read one piece of a request, or to send one piece of an answer.
const PIECE_WAIT: Duration = Duration::from_secs(5);
/// The most that is ever sent on one connection.
const SENT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Most connections that a peer accepts.
const CONNECTIONS_MAX: usize = 1000;

/// How an answer never ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endless {
    /// One `103 Early Hints` after another.
    EarlyHints,
    /// A body of JSON.
    Body,
}

/// A peer that listens on loopback.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    accepted: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // So that it does not wait for another connection.
        let _ = TcpStream::connect(self.address);
    }
}

impl Peer {
    /// Listens.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(endless: Endless) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let peer = Self {
            address: listener.local_addr()?,
            sent: Arc::default(),
            open: Arc::default(),
            accepted: Arc::default(),
            stopped: Arc::default(),
        };
        let (sent, open, accepted, stopped) =
            (peer.sent.clone(), peer.open.clone(), peer.accepted.clone(), peer.stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().take(CONNECTIONS_MAX).map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (sent, open, stopped) = (sent.clone(), open.clone(), stopped.clone());
                accepted.fetch_add(1, Ordering::SeqCst);
                open.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    // The other side should end the connection.
                    let _ = answer(stream, endless, &sent, &stopped);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(peer)
    }

    /// `http://IP:PORT/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Bytes of answers so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    /// Connections so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: TcpStream, endless: Endless, sent: &AtomicU64, stopped: &AtomicBool) -> Result<()> {
    stream.set_read_timeout(Some(PIECE_WAIT))?;
    stream.set_write_timeout(Some(PIECE_WAIT))?;
    let mut request = [0; 16 * 1024];
    // One read is enough, because the request does not matter.
    let _ = stream.read(&mut request)?;
    let piece = match endless {
        Endless::EarlyHints => b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n".repeat(16),
        Endless::Body => {
            let head =
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{\"a\":[0";
            stream.write_all(head)?;
            b",0".repeat(8 * 1024)
        }
    };
    let mut own = 0;
    while own < SENT_BYTES_MAX && !stopped.load(Ordering::SeqCst) {
        stream.write_all(&piece)?;
        own += u64::try_from(piece.len())?;
        sent.fetch_add(u64::try_from(piece.len())?, Ordering::SeqCst);
    }
    Ok(())
}
