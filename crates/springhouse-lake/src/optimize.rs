//! The layout of stream tables: few files, the rows of an entity side by side, so that a training set reads little more than
//! the rows it needs.
//!
//! A flush makes a file every few seconds, in order of arrival. Compaction takes runs of small files, sorts their rows by
//! entity and time, and puts one file in their place; such files it merges to larger ones in the same order. Each is one
//! commit that changes no data (`dataChange: false`): every reader sees the rows once, before and after and at every moment
//! between, and a kill leaves the old files or the new one. Offsets stay with their rows, so positions, stamps and answers do
//! not change. Old files stay until they are vacuumed.

use crate::delta::{self, PARTIAL_PREFIX};
use crate::error::{LakeError, Result};
use crate::lake::Lake;
use crate::layout::{self, Rows};
use crate::merge::{Merged, in_schema, united};
use crate::partial::remove_abandoned;
use crate::progress::{Progress, tell};
use crate::source::location::FileRef;
use crate::source::parquet;
use crate::stream::OFFSET_COLUMN;
use arrow::array::RecordBatch;
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use deltalake_core::DeltaTable;
use springhouse_core::Definitions;
use springhouse_core::definition::Source;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How many files are merged: few would be written again for little, of many too much would be in memory.
const MERGED_FILES: RangeInclusive<usize> = 4..=16;

/// Most that a file may have which files become; those with less than half of both are worth putting together.
#[derive(Clone, Copy, Debug)]
pub struct FileSize {
    /// Bytes.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
}

/// How large files become.
#[derive(Clone, Copy, Debug)]
pub struct FileSizes {
    /// From files as they were flushed, whose rows are sorted in memory.
    pub sorted: FileSize,
    /// From such files: the more rows of an entity are side by side, the less is to do for each of them.
    pub merged: FileSize,
}

impl Default for FileSizes {
    fn default() -> Self {
        Self {
            sorted: FileSize { bytes: 128 << 20, rows: 1_000_000 },
            merged: FileSize { bytes: 512 << 20, rows: 8_000_000 },
        }
    }
}

