//! The event cache: what training sets read of a source's files, kept in the lake as they need it (filtered, derived columns
//! computed, keys hashed, by entity and time), so that the next training set over the same history reads only files that are new.
//!
//! A cached file of events ([`segment`]) is made from files of a source as they were, whatever the labels; it is used while each of
//! these is there unchanged. What features read decides its folder, so that another definition has another. Nothing refers to it:
//! it may be deleted at any time.

mod segment;

use crate::error::{LakeError, Result};
use crate::identity::{Presence, mix};
use crate::lake::Lake;
use crate::source::scan::{Origin, ScanCounts, ScanFile, ScanSpec, SourceFiles, in_parallel};
use crate::source::selected::{Pass, PassKind, Selected};
use crate::spill::{Budget, Partitions, SpillFile, partition_of};
use crate::training::gather::{EVENT_TIME, EventGroup, Extras, Keep, Payload, group_views};
use crate::training::latest::Meeting;
use crate::training::plan::{ViewJob, view_job};
use arrow::array::{ArrayRef, AsArray, Decimal128Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::Int64Type;
use segment::{FileKey, Segment, Writer};
use springhouse_core::{Definitions, Micros};
use springhouse_kernel::Stamp;
use std::collections::{BTreeSet, HashMap};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most buckets of a cached file, and what labels are told apart by; a power of two.
const BUCKETS_MAX: usize = 1024;
/// Rows of a bucket, about.
const BUCKET_ROWS: u64 = 16_384;
/// A cached file with at most so many times the rows of new files is made anew together with them: every row is written a few times
/// at most, however often a file comes, and there are few cached files.
const ABSORBED_SHARE: u64 = 2;
/// A source's file that was written less than this before is not cached: its time can't tell another version of it apart.
const SETTLED_NS: i64 = 2_000_000_000;

/// Which of the buckets hold an entity of some label.
#[derive(Debug)]
pub(crate) struct LabelBuckets(Vec<bool>);

impl LabelBuckets {
    pub(crate) fn new() -> Self {
        Self(vec![false; BUCKETS_MAX])
    }

    pub(crate) fn insert(&mut self, hash: u64) {
        self.0[partition_of(hash, BUCKETS_MAX) as usize] = true;
    }

    /// Whether a label may be in one of fewer buckets.
    fn may_hold(&self, bucket: usize, buckets: usize) -> bool {
        self.0.iter().skip(bucket).step_by(buckets).any(|holds| *holds)
    }
}

/// Cached events of a group of views.
pub(crate) struct CachedEvents {
    segments: Vec<Segment>,
    /// By segment, the number that each of its files has in the source.
    numbers: Vec<Vec<i64>>,
    /// By file of the source.
    covered: Vec<bool>,
    /// By column of the group but the identity: where it is.
    columns: Vec<Place>,
}

/// Where a column of a group is in a cached file.
#[derive(Clone, Copy, Debug)]
enum Place {
    Column(usize),
    /// A reference to a row, which has another file's number there.
    Reference(usize),
    /// A sequence number that is the row's place, told by the reference.
    Positional(usize),
}

/// The labels that events are read for.
pub(crate) struct Wanted<'a> {
    pub present: &'a Presence,
    pub buckets: &'a LabelBuckets,
    /// Rows outside may be left out.
    pub event_times: RangeInclusive<Micros>,
}

/// What making cached files takes.
pub(crate) struct Making<'a> {
    pub budget: &'a Arc<Budget>,
    pub file: &'a Arc<SpillFile>,
    pub threads: usize,
    /// True when the source's files are those that there are now, and not those that there were.
    pub is_as_it_is: bool,
    /// Told how many rows were read.
    pub report: &'a (dyn Fn(u64) -> Result<()> + Sync),
}

