//! How far each topic has been read: the next offset of every partition, part of the log itself.
//!
//! A record of the log says which messages it was made from ([`Origin`]). What is read again after a stop or a failure is
//! known by that, so that each message counts once. Before a segment is deleted the positions go to a file beside it.

use crate::log::{LogError, Record, replace_file};
use crate::outcome::PushError;
use serde::{Deserialize, Serialize};
use springhouse_core::Micros;
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "topic-positions.json";

/// Which messages a record of the log was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) topic: String,
    pub(crate) ranges: Vec<OffsetRange>,
}

/// Messages of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// The partition.
    pub partition: i32,
    /// The first offset; below it nothing is missing but what was read before.
    pub from: i64,
    /// The offset after the last.
    pub to: i64,
    /// The newest timestamp among them, microseconds; the least number for none.
    pub newest: Micros,
}

/// How far one partition has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPosition {
    /// The offset to be read next.
    pub next: i64,
    /// The newest timestamp of a message read, microseconds; the least number when there was none.
    pub newest: Micros,
}

type Partitions = BTreeMap<i32, PartitionPosition>;

/// By source, then by topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicPositions(BTreeMap<String, BTreeMap<String, Partitions>>);

/// What messages are to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// None of them is in it.
    New,
    /// All of them are in it.
    Read,
}

impl TopicPositions {
    pub(crate) fn of(&self, source: &str, topic: &str) -> Partitions {
        self.0.get(source).and_then(|topics| topics.get(topic)).cloned().unwrap_or_default()
    }

    /// Takes in what a record says.
    pub(crate) fn replay(&mut self, record: &Record) {
        if let Some(origin) = &record.origin {
            self.advance(&record.source, origin);
        }
    }

    pub(crate) fn advance(&mut self, source: &str, origin: &Origin) {
        let topics = self.0.entry(source.to_owned()).or_default();
        let partitions = topics.entry(origin.topic.clone()).or_default();
        for range in &origin.ranges {
            let position = partitions
                .entry(range.partition)
                .or_insert(PartitionPosition { next: range.to, newest: range.newest });
            position.next = position.next.max(range.to);
            position.newest = position.newest.max(range.newest);
        }
    }

    /// # Errors
    /// `invalid_request` when some of the messages are in the log and others are not, or when what stands before them is not:
    /// whoever reads the topic must begin at its position, and leave nothing out.
    pub(crate) fn place(&self, source: &str, origin: &Origin) -> Result<Known, PushError> {
        let partitions = self.of(source, &origin.topic);
        let next = |range: &OffsetRange| partitions.get(&range.partition).map_or(i64::MIN, |p| p.next);
        let is_read =
            |range: &OffsetRange| partitions.contains_key(&range.partition) && range.to <= next(range);
        if origin.ranges.iter().all(is_read) {
            return Ok(Known::Read);
        }
        let stray =
            |range: &&OffsetRange| partitions.contains_key(&range.partition) && range.from != next(range);
        match origin.ranges.iter().find(stray) {
            None => Ok(Known::New),
            Some(range) if range.from > next(range) => Err(PushError::new(
                "invalid_request",
                format!(
                    "topic `{}`, partition {}: offset {} was given, but {} comes next",
                    origin.topic,
                    range.partition,
                    range.from,
                    next(range)
                ),
            )),
            Some(range) => Err(PushError::new(
                "invalid_request",
                format!(
                    "topic `{}`, partition {}: offset {} was given again beside others; {} comes next",
                    origin.topic,
                    range.partition,
                    range.from,
                    next(range)
                ),
            )),
        }
    }

    pub(crate) fn load(directory: &Path) -> Result<Self, LogError> {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(LogError::io("reading", &path)(error)),
        };
        serde_json::from_slice(&bytes).map_err(|error| LogError::Corrupt {
            path,
            byte: 0,
            detail: error.to_string(),
        })
    }

    /// Durable when it returns.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), LogError> {
        if self.0.is_empty() {
            return Ok(());
        }
        replace_file(directory, FILE, &serde_json::to_vec_pretty(self).expect("numbers and names"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(ranges: &[(i32, i64, i64)]) -> Origin {
        let range = |&(partition, from, to)| OffsetRange { partition, from, to, newest: to * 10 };
        Origin { topic: "t".to_owned(), ranges: ranges.iter().map(range).collect() }
    }

    #[test]
    fn messages_are_new_or_read_or_refused_when_they_are_both() {
        let mut positions = TopicPositions::default();
        assert_eq!(positions.place("s", &origin(&[(0, 5, 9)])).expect("new"), Known::New);
        positions.advance("s", &origin(&[(0, 5, 9), (1, 0, 0)]));
        assert_eq!(positions.place("s", &origin(&[(0, 5, 9)])).expect("read"), Known::Read);
        assert_eq!(positions.place("s", &origin(&[(0, 6, 8), (1, 0, 0)])).expect("read"), Known::Read);
        // Offsets without a message (compaction, marks of transactions) belong to the range; a gap is what was lost on the way.
        assert_eq!(positions.place("s", &origin(&[(0, 9, 14)])).expect("new"), Known::New);
        assert!(positions.place("s", &origin(&[(0, 12, 14)])).is_err());
        assert_eq!(positions.place("other", &origin(&[(0, 5, 9)])).expect("new"), Known::New);
        assert!(positions.place("s", &origin(&[(0, 8, 10)])).is_err());
        assert!(positions.place("s", &origin(&[(0, 5, 9), (1, 0, 3)])).is_err());
        // A partition of which nothing is known is new, even when it is empty.
        assert_eq!(positions.place("s", &origin(&[(2, 0, 0)])).expect("new"), Known::New);
    }

    #[test]
    fn positions_never_fall_and_are_the_same_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(TopicPositions::load(folder.path()).expect("none"), TopicPositions::default());
        let mut positions = TopicPositions::default();
        positions.advance("s", &origin(&[(0, 5, 9)]));
        positions.advance("s", &origin(&[(0, 0, 3)]));
        assert_eq!(positions.of("s", "t")[&0], PartitionPosition { next: 9, newest: 90 });
        positions.save(folder.path()).expect("saved");
        assert_eq!(TopicPositions::load(folder.path()).expect("there"), positions);
        std::fs::write(folder.path().join(FILE), "{").expect("written");
        assert!(matches!(TopicPositions::load(folder.path()), Err(LogError::Corrupt { .. })));
    }
}
