//! The layout of the catalog's tables and its versions.
//!
//! Each version is one SQL file, applied once and in order, each in its own transaction. What has
//! been applied is recorded in the table `migrations`. Processes that start together take turns.
//!
//! # Programs older than the layout
//! A release is undone by starting the one before, which finds the layout of the newer one. So every
//! layout can be used by programs that know the layout before it: it adds tables, and columns with
//! defaults, and what an older program does not write there may be missing. What nobody uses any more
//! is removed by a layout of the release after. The table `layouts` records who may use each; a
//! database whose layout has no place for this program is refused.

use sqlx::{AssertSqlSafe, Connection as _};

use super::clock::now_millis;
use super::dialect::{Connection, Dialect};
use super::tables;
use super::value::stored;

struct Migration {
    version: u64,
    name: &'static str,
    statements: &'static str,
    /// `None` for layouts that only programs that know them can use, from before there was a record.
    readers: Option<Readers>,
}

/// What a layout records for programs that do not know it.
#[derive(Clone, Copy)]
struct Readers {
    /// Programs that know the layouts up to this one can use it.
    oldest: u64,
    /// The tables it made, for backups; each after those it refers to.
    new_tables: &'static [&'static str],
}

const fn unrecorded(version: u64, name: &'static str, statements: &'static str) -> Migration {
    Migration {
        version,
        name,
        statements,
        readers: None,
    }
}

const MIGRATIONS: &[Migration] = &[
    unrecorded(1, "initial", include_str!("migrations/0001_initial.sql")),
    unrecorded(
        2,
        "producer_claims",
        include_str!("migrations/0002_producer_claims.sql"),
    ),
    unrecorded(3, "upkeep", include_str!("migrations/0003_upkeep.sql")),
    unrecorded(4, "uploads", include_str!("migrations/0004_uploads.sql")),
    unrecorded(
        5,
        "times_and_restores",
        include_str!("migrations/0005_times_and_restores.sql"),
    ),
    unrecorded(
        6,
        "log_identity",
        include_str!("migrations/0006_log_identity.sql"),
    ),
    unrecorded(
        7,
        "database_options",
        include_str!("migrations/0007_database_options.sql"),
    ),
    unrecorded(8, "orders", include_str!("migrations/0008_orders.sql")),
    unrecorded(
        9,
        "oldest_snapshot",
        include_str!("migrations/0009_oldest_snapshot.sql"),
    ),
    unrecorded(
        10,
        "statement_producers",
        include_str!("migrations/0010_statement_producers.sql"),
    ),
    unrecorded(
        11,
        "open_tables",
        include_str!("migrations/0011_open_tables.sql"),
    ),
    unrecorded(
        12,
        "statements",
        include_str!("migrations/0012_statements.sql"),
    ),
    unrecorded(
        13,
        "sorted_files",
        include_str!("migrations/0013_sorted_files.sql"),
    ),
    unrecorded(14, "writers", include_str!("migrations/0014_writers.sql")),
    Migration {
        version: 15,
        name: "layouts",
        statements: include_str!("migrations/0015_layouts.sql"),
        readers: Some(Readers {
            oldest: 15,
            new_tables: &["layouts"],
        }),
    },
    Migration {
        version: 16,
        name: "histories",
        statements: include_str!("migrations/0016_histories.sql"),
        readers: Some(Readers {
            oldest: 15,
            new_tables: &["histories"],
        }),
    },
    Migration {
        version: 17,
        name: "readmissions",
        statements: include_str!("migrations/0017_readmissions.sql"),
        readers: Some(Readers {
            oldest: 15,
            new_tables: &[],
        }),
    },
];

/// The newest layout this program knows.
pub(super) const NEWEST: u64 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// Why the layout could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "the catalog has layout {found}, which programs use that know layouts up to {oldest} or more; \
         this one knows layouts up to {known}: start a newer program, or restore a backup taken before \
         the upgrade"
    )]
    Newer { found: i64, oldest: i64, known: u64 },
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
    let known = list.last().map_or(0, |newest| newest.version);
    refuse_unless_readable(connection, dialect, known).await
}

/// Refuses a layout that a program with these layouts can't use.
async fn refuse_unless_readable(
    c: &mut Connection,
    dialect: &Dialect,
    known: u64,
) -> Result<(), Error> {
    let newer: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM migrations WHERE version > $1 ORDER BY version")
            .bind(stored(known)?)
            .fetch_all(&mut *c)
            .await?;
    let Some(found) = newer.last().copied() else {
        return Ok(());
    };
    let mut oldest = 0;
    for version in newer {
        oldest = oldest.max(oldest_reader(c, dialect, version).await?);
    }
    if oldest > stored(known)? {
        return Err(Error::Newer {
            found,
            oldest,
            known,
        });
    }
    tracing::warn!(
        found,
        known,
        "the catalog has the layout of a newer release, which this release can use"
    );
    Ok(())
}

