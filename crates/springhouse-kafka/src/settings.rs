//! What an operator tunes.

use std::collections::BTreeMap;

/// Address and limits of Kafka, all settable in `springhouse.yaml` under `kafka:`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSettings {
    /// Where the cluster is found, `host:port`, for topics whose definition does not say.
    pub brokers: Vec<String>,
    /// Messages are logged and applied together up to this many. More cost latency and memory, fewer cost throughput.
    pub batch_messages_max: usize,
    /// ... or up to this many bytes.
    pub batch_bytes_max: usize,
    /// Longest wait of a message for company.
    pub batch_delay_ms: u64,
    /// Most kilobytes of messages fetched ahead, per topic. When the store or the log is slow, fetching stops there.
    pub queue_kilobytes_max: u32,
    /// Longest wait of a fetch for messages; an idle topic's frontier is about this and a tenth of a second old.
    pub fetch_wait_ms: u32,
    /// An answer of a broker that takes longer counts as a broken connection.
    pub socket_timeout_ms: u32,
    /// New partitions are looked for this often.
    pub metadata_interval_ms: u64,
    /// Topics are read by `springhouse ingest`, in as many processes as are started, which divide the partitions among
    /// themselves; `springhouse serve` reads none. Needs a store on Redis.
    pub workers: bool,
    /// A worker that was not heard of for this long has its partitions taken over by others. Brokers have limits of their own,
    /// 6 seconds at least unless they are told otherwise.
    pub session_timeout_ms: u32,
    /// A worker tells how far it is this often; what it serves is known to be that fresh.
    pub commit_interval_ms: u64,
    /// Megabytes of rows that a worker remembers of each topic, so as not to read them before it writes them.
    pub row_cache_mb: u32,
    /// The password of `sasl.username` is in this environment variable.
    pub sasl_password_env: String,
    /// Or in this file; read whenever reading begins.
    pub sasl_password_file: String,
    /// Where schemas are found that definitions don't have: a registry with the HTTP interface of Confluent's.
    pub registry_url: String,
    /// The registry's user.
    pub registry_username: String,
    /// The user's password is in this environment variable.
    pub registry_password_env: String,
    /// PEM of the authority that signed the registry's certificate; without it the usual ones count.
    pub registry_ca_file: String,
    /// How long the registry may take for an answer.
    pub registry_timeout_ms: u64,
    /// Further properties of the client library (librdkafka), by its names; those that this program sets itself are refused.
    pub client: BTreeMap<String, String>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            brokers: Vec::new(),
            batch_messages_max: 20_000,
            batch_bytes_max: 4 << 20,
            batch_delay_ms: 2,
            queue_kilobytes_max: 32_768,
            fetch_wait_ms: 100,
            socket_timeout_ms: 10_000,
            metadata_interval_ms: 10_000,
            workers: false,
            session_timeout_ms: 10_000,
            commit_interval_ms: 200,
            row_cache_mb: 512,
            sasl_password_env: String::new(),
            sasl_password_file: String::new(),
            registry_url: String::new(),
            registry_username: String::new(),
            registry_password_env: String::new(),
            registry_ca_file: String::new(),
            registry_timeout_ms: 5_000,
            client: BTreeMap::new(),
        }
    }
}

/// Properties on which exactly-once rests, or that have a setting here.
const OWN: [&str; 20] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "enable.partition.eof",
    "statistics.interval.ms",
    "queued.max.messages.kbytes",
    "fetch.wait.max.ms",
    "socket.timeout.ms",
    "allow.auto.create.topics",
    "check.crcs",
    "group.instance.id",
    "group.protocol",
    "partition.assignment.strategy",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "topic.metadata.refresh.interval.ms",
];

