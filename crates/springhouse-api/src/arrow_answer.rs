//! A feature answer as an Arrow IPC stream: one batch, a row per entity row. For many rows, where JSON is mostly digits.

use crate::parse::AnswerOptions;
use crate::text::format_timestamp;
use crate::write::{level_name, origin_name, status_name};
use arrow::array::{ArrayRef, Float64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use springhouse_core::{Value, ValueType};
use springhouse_kernel::array_from_values;
use springhouse_serving::{FeatureAnswer, FeatureColumn, FeatureHead};
use std::collections::HashMap;
use std::sync::Arc;

/// The schema's metadata with the moment answered for, RFC 3339.
pub const AT_KEY: &str = "springhouse.at";
/// ... with the degradation level.
pub const LEVEL_KEY: &str = "springhouse.level";
/// ... with the hash of the definitions.
pub const DEFINITION_KEY: &str = "springhouse.definition";

/// The answer as an Arrow IPC stream: a column per feature in the order asked for, and, unless `metadata` is false, its
/// `<feature>__status` and `<feature>__age_s`; with `full` also `<feature>__event_time` and `<feature>__origin`.
///
/// # Errors
/// What Arrow says; it would be a defect.
pub fn arrow_answer(answer: &FeatureAnswer, options: &AnswerOptions) -> Result<Vec<u8>, ArrowError> {
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    let mut add = |name: String, array: ArrayRef| {
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    };
    for column in answer.columns() {
        let FeatureHead { name, value_type, .. } = column.head;
        add(name.clone(), array_from_values(value_type, column.values));
        if options.metadata {
            add(format!("{name}__status"), statuses(&column));
            let ages = column.ages.iter().map(|age| age.map(|micros| micros as f64 / 1e6));
            add(format!("{name}__age_s"), Arc::new(ages.collect::<Float64Array>()));
        }
        if options.full {
            let times: Vec<_> =
                column.event_times.iter().map(|at| at.map_or(Value::Null, Value::Timestamp)).collect();
            add(format!("{name}__event_time"), array_from_values(&ValueType::Timestamp, &times));
            let origins = column.origins.iter().map(|origin| origin_name(*origin));
            add(format!("{name}__origin"), Arc::new(StringArray::from_iter_values(origins)));
        }
    }
    let metadata = HashMap::from([
        (AT_KEY.to_owned(), format_timestamp(answer.at)),
        (LEVEL_KEY.to_owned(), level_name(answer.level).to_owned()),
        (DEFINITION_KEY.to_owned(), answer.head.definition_hash.to_string()),
    ]);
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let count = RecordBatchOptions::new().with_row_count(Some(answer.row_count));
    let batch = RecordBatch::try_new_with_options(schema.clone(), arrays, &count)?;
    let mut out = Vec::with_capacity(batch.get_array_memory_size() + 4096);
    let mut writer = StreamWriter::try_new(&mut out, &schema)?;
    writer.write(&batch)?;
    writer.finish()?;
    drop(writer);
    Ok(out)
}

fn statuses(column: &FeatureColumn<'_>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(column.statuses.iter().map(|status| status_name(*status))))
}
