//! Connections from an address of one's choice: every address of 127.0.0.0/8 is this machine's own, and whoever
//! limits clients by their address takes each for another client.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpSocket;

/// Connects to `to` from the loopback address `from`. The stream blocks, as those of the standard library do.
///
/// # Errors
/// When `from` is not a loopback address, or the connection cannot be made.
pub fn connect(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    ensure!(from.is_loopback(), "connections are only made from this machine's own loopback interface");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.connect(to).await?.into_std()
    });
    let stream = stream.context("connecting from another loopback address")?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}
