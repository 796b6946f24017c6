//! As much HTTP/1.1 as a measurement needs: writing requests, reading answers that carry a `Content-Length`.
//!
//! A general client would cost as much as the server that is measured on the same cores. The parsing of heads is
//! shared by the one-shot client here, for set-up calls, and by the load generator. Loopback only: nothing in this
//! crate may ever load somebody else's server.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// The longest answer that is read.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
const HEADERS_MAX: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

/// A server on this machine, as `http://127.0.0.1:PORT/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(SocketAddr);

impl Target {
    /// Reads a base URL. Only plain HTTP to an IP address of the loopback interface, without a path, is accepted.
    ///
    /// # Errors
    /// For every other URL.
    pub fn parse(url: &str) -> Result<Self> {
        let address = url
            .strip_prefix("http://")
            .context("the address must start with http://")?
            .trim_end_matches('/')
            .parse::<SocketAddr>()
            .context("the address must be http://IP:PORT/")?;
        Self::new(address)
    }

    /// # Errors
    /// When the address is not on the loopback interface.
    pub fn new(address: SocketAddr) -> Result<Self> {
        ensure!(
            address.ip().is_loopback(),
            "load is only made against this machine's own loopback interface"
        );
        Ok(Self(address))
    }

    /// Where to connect.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

/// An answer, with header names in lower case.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names and values, in the order of the answer.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON, after checking the status. The body of an unexpected answer is named in the error only by
    /// its length: it may hold a secret.
    ///
    /// # Errors
    /// When the status is not `status`, or the body is not the JSON asked for.
    pub fn json<T: serde::de::DeserializeOwned>(&self, status: u16) -> Result<T> {
        ensure!(
            self.status == status,
            "expected status {status}, got {} with a body of {} bytes",
            self.status,
            self.body.len()
        );
        serde_json::from_slice(&self.body).context("the answer is not the expected JSON")
    }
}

/// Sends one request on a connection of its own and reads the whole answer.
///
/// # Errors
/// When the server cannot be reached, answers without a length, or takes longer than 30 seconds.
pub fn request(
    target: Target,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let stream = TcpStream::connect_timeout(&target.address(), PATIENCE)?;
    exchange(stream, target, method, path, headers, body)
}

/// Like [`request`], on a connection that is there already, and is closed after it.
///
/// # Errors
/// As [`request`].
pub fn exchange(
    mut stream: TcpStream,
    target: Target,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut with_close = headers.to_vec();
    with_close.push(("connection", "close"));
    stream.write_all(&prepared(target, method, path, &with_close, body))?;

    let mut received = Vec::with_capacity(16 * 1024);
    let mut chunk = [0; 16 * 1024];
    loop {
        if let Some(head) = head(&received)?
            && received.len() >= head.length()
        {
            return answer(&received, head);
        }
        let count = stream.read(&mut chunk)?;
        ensure!(count > 0, "the connection ended before the answer did");
        received.extend_from_slice(&chunk[..count]);
    }
}

/// A request as the bytes to put on the wire, with `Host` and `Content-Length` added.
#[must_use]
pub fn prepared(target: Target, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = String::with_capacity(512);
    let host = target.address();
    // Writing to a String cannot fail.
    let _ = write!(text, "{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    let _ = write!(text, "content-length: {}\r\n\r\n", body.len());
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// What the head of an answer says, as far as reading on needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Bytes up to and with the empty line.
    pub head_bytes: usize,
    /// Bytes after it.
    pub body_bytes: usize,
    /// The server ends the connection after this answer.
    pub closes: bool,
}

impl Head {
    /// Bytes of the whole answer.
    #[must_use]
    pub fn length(self) -> usize {
        self.head_bytes + self.body_bytes
    }
}

/// Reads the head of the answer at the start of `received`; `None` while it is incomplete.
///
/// # Errors
/// When the bytes are not an HTTP answer, the answer has no `Content-Length`, or it is too long.
pub fn head(received: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = response.parse(received)? else {
        ensure!(received.len() < ANSWER_BYTES_MAX, "the head of the answer is too long");
        return Ok(None);
    };
    let mut body_bytes = None;
    let mut closes = false;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            body_bytes = Some(std::str::from_utf8(header.value)?.trim().parse::<usize>()?);
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes |= header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let status = response.code.unwrap_or_default();
    let body_bytes = match body_bytes {
        Some(length) if length <= ANSWER_BYTES_MAX => length,
        Some(length) => bail!("the answer of {length} bytes is too long"),
        None if status == 204 || status == 304 => 0,
        None => bail!("the answer has no Content-Length"),
    };
    Ok(Some(Head { status, head_bytes, body_bytes, closes }))
}

fn answer(received: &[u8], head: Head) -> Result<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(received)?;
    Ok(Answer {
        status: head.status,
        headers: response
            .headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value).into_owned();
                (header.name.to_ascii_lowercase(), value)
            })
            .collect(),
        body: received[head.head_bytes..head.length()].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_accepted() {
        assert!(Target::parse("http://127.0.0.1:8103/").is_ok());
        assert!(Target::parse("http://[::1]:8103/").is_ok());
        for other in
            ["http://192.0.2.1:80/", "http://0.0.0.0:80/", "https://127.0.0.1:1/", "http://localhost:1/"]
        {
            assert!(Target::parse(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_head_is_read_whole_or_not_at_all() -> Result<()> {
        let text = b"HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..text.len() - 3 {
            assert_eq!(head(&text[..end])?, None);
        }
        let expected = Head { status: 201, head_bytes: text.len() - 3, body_bytes: 3, closes: true };
        assert_eq!(head(text)?, Some(expected));
        Ok(())
    }

    #[test]
    fn an_answer_without_a_length_is_refused() {
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
