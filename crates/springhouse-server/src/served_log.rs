//! What was served, sampled by trace and written to the lake: what skew checks and questions about an old prediction start from.
//!
//! Personal data stays out: features that are personal or computed from what is, and keys and request fields that are, have null
//! in their place. The log never holds a request up: what does not fit is left out, and counted.

use crate::app::App;
use crate::metrics::ServedLogRows;
use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use serde_json::{Map, Value as Json};
use springhouse_api::{json_value, level_name, origin_name, status_name};
use springhouse_core::definition::{FeatureRef, ViewKind};
use springhouse_core::{Definitions, Micros, Value, ValueType};
use springhouse_node::Node;
use springhouse_serving::{FeatureAnswer, FeatureColumn, FeatureRequest, Selection};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Most rows of one file of the log.
const FILE_ROWS_MAX: usize = 50_000;
/// How often old rows are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3_600);
const DAY: Micros = 86_400_000_000;

/// One answer, to be logged.
#[derive(Debug)]
struct Served {
    trace_id: String,
    asked_and_answered: Box<(FeatureRequest, FeatureAnswer)>,
}

/// The entrance of the log.
#[derive(Debug)]
pub(crate) struct ServedLog {
    answers: Sender<Served>,
    rows: ServedLogRows,
}

impl ServedLog {
    /// Takes an answer, if there is room.
    pub(crate) fn offer(&self, trace_id: &str, asked_and_answered: Box<(FeatureRequest, FeatureAnswer)>) {
        let rows = asked_and_answered.1.row_count;
        if self.answers.try_send(Served { trace_id: trace_id.to_owned(), asked_and_answered }).is_err() {
            self.rows.left_out(rows);
        }
    }
}

/// The log's task.
pub(crate) struct Logging {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Logging {
    /// Writes what was taken, and ends.
    pub(crate) async fn end(self) {
        // The task may have ended by itself only with the runtime.
        let _ = self.stop.send(());
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the log of what was served broke off");
        }
    }
}

/// Begins to log answers, where the settings say so.
pub(crate) fn begin(app: &App) -> Option<Logging> {
    let settings = &app.settings;
    if settings.served_log_ratio <= 0.0 {
        return None;
    }
    let (answers, taken) = channel(settings.served_log_answers_max);
    let rows = app.metrics.served_log.clone();
    app.served_log.set(ServedLog { answers, rows: rows.clone() }).ok()?;
    let retention = Micros::from(settings.served_log_retention_days) * DAY;
    let writer = Writer {
        node: app.node.clone(),
        counts: rows,
        rows_max: settings.served_log_rows_max,
        retention: (retention > 0).then_some(retention),
        waiting: Vec::new(),
        personal: None,
        looked_for_old: None,
        is_failing: false,
    };
    let (stop, stopped) = oneshot::channel();
    let interval = Duration::from_millis(settings.served_log_interval_ms);
    Some(Logging { stop, task: tokio::spawn(writer.run(taken, stopped, interval)) })
}

struct Writer {
    node: Arc<Node>,
    counts: ServedLogRows,
    rows_max: usize,
    retention: Option<Micros>,
    waiting: Vec<LogRow>,
    /// What is personal in the definitions of this hash.
    personal: Option<(Arc<str>, Personal)>,
    looked_for_old: Option<Instant>,
    is_failing: bool,
}

/// One row of the log.
struct LogRow {
    served_at: Micros,
    trace_id: String,
    service: Option<String>,
    definition: Arc<str>,
    row: i32,
    level: &'static str,
    entities: String,
    request: String,
    features: String,
    statuses: String,
    origins: String,
    positions: String,
}

