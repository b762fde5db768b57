//! Commands and raw tickets in every form clients send.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use arrow_flight::sql::{Any, ProstMessageExt, TableExistsOption, TableNotExistOption};
use arrow_flight::{FlightDescriptor, sql};
use proptest::prelude::{any as arbitrary, proptest};

use super::*;
use crate::params::ParamValue;

const FLIGHT_SQL: &str = "type.googleapis.com/arrow.flight.protocol.sql.";

fn packed(message: &impl ProstMessageExt) -> Vec<u8> {
    message.as_any().encode_to_vec()
}

fn text(command: Command) -> TextQuery {
    match command {
        Command::Text(query) => query,
        other => panic!("not a text query: {other:?}"),
    }
}

fn ticket_error(bytes: &[u8]) -> (String, String) {
    let error = TicketForm::decode(&Bytes::copy_from_slice(bytes)).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    (error.to_string(), source)
}

#[test]
fn text_json_and_protobuf_ask_for_the_same_query_s3_4() {
    let sql = "SELECT 1";
    let plain = text(Command::decode(sql.as_bytes()).unwrap());
    let json = text(Command::decode(br#"{"sql_query": "SELECT 1"}"#).unwrap());
    assert_eq!(plain, json);
    let query = sql::CommandStatementQuery {
        query: sql.into(),
        transaction_id: None,
    };
    assert_eq!(
        Command::decode(&packed(&query)).unwrap(),
        Command::StatementQuery(query)
    );
    assert_eq!(plain.text, sql);
}

#[test]
fn a_json_ticket_carries_database_and_query_s0_5() {
    let json = br#"{"database":"weather","sql_query":"SELECT 1","query_type":"sql"}"#;
    let form = TicketForm::decode(&Bytes::from_static(json)).unwrap();
    let TicketForm::Command(command) = form else {
        panic!("{form:?}")
    };
    assert_eq!(command.database(), Some("weather"));
    let query = text(command);
    assert_eq!(
        (query.text.as_str(), query.language),
        ("SELECT 1", QueryLanguage::Sql)
    );
}

#[test]
fn every_alias_names_the_database() {
    for name in ["database", "namespace_name", "bucket", "bucket-name"] {
        let json = format!(r#"{{"{name}":"d","sql_query":"q","query_type":null}}"#);
        assert_eq!(
            Command::decode(json.as_bytes()).unwrap().database(),
            Some("d"),
            "{name}"
        );
    }
}

#[test]
fn parameters_keep_their_types_and_never_enter_the_text_s3_5() {
    let json = br#"{"database":"d","sql_query":"SELECT $a","query_type":"InfluxQL","is_debug":true,
        "params":{"a":"1; DROP TABLE t","b":null,"c":true,"d":-1,"e":18446744073709551615,"f":1.5}}"#;
    let query = text(Command::decode(json).unwrap());
    assert_eq!(query.text, "SELECT $a");
    assert_eq!(query.language, QueryLanguage::InfluxQl);
    let mut params = query.params;
    params.sort_by(|left, right| left.0.cmp(&right.0));
    let values: Vec<ParamValue> = params.into_iter().map(|(_, value)| value).collect();
    assert_eq!(
        values,
        [
            ParamValue::Text("1; DROP TABLE t".into()),
            ParamValue::Null,
            ParamValue::Bool(true),
            ParamValue::Int(-1),
            ParamValue::UInt(u64::MAX),
            ParamValue::Float(1.5),
        ]
    );
}

#[test]
fn a_bad_json_field_is_named_s3_5() {
    let cases: [(&str, &str); 9] = [
        (r#"{"database":1,"sql_query":"q"}"#, "database"),
        (r#"{"database":"d"}"#, "sql_query"),
        (r#"{"database":"d","sql_query":"  "}"#, "sql_query"),
        (r#"{"database":"d","sql_query":["q"]}"#, "sql_query"),
        (
            r#"{"database":"d","sql_query":"q","query_type":"flux"}"#,
            "query_type",
        ),
        (r#"{"database":"d","sql_query":"q","params":[1]}"#, "params"),
        (
            r#"{"database":"d","sql_query":"q","params":{"deep":{"x":1}}}"#,
            "params.deep",
        ),
        (r#"{"database":"d","sql_query":"q","parms":{}}"#, "parms"),
        (r#"{"database":"d","bucket":"e","sql_query":"q"}"#, "bucket"),
    ];
    for (json, field) in cases {
        let text = Command::decode(json.as_bytes()).unwrap_err().to_string();
        assert!(text.contains(field), "{json}: {text}");
    }
    let error = Command::decode(br#"{"database": "d", "sql_query": }"#).unwrap_err();
    assert!(matches!(error, Error::Json(_)), "{error}");
}

#[test]
fn a_bad_ticket_says_invalid_ticket_and_why_s0_29() {
    let cases: [(&[u8], &str); 7] = [
        (b"", "empty"),
        (b"  \n", "empty"),
        (br#"{"sql_query":"SELECT 1"}"#, "database"),
        (br#"{"database":"","sql_query":"SELECT 1"}"#, "database"),
        (b"garbage", "neither"),
        (b"\xff\xfe\x00\x01", "neither"),
        (b"{", "JSON"),
    ];
    for (bytes, why) in cases {
        let (error, source) = ticket_error(bytes);
        assert_eq!(error, "invalid ticket", "{bytes:?}");
        assert!(source.contains(why), "{bytes:?}: {source}");
    }
}

#[test]
fn read_info_is_read_packed_and_bare() {
    let bare = read_info::fixtures::message("d", "SELECT 1", 1, Bytes::new());
    let value = Bytes::from(bare.clone());
    let packed = Any {
        type_url: read_info::TYPE_URL.into(),
        value,
    }
    .encode_to_vec();
    for bytes in [bare, packed] {
        let form = TicketForm::decode(&Bytes::from(bytes)).unwrap();
        let TicketForm::Command(command) = form else {
            panic!("{form:?}")
        };
        let query = text(command);
        assert_eq!(query.database.as_deref(), Some("d"));
        assert_eq!(query.text, "SELECT 1");
        assert_eq!(query.params[1], ("b".into(), ParamValue::UInt(u64::MAX)));
    }
}

#[test]
fn read_info_may_wrap_a_flight_sql_command() {
    let inner = packed(&sql::CommandGetCatalogs {});
    let bytes = read_info::fixtures::message("d", "", 3, inner.into());
    let command = Command::decode(&bytes).unwrap();
    assert_eq!(command.database(), Some("d"));
    assert!(matches!(command, Command::InDatabase { command, .. }
        if *command == Command::GetCatalogs(sql::CommandGetCatalogs {})));
}

#[test]
fn read_info_with_contradicting_fields_names_them() {
    let inner = Bytes::from(packed(&sql::CommandGetCatalogs {}));
    let cases = [
        (
            read_info::fixtures::message("", "q", 1, Bytes::new()),
            "database",
        ),
        (
            read_info::fixtures::message("d", "q", 9, Bytes::new()),
            "query_type",
        ),
        (
            read_info::fixtures::message("d", "q", 3, inner.clone()),
            "flightsql_command",
        ),
        (
            read_info::fixtures::message("d", "q", 1, inner),
            "flightsql_command",
        ),
    ];
    for (bytes, field) in cases {
        let text = Command::decode(&bytes).unwrap_err().to_string();
        assert!(text.contains(field), "{text}");
    }
}

#[test]
fn every_flight_sql_command_is_recognised() {
    let handle = Bytes::from_static(b"h");
    let query = "q".to_owned();
    let table = "t".to_owned();
    let commands = [
        packed(&sql::CommandStatementQuery {
            query: query.clone(),
            transaction_id: None,
        }),
        packed(&sql::CommandStatementUpdate {
            query,
            transaction_id: None,
        }),
        packed(&sql::CommandStatementSubstraitPlan::default()),
        packed(&sql::CommandPreparedStatementQuery {
            prepared_statement_handle: handle.clone(),
        }),
        packed(&sql::CommandPreparedStatementUpdate {
            prepared_statement_handle: handle,
        }),
        packed(&sql::CommandGetCatalogs {}),
        packed(&sql::CommandGetDbSchemas::default()),
        packed(&sql::CommandGetTables::default()),
        packed(&sql::CommandGetTableTypes {}),
        packed(&sql::CommandGetSqlInfo::default()),
        packed(&sql::CommandGetPrimaryKeys {
            table: table.clone(),
            ..Default::default()
        }),
        packed(&sql::CommandGetExportedKeys {
            table: table.clone(),
            ..Default::default()
        }),
        packed(&sql::CommandGetImportedKeys {
            table: table.clone(),
            ..Default::default()
        }),
        packed(&sql::CommandGetCrossReference {
            pk_table: table.clone(),
            fk_table: table,
            ..Default::default()
        }),
        packed(&sql::CommandGetXdbcTypeInfo::default()),
    ];
    for bytes in commands {
        assert!(
            Command::decode(&bytes).is_ok(),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        assert!(TicketForm::decode(&bytes.into()).is_ok());
    }
}

#[test]
fn a_flight_sql_message_that_is_no_command_is_named() {
    let any = Any {
        type_url: format!("{FLIGHT_SQL}DoPutUpdateResult"),
        value: Bytes::new(),
    };
    let text = Command::decode(&any.encode_to_vec())
        .unwrap_err()
        .to_string();
    assert!(text.contains("DoPutUpdateResult"), "{text}");
    let any = Any {
        type_url: format!("{FLIGHT_SQL}CommandStatementQuery"),
        value: Bytes::from_static(b"\xff\xff"),
    };
    let text = Command::decode(&any.encode_to_vec())
        .unwrap_err()
        .to_string();
    assert!(text.contains("CommandStatementQuery"), "{text}");
}

#[test]
fn a_statement_ticket_holds_a_sealed_one() {
    let sealed = Bytes::from_static(b"\xfcT\x01anything");
    let packed: Bytes = packed(&sql::TicketStatementQuery {
        statement_handle: sealed.clone(),
    })
    .into();
    assert_eq!(
        TicketForm::decode(&packed).unwrap(),
        TicketForm::Sealed(sealed.clone())
    );
    assert_eq!(
        TicketForm::decode(&sealed).unwrap(),
        TicketForm::Sealed(sealed)
    );
}

fn ingest_bytes(if_not_exist: i32, if_exists: i32) -> Vec<u8> {
    packed(&sql::CommandStatementIngest {
        table_definition_options: Some(sql::TableDefinitionOptions {
            if_not_exist,
            if_exists,
        }),
        table: "t".into(),
        schema: Some(String::new()),
        catalog: Some("d".into()),
        ..sql::CommandStatementIngest::default()
    })
}

#[test]
fn ingest_modes_must_be_said() {
    let create = TableNotExistOption::Create as i32;
    let append = TableExistsOption::Append as i32;
    let command = Command::decode(&ingest_bytes(create, append)).unwrap();
    assert_eq!(command.database(), Some("d"));
    let Command::StatementIngest(ingest) = command else {
        panic!("{command:?}")
    };
    assert_eq!(
        (ingest.if_missing, ingest.if_exists),
        (TableMissing::Create, TableExists::Append)
    );
    assert_eq!(ingest.schema, None);
    for (bytes, field) in [
        (ingest_bytes(0, append), "if_not_exist"),
        (ingest_bytes(create, 0), "if_exists"),
        (ingest_bytes(create, 77), "if_exists"),
        (packed(&sql::CommandStatementIngest::default()), "table"),
    ] {
        let text = Command::decode(&bytes).unwrap_err().to_string();
        assert!(text.contains(field), "{text}");
    }
}

#[test]
fn a_descriptor_is_a_path_or_a_command() {
    let path = FlightDescriptor::new_path(vec!["d".into(), "t".into()]);
    assert!(matches!(
        Descriptor::decode(&path).unwrap(),
        Descriptor::Path(_)
    ));
    let command = FlightDescriptor::new_cmd("SELECT 1");
    assert!(matches!(
        Descriptor::decode(&command).unwrap(),
        Descriptor::Command(_)
    ));
    let neither = FlightDescriptor {
        r#type: 7,
        ..FlightDescriptor::default()
    };
    let error = Descriptor::decode(&neither).unwrap_err();
    assert!(matches!(error, Error::DescriptorType { found: 7 }));
}

#[test]
fn sql_text_with_line_breaks_and_unicode_is_text() {
    let sql = "\n\tSELECT 'häuser'\r\n -- 京都\n FROM t";
    assert_eq!(text(Command::decode(sql.as_bytes()).unwrap()).text, sql);
}

#[test]
fn error_text_is_cut_by_characters() {
    assert_eq!(shortened("äöü", 2), "äö…");
    assert_eq!(shortened("äöü", 3), "äöü");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(arbitrary::<u8>(), 0..256)) {
        let _ = Command::decode(&bytes);
        let _ = TicketForm::decode(&bytes.into());
    }

    #[test]
    fn mutated_commands_never_panic(position in 0usize..200, value in arbitrary::<u8>()) {
        let seeds = [
            read_info::fixtures::message("d", "SELECT 1", 1, Bytes::new()),
            ingest_bytes(1, 1),
            br#"{"database":"d","sql_query":"q","params":{"a":1}}"#.to_vec(),
        ];
        for mut bytes in seeds {
            let position = position % bytes.len();
            bytes[position] = value;
            let _ = Command::decode(&bytes);
            let _ = TicketForm::decode(&bytes.into());
        }
    }
}
