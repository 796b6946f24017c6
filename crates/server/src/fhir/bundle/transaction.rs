//! A `transaction` Bundle: all of its entries are done or none, by one change (FHIR R4 §3.1.0.11.2).
//!
//! Entries are decided in FHIR's order, each by the function that decides it when it comes alone, and what they
//! come to is written at once. If something moved meanwhile, all of them are decided again. Entries that only read
//! are done twice: before the commit, to see that they can be, and after it, for the answer.

use std::collections::BTreeSet;

use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ResourceId;
use keyrelay_core::limits::{ANSWER_BYTES_MAX, CONFLICT_RETRIES_MAX, TRANSACTION_STATEMENTS_MAX};
use keyrelay_store::{Change, WriteMark};
use serde_json::Value;

use super::entry::{ResponseEntry, read_entry};
use super::links::{Links, full_url};
use super::{ResponseBundle, answers_too_large, one};
use crate::App;
use crate::auth;
use crate::budget;
use crate::error::Outcome;
use crate::fhir::dispatch;
use crate::fhir::pending::Pending;
use crate::fhir::render::Rendered;
use crate::fhir::request::{Content, FhirRequest, Reply};
use crate::fhir::route::Route;
use crate::fhir::versions::Act;
use crate::fhir::write::{Decision, Existing, Write, committed};

/// An entry that was read.
struct Step {
    n: usize,
    full_url: Option<String>,
    request: FhirRequest,
    /// None where it only reads.
    write: Option<Write>,
}

pub(super) async fn transaction(
    app: &App,
    caller: &Caller,
    bundle: &FhirRequest,
    entries: Vec<Value>,
) -> Result<Reply, Outcome> {
    let caller = &auth::again(app, caller, bundle.from).await?;
    let mut steps = Vec::with_capacity(entries.len());
    for (n, entry) in entries.into_iter().enumerate() {
        let step = read_step(app, caller, bundle, n, entry).await;
        steps.push(step.map_err(|outcome| outcome.in_entry(n))?);
    }
    let touched = touched(&steps)?;
    let taken = budget::taken();
    for _ in 0..CONFLICT_RETRIES_MAX {
        budget::back_to(taken);
        let act = Act::now(app, caller, bundle.from);
        let (change, answers) = decide(act, &steps, &touched).await?;
        if change.is_empty() || committed(app, change).await? {
            steps.iter().filter_map(|step| step.write.as_ref()).for_each(|write| write.tell(app, caller));
            return answer(app, caller, &steps, answers).await;
        }
    }
    Err(Outcome::busy())
}

async fn read_step(
    app: &App,
    caller: &Caller,
    bundle: &FhirRequest,
    n: usize,
    entry: Value,
) -> Result<Step, Outcome> {
    let full_url = full_url(&entry, n)?;
    let (request, content) = read_entry(app, bundle, n, entry)?;
    if request.segments.is_empty() {
        let at = format!("Bundle.entry[{n}].request.url");
        return Err(Outcome::invalid_at(at, "An entry of a transaction cannot be a Bundle itself"));
    }
    let write = match Route::of(&request)? {
        Route::Write(route) => Some(Write::read(app, caller, route, content).await?),
        Route::SearchByForm(_) => content.into_form().await.map(|_| None)?,
        _ => None,
    };
    Ok(Step { n, full_url, request, write })
}

/// The resources that the entries write, each by one entry alone.
fn touched(steps: &[Step]) -> Result<BTreeSet<(ResourceType, ResourceId)>, Outcome> {
    let (mut touched, mut full_urls) = (BTreeSet::new(), BTreeSet::new());
    for Step { n, full_url, write, .. } in steps {
        if full_url.as_ref().is_some_and(|url| !full_urls.insert(url)) {
            let at = format!("Bundle.entry[{n}].fullUrl");
            return Err(Outcome::invalid_at(at, "Another entry has the same fullUrl"));
        }
        if write.as_ref().is_some_and(|write| !touched.insert(write.target())) {
            return Err(touched_twice(*n));
        }
    }
    Ok(touched)
}

fn touched_twice(n: usize) -> Outcome {
    let text = "Another entry is about the same resource: a transaction can do one thing to each";
    Outcome::invalid_at(format!("Bundle.entry[{n}]"), text)
}

/// The answers to the entries, as far as there are some, in the order of the request.
struct Answers {
    entries: Vec<Option<ResponseEntry>>,
    bytes: usize,
}

impl Answers {
    fn to(steps: &[Step]) -> Self {
        Self { entries: steps.iter().map(|_| None).collect(), bytes: 0 }
    }

    fn weigh(&mut self, reply: &Reply) -> Result<(), Outcome> {
        self.bytes += reply.body.as_ref().map_or(0, Rendered::len);
        if self.bytes > ANSWER_BYTES_MAX { Err(answers_too_large()) } else { Ok(()) }
    }

    fn put(&mut self, n: usize, answer: ResponseEntry) {
        if let Some(place) = self.entries.get_mut(n) {
            *place = Some(answer);
        }
    }

    fn has(&self, n: usize) -> bool {
        self.entries.get(n).is_some_and(Option::is_some)
    }
}