impl KafkaSettings {
    /// The password of `sasl.username`, if one is given.
    ///
    /// # Errors
    /// When it is not where the settings say.
    pub(crate) fn sasl_password(&self) -> Result<Option<String>, String> {
        if !self.sasl_password_env.is_empty() {
            let name = &self.sasl_password_env;
            return std::env::var(name)
                .map(Some)
                .map_err(|_| format!("kafka.sasl_password_env: `{name}` is not set"));
        }
        if self.sasl_password_file.is_empty() {
            return Ok(None);
        }
        let file = &self.sasl_password_file;
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| format!("kafka.sasl_password_file {file}: {error}"))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// Every complaint.
    pub fn validate(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut check = |holds: bool, complaint: &str| {
            if !holds {
                complaints.push(format!("kafka: {complaint}"));
            }
        };
        check(
            (1..=1_000_000).contains(&self.batch_messages_max),
            "`batch_messages_max` must be 1 to 1000000",
        );
        check(
            (1 << 10..=64 << 20).contains(&self.batch_bytes_max),
            "`batch_bytes_max` must be 1024 (1 KiB) to 67108864 (64 MiB)",
        );
        check(self.batch_delay_ms <= 10_000, "`batch_delay_ms` must be at most 10000");
        check(
            (1..=2_097_151).contains(&self.queue_kilobytes_max),
            "`queue_kilobytes_max` must be 1 to 2097151",
        );
        check((1..=10_000).contains(&self.fetch_wait_ms), "`fetch_wait_ms` must be 1 to 10000");
        check(
            (self.fetch_wait_ms + 1_000..=300_000).contains(&self.socket_timeout_ms),
            "`socket_timeout_ms` must be at least a second above `fetch_wait_ms`, and at most 300000",
        );
        check(self.metadata_interval_ms >= 100, "`metadata_interval_ms` must be at least 100");
        check(
            (1_000..=300_000).contains(&self.session_timeout_ms),
            "`session_timeout_ms` must be 1000 to 300000",
        );
        check((10..=10_000).contains(&self.commit_interval_ms), "`commit_interval_ms` must be 10 to 10000");
        check((1..=1_048_576).contains(&self.row_cache_mb), "`row_cache_mb` must be 1 to 1048576");
        check(
            self.sasl_password_env.is_empty() || self.sasl_password_file.is_empty(),
            "give `sasl_password_env` or `sasl_password_file`, not both",
        );
        check(
            ["", "http", "https"].contains(&self.registry_url.split(':').next().unwrap_or_default()),
            "`registry_url` must begin with `http://` or `https://`",
        );
        check(
            self.registry_username.is_empty() == self.registry_password_env.is_empty(),
            "`registry_username` and `registry_password_env` go together",
        );
        check(self.registry_timeout_ms > 0, "`registry_timeout_ms` must not be 0");
        for name in self.client.keys().filter(|name| OWN.contains(&name.as_str())) {
            check(
                false,
                &format!(
                    "`client` must not set `{name}`; exactly-once rests on it, or it has a setting here"
                ),
            );
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_each_mistake_is_told() {
        assert_eq!(KafkaSettings::default().validate(), Vec::<String>::new());
        let wrong = KafkaSettings {
            batch_messages_max: 0,
            batch_bytes_max: 1,
            batch_delay_ms: 60_000,
            queue_kilobytes_max: 0,
            fetch_wait_ms: 0,
            socket_timeout_ms: 10,
            metadata_interval_ms: 1,
            client: BTreeMap::from([("group.id".to_owned(), "x".to_owned())]),
            brokers: Vec::new(),
            sasl_password_env: "A".to_owned(),
            sasl_password_file: "b".to_owned(),
            registry_url: "ftp://there".to_owned(),
            registry_username: "me".to_owned(),
            registry_timeout_ms: 0,
            session_timeout_ms: 1,
            commit_interval_ms: 1,
            row_cache_mb: 0,
            ..KafkaSettings::default()
        };
        assert_eq!(wrong.validate().len(), 15, "{:?}", wrong.validate());
    }
}