/// The cached events of some views' source, those of new files made first when `making` says how. None when nothing is cached.
pub(crate) fn cached_events(
    lake: &Lake,
    definitions: &Definitions,
    group: &EventGroup<'_>,
    jobs: &[&ViewJob<'_>],
    files: &SourceFiles,
    making: Option<&Making<'_>>,
) -> Result<Option<CachedEvents>> {
    let bytes_max = lake.event_cache_bytes();
    if bytes_max == 0 {
        return Ok(None);
    }
    let siblings = siblings(definitions, jobs[0], group.payload)?;
    let siblings: Vec<&ViewJob<'_>> = siblings.iter().collect();
    let whole = EventGroup::new(&siblings, Vec::new(), group.payload, extras(&siblings, group.payload))?;
    let Some(columns) = places(group, &whole) else { return Ok(None) };
    let root = lake.tables().join("_events");
    let directory = root.join(&files.source.name).join(signature(&whole, siblings[0]));
    let keys: Vec<FileKey> = files.files.iter().map(key_of).collect();
    let mut cached = CachedEvents { segments: Vec::new(), numbers: Vec::new(), covered: Vec::new(), columns };
    cached.covered = vec![false; keys.len()];
    let position: HashMap<&FileKey, usize> =
        keys.iter().enumerate().map(|(number, key)| (key, number)).collect();
    for segment in usable(&directory, &position, making.is_some_and(|making| making.is_as_it_is)) {
        cached.add(segment, &position);
    }
    if let Some(making) = making {
        if files.rows_estimate().saturating_mul(whole.row_bytes()) > bytes_max {
            tracing::warn!(
                source = files.source.name,
                bytes_max,
                "the event cache is too small for this source"
            );
        } else {
            match cached.make(&directory, (&whole, files), (&keys, &position), making) {
                // A full disk: what is not cached is read where it is.
                Err(error) if error.code == "file_unwritable" => {
                    tracing::warn!(source = files.source.name, %error, "events can't be cached");
                }
                made => made?,
            }
        }
        cached.segments.iter().for_each(Segment::touch);
        evict(&root, bytes_max, &cached.segments);
    }
    Ok(cached.covered.contains(&true).then_some(cached))
}

impl CachedEvents {
    /// True when a file's rows are not to be read from it.
    pub(crate) fn covers(&self, file: usize) -> bool {
        self.covered[file]
    }

    fn add(&mut self, segment: Segment, position: &HashMap<&FileKey, usize>) {
        let numbers: Vec<i64> = segment.index.files.iter().map(|key| position[key] as i64).collect();
        numbers.iter().for_each(|number| self.covered[*number as usize] = true);
        self.numbers.push(numbers);
        self.segments.push(segment);
    }

    /// Caches what is not yet, together with smaller cached files.
    fn make(
        &mut self,
        directory: &Path,
        (whole, files): (&EventGroup<'_>, &SourceFiles),
        (keys, position): (&[FileKey], &HashMap<&FileKey, usize>),
        making: &Making<'_>,
    ) -> Result<()> {
        let is_new = |number: &usize| !self.covered[*number];
        let mut new: BTreeSet<usize> = (0..keys.len()).filter(is_new).collect();
        if new.is_empty() {
            return Ok(());
        }
        // A file that is given up: it tells what time it is to the file system.
        let clock = Writer::begin(directory, 1)?;
        new.retain(|number| (1..=clock.begun_ns - SETTLED_NS).contains(&keys[*number].modified_ns));
        drop(clock);
        if new.is_empty() {
            return Ok(());
        }
        let estimate = |number: &usize| files.files[*number].rows_estimate();
        let mut rows: u64 = new.iter().map(estimate).sum();
        let mut absorbed = Vec::new();
        let mut by_size: Vec<usize> = (0..self.segments.len()).collect();
        by_size.sort_by_key(|number| self.segments[*number].index.rows);
        for number in by_size {
            if self.segments[number].index.rows > rows.saturating_mul(ABSORBED_SHARE) {
                break;
            }
            rows += self.segments[number].index.rows;
            new.extend(self.numbers[number].iter().map(|file| *file as usize));
            absorbed.push(number);
        }
        let segment = make(directory, whole, files, keys, &new, rows, making)?;
        absorbed.sort_unstable();
        for number in absorbed.into_iter().rev() {
            self.numbers.remove(number);
            let old = self.segments.remove(number);
            if old.path != segment.path {
                segment::remove(&old.path);
            }
        }
        self.add(segment, position);
        Ok(())
    }

    /// What is read for labels with entities in some buckets; all, when None.
    pub(crate) fn pass(&self, buckets: Option<&LabelBuckets>) -> Pass {
        let mut selected = Selected::default();
        for segment in &self.segments {
            for bucket in 0..segment.buckets() {
                let is_read = buckets.is_none_or(|buckets| buckets.may_hold(bucket, segment.buckets()));
                selected.count(segment.cost(bucket), is_read);
            }
        }
        Pass { kind: PassKind::Cached, columns: Vec::new(), selected, rows_kept: None }
    }

    /// Puts the events that labels may see aside by partition of the entity.
    pub(crate) fn gather(
        &self,
        files: &SourceFiles,
        reading: &Reading<'_>,
        partitions: &Partitions,
    ) -> Result<()> {
        self.for_each_bucket(files, reading, &|segment, rows, entities| {
            self.put_aside(files, segment, rows, entities, partitions)
        })
    }

    /// Offers the rows of latest views that labels may see to them.
    pub(crate) fn meet(
        &self,
        files: &SourceFiles,
        reading: &Reading<'_>,
        group: &EventGroup<'_>,
        meeting: &Meeting<'_>,
    ) -> Result<()> {
        self.for_each_bucket(files, reading, &|segment, rows, entities| {
            let column = |column: usize| self.stored(files, segment, rows, column);
            let event_time = column(EVENT_TIME);
            let known_at = column(group.known_at_column().unwrap_or(EVENT_TIME));
            let reference = column(group.payload_column());
            let seq = group.seq_column().map(column);
            let seq_of = |row: usize| match &seq {
                Some(seq) => seq.value(row),
                None => files.positional_seq(reference.value(row)),
            };
            for (identity, range) in entities {
                meeting.offer_entity(
                    identity,
                    range,
                    |row| (event_time.value(row), event_time.value(row).max(known_at.value(row))),
                    |row| Stamp {
                        event_time: event_time.value(row),
                        known_at: known_at.value(row),
                        seq: seq_of(row),
                    },
                    |row| reference.value(row),
                );
            }
            Ok(())
        })
    }

    /// The buckets that have events which labels may see: with the number of the segment, its rows, and which of them those are
    /// by entity.
    fn for_each_bucket(
        &self,
        files: &SourceFiles,
        reading: &Reading<'_>,
        each: &TakeBucket<'_>,
    ) -> Result<()> {
        let Reading { wanted, counts, threads, report } = *reading;
        let mut parts = Vec::new();
        for (number, segment) in self.segments.iter().enumerate() {
            counts.add_skipped(&segment.index.skipped);
            let buckets = segment.buckets();
            let is_read = |bucket: &usize| wanted.buckets.may_hold(*bucket, buckets);
            parts.extend((0..buckets).filter(is_read).map(|bucket| (number, bucket)));
        }
        let kept = AtomicU64::new(0);
        in_parallel(threads, parts.len(), &|part| {
            let (segment, bucket) = parts[part];
            if let Some((rows, entities)) = wanted.of(&self.segments[segment], bucket)? {
                let count: usize = entities.iter().map(|(_, range)| range.len()).sum();
                kept.fetch_add(count as u64, Ordering::Relaxed);
                each(segment, &rows, entities)?;
            }
            let rows = self.segments[segment].cost(bucket).0;
            report(counts.rows_read.fetch_add(rows, Ordering::Relaxed) + rows)
        })?;
        let kept = kept.into_inner();
        counts.kept.fetch_add(kept, Ordering::Relaxed);
        files.note(Pass { rows_kept: Some(kept), ..self.pass(Some(wanted.buckets)) });
        Ok(())
    }

    fn put_aside(
        &self,
        files: &SourceFiles,
        segment: usize,
        rows: &RecordBatch,
        entities: EntityRows,
        partitions: &Partitions,
    ) -> Result<()> {
        let (mut identity, mut row, mut partition) = (Vec::new(), Vec::new(), Vec::new());
        for (found, range) in entities {
            identity.extend(std::iter::repeat_n(found, range.len()));
            row.extend(range.start as u32..range.end as u32);
            let of_entity = partition_of(mix(found as u128), partitions.count());
            partition.extend(std::iter::repeat_n(of_entity, range.len()));
        }
        let grouping = partitions.grouping(&partition);
        let identity: Decimal128Array = grouping.order.iter().map(|i| Some(identity[*i as usize])).collect();
        // Copied, so that nothing holds the whole bucket.
        let order: UInt32Array = grouping.order.iter().map(|i| Some(row[*i as usize])).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(identity.with_precision_and_scale(38, 0)?)];
        for (column, place) in self.columns.iter().enumerate() {
            columns.push(match *place {
                Place::Column(column) => take(rows.column(column), &order, None)?,
                Place::Reference(_) | Place::Positional(_) => {
                    let stored = self.stored(files, segment, rows, 1 + column);
                    let values = order.values().iter().map(|row| stored.value(*row as usize));
                    Arc::new(values.collect::<Int64Array>())
                }
            });
        }
        partitions.push_grouped(columns, &grouping)
    }

    /// A column of the group, of integers, in rows of a segment.
    fn stored<'b>(
        &'b self,
        files: &'b SourceFiles,
        segment: usize,
        rows: &'b RecordBatch,
        column: usize,
    ) -> Stored<'b> {
        let place = self.columns[column - 1];
        let (Place::Column(position) | Place::Reference(position) | Place::Positional(position)) = place;
        let values = rows.column(position).as_primitive::<Int64Type>().values();
        Stored { place, values, numbers: &self.numbers[segment], files }
    }
}

