//! One budget of bytes in flight: bodies, values parsed from them, rows read from the database, and answers being
//! sent. Each request has an [`Account`]. It takes bytes before it uses them, and returns all of them when the last
//! piece of its answer has been sent, or when the request is cancelled.
//!
//! One address, and one project, may hold a quarter of the budget. A quarter of the total is reserved for small
//! requests, so that large requests of a project cannot prevent it from ending a secret. The account of a request
//! belongs to its task ([`Account::scope`]), because the code that takes bytes is far below the code that begins
//! requests.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use keyrelay_core::fhir::json;
use keyrelay_core::id::ProjectId;
use keyrelay_core::limits::{
    AWAITED_BODIES_PER_ADDRESS_BYTES, AWAITED_BODIES_SHARES, BYTES_IN_FLIGHT_SHARES, REQUEST_BYTES,
    SMALL_REQUEST_BYTES_MAX,
};
use serde_json::Value;

use crate::error::Outcome;

tokio::task_local! {
    static ACCOUNT: Account;
}

/// Why bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many bytes of all requests together are in flight.
    Full,
    /// Too many bytes of this address or this project are in flight.
    Share,
    /// The request needs more than the share of one address or project.
    TooHeavy(usize),
}

/// The address and the project whose shares pay for bytes. No address for this machine and proxies, which forward for
/// many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Payer {
    address: Option<IpAddr>,
    project: Option<ProjectId>,
}

/// A part of the budget.
#[derive(Debug)]
struct Pool {
    most: usize,
    used: usize,
    addresses: HashMap<IpAddr, usize>,
    projects: HashMap<ProjectId, usize>,
}

impl Pool {
    fn of(most: usize) -> Self {
        Self { most, used: 0, addresses: HashMap::new(), projects: HashMap::new() }
    }

    const fn share(&self) -> usize {
        self.most / BYTES_IN_FLIGHT_SHARES
    }

    fn take(&mut self, payer: Payer, bytes: usize) -> Result<(), Refused> {
        if bytes > self.share() {
            return Err(Refused::TooHeavy(self.share()));
        }
        let address = payer.address.and_then(|address| self.addresses.get(&address));
        let project = payer.project.and_then(|project| self.projects.get(&project));
        if [address, project].into_iter().flatten().any(|used| used + bytes > self.share()) {
            return Err(Refused::Share);
        }
        if self.used + bytes > self.most {
            return Err(Refused::Full);
        }
        self.put(payer, bytes);
        Ok(())
    }

    /// Whether a request whose body is not complete may hold so many bytes of this pool. Known callers have the share
    /// of their project.
    fn lets_wait(&self, payer: Payer, bytes: usize) -> bool {
        let of_address = |address| self.addresses.get(&address).copied().unwrap_or(0) + bytes;
        payer.project.is_some()
            || self.used + bytes <= self.most / AWAITED_BODIES_SHARES
            || payer.address.is_some_and(|address| of_address(address) <= AWAITED_BODIES_PER_ADDRESS_BYTES)
    }

    fn put(&mut self, payer: Payer, bytes: usize) {
        self.used += bytes;
        add(&mut self.addresses, payer.address, bytes);
        add(&mut self.projects, payer.project, bytes);
    }

    fn give_back(&mut self, payer: Payer, bytes: usize) {
        self.used -= bytes;
        remove(&mut self.addresses, payer.address, bytes);
        remove(&mut self.projects, payer.project, bytes);
    }
}

fn add<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: Option<K>, bytes: usize) {
    if let Some(key) = key.filter(|_| bytes > 0) {
        *counts.entry(key).or_default() += bytes;
    }
}

/// Payers without bytes have no entry.
fn remove<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: Option<K>, bytes: usize) {
    let Some(key) = key else { return };
    let Some(count) = counts.get_mut(&key) else { return };
    *count = count.saturating_sub(bytes);
    if *count == 0 {
        counts.remove(&key);
    }
}

/// The part of the budget that bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

#[derive(Debug)]
struct Pools {
    small: Pool,
    large: Pool,
}

impl Pools {
    const fn of(&mut self, size: Size) -> &mut Pool {
        match size {
            Size::Small => &mut self.small,
            Size::Large => &mut self.large,
        }
    }
}

#[derive(Debug)]
struct Shared {
    pools: Mutex<Pools>,
    refusals: AtomicU64,
}

/// The budget of one server.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Shared>);

