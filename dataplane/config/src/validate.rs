//! What makes a configuration safe and sensible to start with.
//!
//! Pure: no file is opened, no name is resolved. Fail closed: what would leave a door open that its
//! owner believes shut is refused, and opening it on purpose has its own setting. All problems are
//! reported at once.

use std::net::IpAddr;
use std::time::Duration;

use crate::problem::Problem;
use crate::{
    AuthMode, ByteSize, ClientAuth, Config, ObjectStoreConfig, ObjectStoreKind, Role,
    format_duration,
};

/// gRPC message lengths are 32 bits, and some clients count them as signed.
const MAX_MESSAGE_BYTES: ByteSize = ByteSize(i32::MAX as u64);
/// A process may stand still for as long as this without anything being wrong.
const MIN_LEASE: Duration = Duration::from_secs(1);
/// Below this not even the schema of a wide table fits into a message.
const MIN_MESSAGE_BYTES: ByteSize = ByteSize::kib(64);
/// A segment repeats the schemas it needs, so tiny ones are mostly schema.
const MIN_SEGMENT_BYTES: ByteSize = ByteSize::kib(64);
/// Files smaller than that cost more than they hold.
const MIN_TARGET_BYTES: ByteSize = ByteSize::mib(1);
/// Sorting keeps 10 MiB aside for merging what it wrote to disk.
const MIN_COMPACTION_BYTES: ByteSize = ByteSize::mib(24);

impl Config {
    /// Checks that a process of this role may start with these settings.
    ///
    /// # Errors
    /// Every problem, each naming the setting to change; never an empty list.
    pub fn validate(&self, role: Role) -> Result<(), Vec<Problem>> {
        let mut check = Check {
            config: self,
            role,
            problems: Vec::new(),
        };
        check.listeners();
        check.ports();
        check.public_tls();
        check.public_access();
        check.internal();
        check.catalog();
        check.object_store();
        check.durations();
        check.sizes();
        check.upkeep();
        if check.problems.is_empty() {
            Ok(())
        } else {
            Err(check.problems)
        }
    }
}

/// Whether only this machine can reach a listener on `host`.
///
/// Names other than `localhost` count as reachable from outside: what they resolve to can change.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || ip(host).is_some_and(|ip| ip.is_loopback())
}

fn is_wildcard(host: &str) -> bool {
    ip(host).is_some_and(|ip| ip.is_unspecified())
}

