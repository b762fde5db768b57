//! The node's certificates and the kubeconfigs that hold them: one authority for everything.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use super::namespaces::make_folder;
use super::{ADDRESS, API_PORT, API_SERVICE_ADDRESS, NAME};
use crate::places::NodeFolder;

/// A client of the API server: file name, common name, organisation.
const CLIENTS: [(&str, &str, &str); 6] = [
    ("admin", "admin", "system:masters"),
    (
        "controller-manager",
        "system:kube-controller-manager",
        "system:kube-controller-manager",
    ),
    (
        "scheduler",
        "system:kube-scheduler",
        "system:kube-scheduler",
    ),
    ("proxy", "system:kube-proxy", "system:node-proxier"),
    ("kubelet", "system:node:flightcluster-node", "system:nodes"),
    // Not a user: the API server itself, when it calls the kubelet for logs and exec.
    (
        "apiserver-kubelet-client",
        "apiserver-kubelet-client",
        "system:masters",
    ),
];

/// The path of a file of the public-key infrastructure, for example `apiserver.crt`.
pub(super) fn path(folder: &NodeFolder, file: &str) -> PathBuf {
    folder.join("pki").join(file)
}

/// The kubeconfig of one of the node's components.
pub(super) fn kubeconfig(folder: &NodeFolder, name: &str) -> PathBuf {
    if name == "admin" {
        folder.kubeconfig()
    } else {
        path(folder, &format!("{name}.kubeconfig"))
    }
}

/// Makes every key, certificate and kubeconfig.
pub(super) fn create(folder: &NodeFolder) -> Result<()> {
    make_folder(&folder.join("pki"))?;
    let authority = Authority::create(folder)?;
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .map(str::to_owned)
        .into_iter()
        .chain(["kubernetes.default.svc.cluster.local", "localhost", NAME].map(str::to_owned))
        .chain([API_SERVICE_ADDRESS, ADDRESS, "127.0.0.1"].map(str::to_owned))
        .collect();
    authority.issue(folder, "apiserver", ("kube-apiserver", "kubernetes"), names)?;
    let names = vec![NAME.to_owned(), ADDRESS.to_owned()];
    authority.issue(folder, "kubelet-server", (NAME, "system:nodes"), names)?;
    authority.issue(
        folder,
        "front-proxy",
        ("front-proxy-client", "kubernetes"),
        Vec::new(),
    )?;
    for (file, common_name, organisation) in CLIENTS {
        let names = Vec::new();
        let files = authority.issue(folder, file, (common_name, organisation), names)?;
        write_kubeconfig(folder, file, &authority.certificate, &files)?;
    }
    let tokens = KeyPair::generate().context("making the service account key")?;
    write(folder, "service-account.key", &tokens.serialize_pem())?;
    write(folder, "service-account.pub", &tokens.public_key_pem())
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

struct Issued {
    certificate: String,
    key: String,
}

impl Authority {
    fn create(folder: &NodeFolder) -> Result<Self> {
        let key = KeyPair::generate().context("making the authority's key")?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "flightcluster-e2e");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params
            .self_signed(&key)
            .context("signing the authority")?
            .pem();
        write(folder, "ca.crt", &certificate)?;
        write(folder, "ca.key", &key.serialize_pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// Issues a certificate for both directions and writes `FILE.crt` and `FILE.key`.
    fn issue(
        &self,
        folder: &NodeFolder,
        file: &str,
        (common_name, organisation): (&str, &str),
        names: Vec<String>,
    ) -> Result<Issued> {
        let key = KeyPair::generate().with_context(|| format!("making the key of {file}"))?;
        let mut params = CertificateParams::new(names)
            .with_context(|| format!("naming the certificate of {file}"))?;
        params
            .distinguished_name
            .push(DnType::OrganizationName, organisation);
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("signing the certificate of {file}"))?
            .pem();
        let issued = Issued {
            certificate,
            key: key.serialize_pem(),
        };
        write(folder, &format!("{file}.crt"), &issued.certificate)?;
        write(folder, &format!("{file}.key"), &issued.key)?;
        Ok(issued)
    }
}

fn write_kubeconfig(
    folder: &NodeFolder,
    name: &str,
    authority: &str,
    client: &Issued,
) -> Result<()> {
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "flightcluster-e2e",
        "clusters": [{"name": "flightcluster-e2e", "cluster": {
            "server": format!("https://{ADDRESS}:{API_PORT}"),
            "certificate-authority-data": base64(authority.as_bytes()),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": base64(client.certificate.as_bytes()),
            "client-key-data": base64(client.key.as_bytes()),
        }}],
        "contexts": [{"name": "flightcluster-e2e", "context": {
            "cluster": "flightcluster-e2e", "user": name,
        }}],
    });
    let text = serde_yaml::to_string(&document).context("writing a kubeconfig")?;
    fs::write(kubeconfig(folder, name), text).context("writing a kubeconfig")
}

/// Base64 as the Kubernetes types write it.
fn base64(bytes: &[u8]) -> String {
    let quoted = json!(k8s_openapi::ByteString(bytes.to_vec()));
    quoted.as_str().map(str::to_owned).unwrap_or_default()
}

fn write(folder: &NodeFolder, file: &str, text: &str) -> Result<()> {
    fs::write(path(folder, file), text).with_context(|| format!("writing {file}"))
}