/// What reading cached events takes.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub wanted: &'a Wanted<'a>,
    pub counts: &'a ScanCounts,
    pub threads: usize,
    /// Told how many rows were read.
    pub report: &'a (dyn Fn(u64) -> Result<()> + Sync),
}

/// Which rows of a bucket an entity has.
type EntityRows = Vec<(i128, Range<usize>)>;

type TakeBucket<'a> = dyn Fn(usize, &RecordBatch, EntityRows) -> Result<()> + Sync + 'a;

impl Wanted<'_> {
    /// The rows of a bucket, and which of them labels may see, by entity; none when there are none.
    fn of(&self, file: &Segment, bucket: usize) -> Result<Option<(RecordBatch, EntityRows)>> {
        let Some(entities) = file.entities(bucket)? else { return Ok(None) };
        let mut present: Vec<_> =
            entities.iter().filter(|(identity, _)| self.present.may_hold(*identity as u128)).collect();
        if present.is_empty() {
            return Ok(None);
        }
        let Some(rows) = file.rows(bucket)? else { return Ok(None) };
        let times = rows.column(0).as_primitive::<Int64Type>().values();
        for (_, range) in &mut present {
            let of_entity = &times[range.clone()];
            let begin = of_entity.partition_point(|time| time < self.event_times.start());
            let end = of_entity.partition_point(|time| time <= self.event_times.end());
            *range = range.start + begin..range.start + end.max(begin);
        }
        present.retain(|(_, range)| !range.is_empty());
        Ok((!present.is_empty()).then_some((rows, present)))
    }
}

