//! Training sets: labels in, the same labels with what serving would have answered at their moments out.
//!
//! Labels' keys and moments are put aside by partition of the entity; each source is scanned once per entity, its rows put
//! aside the same way (to disk over the budget); the kernel answers partition by partition; the answers are put aside by
//! chunk of the output and written in label order. Of latest views only keys and times are scanned at first: the columns
//! are read when it is known which rows labels see.

mod assemble;
pub(crate) mod gather;
pub(crate) mod join;
mod labels;
mod latest;
mod manifest;
mod output;
pub(crate) mod plan;
mod recompute;
mod stages;

pub use stages::StageTime;

use crate::error::{LakeError, Result};
use crate::identity::{Presence, for_each_identity, mix};
use crate::lake::Lake;
use crate::materialize::TableCursor;
use crate::progress::{Progress, tell};
use crate::source::scan::{Origin, ScanCounts, ScanFile, ScanSpec, SourceFiles, SourceRows};
use crate::spill::{Budget, Partitions, SpillFile, partition_count, partition_of};
use arrow::array::{ArrayRef, Decimal128Array, Int64Array, UInt64Array};
use assemble::{Assembler, FeatureCounts, output_field, request_fields};
use gather::{EventGroup, Extras, Payload, group_views};
use join::{Answers, join_inputs, label_schema};
use labels::Labels;
use latest::{LABEL_BYTES, LabelIndex, Meeting, find_rows, find_rows_put_aside, read_rows};
use parking_lot::Mutex;
use plan::{ServicePlan, ViewJob, is_latest};
use springhouse_core::definition::{Entity, KnownAt, ViewKind};
use springhouse_core::time::{EVENT_TIME_MAX, EVENT_TIME_MIN};
use springhouse_core::{Definitions, Micros, ValueType};
use springhouse_kernel::Window;
use stages::Stages;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Availability mode of a training set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// Both times count (default).
    #[default]
    Known,
    /// Only the event time counts.
    Event,
}

/// Which part of a source's history a recomputation sees.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// Stream rows with an offset below this; None = all.
    pub stream_end: Option<i64>,
    /// Table rows as of this materialisation cursor (JSON from [`crate::MaterializeOutcome::cursor`]); None = all there is.
    pub table_cursor: Option<String>,
}

/// A training set to make.
#[derive(Debug)]
pub struct TrainingRequest<'a> {
    /// The definitions applied.
    pub definitions: &'a Definitions,
    /// Their hash, for the manifest.
    pub definition_hash: String,
    /// The feature service.
    pub service: String,
    /// Label file (Parquet, CSV) or Delta table.
    pub labels: PathBuf,
    /// What the labels are called in the manifest and in errors, where a file's path would say nothing: they are a table
    /// that was written for this job alone. None = their path below the project.
    pub labels_name: Option<String>,
    /// The label table's column with the moment asked for; default `event_timestamp`, else the only timestamp column.
    pub at_column: Option<String>,
    /// The zone of label timestamps that carry none.
    pub time_zone: Option<String>,
    /// Output Parquet file.
    pub out: PathBuf,
    /// Which times count.
    pub availability: Availability,
    /// Memory budget in bytes; over it partitions are spilled to disk.
    pub memory_budget: u64,
    /// Cuts by source; sources not named see all.
    pub cuts: BTreeMap<String, Cut>,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct TrainingOutcome {
    /// The manifest that was written beside the output (`OUT.manifest.json`).
    pub manifest: serde_json::Value,
    /// Rows written.
    pub rows: u64,
    /// How long each stage took.
    pub stages: Vec<StageTime>,
}

/// How many threads a job uses.
pub(crate) fn threads() -> usize {
    /// More would only wait for the disk.
    const THREADS_MAX: usize = 16;
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS_MAX)
}

/// Runs blocking work without holding up the other tasks of a multi-threaded runtime.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Rows of latest views wait for the labels in one part in this many of the memory budget.
const ROWS_SHARE: u64 = 4;

