//! Arrow schemas as the catalog keeps them, and which types a table may have.
//!
//! The check here guards `CREATE TABLE`; rows are checked again by whoever makes them durable.

use arrow_ipc::convert::try_schema_from_ipc_buffer;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, IntervalUnit, Schema, SchemaRef};
use flightcluster_catalog::{SchemaBytes, SchemaVersion, Table};
use flightcluster_keys::check_names;

use crate::Error;

/// Writes a schema as one encapsulated Arrow IPC schema message.
///
/// # Errors
/// [`Error::StoredSchema`] for a schema that IPC cannot express.
pub fn encode_schema(schema: &Schema) -> Result<SchemaBytes, Error> {
    let writer =
        StreamWriter::try_new(Vec::new(), schema).map_err(|source| Error::StoredSchema {
            doing: "writing",
            source,
        })?;
    Ok(SchemaBytes(writer.get_ref().clone()))
}

/// Reads what [`encode_schema`] wrote.
///
/// # Errors
/// [`Error::StoredSchema`] when the bytes are no schema message.
pub fn decode_schema(bytes: &SchemaBytes) -> Result<SchemaRef, Error> {
    try_schema_from_ipc_buffer(&bytes.0)
        .map(SchemaRef::new)
        .map_err(|source| Error::StoredSchema {
            doing: "reading",
            source,
        })
}

/// Refuses types of stored columns that a Parquet file cannot keep, and names that are ours.
pub(crate) fn check_storable(schema: &Schema) -> Result<(), Error> {
    check_names(schema).map_err(Error::Key)?;
    for field in schema.fields() {
        if let Some(why) = unstorable(field.data_type()) {
            return Err(Error::UnstorableType {
                column: field.name().clone(),
                data_type: field.data_type().to_string(),
                why,
            });
        }
    }
    Ok(())
}

fn unstorable(data_type: &DataType) -> Option<&'static str> {
    let nested = |field: &Field| unstorable(field.data_type());
    match data_type {
        DataType::Union(..) => Some("unions have no Parquet form"),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            Some("intervals of months, days and nanoseconds have no Parquet form")
        }
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale)
            if *scale < 0 =>
        {
            Some("a decimal with a negative scale has no Parquet form")
        }
        DataType::Struct(fields) if fields.is_empty() => {
            Some("a struct without fields has no Parquet form")
        }
        DataType::Struct(fields) => fields.iter().find_map(|field| nested(field)),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => nested(field),
        _ => None,
    }
}

/// Refuses a table of which a column has another type than in `planned`, columns of its schema of that
/// version: its rows may have values that the type of before can't hold.
///
/// # Errors
/// [`Error::ColumnWidened`], [`Error::StoredSchema`].
pub(crate) fn check_types(
    table: &Table,
    version: SchemaVersion,
    planned: &Schema,
) -> Result<(), Error> {
    if table.schema_version == version {
        return Ok(());
    }
    let present = decode_schema(&table.schema)?;
    // A planned column that is not there is that of the orders.
    let changed = planned.fields().iter().find(|field| {
        let found = present.field_with_name(field.name());
        found.is_ok_and(|found| found.data_type() != field.data_type())
    });
    match changed {
        None => Ok(()),
        Some(field) => Err(Error::ColumnWidened {
            table: table.name.to_string(),
            column: field.name().clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_schema_survives_the_catalog_with_metadata_and_nullability() {
        let schema = Schema::new(vec![
            Field::new("time", DataType::Int64, false)
                .with_metadata([("iox::column::type".to_owned(), "timestamp".to_owned())].into()),
            Field::new("tag", DataType::Utf8, true),
        ]);
        let bytes = encode_schema(&schema).unwrap();
        assert_eq!(*decode_schema(&bytes).unwrap(), schema);
    }

    #[test]
    fn bytes_that_are_no_schema_are_refused() {
        let bad = decode_schema(&SchemaBytes(vec![1, 2, 3, 4, 5, 6, 7, 8]));
        assert!(matches!(bad, Err(Error::StoredSchema { .. })));
    }

    #[test]
    fn a_type_that_parquet_cannot_keep_is_refused_also_inside_a_list() {
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        let list = DataType::List(Arc::new(Field::new("item", interval, true)));
        let schema = Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("spans", list, true),
        ]);
        let refused = check_storable(&schema);
        assert!(matches!(refused, Err(Error::UnstorableType { column, .. }) if column == "spans"));
    }
}