/// The values of a column of integers.
struct Stored<'a> {
    place: Place,
    values: &'a [i64],
    numbers: &'a [i64],
    files: &'a SourceFiles,
}

impl Stored<'_> {
    fn value(&self, row: usize) -> i64 {
        let stored = self.values[row];
        let reference = || self.numbers[(stored >> 32) as usize] << 32 | stored & 0xffff_ffff;
        match self.place {
            Place::Column(_) => stored,
            Place::Reference(_) => reference(),
            Place::Positional(_) => self.files.positional_seq(reference()),
        }
    }
}

/// Makes a cached file from files of a source.
fn make(
    directory: &Path,
    whole: &EventGroup<'_>,
    files: &SourceFiles,
    keys: &[FileKey],
    numbers: &BTreeSet<usize>,
    rows: u64,
    making: &Making<'_>,
) -> Result<Segment> {
    let buckets = ((rows / BUCKET_ROWS).max(1) as usize).next_power_of_two().min(BUCKETS_MAX);
    let writer = Writer::begin(directory, buckets)?;
    let partitions = Partitions::new(buckets, Arc::clone(whole.schema()), making.budget, making.file);
    let counts = ScanCounts::default();
    let spec =
        ScanSpec { with_ids: files.source.event_id.is_some(), ..ScanSpec::all(whole.source_columns()) };
    let is_wanted = |number: usize, _: &ScanFile| numbers.contains(&number);
    whole.gather(
        files,
        &spec,
        making.threads,
        None,
        &is_wanted,
        Keep::ALL,
        &counts,
        making.report,
        &partitions,
        None,
    )?;
    let ordinal: HashMap<i64, i64> =
        numbers.iter().enumerate().map(|(ordinal, number)| (*number as i64, ordinal as i64)).collect();
    in_parallel(making.threads, buckets, &|bucket| {
        let rows = partitions.take_one(bucket)?;
        let rows = match whole.payload {
            Payload::Inputs => rows,
            Payload::RowReference => segment::replaced(&rows, whole.payload_column(), |reference| {
                ordinal[&(reference >> 32)] << 32 | reference & 0xffff_ffff
            })?,
        };
        writer.write(bucket, &rows)
    })?;
    let of: Vec<FileKey> = numbers.iter().map(|number| keys[*number].clone()).collect();
    let skipped = counts.skipped().into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
    let path = directory.join(format!("{}.{}", hash_of(&of), segment::EXTENSION));
    writer.finish(of, skipped, path, || files.check_files(numbers))
}

