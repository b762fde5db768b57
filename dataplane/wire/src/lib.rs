//! The protocol as values: commands, tickets, headers, and record batches to and from `FlightData`.
//!
//! Pure: no I/O, no clock, no randomness, no gRPC server. Bytes that come from outside never make
//! this crate panic, and decoding them allocates a bounded multiple of what was received.
//!
//! Left to others: who may do what (`auth`), what a command means (`server`, `query`), and the
//! streams that carry the messages (`server`).
//!
//! | module | contents |
//! |---|---|
//! | [`command`] | what a descriptor or a raw ticket asks for |
//! | [`action`] | bodies and results of `DoAction` |
//! | [`path`] | tables as path descriptors name them |
//! | [`ticket`] | signed, self-contained tickets and prepared-statement handles |
//! | [`headers`] | every header and trailer by name, and how they are read |
//! | [`schema`] | the wire schema, schema bytes and fingerprints |
//! | [`mod@conform`] | columns cast to the wire schema |
//! | [`encode`] | record batches to `FlightData` of bounded size |
//! | [`decode`] | `FlightData` to record batches, checked |
//! | [`stream`] | the name of a stream that is stored once |
//! | [`params`] | statement parameters as record batches and bytes |

pub mod action;
pub mod command;
pub mod conform;
pub mod decode;
pub mod encode;
pub mod headers;
pub mod params;
pub mod path;
pub mod schema;
pub mod stream;
pub mod ticket;

mod guard;
mod rows;
#[cfg(test)]
mod samples;
mod size;

pub use command::{Command, Descriptor, TicketForm};
pub use conform::conform;
pub use decode::{BODY_ALIGNMENT, DecodeLimits, Decoded, StreamDecoder, decoding_bytes};
pub use encode::{BatchEncoder, EncodeLimits};
pub use path::{DEFAULT_SCHEMA, TablePath};
pub use rows::batch_rows;
pub use schema::{
    Encoding, PARTIAL_MARK, fingerprint, schema_bytes, schema_from_bytes, wire_schema,
};
pub use size::plain_batch_bytes;
pub use stream::StreamName;
pub use ticket::{PastState, PreparedHandle, SigningKey, Ticket, TicketQuery};
