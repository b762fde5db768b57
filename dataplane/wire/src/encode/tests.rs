//! Messages: order, sizes, dictionaries, keep-alives, and that a reader gets back what was sent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use arrow_array::builder::StringViewBuilder;
use arrow_array::types::Int64Type;
use arrow_array::{
    DictionaryArray, Int32Array, Int64Array, ListArray, RecordBatchOptions, StringArray,
};
use arrow_ipc::MessageHeader;
use arrow_select::concat::concat_batches;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::decode::{DecodeLimits, Decoded, StreamDecoder};
use crate::samples;
use crate::schema::{Encoding, wire_schema};

const SMALL: EncodeLimits = EncodeLimits {
    target_bytes: 8 << 10,
    max_bytes: 64 << 10,
};

fn encoder(schema: &Schema, encoding: Encoding, limits: EncodeLimits) -> BatchEncoder {
    BatchEncoder::try_new(Arc::new(wire_schema(schema, encoding)), limits).unwrap()
}

fn decode(messages: Vec<FlightData>) -> (SchemaRef, Vec<RecordBatch>) {
    let mut decoder = StreamDecoder::new(DecodeLimits::default());
    let mut batches = Vec::new();
    for message in messages {
        if let Decoded::Batch(decoded) = decoder.push(message).unwrap() {
            batches.push(decoded.batch);
        }
    }
    (Arc::clone(decoder.schema().unwrap()), batches)
}

fn kinds(messages: &[FlightData]) -> Vec<MessageHeader> {
    let kind = |m: &FlightData| {
        arrow_ipc::root_as_message(&m.data_header)
            .unwrap()
            .header_type()
    };
    messages.iter().map(kind).collect()
}

fn strings(rows: usize, width: usize) -> RecordBatch {
    let text = |row: usize| format!("{row:0width$}");
    let column: StringArray = (0..rows).map(|row| Some(text(row))).collect();
    samples::batch(vec![("text", Arc::new(column))])
}

#[test]
fn the_announced_schema_is_the_streamed_schema_for_every_type_s0_10() {
    for encoding in [Encoding::Plain, Encoding::Native] {
        let batch = samples::wide(50);
        let mut encoder = encoder(batch.schema_ref(), encoding, EncodeLimits::default());
        let announced = Arc::clone(encoder.schema());
        let messages = encoder.encode(batch.clone()).unwrap();
        let (schema, batches) = decode(messages);
        assert_eq!(schema, announced, "{encoding:?}");
        assert_eq!(schema.metadata(), batch.schema_ref().metadata());
        assert_eq!(
            batches,
            [conform(&batch, &announced).unwrap()],
            "{encoding:?}"
        );
    }
}

#[test]
fn a_split_batch_comes_back_whole_for_every_type_s1_3() {
    for encoding in [Encoding::Plain, Encoding::Native] {
        let batch = samples::wide(1000);
        let mut encoder = encoder(batch.schema_ref(), encoding, SMALL);
        let announced = Arc::clone(encoder.schema());
        let messages = encoder.encode(batch.clone()).unwrap();
        assert!(messages.iter().all(|m| message_bytes(m) <= SMALL.max_bytes));
        let (_, batches) = decode(messages);
        assert!(batches.len() > 3, "{encoding:?}: {}", batches.len());
        let whole = concat_batches(&announced, &batches).unwrap();
        let expected = conform(&batch, &announced).unwrap();
        for (column, field) in whole.columns().iter().zip(announced.fields()) {
            let expected = expected.column_by_name(field.name()).unwrap();
            assert_eq!(column, expected, "{encoding:?} {}", field.name());
        }
    }
}

#[test]
fn the_schema_comes_first_and_once_s0_9() {
    let batch = strings(3, 10);
    let mut first = encoder(batch.schema_ref(), Encoding::Plain, EncodeLimits::default());
    let messages = [
        first.encode(batch.clone()).unwrap(),
        first.encode(batch.clone()).unwrap(),
    ];
    let kinds = kinds(&messages.concat());
    let rows = MessageHeader::RecordBatch;
    assert_eq!(kinds, [MessageHeader::Schema, rows, rows]);
    // Also when there are no rows at all.
    let mut empty = encoder(batch.schema_ref(), Encoding::Plain, EncodeLimits::default());
    assert!(empty.next_message().unwrap().is_some());
    assert!(empty.next_message().unwrap().is_none());
}

