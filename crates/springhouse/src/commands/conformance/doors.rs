//! The doors through which a case's answers come.

use super::DoorResult;
use super::case::{
    Case, CaseAnswer, CaseAvailability, CaseEvent, CaseQuery, EVENT_TIME, ID, KNOWN_AT, SERVICE, SOURCE, VIEW,
};
use super::exact::Exact;
use super::{files, topic, workers};
use anyhow::{Context, bail, ensure};
use springhouse_core::definition::SourceKind;
use springhouse_core::{Clock, Definitions, Micros, Value, ValueStatus};
use springhouse_ingest::{PushRequest, PushRows, PushSettings};
use springhouse_lake::{Availability, Lake, OutputFormat, Silent, TrainingOutput, TrainingRequest};
use springhouse_node::{Node, NodeError, NodeOptions, NodePaths, SettableClock, open_registry};
use springhouse_online_redis::RedisSettings;
use springhouse_serving::{CallOptions, FeatureRequest, Selection};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A case's clock runs through months between an event and its redelivery; here ids are remembered for ever.
const IDEMPOTENCY_WINDOW_S: u64 = 100_000 * 86_400;
/// How often, a millisecond apart, a restarted project is opened while the tasks of the stopped node end.
const REOPEN_ATTEMPTS_MAX: usize = 5_000;

/// A way from events to answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Door {
    Training,
    Materialized,
    Pushed,
    HandedOver,
    Topic,
    Workers,
    Cached,
}

impl Door {
    pub(crate) const ALL: [Self; 7] = [
        Self::Training,
        Self::Materialized,
        Self::Pushed,
        Self::HandedOver,
        Self::Topic,
        Self::Workers,
        Self::Cached,
    ];

    pub(crate) fn by_number(number: u8) -> anyhow::Result<Self> {
        let door = Self::ALL.into_iter().find(|door| door.number() == number);
        door.with_context(|| format!("there is no door {number}; the doors are 1 to 7"))
    }

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Training => 1,
            Self::Materialized => 2,
            Self::Pushed => 3,
            Self::HandedOver => 4,
            Self::Topic => 5,
            Self::Workers => 6,
            Self::Cached => 7,
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Training => "training set",
            Self::Materialized => "history materialised, read online",
            Self::Pushed => "pushed event by event, read online",
            Self::HandedOver => "history, then stream, restart, redeliveries",
            Self::Topic => "messages of a topic, redeliveries, restarts",
            Self::Workers => "messages of a topic, several workers",
            Self::Cached => "training sets over a growing history, cached",
        }
    }
}

/// Where a case is run.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// A folder of its own.
    pub(crate) folder: PathBuf,
    /// The online store, where it is not embedded; with a key prefix of its own.
    pub(crate) redis: Option<RedisSettings>,
    /// True when workers read the topic.
    pub(crate) has_workers: bool,
}

/// Runs one case through one door.
pub(crate) async fn run(door: Door, case: &Case, place: &Place, seed: u64) -> anyhow::Result<DoorResult> {
    std::fs::create_dir_all(&place.folder)?;
    match door {
        Door::Training => training(case, &place.folder).await,
        Door::Materialized => online(case, place, case.events.len(), None).await,
        Door::Pushed => online(case, place, 0, None).await,
        Door::HandedOver => {
            let mut dice = Dice(seed);
            let history = dice.below(case.events.len() + 1);
            online(case, place, history, Some(dice)).await
        }
        Door::Topic => topic::answers(case, place, Dice(seed)).await,
        Door::Workers => workers::answers(case, place, Dice(seed)).await,
        Door::Cached => cached(case, &place.folder, Dice(seed)).await,
    }
}

/// A small deterministic generator (splitmix64): where to hand over, restart and redeliver.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

async fn training(case: &Case, place: &Path) -> anyhow::Result<DoorResult> {
    files::write_events(case, &case.events, &place.join("events.parquet"))?;
    trained(case, place, 0).await
}

