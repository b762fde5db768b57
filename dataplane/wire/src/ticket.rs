//! Signed, self-contained tickets and prepared-statement handles.
//!
//! A ticket holds everything a querier needs to answer, so any querier with the cluster's signing
//! key redeems a ticket any other made; nothing is remembered between calls. The client sees
//! opaque bytes. Tickets are signed, not encrypted: they hold nothing their owner may not read.
//!
//! ```text
//! 0xFC | kind 'T' or 'P' | version | HMAC-SHA256 (32) over kind, version, content | content (protobuf)
//! ```
//! The first byte begins neither JSON, text nor protobuf, so tickets are told from raw commands
//! ([`crate::command`]) without trying. The kind is signed: a handle never passes for a ticket.
//!
//! Left to others: whether the caller may run what the ticket says. A signature proves the content
//! is ours, not that the bearer owns it; the server authorizes each redemption anew.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::Sha256;

use crate::command::QueryLanguage;
use crate::path::TablePath;

const MARK: u8 = 0xFC;
const VERSION: u8 = 1;
/// A ticket for the past: a node that does not know it would answer with the present.
const PAST_VERSION: u8 = 2;
const PREFIX_BYTES: usize = 3;
const SIGNATURE_BYTES: usize = 32;

/// The key all nodes of a cluster sign tickets with.
#[derive(Clone)]
pub struct SigningKey([u8; 32]);

impl SigningKey {
    /// Takes 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn mac(&self, prefix: &[u8], content: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(prefix);
        mac.update(content);
        mac
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// What a ticket runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TicketQuery {
    /// Query text.
    Text {
        /// The statement.
        text: String,
        /// Its language.
        language: QueryLanguage,
    },
    /// A whole table.
    Table(TablePath),
    /// A Flight SQL metadata command, the `Any` as the client sent it.
    Metadata(Bytes),
    /// A prepared statement, its [`PreparedHandle`] as sealed.
    Prepared(Bytes),
}

/// Everything needed to answer one DoGet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// What to run.
    pub query: TicketQuery,
    /// Database the names in it are looked up in.
    pub database: String,
    /// Parameters, see [`crate::params::batch_to_bytes`].
    pub params: Option<Bytes>,
    /// [`crate::fingerprint`] of the wire schema that was announced: the redeemer refuses to
    /// stream another.
    pub schema_fingerprint: u64,
    /// Catalog snapshot the answer is read from.
    pub snapshot: u64,
    /// Number that tells this ticket from any other, so that a statement with side effects runs
    /// once.
    pub nonce: u128,
    /// When the ticket ends, in Unix milliseconds.
    pub expires_at_millis: u64,
    /// The past it is for; `None` for the present of who redeems it.
    pub past: Option<PastState>,
    /// Whether it takes a partial answer. A node that does not know this gives a whole answer or none, so
    /// it needs no version.
    pub partial: bool,
}

/// A state of the catalog, and the moment it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastState {
    /// The snapshot.
    pub snapshot: u64,
    /// The moment, in Unix milliseconds.
    pub at_millis: i64,
}

/// Everything needed to run a prepared statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedHandle {
    /// The statement.
    pub sql: String,
    /// Database the names in it are looked up in.
    pub database: String,
    /// Bound parameters, see [`crate::params::batch_to_bytes`]; `None` before binding.
    pub params: Option<Bytes>,
}

/// Why a ticket or handle was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no ticket of any version.
    #[error("the bytes are not a {what} of this product")]
    Foreign {
        /// What was expected.
        what: &'static str,
    },
    /// The version is not ours.
    #[error(
        "the {what} has version {version}, this node reads versions up to {PAST_VERSION}; ask for a new \
         one"
    )]
    Version {
        /// What was expected.
        what: &'static str,
        /// Version found.
        version: u8,
    },
    /// The signature does not match: altered, cut off, or signed by another cluster.
    #[error(
        "the signature of the {what} does not match; it was altered or comes from another cluster"
    )]
    Signature {
        /// What was expected.
        what: &'static str,
    },
    /// The ticket is too old.
    #[error("the ticket expired {late_millis} ms ago; run the query again")]
    Expired {
        /// Milliseconds since it ended.
        late_millis: u64,
    },
    /// The content is not readable, though signed: made by a defective node.
    #[error("the content of the {what} is not readable")]
    Content {
        /// What was expected.
        what: &'static str,
        /// What the decoder found.
        source: prost::DecodeError,
    },
    /// The content lacks a part, though signed: made by a defective node.
    #[error("the content of the {what} lacks the {field}")]
    Missing {
        /// What was expected.
        what: &'static str,
        /// The part.
        field: &'static str,
    },
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => "ticket_malformed",
            Self::Version { .. } => "ticket_version",
            Self::Signature { .. } => "ticket_signature",
            Self::Expired { .. } => "ticket_expired",
            Self::Content { .. } | Self::Missing { .. } => "ticket_content",
        }
    }
}

