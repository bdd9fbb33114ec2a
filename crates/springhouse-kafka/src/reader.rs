//! The thread that reads one topic: fetches, gathers, hands over, and reads again what was not taken.

use crate::context::Context;
use crate::format::Decoder;
use crate::handle::SourceReader;
use crate::settings::KafkaSettings;
use crate::status::{Notes, SharedClock};
use bytes::Bytes;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use springhouse_core::Micros;
use springhouse_core::definition::{Isolation, KafkaStream, Source, TopicStart};
use springhouse_ingest::{Ingest, Message, Messages, OffsetRange, PartitionPosition, PushError};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// First and longest wait before something that failed is tried again.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(50);
pub(crate) const RETRY_LONGEST: Duration = Duration::from_secs(2);
/// Longest wait for messages before other things are looked after.
const POLL: Duration = Duration::from_millis(50);
/// How long a message may take that is only looked at.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(1);
/// Most batches that are logged and applied at once.
const APPLYING_MAX: usize = 3;
/// When nothing can be handed on for this long, fetching is told to stop. (That throws away what was fetched ahead, so not
/// for every little wait.)
const PAUSE_AFTER: Duration = Duration::from_millis(500);
/// How long the client waits before it fetches on, once it has fetched enough ahead, in milliseconds. More leaves it idle.
const FETCH_ON_AFTER_MS: &str = "5";
/// The client tells how far it is this often, in milliseconds.
pub(crate) const STATISTICS_MS: u32 = 100;