/// The events come in several files; after each a training set is made, with an event cache, which is sometimes deleted, as files
/// are written again.
async fn cached(case: &Case, place: &Path, mut dice: Dice) -> anyhow::Result<DoorResult> {
    const CACHE_BYTES: u64 = 64 << 20;
    const FILES_MAX: usize = 4;
    let files = 1 + dice.below(FILES_MAX);
    let mut rest = case.events.as_slice();
    let mut result = DoorResult::default();
    // Files that were written long ago: of new ones nothing is cached.
    let mut written_at = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for number in 0..files {
        let count = if number + 1 == files { rest.len() } else { dice.below(rest.len() + 1) };
        let (events, later) = rest.split_at(count);
        rest = later;
        let path = place.join(format!("events-{number}.parquet"));
        // What is there at first is not what stays.
        if dice.below(3) == 0 {
            files::write_events(case, &events[..events.len() / 2], &path)?;
            std::fs::File::options().append(true).open(&path)?.set_modified(written_at)?;
            trained(case, place, CACHE_BYTES).await?;
            written_at += Duration::from_millis(1);
        }
        files::write_events(case, events, &path)?;
        std::fs::File::options().append(true).open(&path)?.set_modified(written_at)?;
        result = trained(case, place, CACHE_BYTES).await?;
        if dice.below(4) == 0 {
            std::fs::remove_dir_all(place.join("lake").join("_events"))?;
        }
    }
    let again = trained(case, place, CACHE_BYTES).await?;
    result.agreed += again.agreed;
    result.differences.extend(again.differences);
    Ok(result)
}

async fn trained(case: &Case, place: &Path, cache_bytes: u64) -> anyhow::Result<DoorResult> {
    let labels = place.join("labels.parquet");
    let out = place.join("training.parquet");
    files::write_labels(case, &labels)?;
    let definitions = case.definitions(false)?;
    let lake = Lake::open(place, &place.join("lake"))?.with_event_cache(cache_bytes);
    let output = TrainingOutput::File(&out, OutputFormat::Parquet);
    let request = TrainingRequest {
        at_column: Some("at".to_owned()),
        availability: match case.availability {
            CaseAvailability::Known => Availability::Known,
            CaseAvailability::Event => Availability::Event,
        },
        ..TrainingRequest::new(&definitions, "conformance", SERVICE, labels, output, 64 << 20)
    };
    lake.training_set(&request, &Silent).await?;
    let rows = files::read_training(&definitions, &out)?;
    ensure!(rows.len() == case.queries.len(), "{} rows for {} labels", rows.len(), case.queries.len());
    let mut result = DoorResult::default();
    for ((query, expected), values) in case.queries.iter().zip(&case.expected).zip(&rows) {
        compare_values(&mut result, case, query, expected, values);
    }
    Ok(result)
}

/// The first `history` events lie in a table and are materialised, the others are pushed; every question is asked at
/// its moment, between the events. With dice: one restart and redeliveries at random places.
async fn online(
    case: &Case,
    at: &Place,
    history: usize,
    mut dice: Option<Dice>,
) -> anyhow::Result<DoorResult> {
    let place = at.folder.as_path();
    let arrivals = arrivals(case);
    let (past, live) = arrivals.split_at(history);
    let mut definitions = case.definitions(true)?;
    if past.is_empty() {
        // Nothing came before the stream.
        for source in definitions.sources.values_mut() {
            source.kind = SourceKind::Push { history: None };
        }
    } else {
        let known = |event: &CaseEvent| CaseEvent { known_at: case.known_at(event), ..event.clone() };
        let events: Vec<CaseEvent> = past.iter().map(|arrival| known(arrival.event)).collect();
        files::write_events(case, &events, &place.join("events.parquet"))?;
    }
    let mut session = Session::begin(case, at, &definitions, &arrivals).await?;
    let handed_over_at = past.last().map_or(Micros::MIN, |arrival| arrival.at);
    let questions = questions(case);

    let restart_after = dice.as_mut().map(|dice| dice.below(live.len() + questions.len() + 1));
    let mut steps = 0;
    let mut next = 0;
    let mut loaded_until = None;
    let mut result = DoorResult::default();
    for index in questions {
        let query = &case.queries[index];
        if history > 0 && loaded_until.is_none_or(|until| until < handed_over_at) {
            let until = query.at.min(handed_over_at);
            session.materialize(until).await?;
            loaded_until = Some(until);
        }
        while next < live.len() && live[next].at <= query.at {
            session.push(case, live[next].event, live[next].at).await?;
            if let Some(dice) = &mut dice
                && dice.below(5) == 0
            {
                let again = arrivals[dice.below(history + next + 1)].event;
                session.push(case, again, live[next].at).await?;
            }
            next += 1;
            steps += 1;
            if restart_after == Some(steps) {
                session.restart().await?;
            }
        }
        session.ask(case, query, &case.expected[index], &mut result).await?;
        steps += 1;
        if restart_after == Some(steps) {
            session.restart().await?;
        }
    }
    session.node()?.shutdown().await?;
    Ok(result)
}

