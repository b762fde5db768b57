//! Token files, credentials and reloading as the server uses them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flightcluster_auth::{
    Action, Authenticator, Denied, Permission, Principal, Reason, Token, generate_token,
};
use flightcluster_config::{AuthConfig, AuthMode};
use tempfile::TempDir;
use tokio::sync::oneshot;

struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces the file at once, as Kubernetes does with mounted Secrets: a watcher that reads in
    /// between would rightly complain about half a file.
    fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn config(&self, names: &[&str]) -> AuthConfig {
        AuthConfig {
            mode: AuthMode::Token,
            token_files: names.iter().map(|name| self.path(name)).collect(),
            ..AuthConfig::default()
        }
    }
}

fn make(name: &str, permissions: &[&str], expires: Option<&str>) -> (Token, String) {
    let permissions: Vec<Permission> = permissions
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let expires = expires.map(|time| time.parse().unwrap());
    let (token, entry) = generate_token(name, &permissions, expires).unwrap();
    (token, entry.to_yaml())
}

fn call(authenticator: &Authenticator, value: &str) -> Result<Principal, Denied> {
    authenticator.authenticate([value.as_bytes()])
}

fn bearer(token: &Token) -> String {
    format!("Bearer {}", token.expose())
}

fn reason(result: Result<Principal, Denied>) -> Reason {
    match result {
        Err(Denied::Unauthenticated(reason)) => reason,
        other => panic!("expected Unauthenticated, got {other:?}"),
    }
}

#[test]
fn without_authentication_everyone_is_anonymous_and_may_do_everything() {
    let authenticator = Authenticator::new(&AuthConfig::default()).unwrap();
    for headers in [vec![], vec!["Bearer x"], vec!["nonsense", "twice"]] {
        let headers = headers.iter().map(|value: &&str| value.as_bytes());
        let principal = authenticator.authenticate(headers).unwrap();
        assert_eq!(principal.name(), "anonymous");
        assert!(principal.may(Action::Admin, "anything"));
    }
}

/// S0-21, S0-22: nobody learns from the answer which tokens exist.
#[test]
fn missing_unknown_and_expired_tokens_are_told_the_same() {
    let files = Files::new();
    let (old, old_entry) = make("old", &["read:*"], Some("2001-01-01T00:00:00Z"));
    let (_, entry) = make("ada", &["read:*"], None);
    files.write("a", &(old_entry + &entry));
    let authenticator = Authenticator::new(&files.config(&["a"])).unwrap();

    let none: [&[u8]; 0] = [];
    let twice = [b"Bearer x".as_slice(), b"Bearer x".as_slice()];
    let refusals = [
        (authenticator.authenticate(none), Reason::MissingToken),
        (call(&authenticator, "Bearer wrong"), Reason::UnknownToken),
        (call(&authenticator, &bearer(&old)), Reason::ExpiredToken),
        (call(&authenticator, "Nonsense"), Reason::MalformedHeader),
        (authenticator.authenticate(twice), Reason::SeveralHeaders),
    ];
    let mut texts = Vec::new();
    for (refusal, expected) in refusals {
        texts.push(refusal.clone().unwrap_err().to_string());
        assert_eq!(reason(refusal), expected);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
}

/// S0-23: who is known but not allowed is told so, differently from who is not known.
#[test]
fn a_token_is_limited_to_its_databases() {
    let files = Files::new();
    let (token, entry) = make("ada", &["read:db1", "write:demo*"], None);
    files.write("a", &entry);
    let authenticator = Authenticator::new(&files.config(&["a"])).unwrap();
    let principal = call(&authenticator, &bearer(&token)).unwrap();
    assert_eq!(principal.name(), "ada");
    principal.require(Action::Read, "db1").unwrap();
    principal.require(Action::Write, "demo2").unwrap();
    for (action, database) in [
        (Action::Read, "db2"),
        (Action::Write, "db1"),
        (Action::Read, "demo2"),
    ] {
        let denied = principal.require(action, database).unwrap_err();
        assert!(
            matches!(denied, Denied::PermissionDenied { .. }),
            "{denied:?}"
        );
    }
}

/// S4-12.
#[test]
fn bearer_token_and_basic_carry_the_same_token() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    let files = Files::new();
    let (token, entry) = make("ada", &["read:*"], None);
    files.write("a", &entry);
    let authenticator = Authenticator::new(&files.config(&["a"])).unwrap();
    let secret = token.expose();
    for user in ["", "me", "someone@example.com"] {
        let pair = format!("{user}:{secret}");
        for value in [
            format!("bEaReR {secret}"),
            format!("TOKEN {secret}"),
            format!("Basic {}", STANDARD.encode(&pair)),
            format!("basic {}", STANDARD_NO_PAD.encode(&pair)),
        ] {
            assert_eq!(
                call(&authenticator, &value).unwrap().name(),
                "ada",
                "{value}"
            );
        }
    }
    // The user is ignored, also when it holds the token.
    let swapped = format!("Basic {}", STANDARD.encode(format!("{secret}:x")));
    assert_eq!(reason(call(&authenticator, &swapped)), Reason::UnknownToken);
}

/// S4-11: tokens are added and removed without a restart.
#[test]
fn reloading_adds_and_removes_tokens() {
    let files = Files::new();
    let (first, first_entry) = make("first", &["read:*"], None);
    let (second, second_entry) = make("second", &["read:*"], None);
    files.write("a", &first_entry);
    let authenticator = Authenticator::new(&files.config(&["a"])).unwrap();
    assert!(!authenticator.reload().unwrap(), "nothing changed");
    assert_eq!(
        reason(call(&authenticator, &bearer(&second))),
        Reason::UnknownToken
    );

    files.write("a", &format!("{first_entry}{second_entry}"));
    assert!(authenticator.reload().unwrap());
    assert_eq!(
        call(&authenticator, &bearer(&second)).unwrap().name(),
        "second"
    );

    files.write("a", &second_entry);
    assert!(authenticator.reload().unwrap());
    assert_eq!(
        reason(call(&authenticator, &bearer(&first))),
        Reason::UnknownToken
    );
}