/// Of the complete files of a folder those that can be used together, larger ones first. With `is_as_it_is` a file that was made from
/// what is not there any more is removed: rows that somebody has deleted must not stay here.
fn usable(directory: &Path, position: &HashMap<&FileKey, usize>, is_as_it_is: bool) -> Vec<Segment> {
    let mut all: Vec<Segment> = Vec::new();
    for (path, ..) in segment::list(directory) {
        match Segment::open(&path) {
            Some(segment) => all.push(segment),
            // Of another version, or a machine stopped before all of it was on the disk.
            None => segment::remove(&path),
        }
    }
    all.sort_by(|a, b| (b.index.rows, &a.path).cmp(&(a.index.rows, &b.path)));
    let mut taken = BTreeSet::new();
    all.retain(|segment| {
        let numbers: Option<Vec<usize>> =
            segment.index.files.iter().map(|key| position.get(key).copied()).collect();
        let Some(numbers) = numbers else {
            if is_as_it_is {
                segment::remove(&segment.path);
            }
            return false;
        };
        let is_free = numbers.iter().all(|number| !taken.contains(number));
        if is_free {
            taken.extend(numbers);
        }
        is_free
    });
    all
}

/// Removes what was not used for longest, while there is too much. What is in use is not read less for it.
fn evict(root: &Path, bytes_max: u64, in_use: &[Segment]) {
    let mut all = segment::list(root);
    let is_used = |path: &PathBuf| in_use.iter().any(|segment| segment.path == *path);
    all.sort_by_key(|(path, _, used)| (is_used(path), *used));
    let mut bytes: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
    for (path, size, _) in all {
        if bytes <= bytes_max {
            break;
        }
        segment::remove(&path);
        bytes -= size;
    }
}

/// All views whose events are the same, with all of their features: what any training set asks of them.
fn siblings<'a>(
    definitions: &'a Definitions,
    job: &ViewJob<'_>,
    payload: Payload,
) -> Result<Vec<ViewJob<'a>>> {
    let of_source = definitions.feature_views.values().filter(|view| view.source == job.source.name);
    let jobs = of_source.map(|view| view_job(definitions, view)).collect::<Result<Vec<_>>>()?;
    let groups = group_views(&jobs, super::payload_of);
    let is_ours = |views: &Vec<usize>| views.iter().any(|view| jobs[*view].view.name == job.view.name);
    let ours =
        groups.into_iter().find(|(of, views)| *of == payload && is_ours(views)).map(|(_, views)| views);
    let ours = ours.ok_or_else(|| LakeError::internal("a view is not among those of its source"))?;
    let numbered = jobs.into_iter().enumerate().filter(|(number, _)| ours.contains(number));
    Ok(numbered.map(|(_, job)| job).collect())
}

/// What any training set may need of an event's stamp.
fn extras(jobs: &[&ViewJob<'_>], payload: Payload) -> Extras {
    super::extras(jobs, payload, true, false, crate::training::Availability::Known)
}

/// Where the columns of a group are among those of the whole; None when one is not there.
fn places(group: &EventGroup<'_>, whole: &EventGroup<'_>) -> Option<Vec<Place>> {
    // The identity is not among the columns of a cached file.
    let at = |column: usize| Place::Column(column - 1);
    let mut places = vec![at(super::gather::EVENT_TIME)];
    if group.known_at_column().is_some() {
        places.push(at(whole.known_at_column()?));
    }
    if group.seq_column().is_some() {
        places.push(match (whole.seq_column(), group.payload) {
            (Some(column), _) => at(column),
            (None, Payload::RowReference) => Place::Positional(whole.payload_column() - 1),
            (None, Payload::Inputs) => return None,
        });
    }
    if group.event_id_column().is_some() {
        places.push(at(whole.event_id_column()?));
    }
    match group.payload {
        Payload::RowReference => places.push(Place::Reference(whole.payload_column() - 1)),
        Payload::Inputs => {
            for input in group.inputs() {
                let position = whole.inputs().iter().position(|other| other == input)?;
                places.push(at(whole.payload_column() + position));
            }
        }
    }
    Some(places)
}

/// Everything that decides which rows and values a cached file has, besides the files that it is made from.
fn signature(whole: &EventGroup<'_>, job: &ViewJob<'_>) -> String {
    let (source, view) = (job.source, &job.view);
    hash_of(&(
        env!("CARGO_PKG_VERSION"),
        (source, &job.entity.keys, &view.key_columns, &view.filter, &view.derived),
        (whole.payload, whole.extras(), whole.inputs()),
    ))
}

fn hash_of(value: &impl std::fmt::Debug) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(format!("{value:?}").as_bytes()))
}

fn key_of(file: &ScanFile) -> FileKey {
    FileKey {
        name: file.file.name.clone(),
        size: file.file.size,
        modified_ns: file.file.modified_ns,
        is_stream: file.origin == Origin::Stream,
        partition_values: file.file.partition_values.clone(),
    }
}
