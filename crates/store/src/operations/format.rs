//! The file that an installation travels in: lines of JSON, so that it says itself what it holds.
//!
//! The first line is a [`Header`]: the version of the format and of the schema, and for each table its
//! columns and how many rows follow. Then the rows, each an array in the order of the columns; tables in
//! the order of the header, rows in the order of the primary key, bytes in base64. The last line is the
//! SHA-256 of all lines before it. The order is part of the format: what is exported from a copy is the
//! same file.

use std::fmt::Write as _;
use std::io::{BufRead, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyrelay_core::limits::EXPORT_LINE_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tables::{Column, Kind, Table};
use crate::StoreError;
use crate::database::{Arg, Cell, Row};

const FORMAT: &str = "keyrelay-export";
const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    format: String,
    version: u32,
    /// The version of the schema.
    pub(super) schema: usize,
    pub(super) tables: Vec<TableHeader>,
}

/// What follows of one table.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableHeader {
    pub(super) name: String,
    columns: Vec<Column>,
    pub(super) rows: u64,
}

impl TableHeader {
    pub(super) fn new(table: &Table, rows: u64) -> Self {
        Self { name: table.name.clone(), columns: table.columns.clone(), rows }
    }

    /// Whether it is about this table, with the same columns.
    pub(super) fn describes(&self, table: &Table) -> bool {
        self.name == table.name && self.columns == table.columns
    }
}

/// The last line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    sha256: String,
}

/// Writes an export.
pub(super) struct Writer<W> {
    out: W,
    digest: Context,
    line: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(super) fn start(out: W, schema: usize, tables: Vec<TableHeader>) -> Result<Self, StoreError> {
        let mut writer = Self { out, digest: Context::new(&SHA256), line: Vec::new() };
        let header = Header { format: FORMAT.to_owned(), version: VERSION, schema, tables };
        serde_json::to_writer(&mut writer.line, &header).map_err(unwritable)?;
        writer.end_line()?;
        Ok(writer)
    }

    pub(super) fn row(&mut self, table: &Table, row: &Row) -> Result<(), StoreError> {
        self.line.push(b'[');
        for (n, (cell, column)) in row.0.iter().zip(&table.columns).enumerate() {
            if n > 0 {
                self.line.push(b',');
            }
            match (cell, column.kind) {
                (Cell::Null, _) => self.line.extend_from_slice(b"null"),
                (Cell::Int(n), Kind::Boolean) => {
                    self.line.extend_from_slice(if *n == 0 { b"false" } else { b"true" });
                }
                (Cell::Int(n), _) => self.line.extend_from_slice(n.to_string().as_bytes()),
                (Cell::Text(text), _) => serde_json::to_writer(&mut self.line, text).map_err(unwritable)?,
                (Cell::Blob(bytes), _) => {
                    serde_json::to_writer(&mut self.line, &STANDARD.encode(bytes)).map_err(unwritable)?;
                }
            }
        }
        self.line.push(b']');
        self.end_line()
    }

    /// Ends the file, and gives back what it was written to.
    pub(super) fn finish(mut self) -> Result<W, StoreError> {
        let trailer = Trailer { sha256: hex(self.digest.clone().finish().as_ref()) };
        serde_json::to_writer(&mut self.line, &trailer).map_err(unwritable)?;
        self.end_line()?;
        self.out
            .flush()
            .map_err(|source| StoreError::Export { action: "cannot write the export", source })?;
        Ok(self.out)
    }

    fn end_line(&mut self) -> Result<(), StoreError> {
        self.line.push(b'\n');
        self.digest.update(&self.line);
        let written = self.out.write_all(&self.line);
        self.line.clear();
        written.map_err(|source| StoreError::Export { action: "cannot write the export", source })
    }
}

