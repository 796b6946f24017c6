//! The server on this machine, at the address that it would listen on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use super::report::Report;
use crate::settings::Settings;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn check(settings: &Settings, report: &mut Report) {
    let Ok(address) = settings.listen().map(near) else { return };
    if settings.tls_certificate.is_some() {
        // Its certificate is for another name than this address, so that is as far as it goes.
        return match tokio::time::timeout(ANSWER_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => report.ok("server", format!("something listens on {address}")),
            _ => report.warn("server", format!("nothing listens on {address}"), "start it: keyrelay serve"),
        };
    }
    let url = format!("http://{address}/readyz");
    let asked = async {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build()?;
        client.get(&url).send().await
    };
    match asked.await {
        Ok(answer) if answer.status().is_success() => {
            report.ok("server", format!("{url} says that it is ready"));
        }
        Ok(answer) => {
            let said = format!("{url} answers {}", answer.status().as_u16());
            report.warn("server", said, "503: see its log for why; anything else: see what answers there");
        }
        Err(_) => report.warn("server", format!("{url} does not answer"), "start it: keyrelay serve"),
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
