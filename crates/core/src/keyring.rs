//! The installation's master keys and what is derived from them (HKDF-SHA-256, RFC 5869): the
//! pepper for secret digests, the key that seals recoverable secrets, the key that wraps signing
//! keys. Several master keys may be listed: the first seals, all can open; that is how the master
//! key itself is changed without a moment's outage.

mod answers;
mod file;
mod reseal;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::audit::AuditRoot;
use crate::id::{ClientId, SecretId, SessionId, SigningKeyId, UserId, WebhookId};
use crate::random::Entropy;
use crate::secret::{PlainSecret, SecretDigest};
use crate::session::Stage;
use crate::slots::{Presented, Slot};
use crate::ticket::{self, Ticket, TicketKind};
use crate::time::Timestamp;
use crate::webhook::SigningSecret;

/// First byte of everything sealed, so that another way of sealing can be told apart later.
const SEAL_VERSION: u8 = 1;
const MASTER_KEY_BYTES: usize = 32;
/// There is one key of audit records.
const AUDIT_PLACE: &[u8] = b"audit";
/// Most master keys one file may list.
const MASTER_KEYS_MAX: usize = 8;

/// Why a master key file or a sealed value could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file lists no key.
    #[error("the master key file lists no key: it needs one line of 32 bytes in base64")]
    NoKey,
    /// A line is not a key.
    #[error("line {line} of the master key file is not 32 bytes in base64")]
    BadLine {
        /// The line, counted from 1.
        line: usize,
    },
    /// The file lists more keys than are ever needed at once.
    #[error(
        "the master key file lists more than {MASTER_KEYS_MAX} keys: remove those that nothing is sealed under"
    )]
    TooManyKeys,
    /// A value was sealed under a key that is not listed.
    #[error("a value is sealed under master key {key}, which the master key file does not list")]
    UnknownKey {
        /// Which key.
        key: KeyId,
    },
    /// A file that is to replace another lacks one of its keys.
    #[error(
        "it no longer lists master key {key}, which is in use: to take a key out, ask `keyrelay keys status` whether \
         anything needs it, and start the server again"
    )]
    KeyGone {
        /// Which key.
        key: KeyId,
    },
    /// A sealed value was cut short, changed, or moved to another place.
    #[error("a sealed value does not open: it was changed, or copied from another place")]
    Corrupt,
}

/// Names a master key without saying anything about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// Takes the id as a database column holds it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The id for a database column.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Ciphertext with the name of the key that opens it: safe to store anywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Takes the ciphertext as a database column holds it.
    #[must_use]
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The ciphertext for a database column.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The master key that opens it; `None` if it was cut short.
    #[must_use]
    pub fn key(&self) -> Option<KeyId> {
        let (_, rest) = self.0.split_first()?;
        rest.first_chunk::<8>().copied().map(KeyId)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[sealed]")
    }
}

/// Whether the value of a secret can be read again after it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretVisibility {
    /// Admins see it whenever they read the client application: it is kept sealed.
    #[default]
    Recoverable,
    /// It is shown in the answer that made it and never again: only its digest is kept.
    Once,
}

struct DerivedKeys {
    id: KeyId,
    pepper: hmac::Key,
    tickets: hmac::Key,
    secrets: LessSafeKey,
    signing_keys: LessSafeKey,
    second_factors: LessSafeKey,
    audit: LessSafeKey,
    webhooks: LessSafeKey,
    answers: LessSafeKey,
}

