//! Who is calling, and what may they do: credential → [`Principal`], (principal, [`Action`],
//! database) → allowed or not.
//!
//! [`Authenticator`] holds the tokens of the token files and checks the `authorization` header of
//! every call against them. gRPC codes, log lines per call and metrics belong to `server`, which
//! tells the two refusals apart by [`Denied`]. Secrets appear in no `Debug`, `Display`, error or log
//! line of this crate: tokens are stored as SHA-256 and plaintext types hide what they hold.

mod authenticator;
mod credential;
mod denied;
mod permission;
mod token;
mod token_file;

pub use authenticator::Authenticator;
pub use credential::Credential;
pub use denied::{Denied, Reason};
pub use permission::{Action, Permission, PermissionError, Principal};
pub use token::{GenerateError, TOKEN_PREFIX, Token, TokenEntry, TokenHash, generate_token};
pub use token_file::{EntryProblem, Error, parse_token_file};