/// The numbers of the questions in the order of their moments.
pub(super) fn questions(case: &Case) -> Vec<usize> {
    let mut questions: Vec<usize> = (0..case.queries.len()).collect();
    questions.sort_by_key(|index| case.queries[*index].at);
    questions
}

/// An event and the moment it arrives.
pub(super) struct Arrival<'a> {
    pub(super) event: &'a CaseEvent,
    pub(super) at: Micros,
}

/// The events in order of arrival; a redelivery arrives when what stands before it has arrived.
pub(super) fn arrivals(case: &Case) -> Vec<Arrival<'_>> {
    let mut events: Vec<&CaseEvent> = case.events.iter().collect();
    if case.availability == CaseAvailability::Event {
        // Only the event time counts, so an event arrives when it happens.
        events.sort_by_key(|event| (event.event_time, event.id));
    }
    let mut latest = Micros::MIN;
    events
        .into_iter()
        .map(|event| {
            latest = latest.max(case.known_at(event));
            Arrival { event, at: latest }
        })
        .collect()
}

/// An event as a row of its source.
pub(super) fn row(case: &Case, event: &CaseEvent) -> anyhow::Result<BTreeMap<String, Exact>> {
    let mut row = event.row.clone();
    for ((name, _), part) in case.keys().iter().zip(&event.key) {
        row.insert(name.clone(), part.clone());
    }
    row.insert(ID.to_owned(), Exact::int(event.id)?);
    row.insert(EVENT_TIME.to_owned(), Exact::int(event.event_time)?);
    row.insert(KNOWN_AT.to_owned(), Exact::null());
    Ok(row)
}

/// One open project.
pub(super) struct Session<'a> {
    node: Option<Arc<Node>>,
    pub(super) clock: Arc<SettableClock>,
    place: &'a Place,
}

async fn open(place: &Place, clock: &Arc<SettableClock>) -> anyhow::Result<Arc<Node>> {
    let clock: Arc<dyn Clock> = clock.clone();
    let options = NodeOptions {
        paths: NodePaths::in_project(&place.folder),
        push: PushSettings { idempotency_window_s: IDEMPOTENCY_WINDOW_S, ..PushSettings::default() },
        serving: springhouse_serving::ServingSettings {
            request_timeout_ms: 30_000,
            store_timeout_ms: 30_000,
            ..Default::default()
        },
        online: Default::default(),
        kafka: springhouse_node::KafkaSettings { workers: place.has_workers, ..Default::default() },
        redis: place.redis.clone(),
        memory_budget: 64 << 20,
        event_cache: 0,
        clock,
    };
    Ok(Node::open(options).await?)
}