/// Begins to read the topic of a source where `ingest` says that it has been read to. What goes wrong is in the reader's status,
/// and is tried again. Must be called within a tokio runtime.
///
/// # Errors
/// When the source has no topic, or the operating system gives no thread.
pub fn read_topic(
    source: &Source,
    settings: &KafkaSettings,
    ingest: Arc<Ingest>,
    clock: SharedClock,
) -> std::io::Result<SourceReader> {
    let stream = source.kafka.as_ref();
    let stream = stream.ok_or_else(|| std::io::Error::other("the source has no topic"))?;
    let name = source.name.as_str();
    let told_late = Micros::from(settings.fetch_wait_ms + STATISTICS_MS) * 1_000;
    let notes = Arc::new(Notes::new(name, &stream.topic, told_late));
    for (partition, position) in ingest.topic_positions(name, &stream.topic) {
        notes.begin(partition, position.next, (position.newest > Micros::MIN).then_some(position.newest));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let reading = Reading {
        definition: source.clone(),
        source: name.to_owned(),
        stream: stream.clone(),
        settings: settings.clone(),
        ingest,
        clock,
        notes: notes.clone(),
        stop: stop.clone(),
        runtime: Handle::current(),
    };
    SourceReader::begin(source, notes, stop, move || reading.run())
}

/// Why reading ended.
pub(crate) enum End {
    Stopped,
    Failed(String),
}

impl From<KafkaError> for End {
    fn from(error: KafkaError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What every consumer is told.
pub(crate) fn client_config(
    source: &str,
    stream: &KafkaStream,
    settings: &KafkaSettings,
) -> Result<ClientConfig, String> {
    let brokers = match stream.brokers.as_slice() {
        [] => settings.brokers.join(","),
        brokers => brokers.join(","),
    };
    if brokers.is_empty() {
        return Err(
            "no broker is named; set `stream.kafka.brokers` of the source, or `kafka.brokers` of springhouse.yaml"
                .to_owned(),
        );
    }
    let mut config = ClientConfig::new();
    for (name, value) in &settings.client {
        config.set(name, value);
    }
    if let Some(password) = settings.sasl_password()? {
        config.set("sasl.password", password);
    }
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", format!("springhouse-{source}"))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "false")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("check.crcs", "true")
        .set("queued.max.messages.kbytes", settings.queue_kilobytes_max.to_string())
        .set("fetch.wait.max.ms", settings.fetch_wait_ms.to_string())
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.queue.backoff.ms", FETCH_ON_AFTER_MS)
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.timeout.ms", settings.socket_timeout_ms.to_string())
        .set("statistics.interval.ms", STATISTICS_MS.to_string())
        .set(
            "isolation.level",
            match stream.isolation {
                Isolation::ReadCommitted => "read_committed",
                Isolation::ReadUncommitted => "read_uncommitted",
            },
        );
    Ok(config)
}

/// Tells the client to stop fetching while nothing can be handed on.
#[derive(Default)]
pub(crate) struct Brake {
    full_since: Option<Instant>,
    is_on: bool,
}

impl Brake {
    /// True while fetching is stopped. Not for every little wait: stopping throws away what was fetched ahead.
    pub(crate) fn hold<C: ConsumerContext>(
        &mut self,
        consumer: &BaseConsumer<C>,
        is_full: bool,
    ) -> Result<bool, KafkaError> {
        if !is_full {
            self.full_since = None;
        }
        let since = is_full.then(|| *self.full_since.get_or_insert_with(Instant::now));
        let must_stop = since.is_some_and(|since| since.elapsed() >= PAUSE_AFTER);
        if must_stop != self.is_on {
            let assigned = consumer.assignment()?;
            if must_stop {
                consumer.pause(&assigned)?;
            } else {
                consumer.resume(&assigned)?;
            }
            self.is_on = must_stop;
        }
        Ok(self.is_on)
    }
}

/// How long to wait for a message, while a batch that has waited for so long may not wait longer than `delay`.
pub(crate) fn patience(is_busy: bool, is_full: bool, waited: Option<Duration>, delay: Duration) -> Duration {
    const LEAST: Duration = Duration::from_millis(1);
    match (is_busy, waited) {
        (true, Some(waited)) if !is_full => delay.saturating_sub(waited).max(LEAST),
        (true, _) => LEAST,
        (false, Some(waited)) => delay.saturating_sub(waited),
        (false, None) => POLL,
    }
}

/// True for errors that pass by themselves.
pub(crate) fn passes(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::RebalanceInProgress
        )
    )
}

/// The partitions of a topic.
pub(crate) fn partitions_of<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Vec<i32>, End> {
    let metadata = consumer.fetch_metadata(Some(topic), timeout)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.filter(|found| found.error().is_none() && !found.partitions().is_empty()) {
        Some(found) => Ok(found.partitions().iter().map(|partition| partition.id()).collect()),
        None => Err(End::Failed(format!(
            "the brokers have no topic `{topic}`, or don't show it to this user; create it, or correct `topic`"
        ))),
    }
}

/// The first message of a partition that is not older than a moment.
pub(crate) fn offset_at<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    moment: Micros,
    timeout: Duration,
) -> Result<Option<i64>, End> {
    let mut wanted = TopicPartitionList::new();
    // Rounded up: a message of the millisecond before is not wanted.
    let millis = moment.saturating_add(999).div_euclid(1_000);
    wanted.add_partition_offset(topic, partition, Offset::Offset(millis))?;
    let found = consumer.offsets_for_times(wanted, timeout)?;
    Ok(found.elements().first().and_then(|element| match element.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }))
}

/// A message before where the partition was read to that is newer than all that was read: a sign that the topic was deleted,
/// made anew, and has grown past that place, so that offsets alone look right.
pub(crate) fn newer_before<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    position: PartitionPosition,
    timeout: Duration,
) -> Result<Option<i64>, End> {
    if position.newest == Micros::MIN {
        return Ok(None);
    }
    let newer = offset_at(consumer, topic, partition, position.newest.saturating_add(1), timeout)?;
    Ok(newer.filter(|offset| *offset < position.next))
}

/// True when that message is one. It may be the mark of a transaction, or a message of one that was aborted: those are not
/// delivered. The consumer must not be assigned anything, and is not afterwards.
pub(crate) fn is_delivered<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    position: PartitionPosition,
    offset: i64,
) -> Result<bool, End> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    consumer.assign(&list)?;
    let found = consumer.poll(DELIVERY_PATIENCE).transpose()?;
    let is_newer = found.is_some_and(|message| {
        let millis = message.timestamp().to_millis().unwrap_or(0);
        message.offset() < position.next && millis.saturating_mul(1_000) > position.newest
    });
    consumer.unassign()?;
    Ok(is_newer)
}

