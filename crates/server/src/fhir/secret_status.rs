//! `GET [base]/ClientApplication/[id]/$secret-status`: the evidence before a secret is retired. It tells of
//! secrets by their ids, and reads none.

use std::collections::HashMap;
use std::time::Duration;

use keyrelay_core::caller::Caller;
use keyrelay_core::evidence::{Gap, Known, counted_since, judge};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::schema::parse_lifetime;
use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::limits::{
    EVIDENCE_UNUSED_FOR_DEFAULT, USAGE_LOOKS_APART, USAGE_MINUTES_PER_SECRET_MAX, USAGE_SETTLED_WITHIN,
    USAGE_SILENCE_MAX,
};
use keyrelay_core::policy::Interaction;
use keyrelay_core::secret_rules::SecretRules;
use keyrelay_core::slots::{SecretSlots, Slot};
use keyrelay_core::time::Timestamp;
use keyrelay_core::usage::{CallerUsage, Minute};
use keyrelay_store::{ClientState, UsageOfMinute, UsageOfSecret};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::render::Rendered;
use super::request::{FhirRequest, Reply};
use super::secret_author::SecretAuthor;
use super::versions::Act;
use crate::App;
use crate::error::Outcome;

pub(super) async fn secret_status(
    app: &App,
    caller: &Caller,
    id: &str,
    request: &FhirRequest,
) -> Result<Reply, Outcome> {
    let kind = ResourceType::ClientApplication;
    let client = ClientId::parse(id);
    let is_own = client.is_some_and(|client| caller.may_rotate_own_secret(client));
    let may = is_own || (caller.is_admin() && caller.may(Interaction::Read, kind));
    if !may {
        return Err(Outcome::forbidden("Only an admin of the project may ask who uses a client's secrets"));
    }
    let asked = Asked::read(request.query.as_deref().unwrap_or_default())?;
    let state =
        app.store.client(client.ok_or_else(Outcome::not_found)?).await?.ok_or_else(Outcome::not_found)?;
    SecretAuthor::of(caller, Interaction::Read, &state)?;
    if state.resource.deleted {
        return Err(Outcome::gone());
    }
    let evidence = Evidence::now(app, &state).await?;
    let minutes = match asked.minutes {
        Some(minutes) => evidence.by_minute(app, &state, minutes).await?,
        None => HashMap::new(),
    };
    let body = status(&evidence, asked.unused_for, &minutes);
    Ok(Reply::ok(Rendered::value(&body)))
}

/// What is known of the uses of a client's secrets.
pub(super) struct Evidence {
    pub(super) reach: Reach,
    rules: SecretRules,
    slots: SecretSlots,
    active: UsageOfSecret,
    retiring: UsageOfSecret,
    /// Of values that are none of its secrets.
    refused: UsageOfSecret,
}

impl Evidence {
    pub(super) async fn now(app: &App, state: &ClientState) -> Result<Self, Outcome> {
        let reach = Reach::now(app).await?;
        let slots = state.slots.at(reach.now);
        let ids = ids(&slots);
        let [active, retiring, _] = ids;
        let mut usage = app.store.usage(state.resource.id.into(), ids, reach.now).await?;
        // The refused first: where there is no secret, nothing is left to be found under its id.
        let [refused, active, retiring] =
            [SecretId::NIL, active, retiring].map(|id| usage.remove(&id).unwrap_or_default());
        Ok(Self { reach, rules: app.rules(&state.settings), slots, active, retiring, refused })
    }

    /// Looks for a reason not to go on: until there is one, or every server has written down what it counted before
    /// this was asked for. That one does not within [`USAGE_SETTLED_WITHIN`] is a reason too.
    pub(super) async fn find(
        act: Act<'_>,
        state: &ClientState,
        reason: impl Fn(&Self) -> Option<String>,
    ) -> Result<Option<String>, Outcome> {
        let deadline = Instant::now() + USAGE_SETTLED_WITHIN;
        loop {
            let evidence = Self::now(act.app, state).await?;
            if let Some(reason) = reason(&evidence) {
                return Ok(Some(reason));
            }
            if evidence.reach.covers(act.now) {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                let until = evidence.reach.complete_until.to_instant();
                return Ok(Some(format!(
                    "Not every server has written down its uses since {until}: ask again."
                )));
            }
            sleep(USAGE_LOOKS_APART).await;
        }
    }

    /// Minute by minute, the last ones.
    async fn by_minute(&self, app: &App, state: &ClientState, minutes: i64) -> Result<ByMinute, Outcome> {
        let after = Minute::from_number(Minute::of(self.reach.now).number() - minutes);
        Ok(app.store.usage_by_minute(state.resource.id.into(), ids(&self.slots), after).await?)
    }