/// Whether the bytes claim to be sealed by this product; a raw command never does.
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&MARK)
}

impl Ticket {
    /// Signs the ticket and writes it as the client will carry it.
    pub fn seal(&self, key: &SigningKey) -> Bytes {
        let version = match self.past {
            Some(_) => PAST_VERSION,
            None => VERSION,
        };
        seal(Kind::Ticket, version, key, &content::Ticket::from(self))
    }

    /// Checks and reads a ticket.
    ///
    /// - Errors: foreign bytes, another version, a wrong signature and expiry are told apart.
    ///   Nothing of the content is read before the signature is known to be right.
    pub fn open(bytes: &[u8], key: &SigningKey, now_millis: u64) -> Result<Self, Error> {
        let content: content::Ticket = open(Kind::Ticket, bytes, key)?;
        if content.expires_at_millis <= now_millis {
            let late_millis = now_millis - content.expires_at_millis;
            return Err(Error::Expired { late_millis });
        }
        content.try_into()
    }
}

impl PreparedHandle {
    /// Signs the handle and writes it as the client will carry it.
    pub fn seal(&self, key: &SigningKey) -> Bytes {
        let Self {
            sql,
            database,
            params,
        } = self.clone();
        seal(
            Kind::Prepared,
            VERSION,
            key,
            &content::Prepared {
                sql,
                database,
                params,
            },
        )
    }

    /// Checks and reads a handle. Handles do not expire: clients keep statements for long.
    pub fn open(bytes: &[u8], key: &SigningKey) -> Result<Self, Error> {
        let content::Prepared {
            sql,
            database,
            params,
        } = open(Kind::Prepared, bytes, key)?;
        Ok(Self {
            sql,
            database,
            params,
        })
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Ticket,
    Prepared,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Ticket => b'T',
            Self::Prepared => b'P',
        }
    }

    fn reads(self, version: u8) -> bool {
        version == VERSION || matches!(self, Self::Ticket) && version == PAST_VERSION
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Prepared => "prepared statement handle",
        }
    }
}

fn seal(kind: Kind, version: u8, key: &SigningKey, content: &impl Message) -> Bytes {
    let prefix = [MARK, kind.byte(), version];
    let content = content.encode_to_vec();
    let signature = key.mac(&prefix, &content).finalize().into_bytes();
    let mut out = Vec::with_capacity(PREFIX_BYTES + SIGNATURE_BYTES + content.len());
    out.extend_from_slice(&prefix);
    out.extend_from_slice(&signature);
    out.extend_from_slice(&content);
    out.into()
}

fn open<M: Message + Default>(kind: Kind, bytes: &[u8], key: &SigningKey) -> Result<M, Error> {
    let what = kind.name();
    let foreign = Error::Foreign { what };
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(foreign);
    };
    let [mark, kind_byte, version] = *prefix;
    if mark != MARK || kind_byte != kind.byte() {
        return Err(foreign);
    }
    if !kind.reads(version) {
        return Err(Error::Version { what, version });
    }
    let Some((signature, content)) = rest.split_first_chunk::<SIGNATURE_BYTES>() else {
        return Err(Error::Signature { what });
    };
    // Compares in constant time.
    key.mac(prefix, content)
        .verify_slice(signature)
        .map_err(|_| Error::Signature { what })?;
    M::decode(content).map_err(|source| Error::Content { what, source })
}