/// What is said of a topic that ends before where it was read to.
pub(crate) fn ends_too_early(partition: i32, high: i64, next: i64) -> String {
    format!(
        "partition {partition} ends at offset {high}, but it has been read up to {next}: the topic was made anew or has lost messages; \
         give the new topic another name, or the source"
    )
}

/// What is said of a topic that was made anew and has grown.
pub(crate) fn another_topic(partition: i32, next: i64) -> String {
    format!(
        "partition {partition} has messages before offset {next} that were never read: the topic was made anew; give the new topic \
         another name, or the source"
    )
}

/// Where reading begins in a partition that was never read, which may be before its first message: those between are lost.
pub(crate) fn first_offset<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    stream: &KafkaStream,
    partition: i32,
    is_new_topic: bool,
    (low, high): (i64, i64),
    timeout: Duration,
) -> Result<i64, End> {
    Ok(match &stream.start {
        TopicStart::Offsets(offsets) => match offsets.get(&partition) {
            None => low,
            Some(offset) if *offset > high => {
                return Err(End::Failed(format!(
                    "partition {partition} ends at offset {high}; the source's `start` says {offset}: the history would have messages \
                     that are still to come"
                )));
            }
            Some(offset) => *offset,
        },
        // A partition that came later is new as a whole.
        _ if !is_new_topic => low,
        TopicStart::Earliest => low,
        TopicStart::Latest => high,
        TopicStart::At(moment) => {
            offset_at(consumer, &stream.topic, partition, *moment, timeout)?.unwrap_or(high)
        }
    })
}

type Consuming = BaseConsumer<Context>;
/// Messages that are being checked; done when they are on their way to the log.
type Checking = tokio::task::JoinHandle<Result<Applying, End>>;
/// Messages that are being logged and applied.
type Applying = tokio::task::JoinHandle<Result<(), End>>;
/// By partition: the offset after the last message that was gathered, or after what the log has.
pub(crate) type Gathered = BTreeMap<i32, i64>;

/// Batches under way: one is checked while others are logged and applied, in the order of their messages.
#[derive(Default)]
struct UnderWay {
    checking: Option<Checking>,
    applying: VecDeque<Applying>,
}

struct Reading {
    definition: Source,
    source: String,
    stream: KafkaStream,
    settings: KafkaSettings,
    ingest: Arc<Ingest>,
    clock: SharedClock,
    notes: Arc<Notes>,
    stop: Arc<AtomicBool>,
    runtime: Handle,
}

