//! How the client commands reach a server: address, token, database, trust.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arrow_flight::flight_service_client::FlightServiceClient;
use clap::Args;
use rustls::RootCertStore;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

/// Largest message taken from a server: it sends 2 MiB ones, this is only a guard.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// HTTP/2 flow control of one stream and of the connection. The defaults of the transport cost half
/// of the throughput on a fast network.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Where to connect to and as whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectionArgs {
    /// Server to connect to: grpc://HOST:PORT, or grpc+tls://HOST:PORT for TLS.
    #[arg(
        long,
        env = "FLIGHTCLUSTER_URI",
        default_value = "grpc://127.0.0.1:17001"
    )]
    uri: String,

    /// Token to send. Better given by the environment, where other users can't see it.
    #[arg(long, env = "FLIGHTCLUSTER_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// Database to work in.
    #[arg(long, env = "FLIGHTCLUSTER_DATABASE", default_value = "default")]
    pub(crate) database: String,

    /// PEM file with the certificate authority to trust, instead of those of the system.
    #[arg(long, env = "FLIGHTCLUSTER_CA")]
    ca: Option<PathBuf>,
}

/// A connected Flight client that sends token and database with each call.
pub(crate) type Client = FlightServiceClient<InterceptedService<Channel, Headers>>;

/// Adds the headers of the caller to each call.
#[derive(Clone)]
pub(crate) struct Headers {
    authorization: Option<MetadataValue<Ascii>>,
    database: MetadataValue<Ascii>,
}

impl tonic::service::Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        let headers = request.metadata_mut();
        headers.insert("database", self.database.clone());
        if let Some(authorization) = &self.authorization {
            headers.insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

impl ConnectionArgs {
    /// Connects, within ten seconds.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        let (scheme, authority) = self
            .uri
            .split_once("://")
            .with_context(|| format!("{:?} is not a URI; write grpc://HOST:PORT", self.uri))?;
        let tls = match scheme {
            "grpc" | "grpc+tcp" | "http" => false,
            "grpc+tls" | "https" => true,
            other => bail!("unknown scheme {other:?} in --uri; use grpc:// or grpc+tls://"),
        };
        let http = format!("{}://{authority}", if tls { "https" } else { "http" });
        let endpoint = Endpoint::from_shared(http)
            .with_context(|| format!("{:?} is not a usable address", self.uri))?
            .connect_timeout(Duration::from_secs(10))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .user_agent(concat!("flightcluster/", env!("CARGO_PKG_VERSION")))?;
        let channel = if tls {
            let connector = flightcluster_tls::connector(self.client_config()?);
            endpoint.connect_with_connector(connector).await
        } else {
            endpoint
                .connect_with_connector(flightcluster_tls::plain_connector())
                .await
        }
        .map_err(|error| self.explain(&error, tls))?;
        let client = FlightServiceClient::with_interceptor(channel, self.headers()?);
        Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    fn headers(&self) -> anyhow::Result<Headers> {
        let authorization = self.token.as_ref().map(|token| -> anyhow::Result<_> {
            let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
                .parse()
                .context("the token has characters that can't be sent")?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Headers {
            authorization: authorization.transpose()?,
            database: self
                .database
                .parse()
                .context("the database name has characters that can't be sent")?,
        })
    }

    fn client_config(&self) -> anyhow::Result<Arc<rustls::ClientConfig>> {
        if let Some(path) = &self.ca {
            return flightcluster_tls::ca_client_config(path).context("--ca");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            bail!("the system has no trusted certificates; name one with --ca FILE");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![flightcluster_tls::ALPN_H2.to_vec()];
        Ok(Arc::new(config))
    }

    fn explain(&self, error: &tonic::transport::Error, tls: bool) -> anyhow::Error {
        let causes = flightcluster_server::status::chain(error);
        let hint = if tls && causes.contains("UnknownIssuer") {
            "; give the server's certificate authority with --ca FILE"
        } else if tls && (causes.contains("InvalidContentType") || causes.contains("corrupt")) {
            "; the server may speak plaintext: try grpc://"
        } else {
            ""
        };
        anyhow::anyhow!("can't connect to {}: {causes}{hint}", self.uri)
    }
}

/// The text of a failed call: what the server said, and the request id to look for in its log.
pub(crate) fn call_error(status: &tonic::Status) -> anyhow::Error {
    let id = status
        .metadata()
        .get("x-request-id")
        .and_then(|id| id.to_str().ok());
    match id {
        Some(id) => anyhow::anyhow!("{} (request id {id})", status.message()),
        None => anyhow::anyhow!("{:?}: {}", status.code(), status.message()),
    }
}
