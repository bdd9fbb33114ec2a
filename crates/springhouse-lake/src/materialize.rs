//! Loading history into the online store.
//!
//! What is new since the last run is decided by files and by `visible_at`, never by event time: all rows of files that were
//! not read before, rows of files that were read before but that became visible since, and stream rows by offset. The rows
//! are put aside by bucket of the entity, each bucket is folded into one state per entity and written in one lane of the
//! store, or in parts, each with a lane of its own, where the store likes small writes. Before the first bucket is written the
//! job is noted beside the view (files, moment, buckets, size of parts); a job that was killed goes on with the same plan, and
//! buckets and parts whose lane the store has are done.

mod cursor;
mod fold;
mod loading;

pub(crate) use cursor::TableCursor;

use crate::error::{LakeError, Result};
use crate::lake::Lake;
use crate::progress::Progress;
use crate::source::scan::{Origin, ScanCounts, ScanFile, ScanSpec, SourceFiles, SourceRows, join};
use crate::spill::{Budget, Partitions, SpillFile};
use crate::training::gather::{EventGroup, Extras, Keep, Payload};
use crate::training::plan::{ViewJob, view_job};
use crate::training::{blocking, threads};
use cursor::{JobNote, Note};
use fold::{Fold, fold_bucket};
use loading::{Bucket, Loading, Target};
use parking_lot::Mutex;
use springhouse_core::crash_point::crash_point;
use springhouse_core::definition::ViewKind;
use springhouse_core::time::{EVENT_TIME_MAX, EVENT_TIME_MIN};
use springhouse_core::{Definitions, Micros, offset_of, partition_of};
use springhouse_kernel::{READ_BACK, Window};
use springhouse_online::{OnlineStore, ViewHandle, ViewStatus};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Loading history of one view into the online store.
#[derive(Debug)]
pub struct MaterializeRequest<'a> {
    /// The definitions applied.
    pub definitions: &'a Definitions,
    /// View and generation to fill.
    pub view: ViewHandle,
    /// Only rows with `visible_at <= until`.
    pub until: Micros,
    /// For streams: only stream rows with an offset below this (the live stream brings the others).
    pub stream_end: Option<i64>,
    /// For streams that workers read: instead, only messages below these offsets of their partitions. They are loaded once:
    /// workers bring everything else.
    pub stream_positions: Option<&'a BTreeMap<i32, i64>>,
    /// The note of the last run (from [`OnlineStore::view_status`]), if any.
    pub previous: Option<String>,
    /// Memory budget in bytes.
    pub memory_budget: u64,
}

/// What a materialisation did.
#[derive(Clone, Debug)]
pub struct MaterializeOutcome {
    /// Source rows that were new.
    pub rows: u64,
    /// Entities written.
    pub entities: u64,
    /// Seconds.
    pub seconds: f64,
    /// The new note.
    pub cursor: String,
    /// True when files that had been read are gone or changed: the caller must rebuild into a new generation.
    pub must_rebuild: bool,
    /// Rows that were left out, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Identities of events in the history (newest first, at most [`EVENT_IDS_MAX`]), of sources that declare one: the
    /// live stream must not count them again.
    pub event_ids: Vec<u128>,
}

/// Most event identities that a materialisation hands on.
pub const EVENT_IDS_MAX: usize = 5_000_000;

/// Rows that a bucket should have at most; with the budget decides how many buckets there are.
const BUCKET_ROWS: u64 = 16_000;
/// Most buckets of a job.
const BUCKETS_MAX: u64 = 4096;

/// What one job did.
#[derive(Default)]
struct Done {
    rows: u64,
    entities: u64,
    skipped: BTreeMap<&'static str, u64>,
    event_ids: Vec<(Micros, u128)>,
}

impl Done {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.entities += other.entities;
        self.event_ids.extend(other.event_ids);
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
    }
}

