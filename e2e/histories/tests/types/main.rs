//! A property of every type: random schemas and values, sent as Arrow Flight messages or as arrays, come
//! back with equal types, values, nulls and field metadata from the buffer, from the log, after a restart, from Parquet
//! files, and from files that were written again; types that can't be are refused, named.
//!
//! A case is a table from a seed ([`case`]): its columns, and up to three batches that may lack columns,
//! bring new ones, or have narrower and wider types ([`kinds`]). What has to come back is said by rules
//! written for this test, not by the code. Values are built into arrays in odd layouts ([`values`]): with
//! offsets, with items nobody refers to, with words twice.
//!
//! Data files that earlier releases wrote are read as well ([`stored`]).
//!
//! A case that fails is made smaller as long as it fails, and printed with its seed. `SEED=n SEEDS=count`
//! runs those seeds and no others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod case;
mod kinds;
mod stored;
mod values;
mod world;

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{Array as _, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use flightcluster_ingest::{TableMode, TableWriter};
use flightcluster_wire::{BatchEncoder, DecodeLimits, Decoded, EncodeLimits, StreamDecoder};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use case::{Batch, Case, ROW};
use world::World;

/// Seeds that are run every time, and fresh ones.
const FIXED: u64 = 80;
const FRESH: u64 = 40;
/// Structs that are null over lists of a fixed size that may hold no null.
const LISTS_BELOW_NULL: Range<u64> = 262..263;
/// Tables of one restart and one flush.
const TOGETHER: usize = 40;
/// Smaller cases that are tried.
const ATTEMPTS: usize = 300;

/// Where rows are when they are read.
const PLACES: [&str; 5] = ["buffer", "log", "replay", "file", "rewritten file"];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap())
}

fn seeds() -> Vec<Range<u64>> {
    if let Some(first) = number("SEED") {
        let count = number("SEEDS").unwrap_or(1);
        return std::iter::once(first..first + count).collect();
    }
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let fresh = fresh.as_millis() as u64;
    vec![0..FIXED, LISTS_BELOW_NULL, fresh..fresh + FRESH]
}

/// A batch as a server gets it: the rows, and the messages for the log.
fn received(batch: &RecordBatch) -> Result<Option<(RecordBatch, Raw)>, String> {
    let mut encoder = BatchEncoder::try_new(batch.schema(), EncodeLimits::default())
        .map_err(|error| format!("encode: {error:?}"))?;
    let mut decoder = StreamDecoder::new(DecodeLimits::default());
    let mut messages = vec![encoder.schema_message()];
    let rows = encoder.encode(batch.clone());
    messages.extend(rows.map_err(|error| format!("encode: {error:?}"))?);
    let mut found = None;
    for message in messages {
        let decoded = decoder.push(message);
        if let Decoded::Batch(got) = decoded.map_err(|error| format!("decode: {error:?}"))? {
            let raw = got.raw.map(|raw| vec![(raw.header, raw.body)]);
            assert!(found.is_none(), "a small batch is one message");
            found = Some((got.batch, raw));
        }
    }
    Ok(found)
}

type Raw = Option<Vec<(Bytes, Bytes)>>;

/// Sends the batches of a case to a table.
async fn send(world: &World, name: &str, case: &Case) -> Result<(), String> {
    let ingest = world.ingest();
    let mut first: Option<TableWriter> = None;
    for batch in &case.batches {
        let sent = case.sent(batch);
        let opened;
        let writer = match &first {
            Some(first) if batch.in_first_stream => first,
            _ => {
                let table = World::table(name);
                let mode = TableMode::CreateOrAppend;
                let writer = ingest.writer(&table, &sent.schema(), mode, true).await;
                opened = writer.map_err(|error| format!("refused: {error}"))?;
                &opened
            }
        };
        write(writer, batch, sent).await?;
        if first.is_none() {
            let table = World::table(name);
            let mode = TableMode::CreateOrAppend;
            let schema = case.sent(&case.batches[0]).schema();
            let again = ingest.writer(&table, &schema, mode, true).await;
            first = Some(again.map_err(|error| format!("refused: {error}"))?);
        }
    }
    Ok(())
}

async fn write(writer: &TableWriter, batch: &Batch, sent: RecordBatch) -> Result<(), String> {
    let (rows, raw) = if batch.by_flight {
        match received(&sent)? {
            Some(received) => received,
            // Nothing is sent for no rows.
            None => return Ok(()),
        }
    } else {
        (sent, None)
    };
    let written = writer.write(rows, raw, None).await;
    written
        .map(drop)
        .map_err(|error| format!("write: {error:?}"))
}

/// Whether a table holds what was sent, but for rows that were deleted.
async fn check(world: &World, name: &str, case: &Case, deleted: bool) -> Result<(), String> {
    let (announced, batches) = world.query(format!("SELECT * FROM {name}")).await?;
    let expected = case.expected_schema();
    same_fields(&announced, &expected)?;
    let mut found = Vec::new();
    for batch in &batches {
        same_fields(batch.schema_ref(), &expected)?;
        let rows = batch
            .column_by_name(ROW)
            .unwrap()
            .as_primitive::<Int64Type>();
        found.extend_from_slice(rows.values());
        for (column, field) in batch.columns().iter().zip(expected.fields()) {
            let expected = case.expected(field, rows);
            column
                .to_data()
                .validate_full()
                .map_err(|error| format!("{field:?}: {error}"))?;
            if column.as_ref() != expected.as_ref() {
                return Err(format!(
                    "{field:?}: expected {expected:?}, found {column:?}"
                ));
            }
        }
    }
    found.sort_unstable();
    let mut rows = case.rows();
    rows.retain(|row| !deleted || row % 3 != 0);
    if found != rows {
        return Err(format!("expected rows {rows:?}, found {found:?}"));
    }
    Ok(())
}

