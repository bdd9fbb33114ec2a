//! `springhouse statistics`: the population defaults of a service's features, from a training set.
//!
//! A default such as `{population: median}` stands for the values that the model has seen. So it is computed over the values
//! of a training set (those that were there, defaults left out) and noted in the registry with the newest label's moment.

use super::train::{self, AvailabilityArg, TrainArgs};
use crate::output;
use crate::project::Project;
use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef};
use clap::Args;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use springhouse_core::definition::{DefaultValue, PopulationStatistic, ViewKind};
use springhouse_core::time::format_instant;
use springhouse_core::{Clock, Definitions, Micros, Value, ValueType};
use springhouse_kernel::{arrow_type, value_at};
use springhouse_node::SystemClock;
use springhouse_registry::SnapshotMeta;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `springhouse statistics`.
#[derive(Debug, Args)]
pub(crate) struct StatisticsArgs {
    /// The feature service.
    #[arg(long)]
    service: String,
    /// Labels: the entities and moments whose values make the population.
    #[arg(long, value_name = "FILE")]
    labels: PathBuf,
    /// The labels' column with the moment asked for.
    #[arg(long, value_name = "COLUMN")]
    at_column: Option<String>,
    /// The zone of label times that carry none.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
}

pub(crate) async fn run(args: StatisticsArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let opened = Project::open(&std::path::absolute(project)?)?;
    let head =
        opened.registry()?.head().await?.context("nothing has been applied yet; run `springhouse apply`")?;
    let wanted = forget_old(head.definitions.clone(), &args.service)?;
    let Some((forgotten, names)) = wanted else {
        output::note("no feature of this service has a population default");
        return Ok(ExitCode::SUCCESS);
    };
    // The training set is made without the old statistics: a default must not feed itself.
    let meta = |message: &str| SnapshotMeta {
        applied_at: SystemClock.now(),
        applied_by: "statistics".to_owned(),
        message: message.to_owned(),
    };
    let registry = opened.registry()?;
    let mut parent = head.number;
    if forgotten != head.definitions {
        parent = registry.put(&forgotten, Some(parent), meta("population defaults forgotten")).await?.number;
    }
    let scratch = tempfile::TempDir::new().context("no temporary folder can be made")?;
    let out = scratch.path().join("population.parquet");
    let at_column = args.at_column.clone();
    let training = TrainArgs {
        service: args.service,
        labels: args.labels,
        out: out.clone(),
        at_column: args.at_column,
        time_zone: args.time_zone,
        availability: AvailabilityArg::Known,
        memory_mb: None,
    };
    train::make(training, project).await?;
    let computed_at = newest_moment(&out, at_column.as_deref())?;
    let mut next = forgotten;
    fill(&mut next, &names, &out, computed_at)?;
    let snapshot = registry.put(&next, Some(parent), meta("population defaults")).await?;
    output::note(&format!("applied as snapshot {}", snapshot.number));
    Ok(ExitCode::SUCCESS)
}

/// (view, feature, name of its column in a training set)
type Named = (String, String, String);

/// The definitions without computed statistics, and the service's features that ask for one.
fn forget_old(
    mut definitions: Definitions,
    service: &str,
) -> anyhow::Result<Option<(Definitions, Vec<Named>)>> {
    let Some(service) = definitions.feature_services.get(service).cloned() else {
        let known: Vec<&str> = definitions.feature_services.keys().map(String::as_str).collect();
        bail!("there is no feature service `{service}`; there are: {}", known.join(", "));
    };
    let mut names = Vec::new();
    for reference in &service.features {
        let Some(view) = definitions.feature_views.get_mut(&reference.view) else { continue };
        for (name, _, default) in defaults_mut(&mut view.kind) {
            if let DefaultValue::Population { value, computed_at, .. } = default
                && *name == reference.feature
            {
                (*value, *computed_at) = (None, None);
                let twice =
                    service.features.iter().filter(|other| other.feature == reference.feature).count() > 1;
                let column = if twice { reference.to_string() } else { reference.feature.clone() };
                names.push((reference.view.clone(), reference.feature.clone(), column));
            }
        }
    }
    Ok((!names.is_empty()).then_some((definitions, names)))
}

/// Name, type and default of each feature of a view.
fn defaults_mut(kind: &mut ViewKind) -> Vec<(&String, &ValueType, &mut DefaultValue)> {
    match kind {
        ViewKind::Latest(features) => {
            features.iter_mut().map(|f| (&f.name, &f.value_type, &mut f.default)).collect()
        }
        ViewKind::Windows(features) => {
            features.iter_mut().map(|f| (&f.name, &f.value_type, &mut f.default)).collect()
        }
    }
}

