//! When flushes happen, what the files hold, and how long rows stay.

use std::collections::BTreeMap;

use flightcluster_catalog::{BLOOM_FILTER, OptionsOf, SetOptions};
use futures::TryStreamExt as _;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use tokio::sync::Notify;

use super::*;

#[derive(Debug, Default)]
pub(super) struct Flushed(pub(super) Notify);

impl Observer for Flushed {
    fn flushed(&self, _: Duration, _: u64, _: u64, _: u64) {
        self.0.notify_one();
    }
}

pub(super) async fn open_observed(world: &World) -> (Arc<Ingest>, Arc<Flushed>) {
    let flushed = Arc::new(Flushed::default());
    let observer = Arc::clone(&flushed) as Arc<dyn Observer>;
    (
        Ingest::open(IngestOptions {
            observer,
            ..world.options()
        })
        .await
        .unwrap(),
        flushed,
    )
}

#[tokio::test]
async fn a_table_is_flushed_when_it_is_large_enough() {
    let mut world = World::new().await;
    world.config.flush_bytes = ByteSize(10_000);
    let (ingest, flushed) = open_observed(&world).await;
    let table = writer(&ingest, &readings()).await;
    write(&table, 0..600).await.unwrap();
    write(&table, 600..2000).await.unwrap();
    flushed.0.notified().await;
    assert_eq!(world.files(&readings()).await[0].file.rows, 2000);
}

#[tokio::test]
async fn a_table_is_flushed_when_its_oldest_row_is_old_enough() {
    let mut world = World::new().await;
    world.config.flush_interval = Duration::from_millis(40);
    let (ingest, flushed) = open_observed(&world).await;
    write(&writer(&ingest, &readings()).await, [1])
        .await
        .unwrap();
    world.hand.advance(Duration::from_millis(40));
    flushed.0.notified().await;
    assert_eq!(world.files(&readings()).await.len(), 1);
}

#[tokio::test]
async fn a_flush_waits_for_memory_of_its_own_while_writes_go_on() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    write(&table, 0..10).await.unwrap();
    let core = ingest.core_for_tests();
    let memory = core.persist.take(u64::MAX).await.unwrap();
    let flushing = tokio::spawn({
        let ingest = Arc::clone(&ingest);
        async move { ingest.flush().await }
    });
    for number in 10..200 {
        write(&table, [number]).await.unwrap();
    }
    assert!(!flushing.is_finished(), "another file has the memory");
    assert_eq!(world.files(&readings()).await.len(), 0);
    drop(memory);
    flushing.await.unwrap().unwrap();
    assert_eq!(world.files(&readings()).await.len(), 1);
}

#[tokio::test]
async fn the_flusher_retries_what_failed() {
    let mut world = World::new().await;
    world.config.flush_interval = Duration::from_millis(40);
    world.catalog.fail_commit(faults::Fault::Request);
    world.catalog.fail_commit(faults::Fault::Answer);
    let (ingest, flushed) = open_observed(&world).await;
    write(&writer(&ingest, &readings()).await, [1])
        .await
        .unwrap();
    world.hand.advance(Duration::from_millis(40));
    flushed.0.notified().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
    assert_eq!(ingest.statistics().flush_failures, 2);
}

/// Found by the history checker: the same commit was sent again for ever.
#[tokio::test]
async fn a_flush_whose_object_was_given_up_is_written_anew() {
    let world = World::new().await;
    let ingest = world.open().await;
    write(&writer(&ingest, &readings()).await, [1])
        .await
        .unwrap();
    world.catalog.fail_commit(faults::Fault::Request);
    ingest.flush().await.unwrap_err();
    let objects: Vec<_> = world.store.list(None).try_collect().await.unwrap();
    let given_up = vec![objects[0].location.to_string()];
    assert_eq!(world.catalog.condemn_paths(&given_up).await.unwrap(), 1);
    ingest.flush().await.unwrap_err();
    ingest.flush().await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
    let files = world.files(&readings()).await;
    assert_ne!(files[0].file.path, given_up[0]);
}

/// Names of databases are encoded in paths, which are taken as they are when the object is removed.
#[tokio::test]
async fn a_refused_flush_removes_its_object_whatever_the_name_of_its_database() {
    let world = World::new().await;
    let ingest = world.open().await;
    let name = TableName::public("Größe 100%", "t");
    write(&writer(&ingest, &name).await, [1]).await.unwrap();
    *world.catalog.behind_millis.lock() = 25 * 3_600_000;
    ingest.flush().await.unwrap_err();
    let objects: Vec<_> = world.store.list(None).try_collect().await.unwrap();
    assert_eq!(objects, []);
    assert_eq!(world.numbers(&ingest, &name).await, [1]);
}