impl Reading {
    fn run(self) {
        let mut wait = RETRY_FIRST;
        while !self.stop.load(SeqCst) {
            let begun = Instant::now();
            match self.read() {
                Ok(()) | Err(End::Stopped) => return,
                Err(End::Failed(why)) => self.notes.fail(why),
            }
            if begun.elapsed() > RETRY_LONGEST {
                wait = RETRY_FIRST;
            }
            let until = Instant::now() + wait;
            while !self.stop.load(SeqCst) && Instant::now() < until {
                self.runtime.block_on(async { tokio::time::sleep(RETRY_FIRST).await });
            }
            wait = (wait * 2).min(RETRY_LONGEST);
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.settings.socket_timeout_ms))
    }

    fn consumer(&self) -> Result<Consuming, End> {
        let mut config = client_config(&self.source, &self.stream, &self.settings).map_err(End::Failed)?;
        // Never joined: partitions are assigned by hand, positions are in the log.
        config.set("group.id", format!("springhouse-{}", self.source));
        let context = Context {
            notes: self.notes.clone(),
            clock: self.clock.clone(),
            topic: self.stream.topic.clone(),
            isolation: self.stream.isolation,
        };
        Ok(config.create_with_context(context)?)
    }

    fn partitions(&self, consumer: &Consuming) -> Result<Vec<i32>, End> {
        partitions_of(consumer, &self.stream.topic, self.timeout())
    }

    /// Where to begin in a partition. Messages that should still be there and are not are counted as lost.
    fn begin(&self, consumer: &Consuming, partition: i32, is_first_look: bool) -> Result<i64, End> {
        let topic = &self.stream.topic;
        let (low, high) = consumer.fetch_watermarks(topic, partition, self.timeout())?;
        let known = self.ingest.topic_positions(&self.source, topic).get(&partition).copied();
        let next = match known {
            Some(position) if position.next > high => {
                return Err(End::Failed(ends_too_early(partition, high, position.next)));
            }
            Some(position) if self.is_another_topic(consumer, partition, position)? => {
                return Err(End::Failed(another_topic(partition, position.next)));
            }
            Some(position) if position.next < low => {
                self.lost(partition, position.next, low);
                low
            }
            Some(position) => position.next,
            None => {
                let (stream, marks) = (&self.stream, (low, high));
                let first = first_offset(consumer, stream, partition, is_first_look, marks, self.timeout())?;
                if first < low {
                    self.lost(partition, first, low);
                }
                first.max(low)
            }
        };
        self.notes.begin(partition, next, known.map(|p| p.newest).filter(|newest| *newest > Micros::MIN));
        Ok(next)
    }

    fn is_another_topic(
        &self,
        consumer: &Consuming,
        partition: i32,
        position: PartitionPosition,
    ) -> Result<bool, End> {
        let topic = &self.stream.topic;
        match newer_before(consumer, topic, partition, position, self.timeout())? {
            Some(newer) => is_delivered(consumer, topic, partition, position, newer),
            None => Ok(false),
        }
    }

    /// Messages from one offset to another that are gone.
    fn lost(&self, partition: i32, from: i64, to: i64) {
        self.notes.lost(partition, (to - from) as u64);
    }

    /// The partitions with where to begin, as the client takes them.
    fn places(
        &self,
        consumer: &Consuming,
        partitions: &[i32],
        gathered: &mut Gathered,
    ) -> Result<TopicPartitionList, End> {
        let known = self.ingest.topic_positions(&self.source, &self.stream.topic);
        let mut list = TopicPartitionList::new();
        let mut first_looks = Vec::new();
        for partition in partitions {
            let next = self.begin(consumer, *partition, known.is_empty())?;
            if !known.contains_key(partition) {
                first_looks.push(OffsetRange {
                    partition: *partition,
                    from: next,
                    to: next,
                    newest: Micros::MIN,
                });
            }
            list.add_partition_offset(&self.stream.topic, *partition, Offset::Offset(next))?;
            // What was deleted unread counts as gathered with the first message behind it.
            gathered.insert(*partition, known.get(partition).map_or(next, |position| position.next));
        }
        // Where the first look found them is where they begin, also after a stop before the first message.
        if !first_looks.is_empty() {
            let empty = Messages {
                source: self.source.clone(),
                topic: self.stream.topic.clone(),
                ranges: first_looks,
                messages: Vec::new(),
            };
            let applying = self.runtime.block_on(self.check(empty, None))?;
            self.finish(applying)?;
        }
        Ok(list)
    }

    fn read(&self) -> Result<(), End> {
        let decoder = Decoder::of(&self.definition, &self.settings).map_err(End::Failed)?.map(Arc::new);
        let consumer = self.consumer()?;
        let mut partitions = self.partitions(&consumer)?;
        let mut gathered = Gathered::new();
        consumer.assign(&self.places(&consumer, &partitions, &mut gathered)?)?;
        self.notes.works();
        let mut under_way = UnderWay::default();
        let mut ended = self.consume(&consumer, &decoder, &mut partitions, &mut gathered, &mut under_way);
        // What is under way is finished first: the next reading begins behind it.
        if let Some(checking) = under_way.checking {
            match self.finish(checking) {
                Ok(applying) => under_way.applying.push_back(applying),
                Err(error) => ended = ended.and(Err(error)),
            }
        }
        for applying in under_way.applying {
            ended = ended.and(self.finish(applying));
        }
        ended
    }

    fn finish<T>(&self, task: tokio::task::JoinHandle<Result<T, End>>) -> Result<T, End> {
        self.runtime.block_on(task).map_err(|error| End::Failed(error.to_string()))?
    }

    /// Takes note of what is finished.
    fn look_after(&self, under_way: &mut UnderWay) -> Result<(), End> {
        if let Some(checked) = under_way.checking.take_if(|checking| checking.is_finished()) {
            under_way.applying.push_back(self.finish(checked)?);
        }
        while under_way.applying.front().is_some_and(|applying| applying.is_finished()) {
            if let Some(applied) = under_way.applying.pop_front() {
                self.finish(applied)?;
            }
        }
        Ok(())
    }

    /// Waits for a moment, or until one of them is finished.
    fn wait_for(&self, under_way: &mut UnderWay) {
        const MOMENT: Duration = Duration::from_millis(5);
        self.runtime.block_on(async {
            // The result is taken by who looks after them.
            let progress = async {
                while !under_way.checking.as_ref().is_some_and(|checking| checking.is_finished())
                    && !under_way.applying.front().is_some_and(|applying| applying.is_finished())
                {
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
            };
            drop(tokio::time::timeout(MOMENT, progress).await);
        });
    }

    fn consume(
        &self,
        consumer: &Consuming,
        decoder: &Option<Arc<Decoder>>,
        partitions: &mut Vec<i32>,
        gathered: &mut Gathered,
        under_way: &mut UnderWay,
    ) -> Result<(), End> {
        let mut looked_at = Instant::now();
        let mut batch = Batch::default();
        let mut brake = Brake::default();
        let delay = Duration::from_millis(self.settings.batch_delay_ms);
        loop {
            if self.stop.load(SeqCst) {
                return Ok(());
            }
            self.look_after(under_way)?;
            let is_full = batch.is_full(&self.settings);
            let waited = batch.begun.map(|begun| begun.elapsed());
            let has_room = under_way.checking.is_none() && under_way.applying.len() < APPLYING_MAX;
            if has_room && (is_full || waited.is_some_and(|waited| waited >= delay)) {
                let messages = std::mem::take(&mut batch).finish(&self.source, &self.stream.topic);
                under_way.checking = Some(self.runtime.spawn(self.check(messages, decoder.clone())));
                continue;
            }
            // A store or log that is slow slows fetching down; what was fetched waits here and in the client, both bounded.
            let is_paused = brake.hold(consumer, is_full)?;
            if is_full && !is_paused {
                self.wait_for(under_way);
                continue;
            }
            if looked_at.elapsed() >= Duration::from_millis(self.settings.metadata_interval_ms) {
                looked_at = Instant::now();
                let new: Vec<i32> =
                    self.partitions(consumer)?.into_iter().filter(|p| !partitions.contains(p)).collect();
                if !new.is_empty() {
                    tracing::info!(
                        source = self.source,
                        topic = self.stream.topic,
                        ?new,
                        "the topic has grown"
                    );
                    consumer.incremental_assign(&self.places(consumer, &new, gathered)?)?;
                    partitions.extend(new);
                }
            }
            let is_busy = under_way.checking.is_some() || !under_way.applying.is_empty();
            match consumer.poll(patience(is_busy, is_full, waited, delay)) {
                None => {}
                Some(Ok(message)) => {
                    self.notes.handed(message.partition(), message.offset() + 1);
                    batch.add(&message, &self.stream, gathered);
                }
                Some(Err(error)) => self.take_error(error)?,
            }
        }
    }

    /// Errors that pass by themselves are noted; others end the reading, and it begins again from what is in the log.
    fn take_error(&self, error: KafkaError) -> Result<(), End> {
        if !passes(&error) {
            return Err(error.into());
        }
        self.notes.fail(error.to_string());
        Ok(())
    }

    /// Gives messages to ingestion, as often as it takes until they are on their way to the log.
    fn check(
        &self,
        mut messages: Messages,
        decoder: Option<Arc<Decoder>>,
    ) -> impl Future<Output = Result<Applying, End>> + Send + 'static {
        let (ingest, notes, stop) = (self.ingest.clone(), self.notes.clone(), self.stop.clone());
        async move {
            let mut wait = RETRY_FIRST;
            if let Some(decoder) = decoder {
                while let Err(why) = decoder.decode(&mut messages.messages).await {
                    if stop.load(SeqCst) {
                        return Err(End::Stopped);
                    }
                    notes.fail(format!("nothing more is taken: {why}"));
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
            }
            let messages = Arc::new(messages);
            let applied = loop {
                match ingest.begin_messages(messages.clone()).await {
                    Ok(applied) => break applied,
                    Err(_) if stop.load(SeqCst) => return Err(End::Stopped),
                    Err(PushError { code: "shutting_down", .. }) => return Err(End::Stopped),
                    Err(error) if error.code == "invalid_request" => {
                        return Err(End::Failed(error.to_string()));
                    }
                    Err(error) => notes.fail(format!("nothing more is taken: {error}")),
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_LONGEST);
            };
            Ok(tokio::spawn(async move {
                match applied.await {
                    Ok(_) => {}
                    Err(_) if stop.load(SeqCst) => return Err(End::Stopped),
                    Err(PushError { code: "shutting_down", .. }) => return Err(End::Stopped),
                    // Reading begins again where the log ends.
                    Err(error) => return Err(End::Failed(format!("nothing more is taken: {error}"))),
                }
                let tombstones = messages.messages.iter().filter(|message| message.value.is_none()).count();
                notes.applied(&messages.ranges, messages.messages.len() as u64, tombstones as u64);
                Ok(())
            }))
        }
    }
}

