//! Stream tables: what was pushed, kept in one Delta table per source below `<tables>/<source>/`, and dead letters below
//! `<tables>/_dead_letters/<source>/`.
//!
//! Columns of a stream table: the declared ones (the event time already clamped), then `_known_at`, `_offset` and
//! `_event_id` (16 bytes, big endian). Any Delta reader opens them (reader version 1).

use crate::delta::{self, Appended, TableColumn};
use crate::error::{LakeError, Result};
use crate::lake::Lake;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Int64Array, RecordBatch,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema};
use springhouse_core::definition::Source;
use springhouse_core::{Micros, ValueType, offset_of, partition_of};
use springhouse_kernel::{arrow_type, value_type_of};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The column with the moment of a row's append.
pub const KNOWN_AT_COLUMN: &str = "_known_at";
/// The column with a row's log offset.
pub const OFFSET_COLUMN: &str = "_offset";
/// The column with the hash of a row's event id or idempotency key.
pub const EVENT_ID_COLUMN: &str = "_event_id";

/// Rows of a stream to be kept, in log order. Columns: the source's declared columns.
#[derive(Debug)]
pub struct StreamAppend {
    /// Declared columns, then nothing else.
    pub rows: RecordBatch,
    /// Per row: clamped event time.
    pub event_time: Vec<Micros>,
    /// Per row.
    pub known_at: Vec<Micros>,
    /// Per row: its log offset.
    pub offset: Vec<i64>,
    /// Per row: hash of its idempotency key or event id, if it has one.
    pub event_id: Vec<Option<u128>>,
}

impl Lake {
    /// Where a stream's rows are kept.
    pub fn stream_table(&self, source: &str) -> PathBuf {
        self.tables().join(source)
    }

    fn dead_letter_table(&self, source: &str) -> PathBuf {
        self.tables().join("_dead_letters").join(source)
    }

    /// Appends stream rows exactly once: rows at or below the table's last appended offset are skipped (Delta application
    /// transaction `springhouse/<source>`, version = last offset). Returns the last offset in the table.
    ///
    /// # Errors
    /// `stream_append_invalid` when the vectors differ in length or offsets don't rise; `stream_type_changed`;
    /// `delta_failed`; `file_unwritable`.
    pub async fn append_stream(&self, source: &Source, append: StreamAppend) -> Result<i64> {
        let columns = stream_columns(source);
        let batch = stream_batch(source, &append, &columns)?;
        let rows_after = |position: i64| -> Result<Option<(RecordBatch, i64)>> {
            let first = append.offset.partition_point(|offset| *offset <= position);
            let Some(last) = append.offset[first..].last() else { return Ok(None) };
            Ok(Some((batch.slice(first, batch.num_rows() - first), *last)))
        };
        let directory = self.stream_table(&source.name);
        self.append_to(directory, &columns, &stream_app(&source.name), &rows_after).await
    }

    /// The last offset in the stream's table; -1 when there is none.
    ///
    /// # Errors
    /// `delta_failed` when the table can't be read.
    pub async fn stream_position(&self, source: &Source) -> Result<i64> {
        delta::position_in(&self.stream_table(&source.name), &stream_app(&source.name)).await
    }

    /// Appends rows to the dead-letter table of a source exactly once: a second append with a `last_offset` at or below
    /// the stored one changes nothing.
    ///
    /// # Errors
    /// `delta_failed`, `file_unwritable`.
    pub async fn append_dead_letters(
        &self,
        source: &str,
        letters: RecordBatch,
        last_offset: i64,
    ) -> Result<()> {
        let columns = letter_columns(&letters)?;
        let rows_after = |position: i64| -> Result<Option<(RecordBatch, i64)>> {
            let is_new = position < last_offset && letters.num_rows() > 0;
            Ok(is_new.then(|| (letters.clone(), last_offset)))
        };
        let app = format!("springhouse/dead_letters/{source}");
        self.append_to(self.dead_letter_table(source), &columns, &app, &rows_after).await?;
        Ok(())
    }

