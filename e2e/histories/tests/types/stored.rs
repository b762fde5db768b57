//! Data files of every format ever written are read by today's code, and later ones are refused.
//!
//! The files in `samples` were written by the release that introduced their format. When one is missing,
//! `UPDATE_EXPECT=1` writes it with today's code; one that is there is never written again.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, new_null_array};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, IntervalUnit, Schema, TimeUnit};
use arrow_select::concat::concat_batches;
use bytes::Bytes;
use flightcluster_catalog::NewFile;
use flightcluster_ingest::TableMode;
use flightcluster_keys::{FORMAT, FORMAT_KEY, METADATA_KEY};

use crate::world::World;

/// Files of each format: rows of every type, and rows of a table with a primary key.
const SAMPLES: [&str; 2] = ["types", "keyed"];

fn path_of(name: &str, format: u32) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/types/samples");
    PathBuf::from(format!("{folder}/{name}-{format}.parquet"))
}

/// Types that columns of files can have, but for those inside others.
fn types() -> Vec<DataType> {
    use DataType::*;
    let units = [
        TimeUnit::Second,
        TimeUnit::Millisecond,
        TimeUnit::Microsecond,
        TimeUnit::Nanosecond,
    ];
    let mut types = vec![
        Null,
        Boolean,
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        Float16,
        Float32,
        Float64,
        Utf8,
        LargeUtf8,
        Utf8View,
        Binary,
        LargeBinary,
        BinaryView,
        Date32,
        Date64,
    ];
    types.extend([FixedSizeBinary(2), Interval(IntervalUnit::YearMonth)]);
    types.extend([
        Time32(units[0]),
        Time32(units[1]),
        Time64(units[2]),
        Time64(units[3]),
    ]);
    types.extend(units.map(Duration));
    types.extend(units.map(|unit| Timestamp(unit, None)));
    types.extend(units.map(|unit| Timestamp(unit, Some("+00:00".into()))));
    types.extend([Decimal32(9, 2), Decimal64(18, 2)]);
    types.extend([Decimal128(38, 4), Decimal256(76, 4)]);
    types.push(Dictionary(Box::new(Int32), Box::new(Utf8)));
    let item = |of| Arc::new(Field::new("item", of, true));
    types.extend([
        List(item(Int32)),
        LargeList(item(Utf8)),
        ListView(item(Int64)),
    ]);
    types.push(FixedSizeList(item(Int16), 1));
    types
}

/// A number, no value, and another number, as values of a type.
fn column(of: &DataType) -> ArrayRef {
    use DataType::*;
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(40)]));
    let through = |first: &DataType| cast(&cast(&numbers, first).unwrap(), of).unwrap();
    match of {
        Null => new_null_array(of, 3),
        FixedSizeBinary(_) => {
            let values = [Some([1, 2]), None, Some([255, 0])].into_iter();
            let array =
                arrow_array::FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 2);
            Arc::new(array.unwrap())
        }
        Binary | LargeBinary | BinaryView | Dictionary(..) => through(&Utf8),
        Interval(_) | Date32 | Time32(_) => through(&Int32),
        List(item) | LargeList(item) | ListView(item) | FixedSizeList(item, _) => {
            through(item.data_type())
        }
        _ => through(&Int64),
    }
}

