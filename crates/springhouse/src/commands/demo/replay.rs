//! The demo's day: events pushed at their minute, questions asked at theirs.

use super::{SERVICE, local, page::Page};
use crate::client::Client;
use crate::output;
use anyhow::Context;
use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use springhouse_core::time::{HOUR, MINUTE};
use springhouse_core::{Definitions, Micros, Value, ValueStatus, ValueType};
use springhouse_ingest::{PushRequest, PushRows};
use springhouse_kernel::{arrow_type, value_at};
use springhouse_lake::Silent;
use springhouse_node::{Node, SettableClock};
use springhouse_serving::{CallOptions, FeatureAnswer, FeatureRequest, Selection};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// The minute of the hour at which the weather report comes out.
const WEATHER_MINUTE: i64 = 30;
/// Questions shown on the page; all are compared.
const SHOWN_EVERY: Micros = 4 * HOUR;

/// Rows with the minute at which they are due.
#[derive(Debug)]
struct Timed {
    rows: RecordBatch,
    /// (minute, row), ascending.
    order: Vec<(Micros, u32)>,
}

/// One day of events and questions.
#[derive(Debug)]
pub(crate) struct Replay {
    streams: Vec<(&'static str, Timed)>,
    labels: Timed,
    begins: Micros,
    ends: Micros,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) pushed: usize,
    /// The label row asked for and its answer.
    pub(crate) asked: Vec<(u32, FeatureAnswer)>,
}

impl Replay {
    pub(crate) fn open(project: &Path, begins: Micros, ends: Micros) -> anyhow::Result<Self> {
        let next = project.join("data/next");
        let timed = |file: &str, column: &str| {
            let rows = read(&next.join(file))?;
            let times = column_values(&rows, column, &ValueType::Timestamp)?;
            let mut order: Vec<(Micros, u32)> = Vec::new();
            for (row, time) in times.iter().enumerate() {
                if let Value::Timestamp(at) = time
                    && (begins..ends).contains(at)
                {
                    order.push((*at, row as u32));
                }
            }
            order.sort_unstable();
            anyhow::Ok(Timed { rows, order })
        };
        Ok(Self {
            streams: vec![
                ("departed", timed("departed.parquet", "departed_at")?),
                ("arrived", timed("arrived.parquet", "arrived_at")?),
            ],
            labels: timed("labels.parquet", "event_timestamp")?,
            begins,
            ends,
        })
    }

    pub(crate) async fn run(&self, node: &Node, clock: &SettableClock, page: &Page) -> anyhow::Result<Told> {
        let mut told = Told::default();
        let mut positions = vec![0; self.streams.len()];
        let mut question = 0;
        let mut shown = self.begins;
        let weather = vec!["origin_weather".to_owned()];
        for minute in (self.begins..self.ends).step_by(MINUTE as usize) {
            clock.set(minute);
            if (minute / MINUTE) % 60 == WEATHER_MINUTE {
                node.materialize(Some(&weather), Some(minute), &Silent).await?;
            }
            for ((source, timed), position) in self.streams.iter().zip(&mut positions) {
                told.pushed += push_due(node, source, timed, position, minute).await?;
            }
            while self.labels.order.get(question).is_some_and(|(at, _)| *at < minute + MINUTE) {
                let (at, row) = self.labels.order[question];
                clock.set(at);
                let answer = node.serving().features(&self.request(node, row, at)?).await?;
                if at >= shown {
                    page.text(&self.line(at, row, &answer)?);
                    shown = at + SHOWN_EVERY;
                }
                told.asked.push((row, answer));
                question += 1;
            }
        }
        clock.set(self.ends);
        Ok(told)
    }

    /// The request for one label row: entity keys and request fields by name.
    fn request(&self, node: &Node, row: u32, at: Micros) -> anyhow::Result<FeatureRequest> {
        let selection = Selection::Service(SERVICE.to_owned());
        let signature = node.serving().signature(&selection)?;
        let cell = |name: &str, value_type: &ValueType| {
            let values = column_values(&self.labels.rows.slice(row as usize, 1), name, value_type)?;
            anyhow::Ok((name.to_owned(), values))
        };
        let keys = signature.keys.iter().map(|(name, value_type)| cell(name, value_type));
        let fields = signature.fields.iter().map(|(name, value_type, _)| cell(name, value_type));
        Ok(FeatureRequest {
            selection,
            entities: keys.collect::<anyhow::Result<_>>()?,
            request: fields.collect::<anyhow::Result<_>>()?,
            at: Some(at),
            max_age: None,
            roles: Vec::new(),
            options: CallOptions::default(),
        })
    }

    fn line(&self, at: Micros, row: u32, answer: &FeatureAnswer) -> anyhow::Result<String> {
        let text = |name: &str| {
            let values = column_values(&self.labels.rows.slice(row as usize, 1), name, &ValueType::String)?;
            anyhow::Ok(match &values[0] {
                Value::String(text) => text.to_string(),
                _ => "?".to_owned(),
            })
        };
        let feature = |name: &str| {
            answer.named(name).map_or_else(|| "?".to_owned(), |column| output::value(&column.values[0]))
        };
        Ok(format!(
            "{} | {} {} {:<6} | departures in the last hour {:>3}, late {:>2}, mean delay 2 h {:>6} | {:?}",
            local(at),
            text("origin")?,
            text("carrier")?,
            text("tailnum")?,
            feature("origin_departures_1h"),
            feature("origin_late_1h"),
            feature("origin_delay_mean_2h"),
            answer.level
        ))
    }
}