impl DerivedKeys {
    fn from_master(master: &[u8; MASTER_KEY_BYTES]) -> Self {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"keyrelay/v1").extract(master);
        let derive = |purpose: &str| -> Zeroizing<[u8; 32]> {
            let mut key = Zeroizing::new([0; 32]);
            prk.expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(key.as_mut()))
                .expect("HKDF-SHA-256 gives 32 bytes");
            key
        };
        let aead = |purpose: &str| {
            LessSafeKey::new(
                UnboundKey::new(&AES_256_GCM, derive(purpose).as_ref()).expect("an AES-256 key has 32 bytes"),
            )
        };
        let mut id = [0; 8];
        id.copy_from_slice(&derive("key id")[..8]);
        Self {
            id: KeyId(id),
            pepper: hmac::Key::new(hmac::HMAC_SHA256, derive("secret digest").as_ref()),
            tickets: hmac::Key::new(hmac::HMAC_SHA256, derive("ticket").as_ref()),
            secrets: aead("secret seal"),
            signing_keys: aead("signing key wrap"),
            second_factors: aead("second factor seal"),
            audit: aead("audit key wrap"),
            webhooks: aead("webhook seal"),
            answers: aead("kept answer seal"),
        }
    }

    fn digest(&self, client: ClientId, secret: &PlainSecret) -> SecretDigest {
        let mut context = hmac::Context::with_key(&self.pepper);
        context.update(client.uuid().as_bytes());
        context.update(secret.reveal().as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.sign().as_ref());
        SecretDigest::from_bytes(bytes)
    }
}

struct Keys {
    first: DerivedKeys,
    others: Vec<DerivedKeys>,
}

impl Keys {
    fn all(&self) -> impl Iterator<Item = &DerivedKeys> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn parse_file(text: &str) -> Result<Self, KeyringError> {
        let mut keys = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = Zeroizing::new(STANDARD.decode(line).unwrap_or_default());
            let master = Zeroizing::new(
                <[u8; MASTER_KEY_BYTES]>::try_from(bytes.as_slice())
                    .map_err(|_| KeyringError::BadLine { line: n + 1 })?,
            );
            keys.push(DerivedKeys::from_master(&master));
        }
        if keys.len() > MASTER_KEYS_MAX {
            return Err(KeyringError::TooManyKeys);
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or(KeyringError::NoKey)?;
        Ok(Self { first, others: keys.collect() })
    }
}

/// All keys of an installation. The first listed seals; all open. They can be replaced while they are in
/// use: each call works with the keys of one moment.
pub struct Keyring {
    keys: ArcSwap<Keys>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.load();
        write!(f, "Keyring({}, and {} more)", keys.first.id, keys.others.len())
    }
}

impl Keyring {
    /// Reads a master key file: one key a line, `#` starts a comment line.
    pub fn parse_file(text: &str) -> Result<Self, KeyringError> {
        Ok(Self { keys: ArcSwap::from_pointee(Keys::parse_file(text)?) })
    }

    /// Takes up a master key file that has changed. One that lacks a key in use is refused, and the keys
    /// stay as they are: something may be sealed under it at this moment. Says whether anything changed.
    pub fn replace(&self, text: &str) -> Result<bool, KeyringError> {
        let (fresh, known) = (Keys::parse_file(text)?, self.keys.load());
        let ids = |keys: &Keys| keys.all().map(|key| key.id).collect::<Vec<_>>();
        let (fresh_ids, known_ids) = (ids(&fresh), ids(&known));
        if let Some(key) = known_ids.iter().find(|key| !fresh_ids.contains(key)) {
            return Err(KeyringError::KeyGone { key: *key });
        }
        let changed = fresh_ids != known_ids;
        if changed {
            self.keys.store(Arc::new(fresh));
        }
        Ok(changed)
    }

    /// The names of all keys, in the order of the file.
    #[must_use]
    pub fn key_ids(&self) -> Vec<KeyId> {
        self.keys.load().all().map(|key| key.id).collect()
    }

    /// The key that seals.
    #[must_use]
    pub fn sealing_key(&self) -> KeyId {
        self.keys.load().first.id
    }

    /// The digests of a value that somebody presents for `client`, one for each listed key.
    #[must_use]
    pub fn present(&self, client: ClientId, secret: &PlainSecret) -> Presented {
        Presented::new(self.keys.load().all().map(|key| (key.id, key.digest(client, secret))))
    }

