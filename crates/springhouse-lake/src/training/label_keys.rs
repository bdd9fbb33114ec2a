//! The first pass over the labels: their keys and moments are put aside by partition of the entity, and where the output is made
//! by column their own columns are encoded on the way, so that they are read once.

use crate::error::{LakeError, Result};
use crate::identity::{Presence, for_each_identity, mix};
use crate::progress::{Progress, tell};
use crate::source::keys::KeySet;
use crate::source::scan::in_parallel;
use crate::spill::{Partitions, partition_of};
use crate::training::cache::LabelBuckets;
use crate::training::column_file::Part;
use crate::training::join::label_columns;
use crate::training::label_table::empty;
use crate::training::labels::{LabelReader, Labels};
use crate::training::latest::LabelIndex;
use crate::training::sink::EncodedColumn;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use springhouse_core::definition::Entity;
use springhouse_core::{Micros, ValueType};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys and moments of all labels, by partition of one entity.
pub(crate) struct LabelSet<'a> {
    pub entity: &'a Entity,
    pub key_columns: &'a [usize],
    pub partitions: Partitions,
    pub present: Presence,
    pub buckets: LabelBuckets,
    /// The different first keys, while they are few.
    pub keys: Arc<KeySet>,
    found: Found,
    /// The labels in order, made when a view of latest values first asks for it.
    pub index: OnceCell<LabelIndex>,
}

/// What is found of the labels of a batch: identities with their rows in it, and their partitions. The memory is used again.
#[derive(Default)]
struct Found {
    labels: Vec<(i128, u32)>,
    partitions: Vec<u32>,
}

impl<'a> LabelSet<'a> {
    /// Of an entity, whose keys are these columns of about so many labels.
    pub(crate) fn new(
        entity: &'a Entity,
        key_columns: &'a [usize],
        partitions: Partitions,
        label_guess: u64,
    ) -> Self {
        Self {
            entity,
            key_columns,
            partitions,
            present: Presence::with_capacity(label_guess),
            buckets: LabelBuckets::new(),
            keys: Arc::new(KeySet::new(&entity.keys[0].1)),
            found: Found::default(),
            index: OnceCell::new(),
        }
    }

    /// Puts labels with these keys and moments aside.
    fn add(&mut self, keys: &[ArrayRef], at: &[Micros], first_row: u64) -> Result<()> {
        Arc::make_mut(&mut self.keys).add(&keys[0]);
        let Found { labels, partitions } = &mut self.found;
        labels.clear();
        partitions.clear();
        for_each_identity(keys, &self.entity.keys, at.len(), |row, found| {
            // A label without a key is kept; its features are missing.
            let Some(found) = found else { return };
            let hash = mix(found);
            self.present.insert(found);
            self.buckets.insert(hash);
            labels.push((found as i128, row as u32));
            partitions.push(partition_of(hash, self.partitions.count()));
        });
        let grouping = self.partitions.grouping(partitions);
        let labels = grouping.order.iter().map(|place| {
            let (identity, row) = labels[*place as usize];
            (identity, first_row + u64::from(row), at[row as usize])
        });
        self.partitions.push_grouped(label_columns(labels)?, &grouping)
    }
}

/// What the first pass over the labels found.
#[derive(Clone, Copy)]
pub(crate) struct LabelFacts {
    pub rows: u64,
    pub first: Micros,
    pub last: Micros,
}

/// Labels that were read: a chunk of the output where their columns are encoded, else as many as come.
struct ReadLabels {
    /// The number of the batch.
    number: usize,
    first_row: u64,
    batch: RecordBatch,
    at: Vec<Micros>,
    /// The key columns of each set.
    keys: Vec<Vec<ArrayRef>>,
}

/// Labels that are read by whoever asks next.
struct Reading<'a> {
    labels: &'a Labels,
    reader: LabelReader<'a>,
    /// The columns that are read, ascending.
    columns: Vec<usize>,
    chunk_rows: Option<usize>,
    number: usize,
    facts: LabelFacts,
    is_over: bool,
}

impl Reading<'_> {
    /// The next labels; none after the last and after an error. The first row that can't be used is told, whoever reads it.
    fn next(&mut self, sets: &[(&Entity, &[usize])]) -> Result<Option<ReadLabels>> {
        if self.is_over {
            return Ok(None);
        }
        self.is_over = true;
        let read = match self.chunk_rows {
            Some(rows) => self.reader.next_chunk(rows)?,
            None => self.reader.next_batch()?,
        };
        let Some((first_row, batch)) = read else { return Ok(None) };
        let column = |column: usize| {
            let position = self.columns.binary_search(&column);
            batch.column(position.expect("every column read is in the list"))
        };
        let at = self.labels.moments(column(self.labels.at_column), first_row)?;
        let mut keys = Vec::with_capacity(sets.len());
        for (entity, key_columns) in sets {
            let typed = |(number, (_, value_type)): (&usize, &(String, ValueType))| {
                self.labels.typed(column(*number), *number, value_type, first_row)
            };
            keys.push(key_columns.iter().zip(&entity.keys).map(typed).collect::<Result<Vec<_>>>()?);
        }
        self.facts.rows += at.len() as u64;
        self.facts.first = self.facts.first.min(at.iter().copied().min().unwrap_or(Micros::MAX));
        self.facts.last = self.facts.last.max(at.iter().copied().max().unwrap_or(Micros::MIN));
        let number = self.number;
        self.number += 1;
        self.is_over = false;
        Ok(Some(ReadLabels { number, first_row, batch, at, keys }))
    }
}