#[test]
fn a_batch_without_rows_gives_no_message() {
    let batch = strings(3, 10);
    let mut encoder = encoder(batch.schema_ref(), Encoding::Plain, EncodeLimits::default());
    encoder.schema_message();
    assert!(encoder.encode(batch.slice(0, 0)).unwrap().is_empty());
}

#[test]
fn rows_without_columns_keep_their_count() {
    let options = RecordBatchOptions::new().with_row_count(Some(7));
    let batch =
        RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    let mut encoder = encoder(batch.schema_ref(), Encoding::Plain, EncodeLimits::default());
    let (_, batches) = decode(encoder.encode(batch).unwrap());
    assert_eq!(batches[0].num_rows(), 7);
}

#[test]
fn a_batch_from_ipc_goes_out_in_full_size_messages_without_a_runt_p4() {
    // 65,536 rows of 10 columns, 5.95 MB, as DoPut delivers it: all columns in one allocation.
    let rows = 65_536;
    let number = |seed: i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(
            (0..rows).map(|row| row * seed),
        ))
    };
    let mut columns: Vec<(String, ArrayRef)> = (1..=10)
        .map(|seed| (format!("c{seed}"), number(seed)))
        .collect();
    columns.push((
        "tag".into(),
        Arc::new(Int32Array::from(vec![1; rows as usize])),
    ));
    let columns = columns
        .iter()
        .map(|(n, a)| (n.as_str(), Arc::clone(a)))
        .collect();
    let batch = samples::batch(columns);
    let limits = EncodeLimits::default();
    let whole = EncodeLimits {
        target_bytes: 1 << 30,
        max_bytes: 1 << 30,
    };
    let mut at_once = encoder(batch.schema_ref(), Encoding::Plain, whole);
    let messages = at_once.encode(batch.clone()).unwrap();
    let body = messages[1].data_body.len();
    let (_, received) = decode(messages);
    let received = received.into_iter().next().unwrap();
    assert!(
        received.get_array_memory_size() > 5 * body,
        "columns share the body"
    );

    let mut again = encoder(batch.schema_ref(), Encoding::Plain, limits);
    again.schema_message();
    let messages = again.encode(received).unwrap();
    assert_eq!(messages.len(), body.div_ceil(limits.target_bytes));
    let sizes: Vec<usize> = messages.iter().map(|m| m.data_body.len()).collect();
    let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
    assert!(
        *most <= limits.target_bytes && most - least < 4096,
        "{sizes:?}"
    );
}

#[test]
fn rows_of_very_different_size_are_split_until_they_fit() {
    let wide = "w".repeat(30 << 10);
    let texts = (0..64).map(|row| if row % 16 == 0 { wide.as_str() } else { "n" });
    let batch = samples::batch(vec![(
        "text",
        Arc::new(StringArray::from_iter_values(texts)),
    )]);
    let mut encoder = encoder(batch.schema_ref(), Encoding::Plain, SMALL);
    let (_, batches) = decode(encoder.encode(batch.clone()).unwrap());
    assert_eq!(concat_batches(batch.schema_ref(), &batches).unwrap(), batch);
}

#[test]
fn a_row_over_the_limit_is_an_error_that_names_the_column() {
    let long = "x".repeat(SMALL.max_bytes + 1);
    let batch = samples::batch(vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        (
            "payload",
            Arc::new(StringArray::from(vec!["a", long.as_str(), "c"])),
        ),
    ]);
    let mut encoder = encoder(batch.schema_ref(), Encoding::Plain, SMALL);
    let error = encoder.encode(batch).unwrap_err();
    assert!(
        matches!(&error, Error::RowTooLarge { column, .. } if column == "payload"),
        "{error}"
    );
    assert!(error.to_string().contains("payload"), "{error}");
}

