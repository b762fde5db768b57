//! Postgres databases with catalogs of earlier layouts: made by the migrations of then, filled with the
//! rows of a backup, in the columns there were.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, PgConnection};

/// The migrations in their order: version, name, statements.
fn migrations() -> Vec<(i64, String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sql/migrations");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let (version, name) = stem.split_once('_').unwrap();
        let statements = std::fs::read_to_string(&path).unwrap();
        let of_postgres = statements
            .replace(" TEXT", " TEXT COLLATE \"C\"")
            .replace("{bytes}", "BYTEA");
        (version.parse().unwrap(), name.to_owned(), of_postgres)
    });
    let mut migrations: Vec<_> = files.collect();
    migrations.sort();
    migrations
}

/// Makes an empty database one with the catalog of `layout`, which has no table `layouts` yet, and puts the
/// rows of a backup into it.
pub async fn make(c: &mut PgConnection, layout: i64, backup: &[u8]) {
    let record = "CREATE TABLE migrations (
        version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_at_millis BIGINT NOT NULL)";
    run(c, record.to_owned()).await;
    for (version, name, statements) in migrations() {
        if version <= layout {
            run(c, statements).await;
            let applied = format!("INSERT INTO migrations VALUES ({version}, '{name}', 7)");
            run(c, applied).await;
        }
    }
    let counters: Vec<String> = sqlx::query_scalar("SELECT kind FROM counters")
        .fetch_all(&mut *c)
        .await
        .unwrap();
    run(c, "DELETE FROM counters".to_owned()).await;
    for (table, rows) in rows_of(backup) {
        let columns: Vec<String> = sqlx::query_scalar(
            "SELECT CAST(column_name AS TEXT) FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name = $1",
        )
        .bind(&table)
        .fetch_all(&mut *c)
        .await
        .unwrap();
        if columns.is_empty() {
            continue;
        }
        let list = columns.join(", ");
        let rows = Value::from(rows).to_string();
        let insert = format!(
            "INSERT INTO {table} ({list})
             SELECT {list} FROM json_populate_recordset(NULL::{table}, CAST($1 AS JSON))"
        );
        let inserted = sqlx::query(AssertSqlSafe(insert)).bind(rows);
        inserted.execute(&mut *c).await.unwrap();
    }
    // Later layouts add theirs.
    sqlx::query("DELETE FROM counters WHERE NOT kind = ANY($1)")
        .bind(counters)
        .execute(c)
        .await
        .unwrap();
}

/// The rows of a backup, in the order of their tables.
fn rows_of(backup: &[u8]) -> Vec<(String, Vec<Value>)> {
    let text = String::from_utf8(zstd::decode_all(backup).unwrap()).unwrap();
    let mut tables: Vec<(String, Vec<Value>)> = Vec::new();
    let mut columns: Vec<(String, bool)> = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line).unwrap() {
            Value::Array(values) => {
                let row = columns.iter().zip(values).map(|((name, bytes), value)| {
                    let value = match value {
                        Value::String(text) if *bytes => as_bytea(&text),
                        value => value,
                    };
                    (name.clone(), value)
                });
                tables
                    .last_mut()
                    .unwrap()
                    .1
                    .push(row.collect::<Map<_, _>>().into());
            }
            // Neither the header nor the end, which have no name of a table.
            Value::Object(start) if start.contains_key("table") => {
                let described = start["columns"].as_array().unwrap().iter();
                columns = described
                    .map(|column| {
                        let name = column["name"].as_str().unwrap().to_owned();
                        (name, column["kind"] == "bytes")
                    })
                    .collect();
                let name = start["table"].as_str().unwrap().to_owned();
                tables.push((name, Vec::new()));
            }
            _ => {}
        }
    }
    tables
}

/// Bytes as Postgres reads them from text.
fn as_bytea(base64: &str) -> Value {
    let bytes = STANDARD.decode(base64).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\\x{hex}").into()
}

/// All that a database holds, for comparisons: the rows of each table as text, but for the times and ids
/// that each opening of a catalog makes anew; and what its tables, indexes and constraints are.
pub async fn all_of(c: &mut PgConnection) -> BTreeMap<String, Vec<String>> {
    let list = "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = 'public'";
    let tables: Vec<String> = sqlx::query_scalar(list).fetch_all(&mut *c).await.unwrap();
    let mut all = BTreeMap::new();
    for table in tables {
        let row = match &*table {
            "migrations" => "to_jsonb(t) - 'applied_at_millis'",
            "writers" | "histories" => "1",
            _ => "to_jsonb(t)",
        };
        let rows = format!("SELECT CAST({row} AS TEXT) FROM {table} t ORDER BY 1");
        all.insert(format!("rows of {table}"), read(c, rows).await);
    }
    for (what, question) in [
        (
            "columns",
            "SELECT concat_ws(' ', table_name, ordinal_position, column_name, data_type, is_nullable,
                              column_default, collation_name)
             FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1",
        ),
        (
            "indexes",
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
        ),
        (
            "constraints",
            "SELECT concat_ws(' ', CAST(conrelid::regclass AS TEXT), conname, pg_get_constraintdef(oid))
             FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1",
        ),
    ] {
        all.insert(what.to_owned(), read(c, question.to_owned()).await);
    }
    all
}

/// The newest layout that is recorded.
pub async fn version(c: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT MAX(version) FROM migrations")
        .fetch_one(c)
        .await
        .unwrap()
}

async fn read(c: &mut PgConnection, question: String) -> Vec<String> {
    let asked = sqlx::query_scalar(AssertSqlSafe(question));
    asked.fetch_all(c).await.unwrap()
}

pub async fn run(c: &mut PgConnection, statements: String) {
    let done = sqlx::raw_sql(AssertSqlSafe(statements)).execute(c).await;
    done.unwrap();
}