    /// Makes the slot that a new secret of `client` is kept in.
    #[must_use]
    pub fn fill_slot(
        &self,
        client: ClientId,
        id: SecretId,
        secret: &PlainSecret,
        visibility: SecretVisibility,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Slot {
        let first = &self.keys.load().first;
        let sealed = match visibility {
            SecretVisibility::Recoverable => Some(seal(
                first.id,
                &first.secrets,
                secret.reveal().as_bytes(),
                &secret_place(client, id),
                entropy,
            )),
            SecretVisibility::Once => None,
        };
        Slot { id, key: first.id, digest: first.digest(client, secret), sealed, created: now, by: None }
    }

    /// Opens a recoverable secret, to show it to an admin. `None` if only its digest is kept.
    pub fn open_secret(&self, client: ClientId, slot: &Slot) -> Result<Option<PlainSecret>, KeyringError> {
        let Some(sealed) = &slot.sealed else { return Ok(None) };
        let bytes = self.open(sealed, |key| &key.secrets, &secret_place(client, slot.id))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| KeyringError::Corrupt)?;
        PlainSecret::presented(text.to_owned()).map(Some).map_err(|_| KeyringError::Corrupt)
    }

    /// Wraps the private part of a signing key.
    #[must_use]
    pub fn wrap_signing_key(&self, id: SigningKeyId, pkcs8: &[u8], entropy: &dyn Entropy) -> Sealed {
        let first = &self.keys.load().first;
        seal(first.id, &first.signing_keys, pkcs8, id.uuid().as_bytes(), entropy)
    }

    /// Unwraps the private part of a signing key.
    pub fn unwrap_signing_key(
        &self,
        id: SigningKeyId,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        self.open(sealed, |key| &key.signing_keys, id.uuid().as_bytes())
    }

    /// Seals what a person's second factor is computed from.
    #[must_use]
    pub fn seal_second_factor(&self, user: UserId, key: &[u8], entropy: &dyn Entropy) -> Sealed {
        let first = &self.keys.load().first;
        seal(first.id, &first.second_factors, key, user.uuid().as_bytes(), entropy)
    }

    /// Opens what a person's second factor is computed from.
    pub fn open_second_factor(
        &self,
        user: UserId,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        self.open(sealed, |key| &key.second_factors, user.uuid().as_bytes())
    }

    /// Wraps what audit records hang on.
    #[must_use]
    pub fn wrap_audit_root(&self, bytes: &[u8], entropy: &dyn Entropy) -> Sealed {
        let first = &self.keys.load().first;
        seal(first.id, &first.audit, bytes, AUDIT_PLACE, entropy)
    }

    /// Unwraps what audit records hang on.
    pub fn unwrap_audit_root(&self, sealed: &Sealed) -> Result<AuditRoot, KeyringError> {
        self.open_audit_root(sealed).map(|bytes| AuditRoot::from_bytes(&bytes))
    }

    fn open_audit_root(&self, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        self.open(sealed, |key| &key.audit, AUDIT_PLACE)
    }

    /// Seals what the deliveries to a webhook are signed with.
    #[must_use]
    pub fn seal_signing_secret(
        &self,
        webhook: WebhookId,
        secret: &SigningSecret,
        entropy: &dyn Entropy,
    ) -> Sealed {
        let first = &self.keys.load().first;
        seal(first.id, &first.webhooks, secret.bytes(), webhook.uuid().as_bytes(), entropy)
    }

    /// Opens what the deliveries to a webhook are signed with.
    pub fn open_signing_secret(
        &self,
        webhook: WebhookId,
        sealed: &Sealed,
    ) -> Result<SigningSecret, KeyringError> {
        let bytes = self.open(sealed, |key| &key.webhooks, webhook.uuid().as_bytes())?;
        SigningSecret::from_bytes(&bytes).ok_or(KeyringError::Corrupt)
    }

    /// Writes a ticket.
    #[must_use]
    pub fn issue_ticket(&self, kind: TicketKind, of: Uuid, generation: u32) -> PlainSecret {
        ticket::issue(&self.keys.load().first.tickets, kind, Ticket { of, generation })
    }