impl Budget {
    /// A budget of so many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        let small = bytes / BYTES_IN_FLIGHT_SHARES;
        let pools = Pools { small: Pool::of(small), large: Pool::of(bytes - small) };
        Self(Arc::new(Shared { pools: Mutex::new(pools), refusals: AtomicU64::new(0) }))
    }

    /// Begins a request. `address` is that of the caller; `None` for this machine and proxies.
    pub(crate) fn open(&self, address: Option<IpAddr>) -> Result<Account, Refused> {
        self.open_for(address, Claim::BySize, 0)
    }

    /// Pays for the buffer of a connection, without the reserve for small requests.
    pub(crate) fn open_for_buffer(&self, address: Option<IpAddr>, bytes: usize) -> Result<Account, Refused> {
        self.open_for(address, Claim::Large, bytes)
    }

    fn open_for(&self, address: Option<IpAddr>, claim: Claim, bytes: usize) -> Result<Account, Refused> {
        let held = Held { payer: Payer { address, project: None }, claim, ..Held::default() };
        let account = Account(Arc::new(Inner { shared: Arc::clone(&self.0), held: Mutex::new(held) }));
        account.take(bytes)?;
        Ok(account)
    }

    /// How many bytes are in flight.
    pub(crate) fn used(&self) -> usize {
        let pools = lock(&self.0.pools);
        pools.small.used + pools.large.used
    }

    /// How often bytes were refused.
    pub(crate) fn refusals(&self) -> u64 {
        self.0.refusals.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The parts of the budget that an account may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// The reserve for small requests, while it is small.
    BySize,
    /// The reserve for small requests, whatever its size.
    Urgent,
    /// Never the reserve for small requests.
    Large,
}

/// The bytes that an account holds.
#[derive(Debug)]
struct Held {
    payer: Payer,
    size: Size,
    claim: Claim,
    /// The body of the request has not arrived completely.
    is_waiting: bool,
    /// What is used now.
    used: usize,
    /// What is held: the most that was used, in whole steps of [`REQUEST_BYTES`].
    bytes: usize,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            payer: Payer::default(),
            size: Size::Small,
            claim: Claim::BySize,
            is_waiting: false,
            used: 0,
            bytes: 0,
        }
    }
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    held: Mutex<Held>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        lock(&self.shared.pools).of(held.size).give_back(held.payer, held.bytes);
    }
}

impl Inner {
    /// Holds so many bytes for that payer, instead of those held before. If they are refused, nothing changes.
    fn hold(&self, held: &mut Held, payer: Payer, bytes: usize) -> Result<(), Refused> {
        let mut pools = lock(&self.shared.pools);
        pools.of(held.size).give_back(held.payer, held.bytes);
        let is_small = match held.claim {
            Claim::BySize => bytes <= SMALL_REQUEST_BYTES_MAX,
            Claim::Urgent => true,
            Claim::Large => false,
        };
        let is_small = is_small && (!held.is_waiting || pools.small.lets_wait(payer, bytes));
        let given = if is_small && pools.small.take(payer, bytes).is_ok() {
            Ok(Size::Small)
        } else {
            pools.large.take(payer, bytes).map(|()| Size::Large)
        };
        match given {
            Ok(size) => {
                *held = Held { payer, size, bytes, ..*held };
                Ok(())
            }
            Err(refused) => {
                pools.of(held.size).put(held.payer, held.bytes);
                self.shared.refusals.fetch_add(1, Ordering::Relaxed);
                Err(refused)
            }
        }
    }

    /// Ensures that at least so many bytes are held.
    fn at_least(&self, held: &mut Held, bytes: usize) -> Result<(), Refused> {
        let wanted = in_steps(bytes);
        if wanted <= held.bytes { Ok(()) } else { self.hold(held, held.payer, wanted) }
    }
}

/// Rounds up to whole steps, so that a small request asks once; at least one step, which every request needs.
const fn in_steps(bytes: usize) -> usize {
    let steps = bytes.div_ceil(REQUEST_BYTES);
    REQUEST_BYTES * if steps == 0 { 1 } else { steps }
}

/// The bytes of one request. Clones are the same account, and the last one gives everything back.
#[derive(Clone, Debug)]
pub(crate) struct Account(Arc<Inner>);