fn fill(
    definitions: &mut Definitions,
    names: &[Named],
    file: &Path,
    at: Option<Micros>,
) -> anyhow::Result<()> {
    for (view, feature, column) in names {
        let Some(view_definition) = definitions.feature_views.get_mut(view) else { continue };
        for (name, value_type, default) in defaults_mut(&mut view_definition.kind) {
            let DefaultValue::Population { statistic, value, computed_at } = default else { continue };
            if name != feature {
                continue;
            }
            let values = column_values(file, column, value_type)?;
            let number = values.len();
            *value = compute(*statistic, values, value_type);
            *computed_at = value.as_ref().and(at);
            let when = at.map(format_instant).unwrap_or_default();
            output::data(&format!("{view}:{feature} {statistic:?} of {number} values at {when}: {value:?}"));
        }
    }
    Ok(())
}

/// The values of one column that are neither null nor NaN.
fn column_values(file: &Path, name: &str, value_type: &ValueType) -> anyhow::Result<Vec<Value>> {
    let mut values = Vec::new();
    for array in arrays(file, name)? {
        let array = arrow::compute::cast(&array, &arrow_type(value_type))?;
        let all = (0..array.len()).map(|row| value_at(&array, row, value_type));
        values.extend(all.filter(|value| !value.is_null_or_nan()));
    }
    Ok(values)
}

fn arrays(file: &Path, name: &str) -> anyhow::Result<Vec<ArrayRef>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?;
    let index = builder.schema().index_of(name).with_context(|| format!("no column `{name}`"))?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), [index]);
    builder.with_projection(mask).build()?.map(|batch| Ok(batch?.column(0).clone())).collect()
}

/// The newest moment among the labels.
fn newest_moment(file: &Path, column: Option<&str>) -> anyhow::Result<Option<Micros>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?;
    let is_time = |field: &&arrow::datatypes::FieldRef| {
        matches!(field.data_type(), arrow::datatypes::DataType::Timestamp(..))
    };
    let name = column.map(str::to_owned).or_else(|| {
        let schema = builder.schema();
        let named = schema.field_with_name("event_timestamp").ok().map(|field| field.name().clone());
        named.or_else(|| schema.fields().iter().find(is_time).map(|field| field.name().clone()))
    });
    let Some(name) = name else { return Ok(None) };
    let values = column_values(file, &name, &ValueType::Timestamp)?;
    Ok(values
        .into_iter()
        .max()
        .and_then(|value| if let Value::Timestamp(at) = value { Some(at) } else { None }))
}

/// The statistic of the values, in the feature's type; none of no values. The lower median, so that it is a value that
/// occurs; of two modes the smaller.
fn compute(statistic: PopulationStatistic, mut values: Vec<Value>, value_type: &ValueType) -> Option<Value> {
    values.sort_unstable();
    match statistic {
        PopulationStatistic::Median => values.get(values.len().checked_sub(1)? / 2).cloned(),
        PopulationStatistic::Mode => {
            let runs = values.chunk_by(|a, b| a == b);
            runs.rev().max_by_key(|run| run.len()).and_then(|run| run.first().cloned())
        }
        PopulationStatistic::Mean => mean(&values, value_type),
    }
}

fn mean(values: &[Value], value_type: &ValueType) -> Option<Value> {
    let count = values.len();
    if count == 0 {
        return None;
    }
    let float = |value: &Value| match value {
        Value::Float32(v) => f64::from(*v),
        Value::Float64(v) => *v,
        Value::Int32(v) => f64::from(*v),
        Value::Int64(v) => *v as f64,
        _ => f64::NAN,
    };
    // The values are sorted, so the sum does not depend on the order of the labels.
    let mean = values.iter().map(float).sum::<f64>() / count as f64;
    Some(match value_type {
        ValueType::Int32 => Value::Int32(mean.round() as i32),
        ValueType::Int64 => Value::Int64(mean.round() as i64),
        ValueType::Float32 => Value::Float32(mean as f32),
        _ => Value::Float64(mean),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(statistic: PopulationStatistic, values: &[i64]) -> Option<Value> {
        compute(statistic, values.iter().map(|v| Value::Int64(*v)).collect(), &ValueType::Int64)
    }

    #[test]
    fn a_statistic_is_a_value_of_the_features_type() {
        assert_eq!(of(PopulationStatistic::Median, &[5, 1, 3, 2]), Some(Value::Int64(2)));
        assert_eq!(of(PopulationStatistic::Mean, &[5, 1, 3, 2]), Some(Value::Int64(3)));
        assert_eq!(of(PopulationStatistic::Mode, &[7, 1, 7, 1, 3]), Some(Value::Int64(1)));
        assert_eq!(of(PopulationStatistic::Mode, &[]), None);
        assert_eq!(of(PopulationStatistic::Median, &[]), None);
        assert_eq!(of(PopulationStatistic::Mean, &[]), None);
    }
}
