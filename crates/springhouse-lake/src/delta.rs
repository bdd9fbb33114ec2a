//! Delta tables: opening, the files of a version, and appends that happen exactly once.
//!
//! An append names an application transaction (`springhouse/<source>`) whose version is the last offset appended, in the
//! same commit as the rows. Delta does not skip a replay by itself, so the stored version is read first and rows at or
//! below it are left out; two writers that both read the old version meet at the commit, where one of them fails, reads
//! again and finds its rows already there.

use crate::error::{LakeError, Result};
use crate::layout::{self, Rows};
use crate::partial::{PARTIAL, discard, hold};
use crate::source::location::{FileRef, file_name, file_ref, modified_ns};
use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use deltalake_core::checkpoints::create_checkpoint;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake_core::kernel::{
    Action, Add, ArrayType, DataType as DeltaType, MetadataExt, StructField, StructType, Transaction,
};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::{DeltaTable, DeltaTableError};
use springhouse_core::ValueType;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// How often an append is tried again after another writer's commit came first.
const COMMIT_ATTEMPTS_MAX: usize = 20;
/// Commits that are looked through, the newest first, for the version of an application transaction; behind compactions alone it
/// lies deeper, and the library looks for it.
const NEWEST_COMMITS: usize = 16;

/// Bytes of a file that are written at a time: what was written in small pieces is in small pages in memory, and a training set from
/// there takes a fifth longer.
const WRITE_BYTES: usize = 4 << 20;

/// What the names of files begin with that are not written to their end; readers of Delta tables leave out what does with `_`.
pub(crate) const PARTIAL_PREFIX: &str = "_part-";

/// The files of one version of a Delta table.
#[derive(Clone, Debug)]
pub(crate) struct DeltaFiles {
    /// The version.
    pub version: i64,
    /// Its files, sorted by name.
    pub files: Vec<FileRef>,
}

/// A column of a table that Springhouse writes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TableColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub value_type: ValueType,
}

/// The Delta type of a value type.
fn delta_type(value_type: &ValueType) -> Result<DeltaType> {
    Ok(match value_type {
        ValueType::Bool => DeltaType::BOOLEAN,
        ValueType::Int32 => DeltaType::INTEGER,
        ValueType::Int64 => DeltaType::LONG,
        ValueType::Float32 => DeltaType::FLOAT,
        ValueType::Float64 => DeltaType::DOUBLE,
        ValueType::String | ValueType::Json => DeltaType::STRING,
        ValueType::Bytes => DeltaType::BINARY,
        ValueType::Timestamp => DeltaType::TIMESTAMP,
        ValueType::Date => DeltaType::DATE,
        ValueType::Decimal { precision, scale } => DeltaType::decimal(*precision, scale.unsigned_abs())
            .map_err(|e| LakeError::internal(format!("a decimal type has no Delta type: {e}")))?,
        ValueType::List(inner) => ArrayType::new(delta_type(inner)?, true).into(),
        ValueType::Vector(_) => ArrayType::new(DeltaType::FLOAT, true).into(),
        ValueType::Map(..) => {
            return Err(LakeError::internal("a column of a table can't be a map"));
        }
    })
}

fn delta_schema(columns: &[TableColumn]) -> Result<Vec<StructField>> {
    columns.iter().map(|c| Ok(StructField::nullable(&c.name, delta_type(&c.value_type)?))).collect()
}

/// Opens the Delta table in a local directory; None when there is none.
pub(crate) async fn open(directory: &Path) -> Result<Option<DeltaTable>> {
    open_as(directory, None).await
}

/// The same in an earlier version.
pub(crate) async fn open_version(directory: &Path, version: i64) -> Result<Option<DeltaTable>> {
    open_as(directory, Some(version.unsigned_abs())).await
}