/// Decides everything on what is there now: the change that is to be made, and the answers to those who make it.
async fn decide(
    act: Act<'_>,
    steps: &[Step],
    touched: &BTreeSet<(ResourceType, ResourceId)>,
) -> Result<(Change, Answers), Outcome> {
    let mut answers = Answers::to(steps);
    let (links, marks) = link(act, steps, touched, &mut answers).await?;
    let (mut change, mut pending) = (act.change(), Pending::default());
    for mark in &marks {
        change.require_unwritten(mark);
    }
    for (Step { n, request, .. }, write) in in_turn(steps) {
        if answers.has(*n) {
            continue;
        }
        tokio::task::yield_now().await;
        let decision = decide_one(act.after(&pending), write, request, &links).await;
        let Decision { reply, change: more, fate } = decision.map_err(|outcome| outcome.in_entry(*n))?;
        answers.weigh(&reply).map_err(|outcome| outcome.in_entry(*n))?;
        let answer_bytes = reply.body.as_ref().map_or(0, Rendered::len);
        answers.put(*n, ResponseEntry::done(reply)?);
        if let Some(more) = more {
            // The version that it writes is about as large as the answer.
            budget::take(answer_bytes).map_err(|refused| Outcome::from(refused).in_entry(*n))?;
            change.append(more);
        }
        if let Some(fate) = fate {
            let (resource_type, id) = write.target();
            pending.note(resource_type, id, fate);
        }
        if change.len() > TRANSACTION_STATEMENTS_MAX {
            let text =
                format!("The transaction takes more than {TRANSACTION_STATEMENTS_MAX} statements: divide it");
            return Err(Outcome::too_costly(text).in_entry(*n));
        }
    }
    let (written_bytes, taken) = (answers.bytes, budget::taken());
    for Step { n, request, .. } in steps.iter().filter(|step| step.write.is_none()) {
        let reply = look_ahead(act.after(&pending), request).await;
        reply.and_then(|reply| answers.weigh(&reply)).map_err(|outcome| outcome.in_entry(*n))?;
    }
    answers.bytes = written_bytes;
    // They stay held for the same answers after the commit.
    budget::back_to(taken);
    Ok((change, answers))
}

/// Resolves conditions and full URLs. A condition that finds nothing holds as long as nothing was written after its
/// mark.
async fn link<'t>(
    act: Act<'_>,
    steps: &'t [Step],
    touched: &BTreeSet<(ResourceType, ResourceId)>,
    answers: &mut Answers,
) -> Result<(Links<'t>, Vec<WriteMark>), Outcome> {
    let (mut links, mut marks) = (Links::default(), Vec::new());
    for Step { n, full_url, request, write } in steps {
        let (resource_type, mut id) = match write {
            Some(write @ (Write::Create(_) | Write::Update(_))) => write.target(),
            _ => continue,
        };
        if let Some(Write::Create(new)) = write {
            match new.existing(act, request).await.map_err(|outcome| outcome.in_entry(*n))? {
                Existing::NotAsked => {}
                Existing::Nothing(mark) => marks.push(mark),
                Existing::Found(existing, reply) => {
                    if touched.contains(&(resource_type, existing)) {
                        return Err(touched_twice(*n));
                    }
                    id = existing;
                    answers.weigh(&reply).map_err(|outcome| outcome.in_entry(*n))?;
                    answers.put(*n, ResponseEntry::done(reply)?);
                }
            }
        }
        if let Some(full_url) = full_url {
            links.add(full_url, resource_type, id);
        }
    }
    Ok((links, marks))
}

/// What writes, in the order in which it is decided: FHIR's, and among what is made, what others may name before
/// those that may name it.
fn in_turn(steps: &[Step]) -> Vec<(&Step, &Write)> {
    let mut writes: Vec<_> =
        steps.iter().filter_map(|step| step.write.as_ref().map(|write| (step, write))).collect();
    writes.sort_by_key(|(_, write)| match (write, write.target().0) {
        (Write::Delete(_), _) => 0,
        (Write::Create(_), ResourceType::Project) => 1,
        (Write::Create(_), ResourceType::ProjectMembership) => 3,
        (Write::Create(_) | Write::Rotate(_), _) => 2,
        (Write::Update(_), _) => 4,
    });
    writes
}

async fn decide_one(
    act: Act<'_>,
    write: &Write,
    request: &FhirRequest,
    links: &Links<'_>,
) -> Result<Decision, Outcome> {
    let linked = write.linked(links)?;
    let write = linked.as_ref().unwrap_or(write);
    write.check(act.caller)?;
    write.decide(act, request).await
}

/// Whether an entry that only reads can be answered, as far as can be told before the commit.
async fn look_ahead(act: Act<'_>, request: &FhirRequest) -> Result<Reply, Outcome> {
    if let Route::Read(resource_type, id) = Route::of(request)?
        && ResourceId::parse(id).is_some_and(|id| act.pending.deletes(resource_type, id))
    {
        return Err(Outcome::gone());
    }
    let request = FhirRequest { is_rehearsal: true, ..request.clone() };
    dispatch(act.app, act.caller, &request, Content::Empty).await
}

/// Completes the answers, once everything is written: from here on nothing fails as a whole.
async fn answer(app: &App, caller: &Caller, steps: &[Step], mut answers: Answers) -> Result<Reply, Outcome> {
    for step in steps.iter().filter(|step| step.write.is_none()) {
        let reply = one(app, caller, &step.request, Content::Empty).await;
        let reply = reply.and_then(|reply| answers.weigh(&reply).map(|()| reply));
        answers.put(step.n, ResponseEntry::of(reply));
    }
    ResponseBundle::reply("transaction-response", answers.entries.into_iter().flatten().collect())
}