    /// Until when a secret grants access, and until when it is to be rotated.
    fn age_parts(&self, slot: &Slot, ends: Option<Timestamp>) -> impl Iterator<Item = Value> {
        let instant = |name, at: Timestamp| json!({ "name": name, "valueInstant": at.to_instant() });
        let expires = [ends, self.rules.lifespan().end(slot.created)].into_iter().flatten().min();
        let overdue = self.rules.overdue(slot.created, self.reach.now);
        let parts = [
            expires.map(|at| instant("expires", at)),
            self.rules.due_by(slot.created).map(|at| instant("dueBy", at)),
            overdue.map(|reason| json!({ "name": "overdue", "valueString": reason })),
        ];
        parts.into_iter().flatten()
    }

    pub(super) fn known(&self) -> Known<'_> {
        let retires = self.slots.retiring().map_or(self.reach.now, |slot| slot.created);
        Known {
            active: &self.active.callers,
            retiring: &self.retiring.callers,
            counted_since: self.reach.counted_since(retires),
            created: retires,
            complete_until: self.reach.complete_until,
            gap: self.reach.gaps.iter().copied().max_by_key(|gap| gap.until),
        }
    }
}

/// What uses are counted under: both secrets, and what is none of them. Where there is no secret, the last.
fn ids(slots: &SecretSlots) -> [SecretId; 3] {
    let id = |slot: Option<&Slot>| slot.map_or(SecretId::NIL, |slot| slot.id);
    [id(slots.active()), id(slots.retiring()), SecretId::NIL]
}

type ByMinute = HashMap<SecretId, Vec<UsageOfMinute>>;

/// The parameters of the operation.
struct Asked {
    unused_for: Duration,
    /// How many of the last minutes are told one by one.
    minutes: Option<i64>,
}

impl Asked {
    fn read(query: &str) -> Result<Self, Outcome> {
        let (mut unused_for, mut minutes) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let was_given = match name.as_ref() {
                "unusedFor" => unused_for.replace(read_unused_for(&value)?).is_some(),
                "minutes" => minutes.replace(read_minutes(&value)?).is_some(),
                "_format" => false,
                _ => return Err(Outcome::invalid("Unknown parameter: there are unusedFor and minutes")),
            };
            if was_given {
                return Err(Outcome::invalid_at(name.as_ref(), format!("{name} is given more than once")));
            }
        }
        Ok(Self { unused_for: unused_for.unwrap_or(EVIDENCE_UNUSED_FOR_DEFAULT), minutes })
    }
}

fn read_unused_for(value: &str) -> Result<Duration, Outcome> {
    parse_lifetime(value).ok_or_else(|| {
        Outcome::invalid_at("unusedFor", "unusedFor is a whole number with a unit, such as 10m or 24h")
    })
}

fn read_minutes(value: &str) -> Result<i64, Outcome> {
    let minutes = value.parse().ok().filter(|minutes| (1..=USAGE_MINUTES_PER_SECRET_MAX).contains(minutes));
    minutes.and_then(|minutes| i64::try_from(minutes).ok()).ok_or_else(|| {
        let text = format!("minutes is a whole number from 1 to {USAGE_MINUTES_PER_SECRET_MAX}");
        Outcome::invalid_at("minutes", text)
    })
}

/// Up to when uses are counted.
pub(super) struct Reach {
    pub(super) now: Timestamp,
    /// When the installation began to count.
    began: Option<Timestamp>,
    complete_until: Timestamp,
    /// Of the servers beside this one the one that is least far; `None` if there are none.
    others_until: Option<Timestamp>,
    /// Of servers that ended and had not written down all that they had counted, the first first.
    gaps: Vec<Gap>,
}

impl Reach {
    /// What this server has counted is written down first.
    pub(super) async fn now(app: &App) -> Result<Self, Outcome> {
        app.flush_usage().await;
        let now = app.now();
        let began = app.store.usage_began().await?;
        let marks = app.store.usage_marks().await?;
        let (node, complete_until) = app.usage.reach().await;
        let mut reach = Self { now, began, complete_until, others_until: None, gaps: Vec::new() };
        for mark in marks.into_iter().filter(|mark| mark.node != node) {
            let is_alive = app.store.is_shared() && now.since(mark.complete_until) <= USAGE_SILENCE_MAX;
            if is_alive {
                reach.complete_until = reach.complete_until.min(mark.complete_until);
                let others = reach.others_until.unwrap_or(mark.complete_until);
                reach.others_until = Some(others.min(mark.complete_until));
            } else {
                reach.gaps.push(Gap { after: mark.complete_until, until: mark.ended.unwrap_or(now) });
            }
        }
        reach.gaps.sort_unstable_by_key(|gap| gap.after);
        Ok(reach)
    }

    /// Whether all uses are counted that came before somebody asked at `asked`. This server has flushed since; of
    /// another a use in the very millisecond of its mark may have come after it.
    fn covers(&self, asked: Timestamp) -> bool {
        asked <= self.complete_until && self.others_until.is_none_or(|until| asked < until)
    }