impl Writer {
    async fn run(
        mut self,
        mut taken: Receiver<Served>,
        mut stopped: oneshot::Receiver<()>,
        interval: Duration,
    ) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                Some(served) = taken.recv() => {
                    self.take(&served);
                    // A write that failed waits for its turn: trying it with every answer would help nobody.
                    if self.waiting.len() >= FILE_ROWS_MAX && !self.is_failing {
                        self.write().await;
                    }
                }
                _ = ticks.tick() => {
                    self.write().await;
                    self.expire().await;
                }
            }
        }
        while let Ok(served) = taken.try_recv() {
            self.take(&served);
        }
        self.write().await;
        self.counts.left_out(self.waiting.len());
    }

    fn take(&mut self, served: &Served) {
        let (request, answer) = &*served.asked_and_answered;
        let room = self.rows_max - self.waiting.len();
        let rows = if answer.row_count <= room { self.rows(served, request, answer) } else { None };
        match rows {
            Some(rows) => self.waiting.extend(rows),
            None => self.counts.left_out(answer.row_count),
        }
    }

    /// None when the definitions have changed since: what was personal in the answer is not known any more.
    fn rows(
        &mut self,
        served: &Served,
        request: &FeatureRequest,
        answer: &FeatureAnswer,
    ) -> Option<Vec<LogRow>> {
        let signature = self.node.serving().signature(&request.selection).ok()?;
        let personal = self.personal_of(&answer.head.definition_hash)?;
        let types: BTreeMap<&str, &ValueType> = (signature.keys.iter().map(|(name, of)| (name.as_str(), of)))
            .chain(signature.fields.iter().map(|(name, of, _)| (name.as_str(), of)))
            .collect();
        let given = |columns: &BTreeMap<String, Vec<Value>>, row: usize| {
            let value = |(name, values): (&String, &Vec<Value>)| {
                let value = values.get(if values.len() == 1 { 0 } else { row });
                let is_personal = personal.names.contains(name);
                let value = match (value, types.get(name.as_str())) {
                    (Some(value), Some(of)) if !is_personal => json_value(value, of),
                    _ => Json::Null,
                };
                (name.clone(), value)
            };
            Json::Object(columns.iter().map(value).collect()).to_string()
        };
        let is_personal = |column: &FeatureColumn<'_>| {
            personal.has(&answer.head.views[column.head.view].name, &column.head.name)
        };
        let columns: Vec<(FeatureColumn<'_>, bool)> =
            answer.columns().map(|column| (column, is_personal(&column))).collect();
        let words = |of: &dyn Fn(&FeatureColumn<'_>) -> &'static str| {
            let word =
                |(column, _): &(FeatureColumn<'_>, bool)| (column.head.name.clone(), of(column).into());
            Json::Object(columns.iter().map(word).collect()).to_string()
        };
        let positions: Map<String, Json> =
            answer.positions().map(|(view, cut)| (view.to_owned(), cut.into())).collect();
        let positions = Json::Object(positions).to_string();
        let service = match &request.selection {
            Selection::Service(service) => Some(service.clone()),
            Selection::Features(_) => None,
        };
        let row = |row: usize| {
            let value = |(column, is_personal): &(FeatureColumn<'_>, bool)| {
                let value = if *is_personal {
                    Json::Null
                } else {
                    json_value(&column.values[row], &column.head.value_type)
                };
                (column.head.name.clone(), value)
            };
            LogRow {
                served_at: answer.at,
                trace_id: served.trace_id.clone(),
                service: service.clone(),
                definition: answer.head.definition_hash.clone(),
                row: i32::try_from(row).unwrap_or(i32::MAX),
                level: level_name(answer.level),
                entities: given(&request.entities, row),
                request: given(&request.request, row),
                features: Json::Object(columns.iter().map(value).collect()).to_string(),
                statuses: words(&|column| status_name(column.statuses[row])),
                origins: words(&|column| origin_name(column.origins[row])),
                positions: positions.clone(),
            }
        };
        Some((0..answer.row_count).map(row).collect())
    }

    fn personal_of(&mut self, hash: &Arc<str>) -> Option<&Personal> {
        if self.personal.as_ref().is_none_or(|(of, _)| of != hash) {
            let definitions = self.node.definitions();
            // Read after the definitions: when it is the one asked for, so are they.
            if self.node.definition_hash() != *hash {
                return None;
            }
            self.personal = Some((hash.clone(), Personal::of(&definitions)));
        }
        self.personal.as_ref().map(|(_, personal)| personal)
    }

    async fn write(&mut self) {
        while !self.waiting.is_empty() {
            let count = self.waiting.len().min(FILE_ROWS_MAX);
            let written = match batch(&self.waiting[..count]) {
                Ok(rows) => self.node.lake().append_served(rows).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            self.is_failing = written.is_err();
            if let Err(error) = written {
                tracing::warn!(error, "what was served could not be logged; it is tried again");
                return;
            }
            self.waiting.drain(..count);
            self.counts.written(count);
        }
    }

    async fn expire(&mut self) {
        let Some(retention) = self.retention else { return };
        if self.looked_for_old.is_some_and(|at| at.elapsed() < EXPIRY_INTERVAL) {
            return;
        }
        self.looked_for_old = Some(Instant::now());
        let before = self.node.ingest().read_now() - retention;
        match self.node.lake().expire_served(before).await {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "deleted old files of the log of what was served"),
            Err(error) => tracing::warn!(%error, "old files of the log of what was served stay"),
        }
    }
}

fn batch(rows: &[LogRow]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let text = |of: fn(&LogRow) -> &str| -> ArrayRef {
        Arc::new(rows.iter().map(|row| Some(of(row))).collect::<StringArray>())
    };
    let served_at = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.served_at));
    RecordBatch::try_from_iter([
        ("served_at", Arc::new(served_at.with_timezone("UTC")) as ArrayRef),
        ("trace_id", text(|row| &row.trace_id)),
        ("service", Arc::new(rows.iter().map(|row| row.service.as_deref()).collect::<StringArray>())),
        ("definition", text(|row| &row.definition)),
        ("row", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.row)))),
        ("level", text(|row| row.level)),
        ("entities", text(|row| &row.entities)),
        ("request", text(|row| &row.request)),
        ("features", text(|row| &row.features)),
        ("statuses", text(|row| &row.statuses)),
        ("origins", text(|row| &row.origins)),
        ("positions", text(|row| &row.positions)),
    ])
}