impl Account {
    /// Runs work that this account pays for.
    pub(crate) fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        ACCOUNT.scope(self.clone(), work)
    }

    /// See [`awaits_body`].
    fn awaits_body(&self) -> Result<(), Refused> {
        let mut held = lock(&self.0.held);
        if held.is_waiting {
            return Ok(());
        }
        held.is_waiting = true;
        let (payer, bytes) = (held.payer, held.bytes);
        self.0.hold(&mut held, payer, bytes).inspect_err(|_| held.is_waiting = false)
    }

    /// Takes so many bytes more.
    fn take(&self, bytes: usize) -> Result<(), Refused> {
        let mut held = lock(&self.0.held);
        let used = held.used.saturating_add(bytes);
        self.0.at_least(&mut held, used)?;
        held.used = used;
        Ok(())
    }

    /// Ensures room for so many more bytes for a while. They do not add to those of earlier or later steps.
    fn take_for_now(&self, bytes: usize) -> Result<(), Refused> {
        let mut held = lock(&self.0.held);
        let used = held.used.saturating_add(bytes);
        self.0.at_least(&mut held, used)
    }

    /// A piece of a streamed answer. It returns its bytes when it is dropped.
    pub(crate) fn piece(&self, text: String) -> Result<Bytes, Refused> {
        self.take(text.len())?;
        Ok(Bytes::from_owner(Piece { text, account: self.clone() }))
    }

    fn give_back(&self, bytes: usize) {
        let mut held = lock(&self.0.held);
        let used = held.used.saturating_sub(bytes);
        held.used = used;
        self.shrink(&mut held, used);
    }

    fn shrink(&self, held: &mut Held, bytes: usize) {
        let wanted = in_steps(bytes);
        if wanted < held.bytes {
            // Less than before is never refused.
            let _ = self.0.hold(held, held.payer, wanted);
        }
    }

    /// From now on the account pays for the answer only, and no longer for the request.
    fn answer(&self, bytes: usize) -> Result<(), Refused> {
        let mut held = lock(&self.0.held);
        held.used = bytes;
        self.shrink(&mut held, bytes);
        self.0.at_least(&mut held, bytes)
    }

    /// An answer that holds the account until it has been sent. If too few bytes are left, it is refused if `is_safe`
    /// (nothing was changed). Otherwise it is sent anyway: large answers to changes take their bytes before the
    /// change.
    pub(crate) fn hold_answer(self, body: Body, is_safe: bool) -> Result<Body, Refused> {
        let bytes = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
        match self.answer(bytes) {
            Err(refused) if is_safe => Err(refused),
            _ => Ok(Body::new(Answer { body, account: self })),
        }
    }
}

/// An answer whose account is held by each part of it that has not been sent.
struct Answer {
    body: Body,
    account: Account,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let held = |data| Bytes::from_owner(Part { data, _account: self.account.clone() });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(held))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of an answer. The connection may keep it long after the body was dropped.
struct Part {
    data: Bytes,
    _account: Account,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// See [`Account::piece`].
struct Piece {
    text: String,
    account: Account,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.account.give_back(self.text.len());
    }
}

/// The account of the request that this task handles. Unit tests have none.
pub(crate) fn current() -> Option<Account> {
    ACCOUNT.try_with(Account::clone).ok()
}

fn with(ask: impl FnOnce(&Account) -> Result<(), Refused>) -> Result<(), Refused> {
    ACCOUNT.try_with(ask).unwrap_or(Ok(()))
}

/// Takes so many more bytes for this request, until its answer is ready.
pub(crate) fn take(bytes: usize) -> Result<(), Refused> {
    with(|account| account.take(bytes))
}

/// Returns bytes that were taken, after their memory was freed.
pub(crate) fn give_back(bytes: usize) {
    let _ = ACCOUNT.try_with(|account| account.give_back(bytes));
}

/// Ensures room for so many more bytes for one step of this request, which frees them again.
pub(crate) fn take_for_now(bytes: usize) -> Result<(), Refused> {
    with(|account| account.take_for_now(bytes))
}

/// How many bytes this request has taken.
pub(crate) fn taken() -> usize {
    ACCOUNT.try_with(|account| lock(&account.0.held).used).unwrap_or(0)
}

/// Frees the bytes that this request took after [`taken`], because it repeats a step.
pub(crate) fn back_to(taken: usize) {
    let _ = ACCOUNT.try_with(|account| {
        let mut held = lock(&account.0.held);
        held.used = held.used.min(taken);
    });
}

/// Assigns this request to a project, which then pays for it too.
pub(crate) fn pay_from(project: ProjectId) -> Result<(), Refused> {
    with(|account| {
        let mut held = lock(&account.0.held);
        let (payer, bytes) = (Payer { project: Some(project), ..held.payer }, held.bytes);
        if payer == held.payer { Ok(()) } else { account.0.hold(&mut held, payer, bytes) }
    })
}

/// Lets this request use the reserve for small requests although it may be larger, because it ends a secret.
pub(crate) fn is_urgent() {
    let _ = ACCOUNT.try_with(|account| lock(&account.0.held).claim = Claim::Urgent);
}

/// The body of this request is on its way. Until it has arrived, an unknown caller may hold a part of the reserve for
/// small requests only, because it may never send the rest.
pub(crate) fn awaits_body() -> Result<(), Refused> {
    with(Account::awaits_body)
}

/// The body of this request has arrived, or nobody waits for it.
pub(crate) fn has_body() {
    let _ = ACCOUNT.try_with(|account| lock(&account.0.held).is_waiting = false);
}

/// Reads JSON, and takes bytes for the values while they are built.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Outcome> {
    let refused = Cell::new(None);
    let parsed = json::parse_weighed(bytes, &|weight| {
        let taken = take(weight);
        refused.set(taken.err());
        taken.is_ok()
    });
    match refused.get() {
        Some(refused) => Err(refused.into()),
        None => Ok(parsed?),
    }
}

#[cfg(test)]
mod tests;
