//! Which address a request came from. A peer that is a trusted proxy is believed about the hop before
//! it, and that hop, if it is a trusted proxy too, about the one before; nobody else is believed. So an
//! outsider chooses nothing: what it writes into `X-Forwarded-For` stands left of what proxies add.
//!
//! RFC 7239's `Forwarded` is not read. Proxies that write the one header pass the other on as it came,
//! so whoever reads both believes the client.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::limiter::network;

/// Each proxy adds the address of its own peer at the end.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies whose word counts. By default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// Why a text names no proxies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a network like 10.0.0.0/8")]
pub struct NotANetwork(String);

impl TrustedProxies {
    /// Reads addresses and networks.
    pub fn parse(texts: &[impl AsRef<str>]) -> Result<Self, NotANetwork> {
        let read = |text: &str| {
            let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| NotANetwork(text.to_owned()))
        };
        texts.iter().map(|text| read(text.as_ref().trim())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether an address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address whose share a request uses; `None` for this machine and for proxies, which forward for many.
    pub(crate) fn payer(&self, from: IpAddr) -> Option<IpAddr> {
        let from = from.to_canonical();
        (!from.is_loopback() && !self.contains(from)).then(|| network(from))
    }

    /// The address that a request of that peer came from: the last hop that is no proxy of ours. Where
    /// the header says something that is no address, the last hop that is certain.
    pub(crate) fn client_of(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut hop = peer.to_canonical();
        if !self.contains(hop) {
            return hop;
        }
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        for entry in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
            let Some(before) = address(entry) else { break };
            hop = before;
            if !self.contains(hop) {
                break;
            }
        }
        hop
    }
}

/// One entry of the header: an address, which some proxies write with a port or in brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(peer: &str, lines: &[&[u8]]) -> String {
        let trusted = TrustedProxies::parse(&["10.0.0.0/8", "192.0.2.7", " fd00::/8"]).unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
        }
        trusted.client_of(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_peer_that_is_no_proxy_is_not_believed() {
        assert_eq!(client("203.0.113.5", &[b"198.51.100.1"]), "203.0.113.5");
        assert_eq!(client("::ffff:203.0.113.5", &[b"198.51.100.1"]), "203.0.113.5");
    }

    #[test]
    fn of_a_proxy_the_last_hop_that_is_no_proxy_counts() {
        for peer in ["10.1.2.3", "192.0.2.7", "::ffff:10.1.2.3", "fd00::1"] {
            assert_eq!(client(peer, &[b"198.51.100.1"]), "198.51.100.1", "{peer}");
            assert_eq!(client(peer, &[b"198.51.100.66, 198.51.100.1"]), "198.51.100.1", "{peer}");
            assert_eq!(
                client(peer, &[b"198.51.100.66", b"198.51.100.1 , 10.9.9.9"]),
                "198.51.100.1",
                "{peer}"
            );
            assert_eq!(client(peer, &[]), peer.parse::<IpAddr>().unwrap().to_canonical().to_string());
        }
        assert_eq!(client("10.0.0.1", &[b"10.0.0.3,10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn what_is_no_address_ends_at_the_last_hop_that_is_certain() {
        for garbage in
            [&b"unknown"[..], b"", b"198.51.100.1 x", b"\xff\xfe", b"1.2.3.4.5", b"[::1", b"fe80::1%eth0"]
        {
            assert_eq!(client("10.0.0.1", &[garbage]), "10.0.0.1", "{garbage:?}");
            let line = [b"198.51.100.1, ", garbage, b", 10.0.0.2"].concat();
            assert_eq!(client("10.0.0.1", &[&line]), "10.0.0.2", "{garbage:?}");
        }
    }

    #[test]
    fn ports_and_brackets_are_no_part_of_an_address() {
        for (entry, expected) in [
            ("198.51.100.1:4711", "198.51.100.1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:198.51.100.1", "198.51.100.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[entry.as_bytes()]), expected);
        }
    }

    #[test]
    fn proxies_and_this_machine_have_no_share() {
        let trusted = TrustedProxies::parse(&["10.0.0.0/8"]).unwrap();
        let payer = |from: &str| trusted.payer(from.parse().unwrap()).map(|payer| payer.to_string());
        for from in ["127.0.0.1", "::1", "10.1.2.3", "::ffff:10.1.2.3"] {
            assert_eq!(payer(from), None, "{from}");
        }
        assert_eq!(payer("::ffff:198.51.100.1").unwrap(), "198.51.100.1");
        assert_eq!(payer("2001:db8::1"), payer("2001:db8::ffff"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "proxy", "10.0.0.0/33", "*", "10.0.0"] {
            assert!(TrustedProxies::parse(&[text]).is_err(), "{text}");
        }
    }
}
