//! Checks credentials against the tokens in force, and follows the token files.
//!
//! # Reloading
//! Flow: read all files → check all entries → replace the whole set at once. A set that is wrong in
//! any way changes nothing: the tokens read before stay in force, and the error is logged once, not
//! every interval. A removed token stops working with the next call after the reload; calls that are
//! running are not interrupted.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use flightcluster_config::{AuthConfig, AuthMode};
use jiff::Timestamp;
use subtle::{Choice, ConditionallySelectable as _};
use tracing::{error, info};

use crate::credential::Credential;
use crate::denied::{Denied, Reason};
use crate::permission::Principal;
use crate::token::{TokenEntry, TokenHash};
use crate::token_file::{Error, read_token_files};

/// Knows who is calling.
pub struct Authenticator {
    mode: AuthMode,
    files: Vec<PathBuf>,
    anonymous: Principal,
    tokens: ArcSwap<Tokens>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("mode", &self.mode)
            .field("files", &self.files)
            .field("tokens", &self.token_count())
            .finish_non_exhaustive()
    }
}

/// The tokens in force, each with the principal it stands for.
#[derive(PartialEq, Eq)]
struct Tokens(Vec<(TokenEntry, Principal)>);

impl Tokens {
    fn new(entries: Vec<TokenEntry>) -> Self {
        let known = |entry: TokenEntry| {
            let principal = Principal::new(&entry.name, &entry.permissions);
            (entry, principal)
        };
        Self(entries.into_iter().map(known).collect())
    }

    /// Compares with every token, whether or not one was found already, so that the time taken says
    /// nothing about the tokens.
    fn find(&self, hash: &TokenHash) -> Option<&(TokenEntry, Principal)> {
        let mut found = Choice::from(0);
        let mut position = 0_u64;
        for (index, (entry, _)) in (0_u64..).zip(&self.0) {
            let same = entry.sha256.ct_eq(hash);
            position.conditional_assign(&index, same);
            found |= same;
        }
        let position = usize::try_from(position).ok()?;
        bool::from(found).then(|| self.0.get(position)).flatten()
    }
}

impl Authenticator {
    /// Reads the token files, unless authentication is off.
    ///
    /// # Errors
    /// Everything that is wrong with the files: a process must not start with half of its tokens.
    pub fn new(config: &AuthConfig) -> Result<Self, Error> {
        let files = match config.mode {
            AuthMode::None => Vec::new(),
            AuthMode::Token => config.all_token_files(),
        };
        let tokens = Tokens::new(read_token_files(&files)?);
        Ok(Self {
            mode: config.mode,
            files,
            anonymous: Principal::anonymous(),
            tokens: ArcSwap::from_pointee(tokens),
        })
    }

    /// Finds out who sends these `authorization` headers (the values of all of them).
    ///
    /// With authentication off that is [`Principal::anonymous`], whatever is sent.
    ///
    /// # Errors
    /// [`Denied::Unauthenticated`]. Text and time taken are the same whether a token is missing,
    /// unknown or expired.
    pub fn authenticate<'a>(
        &self,
        authorization: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Principal, Denied> {
        match self.mode {
            AuthMode::None => Ok(self.anonymous.clone()),
            AuthMode::Token => {
                let credential = Credential::from_headers(authorization);
                // Without a credential the same work is done for nothing.
                let secret = credential.as_ref().map_or("", Credential::expose);
                let checked = self.check(secret);
                credential.and(checked)
            }
        }
    }

    /// Reads the token files again and puts them into force if they changed. Returns whether they
    /// did. Blocks on the file system.
    ///
    /// # Errors
    /// What is wrong with the files; the tokens in force stay.
    pub fn reload(&self) -> Result<bool, Error> {
        let tokens = Tokens::new(read_token_files(&self.files)?);
        let changed = **self.tokens.load() != tokens;
        if changed {
            self.tokens.store(Arc::new(tokens));
        }
        Ok(changed)
    }

    /// Number of tokens in force, expired ones included.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.tokens.load().0.len()
    }

    /// Reloads every `interval` until `cancelled` completes; returns at once when there are no files
    /// to follow. Logs what changed, and each new failure once.
    ///
    /// - Cancellation: dropping the future stops it too; a reload that runs is finished first.
    pub async fn watch(self: Arc<Self>, interval: Duration, cancelled: impl Future<Output = ()>) {
        if self.files.is_empty() {
            return;
        }
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut report = Report::default();
        tokio::pin!(cancelled);
        loop {
            tokio::select! {
                () = &mut cancelled => return,
                _ = ticks.tick() => {}
            }
            let this = Arc::clone(&self);
            // A panic in there is a bug that its hook has logged; the next round tries again.
            if let Ok(outcome) = tokio::task::spawn_blocking(move || this.reload()).await {
                report.log(outcome, self.token_count());
            }
        }
    }

    fn check(&self, secret: &str) -> Result<Principal, Denied> {
        let tokens = self.tokens.load();
        let (entry, principal) = tokens
            .find(&TokenHash::of(secret))
            .ok_or(Denied::Unauthenticated(Reason::UnknownToken))?;
        if entry
            .expires_at
            .is_some_and(|expires| expires <= Timestamp::now())
        {
            return Err(Denied::Unauthenticated(Reason::ExpiredToken));
        }
        Ok(principal.clone())
    }
}

/// Remembers what was said about the token files, to say it once.
#[derive(Default)]
struct Report {
    failure: Option<String>,
}

impl Report {
    fn log(&mut self, outcome: Result<bool, Error>, tokens: usize) {
        match outcome {
            Ok(changed) => {
                let recovered = self.failure.take().is_some();
                if changed {
                    info!(tokens, "token files reloaded");
                } else if recovered {
                    info!(tokens, "token files can be read again, nothing changed");
                }
            }
            Err(failure) => {
                let text = failure.to_string();
                if self.failure.as_ref() != Some(&text) {
                    error!(
                        error = &failure as &dyn std::error::Error,
                        tokens, "token files can't be reloaded, keeping the tokens in force"
                    );
                    self.failure = Some(text);
                }
            }
        }
    }
}
