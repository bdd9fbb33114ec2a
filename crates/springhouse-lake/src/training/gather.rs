//! The events of one source and entity, scanned once and put aside by partition of the entity.

use crate::error::Result;
use crate::identity::{Identity, Presence, for_each_key, for_each_run, mix};
use crate::source::scan::{ScanCounts, ScanFile, ScanSpec, SourceFiles, SourceRows};
use crate::spill::{Partitions, partition_of};
use crate::training::latest::Meeting;
use crate::training::plan::ViewJob;
use arrow::array::{ArrayRef, BinaryBuilder, BooleanArray, Decimal128Array, Int64Array, UInt32Array};
use arrow::compute::{nullif, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use springhouse_core::Micros;
use springhouse_core::definition::Entity;
use springhouse_expr::{ProjectedRows, ViewProjection};
use springhouse_kernel::{ViewInput, ViewPlan, arrow_type};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What is put aside of each event besides its entity and stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// The inputs of every view in the group.
    Inputs,
    /// Only where the row is: `file << 32 | row`.
    RowReference,
}

/// Views that see the same rows of one source by the same key.
#[derive(Debug)]
pub(crate) struct EventGroup<'a> {
    /// Positions of the views in the caller's list.
    pub views: Vec<usize>,
    pub entity: &'a Entity,
    pub payload: Payload,
    projections: Vec<ViewProjection>,
    /// For each projection, the columns of the partitions that its inputs are.
    input_columns: Vec<Vec<usize>>,
    /// The inputs in the order of their columns.
    inputs: Vec<ViewInput>,
    schema: SchemaRef,
    extras: Extras,
}

/// What is put aside besides identity, event time and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extras {
    /// `known_at`, where it is not the event time again.
    pub known_at: bool,
    /// Sequence numbers, where something is decided by them.
    pub seq: bool,
    /// Identities of events, where the source declares them.
    pub ids: bool,
    /// Encoded keys.
    pub keys: bool,
}

impl Extras {
    /// Everything that a state is made of.
    pub(crate) fn all(source: &springhouse_core::definition::Source, keys: bool) -> Self {
        Self { known_at: true, seq: true, ids: source.event_id.is_some(), keys }
    }

    fn count(self) -> usize {
        [self.known_at, self.seq, self.ids, self.keys].into_iter().filter(|is_there| *is_there).count()
    }
}

/// Columns of a partition before the payload.
pub(crate) const IDENTITY: usize = 0;
pub(crate) const EVENT_TIME: usize = 1;
/// The first of those that are not always there.
const EXTRAS: usize = 2;

