//! Streams as clients send them, well-formed and not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use arrow_array::{Array, Int64Array, StringArray};
use arrow_flight::FlightDescriptor;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use proptest::prelude::{any, proptest};

use super::*;
use crate::encode::{BatchEncoder, EncodeLimits};
use crate::samples;

/// Schema, dictionaries and rows of a batch as another library would send them.
fn messages(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<FlightData> {
    let options = IpcWriteOptions::default()
        .try_with_compression(compression)
        .unwrap();
    let generator = IpcDataGenerator::default();
    let mut tracker = DictionaryTracker::new(false);
    let schema = generator.schema_to_bytes_with_dictionary_tracker(
        batch.schema_ref(),
        &mut tracker,
        &options,
    );
    let mut context = IpcWriteContext::default();
    let (dictionaries, rows) = generator
        .encode(batch, &mut tracker, &options, &mut context)
        .unwrap();
    std::iter::once(schema)
        .chain(dictionaries)
        .chain([rows])
        .map(|encoded| FlightData {
            data_header: encoded.ipc_message.into(),
            data_body: encoded.arrow_data.into(),
            ..FlightData::default()
        })
        .collect()
}

fn push_all(messages: Vec<FlightData>, limits: DecodeLimits) -> Result<Vec<Decoded>, Error> {
    let mut decoder = StreamDecoder::new(limits);
    messages
        .into_iter()
        .map(|message| decoder.push(message))
        .collect()
}

fn last_batch(decoded: Vec<Decoded>) -> DecodedBatch {
    match decoded.into_iter().next_back() {
        Some(Decoded::Batch(batch)) => batch,
        other => panic!("not a batch: {other:?}"),
    }
}

fn numbers() -> RecordBatch {
    samples::batch(vec![
        (
            "n",
            Arc::new(Int64Array::from_iter(
                (0..100).map(|n| (n % 7 != 0).then_some(n)),
            )),
        ),
        ("t", samples::texts(100)),
    ])
}

#[test]
fn every_type_is_decoded() {
    let batch = samples::wide(40);
    let decoded = push_all(messages(&batch, None), DecodeLimits::default()).unwrap();
    assert_eq!(last_batch(decoded).batch, batch);
}

#[test]
fn the_raw_bytes_are_those_received_and_decode_alone() {
    let mut sent = messages(&numbers(), None);
    let last = sent.last_mut().unwrap();
    last.app_metadata = Bytes::from_static(b"seq 1");
    let (schema, rows) = (sent[0].clone(), sent[1].clone());
    let batch = last_batch(push_all(sent, DecodeLimits::default()).unwrap());
    assert_eq!(batch.app_metadata, "seq 1");
    let raw = batch.raw.unwrap();
    // The very same memory: the log writes what the socket brought.
    assert_eq!(raw.header.as_ptr(), rows.data_header.as_ptr());
    assert_eq!(raw.body.as_ptr(), rows.data_body.as_ptr());
    let alone = FlightData {
        data_header: raw.header,
        data_body: raw.body,
        ..FlightData::default()
    };
    let again = last_batch(push_all(vec![schema, alone], DecodeLimits::default()).unwrap());
    assert_eq!(again.batch, batch.batch);
}

#[test]
fn a_stream_with_dictionaries_gives_no_raw_bytes() {
    let batch = samples::batch(vec![("tag", samples::dictionary(10))]);
    let decoded = push_all(messages(&batch, None), DecodeLimits::default()).unwrap();
    assert!(matches!(decoded[1], Decoded::Dictionary));
    let batch = last_batch(decoded);
    assert!(batch.raw.is_none());
}

#[test]
fn bodies_at_odd_addresses_are_decoded() {
    let batch = samples::wide(40);
    for shift in 1..9 {
        let shifted = |bytes: &Bytes| {
            let mut copy = vec![0; shift];
            copy.extend_from_slice(bytes);
            Bytes::from(copy).slice(shift..)
        };
        let mut sent = messages(&batch, None);
        for message in &mut sent {
            message.data_header = shifted(&message.data_header);
            message.data_body = shifted(&message.data_body);
        }
        let decoded = push_all(sent, DecodeLimits::default()).unwrap();
        assert_eq!(last_batch(decoded).batch, batch);
    }
}

#[test]
fn what_decoding_takes_is_known_before() {
    let limits = DecodeLimits::default();
    let bytes = |message: &FlightData| decoding_bytes(message, &limits);
    let plain = messages(&numbers(), None);
    assert_eq!(bytes(&plain[0]), 0, "a schema");
    for shift in [0, 8, 3] {
        let mut room: Vec<u8> =
            Vec::with_capacity(BODY_ALIGNMENT + shift + plain[1].data_body.len());
        room.resize(room.as_ptr().align_offset(BODY_ALIGNMENT) + shift, 0);
        let start = room.len();
        room.extend_from_slice(&plain[1].data_body);
        let message = FlightData {
            data_body: Bytes::from(room).slice(start..),
            ..plain[1].clone()
        };
        let copied = if shift == 0 {
            0
        } else {
            message.data_body.len() as u64
        };
        assert_eq!(bytes(&message), copied, "{shift} bytes behind a good place");
    }
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let small = messages(&numbers(), Some(codec));
        assert!(small[1].data_body.len() < plain[1].data_body.len());
        let known = bytes(&small[1]);
        // Without the padding between buffers.
        let most = plain[1].data_body.len() as u64;
        assert!(known > most / 2 && known <= most, "{known} of {most}");
        let max_decompressed_bytes = 10;
        let limits = DecodeLimits {
            max_decompressed_bytes,
            ..limits
        };
        assert_eq!(decoding_bytes(&small[1], &limits), 10);
    }
    let garbage = FlightData {
        data_header: Bytes::from_static(b"what is this"),
        data_body: Bytes::from_static(b"and that"),
        ..FlightData::default()
    };
    assert_eq!(bytes(&garbage), 0, "it is refused unread");
}