#[test]
fn a_small_dictionary_column_that_stands_for_much_text_is_sent_in_parts_s1_3() {
    let value = "v".repeat(10 << 10);
    let values: ArrayRef = Arc::new(StringArray::from(vec![value.as_str()]));
    let keys = Int32Array::from(vec![0; 2000]);
    let batch = samples::batch(vec![("tag", Arc::new(DictionaryArray::new(keys, values)))]);
    let mut encoder = encoder(batch.schema_ref(), Encoding::Plain, SMALL);
    encoder.schema_message();
    encoder.push(batch);
    let mut rows = 0;
    while let Some(message) = encoder.next_message().unwrap() {
        assert!(message_bytes(&message) <= SMALL.max_bytes);
        let held: u64 = encoder
            .pending
            .iter()
            .map(|pending| match pending {
                Pending::Batch(_) => 0,
                Pending::Whole(batch) | Pending::Piece(batch) => size::body_bytes(batch),
            })
            .sum();
        assert!(
            held < 40 * SMALL.target_bytes as u64,
            "20 MB are never held at once: {held}"
        );
        rows += arrow_ipc::root_as_message(&message.data_header)
            .unwrap()
            .header_as_record_batch()
            .unwrap()
            .length();
    }
    assert_eq!(rows, 2000);
}

#[test]
fn one_row_of_a_dictionary_value_over_the_limit_names_the_column() {
    let value = "v".repeat(SMALL.max_bytes + 1);
    let values: ArrayRef = Arc::new(StringArray::from(vec![value.as_str()]));
    let column = DictionaryArray::new(Int32Array::from(vec![0]), values);
    let batch = samples::batch(vec![("tag", Arc::new(column))]);
    for encoding in [Encoding::Plain, Encoding::Native] {
        let error = encoder(batch.schema_ref(), encoding, SMALL)
            .encode(batch.clone())
            .unwrap_err();
        match encoding {
            Encoding::Plain => assert!(error.to_string().contains("tag"), "{error}"),
            Encoding::Native => assert!(matches!(error, Error::DictionaryTooLarge { .. })),
        }
    }
}

#[test]
fn native_dictionaries_are_sent_before_their_rows_and_again_when_they_change() {
    let tags = |texts: Vec<&str>| {
        let values: ArrayRef = Arc::new(StringArray::from(texts));
        let column = DictionaryArray::new(Int32Array::from(vec![0, 1, 0]), values);
        samples::batch(vec![("tag", Arc::new(column))])
    };
    let (first, second) = (tags(vec!["a", "b"]), tags(vec!["c", "d"]));
    let mut encoder = encoder(
        first.schema_ref(),
        Encoding::Native,
        EncodeLimits::default(),
    );
    let mut messages = encoder.encode(first.clone()).unwrap();
    messages.extend(encoder.encode(first.clone()).unwrap());
    messages.extend(encoder.encode(second.clone()).unwrap());
    use MessageHeader as M;
    let expected = [
        M::Schema,
        M::DictionaryBatch,
        M::RecordBatch,
        M::RecordBatch,
        M::DictionaryBatch,
    ];
    assert_eq!(kinds(&messages)[..5], expected);
    assert_eq!(decode(messages).1, [first.clone(), first, second]);
}

#[test]
fn views_do_not_carry_the_whole_batch_into_every_piece() {
    // Two pieces, and many.
    for rows in [220, 4000] {
        let mut builder = StringViewBuilder::new();
        for row in 0..rows {
            builder.append_value(format!("a text too long to be stored in the view {row}"));
        }
        let batch = samples::batch(vec![("view", Arc::new(builder.finish()))]);
        let bytes = size::body_bytes(&batch) as usize;
        let mut encoder = encoder(batch.schema_ref(), Encoding::Native, SMALL);
        encoder.schema_message();
        let messages = encoder.encode(batch.clone()).unwrap();
        let sent: usize = messages.iter().map(message_bytes).sum();
        assert!(sent < bytes * 5 / 4, "{sent} sent for {bytes}");
        assert_eq!(messages.len(), bytes.div_ceil(SMALL.target_bytes), "{rows}");
        let schema = encoder.schema_message();
        let (schema, batches) = decode([vec![schema], messages].concat());
        assert_eq!(concat_batches(&schema, &batches).unwrap(), batch);
    }
}

