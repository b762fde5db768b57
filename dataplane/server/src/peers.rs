//! Connections to the internal ports of the other pods: one a URL, made when first needed, kept; and the wait
//! for the answer to a call. How long that may take is left to who calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use parking_lot::Mutex;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A pod of the same cluster answers in milliseconds; after this it counts as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A peer that died without closing is noticed after about twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// After this time without an answer a peer is asked for something easy, and then after twice the time of
/// before. Short: a query has two seconds in which it may ask again.
const PATIENCE: Duration = Duration::from_millis(500);

/// The longest such time.
const MOST_PATIENCE: Duration = Duration::from_secs(8);

/// HTTP/2 flow control. The transport's defaults halve the throughput between pods.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Largest message between pods: what the public port takes, and some.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// The connections of this process to its peers.
#[derive(Debug)]
pub struct Peers {
    tls: Option<Arc<rustls::ClientConfig>>,
    channels: Mutex<HashMap<String, Channel>>,
}

/// Why a peer can't be called.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL it announced can't be used.
    #[error("{url:?} is not a usable internal url")]
    Url {
        /// The URL.
        url: String,
        /// The cause.
        #[source]
        source: tonic::transport::Error,
    },
}

impl Peers {
    /// Connections with mutual TLS, or in plaintext when `tls` is `None`.
    #[must_use]
    pub fn new(tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self {
            tls,
            channels: Mutex::new(HashMap::new()),
        }
    }

    /// A client for the internal port at `url` (`https://host:port`). It connects on the first
    /// call and again whenever the connection breaks.
    ///
    /// # Errors
    /// When the URL is malformed; a peer that is down shows in the call.
    pub fn client(&self, url: &str) -> Result<FlightServiceClient<Channel>, Error> {
        let mut channels = self.channels.lock();
        let channel = match channels.get(url) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self.channel(url)?;
                channels.insert(url.to_owned(), channel.clone());
                channel
            }
        };
        Ok(FlightServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// Waits for the answer to `call`, which [`Self::client`] of `url` makes.
    ///
    /// A request that is handed over in the moment in which its connection ends may get stuck in the HTTP
    /// library (hyper issue 4122): it is neither sent nor failed before the next one finds the connection
    /// closed. There may be no next one for as long as this one is waited for, so it is made here. A peer that only
    /// takes its time is not disturbed.
    ///
    /// # Errors
    /// Those of `call`. Cancellation: drop it.
    pub async fn answer<T>(
        &self,
        url: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut call = std::pin::pin!(call);
        let mut patience = PATIENCE;
        loop {
            if let Ok(answer) = tokio::time::timeout(patience, &mut call).await {
                return answer;
            }
            patience = MOST_PATIENCE.min(patience * 2);
            if let Ok(mut client) = self.client(url) {
                let easy = client.list_actions(arrow_flight::Empty {});
                // Whatever comes of it: only `call` counts, which goes on meanwhile.
                tokio::select! {
                    answer = &mut call => return answer,
                    _ = tokio::time::timeout(patience, easy) => {}
                }
            }
        }
    }

    fn channel(&self, url: &str) -> Result<Channel, Error> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|source| Error::Url {
                url: url.to_owned(),
                source,
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        Ok(match &self.tls {
            Some(tls) => {
                endpoint.connect_with_connector_lazy(flightcluster_tls::connector(Arc::clone(tls)))
            }
            None => endpoint.connect_with_connector_lazy(flightcluster_tls::plain_connector()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_answer_is_asked_for_something_easy() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stuck = async {
            // Until there is a next request.
            let _next = listener.accept().await?;
            Err::<(), _>(Status::cancelled("connection closed"))
        };
        let peers = Peers::new(None);
        let hour = Duration::from_secs(3600);
        let answer = tokio::time::timeout(hour, peers.answer(&url, stuck)).await;
        let problem = answer.expect("it is not asked").unwrap_err();
        assert_eq!(problem.message(), "connection closed");
    }
}
