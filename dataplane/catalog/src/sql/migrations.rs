//! The layout of the catalog's tables and its versions.
//!
//! Each version is one SQL file, applied once and in order, each in its own transaction. What has
//! been applied is recorded in the table `migrations`. Processes that start together take turns. A database with a version this program does
//! not know is refused: an older program must not write into a newer layout.

use sqlx::{AssertSqlSafe, Connection as _};

use super::clock::now_millis;
use super::dialect::{Connection, Dialect};
use super::value::stored;

struct Migration {
    version: u64,
    name: &'static str,
    statements: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "initial",
        statements: include_str!("migrations/0001_initial.sql"),
    },
    Migration {
        version: 2,
        name: "producer_claims",
        statements: include_str!("migrations/0002_producer_claims.sql"),
    },
    Migration {
        version: 3,
        name: "upkeep",
        statements: include_str!("migrations/0003_upkeep.sql"),
    },
    Migration {
        version: 4,
        name: "uploads",
        statements: include_str!("migrations/0004_uploads.sql"),
    },
    Migration {
        version: 5,
        name: "times_and_restores",
        statements: include_str!("migrations/0005_times_and_restores.sql"),
    },
    Migration {
        version: 6,
        name: "log_identity",
        statements: include_str!("migrations/0006_log_identity.sql"),
    },
    Migration {
        version: 7,
        name: "database_options",
        statements: include_str!("migrations/0007_database_options.sql"),
    },
    Migration {
        version: 8,
        name: "orders",
        statements: include_str!("migrations/0008_orders.sql"),
    },
    Migration {
        version: 9,
        name: "oldest_snapshot",
        statements: include_str!("migrations/0009_oldest_snapshot.sql"),
    },
    Migration {
        version: 10,
        name: "statement_producers",
        statements: include_str!("migrations/0010_statement_producers.sql"),
    },
    Migration {
        version: 11,
        name: "open_tables",
        statements: include_str!("migrations/0011_open_tables.sql"),
    },
    Migration {
        version: 12,
        name: "statements",
        statements: include_str!("migrations/0012_statements.sql"),
    },
    Migration {
        version: 13,
        name: "sorted_files",
        statements: include_str!("migrations/0013_sorted_files.sql"),
    },
    Migration {
        version: 14,
        name: "writers",
        statements: include_str!("migrations/0014_writers.sql"),
    },
];

/// The newest layout this program knows.
pub(super) const NEWEST: u64 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// Why the layout could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "the catalog has layout {found}, this program knows layouts up to {NEWEST}: \
         start a newer program, or restore a backup taken before the upgrade"
    )]
    Newer { found: i64 },
    #[error("can't read or write the catalog's tables")]
    Sql(#[from] sqlx::Error),
}

/// Brings the layout up to date, or says why not.
pub(super) async fn apply(connection: &mut Connection, dialect: &Dialect) -> Result<(), Error> {
    apply_list(connection, dialect, MIGRATIONS).await
}

async fn apply_list(
    connection: &mut Connection,
    dialect: &Dialect,
    list: &[Migration],
) -> Result<(), Error> {
    create_record(connection, dialect).await?;
    for migration in list {
        apply_one(connection, dialect, migration).await?;
    }
    let found: Option<i64> = sqlx::query_scalar("SELECT MAX(version) FROM migrations")
        .fetch_one(&mut *connection)
        .await?;
    match (found, list.last()) {
        (Some(found), Some(newest)) if stored(newest.version)? < found => {
            Err(Error::Newer { found })
        }
        _ => Ok(()),
    }
}

