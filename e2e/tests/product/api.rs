//! The definition of FlightCluster at a real API server: how it is installed, what it refuses.

use anyhow::{Context, Result, ensure};
use flightcluster_e2e::cluster::{TestCluster, TestNamespace};

use crate::operator::{self, repository};
use crate::product::{Product, in_namespace};

/// Specs that the API server must refuse, each with a part of what it must say.
const REFUSED: [(&str, &str); 12] = [
    ("{auth: {mode: None}}", "set auth.allowInsecure: true"),
    ("{tls: {enabled: false}}", "tls.enabled: false sends tokens"),
    (
        "{auth: {mode: None, allowInsecure: true, tokenSecrets: [a]}}",
        "auth.tokenSecrets has no use with auth.mode None",
    ),
    (
        "{image: {tag: a, digest: 'DIGEST'}}",
        "give tag or digest, not both",
    ),
    (
        "{objectStore: {embedded: {}, s3: {bucket: lake}}}",
        "give one of embedded, s3, gcs and azure",
    ),
    (
        "{objectStore: {s3: {bucket: lake, endpoint: 'http://s3:9000'}}}",
        "an endpoint with http:// needs allowHttp: true",
    ),
    (
        "{objectStore: {gcs: {bucket: lake}, azure: {account: meteo, container: lake}}}",
        "give one of embedded, s3, gcs and azure",
    ),
    (
        "{objectStore: {azure: {account: Meteo, container: lake}}}",
        "objectStore.azure.account",
    ),
    (
        "{tls: {secretName: a, selfSigned: {}}}",
        "give selfSigned or secretName, not both",
    ),
    (
        "{tls: {enabled: false, secretName: a}, auth: {allowInsecure: true}}",
        "tls.enabled: false leaves no use for selfSigned or secretName",
    ),
    ("{querier: {replicas: 0}}", "greater than or equal to 1"),
    ("{querier: {replica: 3}}", "field not declared in schema"),
];

/// What may not be changed: the spec before, the spec after, and a part of the refusal. `paused`
/// keeps the operator from starting anything.
const REFUSED_CHANGES: [(&str, &str, &str); 5] = [
    (
        "{paused: true}",
        "{paused: true, objectStore: {s3: {bucket: lake}}}",
        "objectStore can't be switched between",
    ),
    (
        "{paused: true, objectStore: {s3: {bucket: lake}}}",
        "{paused: true, objectStore: {s3: {bucket: sea1}}}",
        "bucket and prefix can't be changed",
    ),
    (
        "{paused: true, objectStore: {s3: {bucket: lake}}}",
        "{paused: true, objectStore: {gcs: {bucket: lake}}}",
        "objectStore can't be switched between",
    ),
    (
        "{paused: true, objectStore: {azure: {account: meteo, container: lake}}}",
        "{paused: true, objectStore: {azure: {account: meteo, container: sea}}}",
        "account, container and prefix can't be changed",
    ),
    (
        "{paused: true, catalog: {embedded: {storage: {storageClassName: local}}}}",
        "{paused: true, catalog: {embedded: {storage: {storageClassName: fast}}}}",
        "storage.storageClassName can't be changed",
    ),
];

async fn refusal(namespace: &TestNamespace, manifest: &str) -> Result<String> {
    let outcome = namespace.apply_yaml(manifest).await;
    let error = outcome
        .err()
        .with_context(|| format!("it was accepted: {manifest}"))?;
    Ok(error.to_string())
}

#[tokio::test]
async fn the_api_server_refuses_specs_that_contradict_themselves() -> Result<()> {
    in_namespace("cel", async |namespace| {
        let product = Product::new(namespace, "demo");
        let digest = format!("sha256:{}", "0".repeat(64));
        for (spec, reason) in REFUSED {
            let manifest = product.manifest(&spec.replace("DIGEST", &digest));
            let told = refusal(namespace, &manifest).await?;
            ensure!(told.contains(reason), "{spec}: {told}");
        }
        for name in ["9lives", &"a".repeat(41)] {
            let told = refusal(namespace, &Product::new(namespace, name).manifest("{}")).await?;
            ensure!(told.contains("metadata.name must"), "{name}: {told}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_api_server_refuses_changes_that_would_lose_data() -> Result<()> {
    in_namespace("cel", async |namespace| {
        for (number, (before, after, reason)) in REFUSED_CHANGES.into_iter().enumerate() {
            let name = format!("demo-{number}");
            let product = Product::new(namespace, &name);
            product.apply(before).await?;
            let told = refusal(namespace, &product.manifest(after)).await?;
            ensure!(told.contains(reason), "{before} to {after}: {told}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_definition_fits_into_a_plain_kubectl_apply() -> Result<()> {
    let cluster = TestCluster::connect().await?;
    operator::install(&cluster).await?;
    let file = repository("crds/yaml/flightcluster.yaml");
    let file = file.to_str().context("the path is text")?;
    // Without --server-side the whole object goes into an annotation, which has a limit of 256 KiB.
    cluster.kubectl(&["apply", "--filename", file]).await?;
    let again = cluster.kubectl(&["apply", "--filename", file]).await?;
    ensure!(again.contains("unchanged"), "{again}");
    let crd = "customresourcedefinition/flightclusters.flightcluster.io";
    cluster
        .kubectl(&["wait", crd, "--for=condition=Established"])
        .await?;
    Ok(())
}

#[tokio::test]
async fn the_plain_manifest_is_accepted_in_full() -> Result<()> {
    let cluster = TestCluster::connect().await?;
    operator::install(&cluster).await?;
    let file = repository("install.yaml");
    let file = file.to_str().context("the path is text")?;
    // Only tried: the charts have installed the same objects.
    let told = cluster
        .kubectl(&["apply", "--dry-run=server", "--filename", file])
        .await?;
    for object in [
        "deployment.apps/",
        "clusterrolebinding.",
        "customresourcedefinition.",
    ] {
        ensure!(told.contains(object), "{told}");
    }
    Ok(())
}
