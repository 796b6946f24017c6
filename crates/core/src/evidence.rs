//! Whether a retiring secret can go, from what is known of its uses: nobody is to be locked out by it.
//!
//! A caller has moved on if it came with the current secret after it last came with the retiring one, and
//! has left that one alone since. Workers that share an address and a name look like one caller, and while
//! some of them still have the old secret, it is used again and again. Of a caller that was not seen with
//! the current secret nothing is known but how long ago it came: it may be a job that runs once a night.
//!
//! That nobody was seen is evidence only for as long as somebody looked. A secret that is a minute old has not
//! been unused for a day, and one may be in use by whom nothing was known when uses began to be counted.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::limits::{EVIDENCE_NAMED_MAX, EVIDENCE_SETTLED_AFTER, USAGE_CALLERS_KEPT};
use crate::time::Timestamp;
use crate::usage::{CallerUsage, Presenter};

/// How much is known of the uses of both secrets.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Who came with the current secret.
    pub active: &'a [CallerUsage],
    /// Who came with the retiring secret.
    pub retiring: &'a [CallerUsage],
    /// Since when all who come with the retiring secret are known; see [`counted_since`].
    pub counted_since: Timestamp,
    /// When the retiring secret was made.
    pub created: Timestamp,
    /// Up to when all uses are counted.
    pub complete_until: Timestamp,
    /// Where a server ended without writing down what it had counted; the latest of them.
    pub gap: Option<Gap>,
}

/// A time of which not all uses may have been counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Up to here the server had written down all that it counted.
    pub after: Timestamp,
    /// By then it had ended. What it did not write down may be as late as this.
    pub until: Timestamp,
}

impl Gap {
    /// Whether a use may be missing that is not as long ago as that.
    fn is_within(self, unused_for: Duration, now: Timestamp) -> bool {
        now.since(self.until) < unused_for
    }
}

/// Whether the retiring secret can go, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// Whether nobody would be locked out, as far as can be told.
    pub safe: bool,
    /// Whether somebody is known to be on it still, or may have come since all uses were counted.
    pub in_use: bool,
    /// The reason, for a person.
    pub reason: String,
}

/// Since when all callers of a secret are known: since it was made, or since the installation began to tell
/// callers apart at `began`, and for no longer than they are remembered.
#[must_use]
pub fn counted_since(created: Timestamp, began: Option<Timestamp>, now: Timestamp) -> Timestamp {
    created.max(began.unwrap_or(now)).max(now.minus(USAGE_CALLERS_KEPT))
}

/// Judges the evidence, which must reach back as long as `unused_for`. A caller that was not seen to move counts as gone once it has not come for `unused_for`.
#[must_use]
pub fn judge(known: &Known<'_>, unused_for: Duration, now: Timestamp) -> Advice {
    let moved_to: HashMap<&Presenter, Timestamp> = known
        .active
        .iter()
        .filter_map(|usage| usage.caller.as_ref().map(|caller| (caller, usage.tally.last)))
        .collect();
    let has_moved = |usage: &CallerUsage| {
        let last = usage.tally.last;
        let since = usage.caller.as_ref().and_then(|caller| moved_to.get(caller));
        since.is_some_and(|since| *since > last) && now.since(last) >= EVIDENCE_SETTLED_AFTER
    };
    let used = || known.retiring.iter().filter(|usage| usage.tally.accepted > 0);
    let (moved, rest): (Vec<_>, Vec<_>) = used().partition(|usage| has_moved(usage));
    let lingering: Vec<_> = rest.iter().filter(|usage| now.since(usage.tally.last) < unused_for).collect();

    let mut reason = match (used().count(), moved.len()) {
        (0, _) => "No use of the retiring secret is known.".to_owned(),
        (all, moved) => format!("{moved} of {all} callers have moved to the current secret."),
    };
    if !lingering.is_empty() {
        let named: Vec<String> =
            lingering.iter().take(EVIDENCE_NAMED_MAX).map(|usage| line(usage, now)).collect();
        let _ = write!(reason, " Still on the retiring one: {}", named.join("; "));
        let more = lingering.len() - named.len();
        let _ = if more > 0 { write!(reason, "; and {more} more.") } else { write!(reason, ".") };
    } else if rest.len() > lingering.len() {
        let _ = write!(
            reason,
            " {} others did not come with the retiring one for {} or longer.",
            rest.len(),
            in_words(unused_for)
        );
    }
    let counted_for = now.since(known.counted_since);
    if counted_for < unused_for {
        let (counted, asked) = (in_words(counted_for), in_words(unused_for));
        let _ = write!(reason, " Its uses are counted only for {counted}, and {asked} were asked for.");
    }
    let is_recent = now.since(known.complete_until) < EVIDENCE_SETTLED_AFTER;
    let gap = known.gap.filter(|gap| gap.is_within(unused_for, now));
    if !is_recent {
        let _ = write!(reason, " Uses after {} are not all counted yet.", known.complete_until);
    }
    if let Some(Gap { after, .. }) = gap {
        let _ = write!(
            reason,
            " Some uses after {after} may not have been counted: a server ended out of order."
        );
    }
    let in_use = !lingering.is_empty() || !is_recent || gap.is_some();
    Advice { safe: !in_use && counted_for >= unused_for, in_use, reason }
}

