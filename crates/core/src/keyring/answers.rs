//! Sealing answers that are kept to be given again. An answer opens only in its own place: under the id that it
//! was kept under, which is of one caller and one key, and for the client that it is about.

use zeroize::Zeroizing;

use super::{Keyring, KeyringError, Sealed, seal};
use crate::id::ClientId;
use crate::idempotency::KeptAnswerId;
use crate::random::Entropy;

impl Keyring {
    /// Seals an answer.
    #[must_use]
    pub fn seal_answer(
        &self,
        id: KeptAnswerId,
        client: ClientId,
        answer: &[u8],
        entropy: &dyn Entropy,
    ) -> Sealed {
        let first = &self.keys.load().first;
        seal(first.id, &first.answers, answer, &place(id, client), entropy)
    }

    /// Opens an answer.
    pub fn open_answer(
        &self,
        id: KeptAnswerId,
        client: ClientId,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        self.open(sealed, |key| &key.answers, &place(id, client))
    }

    /// An answer under the first key. `None` if it is there already.
    pub fn reseal_answer(
        &self,
        id: KeptAnswerId,
        client: ClientId,
        sealed: &Sealed,
        entropy: &dyn Entropy,
    ) -> Result<Option<Sealed>, KeyringError> {
        let opened = self.open_older(sealed, || self.open_answer(id, client, sealed))?;
        Ok(opened.map(|answer| self.seal_answer(id, client, &answer, entropy)))
    }
}

fn place(id: KeptAnswerId, client: ClientId) -> [u8; 48] {
    let mut place = [0; 48];
    place[..32].copy_from_slice(id.as_bytes());
    place[32..].copy_from_slice(client.uuid().as_bytes());
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::MembershipId;
    use crate::idempotency::IdempotencyKey;
    use crate::random::SeededEntropy;

    #[test]
    fn an_answer_opens_for_its_caller_key_and_client_only() {
        let entropy = SeededEntropy::new(1);
        let old = Keyring::new_file(&SeededEntropy::new(10)).to_string();
        let both = Keyring::with_new_first(&old, &SeededEntropy::new(11)).to_string();
        let new: String = both.lines().filter(|line| !old.contains(line)).collect();
        let [old, both, new] = [&old, &both, &new].map(|text| Keyring::parse_file(text).unwrap());
        let key = |text| IdempotencyKey::parse(text).unwrap();
        let (client, other) = (ClientId::random(&entropy), ClientId::random(&entropy));
        let id = KeptAnswerId::of(MembershipId::NIL, &key("a"));
        let sealed = old.seal_answer(id, client, b"answer", &entropy);
        assert_eq!(both.open_answer(id, client, &sealed).unwrap().as_slice(), b"answer");
        let elsewhere = [
            (KeptAnswerId::of(MembershipId::NIL, &key("b")), client),
            (KeptAnswerId::of(MembershipId::random(&entropy), &key("a")), client),
            (id, other),
        ];
        for (id, client) in elsewhere {
            assert!(matches!(both.open_answer(id, client, &sealed), Err(KeyringError::Corrupt)));
        }
        let moved = both.reseal_answer(id, client, &sealed, &entropy).unwrap().unwrap();
        assert_eq!(new.open_answer(id, client, &moved).unwrap().as_slice(), b"answer");
        assert!(both.reseal_answer(id, client, &moved, &entropy).unwrap().is_none());
    }
}
