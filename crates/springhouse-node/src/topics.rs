//! The topics that a node reads: one reader for each source that has one, for as long as it is defined so.

use crate::NodeError;
use parking_lot::Mutex;
use springhouse_core::definition::Source;
use springhouse_core::{Clock, Definitions};
use springhouse_ingest::Ingest;
use springhouse_kafka::{KafkaSettings, SourceReader, TopicStatus, read_file};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// How a reader is started: [`springhouse_kafka::read_topic`]. Kept as a pointer that only [`crate::Node::read_topics`] sets, so that a
/// program that never reads topics is linked without the client of Kafka: it has more thread-local data than a Python
/// process has room for in a module that it loads.
pub(crate) type Start =
    fn(&Source, &KafkaSettings, Arc<Ingest>, Arc<dyn Clock>) -> std::io::Result<SourceReader>;

type Readers = BTreeMap<String, Arc<SourceReader>>;

/// The readers, once they have been asked for.
#[derive(Debug, Default)]
pub(crate) struct Topics(Mutex<Option<(Start, Readers)>>);

impl Topics {
    /// From now on topics are read.
    pub(crate) fn begin(&self, start: Start) {
        self.0.lock().get_or_insert_with(|| (start, Readers::new()));
    }

    /// Reads what the definitions say, if topics are read at all: readers that are no longer wanted end, new ones begin.
    pub(crate) fn follow(
        &self,
        definitions: &Definitions,
        project: &Path,
        settings: &KafkaSettings,
        ingest: &Arc<Ingest>,
        clock: &Arc<dyn Clock>,
    ) -> Result<(), NodeError> {
        let mut readers = self.0.lock();
        let Some((start, readers)) = readers.as_mut() else { return Ok(()) };
        let (kept, ended) = std::mem::take(readers)
            .into_iter()
            .partition(|(name, reader)| definitions.sources.get(name).is_some_and(|s| reader.reads(s)));
        *readers = kept;
        end(ended);
        for (name, source) in &definitions.sources {
            if readers.contains_key(name) {
                continue;
            }
            let (ingest, clock) = (ingest.clone(), clock.clone());
            let started = match (&source.kafka, &source.ndjson) {
                (Some(_), _) if settings.workers => continue,
                (Some(_), _) => start(source, settings, ingest, clock),
                (None, Some(file)) => read_file(source, project.join(file), settings, ingest, clock),
                (None, None) => continue,
            };
            let reader = started.map_err(|error| {
                let message = format!("no thread to read source `{name}`: {error}");
                NodeError::new("log_io", message, "look at the machine's limits")
            })?;
            readers.insert(name.clone(), Arc::new(reader));
        }
        Ok(())
    }

    pub(crate) fn are_read(&self) -> bool {
        self.0.lock().is_some()
    }

    pub(crate) fn reader(&self, source: &str) -> Option<Arc<SourceReader>> {
        self.0.lock().as_ref()?.1.get(source).cloned()
    }

    pub(crate) fn status(&self) -> Vec<TopicStatus> {
        self.0.lock().iter().flat_map(|(_, readers)| readers.values()).map(|reader| reader.status()).collect()
    }

    /// Ends all of them, and waits for it.
    pub(crate) fn end(&self) {
        let readers = self.0.lock().take();
        end(readers.map(|(_, readers)| readers).unwrap_or_default());
    }
}

/// All at once: each may take a while.
fn end(readers: Readers) {
    readers.values().for_each(|reader| reader.stop());
    drop(readers);
}
