//! What projects said about secrets before it stood in their narrow rows.

use keyrelay_store::Store;
use serde_json::json;

/// The migrations before.
const BEFORE: [&str; 7] = [
    include_str!("../migrations/sqlite/0001_initial.sql"),
    include_str!("../migrations/sqlite/0002_people.sql"),
    include_str!("../migrations/sqlite/0003_registration.sql"),
    include_str!("../migrations/sqlite/0004_signing_schedule.sql"),
    include_str!("../migrations/sqlite/0005_scope_bound.sql"),
    include_str!("../migrations/sqlite/0006_usage.sql"),
    include_str!("../migrations/sqlite/0007_deadlines.sql"),
];

#[tokio::test]
async fn what_could_be_said_before_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyrelay.sqlite");
    let setting = |name: &str, value: &str| json!({ "name": name, "valueString": value });
    let other = json!({ "name": "x", "valueBoolean": true });
    {
        let old = rusqlite::Connection::open(&path).unwrap();
        for migration in BEFORE {
            old.execute_batch(migration).unwrap();
        }
        old.pragma_update(None, "user_version", 7).unwrap();
        for (id, once, settings) in [
            ("silent", false, json!([other])),
            ("shown", false, json!([other, setting("secretVisibility", "recoverable")])),
            ("once", true, json!([setting("secretVisibility", "once"), setting("secretOverwrite", "warn")])),
            ("empty", false, json!([])),
        ] {
            let sql =
                "INSERT INTO project (id, active, super_admin, secret_once) VALUES (?1, TRUE, FALSE, ?2)";
            old.execute(sql, (id, once)).unwrap();
            let sql = "INSERT INTO resource VALUES (?1, 'Project', ?1, 'v', 1, 0, FALSE, ?2)";
            old.execute(sql, (id, json!({ "setting": settings }).to_string())).unwrap();
        }
        let gone = "INSERT INTO resource VALUES ('gone', 'Project', 'gone', 'v', 1, 0, TRUE, '')";
        old.execute(gone, ()).unwrap();
    }
    Store::open_sqlite(&path).await.unwrap().close().await;
    let now = rusqlite::Connection::open(&path).unwrap();
    let sql = "SELECT id, secret_recoverable, secret_overwrite FROM project ORDER BY id";
    let mut rows = now.prepare(sql).unwrap();
    let rows = rows.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let found: Vec<(String, bool, Option<String>)> = rows.collect::<Result<_, _>>().unwrap();
    let expected = [
        ("empty", false, None),
        ("once", false, Some("warn")),
        ("shown", true, None),
        ("silent", false, None),
    ];
    let expected = expected.map(|(id, said, overwrite)| (id.to_owned(), said, overwrite.map(str::to_owned)));
    assert_eq!(found, expected);
}