/// Messages on their way.
#[derive(Default)]
pub(crate) struct Batch {
    /// When the first came.
    pub(crate) begun: Option<Instant>,
    messages: Vec<Message>,
    bytes: usize,
    ranges: BTreeMap<i32, OffsetRange>,
}

impl Batch {
    pub(crate) fn is_full(&self, settings: &KafkaSettings) -> bool {
        self.messages.len() >= settings.batch_messages_max || self.bytes >= settings.batch_bytes_max
    }

    pub(crate) fn add(
        &mut self,
        message: &BorrowedMessage<'_>,
        stream: &KafkaStream,
        gathered: &mut Gathered,
    ) {
        self.begun.get_or_insert_with(Instant::now);
        let (partition, offset) = (message.partition(), message.offset());
        let timestamp = message.timestamp().to_millis().filter(|millis| *millis >= 0);
        let timestamp = timestamp.map(|millis| millis.saturating_mul(1_000));
        // Offsets between two messages are of messages that are not there: compacted or aborted.
        let from = gathered.insert(partition, offset + 1).unwrap_or(offset);
        let range = self.ranges.entry(partition).or_insert(OffsetRange {
            partition,
            from,
            to: from,
            newest: Micros::MIN,
        });
        range.to = offset + 1;
        range.newest = range.newest.max(timestamp.unwrap_or(Micros::MIN));
        let key = message.key().filter(|_| stream.key.is_some()).map(Bytes::copy_from_slice);
        let value = message.payload().map(Bytes::copy_from_slice);
        let wanted = |name: &str| stream.headers.values().any(|header| header == name);
        let headers = message.headers().filter(|_| !stream.headers.is_empty());
        let headers = headers.into_iter().flat_map(|headers| headers.iter());
        let headers = headers.filter(|header| wanted(header.key)).filter_map(|header| {
            header.value.map(|value| (header.key.to_owned(), Bytes::copy_from_slice(value)))
        });
        self.bytes += value.as_ref().map_or(0, Bytes::len) + key.as_ref().map_or(0, Bytes::len) + 64;
        let headers = headers.collect();
        self.messages.push(Message { partition, offset, timestamp, key, value, headers, flaw: None });
    }

    pub(crate) fn finish(self, source: &str, topic: &str) -> Messages {
        Messages {
            source: source.to_owned(),
            topic: topic.to_owned(),
            ranges: self.ranges.into_values().collect(),
            messages: self.messages,
        }
    }
}
