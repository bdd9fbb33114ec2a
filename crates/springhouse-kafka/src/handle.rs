//! A source that is being read by a thread of its own.

use crate::status::{Notes, TopicStatus};
use springhouse_core::Micros;
use springhouse_core::definition::{MessageFormat, Source};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;

/// Reads one source until it is dropped.
#[derive(Debug)]
pub struct SourceReader {
    source: Source,
    notes: Arc<Notes>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SourceReader {
    /// `read` runs until `stop` is set.
    pub(crate) fn begin(
        source: &Source,
        notes: Arc<Notes>,
        stop: Arc<AtomicBool>,
        read: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let thread = std::thread::Builder::new().name(format!("read-{}", source.name)).spawn(read)?;
        Ok(Self { source: source.clone(), notes, stop, thread: Some(thread) })
    }

    /// True when this is how a source is read: its topic or file, and its columns where those matter for reading.
    pub fn reads(&self, source: &Source) -> bool {
        let is_json = |source: &Source| source.kafka.as_ref().is_none_or(|k| k.format == MessageFormat::Json);
        self.source.kafka == source.kafka
            && self.source.ndjson == source.ndjson
            && (is_json(source) || self.source.columns == source.columns)
    }

    /// True when its thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// How far it is.
    pub fn status(&self) -> TopicStatus {
        self.notes.status()
    }

    /// Everything visible before this moment is applied; the least number when that is not known.
    pub fn frontier(&self) -> Micros {
        self.notes.frontier()
    }

    /// Asks it to stop; dropping it waits until it has.
    pub fn stop(&self) {
        self.stop.store(true, SeqCst);
    }
}

impl Drop for SourceReader {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            drop(thread.join());
        }
    }
}
