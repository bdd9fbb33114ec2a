//! Population statistics: what stands in for a missing feature where its default is `{population: mean}` and such.
//!
//! The population is what serving would have answered to the owner of each event at the moment when the event became
//! visible: a sample of at most [`SAMPLE_ROWS_MAX`] events that were visible at `as_of`, those with the least hash of entity
//! and stamp, so that the same history gives the same statistics. Values that are missing, expired or null don't count.

use crate::error::{LakeError, Result};
use crate::identity::{Identity, Presence, for_each_identity, mix};
use crate::lake::Lake;
use crate::source::scan::{ScanCounts, ScanSpec, SourceFiles};
use crate::spill::{Budget, Partitions, SpillFile, partition_count, partition_of};
use crate::training::gather::{EventGroup, Extras, Keep, Payload};
use crate::training::join::{label_columns, label_schema, load_partition};
use crate::training::plan::{ViewJob, view_job};
use crate::training::{blocking, threads};
use parking_lot::Mutex;
use springhouse_core::definition::{DefaultValue, FeatureRef, PopulationStatistic};
use springhouse_core::{Definitions, Micros, Value, ValueStatus, ValueType};
use springhouse_kernel::value_at;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

/// Most events whose moments are asked about.
pub const SAMPLE_ROWS_MAX: usize = 100_000;

/// Bytes of events in memory before they are spilled.
const BUDGET: u64 = 512 << 20;

/// A sampled moment: its hash decides whether it stays.
type Sampled = (u64, Identity, Micros);

impl Lake {
    /// Computes every population default of the stored views from the history visible at `as_of`. Features without a single
    /// value are left out.
    ///
    /// # Errors
    /// `source_*`, `file_*`, `csv_bad_cell`, `naive_timestamp`, `delta_*`, `spill_failed`.
    pub async fn population_statistics(
        &self,
        definitions: &Definitions,
        as_of: Micros,
    ) -> Result<BTreeMap<FeatureRef, Value>> {
        let mut found = BTreeMap::new();
        for view in definitions.feature_views.values() {
            let is_population = |d: &&DefaultValue| matches!(d, DefaultValue::Population { .. });
            if !view.defaults().iter().any(is_population) {
                continue;
            }
            let job = view_job(definitions, view)?;
            let files = SourceFiles::open(self, job.source, true).await?;
            let values = blocking(|| self.sampled_values(&job, &files, as_of))?;
            for ((default, (name, value_type)), values) in
                job.defaults.iter().zip(job.plan.features()).zip(values)
            {
                let DefaultValue::Population { statistic, .. } = default else { continue };
                if let Some(value) = statistic_of(*statistic, value_type, values) {
                    found.insert(FeatureRef { view: view.name.clone(), feature: name.clone() }, value);
                }
            }
        }
        Ok(found)
    }

    /// Per feature, its values at the sampled moments.
    fn sampled_values(
        &self,
        job: &ViewJob<'_>,
        files: &SourceFiles,
        as_of: Micros,
    ) -> Result<Vec<Vec<Value>>> {
        let sample = sample(job, files, as_of)?;
        let budget = Arc::new(Budget::new(BUDGET));
        let file = Arc::new(SpillFile::new(self.tables()));
        let group = EventGroup::new(&[job], vec![0], Payload::Inputs, Extras::all(job.source, false))?;
        let partitions = partition_count(files.rows_estimate() * group.row_bytes(), BUDGET);
        let labels = Partitions::new(partitions, label_schema(), &budget, &file);
        let mut present = Presence::with_capacity(sample.len() as u64);
        sample.iter().for_each(|(_, identity, _)| present.insert(*identity));
        let columns = label_columns(
            sample.iter().zip(0..).map(|((_, identity, at), row)| (*identity as i128, row, *at)),
        )?;
        let partition: Vec<u32> =
            sample.iter().map(|(_, id, _)| partition_of(mix(*id), partitions)).collect();
        labels.push(&columns, &partition)?;
        let events = Partitions::new(partitions, Arc::clone(group.schema()), &budget, &file);
        let spec =
            ScanSpec { with_ids: job.source.event_id.is_some(), ..ScanSpec::all(group.source_columns()) };
        group.gather(
            files,
            &spec,
            threads(),
            Some(&present),
            &|_, _| true,
            Keep { visible_by: as_of, admits: None },
            &ScanCounts::default(),
            &|_| Ok(()),
            &events,
            None,
        )?;
        let features = job.plan.features();
        let mut values: Vec<Vec<Value>> = vec![Vec::new(); features.len()];
        for partition in (0..partitions).filter(|p| labels.rows(*p) > 0) {
            let joined = load_partition(&labels, &events, partition)?;
            let columns = joined.answer(&job.plan, &group, group.inputs_of(0));
            for (feature, (_, value_type)) in features.iter().enumerate() {
                if !matches!(job.defaults[feature], DefaultValue::Population { .. }) {
                    continue;
                }
                let statuses = columns.statuses[feature].iter().enumerate();
                let fresh = statuses.filter(|(_, status)| **status == ValueStatus::Fresh);
                values[feature]
                    .extend(fresh.map(|(row, _)| value_at(&columns.values[feature], row, value_type)));
            }
        }
        Ok(values)
    }
}