impl<'a> EventGroup<'a> {
    /// A group of views; all must have the same source, entity, key columns, filter and derived columns.
    pub(crate) fn new(
        jobs: &[&ViewJob<'a>],
        views: Vec<usize>,
        payload: Payload,
        extras: Extras,
    ) -> Result<Self> {
        let first = jobs[0];
        let mut fields = vec![
            Field::new("identity", DataType::Decimal128(38, 0), false),
            Field::new("event_time", DataType::Int64, false),
        ];
        let more = [
            (extras.known_at, Field::new("known_at", DataType::Int64, false)),
            (extras.seq, Field::new("seq", DataType::Int64, false)),
            (extras.ids, Field::new("event_id", DataType::Decimal128(38, 0), true)),
            (extras.keys, Field::new("key", DataType::Binary, true)),
        ];
        fields.extend(more.into_iter().filter(|(is_there, _)| *is_there).map(|(_, field)| field));
        let mut group = Self {
            views,
            entity: first.entity,
            payload,
            projections: Vec::new(),
            input_columns: Vec::new(),
            inputs: Vec::new(),
            schema: Arc::new(Schema::empty()),
            extras,
        };
        match payload {
            Payload::RowReference => {
                // The row reference needs only keys and filters: a plan that reads nothing but the first key.
                let mut narrow = first.view.as_ref().clone();
                narrow.kind = springhouse_core::definition::ViewKind::Latest(vec![narrow_feature(first)]);
                let plan = crate::training::plan::compile(first.source, &narrow)?;
                group.projections.push(ViewProjection::plan(first.source, first.entity, &narrow, &plan)?);
                fields.push(Field::new("row", DataType::Int64, false));
            }
            Payload::Inputs => {
                let mut known: Vec<&ViewInput> = Vec::new();
                let base = fields.len();
                for job in jobs {
                    let mut columns = Vec::new();
                    for input in job.plan.inputs() {
                        let position = known.iter().position(|k| *k == input).unwrap_or_else(|| {
                            fields.push(input_field(known.len(), input));
                            known.push(input);
                            known.len() - 1
                        });
                        columns.push(base + position);
                    }
                    group.projections.push(job.projection.clone());
                    group.input_columns.push(columns);
                }
                group.inputs = known.into_iter().cloned().collect();
            }
        }
        group.schema = Arc::new(Schema::new(fields));
        Ok(group)
    }

    /// The columns of its partitions.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns of a partition that are the inputs of the `view`-th view of the group.
    pub(crate) fn inputs_of(&self, view: usize) -> &[usize] {
        &self.input_columns[view]
    }

    /// What its columns from [`Self::payload_column`] on are, unless they refer to rows.
    pub(crate) fn inputs(&self) -> &[ViewInput] {
        &self.inputs
    }

    pub(crate) fn extras(&self) -> Extras {
        self.extras
    }

    /// The column with `known_at`; none where it is the event time again.
    pub(crate) fn known_at_column(&self) -> Option<usize> {
        self.extras.known_at.then_some(EXTRAS)
    }

    /// The column with sequence numbers.
    pub(crate) fn seq_column(&self) -> Option<usize> {
        let before = Extras { seq: false, ids: false, keys: false, ..self.extras };
        self.extras.seq.then_some(EXTRAS + before.count())
    }

    /// The column with event identities.
    pub(crate) fn event_id_column(&self) -> Option<usize> {
        let before = Extras { ids: false, keys: false, ..self.extras };
        self.extras.ids.then_some(EXTRAS + before.count())
    }

    /// The column with encoded keys.
    pub(crate) fn key_column(&self) -> Option<usize> {
        let before = Extras { keys: false, ..self.extras };
        self.extras.keys.then_some(EXTRAS + before.count())
    }

    /// The first column of the payload.
    pub(crate) fn payload_column(&self) -> usize {
        EXTRAS + self.extras.count()
    }

    /// The declared source columns that it reads.
    pub(crate) fn source_columns(&self) -> Vec<String> {
        crate::source::scan::names(self.projections.iter().map(ViewProjection::source_columns))
    }

    /// About how many bytes a row takes.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.schema.fields().iter().map(|f| width(f.data_type())).sum()
    }