/// Pushes what happened in the minute that ends now.
async fn push_due(
    node: &Node,
    source: &str,
    timed: &Timed,
    position: &mut usize,
    now: Micros,
) -> anyhow::Result<usize> {
    let due = timed.order[*position..].partition_point(|(at, _)| *at <= now);
    if due == 0 {
        return Ok(0);
    }
    let rows: UInt32Array = timed.order[*position..*position + due].iter().map(|(_, row)| *row).collect();
    *position += due;
    let request = PushRequest {
        source: source.to_owned(),
        rows: PushRows::Arrow(vec![take_record_batch(&timed.rows, &rows)?]),
        idempotency_key: None,
        row_keys: None,
        backfill: false,
    };
    let outcome = node.ingest().push(request).await?;
    anyhow::ensure!(outcome.refused == 0, "{source}: rows were refused: {:?}", outcome.exceptions);
    Ok(outcome.accepted)
}

/// One request over HTTP, shown as it goes over the wire.
pub(crate) async fn ask_over_http(client: &Client, page: &Page) -> anyhow::Result<()> {
    let body = serde_json::json!({
        "features": ["origin_departures:origin_departures_1h", "origin_departures:origin_delay_mean_2h", "origin_weather:temp"],
        "entities": {"origin": ["JFK", "EWR"]},
    });
    let answer = client.post("/v1/features", &body).await?;
    page.text(&format!("POST /v1/features  |  {body}"));
    for (name, column) in answer["features"].as_object().into_iter().flatten() {
        page.text(&format!(
            "  {name:<24} | {} | {} | age {} s",
            column["values"], column["status"], column["age_s"]
        ));
    }
    Ok(())
}

/// One weather value as the hours pass without a report, and after the next one.
pub(crate) async fn show_ages(node: &Node, clock: &SettableClock, page: &Page) -> anyhow::Result<()> {
    use springhouse_core::Clock;
    let views = vec!["origin_weather".to_owned()];
    let start = clock.now();
    node.materialize(Some(&views), Some(start), &Silent).await?;
    for (after, note) in
        [(0, "now"), (HOUR, "an hour later"), (2 * HOUR, "two hours later"), (3 * HOUR, "three hours later")]
    {
        clock.set(start + after);
        page.text(&weather(node, note).await?);
    }
    node.materialize(Some(&views), None, &Silent).await?;
    page.text(&weather(node, "after `materialize`").await?);
    Ok(())
}

async fn weather(node: &Node, note: &str) -> anyhow::Result<String> {
    let request = FeatureRequest {
        selection: Selection::Features(vec!["origin_weather:temp".to_owned()]),
        entities: [("origin".to_owned(), vec![Value::string("JFK")])].into(),
        request: BTreeMap::new(),
        at: None,
        max_age: None,
        roles: Vec::new(),
        options: CallOptions::default(),
    };
    let answer = node.serving().features(&request).await?;
    let column = answer.column(0);
    let age = column.ages[0].map_or_else(|| "-".to_owned(), |age| format!("{} min", age / MINUTE));
    Ok(format!(
        "{note:<20} | temperature at JFK {:>6} | {:>8} old | {:?}",
        output::value(&column.values[0]),
        age,
        column.statuses[0]
    ))
}

/// Compares what was served with the training set made afterwards, value by value.
pub(crate) fn compare(
    told: &Told,
    definitions: &Definitions,
    file: &Path,
) -> anyhow::Result<(usize, Vec<String>)> {
    let rows = read(file)?;
    let service = &definitions.feature_services[SERVICE];
    let (mut compared, mut differences) = (0, Vec::new());
    for (row, answer) in &told.asked {
        for (feature, column) in service.features.iter().zip(answer.columns()) {
            // Nobody could be asked for a view whose keys the label does not have.
            if column.statuses[0] == ValueStatus::Unavailable {
                continue;
            }
            let offline =
                column_values(&rows.slice(*row as usize, 1), &column.head.name, &column.head.value_type)?;
            compared += 1;
            if offline[0] != column.values[0] {
                differences.push(format!(
                    "{feature}, row {row}: served {:?}, training {:?}",
                    column.values[0], offline[0]
                ));
            }
        }
    }
    Ok((compared, differences))
}

fn read(path: &Path) -> anyhow::Result<RecordBatch> {
    let file = File::open(path).with_context(|| format!("{} can't be read", path.display()))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}

fn column_values(rows: &RecordBatch, name: &str, value_type: &ValueType) -> anyhow::Result<Vec<Value>> {
    let column = rows.column_by_name(name).with_context(|| format!("no column `{name}`"))?;
    let column = cast(column, &arrow_type(value_type))?;
    Ok((0..column.len()).map(|row| value_at(&column, row, value_type)).collect())
}
