//! What an operator may tune.

use crate::error::invalid;
use serde::Deserialize;
use springhouse_online::StoreError;
use std::fmt;
use std::path::{Path, PathBuf};

/// How the servers stand together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// One server.
    #[default]
    Standalone,
    /// A primary and its replicas, found by asking Sentinel.
    Sentinel,
    /// A Redis Cluster.
    Cluster,
}

/// Where the rows of the views of one entity are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowLayout {
    /// A key for each view's row.
    #[default]
    View,
    /// One hash per entity with a field for each view's row.
    Entity,
}

/// Settings of the Redis store, in `springhouse.yaml` under `redis:`. Used with `store: {kind: redis}`.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisSettings {
    /// `redis://host:port` or, with TLS, `rediss://host:port`: the server, the Sentinels, or some nodes of the Cluster.
    pub urls: Vec<String>,
    /// How the servers stand together: `standalone`, `sentinel` or `cluster`.
    pub mode: RedisMode,
    /// The name under which Sentinel knows the primary.
    pub sentinel_primary: String,
    /// The ACL user; empty is the default user.
    pub username: String,
    /// The environment variable that holds the password.
    pub password_env: String,
    /// The file that holds the password; read again for every connection, so that it can be changed.
    pub password_file: String,
    /// The environment variable that holds the Sentinels' password, if they have one.
    pub sentinel_password_env: String,
    /// PEM file of the authority that signed the servers' certificates; without it the system's authorities count.
    pub tls_ca_file: String,
    /// PEM file of this client's certificate.
    pub tls_cert_file: String,
    /// PEM file of this client's key.
    pub tls_key_file: String,
    /// The database number; a Cluster has only 0.
    pub database: i64,
    /// What every key begins with: letters, digits, `_`, `-`, `.`; other projects in the same server need another one.
    pub key_prefix: String,
    /// Store reads a second at peak. Connections are sized from it: `peak_rps x latency_ms x 1.5` calls are under way at
    /// once, 32 a connection.
    pub peak_rps: u32,
    /// How long a store read takes at peak, in milliseconds.
    pub latency_ms: f64,
    /// Connections to each server; 0 sizes them from `peak_rps` and `latency_ms`. Up to four more load history.
    pub connections: u32,
    /// Calls that may be under way at once; one more fails at once and is counted.
    pub in_flight_max: u32,
    /// How long a connection may take to stand, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long a read may take, in milliseconds. Requests have a shorter deadline of their own.
    pub read_timeout_ms: u64,
    /// How long one script of a write may take, in milliseconds.
    pub write_timeout_ms: u64,
    /// In a Cluster, answer requests from replicas too. They may be behind: what was written a moment ago may not be there yet.
    pub replica_reads: bool,
    /// How many replicas must have confirmed everything written before a checkpoint counts; 0 asks none.
    pub wait_replicas: u32,
    /// A row of latest values expires when it was not written for its hard TTL and this long after, in seconds. Until then
    /// it is answered as `expired`, afterwards as `missing`. 0 keeps rows for ever.
    pub expiry_grace_s: u64,
    /// Rows that one script writes; a larger write is carried out in parts. The server does nothing else meanwhile.
    pub script_rows_max: usize,
    /// Into how many parts the rows of a Cluster are cut, each on one node. Fixed once the store has been made.
    pub shards: u32,
    /// Where rows are: `view`, a key for each view's row, or `entity`, one hash per entity with a field for each view. Fixed once the
    /// store has been made.
    pub row_layout: RowLayout,
    /// How often the store's identity is checked while nobody reads or writes, in milliseconds.
    pub check_interval_ms: u64,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            mode: RedisMode::Standalone,
            sentinel_primary: String::new(),
            username: String::new(),
            password_env: String::new(),
            password_file: String::new(),
            sentinel_password_env: String::new(),
            tls_ca_file: String::new(),
            tls_cert_file: String::new(),
            tls_key_file: String::new(),
            database: 0,
            key_prefix: "springhouse".to_owned(),
            peak_rps: 5_000,
            latency_ms: 2.0,
            connections: 0,
            in_flight_max: 4_096,
            connect_timeout_ms: 1_000,
            read_timeout_ms: 1_000,
            write_timeout_ms: 10_000,
            replica_reads: false,
            wait_replicas: 0,
            expiry_grace_s: 7 * 86_400,
            script_rows_max: 2_000,
            shards: 64,
            row_layout: RowLayout::View,
            check_interval_ms: 1_000,
        }
    }
}

impl fmt::Debug for RedisSettings {
    /// Without addresses: a URL may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("mode", &self.mode)
            .field("servers", &self.urls.len())
            .field("key_prefix", &self.key_prefix)
            .finish_non_exhaustive()
    }
}

