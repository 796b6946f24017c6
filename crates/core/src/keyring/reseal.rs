//! Moving what is sealed to the first master key. The values stay what they are: a slot keeps its id, its
//! secret and its age, only the key that it is kept under is another one.

use super::{KeyId, Keyring, KeyringError, Sealed, SecretVisibility};
use crate::id::{ClientId, SigningKeyId, UserId, WebhookId};
use crate::random::Entropy;
use crate::slots::Slot;

impl Keyring {
    /// A slot under the first key. `None` if it is there already, or if only the digest of its secret is
    /// kept: that cannot be made anew without the secret.
    pub fn reseal_slot(
        &self,
        client: ClientId,
        slot: &Slot,
        entropy: &dyn Entropy,
    ) -> Result<Option<Slot>, KeyringError> {
        let Some(sealed) = &slot.sealed else { return Ok(None) };
        let first = self.sealing_key();
        if slot.key == first && sealed.key() == Some(first) {
            return Ok(None);
        }
        let Some(secret) = self.open_secret(client, slot)? else { return Ok(None) };
        let visibility = SecretVisibility::Recoverable;
        let fresh = self.fill_slot(client, slot.id, &secret, visibility, slot.created, entropy);
        Ok(Some(Slot { by: slot.by, ..fresh }))
    }

    /// The private part of a signing key under the first key. `None` if it is there already.
    pub fn reseal_signing_key(
        &self,
        id: SigningKeyId,
        sealed: &Sealed,
        entropy: &dyn Entropy,
    ) -> Result<Option<Sealed>, KeyringError> {
        let opened = self.open_older(sealed, || self.unwrap_signing_key(id, sealed))?;
        Ok(opened.map(|pkcs8| self.wrap_signing_key(id, &pkcs8, entropy)))
    }

    /// A person's second factor under the first key. `None` if it is there already.
    pub fn reseal_second_factor(
        &self,
        user: UserId,
        sealed: &Sealed,
        entropy: &dyn Entropy,
    ) -> Result<Option<Sealed>, KeyringError> {
        let opened = self.open_older(sealed, || self.open_second_factor(user, sealed))?;
        Ok(opened.map(|key| self.seal_second_factor(user, &key, entropy)))
    }

    /// What audit records hang on, under the first key. `None` if it is there already.
    pub fn reseal_audit_root(
        &self,
        sealed: &Sealed,
        entropy: &dyn Entropy,
    ) -> Result<Option<Sealed>, KeyringError> {
        let opened = self.open_older(sealed, || self.open_audit_root(sealed))?;
        Ok(opened.map(|root| self.wrap_audit_root(&root, entropy)))
    }

    /// What the deliveries to a webhook are signed with, under the first key. `None` if it is there already.
    pub fn reseal_signing_secret(
        &self,
        webhook: WebhookId,
        sealed: &Sealed,
        entropy: &dyn Entropy,
    ) -> Result<Option<Sealed>, KeyringError> {
        let opened = self.open_older(sealed, || self.open_signing_secret(webhook, sealed))?;
        Ok(opened.map(|secret| self.seal_signing_secret(webhook, &secret, entropy)))
    }

