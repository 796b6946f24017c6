//! What is told of secrets to whoever wants to hear: by webhook, in a stream, in numbers. An event names
//! secrets by their ids; there is no place in it for a value of one (P4).
//!
//! What `audit.rs` writes is the record, and complete. Events are notice: a subset, made to be acted on,
//! and kept for a few days only.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::audit::SecretAction;
use crate::caller::Profile;
use crate::deadline::DeadlineCause;
use crate::id::{ClientId, EventId, ProjectId, SecretId};
use crate::time::Timestamp;
use crate::usage::Presenter;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// A new secret was made, and the one before retires.
    Rotated,
    /// The retiring secret was ended.
    Retired,
    /// An admin wrote a secret, or the client got a new one by its registration, without an overlap.
    Replaced,
    /// A rotation was taken back.
    Undone,
    /// A secret was ended in an emergency.
    Revoked,
    /// A rotation ended a retiring secret that somebody had used lately and not moved on from.
    OverwrittenInUse,
    /// A deadline of a secret is near.
    Expiring,
    /// A deadline of a secret has passed.
    Expired,
    /// Somebody presented a secret that has ended: a forgotten deployment, or a thief.
    FormerSeen,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Rotated,
        Self::Retired,
        Self::Replaced,
        Self::Undone,
        Self::Revoked,
        Self::OverwrittenInUse,
        Self::Expiring,
        Self::Expired,
        Self::FormerSeen,
    ];

    /// The type of the event (Standard Webhooks, "Event types").
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rotated => "client.secret.rotated",
            Self::Retired => "client.secret.retired",
            Self::Replaced => "client.secret.replaced",
            Self::Undone => "client.secret.rotation_undone",
            Self::Revoked => "client.secret.revoked",
            Self::OverwrittenInUse => "client.secret.overwritten_in_use",
            Self::Expiring => "client.secret.expiring",
            Self::Expired => "client.secret.expired",
            Self::FormerSeen => "client.secret.former_seen",
        }
    }

    /// Reads the type of an event.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Its place in [`EventKind::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl From<SecretAction> for EventKind {
    fn from(action: SecretAction) -> Self {
        match action {
            SecretAction::Rotate | SecretAction::Overwrite => Self::Rotated,
            SecretAction::Retire => Self::Retired,
            SecretAction::Replace => Self::Replaced,
            SecretAction::Undo => Self::Undone,
            SecretAction::Revoke => Self::Revoked,
        }
    }
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Names it: the `webhook-id`, by which whoever gets it twice notices.
    pub id: EventId,
    /// When it happened.
    pub at: Timestamp,
    /// In which project.
    pub project: ProjectId,
    /// To whose secret.
    pub client: ClientId,
    /// What happened.
    pub what: What,
}

/// What happened, with what there is to say of it.
#[derive(Clone, Debug)]
pub enum What {
    /// Somebody moved the client's secrets.
    Moved {
        /// What was done.
        action: SecretAction,
        /// By whom.
        by: Profile,
        /// From which address.
        from: IpAddr,
        /// The active secret from now on.
        active: Option<SecretId>,
        /// The retiring secret from now on.
        retiring: Option<SecretId>,
        /// When the retiring one ends by itself.
        retiring_ends: Option<Timestamp>,
        /// The secrets that ended by it.
        ended: Vec<SecretId>,
    },
    /// A rotation ended a secret in use.
    OverwrittenInUse {
        /// The secret.
        secret: SecretId,
        /// By whom.
        by: Profile,
    },
    /// A deadline is near.
    Expiring {
        /// The secret.
        secret: SecretId,
        /// When it ends.
        ends: Timestamp,
        /// Why.
        cause: DeadlineCause,
    },
    /// A deadline has passed.
    Expired {
        /// The secret.
        secret: SecretId,
        /// When it ended.
        ends: Timestamp,
        /// Why.
        cause: DeadlineCause,
    },
    /// Somebody presented a secret that has ended.
    FormerSeen {
        /// The secret.
        secret: SecretId,
        /// Who presented it.
        by: Presenter,
        /// How often any was, as far as that is written down, this time included.
        times: i64,
    },
}