    /// Scans the source and puts aside the events of entities that may be in `present` (all, when None) and that `keep`
    /// wants. Those that come entity by entity are not put aside where they can meet the labels at once.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call from each of three jobs; a struct would only rename them"
    )]
    pub(crate) fn gather(
        &self,
        files: &SourceFiles,
        spec: &ScanSpec,
        threads: usize,
        present: Option<&Presence>,
        wanted: &(dyn Fn(usize, &ScanFile) -> bool + Sync),
        keep: Keep<'_>,
        counts: &ScanCounts,
        report: &(dyn Fn(u64) -> Result<()> + Sync),
        partitions: &Partitions,
        meeting: Option<&Meeting<'_>>,
    ) -> Result<()> {
        let before = counts.kept.load(Ordering::Relaxed);
        files.for_each(spec, threads, wanted, counts, &|rows: SourceRows| {
            let projected = self.projections[0].project(&rows.batch);
            let kept = self.kept(&rows, &projected, present, keep, counts);
            match meeting.filter(|_| kept.is_by_entity()) {
                Some(meeting) => meeting.offer_runs(&rows, &kept),
                None => self.put_aside(&rows, projected, &kept, partitions, &|_| false)?,
            }
            report(counts.rows_read.load(Ordering::Relaxed))
        })?;
        files.note_kept(counts.kept.load(Ordering::Relaxed) - before);
        Ok(())
    }

    /// The rows that count.
    fn kept(
        &self,
        rows: &SourceRows,
        projected: &ProjectedRows,
        present: Option<&Presence>,
        keep: Keep<'_>,
        counts: &ScanCounts,
    ) -> KeptRows {
        let length = projected.rows.len();
        let mut runs = Vec::with_capacity(length / RUN_ROWS);
        let mut no_key = 0;
        let keys = (&projected.key_columns, &self.entity.keys);
        for_each_run(keys.0, keys.1, length, |positions, found| match found {
            None => no_key += positions.len() as u64,
            Some(identity) if present.is_none_or(|present| present.may_hold(identity)) => {
                let (start, end) = (positions.start as u32, positions.end as u32);
                runs.push(Run { identity, start, end });
            }
            Some(_) => {}
        });
        counts.no_key.fetch_add(no_key, Ordering::Relaxed);
        let is_all = length == rows.batch.num_rows() && keep.wants_all(rows);
        let kept = match is_all {
            true => KeptRows { runs, listed: None },
            false => KeptRows::listed(&runs, &projected.rows, |row| keep.wants(rows, row as usize)),
        };
        counts.kept.fetch_add(kept.count() as u64, Ordering::Relaxed);
        kept
    }

    /// Puts aside rows with their keys; those that `mark` names get a null key.
    pub(crate) fn put_aside_marked(
        &self,
        rows: &SourceRows,
        keep: Keep<'_>,
        counts: &ScanCounts,
        partitions: &Partitions,
        mark: &dyn Fn(usize) -> bool,
    ) -> Result<()> {
        let projected = self.projections[0].project(&rows.batch);
        let kept = self.kept(rows, &projected, None, keep, counts);
        self.put_aside(rows, projected, &kept, partitions, mark)
    }

    fn put_aside(
        &self,
        rows: &SourceRows,
        first: ProjectedRows,
        kept: &KeptRows,
        partitions: &Partitions,
        mark: &dyn Fn(usize) -> bool,
    ) -> Result<()> {
        let length = first.rows.len();
        let listed;
        let (runs, places) = match &kept.listed {
            Some(places) => (&kept.runs, places),
            None => {
                listed = KeptRows::listed(&kept.runs, &first.rows, |_| true);
                let Some(places) = &listed.listed else { return Ok(()) };
                (&listed.runs, places)
            }
        };
        if places.source.is_empty() {
            return Ok(());
        }
        let mut partition = vec![0; places.source.len()];
        let mut identity = vec![0; places.source.len()];
        for run in runs {
            let of_run = partition_of(mix(run.identity), partitions.count());
            partition[run.positions()].fill(of_run);
            identity[run.positions()].fill(run.identity as i128);
        }
        let grouping = partitions.grouping(&partition);
        let order_of =
            |rows: &[u32]| -> Vec<u32> { grouping.order.iter().map(|i| rows[*i as usize]).collect() };
        let (source, projected) = (order_of(&places.source), UInt32Array::from(order_of(&places.projected)));
        let ordered: Vec<i128> = grouping.order.iter().map(|i| identity[*i as usize]).collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Decimal128Array::from(ordered).with_precision_and_scale(38, 0)?),
            stamps(&source, |row| rows.event_time[row]),
        ];
        if self.extras.known_at {
            columns.push(stamps(&source, |row| rows.known_at[row]));
        }
        if self.extras.seq {
            columns.push(stamps(&source, |row| rows.seq(row)));
        }
        if self.extras.ids {
            let of =
                |row: &u32| rows.event_ids.as_ref().and_then(|ids| ids[*row as usize]).map(|id| id as i128);
            let ids: Decimal128Array = source.iter().map(of).collect();
            columns.push(Arc::new(ids.with_precision_and_scale(38, 0)?));
        }
        if self.extras.keys {
            columns.push(self.keys(&first.key_columns, length, &source, &projected, mark)?);
        }
        match self.payload {
            Payload::RowReference => {
                let base = (rows.file as i64) << 32;
                let references = source.iter().map(|row| base | i64::from(rows.row[*row as usize]));
                columns.push(Arc::new(references.collect::<Int64Array>()));
            }
            Payload::Inputs => self.push_inputs(rows, first.inputs, &projected, &mut columns)?,
        }
        partitions.push_grouped(columns, &grouping)
    }

    /// The encoded keys of the projected rows in an order; null where the source row is marked.
    fn keys(
        &self,
        columns: &[ArrayRef],
        length: usize,
        source: &[u32],
        projected: &UInt32Array,
        mark: &dyn Fn(usize) -> bool,
    ) -> Result<ArrayRef> {
        let mut all = BinaryBuilder::with_capacity(length, length * 16);
        for_each_key(columns, &self.entity.keys, length, |_, key| all.append_option(key));
        let keys = take(&all.finish(), projected, None)?;
        let marked: BooleanArray = source.iter().map(|row| Some(mark(*row as usize))).collect();
        Ok(if marked.true_count() == 0 { keys } else { nullif(&keys, &marked)? })
    }

    fn push_inputs(
        &self,
        rows: &SourceRows,
        first: Vec<ArrayRef>,
        projected: &UInt32Array,
        columns: &mut Vec<ArrayRef>,
    ) -> Result<()> {
        let mut first = Some(first);
        for (projection, targets) in self.projections.iter().zip(&self.input_columns) {
            let is_covered = targets.iter().all(|target| *target < columns.len());
            let inputs = match first.take() {
                Some(inputs) => inputs,
                None if is_covered => continue,
                None => projection.project(&rows.batch).inputs,
            };
            for (input, target) in inputs.iter().zip(targets) {
                if *target == columns.len() {
                    columns.push(take(input, projected, None)?);
                }
            }
        }
        Ok(())
    }
}

