//! Events as messages of a topic: over partitions, in batches cut anywhere, given again after restarts and for no reason.
//!
//! What gives the messages here stands where the reader of a real broker stands; the real one has tests of its own.

use super::DoorResult;
use super::case::{Case, SOURCE};
use super::doors::{Arrival, Dice, Place, Session, arrivals, questions, row};
use anyhow::{Context, ensure};
use hyper::body::Bytes;
use springhouse_core::definition::SourceKind;
use springhouse_core::{Clock, Micros};
use springhouse_ingest::{Message, Messages, OffsetRange};
use std::collections::BTreeMap;

const TOPIC: &str = "events";
const PARTITIONS: usize = 3;
/// Most messages in one batch.
const BATCH_MAX: usize = 7;

/// What the broker of this topic would have.
struct Topic<'a> {
    case: &'a Case,
    /// By partition, in order; an entity's events are in one partition, as a key puts them there.
    partitions: Vec<Vec<Arrival<'a>>>,
    /// By partition: the next message to be given.
    next: Vec<usize>,
}

pub(super) async fn answers(case: &Case, place: &Place, mut dice: Dice) -> anyhow::Result<DoorResult> {
    let arrivals = arrivals(case);
    let mut definitions = case.definitions(true)?;
    for source in definitions.sources.values_mut() {
        // Not declared as a topic: nobody reads it here, and a topic that is not read has no frontier.
        source.kind = SourceKind::Push { history: None };
    }
    let mut session = Session::begin(case, place, &definitions, &arrivals).await?;
    let mut topic = Topic { case, partitions: Vec::new(), next: vec![0; PARTITIONS] };
    topic.partitions.resize_with(PARTITIONS, Vec::new);
    let mut of_entity = BTreeMap::new();
    for arrival in arrivals {
        let key: Vec<String> = arrival.event.key.iter().map(ToString::to_string).collect();
        let partition = *of_entity.entry(key).or_insert_with(|| dice.below(PARTITIONS));
        topic.partitions[partition].push(arrival);
    }
    let mut result = DoorResult::default();
    for index in questions(case) {
        let query = &case.queries[index];
        session.clock.set(session.clock.now().max(query.at));
        while topic.give(&session, query.at, &mut dice).await? {
            match dice.below(12) {
                0 => topic.give_again(&session, &mut dice).await?,
                1 => {
                    session.restart().await?;
                    topic.check_positions(&session)?;
                }
                _ => {}
            }
        }
        session.ask(case, query, &case.expected[index], &mut result).await?;
    }
    session.node()?.shutdown().await?;
    Ok(result)
}

impl Topic<'_> {
    /// Gives a batch of what has arrived by then; false when nothing waits.
    async fn give(&mut self, session: &Session<'_>, until: Micros, dice: &mut Dice) -> anyhow::Result<bool> {
        let mut batch = Vec::new();
        let mut ends = self.next.clone();
        for _ in 0..=dice.below(BATCH_MAX) {
            let waits = |partition: &usize| {
                self.partitions[*partition].get(ends[*partition]).is_some_and(|arrival| arrival.at <= until)
            };
            let waiting: Vec<usize> = (0..PARTITIONS).filter(waits).collect();
            let Some(partition) = waiting.get(dice.below(waiting.len())).copied() else { break };
            batch.push((partition, ends[partition]));
            ends[partition] += 1;
        }
        if batch.is_empty() {
            return Ok(false);
        }
        let starts = std::mem::replace(&mut self.next, ends);
        self.submit(session, &starts, &self.next.clone(), &batch).await?;
        Ok(true)
    }

    /// Gives messages that were taken before: nothing may change.
    async fn give_again(&self, session: &Session<'_>, dice: &mut Dice) -> anyhow::Result<()> {
        let starts: Vec<usize> = self.next.iter().map(|next| dice.below(next + 1)).collect();
        let batch: Vec<(usize, usize)> = (0..PARTITIONS)
            .flat_map(|partition| (starts[partition]..self.next[partition]).map(move |at| (partition, at)))
            .collect();
        self.submit(session, &starts, &self.next, &batch).await
    }

    async fn submit(
        &self,
        session: &Session<'_>,
        starts: &[usize],
        ends: &[usize],
        batch: &[(usize, usize)],
    ) -> anyhow::Result<()> {
        let message = |(partition, at): &(usize, usize)| {
            let arrival = &self.partitions[*partition][*at];
            anyhow::Ok(Message {
                partition: *partition as i32,
                offset: *at as i64,
                timestamp: Some(self.case.known_at(arrival.event)),
                key: None,
                value: Some(Bytes::from(serde_json::to_vec(&row(self.case, arrival.event)?)?)),
                headers: Vec::new(),
                flaw: None,
            })
        };
        let ranges = (0..PARTITIONS).filter(|partition| starts[*partition] < ends[*partition]);
        let messages = Messages {
            source: SOURCE.to_owned(),
            topic: TOPIC.to_owned(),
            ranges: ranges
                .map(|partition| {
                    let (from, to) = (starts[partition], ends[partition]);
                    let times = self.partitions[partition][from..to].iter();
                    let newest = times.map(|arrival| self.case.known_at(arrival.event)).max();
                    let newest = newest.unwrap_or(Micros::MIN);
                    OffsetRange { partition: partition as i32, from: from as i64, to: to as i64, newest }
                })
                .collect(),
            messages: batch.iter().map(message).collect::<anyhow::Result<_>>()?,
        };
        let outcome = session.node()?.ingest().submit_messages(messages).await?;
        ensure!(outcome.refused == 0, "messages were refused: {:?}", outcome.exceptions);
        Ok(())
    }

    /// After a restart the log knows how far the topic was taken.
    fn check_positions(&self, session: &Session<'_>) -> anyhow::Result<()> {
        let known = session.node()?.ingest().topic_positions(SOURCE, TOPIC);
        for (partition, next) in self.next.iter().enumerate().filter(|(_, next)| **next > 0) {
            let position = known.get(&(partition as i32)).context("a partition was forgotten")?;
            ensure!(
                position.next == *next as i64,
                "partition {partition} is at {}, not {next}",
                position.next
            );
        }
        Ok(())
    }
}
