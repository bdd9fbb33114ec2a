//! Training sets that are made column by column have the answers of those that are made row group by row group.

use crate::rounds::with_wide;
use crate::support::*;
use crate::training::{label_batch, random_labels, world};
use arrow::array::RecordBatch;
use parquet::file::reader::{FileReader, SerializedFileReader};
use springhouse_lake::{Availability, Progress, TrainingOutcome};
use std::fs::File;
use std::path::Path;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_the_same_by_column_and_by_row_group() {
    let mut random = Random::new("answers_are_the_same_by_column_and_by_row_group");
    let mut not_null = 0;
    for count in [30, 700, 5_000] {
        let world = world(&mut random, 1_000).await;
        let labels = label_batch(&random_labels(&mut random, &world.all, count));
        write_parquet(&world.project.path("labels.parquet"), &with_wide(&labels), 900);
        // Beside so much memory labels may just be kept.
        let stored = std::fs::metadata(world.project.path("labels.parquet")).unwrap().len();
        for availability in [Availability::Known, Availability::Event] {
            let (by_column, by_group) =
                (world.project.path("made.parquet"), world.project.path("made.arrow"));
            let mut first = Vec::new();
            // All at once; so little that what labels see was written to disk before, that the labels' own columns are not kept, that
            // columns don't fit. In parts.
            for (memory, part_rows) in [
                (512 << 20, None),
                (4 << 20, None),
                (1 << 20, None),
                (16 * stored, None),
                (64 << 10, None),
                (4 << 20, Some(999)),
            ] {
                let ours = made(&world.project, &by_column, availability, memory, part_rows).await;
                let theirs = made(&world.project, &by_group, availability, memory, None).await;
                let (columns, groups) = (read_parquet(&by_column), read_arrow(&by_group));
                assert_eq!(columns.num_rows(), labels.num_rows());
                for (number, field) in groups.schema().fields().iter().enumerate() {
                    let name = field.name();
                    assert_eq!(columns.schema().field(number).name(), name);
                    assert_eq!(columns.column(number), groups.column(number), "{name}, {availability:?}");
                    not_null += groups.column(number).len() - groups.column(number).null_count();
                }
                assert_eq!(ours.manifest["features"], theirs.manifest["features"]);
                assert_is_by_column(&by_column);
                // Neither memory nor threads nor parts have a say in what is where.
                let bytes = std::fs::read(&by_column).unwrap();
                if first.is_empty() {
                    first.clone_from(&bytes);
                }
                assert!(
                    bytes == first,
                    "{count} labels, {memory} bytes of memory, parts of {part_rows:?}: other bytes"
                );
                assert_eq!(world.project.left_behind(), [""; 0]);
            }
        }
    }
    assert!(not_null > 100_000, "{not_null} values are too few to compare");
}

/// Changes a file when rows of sources are read: labels were counted then, and are not written.
struct Changing<'a> {
    file: &'a Path,
    to: &'a Path,
}

impl Progress for Changing<'_> {
    fn report(&self, stage: &'static str, _done: u64, _total: u64) {
        if stage == "reading sources" {
            std::fs::copy(self.to, self.file).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_that_change_while_they_are_read_are_told() {
    let mut random = Random::new("labels_that_change_while_they_are_read_are_told");
    let world = world(&mut random, 300).await;
    let labels = label_batch(&random_labels(&mut random, &world.all, 140_000));
    // More, fewer, and another number of row groups.
    for (before, after) in
        [(1_000, 1_001), (1_000, 30), (140_000, 70_000), (70_000, 140_000), (65_536, 65_537)]
    {
        for (name, out) in
            [("labels.csv", "made.parquet"), ("labels.csv", "made.arrow"), ("labels.parquet", "made.parquet")]
        {
            let (file, to) = (world.project.path(name), world.project.path(&format!("others-{name}")));
            for (path, rows) in [(&file, before), (&to, after)] {
                match name {
                    "labels.csv" => write_csv(path, &labels.slice(0, rows)),
                    _ => write_parquet(path, &labels.slice(0, rows), 10_000),
                }
            }
            let out = world.project.path(out);
            let mut request = world.project.request(name, &out);
            request.features = ["parts_latest:p_amount", "pushed_latest"].map(str::to_owned).into();
            let changing = Changing { file: &file, to: &to };
            let told = world.project.lake.training_set(&request, &changing).await;
            assert_eq!(told.unwrap_err().code, "labels_changed", "{before} labels, then {after}");
            assert!(!out.exists());
        }
    }
    assert_eq!(world.project.left_behind(), [""; 0]);
}

async fn made(
    project: &Project,
    out: &Path,
    availability: Availability,
    memory: u64,
    part_rows: Option<u64>,
) -> TrainingOutcome {
    let mut request = project.request("labels.parquet", out);
    // The same column twice, once with the default for what is stale; features of an event source and of a stream.
    request.services = vec!["all".to_owned(), "careful".to_owned()];
    request.features =
        ["parts_latest:p_amount", "parts_latest:p_items", "pushed_latest"].map(str::to_owned).into();
    (request.availability, request.memory_budget, request.part_rows) = (availability, memory, part_rows);
    project.lake.training_set(&request, &Silent).await.unwrap()
}

fn read_arrow(path: &Path) -> RecordBatch {
    let reader = arrow::ipc::reader::FileReader::try_new(File::open(path).unwrap(), None).unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// The features of the first row group come after the labels of the last.
fn assert_is_by_column(path: &Path) {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let groups = reader.metadata().row_groups();
    let (first, last) = (groups.first().unwrap(), groups.last().unwrap());
    let feature = first.columns().last().unwrap().byte_range().0;
    assert!(feature > last.column(0).byte_range().0, "it was made row group by row group");
    assert!(groups.iter().all(|group| group.num_rows() <= 256));
}
