//! The rules a configuration has to pass before a port is bound, one test per rule.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use flightcluster_config::{
    AuthMode, ByteSize, ClientAuth, Config, ObjectStoreKind, Role, UpkeepPlace, is_loopback,
};

/// The settings that are complained about.
fn complaints(role: Role, change: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut config = match role {
        Role::Standalone => Config::default(),
        _ => cluster_member(),
    };
    change(&mut config);
    let problems = config.validate(role).err().unwrap_or_default();
    for problem in &problems {
        assert!(!problem.to_string().contains('\n'), "{problem}");
    }
    problems
        .into_iter()
        .map(|problem| problem.setting)
        .collect()
}

fn standalone(change: impl FnOnce(&mut Config)) -> Vec<String> {
    complaints(Role::Standalone, change)
}

fn cluster_member() -> Config {
    let mut config = Config::default();
    config.server.listen_host = "0.0.0.0".to_owned();
    config.tls.certificate_file = Some("/tls/tls.crt".into());
    config.tls.key_file = Some("/tls/tls.key".into());
    config.auth.mode = AuthMode::Token;
    config.auth.token_files = vec!["/tokens/a".into()];
    config.internal.enabled = true;
    config.internal.listen_host = "0.0.0.0".to_owned();
    config.internal.advertise_url = Some("https://pod.headless:17002".to_owned());
    config.internal.tls.certificate_file = Some("/internal/tls.crt".into());
    config.internal.tls.key_file = Some("/internal/tls.key".into());
    config.internal.tls.ca_file = Some("/internal/ca.crt".into());
    config.catalog.url = Some("https://catalog:17002".to_owned());
    config.storage.object_store.kind = ObjectStoreKind::Embedded;
    config
}

#[test]
fn the_defaults_are_fine_for_standalone_and_a_full_cluster_member_for_every_role() {
    for role in Role::ALL {
        assert!(complaints(role, |_| {}).is_empty(), "{role}");
    }
}

/// S4-10.
#[test]
fn no_authentication_beyond_loopback_needs_consent() {
    let open = |config: &mut Config| config.server.listen_host = "0.0.0.0".to_owned();
    assert_eq!(standalone(open), ["auth.mode"]);
    assert!(
        standalone(|config| {
            open(config);
            config.auth.allow_insecure = true;
        })
        .is_empty()
    );
}

#[test]
fn tokens_in_plaintext_beyond_loopback_need_consent() {
    let plain = |config: &mut Config| {
        config.tls.certificate_file = None;
        config.tls.key_file = None;
    };
    assert_eq!(complaints(Role::Querier, plain), ["tls.certificate_file"]);
    assert!(
        complaints(Role::Querier, |config| {
            plain(config);
            config.auth.allow_insecure = true;
        })
        .is_empty()
    );
    assert!(
        complaints(Role::Querier, |config| {
            plain(config);
            config.server.listen_host = "127.0.0.1".to_owned();
        })
        .is_empty()
    );
}

#[test]
fn token_mode_needs_a_token_file_and_a_token_file_needs_token_mode() {
    assert_eq!(
        standalone(|config| config.auth.mode = AuthMode::Token),
        ["auth.token_file"]
    );
    assert_eq!(
        standalone(|config| config.auth.token_file = Some("/t".into())),
        ["auth.mode"]
    );
}

/// S4-47.
#[test]
fn client_certificates_need_an_authority_and_tls() {
    assert_eq!(
        standalone(|config| config.tls.client_auth = ClientAuth::Required),
        ["tls.client_ca_file", "tls.client_auth"]
    );
    assert_eq!(
        complaints(Role::Querier, |config| config.tls.client_auth =
            ClientAuth::Optional),
        ["tls.client_ca_file"]
    );
    assert_eq!(
        complaints(Role::Querier, |config| config.tls.client_ca_file =
            Some("/ca".into())),
        ["tls.client_auth"]
    );
}

#[test]
fn certificate_and_key_come_together() {
    assert_eq!(
        standalone(|config| config.tls.certificate_file = Some("/c".into())),
        ["tls.key_file"]
    );
    assert_eq!(
        standalone(|config| config.tls.key_file = Some("/k".into())),
        ["tls.certificate_file"]
    );
}