    /// The newest dead letters in the lake, at most `limit`, oldest first.
    ///
    /// # Errors
    /// `delta_failed`, `file_corrupt`.
    pub async fn read_dead_letters(&self, source: &str, limit: usize) -> Result<Vec<RecordBatch>> {
        let directory = self.dead_letter_table(source);
        let Some(table) = delta::open(&directory).await? else { return Ok(Vec::new()) };
        let files = delta::files(self.project(), &directory, &table)?;
        let mut batches = Vec::new();
        let mut rows = 0;
        let mut files = files.files;
        // Letters of one moment go by position, with which file names begin.
        files.sort_by(|a, b| (a.modified_ns, &a.name).cmp(&(b.modified_ns, &b.name)));
        for file in files.iter().rev() {
            if rows >= limit {
                break;
            }
            let mut of_file = crate::source::parquet::read_whole(file)?;
            of_file.reverse();
            for batch in of_file {
                let keep = batch.num_rows().min(limit - rows);
                if keep > 0 {
                    rows += keep;
                    batches.push(batch.slice(batch.num_rows() - keep, keep));
                }
            }
        }
        batches.reverse();
        Ok(batches)
    }

    /// Appends rows that workers have read from a topic exactly once: the numbers of rows are [`springhouse_core::topic_seq`]s,
    /// and of each partition in `reached` those below the offset that the table already has are skipped. `reached` says, by
    /// partition, the offset after the last that was read. One commit. Returns the offsets that the table has now.
    ///
    /// # Errors
    /// As [`Self::append_stream`].
    pub async fn append_topic(
        &self,
        source: &Source,
        append: &StreamAppend,
        reached: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, i64>> {
        let columns = stream_columns(source);
        let batch = stream_batch(source, append, &columns)?;
        let directory = self.stream_table(&source.name);
        self.append_partitions(
            directory,
            &columns,
            &stream_app(&source.name),
            &batch,
            &append.offset,
            reached,
        )
        .await
    }

    /// Appends dead letters of messages that workers have read, exactly once as [`Self::append_topic`] does; `numbers` are the
    /// messages'.
    ///
    /// # Errors
    /// `delta_failed`, `file_unwritable`.
    pub async fn append_topic_letters(
        &self,
        source: &str,
        letters: &RecordBatch,
        numbers: &[i64],
        reached: &BTreeMap<i32, i64>,
    ) -> Result<()> {
        let columns = letter_columns(letters)?;
        let app = format!("springhouse/dead_letters/{source}");
        self.append_partitions(self.dead_letter_table(source), &columns, &app, letters, numbers, reached)
            .await?;
        Ok(())
    }

    /// By partition, the offset up to which the table of a source has its topic, and where it begins; partitions that no worker
    /// has begun are not there.
    ///
    /// # Errors
    /// `delta_failed` when the table can't be read; `stream_has_other_rows` when they were read by one process, without workers.
    pub async fn topic_positions(&self, source: &Source) -> Result<TopicPositions> {
        let mut positions = TopicPositions::default();
        let Some(table) = delta::open(&self.stream_table(&source.name)).await? else { return Ok(positions) };
        let app = stream_app(&source.name);
        if delta::position(&table, &app).await? >= 0 {
            return Err(LakeError::new(
                "stream_has_other_rows",
                format!(
                    "the lake's table of source `{}` has rows that were read by `springhouse serve`, whose places in the topic it does \
                     not know",
                    source.name
                ),
            )
            .hint("give the source another name, with the old table as its history, or take `workers` out of `kafka:` in springhouse.yaml"));
        }
        for partition in 0..delta::position(&table, &partitions_app(&app)).await?.max(0) as i32 {
            let next = delta::position(&table, &partition_app(&app, partition)).await?;
            if next >= 0 {
                positions.next.insert(partition, next);
                let first = delta::position(&table, &first_app(&app, partition)).await?;
                positions.first.insert(partition, first.max(0));
            }
        }
        Ok(positions)
    }

    /// Says where reading partitions begins, once and for all and in one commit; those that were begun before stay as they are.
    ///
    /// # Errors
    /// As [`Self::topic_positions`].
    pub async fn begin_partitions(&self, source: &Source, first: &BTreeMap<i32, i64>) -> Result<()> {
        let app = stream_app(&source.name);
        let count = partitions_app(&app);
        let apps: Vec<String> =
            first.keys().map(|partition| partition_app(&app, *partition)).chain([count]).collect();
        let begin = |versions: &[i64]| -> Result<Option<Appended>> {
            let mut transactions = Vec::new();
            let mut end = -1;
            for ((partition, first), _) in first.iter().zip(versions).filter(|(_, version)| **version < 0) {
                transactions.push((partition_app(&app, *partition), *first));
                transactions.push((first_app(&app, *partition), *first));
                end = i64::from(*partition) + 1;
            }
            if versions.last().is_some_and(|known| *known < end) {
                transactions.push((partitions_app(&app), end));
            }
            Ok((!transactions.is_empty()).then_some(Appended { rows: None, transactions }))
        };
        let directory = self.stream_table(&source.name);
        self.append_all_to(directory, &stream_columns(source), &apps, &begin).await?;
        Ok(())
    }

    /// Appends the rows of partitions that the table does not have yet.
    async fn append_partitions(
        &self,
        directory: PathBuf,
        columns: &[TableColumn],
        app: &str,
        batch: &RecordBatch,
        numbers: &[i64],
        reached: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, i64>> {
        let apps: Vec<String> = reached.keys().map(|partition| partition_app(app, *partition)).collect();
        let append_after = |versions: &[i64]| -> Result<Option<Appended>> {
            let has: BTreeMap<i32, i64> = reached.keys().copied().zip(versions.iter().copied()).collect();
            let is_new = |number: &i64| {
                let place = has.get(&partition_of(*number));
                place.is_some_and(|next| offset_of(*number) >= *next)
            };
            let moved = apps.iter().zip(reached.values()).zip(versions);
            let transactions: Vec<(String, i64)> = moved
                .filter(|((_, reached), has)| *reached > *has)
                .map(|((app, reached), _)| (app.clone(), *reached))
                .collect();
            if transactions.is_empty() {
                return Ok(None);
            }
            let keep: BooleanArray = numbers.iter().map(|number| Some(is_new(number))).collect();
            let kept: Vec<i64> = numbers.iter().copied().filter(is_new).collect();
            let rows = match (kept.first(), kept.last()) {
                (Some(first), Some(last)) => {
                    let rows = arrow::compute::filter_record_batch(batch, &keep)?;
                    Some((rows, first - 1, *last))
                }
                _ => None,
            };
            Ok(Some(Appended { rows, transactions }))
        };
        let versions = self.append_all_to(directory, columns, &apps, &append_after).await?;
        Ok(reached.keys().copied().zip(versions).collect())
    }

    async fn append_all_to(
        &self,
        directory: PathBuf,
        columns: &[TableColumn],
        apps: &[String],
        append_after: delta::AppendAfter<'_>,
    ) -> Result<Vec<i64>> {
        let mut open = self.open_tables().lock().await;
        let cached = open.remove(&directory);
        let (table, versions) = delta::append_all(&directory, cached, columns, apps, append_after).await?;
        open.insert(directory, table);
        Ok(versions)
    }

    pub(crate) async fn append_to(
        &self,
        directory: PathBuf,
        columns: &[TableColumn],
        app: &str,
        rows_after: delta::RowsAfter<'_>,
    ) -> Result<i64> {
        let mut open = self.open_tables().lock().await;
        let cached = open.remove(&directory);
        let (table, position) = delta::append(&directory, cached, columns, app, rows_after).await?;
        open.insert(directory, table);
        Ok(position)
    }
}

fn stream_app(source: &str) -> String {
    format!("springhouse/{source}")
}

/// Its version is the offset after the last that the table has of a partition.
fn partition_app(app: &str, partition: i32) -> String {
    format!("{app}/partition/{partition}")
}

/// Its version is the offset at which the table begins to have a partition.
fn first_app(app: &str, partition: i32) -> String {
    format!("{app}/first/{partition}")
}

/// Its version is above the number of every partition that was begun.
fn partitions_app(app: &str) -> String {
    format!("{app}/partitions")
}

fn letter_columns(letters: &RecordBatch) -> Result<Vec<TableColumn>> {
    let column = |field: &Arc<Field>| {
        let value_type = value_type_of(field.data_type()).ok_or_else(|| {
            LakeError::internal(format!("dead letters have no column type for {}", field.data_type()))
        })?;
        Ok(TableColumn { name: field.name().clone(), value_type })
    };
    letters.schema().fields().iter().map(column).collect()
}

/// How far the table of a source has its topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicPositions {
    /// By partition, the offset after the last that was read.
    pub next: BTreeMap<i32, i64>,
    /// By partition, the offset at which reading began.
    pub first: BTreeMap<i32, i64>,
}

fn stream_columns(source: &Source) -> Vec<TableColumn> {
    let declared =
        source.columns.iter().map(|c| TableColumn { name: c.name.clone(), value_type: c.value_type.clone() });
    let own = [
        (KNOWN_AT_COLUMN, ValueType::Timestamp),
        (OFFSET_COLUMN, ValueType::Int64),
        (EVENT_ID_COLUMN, ValueType::Bytes),
    ];
    declared.chain(own.map(|(name, value_type)| TableColumn { name: name.into(), value_type })).collect()
}

fn stream_batch(source: &Source, append: &StreamAppend, columns: &[TableColumn]) -> Result<RecordBatch> {
    let rows = append.rows.num_rows();
    let lengths =
        [append.event_time.len(), append.known_at.len(), append.offset.len(), append.event_id.len()];
    if lengths.iter().any(|length| *length != rows) || !append.offset.is_sorted_by(|a, b| a < b) {
        return Err(LakeError::new(
            "stream_append_invalid",
            format!(
                "an append to `{}` has {rows} rows with {lengths:?} stamps, or offsets that don't rise",
                source.name
            ),
        ));
    }
    let mut event_ids = BinaryBuilder::with_capacity(rows, rows * 16);
    for id in &append.event_id {
        event_ids.append_option(id.map(u128::to_be_bytes));
    }
    let times = |values: &[Micros]| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values.to_vec()).with_timezone("UTC"))
    };
    let mut fields = Vec::with_capacity(columns.len());
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    for column in columns {
        let array = match column.name.as_str() {
            KNOWN_AT_COLUMN => times(&append.known_at),
            OFFSET_COLUMN => Arc::new(Int64Array::from(append.offset.clone())),
            EVENT_ID_COLUMN => Arc::new(event_ids.finish()),
            name if name == source.event_time => times(&append.event_time),
            name => match append.rows.column_by_name(name) {
                Some(array) => storable(array, &column.value_type)?,
                None => storable(&new_null_array(&arrow_type(&column.value_type), rows), &column.value_type)?,
            },
        };
        fields.push(Field::new(&column.name, array.data_type().clone(), true));
        arrays.push(array);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

/// A column as Delta has it: a vector is a list there.
fn storable(array: &ArrayRef, value_type: &ValueType) -> Result<ArrayRef> {
    if !matches!(value_type, ValueType::Vector(_)) {
        return Ok(Arc::clone(array));
    }
    let DataType::FixedSizeList(field, _) = array.data_type() else {
        return Err(LakeError::internal("a vector column is no fixed-size list"));
    };
    debug_assert!(array.as_fixed_size_list_opt().is_some());
    Ok(arrow::compute::cast(array, &DataType::List(Arc::clone(field)))?)
}
