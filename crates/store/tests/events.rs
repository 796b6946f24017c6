//! Events in the database: written with what they tell of, read in an order that hides none.

use keyrelay_core::audit::SecretAction;
use keyrelay_core::caller::Profile;
use keyrelay_core::event::{Event, EventKind, What};
use keyrelay_core::id::{ClientId, EventId, ProjectId, SecretId, WebhookId};
use keyrelay_core::keyring::Keyring;
use keyrelay_core::limits::{EVENTS_KEPT, WEBHOOK_LEASE};
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::time::Timestamp;
use keyrelay_core::webhook::SigningSecret;
use keyrelay_store::{
    Change, Conflict, DueWebhook, EventBounds, Once, Store, StoreError, TestDatabase, Webhook,
};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);

/// Two servers on one database.
struct Stage {
    one: Store,
    other: Store,
    _dir: TempDir,
    entropy: SeededEntropy,
    project: ProjectId,
    client: ClientId,
}

impl Stage {
    async fn open() -> Self {
        let (dir, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(1));
        let database = TestDatabase::new(dir.path()).await;
        let (one, other) = (database.open().await.unwrap(), database.open().await.unwrap());
        let (project, client) = (ProjectId::random(&entropy), ClientId::random(&entropy));
        Self { one, other, _dir: dir, entropy, project, client }
    }

    fn event(&self, at: Timestamp) -> Event {
        let what = What::Moved {
            action: SecretAction::Rotate,
            by: Profile::client(self.client),
            from: [127, 0, 0, 1].into(),
            active: Some(SecretId::random(&self.entropy)),
            retiring: None,
            retiring_ends: None,
            ended: Vec::new(),
        };
        Event {
            id: EventId::made_at(at, &self.entropy),
            at,
            project: self.project,
            client: self.client,
            what,
        }
    }

    async fn tell(&self, store: &Store, at: Timestamp) -> Event {
        let event = self.event(at);
        let mut change = Change::new();
        change.tell(&event);
        store.commit(change).await.unwrap();
        event
    }

    async fn read(&self, after: i64) -> Vec<(i64, String)> {
        let found = self.other.events_after(after, self.project, 1000).await.unwrap();
        found.into_iter().map(|event| (event.seq, event.payload)).collect()
    }
}

#[tokio::test]
async fn what_is_written_late_is_numbered_late_whatever_its_time() {
    let stage = Stage::open().await;
    let second = stage.tell(&stage.one, NOW).await;
    assert!(stage.read(0).await.is_empty(), "nobody has asked for numbers");
    stage.one.number_events().await.unwrap();
    assert_eq!(stage.read(0).await, [(1, second.to_json().to_string())]);
    // Its transaction took longer, or the clock of its server is behind.
    let first = stage.tell(&stage.other, Timestamp::from_epoch_ms(0)).await;
    stage.other.number_events().await.unwrap();
    assert_eq!(stage.read(1).await, [(2, first.to_json().to_string())]);
    assert_eq!(stage.one.last_event().await.unwrap(), 2);
    assert_eq!(stage.one.events_counted(EventKind::Rotated), 1, "each counts its own");
}

/// They are given a thousand at a time, and nobody may be told that the first thousand were all.
#[tokio::test]
async fn all_that_wait_for_a_number_get_one() {
    const EVENTS: i64 = 2500;
    let stage = Stage::open().await;
    let mut change = Change::new();
    for _ in 0..EVENTS {
        change.tell(&stage.event(NOW));
    }
    stage.one.commit(change).await.unwrap();
    stage.one.number_events().await.unwrap();
    assert_eq!(stage.one.last_event().await.unwrap(), EVENTS);
}