impl Lake {
    /// Loads what is new in the history of one view. Resumable: work is cut into buckets, each a lane of the store.
    ///
    /// # Errors
    /// `source_*`, `file_*`, `csv_bad_cell`, `naive_timestamp`, `delta_*`, `spill_failed`, `store_*`.
    pub async fn materialize(
        &self,
        request: &MaterializeRequest<'_>,
        store: &Arc<dyn OnlineStore>,
        progress: &dyn Progress,
    ) -> Result<MaterializeOutcome> {
        let started = Instant::now();
        let (name, _) = request.view.id.split_once('@').unwrap_or((&request.view.id, ""));
        let view =
            request.definitions.feature_views.get(name).ok_or_else(|| {
                LakeError::new("unknown_view", format!("there is no feature view `{name}`"))
            })?;
        let job = view_job(request.definitions, view)?;
        let noted = store.view_status(&request.view).await?.map(|status| status.note);
        let mut note = Note::parse(noted.or_else(|| request.previous.clone()).as_deref())?;
        let run = Run { lake: self, job: &job, request, store, progress };
        let mut done = Done::default();
        let mut must_rebuild = false;
        let files = SourceFiles::open(self, job.source, true).await?;
        if let Some(running) = note.running.clone() {
            must_rebuild = !note.last.accepts(&files) || !running.accepts(&files);
            if !must_rebuild {
                done.add(run.execute(&files, &mut note, &running).await?);
            }
        }
        if !must_rebuild {
            must_rebuild = !note.last.accepts(&files);
        }
        if !must_rebuild {
            // Lanes that an abandoned job left behind must not make a new one skip its buckets.
            store.drop_lanes(&run.lane_prefix()).await?;
            let plan = run.plan(&files, &note).await?;
            if let Some(plan) = plan {
                note.running = Some(plan.clone());
                run.set_note(&note).await?;
                crash_point("materialize_planned");
                done.add(run.execute(&files, &mut note, &plan).await?);
            } else {
                note.last.advance(run.until(&note), run.stream_end(&files, &note).await?);
                run.set_note(&note).await?;
            }
        }
        Ok(MaterializeOutcome {
            rows: done.rows,
            entities: done.entities,
            seconds: started.elapsed().as_secs_f64(),
            cursor: note.to_text(),
            must_rebuild,
            skipped: done.skipped,
            event_ids: newest_ids(done.event_ids),
        })
    }

    /// Identities of the events in the table read in place (newest first, at most [`EVENT_IDS_MAX`]) of a source that
    /// declares one; empty otherwise.
    ///
    /// # Errors
    /// `source_*`, `file_*`, `csv_bad_cell`, `naive_timestamp`, `delta_*`.
    pub async fn history_event_ids(
        &self,
        source: &springhouse_core::definition::Source,
    ) -> Result<Vec<u128>> {
        if source.event_id.is_none() {
            return Ok(Vec::new());
        }
        let files = SourceFiles::open(self, source, false).await?;
        let found = Mutex::new(Vec::new());
        let spec = ScanSpec { with_ids: true, ..ScanSpec::all(Vec::new()) };
        blocking(|| {
            files.for_each(&spec, threads(), &|_, _| true, &ScanCounts::default(), &|rows| {
                let ids = rows.event_ids.iter().flatten().zip(rows.event_time.iter());
                let mut found = found.lock();
                found.extend(ids.filter_map(|(id, at)| id.map(|id| (*at, id))));
                bound_ids(&mut found);
                Ok(())
            })
        })?;
        Ok(newest_ids(found.into_inner()))
    }
}

/// Keeps a list of identities bounded while it grows.
fn bound_ids(ids: &mut Vec<(Micros, u128)>) {
    if ids.len() > 2 * EVENT_IDS_MAX {
        ids.select_nth_unstable_by(EVENT_IDS_MAX, |a, b| b.cmp(a));
        ids.truncate(EVENT_IDS_MAX);
    }
}

fn newest_ids(mut ids: Vec<(Micros, u128)>) -> Vec<u128> {
    ids.sort_unstable_by(|a, b| b.cmp(a));
    ids.dedup();
    ids.truncate(EVENT_IDS_MAX);
    ids.into_iter().map(|(_, id)| id).collect()
}

/// One call of `materialize`.
struct Run<'a> {
    lake: &'a Lake,
    job: &'a ViewJob<'a>,
    request: &'a MaterializeRequest<'a>,
    store: &'a Arc<dyn OnlineStore>,
    progress: &'a dyn Progress,
}

