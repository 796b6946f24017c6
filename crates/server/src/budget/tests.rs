use std::task::Waker;

use keyrelay_core::random::SeededEntropy;
use proptest::prelude::*;

use super::*;

const TOTAL: usize = 1024 * 1024;

fn address(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

fn projects() -> Vec<ProjectId> {
    let entropy = SeededEntropy::new(1);
    (0..3).map(|_| ProjectId::random(&entropy)).collect()
}

/// A step of an account.
#[derive(Clone, Debug)]
enum Step {
    Open(Option<u8>),
    Take(usize, usize),
    TakeForNow(usize, usize),
    Clone(usize),
    Drop(usize),
    PayFrom(usize, usize),
    Answer(usize, usize),
    Urgent(usize),
    AwaitBody(usize),
    HaveBody(usize),
    Piece(usize, usize),
    Send,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop_oneof![0..8_usize * 1024, 0..TOTAL];
    let account = || 0..64_usize;
    prop_oneof![
        4 => proptest::option::of(0..3_u8).prop_map(Step::Open),
        8 => (account(), bytes()).prop_map(|(n, bytes)| Step::Take(n, bytes)),
        2 => (account(), bytes()).prop_map(|(n, bytes)| Step::TakeForNow(n, bytes)),
        1 => account().prop_map(Step::Clone),
        4 => account().prop_map(Step::Drop),
        4 => (account(), 0..3_usize).prop_map(|(n, project)| Step::PayFrom(n, project)),
        3 => (account(), bytes()).prop_map(|(n, bytes)| Step::Answer(n, bytes)),
        1 => account().prop_map(Step::Urgent),
        2 => account().prop_map(Step::AwaitBody),
        1 => account().prop_map(Step::HaveBody),
        2 => (account(), bytes()).prop_map(|(n, bytes)| Step::Piece(n, bytes)),
        2 => Just(Step::Send),
    ]
}

/// No pool exceeds its bytes, no payer exceeds its share of a pool, and the sums equal those of the accounts.
fn check(budget: &Budget, accounts: &[Account]) {
    let pools = lock(&budget.0.pools);
    for (size, pool) in [(Size::Small, &pools.small), (Size::Large, &pools.large)] {
        assert!(pool.used <= pool.most, "{pool:?}");
        let shares = pool.addresses.values().chain(pool.projects.values());
        assert!(shares.clone().all(|used| *used <= pool.share() && *used > 0), "{pool:?}");
        let mut distinct: Vec<*const Inner> = Vec::new();
        let mut sum = 0;
        for account in accounts {
            let held = lock(&account.0.held);
            if held.size == size && !distinct.contains(&Arc::as_ptr(&account.0)) {
                distinct.push(Arc::as_ptr(&account.0));
                sum += held.bytes;
            }
        }
        assert!(sum <= pool.used, "{sum} of {pool:?}");
    }
    assert!(pools.small.used + pools.large.used <= TOTAL);
}

fn run(budget: &Budget, steps: Vec<Step>) {
    let projects = projects();
    let mut accounts: Vec<Account> = Vec::new();
    let mut pieces: Vec<Bytes> = Vec::new();
    for step in steps {
        let at = |n: usize| accounts.get(n % accounts.len().max(1)).cloned();
        match step {
            Step::Open(from) => accounts.extend(budget.open(from.map(address)).ok()),
            Step::Take(n, bytes) => drop(at(n).map(|account| account.take(bytes))),
            Step::TakeForNow(n, bytes) => drop(at(n).map(|account| account.take_for_now(bytes))),
            Step::Clone(n) => accounts.extend(at(n)),
            Step::Drop(n) if !accounts.is_empty() => drop(accounts.swap_remove(n % accounts.len())),
            Step::Drop(_) => {}
            Step::PayFrom(n, project) => drop(at(n).map(|account| {
                let mut held = lock(&account.0.held);
                let payer = Payer { project: projects.get(project).copied(), ..held.payer };
                let bytes = held.bytes;
                account.0.hold(&mut held, payer, bytes)
            })),
            Step::Answer(n, bytes) => drop(at(n).map(|account| account.answer(bytes))),
            Step::Urgent(n) => drop(at(n).map(|account| lock(&account.0.held).claim = Claim::Urgent)),
            Step::AwaitBody(n) => drop(at(n).map(|account| account.awaits_body())),
            Step::HaveBody(n) => drop(at(n).map(|account| lock(&account.0.held).is_waiting = false)),
            Step::Piece(n, bytes) => {
                pieces.extend(at(n).and_then(|account| account.piece("x".repeat(bytes)).ok()));
            }
            Step::Send => drop(pieces.pop()),
        }
        check(budget, &accounts);
    }
}

proptest! {
    #[test]
    fn the_budget_is_never_exceeded_and_everything_comes_back(steps in proptest::collection::vec(step(), 0..200)) {
        let budget = Budget::of(TOTAL);
        run(&budget, steps);
        let pools = lock(&budget.0.pools);
        for pool in [&pools.small, &pools.large] {
            prop_assert_eq!(pool.used, 0);
            prop_assert!(pool.addresses.is_empty() && pool.projects.is_empty());
        }
    }
}

/// As many requests of so many bytes as there can be.
fn fill(budget: &Budget, from: Option<u8>, project: Option<ProjectId>, bytes: usize) -> Vec<Account> {
    let payer = Payer { address: from.map(address), project };
    let mut all = Vec::new();
    while let Ok(account) = budget.open(payer.address) {
        let filled = {
            let mut held = lock(&account.0.held);
            account.0.hold(&mut held, payer, in_steps(bytes))
        };
        if filled.is_err() {
            break;
        }
        all.push(account);
    }
    all
}

#[test]
fn an_address_and_a_project_have_a_quarter() {
    let budget = Budget::of(TOTAL);
    let [a, b, ..] = projects()[..] else { unreachable!() };
    for bytes in [REQUEST_BYTES, SMALL_REQUEST_BYTES_MAX + REQUEST_BYTES] {
        let from_one = fill(&budget, Some(1), None, bytes);
        assert!(budget.used() <= TOTAL / BYTES_IN_FLIGHT_SHARES && !from_one.is_empty());
        let (before, of_one) = (budget.used(), fill(&budget, None, Some(a), bytes));
        assert!(budget.used() - before <= TOTAL / BYTES_IN_FLIGHT_SHARES && !of_one.is_empty());
        // Others are not kept from theirs.
        assert!(!fill(&budget, Some(2), Some(b), bytes).is_empty());
        drop((from_one, of_one));
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn large_requests_leave_room_for_small_ones_of_the_same_project() {
    let budget = Budget::of(TOTAL);
    let [project, ..] = projects()[..] else { unreachable!() };
    let large = SMALL_REQUEST_BYTES_MAX + REQUEST_BYTES;
    let of_project = fill(&budget, Some(1), Some(project), large);
    let of_all: Vec<_> = (2..9).map(|n| fill(&budget, Some(n), None, large)).collect();
    assert!(!of_project.is_empty() && budget.used() > TOTAL / 2);
    let mut small = budget.open(Some(address(1))).unwrap();
    small.take(SMALL_REQUEST_BYTES_MAX / 4).unwrap();
    let mut held = lock(&small.0.held);
    let (payer, bytes) = (Payer { project: Some(project), ..held.payer }, held.bytes);
    small.0.hold(&mut held, payer, bytes).unwrap();
    drop(held);
    small = budget.open(Some(address(1))).unwrap();
    lock(&small.0.held).claim = Claim::Urgent;
    small.take(TOTAL / 16 - REQUEST_BYTES).unwrap();
    drop((of_project, of_all));
}

#[test]
fn bodies_that_never_arrive_leave_room_for_complete_requests() {
    let budget = Budget::of(16 * TOTAL);
    let wait = |address, bytes| {
        let account = budget.open(address).ok()?;
        account.awaits_body().and_then(|()| account.take(bytes)).ok().map(|()| account)
    };
    let mut waiting: Vec<Account> = Vec::new();
    for from in (1..=12).map(address).map(Some).chain([None]) {
        for bytes in [SMALL_REQUEST_BYTES_MAX / 4, 0] {
            waiting.extend(std::iter::from_fn(|| wait(from, bytes)));
        }
    }
    {
        let pools = lock(&budget.0.pools);
        assert_eq!(pools.large.most - pools.large.used, 0);
        let bound = pools.small.most / AWAITED_BODIES_SHARES + 12 * AWAITED_BODIES_PER_ADDRESS_BYTES;
        assert!(pools.small.used <= bound && bound < pools.small.most * 3 / 4, "{}", pools.small.used);
    }
    // A complete request of an address within its share, one that has just begun from another, and one of a known caller.
    let [project, ..] = projects()[..] else { unreachable!() };
    for from in [None, Some(address(12)), Some(address(13))] {
        budget.open(from).unwrap().take(SMALL_REQUEST_BYTES_MAX / 4).unwrap();
    }
    drop(wait(Some(address(13)), SMALL_REQUEST_BYTES_MAX / 4).unwrap());
    let known = budget.open(None).unwrap();
    {
        let mut held = lock(&known.0.held);
        known.0.hold(&mut held, Payer { address: None, project: Some(project) }, REQUEST_BYTES).unwrap();
    }
    known.awaits_body().and_then(|()| known.take(SMALL_REQUEST_BYTES_MAX / 4)).unwrap();
    drop(known);
    drop(waiting);
    assert_eq!(budget.used(), 0);
}

#[test]
fn buffers_of_connections_leave_room_for_small_requests() {
    let budget = Budget::of(TOTAL);
    let buffers: Vec<_> =
        std::iter::from_fn(|| budget.open_for_buffer(None, 3 * REQUEST_BYTES).ok()).collect();
    assert!(budget.used() > TOTAL / 2);
    let small = budget.open(Some(address(1))).unwrap();
    small.take(SMALL_REQUEST_BYTES_MAX / 4).unwrap();
    drop((buffers, small));
    assert_eq!(budget.used(), 0);
}

#[test]
fn who_asks_for_more_than_a_share_learns_that_waiting_does_not_help() {
    let budget = Budget::of(TOTAL);
    let account = budget.open(Some(address(1))).unwrap();
    let share = TOTAL / 4 * 3 / 4;
    assert_eq!(account.take(TOTAL), Err(Refused::TooHeavy(share)));
    assert_eq!(account.take(share - 1), Ok(()));
    let other = budget.open(Some(address(1))).unwrap();
    assert_eq!(other.take(SMALL_REQUEST_BYTES_MAX), Err(Refused::Share));
    assert_eq!(budget.refusals(), 2);
    drop(account);
    assert_eq!(other.take(SMALL_REQUEST_BYTES_MAX), Ok(()));
}

#[tokio::test]
async fn an_answer_is_held_until_its_last_part_is_gone() {
    use http_body_util::BodyExt;
    let budget = Budget::of(TOTAL);
    let account = budget.open(None).unwrap();
    account.take(TOTAL / 8).unwrap();
    let body = account.hold_answer(Body::from("x".repeat(REQUEST_BYTES * 2)), true).unwrap();
    assert_eq!(budget.used(), REQUEST_BYTES * 2);
    let mut body = body;
    let part = body.frame().await.unwrap().unwrap().into_data().unwrap();
    drop(body);
    assert_eq!((budget.used(), part.len()), (REQUEST_BYTES * 2, REQUEST_BYTES * 2));
    drop(part);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn parsed_values_are_paid_for_and_cancelled_requests_return_bytes() {
    let budget = Budget::of(TOTAL);
    let account = budget.open(None).unwrap();
    let zeros = format!("[{}]", vec!["0"; 1000].join(","));
    let text = &zeros;
    account.scope(async { parse(text.as_bytes()) }).await.unwrap();
    assert!(budget.used() >= 1000 * size_of::<Value>());
    let large = format!("[{}]", vec![zeros.as_str(); 20].join(","));
    let refused = account.scope(async { parse(large.as_bytes()) }).await.unwrap_err();
    assert_eq!(refused.status, 413);
    drop(account);
    // A request that is cancelled while it waits.
    let account = budget.open(None).unwrap();
    let waiting = account.scope(async {
        take(TOTAL / 8).unwrap();
        std::future::pending::<()>().await;
    });
    drop(account);
    let mut waiting = Box::pin(waiting);
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(budget.used() >= TOTAL / 8);
    drop(waiting);
    assert_eq!(budget.used(), 0);
}
