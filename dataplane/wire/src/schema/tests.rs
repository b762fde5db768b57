//! The wire schema, schema bytes and fingerprints.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::{any, proptest};

use super::*;
use crate::samples;

fn every_type(data_type: &DataType, visit: &mut dyn FnMut(&DataType)) {
    visit(data_type);
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::RunEndEncoded(_, item)
        | DataType::Map(item, _) => every_type(item.data_type(), visit),
        DataType::Struct(fields) => fields.iter().for_each(|f| every_type(f.data_type(), visit)),
        DataType::Union(fields, _) => {
            fields
                .iter()
                .for_each(|(_, f)| every_type(f.data_type(), visit));
        }
        DataType::Dictionary(_, values) => every_type(values, visit),
        _ => {}
    }
}

#[test]
fn the_plain_schema_holds_only_types_every_client_reads() {
    let schema = samples::wide(1).schema();
    let plain = wire_schema(&schema, Encoding::Plain);
    let mut odd = 0;
    for (before, after) in schema.fields().iter().zip(plain.fields()) {
        assert_eq!(before.name(), after.name());
        assert_eq!(before.is_nullable(), after.is_nullable());
        assert_eq!(before.metadata(), after.metadata());
        every_type(after.data_type(), &mut |data_type| {
            use DataType as T;
            let refused = matches!(
                data_type,
                T::Dictionary(_, _)
                    | T::RunEndEncoded(_, _)
                    | T::Utf8View
                    | T::BinaryView
                    | T::ListView(_)
                    | T::LargeListView(_)
                    | T::Decimal32(_, _)
                    | T::Decimal64(_, _)
            );
            odd += usize::from(refused);
        });
    }
    assert_eq!(odd, 0);
    assert_eq!(plain.metadata(), schema.metadata());
    assert_eq!(
        wire_schema(&plain, Encoding::Plain),
        plain,
        "applying it again changes nothing"
    );
}

#[test]
fn nested_fields_keep_their_metadata_and_nullability() {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let metadata = [(
        "iox::column::type".to_owned(),
        "iox::column_type::tag".to_owned(),
    )];
    let item = Field::new("tag", dictionary, false).with_metadata(metadata.into());
    let schema = Schema::new(vec![Field::new(
        "tags",
        DataType::List(Arc::new(item)),
        false,
    )]);
    let plain = wire_schema(&schema, Encoding::Plain);
    let DataType::List(item) = plain.field(0).data_type() else {
        unreachable!("a list stays one")
    };
    assert_eq!(item.data_type(), &DataType::Utf8);
    assert!(!item.is_nullable() && !plain.field(0).is_nullable());
    assert_eq!(
        item.metadata()["iox::column::type"],
        "iox::column_type::tag"
    );
}

#[test]
fn the_native_schema_is_unchanged() {
    let schema = samples::wide(1).schema();
    assert_eq!(wire_schema(&schema, Encoding::Native), *schema);
}

/// A client may write a marked answer into a table.
#[test]
fn a_table_does_not_pass_on_the_mark_of_an_answer() {
    let metadata = [(PARTIAL_MARK, "{}"), ("source", "sensor")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let schema = Schema::new_with_metadata(Fields::empty(), metadata.into());
    for encoding in [Encoding::Plain, Encoding::Native] {
        let seen = wire_schema(&schema, encoding);
        assert_eq!(
            seen.metadata().keys().collect::<Vec<_>>(),
            ["source"],
            "{encoding:?}"
        );
    }
}

#[test]
fn schema_bytes_come_back_with_and_without_the_continuation_marker() {
    let schema = samples::wide(1).schema();
    let bytes = schema_bytes(&schema).unwrap();
    assert_eq!(schema_from_bytes(&bytes).unwrap(), *schema);
    assert_eq!(schema_from_bytes(&bytes[4..]).unwrap(), *schema);
    for end in 0..bytes.len() - 8 {
        assert!(schema_from_bytes(&bytes[..end]).is_err(), "{end}");
    }
}

#[test]
fn fingerprints_never_change_between_releases() {
    // Tickets of a rolling upgrade depend on these numbers.
    let field = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
    let schema = Schema::new(vec![
        field(
            "time",
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            false,
        ),
        field("host", DataType::Utf8, true),
        field("load", DataType::Decimal128(10, 2), true),
    ]);
    assert_eq!(fingerprint(&Schema::empty()), FINGERPRINT_EMPTY);
    assert_eq!(fingerprint(&schema), FINGERPRINT_THREE);
}

const FINGERPRINT_EMPTY: u64 = 11_904_889_843_666_577_980;
const FINGERPRINT_THREE: u64 = 3_553_992_396_489_073_854;

#[test]
fn fingerprints_tell_names_types_and_nullability_apart_but_not_metadata() {
    let base = |field: Field| fingerprint(&Schema::new(vec![field]));
    let first = base(Field::new("a", DataType::Int32, true));
    let metadata = [("k".to_owned(), "v".to_owned())];
    let annotated = Field::new("a", DataType::Int32, true).with_metadata(metadata.into());
    assert_eq!(first, base(annotated));
    assert_ne!(first, base(Field::new("b", DataType::Int32, true)));
    assert_ne!(first, base(Field::new("a", DataType::Int64, true)));
    assert_ne!(first, base(Field::new("a", DataType::Int32, false)));
}

#[test]
fn every_column_of_the_samples_has_its_own_fingerprint() {
    let schema = samples::wide(1).schema();
    let mut seen = std::collections::HashSet::new();
    for field in schema.fields() {
        let unnamed = field.as_ref().clone().with_name("x");
        assert!(
            seen.insert(fingerprint(&Schema::new(vec![unnamed]))),
            "{field}"
        );
    }
}

proptest! {
    #[test]
    fn mutated_schema_bytes_never_panic(position in 0usize..4096, value in any::<u8>()) {
        let mut bytes = schema_bytes(samples::wide(1).schema_ref()).unwrap().to_vec();
        let position = position % bytes.len();
        bytes[position] = value;
        let _ = schema_from_bytes(&bytes);
    }
}