/// The moments at which events became visible, those with the least hashes.
fn sample(job: &ViewJob<'_>, files: &SourceFiles, as_of: Micros) -> Result<Vec<Sampled>> {
    let kept: Mutex<BinaryHeap<Sampled>> = Mutex::new(BinaryHeap::new());
    let spec = ScanSpec::all(job.projection.source_columns().to_vec());
    files.for_each(&spec, threads(), &|_, _| true, &ScanCounts::default(), &|rows| {
        let projected = job.projection.project(&rows.batch);
        let mut kept = kept.lock();
        let (columns, keys) = (&projected.key_columns, &job.entity.keys);
        for_each_identity(columns, keys, projected.rows.len(), |position, identity| {
            let row = projected.rows[position] as usize;
            let visible_at = rows.event_time[row].max(rows.known_at[row]);
            let Some(identity) = identity.filter(|_| visible_at <= as_of) else { return };
            let stamp = u128::from(visible_at as u64) << 64 | u128::from(rows.seq(row) as u64);
            kept.push((mix(identity ^ u128::from(mix(stamp)) << 32), identity, visible_at));
            if kept.len() > SAMPLE_ROWS_MAX {
                kept.pop();
            }
        });
        Ok(())
    })?;
    Ok(kept.into_inner().into_sorted_vec())
}

/// The statistic of some values; None when there are none, or the type has no such statistic.
fn statistic_of(
    statistic: PopulationStatistic,
    value_type: &ValueType,
    mut values: Vec<Value>,
) -> Option<Value> {
    values.retain(|value| !value.is_null_or_nan());
    values.sort_unstable();
    let first = values.first()?;
    match statistic {
        PopulationStatistic::Mode => {
            // The most frequent; of several the least.
            let mut best: (usize, &Value) = (0, first);
            for run in values.chunk_by(|a, b| a == b) {
                if run.len() > best.0 {
                    best = (run.len(), &run[0]);
                }
            }
            Some(best.1.clone())
        }
        PopulationStatistic::Median => {
            let (low, high) = (&values[(values.len() - 1) / 2], &values[values.len() / 2]);
            match (low, high) {
                (Value::Float64(a), Value::Float64(b)) => Some(Value::Float64(a / 2.0 + b / 2.0)),
                (Value::Float32(a), Value::Float32(b)) => Some(Value::Float32(a / 2.0 + b / 2.0)),
                // Of two whole numbers in the middle the lower, which is one of the population.
                _ => Some(low.clone()),
            }
        }
        PopulationStatistic::Mean => {
            let numbers: Vec<f64> = values.iter().map(as_number).collect::<Option<_>>()?;
            // In ascending order, so that the same values give the same sum.
            let mean = numbers.iter().map(|number| number / numbers.len() as f64).sum::<f64>();
            from_number(mean, value_type)
        }
    }
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Int32(v) => Some(f64::from(*v)),
        Value::Int64(v) => Some(*v as f64),
        Value::Float32(v) => Some(f64::from(*v)),
        Value::Float64(v) => Some(*v),
        _ => None,
    }
}

/// A mean as a value of the feature's type; whole numbers are rounded.
fn from_number(mean: f64, value_type: &ValueType) -> Option<Value> {
    Some(match value_type {
        ValueType::Int32 => Value::Int32(mean.round() as i32),
        ValueType::Int64 => Value::Int64(mean.round() as i64),
        ValueType::Float32 => Value::Float32(mean as f32),
        ValueType::Float64 => Value::Float64(mean),
        _ => return None,
    })
}

/// The definitions with computed population defaults filled in, with their date; what `apply` stores.
///
/// # Errors
/// `definition_incomplete` when a statistic is of a feature that is not there.
pub fn fill_population_defaults(
    definitions: &mut Definitions,
    statistics: &BTreeMap<FeatureRef, Value>,
    as_of: Micros,
) -> Result<()> {
    use springhouse_core::definition::ViewKind;
    for (reference, value) in statistics {
        let default =
            definitions.feature_views.get_mut(&reference.view).and_then(|view| match &mut view.kind {
                ViewKind::Latest(features) => {
                    features.iter_mut().find(|f| f.name == reference.feature).map(|f| &mut f.default)
                }
                ViewKind::Windows(features) => {
                    features.iter_mut().find(|f| f.name == reference.feature).map(|f| &mut f.default)
                }
            });
        match default {
            Some(DefaultValue::Population { value: slot, computed_at, .. }) => {
                *slot = Some(value.clone());
                *computed_at = Some(as_of);
            }
            _ => {
                return Err(LakeError::new(
                    "definition_incomplete",
                    format!("feature `{reference}` has no population default"),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statistic_is_one_number_whatever_the_order() {
        let floats = |v: &[f64]| v.iter().map(|v| Value::Float64(*v)).collect::<Vec<_>>();
        let ints = |v: &[i64]| v.iter().map(|v| Value::Int64(*v)).collect::<Vec<_>>();
        use PopulationStatistic::{Mean, Median, Mode};
        let float = |s, v: &[f64]| statistic_of(s, &ValueType::Float64, floats(v));
        let int = |s, v: &[i64]| statistic_of(s, &ValueType::Int64, ints(v));
        assert_eq!(float(Mean, &[3.0, 1.0, f64::NAN]), Some(Value::Float64(2.0)));
        assert_eq!(float(Median, &[5.0, 1.0, 2.0, 4.0]), Some(Value::Float64(3.0)));
        assert_eq!(float(Mode, &[5.0, 1.0, 5.0, 1.0, 9.0]), Some(Value::Float64(1.0)));
        assert_eq!(int(Mean, &[1, 2, 2]), Some(Value::Int64(2)));
        assert_eq!(int(Median, &[4, 1, 2, 3]), Some(Value::Int64(2)));
        assert_eq!(float(Mean, &[]), None);
        let texts = vec![Value::string("b"), Value::string("a"), Value::string("b")];
        assert_eq!(statistic_of(Mode, &ValueType::String, texts.clone()), Some(Value::string("b")));
        assert_eq!(statistic_of(Mean, &ValueType::String, texts), None);
    }
}