    pub(super) fn open_older<T>(
        &self,
        sealed: &Sealed,
        open: impl FnOnce() -> Result<T, KeyringError>,
    ) -> Result<Option<T>, KeyringError> {
        let is_older = sealed.key().is_none_or(|key: KeyId| key != self.sealing_key());
        if is_older { open().map(Some) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SecretId;
    use crate::random::SeededEntropy;
    use crate::secret::PlainSecret;
    use crate::slots::{SecretSlots, SlotKind};
    use crate::time::Timestamp;
    use crate::webhook::SigningSecret;

    const NOW: Timestamp = Timestamp::from_epoch_ms(7);

    /// A keyring with an old key, and the same after a new one was put before it.
    fn rings() -> (Keyring, Keyring, String) {
        let old = Keyring::new_file(&SeededEntropy::new(10)).to_string();
        let both = Keyring::with_new_first(&old, &SeededEntropy::new(11)).to_string();
        let new: String = both.lines().filter(|line| !old.contains(line)).collect();
        (Keyring::parse_file(&old).unwrap(), Keyring::parse_file(&both).unwrap(), new)
    }

    #[test]
    fn what_is_resealed_needs_the_old_key_no_more() {
        let entropy = SeededEntropy::new(1);
        let (old, both, new) = rings();
        let new = Keyring::parse_file(&new).unwrap();
        assert_eq!(both.key_ids(), [new.sealing_key(), old.sealing_key()]);

        let (client, secret) = (ClientId::random(&entropy), PlainSecret::generate(&entropy));
        let id = SecretId::random(&entropy);
        let before = old.fill_slot(client, id, &secret, SecretVisibility::Recoverable, NOW, &entropy);
        let after = both.reseal_slot(client, &before, &entropy).unwrap().unwrap();
        assert_eq!((after.id, after.created, after.key), (id, NOW, new.sealing_key()));
        assert_eq!(new.open_secret(client, &after).unwrap().unwrap().reveal(), secret.reveal());
        assert!(
            SecretSlots::with_active(after.clone()).holds(SlotKind::Active, &new.present(client, &secret))
        );
        assert!(both.reseal_slot(client, &after, &entropy).unwrap().is_none(), "once is enough");

        let once = old.fill_slot(client, id, &secret, SecretVisibility::Once, NOW, &entropy);
        assert!(both.reseal_slot(client, &once, &entropy).unwrap().is_none());

        let key = SigningKeyId::random(&entropy);
        let sealed = old.wrap_signing_key(key, b"private", &entropy);
        let sealed = both.reseal_signing_key(key, &sealed, &entropy).unwrap().unwrap();
        assert_eq!(new.unwrap_signing_key(key, &sealed).unwrap().as_slice(), b"private");
        assert!(both.reseal_signing_key(key, &sealed, &entropy).unwrap().is_none());

        let user = UserId::random(&entropy);
        let sealed = old.seal_second_factor(user, b"factor", &entropy);
        let sealed = both.reseal_second_factor(user, &sealed, &entropy).unwrap().unwrap();
        assert_eq!(new.open_second_factor(user, &sealed).unwrap().as_slice(), b"factor");

        let sealed = old.wrap_audit_root(b"audit", &entropy);
        let sealed = both.reseal_audit_root(&sealed, &entropy).unwrap().unwrap();
        assert!(new.unwrap_audit_root(&sealed).is_ok() && old.unwrap_audit_root(&sealed).is_err());
        let (webhook, signing) = (WebhookId::random(&entropy), SigningSecret::generate(&entropy));
        let sealed = old.seal_signing_secret(webhook, &signing, &entropy);
        let sealed = both.reseal_signing_secret(webhook, &sealed, &entropy).unwrap().unwrap();
        assert_eq!(new.open_signing_secret(webhook, &sealed).unwrap().bytes(), signing.bytes());
        assert!(new.open_signing_secret(WebhookId::random(&entropy), &sealed).is_err(), "of another webhook");
    }

    #[test]
    fn a_file_is_taken_up_with_all_the_keys_of_the_one_before() {
        let old = Keyring::new_file(&SeededEntropy::new(10)).to_string();
        let ring = Keyring::parse_file(&old).unwrap();
        let first = ring.sealing_key();
        assert!(!ring.replace(&old).unwrap(), "nothing changed");

        let both = Keyring::with_new_first(&old, &SeededEntropy::new(11)).to_string();
        assert_eq!(both.lines().count(), old.lines().count() + 1);
        assert!(both.starts_with('#'), "the comment stays where it was");
        assert!(ring.replace(&both).unwrap());
        assert_eq!(ring.key_ids().get(1), Some(&first));

        assert!(matches!(ring.replace(&old), Err(KeyringError::KeyGone { .. })));
        assert!(ring.replace("rubbish").is_err());
        assert_eq!(ring.key_ids().len(), 2, "the keys stay");
    }
}