fn ip(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// The parts of an `http` or `https` URL that matter here: whether it is encrypted, and its host.
fn parse_url(url: &str) -> Option<(bool, &str)> {
    let (encrypted, rest) = match url.split_once("://")? {
        ("https", rest) => (true, rest),
        ("http", rest) => (false, rest),
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        // The colons of a bare IPv6 address.
        Some(_) if !authority.ends_with(']') => return None,
        _ => authority,
    };
    (!host.is_empty() && !host.contains(['@', ' '])).then_some((encrypted, host))
}

struct Check<'a> {
    config: &'a Config,
    role: Role,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn problem(&mut self, setting: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(setting, message));
    }

    fn listeners(&mut self) {
        let Config {
            server,
            internal,
            admin,
            ..
        } = self.config;
        for (setting, host) in [
            ("server.listen_host", &server.listen_host),
            ("internal.listen_host", &internal.listen_host),
            ("admin.listen_host", &admin.listen_host),
        ] {
            if host.trim().is_empty() {
                self.problem(
                    setting,
                    "is empty; 127.0.0.1 is this machine, 0.0.0.0 everyone",
                );
            }
        }
        if server
            .node_name
            .as_deref()
            .is_some_and(|name| name.trim().is_empty())
        {
            self.problem(
                "server.node_name",
                "is blank; unset it to use the host name",
            );
        }
        if let Some(host) = &server.advertise_host
            && (is_wildcard(host) || host.trim().is_empty())
        {
            let message =
                format!("{host:?} is no address clients can call; name the host they reach");
            self.problem("server.advertise_host", message);
        }
        if server.advertise_port == Some(0) {
            self.problem("server.advertise_port", "0 is no port clients can call");
        }
    }

    fn ports(&mut self) {
        let Config {
            server,
            internal,
            admin,
            ..
        } = self.config;
        let listeners = [
            (
                "server.listen_port",
                &server.listen_host,
                server.listen_port,
                self.role.is_public(),
            ),
            (
                "internal.listen_port",
                &internal.listen_host,
                internal.listen_port,
                internal.enabled,
            ),
            (
                "admin.listen_port",
                &admin.listen_host,
                admin.listen_port,
                true,
            ),
        ];
        let open: Vec<_> = listeners
            .into_iter()
            .filter(|listener| listener.3)
            .collect();
        for (index, (setting, host, port, _)) in open.iter().enumerate() {
            for (other, other_host, other_port, _) in &open[..index] {
                let same_host = host == other_host || is_wildcard(host) || is_wildcard(other_host);
                if port == other_port && *port != 0 && same_host {
                    let message = format!("port {port} is taken by {other}; choose another");
                    self.problem(setting, message);
                }
            }
        }
    }

    fn public_tls(&mut self) {
        let tls = &self.config.tls;
        if tls.certificate_file.is_some() && tls.key_file.is_none() {
            self.problem(
                "tls.key_file",
                "is missing; tls.certificate_file needs its private key",
            );
        }
        if tls.key_file.is_some() && tls.certificate_file.is_none() {
            self.problem(
                "tls.certificate_file",
                "is missing; tls.key_file is of no use without it",
            );
        }
        match (tls.client_auth, &tls.client_ca_file) {
            (ClientAuth::None, Some(_)) => {
                let message = "none lets every client in although tls.client_ca_file is set; \
                               say optional or required, or unset the file";
                self.problem("tls.client_auth", message);
            }
            (ClientAuth::Optional | ClientAuth::Required, None) => {
                let message = "is missing; tls.client_auth needs the authorities to check against";
                self.problem("tls.client_ca_file", message);
            }
            _ => {}
        }
        if tls.client_auth != ClientAuth::None && tls.certificate_file.is_none() {
            let message = "client certificates are only asked for over TLS; \
                           set tls.certificate_file and tls.key_file";
            self.problem("tls.client_auth", message);
        }
    }

    fn public_access(&mut self) {
        let Config {
            server, tls, auth, ..
        } = self.config;
        if !self.role.is_public() {
            return;
        }
        if auth.mode == AuthMode::Token && auth.all_token_files().is_empty() {
            let message = "is missing; auth.mode token needs at least one file with tokens \
                           (flightcluster token create)";
            self.problem("auth.token_file", message);
        }
        if auth.mode == AuthMode::None && !auth.all_token_files().is_empty() {
            let message = "none lets everyone in although token files are set; say token";
            self.problem("auth.mode", message);
        }
        if is_loopback(&server.listen_host) || auth.allow_insecure {
            return;
        }
        let host = &server.listen_host;
        if auth.mode == AuthMode::None {
            let message = format!(
                "none lets everyone in who reaches {host}; set auth.mode token, listen on \
                 127.0.0.1, or accept it with auth.allow_insecure"
            );
            self.problem("auth.mode", message);
        } else if !tls.is_enabled() {
            let message = format!(
                "tokens would cross the network of {host} in plaintext; set tls.certificate_file \
                 and tls.key_file, or accept it with auth.allow_insecure"
            );
            self.problem("tls.certificate_file", message);
        }
    }

    fn internal(&mut self) {
        let internal = &self.config.internal;
        let files = [
            (
                "internal.tls.certificate_file",
                &internal.tls.certificate_file,
            ),
            ("internal.tls.key_file", &internal.tls.key_file),
            ("internal.tls.ca_file", &internal.tls.ca_file),
        ];
        let partial = files.iter().any(|(_, file)| file.is_some());
        for (setting, file) in files {
            if partial && file.is_none() {
                let message = "is missing; mutual TLS needs certificate_file, key_file and ca_file";
                self.problem(setting, message);
            }
        }
        if self.role != Role::Standalone && !internal.enabled {
            let message = format!("role {} needs the internal port; set it to true", self.role);
            self.problem("internal.enabled", message);
        }
        let open = internal.enabled && !is_loopback(&internal.listen_host);
        if open && !partial && !internal.allow_insecure {
            let message = format!(
                "everyone who reaches {} could read and destroy all data; set internal.tls, or \
                 accept it with internal.allow_insecure",
                internal.listen_host
            );
            self.problem("internal.tls.certificate_file", message);
        }
        if let Some(url) = &internal.advertise_url {
            self.peer_url("internal.advertise_url", url);
        } else if self.role == Role::Ingester && is_wildcard(&internal.listen_host) {
            let message = format!(
                "is missing; queriers can't call {}, name the host they reach this ingester by",
                internal.listen_host
            );
            self.problem("internal.advertise_url", message);
        }
    }

    fn catalog(&mut self) {
        let catalog = &self.config.catalog;
        if let Some(url) = &catalog.url {
            self.peer_url("catalog.url", url);
            if catalog.postgres_url_file.is_some() {
                let message = "is set although catalog.postgres_url_file is; a catalog process or \
                               Postgres, not both";
                self.problem("catalog.url", message);
            }
        } else if matches!(self.role, Role::Querier | Role::Ingester)
            && catalog.postgres_url_file.is_none()
        {
            let message = format!(
                "is missing; role {} needs the URL of the catalog process, such as \
                 https://catalog:17002, or catalog.postgres_url_file",
                self.role
            );
            self.problem("catalog.url", message);
        }
        if catalog.postgres_url_file.is_none() {
            for (setting, file) in [
                (
                    "catalog.postgres_password_file",
                    &catalog.postgres_password_file,
                ),
                ("catalog.postgres_ca_file", &catalog.postgres_ca_file),
            ] {
                if file.is_some() {
                    self.problem(setting, "is of no use without catalog.postgres_url_file");
                }
            }
        }
        if catalog.postgres_max_connections < 2 {
            let message = "must be at least 2: one writes, the others read";
            self.problem("catalog.postgres_max_connections", message);
        }
    }

    /// A URL another process of the cluster is called by.
    fn peer_url(&mut self, setting: &str, url: &str) {
        let internal = &self.config.internal;
        match parse_url(url) {
            None => {
                let message = format!("expected https://HOST:PORT, found {url:?}");
                self.problem(setting, message);
            }
            Some((_, host)) if is_wildcard(host) => {
                self.problem(setting, format!("{host} is no address that can be called"));
            }
            Some((true, _)) if !internal.tls.is_complete() => {
                self.problem(setting, "https needs internal.tls: all three files");
            }
            Some((false, host)) if !is_loopback(host) && !internal.allow_insecure => {
                let message = "http is plaintext; use https with internal.tls, or accept it with \
                               internal.allow_insecure";
                self.problem(setting, message);
            }
            Some(_) => {}
        }
    }

    fn object_store(&mut self) {
        let store = &self.config.storage.object_store;
        match store.kind {
            ObjectStoreKind::Embedded
                if self.role != Role::Catalog && self.config.catalog.url.is_none() =>
            {
                let message = "embedded objects are served by the catalog process; set \
                               catalog.url, or use kind s3, gcs, azure or a shared directory";
                self.problem("storage.object_store.kind", message);
            }
            ObjectStoreKind::Memory if self.role != Role::Standalone => {
                let message = format!(
                    "memory is not shared between processes; role {} needs embedded, s3, gcs, \
                     azure or a shared directory",
                    self.role
                );
                self.problem("storage.object_store.kind", message);
            }
            ObjectStoreKind::S3 | ObjectStoreKind::Gcs | ObjectStoreKind::Azure => {
                self.cloud_store(store);
            }
            ObjectStoreKind::Local | ObjectStoreKind::Embedded | ObjectStoreKind::Memory => {
                if let Some(bucket) = &store.bucket {
                    let message = format!(
                        "{bucket:?} is set but kind {} has no bucket; set \
                         storage.object_store.kind",
                        store.kind.as_str()
                    );
                    self.problem("storage.object_store.bucket", message);
                }
            }
        }
    }

    fn cloud_store(&mut self, store: &ObjectStoreConfig) {
        let kind = store.kind.as_str();
        if store.bucket.is_none() {
            let message = format!("is missing; kind {kind} needs one");
            self.problem("storage.object_store.bucket", message);
        }
        if store.path.is_some() {
            let message = format!("is for local directories; use prefix with kind {kind}");
            self.problem("storage.object_store.path", message);
        }
        if store.request_timeout < Duration::from_secs(1) {
            let message = "must be at least 1s; a shorter one gives up on healthy answers";
            self.problem("storage.object_store.request_timeout", message);
        }
        let (id, secret) = (&store.access_key_id_file, &store.secret_access_key_file);
        if id.is_some() && secret.is_none() {
            let message = "is missing; access_key_id_file is of no use without it";
            self.problem("storage.object_store.secret_access_key_file", message);
        }
        if secret.is_some() && id.is_none() && store.kind != ObjectStoreKind::Gcs {
            let message = "is missing; secret_access_key_file is of no use without it";
            self.problem("storage.object_store.access_key_id_file", message);
        }
        if let Some(endpoint) = &store.endpoint {
            match parse_url(endpoint) {
                None => {
                    let message = format!("expected https://HOST[:PORT], found {endpoint:?}");
                    self.problem("storage.object_store.endpoint", message);
                }
                Some((false, _)) if !store.allow_http => {
                    let message = "http is plaintext; use https, or accept it with \
                                   storage.object_store.allow_http";
                    self.problem("storage.object_store.endpoint", message);
                }
                Some(_) => {}
            }
        }
    }

    fn durations(&mut self) {
        let Config {
            server,
            tls,
            auth,
            catalog,
            ingest,
            query,
            ..
        } = self.config;
        for (setting, duration) in [
            (
                "server.stream_keepalive_interval",
                server.stream_keepalive_interval,
            ),
            ("server.stream_idle_timeout", server.stream_idle_timeout),
            ("server.shutdown_timeout", server.shutdown_timeout),
            ("server.ticket_ttl", server.ticket_ttl),
            ("tls.reload_interval", tls.reload_interval),
            ("auth.reload_interval", auth.reload_interval),
            ("catalog.request_timeout", catalog.request_timeout),
            ("catalog.backup.interval", catalog.backup.interval),
            ("catalog.backup.keep_for", catalog.backup.keep_for),
            ("ingest.flush_interval", ingest.flush_interval),
            ("ingest.flushed_grace", ingest.flushed_grace),
            ("ingest.producer_window", ingest.producer_window),
            ("ingest.upload_ttl", ingest.upload_ttl),
            ("query.timeout", query.timeout.unwrap_or(Duration::MAX)),
        ] {
            if duration.is_zero() {
                self.problem(setting, "must be longer than 0");
            }
        }
        if server.stream_keepalive_interval >= server.stream_idle_timeout {
            let message = format!(
                "must be shorter than server.stream_idle_timeout ({})",
                format_duration(server.stream_idle_timeout)
            );
            self.problem("server.stream_keepalive_interval", message);
        }
    }

    fn upkeep(&mut self) {
        let Config { query, upkeep, .. } = self.config;
        for (setting, duration) in [
            ("upkeep.interval", upkeep.interval),
            ("upkeep.gc_grace", upkeep.gc_grace),
            ("upkeep.orphan_interval", upkeep.orphan_interval),
            ("upkeep.orphan_grace", upkeep.orphan_grace),
        ] {
            if duration.is_zero() {
                self.problem(setting, "must be longer than 0");
            }
        }
        if upkeep.lease < MIN_LEASE {
            let message = "must be at least 1s; a shorter one is over before it is renewed";
            self.problem("upkeep.lease", message);
        }
        if let Some(timeout) = query.timeout
            && upkeep.gc_grace <= timeout
        {
            let message = format!(
                "must be longer than query.timeout ({}): a query may need an object until then",
                format_duration(timeout)
            );
            self.problem("upkeep.gc_grace", message);
        }
        let (min, max) = (upkeep.compaction_min_files, upkeep.compaction_max_files);
        if min < 2 {
            self.problem("upkeep.compaction_min_files", "must be 2 or more");
        }
        if max < min {
            let message = format!("must be {min} (upkeep.compaction_min_files) or more");
            self.problem("upkeep.compaction_max_files", message);
        }
        if upkeep.compaction_target_bytes < MIN_TARGET_BYTES {
            let message = format!("must be {MIN_TARGET_BYTES} or more");
            self.problem("upkeep.compaction_target_bytes", message);
        }
        if upkeep.compaction_memory_bytes < MIN_COMPACTION_BYTES {
            let message = format!("must be {MIN_COMPACTION_BYTES} or more");
            self.problem("upkeep.compaction_memory_bytes", message);
        }
    }

    fn sizes(&mut self) {
        let Config {
            server,
            ingest,
            query,
            log,
            catalog,
            ..
        } = self.config;
        for (setting, number) in [
            (
                "catalog.backup.keep_count",
                u64::from(catalog.backup.keep_count),
            ),
            (
                "server.max_concurrent_streams",
                u64::from(server.max_concurrent_streams),
            ),
            (
                "ingest.group_commit_max_bytes",
                ingest.group_commit_max_bytes.as_u64(),
            ),
            ("ingest.flush_bytes", ingest.flush_bytes.as_u64()),
            (
                "ingest.max_row_group_rows",
                u64::from(ingest.max_row_group_rows),
            ),
            ("query.batch_rows", u64::from(query.batch_rows)),
        ] {
            if number == 0 {
                self.problem(setting, "must be more than 0");
            }
        }
        if !(MIN_MESSAGE_BYTES..=MAX_MESSAGE_BYTES).contains(&server.max_message_bytes) {
            let message = format!("must be from {MIN_MESSAGE_BYTES} to {MAX_MESSAGE_BYTES} bytes");
            self.problem("server.max_message_bytes", message);
        }
        if ingest.wal_segment_bytes < MIN_SEGMENT_BYTES {
            let message = format!("must be at least {MIN_SEGMENT_BYTES}");
            self.problem("ingest.wal_segment_bytes", message);
        }
        let is_set = ingest.buffer_bytes.as_u64() > 0;
        if is_set && ingest.buffer_bytes < ingest.flush_bytes {
            let message = format!(
                "must be at least ingest.flush_bytes ({})",
                ingest.flush_bytes
            );
            self.problem("ingest.buffer_bytes", message);
        }
        if is_set && ingest.buffer_bytes < server.max_message_bytes {
            let message = format!(
                "must be at least server.max_message_bytes ({}), or such a message waits until all else \
                 is in files",
                server.max_message_bytes
            );
            self.problem("ingest.buffer_bytes", message);
        }
        if log.filter.trim().is_empty() {
            self.problem("log.filter", "is empty; error is the quietest level");
        }
    }
}