impl<'a> Session<'a> {
    /// Applies the definitions and opens the project, at the first moment of the case.
    pub(super) async fn begin(
        case: &Case,
        place: &'a Place,
        definitions: &Definitions,
        arrivals: &[Arrival<'_>],
    ) -> anyhow::Result<Self> {
        let clock = Arc::new(SettableClock::default());
        let moments =
            case.queries.iter().map(|query| query.at).chain(arrivals.iter().map(|arrival| arrival.at));
        clock.set(moments.min().unwrap_or_default());
        open_registry(&NodePaths::in_project(&place.folder).registry)?
            .put(definitions, None, Default::default())
            .await
            .context("the definitions can't be applied")?;
        Ok(Self { node: Some(open(place, &clock).await?), clock, place })
    }

    pub(super) fn node(&self) -> anyhow::Result<&Node> {
        self.node.as_deref().context("the project is closed")
    }

    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        self.node()?.shutdown().await?;
        // The lock of the old node must be gone before the new one asks for it.
        self.node = None;
        for _ in 0..REOPEN_ATTEMPTS_MAX {
            match open(self.place, &self.clock).await {
                Err(error) if error.downcast_ref::<NodeError>().is_some_and(|e| e.code == "store_locked") => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                opened => {
                    self.node = Some(opened?);
                    return Ok(());
                }
            }
        }
        bail!("the stopped node keeps its lock")
    }

    async fn materialize(&self, until: Micros) -> anyhow::Result<()> {
        self.clock.set(self.clock.now().max(until));
        self.node()?.materialize(None, Some(until), &Silent).await?;
        Ok(())
    }

    async fn push(&self, case: &Case, event: &CaseEvent, at: Micros) -> anyhow::Result<()> {
        self.clock.set(self.clock.now().max(at));
        let row = row(case, event)?;
        let request = PushRequest {
            source: SOURCE.to_owned(),
            rows: PushRows::Json(serde_json::to_vec(&[row])?.into()),
            idempotency_key: None,
            row_keys: None,
            backfill: false,
        };
        let outcome = self.node()?.ingest().push(request).await?;
        if outcome.refused > 0 {
            bail!("event {} was refused: {:?}", event.id, outcome.exceptions);
        }
        Ok(())
    }

    pub(super) async fn ask(
        &self,
        case: &Case,
        query: &CaseQuery,
        expected: &CaseAnswer,
        result: &mut DoorResult,
    ) -> anyhow::Result<()> {
        self.clock.set(self.clock.now().max(query.at));
        let mut entities = BTreeMap::new();
        for ((name, value_type), part) in case.keys().iter().zip(&query.key) {
            entities.insert(name.clone(), vec![part.typed(value_type)?]);
        }
        let request = FeatureRequest {
            selection: Selection::Service(SERVICE.to_owned()),
            entities,
            request: BTreeMap::new(),
            at: Some(query.at),
            max_age: None,
            roles: Vec::new(),
            options: CallOptions::default(),
        };
        let answer = self.node()?.serving().features(&request).await?;
        let values: BTreeMap<String, Value> =
            answer.columns().map(|column| (column.head.name.clone(), column.values[0].clone())).collect();
        compare_values(result, case, query, expected, &values);
        if let Some(status) = &expected.status {
            let column = answer.column(0);
            let got = match column.statuses[0] {
                ValueStatus::Missing => "missing",
                ValueStatus::Expired => "expired",
                _ => "present",
            };
            note(result, case, query, "status", got == status, || format!("expected {status}, got {got}"));
            let (want, got) = (expected.event_time, column.event_times[0]);
            note(result, case, query, "event_time", want == got, || {
                format!("expected {want:?}, got {got:?}")
            });
        }
        Ok(())
    }
}

fn compare_values(
    result: &mut DoorResult,
    case: &Case,
    query: &CaseQuery,
    expected: &CaseAnswer,
    values: &BTreeMap<String, Value>,
) {
    for (feature, want) in &expected.values {
        let got = values.get(feature);
        let same = got.is_some_and(|got| want.is(got));
        note(result, case, query, feature, same, || format!("expected {want}, got {got:?}"));
    }
}

fn note(
    result: &mut DoorResult,
    case: &Case,
    query: &CaseQuery,
    what: &str,
    same: bool,
    difference: impl FnOnce() -> String,
) {
    if same {
        result.agreed += 1;
    } else {
        let key: Vec<String> = query.key.iter().map(ToString::to_string).collect();
        let (key, at) = (key.join(","), query.at);
        result.differences.push(format!("{} {VIEW}:{what} key={key} at={at}: {}", case.name, difference()));
    }
}
