//! The thread that reads a share of a topic: one of several, in this and other processes, among which the brokers divide the
//! partitions. What it has read is in the store and the lake (`springhouse_ingest::TopicWorker`), never at the brokers.

use crate::context::Context;
use crate::format::Decoder;
use crate::handle::SourceReader;
use crate::reader::{
    Batch, Brake, End, Gathered, RETRY_FIRST, RETRY_LONGEST, STATISTICS_MS, another_topic, client_config,
    ends_too_early, first_offset, is_delivered, newer_before, partitions_of, passes, patience,
};
use crate::settings::KafkaSettings;
use crate::status::{Notes, SharedClock};
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use serde::{Deserialize, Serialize};
use springhouse_core::Micros;
use springhouse_core::definition::{KafkaStream, Source};
use springhouse_ingest::{Checked, Messages, PartitionPosition, TopicChecker, TopicWorker, WorkError};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// What a worker says of a partition that it reads, for the process that serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerNote {
    /// Which worker.
    pub worker: String,
    /// When it said so.
    pub at: Micros,
    /// How many partitions the topic has, as far as it knows.
    pub partitions: usize,
    /// The offset to be read next; all below is in the rows of `builds`.
    pub position: i64,
    /// The offset after the last message that may be read.
    pub end: Option<i64>,
    /// The newest timestamp applied.
    pub newest: Option<Micros>,
    /// Everything was applied at this moment, if nothing waits now.
    pub caught_up_at: Option<Micros>,
    /// Everything that was visible before this moment is in the rows of `builds`; the least number when that is not known.
    pub frontier: Micros,
    /// The builds (`NAME@VERSION/GENERATION`) of which the above holds.
    pub builds: Vec<String>,
    /// Messages a second that this worker applies, of all its partitions of the topic.
    pub rate: f64,
    /// Messages applied since its start, of all its partitions.
    pub messages: u64,
    /// Of them, without a value.
    pub tombstones: u64,
    /// Messages that were deleted before they were read, since its start, of all its partitions.
    pub lost: u64,
    /// From event to servable since its start, of all its partitions: how many events took how long, as
    /// [`springhouse_ingest::LatencyHistogram::counts`].
    pub latencies: Vec<u64>,
    /// All of these times together, microseconds.
    pub latency_sum: Micros,
    /// Why nothing gets on at this moment.
    pub error: Option<String>,
}

/// What a worker says when it does not get on, of a source of which it may read nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerError {
    /// When it said so.
    pub at: Micros,
    /// What it is.
    pub error: String,
}

/// The name of a worker's error note.
pub fn error_name(source: &str, worker: &str) -> String {
    format!("error {source}/{worker}")
}

/// The name of a partition's note.
pub fn note_name(source: &str, partition: i32) -> String {
    format!("{source}/{partition}")
}

/// What a worker begins with.
#[derive(Debug)]
pub struct Work {
    /// The source with its rows.
    pub worker: TopicWorker,
    /// The name of the group; all workers of a store have the same, and no others.
    pub group: String,
    /// This worker's name.
    pub name: String,
}

/// Begins to read a share of the topic of a source. Ends by itself when what it began with no longer holds: begin again then.
/// Must be called within a tokio runtime.
///
/// # Errors
/// When the source has no topic, or the operating system gives no thread.
pub fn work_topic(
    source: &Source,
    settings: &KafkaSettings,
    work: Work,
    clock: SharedClock,
) -> std::io::Result<SourceReader> {
    let stream = source.kafka.as_ref();
    let stream = stream.ok_or_else(|| std::io::Error::other("the source has no topic"))?.clone();
    let told_late = Micros::from(settings.fetch_wait_ms + STATISTICS_MS) * 1_000;
    let notes = Arc::new(Notes::new(&source.name, &stream.topic, told_late));
    let stop = Arc::new(AtomicBool::new(false));
    let Work { worker, group, name } = work;
    let voice = Voice {
        source: source.name.clone(),
        name,
        clock: clock.clone(),
        notes: notes.clone(),
        partitions: AtomicUsize::new(0),
    };
    let working = Working {
        definition: source.clone(),
        stream,
        settings: settings.clone(),
        group,
        clock,
        notes: notes.clone(),
        stop: stop.clone(),
        give_up: Arc::default(),
        voice: Arc::new(voice),
        runtime: Handle::current(),
    };
    SourceReader::begin(source, notes, stop, move || working.run(worker))
}

