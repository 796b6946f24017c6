//! Things that are handed out and come back: authorization codes, refresh tokens, links that set a
//! password, tokens of client registration. Each names a row and a generation of it, and bears a
//! keyed digest of both, so that nobody can invent one and nothing of it need be kept. What the row
//! says now decides whether it is still good.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::secret::PlainSecret;

/// Row, generation, digest.
const TICKET_BYTES: usize = 16 + 4 + 32;

/// What a ticket is for. One kind is never taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketKind {
    /// An authorization code (RFC 6749 §1.3.1); names a session.
    Code,
    /// A refresh token (RFC 6749 §1.5); names a session.
    Refresh,
    /// Binds a login that is under way to the browser it began in; names a session.
    Login,
    /// A link that sets a password; names a user.
    SetPassword,
    /// An initial access token (RFC 7591 §1.2); names a registration grant.
    InitialAccess,
    /// A registration access token (RFC 7592 §1.2); names a client.
    RegistrationAccess,
}

impl TicketKind {
    /// What a ticket of this kind starts with, so that scanners can find a leaked one.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Code => "krc_",
            Self::Refresh => "krr_",
            Self::Login => "krl_",
            Self::SetPassword => "krp_",
            Self::InitialAccess => "kri_",
            Self::RegistrationAccess => "kra_",
        }
    }
}

/// What a ticket that is genuine names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The row.
    pub of: Uuid,
    /// Which generation of it.
    pub generation: u32,
}

/// Writes a ticket under a key.
pub(crate) fn issue(key: &hmac::Key, kind: TicketKind, ticket: Ticket) -> PlainSecret {
    let mut bytes = Zeroizing::new(Vec::with_capacity(TICKET_BYTES));
    bytes.extend_from_slice(ticket.of.as_bytes());
    bytes.extend_from_slice(&ticket.generation.to_be_bytes());
    bytes.extend_from_slice(mac(key, kind, ticket).as_ref());
    let mut text = Zeroizing::new(String::from(kind.prefix()));
    URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
    PlainSecret::made(&text)
}

/// Reads a ticket that one of the keys wrote. The comparison takes the same time for every value.
pub(crate) fn read<'k>(
    keys: impl Iterator<Item = &'k hmac::Key>,
    kind: TicketKind,
    presented: &PlainSecret,
) -> Option<Ticket> {
    let encoded = presented.reveal().strip_prefix(kind.prefix())?;
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).ok()?);
    let (of, rest) = bytes.split_first_chunk::<16>()?;
    let (generation, given) = rest.split_first_chunk::<4>()?;
    let ticket = Ticket { of: Uuid::from_bytes(*of), generation: u32::from_be_bytes(*generation) };
    let genuine =
        keys.fold(subtle::Choice::from(0), |found, key| found | mac(key, kind, ticket).as_ref().ct_eq(given));
    bool::from(genuine).then_some(ticket)
}

/// The mark of a form: a keyed digest of the login, the person and the step that its page was made for. A form
/// without this mark is not an answer of the person who logs in.
pub(crate) fn form_mark(key: &hmac::Key, session: Uuid, user: Uuid, step: &str) -> String {
    URL_SAFE_NO_PAD.encode(form_mac(key, session, user, step))
}

/// Whether one of the keys made the mark for that form. The comparison takes the same time for every value.
pub(crate) fn is_form_mark<'k>(
    keys: impl Iterator<Item = &'k hmac::Key>,
    (session, user, step): (Uuid, Uuid, &str),
    presented: &str,
) -> bool {
    let Ok(given) = URL_SAFE_NO_PAD.decode(presented) else { return false };
    let genuine = keys.fold(subtle::Choice::from(0), |found, key| {
        found | form_mac(key, session, user, step).as_ref().ct_eq(given.as_slice())
    });
    genuine.into()
}

/// No ticket's digest begins like this one, since no kind of ticket has this prefix.
fn form_mac(key: &hmac::Key, session: Uuid, user: Uuid, step: &str) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(b"form");
    context.update(session.as_bytes());
    context.update(user.as_bytes());
    context.update(step.as_bytes());
    context.sign()
}

fn mac(key: &hmac::Key, kind: TicketKind, ticket: Ticket) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(kind.prefix().as_bytes());
    context.update(ticket.of.as_bytes());
    context.update(&ticket.generation.to_be_bytes());
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKET: Ticket = Ticket { of: Uuid::from_u128(7), generation: 3 };

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    #[test]
    fn a_ticket_reads_back_under_its_key_and_kind_only() {
        let (old, new) = (key(1), key(2));
        let ticket = issue(&old, TicketKind::Refresh, TICKET);
        assert_eq!(read([&new, &old].into_iter(), TicketKind::Refresh, &ticket), Some(TICKET));
        assert_eq!(read([&new].into_iter(), TicketKind::Refresh, &ticket), None);
        let renamed = ticket.reveal().replace("krr_", "krc_");
        let renamed = PlainSecret::presented(renamed).unwrap();
        assert_eq!(read([&old].into_iter(), TicketKind::Code, &renamed), None);
    }

    #[test]
    fn a_form_has_the_mark_of_its_login_person_and_step_only() {
        let (old, new) = (key(1), key(2));
        let (session, user) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mark = form_mark(&old, session, user, "consent");
        let is_of = |form, mark: &str| is_form_mark([&new, &old].into_iter(), form, mark);
        assert!(is_of((session, user, "consent"), &mark));
        assert!(!is_form_mark([&new].into_iter(), (session, user, "consent"), &mark));
        for other in [(user, user, "consent"), (session, session, "consent"), (session, user, "code")] {
            assert!(!is_of(other, &mark));
        }
        for bad in ["", "x", "=", &mark[1..], &mark.to_uppercase()] {
            assert!(!is_of((session, user, "consent"), bad), "{bad}");
        }
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let key = key(1);
        let text = issue(&key, TicketKind::Code, TICKET).reveal().to_owned();
        for at in 0..text.len() {
            for other in ["A", "b"] {
                let mut changed = text.clone();
                changed.replace_range(at..=at, other);
                if changed != text {
                    let changed = PlainSecret::presented(changed).unwrap();
                    assert_eq!(read([&key].into_iter(), TicketKind::Code, &changed), None, "{at}");
                }
            }
        }
        for cut in 1..text.len() {
            let cut = PlainSecret::presented(text[..cut].to_owned()).unwrap();
            assert_eq!(read([&key].into_iter(), TicketKind::Code, &cut), None);
        }
    }
}
