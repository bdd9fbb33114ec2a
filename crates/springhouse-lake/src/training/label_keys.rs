//! The first pass over the labels: their keys and moments are put aside by partition of the entity, and where the output is made
//! by column their own columns are encoded on the way, so that they are read once.

use crate::error::{LakeError, Result};
use crate::identity::{Presence, for_each_identity, mix};
use crate::progress::{Progress, tell};
use crate::source::keys::KeySet;
use crate::source::scan::join;
use crate::spill::{Partitions, partition_of};
use crate::training::cache::LabelBuckets;
use crate::training::column_file::Part;
use crate::training::join::label_columns;
use crate::training::label_table::empty;
use crate::training::labels::Labels;
use crate::training::latest::LabelIndex;
use crate::training::sink::EncodedColumn;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use springhouse_core::Micros;
use springhouse_core::definition::Entity;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

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

/// Batches of labels that are read before they are divided up.
const BATCHES_AHEAD: usize = 4;

/// The first pass over the labels: keys and moments, put aside by partition; their columns encoded where that is asked for.
pub(crate) fn read_labels(
    labels: &Labels,
    sets: &mut [LabelSet<'_>],
    encoded: Option<&EncodedLabels>,
    progress: &dyn Progress,
) -> Result<LabelFacts> {
    let mut columns: Vec<usize> = match encoded {
        Some(_) => (0..labels.schema.fields().len()).collect(),
        None => sets.iter().flat_map(|s| s.key_columns.iter().copied()).collect(),
    };
    columns.push(labels.at_column);
    columns.sort_unstable();
    columns.dedup();
    let position = |column: usize| columns.binary_search(&column).expect("every column read is in the list");
    let mut facts = LabelFacts { rows: 0, first: Micros::MAX, last: Micros::MIN };
    let total = labels.row_count().unwrap_or(0);
    // One thread decodes what the others divide up and encode.
    let (sender, batches) = sync_channel(BATCHES_AHEAD);
    let (to_encode, chunks) = sync_channel(BATCHES_AHEAD);
    let mut reader = labels.read(columns.clone());
    std::thread::scope(|scope| -> Result<()> {
        let reading = scope.spawn(move || -> Result<()> {
            let mut next = || match encoded {
                Some(encoded) => reader.next_chunk(encoded.chunk_rows),
                None => reader.next_batch(),
            };
            while let Some(batch) = next()? {
                // Who is not there any more tells why.
                let is_taken = encoded.is_none() || to_encode.send(batch.1.clone()).is_ok();
                if !is_taken || sender.send(batch).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let encoding = encoded.map(|encoded| {
            scope.spawn(move || chunks.iter().try_for_each(|chunk: RecordBatch| encoded.add(&chunk)))
        });
        for (first_row, batch) in batches {
            let at = labels.moments(batch.column(position(labels.at_column)), first_row)?;
            facts.rows += at.len() as u64;
            facts.first = facts.first.min(at.iter().copied().min().unwrap_or(Micros::MAX));
            facts.last = facts.last.max(at.iter().copied().max().unwrap_or(Micros::MIN));
            for set in &mut *sets {
                let mut keys: Vec<ArrayRef> = Vec::with_capacity(set.key_columns.len());
                for (column, (_, value_type)) in set.key_columns.iter().zip(&set.entity.keys) {
                    keys.push(labels.typed(
                        batch.column(position(*column)),
                        *column,
                        value_type,
                        first_row,
                    )?);
                }
                set.add(&keys, &at, first_row)?;
            }
            tell(progress, "reading labels", facts.rows, total)?;
        }
        join(reading)?;
        encoding.map_or(Ok(()), join)
    })?;
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
    chunks: Vec<Vec<EncodedColumn>>,
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

    /// The next chunk.
    fn add(&self, chunk: &RecordBatch) -> Result<()> {
        let mut kept = self.kept.lock();
        if kept.bytes > self.bytes_max {
            return Ok(());
        }
        let encoded = self.part.encode(kept.chunks.len(), chunk.columns().to_vec());
        let encoded = encoded.map_err(|e| LakeError::unwritable(&self.path, &e))?;
        kept.bytes += encoded.iter().map(EncodedColumn::bytes).sum::<u64>();
        kept.chunks.push(encoded);
        if kept.bytes > self.bytes_max {
            kept.chunks = Vec::new();
        }
        Ok(())
    }

    /// Takes out all chunks, with what encoded them; none where they were too many to be kept.
    pub(crate) fn take(&self) -> Option<(&Part, Vec<Vec<EncodedColumn>>)> {
        let kept = std::mem::take(&mut *self.kept.lock());
        (kept.bytes <= self.bytes_max).then_some((&self.part, kept.chunks))
    }
}
