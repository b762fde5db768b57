//! The layout of a release after this one, as far as its predecessor may meet it: more columns in
//! every table, and one more table.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "tests; each of them uses a part"
)]

use std::path::Path;

use flightcluster_catalog::sql::PostgresOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::contract::{Subject, commit, content, create, file, register};

/// The table that only the later release knows. It has one row.
pub const TABLE: &str = "later_things";

/// A value of `oldest_reader` for a layout that this program can use.
pub const READABLE: &str = "MAX(version) - 1";

/// A value of `oldest_reader` for a layout that only programs can use that know it.
pub const UNREADABLE: &str = "MAX(version)";

/// Changes the layout of the catalog in a file into that of the release after.
pub async fn grow_sqlite(file: &Path, oldest_reader: &str) {
    let options = SqliteConnectOptions::new().filename(file);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let tables = sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table'")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements(tables, oldest_reader)))
        .execute(&mut connection)
        .await
        .unwrap();
}

/// The same for a catalog in Postgres.
pub async fn grow_postgres(options: &PostgresOptions, oldest_reader: &str) {
    let url = std::fs::read_to_string(&options.url_file).unwrap();
    let mut connection = PgConnection::connect(url.trim()).await.unwrap();
    let list = "SELECT tablename::TEXT FROM pg_tables WHERE schemaname = current_schema()";
    let tables = sqlx::query_scalar(list)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements(tables, oldest_reader)))
        .execute(&mut connection)
        .await
        .unwrap();
}

fn statements(tables: Vec<String>, oldest_reader: &str) -> String {
    assert!(tables.len() > 15, "{tables:?}");
    let columns: String = tables
        .iter()
        .map(|table| {
            format!("ALTER TABLE {table} ADD COLUMN of_later TEXT NOT NULL DEFAULT 'later';\n")
        })
        .collect();
    format!(
        "{columns}
         CREATE TABLE {TABLE} (thing TEXT PRIMARY KEY, at_millis BIGINT NOT NULL);
         INSERT INTO {TABLE} VALUES ('kept', 1);
         INSERT INTO migrations (version, name, applied_at_millis)
             SELECT MAX(version) + 1, 'later', 0 FROM migrations;
         INSERT INTO layouts (version, oldest_reader, new_tables)
             SELECT MAX(version), {oldest_reader}, '{TABLE}' FROM migrations;"
    )
}

/// Makes the usual calls, lets the layout become a later one, and makes them again.
pub async fn works_while(catalog: &Subject, growing: impl Future<Output = ()>) {
    let table = create(catalog, "t").await;
    let ingester = register(catalog, "ingester-0").await;
    commit(catalog, &ingester, file(table.id, "a", 1, 3)).await;
    let (id, epoch) = (ingester.id, ingester.epoch);
    let orders = catalog.take_orders(id, epoch, 7).await.unwrap();
    assert_eq!(content(catalog, &table).await.0, ["a"]);
    growing.await;
    assert_eq!(content(catalog, &table).await.0, ["a"]);
    commit(catalog, &ingester, file(table.id, "b", 4, 5)).await;
    let (paths, watermarks) = content(catalog, &table).await;
    assert_eq!((paths, watermarks[0].1), (vec!["a".into(), "b".into()], 5));
    assert!(catalog.take_orders(id, epoch, 7).await.unwrap() > orders);
    let second = create(catalog, "t2").await;
    catalog.drop_table(&second.name, false, None).await.unwrap();
    register(catalog, "ingester-0").await;
}
