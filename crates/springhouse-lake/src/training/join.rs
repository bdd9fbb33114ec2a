//! Labels and events of one partition meet: the kernel answers, the answers go to the chunk of the output they belong to.

use crate::error::Result;
use crate::identity::Identity;
use crate::source::scan::in_parallel;
use crate::spill::{Budget, Grouping, Partitions, SpillFile};
use crate::training::assemble::shown_status;
use crate::training::dense::{DenseAnswers, is_dense};
use crate::training::gather::{EVENT_TIME, EventGroup, IDENTITY, Payload};
use crate::training::payload_of;
use crate::training::plan::ViewJob;
use arrow::array::{
    ArrayRef, AsArray, Decimal128Array, Int64Array, RecordBatch, UInt8Array, UInt32Array, UInt64Array,
    new_null_array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef, UInt8Type, UInt64Type,
};
use hashbrown::HashMap;
use springhouse_core::{Micros, ValueStatus};
use springhouse_kernel::{
    EventColumns, LabelColumns, TrainingColumns, ViewPlan, arrow_type, status_at_age, training_values,
};
use std::sync::Arc;

/// Answers of one view, by chunk of the output: the label's row number, a value per feature, and statuses. A label without
/// an answer is `missing`.
#[derive(Debug)]
pub(crate) struct Answers {
    /// By chunk.
    pub chunks: Partitions,
    /// How many features there are. There is a status per feature, or one for all: that of the row that has their values.
    pub features: usize,
    /// Rows in a chunk.
    pub chunk_rows: u64,
    /// In place of `chunks`, where all answers of a range are in memory and each has its place.
    pub dense: Option<DenseAnswers>,
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
        let chunks = Partitions::new(count, answer_schema(job), budget, file);
        Self { chunks, features: job.plan.features().len(), chunk_rows, dense: None }
    }

    /// Holds them where the output has them, if their values have one width: what there is at a time fits in memory.
    pub(crate) fn hold_dense(&mut self, job: &ViewJob<'_>, rows: u64, budget: &Arc<Budget>) {
        let dense = dense_features(job);
        self.dense = dense.map(|features| DenseAnswers::new(features, rows, self.chunk_rows, budget));
    }

    /// The chunk of the output that a label's row is in.
    pub(crate) fn chunk_of(&self, label_row: u64) -> u32 {
        (label_row / self.chunk_rows) as u32
    }

    fn push(&self, rows: &[u64], columns: &TrainingColumns, statuses: Vec<Vec<ValueStatus>>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let arrays = arrays(rows.to_vec(), &columns.values, &statuses);
        let chunk: Vec<u32> = rows.iter().map(|row| self.chunk_of(*row)).collect();
        if chunk.is_sorted() {
            let grouping = self.chunks.grouping(&chunk);
            return self.chunks.push_grouped(arrays, &grouping);
        }
        self.chunks.push(&arrays, &chunk)
    }

    /// Values of rows with the rows' statuses, in the order of the grouping by chunk; labels from `later_from` on are answered later.
    pub(crate) fn push_rows(
        &self,
        label_rows: Vec<u64>,
        values: &[ArrayRef],
        statuses: Vec<ValueStatus>,
        grouping: &Grouping,
        later_from: u64,
    ) -> Result<()> {
        let Some(dense) = &self.dense else {
            return self.put_later(label_rows, values, statuses, grouping);
        };
        let end = self.chunk_of(later_from) as usize;
        let mut now = 0;
        for (chunk, positions) in grouping.ranges().take_while(|(chunk, _)| *chunk < end) {
            now = positions.end;
            let (rows, statuses) = (&label_rows[positions.clone()], &statuses[positions.clone()]);
            dense.put(chunk, rows, values, positions, statuses);
        }
        if now == label_rows.len() {
            return Ok(());
        }
        let values: Vec<ArrayRef> =
            values.iter().map(|values| values.slice(now, values.len() - now)).collect();
        self.put_later(label_rows[now..].to_vec(), &values, statuses[now..].to_vec(), &grouping.from(end))
    }

    /// Puts answers aside until their chunk is written.
    pub(crate) fn put_later(
        &self,
        label_rows: Vec<u64>,
        values: &[ArrayRef],
        statuses: Vec<ValueStatus>,
        chunks: &Grouping,
    ) -> Result<()> {
        self.chunks.push_grouped(arrays(label_rows, values, &[statuses]), chunks)
    }

    /// Brings what was put aside for a chunk to its places.
    pub(crate) fn recall(&self, dense: &DenseAnswers, chunk: usize) -> Result<()> {
        for batch in self.chunks.take(chunk)? {
            let rows = batch.column(0).as_primitive::<UInt64Type>().values();
            let statuses = batch.column(1 + self.features).as_primitive::<UInt8Type>().values();
            let statuses: Vec<ValueStatus> = statuses.iter().map(|status| shown_status(*status)).collect();
            dense.put(chunk, rows, &batch.columns()[1..=self.features], 0..rows.len(), &statuses);
        }
        Ok(())
    }

    /// Labels that see a row with a status and without values.
    pub(crate) fn push_absent(&self, rows: &[u64], plan: &ViewPlan, status: ValueStatus) -> Result<()> {
        if let Some(dense) = &self.dense {
            let chunk: Vec<u32> = rows.iter().map(|row| self.chunk_of(*row)).collect();
            let grouping = self.chunks.grouping(&chunk);
            let rows: Vec<u64> = grouping.order.iter().map(|position| rows[*position as usize]).collect();
            grouping.ranges().for_each(|(chunk, range)| dense.put_absent(chunk, &rows[range], status));
            return Ok(());
        }
        let values =
            plan.features().iter().map(|(_, t)| new_null_array(&arrow_type(t), rows.len())).collect();
        let statuses = vec![vec![status; rows.len()]];
        let columns = TrainingColumns { values, statuses: Vec::new(), event_times: None };
        self.push(rows, &columns, statuses)
    }
}