#[test]
fn compressed_bodies_are_decoded() {
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let decoded = push_all(messages(&numbers(), Some(codec)), DecodeLimits::default()).unwrap();
        assert_eq!(last_batch(decoded).batch, numbers());
    }
}

#[test]
fn a_body_that_would_grow_too_large_is_refused_before_it_does() {
    let zeros = samples::batch(vec![("z", Arc::new(Int64Array::from(vec![0; 1 << 16])))]);
    let mut sent = messages(&zeros, Some(CompressionType::ZSTD));
    let limits = DecodeLimits {
        max_decompressed_bytes: 100 << 10,
        ..DecodeLimits::default()
    };
    let error = push_all(sent.clone(), limits).unwrap_err();
    assert!(
        matches!(error, Error::DecompressedTooLarge { .. }),
        "{error}"
    );
    // An announced length no machine has.
    let mut body = sent[1].data_body.to_vec();
    body[..8].copy_from_slice(&i64::MAX.to_le_bytes());
    sent[1].data_body = body.into();
    let error = push_all(sent, DecodeLimits::default()).unwrap_err();
    assert!(error.is_too_large(), "{error}");
}

#[test]
fn an_lz4_body_that_grows_beyond_what_it_announces_is_refused() {
    let zeros = samples::batch(vec![("z", Arc::new(Int64Array::from(vec![0; 1 << 16])))]);
    let mut sent = messages(&zeros, Some(CompressionType::LZ4_FRAME));
    let mut body = sent[1].data_body.to_vec();
    assert!(body.len() < 8 << 10, "half a megabyte in a few kilobytes");
    body[..8].copy_from_slice(&8i64.to_le_bytes());
    sent[1].data_body = body.into();
    let error = push_all(sent, DecodeLimits::default()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::DecompressedLength {
                index: 1,
                announced: 8
            }
        ),
        "{error}"
    );
}

#[test]
fn the_descriptor_comes_with_or_without_a_schema() {
    let descriptor = FlightDescriptor::new_path(vec!["d".into(), "t".into()]);
    let mut decoder = StreamDecoder::new(DecodeLimits::default());
    let first = FlightData {
        flight_descriptor: Some(descriptor.clone()),
        app_metadata: Bytes::from_static(b"hello"),
        ..FlightData::default()
    };
    let decoded = decoder.push(first).unwrap();
    assert!(matches!(decoded, Decoded::Metadata(bytes) if bytes == "hello"));
    assert_eq!(decoder.descriptor(), Some(&descriptor));
    assert!(decoder.schema().is_none());
    let mut sent = messages(&numbers(), None);
    sent[0].flight_descriptor = Some(FlightDescriptor::new_path(vec!["other".into()]));
    decoder.push(sent.remove(0)).unwrap();
    assert_eq!(
        decoder.descriptor(),
        Some(&descriptor),
        "the first one counts"
    );
}

