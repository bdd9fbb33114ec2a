//! Training sets: labels in, the same labels with what serving would have answered at their moments out.
//!
//! Labels' keys and moments are put aside by partition of the entity; each source is scanned once per entity, its rows put
//! aside the same way (to disk over the budget); the kernel answers partition by partition; the answers are put aside by
//! chunk of the output and written in label order. Of latest views only keys and times are scanned at first: the columns
//! are read when it is known which rows labels see, one after the other from the files to the output where they can be.

pub(crate) mod again;
mod assemble;
mod by_column;
mod cache;
mod column_file;
mod dense;
pub(crate) mod gather;
pub(crate) mod join;
mod label_keys;
mod label_query;
mod label_table;
mod labels;
mod latest;
mod manifest;
mod output;
mod output_file;
mod plain_column;
pub(crate) mod plan;
mod recompute;
mod report;
pub(crate) mod request;
mod resumable;
mod sample;
mod selection;
mod sink;
mod stages;

pub use again::{LabelInputs, Manifest, SourceInputs};
pub use report::{
    LabelReport, MadeReport, PassReport, SourceReport, StageReport, TrainingReport, ViewReport, ViewWay,
};
pub use request::{
    Availability, CollectedBatches, Cut, LabelRows, LabelSource, OutputFormat, Sample, SampleSize,
    TrainingOutput, TrainingRequest, TrainingSink,
};
pub use stages::StageTime;

use crate::error::{LakeError, Result};
use crate::lake::Lake;
use crate::materialize::TableCursor;
use crate::progress::{Progress, Silent, tell};
use crate::source::keys::KeySet;
use crate::source::scan::{Origin, ScanCounts, ScanFile, ScanSpec, SourceFiles, SourceRows};
use crate::source::selected::{Pass, PassKind};
use crate::spill::{Budget, Partitions, SpillFile, partition_count};
use arrow::datatypes::SchemaRef;
use assemble::{Assembler, FeatureCounts, output_field, request_fields};
use by_column::{ByColumn, has_columns_apart};
use cache::{CachedEvents, Making, Reading, Wanted, cached_events};
use futures::future::join_all;
use gather::{EventGroup, Extras, Keep, Payload, group_views};
use join::{Answers, answer_bytes, join_inputs, label_schema};
use label_keys::{EncodedLabels, LabelFacts, LabelSet, read_labels};
use label_table::changed;
use labels::Labels;
use latest::{LABEL_BYTES, LabelIndex, Meeting, Ranges, SeenRows, find_rows, find_rows_put_aside, read_rows};
use parking_lot::Mutex;
use plan::{ServicePlan, ViewJob, is_latest};
use springhouse_core::definition::{Entity, KnownAt, ViewKind};
use springhouse_core::time::{EVENT_TIME_MAX, EVENT_TIME_MIN};
use springhouse_core::{Micros, ValueType};
use springhouse_kernel::{StampParts, Window};
use stages::Stages;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What was made.
#[derive(Clone, Debug)]
pub struct TrainingOutcome {
    /// The manifest; it was written beside the output where that is a file (`OUT.manifest.json`).
    pub manifest: serde_json::Value,
    /// Rows written.
    pub rows: u64,
    /// How it was made, and what it took.
    pub report: TrainingReport,
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
const ROWS_SHARE: u64 = 32;
/// The answers of latest views are made for at most as many labels at a time as fit one part in this many.
const ROUND_SHARE: u64 = 4;
/// Fewer are taken at a time while no more than this share of the answers is read before its labels are taken, and put aside.
const EARLY_WORTH_IT: f64 = 0.25;

/// A source, opened once, with what was read of it.
struct OpenSource {
    files: SourceFiles,
    counts: ScanCounts,
    cut: Cut,
    cursor: Option<TableCursor>,
}

/// Everything that a training set needs, opened; nothing was read but footers (and what tells the types of CSV).
struct Prepared<'a> {
    plan: ServicePlan<'a>,
    labels: Labels,
    entities: Vec<&'a Entity>,
    /// Per entity: where the labels have its keys.
    key_columns: Vec<Vec<usize>>,
    /// Per request view and field: where the labels have it.
    fields: Vec<Vec<Option<usize>>>,
    schema: SchemaRef,
    sources: BTreeMap<String, OpenSource>,
    groups: Vec<(Payload, Vec<usize>)>,
}