/// The first pass over the labels: keys and moments, put aside by partition; their columns encoded where that is asked for.
pub(crate) fn read_labels(
    labels: &Labels,
    sets: &mut [LabelSet<'_>],
    encoded: Option<&EncodedLabels>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<LabelFacts> {
    let mut columns: Vec<usize> = match encoded {
        Some(_) => (0..labels.schema.fields().len()).collect(),
        None => sets.iter().flat_map(|s| s.key_columns.iter().copied()).collect(),
    };
    columns.push(labels.at_column);
    columns.sort_unstable();
    columns.dedup();
    let total = labels.row_count().unwrap_or(0);
    let reading = Mutex::new(Reading {
        labels,
        reader: labels.read(columns.clone()),
        columns,
        chunk_rows: encoded.map(|encoded| encoded.chunk_rows),
        number: 0,
        facts: LabelFacts { rows: 0, first: Micros::MAX, last: Micros::MIN },
        is_over: false,
    });
    let of_sets: Vec<(&Entity, &[usize])> = sets.iter().map(|set| (set.entity, set.key_columns)).collect();
    let to: Vec<Mutex<&mut LabelSet<'_>>> = sets.iter_mut().map(Mutex::new).collect();
    // One reads, another puts aside what it has read, a third one encodes.
    let take = || -> Result<bool> {
        let Some(read) = reading.lock().next(&of_sets)? else { return Ok(false) };
        // What another thread is at comes last.
        let mut later = Vec::new();
        for (set, keys) in to.iter().zip(&read.keys) {
            match set.try_lock() {
                Some(mut set) => set.add(keys, &read.at, read.first_row)?,
                None => later.push((set, keys)),
            }
        }
        if let Some(encoded) = encoded {
            encoded.add(read.number, &read.batch)?;
        }
        for (set, keys) in later {
            set.lock().add(keys, &read.at, read.first_row)?;
        }
        tell(progress, "reading labels", read.first_row + read.at.len() as u64, total)?;
        Ok(true)
    };
    in_parallel(threads, threads, &|_| {
        while take().inspect_err(|_| reading.lock().is_over = true)? {}
        Ok(())
    })?;
    drop(to);
    let facts = reading.into_inner().facts;
    if facts.rows == 0 {
        return Err(empty(&labels.name));
    }
    sets.iter_mut().for_each(|set| set.present.shrink());
    Ok(facts)
}

/// The labels' own columns in the chunks of a file that is made by column, encoded.
pub(crate) struct EncodedLabels {
    part: Part,
    chunk_rows: usize,
    /// Most bytes that are kept; where there are more, all columns are read again when it is their turn.
    bytes_max: u64,
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    chunks: BTreeMap<usize, Vec<EncodedColumn>>,
    bytes: u64,
}

impl EncodedLabels {
    /// Of the memory budget one part in so many may be taken by labels that wait for their turn.
    const SHARE: u64 = 16;

    /// None for labels whose files are larger than what may be kept: no more of them is read at first than keys and moments.
    pub(crate) fn new(
        path: &Path,
        schema: &SchemaRef,
        labels: &Labels,
        chunk_rows: u64,
        memory_budget: u64,
    ) -> Result<Option<Self>> {
        let bytes_max = memory_budget / Self::SHARE;
        if labels.table.bytes() > bytes_max {
            return Ok(None);
        }
        let part = Part::new(schema, 0..labels.schema.fields().len(), 0);
        Ok(Some(Self {
            part: part.map_err(|e| LakeError::unwritable(path, &e))?,
            chunk_rows: chunk_rows as usize,
            bytes_max,
            path: path.to_owned(),
            kept: Mutex::default(),
        }))
    }

    /// Takes a chunk, by its number.
    fn add(&self, number: usize, chunk: &RecordBatch) -> Result<()> {
        if self.kept.lock().bytes > self.bytes_max {
            return Ok(());
        }
        let encoded = self.part.encode(number, chunk.columns().to_vec());
        let encoded = encoded.map_err(|e| LakeError::unwritable(&self.path, &e))?;
        let mut kept = self.kept.lock();
        kept.bytes += encoded.iter().map(EncodedColumn::bytes).sum::<u64>();
        kept.chunks.insert(number, encoded);
        if kept.bytes > self.bytes_max {
            kept.chunks = BTreeMap::new();
        }
        Ok(())
    }

    /// Takes out all chunks, with what encoded them; none where they were too many to be kept.
    pub(crate) fn take(&self) -> Option<(&Part, Vec<Vec<EncodedColumn>>)> {
        let kept = std::mem::take(&mut *self.kept.lock());
        (kept.bytes <= self.bytes_max).then(|| (&self.part, kept.chunks.into_values().collect()))
    }
}
