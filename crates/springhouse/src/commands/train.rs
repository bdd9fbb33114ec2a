//! `springhouse train`: a training set for labels.

mod explain;

use crate::output::{self, Format};
use crate::session::{Session, node_options};
use anyhow::Context;
use clap::{ArgGroup, Args, ValueEnum};
use springhouse_lake::{
    Availability, LabelSource, LakeError, Manifest, OutputFormat, Sample, SampleSize, TrainingOutput,
    TrainingReport, TrainingRequest,
};
use springhouse_node::{NodeOptions, open_registry, snapshot_of};
use springhouse_registry::Snapshot;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

/// Arguments of `springhouse train`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("the labels").required(true).args(["labels", "labels_sql", "from_manifest"]))]
pub(crate) struct TrainArgs {
    /// The feature service; several times for the features of several services.
    #[arg(long, required_unless_present_any = ["features", "from_manifest"])]
    service: Vec<String>,
    /// Only these features, in this order: `feature`, `view` or `view:feature`, with commas between them.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    features: Vec<String>,
    /// Labels with the entity keys and the moment asked for: a Parquet, CSV or Arrow file, a glob or folder of them, or
    /// a Delta table.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Labels from a query over one such table: "SELECT user, ts AS event_timestamp FROM 'file' WHERE ...".
    #[arg(long, value_name = "QUERY")]
    labels_sql: Option<String>,
    /// Makes a training set again: from the labels, files, table versions and definitions that its manifest names.
    #[arg(
        long,
        value_name = "MANIFEST",
        conflicts_with_all = ["service", "features", "sample", "at_column", "time_zone", "availability"]
    )]
    from_manifest: Option<PathBuf>,
    /// Keeps finished parts of so many labels beside the output until it is complete (`OUT.parts`), so that the same command
    /// takes up a run that was killed.
    #[arg(long, value_name = "LABELS", num_args = 0..=1, default_missing_value = "2000000")]
    resumable: Option<u64>,
    /// Of the labels only so many rows (1000) or about this share (1%); the same every time.
    #[arg(long, value_name = "SIZE")]
    sample: Option<SampleSize>,
    /// Another seed samples other rows.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "sample")]
    seed: u64,
    /// Where the training set goes; its manifest goes beside it. `-` is standard output.
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// parquet, arrow, arrow-stream or csv; by the output's extension when left out.
    #[arg(long, value_name = "FORMAT")]
    output_format: Option<OutputFormat>,
    /// The labels' column with the moment asked for; `event_timestamp` or the only timestamp column when left out.
    #[arg(long, value_name = "COLUMN")]
    at_column: Option<String>,
    /// The zone of label times that carry none, such as UTC or America/New_York.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Which of an event's two times count.
    #[arg(long, value_enum, default_value_t)]
    availability: AvailabilityArg,
    /// Memory budget in MiB, instead of `memory_budget_mb` in springhouse.yaml.
    #[arg(long, value_name = "MIB")]
    memory_mb: Option<u32>,
    /// Say how it is made: what is read, what is left out, which way each view goes; afterwards what each stage took.
    #[arg(long)]
    explain: bool,
    /// Say how it would be made, and make nothing.
    #[arg(long)]
    dry_run: bool,
    /// How `--explain` and `--dry-run` print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum AvailabilityArg {
    /// An event counts from when it was known: what serving would have answered.
    #[default]
    Known,
    /// An event counts from when it happened: the classical join.
    Event,
}

/// Standard output, whose reader may have seen enough.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().write(bytes).inspect_err(|error| {
            // `| head` closes the pipe: nobody waits for the rest.
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                std::process::exit(0);
            }
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

