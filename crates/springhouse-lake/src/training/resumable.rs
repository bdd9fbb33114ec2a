//! A training set in parts that outlive the process: the same command takes up a run that was killed.
//!
//! Beside the output there is a folder `OUT.parts`: the plan (what is asked for, and the files and table versions that the
//! first run found, which later runs read too), and for every part of the labels its rows as an Arrow file and, written last,
//! a note with its counts. A part without its note is made again. In the end the parts are written as one file, to the same bytes as without parts.

use crate::error::{LakeError, Result};
use crate::lake::Lake;
use crate::progress::{Progress, tell};
use crate::training::again::{LabelInputs, SourceInputs};
use crate::training::assemble::FeatureCounts;
use crate::training::by_column::has_columns_apart;
use crate::training::output::{self, Chunks, Rounds};
use crate::training::report::{MadeReport, StageReport};
use crate::training::request::{OutputFormat, TrainingOutput, TrainingRequest};
use crate::training::stages::Stages;
use crate::training::{LabelFacts, Made, OpenSource, Prepared, TrainingOutcome, blocking, manifest, threads};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::FileReader;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use springhouse_core::Micros;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

#[derive(Serialize, Deserialize)]
struct Plan {
    /// Everything that decides what the parts hold, but for the inputs.
    asked: Json,
    labels: u64,
    part_rows: u64,
    inputs: BTreeMap<String, SourceInputs>,
}

impl Plan {
    fn part_count(&self) -> u64 {
        self.labels.div_ceil(self.part_rows)
    }
}

/// What is noted of a finished part.
#[derive(Serialize, Deserialize)]
struct PartNote {
    rows: u64,
    first: Micros,
    last: Micros,
    counts: Vec<FeatureCounts>,
    rows_read: BTreeMap<String, RowsRead>,
    seconds: f64,
}

/// Of one source.
#[derive(Clone, Default, Serialize, Deserialize)]
struct RowsRead {
    read: u64,
    /// By reason.
    skipped: BTreeMap<String, u64>,
}

/// The folder of one run; nobody else uses it while this is there.
struct Parts {
    folder: PathBuf,
    _lock: File,
}

impl Lake {
    /// [`Self::training_set`] in parts of about `part_rows` labels that are kept beside the output, a file, until it is complete:
    /// a run that was killed is taken up where it was, with the files and table versions that it began with.
    ///
    /// # Errors
    /// Those of [`Self::training_set`]; `training_in_use` when another process is at it.
    pub(crate) async fn training_set_in_parts(
        &self,
        request: &TrainingRequest<'_>,
        part_rows: u64,
        progress: &dyn Progress,
    ) -> Result<TrainingOutcome> {
        let started = Instant::now();
        let out = request.out.path().ok_or_else(|| {
            LakeError::new("unknown_format", "only a training set that goes to a file can be taken up again")
                .hint("give `--out` a file")
        })?;
        let parts = Parts::lock(out)?;
        let mut request = request.clone();
        let (prepared, plan) = self.planned(&mut request, &parts, part_rows).await?;
        let mut all = Sum::new(&prepared);
        for number in 0..plan.part_count() {
            let rows = number * plan.part_rows..((number + 1) * plan.part_rows).min(plan.labels);
            let note = match parts.note(number) {
                Some(note) => note,
                None => self.make_part(&request, &parts, number, rows, progress).await?,
            };
            all.add(&note, number);
            tell(progress, "parts", all.made.rows, plan.labels)?;
        }
        let stages = Stages::default();
        blocking(|| write_parts(&request, &prepared, &parts, &plan, &stages, progress))?;
        let mut manifest = manifest::manifest(&request, &prepared, &all.made)?;
        for (source, rows) in &all.rows_read {
            manifest["sources"][source]["rows_read"] = json!(rows.read);
            manifest["sources"][source]["rows_skipped"] = json!(rows.skipped);
        }
        manifest::write(out, &manifest)?;
        parts.remove()?;
        let facts = Some((all.made.facts.first, all.made.facts.last));
        let mut report = prepared.report(&request, Some(all.made.rows), facts, all.made.partitions)?;
        all.stages.extend(stages.into_list().iter().map(StageReport::from));
        report.made = Some(MadeReport {
            rows: all.made.rows,
            seconds: started.elapsed().as_secs_f64(),
            spilled_bytes: 0,
            stages: all.stages,
        });
        Ok(TrainingOutcome { manifest, rows: all.made.rows, report })
    }