/// Creates the table of what has been applied. Looks first: a user that may not create tables can
/// use those that are there.
async fn create_record(connection: &mut Connection, dialect: &Dialect) -> Result<(), Error> {
    let mut transaction = connection.begin_with(dialect.begin_layout).await?;
    let there: i64 = sqlx::query_scalar(dialect.count_tables)
        .bind("migrations")
        .fetch_one(&mut *transaction)
        .await?;
    if there == 0 {
        let created = "CREATE TABLE migrations (
            version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_at_millis BIGINT NOT NULL)";
        sqlx::query(created).execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

/// Applies one migration unless it or a later one is recorded.
async fn apply_one(
    connection: &mut Connection,
    dialect: &Dialect,
    migration: &Migration,
) -> Result<(), Error> {
    let mut transaction = connection.begin_with(dialect.begin_layout).await?;
    apply_here(&mut transaction, dialect, migration).await?;
    Ok(transaction.commit().await?)
}

/// Brings the layout to `version`, as part of a transaction that is under way.
pub(super) async fn apply_until(
    c: &mut Connection,
    dialect: &Dialect,
    version: u64,
) -> Result<(), sqlx::Error> {
    for migration in MIGRATIONS.iter().filter(|each| each.version <= version) {
        apply_here(c, dialect, migration).await?;
    }
    Ok(())
}

/// The version of the present layout.
pub(super) async fn newest(c: &mut Connection) -> Result<u64, sqlx::Error> {
    let version: i64 = sqlx::query_scalar("SELECT MAX(version) FROM migrations")
        .fetch_one(c)
        .await?;
    u64::try_from(version).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

async fn apply_here(
    c: &mut Connection,
    dialect: &Dialect,
    migration: &Migration,
) -> Result<(), sqlx::Error> {
    let done: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM migrations WHERE version >= $1")
        .bind(stored(migration.version)?)
        .fetch_one(&mut *c)
        .await?;
    if done > 0 {
        return Ok(());
    }
    let statements = migration
        .statements
        .replace(" TEXT", &format!(" {}", dialect.text_type))
        .replace("{bytes}", dialect.bytes_type);
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut *c)
        .await?;
    sqlx::query("INSERT INTO migrations (version, name, applied_at_millis) VALUES ($1, $2, $3)")
        .bind(stored(migration.version)?)
        .bind(migration.name)
        .bind(now_millis())
        .execute(c)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use sqlx::Connection as _;

    use super::super::sqlite::DIALECT;
    use super::*;

    const FIRST: Migration = Migration {
        version: 1,
        name: "first",
        statements: "CREATE TABLE a (x {bytes})",
    };
    const SECOND: Migration = Migration {
        version: 2,
        name: "second",
        statements: "ALTER TABLE a ADD COLUMN y BIGINT; CREATE TABLE b (z TEXT)",
    };
    const BROKEN: Migration = Migration {
        version: 3,
        name: "broken",
        statements: "CREATE TABLE c (z TEXT); INSERT INTO nowhere VALUES (1)",
    };

    async fn connect() -> Connection {
        sqlx::any::install_default_drivers();
        Connection::connect("sqlite::memory:").await.unwrap()
    }

    async fn tables(connection: &mut Connection) -> Vec<String> {
        sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            .fetch_all(connection)
            .await
            .unwrap()
    }

    async fn versions(connection: &mut Connection) -> Vec<i64> {
        sqlx::query_scalar("SELECT version FROM migrations ORDER BY version")
            .fetch_all(connection)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn an_older_layout_is_brought_up_to_date_and_keeps_its_rows() {
        let mut connection = connect().await;
        apply_list(&mut connection, &DIALECT, &[FIRST])
            .await
            .unwrap();
        sqlx::query("INSERT INTO a (x) VALUES ('kept')")
            .execute(&mut connection)
            .await
            .unwrap();
        for _ in 0..2 {
            apply_list(&mut connection, &DIALECT, &[FIRST, SECOND])
                .await
                .unwrap();
            assert_eq!(tables(&mut connection).await, ["a", "b", "migrations"]);
            assert_eq!(versions(&mut connection).await, [1, 2]);
        }
        let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM a WHERE x = 'kept' AND y IS NULL")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(kept, 1);
    }

    #[tokio::test]
    async fn a_migration_that_fails_leaves_nothing_of_itself() {
        let mut connection = connect().await;
        let error = apply_list(&mut connection, &DIALECT, &[FIRST, SECOND, BROKEN])
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Sql(_)), "{error}");
        assert_eq!(tables(&mut connection).await, ["a", "b", "migrations"]);
        assert_eq!(versions(&mut connection).await, [1, 2]);
    }

    #[test]
    fn versions_are_listed_in_order_without_gaps() {
        let versions: Vec<_> = MIGRATIONS
            .iter()
            .map(|migration| migration.version)
            .collect();
        assert_eq!(versions, (1..=NEWEST).collect::<Vec<_>>());
    }
}
