//! The `Host` of a request (RFC 9112 §3.2): one, and of the right form. Which host it names is not
//! compared with anything. Servers have many names (those of probes, of a service mesh, of the machine),
//! and nothing here depends on it: every URL that is given out comes from the setting `base_url`.

use http::header::HOST;
use http::{HeaderMap, Version};

/// What a host or a port can have beside letters and digits (RFC 3986 §3.2.2): no `@`, `/`, `?`, space.
const PUNCTUATION: &[u8] = b"-._~%!$&'()*+,;=:[]";

/// What is wrong with the `Host` of a request, if anything.
pub(crate) fn problem(version: Version, headers: &HeaderMap) -> Option<&'static str> {
    let mut given = headers.get_all(HOST).iter();
    let Some(host) = given.next() else {
        return (version >= Version::HTTP_11).then_some("The header Host is missing");
    };
    if given.next().is_some() {
        return Some("The header Host is there more than once");
    }
    let bytes = host.as_bytes();
    let is_valid = !bytes.is_empty() && bytes.iter().all(|byte| is_of_authority(*byte));
    (!is_valid).then_some("The header Host is not a host with or without a port")
}

fn is_of_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || PUNCTUATION.contains(&byte)
}