/// A reader that remembers the last number sees every event once, while servers write and number at once.
#[tokio::test]
async fn a_reader_that_remembers_the_last_number_misses_nothing() {
    const EVENTS: usize = 200;
    let stage = Stage::open().await;
    let write = async {
        for n in 0..EVENTS {
            let store = if n % 2 == 0 { &stage.one } else { &stage.other };
            stage.tell(store, NOW).await;
        }
    };
    let number = async |store: &Store| {
        loop {
            store.number_events().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let read = async {
        let (mut last, mut seen) = (0, Vec::new());
        while seen.len() < EVENTS {
            for (seq, payload) in stage.read(last).await {
                assert_eq!(seq, last + 1);
                last = seq;
                seen.push(payload);
            }
        }
        seen.sort();
        seen.dedup();
        seen.len()
    };
    let seen = tokio::select! {
        (seen, ()) = async { tokio::join!(read, write) } => seen,
        () = number(&stage.one) => unreachable!("it has no end"),
        () = number(&stage.other) => unreachable!("it has no end"),
    };
    assert_eq!(seen, EVENTS);
}

#[tokio::test]
async fn a_number_is_never_given_twice_even_after_everything_was_swept() {
    let stage = Stage::open().await;
    for _ in 0..3 {
        stage.tell(&stage.one, NOW).await;
    }
    stage.one.number_events().await.unwrap();
    let later = NOW.plus(EVENTS_KEPT).plus(std::time::Duration::from_millis(1));
    let swept = stage.one.sweep_events(EventBounds::default(), later).await.unwrap();
    assert_eq!((swept.events, swept.undelivered), (2, 0));
    assert_eq!(stage.read(0).await.len(), 1, "the last stays");
    stage.tell(&stage.one, NOW).await;
    stage.one.number_events().await.unwrap();
    assert_eq!(stage.read(3).await.first().map(|(seq, _)| *seq), Some(4));
}

#[tokio::test]
async fn what_is_told_once_is_told_by_one_of_two_servers() {
    let stage = Stage::open().await;
    let secret = SecretId::random(&stage.entropy);
    let tell = |event: &Event| {
        let mut change = Change::new();
        change.tell_once(event, secret, Once::Expired(NOW));
        change
    };
    let (one, other) = (stage.event(NOW), stage.event(NOW));
    let (one, other) = tokio::join!(stage.one.commit(tell(&one)), stage.other.commit(tell(&other)));
    let won = [&one, &other].iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(won, 1, "{one:?} {other:?}");
    let lost = one.err().or(other.err());
    assert!(matches!(lost, Some(StoreError::Conflict(Conflict::Exists))), "{lost:?}");
    // A change that does something else as well is made, and does not tell again.
    let mut change = Change::new();
    change.tell_unless_told(&stage.event(NOW), secret, Once::Expired(NOW));
    stage.one.commit(change).await.unwrap();
    let mut change = Change::new();
    change.tell_unless_told(
        &stage.event(NOW),
        secret,
        Once::Expiring { ends: NOW, before: std::time::Duration::ZERO },
    );
    stage.one.commit(change).await.unwrap();
    stage.one.number_events().await.unwrap();
    assert_eq!(stage.read(0).await.len(), 2, "expired once, expiring once");
    stage.one.count_perhaps_told().await.unwrap();
    let counted =
        stage.one.events_counted(EventKind::Rotated) + stage.other.events_counted(EventKind::Rotated);
    assert_eq!(counted, 2, "what was not told was not counted");
}

#[tokio::test]
async fn of_two_servers_one_has_a_webhook_to_itself_until_its_time_is_over() {
    let stage = Stage::open().await;
    let keyring = Keyring::parse_file(&Keyring::new_file(&stage.entropy)).unwrap();
    let id = WebhookId::random(&stage.entropy);
    let secret = SigningSecret::generate(&stage.entropy);
    let webhook = Webhook {
        id,
        project: stage.project,
        url: "https://hooks.example.org/".to_owned(),
        kinds: None,
        created: NOW,
        created_by: Profile::client(stage.client),
        signing: keyring.seal_signing_secret(id, &secret, &stage.entropy),
        retiring: None,
        disabled: None,
    };
    let mut change = Change::new();
    change.create_webhook(&webhook);
    stage.one.commit(change).await.unwrap();
    let told = stage.tell(&stage.one, NOW).await;

    let (mine, theirs) =
        (stage.one.due_webhooks(NOW, 10).await.unwrap(), stage.other.due_webhooks(NOW, 10).await.unwrap());
    let lease = |due: &[DueWebhook]| {
        let mut change = Change::new();
        change.lease_webhook(&due[0], NOW.plus(WEBHOOK_LEASE));
        change
    };
    stage.one.commit(lease(&mine)).await.unwrap();
    let refused = stage.other.commit(lease(&theirs)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::Version))), "{refused:?}");
    assert!(stage.other.due_webhooks(NOW, 10).await.unwrap().is_empty());

    // Who has it dies.
    let later = NOW.plus(WEBHOOK_LEASE);
    assert_eq!(stage.other.due_webhooks(later, 10).await.unwrap().len(), 1);
    let due = stage.other.due_deliveries(id, later, 10).await.unwrap();
    assert_eq!((due.len(), due[0].event, due[0].attempts), (1, told.id, 0));
    assert_eq!(due[0].payload, told.to_json().to_string());
    let mut change = Change::new();
    change.delivered(id, told.id, later);
    stage.other.commit(change).await.unwrap();
    assert_eq!(stage.one.deliveries_pending().await.unwrap(), 0);
}

/// Of two projects, the one with the most events loses its oldest, whatever the number of changes.
#[tokio::test]
async fn above_the_bound_of_all_the_project_with_most_events_loses_its_oldest() {
    let mut stage = Stage::open().await;
    let few = stage.project;
    let alarm = stage.tell(&stage.one, NOW).await;
    stage.project = ProjectId::random(&stage.entropy);
    let mut change = Change::new();
    for n in 0..500 {
        change.tell(&stage.event(NOW.plus(std::time::Duration::from_millis(n))));
    }
    stage.other.commit(change).await.unwrap();
    let bounds = EventBounds { per_project: 400, all: 301 };
    let swept = stage.one.sweep_events(bounds, NOW).await.unwrap();
    assert_eq!(swept.events, 200);
    let (of_few, of_many) = (stage.one.events_after(0, few, 1000).await.unwrap(), stage.read(0).await);
    assert_eq!((of_few.len(), of_many.len()), (1, 300));
    assert_eq!(of_few[0].payload, alarm.to_json().to_string());
    assert_eq!(stage.one.events_dropped_up_to(few).await.unwrap(), 0);
    let gap = stage.one.events_dropped_up_to(stage.project).await.unwrap();
    assert_eq!(of_many.first().map(|(seq, _)| *seq), Some(gap + 1), "the oldest went");
    // Events within the bounds stay, also those of a single project with many events.
    assert_eq!(stage.other.sweep_events(bounds, NOW).await.unwrap().events, 0);
    let bounds = EventBounds { per_project: 100, all: 1000 };
    assert_eq!(stage.other.sweep_events(bounds, NOW).await.unwrap().events, 200);
}
