//! Labels and events of one partition meet: the kernel answers, the answers go to the chunk of the output they belong to.

use crate::error::{LakeError, Result};
use crate::source::scan::{ScanSpec, SourceFiles, SourceRows, TakeRows, Unit, in_parallel};
use crate::spill::{Budget, Partitions, SpillFile};
use crate::training::gather::{EVENT_TIME, EventGroup, IDENTITY, KNOWN_AT, Payload, SEQ, reference_plan};
use crate::training::plan::ViewJob;
use crate::training::stages::Stages;
use arrow::array::{
    ArrayRef, AsArray, Int64Array, RecordBatch, UInt8Array, UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use hashbrown::HashMap;
use springhouse_core::{Micros, ValueStatus};
use springhouse_kernel::{
    EventColumns, LabelColumns, TrainingColumns, ViewPlan, arrow_type, status_at_age, training_values,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Answers of one view, by chunk of the output: the label's row number, a value and a status per feature. A label without
/// an answer is `missing`.
#[derive(Debug)]
pub(crate) struct Answers {
    /// By chunk.
    pub chunks: Partitions,
    /// Rows in a chunk.
    pub chunk_rows: u64,
}

impl Answers {
    pub(crate) fn new(
        job: &ViewJob<'_>,
        rows: u64,
        chunk_rows: u64,
        budget: &Arc<Budget>,
        file: &Arc<SpillFile>,
    ) -> Self {
        let count = rows.div_ceil(chunk_rows) as usize;
        Self { chunks: Partitions::new(count, answer_schema(&job.plan), budget, file), chunk_rows }
    }

    fn push(&self, rows: &[u64], columns: &TrainingColumns, statuses: Vec<Vec<ValueStatus>>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(rows.to_vec()))];
        arrays.extend(columns.values.iter().cloned());
        arrays.extend(statuses.iter().map(|of_feature| -> ArrayRef {
            Arc::new(of_feature.iter().map(|s| *s as u8).collect::<UInt8Array>())
        }));
        let chunk: Vec<u32> = rows.iter().map(|row| (row / self.chunk_rows) as u32).collect();
        if chunk.is_sorted() {
            let grouping = self.chunks.grouping(&chunk);
            return self.chunks.push_grouped(arrays, &grouping);
        }
        self.chunks.push(&arrays, &chunk)
    }

    /// Labels that have a status but no value.
    fn push_absent(&self, rows: &[u64], plan: &ViewPlan, status: ValueStatus) -> Result<()> {
        let values =
            plan.features().iter().map(|(_, t)| new_null_array(&arrow_type(t), rows.len())).collect();
        let statuses = vec![vec![status; rows.len()]; plan.features().len()];
        let columns = TrainingColumns { values, statuses: Vec::new(), event_times: None };
        self.push(rows, &columns, statuses)
    }
}

fn answer_schema(plan: &ViewPlan) -> SchemaRef {
    let mut fields = vec![Field::new("row", DataType::UInt64, false)];
    fields.extend(plan.features().iter().map(|(name, t)| Field::new(name, arrow_type(t), true)));
    fields.extend(
        plan.features().iter().map(|(name, _)| Field::new(format!("{name}?"), DataType::UInt8, false)),
    );
    Arc::new(Schema::new(fields))
}

/// The columns of a label partition.
pub(crate) fn label_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("identity", DataType::Decimal128(38, 0), false),
        Field::new("row", DataType::UInt64, false),
        Field::new("at", DataType::Int64, false),
    ]))
}

/// One partition: labels and events with entities numbered densely.
pub(crate) struct Joined {
    pub entity_count: usize,
    pub label_entities: Vec<u32>,
    pub label_rows: Vec<u64>,
    pub label_at: Vec<Micros>,
    /// Events of these entities only.
    pub events: RecordBatch,
    pub event_entities: Vec<u32>,
}

