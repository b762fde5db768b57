//! The certificate of a cluster holds under every name by which clients reach it.

use anyhow::{Result, ensure};
use flightcluster_e2e::cluster::{Progress, wait_until};
use tokio::process::Command;

use crate::product::{LIMIT, Product, in_noisy_namespace};
use crate::programs::path_text;

const SPEC: &str =
    "{tls: {selfSigned: {extraDNSNames: [flight.example.com, '*.edge.example.com', 192.0.2.7]}}}";

/// What the certificates of both roles are valid for, beside the names of Kubernetes.
const EXTRA: [&str; 2] = ["flight.example.com", "a.edge.example.com"];

/// What the server logs when openssl is not content with its certificate.
const REFUSED: &str = "TLS handshake failed: received fatal alert: BadCertificate";

/// Connects to `target` with openssl and checks that its certificate is valid for `check`, an option
/// and its value; returns what openssl said against it.
async fn verify(target: &str, authority: &str, check: [&str; 2]) -> Result<Option<String>> {
    let output = Command::new("openssl")
        .args(["s_client", "-brief", "-verify_return_error", "-alpn", "h2"])
        .args(["-CAfile", authority, "-connect", &format!("{target}:17001")])
        .args(check)
        .stdin(std::process::Stdio::null())
        .output()
        .await?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success()).then_some(told))
}

/// S1-11: verification need not be skipped.
#[tokio::test]
async fn the_certificate_is_valid_for_pods_services_and_extra_names() -> Result<()> {
    in_noisy_namespace("certificates", &[REFUSED], async |namespace| {
        let demo = Product::new(namespace, "demo");
        demo.apply(SPEC).await?;
        demo.wait_until_ready().await?;
        let authority = demo.connection().await?.join("ca.crt");
        let authority = path_text(&authority)?;
        let space = namespace.name();
        for (role, service) in [("querier", "demo"), ("ingester", "demo-ingester")] {
            let headless = format!("demo-{role}-pods");
            let pod = format!("demo-{role}-0.{headless}");
            let mut names: Vec<String> = EXTRA.map(str::to_owned).to_vec();
            names.push(service.to_owned());
            for name in [service, &headless, &pod] {
                names.push(format!("{name}.{space}"));
                names.push(format!("{name}.{space}.svc"));
                names.push(format!("{name}.{space}.svc.cluster.local"));
            }
            // By the Service and by the pod's own name, as both are used.
            for target in [service, &pod].map(|name| namespace.service_name(name)) {
                wait_until("the first connection", LIMIT, async || {
                    let told = verify(&target, authority, ["-verify_hostname", &target]).await?;
                    Ok(told.map_or(Progress::Done(()), Progress::Waiting))
                })
                .await?;
                for name in &names {
                    let told = verify(&target, authority, ["-verify_hostname", name]).await?;
                    ensure!(told.is_none(), "{role} at {target} as {name}: {told:?}");
                }
                let told = verify(&target, authority, ["-verify_ip", "192.0.2.7"]).await?;
                ensure!(told.is_none(), "{role} at {target} by address: {told:?}");
                let told = verify(&target, authority, ["-verify_hostname", "evil.example.com"]);
                ensure!(
                    told.await?.is_some(),
                    "{role} at {target} is valid for any name"
                );
            }
        }
        Ok(())
    })
    .await
}