#[test]
fn the_internal_port_beyond_loopback_needs_mutual_tls_or_consent() {
    let open = |config: &mut Config| {
        config.internal.enabled = true;
        config.internal.listen_host = "::".to_owned();
    };
    assert_eq!(standalone(open), ["internal.tls.certificate_file"]);
    let consented = standalone(|config| {
        open(config);
        config.internal.allow_insecure = true;
    });
    assert!(consented.is_empty());
    // Half of mutual TLS is a mistake, with or without consent.
    let half = complaints(Role::Catalog, |config| {
        config.catalog.url = None;
        config.internal.advertise_url = None;
        config.internal.tls.ca_file = None;
        config.internal.allow_insecure = true;
    });
    assert_eq!(half, ["internal.tls.ca_file"]);
}

#[test]
fn cluster_roles_need_the_internal_port() {
    for role in [Role::Querier, Role::Ingester, Role::Catalog] {
        assert_eq!(
            complaints(role, |config| config.internal.enabled = false),
            ["internal.enabled"]
        );
    }
}

#[test]
fn an_ingester_on_all_addresses_must_say_how_it_is_reached() {
    assert_eq!(
        complaints(Role::Ingester, |config| config.internal.advertise_url =
            None),
        ["internal.advertise_url"]
    );
    assert_eq!(
        complaints(Role::Ingester, |config| {
            config.internal.advertise_url = Some("https://0.0.0.0:17002".to_owned());
        }),
        ["internal.advertise_url"]
    );
}

#[test]
fn queriers_and_ingesters_need_a_catalog() {
    for role in [Role::Querier, Role::Ingester] {
        let missing = complaints(role, |config| {
            config.catalog.url = None;
            config.storage.object_store.kind = ObjectStoreKind::Local;
        });
        assert_eq!(missing, ["catalog.url"]);
    }
    assert!(complaints(Role::Catalog, |config| config.catalog.url = None).is_empty());
}

#[test]
fn the_catalog_is_not_called_in_plaintext_without_consent() {
    let plain = |config: &mut Config| config.catalog.url = Some("http://catalog:17002".to_owned());
    assert_eq!(complaints(Role::Querier, plain), ["catalog.url"]);
    assert!(
        complaints(Role::Querier, |config| {
            plain(config);
            config.internal.allow_insecure = true;
        })
        .is_empty()
    );
    for wrong in [
        "catalog:17002",
        "ftp://catalog",
        "https://",
        "https://a b:1",
        "https://u@h",
    ] {
        let found = complaints(Role::Querier, |config| {
            config.catalog.url = Some(wrong.to_owned())
        });
        assert_eq!(found, ["catalog.url"], "{wrong}");
    }
    for right in [
        "https://[::1]:17002",
        "https://[::1]",
        "https://catalog",
        "https://a:1/",
    ] {
        let found = complaints(Role::Querier, |config| {
            config.catalog.url = Some(right.to_owned())
        });
        assert!(found.is_empty(), "{right}");
    }
}

#[test]
fn embedded_objects_need_a_catalog_process() {
    assert_eq!(
        standalone(|config| config.storage.object_store.kind = ObjectStoreKind::Embedded),
        ["storage.object_store.kind"]
    );
}

#[test]
fn memory_objects_are_for_one_process_only() {
    let memory = |config: &mut Config| config.storage.object_store.kind = ObjectStoreKind::Memory;
    assert!(standalone(memory).is_empty());
    assert_eq!(
        complaints(Role::Ingester, memory),
        ["storage.object_store.kind"]
    );
}