/// What a training set would be; see [`Lake::training_shape`].
#[derive(Clone, Debug)]
pub struct TrainingShape {
    /// Its columns: the labels', then the features'.
    pub schema: SchemaRef,
    /// The files and table versions that it is made from, by source; part of the manifest's `sources`.
    pub inputs: serde_json::Value,
    /// The label columns with the key of the entity that most views are of: what to divide labels by.
    pub keys: Vec<String>,
}

/// What was made, before it is told.
struct Made {
    rows: u64,
    counts: Vec<FeatureCounts>,
    facts: LabelFacts,
    partitions: usize,
    spilled_bytes: u64,
}

impl Lake {
    /// Makes a training set: the labels with one column per feature asked for, in label order.
    ///
    /// # Errors
    /// `unknown_service`, `unknown_feature`, `labels_*`, `naive_timestamp`, `source_*`, `file_*`, `csv_bad_cell`, `delta_*`,
    /// `spill_failed`; `training_in_use` when another process makes it in parts.
    pub async fn training_set(
        &self,
        request: &TrainingRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<TrainingOutcome> {
        if let Some(rows) = request.part_rows {
            return self.training_set_in_parts(request, rows, progress).await;
        }
        let started = Instant::now();
        let prepared = self.prepare(request).await?;
        let stages = Stages::default();
        let made = blocking(|| {
            std::thread::scope(|scope| {
                // For the manifest; told there if it can't be had.
                scope.spawn(|| prepared.labels.hash().map(drop));
                self.make(&stages, request, progress, &prepared)
            })
        })?;
        let manifest = manifest::manifest(request, &prepared, &made)?;
        if let Some(out) = request.out.path() {
            manifest::write(out, &manifest)?;
        }
        let facts = Some((made.facts.first, made.facts.last));
        let mut report = prepared.report(request, Some(made.rows), facts, made.partitions)?;
        for source in &mut report.sources {
            let open = &prepared.sources[&source.source];
            source.passes = open.files.passes().iter().map(|pass| PassReport::new(pass, false)).collect();
        }
        report.made = Some(MadeReport {
            rows: made.rows,
            seconds: started.elapsed().as_secs_f64(),
            spilled_bytes: made.spilled_bytes,
            stages: stages.into_list().iter().map(StageReport::from).collect(),
        });
        Ok(TrainingOutcome { manifest, rows: made.rows, report })
    }

    /// How a training set would be made. Of the labels no more is read than their range of moments, and that only where
    /// their statistics don't tell it.
    ///
    /// # Errors
    /// As [`Self::training_set`].
    pub async fn training_plan(&self, request: &TrainingRequest<'_>) -> Result<TrainingReport> {
        let prepared = self.prepare(request).await?;
        blocking(|| {
            let labels = &prepared.labels;
            let facts = match labels.moments_known() {
                Some((first, last)) => LabelFacts { rows: labels.row_count().unwrap_or(0), first, last },
                None => read_labels(labels, &mut [], None, 1, &Silent)?,
            };
            let rows = labels.row_count().or(Some(facts.rows));
            let range = Some((facts.first, facts.last));
            let mut report =
                prepared.report(request, rows, range, prepared.partitions(request.memory_budget))?;
            for source in &mut report.sources {
                source.passes = self.planned_passes(&prepared, request, &source.source, &facts)?;
            }
            Ok(report)
        })
    }

    /// What a training set would look like and what it would be made from: everything that can be said, and refused, before
    /// a row is read.
    ///
    /// # Errors
    /// Those of [`Self::training_set`] that do not depend on rows.
    pub async fn training_shape(&self, request: &TrainingRequest<'_>) -> Result<TrainingShape> {
        let prepared = self.prepare(request).await?;
        // The entity with most views: their rows are found by its key.
        let entity = prepared.entities.iter().max_by_key(|entity| {
            prepared.plan.views.iter().filter(|job| job.entity.name == entity.name).count()
        });
        let keys =
            entity.map_or_else(Vec::new, |entity| entity.keys.iter().map(|(key, _)| key.clone()).collect());
        Ok(TrainingShape { inputs: manifest::inputs(&prepared.sources), schema: prepared.schema, keys })
    }

    async fn prepare<'a>(&self, request: &TrainingRequest<'a>) -> Result<Prepared<'a>> {
        let plan = ServicePlan::new(request.definitions, &request.services, &request.features)?;
        let labels = Labels::open(self, request, &declared_label_types(&plan)).await?;
        if let Some(inputs) = &request.label_inputs {
            inputs.check(&labels.name, blocking(|| labels.hash())?)?;
        }
        let entities = entities(&plan);
        let mut key_columns = Vec::with_capacity(entities.len());
        for entity in &entities {
            key_columns.push(label_keys(&labels, entity)?);
        }
        let fields =
            plan.requests.iter().map(|job| request_fields(&labels, job.view)).collect::<Result<Vec<_>>>()?;
        let features = plan.outputs.iter().map(|o| output_field(&o.name, &o.value_type)).collect();
        let schema = output::output_schema(&labels, features)?;
        // A view of each source.
        let jobs: BTreeMap<&str, &ViewJob<'_>> =
            plan.views.iter().map(|job| (job.source.name.as_str(), job)).collect();
        let opened = join_all(jobs.iter().map(|(name, job)| {
            let mut cut = request.cuts.get(*name).cloned().unwrap_or_default();
            let inputs = request.inputs.get(*name);
            cut.stream_end = cut.stream_end.or(inputs.and_then(|inputs| inputs.stream_end));
            self.open_source(job, cut, inputs)
        }));
        let mut sources: BTreeMap<String, OpenSource> = BTreeMap::new();
        for (name, opened) in jobs.keys().zip(opened.await) {
            sources.insert((*name).to_owned(), opened?);
        }
        let groups = group_views(&plan.views, payload_of);
        Ok(Prepared { plan, labels, entities, key_columns, fields, schema, sources, groups })
    }

    async fn open_source(
        &self,
        job: &ViewJob<'_>,
        cut: Cut,
        inputs: Option<&SourceInputs>,
    ) -> Result<OpenSource> {
        let files = match inputs {
            Some(inputs) => SourceFiles::open_again(self, job.source, inputs).await?,
            None => SourceFiles::open(self, job.source, true).await?,
        };
        let cursor = cut.table_cursor.as_deref().map(TableCursor::parse).transpose()?.flatten();
        Ok(OpenSource { files, counts: ScanCounts::default(), cut, cursor })
    }

    fn make(
        &self,
        stages: &Stages,
        request: &TrainingRequest<'_>,
        progress: &dyn Progress,
        prepared: &Prepared<'_>,
    ) -> Result<Made> {
        let Prepared { plan, labels, schema, sources, .. } = prepared;
        let threads = threads();
        let directory = out_directory(request.out.path());
        let file = Arc::new(SpillFile::new(&directory));
        // The rest is for what is at work.
        let budget = Arc::new(Budget::new(request.memory_budget / 16 * 9));

        // Keys and moments.
        let partitions = prepared.partitions(request.memory_budget);
        let mut sets: Vec<LabelSet<'_>> = prepared
            .entities
            .iter()
            .zip(&prepared.key_columns)
            .map(|(entity, key_columns)| {
                let partitions = Partitions::new(partitions, label_schema(), &budget, &file);
                LabelSet::new(entity, key_columns, partitions, labels.row_guess())
            })
            .collect();
        let chunk_rows = output::chunk_rows(schema);
        let by_column =
            |rows: u64| by_column::output_of(&request.out, plan, rows, threads, request.memory_budget);
        let encoded = match labels.row_count().and_then(by_column) {
            Some(path) => EncodedLabels::new(path, schema, labels, chunk_rows, request.memory_budget)?,
            None => None,
        };
        let facts = stages.time("read labels", "", || {
            read_labels(labels, &mut sets, encoded.as_ref(), threads, progress)
        })?;

        // Events meet labels.
        let mut answers: Vec<Answers> =
            plan.views.iter().map(|job| Answers::new(job, facts.rows, chunk_rows, &budget, &file)).collect();
        let row_bytes = plan.views.iter().filter(|job| is_latest(&job.view)).map(answer_bytes).sum();
        let ranges = Ranges::new(facts.rows, chunk_rows, row_bytes, request.memory_budget / ROUND_SHARE);
        let mut seen: Vec<(SeenRows, &OpenSource)> = Vec::new();
        for (payload, views) in &prepared.groups {
            let payload = *payload;
            let jobs: Vec<&ViewJob<'_>> = views.iter().map(|v| &plan.views[*v]).collect();
            let source = &sources[&jobs[0].source.name];
            // Whether rows of latest views can meet the labels while they are scanned.
            let meets = meets(&jobs, payload, facts.rows, request.memory_budget);
            let in_order = meets && self.reads_in_order(source, &jobs);
            let extras = extras(&jobs, payload, meets, in_order, request.availability);
            let group = EventGroup::new(&jobs, views.clone(), payload, extras)?;
            let set = sets.iter().find(|s| s.entity.name == group.entity.name);
            let set = set.ok_or_else(|| LakeError::internal("labels were not read for an entity"))?;
            let spec = source.spec(request, &group, &jobs, &facts, Some(&set.keys), in_order);
            let total = source.files.rows_estimate();
            let before = source.counts.rows_read.load(Ordering::Relaxed);
            let name = &source.files.source.name;
            let scanned = |done: u64| tell(progress, "reading sources", done.saturating_sub(before), total);
            let cached = match self.event_cache_bytes() > 0 {
                false => None,
                true => stages.time("cache events", name, || {
                    let is_as_it_is = !request.inputs.contains_key(name);
                    let making =
                        Making { budget: &budget, file: &file, threads, is_as_it_is, report: &scanned };
                    self.cached_events(request, &group, &jobs, source, Some(&making))
                })?,
            };
            let is_wanted = |number: usize, file: &ScanFile| source.is_read(number, file, cached.as_ref());
            let admits = |rows: &SourceRows, row: usize| source.admits(rows, row);
            let keep = Keep { visible_by: facts.last, admits: source.cursor.is_some().then_some(&admits) };
            let wanted = Wanted {
                present: &set.present,
                buckets: &set.buckets,
                event_times: spec.event_times.clone(),
            };
            let reading = Reading { wanted: &wanted, counts: &source.counts, threads, report: &scanned };
            // What is not cached.
            let gather = |events: &Partitions,
                          meeting: Option<&Meeting<'_>>,
                          report: &(dyn Fn(u64) -> Result<()> + Sync)| {
                if let Some(cached) = &cached
                    && (0..source.files.files.len()).all(|number| cached.covers(number))
                {
                    return Ok(());
                }
                group.gather(
                    &source.files,
                    &spec,
                    threads,
                    Some(&set.present),
                    &is_wanted,
                    keep,
                    &source.counts,
                    report,
                    events,
                    meeting,
                )
            };
            let aside = (&budget, &file);
            if meets {
                if set.index.get().is_none() {
                    let index = stages.time("order labels", &set.entity.name, || {
                        LabelIndex::new(&set.partitions, threads)
                    })?;
                    budget.add(index.bytes());
                    // Nobody else sets it: groups come one after the other.
                    let _ = set.index.set(index);
                    if !prepared.puts_aside(set.entity, facts.rows, request.memory_budget) {
                        drop(set.partitions.drain()?);
                    }
                }
                let index = set.index.get().ok_or_else(|| LakeError::internal("labels have no order"))?;
                // With one file its rows are in the order of their references.
                let seq = extras.seq || (source.files.files.len() > 1 && !in_order);
                let parts = StampParts { known_at: extras.known_at, seq };
                let meeting = stages.time("scan rows", name, || Meeting::new(index, parts, threads))?;
                let meeting_bytes = meeting.bytes();
                budget.add(meeting_bytes);
                // What waits is taken up before it has a reason to be spilled.
                let full = request.memory_budget / ROWS_SHARE;
                let waiting = Arc::new(Budget::new(u64::MAX / 2));
                let schema = Arc::clone(group.schema());
                let events = Partitions::new(set.partitions.count(), schema, &waiting, &file);
                stages.time("scan rows", name, || {
                    if let Some(cached) = &cached {
                        cached.meet(&source.files, &reading, &group, &meeting)?;
                    }
                    gather(&events, Some(&meeting), &|done| {
                        if events.bytes() > full {
                            meeting.take_up(&group, &source.files, &events, 1)?;
                        }
                        scanned(done)
                    })?;
                    meeting.take_up(&group, &source.files, &events, threads)
                })?;
                drop(events);
                let found = stages.time("find rows", name, || {
                    find_rows(&plan.views, &group, &source.files, meeting, ranges, aside, threads)
                });
                budget.subtract(meeting_bytes);
                seen.extend(found?.into_iter().map(|rows| (rows, source)));
            } else {
                let schema = Arc::clone(group.schema());
                let events = Partitions::new(set.partitions.count(), schema, &budget, &file);
                stages.time("gather events", name, || {
                    if let Some(cached) = &cached {
                        cached.gather(&source.files, &reading, &events)?;
                    }
                    gather(&events, None, &scanned)
                })?;
                match payload {
                    Payload::Inputs => stages.time("answer labels", name, || {
                        join_inputs(&plan.views, &group, &set.partitions, &events, &answers, threads)
                    })?,
                    Payload::RowReference => {
                        let found = stages.time("find rows", name, || {
                            find_rows_put_aside(
                                &plan.views,
                                &group,
                                &source.files,
                                &set.partitions,
                                &events,
                                ranges,
                                aside,
                                threads,
                            )
                        })?;
                        seen.extend(found.into_iter().map(|rows| (rows, source)));
                    }
                }
            }
        }
        budget.subtract(sets.iter().filter_map(|set| set.index.get()).map(LabelIndex::bytes).sum());
        drop(sets);

        let made = |counts: Vec<FeatureCounts>| Made {
            rows: facts.rows,
            counts,
            facts,
            partitions,
            spilled_bytes: file.size(),
        };
        // Before the output has its name.
        let check = || {
            sources.values().try_for_each(|source| source.files.check_unchanged())?;
            labels.table.check_unchanged(self, &labels.name)
        };
        let of_views: Vec<(&SeenRows, &SourceFiles)> =
            seen.iter().map(|(rows, source)| (rows, &source.files)).collect();
        if let Some(path) = by_column(facts.rows) {
            let by_column = ByColumn {
                plan,
                labels,
                encoded: encoded.as_ref(),
                schema,
                label_rows: facts.rows,
                chunk_rows,
                threads,
                memory_budget: request.memory_budget,
                stages,
                report: &|done, total| tell(progress, "writing columns", done, total),
            };
            return Ok(made(by_column.write(path, &of_views, &check)?));
        }

        let chunk_count = facts.rows.div_ceil(chunk_rows) as usize;
        let per_round = ranges_per_round(&seen, ranges, threads);
        for (rows, _) in &seen {
            answers[rows.view].hold_dense(&plan.views[rows.view], facts.rows, &budget);
        }

        // Label order again.
        let assembler = Assembler {
            plan,
            labels,
            answers: &answers,
            fields: &prepared.fields,
            counts: Mutex::new(vec![FeatureCounts::default(); plan.outputs.len()]),
        };
        let features_total = seen.iter().map(|(_, source)| source.files.rows_estimate()).sum();
        let read = AtomicU64::new(0);
        let begin = |round: usize| -> Result<()> {
            for (rows, source) in &seen {
                let job = &plan.views[rows.view];
                stages.time("read rows", &job.view.name, || {
                    read_rows(
                        job,
                        &source.files,
                        rows,
                        round * per_round..((round + 1) * per_round).min(ranges.count),
                        &answers[rows.view],
                        threads,
                        &|more| {
                            let done = read.fetch_add(more, Ordering::Relaxed) + more;
                            tell(progress, "reading features", done.min(features_total), features_total)
                        },
                    )
                })?;
            }
            Ok(())
        };
        let end = |round: usize| -> Result<()> {
            let is_last = (round + 1) * per_round >= ranges.count;
            if is_last { check() } else { Ok(()) }
        };
        let chunks = (ranges.rows / chunk_rows) as usize * per_round;
        let columns_after = has_columns_apart(plan).then_some(labels.schema.fields().len());
        let rounds = output::Rounds { chunks, begin: &begin, end: &end, stages, columns_after };
        let written = output::write(
            &request.out,
            schema,
            &output::LabelChunks::new(output::LabelColumns::new(labels, facts.rows, chunk_rows), &assembler),
            chunk_count,
            &rounds,
            threads,
            &|done| tell(progress, "writing", done, facts.rows),
        )?;
        if written != facts.rows {
            return Err(changed(&labels.name));
        }
        Ok(made(assembler.counts.into_inner()))
    }
}