    /// Takes up the plan that is there when it asks for the same, or makes a new one; from then on the request reads what the
    /// plan names.
    async fn planned<'a>(
        &self,
        request: &mut TrainingRequest<'a>,
        parts: &Parts,
        part_rows: u64,
    ) -> Result<(Prepared<'a>, Plan)> {
        let prepared = self.prepare(request).await?;
        let labels = blocking(|| prepared.labels.count())?;
        let chunk = output::chunk_rows(&prepared.schema);
        let asked = asked(request, &prepared)?;
        request.label_inputs = Some(LabelInputs {
            hash: prepared.labels.hash()?.to_owned(),
            delta_version: prepared.labels.table.version,
        });
        let part_rows = part_rows.max(1).div_ceil(chunk) * chunk;
        if let Some(plan) = parts.plan()
            && (&plan.asked, plan.labels, plan.part_rows) == (&asked, labels, part_rows)
        {
            request.inputs.clone_from(&plan.inputs);
            match self.prepare(request).await {
                Ok(prepared) => return Ok((prepared, plan)),
                Err(error) if error.code == "source_changed" => {
                    tracing::warn!(%error, "beginning anew: what the finished parts were made from is not there any more");
                }
                Err(error) => return Err(error),
            }
        }
        let inputs = serde_json::from_value(manifest::inputs(&prepared.sources));
        let inputs: BTreeMap<String, SourceInputs> =
            inputs.map_err(|e| LakeError::internal(format!("inputs can't be read back: {e}")))?;
        request.inputs.clone_from(&inputs);
        let plan = Plan { asked, labels, part_rows, inputs };
        parts.begin(&plan)?;
        Ok((prepared, plan))
    }

    async fn make_part(
        &self,
        request: &TrainingRequest<'_>,
        parts: &Parts,
        number: u64,
        rows: std::ops::Range<u64>,
        progress: &dyn Progress,
    ) -> Result<PartNote> {
        let started = Instant::now();
        let path = parts.rows_path(number);
        let out = TrainingOutput::File(&path, OutputFormat::ArrowFile);
        let part = TrainingRequest { out, rows: Some(rows), ..request.clone() };
        let prepared = self.prepare(&part).await?;
        let made = blocking(|| self.make(&Stages::default(), &part, progress, &prepared))?;
        let read = |open: &OpenSource| RowsRead {
            read: open.counts.rows_read.load(Ordering::Relaxed),
            skipped: open.counts.skipped().into_iter().map(|(why, rows)| (why.to_owned(), rows)).collect(),
        };
        let note = PartNote {
            rows: made.rows,
            first: made.facts.first,
            last: made.facts.last,
            counts: made.counts,
            rows_read: prepared.sources.iter().map(|(name, open)| (name.clone(), read(open))).collect(),
            seconds: started.elapsed().as_secs_f64(),
        };
        parts.write(&parts.note_path(number), &note)?;
        Ok(note)
    }
}

/// Everything that decides what is in the parts, but for files and versions.
fn asked(request: &TrainingRequest<'_>, prepared: &Prepared<'_>) -> Result<Json> {
    Ok(json!({
        "springhouse": env!("CARGO_PKG_VERSION"),
        "definition_hash": request.definition_hash,
        "services": request.services,
        "features": request.features,
        "labels": prepared.labels.name,
        "labels_hash": prepared.labels.hash()?,
        "query": request.labels.query(),
        "sample": request.sample.map(|sample| (sample.size.to_string(), sample.seed)),
        "at_column": request.at_column,
        "time_zone": request.time_zone,
        "availability": request.availability,
    }))
}

/// The parts so far.
struct Sum {
    made: Made,
    rows_read: BTreeMap<String, RowsRead>,
    stages: Vec<StageReport>,
}

impl Sum {
    fn new(prepared: &Prepared<'_>) -> Self {
        let made = Made {
            rows: 0,
            counts: vec![FeatureCounts::default(); prepared.plan.outputs.len()],
            facts: LabelFacts { rows: 0, first: Micros::MAX, last: Micros::MIN },
            partitions: 1,
            spilled_bytes: 0,
        };
        Self { made, rows_read: BTreeMap::new(), stages: Vec::new() }
    }

    fn add(&mut self, note: &PartNote, number: u64) {
        let Made { rows, counts, facts, .. } = &mut self.made;
        *rows += note.rows;
        counts.iter_mut().zip(&note.counts).for_each(|(all, more)| all.merge(more));
        facts.rows += note.rows;
        facts.first = facts.first.min(note.first);
        facts.last = facts.last.max(note.last);
        for (source, rows) in &note.rows_read {
            let all = self.rows_read.entry(source.clone()).or_default();
            all.read += rows.read;
            for (why, rows) in &rows.skipped {
                *all.skipped.entry(why.clone()).or_default() += rows;
            }
        }
        self.stages.push(StageReport { stage: "part", of: (number + 1).to_string(), seconds: note.seconds });
    }
}