impl Event {
    /// What kind of event it is.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match &self.what {
            What::Moved { action, .. } => (*action).into(),
            What::OverwrittenInUse { .. } => EventKind::OverwrittenInUse,
            What::Expiring { .. } => EventKind::Expiring,
            What::Expired { .. } => EventKind::Expired,
            What::FormerSeen { .. } => EventKind::FormerSeen,
        }
    }

    /// The event as it is sent: `type`, `timestamp` and `data` (Standard Webhooks, "Payload structure"), and
    /// its id, by which what comes in a stream and by a webhook is known to be the same.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "type": self.kind().as_str(),
            "timestamp": self.at.to_instant(),
            "id": self.id.to_string(),
            "data": self.data(),
        })
    }

    fn data(&self) -> Value {
        let mut data = Map::new();
        let mut put = |name: &str, value: Value| drop(data.insert(name.to_owned(), value));
        put("project", json!(format!("Project/{}", self.project)));
        put("client", json!(format!("ClientApplication/{}", self.client)));
        match &self.what {
            What::Moved { by, from, active, retiring, retiring_ends, ended, .. } => {
                put("by", json!(by.to_string()));
                put("address", json!(from.to_canonical().to_string()));
                for (name, id) in [("active", active), ("retiring", retiring)] {
                    if let Some(id) = id {
                        put(name, json!(id.to_string()));
                    }
                }
                if let Some(ends) = retiring_ends {
                    put("retiringEnds", json!(ends.to_instant()));
                }
                if !ended.is_empty() {
                    put("ended", ended.iter().map(ToString::to_string).collect());
                }
            }
            What::OverwrittenInUse { secret, by } => {
                put("by", json!(by.to_string()));
                put("secret", json!(secret.to_string()));
            }
            What::Expiring { secret, ends, cause } | What::Expired { secret, ends, cause } => {
                put("secret", json!(secret.to_string()));
                put("ends", json!(ends.to_instant()));
                put("cause", json!(cause.as_str()));
                put("endsAccess", json!(cause.ends_access()));
            }
            What::FormerSeen { secret, by, times } => {
                put("secret", json!(secret.to_string()));
                put("address", json!(by.address.to_canonical().to_string()));
                for (name, text) in by.said() {
                    put(name, json!(text));
                }
                put("times", json!(times));
            }
        }
        Value::Object(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::ResourceType;
    use crate::random::SeededEntropy;

    #[test]
    fn every_kind_has_its_place_and_is_read_back() {
        for (n, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!((kind.index(), EventKind::parse(kind.as_str())), (n, Some(kind)));
        }
        assert_eq!(EventKind::parse("client.secret"), None);
    }

    #[test]
    fn an_event_says_what_there_is_to_say_and_nothing_empty() {
        let entropy = SeededEntropy::new(1);
        let (client, secret) = (ClientId::random(&entropy), SecretId::random(&entropy));
        let event = |what| Event {
            id: EventId::NIL,
            at: Timestamp::from_epoch_ms(784_111_777_042),
            project: ProjectId::NIL,
            client,
            what,
        };
        let by = Profile { resource_type: ResourceType::ClientApplication, id: client.into() };
        let moved = What::Moved {
            action: SecretAction::Rotate,
            by,
            from: [127, 0, 0, 1].into(),
            active: Some(secret),
            retiring: None,
            retiring_ends: None,
            ended: Vec::new(),
        };
        let nil = ProjectId::NIL;
        let expected = json!({
            "type": "client.secret.rotated",
            "timestamp": "1994-11-06T08:49:37.042Z",
            "id": nil.to_string(),
            "data": {
                "project": format!("Project/{nil}"),
                "client": format!("ClientApplication/{client}"),
                "by": by.to_string(),
                "address": "127.0.0.1",
                "active": secret.to_string(),
            }
        });
        assert_eq!(event(moved).to_json(), expected);
        let presenter =
            Presenter { address: [10, 0, 0, 1].into(), agent: String::new(), instance: "w1".into() };
        let seen = event(What::FormerSeen { secret, by: presenter, times: 3 }).to_json();
        let data = json!({
            "project": format!("Project/{nil}"),
            "client": format!("ClientApplication/{client}"),
            "secret": secret.to_string(),
            "address": "10.0.0.1",
            "instance": "w1",
            "times": 3,
        });
        assert_eq!((&seen["type"], &seen["data"]), (&json!("client.secret.former_seen"), &data));
    }
}
