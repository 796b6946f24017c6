//! A way to the server that can be cut at any message: after a request came and before it goes on, or after
//! the answer came and before it goes back. Whoever is killed at a cut is killed at that step.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

/// See the module.
pub struct Way {
    pub base: String,
    /// A permit for each message that may pass.
    passes: Arc<Semaphore>,
    /// A permit for each message that is held back.
    held: Arc<Semaphore>,
    /// Tells connections whose message is held back to end.
    dropped: Arc<Notify>,
    /// Tells them to let it go on.
    released: Arc<Notify>,
    task: AbortHandle,
}

impl Way {
    /// Opens it.
    pub async fn to(base: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}/", listener.local_addr().unwrap());
        let server = base.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let (passes, held) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (dropped, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (allowed, kept_back) = (Arc::clone(&passes), Arc::clone(&held));
        let (ended, goes_on) = (Arc::clone(&dropped), Arc::clone(&released));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (allowed, kept_back, server) =
                    (Arc::clone(&allowed), Arc::clone(&kept_back), server.clone());
                let (ended, goes_on) = (Arc::clone(&ended), Arc::clone(&goes_on));
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    carry(client, server, &allowed, &kept_back, [&ended, &goes_on]).await;
                });
            }
        });
        Self { base: own, passes, held, dropped, released, task: task.abort_handle() }
    }

    /// Lets so many messages pass and then none.
    pub fn cut_after(&self, messages: usize) {
        self.passes.forget_permits(usize::MAX >> 4);
        self.passes.add_permits(messages);
    }

    /// Lets everything pass.
    pub fn mend(&self) {
        self.cut_after(1_000_000);
    }

    /// Ends the connections whose message is held back, so that their client hears of it.
    pub fn drop_held(&self) {
        self.dropped.notify_waiters();
    }

    /// Lets the messages go on that are held back.
    pub fn release_held(&self) {
        self.released.notify_waiters();
    }

    /// Ends when a message is held back.
    pub async fn is_cut(&self) {
        self.held.acquire().await.unwrap().forget();
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries messages to and fro until one side goes.
async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    passes: &Semaphore,
    held: &Semaphore,
    [dropped, released]: [&Notify; 2],
) {
    loop {
        for forth in [true, false] {
            let from = if forth { &mut client } else { &mut server };
            let Some(message) = read_message(from).await else { return };
            if let Ok(pass) = passes.try_acquire() {
                pass.forget();
            } else {
                let (dropped, released) = (dropped.notified(), released.notified());
                tokio::pin!(dropped, released);
                dropped.as_mut().enable();
                released.as_mut().enable();
                held.add_permits(1);
                // Whoever sent the request is killed now, or hears nothing; the server hears no more than that.
                let mut rest = [0];
                tokio::select! {
                    _ = client.read(&mut rest) => return,
                    () = dropped => return,
                    () = released => {}
                }
            }
            let to = if forth { &mut server } else { &mut client };
            if to.write_all(&message).await.is_err() {
                return;
            }
        }
    }
}

/// One request or answer, as far as this server and its clients write them.
async fn read_message(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut part = [0; 4096];
        let length = from.read(&mut part).await.ok().filter(|length| *length > 0)?;
        message.extend_from_slice(&part[..length]);
        let Some(head) = message.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&message[..head]).to_ascii_lowercase();
        let body: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.trim().parse().unwrap());
        if message.len() >= head + 4 + body {
            return Some(message);
        }
    }
}