/// Says of a row by its place whether it counts.
pub(crate) type Admits<'a> = dyn Fn(&SourceRows, usize) -> bool + Sync + 'a;

/// Which rows of a scan count.
#[derive(Clone, Copy)]
pub(crate) struct Keep<'a> {
    /// Those that are visible by then.
    pub visible_by: Micros,
    /// And of which this says so.
    pub admits: Option<&'a Admits<'a>>,
}

impl Keep<'_> {
    /// All.
    pub(crate) const ALL: Self = Self { visible_by: Micros::MAX, admits: None };

    /// True when every row is wanted.
    fn wants_all(&self, rows: &SourceRows) -> bool {
        let is_visible =
            |times: &[Micros]| times.iter().fold(true, |all, time| all & (*time <= self.visible_by));
        self.admits.is_none() && is_visible(&rows.event_time) && is_visible(&rows.known_at)
    }

    fn wants(&self, rows: &SourceRows, row: usize) -> bool {
        rows.event_time[row].max(rows.known_at[row]) <= self.visible_by
            && self.admits.is_none_or(|admits| admits(rows, row))
    }
}

/// Rows of a batch that count.
pub(crate) struct KeptRows {
    /// Neighbours of one entity.
    pub runs: Vec<Run>,
    /// Where they are; none where the runs' positions are rows of the batch.
    pub listed: Option<Places>,
}

/// Rows of a batch, listed.
pub(crate) struct Places {
    /// Positions among the projected rows.
    projected: Vec<u32>,
    /// Positions in the batch.
    pub source: Vec<u32>,
}

/// Rows of one entity: a range of positions.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub identity: Identity,
    start: u32,
    end: u32,
}