/// Why the retiring secret cannot be called unused for so long: it was used, or not all uses are counted.
/// `None` if it can, also of one that was made since and never used. What other servers have not written down yet is not known, so it is said up to when all is.
#[must_use]
pub fn why_not_unused(known: &Known<'_>, unused_for: Duration, now: Timestamp) -> Option<String> {
    let used = known.retiring.iter().filter(|usage| usage.tally.accepted > 0);
    let last = used.map(|usage| usage.tally.last).max();
    let recent = last.filter(|last| now.since(*last) < unused_for);
    let from = now.minus(unused_for).max(known.created);
    let is_counted = known.counted_since <= from
        && now.since(known.complete_until) < EVIDENCE_SETTLED_AFTER
        && !known.gap.is_some_and(|gap| gap.is_within(unused_for, now));
    if recent.is_none() && is_counted {
        return None;
    }
    let mut text = match recent {
        Some(last) => format!("The retiring secret was used {} ago. ", in_words(now.since(last))),
        None => String::new(),
    };
    text.push_str(&judge(known, unused_for, now).reason);
    let _ = write!(text, " Complete up to {}.", known.complete_until.to_instant());
    Some(text)
}

fn line(usage: &CallerUsage, now: Timestamp) -> String {
    let ago = in_words(now.since(usage.tally.last));
    let Some(caller) = &usage.caller else { return format!("others, last {ago} ago") };
    // Quoted, so that a text cannot look like another caller.
    let said: Vec<String> = [&caller.agent, &caller.instance]
        .into_iter()
        .filter(|text| !text.is_empty())
        .map(|text| format!("{text:?}"))
        .collect();
    if said.is_empty() {
        format!("{}, last {ago} ago", caller.address)
    } else {
        format!("{} ({}), last {ago} ago", caller.address, said.join(", "))
    }
}

