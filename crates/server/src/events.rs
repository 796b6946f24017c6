//! What is told of a move of secrets, in the change that makes it.

use keyrelay_core::audit::SecretAction;
use keyrelay_core::caller::SecretAuthority;
use keyrelay_core::deadline::DeadlineCause;
use keyrelay_core::event::{Event, What};
use keyrelay_core::id::{ClientId, EventId, SecretId};
use keyrelay_core::limits::EVENTS_KEPT;
use keyrelay_core::slots::Moved;
use keyrelay_store::{Change, Once};

use crate::fhir::Act;

/// Adds to a change what it tells.
pub(crate) fn tell_move(
    act: Act<'_>,
    authority: &SecretAuthority,
    client: ClientId,
    action: SecretAction,
    moved: &Moved,
    change: &mut Change,
) {
    let event = |what| Event {
        id: EventId::made_at(act.now, act.app.entropy.as_ref()),
        at: act.now,
        project: authority.project(),
        client,
        what,
    };
    let by = authority.by();
    let retiring = moved.slots.retiring().map(|slot| slot.id);
    let ended: Vec<SecretId> =
        moved.ended.iter().filter(|ended| ended.expired.is_none()).map(|ended| ended.slot.id).collect();
    // What its deadline has ended is told by who watches deadlines, unless the move comes first. Whether it was
    // told is not known for ever.
    let expired = moved.ended.iter().filter_map(|ended| Some((ended.slot.id, ended.expired?)));
    for (secret, at) in expired.filter(|(_, at)| act.now.since(*at) <= EVENTS_KEPT) {
        let expired = event(What::Expired { secret, ends: at, cause: DeadlineCause::RetireAfter });
        change.tell_unless_told(&expired, secret, Once::Expired(at));
    }
    if let (SecretAction::Rotate | SecretAction::Overwrite, Some(successor)) = (action, retiring) {
        for secret in &ended {
            let overwritten = event(What::OverwrittenInUse { secret: *secret, by });
            change.tell_if_in_use(&overwritten, *secret, successor);
        }
    }
    change.tell(&event(What::Moved {
        action,
        by,
        from: act.from,
        active: moved.slots.active().map(|slot| slot.id),
        retiring,
        retiring_ends: moved.slots.retiring_ends(),
        ended,
    }));
}
