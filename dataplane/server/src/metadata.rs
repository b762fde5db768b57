//! Answers of the Flight SQL metadata commands: catalogs, schemas, tables, table types, keys, type
//! info. Each takes what the caller may see; authorization is done before.
//!
//! Flight SQL catalog = database; every database has the schema `public` for its tables besides
//! `information_schema` and `system`.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, Nullable, Searchable, XdbcDataType,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use flightcluster_catalog::TableName;
use flightcluster_keys::Key;

/// The only table type there is.
const TABLE: &str = "TABLE";

/// The schemas of every database, by name.
pub(crate) const DB_SCHEMAS: [&str; 3] = ["information_schema", "public", "system"];

/// One row a database.
pub(crate) fn catalogs(databases: &[String]) -> Result<RecordBatch, FlightError> {
    let mut rows = CommandGetCatalogs {}.into_builder();
    for database in databases {
        rows.append(database);
    }
    rows.build()
}

/// One row a schema, narrowed as the command asks.
pub(crate) fn db_schemas(
    command: CommandGetDbSchemas,
    databases: &[String],
) -> Result<RecordBatch, FlightError> {
    let mut rows = command.into_builder();
    for database in databases {
        for schema in DB_SCHEMAS {
            rows.append(database, schema);
        }
    }
    rows.build()
}

/// One row a table, narrowed as the command asks; with the wire schema of each when it asks so.
pub(crate) fn tables(
    mut command: CommandGetTables,
    tables: &[(TableName, Schema)],
) -> Result<RecordBatch, FlightError> {
    for kind in &mut command.table_types {
        // Some clients ask by the name of the SQL standard, or in lower case.
        if kind.eq_ignore_ascii_case(TABLE) || kind.eq_ignore_ascii_case("BASE TABLE") {
            TABLE.clone_into(kind);
        }
    }
    let mut rows = command.into_builder();
    for (name, schema) in tables {
        rows.append(&name.database, &name.schema, &name.table, TABLE, schema)?;
    }
    rows.build()
}

/// The table types in use.
pub(crate) fn table_types() -> Result<RecordBatch, FlightError> {
    let mut rows = CommandGetTableTypes {}.into_builder();
    rows.append(TABLE);
    rows.build()
}

/// The columns of the primary keys of some tables, in the order of the keys.
pub(crate) fn primary_keys(keys: &[(TableName, Key)]) -> Result<RecordBatch, FlightError> {
    let rows = keys.iter().flat_map(|(table, key)| {
        let columns = key.columns().iter().zip(1..);
        columns.map(move |(column, number)| (table, column, number))
    });
    let text = |text: fn(&TableName) -> &str| -> ArrayRef {
        let rows = rows.clone().map(|(table, ..)| Some(text(table)));
        Arc::new(rows.collect::<StringArray>())
    };
    let columns = rows.clone().map(|(_, column, _)| Some(column.as_str()));
    let numbers = rows.clone().map(|(.., number)| number);
    let columns: Vec<ArrayRef> = vec![
        text(|table| &table.database),
        text(|table| &table.schema),
        text(|table| &table.table),
        Arc::new(columns.collect::<StringArray>()),
        new_null_array(&DataType::Utf8, rows.clone().count()),
        Arc::new(Int32Array::from_iter_values(numbers)),
    ];
    Ok(RecordBatch::try_new(primary_keys_schema(), columns)?)
}

/// Schema of `CommandGetPrimaryKeys`.
pub(crate) fn primary_keys_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

