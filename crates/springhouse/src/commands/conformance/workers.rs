//! The same messages, read by workers over a store that all of them write: partitions change hands at any moment, in order or
//! not, and whoever had one before goes on with it for a while.

use super::DoorResult;
use super::case::{Case, SOURCE};
use super::doors::{Arrival, Dice, Place, Session, arrivals, questions, row};
use anyhow::{Context, bail, ensure};
use hyper::body::Bytes;
use springhouse_core::definition::{Isolation, KafkaStream, MessageFormat, SourceKind, TopicStart};
use springhouse_core::{Clock, Definitions, Micros};
use springhouse_ingest::{Message, Messages, OffsetRange, PushSettings, TopicWorker, WorkError, fed_builds};
use springhouse_lake::Lake;
use springhouse_node::{NodePaths, WorkerNote, note_name};
use springhouse_online::{SharedRows, ViewHandle};
use springhouse_online_redis::RedisShared;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const TOPIC: &str = "events";
const PARTITIONS: usize = 3;
const WORKERS: usize = 3;
/// Most messages in one batch.
const BATCH_MAX: usize = 7;

/// A worker, and by partition where it would read on.
struct Hand {
    worker: TopicWorker,
    next: BTreeMap<i32, i64>,
}

struct Shift<'a> {
    case: &'a Case,
    place: &'a Place,
    definitions: &'a Definitions,
    clock: Arc<dyn Clock>,
    views: Vec<ViewHandle>,
    /// By partition, in order.
    partitions: Vec<Vec<Arrival<'a>>>,
    hands: Vec<Hand>,
    /// By partition: the worker that the group has given it to.
    owner: Vec<usize>,
}

pub(super) async fn answers(case: &Case, place: &Place, mut dice: Dice) -> anyhow::Result<DoorResult> {
    let mut arrivals = arrivals(case);
    // Without identities: each event comes once, however often its message is read.
    let mut known = BTreeSet::new();
    arrivals.retain(|arrival| known.insert(arrival.event.id));
    let mut definitions = case.definitions(true)?;
    for source in definitions.sources.values_mut() {
        source.kind = SourceKind::Push { history: None };
        source.event_id = None;
        source.kafka = Some(KafkaStream {
            brokers: Vec::new(),
            topic: TOPIC.to_owned(),
            format: MessageFormat::Json,
            schema: None,
            message: None,
            start: TopicStart::Earliest,
            isolation: Isolation::ReadCommitted,
            key: None,
            headers: BTreeMap::new(),
        });
    }
    let mut session = Session::begin(case, place, &definitions, &arrivals).await?;
    let views = session.node()?.shared_views();
    let mut shift = Shift {
        case,
        place,
        definitions: &definitions,
        clock: session.clock.clone(),
        views,
        partitions: Vec::new(),
        hands: Vec::new(),
        owner: Vec::new(),
    };
    shift.partitions.resize_with(PARTITIONS, Vec::new);
    let mut of_entity = BTreeMap::new();
    for arrival in arrivals {
        let key: Vec<String> = arrival.event.key.iter().map(ToString::to_string).collect();
        // An entity's events lie in all partitions, so that workers write the same rows; but those of one moment, which go by
        // their order.
        let moment = case.known_at(arrival.event);
        let partition = *of_entity.entry((key, moment)).or_insert_with(|| dice.below(PARTITIONS));
        shift.partitions[partition].push(arrival);
    }
    for _ in 0..WORKERS {
        let hand = shift.hire().await?;
        shift.hands.push(hand);
    }
    let first = (0..PARTITIONS as i32).map(|partition| (partition, 0)).collect();
    shift.hands[0].worker.begin(&first).await?;
    for partition in 0..PARTITIONS {
        shift.owner.push(0);
        shift.hand_over(partition, &mut dice).await?;
    }
    let mut result = DoorResult::default();
    for index in questions(case) {
        let query = &case.queries[index];
        session.clock.set(session.clock.now().max(query.at));
        loop {
            let waiting: Vec<usize> = (0..PARTITIONS).filter(|p| shift.waits(*p, query.at)).collect();
            let Some(partition) = waiting.get(dice.below(waiting.len())).copied() else { break };
            shift.give(shift.owner[partition], partition, query.at, &mut dice).await?;
            match dice.below(10) {
                0 | 1 => shift.hand_over(dice.below(PARTITIONS), &mut dice).await?,
                // Whoever had a partition once may still think that it has.
                2 | 3 => {
                    let (worker, partition) = (dice.below(WORKERS), dice.below(PARTITIONS));
                    if shift.hands[worker].next.contains_key(&(partition as i32)) {
                        shift.give(worker, partition, query.at, &mut dice).await?;
                    }
                }
                4 => session.restart().await?,
                5 => shift.hands[shift.owner[partition]].worker.flush().await?,
                // What is committed, rows need not say any more.
                6 | 7 => shift.commit(partition, query.at).await?,
                _ => {}
            }
        }
        for partition in 0..PARTITIONS {
            shift.commit(partition, query.at).await?;
        }
        session.node()?.look_at_workers().await?;
        session.ask(case, query, &case.expected[index], &mut result).await?;
    }
    session.node()?.shutdown().await?;
    Ok(result)
}

