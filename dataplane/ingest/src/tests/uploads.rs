//! What was acknowledged for an upload is in its end, and nothing that comes later.

use std::collections::BTreeMap;

use arrow_schema::TimeUnit;
use flightcluster_catalog::{FinishUpload, Table, Upload};

use super::several::Cluster;
use super::*;
use crate::upload::{has_same_times, merged};

const ID: &str = "7f3a";
const HOUR: Duration = Duration::from_secs(3600);

async fn start(cluster: &Cluster) {
    let catalog = &cluster.world.catalog;
    catalog.start_upload(ID, &readings(), HOUR).await.unwrap();
}

async fn stream(ingest: &Ingest) -> TableWriter {
    let (table, schema) = (readings(), numbers_schema());
    ingest.upload_writer(ID, &table, &schema).await.unwrap()
}

async fn finish(cluster: &Cluster) -> Upload {
    let catalog = &cluster.world.catalog;
    let staging = catalog.upload(ID).await.unwrap().staging.unwrap();
    let target = catalog.table(&readings()).await.unwrap();
    let schema = target.as_ref().and_then(|table| {
        merged(&table.name, &table.schema, &table.options, &staging.schema).unwrap()
    });
    let request = FinishUpload {
        id: ID.to_owned(),
        staging_version: staging.schema_version,
        target: target.map(|table| (table.id, table.schema_version)),
        schema,
        forget_times: false,
    };
    catalog.finish_upload(request).await.unwrap()
}

async fn flush(ingest: &Ingest, staging: &Table) {
    let epoch = ingest.ingester().epoch;
    ingest.flush_upload(epoch, staging.id).await.unwrap();
}

/// S3-21, with rows that are in the log of an ingester that crashed.
#[tokio::test]
async fn acknowledged_rows_of_an_upload_survive_a_crash_and_appear_together() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    write(&writer(&a, &readings()).await, [1]).await.unwrap();
    start(&cluster).await;
    write(&stream(&a).await, [2]).await.unwrap();
    let other = stream(&b).await;
    write(&other, [3]).await.unwrap();
    a.flush().await.unwrap();
    write(&stream(&a).await, [4]).await.unwrap();
    drop(a);
    let a = cluster.start("a").await;
    assert_eq!(cluster.numbers(&[&a, &b]).await, [1]);

    let sealed = cluster.world.catalog.seal_upload(ID).await.unwrap();
    assert_eq!(sealed.ingesters.len(), 2);
    let staging = sealed.staging.unwrap();
    for ingest in [&a, &b] {
        flush(ingest, &staging).await;
    }
    let late = write(&other, [5]).await.unwrap_err();
    assert_eq!(late.category(), "upload_sealed");
    assert_eq!(late.fault(), Fault::FailedPrecondition);
    assert_eq!(finish(&cluster).await.rows, 3);
    assert_eq!(cluster.numbers(&[&a, &b]).await, [1, 2, 3, 4]);
    drop((a, b, other));
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    assert_eq!(cluster.numbers(&[&a, &b]).await, [1, 2, 3, 4]);
}

/// The flush waits for a batch that is on its way to the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_acknowledged_while_an_upload_ends_is_in_it() {
    let cluster = Cluster::new().await;
    let a = cluster.start("a").await;
    for round in 0..20_i64 {
        let id = format!("upload-{round}");
        let catalog = &cluster.world.catalog;
        catalog.start_upload(&id, &readings(), HOUR).await.unwrap();
        let table = a.upload_writer(&id, &readings(), &numbers_schema()).await;
        let table = table.unwrap();
        let sending = tokio::spawn(async move {
            let mut acknowledged = 0;
            while write(&table, [round]).await.is_ok() {
                acknowledged += 1;
            }
            acknowledged
        });
        let staging = catalog.seal_upload(&id).await.unwrap().staging.unwrap();
        flush(&a, &staging).await;
        let acknowledged: u64 = sending.await.unwrap();
        let files = catalog.snapshot(&[staging.name]).await.unwrap();
        let files = &files.tables[0].files;
        let stored: u64 = files.iter().map(|file| file.file.rows).sum();
        assert_eq!(stored, acknowledged, "round {round}");
    }
}