#[test]
fn list_views_do_not_carry_all_items_into_every_piece() {
    let rows = 150;
    let lists = (0..rows).map(|row| Some((row..row + 8).map(|item| Some(i64::from(item)))));
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
    let DataType::List(item) = lists.data_type() else {
        panic!("a list is one")
    };
    let views = cast(
        &(Arc::new(lists.clone()) as ArrayRef),
        &DataType::ListView(Arc::clone(item)),
    );
    let batch = samples::batch(vec![("view", views.unwrap())]);
    let bytes = size::body_bytes(&batch) as usize;
    let mut encoder = encoder(batch.schema_ref(), Encoding::Native, SMALL);
    let messages = encoder.encode(batch.clone()).unwrap();
    let sent: usize = messages[1..].iter().map(|m| m.data_body.len()).sum();
    assert!(
        messages.len() == 3 && sent < bytes * 5 / 4,
        "{} {sent} for {bytes}",
        messages.len()
    );
    let (schema, batches) = decode(messages);
    let whole = concat_batches(&schema, &batches).unwrap();
    let plain = Arc::new(wire_schema(&schema, Encoding::Plain));
    assert_eq!(
        conform(&whole, &plain).unwrap(),
        conform(&batch, &plain).unwrap()
    );
}

#[test]
fn a_keepalive_is_an_empty_batch_after_the_schema() {
    for encoding in [Encoding::Plain, Encoding::Native] {
        let batch = samples::wide(4);
        let mut encoder = encoder(batch.schema_ref(), encoding, EncodeLimits::default());
        let announced = Arc::clone(encoder.schema());
        let mut messages = encoder.keepalive().unwrap();
        messages.extend(encoder.keepalive().unwrap());
        messages.extend(encoder.encode(batch.clone()).unwrap());
        let again = encoder.keepalive().unwrap();
        assert_eq!(kinds(&again), [MessageHeader::RecordBatch], "{encoding:?}");
        messages.extend(again);
        messages.extend(encoder.encode(batch.clone()).unwrap());
        assert_eq!(kinds(&messages)[0], MessageHeader::Schema);
        let (schema, batches) = decode(messages);
        assert_eq!(schema, announced);
        let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows, [0, 0, 4, 0, 4], "{encoding:?}");
        assert_eq!(batches[2], batches[4]);
    }
}

#[test]
fn a_dictionary_of_dictionaries_is_refused_by_name() {
    let inner = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let outer = DataType::Dictionary(Box::new(DataType::Int8), Box::new(inner));
    let schema = Arc::new(Schema::new(vec![arrow_schema::Field::new(
        "odd", outer, true,
    )]));
    let error = BatchEncoder::try_new(schema, EncodeLimits::default()).unwrap_err();
    assert!(error.to_string().contains("odd"), "{error}");
}

#[test]
fn measured_sizes_are_the_sizes_written() {
    let batch = samples::wide(100);
    let ranges = [(0, 100), (7, 50), (33, 1), (99, 1)];
    for (index, field) in batch.schema_ref().fields().iter().enumerate() {
        for (offset, length) in ranges {
            let piece = batch.project(&[index]).unwrap().slice(offset, length);
            let (_, rows) = Writer::new(piece.schema_ref()).encode(&piece).unwrap();
            let (measured, written) = (size::body_bytes(&piece), rows.data_body.len() as u64);
            // Runs are measured before the writer cuts them.
            let is_bound = ["runs", "struct"].contains(&field.name().as_str());
            let agrees = if is_bound {
                measured >= written
            } else {
                measured == written
            };
            assert!(
                agrees,
                "{} {offset}+{length}: {measured} {written}",
                field.name()
            );
        }
    }
}

#[test]
fn plain_sizes_are_near_the_sizes_written_plainly() {
    let batch = samples::wide(300);
    let schema = Arc::new(wire_schema(batch.schema_ref(), Encoding::Plain));
    for range in [(0, 300), (17, 200)] {
        let part = batch.slice(range.0, range.1);
        let plain = conform(&part, &schema).unwrap();
        for index in 0..part.num_columns() {
            let estimate = size::plain_bytes(part.column(index));
            let written = size::column_body_bytes(plain.column(index));
            let name = schema.field(index).name();
            assert!(
                estimate <= written * 5 / 4 + 64,
                "{name}: {estimate} {written}"
            );
            assert!(
                written <= estimate * 2 + 512,
                "{name}: {estimate} {written}"
            );
        }
    }
}

proptest! {
    #[test]
    fn pieces_cover_the_batch_and_differ_by_one_row(rows in 1usize..5000, count in 1u64..200) {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::new(Schema::empty());
        let batch = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
        let sizes: Vec<usize> = pieces(&batch, count).map(|piece| piece.num_rows()).collect();
        prop_assert_eq!(sizes.iter().sum::<usize>(), rows);
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        prop_assert!(most - least <= 1 && *least > 0);
    }
}