impl Shift<'_> {
    /// A worker as it is after its process has begun.
    async fn hire(&self) -> anyhow::Result<Hand> {
        let redis = self.place.redis.clone().context("workers need a store on Redis")?;
        let store = Arc::new(RedisShared::new(redis)?);
        let builds = fed_builds(&self.views, &store.begin().await?)?;
        ensure!(builds.len() == self.views.len(), "a view is not written by workers");
        let lake = Lake::open(&self.place.folder, &NodePaths::in_project(&self.place.folder).lake)?;
        let (settings, clock) = (PushSettings::default(), self.clock.clone());
        // Hardly any memory, so that rows are read again too.
        let worker =
            TopicWorker::new(self.definitions, SOURCE, builds, (store, lake), settings, 2_000, clock)?;
        Ok(Hand { worker, next: BTreeMap::new() })
    }

    /// Gives a partition to any worker; the one before knows of it, or is gone, or does not know yet.
    async fn hand_over(&mut self, partition: usize, dice: &mut Dice) -> anyhow::Result<()> {
        let before = self.owner[partition];
        match dice.below(3) {
            0 => {
                let hand = &mut self.hands[before];
                hand.worker.flush().await?;
                // It may have learnt of its end by now.
                if hand.worker.commit(&[]).await.is_ok() {
                    hand.worker.release(&[partition as i32]);
                    hand.next.remove(&(partition as i32));
                }
            }
            1 => self.replace(before).await?,
            _ => {}
        }
        let after = dice.below(WORKERS);
        self.owner[partition] = after;
        self.take_over(partition).await
    }

    /// A worker's process dies, and another one begins with its partitions.
    async fn replace(&mut self, worker: usize) -> anyhow::Result<()> {
        self.hands[worker] = self.hire().await?;
        for partition in self.of(worker) {
            Box::pin(self.take_over(partition)).await?;
        }
        Ok(())
    }

    fn of(&self, worker: usize) -> Vec<usize> {
        (0..PARTITIONS).filter(|partition| self.owner.get(*partition) == Some(&worker)).collect()
    }

    async fn take_over(&mut self, partition: usize) -> anyhow::Result<()> {
        let owner = self.owner[partition];
        let hand = &mut self.hands[owner];
        let taken = hand.worker.take_over(&[partition as i32]).await;
        match taken {
            Ok(taken) => hand.next.extend(taken.begins),
            Err(WorkError::Outdated(_)) => {
                Box::pin(self.replace(owner)).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// True when the owner of a partition has not read all that has arrived by then.
    fn waits(&self, partition: usize, until: Micros) -> bool {
        let next = self.hands[self.owner[partition]].next.get(&(partition as i32)).copied().unwrap_or(0);
        self.partitions[partition].get(next as usize).is_some_and(|arrival| arrival.at <= until)
    }

    /// Gives a worker the next messages of a partition.
    async fn give(
        &mut self,
        worker: usize,
        partition: usize,
        until: Micros,
        dice: &mut Dice,
    ) -> anyhow::Result<()> {
        let from = self.hands[worker].next.get(&(partition as i32)).copied().context("not its partition")?;
        let count = dice.below(BATCH_MAX) + 1;
        let all = self.partitions[partition].iter().enumerate().skip(from as usize).take(count);
        let given: Vec<(usize, &Arrival<'_>)> = all.take_while(|(_, arrival)| arrival.at <= until).collect();
        let Some((last, _)) = given.last() else { return Ok(()) };
        let to = *last as i64 + 1;
        let known_at = |arrival: &Arrival<'_>| self.case.known_at(arrival.event);
        let newest = given.iter().map(|(_, arrival)| known_at(arrival)).max().unwrap_or(Micros::MIN);
        let message = |(offset, arrival): &(usize, &Arrival<'_>)| {
            anyhow::Ok(Message {
                partition: partition as i32,
                offset: *offset as i64,
                timestamp: Some(known_at(arrival)),
                key: None,
                value: Some(Bytes::from(serde_json::to_vec(&row(self.case, arrival.event)?)?)),
                headers: Vec::new(),
                flaw: None,
            })
        };
        let messages = Messages {
            source: SOURCE.to_owned(),
            topic: TOPIC.to_owned(),
            ranges: vec![OffsetRange { partition: partition as i32, from, to, newest }],
            messages: given.iter().map(message).collect::<anyhow::Result<_>>()?,
        };
        let hand = &mut self.hands[worker];
        let checked = hand.worker.checker().check(&messages)?;
        match hand.worker.apply(&checked).await {
            Ok(()) => {
                hand.next.insert(partition as i32, to);
            }
            Err(WorkError::Outdated(_)) => self.replace(worker).await?,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Says that everything has been read that was visible before a moment.
    async fn commit(&mut self, partition: usize, at: Micros) -> anyhow::Result<()> {
        for _ in 0..WORKERS {
            let owner = self.owner[partition];
            let hand = &mut self.hands[owner];
            let position =
                hand.next.get(&(partition as i32)).copied().context("a partition without an owner")?;
            let note = WorkerNote {
                worker: owner.to_string(),
                at,
                partitions: PARTITIONS,
                position,
                end: None,
                newest: None,
                caught_up_at: Some(at),
                frontier: at,
                builds: hand.worker.builds_at(partition as i32, position).map(ToString::to_string).collect(),
                rate: 0.0,
                messages: 0,
                tombstones: 0,
                lost: 0,
                latencies: Vec::new(),
                latency_sum: 0,
                error: None,
            };
            let note = (note_name(SOURCE, partition as i32), serde_json::to_string(&note)?);
            match hand.worker.commit(&[note]).await {
                Ok(()) => return Ok(()),
                Err(WorkError::Outdated(_)) => self.replace(owner).await?,
                Err(error) => return Err(error.into()),
            }
        }
        bail!("nobody can say how far partition {partition} is")
    }
}