#[tokio::test]
async fn streams_of_an_upload_have_the_columns_of_its_table_and_may_add_some() {
    let cluster = Cluster::new().await;
    let a = cluster.start("a").await;
    drop(writer(&a, &readings()).await);
    start(&cluster).await;
    let text = schema(&[("n", DataType::Utf8, false)]);
    let refused = a.upload_writer(ID, &readings(), &text).await.unwrap_err();
    assert_eq!(refused.category(), "type_conflict");
    let message = refused.to_string();
    assert!(message.contains("demo.public.readings"), "{message}");
    let wider = schema(&[
        ("n", DataType::Int64, false),
        ("m", DataType::Float64, false),
    ]);
    let table = a.upload_writer(ID, &readings(), &wider).await.unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![7])),
        Arc::new(arrow_array::Float64Array::from(vec![0.5])),
    ];
    let batch = RecordBatch::try_new(wider, columns).unwrap();
    table.write(batch, None, None).await.unwrap();
    let staging = cluster.world.catalog.seal_upload(ID).await.unwrap().staging;
    flush(&a, &staging.unwrap()).await;
    finish(&cluster).await;
    let target = cluster.world.catalog.table(&readings()).await.unwrap();
    let columns = crate::schema::decode_schema(&target.unwrap().schema).unwrap();
    assert_eq!(columns.fields().len(), 2);
    assert_eq!(cluster.numbers(&[&a]).await, [7]);
}

#[test]
fn an_upload_fits_a_table_that_was_made_meanwhile_or_is_refused() {
    let encode = |fields: &[(&str, DataType, bool)]| crate::schema::encode_schema(&schema(fields));
    let upload = encode(&[("n", DataType::Int64, true), ("m", DataType::Utf8, true)]);
    let category = |fields: &[(&str, DataType, bool)]| {
        let existing = encode(fields);
        merged(&readings(), &existing, &BTreeMap::new(), &upload).map_err(|error| error.category())
    };
    let int = DataType::Int64;
    let same = [("n", int.clone(), true), ("m", DataType::Utf8, true)];
    assert_eq!(category(&same), Ok(None));
    let less = category(&[("n", int.clone(), true)]).unwrap().unwrap();
    let less = crate::schema::decode_schema(&less).unwrap();
    assert_eq!(less.fields().len(), 2);
    let grown = category(&[("n", DataType::Int32, true), ("m", DataType::Utf8, true)]);
    assert_eq!(grown, Ok(Some(upload.clone())));
    assert_eq!(
        category(&[("n", DataType::UInt64, true)]),
        Err("type_conflict")
    );
    assert_eq!(
        category(&[("n", int.clone(), false)]),
        Err("nullable_column")
    );
    assert_eq!(
        category(&[("k", int.clone(), false)]),
        Err("missing_column")
    );
    assert!(category(&[("k", int, true)]).unwrap().is_some());
}

#[test]
fn times_are_those_of_the_target_unless_it_marks_another_column() {
    let column = |name: &str, marked: bool| {
        let mark = marked.then_some(("iox::column::type", "iox::column_type::timestamp"));
        let mark = mark.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let nanos = DataType::Timestamp(arrow_schema::TimeUnit::Nanosecond, None);
        arrow_schema::Field::new(name, nanos, true).with_metadata(mark.into_iter().collect())
    };
    let encode = |columns: [arrow_schema::Field; 2]| {
        crate::schema::encode_schema(&arrow_schema::Schema::new(columns.to_vec()))
    };
    let by_name = encode([column("time", false), column("ts", false)]);
    let by_mark = encode([column("time", false), column("ts", true)]);
    let neither = encode([column("a", false), column("b", false)]);
    for (target, staging, same) in [
        (&by_name, &by_name, true),
        (&by_mark, &by_mark, true),
        (&by_mark, &by_name, false),
        (&by_name, &by_mark, false),
        // Nothing was written down that could be wrong.
        (&by_mark, &neither, true),
        (&neither, &by_name, false),
    ] {
        assert_eq!(has_same_times(target, staging).unwrap(), same);
    }
}