/// Keys and moments of all labels, by partition of one entity.
struct LabelSet<'a> {
    entity: &'a Entity,
    key_columns: Vec<usize>,
    partitions: Partitions,
    present: Presence,
    /// The labels in order, made when a view of latest values first asks for it.
    index: std::cell::OnceCell<LabelIndex>,
}

/// What the first pass over the labels found.
struct LabelFacts {
    rows: u64,
    first: Micros,
    last: Micros,
}

/// A source, opened once, with what was read of it.
struct OpenSource {
    files: SourceFiles,
    counts: ScanCounts,
    cut: Cut,
    cursor: Option<TableCursor>,
}

impl Lake {
    /// Makes a training set: the labels with one column per feature of the service, in label order.
    ///
    /// # Errors
    /// `unknown_service`, `labels_*`, `naive_timestamp`, `source_*`, `file_*`, `csv_bad_cell`, `delta_*`, `spill_failed`.
    pub async fn training_set(
        &self,
        request: &TrainingRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<TrainingOutcome> {
        let plan = ServicePlan::new(request.definitions, &request.service)?;
        let service = &request.definitions.feature_services[&request.service];
        let labels = Labels::open(self, request, &declared_label_types(&plan)).await?;
        let entities = entities(&plan);
        let mut key_columns = Vec::with_capacity(entities.len());
        for entity in &entities {
            key_columns.push(label_keys(&labels, entity)?);
        }
        let fields =
            plan.requests.iter().map(|job| request_fields(&labels, job.view)).collect::<Result<Vec<_>>>()?;
        let features = plan.outputs.iter().map(|o| output_field(&o.name, &o.value_type)).collect();
        let schema = output::output_schema(&labels, features)?;
        let mut sources: BTreeMap<String, OpenSource> = BTreeMap::new();
        for job in &plan.views {
            if !sources.contains_key(&job.source.name) {
                let cut = request.cuts.get(&job.source.name).cloned().unwrap_or_default();
                sources.insert(job.source.name.clone(), self.open_source(job, cut).await?);
            }
        }
        let stages = Stages::default();
        let made = blocking(|| {
            self.make(
                &stages,
                request,
                progress,
                &plan,
                service,
                &labels,
                entities,
                key_columns,
                fields,
                &schema,
                &sources,
            )
        })?;
        let (rows, counts) = made;
        let manifest = manifest::manifest(request, &plan, &labels, &sources, rows, &counts)?;
        manifest::write(&request.out, &manifest)?;
        Ok(TrainingOutcome { manifest, rows, stages: stages.into_list() })
    }

    async fn open_source(&self, job: &ViewJob<'_>, cut: Cut) -> Result<OpenSource> {
        let files = SourceFiles::open(self, job.source, true).await?;
        let cursor = cut.table_cursor.as_deref().map(TableCursor::parse).transpose()?.flatten();
        Ok(OpenSource { files, counts: ScanCounts::default(), cut, cursor })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "everything that was opened, handed over to the blocking part"
    )]
    fn make(
        &self,
        stages: &Stages,
        request: &TrainingRequest<'_>,
        progress: &dyn Progress,
        plan: &ServicePlan<'_>,
        service: &springhouse_core::definition::FeatureService,
        labels: &Labels,
        entities: Vec<&Entity>,
        key_columns: Vec<Vec<usize>>,
        fields: Vec<Vec<Option<usize>>>,
        schema: &arrow::datatypes::SchemaRef,
        sources: &BTreeMap<String, OpenSource>,
    ) -> Result<(u64, Vec<FeatureCounts>)> {
        let threads = threads();
        let directory = out_directory(&request.out);
        let file = Arc::new(SpillFile::new(&directory));
        // The rest is for what is at work.
        let budget = Arc::new(Budget::new(request.memory_budget / 4 * 3));

        // Keys and moments.
        let row_guess = labels.row_count().unwrap_or(labels.bytes() / 20 + 1);
        let event_guess = sources.values().map(|s| s.files.rows_estimate()).max().unwrap_or(0);
        let partitions = partition_count((row_guess * 40).max(event_guess * 64), request.memory_budget);
        let mut sets: Vec<LabelSet<'_>> = entities
            .into_iter()
            .zip(key_columns)
            .map(|(entity, key_columns)| LabelSet {
                entity,
                key_columns,
                partitions: Partitions::new(partitions, label_schema(), &budget, &file),
                present: Presence::with_capacity(row_guess),
                index: std::cell::OnceCell::new(),
            })
            .collect();
        let facts = stages.time("read labels", "", || read_labels(labels, &mut sets, progress))?;

        // Events meet labels.
        let chunk_rows = output::chunk_rows(schema);
        let answers: Vec<Answers> =
            plan.views.iter().map(|job| Answers::new(job, facts.rows, chunk_rows, &budget, &file)).collect();
        let payload_of =
            |job: &ViewJob<'_>| if is_latest(job.view) { Payload::RowReference } else { Payload::Inputs };
        for (payload, views) in group_views(&plan.views, payload_of) {
            let jobs: Vec<&ViewJob<'_>> = views.iter().map(|v| &plan.views[*v]).collect();
            let source = &sources[&jobs[0].source.name];
            // Whether rows of latest views can meet the labels while they are scanned.
            let meets = payload == Payload::RowReference
                && jobs[0].source.event_id.is_none()
                && facts.rows * LABEL_BYTES <= request.memory_budget / 2;
            let extras = extras(&jobs, payload, meets, request.availability);
            let group = EventGroup::new(&jobs, views, payload, extras)?;
            let set = sets.iter().find(|s| s.entity.name == group.entity.name);
            let set = set.ok_or_else(|| LakeError::internal("labels were not read for an entity"))?;
            let spec = ScanSpec {
                columns: group.source_columns(),
                event_times: event_times(&jobs, &facts),
                offsets: 0..source.cut.stream_end.unwrap_or(i64::MAX),
                availability: request.availability,
                with_ids: jobs[0].source.event_id.is_some(),
            };
            let total = source.files.rows_estimate();
            let before = source.counts.rows_read.load(Ordering::Relaxed);
            let is_wanted = |_: usize, file: &ScanFile| {
                source
                    .cursor
                    .as_ref()
                    .is_none_or(|cursor| file.origin == Origin::Stream || cursor.knows(file))
            };
            let is_kept = |rows: &SourceRows, row: usize| {
                let visible_at = rows.event_time[row].max(rows.known_at[row]);
                visible_at <= facts.last
                    && (source.files.files[rows.file].origin == Origin::Stream
                        || source.cursor.as_ref().is_none_or(|cursor| cursor.admits(rows, row)))
            };
            let scanned = |done: u64| tell(progress, "reading sources", done - before, total);
            let name = &source.files.source.name;
            let units = source.files.units();
            let file_count = source.files.files.len();
            let mut winners = None;
            if meets {
                if set.index.get().is_none() {
                    let index = stages.time("order labels", &set.entity.name, || {
                        LabelIndex::new(&set.partitions, threads)
                    })?;
                    // Nobody else sets it: groups come one after the other.
                    let _ = set.index.set(index);
                }
                let index = set.index.get().ok_or_else(|| LakeError::internal("labels have no order"))?;
                let meeting = Meeting::new(index);
                let schema = Arc::clone(group.schema());
                let events = Partitions::new(set.partitions.count(), schema, &budget, &file);
                let full = request.memory_budget / ROWS_SHARE;
                stages.time("scan rows", name, || {
                    group.gather(
                        &source.files,
                        &spec,
                        threads,
                        Some(&set.present),
                        &is_wanted,
                        &is_kept,
                        &source.counts,
                        &|done| {
                            if events.bytes() > full {
                                meeting.take_up(&group, &source.files, &events, 1)?;
                            }
                            scanned(done)
                        },
                        &events,
                    )?;
                    meeting.take_up(&group, &source.files, &events, threads)
                })?;
                drop(events);
                let aside = (&budget, &file);
                winners = Some(stages.time("find rows", name, || {
                    find_rows(&plan.views, &group, &units, file_count, meeting, &answers, aside, threads)
                })?);
            } else {
                let schema = Arc::clone(group.schema());
                let events = Partitions::new(set.partitions.count(), schema, &budget, &file);
                stages.time("gather events", name, || {
                    group.gather(
                        &source.files,
                        &spec,
                        threads,
                        Some(&set.present),
                        &is_wanted,
                        &is_kept,
                        &source.counts,
                        &scanned,
                        &events,
                    )
                })?;
                match payload {
                    Payload::Inputs => stages.time("answer labels", name, || {
                        join_inputs(&plan.views, &group, &set.partitions, &events, &answers, threads)
                    })?,
                    Payload::RowReference => {
                        let aside = (&budget, &file);
                        winners = Some(stages.time("find rows", name, || {
                            find_rows_put_aside(
                                &plan.views,
                                &group,
                                &units,
                                file_count,
                                &set.partitions,
                                &events,
                                &answers,
                                aside,
                                threads,
                            )
                        })?);
                    }
                }
            }
            let read = AtomicU64::new(0);
            for (view, winners) in group.views.iter().zip(winners.iter().flatten()) {
                let job = &plan.views[*view];
                stages.time("read rows", &job.view.name, || {
                    read_rows(
                        job,
                        &source.files,
                        &spec,
                        &units,
                        winners,
                        &answers[*view],
                        threads,
                        &read,
                        &|done| tell(progress, "reading features", done, total),
                    )
                })?;
            }
            source.files.check_unchanged(self)?;
        }
        drop(sets);

        // Label order again.
        let assembler = Assembler {
            plan,
            service,
            labels,
            answers: &answers,
            fields,
            counts: Mutex::new(vec![FeatureCounts::default(); plan.outputs.len()]),
        };
        let chunk_count = facts.rows.div_ceil(chunk_rows) as usize;
        let written = stages.time("write", "", || {
            output::write(
                &request.out,
                schema,
                labels,
                &assembler,
                chunk_rows,
                chunk_count,
                threads,
                &|done| tell(progress, "writing", done, facts.rows),
            )
        })?;
        if written != facts.rows {
            return Err(LakeError::new(
                "labels_changed",
                format!("the labels `{}` were changed while they were being read", labels.name),
            )
            .hint("run the command again"));
        }
        if file.size() > 0 {
            tracing::debug!(bytes = file.size(), "training set spilled");
        }
        Ok((written, assembler.counts.into_inner()))
    }
}

