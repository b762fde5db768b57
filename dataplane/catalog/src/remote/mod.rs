//! The catalog of another process: [`router`] serves one, [`RemoteCatalog`] calls it.
//!
//! # Protocol
//! `POST /catalog/v1/<method>` on the internal port, HTTP/2, one JSON object each way; a method is a
//! method of [`Catalog`](crate::Catalog). Both sides name their protocol version in the header
//! `x-flightcluster-catalog-protocol`. A call that is refused answers with a 4xx or 5xx status and a JSON
//! object whose `code` is [`Error::category`](crate::Error::category), so that errors keep their type.
//!
//! Who may call is not decided here: the internal port does mutual TLS.

mod calls;
mod client;
mod protocol;
mod repeat;
mod server;
mod silence;
mod url;

pub use client::{RemoteCatalog, RemoteOptions};
pub use server::router;
