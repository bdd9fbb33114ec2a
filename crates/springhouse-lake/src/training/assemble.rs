//! From answers to output columns, chunk by chunk: label order again, defaults, request-time views.

use crate::error::{LakeError, Result};
use crate::training::join::Answers;
use crate::training::labels::Labels;
use crate::training::plan::{ServicePlan, Slot};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, Scalar, UInt8Array, UInt32Array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, Schema, UInt8Type, UInt64Type};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use springhouse_core::definition::{DefaultValue, RequestView};
use springhouse_core::{Micros, Value, ValueStatus, ValueType};
use springhouse_kernel::{array_from_values, arrow_type};
use std::sync::Arc;

/// How many kinds of status there are.
pub(crate) const STATUS_COUNT: usize = ValueStatus::Denied as usize + 1;

/// What became of one feature's values.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct FeatureCounts {
    /// Rows by status.
    pub by_status: [u64; STATUS_COUNT],
    /// Rows that show null.
    pub nulls: u64,
    /// Rows that show the default instead of a value (a default that is null counts as well).
    pub defaults: u64,
}

/// Values and statuses of one feature in a chunk.
#[derive(Clone, Debug)]
struct FeatureChunk {
    values: ArrayRef,
    /// Those of the row that has the values, where no feature has its own.
    statuses: Arc<Vec<u8>>,
}

/// Assembles the chunks of a training set.
pub(crate) struct Assembler<'a> {
    pub plan: &'a ServicePlan<'a>,
    pub labels: &'a Labels,
    pub answers: &'a [Answers],
    /// Per request view and field: the label column, if there is one.
    pub fields: &'a [Vec<Option<usize>>],
    pub counts: Mutex<Vec<FeatureCounts>>,
}

impl Assembler<'_> {
    /// The feature columns of a chunk; `batch` has all label columns of its rows.
    pub(crate) fn chunk(&self, chunk: usize, first_row: u64, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let rows = batch.num_rows();
        let mut raw = Vec::with_capacity(self.plan.views.len());
        for answers in self.answers {
            raw.push(in_label_order(answers, chunk, first_row, rows)?);
        }
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.plan.outputs.len()];
        let policies = self.plan.stale_policies();
        for (number, stale_is_default) in policies.iter().enumerate() {
            let stored = if number + 1 == policies.len() { std::mem::take(&mut raw) } else { raw.clone() };
            self.with_policy(*stale_is_default, stored, batch, first_row, &mut columns)?;
        }
        let column =
            |column: Option<ArrayRef>| column.ok_or_else(|| LakeError::internal("an output has no policy"));
        columns.into_iter().map(column).collect()
    }

    /// Fills in the output columns of one way with stale values.
    fn with_policy(
        &self,
        stale_is_default: bool,
        mut stored: Vec<Vec<FeatureChunk>>,
        batch: &RecordBatch,
        first_row: u64,
        columns: &mut [Option<ArrayRef>],
    ) -> Result<()> {
        for (job, features) in self.plan.views.iter().zip(&mut stored) {
            for ((feature, default), (_, value_type)) in
                features.iter_mut().zip(&job.defaults).zip(job.plan.features())
            {
                fill(feature, default, value_type, stale_is_default)?;
            }
        }
        let mut requested: Vec<Vec<FeatureChunk>> = Vec::with_capacity(self.plan.requests.len());
        if !self.plan.requests.is_empty() {
            let at = self.labels.at(batch, first_row)?;
            for number in 0..self.plan.requests.len() {
                let mut features = self.request_view(number, &stored, &requested, batch, first_row, &at)?;
                for (chunk, feature) in features.iter_mut().zip(&self.plan.requests[number].view.features) {
                    fill(chunk, &feature.default, &feature.value_type, stale_is_default)?;
                }
                requested.push(features);
            }
        }
        let of = |slot: Slot| match slot {
            Slot::Stored { view, feature } => &stored[view][feature],
            Slot::Request { view, feature } => &requested[view][feature],
        };
        let mut added = vec![FeatureCounts::default(); self.plan.outputs.len()];
        let mut last: Option<(&FeatureChunk, [u64; STATUS_COUNT])> = None;
        for ((added, output), column) in added.iter_mut().zip(&self.plan.outputs).zip(columns) {
            if output.stale_is_default == stale_is_default {
                let chunk = of(output.slot);
                let by_status = match last {
                    Some((last, counted)) if Arc::ptr_eq(&last.statuses, &chunk.statuses) => counted,
                    _ => counted(&chunk.statuses),
                };
                last = Some((chunk, by_status));
                *added = FeatureCounts::new(by_status, chunk, stale_is_default);
                *column = Some(Arc::clone(&chunk.values));
            }
        }
        self.counts.lock().iter_mut().zip(&added).for_each(|(all, more)| all.merge(more));
        Ok(())
    }

    fn request_view(
        &self,
        number: usize,
        stored: &[Vec<FeatureChunk>],
        requested: &[Vec<FeatureChunk>],
        batch: &RecordBatch,
        first_row: u64,
        at: &[Micros],
    ) -> Result<Vec<FeatureChunk>> {
        let job = &self.plan.requests[number];
        let mut fields = Vec::new();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        for (name, slot) in &job.inputs {
            let values = match *slot {
                Slot::Stored { view, feature } => &stored[view][feature].values,
                Slot::Request { view, feature } => &requested[view][feature].values,
            };
            fields.push(Field::new(name, values.data_type().clone(), true));
            arrays.push(Arc::clone(values));
        }
        for (field, column) in job.view.fields.iter().zip(&self.fields[number]) {
            let array = match column {
                Some(column) => {
                    self.labels.typed(batch.column(*column), *column, &field.value_type, first_row)?
                }
                None => new_null_array(&arrow_type(&field.value_type), at.len()),
            };
            fields.push(Field::new(&field.name, array.data_type().clone(), true));
            arrays.push(array);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(at.len()));
        let inputs = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?;
        let mut features = Vec::with_capacity(job.view.features.len());
        for values in job.plan.evaluate(&inputs, at) {
            let statuses = (0..values.len())
                .map(
                    |row| {
                        if values.is_null(row) { ValueStatus::Null as u8 } else { ValueStatus::Fresh as u8 }
                    },
                )
                .collect();
            features.push(FeatureChunk { values, statuses: Arc::new(statuses) });
        }
        Ok(features)
    }
}