/// What to do with a stream table.
#[derive(Clone, Debug, Default)]
pub struct OptimizeRequest {
    /// The columns that rows are sorted by, before the event time: the entity's key.
    pub cluster_by: Vec<String>,
    /// How large files become.
    pub sizes: FileSizes,
    /// Delete files that no version younger than this has any more; None deletes nothing.
    pub vacuum: Option<Duration>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What was done with a stream table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptimizeOutcome {
    /// Files of the table before.
    pub files_before: usize,
    /// Files of the table after.
    pub files_after: usize,
    /// Files put together.
    pub files_rewritten: usize,
    /// Rows of those.
    pub rows: u64,
    /// Bytes of those.
    pub bytes_before: u64,
    /// Bytes of what they became; 0 in a dry run.
    pub bytes_after: u64,
    /// Old files deleted, or that would be.
    pub files_deleted: usize,
}

impl Lake {
    /// Compacts the table of a stream. Appends may go on meanwhile; a second call goes on where one was interrupted.
    ///
    /// # Errors
    /// `delta_failed`, `delta_conflict`, `file_*`, `cancelled`.
    pub async fn optimize_stream(
        &self,
        source: &Source,
        request: &OptimizeRequest,
        progress: &dyn Progress,
    ) -> Result<OptimizeOutcome> {
        let directory = self.stream_table(&source.name);
        let Some(mut table) = delta::open(&directory).await? else { return Ok(OptimizeOutcome::default()) };
        let listed = delta::files(self.project(), &directory, &table)?.files;
        let files_before = listed.len();
        let by = order(source, &request.cluster_by);
        let mut parts = listed.into_iter().map(|file| Part::of(file, &by)).collect::<Result<Vec<_>>>()?;
        let steps = steps(&parts, &request.sizes);
        let total = steps.iter().map(|step| step.bytes).sum();
        let mut done = 0;
        if !steps.is_empty() && !request.dry_run {
            remove_abandoned(&directory, PARTIAL_PREFIX);
        }
        for step in steps {
            let run = &parts[step.parts.clone()];
            let mut made = Part::together(run);
            if !request.dry_run {
                let report = |rows: u64| {
                    let share = rows as f64 / made.rows.max(1) as f64;
                    tell(progress, "compacting", done + (step.bytes as f64 * share) as u64, total)
                };
                let files: Vec<FileRef> = run.iter().map(|part| part.file.clone()).collect();
                let rows = crate::training::blocking(|| match step.way {
                    Way::Sort => sorted_rows(&files, &by),
                    Way::Merge => merged_rows(&files, &by, &report),
                })?;
                made.file = delta::replace(self.project(), &directory, &mut table, &files, rows).await?;
                report(made.rows)?;
            }
            done += step.bytes;
            parts.splice(step.parts, [made]);
        }
        let mut outcome =
            OptimizeOutcome { files_before, files_after: parts.len(), ..OptimizeOutcome::default() };
        for part in parts.iter().filter(|part| part.files > 1) {
            outcome.files_rewritten += part.files;
            outcome.rows += part.rows;
            outcome.bytes_before += part.bytes;
            outcome.bytes_after += if request.dry_run { 0 } else { part.file.size };
        }
        if let Some(retention) = request.vacuum {
            (table, outcome.files_deleted) = vacuum(&directory, table, retention, request.dry_run).await?;
        }
        if outcome.files_rewritten > 0 && !request.dry_run {
            delta::checkpoint(&directory, &table).await?;
        }
        Ok(outcome)
    }
}

/// What rows of a source are best sorted by: the key of the entity that most views over it are of, as far as it is columns of
/// the source.
pub fn cluster_columns(definitions: &Definitions, source: &Source) -> Vec<String> {
    let mut keys: BTreeMap<&[String], usize> = BTreeMap::new();
    for view in definitions.feature_views.values().filter(|view| view.source == source.name) {
        *keys.entry(&view.key_columns).or_default() += 1;
    }
    let most = keys.into_iter().rev().max_by_key(|(_, views)| *views).map(|(key, _)| key);
    let is_stored = |name: &&String| source.columns.iter().any(|column| column.name == **name);
    most.unwrap_or_default().iter().filter(is_stored).cloned().collect()
}

/// What the rows of a source are sorted by.
fn order(source: &Source, cluster_by: &[String]) -> Vec<String> {
    let last = [source.event_time.clone(), OFFSET_COLUMN.to_owned()];
    cluster_by.iter().cloned().chain(last).collect()
}

/// Those of some columns that can be sorted by and are there: without one in which all rows have the same, the order is as it was.
fn present(schema: &Schema, by: &[String]) -> Vec<String> {
    let is_there = |name: &&String| schema.field_with_name(name).is_ok_and(|f| !f.data_type().is_nested());
    by.iter().filter(is_there).cloned().collect()
}

/// A file of the table, or what some of its files become.
#[derive(Clone, Debug)]
struct Part {
    file: FileRef,
    rows: u64,
    /// True when it says that its rows are in order.
    is_sorted: bool,
    /// How many files of the table it was.
    files: usize,
    /// Bytes of those.
    bytes: u64,
}

impl Part {
    fn is_below_half(&self, most: &FileSize) -> bool {
        self.file.size < most.bytes / 2 && self.rows < most.rows / 2
    }

    fn of(file: FileRef, by: &[String]) -> Result<Self> {
        let footer = parquet::open(&file)?;
        let metadata = footer.metadata().file_metadata();
        let is_sorted = layout::sorted_by(metadata).is_some_and(|said| said == present(footer.schema(), by));
        let (rows, bytes) = (metadata.num_rows().unsigned_abs(), file.size);
        Ok(Self { file, rows, is_sorted, files: 1, bytes })
    }

