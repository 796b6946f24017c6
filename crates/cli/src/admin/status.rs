//! What `$secret-status` tells, as values of our own: what commands decide and print by. Secrets are named
//! by their ids; none is in it.

use std::collections::HashMap;
use std::time::Duration;

use keyrelay_core::evidence::in_words;
use keyrelay_core::fhir::schema::LIFETIME_MIN;
use keyrelay_core::names::shown;
use keyrelay_core::time::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// The secrets of a client, and who uses them.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretStatus {
    /// The current secret.
    pub secret: Option<SlotStatus>,
    /// The retiring one.
    pub retiring_secret: Option<RetiringStatus>,
    /// Attempts with a value that is none of the client's, within the last hour.
    pub refused_last_hour: i64,
    /// The same, within the last day.
    pub refused_last_day: i64,
    /// Up to when all uses are counted.
    pub complete_until: String,
    /// When servers ended without writing down what they had counted.
    pub gaps_after: Vec<String>,
}

/// One secret.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotStatus {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created: String,
    /// How often it let somebody in.
    pub uses: i64,
    /// The same, within the last hour.
    pub uses_last_hour: i64,
    /// The same, within the last day.
    pub uses_last_day: i64,
    /// Since when all who come with it are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_since: Option<String>,
    /// When it was used last.
    pub last_used: Option<String>,
    /// From when on it grants no access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// From when on it is past its maximum age.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_by: Option<String>,
    /// What it means that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overdue: Option<String>,
    /// By whom.
    pub callers: Vec<CallerStatus>,
}

/// The retiring secret.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetiringStatus {
    /// What is known of it.
    #[serde(flatten)]
    pub slot: SlotStatus,
    /// Whether nobody would be locked out, as far as can be told.
    pub safe_to_retire: bool,
    /// Why.
    pub reason: String,
}

/// Who used a secret.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallerStatus {
    /// Who; absent for the sum of those that are no longer told apart.
    #[serde(flatten)]
    pub who: Option<Who>,
    /// How often it was let in.
    pub uses: i64,
    /// When it was seen last.
    pub last_seen: String,
}

/// What a caller shows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Who {
    /// Its address.
    pub address: String,
    /// Its `User-Agent`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// Its `X-Client-Instance`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance: String,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)?;
        for text in [&self.user_agent, &self.instance] {
            if !text.is_empty() {
                // Quoted, so that a text cannot look like another caller.
                write!(f, " {text:?}")?;
            }
        }
        Ok(())
    }
}

/// Where one caller stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Movement {
    /// Who.
    pub who: String,
    /// Whether it came with the retiring secret last.
    pub on_retiring: bool,
    /// When.
    pub last_seen: String,
}

impl SecretStatus {
    /// Reads the answer of the operation.
    pub fn read(parameters: &Value) -> Option<Self> {
        let top = Parts::of(&parameters["parameter"])?;
        let retiring = match top.parts("retiringSecret") {
            Some(parts) => Some(RetiringStatus {
                slot: slot(&parts)?,
                safe_to_retire: parts.value("safeToRetire")?.as_bool()?,
                reason: parts.text("reason")?,
            }),
            None => None,
        };
        let secret = match top.parts("secret") {
            Some(parts) => Some(slot(&parts)?),
            None => None,
        };
        let refused = top.parts("refused");
        let refused = |name| refused.as_ref().map_or(0, |parts| parts.count(name));
        Some(Self {
            secret,
            retiring_secret: retiring,
            refused_last_hour: refused("refusedLastHour"),
            refused_last_day: refused("refusedLastDay"),
            complete_until: top.text("completeUntil")?,
            gaps_after: top.all("gapAfter").filter_map(|part| text_of(value_of(part)?)).collect(),
        })
    }

    /// The id of the current secret.
    pub fn active_id(&self) -> Option<&str> {
        self.secret.as_ref().map(|slot| slot.id.as_str())
    }

    /// The id of the retiring secret.
    pub fn retiring_id(&self) -> Option<&str> {
        self.retiring_secret.as_ref().map(|retiring| retiring.slot.id.as_str())
    }

