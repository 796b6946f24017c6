//! The tables and columns that there are, read from the schema that the migrations make. Nobody lists
//! them by hand, so what a migration adds is exported with the rest.

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::{StoreError, sqlite};

/// One of the few types of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Text,
    Integer,
    Boolean,
    Bytes,
}

/// A column, in the order in which it was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// A table, the same in both databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// The columns of the primary key; without one, all.
    key: Vec<Column>,
}

/// All tables of the schema that this program knows, in the order of their names.
pub(super) fn known() -> Result<Vec<Table>, StoreError> {
    let connection = Connection::open_in_memory()?;
    for migration in sqlite::MIGRATIONS {
        connection.execute_batch(migration)?;
    }
    let sql = "SELECT t.name, c.name, c.type, c.pk FROM sqlite_schema t JOIN pragma_table_info(t.name) c \
               WHERE t.type = 'table' AND substr(t.name, 1, 7) <> 'sqlite_' ORDER BY t.name, c.cid";
    let mut tables: Vec<Table> = Vec::new();
    for row in sqlite::fetch_once(&connection, sql, &[])? {
        let (table, name) = (row.text(0)?, row.text(1)?);
        let kind = match row.text(2)?.as_str() {
            "TEXT" => Kind::Text,
            "BIGINT" => Kind::Integer,
            "BOOLEAN" => Kind::Boolean,
            "BLOB" => Kind::Bytes,
            _ => return Err(StoreError::Corrupt { what: "the type of a column" }),
        };
        let column = Column { name, kind };
        if tables.last().is_none_or(|last| last.name != table) {
            tables.push(Table { name: table, columns: Vec::new(), key: Vec::new() });
        }
        let Some(last) = tables.last_mut() else { continue };
        if row.int(3)? > 0 {
            last.key.push(column.clone());
        }
        last.columns.push(column);
    }
    for table in tables.iter_mut().filter(|table| table.key.is_empty()) {
        table.key.clone_from(&table.columns);
    }
    Ok(tables)
}

impl Table {
    fn names(&self) -> String {
        self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// All rows, in an order that is the same in every database: by primary key, text by its bytes.
    pub(super) fn select(&self, of: Dialect) -> String {
        let by = self.key.iter().map(|column| match (of, column.kind) {
            (Dialect::Postgres, Kind::Text) => format!("{} COLLATE \"C\" NULLS FIRST", column.name),
            _ => format!("{} NULLS FIRST", column.name),
        });
        let by = by.collect::<Vec<_>>().join(", ");
        format!("SELECT {} FROM {} ORDER BY {by}", self.names(), self.name)
    }

    pub(super) fn insert(&self) -> String {
        let values = crate::group::placeholders(self.columns.len());
        format!("INSERT INTO {} ({}) VALUES ({values})", self.name, self.names())
    }

    pub(super) fn copy_in(&self) -> String {
        format!("COPY {} ({}) FROM STDIN (FORMAT BINARY)", self.name, self.names())
    }
}

/// What differs between the two in a query of a whole table: how text is sorted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TestDatabase;
    use crate::operations::direct::Direct;
    use crate::operations::{Place, migrate};

    #[test]
    fn text_is_sorted_by_its_bytes() {
        let tables = known().unwrap();
        let table = tables.iter().find(|table| table.name == "former_secret").unwrap();
        assert!(
            table
                .select(Dialect::Postgres)
                .ends_with("ORDER BY client_id COLLATE \"C\" NULLS FIRST, nth NULLS FIRST")
        );
        assert!(table.select(Dialect::Sqlite).ends_with("ORDER BY client_id NULLS FIRST, nth NULLS FIRST"));
    }

    /// What a migration adds to one of the two databases only is found here, before an export of it
    /// cannot be imported.
    #[tokio::test]
    async fn both_databases_have_the_same_tables_and_columns() {
        let dir = tempfile::tempdir().unwrap();
        let database = TestDatabase::new(dir.path()).await;
        if !database.is_postgres() {
            return;
        }
        let place = Place::Postgres(Box::new(crate::PostgresConfig::parse(&database.url()).unwrap()));
        migrate(&place).await.unwrap();
        let direct = Direct::open(&place).await.unwrap();
        let sql = "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns \
                   WHERE table_schema = current_schema() AND table_name <> 'schema_version' \
                   ORDER BY table_name COLLATE \"C\", ordinal_position";
        let rows = direct.fetch(sql, &[]).await.unwrap();
        let found: Vec<_> =
            rows.iter().map(|row| [0, 1, 2].map(|column| row.text(column).unwrap())).collect();
        let tables = known().unwrap();
        let expected: Vec<_> = tables
            .iter()
            .flat_map(|table| {
                table.columns.iter().map(|column| {
                    let kind = match column.kind {
                        Kind::Text => "text",
                        Kind::Integer => "bigint",
                        Kind::Boolean => "boolean",
                        Kind::Bytes => "bytea",
                    };
                    [table.name.clone(), column.name.clone(), kind.to_owned()]
                })
            })
            .collect();
        assert_eq!(found, expected);
    }
}
