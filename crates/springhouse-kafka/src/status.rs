//! How far a topic has been read, as readers of the status see it and as the reader and the client library note it.

use parking_lot::Mutex;
use springhouse_core::{Clock, Micros};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One topic that is read.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicStatus {
    /// The source.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionStatus>,
    /// Messages applied a second, over the last seconds.
    pub rate: f64,
    /// Messages read since the start.
    pub messages: u64,
    /// Of them, tombstones: messages without a value, which are no events.
    pub tombstones: u64,
    /// Messages that the topic no longer had when they were wanted (its retention is too short for how far reading was
    /// behind), by their offsets, since the start.
    pub lost: u64,
    /// Everything visible before this moment is applied; the least number when that is not known.
    pub frontier: Micros,
    /// Why nothing is read at this moment; none while it is.
    pub error: Option<String>,
}

impl TopicStatus {
    /// Messages that wait, as far as the brokers have told.
    pub fn lag(&self) -> i64 {
        self.partitions.iter().map(PartitionStatus::lag).sum()
    }

    /// Seconds until they are applied, at the present rate; none when nothing moves.
    pub fn lag_seconds(&self) -> Option<f64> {
        match self.lag() {
            0 => Some(0.0),
            lag => (self.rate > 0.0).then(|| lag as f64 / self.rate),
        }
    }
}

/// One partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Its number.
    pub partition: i32,
    /// The offset to be read next; all below is applied.
    pub position: i64,
    /// The offset after the last message that may be read; none until a broker has told.
    pub end: Option<i64>,
    /// The newest timestamp applied, microseconds.
    pub newest: Option<Micros>,
    /// Everything of it was applied at this moment.
    pub caught_up_at: Option<Micros>,
    /// Everything of it that was visible before this moment is applied; the least number when that is not known.
    pub frontier: Micros,
}

