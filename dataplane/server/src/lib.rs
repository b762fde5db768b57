//! The network surface: Flight and Flight SQL for clients, the internal port for the other pods.
//! Decodes, authenticates, calls the part that knows, encodes, and maps errors.
//!
//! | module | what it does |
//! |---|---|
//! | [`service`] | the public Flight service, one function per RPC |
//! | `statement`, `get`, `put`, `actions` | what those functions do |
//! | `metadata`, `sql_info` | answers of the Flight SQL metadata commands |
//! | `stream` | batches to response messages, with keep-alive |
//! | [`call`] | request ids, counters, time limits and panics of every call |
//! | [`status`], `failure` | machine codes, gRPC codes, `docs/errors.md` |
//! | [`writes`], [`recent`] | adapters: uploads and fresh rows, here or at a peer |
//! | `uploads` | uploads of several streams: begin, end |
//! | `route` | which ingester an upload is passed on to |
//! | `locations` | where clients reach it, to send the rows there themselves |
//! | `asked` | what one ingester asks another |
//! | [`internal`], [`peers`] | the internal port, and calling that of others |
//! | [`listener`] | sockets, TLS, HTTP settings, stopping |
//!
//! SQL is `query`'s business, durability `ingest`'s, identity `auth`'s.

mod actions;
mod asked;
pub mod call;
mod caller;
mod failure;
pub mod gate;
mod get;
mod http;
mod ingesters;
mod inserted;
pub mod internal;
mod linger;
pub mod listener;
mod locations;
mod metadata;
mod named;
mod once;
mod partial;
pub mod peers;
mod put;
mod receive;
pub mod recent;
mod route;
pub mod service;
mod session;
mod sql_info;
mod statement;
pub mod status;
mod stream;
mod uploads;
mod windows;
pub mod writes;

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
use axum::Router;

pub use asked::PeerIngesters;
pub use call::{Admission, CallLayer};
pub use caller::admission;
pub use gate::Gate;
pub use ingesters::{FlushPeers, Ingesters};
pub use inserted::InsertedRows;
pub use internal::InternalService;
pub use listener::{Listener, Stop};
pub use locations::PutLocations;
pub use peers::Peers;
pub use put::decode_limits;
pub use receive::ReceiveBudget;
pub use recent::FreshRows;
pub use service::{Backends, FlightServer, FlightServerOptions};
pub use uploads::Uploads;
pub use windows::Windows;
pub use writes::{ForwardedWrites, LocalWrites, Writes};

/// Everything the public port serves: Flight, gRPC health, the small HTTP API.
///
/// - `max_message_bytes`: largest message a client may send.
pub fn public_router<H>(
    service: Arc<FlightServer>,
    health: H,
    max_message_bytes: usize,
    calls: CallLayer,
) -> Router
where
    H: tower::Service<
            ::http::Request<tonic::body::Body>,
            Response = ::http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    H::Future: Send + 'static,
{
    let flight = FlightServiceServer::from_arc(service)
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(usize::MAX);
    let grpc = tonic::service::Routes::new(flight).add_service(health);
    grpc.into_axum_router().merge(http::router()).layer(calls)
}

/// Everything the internal port of an ingester serves besides `others` (the catalog, the embedded
/// object store).
pub fn internal_router(
    service: Option<InternalService>,
    others: Router,
    max_message_bytes: usize,
    calls: CallLayer,
) -> Router {
    let router = match service {
        Some(service) => {
            let flight = FlightServiceServer::new(service)
                .max_decoding_message_size(max_message_bytes)
                .max_encoding_message_size(usize::MAX);
            tonic::service::Routes::new(flight)
                .into_axum_router()
                .merge(others)
        }
        None => others,
    };
    router.layer(calls)
}