/// The finished parts as one file.
fn write_parts(
    request: &TrainingRequest<'_>,
    prepared: &Prepared<'_>,
    parts: &Parts,
    plan: &Plan,
    stages: &Stages,
    progress: &dyn Progress,
) -> Result<()> {
    let labels = plan.labels;
    let chunk_count = labels.div_ceil(output::chunk_rows(&prepared.schema)) as usize;
    let files = (0..plan.part_count()).map(|number| parts.rows_path(number)).collect();
    let chunks = PartChunks {
        schema: prepared.schema.clone(),
        reader: Mutex::new(PartReader { files, file: 0, batches: None, chunk: 0, row: 0 }),
    };
    let nothing = |_: usize| Ok(());
    let columns_after = has_columns_apart(&prepared.plan).then_some(prepared.labels.schema.fields().len());
    let rounds = Rounds { chunks: chunk_count.max(1), begin: &nothing, end: &nothing, stages, columns_after };
    let report = |done: u64| tell(progress, "writing", done, labels);
    let written =
        output::write(&request.out, &prepared.schema, &chunks, chunk_count, &rounds, threads(), &report)?;
    if written == labels {
        return Ok(());
    }
    Err(LakeError::internal(format!("the parts have {written} rows, the labels {labels}")))
}

/// The chunks that the parts' files hold.
struct PartChunks {
    schema: SchemaRef,
    reader: Mutex<PartReader>,
}

struct PartReader {
    files: Vec<PathBuf>,
    file: usize,
    batches: Option<FileReader<BufReader<File>>>,
    chunk: usize,
    row: u64,
}

impl PartReader {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batches) = &mut self.batches {
                if let Some(batch) = batches.next() {
                    return Ok(Some(batch?));
                }
                self.batches = None;
                self.file += 1;
            }
            let Some(path) = self.files.get(self.file) else { return Ok(None) };
            let file = File::open(path).map_err(|e| LakeError::unreadable(path, &e))?;
            self.batches = Some(FileReader::try_new(BufReader::with_capacity(1 << 20, file), None)?);
        }
    }
}

impl Chunks for PartChunks {
    fn next(&self) -> Result<Option<(usize, u64, RecordBatch)>> {
        let mut reader = self.reader.lock();
        let Some(batch) = reader.next()? else { return Ok(None) };
        let (chunk, first_row) = (reader.chunk, reader.row);
        reader.chunk += 1;
        reader.row += batch.num_rows() as u64;
        Ok(Some((chunk, first_row, batch)))
    }

    /// As the output has them; the parts have no dictionaries.
    fn columns(&self, _chunk: usize, _first_row: u64, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let column = |(column, field): (&ArrayRef, &arrow::datatypes::FieldRef)| {
            if column.data_type() == field.data_type() {
                return Ok(ArrayRef::clone(column));
            }
            Ok(arrow::compute::cast(column, field.data_type())?)
        };
        rows.columns().iter().zip(self.schema.fields()).map(column).collect()
    }
}

impl Parts {
    /// The folder beside an output, for this process alone.
    fn lock(out: &Path) -> Result<Self> {
        let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = out.with_file_name(format!("{name}.parts"));
        let unwritable = |e: std::io::Error| LakeError::unwritable(&folder, &e);
        std::fs::create_dir_all(&folder).map_err(unwritable)?;
        let lock = File::create(folder.join("lock")).map_err(unwritable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(LakeError::new(
                "training_in_use",
                format!("another process is making `{}`", out.display()),
            )
            .hint("wait for it, or give another `--out`")),
            Err(TryLockError::Error(error)) => Err(unwritable(error)),
        }
    }

    fn rows_path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:06}.arrow"))
    }

    fn note_path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:06}.json"))
    }

    fn plan_path(&self) -> PathBuf {
        self.folder.join("plan.json")
    }

    /// None too when a file can't be read: then it is made anew.
    fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    fn plan(&self) -> Option<Plan> {
        Self::read(&self.plan_path())
    }

    fn note(&self, number: u64) -> Option<PartNote> {
        Self::read(&self.note_path(number))
    }

    /// Begins with a plan: whatever is there of another one goes first.
    fn begin(&self, plan: &Plan) -> Result<()> {
        let unwritable = |e: std::io::Error| LakeError::unwritable(&self.folder, &e);
        // The plan goes before its parts, so that no other plan's parts are ever taken for this one's.
        let mut old = vec![self.plan_path()];
        for entry in std::fs::read_dir(&self.folder).map_err(unwritable)? {
            let path = entry.map_err(unwritable)?.path();
            if path.extension().is_some_and(|e| e == "json" || e == "arrow") && path != old[0] {
                old.push(path);
            }
        }
        for path in old {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LakeError::unwritable(&path, &error));
                }
                _ => {}
            }
        }
        self.write(&self.plan_path(), plan)
    }

    /// Writes a file that is there whole or not at all.
    fn write(&self, path: &Path, content: &impl Serialize) -> Result<()> {
        let unwritable = |e: std::io::Error| LakeError::unwritable(path, &e);
        let bytes = serde_json::to_vec(content)
            .map_err(|e| LakeError::internal(format!("a note is not JSON: {e}")))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(unwritable)?;
        file.write_all(&bytes).map_err(unwritable)?;
        file.as_file().sync_all().map_err(unwritable)?;
        file.persist(path).map_err(|e| unwritable(e.error))?;
        Ok(())
    }

    fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.folder).map_err(|e| LakeError::unwritable(&self.folder, &e))
    }
}