impl Run<'_> {
    fn lane_prefix(&self) -> String {
        format!("materialize/{}/{}/", self.request.view.id, self.request.view.generation)
    }

    async fn set_note(&self, note: &Note) -> Result<()> {
        Ok(self.store.set_view_status(&self.request.view, ViewStatus { note: note.to_text() }).await?)
    }

    /// The moment up to which this run loads; never before the last run's.
    fn until(&self, note: &Note) -> Micros {
        self.request.until.max(note.last.until)
    }

    /// The offset up to which this run loads the stream's table.
    async fn stream_end(&self, files: &SourceFiles, note: &Note) -> Result<i64> {
        if !files.source.is_stream() {
            return Ok(0);
        }
        let end = match self.request.stream_end {
            _ if self.request.stream_positions.is_some() => i64::MAX,
            Some(end) => end,
            None => self.lake.stream_position(&files.source).await? + 1,
        };
        Ok(end.max(note.last.stream_end))
    }

    /// What a new job has to do; None when there is nothing.
    async fn plan(&self, files: &SourceFiles, note: &Note) -> Result<Option<JobNote>> {
        let until = self.until(note);
        let stream_end = self.stream_end(files, note).await?;
        let mut plan = JobNote {
            job: note.last.job + 1,
            until,
            stream_end,
            files: Vec::new(),
            buckets: 0,
            part_entities: Some(self.store.write_rows_max()).filter(|max| *max < usize::MAX),
            until_before: note.last.until,
            stream_end_before: note.last.stream_end,
        };
        let mut rows = 0;
        for file in files.files.iter().filter(|f| f.origin == Origin::Table) {
            if !note.last.has_loaded(file, until) {
                rows += file.rows_estimate();
            }
            plan.files.push(cursor::FileNote::of(file));
        }
        rows += match self.request.stream_positions {
            None => u64::try_from(stream_end - note.last.stream_end).unwrap_or(0),
            Some(_) if note.last.stream_end == i64::MAX => 0,
            Some(_) => {
                let of_stream = files.files.iter().filter(|f| f.origin == Origin::Stream);
                of_stream.map(|file| file.rows_estimate()).sum()
            }
        };
        if rows == 0 {
            return Ok(None);
        }
        let group =
            EventGroup::new(&[self.job], vec![0], Payload::Inputs, Extras::all(self.job.source, true))?;
        let bytes = rows.saturating_mul(group.row_bytes() + 64);
        // Buckets are folded in memory, where a state takes several times the bytes of its events, and some wait to be written.
        let by_budget = bytes.saturating_mul(16) / self.request.memory_budget.max(1 << 16);
        plan.buckets =
            (rows / BUCKET_ROWS).max(by_budget).saturating_add(1).next_power_of_two().min(BUCKETS_MAX);
        Ok(Some(plan))
    }

    /// Does a job that is noted, from the start or from where it was killed.
    async fn execute(&self, files: &SourceFiles, note: &mut Note, plan: &JobNote) -> Result<Done> {
        let target = Target {
            store: Arc::clone(self.store),
            view: self.request.view.clone(),
            until: plan.until,
            part_entities: plan.part_entities,
            lanes_of_job: format!("{}{}/", self.lane_prefix(), plan.job),
            lanes: self.store.lanes().await?,
        };
        let buckets = plan.buckets as usize;
        let is_done: Vec<bool> = (0..buckets).map(|bucket| target.is_done(bucket)).collect();
        let spill = Arc::new(SpillFile::new(self.lake.tables()));
        let budget = Arc::new(Budget::new(self.request.memory_budget / 2));
        let group =
            EventGroup::new(&[self.job], vec![0], Payload::Inputs, Extras::all(self.job.source, true))?;
        let partitions = Partitions::new(buckets, Arc::clone(group.schema()), &budget, &spill);
        let counts = ScanCounts::default();
        let last_visible = Mutex::new(vec![Micros::MIN; files.files.len()]);
        blocking(|| self.scan(files, note, plan, &group, &partitions, &counts, &last_visible))?;
        let mut done = Done { skipped: counts.skipped(), ..Done::default() };
        let total: u64 = (0..buckets).map(|b| partitions.rows(b)).sum();
        let with_ids = group.event_id_column().is_some();
        // Identities are handed on even of buckets that were written before the job was killed.
        let todo: Vec<usize> =
            (0..buckets).filter(|b| partitions.rows(*b) > 0 && (with_ids || !is_done[*b])).collect();
        let mut loading = Loading::begin(target);
        let mut seen = 0;
        for round in todo.chunks(threads()) {
            let folded = blocking(|| fold_round(self.job, &group, &partitions, plan, round, &is_done))?;
            for (bucket, folded) in round.iter().zip(folded) {
                seen += partitions.rows(*bucket);
                done.event_ids.extend(folded.event_ids);
                bound_ids(&mut done.event_ids);
                if is_done[*bucket] {
                    continue;
                }
                done.rows += folded.rows;
                done.entities += folded.deltas.len() as u64;
                let bucket = Bucket { number: *bucket, rows: folded.rows, deltas: folded.deltas };
                loading.add(bucket).await?;
                self.progress.report("loading", seen, total);
            }
        }
        loading.end().await?;
        blocking(|| files.check_unchanged())?;
        note.finish(plan, &files.files, &last_visible.into_inner());
        crash_point("materialize_before_cursor");
        self.set_note(note).await?;
        crash_point("materialize_after_cursor");
        self.store.drop_lanes(&self.lane_prefix()).await?;
        Ok(done)
    }

    #[expect(clippy::too_many_arguments, reason = "the scan of `execute`, apart because it blocks")]
    fn scan(
        &self,
        files: &SourceFiles,
        note: &Note,
        plan: &JobNote,
        group: &EventGroup<'_>,
        partitions: &Partitions,
        counts: &ScanCounts,
        last_visible: &Mutex<Vec<Micros>>,
    ) -> Result<()> {
        let with_ids = self.job.source.event_id.is_some();
        let is_incremental = note.last.job > 0;
        // An event that came again must meet its first coming, also when that was loaded by an earlier job.
        let again = with_ids && is_incremental;
        let spec = ScanSpec {
            event_times: readable_event_times(self.job, plan.until)..=EVENT_TIME_MAX,
            offsets: if again { 0 } else { plan.stream_end_before }..plan.stream_end,
            with_ids,
            ..ScanSpec::all(group.source_columns())
        };
        let total = files.rows_estimate();
        let wanted = |_: usize, file: &ScanFile| match file.origin {
            Origin::Stream => plan.stream_end > spec.offsets.start,
            Origin::Table => plan.knows(file) && (again || !note.last.has_loaded(file, plan.until)),
        };
        let loaded_before: Vec<bool> = files.files.iter().map(|file| note.last.knows(file)).collect();
        let is_table: Vec<bool> = files.files.iter().map(|f| f.origin == Origin::Table).collect();
        let keep = |rows: &SourceRows, row: usize| {
            if !is_table[rows.file] {
                let has = |positions: &BTreeMap<i32, i64>| {
                    let next = positions.get(&partition_of(rows.seq(row)));
                    next.is_some_and(|next| offset_of(rows.seq(row)) < *next)
                };
                return self.request.stream_positions.is_none_or(has);
            }
            let visible = rows.event_time[row].max(rows.known_at[row]);
            visible <= plan.until && (again || !loaded_before[rows.file] || visible > plan.until_before)
        };
        files.for_each(&spec, threads(), &wanted, counts, &|rows| {
            if is_table[rows.file] {
                let newest = rows.event_time.iter().zip(rows.known_at.iter()).map(|(e, k)| *e.max(k)).max();
                let mut last_visible = last_visible.lock();
                let slot = &mut last_visible[rows.file];
                *slot = (*slot).max(newest.unwrap_or(Micros::MIN));
            }
            let keep = Keep { admits: Some(&keep), ..Keep::ALL };
            group.put_aside_marked(&rows, keep, counts, partitions, &|row| {
                let visible = rows.event_time[row].max(rows.known_at[row]);
                let was_loaded = if is_table[rows.file] {
                    loaded_before[rows.file] && visible <= plan.until_before
                } else {
                    rows.seq(row) < plan.stream_end_before
                };
                again && was_loaded
            })?;
            self.progress.report(
                "reading",
                counts.rows_read.load(std::sync::atomic::Ordering::Relaxed),
                total,
            );
            Ok(())
        })
    }
}

/// Folds some buckets, each on a thread of its own.
fn fold_round(
    job: &ViewJob<'_>,
    group: &EventGroup<'_>,
    partitions: &Partitions,
    plan: &JobNote,
    round: &[usize],
    is_done: &[bool],
) -> Result<Vec<Fold>> {
    let one = |bucket: usize| fold_bucket(job, group, &partitions.load_one(bucket)?, plan, !is_done[bucket]);
    std::thread::scope(|scope| {
        let handles: Vec<_> = round.iter().map(|bucket| scope.spawn(|| one(*bucket))).collect();
        handles.into_iter().map(join).collect()
    })
}

/// Event times before this can't be seen by any read at or after `until - READ_BACK`.
fn readable_event_times(job: &ViewJob<'_>, until: Micros) -> Micros {
    let ViewKind::Windows(features) = &job.view.kind else { return EVENT_TIME_MIN };
    let lows = features.iter().map(|feature| {
        Window { length: feature.window, hop: feature.hop }.bounds(until.saturating_sub(READ_BACK)).low
    });
    lows.min().unwrap_or(EVENT_TIME_MIN)
}