#[test]
fn cloud_stores_need_a_bucket_and_whole_credentials() {
    for kind in [
        ObjectStoreKind::S3,
        ObjectStoreKind::Gcs,
        ObjectStoreKind::Azure,
    ] {
        let found = standalone(|config| config.storage.object_store.kind = kind);
        assert_eq!(found, ["storage.object_store.bucket"]);
    }
    let s3 = |change: fn(&mut flightcluster_config::ObjectStoreConfig)| {
        standalone(|config| {
            config.storage.object_store.kind = ObjectStoreKind::S3;
            config.storage.object_store.bucket = Some("b".to_owned());
            change(&mut config.storage.object_store);
        })
    };
    assert!(s3(|_| {}).is_empty());
    assert_eq!(
        s3(|store| store.access_key_id_file = Some("/id".into())),
        ["storage.object_store.secret_access_key_file"]
    );
    assert_eq!(
        s3(|store| store.secret_access_key_file = Some("/key".into())),
        ["storage.object_store.access_key_id_file"]
    );
    assert_eq!(
        s3(|store| store.endpoint = Some("http://minio:9000".to_owned())),
        ["storage.object_store.endpoint"]
    );
    assert_eq!(
        s3(|store| store.endpoint = Some("minio".to_owned())),
        ["storage.object_store.endpoint"]
    );
    assert_eq!(
        s3(|store| store.request_timeout = Duration::from_millis(999)),
        ["storage.object_store.request_timeout"]
    );
    assert_eq!(
        s3(|store| store.path = Some("/p".into())),
        ["storage.object_store.path"]
    );
}

#[test]
fn a_bucket_without_a_cloud_kind_is_a_mistake() {
    assert_eq!(
        standalone(|config| config.storage.object_store.bucket = Some("b".to_owned())),
        ["storage.object_store.bucket"]
    );
}

#[test]
fn equal_ports_on_the_same_host_collide_but_free_ports_never_do() {
    let same = |config: &mut Config| config.admin.listen_port = config.server.listen_port;
    assert_eq!(standalone(same), ["admin.listen_port"]);
    assert!(
        standalone(|config| {
            same(config);
            config.admin.listen_host = "127.0.0.2".to_owned();
        })
        .is_empty()
    );
    assert_eq!(
        standalone(|config| {
            same(config);
            config.admin.listen_host = "0.0.0.0".to_owned();
        }),
        ["admin.listen_port"]
    );
    assert!(
        standalone(|config| {
            config.server.listen_port = 0;
            config.admin.listen_port = 0;
        })
        .is_empty()
    );
    // The internal port counts only when it is opened.
    let internal = |config: &mut Config| config.internal.listen_port = config.server.listen_port;
    assert!(standalone(internal).is_empty());
    assert_eq!(
        standalone(|config| {
            internal(config);
            config.internal.enabled = true;
        }),
        ["internal.listen_port"]
    );
}

#[test]
fn durations_are_longer_than_zero_and_keepalive_beats_the_idle_timeout() {
    assert_eq!(
        standalone(|config| {
            config.query.timeout = Some(Duration::ZERO);
            config.tls.reload_interval = Duration::ZERO;
        }),
        ["tls.reload_interval", "query.timeout"]
    );
    assert_eq!(
        standalone(|config| config.server.stream_keepalive_interval = Duration::from_secs(60)),
        ["server.stream_keepalive_interval"]
    );
    // Switching a window off is a choice.
    assert!(
        standalone(|config| {
            config.server.drain_window = Duration::ZERO;
            config.ingest.group_commit_window = Duration::ZERO;
        })
        .is_empty()
    );
}

#[test]
fn sizes_are_sane() {
    assert_eq!(
        standalone(|config| config.server.max_message_bytes = ByteSize::gib(3)),
        ["server.max_message_bytes"]
    );
    assert_eq!(
        standalone(|config| config.server.max_message_bytes = ByteSize(10)),
        ["server.max_message_bytes"]
    );
    assert_eq!(
        standalone(|config| config.ingest.buffer_bytes = ByteSize::mib(100)),
        ["ingest.buffer_bytes"]
    );
    assert_eq!(
        standalone(|config| config.ingest.wal_segment_bytes = ByteSize(1)),
        ["ingest.wal_segment_bytes"]
    );
    assert_eq!(
        standalone(|config| config.query.batch_rows = 0),
        ["query.batch_rows"]
    );
}

