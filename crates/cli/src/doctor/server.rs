//! The server on this machine, at the address that it would listen on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use super::report::Report;
use crate::settings::Settings;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What it means that no server is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// It may not have been started yet.
    Warns,
    /// It should be there.
    Fails,
}

pub async fn check(settings: &Settings, absence: Absence, report: &mut Report) {
    let Ok(address) = settings.listen().map(near) else { return };
    let said = if settings.tls_certificate.is_some() { listens(address).await } else { ready(address).await };
    let advice = "start it: keyrelay serve; where it runs and is not ready, its log says why";
    match said {
        Ok(said) => report.ok("server", said),
        Err(said) if absence == Absence::Warns => report.warn("server", said, advice),
        Err(said) => report.fail("server", said, advice),
    }
}

/// Whether something listens. Its certificate is for another name than this address, so that is as far as
/// it goes with TLS.
async fn listens(address: SocketAddr) -> Result<String, String> {
    match tokio::time::timeout(ANSWER_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(format!("something listens on {address}")),
        _ => Err(format!("nothing listens on {address}")),
    }
}

async fn ready(address: SocketAddr) -> Result<String, String> {
    let url = format!("http://{address}/readyz");
    let asked = async {
        // Plain HTTP: no certificates are needed, and a machine without any has a server, too.
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWER_TIMEOUT);
        let client = client.build()?;
        client.get(&url).send().await
    };
    match asked.await {
        Ok(answer) if answer.status().is_success() => Ok(format!("{url} says that it is ready")),
        Ok(answer) => Err(format!("{url} answers {}", answer.status().as_u16())),
        Err(_) => Err(format!("{url} does not answer")),
    }
}

/// An address of this machine, where all were meant.
fn near(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}