/// The oldest program that can use a layout: the layout itself when nothing is recorded.
async fn oldest_reader(
    c: &mut Connection,
    dialect: &Dialect,
    version: i64,
) -> Result<i64, sqlx::Error> {
    if !tables::exists(c, dialect, "layouts").await? {
        return Ok(version);
    }
    let recorded: Option<i64> =
        sqlx::query_scalar("SELECT oldest_reader FROM layouts WHERE version = $1")
            .bind(version)
            .fetch_optional(c)
            .await?;
    Ok(recorded.unwrap_or(version))
}

/// The tables of layouts that are newer than this program, each after those it refers to.
pub(super) async fn newer_tables(c: &mut Connection) -> Result<Vec<String>, sqlx::Error> {
    let lists: Vec<String> =
        sqlx::query_scalar("SELECT new_tables FROM layouts WHERE version > $1 ORDER BY version")
            .bind(stored(NEWEST)?)
            .fetch_all(c)
            .await?;
    let names = lists.iter().flat_map(|list| list.split_whitespace());
    Ok(names.map(str::to_owned).collect())
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
        .execute(&mut *c)
        .await?;
    let Some(readers) = migration.readers else {
        return Ok(());
    };
    sqlx::query("INSERT INTO layouts (version, oldest_reader, new_tables) VALUES ($1, $2, $3)")
        .bind(stored(migration.version)?)
        .bind(stored(readers.oldest)?)
        .bind(readers.new_tables.join(" "))
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

    const FIRST: Migration = unrecorded(1, "first", "CREATE TABLE a (x {bytes})");
    const SECOND: Migration = unrecorded(
        2,
        "second",
        "ALTER TABLE a ADD COLUMN y BIGINT; CREATE TABLE b (z TEXT)",
    );
    const BROKEN: Migration = unrecorded(
        3,
        "broken",
        "CREATE TABLE c (z TEXT); INSERT INTO nowhere VALUES (1)",
    );

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

    const LAYOUTS: Migration = Migration {
        version: 2,
        name: "layouts",
        statements: include_str!("migrations/0015_layouts.sql"),
        readers: Some(Readers {
            oldest: 2,
            new_tables: &["layouts"],
        }),
    };
    const ADDS: Migration = Migration {
        version: 3,
        name: "adds",
        statements: "CREATE TABLE b (z TEXT)",
        readers: Some(Readers {
            oldest: 2,
            new_tables: &["b"],
        }),
    };
    const REMOVES: Migration = Migration {
        version: 4,
        name: "removes",
        statements: "DROP TABLE a",
        readers: Some(Readers {
            oldest: 3,
            new_tables: &[],
        }),
    };

    #[tokio::test]
    async fn a_layout_is_used_by_the_programs_it_records_and_refused_by_those_before() {
        let mut c = connect().await;
        apply_list(&mut c, &DIALECT, &[FIRST, LAYOUTS, ADDS])
            .await
            .unwrap();
        for older in [&[FIRST, LAYOUTS][..], &[FIRST, LAYOUTS, ADDS]] {
            apply_list(&mut c, &DIALECT, older).await.unwrap();
        }
        let error = apply_list(&mut c, &DIALECT, &[FIRST]).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Newer {
                    found: 3,
                    oldest: 2,
                    known: 1
                }
            ),
            "{error}"
        );

        apply_list(&mut c, &DIALECT, &[FIRST, LAYOUTS, ADDS, REMOVES])
            .await
            .unwrap();
        apply_list(&mut c, &DIALECT, &[FIRST, LAYOUTS, ADDS])
            .await
            .unwrap();
        let refused = apply_list(&mut c, &DIALECT, &[FIRST, LAYOUTS]).await;
        assert!(
            matches!(refused, Err(Error::Newer { oldest: 3, .. })),
            "{refused:?}"
        );
        // What a layout in between asks for holds as well.
        const FOR_ALL: &str = "UPDATE layouts SET oldest_reader = 2 WHERE version = 4;
                               UPDATE layouts SET oldest_reader = 3 WHERE version = 3";
        sqlx::raw_sql(FOR_ALL).execute(&mut c).await.unwrap();
        let refused = apply_list(&mut c, &DIALECT, &[FIRST, LAYOUTS]).await;
        assert!(
            matches!(refused, Err(Error::Newer { oldest: 3, .. })),
            "{refused:?}"
        );
    }

    /// A release is undone by starting the one before on the same catalog. Not to be weakened: what a
    /// layout removes must be unused in the release before.
    #[tokio::test]
    async fn every_layout_can_be_used_by_programs_that_know_the_one_before() {
        let mut c = connect().await;
        create_record(&mut c, &DIALECT).await.unwrap();
        for migration in MIGRATIONS {
            let before = tables(&mut c).await;
            apply_one(&mut c, &DIALECT, migration).await.unwrap();
            let mut made = tables(&mut c).await;
            made.retain(|table| !before.contains(table));
            let version = migration.version;
            if version < 15 {
                continue;
            }
            let readers = migration.readers.unwrap();
            // Programs before layout 15 look for no record.
            assert!(
                readers.oldest < version || version == 15,
                "layout {version}"
            );
            let mut told = readers.new_tables.to_vec();
            told.sort_unstable();
            assert_eq!(told, made, "layout {version}");
        }
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