fn out_directory(out: &std::path::Path) -> PathBuf {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The entities of the stored views, once each.
fn entities<'a>(plan: &ServicePlan<'a>) -> Vec<&'a Entity> {
    let mut entities: Vec<&Entity> = Vec::new();
    for job in &plan.views {
        if !entities.iter().any(|e| e.name == job.entity.name) {
            entities.push(job.entity);
        }
    }
    entities
}

/// Label columns whose types the definitions say.
fn declared_label_types(plan: &ServicePlan<'_>) -> BTreeMap<String, ValueType> {
    let keys = plan.views.iter().flat_map(|job| job.entity.keys.iter().cloned());
    let fields = plan.requests.iter().flat_map(|job| &job.view.fields);
    fields.map(|field| (field.name.clone(), field.value_type.clone())).chain(keys).collect()
}

fn label_keys(labels: &Labels, entity: &Entity) -> Result<Vec<usize>> {
    let mut columns = Vec::with_capacity(entity.keys.len());
    for (name, value_type) in &entity.keys {
        let column = labels.find(name).ok_or_else(|| {
            let why = format!("the key ({value_type}) of entity `{}`", entity.name);
            labels.missing("labels_missing_key", name, &why)
        })?;
        labels.check(column, value_type)?;
        columns.push(column);
    }
    Ok(columns)
}

