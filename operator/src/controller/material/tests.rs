//! Keys and certificates: made once, kept while they are good, renewed in time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use flightcluster_crds::v1alpha1::{FlightCluster, SelfSignedSpec, TlsSpec};
use jiff::ToSpan;
use k8s_openapi::ByteString;

use super::*;
use crate::controller::dereference::Referenced;
use crate::controller::validate::{Defaults, validate};

fn cluster(extra_names: &[&str]) -> ValidatedCluster {
    let mut cluster = FlightCluster::new("weather", Default::default());
    cluster.metadata.namespace = Some("meteo".into());
    cluster.spec.tls = Some(TlsSpec {
        self_signed: Some(SelfSignedSpec {
            extra_dns_names: extra_names.iter().map(|name| (*name).to_owned()).collect(),
            duration: None,
        }),
        ..TlsSpec::default()
    });
    let defaults = Defaults {
        image: "x".into(),
        cluster_domain: "cluster.local".into(),
    };
    validate(&cluster, &Referenced::default(), &defaults).unwrap()
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn days_later(days: i64) -> Timestamp {
    now().checked_add((days * 24).hours()).unwrap()
}

fn secret<const N: usize>(values: [(&str, &[u8]); N]) -> Secret {
    let values = values.map(|(key, value)| (key.to_owned(), ByteString(value.to_vec())));
    Secret {
        data: Some(BTreeMap::from(values)),
        ..Secret::default()
    }
}

fn authority_secret(ca: &Authority) -> Secret {
    secret([
        ("tls.crt", ca.certificate.as_bytes()),
        ("tls.key", ca.key.expose().as_bytes()),
        ("ca.crt", ca.bundle.as_bytes()),
    ])
}

fn leaf_secret(leaf: &Leaf) -> Secret {
    secret([
        ("tls.crt", leaf.certificate.as_bytes()),
        ("tls.key", leaf.key.expose().as_bytes()),
    ])
}

fn keep(material: &Material) -> KeptSecrets {
    let (public_ca, public_tls) = material.public.as_ref().unwrap();
    KeptSecrets {
        internal_ca: Some(authority_secret(&material.internal_ca)),
        internal_tls: Some(leaf_secret(&material.internal_tls)),
        public_ca: Some(authority_secret(public_ca)),
        public_tls: Some(leaf_secret(public_tls)),
        signing_key: Some(secret([("key", material.signing_key.expose())])),
        admin_token: Some(secret([(
            "token",
            material.admin_token.as_ref().unwrap().expose().as_bytes(),
        )])),
    }
}

fn public_leaf(material: &Material) -> &Leaf {
    &material.public.as_ref().unwrap().1
}

#[test]
fn a_second_pass_makes_nothing_and_gives_the_same_bytes() {
    let cluster = cluster(&["flight.example"]);
    let first = provide(&cluster, &KeptSecrets::default(), now()).unwrap();
    assert_eq!(first.made.len(), 6, "{:?}", first.made);
    let second = provide(&cluster, &keep(&first), days_later(59)).unwrap();
    assert_eq!(second.made, Vec::<String>::new());
    assert_eq!(second.internal_ca, first.internal_ca);
    assert_eq!(second.internal_tls, first.internal_tls);
    assert_eq!(second.public, first.public);
    assert_eq!(second.signing_key, first.signing_key);
    assert_eq!(second.admin_token, first.admin_token);
}

#[test]
fn a_certificate_is_renewed_when_a_third_of_its_life_is_left_and_the_ca_stays() {
    let cluster = cluster(&[]);
    let first = provide(&cluster, &KeptSecrets::default(), now()).unwrap();
    let renewal = first.next_renewal().unwrap();
    assert!(
        renewal > days_later(59) && renewal < days_later(61),
        "{renewal}"
    );
    let later = provide(&cluster, &keep(&first), days_later(61)).unwrap();
    assert_eq!(
        later.made,
        ["certificate weather internal", "certificate weather"]
    );
    assert_ne!(
        public_leaf(&later).certificate,
        public_leaf(&first).certificate
    );
    assert_ne!(public_leaf(&later).key, public_leaf(&first).key);
    assert_eq!(
        later.public.as_ref().unwrap().0,
        first.public.as_ref().unwrap().0
    );
}

#[test]
fn a_new_name_needs_a_new_certificate_and_a_removed_name_needs_none() {
    let first = provide(&cluster(&["a.example"]), &KeptSecrets::default(), now()).unwrap();
    let kept = keep(&first);
    let more = provide(&cluster(&["a.example", "b.example"]), &kept, now()).unwrap();
    assert_eq!(more.made, ["certificate weather"]);
    let less = provide(&cluster(&[]), &kept, now()).unwrap();
    assert_eq!(less.made, Vec::<String>::new());
}

/// S1-11: no client has to skip the verification of names.
#[test]
fn clients_find_every_name_under_which_they_can_call_in_the_certificate() {
    let cluster = cluster(&["Flight.Example", "192.0.2.7", "FD00::1"]);
    let Tls::SelfSigned { extra_names, .. } = &cluster.tls else {
        panic!("self-signed")
    };
    let names = public_names(&cluster, extra_names);
    for name in [
        "weather",
        "weather.meteo",
        "weather.meteo.svc",
        "weather.meteo.svc.cluster.local",
        "weather-ingester.meteo.svc.cluster.local",
        "weather-querier-pods.meteo.svc.cluster.local",
        "*.weather-querier-pods.meteo.svc.cluster.local",
        "*.weather-ingester-pods.meteo.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        "flight.example",
        "192.0.2.7",
        "fd00::1",
    ] {
        assert!(
            names.iter().any(|found| found == name),
            "{name} is missing in {names:?}"
        );
    }
    // Reading them back from the certificate must find them all, or it would be made at each pass.
    let first = provide(&cluster, &KeptSecrets::default(), now()).unwrap();
    assert!(
        provide(&cluster, &keep(&first), now())
            .unwrap()
            .made
            .is_empty()
    );
}

#[test]
fn a_certificate_of_another_ca_or_key_is_replaced() {
    let cluster = cluster(&[]);
    let one = provide(&cluster, &KeptSecrets::default(), now()).unwrap();
    let other = provide(&cluster, &KeptSecrets::default(), now()).unwrap();
    let mut kept = keep(&one);
    kept.public_tls = keep(&other).public_tls;
    assert_eq!(
        provide(&cluster, &kept, now()).unwrap().made,
        ["certificate weather"]
    );

    let mut kept = keep(&one);
    let key = public_leaf(&other).key.expose().as_bytes().to_vec();
    let data = kept.public_tls.as_mut().unwrap().data.as_mut().unwrap();
    data.insert("tls.key".into(), ByteString(key));
    assert_eq!(
        provide(&cluster, &kept, now()).unwrap().made,
        ["certificate weather"]
    );
}

#[test]
fn a_damaged_ca_is_reported_and_never_replaced_silently() {
    let cluster = cluster(&[]);
    let mut kept = keep(&provide(&cluster, &KeptSecrets::default(), now()).unwrap());
    kept.public_ca = Some(secret([("tls.crt", b"nonsense"), ("tls.key", b"nonsense")]));
    let error = provide(&cluster, &kept, now()).unwrap_err();
    assert!(error.to_string().contains("weather-public-ca"), "{error}");
}

#[test]
fn a_life_shorter_than_the_clock_skew_is_not_over_at_once() {
    let ca = certificates::make_authority("x", now()).unwrap();
    let wanted = certificates::Wanted {
        common_name: "x".into(),
        names: vec!["x".into()],
        for_clients: false,
        life: Duration::from_secs(60),
    };
    let leaf = certificates::issue(&ca, &wanted, now()).unwrap();
    assert!(leaf.validity.unwrap().renewal() > now());
}

/// Invariant 7: secrets never appear in a `Debug`.
#[test]
fn no_key_is_shown_by_debug() {
    let material = provide(&cluster(&[]), &KeptSecrets::default(), now()).unwrap();
    let shown = format!("{material:?}");
    assert!(!shown.contains("PRIVATE KEY"));
    assert!(!shown.contains(material.admin_token.as_ref().unwrap().expose()));
    assert!(shown.contains("<sensitive>"));
}
