//! Somebody who receives webhooks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// See the module.
pub struct Receiver {
    pub url: String,
    /// What is answered; empty for nothing at all.
    answer: Arc<Mutex<&'static str>>,
    received: mpsc::UnboundedReceiver<(String, String)>,
}

impl Receiver {
    pub async fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (tell, received) = mpsc::unbounded_channel();
        let answer = Arc::new(Mutex::new("204 No Content"));
        let answers = Arc::clone(&answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, Arc::clone(&answers), tell.clone()));
            }
        });
        Self { url, answer, received }
    }

    pub fn answers(&self, status: &'static str) {
        *self.answer.lock().unwrap() = status;
    }

    /// The head and the body of the next request.
    pub async fn next(&mut self) -> (String, String) {
        let next = tokio::time::timeout(Duration::from_mins(2), self.received.recv()).await;
        next.expect("nothing came for two minutes").unwrap()
    }
}

async fn receive(
    stream: TcpStream,
    answer: Arc<Mutex<&'static str>>,
    tell: mpsc::UnboundedSender<(String, String)>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    let answer = *answer.lock().unwrap();
    tell.send((head, String::from_utf8(body).ok()?)).ok()?;
    if answer.is_empty() {
        std::future::pending::<()>().await;
    }
    let text = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.ok()
}