/// The same rule as online: the default wherever the value is not usable.
fn fill(
    feature: &mut FeatureChunk,
    default: &DefaultValue,
    value_type: &ValueType,
    stale_is_default: bool,
) -> Result<()> {
    let stands_in = default.value();
    if stands_in == Value::Null && !stale_is_default {
        // Null already stands where no value is usable.
        return Ok(());
    }
    if !feature.statuses.iter().any(|status| is_replaced(*status, stale_is_default)) {
        return Ok(());
    }
    let replaced: BooleanArray =
        feature.statuses.iter().map(|status| Some(is_replaced(*status, stale_is_default))).collect();
    let scalar = Scalar::new(array_from_values(value_type, [&stands_in]));
    feature.values = arrow::compute::kernels::zip::zip(&replaced, &scalar, &feature.values)?;
    Ok(())
}

fn is_replaced(status: u8, stale_is_default: bool) -> bool {
    status != ValueStatus::Fresh as u8 && (status != ValueStatus::Stale as u8 || stale_is_default)
}

impl FeatureCounts {
    /// Those of another part of the labels.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.by_status.iter_mut().zip(other.by_status).for_each(|(all, more)| *all += more);
        self.nulls += other.nulls;
        self.defaults += other.defaults;
    }

    fn new(by_status: [u64; STATUS_COUNT], feature: &FeatureChunk, stale_is_default: bool) -> Self {
        let replaced = by_status.iter().zip(0..).filter(|(_, status)| is_replaced(*status, stale_is_default));
        let defaults = replaced.map(|(count, _)| count).sum();
        Self { by_status, nulls: feature.values.null_count() as u64, defaults }
    }
}

/// How many there are of each status.
fn counted(statuses: &[u8]) -> [u64; STATUS_COUNT] {
    let (mut counts, mut left) = ([0; STATUS_COUNT], statuses.len() as u64);
    for (status, count) in counts.iter_mut().enumerate() {
        if left > 0 {
            // Looked through for one after the other: counting one byte after the other takes much longer.
            *count = statuses.iter().filter(|found| **found == status as u8).count() as u64;
            left -= *count;
        }
    }
    counts
}