/// The first pass over the labels: keys and moments, put aside by partition.
fn read_labels(labels: &Labels, sets: &mut [LabelSet<'_>], progress: &dyn Progress) -> Result<LabelFacts> {
    let mut columns: Vec<usize> = sets.iter().flat_map(|s| s.key_columns.iter().copied()).collect();
    columns.push(labels.at_column);
    columns.sort_unstable();
    columns.dedup();
    let position = |column: usize| columns.binary_search(&column).expect("every column read is in the list");
    let mut facts = LabelFacts { rows: 0, first: Micros::MAX, last: Micros::MIN };
    let total = labels.row_count().unwrap_or(0);
    let mut reader = labels.read(columns.clone());
    while let Some((first_row, batch)) = reader.next_batch()? {
        let at = labels.moments(batch.column(position(labels.at_column)), first_row)?;
        facts.rows += at.len() as u64;
        facts.first = facts.first.min(at.iter().copied().min().unwrap_or(Micros::MAX));
        facts.last = facts.last.max(at.iter().copied().max().unwrap_or(Micros::MIN));
        for set in &mut *sets {
            let mut keys: Vec<ArrayRef> = Vec::with_capacity(set.key_columns.len());
            for (column, (_, value_type)) in set.key_columns.iter().zip(&set.entity.keys) {
                keys.push(labels.typed(batch.column(position(*column)), *column, value_type, first_row)?);
            }
            let (mut identity, mut rows, mut moments, mut partition) = (vec![], vec![], vec![], vec![]);
            for_each_identity(&keys, &set.entity.keys, at.len(), |row, found| {
                // A label without a key is kept; its features are missing.
                let Some(found) = found else { return };
                set.present.insert(found);
                identity.push(found as i128);
                rows.push(first_row + row as u64);
                moments.push(at[row]);
                partition.push(partition_of(mix(found), set.partitions.count()));
            });
            let columns: [ArrayRef; 3] = [
                Arc::new(Decimal128Array::from(identity).with_precision_and_scale(38, 0)?),
                Arc::new(UInt64Array::from(rows)),
                Arc::new(Int64Array::from(moments)),
            ];
            set.partitions.push(&columns, &partition)?;
        }
        tell(progress, "reading labels", facts.rows, total)?;
    }
    if facts.rows == 0 {
        return Err(labels::no_rows(labels));
    }
    Ok(facts)
}

/// What of an event's stamp and identity the answers of these views depend on.
fn extras(jobs: &[&ViewJob<'_>], payload: Payload, meets: bool, availability: Availability) -> Extras {
    let source = jobs[0].source;
    let is_known_later = source.is_stream() || source.known_at != KnownAt::Delay(0);
    let ids = source.event_id.is_some();
    Extras {
        known_at: availability == Availability::Known && is_known_later,
        seq: match payload {
            // Otherwise where a row is says it.
            Payload::RowReference => !meets || source.is_stream() || source.sequence.is_some(),
            Payload::Inputs => ids || jobs.iter().any(|job| job.plan.reads_sequence()),
        },
        ids,
        keys: false,
    }
}

/// The event times that some label may see. Nothing later than the last label; for windows nothing before the longest window
/// of the first label. A latest view sees rows of any age: one beyond the TTL makes it expired instead of missing.
fn event_times(jobs: &[&ViewJob<'_>], facts: &LabelFacts) -> std::ops::RangeInclusive<Micros> {
    let mut low = EVENT_TIME_MAX;
    for job in jobs {
        match &job.view.kind {
            ViewKind::Latest(_) => low = EVENT_TIME_MIN,
            ViewKind::Windows(features) => {
                for feature in features {
                    let window = Window { length: feature.window, hop: feature.hop };
                    low = low.min(window.bounds(facts.first).low);
                }
            }
        }
    }
    low..=facts.last
}
