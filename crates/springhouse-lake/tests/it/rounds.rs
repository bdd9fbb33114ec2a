//! Labels that are answered some at a time have the answers that they have together.

use crate::support::*;
use crate::training::{label_batch, random_labels, world};
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field};
use springhouse_lake::{Availability, TrainingOutcome};
use std::sync::Arc;

/// A column that takes no space and might take much: chunks of the output have the fewest rows that they can have.
fn wide(rows: usize) -> ArrayRef {
    let list = |inner: DataType| DataType::List(Arc::new(Field::new("item", inner, true)));
    new_null_array(&list(list(list(list(list(DataType::Int64))))), rows)
}

/// Labels with such a column.
pub(crate) fn with_wide(labels: &RecordBatch) -> RecordBatch {
    let schema = labels.schema();
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let given = names.zip(labels.columns().iter().cloned());
    batch(given.chain([("wide", wide(labels.num_rows()))]).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_the_same_in_one_round_and_in_many() {
    let mut random = Random::new("answers_are_the_same_in_one_round_and_in_many");
    let world = world(&mut random, 1_200).await;
    let mut labels = random_labels(&mut random, &world.all, 5_000);
    for is_in_time_order in [false, true] {
        if is_in_time_order {
            labels.sort_by_key(|label| label.at);
        }
        let narrow = label_batch(&labels);
        let columns = narrow.num_columns();
        write_parquet(&world.project.path("narrow.parquet"), &narrow, 900);
        write_parquet(&world.project.path("wide.parquet"), &with_wide(&narrow), 900);
        for availability in [Availability::Known, Availability::Event] {
            let at_once = made(&world.project, "narrow.parquet", availability, 512).await;
            // All in memory; rows that meet labels; rows that are put aside first.
            for memory in [512, 16, 1] {
                let in_rounds = made(&world.project, "wide.parquet", availability, memory).await;
                let features =
                    |(made, _): &(RecordBatch, TrainingOutcome), from: usize| made.columns()[from..].to_vec();
                assert!(
                    features(&at_once, columns) == features(&in_rounds, columns + 1),
                    "in time order: {is_in_time_order}, {availability:?}, {memory} MiB"
                );
                let counts = |outcome: &TrainingOutcome| outcome.manifest["features"].clone();
                assert_eq!(counts(&at_once.1), counts(&in_rounds.1));
            }
        }
    }
}

async fn made(
    project: &Project,
    labels: &str,
    availability: Availability,
    memory: u64,
) -> (RecordBatch, TrainingOutcome) {
    let out = project.path("train.parquet");
    let mut request = project.request(labels, &out);
    (request.availability, request.memory_budget) = (availability, memory << 20);
    let outcome = project.lake.training_set(&request, &Silent).await.unwrap();
    (read_parquet(&out), outcome)
}
