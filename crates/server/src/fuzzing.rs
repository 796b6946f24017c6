//! What must hold whatever bytes come in, one function for each kind of input. `/fuzz` feeds them what
//! a fuzzer invents; the test below feeds them the small corpus that is kept, on every run.
//!
//! Each function panics where a property does not hold. None of this is part of the product.
#![allow(clippy::missing_panics_doc, reason = "a property that does not hold is told by a panic")]

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use keyrelay_core::limits::SECRET_BYTES_MAX;
use keyrelay_core::secret::PlainSecret;

use crate::auth::Credentials;
pub use crate::fhir::fuzzing::{json_patch, parameters, patches, search_query};
pub use crate::oauth::fuzzing::{client_assertion, token_form};

/// A function, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("basic_header", basic_header),
    ("token_form", token_form),
    ("client_assertion", client_assertion),
    ("parameters", parameters),
    ("json_patch", json_patch),
    ("patches", patches),
    ("search_query", search_query),
];

/// Fails unless a refusal is the fault of whoever sent the input.
pub(crate) fn is_clear_refusal(refused: impl IntoResponse) -> StatusCode {
    let status = Response::status(&refused.into_response());
    assert!(status.is_client_error(), "bad input was answered {status}");
    status
}

/// An `Authorization` header of the scheme Basic: the bytes as a whole header, and as what is in one.
pub fn basic_header(data: &[u8]) {
    if let Ok(header) = std::str::from_utf8(data) {
        read_basic(header);
    }
    let text = String::from_utf8_lossy(data);
    let credentials = read_basic(&format!("Basic {}", STANDARD.encode(text.as_bytes())));
    assert_eq!(credentials.is_some(), text.contains(':'), "an id and a secret are all it takes");
}

fn read_basic(header: &str) -> Option<Credentials> {
    let credentials = Credentials::from_basic(header)?;
    let (scheme, encoded) = header.split_once(' ').expect("a scheme");
    assert!(scheme.eq_ignore_ascii_case("basic"));
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).expect("base64")).expect("text");
    let (_, sent) = decoded.split_once(':').expect("a colon");

    let values: Vec<&str> = credentials.secrets.iter().map(PlainSecret::reveal).collect();
    assert!(values.len() <= 2);
    for value in &values {
        assert!((1..=SECRET_BYTES_MAX).contains(&value.len()) && !value.contains(char::is_control));
        // A client that encodes what it sends, as RFC 6749 §2.3.1 has it, is understood.
        let id = credentials.client.map(|id| id.to_string()).unwrap_or_default();
        let encoded: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
        let again = Credentials::from_basic(&format!("basic {}", STANDARD.encode(format!("{id}:{encoded}"))));
        let again = again.expect("what is printed can be read");
        assert_eq!(again.client, credentials.client);
        assert!(again.secrets.iter().any(|secret| secret.reveal() == *value), "{value:?}");
    }
    // Nothing is taken that was not sent.
    let decoded = form_urlencoded::parse(format!("s={}", sent.replace('&', "%26")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default();
    assert!(values.iter().all(|value| *value == sent || *value == decoded), "{sent:?} {decoded:?}");
    Some(credentials)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::TARGETS;

    /// Largest corpus that is kept, in files, and largest file in it, in bytes.
    const FILES_MAX: usize = 100;
    const BYTES_MAX: u64 = 1024;

    #[test]
    fn the_corpora_are_small_and_hold() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let files: Vec<_> =
                fs::read_dir(corpora.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
            assert!((1..=FILES_MAX).contains(&files.len()), "{name} has {} files", files.len());
            for file in files {
                assert!(fs::metadata(&file).unwrap().len() <= BYTES_MAX, "{} is too large", file.display());
                let data = fs::read(&file).unwrap();
                let held = std::panic::catch_unwind(|| target(&data));
                assert!(held.is_ok(), "{} does not hold", file.display());
            }
        }
    }
}