    /// What a presented ticket names; `None` if it is not one of this installation and this kind.
    #[must_use]
    pub fn read_ticket(&self, kind: TicketKind, presented: &PlainSecret) -> Option<Ticket> {
        ticket::read(self.keys.load().all().map(|key| &key.tickets), kind, presented)
    }

    /// The mark of the form that a login shows to a person at one stage.
    #[must_use]
    pub fn form_mark(&self, session: SessionId, user: UserId, stage: Stage) -> String {
        ticket::form_mark(&self.keys.load().first.tickets, session.uuid(), user.uuid(), stage.as_str())
    }

    /// Whether a mark belongs to that form.
    #[must_use]
    pub fn is_form_mark(&self, session: SessionId, user: UserId, stage: Stage, presented: &str) -> bool {
        let form = (session.uuid(), user.uuid(), stage.as_str());
        ticket::is_form_mark(self.keys.load().all().map(|key| &key.tickets), form, presented)
    }

    fn open(
        &self,
        sealed: &Sealed,
        purpose: impl Fn(&DerivedKeys) -> &LessSafeKey,
        place: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let (&version, rest) = sealed.0.split_first().ok_or(KeyringError::Corrupt)?;
        let (key_id, rest) = rest.split_first_chunk::<8>().ok_or(KeyringError::Corrupt)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(KeyringError::Corrupt)?;
        if version != SEAL_VERSION {
            return Err(KeyringError::Corrupt);
        }
        let id = KeyId(*key_id);
        let keys = self.keys.load();
        let key = keys.all().find(|key| key.id == id).ok_or(KeyringError::UnknownKey { key: id })?;
        let mut bytes = Zeroizing::new(ciphertext.to_vec());
        let length = purpose(key)
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place), &mut bytes)
            .map_err(|_| KeyringError::Corrupt)?
            .len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

/// What ties a sealed secret to its slot: it does not open in the row of another client or secret.
fn secret_place(client: ClientId, id: SecretId) -> [u8; 32] {
    let mut place = [0; 32];
    place[..16].copy_from_slice(client.uuid().as_bytes());
    place[16..].copy_from_slice(id.uuid().as_bytes());
    place
}