/// Schema of the exported, imported and cross reference commands; always empty too.
pub(crate) fn foreign_keys_schema() -> SchemaRef {
    let name = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        name("pk_catalog_name", true),
        name("pk_db_schema_name", true),
        name("pk_table_name", false),
        name("pk_column_name", false),
        name("fk_catalog_name", true),
        name("fk_db_schema_name", true),
        name("fk_table_name", false),
        name("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        name("fk_key_name", true),
        name("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

/// The SQL types of this product for ODBC and JDBC tools.
pub(crate) fn type_info(command: &CommandGetXdbcTypeInfo) -> Result<RecordBatch, FlightError> {
    let mut rows = XdbcTypeInfoDataBuilder::new();
    let types = [
        ("BOOLEAN", XdbcDataType::XdbcBit, 1, None, false),
        ("TINYINT", XdbcDataType::XdbcTinyint, 3, None, true),
        ("SMALLINT", XdbcDataType::XdbcSmallint, 5, None, true),
        ("INTEGER", XdbcDataType::XdbcInteger, 10, None, true),
        ("BIGINT", XdbcDataType::XdbcBigint, 19, None, true),
        ("REAL", XdbcDataType::XdbcReal, 24, None, true),
        ("DOUBLE", XdbcDataType::XdbcDouble, 53, None, true),
        ("DECIMAL", XdbcDataType::XdbcDecimal, 76, None, true),
        (
            "VARCHAR",
            XdbcDataType::XdbcVarchar,
            i32::MAX,
            Some("'"),
            false,
        ),
        ("BINARY", XdbcDataType::XdbcVarbinary, i32::MAX, None, false),
        ("DATE", XdbcDataType::XdbcDate, 10, Some("'"), false),
        ("TIME", XdbcDataType::XdbcTime, 18, Some("'"), false),
        (
            "TIMESTAMP",
            XdbcDataType::XdbcTimestamp,
            29,
            Some("'"),
            false,
        ),
    ];
    for (name, kind, size, quote, numeric) in types {
        rows.append(XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type: kind,
            column_size: Some(size),
            literal_prefix: quote.map(str::to_owned),
            literal_suffix: quote.map(str::to_owned),
            create_params: (name == "DECIMAL")
                .then(|| vec!["precision".to_owned(), "scale".to_owned()]),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: name == "VARCHAR",
            searchable: Searchable::Full,
            unsigned_attribute: numeric.then_some(false),
            fixed_prec_scale: false,
            auto_increment: numeric.then_some(false),
            local_type_name: Some(name.to_owned()),
            minimum_scale: None,
            maximum_scale: None,
            sql_data_type: kind,
            datetime_subcode: None,
            num_prec_radix: numeric.then_some(10),
            interval_precision: None,
        });
    }
    rows.build()?.record_batch(command.data_type)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use arrow_array::cast::AsArray as _;

    use super::*;

    fn names(batch: &RecordBatch, column: &str) -> Vec<String> {
        let names = batch.column_by_name(column).unwrap().as_string::<i32>();
        names
            .iter()
            .map(|name| name.unwrap_or_default().to_owned())
            .collect()
    }

    fn weather() -> (TableName, Schema) {
        let schema = Schema::new(vec![Field::new("temp", DataType::Float64, true)]);
        (TableName::public("demo", "weather"), schema)
    }

    /// S0-2
    #[test]
    fn every_database_has_its_three_schemas() {
        let command = CommandGetDbSchemas {
            catalog: None,
            db_schema_filter_pattern: None,
        };
        let batch = db_schemas(command, &["default".to_owned(), "demo".to_owned()]).unwrap();
        assert_eq!(batch.num_rows(), 6);
        let command = CommandGetDbSchemas {
            catalog: Some("demo".to_owned()),
            db_schema_filter_pattern: Some("pub%".to_owned()),
        };
        let batch = db_schemas(command, &["default".to_owned(), "demo".to_owned()]).unwrap();
        assert_eq!(names(&batch, "db_schema_name"), ["public"]);
    }

    /// S0-2: Grafana asks for `BASE TABLE`, others for `table`.
    #[test]
    fn the_table_type_is_found_by_its_other_names() {
        for kind in ["TABLE", "table", "BASE TABLE"] {
            let command = CommandGetTables {
                table_types: vec![kind.to_owned()],
                include_schema: true,
                ..CommandGetTables::default()
            };
            let batch = tables(command, &[weather()]).unwrap();
            assert_eq!(names(&batch, "table_name"), ["weather"], "{kind}");
        }
        let command = CommandGetTables {
            table_types: vec!["VIEW".to_owned()],
            ..CommandGetTables::default()
        };
        assert_eq!(tables(command, &[weather()]).unwrap().num_rows(), 0);
    }

    #[test]
    fn type_info_can_be_asked_for_one_type() {
        let all = type_info(&CommandGetXdbcTypeInfo { data_type: None }).unwrap();
        let one = CommandGetXdbcTypeInfo {
            data_type: Some(XdbcDataType::XdbcBigint as i32),
        };
        assert_eq!(all.num_rows(), 13);
        assert_eq!(names(&type_info(&one).unwrap(), "type_name"), ["BIGINT"]);
    }
}