async fn open_as(directory: &Path, version: Option<u64>) -> Result<Option<DeltaTable>> {
    if !directory.join("_delta_log").is_dir() {
        return Ok(None);
    }
    let name = directory.display().to_string();
    let fail = |e: DeltaTableError| LakeError::delta(&name, "opening", &e);
    let absolute = std::fs::canonicalize(directory).map_err(|e| LakeError::unreadable(directory, &e))?;
    let url = url::Url::from_directory_path(&absolute)
        .map_err(|()| LakeError::internal(format!("`{name}` makes no URL")))?;
    let opened = match version {
        None => deltalake_core::open_table(url).await,
        Some(version) => deltalake_core::open_table_with_version(url, version).await,
    };
    match opened {
        Ok(table) => Ok(Some(table)),
        // A crash between making the directory and the first commit leaves an empty log: no table yet.
        Err(DeltaTableError::NotATable(_)) => Ok(None),
        Err(error) => Err(fail(error)),
    }
}

/// The files of the loaded version of `table`, which lies in `directory`.
pub(crate) fn files(project: &Path, directory: &Path, table: &DeltaTable) -> Result<DeltaFiles> {
    let name = file_name(project, directory);
    let state = table.snapshot().map_err(|e| LakeError::delta(&name, "reading", &e))?;
    if state.metadata().configuration().get("delta.columnMapping.mode").is_some_and(|mode| mode != "none") {
        return Err(unsupported(&name, "column mapping"));
    }
    let mut found = Vec::new();
    for view in state.log_data() {
        if view.deletion_vector_descriptor().is_some() {
            return Err(unsupported(&name, "deletion vectors"));
        }
        let relative = view.path().into_owned();
        let path = match relative.strip_prefix("file://") {
            Some(absolute) => PathBuf::from(absolute),
            None => directory.join(&relative),
        };
        let mut partition_values: Vec<_> = view.partition_values_map().into_iter().collect();
        partition_values.sort();
        let file = FileRef {
            name: file_name(project, &path),
            path,
            size: view.size().unsigned_abs(),
            modified_ns: view.modification_time().saturating_mul(1_000_000),
            partition_values,
        };
        found.push(file);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(DeltaFiles { version: state.version() as i64, files: found })
}

fn unsupported(table: &str, what: &str) -> LakeError {
    LakeError::new("delta_unsupported", format!("the Delta table `{table}` uses {what}, which can't be read"))
        .hint(format!("rewrite the table without {what}, for example with an OPTIMIZE or a copy"))
}

/// The version of an application transaction; -1 when there is none.
pub(crate) async fn position(table: &DeltaTable, app: &str) -> Result<i64> {
    let name = table.table_url().to_string();
    let fail = |e: DeltaTableError| LakeError::delta(&name, "reading", &e);
    let state = table.snapshot().map_err(fail)?;
    let version = state.transaction_version(table.log_store().as_ref(), app).await;
    Ok(version.map_err(|e| LakeError::delta(&name, "reading", &e))?.unwrap_or(-1))
}

/// The same of the table in `directory`, without opening it where one of its newest commits tells; -1 too when there is no table.
pub(crate) async fn position_in(directory: &Path, app: &str) -> Result<i64> {
    if let Some(version) = position_in_newest(&directory.join("_delta_log"), app) {
        return Ok(version);
    }
    match open(directory).await? {
        None => Ok(-1),
        Some(table) => position(&table, app).await,
    }
}

/// What the newest commit that names the application transaction says, or that none does of them all; none when it is not among
/// the newest, or when one of them can't be read: the library then tells why.
fn position_in_newest(log: &Path, app: &str) -> Option<i64> {
    let version_of = |name: &std::ffi::OsStr| -> Option<u64> {
        let digits = name.to_str()?.strip_suffix(".json")?;
        if digits.len() == 20 { digits.parse().ok() } else { None }
    };
    let mut versions = Vec::new();
    for entry in std::fs::read_dir(log).ok()? {
        versions.extend(version_of(&entry.ok()?.file_name()));
    }
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let newest = *versions.first()?;
    // One after the other: of what is before a gap only a checkpoint tells.
    let without_gap = versions.iter().zip(0..).take_while(|(version, back)| **version + back == newest);
    for (version, _) in without_gap.take(NEWEST_COMMITS) {
        let commit = std::fs::read(log.join(format!("{version:020}.json"))).ok()?;
        let actions = serde_json::Deserializer::from_slice(&commit).into_iter::<Named>();
        let mut found = None;
        for action in actions {
            found = action.ok()?.txn.filter(|txn| txn.app_id == app).map(|txn| txn.version).or(found);
        }
        if found.is_some() || *version == 0 {
            return found.or(Some(-1));
        }
    }
    None
}

/// An action of a commit, of which only an application transaction counts.
#[derive(serde::Deserialize)]
struct Named {
    txn: Option<NamedTransaction>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamedTransaction {
    app_id: String,
    version: i64,
}

/// What to append: the rows from a position on, with the last position among them. None when nothing is left.
pub(crate) type RowsAfter<'a> = &'a (dyn Fn(i64) -> Result<Option<(RecordBatch, i64)>> + Sync);

/// One commit: rows, if there are any, and what application transactions become.
pub(crate) struct Appended {
    /// The rows, and what their file is named by: the position before the first and of the last.
    pub rows: Option<(RecordBatch, i64, i64)>,
    /// Application transaction and its version.
    pub transactions: Vec<(String, i64)>,
}

/// What to append, given the versions found of some application transactions (-1 for none). None when nothing is left.
pub(crate) type AppendAfter<'a> = &'a (dyn Fn(&[i64]) -> Result<Option<Appended>> + Sync);

/// Appends to the table in `directory` (made when it is not there) the rows that `rows_after` gives for the position
/// found in it. Returns the table and the position after the append.
pub(crate) async fn append(
    directory: &Path,
    cached: Option<DeltaTable>,
    columns: &[TableColumn],
    app: &str,
    rows_after: RowsAfter<'_>,
) -> Result<(DeltaTable, i64)> {
    let append_after = |versions: &[i64]| -> Result<Option<Appended>> {
        let Some((rows, last)) = rows_after(versions[0])? else { return Ok(None) };
        let transactions = vec![(app.to_owned(), last)];
        Ok(Some(Appended { rows: Some((rows, versions[0], last)), transactions }))
    };
    let apps = [app.to_owned()];
    let (table, versions) = append_all(directory, cached, columns, &apps, &append_after).await?;
    Ok((table, versions[0]))
}

/// The same for several application transactions at once, each with a position of its own. Returns the table and their versions
/// after the append.
pub(crate) async fn append_all(
    directory: &Path,
    cached: Option<DeltaTable>,
    columns: &[TableColumn],
    apps: &[String],
    append_after: AppendAfter<'_>,
) -> Result<(DeltaTable, Vec<i64>)> {
    let name = directory.display().to_string();
    let mut table = cached;
    for _ in 0..COMMIT_ATTEMPTS_MAX {
        let mut current = match table.take() {
            Some(mut table) => {
                table.update_state().await.map_err(|e| LakeError::delta(&name, "reading", &e))?;
                table
            }
            None => match open(directory).await? {
                Some(table) => table,
                None => match create(directory, columns).await? {
                    Some(table) => table,
                    // Another process made it just now.
                    None => continue,
                },
            },
        };
        let mut versions = Vec::with_capacity(apps.len());
        for app in apps {
            versions.push(position(&current, app).await?);
        }
        let Some(appended) = append_after(&versions)? else { return Ok((current, versions)) };
        let mut actions =
            widen(&current, &name, columns)?.map(Action::Metadata).into_iter().collect::<Vec<_>>();
        if let Some((rows, after, last)) = &appended.rows {
            let rows = Rows::of(rows.clone(), order_of(rows));
            actions.push(Action::Add(write_file(directory, rows, Some((*after + 1, *last)))?));
        }
        let mut properties = CommitProperties::default()
            // Our own loop reads the position again; the commit's must not guess.
            .with_max_retries(0);
        for (app, version) in &appended.transactions {
            properties = properties.with_application_transaction(Transaction::new(app, *version));
        }
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        let state = current.snapshot().map_err(|e| LakeError::delta(&name, "reading", &e))?;
        let commit = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(state), current.log_store(), operation)
            .await;
        match commit {
            Ok(done) => {
                sync_commit(directory, done.version() as i64)?;
                current.state = Some(done.snapshot());
                let new = |app| appended.transactions.iter().find(|(name, _)| name == app);
                let after = apps.iter().zip(versions).map(|(app, old)| new(app).map_or(old, |(_, new)| *new));
                return Ok((current, after.collect()));
            }
            // Another writer was first: read again.
            Err(
                DeltaTableError::Transaction {
                    source:
                        TransactionError::CommitConflict(_)
                        | TransactionError::MaxCommitAttempts(_)
                        | TransactionError::VersionAlreadyExists(_),
                }
                | DeltaTableError::VersionAlreadyExists(_),
            ) => {}
            Err(error) => return Err(LakeError::delta(&name, "appending to", &error)),
        }
    }
    Err(LakeError::new(
        "delta_conflict",
        format!("appending to the Delta table `{name}` lost the race {COMMIT_ATTEMPTS_MAX} times"),
    )
    .hint("other processes append to the same table all the time; it is tried again"))
}

/// Puts one file in the place of others that have the same rows, in one commit that changes no data. Appends in between are no
/// conflict. Returns the new file.
pub(crate) async fn replace(
    project: &Path,
    directory: &Path,
    table: &mut DeltaTable,
    old: &[FileRef],
    rows: Rows<'_>,
) -> Result<FileRef> {
    let name = directory.display().to_string();
    let fail = |e: DeltaTableError| LakeError::delta(&name, "compacting", &e);
    let mut actions = removals(directory, table, old, false)?;
    let written = crate::training::blocking(|| write_file(directory, rows, None))?;
    let made = file_ref(project, directory.join(&written.path))?;
    actions.push(Action::Add(Add { data_change: false, ..written }));
    let operation = DeltaOperation::Optimize { predicate: None, target_size: 0 };
    let state = table.snapshot().map_err(fail)?;
    let done = CommitBuilder::from(CommitProperties::default())
        .with_actions(actions)
        .build(Some(state), table.log_store(), operation)
        .await
        .map_err(fail)?;
    sync_commit(directory, done.version() as i64)?;
    table.state = Some(done.snapshot());
    Ok(made)
}

/// Writes what all commits so far say to one file, so that who opens the table reads that instead of them.
pub(crate) async fn checkpoint(directory: &Path, table: &DeltaTable) -> Result<()> {
    let fail = |e: DeltaTableError| LakeError::delta(&directory.display().to_string(), "checkpointing", &e);
    let version = table.snapshot().map_err(fail)?.version();
    create_checkpoint(table, None).await.map_err(fail)?;
    // The second says that the first is there.
    sync_log(directory, &[&format!("{version:020}.checkpoint.parquet"), "_last_checkpoint"])
}

/// Takes files with their rows out of the table, in one commit; they stay on disk.
pub(crate) async fn remove(directory: &Path, table: &mut DeltaTable, old: &[FileRef]) -> Result<()> {
    let name = directory.display().to_string();
    let fail = |e: DeltaTableError| LakeError::delta(&name, "removing files from", &e);
    let actions = removals(directory, table, old, true)?;
    let state = table.snapshot().map_err(fail)?;
    let done = CommitBuilder::from(CommitProperties::default())
        .with_actions(actions)
        .build(Some(state), table.log_store(), DeltaOperation::Delete { predicate: None })
        .await
        .map_err(fail)?;
    sync_commit(directory, done.version() as i64)?;
    table.state = Some(done.snapshot());
    Ok(())
}

/// What takes files out of the table.
fn removals(directory: &Path, table: &DeltaTable, old: &[FileRef], data_change: bool) -> Result<Vec<Action>> {
    let name = directory.display().to_string();
    let state = table.snapshot().map_err(|e| LakeError::delta(&name, "reading", &e))?;
    let mut actions = Vec::with_capacity(old.len() + 1);
    for view in state.log_data() {
        let path = directory.join(view.path().as_ref());
        if old.iter().any(|file| file.path == path) {
            actions.push(Action::Remove(view.remove_action(data_change)));
        }
    }
    if actions.len() != old.len() {
        return Err(LakeError::internal(format!("files of `{name}` that are to be removed are not in it")));
    }
    Ok(actions)
}

/// The least and greatest offset of rows of a stream.
fn offsets(rows: &RecordBatch) -> Option<(i64, i64)> {
    let values = offset_column(rows)?;
    Some((arrow::compute::min(values)?, arrow::compute::max(values)?))
}

fn offset_column(rows: &RecordBatch) -> Option<&Int64Array> {
    rows.column_by_name(crate::stream::OFFSET_COLUMN)?.as_primitive_opt::<Int64Type>()
}

/// What rows that are appended are sorted by: their offsets, unless workers have read them from several partitions.
fn order_of(rows: &RecordBatch) -> Vec<String> {
    let is_sorted = offset_column(rows).is_some_and(|offsets| offsets.values().is_sorted());
    is_sorted.then(|| crate::stream::OFFSET_COLUMN.to_owned()).into_iter().collect()
}

async fn create(directory: &Path, columns: &[TableColumn]) -> Result<Option<DeltaTable>> {
    std::fs::create_dir_all(directory).map_err(|e| LakeError::unwritable(directory, &e))?;
    let name = directory.display().to_string();
    let absolute = std::fs::canonicalize(directory).map_err(|e| LakeError::unreadable(directory, &e))?;
    let made = deltalake_core::operations::create::CreateBuilder::new()
        .with_location(absolute.to_string_lossy())
        .with_columns(delta_schema(columns)?)
        .with_save_mode(SaveMode::ErrorIfExists)
        .await;
    match made {
        Ok(table) => {
            sync_commit(directory, 0)?;
            Ok(Some(table))
        }
        Err(_) if open(directory).await?.is_some() => Ok(None),
        Err(error) => Err(LakeError::delta(&name, "creating", &error)),
    }
}

/// The table's metadata with columns that it does not have yet; None when it has all.
fn widen(
    table: &DeltaTable,
    name: &str,
    columns: &[TableColumn],
) -> Result<Option<deltalake_core::kernel::Metadata>> {
    let fail = |e: DeltaTableError| LakeError::delta(name, "reading", &e);
    let state = table.snapshot().map_err(fail)?;
    let present = state.schema();
    let mut added = Vec::new();
    for field in delta_schema(columns)? {
        match present.field(field.name()) {
            None => added.push(field),
            Some(old) if old.data_type() == field.data_type() => {}
            Some(old) => {
                return Err(LakeError::new(
                    "stream_type_changed",
                    format!(
                        "column `{}` is {} in the Delta table `{name}`, and {} in the definitions",
                        field.name(),
                        old.data_type(),
                        field.data_type()
                    ),
                )
                .hint("a column's type can't change once rows were pushed; add a new column instead"));
            }
        }
    }
    if added.is_empty() {
        return Ok(None);
    }
    let fields = present.fields().cloned().chain(added);
    let schema = StructType::try_new(fields)
        .map_err(|e| LakeError::internal(format!("a widened schema is not valid: {e}")))?;
    let widened = state.metadata().clone().with_schema(&schema);
    Ok(Some(widened.map_err(|e| LakeError::delta(name, "reading", &e))?))
}

/// Writes the rows as one Parquet file, durable before its name is known to the log; the name tells these offsets, or those of the
/// rows.
fn write_file(directory: &Path, rows: Rows<'_>, named: Option<(i64, i64)>) -> Result<Add> {
    let (partial, mut file) = new_file(directory)?;
    let unwritable = |e: &dyn std::fmt::Display| LakeError::unwritable(&partial, e);
    let written = (|| {
        hold(&file);
        let (mut count, mut offsets) = (0, None);
        let seen = rows.batches.inspect(|batch| {
            let Ok(batch) = batch else { return };
            count += batch.num_rows();
            if let Some((low, high)) = self::offsets(batch) {
                let (least, greatest) = offsets.unwrap_or((low, high));
                offsets = Some((low.min(least), high.max(greatest)));
            }
        });
        let out = BufWriter::with_capacity(WRITE_BYTES, &mut file);
        let mut hashed = Hashed { out, hash: Xxh3::new(), size: 0 };
        let rows = Rows { batches: Box::new(seen), ..rows };
        layout::write_parquet(&mut hashed, rows, &|e| unwritable(&e))?;
        let (hash, size) = (hashed.hash.digest(), hashed.size);
        hashed.out.flush().map_err(|e| unwritable(&e))?;
        drop(hashed);
        let named = named.or(offsets);
        let (first, last) = named.ok_or_else(|| LakeError::internal("rows of a stream have no offsets"))?;
        // The name follows from the content: a replay writes the same file again instead of another.
        let name = format!("part-{first:020}-{last:020}-{hash:016x}.zstd.parquet");
        let path = directory.join(&name);
        let synced = file.sync_all().and_then(|()| std::fs::rename(&partial, &path));
        synced.and_then(|()| sync_directory(directory)).map_err(|e| LakeError::unwritable(&path, &e))?;
        let mut stats = serde_json::json!({ "numRecords": count });
        if let Some((low, high)) = offsets {
            stats["minValues"] = serde_json::json!({ crate::stream::OFFSET_COLUMN: low });
            stats["maxValues"] = serde_json::json!({ crate::stream::OFFSET_COLUMN: high });
            stats["nullCount"] = serde_json::json!({ crate::stream::OFFSET_COLUMN: 0 });
        }
        let modified = std::fs::metadata(&path).map_or(0, |metadata| modified_ns(&metadata) / 1_000_000);
        Ok(Add {
            path: name,
            partition_values: HashMap::new(),
            size: size as i64,
            modification_time: modified,
            data_change: true,
            stats: Some(stats.to_string()),
            ..Add::default()
        })
    })();
    written.inspect_err(|_| discard(&partial))
}

/// A file that nobody else writes to: not in this process, and not in one that has its number in another container.
fn new_file(directory: &Path) -> Result<(PathBuf, File)> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{PARTIAL_PREFIX}{}-{number}{PARTIAL}", std::process::id()));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(LakeError::unwritable(&path, &error)),
        }
    }
}

/// What is written to a file, and its hash.
struct Hashed<'a> {
    out: BufWriter<&'a mut File>,
    hash: Xxh3,
    size: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// The object store does not sync a commit; after a power cut the log must still have what was said to be in it.
fn sync_commit(directory: &Path, version: i64) -> Result<()> {
    sync_log(directory, &[&format!("{version:020}.json")])
}

/// Brings files of a table's log to the disk, one after the other, then their names.
fn sync_log(directory: &Path, names: &[&str]) -> Result<()> {
    let log = directory.join("_delta_log");
    for name in names {
        let entry = log.join(name);
        let synced = File::open(&entry).and_then(|file| file.sync_all());
        synced.map_err(|e| LakeError::unwritable(&entry, &e))?;
    }
    sync_directory(&log).map_err(|e| LakeError::unwritable(&log, &e))
}

pub(crate) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}