fn unwritable(error: serde_json::Error) -> StoreError {
    StoreError::Export { action: "cannot write the export", source: error.into() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads an export, line by line.
pub(super) struct Reader<R> {
    input: R,
    digest: Context,
    line: Vec<u8>,
    number: u64,
    /// How many bytes have been read.
    pub(super) bytes: u64,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn start(input: R) -> Result<(Self, Header), StoreError> {
        let mut reader = Self { input, digest: Context::new(&SHA256), line: Vec::new(), number: 0, bytes: 0 };
        reader.next_line()?;
        let header: Header =
            serde_json::from_slice(&reader.line).map_err(|_| reader.bad("this is no header of an export"))?;
        if header.format != FORMAT {
            return Err(reader.bad("this is no header of an export"));
        }
        if header.version != VERSION {
            return Err(reader.bad("the format is of a version that this program does not know"));
        }
        reader.digest.update(&reader.line);
        Ok((reader, header))
    }

    /// The next row of a table, as arguments of a statement.
    pub(super) fn row(&mut self, table: &Table) -> Result<Vec<Arg>, StoreError> {
        self.next_line()?;
        self.digest.update(&self.line);
        let values: Vec<Value> =
            serde_json::from_slice(&self.line).map_err(|_| self.bad("this is no row of a table"))?;
        if values.len() != table.columns.len() {
            return Err(self.bad("this row has another number of columns than its table"));
        }
        let args = values.into_iter().zip(&table.columns).map(|(value, column)| arg(column.kind, value));
        args.collect::<Option<_>>().ok_or_else(|| self.bad("a value is of another type than its column"))
    }

    /// Reads the last line: whether all that was read is what was written, and all of it.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        self.next_line()?;
        let trailer: Trailer = serde_json::from_slice(&self.line)
            .map_err(|_| self.bad("the checksum should be here: the file was changed"))?;
        if trailer.sha256 != hex(self.digest.clone().finish().as_ref()) {
            return Err(self.bad("the checksum is another one: the file was changed"));
        }
        match self.input.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => Err(self.bad("something follows the checksum: the file was changed")),
            Err(source) => Err(StoreError::Export { action: "cannot read the export", source }),
        }
    }

    /// Reads one line. Its end may be missing in a file that was cut.
    fn next_line(&mut self) -> Result<(), StoreError> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.input).take(EXPORT_LINE_BYTES_MAX).read_until(b'\n', &mut self.line);
        let read = read.map_err(|source| StoreError::Export { action: "cannot read the export", source })?;
        self.bytes += u64::try_from(read).unwrap_or(u64::MAX);
        match self.line.last() {
            Some(b'\n') => Ok(()),
            _ if self.line.len() as u64 == EXPORT_LINE_BYTES_MAX => Err(self.bad("this line is too long")),
            _ => Err(self.bad("the file ends here: it was cut short")),
        }
    }

    fn bad(&self, problem: &'static str) -> StoreError {
        StoreError::ExportLine { line: self.number, problem }
    }
}

fn arg(kind: Kind, value: Value) -> Option<Arg> {
    Some(match (kind, value) {
        (_, Value::Null) => Arg::Null,
        (Kind::Text, Value::String(text)) => Arg::Text(text),
        (Kind::Integer, Value::Number(n)) => Arg::Int(n.as_i64()?),
        (Kind::Boolean, Value::Bool(b)) => Arg::Bool(b),
        (Kind::Bytes, Value::String(text)) => Arg::Blob(STANDARD.decode(text).ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::tables;

    fn read(table: &Table, mut bytes: &[u8]) -> Result<Vec<Vec<Arg>>, StoreError> {
        let (mut reader, header) = Reader::start(&mut bytes)?;
        if header.tables.len() != 1 || !header.tables.iter().all(|header| header.describes(table)) {
            return Err(reader.bad("other tables"));
        }
        let rows = (0..header.tables[0].rows).map(|_| reader.row(table)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(rows)
    }

    #[test]
    fn every_changed_byte_and_every_missing_end_is_noticed() {
        let tables = tables::known().unwrap();
        let table = &tables[0];
        let cells = |n: i64| {
            let cell = |column: &Column| match column.kind {
                Kind::Text => Cell::Text(format!("\"quoted\" \u{e4} {n}\n")),
                Kind::Integer => Cell::Int(i64::MIN + n),
                Kind::Boolean => Cell::Int(n % 2),
                Kind::Bytes if n == 0 => Cell::Null,
                Kind::Bytes => Cell::Blob(vec![0, 255]),
            };
            Row(table.columns.iter().map(cell).collect())
        };
        let mut writer = Writer::start(Vec::new(), 1, vec![TableHeader::new(table, 2)]).unwrap();
        for n in 0..2 {
            writer.row(table, &cells(n)).unwrap();
        }
        let good = writer.finish().unwrap();
        assert_eq!(read(table, &good).unwrap().len(), 2);
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(read(table, &changed).is_err(), "byte {at}");
            assert!(read(table, &good[..at]).is_err(), "cut at {at}");
        }
    }
}