/// The columns of [`answer_schema`].
fn arrays(rows: Vec<u64>, values: &[ArrayRef], statuses: &[Vec<ValueStatus>]) -> Vec<ArrayRef> {
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(rows))];
    arrays.extend(values.iter().cloned());
    arrays.extend(statuses.iter().map(|of_feature| -> ArrayRef {
        Arc::new(of_feature.iter().map(|s| *s as u8).collect::<UInt8Array>())
    }));
    arrays
}

/// The types of a latest view's features, where all have values of one width.
pub(crate) fn dense_features(job: &ViewJob<'_>) -> Option<Vec<DataType>> {
    let types: Vec<DataType> = job.plan.features().iter().map(|(_, t)| arrow_type(t)).collect();
    (payload_of(job) == Payload::RowReference && types.iter().all(is_dense)).then_some(types)
}

/// Bytes of one row of a view's answers, about.
pub(crate) fn answer_bytes(job: &ViewJob<'_>) -> u64 {
    let row_number = u64::from(dense_features(job).is_none()) * 8;
    let fields = answer_schema(job);
    let widths =
        fields.fields().iter().skip(1).map(|field| crate::training::gather::width(field.data_type()));
    row_number + widths.sum::<u64>()
}

fn answer_schema(job: &ViewJob<'_>) -> SchemaRef {
    let mut fields = vec![Field::new("row", DataType::UInt64, false)];
    let features = job.plan.features();
    fields.extend(features.iter().map(|(name, t)| Field::new(name, arrow_type(t), true)));
    let statuses = match payload_of(job) {
        Payload::RowReference => 1,
        Payload::Inputs => features.len(),
    };
    fields.extend((0..statuses).map(|number| Field::new(format!("status{number}"), DataType::UInt8, false)));
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

/// Labels as these columns: identity, row and moment of each.
pub(crate) fn label_columns(
    labels: impl Iterator<Item = (i128, u64, Micros)> + Clone,
) -> Result<Vec<ArrayRef>> {
    let identities = Decimal128Array::from_iter_values(labels.clone().map(|(identity, ..)| identity));
    Ok(vec![
        Arc::new(identities.with_precision_and_scale(38, 0)?),
        Arc::new(UInt64Array::from_iter_values(labels.clone().map(|(_, row, _)| row))),
        Arc::new(Int64Array::from_iter_values(labels.map(|(.., at)| at))),
    ])
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

/// The entities of some labels, numbered densely.
pub(crate) struct EntityNumbers(HashMap<i128, u32, ahash::RandomState>);

impl EntityNumbers {
    /// In the order of their first labels; and the number of each label's.
    pub(crate) fn of<'a>(identities: impl Iterator<Item = &'a i128>) -> (Self, Vec<u32>) {
        let mut numbers: HashMap<i128, u32, ahash::RandomState> = HashMap::default();
        let number = |identity: &i128| {
            let next = numbers.len() as u32;
            *numbers.entry(*identity).or_insert(next)
        };
        let entities = identities.map(number).collect();
        (Self(numbers), entities)
    }

    /// The same in the order of their identities, which for most keys is that of the keys: what comes sorted by key then goes
    /// through memory from one end to the other. And the identities by number.
    pub(crate) fn sorted<'a>(identities: impl Iterator<Item = &'a i128>) -> (Self, Vec<u32>, Vec<Identity>) {
        let (mut numbers, mut entities) = Self::of(identities);
        let mut sorted: Vec<Identity> = numbers.0.keys().map(|identity| *identity as Identity).collect();
        sorted.sort_unstable();
        let mut renamed = vec![0; sorted.len()];
        for (new, identity) in (0..).zip(&sorted) {
            if let Some(number) = numbers.0.get_mut(&(*identity as i128)) {
                renamed[std::mem::replace(number, new) as usize] = new;
            }
        }
        entities.iter_mut().for_each(|entity| *entity = renamed[*entity as usize]);
        (numbers, entities, sorted)
    }

    /// Of events those whose entity has a label: their entities, and their rows.
    pub(crate) fn find(&self, identities: &[i128]) -> (Vec<u32>, Vec<u32>) {
        let (mut entities, mut rows) =
            (Vec::with_capacity(identities.len()), Vec::with_capacity(identities.len()));
        let mut last = None;
        for (row, identity) in identities.iter().enumerate() {
            // Cached events come entity by entity.
            let number = match last {
                Some((same, number)) if same == *identity => number,
                _ => self.0.get(identity).copied(),
            };
            last = Some((*identity, number));
            if let Some(number) = number {
                entities.push(number);
                rows.push(row as u32);
            }
        }
        (entities, rows)
    }

    /// An entity's number, if it has a label.
    pub(crate) fn get(&self, identity: i128) -> Option<u32> {
        self.0.get(&identity).copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// About how many bytes they take.
    pub(crate) fn bytes(&self) -> usize {
        40 * self.0.capacity()
    }
}

/// Loads a partition of labels, takes out that of events, and numbers the entities.
pub(crate) fn load_partition(labels: &Partitions, events: &Partitions, partition: usize) -> Result<Joined> {
    let labels = labels.load_one(partition)?;
    let identities = labels.column(IDENTITY).as_primitive::<Decimal128Type>();
    let (numbers, label_entities) = EntityNumbers::of(identities.values().iter());
    let events = events.take_one(partition)?;
    let found = events.column(IDENTITY).as_primitive::<Decimal128Type>();
    let (event_entities, kept) = numbers.find(found.values());
    let events = if kept.len() == events.num_rows() {
        events
    } else {
        take_record_batch(&events, &UInt32Array::from(kept))?
    };
    Ok(Joined {
        entity_count: numbers.count(),
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
        // Where nothing asks for sequence numbers, one is as good as another.
        let no_seq =
            if group.seq_column().is_none() { vec![0; self.event_entities.len()] } else { Vec::new() };
        let events = EventColumns {
            entities: &self.event_entities,
            event_times: self.int64(EVENT_TIME),
            known_at: self.int64(group.known_at_column().unwrap_or(EVENT_TIME)),
            seq: group.seq_column().map_or(&no_seq, |column| self.int64(column)),
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
pub(crate) fn with_staleness(
    job: &ViewJob<'_>,
    columns: &mut TrainingColumns,
    at: &[Micros],
) -> Vec<Vec<ValueStatus>> {
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