#[test]
fn objects_stay_longer_than_a_query_and_compaction_has_sane_limits() {
    let grace = standalone(|config| {
        config.query.timeout = Some(Duration::from_secs(60));
        config.upkeep.gc_grace = Duration::from_secs(60);
    });
    assert_eq!(grace, ["upkeep.gc_grace"]);
    let found = standalone(|config| {
        config.upkeep.interval = Duration::ZERO;
        config.upkeep.lease = Duration::from_millis(999);
        config.upkeep.compaction_min_files = 1;
        config.upkeep.compaction_max_files = 0;
        config.upkeep.compaction_target_bytes = ByteSize::kib(1);
        config.upkeep.compaction_memory_bytes = ByteSize::mib(1);
    });
    assert_eq!(
        found,
        [
            "upkeep.interval",
            "upkeep.lease",
            "upkeep.compaction_min_files",
            "upkeep.compaction_max_files",
            "upkeep.compaction_target_bytes",
            "upkeep.compaction_memory_bytes"
        ]
    );
    for (run_in, roles) in [
        (
            UpkeepPlace::Ingester,
            &[Role::Standalone, Role::Ingester][..],
        ),
        (UpkeepPlace::Querier, &[Role::Standalone, Role::Querier]),
        (UpkeepPlace::Nobody, &[]),
    ] {
        for role in Role::ALL {
            assert_eq!(
                run_in.includes(role),
                roles.contains(&role),
                "{run_in:?} {role}"
            );
        }
    }
}

#[test]
fn hosts_that_can_not_be_listened_on_or_called_are_named() {
    assert_eq!(
        standalone(|config| config.admin.listen_host = String::new()),
        ["admin.listen_host"]
    );
    assert_eq!(
        standalone(|config| config.server.advertise_host = Some("0.0.0.0".to_owned())),
        ["server.advertise_host"]
    );
    assert_eq!(
        standalone(|config| config.server.advertise_port = Some(0)),
        ["server.advertise_port"]
    );
}

#[test]
fn every_problem_is_reported_at_once() {
    let found = standalone(|config| {
        config.server.listen_host = "0.0.0.0".to_owned();
        config.tls.key_file = Some("/k".into());
        config.query.batch_rows = 0;
        config.server.ticket_ttl = Duration::ZERO;
    });
    assert_eq!(
        found,
        [
            "tls.certificate_file",
            "auth.mode",
            "server.ticket_ttl",
            "query.batch_rows"
        ]
    );
}

#[test]
fn loopback_is_recognised_by_address_not_by_hope() {
    for host in [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "[::1]",
        "localhost",
        "::ffff:127.0.0.1",
    ] {
        assert!(is_loopback(host), "{host}");
    }
    for host in [
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "localhost.example.com",
        "",
        "127.0.0.1.nip.io",
    ] {
        assert!(!is_loopback(host), "{host}");
    }
}

#[test]
fn postgres_takes_the_place_of_a_catalog_process() {
    let postgres = |config: &mut Config| {
        config.catalog.url = None;
        config.catalog.postgres_url_file = Some("/secrets/url".into());
        config.storage.object_store.kind = ObjectStoreKind::Local;
    };
    for role in Role::ALL {
        assert!(complaints(role, postgres).is_empty(), "{role}");
    }
    let both = complaints(Role::Querier, |config| {
        config.catalog.postgres_url_file = Some("/secrets/url".into());
    });
    assert_eq!(both, ["catalog.url"]);
    // Nobody serves embedded objects where nobody is the catalog process.
    let embedded = complaints(Role::Ingester, |config| {
        postgres(config);
        config.storage.object_store.kind = ObjectStoreKind::Embedded;
    });
    assert_eq!(embedded, ["storage.object_store.kind"]);
    let few = standalone(|config| {
        postgres(config);
        config.catalog.postgres_max_connections = 1;
    });
    assert_eq!(few, ["catalog.postgres_max_connections"]);
}

#[test]
fn files_for_postgres_without_postgres_are_a_mistake() {
    let found = standalone(|config| {
        config.catalog.postgres_password_file = Some("/secrets/password".into());
        config.catalog.postgres_ca_file = Some("/secrets/ca.crt".into());
    });
    let expected = ["catalog.postgres_password_file", "catalog.postgres_ca_file"];
    assert_eq!(found, expected);
}