    /// How long the retiring secret is unused, and `unused_for` at most: what the server is to find again in the moment
    /// in which it ends. That is less than `unused_for` where callers have moved that used it since.
    pub fn unused_until_now(&self, unused_for: Duration) -> Duration {
        let last_used = self.retiring_secret.as_ref().and_then(|retiring| retiring.slot.last_used.as_deref());
        let (last_used, counted) =
            (last_used.and_then(Timestamp::parse), Timestamp::parse(&self.complete_until));
        let unused =
            last_used.map_or(unused_for, |last| counted.map_or(Duration::ZERO, |now| now.since(last)));
        unused.clamp(LIFETIME_MIN, unused_for.max(LIFETIME_MIN))
    }

    /// Both secrets, as far as there are any, with what to call them.
    pub fn slots(&self) -> impl Iterator<Item = (&'static str, &SlotStatus)> {
        let active = self.secret.as_ref().map(|slot| ("current secret", slot));
        let retiring = self.retiring_secret.as_ref().map(|retiring| ("retiring secret", &retiring.slot));
        active.into_iter().chain(retiring)
    }

    /// Which secrets are past their maximum age, and what that means for them.
    pub fn overdue(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.slots().filter_map(|(name, slot)| Some((name, slot.overdue.as_deref()?)))
    }

    /// Where each caller stands that used one of both: those on the retiring secret first.
    pub fn movements(&self) -> Vec<Movement> {
        let mut latest: HashMap<Option<&Who>, (&str, bool)> = HashMap::new();
        let callers = |slot: Option<&'_ SlotStatus>| slot.map_or(&[][..], |slot| &slot.callers).to_owned();
        let (active, retiring) =
            (callers(self.secret.as_ref()), callers(self.retiring_secret.as_ref().map(|r| &r.slot)));
        for (on_retiring, callers) in [(true, &retiring), (false, &active)] {
            for caller in callers.iter().filter(|caller| caller.uses > 0) {
                let seen = latest.entry(caller.who.as_ref()).or_insert((&caller.last_seen, on_retiring));
                // Instants of one length: the later one is the greater text.
                if caller.last_seen.as_str() >= seen.0 {
                    *seen = (&caller.last_seen, on_retiring);
                }
            }
        }
        let mut all: Vec<Movement> = latest
            .into_iter()
            .map(|(who, (last_seen, on_retiring))| Movement {
                who: who.map_or_else(|| "others".to_owned(), ToString::to_string),
                on_retiring,
                last_seen: last_seen.to_owned(),
            })
            .collect();
        all.sort_unstable_by(|a, b| b.on_retiring.cmp(&a.on_retiring).then_with(|| a.who.cmp(&b.who)));
        all
    }
}

/// How long ago an instant was, for people.
pub fn ago(instant: &str, now: Timestamp) -> String {
    let Some(at) = Timestamp::parse(instant) else { return instant.to_owned() };
    format!("{} ago", in_words(now.since(at)))
}

/// How long ago an instant was, or how far ahead it is, for people.
pub fn when(instant: &str, now: Timestamp) -> String {
    match Timestamp::parse(instant) {
        Some(at) if at > now => format!("in {}", in_words(at.since(now))),
        _ => ago(instant, now),
    }
}

/// The parts of a FHIR `Parameters`.
struct Parts<'a>(&'a [Value]);

impl<'a> Parts<'a> {
    fn of(list: &'a Value) -> Option<Self> {
        list.as_array().map(|parts| Self(parts))
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |part| part["name"] == *name)
    }

    fn parts(&self, name: &str) -> Option<Self> {
        self.all(name).next().and_then(|part| Self::of(&part["part"]))
    }

    fn value(&self, name: &str) -> Option<&'a Value> {
        self.all(name).next().and_then(value_of)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name).and_then(text_of)
    }

    fn count(&self, name: &str) -> i64 {
        self.value(name).and_then(Value::as_i64).unwrap_or(0)
    }
}

fn value_of(part: &Value) -> Option<&Value> {
    part.as_object()?.iter().find(|(name, _)| name.starts_with("value")).map(|(_, value)| value)
}