/// Loads a partition of labels and events and numbers the entities.
pub(crate) fn load_partition(labels: &Partitions, events: &Partitions, partition: usize) -> Result<Joined> {
    let labels = labels.load_one(partition)?;
    let identities = labels.column(IDENTITY).as_primitive::<Decimal128Type>();
    let mut numbers: HashMap<i128, u32, ahash::RandomState> = HashMap::default();
    let label_entities: Vec<u32> = identities
        .values()
        .iter()
        .map(|identity| {
            let next = numbers.len() as u32;
            *numbers.entry(*identity).or_insert(next)
        })
        .collect();
    let events = events.load_one(partition)?;
    let found = events.column(IDENTITY).as_primitive::<Decimal128Type>();
    let mut event_entities = Vec::with_capacity(found.len());
    let mut kept = Vec::with_capacity(found.len());
    for (row, identity) in found.values().iter().enumerate() {
        if let Some(number) = numbers.get(identity) {
            event_entities.push(*number);
            kept.push(row as u32);
        }
    }
    let events = if kept.len() == events.num_rows() {
        events
    } else {
        take_record_batch(&events, &UInt32Array::from(kept))?
    };
    Ok(Joined {
        entity_count: numbers.len(),
        label_entities,
        label_rows: labels.column(1).as_primitive::<UInt64Type>().values().to_vec(),
        label_at: labels.column(2).as_primitive::<Int64Type>().values().to_vec(),
        events,
        event_entities,
    })
}

impl Joined {
    fn int64(&self, column: usize) -> &[i64] {
        self.events.column(column).as_primitive::<Int64Type>().values()
    }

    /// The kernel's answers to the partition's labels.
    pub(crate) fn answer(
        &self,
        plan: &ViewPlan,
        group: &EventGroup<'_>,
        inputs: &[usize],
    ) -> TrainingColumns {
        let ids: Option<Vec<Option<u128>>> = group.event_id_column().map(|column| {
            let ids = self.events.column(column).as_primitive::<Decimal128Type>();
            ids.iter().map(|id| id.map(|id| id as u128)).collect()
        });
        let inputs: Vec<ArrayRef> = inputs.iter().map(|i| Arc::clone(self.events.column(*i))).collect();
        let events = EventColumns {
            entities: &self.event_entities,
            event_times: self.int64(EVENT_TIME),
            known_at: self.int64(KNOWN_AT),
            seq: self.int64(SEQ),
            event_ids: ids.as_deref(),
            inputs: &inputs,
        };
        let labels = LabelColumns { entities: &self.label_entities, at: &self.label_at };
        training_values(plan, self.entity_count, &events, &labels)
    }
}

