//! The topics that a node reads: one reader for each source that has one, for as long as it is defined so.

use crate::NodeError;
use parking_lot::Mutex;
use springhouse_core::{Clock, Definitions};
use springhouse_ingest::Ingest;
use springhouse_kafka::{KafkaSettings, TopicReader, TopicStatus};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The readers, once they have been asked for.
#[derive(Debug, Default)]
pub(crate) struct Topics(Mutex<Option<BTreeMap<String, Arc<TopicReader>>>>);

impl Topics {
    /// From now on topics are read.
    pub(crate) fn begin(&self) {
        self.0.lock().get_or_insert_default();
    }

    /// Reads what the definitions say, if topics are read at all: readers that are no longer wanted end, new ones begin.
    pub(crate) fn follow(
        &self,
        definitions: &Definitions,
        settings: &KafkaSettings,
        ingest: &Arc<Ingest>,
        clock: &Arc<dyn Clock>,
    ) -> Result<(), NodeError> {
        let mut readers = self.0.lock();
        let Some(readers) = readers.as_mut() else { return Ok(()) };
        let wanted = |name: &String| definitions.sources.get(name).and_then(|source| source.kafka.as_ref());
        let (kept, ended) = std::mem::take(readers)
            .into_iter()
            .partition(|(name, reader)| wanted(name) == Some(reader.stream()));
        *readers = kept;
        end(ended);
        for (name, source) in &definitions.sources {
            let Some(stream) = source.kafka.as_ref().filter(|_| !readers.contains_key(name)) else {
                continue;
            };
            let reader = TopicReader::start(name, stream, settings, ingest.clone(), clock.clone()).map_err(
                |error| {
                    NodeError::new(
                        "log_io",
                        format!("no thread for topic `{}`: {error}", stream.topic),
                        "look at the machine's limits",
                    )
                },
            )?;
            readers.insert(name.clone(), Arc::new(reader));
        }
        Ok(())
    }

    pub(crate) fn are_read(&self) -> bool {
        self.0.lock().is_some()
    }

    pub(crate) fn reader(&self, source: &str) -> Option<Arc<TopicReader>> {
        self.0.lock().as_ref()?.get(source).cloned()
    }

    pub(crate) fn status(&self) -> Vec<TopicStatus> {
        self.0.lock().iter().flat_map(BTreeMap::values).map(|reader| reader.status()).collect()
    }

    /// Ends all of them, and waits for it.
    pub(crate) fn end(&self) {
        let readers = self.0.lock().take().unwrap_or_default();
        end(readers);
    }
}

/// All at once: each may take a while.
fn end(readers: BTreeMap<String, Arc<TopicReader>>) {
    readers.values().for_each(|reader| reader.stop());
    drop(readers);
}