/// Callers choose some of it, and it goes to a terminal.
fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(|text| shown(text).into_owned())
}

fn slot(parts: &Parts<'_>) -> Option<SlotStatus> {
    let callers = parts.0.iter().filter(|part| part["name"] == "caller" || part["name"] == "others");
    let callers = callers.map(|part| caller(&Parts::of(&part["part"])?)).collect::<Option<_>>()?;
    Some(SlotStatus {
        id: parts.text("id")?,
        created: parts.text("created")?,
        uses: parts.count("uses"),
        uses_last_hour: parts.count("usesLastHour"),
        uses_last_day: parts.count("usesLastDay"),
        last_used: parts.text("lastUsed"),
        counted_since: parts.text("countedSince"),
        expires: parts.text("expires"),
        due_by: parts.text("dueBy"),
        overdue: parts.text("overdue"),
        callers,
    })
}

fn caller(parts: &Parts<'_>) -> Option<CallerStatus> {
    let who = parts.text("address").map(|address| Who {
        address,
        user_agent: parts.text("userAgent").unwrap_or_default(),
        instance: parts.text("instance").unwrap_or_default(),
    });
    Some(CallerStatus { who, uses: parts.count("uses"), last_seen: parts.text("lastSeen")? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn part(name: &str, value: &str) -> Value {
        json!({ "name": name, "valueString": value })
    }

    fn caller(instance: &str, last_seen: &str) -> Value {
        let uses = json!({ "name": "uses", "valueInteger": 1 });
        let parts =
            [part("address", "10.0.0.1"), part("instance", instance), part("lastSeen", last_seen), uses];
        json!({ "name": "caller", "part": parts })
    }

    #[test]
    fn a_caller_stands_where_it_was_seen_last() {
        let slot = |id: &str, callers: &[Value]| {
            let mut parts = vec![part("id", id), part("created", "2026-01-01T00:00:00.000Z")];
            parts.extend_from_slice(callers);
            parts
        };
        let active = slot(
            "a",
            &[caller("moved", "2026-01-01T00:00:03.000Z"), caller("back", "2026-01-01T00:00:01.000Z")],
        );
        let mut retiring = slot(
            "r",
            &[
                caller("moved", "2026-01-01T00:00:02.000Z"),
                caller("back\u{1b}[2J", "2026-01-01T00:00:02.000Z"),
                caller("back", "2026-01-01T00:00:02.000Z"),
            ],
        );
        retiring.push(json!({ "name": "safeToRetire", "valueBoolean": false }));
        retiring.push(part("reason", "0 of 2"));
        let told = json!({ "parameter": [
            { "name": "secret", "part": active },
            { "name": "retiringSecret", "part": retiring },
            { "name": "completeUntil", "valueInstant": "2026-01-01T00:00:04.000Z" },
        ] });
        let status = SecretStatus::read(&told).unwrap();
        assert_eq!((status.active_id(), status.retiring_id()), (Some("a"), Some("r")));
        let unused = |last_used: Option<&str>, seconds| {
            let mut status = status.clone();
            let slot = &mut status.retiring_secret.as_mut().unwrap().slot;
            slot.last_used = last_used.map(|second| format!("2026-01-01T00:{second}.000Z"));
            "2026-01-01T00:10:00.000Z".clone_into(&mut status.complete_until);
            status.unused_until_now(Duration::from_secs(seconds)).as_secs()
        };
        assert_eq!((unused(Some("00:00"), 60), unused(None, 60)), (60, 60));
        assert_eq!((unused(Some("00:00"), 3600), unused(Some("10:01"), 3600)), (600, 1));
        let stands: Vec<_> =
            status.movements().into_iter().map(|movement| (movement.who, movement.on_retiring)).collect();
        let expected = [
            (r#"10.0.0.1 "back""#, true),
            (r#"10.0.0.1 "back\\u{1b}[2J""#, true),
            (r#"10.0.0.1 "moved""#, false),
        ];
        assert_eq!(stands, expected.map(|(who, on)| (who.to_owned(), on)));
        assert!(SecretStatus::read(&json!({ "resourceType": "Patient" })).is_none());
    }
}