/// A struct and a map of a text and a number each.
fn nested() -> [(&'static str, ArrayRef); 2] {
    let (texts, numbers) = (column(&DataType::Utf8), column(&DataType::Int64));
    let texts = cast(&texts, &DataType::Utf8).unwrap();
    let fields = vec![
        Arc::new(Field::new("text", DataType::Utf8, true)),
        Arc::new(Field::new("number", DataType::Int64, true)),
    ];
    let nulls = Some(vec![true, false, true].into());
    let structs = arrow_array::StructArray::new(fields.into(), vec![texts, numbers], nulls);
    let mut map = arrow_array::builder::MapBuilder::new(
        None,
        arrow_array::builder::StringBuilder::new(),
        arrow_array::builder::Int64Builder::new(),
    );
    map.keys().append_value("one");
    map.values().append_value(1);
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.append(true).unwrap();
    [
        ("struct", Arc::new(structs)),
        ("map", Arc::new(map.finish())),
    ]
}

/// What a sample holds: of a key the second row is the newer one.
fn rows(sample: &str) -> Vec<RecordBatch> {
    let row = |numbers: [i64; 3]| Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef;
    if sample == "keyed" {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let fields = vec![
            Field::new("row", DataType::Int64, false),
            Field::new("time", time.clone(), false),
            Field::new("value", DataType::Int64, true),
        ];
        let key = (METADATA_KEY.to_owned(), r#"["row", "time"]"#.to_owned());
        let schema = Arc::new(Schema::new_with_metadata(fields, [key].into()));
        let batch = |rows, values| {
            let times = cast(&row(rows), &time).unwrap();
            let columns = vec![row(rows), times, row(values)];
            RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
        };
        return vec![
            batch([3, 1, 2], [30, 10, 20]),
            batch([2, 4, 1], [21, 40, 11]),
        ];
    }
    let mut fields = vec![Field::new("row", DataType::Int64, false)];
    let mut columns = vec![row([1, 2, 3])];
    for of in types() {
        let about = ("about".to_owned(), format!("{of}"));
        let field = Field::new(format!("{of} ä"), of.clone(), true);
        fields.push(field.with_metadata([about].into()));
        columns.push(column(&of));
    }
    for (name, column) in nested() {
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(column);
    }
    vec![RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()]
}

async fn write(world: &World, sample: &str, batches: &[RecordBatch]) {
    let ingest = world.ingest();
    let (table, mode) = (World::table(sample), TableMode::CreateOrAppend);
    let schema = batches[0].schema();
    let writer = ingest.writer(&table, &schema, mode, true).await.unwrap();
    for batch in batches {
        writer.write(batch.clone(), None, None).await.unwrap();
    }
}

/// All rows of a table, in order.
async fn read(world: &World, table: &str) -> Result<RecordBatch, String> {
    let (schema, batches) = world
        .query(format!("SELECT * FROM {table} ORDER BY row"))
        .await?;
    Ok(concat_batches(&schema, &batches).unwrap())
}

/// The stored file of a sample and what the catalog says of it, in a world with an empty table for it.
async fn with_file(world: &World, sample: &str, bytes: Bytes) {
    write(world, sample, &[rows(sample)[0].slice(0, 0)]).await;
    let (table, files) = world.files(sample).await;
    assert_eq!(files, []);
    let keyed = sample == "keyed";
    let file = NewFile {
        table: table.id,
        path: format!("types/{}/stored.parquet", table.id),
        size_bytes: bytes.len() as u64,
        rows: if keyed { 4 } else { 3 },
        schema_version: table.schema_version,
        first_sequence: Default::default(),
        last_sequence: Default::default(),
        time_range_nanos: None,
        sorted: keyed,
    };
    world.add_file(file, bytes).await;
}

#[tokio::test]
async fn a_data_file_of_every_format_is_read() {
    for sample in SAMPLES {
        let world = World::new().await;
        write(&world, sample, &rows(sample)).await;
        let expected = read(&world, sample).await.unwrap();
        let path = path_of(sample, FORMAT);
        if std::env::var_os("UPDATE_EXPECT").is_some() && !path.exists() {
            world.ingest().flush().await.unwrap();
            let (_, files) = world.files(sample).await;
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, world.object(&files[0]).await).unwrap();
        }
        for format in 1..=FORMAT {
            let world = World::new().await;
            let bytes = std::fs::read(path_of(sample, format)).unwrap();
            with_file(&world, sample, bytes.into()).await;
            assert_eq!(read(&world, sample).await.unwrap(), expected, "{sample}");
            // Rows with order numbers of another catalog may pass for later than a deletion in this one.
            if sample == "keyed" {
                continue;
            }
            let delete = format!("DELETE FROM {sample} WHERE row = 2");
            assert_eq!(world.update(delete).await.unwrap(), 1);
            let left = read(&world, sample).await.unwrap();
            let before = expected.slice(0, 1);
            let after = expected.slice(2, expected.num_rows() - 2);
            let rest = concat_batches(&expected.schema(), [&before, &after]).unwrap();
            assert_eq!(left, rest, "{sample}, written again");
        }
    }
}

/// In the footer a text stands behind its length.
fn of_format(bytes: &[u8], format: u8) -> Bytes {
    let mut bytes = bytes.to_vec();
    let key = FORMAT_KEY.as_bytes();
    let at = { bytes.windows(key.len()) }.position(|part| part == key);
    let value = at.unwrap() + key.len() + 2;
    assert_eq!(bytes[value..=value], *FORMAT.to_string().as_bytes());
    bytes[value] = format;
    bytes.into()
}

#[tokio::test]
async fn a_data_file_of_a_later_format_is_refused_and_stays() {
    for sample in SAMPLES {
        let world = World::new().await;
        let bytes = std::fs::read(path_of(sample, FORMAT)).unwrap();
        let later = of_format(&bytes, b'9');
        with_file(&world, sample, later.clone()).await;
        let refused = |error: String| {
            assert!(error.contains("NewerFile"), "{sample}: {error}");
            assert!(error.contains("found: \"9\""), "{sample}: {error}");
        };
        refused(read(&world, sample).await.unwrap_err());
        let filtered = format!("SELECT row FROM {sample} WHERE row > 1");
        refused(world.query(filtered).await.unwrap_err());
        let delete = format!("DELETE FROM {sample} WHERE row = 2");
        refused(world.update(delete).await.unwrap_err());
        let (_, files) = world.files(sample).await;
        assert_eq!(files.len(), 1);
        assert_eq!(world.object(&files[0]).await, later);
    }
}