fn same_fields(found: &Schema, expected: &Schema) -> Result<(), String> {
    if found.fields() == expected.fields() {
        return Ok(());
    }
    Err(format!(
        "expected fields {:?}, found {:?}",
        expected.fields(),
        found.fields()
    ))
}

/// What is wrong with the first of these cases that fails, in the order of the places.
async fn failure(world: &World, cases: &[(u64, Case)]) -> Option<(usize, String)> {
    let name = |at: usize| format!("t{at}");
    for (at, (_, case)) in cases.iter().enumerate() {
        world.drop_table(&name(at)).await;
        if let Err(error) = send(world, &name(at), case).await {
            return Some((at, error));
        }
    }
    for place in PLACES {
        match place {
            "log" => {
                world.ingest().spill_all();
                let spilled = world.ingest().statistics().spilled_bytes;
                let without_rows = cases.iter().all(|(_, case)| case.rows().is_empty());
                assert!(spilled > 0 || without_rows);
            }
            "replay" => world.restart().await,
            "file" => {
                if let Err(error) = world.ingest().flush().await {
                    let message = format!("flush: {error:?}");
                    return Some((culprit(&message).unwrap_or(0), message));
                }
                assert_eq!(world.ingest().statistics().buffered_rows, 0);
            }
            _ => {}
        }
        for (at, (_, case)) in cases.iter().enumerate() {
            let table = name(at);
            if place == "rewritten file" {
                let delete = format!("DELETE FROM {table} WHERE {ROW} % 3 = 0");
                if let Err(error) = world.update(delete).await {
                    return Some((at, format!("{place}: {error}")));
                }
            }
            let checked = check(world, &table, case, place == "rewritten file").await;
            if let Err(error) = checked {
                return Some((at, format!("{place}: {error}")));
            }
        }
    }
    None
}

/// The table that a failed flush names.
fn culprit(message: &str) -> Option<usize> {
    let rest = message.split("table: \"t").nth(1)?;
    rest.split('"').next()?.parse().ok()
}

/// The smallest case found that fails too, and how.
async fn smallest(case: Case, why: String) -> (Case, String) {
    let (mut case, mut why) = (case, why);
    let mut attempts = 0;
    'again: loop {
        for smaller in case.smaller() {
            attempts += 1;
            if attempts > ATTEMPTS {
                return (case, why);
            }
            // What can't be flushed stays in the log: each has a world of its own.
            let world = World::new().await;
            if let Some((_, same)) = failure(&world, &[(0, smaller.clone())]).await {
                (case, why) = (smaller, same);
                continue 'again;
            }
        }
        return (case, why);
    }
}

#[tokio::test]
async fn every_type_comes_back_as_it_was_sent_from_every_place() {
    let cases: Vec<(u64, Case)> = seeds()
        .into_iter()
        .flatten()
        .map(|seed| (seed, Case::of(seed)))
        .collect();
    for cases in cases.chunks(TOGETHER) {
        let world = World::new().await;
        let Some((at, why)) = failure(&world, cases).await else {
            continue;
        };
        let (seed, case) = cases[at].clone();
        let (case, why) = smallest(case, why).await;
        panic!("SEED={seed}: {why}\n{case:#?}");
    }
}

#[tokio::test]
async fn a_type_that_can_not_be_stored_is_refused_with_its_column() {
    let world = World::new().await;
    for seed in seeds().into_iter().flatten() {
        let luck = &mut StdRng::seed_from_u64(seed);
        let bad = Field::new("Väl ue", kinds::refused(luck), true);
        let mut fields = vec![Field::new("good", kinds::kind(luck, 2), true), bad];
        if seed % 2 == 0 {
            fields.reverse();
        }
        let schema = Schema::new(fields);
        let mode = TableMode::CreateOrAppend;
        let table = World::table("refused");
        let refused = world.ingest().writer(&table, &schema, mode, true).await;
        let error = refused.expect_err(&format!("SEED={seed}: {schema:?}"));
        assert_eq!(error.category(), "unsupported_type", "SEED={seed}: {error}");
        let text = error.to_string();
        assert!(text.contains("Väl ue"), "SEED={seed}: {text}");
    }
}

#[test]
fn the_cases_have_every_type_and_every_change() {
    let mut types = std::collections::BTreeSet::new();
    let (mut wider, mut missing) = (0, 0);
    for seed in 0..5 * FIXED {
        let case = Case::of(seed);
        for sent in case.batches.iter().flat_map(|batch| &batch.columns) {
            names_of(&sent.data_type, &mut types);
            let first = case.columns[sent.column].field.data_type();
            wider += usize::from(sent.data_type != *first);
        }
        let columns = case.columns.len();
        missing += case
            .batches
            .iter()
            .filter(|batch| batch.columns.len() < columns)
            .count();
    }
    assert!(types.len() >= 39, "{} types: {types:?}", types.len());
    assert!(wider > 50 && missing > 50, "{wider} {missing}");
}

/// The names of a type and of all types in it, without what is particular about them.
fn names_of(of: &DataType, names: &mut std::collections::BTreeSet<String>) {
    let text = format!("{of:?}");
    let end = text
        .find(|c: char| !c.is_alphanumeric())
        .unwrap_or(text.len());
    names.insert(text[..end].to_owned());
    match of {
        DataType::Dictionary(_, words) => names_of(words, names),
        DataType::Struct(fields) => fields.iter().for_each(|f| names_of(f.data_type(), names)),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _)
        | DataType::RunEndEncoded(_, item) => names_of(item.data_type(), names),
        _ => {}
    }
}
