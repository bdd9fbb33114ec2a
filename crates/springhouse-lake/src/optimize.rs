//! The layout of stream tables: few files, the rows of an entity side by side, so that a training set reads little more than
//! the rows it needs.
//!
//! A flush makes a file every few seconds, in order of arrival. Compaction takes runs of small files, sorts their rows by
//! entity and time, and puts one file in their place, in one commit that changes no data (`dataChange: false`): every
//! reader sees the rows once, before and after and at every moment between, and a kill leaves the old files or the new one.
//! Offsets stay with their rows, so positions, stamps and answers do not change. Old files stay until they are vacuumed.

use crate::delta;
use crate::error::{LakeError, Result};
use crate::lake::Lake;
use crate::progress::{Progress, tell};
use crate::source::location::FileRef;
use crate::source::parquet;
use crate::stream::OFFSET_COLUMN;
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use deltalake_core::DeltaTable;
use springhouse_core::Definitions;
use springhouse_core::definition::Source;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A file is small, and worth putting together with others, below half of this.
const FILE_BYTES: u64 = 128 << 20;
/// Most rows of one file; they are sorted in memory.
const FILE_ROWS_MAX: u64 = 1_000_000;

/// What to do with a stream table.
#[derive(Clone, Debug, Default)]
pub struct OptimizeRequest {
    /// The columns that rows are sorted by, before the event time: the entity's key.
    pub cluster_by: Vec<String>,
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
        let listed = delta::files(self.project(), &directory, &table)?;
        let mut outcome = OptimizeOutcome {
            files_before: listed.files.len(),
            files_after: listed.files.len(),
            ..OptimizeOutcome::default()
        };
        let mut with_rows = Vec::with_capacity(listed.files.len());
        for file in listed.files {
            let rows = parquet::open(&file)?.metadata().file_metadata().num_rows().unsigned_abs();
            with_rows.push((file, rows));
        }
        let runs = runs(with_rows);
        let total: u64 = runs.iter().flatten().map(|(file, _)| file.size).sum();
        for run in runs {
            outcome.files_rewritten += run.len();
            outcome.files_after -= run.len() - 1;
            outcome.rows += run.iter().map(|(_, rows)| rows).sum::<u64>();
            outcome.bytes_before += run.iter().map(|(file, _)| file.size).sum::<u64>();
            if !request.dry_run {
                let files: Vec<FileRef> = run.into_iter().map(|(file, _)| file).collect();
                let (sorted, by) =
                    crate::training::blocking(|| sorted_rows(source, &files, &request.cluster_by))?;
                outcome.bytes_after += delta::replace(&directory, &mut table, &files, &sorted, &by).await?;
            }
            tell(progress, "compacting", outcome.bytes_before, total)?;
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

/// Runs of small files that are next to each other in the order of their offsets; two or more each.
fn runs(files: Vec<(FileRef, u64)>) -> Vec<Vec<(FileRef, u64)>> {
    let mut runs: Vec<Vec<(FileRef, u64)>> = vec![Vec::new()];
    let (mut bytes, mut rows) = (0, 0);
    for (file, file_rows) in files {
        let is_small = file.size < FILE_BYTES / 2 && file_rows < FILE_ROWS_MAX / 2;
        if !is_small || bytes + file.size > FILE_BYTES || rows + file_rows > FILE_ROWS_MAX {
            runs.push(Vec::new());
            (bytes, rows) = (0, 0);
        }
        if is_small {
            (bytes, rows) = (bytes + file.size, rows + file_rows);
            if let Some(run) = runs.last_mut() {
                run.push((file, file_rows));
            }
        }
    }
    runs.retain(|run| run.len() > 1);
    runs
}

/// The rows of some files, by key, event time and offset; and the columns that these are.
fn sorted_rows(
    source: &Source,
    files: &[FileRef],
    cluster_by: &[String],
) -> Result<(RecordBatch, Vec<String>)> {
    let mut batches = Vec::new();
    for file in files {
        batches.extend(parquet::read_whole(file)?);
    }
    // A file from before a column came has nulls there.
    let mut fields: Vec<Arc<Field>> = Vec::new();
    for field in batches.iter().flat_map(|batch| batch.schema().fields().to_vec()) {
        if !fields.iter().any(|known| known.name() == field.name()) {
            fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
        }
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let whole = batches.iter().map(|batch| {
        let column = |field: &Arc<Field>| match batch.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), batch.num_rows()),
        };
        let columns: Vec<ArrayRef> = schema.fields().iter().map(column).collect();
        RecordBatch::try_new(Arc::clone(&schema), columns)
    });
    let rows = concat_batches(&schema, &whole.collect::<Result<Vec<_>, _>>()?)?;
    // They are held twice at most.
    drop(batches);
    let names = cluster_by.iter().map(String::as_str).chain([source.event_time.as_str(), OFFSET_COLUMN]);
    let (by, columns): (Vec<String>, Vec<SortColumn>) = names
        .filter_map(|name| Some((name, rows.column_by_name(name)?)))
        .filter(|(_, column)| !column.data_type().is_nested())
        .map(|(name, column)| (name.to_owned(), SortColumn { values: Arc::clone(column), options: None }))
        .unzip();
    let order = lexsort_to_indices(&columns, None)?;
    Ok((take_record_batch(&rows, &order)?, by))
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

    fn file(name: u32, size: u64) -> FileRef {
        FileRef {
            name: format!("{name}"),
            path: format!("{name}").into(),
            size,
            modified_ns: 0,
            partition_values: Vec::new(),
        }
    }

    #[test]
    fn only_small_neighbours_are_put_together_up_to_a_size() {
        let (small, large) = (FILE_BYTES / 5, FILE_BYTES);
        let sizes = [small, small, large, small, large, small, small, small, small, small, small];
        let files = sizes.iter().enumerate().map(|(i, size)| (file(i as u32, *size), 10));
        let names: Vec<Vec<String>> = runs(files.collect())
            .iter()
            .map(|run| run.iter().map(|(f, _)| f.name.clone()).collect())
            .collect();
        assert_eq!(names, [vec!["0", "1"], vec!["5", "6", "7", "8", "9"]]);
        let many = (0..3).map(|i| (file(i, 1), FILE_ROWS_MAX / 2 - 1));
        assert_eq!(runs(many.collect()).len(), 1, "two fit, the third would be alone");
    }
}