/// Calls under way at once on one connection before another one pays.
const CALLS_PER_CONNECTION: f64 = 32.0;
/// Most connections to one server.
const CONNECTIONS_MAX: u32 = 64;
/// Most shards of a Cluster store: a read asks each of them that has one of its keys.
const SHARDS_MAX: u32 = 1_024;
/// Most rows in one script; the server does nothing else while it runs.
const SCRIPT_ROWS_MAX: usize = 100_000;

impl RedisSettings {
    /// What is wrong with the values, each with what to do.
    pub fn validate(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut check = |holds: bool, complaint: &str| {
            if !holds {
                complaints.push(complaint.to_owned());
            }
        };
        check(!self.urls.is_empty(), "`urls` names no server: give `urls: [\"redis://host:6379\"]`");
        check(
            self.urls.iter().all(|url| url.starts_with("redis://") || url.starts_with("rediss://")),
            "`urls` must begin with `redis://` or, with TLS, `rediss://`",
        );
        let is_tls = |url: &String| url.starts_with("rediss://");
        check(
            self.urls.iter().all(is_tls) || !self.urls.iter().any(is_tls),
            "`urls` must all be `redis://` or all `rediss://`",
        );
        check(
            self.mode != RedisMode::Standalone || self.urls.len() <= 1,
            "`urls` names several servers: set `mode` to `sentinel` or `cluster`",
        );
        check(
            self.mode != RedisMode::Sentinel || !self.sentinel_primary.is_empty(),
            "`mode: sentinel` needs `sentinel_primary`, the name under which Sentinel knows the primary",
        );
        check(self.mode != RedisMode::Cluster || self.database == 0, "a Cluster has only `database: 0`");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        check(
            !self.key_prefix.is_empty()
                && self.key_prefix.len() <= 64
                && self.key_prefix.chars().all(is_plain),
            "`key_prefix` must be 1 to 64 letters, digits, `_`, `-` or `.`",
        );
        check(
            self.password_env.is_empty() || self.password_file.is_empty(),
            "give `password_env` or `password_file`, not both",
        );
        check(
            self.tls_cert_file.is_empty() == self.tls_key_file.is_empty(),
            "`tls_cert_file` and `tls_key_file` go together",
        );
        check((1..=SHARDS_MAX).contains(&self.shards), "`shards` must be 1 to 1,024");
        check(self.connections <= CONNECTIONS_MAX, "`connections` must be at most 64");
        check(self.in_flight_max > 0, "`in_flight_max` must be at least 1");
        check(
            (1..=SCRIPT_ROWS_MAX).contains(&self.script_rows_max),
            "`script_rows_max` must be 1 to 100,000",
        );
        check(self.latency_ms.is_finite() && self.latency_ms > 0.0, "`latency_ms` must be more than 0");
        check(
            self.connect_timeout_ms > 0 && self.read_timeout_ms > 0 && self.write_timeout_ms > 0,
            "timeouts must be at least 1 ms",
        );
        check(self.check_interval_ms >= 10, "`check_interval_ms` must be at least 10");
        complaints
    }

    /// The settings with relative files below `folder`.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        let files =
            [&mut self.password_file, &mut self.tls_ca_file, &mut self.tls_cert_file, &mut self.tls_key_file];
        for file in files {
            if !file.is_empty() && !PathBuf::from(&*file).is_absolute() {
                *file = folder.join(&*file).display().to_string();
            }
        }
        self
    }

    /// Whether some server is spoken to in TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.urls.iter().any(|url| url.starts_with("rediss://"))
    }

    /// Connections to each server.
    pub fn connection_count(&self) -> u32 {
        if self.connections > 0 {
            return self.connections;
        }
        let calls = f64::from(self.peak_rps) * (self.latency_ms / 1_000.0) * 1.5;
        ((calls / CALLS_PER_CONNECTION).ceil() as u32).clamp(1, CONNECTIONS_MAX)
    }

    pub(crate) fn password(&self) -> Result<Option<String>, StoreError> {
        if !self.password_env.is_empty() {
            return from_environment(&self.password_env).map(Some);
        }
        if self.password_file.is_empty() {
            return Ok(None);
        }
        match std::fs::read_to_string(&self.password_file) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(invalid("open", format!("the password file {}: {error}", self.password_file))),
        }
    }

    pub(crate) fn sentinel_password(&self) -> Result<Option<String>, StoreError> {
        if self.sentinel_password_env.is_empty() {
            return Ok(None);
        }
        from_environment(&self.sentinel_password_env).map(Some)
    }
}

fn from_environment(name: &str) -> Result<String, StoreError> {
    std::env::var(name).map_err(|_| {
        invalid("open", format!("the password is to be in the environment variable {name}, which is not set"))
    })
}