pub(crate) async fn run(args: TrainArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let options = node_options(project)?;
    let lake = options.lake()?;
    let stdout = Mutex::new(Stdout);
    let to_stdout = args.out.as_deref() == Some(Path::new("-"));
    let out = args.output(to_stdout, &stdout)?;
    let manifest = args.from_manifest.as_deref().map(Manifest::read).transpose()?;
    if args.dry_run {
        let head = applied(&options, manifest.as_ref()).await?;
        let request = args.request(&options, &head, manifest.as_ref(), out)?;
        let report = lake.training_plan(&request).await?;
        output::data(&match args.format {
            Format::Table => explain::plan(&report),
            Format::Json => json(&report)?,
        });
        return Ok(ExitCode::SUCCESS);
    }
    if manifest.is_none() {
        // What was pushed and is still in the log belongs to history too.
        let session = Session::open(project).await?;
        let flushed = session.client.post("/v1/admin/flush", &serde_json::json!({})).await;
        session.close().await?;
        flushed?;
    }
    let head = applied(&options, manifest.as_ref()).await?;
    let request = args.request(&options, &head, manifest.as_ref(), out)?;
    // Data on standard output has no company.
    let say = if to_stdout { output::note } else { output::data };
    if args.explain && args.format == Format::Table {
        say(&format!("{}\n", explain::plan(&lake.training_plan(&request).await?)));
    }
    let bar = output::bar();
    let outcome = lake.training_set(&request, &bar).await;
    bar.finish();
    let outcome = outcome?;
    if let Some(manifest) = &manifest {
        manifest.check(&outcome.manifest)?;
    }
    let place = out.path().map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
    let done = format!("{} rows written to {place}", outcome.rows);
    if args.explain && args.format == Format::Json {
        output::note(&done);
        say(&json(&outcome.report)?);
        return Ok(ExitCode::SUCCESS);
    }
    say(&done);
    if let Some(out) = out.path() {
        say(&format!("manifest: {}.manifest.json", out.display()));
    }
    if args.explain {
        say(&format!("\n{}", explain::made(&outcome.report)));
    }
    Ok(ExitCode::SUCCESS)
}

fn json(report: &TrainingReport) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(report)?)
}

/// The definitions that are applied, or those of the manifest.
async fn applied(options: &NodeOptions, manifest: Option<&Manifest>) -> anyhow::Result<Snapshot> {
    let registry = open_registry(&options.paths.registry)?;
    let Some(manifest) = manifest else {
        return registry.head().await?.context("nothing has been applied yet; run `springhouse apply`");
    };
    Ok(snapshot_of(&registry, manifest).await?)
}

impl TrainArgs {
    fn output<'a>(
        &'a self,
        to_stdout: bool,
        stdout: &'a Mutex<Stdout>,
    ) -> anyhow::Result<TrainingOutput<'a>> {
        if to_stdout {
            return match self.output_format {
                Some(format @ (OutputFormat::ArrowStream | OutputFormat::Csv)) => {
                    Ok(TrainingOutput::Writer(stdout, format))
                }
                _ => Err(LakeError {
                    code: "unknown_format",
                    message: "standard output takes an Arrow stream or CSV".to_owned(),
                    hint: Some(
                        "say which: `--output-format arrow-stream` or `--output-format csv`".to_owned(),
                    ),
                }
                .into()),
            };
        }
        let out = self.out.as_deref().unwrap_or(Path::new("training.parquet"));
        let format = self.output_format.map_or_else(|| OutputFormat::of(out), Ok)?;
        Ok(TrainingOutput::File(out, format))
    }

    fn request<'a>(
        &self,
        options: &NodeOptions,
        head: &'a Snapshot,
        manifest: Option<&Manifest>,
        out: TrainingOutput<'a>,
    ) -> anyhow::Result<TrainingRequest<'a>> {
        let budget = self.memory_mb.map_or(options.memory_budget, |mb| u64::from(mb) << 20);
        if let Some(manifest) = manifest {
            let request = manifest.request(&options.paths.project, &head.definitions, out, budget)?;
            return Ok(TrainingRequest { part_rows: self.resumable, ..request });
        }
        let labels = match (&self.labels, &self.labels_sql) {
            (_, Some(sql)) => LabelSource::Query(sql.clone()),
            (path, None) => LabelSource::Path(path.clone().unwrap_or_default()),
        };
        Ok(TrainingRequest {
            services: self.service.clone(),
            features: self.features.clone(),
            at_column: self.at_column.clone(),
            time_zone: self.time_zone.clone(),
            sample: self.sample.map(|size| Sample { size, seed: self.seed }),
            availability: match self.availability {
                AvailabilityArg::Known => Availability::Known,
                AvailabilityArg::Event => Availability::Event,
            },
            part_rows: self.resumable,
            ..TrainingRequest::new(&head.definitions, head.definition_hash.as_str(), "", labels, out, budget)
        })
    }
}