/// What the group says; taken up between two polls, since giving a partition up takes a while.
#[derive(Clone)]
enum Event {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
}

struct WorkerContext {
    base: Context,
    events: Mutex<VecDeque<Event>>,
    /// Nothing is read any more: what is still said is agreed to at once.
    is_closing: AtomicBool,
}

impl ClientContext for WorkerContext {
    fn stats(&self, statistics: Statistics) {
        self.base.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.base.error(error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.base.log(level, facility, message);
    }
}

impl WorkerContext {
    fn agree(&self, consumer: &BaseConsumer<Self>, is_assignment: bool, list: &TopicPartitionList) {
        let agreed = match is_assignment {
            true => consumer.incremental_assign(list),
            false => consumer.incremental_unassign(list),
        };
        if let Err(error) = agreed {
            tracing::debug!(%error, "leaving the group of workers");
        }
    }
}

impl ConsumerContext for WorkerContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = list.elements().iter().map(|element| element.partition()).collect();
        let is_assignment = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.is_closing.load(SeqCst) {
            return self.agree(consumer, is_assignment, list);
        }
        let event = if is_assignment { Event::Assigned(partitions) } else { Event::Revoked(partitions) };
        self.events.lock().push_back(event);
    }
}

type Consuming = BaseConsumer<WorkerContext>;

