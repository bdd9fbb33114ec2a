//! What an operator tunes.

use crate::PushError;

/// Limits and timings of ingestion, all settable in `springhouse.yaml` under `push:`.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushSettings {
    /// Most rows in one push.
    pub batch_rows_max: usize,
    /// Most bytes in one push body.
    pub batch_bytes_max: usize,
    /// Most bytes of pushes under way; beyond it pushes get `overloaded`.
    pub queue_bytes_max: usize,
    /// Longest wait of a group commit for company; a push that is alone does not wait.
    pub group_commit_delay_ms: u64,
    /// A log segment is closed at this size. Smaller ones free disk sooner, larger ones mean fewer files.
    pub segment_bytes: u64,
    /// Most bytes of log on disk; beyond it (the lake has been away for long) pushes get `overloaded`.
    pub log_bytes_max: u64,
    /// Rows are flushed to the lake at least this often.
    pub flush_interval_ms: u64,
    /// ... or at this many rows.
    pub flush_rows: u64,
    /// The online store is checkpointed at least this often.
    pub checkpoint_interval_ms: u64,
    /// The lake's tables of pushed rows are compacted this often, beside everything else; 0 = never by itself. Less often
    /// means more and smaller files, which training sets read more slowly.
    pub compact_interval_s: u64,
    /// How long an idempotency key is remembered.
    pub idempotency_window_s: u64,
    /// Most idempotency keys remembered; the oldest go first. 33 bytes of memory each, up to 50.
    pub idempotency_keys_max: usize,
}

impl Default for PushSettings {
    fn default() -> Self {
        Self {
            batch_rows_max: 100_000,
            batch_bytes_max: 64 << 20,
            queue_bytes_max: 256 << 20,
            group_commit_delay_ms: 1,
            segment_bytes: 64 << 20,
            log_bytes_max: 16 << 30,
            flush_interval_ms: 10_000,
            flush_rows: 500_000,
            checkpoint_interval_ms: 5_000,
            compact_interval_s: 600,
            idempotency_window_s: 86_400,
            idempotency_keys_max: 5_000_000,
        }
    }
}

impl PushSettings {
    /// Checks the relations between the settings.
    ///
    /// # Errors
    /// `invalid_settings` with every complaint.
    pub fn validate(&self) -> Result<(), PushError> {
        let mut complaints = Vec::new();
        let mut positive = |name: &str, value: u64| {
            if value == 0 {
                complaints.push(format!("push.{name} must be above 0"));
            }
        };
        positive("batch_rows_max", self.batch_rows_max as u64);
        positive("segment_bytes", self.segment_bytes);
        positive("flush_interval_ms", self.flush_interval_ms);
        positive("flush_rows", self.flush_rows);
        positive("checkpoint_interval_ms", self.checkpoint_interval_ms);
        positive("idempotency_keys_max", self.idempotency_keys_max as u64);
        if self.batch_rows_max > u32::MAX as usize {
            complaints.push("push.batch_rows_max must be below 4294967296".to_owned());
        }
        if self.batch_bytes_max > 256 << 20 {
            complaints.push("push.batch_bytes_max must be at most 268435456 (256 MiB)".to_owned());
        }
        if self.queue_bytes_max < self.batch_bytes_max {
            complaints.push("push.queue_bytes_max must be at least push.batch_bytes_max".to_owned());
        }
        if self.log_bytes_max < self.segment_bytes.saturating_mul(2) {
            complaints
                .push("push.log_bytes_max must hold at least two segments (push.segment_bytes)".to_owned());
        }
        if self.idempotency_window_s > 100_000 * 86_400 {
            complaints.push("push.idempotency_window_s must be at most 100,000 days".to_owned());
        }
        match complaints.is_empty() {
            true => Ok(()),
            false => Err(PushError::new("invalid_settings", complaints.join("; "))),
        }
    }
}
