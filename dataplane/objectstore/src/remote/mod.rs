//! The object store of another process: [`router`] serves one, [`RemoteStore`] calls it.
//!
//! # Protocol
//! On the internal port, HTTP/2, below `/objects/v1/`:
//!
//! | request | what |
//! |---|---|
//! | `GET`, `HEAD data/<path>` | content (`Range`, `If-Match`, `If-None-Match`), metadata |
//! | `PUT data/<path>` | the body becomes the object when it has arrived whole; `If-None-Match: *` refuses an existing one |
//! | `DELETE data/<path>` | deletes |
//! | `GET list?prefix=&offset=` | one JSON object per line, the last one says that the list is complete |
//! | `GET list-delimited?prefix=` | one level as one JSON object |
//! | `POST copy` | copies or renames |
//!
//! Metadata travel as JSON in the header `x-flightcluster-object`, kinds of errors in
//! `x-flightcluster-error`, so that they come out as they went in.
//!
//! Who may call is not decided here: the internal port does mutual TLS.

mod client;
mod listing;
mod protocol;
mod receive;
mod server;
mod transport;
mod upload;

pub use client::RemoteStore;
pub use server::router;
pub use transport::{RemoteEndpoint, SetupError};