impl Lake {
    /// What is cached of a source's events; nothing of a history that is cut, which is another one.
    fn cached_events(
        &self,
        request: &TrainingRequest<'_>,
        group: &EventGroup<'_>,
        jobs: &[&ViewJob<'_>],
        source: &OpenSource,
        making: Option<&Making<'_>>,
    ) -> Result<Option<CachedEvents>> {
        match source.cursor.is_some() || source.cut.stream_end.is_some() {
            true => Ok(None),
            false => cached_events(self, request.definitions, group, jobs, &source.files, making),
        }
    }

    /// True where all that is read of a source are files of ours, and where their rows are says what comes after what, for these views
    /// of one entity. (What is cached has no place that says it.)
    fn reads_in_order(&self, source: &OpenSource, jobs: &[&ViewJob<'_>]) -> bool {
        let view = &jobs[0].view;
        // A key that is made by SQL may be the same in rows with different columns.
        let is_stored = |key: &&String| !view.derived.iter().any(|derived| derived.name == **key);
        let keys: Vec<String> = view.key_columns.iter().filter(is_stored).cloned().collect();
        self.event_cache_bytes() == 0 && source.files.are_in_order(&keys, &source.offsets())
    }

    /// What would be read of a source.
    fn planned_passes(
        &self,
        prepared: &Prepared<'_>,
        request: &TrainingRequest<'_>,
        source: &str,
        facts: &LabelFacts,
    ) -> Result<Vec<PassReport>> {
        let open = &prepared.sources[source];
        let mut passes = Vec::new();
        for (payload, views) in &prepared.groups {
            let jobs: Vec<&ViewJob<'_>> = views.iter().map(|v| &prepared.plan.views[*v]).collect();
            if jobs[0].source.name != source {
                continue;
            }
            // Of what is kept beside an event's columns, only whether offsets are changes what is read.
            let meets = meets(&jobs, *payload, facts.rows, request.memory_budget);
            let in_order = meets && self.reads_in_order(open, &jobs);
            let extras = extras(&jobs, *payload, meets, in_order, request.availability);
            let group = EventGroup::new(&jobs, views.clone(), *payload, extras)?;
            let spec = open.spec(request, &group, &jobs, facts, None, in_order);
            let cached = self.cached_events(request, &group, &jobs, open, None)?;
            if let Some(cached) = &cached {
                passes.push(PassReport::new(&cached.pass(None), true));
            }
            let is_read = |number: usize, file: &ScanFile| open.is_read(number, file, cached.as_ref());
            let selected = open.files.selected(&spec, &is_read)?;
            if cached.is_none() || selected.parts > 0 {
                let columns = spec.columns.clone();
                let pass = Pass { kind: PassKind::Events, columns, selected, rows_kept: None };
                passes.push(PassReport::new(&pass, false));
            }
            if *payload == Payload::RowReference {
                for job in jobs {
                    let columns = job.inputs()?.source_columns().to_vec();
                    let units = open.files.units_selected(&spec, &|_, file| open.wants(file))?;
                    let selected = open.files.selected_rows(&columns, &mut units.iter())?;
                    let pass = Pass { kind: PassKind::Rows, columns, selected, rows_kept: None };
                    passes.push(PassReport::new(&pass, true));
                }
            }
        }
        Ok(passes)
    }
}

impl OpenSource {
    /// Of the stream's rows.
    fn offsets(&self) -> Range<i64> {
        0..self.cut.stream_end.unwrap_or(i64::MAX)
    }

    /// What is read of it for a group of views; without offsets where rows are in order without them.
    fn spec(
        &self,
        request: &TrainingRequest<'_>,
        group: &EventGroup<'_>,
        jobs: &[&ViewJob<'_>],
        facts: &LabelFacts,
        keys: Option<&Arc<KeySet>>,
        in_order: bool,
    ) -> ScanSpec {
        // A key that is made by SQL has no statistics.
        let key = &jobs[0].view.key_columns[0];
        let is_stored = self.files.source.columns.iter().any(|column| column.name == *key)
            && !jobs[0].view.derived.iter().any(|derived| derived.name == *key);
        ScanSpec {
            keys: keys.filter(|_| is_stored).map(|keys| (key.clone(), Arc::clone(keys))),
            columns: group.source_columns(),
            event_times: event_times(jobs, facts),
            offsets: self.offsets(),
            with_offsets: !in_order,
            availability: request.availability,
            with_ids: jobs[0].source.event_id.is_some(),
        }
    }

    /// True for a file that is wanted and not cached.
    fn is_read(&self, number: usize, file: &ScanFile, cached: Option<&CachedEvents>) -> bool {
        self.wants(file) && cached.is_none_or(|cached| !cached.covers(number))
    }

    /// False for a row that came after the cut.
    fn admits(&self, rows: &SourceRows, row: usize) -> bool {
        self.files.files[rows.file].origin == Origin::Stream
            || self.cursor.as_ref().is_none_or(|cursor| cursor.admits(rows, row))
    }

    /// False for a file that came after the cut.
    fn wants(&self, file: &ScanFile) -> bool {
        self.cursor.as_ref().is_none_or(|cursor| file.origin == Origin::Stream || cursor.knows(file))
    }
}

impl Prepared<'_> {
    /// True when some events of an entity are put aside until all were seen.
    fn puts_aside(&self, entity: &Entity, label_rows: u64, memory_budget: u64) -> bool {
        self.groups.iter().any(|(payload, views)| {
            let jobs: Vec<&ViewJob<'_>> = views.iter().map(|v| &self.plan.views[*v]).collect();
            jobs[0].entity.name == entity.name && !meets(&jobs, *payload, label_rows, memory_budget)
        })
    }

    /// How many parts entities are divided into.
    fn partitions(&self, memory_budget: u64) -> usize {
        let event_guess = self.sources.values().map(|s| s.files.rows_estimate()).max().unwrap_or(0);
        partition_count((self.labels.row_guess() * 40).max(event_guess * 64), memory_budget)
    }

    /// The report without what is read of the sources.
    fn report(
        &self,
        request: &TrainingRequest<'_>,
        rows: Option<u64>,
        range: Option<(Micros, Micros)>,
        partitions: usize,
    ) -> Result<TrainingReport> {
        let view = |number: usize, job: &ViewJob<'_>| ViewReport {
            view: job.view.name.clone(),
            source: job.source.name.clone(),
            entity: job.entity.name.clone(),
            features: job.plan.features().len(),
            features_defined: request.definitions.feature_views[&job.view.name].features().len(),
            pass: self.groups.iter().position(|(_, views)| views.contains(&number)).unwrap_or(0),
            way: if is_latest(&job.view) { ViewWay::LatestRow } else { ViewWay::Aggregate },
        };
        let source = |(name, open): (&String, &OpenSource)| SourceReport {
            source: name.clone(),
            files: open.files.files.len(),
            bytes: open.files.files.iter().map(|file| file.file.size).sum(),
            rows: open.files.rows_estimate(),
            passes: Vec::new(),
        };
        Ok(TrainingReport {
            labels: LabelReport {
                name: self.labels.name.clone(),
                files: self.labels.table.files().count(),
                bytes: self.labels.table.bytes(),
                rows_stored: self.labels.table.row_count(),
                rows,
                first: range.map(|(first, _)| first),
                last: range.map(|(_, last)| last),
            },
            views: self.plan.views.iter().enumerate().map(|(number, job)| view(number, job)).collect(),
            sources: self.sources.iter().map(source).collect(),
            partitions,
            threads: threads(),
            memory_budget: request.memory_budget,
            columns: self.schema.fields().len(),
            format: request.out.format_name(),
            made: None,
        })
    }
}

fn payload_of(job: &ViewJob<'_>) -> Payload {
    // Whether a row was taken back is told by its contents.
    if is_latest(&job.view) && !job.plan.takes_back() { Payload::RowReference } else { Payload::Inputs }
}

/// Where a temporary file goes: beside the output, where there must be space anyway.
fn out_directory(out: Option<&Path>) -> PathBuf {
    match out.map(Path::parent) {
        None => std::env::temp_dir(),
        Some(Some(parent)) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
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

/// How many ranges of labels are answered, and written, at a time.
fn ranges_per_round(seen: &[(SeenRows, &OpenSource)], ranges: Ranges, threads: usize) -> usize {
    /// Fewer for each thread would leave some waiting for others.
    const RANGES_PER_THREAD: usize = 4;
    if seen.is_empty() {
        return ranges.count;
    }
    let is_worth_it = |per_round: &usize| {
        let of_view = seen.iter().map(|(rows, _)| rows.read_early(*per_round));
        let (early, all) = of_view.fold((0, 0), |sum, view| (sum.0 + view.0, sum.1 + view.1));
        early as f64 <= all as f64 * EARLY_WORTH_IT
    };
    let most = ranges.fitting.min(ranges.count);
    let few = (0..).map(|power| (RANGES_PER_THREAD * threads) << power).take_while(|few| *few < most);
    few.into_iter().find(is_worth_it).unwrap_or(most)
}

/// What of an event's stamp and identity the answers of these views depend on. `meets`: rows meet the labels while they are scanned;
/// `in_order`: where they are says what their sequence numbers would.
fn extras(
    jobs: &[&ViewJob<'_>],
    payload: Payload,
    meets: bool,
    in_order: bool,
    availability: Availability,
) -> Extras {
    let source = jobs[0].source;
    let is_known_later = source.is_stream() || source.known_at != KnownAt::Delay(0);
    let ids = source.event_id.is_some();
    Extras {
        known_at: availability == Availability::Known && is_known_later,
        seq: match payload {
            // Otherwise where a row is says it.
            Payload::RowReference => !meets || !in_order && (source.is_stream() || source.sequence.is_some()),
            Payload::Inputs => ids || jobs.iter().any(|job| job.plan.reads_sequence()),
        },
        ids,
        keys: false,
    }
}

/// Whether rows of latest views can meet the labels while they are scanned.
fn meets(jobs: &[&ViewJob<'_>], payload: Payload, label_rows: u64, memory_budget: u64) -> bool {
    payload == Payload::RowReference
        && jobs[0].source.event_id.is_none()
        && label_rows * LABEL_BYTES <= memory_budget / 2
        && label_rows <= u64::from(u32::MAX)
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
