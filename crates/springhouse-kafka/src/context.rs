//! What the client library tells by itself: statistics, errors, log lines.

use crate::status::{Notes, SharedClock, Told};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use springhouse_core::definition::Isolation;
use std::sync::Arc;

pub(crate) struct Context {
    pub(crate) notes: Arc<Notes>,
    pub(crate) clock: SharedClock,
    pub(crate) topic: String,
    pub(crate) isolation: Isolation,
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        let told = topic.partitions.values().filter(|p| p.partition >= 0).map(|partition| {
            let leader = statistics.brokers.values().find(|broker| broker.nodeid == partition.leader);
            Told {
                partition: partition.partition,
                leader: partition.leader,
                leader_answers: leader.filter(|broker| broker.state == "UP").map(|broker| broker.rx),
                end: match self.isolation {
                    Isolation::ReadCommitted => partition.ls_offset,
                    Isolation::ReadUncommitted => partition.hi_offset,
                },
                next: partition.next_offset,
                waiting: partition.fetchq_cnt,
            }
        });
        self.notes.told(&told.collect::<Vec<_>>(), self.clock.now());
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.notes.fail(format!("{error}: {reason}"));
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes as an error too.
        tracing::debug!(facility, message, "client of Kafka");
    }
}

impl ConsumerContext for Context {}