#[test]
fn messages_out_of_order_are_refused() {
    let sent = messages(&numbers(), None);
    let error = push_all(vec![sent[1].clone()], DecodeLimits::default()).unwrap_err();
    assert!(matches!(error, Error::NoSchema), "{error}");
    let other = messages(&samples::batch(vec![("x", samples::texts(1))]), None);
    let changed = vec![sent[0].clone(), other[0].clone()];
    let error = push_all(changed, DecodeLimits::default()).unwrap_err();
    assert!(matches!(error, Error::SchemaChanged), "{error}");
    let repeated = vec![sent[0].clone(), sent[0].clone()];
    assert!(push_all(repeated, DecodeLimits::default()).is_ok());
    let headless = FlightData {
        data_body: Bytes::from_static(b"x"),
        ..FlightData::default()
    };
    let error = push_all(vec![headless], DecodeLimits::default()).unwrap_err();
    assert!(
        matches!(error, Error::BodyWithoutHeader { bytes: 1 }),
        "{error}"
    );
}

#[test]
fn a_message_over_the_limit_is_refused() {
    let limits = DecodeLimits {
        max_message_bytes: 1000,
        ..DecodeLimits::default()
    };
    let error = push_all(messages(&numbers(), None), limits).unwrap_err();
    assert!(
        matches!(
            error,
            Error::MessageTooLarge {
                max_bytes: 1000,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn dictionaries_over_the_limit_are_refused() {
    let batch = samples::batch(vec![("tag", samples::dictionary(10))]);
    let limits = DecodeLimits {
        max_dictionary_bytes: 10,
        ..DecodeLimits::default()
    };
    let error = push_all(messages(&batch, None), limits).unwrap_err();
    assert!(
        matches!(error, Error::DictionariesTooLarge { .. }),
        "{error}"
    );
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let batch = samples::batch(vec![("t", Arc::new(StringArray::from(vec!["abcd"])))]);
    let mut sent = messages(&batch, None);
    let mut body = sent[1].data_body.to_vec();
    let position = body
        .windows(4)
        .position(|window| window == b"abcd")
        .unwrap();
    body[position] = 0xff;
    sent[1].data_body = body.into();
    let error = push_all(sent, DecodeLimits::default()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Arrow {
                what: "record batch",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn nulls_in_a_column_declared_without_are_refused() {
    let nullable = messages(&samples::batch(vec![("t", samples::texts(9))]), None);
    let field = arrow_schema::Field::new("t", DataType::Utf8, false);
    let schema = Arc::new(Schema::new(vec![field]));
    let mut encoder = BatchEncoder::try_new(schema, EncodeLimits::default()).unwrap();
    let sent = vec![encoder.schema_message(), nullable[1].clone()];
    let error = push_all(sent, DecodeLimits::default()).unwrap_err();
    assert!(matches!(error, Error::Arrow { .. }), "{error}");
}

/// A record batch header with these rows, nodes (length, nulls) and buffers (offset, length).
fn header(rows: i64, nodes: &[(i64, i64)], buffers: &[(i64, i64)]) -> Bytes {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let nodes: Vec<_> = nodes
        .iter()
        .map(|(n, nulls)| arrow_ipc::FieldNode::new(*n, *nulls))
        .collect();
    let buffers: Vec<_> = buffers
        .iter()
        .map(|(o, n)| arrow_ipc::Buffer::new(*o, *n))
        .collect();
    let nodes = builder.create_vector(&nodes);
    let buffers = builder.create_vector(&buffers);
    let mut batch = arrow_ipc::RecordBatchBuilder::new(&mut builder);
    batch.add_length(rows);
    batch.add_nodes(nodes);
    batch.add_buffers(buffers);
    let batch = batch.finish().as_union_value();
    let mut message = arrow_ipc::MessageBuilder::new(&mut builder);
    message.add_version(arrow_ipc::MetadataVersion::V5);
    message.add_header_type(MessageHeader::RecordBatch);
    message.add_header(batch);
    let message = message.finish();
    builder.finish(message, None);
    Bytes::copy_from_slice(builder.finished_data())
}

fn push_header(header: Bytes, body: usize) -> Error {
    let batch = samples::batch(vec![("n", Arc::new(Int64Array::from(vec![1])))]);
    let schema = messages(&batch, None).remove(0);
    let data_body = Bytes::from(vec![0; body]);
    let rows = FlightData {
        data_header: header,
        data_body,
        ..FlightData::default()
    };
    push_all(vec![schema, rows], DecodeLimits::default()).unwrap_err()
}

#[test]
fn impossible_numbers_in_a_header_are_refused_by_name() {
    let far = push_header(header(1, &[(1, 0)], &[(0, 0), (i64::MAX, 8)]), 8);
    assert!(
        matches!(
            far,
            Error::BufferOutsideBody {
                index: 1,
                body_bytes: 8
            }
        ),
        "{far}"
    );
    let negative = push_header(header(1, &[(1, 0)], &[(0, 0), (-8, 8)]), 8);
    assert!(
        matches!(negative, Error::BufferOutsideBody { index: 1, .. }),
        "{negative}"
    );
    let shared = push_header(header(1, &[(1, 0)], &[(0, 8), (0, 8)]), 8);
    assert!(matches!(shared, Error::BuffersOverlap), "{shared}");
    let rows = push_header(header(1 << 60, &[(1, 0)], &[(0, 0), (0, 8)]), 8);
    assert!(
        matches!(rows, Error::Implausible { what: "rows", .. }),
        "{rows}"
    );
    let rows = push_header(header(-1, &[(1, 0)], &[(0, 0), (0, 8)]), 8);
    assert!(
        matches!(
            rows,
            Error::Number {
                what: "rows",
                value: -1
            }
        ),
        "{rows}"
    );
    let nulls = push_header(header(1, &[(1, 2)], &[(0, 0), (0, 8)]), 8);
    assert!(
        matches!(
            nulls,
            Error::Implausible {
                what: "nulls of a column",
                ..
            }
        ),
        "{nulls}"
    );
    let missing = push_header(header(1, &[(1, 0)], &[(0, 0)]), 8);
    assert!(matches!(missing, Error::Arrow { .. }), "{missing}");
}

type Builder<'a> = flatbuffers::FlatBufferBuilder<'a>;
type FieldOffset<'a> = flatbuffers::WIPOffset<arrow_ipc::Field<'a>>;

/// A schema message with the fields that `make` builds.
fn schema_message(
    make: impl for<'a> FnOnce(&mut Builder<'a>) -> Vec<FieldOffset<'a>>,
) -> FlightData {
    let mut builder = Builder::new();
    let fields = make(&mut builder);
    let fields = builder.create_vector(&fields);
    let mut schema = arrow_ipc::SchemaBuilder::new(&mut builder);
    schema.add_fields(fields);
    let schema = schema.finish().as_union_value();
    let mut message = arrow_ipc::MessageBuilder::new(&mut builder);
    message.add_version(arrow_ipc::MetadataVersion::V5);
    message.add_header_type(MessageHeader::Schema);
    message.add_header(schema);
    let message = message.finish();
    builder.finish(message, None);
    let data_header = Bytes::copy_from_slice(builder.finished_data());
    FlightData {
        data_header,
        ..FlightData::default()
    }
}

#[test]
fn a_schema_that_grows_when_read_is_refused() {
    let null_field = |builder: &mut Builder<'_>| {
        let kind = arrow_ipc::NullBuilder::new(builder)
            .finish()
            .as_union_value();
        (arrow_ipc::Type::Null, kind)
    };
    // One field, referred to 50,000 times: 200 KB that would become 50,000 fields.
    let one_field = schema_message(|builder| {
        let (tag, kind) = null_field(builder);
        let mut field = arrow_ipc::FieldBuilder::new(builder);
        field.add_type_type(tag);
        field.add_type_(kind);
        vec![field.finish(); 50_000]
    });
    // 100 fields that share a name of 100 KB.
    let one_name = schema_message(|builder| {
        let name = builder.create_string(&"n".repeat(100 << 10));
        let (tag, kind) = null_field(builder);
        let make = |_| {
            let mut field = arrow_ipc::FieldBuilder::new(builder);
            field.add_name(name);
            field.add_type_type(tag);
            field.add_type_(kind);
            field.finish()
        };
        (0..100).map(make).collect()
    });
    for grown in [one_field, one_name] {
        let error = push_all(vec![grown], DecodeLimits::default()).unwrap_err();
        assert!(matches!(error, Error::Header { .. }), "{error}");
    }
}

#[test]
fn a_header_the_arrow_reader_panics_on_is_an_error() {
    // A list without a child passes verification; the reader unwraps it.
    let odd = schema_message(|builder| {
        let kind = arrow_ipc::ListBuilder::new(builder)
            .finish()
            .as_union_value();
        let mut field = arrow_ipc::FieldBuilder::new(builder);
        field.add_type_type(arrow_ipc::Type::List);
        field.add_type_(kind);
        vec![field.finish()]
    });
    let error = push_all(vec![odd], DecodeLimits::default()).unwrap_err();
    assert!(
        matches!(error, Error::Panicked { what: "schema" }),
        "{error}"
    );
}

#[test]
fn wide_schemas_of_real_clients_pass_the_size_checks() {
    for columns in [1, 10, 2000] {
        let names: Vec<String> = (0..columns).map(|n| format!("column_{n}")).collect();
        let columns = names
            .iter()
            .map(|n| (n.as_str(), samples::texts(2)))
            .collect();
        let batch = samples::batch(columns);
        let decoded = push_all(messages(&batch, None), DecodeLimits::default()).unwrap();
        assert_eq!(last_batch(decoded).batch, batch);
    }
    // The smallest message there is.
    let empty = RecordBatch::new_empty(Arc::new(Schema::empty()));
    push_all(messages(&empty, None), DecodeLimits::default()).unwrap();
}

/// Invariant: `wire` never panics on bytes from outside.
mod never_panics {
    use super::*;

    fn push_mutated(mut sent: Vec<FlightData>, at: usize, edits: &[(usize, u8)], header: bool) {
        let count = sent.len();
        let message = &mut sent[at % count];
        let part = if header {
            &mut message.data_header
        } else {
            &mut message.data_body
        };
        let mut bytes = part.to_vec();
        for (position, value) in edits {
            if let Some(position) = position.checked_rem(bytes.len()) {
                bytes[position] = *value;
            }
        }
        *part = bytes.into();
        if let Ok(decoded) = push_all(sent, DecodeLimits::default()) {
            // What is let through must be whole: formatting touches every value.
            if let Some(Decoded::Batch(batch)) = decoded.into_iter().next_back() {
                for column in batch.batch.columns() {
                    column.to_data().validate_full().unwrap();
                }
            }
        }
    }

    proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]

        #[test]
        fn on_random_messages(
            header in proptest::collection::vec(any::<u8>(), 0..300),
            body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let message = FlightData {
                data_header: header.into(),
                data_body: body.into(),
                ..FlightData::default()
            };
            let schema = messages(&numbers(), None).remove(0);
            let _ = push_all(vec![message.clone()], DecodeLimits::default());
            let _ = push_all(vec![schema, message], DecodeLimits::default());
        }

        #[test]
        fn on_mutated_messages(
            at in 0usize..100,
            edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
            header in any::<bool>(),
        ) {
            push_mutated(messages(&samples::wide(5), None), at, &edits, header);
        }

        #[test]
        fn on_mutated_small_messages(
            at in 0usize..100,
            edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
            header in any::<bool>(),
            codec in 0usize..3,
        ) {
            let codecs = [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)];
            push_mutated(messages(&numbers(), codecs[codec]), at, &edits, header);
        }

        #[test]
        fn on_cut_messages(header_end in 0usize..2000, body_end in 0usize..20_000) {
            let mut sent = messages(&samples::wide(5), None);
            let last = sent.last_mut().unwrap();
            last.data_header.truncate(header_end);
            last.data_body.truncate(body_end);
            let _ = push_all(sent, DecodeLimits::default());
        }
    }
}