impl Run {
    pub(crate) fn positions(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Rows come entity by entity where runs have at least so many on average.
const RUN_ROWS: usize = 3;

impl KeptRows {
    /// Those of the runs' rows that are wanted; `rows` are the projected rows.
    fn listed(runs: &[Run], rows: &[u32], is_wanted: impl Fn(u32) -> bool) -> Self {
        let count = runs.iter().map(|run| run.positions().len()).sum();
        let mut places = Places { projected: Vec::with_capacity(count), source: Vec::with_capacity(count) };
        let mut kept = Vec::with_capacity(runs.len());
        for run in runs {
            let start = places.source.len() as u32;
            for (position, row) in (run.start..).zip(&rows[run.positions()]) {
                if is_wanted(*row) {
                    places.projected.push(position);
                    places.source.push(*row);
                }
            }
            let end = places.source.len() as u32;
            if end > start {
                kept.push(Run { identity: run.identity, start, end });
            }
        }
        Self { runs: kept, listed: Some(places) }
    }

    fn count(&self) -> usize {
        self.runs.iter().map(|run| run.positions().len()).sum()
    }

    fn is_by_entity(&self) -> bool {
        self.runs.len() * RUN_ROWS <= self.count()
    }
}

/// Groups views that can be gathered together.
pub(crate) fn group_views(
    jobs: &[ViewJob<'_>],
    payload_of: impl Fn(&ViewJob<'_>) -> Payload,
) -> Vec<(Payload, Vec<usize>)> {
    let mut groups: Vec<(Payload, Vec<usize>)> = Vec::new();
    for (number, job) in jobs.iter().enumerate() {
        let payload = payload_of(job);
        let same = |other: &ViewJob<'_>| {
            let (a, b) = (&job.view, &other.view);
            (&a.source, &a.entity, &a.key_columns, &a.filter)
                == (&b.source, &b.entity, &b.key_columns, &b.filter)
                && a.derived == b.derived
        };
        match groups.iter_mut().find(|(p, views)| *p == payload && same(&jobs[views[0]])) {
            Some((_, views)) => views.push(number),
            None => groups.push((payload, vec![number])),
        }
    }
    groups
}

/// A part of the stamps of some rows.
fn stamps(rows: &[u32], of: impl Fn(usize) -> i64) -> ArrayRef {
    Arc::new(rows.iter().map(|row| of(*row as usize)).collect::<Int64Array>())
}

fn narrow_feature(job: &ViewJob<'_>) -> springhouse_core::definition::LatestFeature {
    springhouse_core::definition::LatestFeature {
        name: job.view.key_columns[0].clone(),
        column: job.view.key_columns[0].clone(),
        value_type: job.entity.keys[0].1.clone(),
        default: springhouse_core::definition::DefaultValue::Null,
        pii: false,
        meta: springhouse_core::definition::Meta::default(),
    }
}

/// A plan whose only input is an int64 row reference: the kernel then says which row each label sees.
pub(crate) fn reference_plan(job: &ViewJob<'_>) -> Result<ViewPlan> {
    let mut view = job.view.as_ref().clone();
    view.kind =
        springhouse_core::definition::ViewKind::Latest(vec![springhouse_core::definition::LatestFeature {
            name: "row".to_owned(),
            column: "row".to_owned(),
            value_type: springhouse_core::ValueType::Int64,
            ..narrow_feature(job)
        }]);
    Ok(ViewPlan::compile(&view, &|_| Some(springhouse_core::ValueType::Int64))?)
}

fn input_field(number: usize, input: &ViewInput) -> Field {
    let data_type = match input {
        ViewInput::Column { value_type, .. } => arrow_type(value_type),
        ViewInput::Predicate { .. } => DataType::Boolean,
    };
    Field::new(format!("input{number}"), data_type, true)
}

/// About how many bytes a value of a type takes.
pub(crate) fn width(data_type: &DataType) -> u64 {
    match data_type {
        DataType::Boolean | DataType::UInt8 => 1,
        DataType::FixedSizeList(field, n) => width(field.data_type()) * n.unsigned_abs() as u64,
        DataType::List(field) => 4 + 8 * width(field.data_type()),
        DataType::Struct(fields) => fields.iter().map(|f| width(f.data_type())).sum(),
        DataType::Utf8 | DataType::Binary => 24,
        other => other.primitive_width().unwrap_or(16) as u64,
    }
}