#[test]
fn several_files_count_together() {
    let files = Files::new();
    let (ada, ada_entry) = make("ada", &["read:a"], None);
    let (bob, bob_entry) = make("bob", &["read:b"], None);
    files.write("a", &ada_entry);
    files.write("b", &bob_entry);
    let authenticator = Authenticator::new(&files.config(&["a", "b"])).unwrap();
    assert!(
        call(&authenticator, &bearer(&ada))
            .unwrap()
            .may(Action::Read, "a")
    );
    assert!(
        call(&authenticator, &bearer(&bob))
            .unwrap()
            .may(Action::Read, "b")
    );

    files.write("b", &ada_entry);
    let error = Authenticator::new(&files.config(&["a", "b"])).unwrap_err();
    assert_eq!(error.category(), "duplicate");
}

#[test]
fn a_start_without_readable_tokens_fails() {
    let files = Files::new();
    let error = Authenticator::new(&files.config(&["missing"])).unwrap_err();
    assert_eq!(error.category(), "read");
    files.write("broken", "[{]");
    let error = Authenticator::new(&files.config(&["broken"])).unwrap_err();
    assert_eq!(error.category(), "syntax");
}

#[test]
fn a_broken_file_keeps_the_tokens_in_force() {
    let files = Files::new();
    let (token, entry) = make("ada", &["read:*"], None);
    files.write("a", &entry);
    let authenticator = Authenticator::new(&files.config(&["a"])).unwrap();
    for broken in ["", "[{]", "- {name: ada}", "token: x"] {
        files.write("a", broken);
        authenticator.reload().unwrap_err();
        call(&authenticator, &bearer(&token)).unwrap();
    }
    std::fs::remove_file(files.path("a")).unwrap();
    authenticator.reload().unwrap_err();
    call(&authenticator, &bearer(&token)).unwrap();

    files.write("a", "[]");
    assert!(authenticator.reload().unwrap());
    assert_eq!(
        reason(call(&authenticator, &bearer(&token))),
        Reason::UnknownToken
    );
}

/// Invariant 7: secrets never appear in a log or a `Debug`.
#[test]
fn nothing_that_holds_a_secret_shows_it() {
    let files = Files::new();
    let permissions = [Permission::everything()];
    let (token, entry) = generate_token("ada", &permissions, None).unwrap();
    files.write("a", &entry.to_yaml());
    let authenticator = Authenticator::new(&files.config(&["a"])).unwrap();
    let header = bearer(&token);
    let credential = flightcluster_auth::Credential::from_headers([header.as_bytes()]).unwrap();
    let principal = call(&authenticator, &header).unwrap();
    let shown = format!("{token:?} {entry:?} {authenticator:?} {credential:?} {principal:?}");
    assert!(!shown.contains(token.expose()), "{shown}");
    assert!(!shown.contains(&entry.sha256.to_string()), "{shown}");
    assert!(shown.contains("ada"), "{shown}");
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn count(&self, text: &str) -> usize {
        self.text().matches(text).count()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Lets the watcher work until `done`. A bounded number of rounds of a clock that only moves here.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        // Gives the thread that reads the files time of the real clock.
        tokio::task::spawn_blocking(std::thread::yield_now)
            .await
            .unwrap();
    }
    panic!("never happened: {what}");
}

/// S4-11 and invariant 7.
#[tokio::test(start_paused = true)]
async fn watching_follows_the_files_and_logs_a_failure_once_without_secrets() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    let files = Files::new();
    let (first, first_entry) = make("first", &["read:*"], None);
    let (second, second_entry) = make("second", &["read:*"], None);
    files.write("a", &first_entry);
    let authenticator = Arc::new(Authenticator::new(&files.config(&["a"])).unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let watching = tokio::spawn(
        Arc::clone(&authenticator).watch(Duration::from_secs(2), async {
            let _ = stopped.await;
        }),
    );

    files.write("a", &format!("- {{name: x, sha256: {}}}", first.expose()));
    until("the failure is logged", || {
        lines.count("can't be reloaded") == 1
    })
    .await;
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::task::spawn_blocking(|| {}).await.unwrap();
    }
    assert_eq!(lines.count("can't be reloaded"), 1, "{}", lines.text());
    call(&authenticator, &bearer(&first)).unwrap();

    files.write("a", &second_entry);
    until("the second token is known", || {
        call(&authenticator, &bearer(&second)).is_ok()
    })
    .await;
    until("the reload is logged", || {
        lines.count("token files reloaded") == 1
    })
    .await;
    assert_eq!(
        reason(call(&authenticator, &bearer(&first))),
        Reason::UnknownToken
    );

    files.write("a", "[{]");
    until("a new failure is logged", || {
        lines.count("can't be reloaded") == 2
    })
    .await;
    files.write("a", &second_entry);
    until("the recovery is logged", || {
        lines.count("can be read again") == 1
    })
    .await;

    stop.send(()).unwrap();
    watching.await.unwrap();
    let text = lines.text();
    for token in [&first, &second] {
        assert!(!text.contains(token.expose()), "{text}");
    }
}

#[tokio::test]
async fn without_files_there_is_nothing_to_watch() {
    let authenticator = Arc::new(Authenticator::new(&AuthConfig::default()).unwrap());
    authenticator
        .watch(Duration::from_secs(1), std::future::pending())
        .await;
}
