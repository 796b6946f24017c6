//! A whole installation as one file, of one moment, while servers go on. Secrets stay as they are, sealed
//! and as digests: what is needed to use them is the master key file, and that is not in it.

use std::io::BufWriter;
use std::path::Path;

use futures_util::TryStreamExt;

use super::direct::{Direct, Remote};
use super::files::Aside;
use super::format::{TableHeader, Writer};
use super::tables::{Dialect, Table};
use super::{Place, Progress, schema, tables};
use crate::database::Row;
use crate::{StoreError, postgres, sqlite};

/// Writes everything to a new file, which is there as a whole or not at all. Gives the number of rows.
pub async fn export(place: &Place, file: &Path, progress: Progress<'_>) -> Result<u64, StoreError> {
    let direct = Direct::open(place).await?;
    direct.begin_reading().await?;
    schema::require_known(&direct).await?;
    let tables = tables::known()?;
    let mut headers = Vec::with_capacity(tables.len());
    for table in &tables {
        let counted = direct.fetch(&format!("SELECT COUNT(*) FROM {}", table.name), &[]).await?;
        let rows = counted.first().map_or(Ok(0), |row| row.int(0))?;
        headers.push(TableHeader::new(table, u64::try_from(rows).unwrap_or(0)));
    }
    let total = headers.iter().map(|header| header.rows).sum();
    let (aside, out) = Aside::begin(file)?;
    let mut writer = Writer::start(BufWriter::new(out), sqlite::MIGRATIONS.len(), headers)?;
    let mut done = 0;
    progress(done, total);
    for table in &tables {
        let write = |row: Row| {
            writer.row(table, &row)?;
            done += 1;
            progress(done, total);
            Ok(())
        };
        match &direct {
            Direct::Sqlite(connection) => {
                sqlite::each(&mut connection.prepare(&table.select(Dialect::Sqlite))?, &[], write)?;
            }
            Direct::Postgres(remote) => each(remote, table, write).await?,
        }
    }
    drop(writer.finish()?);
    aside.place()?;
    Ok(total)
}

/// Hands over the rows of a table one by one, as the server sends them.
async fn each(
    remote: &Remote,
    table: &Table,
    mut take: impl FnMut(Row) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let none: [&str; 0] = [];
    let rows = remote.client.query_raw(&table.select(Dialect::Postgres), none).await?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await? {
        take(postgres::row(&row)?)?;
    }
    Ok(())
}