/// What must not be logged.
#[derive(Debug, Default)]
struct Personal {
    features: BTreeSet<FeatureRef>,
    /// Entity keys and request fields.
    names: BTreeSet<String>,
}

impl Personal {
    fn of(definitions: &Definitions) -> Self {
        let mut personal = Self::default();
        for view in definitions.feature_views.values() {
            let features: Vec<&str> = match &view.kind {
                ViewKind::Latest(all) => all.iter().filter(|f| f.pii).map(|f| f.name.as_str()).collect(),
                ViewKind::Windows(all) => all.iter().filter(|f| f.pii).map(|f| f.name.as_str()).collect(),
            };
            let of_view = |feature: &str| FeatureRef { view: view.name.clone(), feature: feature.to_owned() };
            personal.features.extend(features.into_iter().map(of_view));
            let (Some(source), Some(entity)) =
                (definitions.sources.get(&view.source), definitions.entities.get(&view.entity))
            else {
                continue;
            };
            for ((key, _), column) in entity.keys.iter().zip(&view.key_columns) {
                if source.columns.iter().any(|c| c.name == *column && c.pii) {
                    personal.names.insert(key.clone());
                }
            }
        }
        let fields = definitions.request_views.values().flat_map(|view| &view.fields);
        personal.names.extend(fields.filter(|field| field.pii).map(|field| field.name.clone()));
        // Request views may read each other, in any order of names.
        loop {
            let before = personal.features.len();
            for view in definitions.request_views.values() {
                let reads_personal = view.fields.iter().any(|field| personal.names.contains(&field.name))
                    || view.inputs.iter().any(|(_, input)| personal.features.contains(input));
                if reads_personal {
                    let of_view =
                        |name: &String| FeatureRef { view: view.name.clone(), feature: name.clone() };
                    personal.features.extend(view.features.iter().map(|feature| of_view(&feature.name)));
                }
            }
            if personal.features.len() == before {
                return personal;
            }
        }
    }

    /// Whether it has a feature of the view, by the name that it has in an answer.
    fn has(&self, view: &str, name: &str) -> bool {
        let feature = name.strip_prefix(view).and_then(|rest| rest.strip_prefix(':')).unwrap_or(name);
        self.features.contains(&FeatureRef { view: view.to_owned(), feature: feature.to_owned() })
    }
}