    /// What some become, about; there is at least one.
    fn together(parts: &[Self]) -> Self {
        let size = parts.iter().map(|part| part.file.size).sum();
        Self {
            file: FileRef { size, ..parts[0].file.clone() },
            rows: parts.iter().map(|part| part.rows).sum(),
            is_sorted: true,
            files: parts.iter().map(|part| part.files).sum(),
            bytes: parts.iter().map(|part| part.bytes).sum(),
        }
    }
}

/// How files become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// They are read whole.
    Sort,
    /// They are sorted, and passed through side by side.
    Merge,
}

/// What is done with neighbours.
#[derive(Clone, Debug)]
struct Step {
    way: Way,
    /// Which, when all steps before were done.
    parts: Range<usize>,
    /// Bytes read.
    bytes: u64,
}

/// What there is to do, one step after the other.
fn steps(parts: &[Part], sizes: &FileSizes) -> Vec<Step> {
    let mut parts = parts.to_vec();
    let mut steps = Vec::new();
    for way in [Way::Sort, Way::Merge] {
        // From the end on, so that those before stay where they are.
        for run in runs(&parts, way, sizes).into_iter().rev() {
            let made = Part::together(&parts[run.clone()]);
            steps.push(Step { way, parts: run.clone(), bytes: made.file.size });
            parts.splice(run, [made]);
        }
    }
    steps
}

/// Runs of files that are next to each other in the order of their offsets and are worth putting together.
fn runs(parts: &[Part], way: Way, sizes: &FileSizes) -> Vec<Range<usize>> {
    let (most, files) = match way {
        Way::Sort => (&sizes.sorted, 2..=usize::MAX),
        Way::Merge => (&sizes.merged, MERGED_FILES),
    };
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut run = 0..0;
    let (mut bytes, mut rows) = (0, 0);
    for (number, part) in parts.iter().enumerate() {
        // The last one is put together with what comes after it first.
        let is_next = number + 1 < parts.len() || !part.is_below_half(&sizes.sorted);
        let is_wanted = part.is_below_half(most) && (way == Way::Sort || part.is_sorted && is_next);
        let fits = bytes + part.file.size <= most.bytes && rows + part.rows <= most.rows;
        if !is_wanted || !fits || run.len() == *files.end() {
            runs.push(std::mem::replace(&mut run, number..number));
            (bytes, rows) = (0, 0);
        }
        if is_wanted {
            (bytes, rows) = (bytes + part.file.size, rows + part.rows);
            run.end = number + 1;
        } else {
            run = number + 1..number + 1;
        }
    }
    runs.push(run);
    runs.retain(|run| run.len() >= *files.start());
    runs
}

/// The rows of sorted files in one order, of those of some columns that are there; `report` is told how many have come.
fn merged_rows<'f>(
    files: &'f [FileRef],
    by: &[String],
    report: &'f (dyn Fn(u64) -> Result<()> + Sync),
) -> Result<Rows<'f>> {
    let merged = Merged::new(files, by)?;
    let (schema, sample) = (Arc::clone(&merged.schema), merged.sample()?);
    let sorted_by = present(&schema, by);
    let mut done = 0;
    let batches = merged.map(move |batch| {
        let batch = batch?;
        done += batch.num_rows() as u64;
        report(done).map(|()| batch)
    });
    Ok(Rows { schema, sample, batches: Box::new(batches), sorted_by })
}

/// The rows of some files, in the order of those of some columns that are there.
fn sorted_rows(files: &[FileRef], by: &[String]) -> Result<Rows<'static>> {
    let mut batches = Vec::new();
    for file in files {
        batches.extend(parquet::read_whole(file)?);
    }
    let schemas: Vec<SchemaRef> = batches.iter().map(RecordBatch::schema).collect();
    let schema = united(&schemas);
    let whole = batches.iter().map(|batch| in_schema(batch, &schema));
    let rows = concat_batches(&schema, &whole.collect::<Result<Vec<_>>>()?)?;
    // They are held twice at most.
    drop(batches);
    let by = present(&schema, by);
    let column = |name: &String| {
        let values = rows.column_by_name(name).map(Arc::clone)?;
        Some(SortColumn { values, options: None })
    };
    let columns: Vec<SortColumn> = by.iter().filter_map(column).collect();
    let order = lexsort_to_indices(&columns, None)?;
    Ok(Rows::of(take_record_batch(&rows, &order)?, by))
}