impl PartitionStatus {
    /// Messages that wait; offsets of messages that are not there (compacted, marks of transactions) count too, until they
    /// have been passed.
    pub fn lag(&self) -> i64 {
        if self.caught_up_at.is_some() { 0 } else { self.end.map_or(0, |end| (end - self.position).max(0)) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Partition {
    /// Applied below this.
    position: i64,
    /// Given to the reader by the client below this.
    handed: i64,
    newest: Option<Micros>,
    end: Option<i64>,
    /// The latest moment at which the client had nothing more to give and the leader was known to be there.
    caught_up_at: Option<Micros>,
    is_caught_up: bool,
    /// The leader's count of answers, when it last changed.
    answers: (i32, u64, Option<Micros>),
}

/// What a broker says of a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) partition: i32,
    pub(crate) leader: i32,
    /// Answers that came from the leader so far; none when it is not connected.
    pub(crate) leader_answers: Option<u64>,
    /// The offset after the last message that may be read; negative: not known.
    pub(crate) end: i64,
    /// The offset that is fetched next.
    pub(crate) next: i64,
    /// Messages that wait in the client.
    pub(crate) waiting: i64,
}

#[derive(Debug, Default)]
struct Inner {
    partitions: BTreeMap<i32, Partition>,
    error: Option<String>,
    /// When an error was last written to the log.
    logged: Option<Instant>,
    messages: u64,
    tombstones: u64,
    lost: u64,
    rate: f64,
    /// Since when messages are counted for the next rate, and how many.
    counted: Option<(Instant, u64)>,
}

/// Other errors are written to the log when none was for this long.
const LOG_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long messages are counted for a rate.
const RATE_OVER: Duration = Duration::from_secs(2);

/// The status while it changes.
#[derive(Debug)]
pub(crate) struct Notes {
    source: String,
    topic: String,
    /// An answer of a broker may tell of the topic as it was this long before.
    told_late: Micros,
    inner: Mutex<Inner>,
}

impl Notes {
    pub(crate) fn new(source: &str, topic: &str, told_late: Micros) -> Self {
        Self { source: source.to_owned(), topic: topic.to_owned(), told_late, inner: Mutex::default() }
    }

    /// A reading begins, or a partition joins it.
    pub(crate) fn begin(&self, partition: i32, position: i64, newest: Option<Micros>) {
        let new = Partition {
            position,
            handed: position,
            newest,
            end: None,
            caught_up_at: None,
            is_caught_up: false,
            answers: (-1, 0, None),
        };
        self.inner.lock().partitions.insert(partition, new);
    }

    /// What another reader has said of a partition holds on.
    pub(crate) fn go_on(&self, partition: i32, newest: Option<Micros>, frontier: Micros) {
        if let Some(partition) = self.inner.lock().partitions.get_mut(&partition) {
            partition.newest = newest;
            partition.caught_up_at = (frontier > Micros::MIN).then_some(frontier);
        }
    }

    pub(crate) fn handed(&self, partition: i32, next: i64) {
        if let Some(partition) = self.inner.lock().partitions.get_mut(&partition) {
            partition.handed = next;
        }
    }

    /// Messages are applied.
    pub(crate) fn applied(&self, ranges: &[springhouse_ingest::OffsetRange], messages: u64, tombstones: u64) {
        let mut inner = self.inner.lock();
        for range in ranges {
            if let Some(partition) = inner.partitions.get_mut(&range.partition) {
                partition.position = range.to;
                partition.newest = partition.newest.max((range.newest > Micros::MIN).then_some(range.newest));
            }
        }
        inner.messages += messages;
        inner.tombstones += tombstones;
        inner.error = None;
    }

    /// Messages were deleted from the topic before they were read.
    pub(crate) fn lost(&self, partition: i32, lost: u64) {
        tracing::error!(
            source = self.source,
            topic = self.topic,
            partition,
            lost,
            "messages were deleted from the topic before they were read; its retention is too short"
        );
        self.inner.lock().lost += lost;
    }

    /// Somebody else reads the partition now.
    pub(crate) fn end(&self, partition: i32) {
        self.inner.lock().partitions.remove(&partition);
    }

    pub(crate) fn fail(&self, why: String) {
        let mut inner = self.inner.lock();
        if inner.error.as_ref() != Some(&why) {
            // The client says the same in several ways, one after the other.
            if inner.logged.is_none_or(|at| at.elapsed() >= LOG_AGAIN_AFTER) {
                tracing::warn!(source = self.source, topic = self.topic, why, "the topic is not read");
                inner.logged = Some(Instant::now());
            }
            inner.error = Some(why);
        }
    }

    pub(crate) fn works(&self) {
        self.inner.lock().error = None;
    }

    /// What the client told at `now`.
    pub(crate) fn told(&self, all: &[Told], now: Micros) {
        let mut inner = self.inner.lock();
        let mut is_answering = false;
        for told in all {
            let Some(partition) = inner.partitions.get_mut(&told.partition) else { continue };
            if told.end >= 0 {
                partition.end = Some(told.end);
            }
            let (leader, answers, alive_at) = partition.answers;
            match told.leader_answers {
                None => partition.answers = (told.leader, answers, None),
                Some(count) if (leader, answers) == (told.leader, count) => {}
                // The first count says nothing yet: only a change does.
                Some(count) if leader != told.leader => partition.answers = (told.leader, count, None),
                Some(count) => {
                    partition.answers = (leader, count, alive_at.max(Some(now)));
                    is_answering = true;
                }
            }
            let has_all = told.end >= 0
                && told.next >= told.end
                && told.waiting == 0
                && partition.position == partition.handed;
            partition.is_caught_up = has_all;
            if let (true, Some(alive_at)) = (has_all, partition.answers.2) {
                partition.caught_up_at = partition.caught_up_at.max(Some(alive_at - self.told_late));
            }
        }
        if is_answering {
            // What still fails says so again.
            inner.error = None;
        }
        let messages = inner.messages;
        let (since, before) = *inner.counted.get_or_insert((Instant::now(), messages));
        let elapsed = since.elapsed();
        if elapsed >= RATE_OVER {
            inner.rate = (messages - before) as f64 / elapsed.as_secs_f64();
            inner.counted = Some((Instant::now(), messages));
        }
    }

    /// Everything visible before this moment is applied.
    pub(crate) fn frontier(&self) -> Micros {
        frontier(self.inner.lock().partitions.values())
    }

    pub(crate) fn status(&self) -> TopicStatus {
        let inner = self.inner.lock();
        let partition = |(number, partition): (&i32, &Partition)| PartitionStatus {
            partition: *number,
            position: partition.position,
            end: partition.end,
            newest: partition.newest,
            caught_up_at: partition.caught_up_at.filter(|_| partition.is_caught_up),
            frontier: frontier([partition].into_iter()),
        };
        TopicStatus {
            source: self.source.clone(),
            topic: self.topic.clone(),
            partitions: inner.partitions.iter().map(partition).collect(),
            rate: inner.rate,
            messages: inner.messages,
            tombstones: inner.tombstones,
            lost: inner.lost,
            frontier: frontier(inner.partitions.values()),
            error: inner.error.clone(),
        }
    }
}

/// The least of the partitions': the moment at which all of it was applied, or the newest message's.
fn frontier<'a>(partitions: impl Iterator<Item = &'a Partition>) -> Micros {
    partitions.map(|p| p.caught_up_at.max(p.newest).unwrap_or(Micros::MIN)).min().unwrap_or(Micros::MIN)
}

/// What a clock of this crate is: the node's.
pub(crate) type SharedClock = std::sync::Arc<dyn Clock>;

#[cfg(test)]
mod tests {
    use super::*;
    use springhouse_ingest::OffsetRange;