/// One answer without a table, be it of a catalog that lags behind, must not cost its rows.
#[tokio::test]
async fn rows_of_a_live_table_that_was_taken_for_dropped_stay() {
    let world = World::new().await;
    let ingest = world.open().await;
    write(&writer(&ingest, &readings()).await, [1])
        .await
        .unwrap();
    let table = world.catalog.table(&readings()).await.unwrap();
    *world.catalog.unlisted.lock() = table.map(|table| table.id);
    let error = ingest.flush().await.unwrap_err();
    assert_eq!(error.category(), "catalog", "{error:?}");
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
    *world.catalog.unlisted.lock() = None;
    ingest.flush().await.unwrap();
    assert_eq!(world.files(&readings()).await.len(), 1);
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
}

/// A process that slept between storing a file and committing it: the object may be gone since.
#[tokio::test]
async fn a_flush_that_is_sent_too_late_is_written_anew() {
    let world = World::new().await;
    let ingest = world.open().await;
    write(&writer(&ingest, &readings()).await, [1])
        .await
        .unwrap();
    let hours = |hours: i64| hours * 3_600_000;
    *world.catalog.behind_millis.lock() = hours(25);
    ingest.flush().await.unwrap_err();
    assert_eq!(world.files(&readings()).await, []);
    *world.catalog.behind_millis.lock() = hours(23);
    ingest.flush().await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
    let commits = world.catalog.commit_log.lock();
    let paths: Vec<_> = commits.iter().map(|commit| &commit.files[0].path).collect();
    assert_ne!(paths[0], paths[1]);
}

#[tokio::test]
async fn flushed_rows_are_too_old_after_the_grace() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    write(&table, [1]).await.unwrap();
    write(&table, [2]).await.unwrap();
    ingest.flush().await.unwrap();
    write(&table, [3]).await.unwrap();
    let id = table.table().id;
    world
        .hand
        .advance(world.config.flushed_grace - Duration::from_secs(1));
    assert_eq!(
        ingest
            .recent(id, SequenceNumber(0))
            .unwrap()
            .read_all()
            .unwrap()
            .len(),
        3
    );
    world.hand.advance(Duration::from_secs(1));
    let too_old = ingest.recent(id, SequenceNumber(1)).unwrap_err();
    assert_eq!(
        (too_old.after, too_old.held_after),
        (SequenceNumber(1), SequenceNumber(2))
    );
    let recent = ingest
        .recent(id, SequenceNumber(2))
        .unwrap()
        .read_all()
        .unwrap();
    assert_eq!(recent, [(SequenceNumber(3), numbers([3]))]);
}

#[tokio::test]
async fn a_file_explains_itself() {
    let mut world = World::new().await;
    world.config.max_row_group_rows = 100;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    write(&table, 0..150).await.unwrap();
    write(&table, 150..250).await.unwrap();
    ingest.flush().await.unwrap();
    let path = &world.files(&readings()).await[0].file.path;
    let path = object_store::path::Path::parse(path).unwrap();
    let bytes = world.store.get(&path).await.unwrap().bytes().await.unwrap();
    let reader = SerializedFileReader::new(bytes).unwrap();
    let metadata = reader.metadata();
    let groups: Vec<i64> = metadata
        .row_groups()
        .iter()
        .map(|group| group.num_rows())
        .collect();
    assert_eq!(groups, [100, 100, 50]);
    let pairs = metadata.file_metadata().key_value_metadata().unwrap();
    let value = |key: &str| {
        let pair = pairs.iter().find(|pair| pair.key == key);
        pair.and_then(|pair| pair.value.clone()).unwrap()
    };
    assert_eq!(
        value("flightcluster.table_id"),
        table.table().id.to_string()
    );
    assert_eq!(value("flightcluster.schema_version"), "1");
    assert_eq!(value("flightcluster.first_sequence"), "1");
    assert_eq!(value("flightcluster.last_sequence"), "2");
    assert_eq!(value("flightcluster.format"), "1");
    assert!(!value("ARROW:schema").is_empty());
}

/// Building a dictionary of measurements took a third of all encoding, and was given up each time.
#[tokio::test]
async fn texts_get_a_dictionary_and_numbers_are_stored_as_differences() {
    use arrow_array::{Float64Array, Int64Array, StringArray};
    use parquet::basic::Encoding;
    let world = World::new().await;
    let ingest = world.open().await;
    let columns = [
        ("n", DataType::Int64),
        ("tag", DataType::Utf8),
        ("value", DataType::Float64),
    ];
    let columns = schema(&columns.map(|(name, of)| (name, of, true)));
    let table = ingest
        .writer(&readings(), &columns, TableMode::CreateOrAppend, true)
        .await
        .unwrap();
    let batch = RecordBatch::try_new(
        columns,
        vec![
            Arc::new(Int64Array::from_iter_values(0..1000)),
            Arc::new(StringArray::from(vec!["a"; 1000])),
            Arc::new(Float64Array::from(vec![0.5; 1000])),
        ],
    );
    table.write(batch.unwrap(), None, None).await.unwrap();
    ingest.flush().await.unwrap();
    let path = &world.files(&readings()).await[0].file.path;
    let path = object_store::path::Path::parse(path).unwrap();
    let bytes = world.store.get(&path).await.unwrap().bytes().await.unwrap();
    let reader = SerializedFileReader::new(bytes).unwrap();
    let group = reader.metadata().row_group(0);
    let uses = |at: usize, encoding| group.column(at).encodings().any(|each| each == encoding);
    assert!(uses(0, Encoding::DELTA_BINARY_PACKED));
    assert!(uses(1, Encoding::RLE_DICTIONARY));
    assert!(!uses(0, Encoding::RLE_DICTIONARY) && !uses(2, Encoding::RLE_DICTIONARY));
}