    /// Since when all callers of a secret are known that was made at `created`.
    fn counted_since(&self, created: Timestamp) -> Timestamp {
        counted_since(created, self.began, self.now)
    }
}

fn status(evidence: &Evidence, unused_for: Duration, by_minute: &ByMinute) -> Value {
    let Evidence { reach, slots, active, retiring, refused, .. } = evidence;
    let mut parameters = Vec::new();
    if let Some(slot) = slots.active() {
        let mut parts = slot_parts(slot, active, reach);
        parts.extend(evidence.age_parts(slot, None));
        parts.extend(minutes(by_minute, slot.id));
        parameters.push(json!({ "name": "secret", "part": parts }));
    }
    if let Some(slot) = slots.retiring() {
        let advice = judge(&evidence.known(), unused_for, reach.now);
        let mut parts = slot_parts(slot, retiring, reach);
        parts.extend(evidence.age_parts(slot, slots.retiring_ends()));
        parts.push(json!({ "name": "safeToRetire", "valueBoolean": advice.safe }));
        parts.push(json!({ "name": "reason", "valueString": advice.reason }));
        parts.extend(minutes(by_minute, slot.id));
        parameters.push(json!({ "name": "retiringSecret", "part": parts }));
    }
    let mut parts = vec![
        json!({ "name": "refusedLastHour", "valueInteger": count(refused.recent.refused_hour) }),
        json!({ "name": "refusedLastDay", "valueInteger": count(refused.recent.refused_day) }),
    ];
    parts.extend(callers(&refused.callers));
    parts.extend(minutes(by_minute, SecretId::NIL));
    parameters.push(json!({ "name": "refused", "part": parts }));
    parameters.push(json!({ "name": "completeUntil", "valueInstant": reach.complete_until.to_instant() }));
    for gap in &reach.gaps {
        parameters.push(json!({ "name": "gapAfter", "valueInstant": gap.after.to_instant() }));
    }
    json!({ "resourceType": "Parameters", "parameter": parameters })
}

fn slot_parts(slot: &Slot, usage: &UsageOfSecret, reach: &Reach) -> Vec<Value> {
    let mut parts = vec![
        json!({ "name": "id", "valueString": slot.id.to_string() }),
        json!({ "name": "created", "valueInstant": slot.created.to_instant() }),
    ];
    if let Some(by) = slot.by {
        parts.push(json!({ "name": "createdBy", "valueReference": { "reference": by.to_string() } }));
    }
    if let Some(total) = &usage.total {
        parts.push(json!({ "name": "uses", "valueInteger": count(total.accepted) }));
        parts.push(json!({ "name": "firstUsed", "valueInstant": total.first.to_instant() }));
        parts.push(json!({ "name": "lastUsed", "valueInstant": total.last.to_instant() }));
    } else {
        parts.push(json!({ "name": "uses", "valueInteger": 0 }));
    }
    let since = reach.counted_since(slot.created);
    parts.push(json!({ "name": "countedSince", "valueInstant": since.to_instant() }));
    parts.push(json!({ "name": "usesLastHour", "valueInteger": count(usage.recent.accepted_hour) }));
    parts.push(json!({ "name": "usesLastDay", "valueInteger": count(usage.recent.accepted_day) }));
    parts.extend(callers(&usage.callers));
    parts
}

fn callers(callers: &[CallerUsage]) -> impl Iterator<Item = Value> {
    callers.iter().map(|usage| {
        let mut parts = Vec::new();
        if let Some(caller) = &usage.caller {
            parts.push(json!({ "name": "address", "valueString": caller.address.to_string() }));
            parts.extend(caller.said().map(|(name, text)| json!({ "name": name, "valueString": text })));
        }
        let tally = &usage.tally;
        parts.push(json!({ "name": "uses", "valueInteger": count(tally.accepted) }));
        parts.push(json!({ "name": "refused", "valueInteger": count(tally.refused) }));
        parts.push(json!({ "name": "firstSeen", "valueInstant": tally.first.to_instant() }));
        parts.push(json!({ "name": "lastSeen", "valueInstant": tally.last.to_instant() }));
        let name = if usage.caller.is_some() { "caller" } else { "others" };
        json!({ "name": name, "part": parts })
    })
}

fn minutes(by_minute: &ByMinute, secret: SecretId) -> impl Iterator<Item = Value> {
    by_minute.get(&secret).into_iter().flatten().map(|usage| {
        json!({ "name": "minute", "part": [
            { "name": "at", "valueInstant": usage.minute.start().to_instant() },
            { "name": "accepted", "valueInteger": count(usage.accepted) },
            { "name": "refused", "valueInteger": count(usage.refused) },
        ] })
    })
}

/// A FHIR integer has 32 bits; what is more is as good as endless.
fn count(n: i64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