/// One view's answers for the labels `first_row..first_row + rows`, in label order.
fn in_label_order(answers: &Answers, chunk: usize, first_row: u64, rows: usize) -> Result<Vec<FeatureChunk>> {
    if let Some(dense) = &answers.dense {
        answers.recall(dense, chunk)?;
        if let Some((columns, of_row)) = dense.take(chunk)? {
            return Ok(of_one_row(columns, of_row));
        }
    }
    let batches = answers.chunks.take(chunk)?;
    // Where each label's answer is among all of them; a label without one takes the null behind the last.
    let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut places = vec![count as u32; rows];
    let mut place = 0;
    for batch in &batches {
        for row in batch.column(0).as_primitive::<UInt64Type>().values() {
            let label = row.checked_sub(first_row).and_then(|row| places.get_mut(usize::try_from(row).ok()?));
            *label.ok_or_else(|| LakeError::internal("an answer belongs to another chunk"))? = place;
            place += 1;
        }
    }
    let places = UInt32Array::from(places);
    let in_order = |column: usize, none: &dyn Array| {
        let pieces = batches.iter().map(|batch| batch.column(column).as_ref()).chain([none]);
        take(&concat(&pieces.collect::<Vec<_>>())?, &places, None)
    };
    let missing = UInt8Array::from(vec![ValueStatus::Missing as u8]);
    let statuses_of = |column: usize| -> Result<Vec<u8>> {
        Ok(in_order(column, &missing)?.as_primitive::<UInt8Type>().values().to_vec())
    };
    let first_status = 1 + answers.features;
    let schema = answers.chunks.schema();
    let has_one = schema.fields().len() == first_status + 1;
    let values_of =
        |feature: usize| in_order(1 + feature, &new_null_array(schema.field(1 + feature).data_type(), 1));
    if has_one {
        let columns = (0..answers.features).map(values_of).collect::<Result<_, _>>()?;
        return Ok(of_one_row(columns, statuses_of(first_status)?));
    }
    let of_feature = |feature: usize| -> Result<FeatureChunk> {
        let statuses = Arc::new(statuses_of(first_status + feature)?);
        Ok(FeatureChunk { values: values_of(feature)?, statuses })
    };
    (0..answers.features).map(of_feature).collect()
}

/// Features whose values are those of one row, with the statuses of that.
fn of_one_row(columns: Vec<ArrayRef>, of_row: Vec<u8>) -> Vec<FeatureChunk> {
    let of_row = RowStatuses::new(of_row);
    columns.into_iter().map(|values| of_row.of_feature(values)).collect()
}

/// The statuses of the rows that labels of a chunk see in one view.
pub(crate) struct RowStatuses {
    of_row: Arc<Vec<u8>>,
    counts: [u64; STATUS_COUNT],
}

impl RowStatuses {
    pub(crate) fn new(of_row: Vec<u8>) -> Self {
        let counts = counted(&of_row);
        Self { of_row: Arc::new(of_row), counts }
    }

    fn of_feature(&self, values: ArrayRef) -> FeatureChunk {
        // Labels that see no row whose values are shown.
        let without_row: u64 = self
            .counts
            .iter()
            .zip(0..)
            .filter(|(_, status)| !is_usable(*status))
            .map(|(count, _)| count)
            .sum();
        let statuses = match values.nulls().filter(|nulls| nulls.null_count() as u64 != without_row) {
            None => Arc::clone(&self.of_row),
            Some(nulls) => Arc::new(with_nulls(self.of_row.to_vec(), nulls)),
        };
        FeatureChunk { values, statuses }
    }

    /// What is shown of one feature's values, and what became of them.
    pub(crate) fn shown(
        &self,
        values: ArrayRef,
        default: &DefaultValue,
        value_type: &ValueType,
        stale_is_default: bool,
    ) -> Result<(ArrayRef, FeatureCounts)> {
        let mut feature = self.of_feature(values);
        fill(&mut feature, default, value_type, stale_is_default)?;
        let counts = match Arc::ptr_eq(&feature.statuses, &self.of_row) {
            true => self.counts,
            false => counted(&feature.statuses),
        };
        let counts = FeatureCounts::new(counts, &feature, stale_is_default);
        Ok((feature.values, counts))
    }
}

/// True for the status of a row whose values are shown.
pub(crate) fn is_usable(status: u8) -> bool {
    [ValueStatus::Fresh as u8, ValueStatus::Stale as u8].contains(&status)
}

/// The status of a row whose values are shown, as it was put aside.
pub(crate) fn shown_status(status: u8) -> ValueStatus {
    if status == ValueStatus::Stale as u8 { ValueStatus::Stale } else { ValueStatus::Fresh }
}

/// A feature's statuses from those of the rows that have its values: a row may be there without a value.
fn with_nulls(mut statuses: Vec<u8>, nulls: &NullBuffer) -> Vec<u8> {
    for row in (!nulls.inner()).set_indices() {
        if is_usable(statuses[row]) {
            statuses[row] = ValueStatus::Null as u8;
        }
    }
    statuses
}

/// Where the labels have each request field of a view.
pub(crate) fn request_fields(labels: &Labels, view: &RequestView) -> Result<Vec<Option<usize>>> {
    let mut found = Vec::with_capacity(view.fields.len());
    for field in &view.fields {
        let column = labels.find(&field.name);
        match column {
            Some(column) => labels.check(column, &field.value_type)?,
            None if field.required => {
                let why = format!("a request field ({}) of view `{}`", field.value_type, view.name);
                return Err(labels.missing("labels_missing_field", &field.name, &why));
            }
            None => {}
        }
        found.push(column);
    }
    Ok(found)
}

/// The Parquet type of a feature's column: maps as Arrow maps are lists of structs already.
pub(crate) fn output_field(name: &str, value_type: &ValueType) -> Field {
    let data_type: DataType = arrow_type(value_type);
    Field::new(name, data_type, true)
}
