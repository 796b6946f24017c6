//! Puts an export into an empty database, all of it or nothing. In SQLite that is a new file that gets its
//! name at the end; in PostgreSQL one transaction, so that a process that is killed leaves nothing. There is
//! nothing to resume: what was interrupted is begun again.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use bytes::Bytes;
use keyrelay_core::keyring::Keyring;
use rusqlite::{Connection, OpenFlags};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use super::direct::{Direct, Remote, open_file};
use super::files::{Aside, failed};
use super::format::{Header, Reader};
use super::tables::{Kind, Table};
use super::{KeysUsed, Place, Progress, keys_used, tables};
use crate::postgres::{self, PostgresConfig};
use crate::{StoreError, sqlite};

/// Page cache for a file that is filled, in KiB: an index is written to all over.
const CACHE_KIB: u32 = 64 * 1024;
/// Rows of one transaction in a file that has no name yet.
const ROWS_PER_COMMIT: u64 = 50_000;

/// Fills an empty database from an export, and gives the number of rows and what master keys they need. An
/// export that is sealed under keys which are not in the `keyring` is refused: it would be of no use. With
/// SQLite, take the lock of the directory first. Progress is in bytes of the file.
pub async fn import(
    place: &Place,
    file: &Path,
    keyring: &Keyring,
    progress: Progress<'_>,
) -> Result<(u64, KeysUsed), StoreError> {
    let input = File::open(file).map_err(failed("cannot read", file))?;
    let total = input.metadata().map_err(failed("cannot read", file))?.len();
    let (reader, header) = Reader::start(BufReader::new(input))?;
    if header.schema != sqlite::MIGRATIONS.len() {
        return Err(StoreError::OtherExport { found: header.schema, known: sqlite::MIGRATIONS.len() });
    }
    let tables = tables::known()?;
    let alike = header.tables.len() == tables.len()
        && header.tables.iter().zip(&tables).all(|(header, table)| header.describes(table));
    if !alike {
        return Err(StoreError::ExportLine {
            line: 1,
            problem: "it has other tables or columns than the schema",
        });
    }
    let rows = header.tables.iter().map(|table| table.rows).sum();
    let mut source = Source { reader, header, tables, total, progress };
    let keys = match place {
        Place::File(path) => into_file(path, &mut source, keyring).await?,
        Place::Postgres(config) => into_postgres(config, &mut source, keyring).await?,
    };
    Ok((rows, keys))
}

/// An export that is being read.
struct Source<'a> {
    reader: Reader<BufReader<File>>,
    header: Header,
    tables: Vec<Table>,
    total: u64,
    progress: Progress<'a>,
}

async fn into_file(path: &Path, source: &mut Source<'_>, keyring: &Keyring) -> Result<KeysUsed, StoreError> {
    let (aside, _) = Aside::begin(path)?;
    sqlite::prepare(&aside.path)?;
    let connection = open_file(&aside.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // It is made durable as a whole, before it gets its name.
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "cache_size", format!("-{CACHE_KIB}"))?;
    fill(&connection, source)?;
    let direct = Direct::Sqlite(connection);
    let keys = keys_used::of(&direct).await?;
    keys.require(keyring)?;
    // Into the file itself, with nothing left beside it.
    direct.fetch("PRAGMA journal_mode = DELETE", &[]).await?;
    drop(direct);
    aside.place()?;
    Ok(keys)
}

fn fill(connection: &Connection, source: &mut Source<'_>) -> Result<(), StoreError> {
    let mut open = 0;
    connection.execute_batch("BEGIN")?;
    for (table, header) in source.tables.iter().zip(&source.header.tables) {
        let mut insert = connection.prepare(&table.insert())?;
        for _ in 0..header.rows {
            sqlite::insert(&mut insert, &source.reader.row(table)?)?;
            (source.progress)(source.reader.bytes, source.total);
            open += 1;
            if open == ROWS_PER_COMMIT {
                connection.execute_batch("COMMIT; BEGIN")?;
                open = 0;
            }
        }
    }
    connection.execute_batch("COMMIT")?;
    source.reader.finish()
}

async fn into_postgres(
    config: &PostgresConfig,
    source: &mut Source<'_>,
    keyring: &Keyring,
) -> Result<KeysUsed, StoreError> {
    postgres::migrate(config).await?;
    let remote = Remote::connect(config).await?;
    let names = source.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().join(", ");
    // A server that starts meanwhile waits here, and then does not find an empty database.
    remote.client.batch_execute(&format!("BEGIN; LOCK TABLE {names} IN EXCLUSIVE MODE")).await?;
    for table in &source.tables {
        let found = remote.client.query(&format!("SELECT 1 FROM {} LIMIT 1", table.name), &[]).await?;
        if !found.is_empty() {
            return Err(StoreError::NotEmpty { what: format!("the table {} has rows", table.name) });
        }
    }
    for (table, header) in source.tables.iter().zip(&source.header.tables) {
        let types: Vec<Type> = table.columns.iter().map(|column| postgres_type(column.kind)).collect();
        let sink = remote.client.copy_in::<_, Bytes>(&table.copy_in()).await?;
        let mut copy = std::pin::pin!(BinaryCopyInWriter::new(sink, &types));
        for _ in 0..header.rows {
            let args = source.reader.row(table)?;
            copy.as_mut().write(&postgres::params(&args)).await?;
            (source.progress)(source.reader.bytes, source.total);
        }
        copy.finish().await?;
    }
    source.reader.finish()?;
    let direct = Direct::Postgres(remote);
    let keys = keys_used::of(&direct).await?;
    keys.require(keyring)?;
    direct.run("COMMIT").await?;
    // What the planner believes of the sizes, before the first server asks. The import itself is done.
    if let Err(error) = direct.run("ANALYZE").await {
        tracing::warn!(%error, "the imported tables could not be analyzed; autovacuum will do it");
    }
    Ok(keys)
}

const fn postgres_type(kind: Kind) -> Type {
    match kind {
        Kind::Text => Type::TEXT,
        Kind::Integer => Type::INT8,
        Kind::Boolean => Type::BOOL,
        Kind::Bytes => Type::BYTEA,
    }
}