/// Deletes what no version within the retention has. The table is as it was committed last then.
async fn vacuum(
    directory: &Path,
    table: DeltaTable,
    retention: Duration,
    dry_run: bool,
) -> Result<(DeltaTable, usize)> {
    let name = directory.display().to_string();
    let fail = |e: deltalake_core::DeltaTableError| LakeError::delta(&name, "vacuuming", &e);
    let retention = chrono::Duration::from_std(retention)
        .map_err(|_| LakeError::internal("a retention is longer than time itself"))?;
    let (table, metrics) = table
        .vacuum()
        .with_retention_period(retention)
        .with_enforce_retention_duration(false)
        .with_dry_run(dry_run)
        .await
        .map_err(fail)?;
    Ok((table, metrics.files_deleted.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: usize, size: u64, rows: u64, is_sorted: bool) -> Part {
        let file = FileRef {
            name: format!("{name}"),
            path: format!("{name}").into(),
            size,
            modified_ns: 0,
            partition_values: Vec::new(),
        };
        Part { file, rows, is_sorted, files: 1, bytes: size }
    }

    fn planned(parts: &[Part]) -> Vec<(Way, Range<usize>)> {
        steps(parts, &FileSizes::default()).into_iter().map(|step| (step.way, step.parts)).collect()
    }

    #[test]
    fn only_small_neighbours_are_put_together_up_to_a_size() {
        let FileSizes { sorted: FileSize { bytes: large, rows: many }, .. } = FileSizes::default();
        let small = large / 5;
        let sizes = [small, small, large, small, large, small, small, small, small, small, small];
        let parts: Vec<Part> =
            sizes.iter().enumerate().map(|(number, size)| part(number, *size, 10, false)).collect();
        assert_eq!(planned(&parts), [(Way::Sort, 5..10), (Way::Sort, 0..2)]);
        let parts: Vec<Part> = (0..3).map(|number| part(number, 1, many / 2 - 1, false)).collect();
        assert_eq!(planned(&parts), [(Way::Sort, 0..2)], "two fit, the third would be alone");
    }

    #[test]
    fn sorted_files_are_merged_when_there_are_some_and_the_last_one_is_full() {
        let FileSizes { sorted, merged } = FileSizes::default();
        let full = |number| part(number, sorted.bytes / 2, sorted.rows, true);
        let tail = |number, is_sorted| part(number, 1, 1, is_sorted);
        let mut parts: Vec<Part> = (0..3).map(full).collect();
        assert_eq!(planned(&parts), []);
        parts.push(tail(3, true));
        assert_eq!(planned(&parts), [], "the last one is put together with others first");
        parts.push(tail(4, false));
        assert_eq!(planned(&parts), [(Way::Sort, 3..5)]);
        parts.extend([full(5), full(6)]);
        assert_eq!(planned(&parts), [(Way::Sort, 3..5), (Way::Merge, 0..6)]);
        parts[2].is_sorted = false;
        assert_eq!(planned(&parts), [(Way::Sort, 3..5)], "three are left side by side");
        // No more than fit, and none that is large already.
        let mut parts: Vec<Part> = (0..12).map(full).collect();
        parts.insert(0, part(12, merged.bytes / 2, 10, true));
        assert_eq!(planned(&parts), [(Way::Merge, 9..13), (Way::Merge, 1..9)]);
        let parts: Vec<Part> = (0..40).map(|number| part(number, sorted.bytes / 2, 1, true)).collect();
        assert_eq!(planned(&parts).len(), 5);
        let narrow = FileSizes { merged: FileSize { bytes: u64::MAX, rows: u64::MAX }, sorted };
        let runs: Vec<Range<usize>> = steps(&parts, &narrow).into_iter().map(|step| step.parts).collect();
        assert_eq!(runs, [32..40, 16..32, 0..16], "so many are read at a time");
    }
}
