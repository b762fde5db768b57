//! Backup, restore and examination: from each database into each, only whole and only into nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod causes;
#[allow(dead_code, reason = "the contract itself runs in other binaries")]
mod contract;
mod later;
mod postgres_server;

use std::sync::Arc;
use std::time::Duration;

use causes::chain;
use contract::{commit, content, create, file, flush_of, life, ready, register};
use flightcluster_catalog::sql::{Backup, PostgresOptions, SqlCatalog};
use flightcluster_catalog::{
    AsOf, Catalog as _, ClaimProducer, Error, File, FlushCommit, NotReadable, ProducerClaim,
    ProducerPosition, SequenceNumber, Snapshot, Table, TableName,
};
use postgres_server::Server;
use sqlx::Connection as _;
use tempfile::TempDir;

/// A catalog and what must stay while it is used.
struct Place {
    catalog: SqlCatalog,
    directory: Option<TempDir>,
    server: Option<(Arc<Server>, PostgresOptions)>,
}

impl Place {
    async fn sqlite() -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("catalog.sqlite");
        Self {
            catalog: SqlCatalog::open_sqlite(&file).await.unwrap(),
            directory: Some(directory),
            server: None,
        }
    }

    async fn postgres() -> Self {
        let (server, options) = postgres_server::shared().await;
        Self {
            catalog: SqlCatalog::open_postgres(options.clone()).await.unwrap(),
            directory: None,
            server: Some((server, options)),
        }
    }

    /// Gives the catalog the layout of a later release, which this one can use.
    async fn grow(&self) {
        match (&self.directory, &self.server) {
            (_, Some((_, options))) => later::grow_postgres(options, later::READABLE).await,
            (Some(directory), None) => {
                let file = directory.path().join("catalog.sqlite");
                later::grow_sqlite(&file, later::READABLE).await;
            }
            (None, None) => unreachable!(),
        }
    }

    async fn snapshot(&self, table: &Table) -> Snapshot {
        let names = [table.name.clone()];
        self.catalog.snapshot(&names).await.unwrap()
    }
}

/// Puts something into every kind of table.
async fn fill(place: &Place) -> (Table, flightcluster_catalog::Ingester) {
    let catalog: contract::Subject = Arc::new(place.catalog.clone());
    catalog
        .create_database("Ünïcode 日本", false)
        .await
        .unwrap();
    let table = create(&catalog, "kept").await;
    let dropped = create(&catalog, "dropped").await;
    let ingester = register(&catalog, "ingester-0").await;
    commit(&catalog, &ingester, file(dropped.id, "d", 1, 1)).await;
    catalog
        .drop_table(&dropped.name, false, None)
        .await
        .unwrap();
    let mut timed = file(table.id, "a", 2, 3);
    timed.time_range_nanos = Some((i64::MIN, i64::MAX));
    timed.sorted = true;
    let flush = FlushCommit {
        producers: vec![ProducerPosition {
            table: table.id,
            producer: "p\"1\"\n".to_owned(),
            sequence: u64::MAX,
        }],
        ..flush_of(&ingester, vec![timed, file(table.id, "b", 2, 3)])
    };
    catalog.commit_flush(flush).await.unwrap();
    (table, ingester)
}

