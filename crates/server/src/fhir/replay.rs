//! Moves of secrets that are asked for under an `Idempotency-Key`: the answer is kept with the change, and given
//! again to whoever sends the same request under the same key. So an answer that was lost can be asked for again,
//! also where it is the only place that a secret was in.

use http::HeaderMap;
use keyrelay_core::caller::Withheld;
use keyrelay_core::id::{ClientId, VersionId};
use keyrelay_core::idempotency::{IdempotencyKey, KeptAnswerId, RequestDigest};
use keyrelay_core::keyring::KeyringError;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, ClientState, KeptAnswer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::access::named;
use super::render::{Rendered, ShownSecrets, render};
use super::request::Reply;
use super::versions::Act;
use crate::error::Outcome;

const HEADER: &str = "idempotency-key";

/// A key, and the request that came under it.
pub(super) struct Replay {
    key: IdempotencyKey,
    request: RequestDigest,
}

/// What is kept of an answer beside its body. The status is always 200: nothing else is kept.
#[derive(Serialize, Deserialize)]
struct Head {
    version: String,
    last_updated_ms: i64,
    warning: Option<String>,
    /// Whether it was told to the client itself, and not to an admin.
    is_itself: bool,
}

/// The key of a request, if it has one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Outcome> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none()).unwrap_or_default();
    IdempotencyKey::parse(text).map(Some).map_err(|error| Outcome::invalid(error.to_string()))
}

impl Replay {
    /// Of a request, whose body has a secret in it.
    pub(super) fn new(key: IdempotencyKey, operation: &str, client: &str, body: &Map<String, Value>) -> Self {
        let body = Zeroizing::new(serde_json::to_vec(body).unwrap_or_default());
        Self { key, request: RequestDigest::of(operation, client, &body) }
    }

    fn id(&self, act: Act<'_>) -> KeptAnswerId {
        KeptAnswerId::of(act.caller.membership, &self.key)
    }

    /// The answer that was given, but for what is withheld from the caller by now.
    pub(super) async fn answered(
        &self,
        act: Act<'_>,
        withheld: &Withheld<'_>,
        is_itself: bool,
    ) -> Result<Option<Reply>, Outcome> {
        let Some(kept) = act.app.store.kept_answer(self.id(act), act.now).await? else { return Ok(None) };
        let answer = act.app.keyring.open_answer(kept.id, kept.client, &kept.sealed);
        let answer = answer.map_err(|error: KeyringError| unreadable(&kept, &error))?;
        let (request, answer) =
            answer.split_first_chunk().ok_or_else(|| unreadable(&kept, &"it is too short"))?;
        if !RequestDigest::from_bytes(*request).is(&self.request) {
            return Err(Outcome::other_request());
        }
        read(answer, withheld, is_itself)?.ok_or_else(|| unreadable(&kept, &"it has another form")).map(Some)
    }

    /// Keeps an answer with the change that it is the answer to.
    pub(super) fn keep(
        &self,
        act: Act<'_>,
        state: &ClientState,
        is_itself: bool,
        reply: &Reply,
        change: &mut Change,
    ) -> Result<(), Outcome> {
        let (Some(body), Some((version, last_updated))) = (&reply.body, reply.version) else { return Ok(()) };
        let head = Head {
            version: version.to_string(),
            last_updated_ms: last_updated.epoch_ms(),
            warning: reply.warning.as_deref().map(str::to_owned),
            is_itself,
        };
        let head = Rendered::serialize(&head)?;
        let parts = [self.request.as_bytes(), head.as_bytes(), b"\n", body.as_bytes()];
        let mut answer = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
        for part in parts {
            answer.extend_from_slice(part);
        }
        let (id, client) = (self.id(act), ClientId::from(state.resource.id));
        let sealed = act.app.keyring.seal_answer(id, client, &answer, act.app.entropy.as_ref());
        change.keep_answer(&KeptAnswer { id, client, sealed }, &state.settings, act.now);
        Ok(())
    }
}

/// Reads what [`Replay::keep`] wrote after the digest; `None` if it is something else.
fn read(answer: &[u8], withheld: &Withheld<'_>, is_itself: bool) -> Result<Option<Reply>, Outcome> {
    let Some(end) = answer.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let head = serde_json::from_slice::<Head>(&answer[..end]).ok();
    let head = head.and_then(|head| Some((VersionId::parse(&head.version)?, head)));
    let (Some((version, head)), Ok(Value::Object(mut resource))) =
        (head, serde_json::from_slice(&answer[end + 1..]))
    else {
        return Ok(None);
    };
    // Who was an admin then may not be told as a client what it was told as an admin.
    if head.is_itself != is_itself {
        return Err(Outcome::other_request());
    }
    let mut take = |name: &str| match resource.shift_remove(name) {
        Some(Value::String(text)) => PlainSecret::presented(Zeroizing::new(text)).ok(),
        _ => None,
    };
    let shown = ShownSecrets { secret: take("secret"), retiring: take("retiringSecret") };
    for hidden in withheld.hidden() {
        hidden.remove(&mut resource);
    }
    let last_updated = Timestamp::from_epoch_ms(head.last_updated_ms);
    let body = if is_itself { named(resource, &shown)? } else { render(resource, &shown, true)? };
    let reply = Reply::ok(body).of_version(version, last_updated);
    Ok(Some(Reply { warning: head.warning.map(Into::into), ..reply }))
}

fn unreadable(kept: &KeptAnswer, why: &dyn std::fmt::Display) -> Outcome {
    tracing::error!(client = %kept.client, %why, "an answer that was kept cannot be read");
    Outcome::internal()
}
