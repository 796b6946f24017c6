//! Gets a key set over the network, on the word of whoever wrote its URL.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use keyrelay_core::limits::{JWKS_BYTES_MAX, JWKS_FETCH_TIMEOUT, JWKS_FETCHES_AT_ONCE_MAX};
use keyrelay_core::reach::Reach;

use crate::outbound::{Bounds, Outbound, OutboundError, OutboundUri};

const KEY_SETS: HeaderValue = HeaderValue::from_static("application/jwk-set+json, application/json");

/// Why a key set was not fetched. For the log only.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    NoAnswer(#[from] OutboundError),
    #[error("the answer has the status {0}; redirects are not followed")]
    Status(StatusCode),
    #[error("the answer broke off, or is larger than {JWKS_BYTES_MAX} bytes")]
    Body,
    #[error("the answer is no key set")]
    NoKeySet,
}

/// A key set as it came.
pub(super) struct Fetched {
    pub(super) text: String,
    /// For how long its sender allows to keep it, if it says so.
    pub(super) max_age: Option<Duration>,
}

/// Fetches, a bounded number at once.
pub(super) struct Fetcher(Outbound);

impl Fetcher {
    pub(super) fn new(reach: Reach) -> Self {
        let bounds = Bounds {
            timeout: JWKS_FETCH_TIMEOUT,
            at_once_max: JWKS_FETCHES_AT_ONCE_MAX,
            body_bytes_max: JWKS_BYTES_MAX,
        };
        Self(Outbound::new(reach, bounds))
    }

    pub(super) async fn fetch(&self, uri: &OutboundUri) -> Result<Fetched, FetchError> {
        let mut request = Request::new(Bytes::new());
        request.headers_mut().insert(ACCEPT, KEY_SETS);
        let answer = self.0.send(uri, request).await?;
        if answer.status != StatusCode::OK {
            return Err(FetchError::Status(answer.status));
        }
        let body = answer.body.ok_or(FetchError::Body)?;
        // What kind of content it says it is does not matter: it is read as a key set, or it is none.
        let text = String::from_utf8(body.into()).map_err(|_| FetchError::NoKeySet)?;
        Ok(Fetched { text, max_age: max_age(&answer.headers) })
    }
}

/// `Cache-Control` (RFC 9111 §5.2.2), as far as it matters.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut age = None;
    for directive in values.flat_map(|value| value.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            "max-age" => {
                let seconds: Option<u32> = value.trim().trim_matches('"').parse().ok();
                // What cannot be read is stale (RFC 9111 §4.2.1).
                age = Some(Duration::from_secs(seconds.map_or(0, u64::from)));
            }
            _ => {}
        }
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_control_is_read_for_what_matters() {
        let age = |values: &[&'static str]| {
            let values = values.iter().map(|value| (CACHE_CONTROL, HeaderValue::from_static(value)));
            max_age(&values.collect()).map(|age| age.as_secs())
        };
        for (values, seconds) in [
            (&[][..], None),
            (&["public"], None),
            (&["public, max-age=60"], Some(60)),
            (&["Max-Age=\"60\""], Some(60)),
            (&["max-age=60, must-revalidate", "no-cache"], Some(0)),
            (&["no-store"], Some(0)),
            (&["max-age=-1"], Some(0)),
            (&["max-age=99999999999999"], Some(0)),
            (&["max-age"], Some(0)),
        ] {
            assert_eq!(age(values), seconds, "{values:?}");
        }
    }
}