/// The content as protobuf, so that a later release may add fields without a new version.
mod content {
    use super::{Error, PastState, QueryLanguage, TicketQuery};
    use crate::path::TablePath;
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Ticket {
        #[prost(oneof = "Query", tags = "1, 2, 3, 4")]
        pub(super) query: Option<Query>,
        #[prost(string, tag = "5")]
        pub(super) database: String,
        #[prost(bytes = "bytes", optional, tag = "6")]
        pub(super) params: Option<Bytes>,
        #[prost(fixed64, tag = "7")]
        pub(super) schema_fingerprint: u64,
        #[prost(uint64, tag = "8")]
        pub(super) snapshot: u64,
        #[prost(fixed64, tag = "9")]
        pub(super) nonce_high: u64,
        #[prost(fixed64, tag = "10")]
        pub(super) nonce_low: u64,
        #[prost(uint64, tag = "11")]
        pub(super) expires_at_millis: u64,
        #[prost(message, optional, tag = "12")]
        pub(super) past: Option<Past>,
        #[prost(bool, tag = "13")]
        pub(super) partial: bool,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Past {
        #[prost(uint64, tag = "1")]
        pub(super) snapshot: u64,
        #[prost(sint64, tag = "2")]
        pub(super) at_millis: i64,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Query {
        #[prost(string, tag = "1")]
        Sql(String),
        #[prost(string, tag = "2")]
        InfluxQl(String),
        #[prost(message, tag = "3")]
        Table(Path),
        #[prost(message, tag = "4")]
        Command(Command),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Path {
        #[prost(string, repeated, tag = "1")]
        pub(super) segments: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Command {
        #[prost(bytes = "bytes", optional, tag = "1")]
        pub(super) metadata: Option<Bytes>,
        #[prost(bytes = "bytes", optional, tag = "2")]
        pub(super) prepared: Option<Bytes>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Prepared {
        #[prost(string, tag = "1")]
        pub(super) sql: String,
        #[prost(string, tag = "2")]
        pub(super) database: String,
        #[prost(bytes = "bytes", optional, tag = "3")]
        pub(super) params: Option<Bytes>,
    }

    impl From<&super::Ticket> for Ticket {
        fn from(ticket: &super::Ticket) -> Self {
            let super::Ticket {
                query,
                database,
                params,
                schema_fingerprint,
                snapshot,
                nonce,
                expires_at_millis,
                past,
                partial,
            } = ticket.clone();
            Self {
                query: Some(query.into()),
                database,
                params,
                schema_fingerprint,
                snapshot,
                nonce_high: (nonce >> 64) as u64,
                nonce_low: nonce as u64,
                expires_at_millis,
                past: past.map(|past| Past {
                    snapshot: past.snapshot,
                    at_millis: past.at_millis,
                }),
                partial,
            }
        }
    }

    impl From<TicketQuery> for Query {
        fn from(query: TicketQuery) -> Self {
            match query {
                TicketQuery::Text {
                    text,
                    language: QueryLanguage::Sql,
                } => Self::Sql(text),
                TicketQuery::Text {
                    text,
                    language: QueryLanguage::InfluxQl,
                } => Self::InfluxQl(text),
                TicketQuery::Table(path) => Self::Table(Path {
                    segments: path.segments().map(String::from).to_vec(),
                }),
                TicketQuery::Metadata(any) => Self::Command(Command {
                    metadata: Some(any),
                    prepared: None,
                }),
                TicketQuery::Prepared(handle) => Self::Command(Command {
                    metadata: None,
                    prepared: Some(handle),
                }),
            }
        }
    }

    impl TryFrom<Ticket> for super::Ticket {
        type Error = Error;

        fn try_from(content: Ticket) -> Result<Self, Error> {
            Ok(Self {
                query: query(content.query)?,
                database: content.database,
                params: content.params,
                schema_fingerprint: content.schema_fingerprint,
                snapshot: content.snapshot,
                nonce: u128::from(content.nonce_high) << 64 | u128::from(content.nonce_low),
                expires_at_millis: content.expires_at_millis,
                past: content.past.map(|past| PastState {
                    snapshot: past.snapshot,
                    at_millis: past.at_millis,
                }),
                partial: content.partial,
            })
        }
    }

    fn query(query: Option<Query>) -> Result<TicketQuery, Error> {
        let missing = |field| Error::Missing {
            what: "ticket",
            field,
        };
        let text = |text, language| TicketQuery::Text { text, language };
        match query.ok_or(missing("query"))? {
            Query::Sql(sql) => Ok(text(sql, QueryLanguage::Sql)),
            Query::InfluxQl(influxql) => Ok(text(influxql, QueryLanguage::InfluxQl)),
            Query::Table(path) => TablePath::from_segments(&path.segments)
                .map(TicketQuery::Table)
                .map_err(|_| missing("table path")),
            Query::Command(Command {
                metadata: Some(any),
                prepared: None,
            }) => Ok(TicketQuery::Metadata(any)),
            Query::Command(Command {
                metadata: None,
                prepared: Some(handle),
            }) => Ok(TicketQuery::Prepared(handle)),
            Query::Command(_) => Err(missing("command")),
        }
    }
}

#[cfg(test)]
mod tests;