    fn told(leader_answers: Option<u64>, end: i64, next: i64, waiting: i64) -> Told {
        Told { partition: 0, leader: 1, leader_answers, end, next, waiting }
    }

    #[test]
    fn a_frontier_moves_only_while_the_leader_answers_and_nothing_waits() {
        let notes = Notes::new("s", "t", 10);
        assert_eq!(notes.frontier(), Micros::MIN);
        notes.begin(0, 5, None);
        // The first count of answers may be an old one.
        notes.told(&[told(Some(7), 5, 5, 0)], 1_000);
        assert_eq!(notes.frontier(), Micros::MIN);
        notes.told(&[told(Some(8), 5, 5, 0)], 2_000);
        assert_eq!(notes.frontier(), 1_990);
        // It answers no more: a hang, whatever the client still believes.
        notes.told(&[told(Some(8), 5, 5, 0)], 3_000);
        assert_eq!(notes.frontier(), 1_990);
        notes.told(&[told(None, 5, 5, 0)], 3_500);
        assert_eq!(notes.frontier(), 1_990);
        // There is more, it was fetched, handed over, and is not applied yet.
        notes.told(&[told(Some(9), 8, 5, 0)], 4_000);
        notes.told(&[told(Some(10), 8, 8, 3)], 5_000);
        notes.handed(0, 8);
        notes.told(&[told(Some(11), 8, 8, 0)], 6_000);
        assert_eq!(notes.frontier(), 1_990);
        assert_eq!(notes.status().lag(), 3);
        notes.applied(&[OffsetRange { partition: 0, from: 5, to: 8, newest: 3_900 }], 3, 0);
        assert_eq!(notes.frontier(), 3_900, "the newest message is applied");
        notes.told(&[told(Some(12), 8, 8, 0)], 7_000);
        assert_eq!(notes.frontier(), 6_990);
        assert_eq!(notes.status().lag(), 0);
    }

    #[test]
    fn the_slowest_partition_decides() {
        let notes = Notes::new("s", "t", 0);
        notes.begin(0, 0, Some(50));
        notes.begin(1, 0, Some(70));
        assert_eq!(notes.frontier(), 50);
        notes.begin(2, 0, None);
        assert_eq!(notes.frontier(), Micros::MIN);
    }
}