async fn is_the_same_after(from: Place, to: Place) {
    let (table, ingester) = fill(&from).await;
    let orders = from
        .catalog
        .take_orders(ingester.id, ingester.epoch, 7)
        .await;
    let before = from.snapshot(&table).await;
    let backup = from.catalog.back_up().await.unwrap();
    assert_eq!(backup.header.snapshot, before.id);
    let restored = to.catalog.restore(backup.bytes.clone()).await.unwrap();
    assert_eq!(restored.rows, backup.rows);
    let after = to.snapshot(&table).await;
    assert_eq!(after.tables, before.tables);
    // Objects may have been deleted since: the past begins anew.
    let past = AsOf::Snapshot(before.id);
    assert!(from.catalog.resolve_as_of(past).await.is_ok());
    let refused = to.catalog.resolve_as_of(past).await;
    assert!(
        matches!(refused, Err(Error::NotReadable { why: NotReadable::Gone, edge, .. })
            if edge.snapshot == after.id),
        "{refused:?}"
    );
    assert!(
        to.catalog
            .resolve_as_of(AsOf::Snapshot(after.id))
            .await
            .is_ok()
    );
    assert_eq!(
        to.catalog.list_databases().await.unwrap(),
        from.catalog.list_databases().await.unwrap()
    );
    // Nothing that was given out after the backup is given again, and nobody goes on as if.
    assert!(after.id.0 > before.id.0 + 100_000);
    let catalog: contract::Subject = Arc::new(to.catalog.clone());
    let late = flush_of(&ingester, vec![file(table.id, "late", 4, 4)]);
    let fenced = catalog.commit_flush(late).await;
    assert!(matches!(fenced, Err(Error::Fenced { .. })), "{fenced:?}");
    let registration = catalog
        .register_ingester(life("ingester-0", "u"))
        .await
        .unwrap();
    assert_eq!(registration.ingester.id, ingester.id);
    assert!(registration.ingester.epoch.0 > ingester.epoch.0 + 100_000);
    // A row that was written after the backup is newer than all in it, and older than what comes now.
    let epoch = registration.ingester.epoch;
    let orders_now = to.catalog.take_orders(ingester.id, epoch, 1).await;
    assert!(orders_now.unwrap() > orders.unwrap() + (1 << 50));
    let claim = ClaimProducer {
        ingester: ingester.id,
        epoch: registration.ingester.epoch,
        table: table.id,
        producer: "p\"1\"\n".to_owned(),
        released: None,
    };
    let held = ProducerClaim::Held {
        position: Some(u64::MAX),
    };
    assert_eq!(catalog.claim_producer(claim).await.unwrap(), held);
    let next = create(&catalog, "next").await;
    assert!(next.id.0 > table.id.0 + 100_000);
    commit(&catalog, &registration.ingester, file(table.id, "c", 4, 5)).await;
    assert_eq!(content(&catalog, &table).await.0, ["a", "b", "c"]);
    assert_eq!(to.catalog.examine().await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn a_backup_of_sqlite_fills_sqlite() {
    is_the_same_after(Place::sqlite().await, Place::sqlite().await).await;
}

#[tokio::test]
async fn a_backup_of_sqlite_fills_postgres() {
    is_the_same_after(Place::sqlite().await, Place::postgres().await).await;
}

#[tokio::test]
async fn a_backup_of_postgres_fills_postgres() {
    is_the_same_after(Place::postgres().await, Place::postgres().await).await;
}

#[tokio::test]
async fn a_backup_of_postgres_fills_sqlite() {
    is_the_same_after(Place::postgres().await, Place::sqlite().await).await;
}

/// Rows of such a table may be in a log and nowhere else, and an upload may be finished and answered.
#[tokio::test]
async fn what_is_younger_than_a_backup_is_not_taken_for_dropped_or_given_up() {
    const ID: &str = "u-1";
    for to in [Place::sqlite().await, Place::postgres().await] {
        let from = Place::sqlite().await;
        let (table, _) = fill(&from).await;
        // It had no time left when the backup was taken.
        let started = from.catalog.start_upload(ID, &table.name, Duration::ZERO);
        started.await.unwrap();
        let backup = from.catalog.back_up().await.unwrap();
        let young = create(
            &(Arc::new(from.catalog.clone()) as contract::Subject),
            "young",
        )
        .await;

        let restored = to.catalog.restore(backup.bytes).await.unwrap();
        assert_eq!(restored.uploads, 1);
        assert_eq!(to.catalog.expire_uploads().await.unwrap(), 0);
        let catalog: contract::Subject = Arc::new(to.catalog.clone());
        let ingester = register(&catalog, "ingester-0").await;
        let rows_of = |table: &Table| FlushCommit {
            watermarks: vec![(table.id, SequenceNumber(9))],
            ..flush_of(&ingester, vec![])
        };
        let unknown = catalog.commit_flush(rows_of(&young)).await;
        assert!(
            matches!(unknown, Err(Error::TableNotFound(_))),
            "{unknown:?}"
        );
        // One that was made and dropped since the restore is known to be gone.
        let gone = create(&catalog, "gone").await;
        catalog.drop_table(&gone.name, false, None).await.unwrap();
        let answer = catalog.commit_flush(rows_of(&gone)).await.unwrap();
        assert_eq!(answer.dropped_tables, [gone.id]);
    }
}

/// A log that was cut because of a flush after the backup: its rows are in objects that no catalog names.
async fn is_refused_until_the_loss_is_accepted(from: Place, to: Place) {
    let (table, _) = fill(&from).await;
    let catalog: contract::Subject = Arc::new(from.catalog.clone());
    let before = catalog.register_ingester(life("ingester-0", "u")).await;
    let before = before.unwrap();
    ready(&catalog, &before).await;
    let backup = from.catalog.back_up().await.unwrap();
    let late = commit(&catalog, &before.ingester, file(table.id, "late", 4, 9)).await;

    to.catalog.restore(backup.bytes).await.unwrap();
    let restored: contract::Subject = Arc::new(to.catalog.clone());
    let begin = |seen| {
        let mut request = life("ingester-0", "u");
        request.log.epoch = before.ingester.epoch;
        request.log.seen = Some(seen);
        restored.register_ingester(request)
    };
    for _ in 0..2 {
        let refused = begin(late.stamp()).await.unwrap_err();
        assert!(matches!(refused, Error::RolledBack { .. }), "{refused}");
        assert!(refused.to_string().contains("catalog readmit"), "{refused}");
        // Also when the states around it are forgotten.
        tokio::time::sleep(Duration::from_millis(5)).await;
        restored.forget_history(Duration::ZERO).await.unwrap();
    }
    restored.readmit_ingester("ingester-0").await.unwrap();
    let accepted = begin(late.stamp()).await.unwrap();
    assert_eq!(accepted.ingester.id, before.ingester.id);
    assert_eq!(accepted.watermarks, before.watermarks);
    // A log that relied on nothing newer than the backup goes on without a word.
    begin(before.newest).await.unwrap();
}

#[tokio::test]
async fn a_log_newer_than_the_backup_is_refused_until_the_loss_is_accepted() {
    is_refused_until_the_loss_is_accepted(Place::sqlite().await, Place::sqlite().await).await;
}

#[tokio::test]
async fn a_log_newer_than_the_backup_is_refused_by_postgres_until_the_loss_is_accepted() {
    is_refused_until_the_loss_is_accepted(Place::postgres().await, Place::postgres().await).await;
}

#[tokio::test]
async fn many_rows_are_backed_up_while_others_are_committed() {
    let (from, to) = (Place::sqlite().await, Place::postgres().await);
    let catalog: contract::Subject = Arc::new(from.catalog.clone());
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    let files = (1..=3_000).map(|n| file(table.id, &format!("f{n}"), n, n));
    let flush = flush_of(&ingester, files.collect());
    catalog.commit_flush(flush).await.unwrap();
    let (backup, _) = tokio::join!(from.catalog.back_up(), async {
        for n in 3_001..3_020 {
            commit(&catalog, &ingester, file(table.id, &format!("f{n}"), n, n)).await;
        }
    });
    let backup = backup.unwrap();
    to.catalog.restore(backup.bytes).await.unwrap();
    let files = to.snapshot(&table).await.tables[0].files.clone();
    assert!(files.len() >= 3_000);
    // One moment: every file up to the watermark, none above.
    let restored: contract::Subject = Arc::new(to.catalog.clone());
    let (paths, watermarks) = content(&restored, &table).await;
    assert_eq!(u64::try_from(paths.len()).unwrap(), watermarks[0].1);
    assert_eq!(to.catalog.examine().await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn a_catalog_that_is_not_empty_is_not_restored_into() {
    for place in [Place::sqlite().await, Place::postgres().await] {
        let (table, _) = fill(&place).await;
        let backup = place.catalog.back_up().await.unwrap();
        let before = place.snapshot(&table).await;
        let error = place.catalog.restore(backup.bytes).await.unwrap_err();
        assert!(chain(&error).contains("not empty"), "{}", chain(&error));
        assert_eq!(place.snapshot(&table).await, before);
    }
}

#[tokio::test]
async fn a_damaged_backup_is_refused_and_changes_nothing() {
    let (from, to) = (Place::sqlite().await, Place::sqlite().await);
    fill(&from).await;
    let whole = from.catalog.back_up().await.unwrap().bytes;
    let plain = zstd::decode_all(&*whole).unwrap();
    let text = String::from_utf8(plain).unwrap();
    let pack = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let without_end = &text[..text.trim_end().rfind('\n').unwrap() + 1];
    for (damaged, word) in [
        (whole[..whole.len() / 2].to_vec(), "cut off"),
        (b"no backup at all".to_vec(), "cut off"),
        (pack(&text.replace("kept", "lost")), "damaged"),
        (pack(without_end), "format"),
        (pack(&format!("{text}{{}}\n")), "damaged"),
        (
            pack(&text.replacen("\"format\":1", "\"format\":2", 1)),
            "newer",
        ),
        (
            pack(&text.replacen("\"layout\":", "\"layout\":99", 1)),
            "newer",
        ),
    ] {
        let error = to.catalog.restore(damaged).await.unwrap_err();
        assert!(chain(&error).contains(word), "{word}: {}", chain(&error));
    }
    assert!(to.catalog.list_tables(None).await.unwrap().is_empty());
    to.catalog.restore(whole).await.unwrap();
    assert_eq!(to.catalog.list_tables(None).await.unwrap().len(), 1);
}

/// A backup of each layout, as the program of its time wrote it; those of layouts 2 and 11, which no program kept,
/// are those of 1 and 12 with what the one migration between them added, or without. `UPDATE_EXPECT=1` adds that of
/// the present layout when it is missing.
#[tokio::test]
async fn stored_backups_of_older_layouts_are_restored() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/backups");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let place = Place::sqlite().await;
        fill(&place).await;
        let backup = place.catalog.back_up().await.unwrap();
        let file = format!("{folder}/layout-{}.jsonl.zst", backup.header.layout);
        if !std::fs::exists(&file).unwrap() {
            std::fs::write(file, backup.bytes).unwrap();
        }
    }
    let present = Place::sqlite().await.catalog.back_up().await.unwrap();
    let stored = std::fs::read_dir(folder).unwrap().count() as u64;
    assert_eq!(stored, present.header.layout, "one of each layout");
    for layout in 1..=present.header.layout {
        let bytes = std::fs::read(format!("{folder}/layout-{layout}.jsonl.zst")).unwrap();
        assert_eq!(header_of(&bytes)["layout"], layout);
        for place in [Place::sqlite().await, Place::postgres().await] {
            place.catalog.restore(bytes.clone()).await.unwrap();
            holds_what_was_stored(&place, layout).await;
            // Programs find the same layout as in a new catalog.
            let again = place.catalog.back_up().await.unwrap();
            assert_eq!(again.header.layout, present.header.layout);
            assert_eq!(rows_of(&again, "layouts"), rows_of(&present, "layouts"));
        }
    }
}

/// What [`fill`] put into the catalogs that were backed up, as far as their layouts had places for it.
async fn holds_what_was_stored(place: &Place, layout: u64) {
    let databases = place.catalog.list_databases().await.unwrap();
    let names: Vec<&str> = databases.iter().map(|of| &*of.name).collect();
    assert_eq!(names, ["default", "Ünïcode 日本"], "layout {layout}");
    // The dropped one is not there.
    let tables = place.catalog.list_tables(None).await.unwrap();
    let [table] = &tables[..] else {
        panic!("layout {layout}: {tables:?}");
    };
    assert_eq!(table.name, TableName::public("default", "kept"));
    assert_eq!(table.schema.0, *b"first schema");
    let snapshot = place.snapshot(table).await;
    // Whether a file is sorted came with layout 13.
    let range = Some((i64::MIN, i64::MAX));
    let files: Vec<_> = snapshot.tables[0]
        .files
        .iter()
        .map(|File { file, ingester, .. }| {
            let path = &*file.path;
            assert!(ingester.is_some(), "layout {layout}: {path}");
            assert_eq!(file.schema_version, table.schema_version);
            assert_eq!(file.table, table.id);
            let sequences = (file.first_sequence.0, file.last_sequence.0);
            (
                path,
                file.size_bytes,
                file.rows,
                sequences,
                file.time_range_nanos,
                file.sorted,
            )
        })
        .collect();
    let expected = [
        ("a", 1003, 2, (2, 3), range, layout >= 13),
        ("b", 1003, 2, (2, 3), None, false),
    ];
    assert_eq!(files, expected, "layout {layout}");
    let catalog: contract::Subject = Arc::new(place.catalog.clone());
    let watermarks: Vec<u64> = content(&catalog, table)
        .await
        .1
        .iter()
        .map(|of| of.1)
        .collect();
    assert_eq!(watermarks, [3], "layout {layout}");
    let registered = catalog.register_ingester(life("ingester-0", "u")).await;
    let ingester = registered.unwrap().ingester;
    let claim = ClaimProducer {
        ingester: ingester.id,
        epoch: ingester.epoch,
        table: table.id,
        producer: "p\"1\"\n".to_owned(),
        released: None,
    };
    let held = ProducerClaim::Held {
        position: Some(u64::MAX),
    };
    let claimed = catalog.claim_producer(claim).await;
    assert_eq!(claimed.unwrap(), held, "layout {layout}");
    assert_eq!(place.catalog.examine().await.unwrap().problems, [""; 0]);
}

/// The first line of a backup.
fn header_of(backup: &[u8]) -> serde_json::Value {
    let text = String::from_utf8(zstd::decode_all(backup).unwrap()).unwrap();
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

#[tokio::test]
async fn every_table_of_the_layout_is_in_a_backup() {
    let place = Place::sqlite().await;
    let backup = place.catalog.back_up().await.unwrap();
    let text = String::from_utf8(zstd::decode_all(&*backup.bytes).unwrap()).unwrap();
    let directory = place
        .directory
        .as_ref()
        .unwrap()
        .path()
        .join("catalog.sqlite");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory);
    let mut connection = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'migrations'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(tables.len() >= 21);
    for table in tables {
        let line = format!("{{\"table\":\"{table}\",");
        assert!(
            text.contains(&line),
            "add {table} to TABLES in sql/tables.rs"
        );
    }
}

/// The rows of a table in a backup, as they are written there.
fn rows_of(backup: &Backup, table: &str) -> Vec<String> {
    let text = String::from_utf8(zstd::decode_all(&*backup.bytes).unwrap()).unwrap();
    let start = format!("{{\"table\":\"{table}\",");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
    assert!(lines.next().is_some(), "no table {table}");
    let rows = lines.take_while(|line| line.starts_with('['));
    rows.map(str::to_owned).collect()
}

/// A program that works on the layout of the release after it, which is undone: what it backs up is
/// whole for that release, and it does not mix layouts when it restores.
#[tokio::test]
async fn an_older_program_backs_up_all_of_a_later_layout_and_restores_nothing_into_it() {
    for place in [Place::sqlite().await, Place::postgres().await] {
        let own = Place::sqlite().await.catalog.back_up().await.unwrap();
        place.grow().await;
        let refused = place.catalog.restore(own.bytes).await.unwrap_err();
        let text = chain(&refused);
        assert!(text.contains("restore with the newer program"), "{text}");
        fill(&place).await;

        let backup = place.catalog.back_up().await.unwrap();
        assert_eq!(backup.header.layout, own.header.layout + 1);
        let text = String::from_utf8(zstd::decode_all(&*backup.bytes).unwrap()).unwrap();
        assert_eq!(rows_of(&backup, later::TABLE), ["[\"kept\",1]"]);
        let files = text
            .lines()
            .find(|line| line.starts_with("{\"table\":\"files\""));
        assert!(files.unwrap().contains("\"of_later\""));

        // Only the later program knows how to fill it.
        let empty = Place::sqlite().await;
        let refused = empty.catalog.restore(backup.bytes).await.unwrap_err();
        assert!(chain(&refused).contains("use the program that wrote it"));
    }
}

#[tokio::test]
async fn contradictions_are_found() {
    let place = Place::postgres().await;
    let catalog = &place.catalog;
    let (_, options) = place.server.as_ref().unwrap();
    fill(&place).await;
    assert_eq!(catalog.examine().await.unwrap().problems, [""; 0]);
    let url = std::fs::read_to_string(&options.url_file).unwrap();
    let mut connection = sqlx::PgConnection::connect(url.trim()).await.unwrap();
    for (damage, word) in [
        ("UPDATE watermarks SET sequence = 1", "above the watermark"),
        (
            "UPDATE files SET first_sequence = 9 WHERE path = 'a'",
            "after their end",
        ),
        (
            "UPDATE counters SET value = 0 WHERE kind = 'file'",
            "not given yet",
        ),
        (
            "UPDATE files SET end_snapshot = NULL WHERE path = 'd'",
            "were dropped",
        ),
    ] {
        sqlx::query(damage).execute(&mut connection).await.unwrap();
        let problems = catalog.examine().await.unwrap().problems.join("; ");
        assert!(problems.contains(word), "{problems}");
    }
}