/// Answers every label of a group whose inputs were put aside.
pub(crate) fn join_inputs(
    jobs: &[ViewJob<'_>],
    group: &EventGroup<'_>,
    labels: &Partitions,
    events: &Partitions,
    answers: &[Answers],
    threads: usize,
) -> Result<()> {
    in_parallel(threads, labels.count(), &|partition| {
        if labels.rows(partition) == 0 {
            return Ok(());
        }
        let joined = load_partition(labels, events, partition)?;
        for (position, view) in group.views.iter().enumerate() {
            let job = &jobs[*view];
            let mut columns = joined.answer(&job.plan, group, group.inputs_of(position));
            let statuses = with_staleness(job, &mut columns, &joined.label_at);
            answers[*view].push(&joined.label_rows, &columns, statuses)?;
        }
        Ok(())
    })
}

/// The statuses with the soft TTL applied: a latest value older than it is stale (a window's age is that of its source,
/// which a training set does not have).
fn with_staleness(job: &ViewJob<'_>, columns: &mut TrainingColumns, at: &[Micros]) -> Vec<Vec<ValueStatus>> {
    let mut statuses = std::mem::take(&mut columns.statuses);
    let (soft, hard) = (job.view.soft_ttl, job.view.hard_ttl);
    if let (Some(_), Some(times)) = (soft, &columns.event_times) {
        for of_feature in &mut statuses {
            for ((status, time), at) in of_feature.iter_mut().zip(times).zip(at) {
                *status = status_at_age(*status, time.map(|time| at.saturating_sub(time)), soft, hard);
            }
        }
    }
    statuses
}

/// Answers every label of a group of latest views in two steps: first which row each label sees, from keys and times alone;
/// then only those rows are read, and the kernel answers each label from its row.
#[expect(clippy::too_many_arguments, reason = "the pieces of one job, all borrowed")]
pub(crate) fn join_references(
    stages: &Stages,
    jobs: &[ViewJob<'_>],
    group: &EventGroup<'_>,
    files: &SourceFiles,
    spec: &ScanSpec,
    labels: &Partitions,
    events: &Partitions,
    answers: &[Answers],
    aside: (&Arc<Budget>, &Arc<SpillFile>),
    threads: usize,
    report: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<()> {
    debug_assert_eq!(group.payload, Payload::RowReference);
    let units = files.units();
    let index = UnitIndex::new(&units, files.files.len());
    let plans = group.views.iter().map(|view| reference_plan(&jobs[*view])).collect::<Result<Vec<_>>>()?;
    let winners: Vec<Partitions> =
        group.views.iter().map(|_| Partitions::new(units.len(), winner_schema(), aside.0, aside.1)).collect();
    let column = group.payload_column();
    let source = &files.source.name;
    stages.time("find rows", source, || {
        in_parallel(threads, labels.count(), &|partition| {
            if labels.rows(partition) == 0 {
                return Ok(());
            }
            let joined = load_partition(labels, events, partition)?;
            for ((view, plan), winners) in group.views.iter().zip(&plans).zip(&winners) {
                let found = joined.answer(plan, group, &[column]);
                let references = found.values[0].as_primitive::<Int64Type>();
                let (mut kept, mut unit) = (Vec::new(), Vec::new());
                let mut expired = Vec::new();
                for (label, status) in found.statuses[0].iter().enumerate() {
                    match status {
                        ValueStatus::Missing => {}
                        ValueStatus::Expired => expired.push(joined.label_rows[label]),
                        _ => {
                            kept.push(label as u32);
                            unit.push(index.unit_of(references.value(label)));
                        }
                    }
                }
                if !expired.is_empty() {
                    answers[*view].push_absent(&expired, &jobs[*view].plan, ValueStatus::Expired)?;
                }
                let kept = UInt32Array::from(kept);
                let columns: [ArrayRef; 3] = [
                    Arc::clone(&found.values[0]),
                    Arc::new(UInt64Array::from(joined.label_rows.clone())),
                    Arc::new(Int64Array::from(joined.label_at.clone())),
                ];
                let columns = columns.iter().map(|c| take(c, &kept, None)).collect::<Result<Vec<_>, _>>()?;
                winners.push(&columns, &unit)?;
            }
            Ok(())
        })
    })?;
    let read = AtomicU64::new(0);
    for (view, winners) in group.views.iter().zip(&winners) {
        let job = &jobs[*view];
        let spec =
            ScanSpec { columns: job.projection.source_columns().to_vec(), with_ids: false, ..spec.clone() };
        let wanted: Vec<(usize, Unit)> = units
            .iter()
            .enumerate()
            .filter(|(number, _)| winners.rows(*number) > 0)
            .map(|(number, unit)| (number, unit.clone()))
            .collect();
        stages.time("read rows", &job.view.name, || {
            files.fetch(&spec, threads, &wanted, &|number| {
                let mut fetch = Fetch::new(job, &winners.load_one(number)?, &answers[*view]);
                let read = &read;
                let take: TakeRows<'_> = Box::new(move |rows| {
                    report(read.fetch_add(rows.row.len() as u64, Ordering::Relaxed) + rows.row.len() as u64)?;
                    fetch.take(&rows)
                });
                Ok(take)
            })
        })?;
    }
    Ok(())
}

fn winner_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("reference", DataType::Int64, true),
        Field::new("row", DataType::UInt64, false),
        Field::new("at", DataType::Int64, false),
    ]))
}