#[test]
fn an_upload_ends_in_a_table_whose_column_grew_meanwhile_and_grows_one() {
    let merged = |target: DataType, staging: DataType| {
        let bytes = |of| schema::encode_schema(&schema(&[("v", of, true)]));
        let (target, staging) = (bytes(target), bytes(staging));
        let merged = crate::upload::merged(&readings(), &target, &BTreeMap::new(), &staging);
        merged.map(|bytes| bytes.map(|bytes| schema::decode_schema(&bytes).unwrap()))
    };
    let (narrow, wide) = (DataType::Int32, DataType::Int64);
    assert_eq!(merged(wide.clone(), narrow.clone()).unwrap(), None);
    let grown = merged(narrow.clone(), wide.clone()).unwrap().unwrap();
    assert_eq!(grown.field(0).data_type(), &DataType::Int64);
    let list = |of: &DataType| DataType::List(Arc::new(Field::new("item", of.clone(), true)));
    assert_eq!(merged(list(&wide), list(&narrow)).unwrap(), None);
    let grown = merged(list(&narrow), list(&wide)).unwrap().unwrap();
    assert_eq!(*grown.field(0).data_type(), list(&wide));
    let error = merged(narrow, DataType::Utf8).unwrap_err();
    assert_eq!(error.category(), "type_conflict");
}

#[test]
fn an_upload_ends_in_a_table_that_grew_elsewhere_inside_the_same_column() {
    let merged = |target: &DataType, staging: &DataType| {
        let bytes = |of: &DataType| schema::encode_schema(&schema(&[("v", of.clone(), true)]));
        let (target, staging) = (bytes(target), bytes(staging));
        let merged = crate::upload::merged(&readings(), &target, &BTreeMap::new(), &staging);
        let of = |bytes| {
            schema::decode_schema(&bytes)
                .unwrap()
                .field(0)
                .data_type()
                .clone()
        };
        merged
            .map(|bytes| bytes.map(of))
            .map_err(|error| error.category())
    };
    let (narrow, wide) = (DataType::Int32, DataType::Int64);
    let list =
        |name: &str, of: &DataType| DataType::List(Arc::new(Field::new(name, of.clone(), true)));
    let pair = |names: [&str; 2], a: &DataType, b: &DataType| {
        let fields = [(names[0], a), (names[1], b)];
        let fields = fields.map(|(name, of)| Field::new(name, of.clone(), true));
        DataType::Struct(fields.into_iter().collect())
    };
    let ab = |a: &DataType, b: &DataType| pair(["a", "b"], a, b);
    assert_eq!(
        merged(&ab(&wide, &narrow), &ab(&narrow, &wide)),
        Ok(Some(ab(&wide, &wide)))
    );
    assert_eq!(merged(&ab(&wide, &wide), &ab(&narrow, &wide)), Ok(None));
    let target = list("item", &ab(&wide, &list("item", &narrow)));
    let staging = list("item", &ab(&narrow, &list("item", &wide)));
    let becomes = list("item", &ab(&wide, &list("item", &wide)));
    assert_eq!(merged(&target, &staging), Ok(Some(becomes)));
    // No field takes the place of another, and nothing becomes narrower or what neither is.
    let conflict = Err("type_conflict");
    assert_eq!(
        merged(&ab(&wide, &wide), &pair(["b", "a"], &wide, &wide)),
        conflict
    );
    assert_eq!(
        merged(&ab(&wide, &DataType::Utf8), &ab(&wide, &wide)),
        conflict
    );
    assert_eq!(
        merged(
            &list("item", &DataType::UInt8),
            &list("item", &DataType::Int8)
        ),
        conflict
    );
    let fixed = |name| DataType::FixedSizeList(Arc::new(Field::new(name, wide.clone(), true)), 2);
    assert_eq!(merged(&fixed("item"), &fixed("element")), conflict);
}

/// The target was dropped and made again while the upload ran, with another type of its key.
#[test]
fn an_upload_widens_no_column_of_a_key() {
    let bytes = |id: DataType, v: DataType| {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
        schema::encode_schema(&schema(&[
            ("id", id, false),
            ("v", v, true),
            ("time", time, false),
        ]))
    };
    let (narrow, wide) = (DataType::Int32, DataType::Int64);
    let target = bytes(narrow.clone(), narrow.clone());
    let fields = schema::decode_schema(&target).unwrap();
    let declared =
        flightcluster_keys::Key::declare(&fields, &["id", "time"].map(str::to_owned), Some(2));
    let options = declared.unwrap().1.options();
    let merged = |staging| crate::upload::merged(&readings(), &target, &options, &staging);
    let grown = bytes(narrow.clone(), wide.clone());
    assert_eq!(merged(grown.clone()).unwrap(), Some(grown));
    for id in [wide, DataType::Int16] {
        let error = merged(bytes(id, narrow.clone())).unwrap_err();
        assert_eq!(error.category(), "type_conflict");
    }
}