/// A duration in its largest whole unit, for people.
#[must_use]
pub fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Tally;

    const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);
    const DAY: Duration = Duration::from_hours(24);

    fn usage(name: &str, ago: Duration) -> CallerUsage {
        let at = NOW.minus(ago);
        let address = std::net::Ipv4Addr::new(10, 1, 2, 3).into();
        let caller = (!name.is_empty()).then(|| Presenter {
            address,
            agent: name.to_owned(),
            instance: String::new(),
        });
        CallerUsage { caller, tally: Tally { accepted: 1, refused: 0, first: at, last: at } }
    }

    fn advice(active: &[CallerUsage], retiring: &[CallerUsage]) -> Advice {
        judge(&known(active, retiring), DAY, NOW)
    }

    /// All is known of a secret that is a week old.
    fn known<'a>(active: &'a [CallerUsage], retiring: &'a [CallerUsage]) -> Known<'a> {
        let created = NOW.minus(7 * DAY);
        Known { active, retiring, counted_since: created, created, complete_until: NOW, gap: None }
    }

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_secret_that_was_never_used_can_go() {
        let advice = advice(&[usage("a", seconds(1))], &[]);
        assert_eq!((advice.safe, advice.reason.as_str()), (true, "No use of the retiring secret is known."));
    }

    #[test]
    fn who_moved_and_left_the_old_one_alone_is_gone() {
        let advice = advice(&[usage("a", seconds(1))], &[usage("a", seconds(301))]);
        let reason = "1 of 1 callers have moved to the current secret.";
        assert_eq!((advice.safe, advice.reason.as_str()), (true, reason));
    }

    #[test]
    fn who_uses_both_has_not_moved() {
        let advice = advice(&[usage("a", seconds(1))], &[usage("a", seconds(40))]);
        assert!(!advice.safe);
        let reason = "0 of 1 callers have moved to the current secret. \
                      Still on the retiring one: 10.1.2.3 (\"a\"), last 40 s ago.";
        assert_eq!(advice.reason, reason);
    }

    #[test]
    fn who_was_not_seen_since_may_come_again_until_it_has_been_away_for_long() {
        let nightly = |ago| [usage("nightly", ago)];
        assert!(!advice(&[], &nightly(seconds(24 * 3600 - 1))).safe);
        let gone = advice(&[], &nightly(DAY));
        assert!(gone.safe, "{}", gone.reason);
        assert!(
            gone.reason.contains("did not come with the retiring one for 24 h or longer"),
            "{}",
            gone.reason
        );
        // The sum of those that are not told apart never moves.
        assert!(!advice(&[usage("", seconds(1))], &[usage("", seconds(3600))]).safe);
    }

    #[test]
    fn what_was_not_counted_is_no_evidence() {
        let retiring = [usage("a", DAY)];
        let known = known(&[], &retiring);
        assert!(judge(&known, DAY, NOW).safe);
        let late = Known { complete_until: NOW.minus(EVIDENCE_SETTLED_AFTER), ..known };
        let late = judge(&late, DAY, NOW);
        assert!(!late.safe && late.reason.contains("are not all counted yet"), "{}", late.reason);
        // Of a server that had nothing to write down for a day, what it lost may be as late as its end.
        let gap = Gap { after: NOW.minus(2 * DAY), until: NOW.minus(seconds(60)) };
        let gap = Known { gap: Some(gap), ..known };
        let told = judge(&gap, DAY, NOW);
        let after = NOW.minus(2 * DAY);
        let reason =
            format!(" Some uses after {after} may not have been counted: a server ended out of order.");
        assert!(!told.safe && told.in_use && told.reason.ends_with(&reason), "{}", told.reason);
        assert!(judge(&gap, seconds(60), NOW).safe);
    }

    #[test]
    fn a_secret_is_unused_only_if_that_is_known() {
        let retiring = [usage("a", seconds(60))];
        let active = [usage("a", seconds(1))];
        let known = known(&active, &retiring);
        assert_eq!(why_not_unused(&known, seconds(60), NOW), None);
        // Who has moved on has used it all the same.
        let why = why_not_unused(&known, seconds(61), NOW).unwrap();
        assert!(why.starts_with("The retiring secret was used 60 s ago. "), "{why}");
        assert!(why.ends_with(&format!(" Complete up to {}.", NOW.to_instant())), "{why}");
        let late = Known { complete_until: NOW.minus(EVIDENCE_SETTLED_AFTER), ..known };
        assert!(why_not_unused(&late, seconds(60), NOW).is_some());
        let gap = Gap { after: NOW.minus(DAY), until: NOW.minus(seconds(59)) };
        let gap = Known { gap: Some(gap), ..known };
        assert!(why_not_unused(&gap, seconds(60), NOW).is_some());
        assert_eq!(why_not_unused(&gap, seconds(59), NOW), None);
    }

    #[test]
    fn evidence_reaches_no_further_back_than_somebody_looked() {
        let counted = |ago| Known { counted_since: NOW.minus(ago), ..known(&[], &[]) };
        assert!(judge(&counted(DAY), DAY, NOW).safe);
        let short = judge(&counted(seconds(40)), DAY, NOW);
        assert_eq!((short.safe, short.in_use), (false, false));
        let reason = "No use of the retiring secret is known. \
                      Its uses are counted only for 40 s, and 24 h were asked for.";
        assert_eq!(short.reason, reason);
        // That it was not used before it was made needs no evidence.
        assert!(why_not_unused(&counted(seconds(40)), DAY, NOW).is_some());
        let fresh = Known { created: NOW.minus(seconds(40)), ..counted(seconds(40)) };
        assert_eq!(why_not_unused(&fresh, DAY, NOW), None);
    }

    #[test]
    fn uses_are_counted_since_the_secret_is_there_and_somebody_counts_and_remembers() {
        let ago = |days| NOW.minus(days * DAY);
        for (created, began, since) in [
            (ago(9), Some(ago(20)), ago(9)),
            (ago(9), Some(ago(3)), ago(3)),
            (ago(900), Some(ago(800)), NOW.minus(USAGE_CALLERS_KEPT)),
            (ago(9), None, NOW),
        ] {
            assert_eq!(counted_since(created, began, NOW), since);
        }
    }

    #[test]
    fn not_everybody_is_named() {
        let many: Vec<_> = (0..EVIDENCE_NAMED_MAX + 3).map(|n| usage(&format!("w{n}"), seconds(5))).collect();
        let advice = advice(&[], &many);
        assert!(advice.reason.ends_with("; and 3 more."), "{}", advice.reason);
        assert_eq!(advice.reason.matches("last 5 s ago").count(), EVIDENCE_NAMED_MAX);
    }
}