/// From a row reference to the unit that holds the row.
struct UnitIndex {
    /// Per file: (first row, unit number), ascending.
    files: Vec<Vec<(u64, u32)>>,
}

impl UnitIndex {
    fn new(units: &[Unit], file_count: usize) -> Self {
        let mut files = vec![Vec::new(); file_count];
        for (number, unit) in units.iter().enumerate() {
            files[unit.file].push((unit.first_row, number as u32));
        }
        Self { files }
    }

    fn unit_of(&self, reference: i64) -> u32 {
        let (file, row) = ((reference >> 32) as usize, (reference & 0xffff_ffff) as u64);
        let units = &self.files[file];
        units[units.partition_point(|(first, _)| *first <= row) - 1].1
    }
}

/// The rows of one unit that labels see.
struct Fetch<'a> {
    job: &'a ViewJob<'a>,
    answers: &'a Answers,
    /// (row in the file, label row, moment), ascending.
    wanted: Vec<(u32, u64, Micros)>,
    next: usize,
}

impl<'a> Fetch<'a> {
    fn new(job: &'a ViewJob<'a>, winners: &RecordBatch, answers: &'a Answers) -> Self {
        let references = winners.column(0).as_primitive::<Int64Type>().values();
        let rows = winners.column(1).as_primitive::<UInt64Type>().values();
        let at = winners.column(2).as_primitive::<Int64Type>().values();
        let mut wanted: Vec<(u32, u64, Micros)> = references
            .iter()
            .zip(rows.iter().zip(at))
            .map(|(reference, (row, at))| ((*reference & 0xffff_ffff) as u32, *row, *at))
            .collect();
        wanted.sort_unstable();
        Self { job, answers, wanted, next: 0 }
    }

    fn take(&mut self, rows: &SourceRows) -> Result<()> {
        let mut taken = Vec::new();
        let first = self.next;
        let mut position = 0;
        while let Some((row, ..)) = self.wanted.get(self.next) {
            while position < rows.row.len() && rows.row[position] < *row {
                position += 1;
            }
            if position == rows.row.len() {
                break;
            }
            if rows.row[position] != *row {
                return Err(LakeError::internal(
                    "a row that a label sees was not there when it was read again",
                ));
            }
            taken.push(position as u32);
            self.next += 1;
        }
        if taken.is_empty() {
            return Ok(());
        }
        let wanted = &self.wanted[first..self.next];
        let taken_rows = UInt32Array::from(taken.clone());
        let batch = take_record_batch(&rows.batch, &taken_rows)?;
        let projected = self.job.projection.project(&batch);
        if projected.rows.len() != taken.len() {
            return Err(LakeError::internal("a filter kept a row once and left it out another time"));
        }
        // Each label meets its one row: the kernel says what it shows.
        let entities: Vec<u32> = (0..taken.len() as u32).collect();
        let stamp = |values: &[i64]| -> Vec<i64> { taken.iter().map(|i| values[*i as usize]).collect() };
        let (event_times, known_at, seq) = (stamp(&rows.event_time), stamp(&rows.known_at), stamp(&rows.seq));
        let at: Vec<Micros> = wanted.iter().map(|w| w.2).collect();
        let events = EventColumns {
            entities: &entities,
            event_times: &event_times,
            known_at: &known_at,
            seq: &seq,
            event_ids: None,
            inputs: &projected.inputs,
        };
        let labels = LabelColumns { entities: &entities, at: &at };
        let mut columns = training_values(&self.job.plan, taken.len(), &events, &labels);
        let statuses = with_staleness(self.job, &mut columns, &at);
        let label_rows: Vec<u64> = wanted.iter().map(|w| w.1).collect();
        self.answers.push(&label_rows, &columns, statuses)
    }
}
