//! What makes a change to the audit records show. Each writer puts its records into a chain of its own: a link
//! is a keyed digest (HMAC-SHA-256) over the record and the link before it. Who can write to the database, but
//! does not have the master key, can neither change a record, nor take one out, nor put one in between.
//!
//! A chain of its own for each writer, because one for all would make every change wait for every other. What
//! no chain shows is that its end is missing. So one that ends in order has a last link that says so; what the
//! secrets themselves say is compared with the records; and the heads of all chains can be kept elsewhere.

use std::fmt;

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::id::{ChainId, ProjectId, ResourceId, VersionId};
use crate::random::Entropy;
use crate::time::Timestamp;

const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;

/// The key of all chains of an installation. It is kept wrapped under a master key, and stays when that changes.
#[derive(Clone)]
pub struct AuditKey(hmac::Key);

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[audit key]")
    }
}

/// What a record says, as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordDigest([u8; 32]);

impl RecordDigest {
    /// Takes everything that is kept of a record and is not derived from it.
    #[must_use]
    pub fn of(
        id: ResourceId,
        version: VersionId,
        project: Option<ProjectId>,
        at: Timestamp,
        content: &str,
    ) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(id.uuid().as_bytes());
        hash.update(version.uuid().as_bytes());
        hash.update(project.unwrap_or(ProjectId::NIL).uuid().as_bytes());
        hash.update(&at.epoch_ms().to_be_bytes());
        hash.update(content.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.finish().as_ref());
        Self(bytes)
    }
}

/// What a link holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A record.
    Record(RecordDigest),
    /// Nothing: its writer ended in order, and nothing comes after it.
    End,
}

/// Proves a link and all before it.
#[derive(Clone, Copy)]
pub struct LinkMac([u8; MAC_BYTES]);

impl LinkMac {
    /// Reads it as it is kept: base64url without padding.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// Compares in constant time.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for LinkMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for LinkMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The last link of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Which chain.
    pub chain: ChainId,
    /// Its place, from 1.
    pub nth: i64,
    /// What proves it.
    pub mac: LinkMac,
}

/// What the audit records of an installation hang on. It is wrapped as one, so that nobody can move their beginning
/// without the master key, and put records before it.
#[derive(Clone, Debug)]
pub struct AuditRoot {
    /// What they are chained with.
    pub key: AuditKey,
    /// When they began; `None` in a database where that was not wrapped with the key.
    pub beginning: Option<AuditBeginning>,
}

/// When the audit records of an installation began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditBeginning {
    /// When the key was made.
    pub since: Timestamp,
    /// Whether there was neither a record nor a secret before.
    pub is_first: bool,
}

impl AuditRoot {
    /// A new key, and what is to be wrapped.
    #[must_use]
    pub fn generate(beginning: AuditBeginning, entropy: &dyn Entropy) -> (Self, Zeroizing<Vec<u8>>) {
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
        entropy.fill(&mut bytes);
        let root = Self { key: AuditKey::from_bytes(&bytes), beginning: Some(beginning) };
        bytes.extend_from_slice(&beginning.since.epoch_ms().to_be_bytes());
        bytes.push(u8::from(beginning.is_first));
        (root, bytes)
    }

    /// From what was unwrapped.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let (key, rest) = bytes.split_at(bytes.len().min(KEY_BYTES));
        let beginning = match rest.split_first_chunk() {
            Some((since, [is_first])) => Some(AuditBeginning {
                since: Timestamp::from_epoch_ms(i64::from_be_bytes(*since)),
                is_first: *is_first != 0,
            }),
            _ => None,
        };
        Self { key: AuditKey::from_bytes(key), beginning }
    }
}

impl AuditKey {
    fn from_bytes(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The first link of a chain.
    #[must_use]
    pub fn first(&self, chain: ChainId, what: &What) -> Link {
        self.link(chain, 1, [0; MAC_BYTES], what)
    }

    /// The link after another.
    #[must_use]
    pub fn after(&self, last: &Link, what: &What) -> Link {
        self.link(last.chain, last.nth.saturating_add(1), last.mac.0, what)
    }

    fn link(&self, chain: ChainId, nth: i64, previous: [u8; MAC_BYTES], what: &What) -> Link {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(chain.uuid().as_bytes());
        context.update(&nth.to_be_bytes());
        context.update(&previous);
        match what {
            What::Record(RecordDigest(digest)) => {
                context.update(&[0]);
                context.update(digest);
            }
            What::End => context.update(&[1]),
        }
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(context.sign().as_ref());
        Link { chain, nth, mac: LinkMac(mac) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededEntropy;

    #[test]
    fn a_link_proves_its_place_its_record_and_all_before_it() {
        let entropy = SeededEntropy::new(1);
        let beginning = AuditBeginning { since: Timestamp::from_epoch_ms(7), is_first: true };
        let (AuditRoot { key, .. }, bytes) = AuditRoot::generate(beginning, &entropy);
        let chain = ChainId::random(&entropy);
        let record = |at| {
            let (id, version) = (ResourceId::NIL, VersionId::NIL);
            What::Record(RecordDigest::of(id, version, None, Timestamp::from_epoch_ms(at), "{}"))
        };
        let first = key.first(chain, &record(1));
        let second = key.after(&first, &record(2));
        assert_eq!((first.nth, second.nth, second.chain), (1, 2, chain));

        let AuditRoot { key: same, beginning: read } = AuditRoot::from_bytes(&bytes);
        assert_eq!(read, Some(beginning));
        assert_eq!(AuditRoot::from_bytes(&bytes[..KEY_BYTES]).beginning, None, "from before it was wrapped");
        let again = same.after(&same.first(chain, &record(1)), &record(2));
        assert!(again.mac.matches(&second.mac));
        let read = LinkMac::parse(&second.mac.to_string()).unwrap();
        assert!(read.matches(&second.mac));
        assert!(LinkMac::parse("AAAA").is_none());

        let others = [
            key.after(&first, &record(3)),
            key.after(&first, &What::End),
            key.after(&key.first(chain, &record(9)), &record(2)),
            key.after(&key.first(ChainId::random(&entropy), &record(1)), &record(2)),
            key.after(&Link { nth: 2, ..first }, &record(2)),
            AuditRoot::generate(beginning, &entropy).0.key.after(&first, &record(2)),
        ];
        for other in others {
            assert!(!other.mac.matches(&second.mac), "{other:?}");
        }
    }
}
