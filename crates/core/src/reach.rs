//! Where this server connects to because somebody named an address: public ones only, so that nobody
//! makes it speak to the machines around it. An address is public if no registry of special-purpose
//! addresses (RFC 6890 and the IANA registries that follow it) says otherwise; what wraps an IPv4
//! address in an IPv6 one is never public, for who unwraps it is unknown.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// How far a server reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Public addresses, over TLS.
    Internet,
    /// Also what is on the machine itself: for development, where the server's own URL is there too.
    InternetAndLoopback,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix))
}

/// Addresses that are not public, by the IANA registries of special-purpose addresses.
const SPECIAL: [IpNet; 22] = [
    v4(0, 0, 0, 0, 8),            // this network
    v4(10, 0, 0, 0, 8),           // private
    v4(100, 64, 0, 0, 10),        // shared between a carrier and its customers
    v4(127, 0, 0, 0, 8),          // loopback
    v4(168, 63, 129, 16, 32),     // looks public, and is the host of a virtual machine in one cloud
    v4(169, 254, 0, 0, 16),       // link-local, and the metadata of most clouds
    v4(172, 16, 0, 0, 12),        // private
    v4(192, 0, 0, 0, 24),         // protocol assignments
    v4(192, 0, 2, 0, 24),         // documentation
    v4(192, 88, 99, 0, 24),       // 6to4 relays
    v4(192, 168, 0, 0, 16),       // private
    v4(198, 18, 0, 0, 15),        // benchmarks
    v4(198, 51, 100, 0, 24),      // documentation
    v4(203, 0, 113, 0, 24),       // documentation
    v4(224, 0, 0, 0, 4),          // multicast
    v4(240, 0, 0, 0, 4),          // reserved, and broadcast
    v6(0x2001, 0, 0, 23),         // protocol assignments, among them Teredo and ORCHID
    v6(0x2001, 0xdb8, 0, 32),     // documentation
    v6(0x2002, 0, 0, 16),         // 6to4
    v6(0x3fff, 0, 0, 20),         // documentation
    v6(0x3ffe, 0, 0, 16),         // the 6bone of old
    v6(0x2620, 0x4f, 0x8000, 48), // AS112, which answers for names that should not be asked for
];
/// Where all public IPv6 addresses are. Outside of it are loopback, link-local, unique local, site-local and
/// multicast addresses, and IPv4 ones that are mapped, translated (NAT64) or written in.
const UNICAST: IpNet = v6(0x2000, 0, 0, 3);

impl Reach {
    /// How far a server reaches whose own URL has this host.
    #[must_use]
    pub fn of_server_at(host: &str) -> Self {
        if is_loopback(host) { Self::InternetAndLoopback } else { Self::Internet }
    }

    /// Whether an address may be connected to.
    #[must_use]
    pub fn allows(self, address: IpAddr) -> bool {
        is_public(address) || (self == Self::InternetAndLoopback && address.is_loopback())
    }

    /// Whether what is at a host may be spoken to without TLS.
    #[must_use]
    pub fn allows_plain(self, host: &str) -> bool {
        self == Self::InternetAndLoopback && is_loopback(host)
    }
}

/// Whether a host is this machine, by its name alone. An IPv6 address may be in brackets.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    literal(host).map_or_else(|| host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

/// The address that a host is, if it is one and not a name.
#[must_use]
pub fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

fn is_public(address: IpAddr) -> bool {
    (address.is_ipv4() || UNICAST.contains(&address)) && !SPECIAL.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_public_is_out_of_reach() {
        for text in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.0.0",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!Reach::Internet.allows(address(text)), "{text}");
        }
        for text in [
            "::",
            "::1",
            "::7f00:1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::1",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "2620:4f:8000::1",
            "3ffe::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(!Reach::Internet.allows(address(text)), "{text}");
        }
    }

    #[test]
    fn what_is_public_is_within_reach() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450:4001::1",
            "2003::1",
            "3ffd::1",
        ] {
            assert!(Reach::Internet.allows(address(text)), "{text}");
            assert!(Reach::InternetAndLoopback.allows(address(text)), "{text}");
        }
    }

    #[test]
    fn in_development_the_machine_itself_is_within_reach_and_nothing_around_it() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]"] {
            assert_eq!(Reach::of_server_at(host), Reach::InternetAndLoopback, "{host}");
            assert!(Reach::InternetAndLoopback.allows_plain(host) && !Reach::Internet.allows_plain(host));
        }
        for host in
            ["fhir.example.org", "10.0.0.1", "localhost.example.org", "127.0.0.1.example.org", "0.0.0.0", ""]
        {
            assert_eq!(Reach::of_server_at(host), Reach::Internet, "{host}");
            assert!(!Reach::InternetAndLoopback.allows_plain(host), "{host}");
        }
        for text in ["127.0.0.1", "::1"] {
            assert!(Reach::InternetAndLoopback.allows(address(text)));
        }
        for text in ["10.0.0.1", "169.254.169.254", "0.0.0.0", "::", "::ffff:127.0.0.1", "fe80::1"] {
            assert!(!Reach::InternetAndLoopback.allows(address(text)), "{text}");
        }
    }

    proptest! {
        /// However an IPv4 address is wrapped, it is not let through.
        #[test]
        fn no_wrapped_address_is_within_reach(bits in any::<u32>()) {
            let bits = u128::from(bits);
            for wrapped in [
                bits,
                0xffff << 32 | bits,
                0xffff << 48 | bits,
                0x0064_ff9b << 96 | bits,
                0x0064_ff9b_0001 << 80 | bits,
                0x2002 << 112 | bits << 80,
                0x2001 << 112 | bits,
            ] {
                let wrapped = IpAddr::V6(Ipv6Addr::from_bits(wrapped));
                prop_assert!(!Reach::Internet.allows(wrapped), "{wrapped}");
            }
        }
    }
}