/// `version ‖ key id ‖ nonce ‖ ciphertext ‖ tag`. The nonce is random: NIST SP 800-38D §8.3 allows
/// 2³² of those under one key, and a master key can be changed long before.
fn seal(key_id: KeyId, key: &LessSafeKey, plain: &[u8], place: &[u8], entropy: &dyn Entropy) -> Sealed {
    let mut nonce = [0; NONCE_LEN];
    entropy.fill(&mut nonce);
    let mut buffer = Zeroizing::new(plain.to_vec());
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut buffer)
        .expect("a value of a few kilobytes can be sealed");
    let mut bytes = Vec::with_capacity(1 + 8 + NONCE_LEN + buffer.len() + tag.as_ref().len());
    bytes.push(SEAL_VERSION);
    bytes.extend_from_slice(key_id.as_bytes());
    bytes.extend_from_slice(&nonce);
    bytes.extend_from_slice(&buffer);
    bytes.extend_from_slice(tag.as_ref());
    Sealed(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededEntropy;
    use crate::slots::{SecretSlots, SlotKind};

    const NOW: Timestamp = Timestamp::from_epoch_ms(0);

    fn line(seed: u64) -> String {
        let text = Keyring::new_file(&SeededEntropy::new(seed));
        text.lines().last().unwrap_or_default().to_owned()
    }

    fn slot(ring: &Keyring, client: ClientId, secret: &PlainSecret, entropy: &SeededEntropy) -> Slot {
        let id = SecretId::random(entropy);
        ring.fill_slot(client, id, secret, SecretVisibility::Recoverable, NOW, entropy)
    }

    #[test]
    fn a_sealed_secret_opens_in_its_own_place_only() {
        let entropy = SeededEntropy::new(1);
        let ring = Keyring::parse_file(&line(10)).unwrap();
        let (client, other) = (ClientId::random(&entropy), ClientId::random(&entropy));
        let secret = PlainSecret::generate(&entropy);
        let slot = slot(&ring, client, &secret, &entropy);
        let opened = ring.open_secret(client, &slot).unwrap().unwrap();
        assert_eq!(opened.reveal(), secret.reveal());
        assert!(matches!(ring.open_secret(other, &slot), Err(KeyringError::Corrupt)));
        let moved = Slot { id: SecretId::random(&entropy), ..slot };
        assert!(matches!(ring.open_secret(client, &moved), Err(KeyringError::Corrupt)));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let entropy = SeededEntropy::new(2);
        let ring = Keyring::parse_file(&line(10)).unwrap();
        let client = ClientId::random(&entropy);
        let slot = slot(&ring, client, &PlainSecret::generate(&entropy), &entropy);
        let bytes = slot.sealed.clone().unwrap().0;
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let slot = Slot { sealed: Some(Sealed(changed)), ..slot.clone() };
            assert!(ring.open_secret(client, &slot).is_err(), "byte {at}");
            let slot = Slot { sealed: Some(Sealed(bytes[..at].to_vec())), ..slot };
            assert!(ring.open_secret(client, &slot).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_first_key_seals_and_all_listed_keys_open() {
        let entropy = SeededEntropy::new(3);
        let (old_line, new_line) = (line(10), line(11));
        let old = Keyring::parse_file(&old_line).unwrap();
        let both = Keyring::parse_file(&format!("# keys\n{new_line}\n\n{old_line}\n")).unwrap();
        let new = Keyring::parse_file(&new_line).unwrap();
        let client = ClientId::random(&entropy);
        let secret = PlainSecret::generate(&entropy);
        let before = slot(&old, client, &secret, &entropy);

        assert_eq!(both.open_secret(client, &before).unwrap().unwrap().reveal(), secret.reveal());
        let slots = SecretSlots::with_active(before.clone());
        assert!(slots.holds(SlotKind::Active, &both.present(client, &secret)));
        assert!(!slots.holds(SlotKind::Active, &new.present(client, &secret)));
        assert!(matches!(new.open_secret(client, &before), Err(KeyringError::UnknownKey { .. })));
        assert_eq!(slot(&both, client, &secret, &entropy).key, new.sealing_key());
    }

    #[test]
    fn the_same_secret_of_two_clients_has_two_digests() {
        let entropy = SeededEntropy::new(4);
        let ring = Keyring::parse_file(&line(10)).unwrap();
        let secret = PlainSecret::generate(&entropy);
        let (a, b) = (ClientId::random(&entropy), ClientId::random(&entropy));
        let slots = SecretSlots::with_active(slot(&ring, a, &secret, &entropy));
        assert!(slots.holds(SlotKind::Active, &ring.present(a, &secret)));
        assert!(!slots.holds(SlotKind::Active, &ring.present(b, &secret)));
    }

    #[test]
    fn a_bad_file_is_refused_by_its_line() {
        assert!(matches!(Keyring::parse_file("# only a comment\n"), Err(KeyringError::NoKey)));
        assert!(matches!(Keyring::parse_file("\nnot a key\n"), Err(KeyringError::BadLine { line: 2 })));
        assert!(matches!(Keyring::parse_file("AAAA"), Err(KeyringError::BadLine { line: 1 })));
        let many = vec![line(1); MASTER_KEYS_MAX + 1].join("\n");
        assert!(matches!(Keyring::parse_file(&many), Err(KeyringError::TooManyKeys)));
    }

    #[test]
    fn a_signing_key_is_wrapped_for_its_own_id() {
        let entropy = SeededEntropy::new(5);
        let ring = Keyring::parse_file(&line(10)).unwrap();
        let (id, other) = (SigningKeyId::random(&entropy), SigningKeyId::random(&entropy));
        let sealed = ring.wrap_signing_key(id, b"private", &entropy);
        assert_eq!(ring.unwrap_signing_key(id, &sealed).unwrap().as_slice(), b"private");
        assert!(ring.unwrap_signing_key(other, &sealed).is_err());
    }
}