impl From<WorkError> for End {
    fn from(error: WorkError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What the worker is to do while messages are fetched.
struct Task {
    checked: Option<Checked>,
    /// Whether it is time to say how far it is.
    must_commit: bool,
    voice: Arc<Voice>,
}

/// Says how far a worker is.
struct Voice {
    source: String,
    /// The worker's.
    name: String,
    clock: SharedClock,
    notes: Arc<Notes>,
    /// How many partitions the topic has.
    partitions: AtomicUsize,
}

impl Voice {
    /// What is said of every partition.
    fn say(&self, worker: &TopicWorker) -> Vec<(String, String)> {
        let status = self.notes.status();
        let at = self.clock.now();
        let note = |partition: &crate::PartitionStatus| {
            let builds = worker.builds_at(partition.partition, partition.position);
            let note = WorkerNote {
                worker: self.name.clone(),
                at,
                partitions: self.partitions.load(SeqCst),
                position: partition.position,
                end: partition.end,
                newest: partition.newest,
                caught_up_at: partition.caught_up_at,
                frontier: partition.frontier,
                builds: builds.map(|build| build.to_string()).collect(),
                rate: status.rate,
                messages: status.messages,
                tombstones: status.tombstones,
                lost: status.lost,
                latencies: worker.latencies().counts().to_vec(),
                latency_sum: worker.latencies().sum(),
                error: status.error.clone().or_else(|| worker.lake_error()),
            };
            // A note is numbers and texts; nothing in it can fail to be written.
            let text = serde_json::to_string(&note).unwrap_or_default();
            (note_name(&self.source, partition.partition), text)
        };
        status.partitions.iter().map(note).collect()
    }
}

/// Batches under way.
struct UnderWay {
    /// None while it works.
    worker: Option<TopicWorker>,
    busy: Option<JoinHandle<(TopicWorker, Result<(), WorkError>)>>,
    checking: Option<JoinHandle<Result<Checked, End>>>,
    /// Checked, and waiting for the worker.
    ready: Option<Checked>,
}

struct Working {
    definition: Source,
    stream: KafkaStream,
    settings: KafkaSettings,
    group: String,
    clock: SharedClock,
    notes: Arc<Notes>,
    stop: Arc<AtomicBool>,
    /// Whoever waits for the worker waits for a store that does not answer no longer.
    give_up: Arc<AtomicBool>,
    voice: Arc<Voice>,
    runtime: Handle,
}

impl Working {
    fn run(self, worker: TopicWorker) {
        match self.work(worker) {
            Ok(()) | Err(End::Stopped) => {}
            Err(End::Failed(why)) => self.notes.fail(why),
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.settings.socket_timeout_ms))
    }

    fn consumer(&self) -> Result<Consuming, End> {
        let source = &self.definition.name;
        let mut config = client_config(source, &self.stream, &self.settings).map_err(End::Failed)?;
        config
            .set("group.id", &self.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", self.settings.session_timeout_ms.to_string())
            // New partitions are given out when the client learns of them.
            .set("topic.metadata.refresh.interval.ms", self.settings.metadata_interval_ms.to_string())
            .set("heartbeat.interval.ms", (self.settings.session_timeout_ms / 5).max(1).to_string());
        let base = Context {
            notes: self.notes.clone(),
            clock: self.clock.clone(),
            topic: self.stream.topic.clone(),
            isolation: self.stream.isolation,
        };
        Ok(config.create_with_context(WorkerContext {
            base,
            events: Mutex::default(),
            is_closing: AtomicBool::new(false),
        })?)
    }

    fn work(&self, worker: TopicWorker) -> Result<(), End> {
        let decoder = Decoder::of(&self.definition, &self.settings).map_err(End::Failed)?.map(Arc::new);
        let checker = worker.checker();
        let mut under_way = UnderWay { worker: Some(worker), busy: None, checking: None, ready: None };
        let consumer = self.consumer()?;
        let mut gathered = Gathered::new();
        let mut batch = Batch::default();
        // The brokers know the topic before it is asked for: else a wrong name would be no error.
        let mut ended = self.count_partitions(&consumer).and_then(|()| {
            consumer.subscribe(&[&self.stream.topic])?;
            self.consume(&consumer, (&checker, &decoder), &mut gathered, &mut batch, &mut under_way)
        });
        // What was fetched is finished, so that whoever comes next begins behind it. It need not be: nothing is lost.
        self.give_up.store(true, SeqCst);
        if ended.is_ok() {
            ended = self.drain(&mut batch, (&checker, &decoder), &mut under_way);
        } else if let Some(busy) = under_way.busy.take() {
            drop(self.runtime.block_on(busy));
        }
        self.agree(&consumer);
        ended
    }

    /// From now on whatever the group says is agreed to; so is what it has said already, else it would wait for that for ever.
    fn agree(&self, consumer: &Consuming) {
        let context = consumer.context();
        context.is_closing.store(true, SeqCst);
        let events = std::mem::take(&mut *context.events.lock());
        for event in events {
            let (is_assignment, partitions) = match event {
                Event::Assigned(partitions) => (true, partitions),
                Event::Revoked(partitions) => (false, partitions),
            };
            let mut list = TopicPartitionList::new();
            for partition in partitions {
                list.add_partition(&self.stream.topic, partition);
            }
            context.agree(consumer, is_assignment, &list);
        }
    }

    fn consume(
        &self,
        consumer: &Consuming,
        checking: (&TopicChecker, &Option<Arc<Decoder>>),
        gathered: &mut Gathered,
        batch: &mut Batch,
        under_way: &mut UnderWay,
    ) -> Result<(), End> {
        let delay = Duration::from_millis(self.settings.batch_delay_ms);
        let commit_interval = Duration::from_millis(self.settings.commit_interval_ms);
        let (mut committed_at, mut looked_at) = (Instant::now(), Instant::now());
        let mut brake = Brake::default();
        loop {
            if self.stop.load(SeqCst) {
                return Ok(());
            }
            // What can't be done now stays there, for whoever ends the reading to agree to.
            let event = consumer.context().events.lock().front().cloned();
            match event {
                Some(Event::Assigned(new)) => {
                    // What was fetched before goes first: where a partition stands must not change under it.
                    self.send(batch, checking, under_way)?;
                    self.assign(consumer, &new, gathered, under_way)?;
                    consumer.context().events.lock().pop_front();
                }
                Some(Event::Revoked(old)) => {
                    self.give_up.store(true, SeqCst);
                    let drained = self.drain(batch, checking, under_way);
                    self.give_up.store(false, SeqCst);
                    self.unassign(consumer, &old, gathered, under_way)?;
                    consumer.context().events.lock().pop_front();
                    drained?;
                }
                None => {}
            }
            if looked_at.elapsed() >= Duration::from_millis(self.settings.metadata_interval_ms) {
                looked_at = Instant::now();
                if let Err(End::Failed(why)) = self.count_partitions(consumer) {
                    self.notes.fail(why);
                }
            }
            self.look_after(under_way)?;
            if under_way.worker.is_some() {
                let must_commit = committed_at.elapsed() >= commit_interval && !gathered.is_empty();
                if under_way.ready.is_some() || must_commit {
                    let checked = under_way.ready.take();
                    if must_commit {
                        committed_at = Instant::now();
                    }
                    self.begin(under_way, checked, must_commit);
                }
            }
            let is_full = batch.is_full(&self.settings);
            let waited = batch.begun.map(|begun| begun.elapsed());
            let has_room = under_way.checking.is_none() && under_way.ready.is_none();
            if has_room && (is_full || waited.is_some_and(|waited| waited >= delay)) {
                let messages = std::mem::take(batch).finish(&self.definition.name, &self.stream.topic);
                under_way.checking = Some(self.check(messages, checking));
                continue;
            }
            // A store or lake that is slow slows fetching down. Polling goes on, so that the group keeps this worker.
            let is_paused = brake.hold(consumer, is_full)?;
            if is_full && !is_paused {
                self.wait_for(under_way);
                continue;
            }
            let is_busy = under_way.checking.is_some() || under_way.busy.is_some();
            match consumer.poll(patience(is_busy, is_full, waited, delay)) {
                None => {}
                Some(Ok(message)) => {
                    // Of a partition that was given up meanwhile, or from before where it was taken over.
                    let next = gathered.get(&message.partition()).copied();
                    if next.is_some_and(|next| message.offset() >= next) {
                        self.notes.handed(message.partition(), message.offset() + 1);
                        batch.add(&message, &self.stream, gathered);
                    }
                }
                Some(Err(error)) if passes(&error) => self.notes.fail(error.to_string()),
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// What the worker before noted of partitions.
    fn noted(&self, worker: &TopicWorker, partitions: &[i32]) -> Result<BTreeMap<i32, WorkerNote>, End> {
        let name = |partition: &i32| note_name(&self.definition.name, *partition);
        let names: Vec<String> = partitions.iter().map(name).collect();
        let texts = self.runtime.block_on(worker.notes(&names))?;
        let note = |(partition, text): (&i32, Option<String>)| {
            Some((*partition, serde_json::from_str(&text?).ok()?))
        };
        Ok(partitions.iter().zip(texts).filter_map(note).collect())
    }

    /// True when what was read of a partition was another topic's.
    fn is_another_topic(
        &self,
        consumer: &Consuming,
        partition: i32,
        position: PartitionPosition,
    ) -> Result<bool, End> {
        let topic = &self.stream.topic;
        let Some(newer) = newer_before(consumer, topic, partition, position, self.timeout())? else {
            return Ok(false);
        };
        let mut config =
            client_config(&self.definition.name, &self.stream, &self.settings).map_err(End::Failed)?;
        // Never joined; one that is in the group must not be assigned anything else.
        config.set("group.id", format!("{}-look", self.group)).set("statistics.interval.ms", "0");
        let apart: BaseConsumer = config.create()?;
        is_delivered(&apart, topic, partition, position, newer)
    }

    fn count_partitions(&self, consumer: &Consuming) -> Result<(), End> {
        self.voice
            .partitions
            .store(partitions_of(consumer, &self.stream.topic, self.timeout())?.len(), SeqCst);
        Ok(())
    }

    /// Takes partitions over that the group has given to this worker.
    fn assign(
        &self,
        consumer: &Consuming,
        new: &[i32],
        gathered: &mut Gathered,
        under_way: &mut UnderWay,
    ) -> Result<(), End> {
        let topic = &self.stream.topic;
        let worker = under_way.worker.as_mut().ok_or(End::Stopped)?;
        let mut taken = self.runtime.block_on(worker.take_over(new))?;
        if !taken.unknown.is_empty() {
            // All at once: what is read of a topic for the first time begins in all of its partitions at one moment.
            let unknown = match taken.is_new_topic {
                true => partitions_of(consumer, topic, self.timeout())?,
                false => taken.unknown.clone(),
            };
            let mut first = BTreeMap::new();
            for partition in unknown {
                let marks = consumer.fetch_watermarks(topic, partition, self.timeout())?;
                let (stream, timeout) = (&self.stream, self.timeout());
                let offset = first_offset(consumer, stream, partition, taken.is_new_topic, marks, timeout)?;
                first.insert(partition, offset);
            }
            self.runtime.block_on(worker.begin(&first))?;
            let rest = self.runtime.block_on(worker.take_over(&taken.unknown))?;
            if let Some(unknown) = rest.unknown.first() {
                return Err(End::Failed(format!(
                    "partition {unknown} was begun, and the lake has forgotten it"
                )));
            }
            taken.begins.extend(rest.begins);
            taken.in_rows.extend(rest.in_rows);
        }
        let noted = self.noted(worker, new)?;
        let mut list = TopicPartitionList::new();
        for (partition, begin) in &taken.begins {
            // Of messages behind what was noted, the newest timestamp is not known.
            let note = noted.get(partition).filter(|note| *begin <= note.position);
            let newest = note.and_then(|note| note.newest);
            let position = PartitionPosition { next: *begin, newest: newest.unwrap_or(Micros::MIN) };
            if self.is_another_topic(consumer, *partition, position)? {
                return Err(End::Failed(another_topic(*partition, *begin)));
            }
            let (low, high) = consumer.fetch_watermarks(topic, *partition, self.timeout())?;
            if *begin > high {
                return Err(End::Failed(ends_too_early(*partition, high, *begin)));
            }
            if *begin < low {
                self.notes.lost(*partition, (low - begin) as u64);
            }
            // What was deleted unread counts as read with the first message behind it.
            gathered.insert(*partition, *begin);
            list.add_partition_offset(topic, *partition, Offset::Offset((*begin).max(low)))?;
            self.notes.begin(*partition, *begin, None);
            // What was noted holds on, unless rows have been lost since.
            let in_rows = taken.in_rows.get(partition).copied().unwrap_or(0);
            if let Some(note) = noted.get(partition).filter(|note| in_rows >= note.position) {
                self.notes.go_on(*partition, note.newest, note.frontier);
            }
            self.notes.handed(*partition, *begin);
        }
        consumer.incremental_assign(&list)?;
        self.notes.works();
        tracing::info!(source = self.definition.name, partitions = ?taken.begins, "takes over partitions");
        Ok(())
    }

    /// Gives partitions up.
    fn unassign(
        &self,
        consumer: &Consuming,
        old: &[i32],
        gathered: &mut Gathered,
        under_way: &mut UnderWay,
    ) -> Result<(), End> {
        let mut list = TopicPartitionList::new();
        for partition in old {
            gathered.remove(partition);
            self.notes.end(*partition);
            list.add_partition(&self.stream.topic, *partition);
        }
        if let Some(worker) = &mut under_way.worker {
            worker.release(old);
        }
        consumer.incremental_unassign(&list)?;
        tracing::info!(source = self.definition.name, partitions = ?old, "gives partitions up");
        Ok(())
    }

    /// Finishes everything that was fetched, down to the lake.
    fn drain(
        &self,
        batch: &mut Batch,
        checking: (&TopicChecker, &Option<Arc<Decoder>>),
        under_way: &mut UnderWay,
    ) -> Result<(), End> {
        self.send(batch, checking, under_way)?;
        let notes = self.voice.say(under_way.worker.as_ref().ok_or(End::Stopped)?);
        let worker = under_way.worker.as_mut().ok_or(End::Stopped)?;
        self.runtime.block_on(async {
            worker.flush().await?;
            worker.commit(&notes).await
        })?;
        Ok(())
    }

    /// Puts everything that was fetched into the rows.
    fn send(
        &self,
        batch: &mut Batch,
        checking: (&TopicChecker, &Option<Arc<Decoder>>),
        under_way: &mut UnderWay,
    ) -> Result<(), End> {
        self.finish(under_way)?;
        if batch.begun.is_some() {
            let messages = std::mem::take(batch).finish(&self.definition.name, &self.stream.topic);
            under_way.checking = Some(self.check(messages, checking));
            self.finish(under_way)?;
        }
        Ok(())
    }

    /// Waits until nothing is under way.
    fn finish(&self, under_way: &mut UnderWay) -> Result<(), End> {
        loop {
            if let Some(busy) = under_way.busy.take() {
                let (worker, result) = self.join(busy)?;
                under_way.worker = Some(worker);
                result?;
            } else if let Some(checked) = under_way.ready.take() {
                self.begin(under_way, Some(checked), false);
            } else if let Some(checking) = under_way.checking.take() {
                under_way.ready = Some(self.join(checking)??);
            } else {
                return Ok(());
            }
        }
    }

    fn join<T>(&self, task: JoinHandle<T>) -> Result<T, End> {
        self.runtime.block_on(task).map_err(|error| End::Failed(error.to_string()))
    }

    /// Takes note of what is finished.
    fn look_after(&self, under_way: &mut UnderWay) -> Result<(), End> {
        if let Some(busy) = under_way.busy.take_if(|busy| busy.is_finished()) {
            let (worker, result) = self.join(busy)?;
            under_way.worker = Some(worker);
            result?;
        }
        if under_way.ready.is_none()
            && let Some(checking) = under_way.checking.take_if(|checking| checking.is_finished())
        {
            under_way.ready = Some(self.join(checking)??);
        }
        Ok(())
    }

    /// Waits for a moment, or until something is finished.
    fn wait_for(&self, under_way: &UnderWay) {
        const MOMENT: Duration = Duration::from_millis(5);
        let is_finished = || {
            under_way.busy.as_ref().is_some_and(|busy| busy.is_finished())
                || under_way.ready.is_none()
                    && under_way.checking.as_ref().is_some_and(|checking| checking.is_finished())
        };
        let until = Instant::now() + MOMENT;
        self.runtime.block_on(async {
            while !is_finished() && Instant::now() < until {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        });
    }

    fn check(
        &self,
        mut messages: Messages,
        (checker, decoder): (&TopicChecker, &Option<Arc<Decoder>>),
    ) -> JoinHandle<Result<Checked, End>> {
        let (checker, decoder) = (checker.clone(), decoder.clone());
        let (notes, stop, give_up) = (self.notes.clone(), self.stop.clone(), self.give_up.clone());
        self.runtime.spawn(async move {
            let mut wait = RETRY_FIRST;
            if let Some(decoder) = decoder {
                while let Err(why) = decoder.decode(&mut messages.messages).await {
                    if stop.load(SeqCst) || give_up.load(SeqCst) {
                        return Err(End::Failed(why));
                    }
                    notes.fail(format!("nothing more is taken: {why}"));
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
            }
            let checked = tokio::task::spawn_blocking(move || checker.check(&messages)).await;
            let checked = checked.map_err(|error| End::Failed(error.to_string()))?;
            checked.map_err(|error| End::Failed(error.to_string()))
        })
    }

    /// Sets the worker to work, which must be there.
    fn begin(&self, under_way: &mut UnderWay, checked: Option<Checked>, must_commit: bool) {
        let Some(worker) = under_way.worker.take() else {
            under_way.ready = checked;
            return;
        };
        let (stop, give_up) = (self.stop.clone(), self.give_up.clone());
        let task = Task { checked, must_commit, voice: self.voice.clone() };
        under_way.busy = Some(self.runtime.spawn(task.run(worker, stop, give_up)));
    }
}

impl Task {
    async fn run(
        self,
        mut worker: TopicWorker,
        stop: Arc<AtomicBool>,
        give_up: Arc<AtomicBool>,
    ) -> (TopicWorker, Result<(), WorkError>) {
        let mut wait = RETRY_FIRST;
        let notes = &self.voice.notes;
        if let Some(checked) = &self.checked {
            while let Err(error) = worker.apply(checked).await {
                let is_over = stop.load(SeqCst) || give_up.load(SeqCst);
                if is_over || matches!(error, WorkError::Outdated(_)) {
                    return (worker, Err(error));
                }
                notes.fail(format!("nothing more is taken: {error}"));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_LONGEST);
            }
            notes.applied(&checked.ranges, checked.messages, checked.tombstones);
        }
        worker.tick().await;
        let committed = match self.must_commit {
            false => Ok(()),
            true => {
                let said = self.voice.say(&worker);
                worker.commit(&said).await
            }
        };
        match committed {
            Err(error @ WorkError::Outdated(_)) => (worker, Err(error)),
            Err(error) => {
                notes.fail(error.to_string());
                (worker, Ok(()))
            }
            Ok(()) => (worker, Ok(())),
        }
    }
}
