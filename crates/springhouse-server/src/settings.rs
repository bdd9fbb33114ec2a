//! What an operator can tune: `server:` in `springhouse.yaml`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Address and limits of the HTTP server.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Where to listen. There is no authentication yet: anything but a loopback address opens the project to whoever
    /// reaches it. Port 0 takes a free one.
    pub bind: SocketAddr,
    /// Most bytes in the body of a request other than a push.
    pub body_bytes_max: usize,
    /// Most bytes in the body of a push. Memory in flight is at most this times the pushes at once.
    pub push_body_bytes_max: usize,
    /// Most bytes in a request's headers.
    pub header_bytes_max: usize,
    /// A connection that has not sent a whole header for this long is closed; an idle one too.
    pub header_timeout_ms: u64,
    /// A body must arrive within this time.
    pub body_timeout_ms: u64,
    /// Most connections at once; further ones wait to be accepted.
    pub connections_max: usize,
    /// After the signal to stop, requests in flight have this long to finish.
    pub drain_timeout_ms: u64,
    /// After the signal to stop, `/ready` says no for this long before the server stops accepting, so that a load balancer
    /// can notice. 0 where there is none.
    pub drain_delay_ms: u64,
    /// `/ready` says no when applied events are further than this behind the log.
    pub frontier_lag_max_ms: u64,
    /// What `Retry-After` says to a pusher that must wait, in seconds.
    pub retry_after_s: u64,
    /// Takes admin requests from other machines too.
    pub admin_remote: bool,
    /// The roles that every caller has (for `readers`), as long as there is no authentication.
    pub roles: Vec<String>,
    /// The part of the traces whose answers are logged to the lake, 0 to 1. The same traces as are kept by whoever else
    /// takes this part of them.
    pub served_log_ratio: f64,
    /// Most answers that wait to be logged; further ones are left out, and counted.
    pub served_log_answers_max: usize,
    /// Most rows that wait to be written; further ones are left out, and counted.
    pub served_log_rows_max: usize,
    /// The log is written this often.
    pub served_log_interval_ms: u64,
    /// Logged rows are deleted after this many days; 0 = never.
    pub served_log_retention_days: u32,
}

/// The default port.
const PORT: u16 = 8765;

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT),
            body_bytes_max: 8 << 20,
            push_body_bytes_max: 64 << 20,
            header_bytes_max: 32 << 10,
            header_timeout_ms: 30_000,
            body_timeout_ms: 60_000,
            connections_max: 10_000,
            drain_timeout_ms: 10_000,
            drain_delay_ms: 0,
            frontier_lag_max_ms: 60_000,
            retry_after_s: 1,
            admin_remote: false,
            roles: Vec::new(),
            served_log_ratio: 0.0,
            served_log_answers_max: 1_000,
            served_log_rows_max: 200_000,
            served_log_interval_ms: 60_000,
            served_log_retention_days: 30,
        }
    }
}

impl ServerSettings {
    /// All complaints at once; empty when the settings make sense.
    pub fn validate(&self) -> Vec<String> {
        let positive = [
            ("body_bytes_max", self.body_bytes_max as u64),
            ("push_body_bytes_max", self.push_body_bytes_max as u64),
            ("header_bytes_max", self.header_bytes_max as u64),
            ("header_timeout_ms", self.header_timeout_ms),
            ("body_timeout_ms", self.body_timeout_ms),
            ("connections_max", self.connections_max as u64),
            ("served_log_answers_max", self.served_log_answers_max as u64),
            ("served_log_rows_max", self.served_log_rows_max as u64),
            ("served_log_interval_ms", self.served_log_interval_ms),
        ];
        let zeros = positive.iter().filter(|(_, value)| *value == 0);
        let mut complaints: Vec<_> =
            zeros.map(|(name, _)| format!("`server.{name}` must not be 0")).collect();
        if self.header_bytes_max > HEADER_BUFFER_BYTES {
            complaints.push(format!("`server.header_bytes_max` can be at most {HEADER_BUFFER_BYTES}"));
        }
        if !(0.0..=1.0).contains(&self.served_log_ratio) {
            complaints.push("`server.served_log_ratio` lies between 0 and 1".to_owned());
        }
        complaints
    }
}

/// hyper's read buffer: beyond it hyper itself answers 431 with an empty body, so our own limit lies below.
pub(crate) const HEADER_BUFFER_BYTES: usize = 400 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_local() {
        let settings = ServerSettings::default();
        assert_eq!(settings.validate(), Vec::<String>::new());
        assert!(settings.bind.ip().is_loopback());
    }

    #[test]
    fn every_complaint_comes_at_once() {
        let settings = ServerSettings {
            connections_max: 0,
            header_bytes_max: 1 << 30,
            served_log_ratio: f64::NAN,
            ..Default::default()
        };
        assert_eq!(settings.validate().len(), 3);
    }
}