#[tokio::test]
async fn a_file_has_bloom_filters_of_the_columns_that_its_table_names() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    write(&table, 0..2000).await.unwrap();
    let column = table.schema().field(0).name().clone();
    ingest.flush().await.unwrap();
    let changes = BTreeMap::from([(BLOOM_FILTER.to_owned(), Some(column))]);
    let of = OptionsOf::Table(readings());
    let set = world.catalog.set_options(SetOptions {
        of,
        changes,
        seen: None,
        id: None,
    });
    set.await.unwrap();
    write(&table, 2000..4000).await.unwrap();
    write(&table, 4000..4003).await.unwrap();
    ingest.flush().await.unwrap();
    write(&table, [4003]).await.unwrap();
    ingest.flush().await.unwrap();
    let mut sizes = Vec::new();
    for file in world.files(&readings()).await {
        let path = object_store::path::Path::parse(&file.file.path).unwrap();
        let bytes = world.store.get(&path).await.unwrap().bytes().await.unwrap();
        let reader = SerializedFileReader::new(bytes).unwrap();
        let columns = reader.metadata().row_group(0).columns();
        let of_columns = columns.iter().map(|column| column.bloom_filter_length());
        sizes.push((file.file.rows, of_columns.collect::<Vec<_>>()));
    }
    sizes.sort();
    let [(1, one), (2000, none), (2003, many)] = &sizes[..] else {
        panic!("{sizes:?}")
    };
    assert!(none.iter().all(Option::is_none), "from before the option");
    assert!(one[0].unwrap() < 100, "as large as its values need");
    assert!(many[0].unwrap() > 2000, "{many:?}");
    assert!(many[1..].iter().all(Option::is_none));
}

#[tokio::test]
async fn a_file_tells_the_range_of_its_time_column() {
    use arrow_array::TimestampMillisecondArray;
    let world = World::new().await;
    let ingest = world.open().await;
    let unit = arrow_schema::TimeUnit::Millisecond;
    let times = schema(&[("time", DataType::Timestamp(unit, None), true)]);
    let mut ranges = Vec::new();
    for values in [
        vec![Some(5), Some(-3), Some(4)],
        vec![Some(1), None],
        vec![Some(i64::MAX)],
    ] {
        let name = TableName::public("demo", format!("t{}", ranges.len()));
        let mode = TableMode::Create;
        let table = ingest.writer(&name, &times, mode, true).await.unwrap();
        let column = Arc::new(TimestampMillisecondArray::from(values)) as ArrayRef;
        let batch = RecordBatch::try_new(Arc::clone(&times), vec![column]).unwrap();
        table.write(batch, None, None).await.unwrap();
        ingest.flush().await.unwrap();
        ranges.push(world.files(&name).await[0].file.time_range_nanos);
    }
    assert_eq!(ranges, [Some((-3_000_000, 5_000_000)), None, None]);
}

#[tokio::test]
async fn large_amounts_are_cut_into_several_files_of_several_parts() {
    let mut world = World::new().await;
    world.config.flush_bytes = ByteSize(9_000_000);
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    // Batches of 9 MB that do not compress.
    let values = |seed: u64| {
        let mut state = seed;
        (0..1_150_000).map(move |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state ^ (state >> 29)) as i64
        })
    };
    world.store.refuse_puts(true);
    for seed in 1..=3 {
        write(&table, values(seed)).await.unwrap();
    }
    world.store.refuse_puts(false);
    ingest.flush().await.unwrap();
    let files = world.files(&readings()).await;
    assert_eq!(
        files.iter().map(|f| f.file.rows).collect::<Vec<_>>(),
        [1_150_000; 3]
    );
    assert!(files.iter().all(|file| file.file.size_bytes > 8 << 20));
    let sum = |values: &mut dyn Iterator<Item = i64>| values.fold(0_i64, i64::wrapping_add);
    let found = world.numbers(&ingest, &readings()).await;
    assert_eq!(
        sum(&mut found.into_iter()),
        sum(&mut (1..=3).flat_map(values))
    );
}

#[tokio::test]
async fn files_go_to_a_local_directory_as_well() {
    let mut world = World::new().await;
    let objects = world.directory.path().join("objects");
    std::fs::create_dir(&objects).unwrap();
    let local = object_store::local::LocalFileSystem::new_with_prefix(&objects).unwrap();
    world.store = Arc::new(FaultyStore::over(Arc::new(local)));
    let ingest = world.open().await;
    write(&writer(&ingest, &readings()).await, 0..10)
        .await
        .unwrap();
    ingest.flush().await.unwrap();
    let path = objects.join(&world.files(&readings()).await[0].file.path);
    assert!(path.is_file());
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..10).collect::<Vec<_>>()
    );
}
