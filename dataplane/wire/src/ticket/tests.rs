//! Tickets and handles: what comes back is what went in, or a refusal.
#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use proptest::prelude::*;

const NOW: u64 = 1_700_000_000_000;

fn key(byte: u8) -> SigningKey {
    SigningKey::new([byte; 32])
}

fn ticket(query: TicketQuery) -> Ticket {
    Ticket {
        query,
        database: "weather".into(),
        params: Some(Bytes::from_static(b"params")),
        schema_fingerprint: 0xDEAD_BEEF_0BAD_F00D,
        snapshot: 42,
        nonce: 0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210,
        expires_at_millis: NOW + 900_000,
        past: None,
        partial: false,
    }
}

fn queries() -> Vec<TicketQuery> {
    let text = |language| TicketQuery::Text {
        text: "SELECT 1".into(),
        language,
    };
    vec![
        text(QueryLanguage::Sql),
        text(QueryLanguage::InfluxQl),
        TicketQuery::Table(TablePath::from_segments(&["weather", "raw", "hourly"]).unwrap()),
        TicketQuery::Metadata(Bytes::from_static(b"\x0a\x03any")),
        TicketQuery::Prepared(Bytes::from_static(b"handle")),
    ]
}

#[test]
fn a_ticket_sealed_by_one_node_opens_on_another_with_the_key_s3_10() {
    for query in queries() {
        let ticket = ticket(query);
        let bytes = ticket.seal(&key(1));
        assert!(is_sealed(&bytes));
        assert_eq!(Ticket::open(&bytes, &key(1), NOW).unwrap(), ticket);
    }
}

#[test]
fn a_ticket_for_the_past_is_not_taken_for_one_for_the_present() {
    let past = PastState {
        snapshot: 7,
        at_millis: -1,
    };
    let ticket = Ticket {
        past: Some(past),
        ..ticket(queries().remove(0))
    };
    let bytes = ticket.seal(&key(1));
    assert_eq!(Ticket::open(&bytes, &key(1), NOW).unwrap(), ticket);
    // A release that knows nothing of it refuses the version.
    assert_eq!(bytes[2], PAST_VERSION);
    let mut relabelled = bytes.to_vec();
    relabelled[2] = VERSION;
    assert!(Ticket::open(&relabelled, &key(1), NOW).is_err());
}

/// A release that knows nothing of it reads it too: it answers with all rows or not at all.
#[test]
fn a_ticket_keeps_whether_it_takes_a_partial_answer_and_needs_no_version_for_it() {
    let ticket = Ticket {
        partial: true,
        ..ticket(queries().remove(0))
    };
    let bytes = ticket.seal(&key(1));
    assert_eq!(Ticket::open(&bytes, &key(1), NOW).unwrap(), ticket);
    assert_eq!(bytes[2], VERSION);
}

#[test]
fn a_ticket_altered_in_any_byte_is_refused_s3_10() {
    let bytes = ticket(queries().remove(0)).seal(&key(1));
    for position in 0..bytes.len() {
        let mut altered = bytes.to_vec();
        altered[position] ^= 1;
        let error = Ticket::open(&altered, &key(1), NOW).unwrap_err();
        match position {
            0 | 1 => assert!(
                matches!(error, Error::Foreign { .. }),
                "{position}: {error}"
            ),
            2 => assert!(
                matches!(error, Error::Version { version: 0, .. }),
                "{error}"
            ),
            _ => assert!(
                matches!(error, Error::Signature { .. }),
                "{position}: {error}"
            ),
        }
    }
}

#[test]
fn a_ticket_cut_at_any_length_is_refused() {
    let bytes = ticket(queries().remove(0)).seal(&key(1));
    for end in 0..bytes.len() {
        assert!(Ticket::open(&bytes[..end], &key(1), NOW).is_err(), "{end}");
    }
}

#[test]
fn a_ticket_of_another_cluster_is_refused() {
    let bytes = ticket(queries().remove(0)).seal(&key(2));
    let error = Ticket::open(&bytes, &key(1), NOW).unwrap_err();
    assert!(matches!(error, Error::Signature { .. }));
}

#[test]
fn a_ticket_ends_at_its_expiry_s3_10() {
    let ticket = ticket(queries().remove(0));
    let bytes = ticket.seal(&key(1));
    assert!(Ticket::open(&bytes, &key(1), ticket.expires_at_millis - 1).is_ok());
    let error = Ticket::open(&bytes, &key(1), ticket.expires_at_millis + 5).unwrap_err();
    assert!(
        matches!(error, Error::Expired { late_millis: 5 }),
        "{error}"
    );
}

#[test]
fn a_handle_never_passes_for_a_ticket() {
    let handle = PreparedHandle {
        sql: "SELECT $1".into(),
        database: "weather".into(),
        params: Some(Bytes::from_static(b"row")),
    };
    let bytes = handle.seal(&key(1));
    assert_eq!(PreparedHandle::open(&bytes, &key(1)).unwrap(), handle);
    assert!(matches!(
        Ticket::open(&bytes, &key(1), NOW),
        Err(Error::Foreign { .. })
    ));
    let mut relabelled = bytes.to_vec();
    relabelled[1] = b'T';
    let error = Ticket::open(&relabelled, &key(1), NOW).unwrap_err();
    assert!(matches!(error, Error::Signature { .. }));
}

#[test]
fn the_key_is_not_in_debug_output() {
    assert_eq!(format!("{:?}", key(7)), "SigningKey(..)");
}

proptest! {
    #[test]
    fn random_bytes_never_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Ticket::open(&bytes, &key(1), NOW).is_err());
        prop_assert!(PreparedHandle::open(&bytes, &key(1)).is_err());
    }

    #[test]
    fn random_signed_content_never_panics(
        content in proptest::collection::vec(any::<u8>(), 0..200)
    ) {
        let prefix = [MARK, b'T', VERSION];
        let signature = key(1).mac(&prefix, &content).finalize().into_bytes();
        let bytes = [&prefix[..], &signature[..], &content].concat();
        let _ = Ticket::open(&bytes, &key(1), NOW);
    }
}
