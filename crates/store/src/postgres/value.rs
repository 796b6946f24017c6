//! Values on their way to PostgreSQL and back.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::Row as Answer;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::StoreError;
use crate::database::{Arg, Cell, Row};

impl ToSql for Arg {
    fn to_sql(&self, wanted: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Bool(b) => b.to_sql_checked(wanted, out),
            // What a bare number in the text of a statement makes of a parameter beside it.
            Self::Int(n) if *wanted == Type::INT4 => i32::try_from(*n)?.to_sql_checked(wanted, out),
            Self::Int(n) => n.to_sql_checked(wanted, out),
            Self::Text(text) => text.as_str().to_sql_checked(wanted, out),
            Self::Blob(bytes) => bytes.as_slice().to_sql_checked(wanted, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Takes whatever of the schema's few types a column is of.
impl<'a> FromSql<'a> for Cell {
    fn from_sql(of: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(match *of {
            Type::BOOL => Self::Int(bool::from_sql(of, raw)?.into()),
            Type::INT4 => Self::Int(i32::from_sql(of, raw)?.into()),
            Type::INT8 => Self::Int(i64::from_sql(of, raw)?),
            Type::BYTEA => Self::Blob(raw.to_vec()),
            _ => Self::Text(<&str>::from_sql(of, raw)?.to_owned()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(of: &Type) -> bool {
        matches!(*of, Type::BOOL | Type::INT4 | Type::INT8 | Type::BYTEA | Type::TEXT | Type::VARCHAR)
    }
}

/// Reads an answer whole.
pub(super) fn rows(answer: &[Answer]) -> Result<Vec<Row>, StoreError> {
    answer.iter().map(row).collect()
}

/// Reads one row of an answer.
pub(crate) fn row(answer: &Answer) -> Result<Row, StoreError> {
    let cells = (0..answer.len()).map(|column| answer.try_get::<_, Cell>(column));
    Ok(Row(cells.collect::<Result<_, _>>()?))
}
