//! `springhouse train`: a training set for labels.

use crate::output;
use crate::session::{Session, node_options};
use anyhow::Context;
use clap::{Args, ValueEnum};
use springhouse_lake::{Availability, Lake, TrainingRequest};
use springhouse_node::open_registry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `springhouse train`.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// The feature service.
    #[arg(long)]
    service: String,
    /// Labels: a Parquet or CSV file or a Delta table with the entity keys and the moment asked for.
    #[arg(long, value_name = "FILE")]
    labels: PathBuf,
    /// Where the training set goes (Parquet); its manifest goes beside it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
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
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum AvailabilityArg {
    /// An event counts from when it was known: what serving would have answered.
    #[default]
    Known,
    /// An event counts from when it happened: the classical join.
    Event,
}

pub(crate) async fn run(args: TrainArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let options = node_options(project)?;
    // What was pushed and is still in the log belongs to history too.
    let session = Session::open(project).await?;
    let flushed = session.client.post("/v1/admin/flush", &serde_json::json!({})).await;
    session.close().await?;
    flushed?;
    let head = open_registry(&options.paths.registry)?.head().await?;
    let head = head.context("nothing has been applied yet; run `springhouse apply`")?;
    let lake = Lake::open(&options.paths.project, &options.paths.lake)?;
    let request = TrainingRequest {
        definitions: &head.definitions,
        definition_hash: head.definition_hash.clone(),
        service: args.service,
        labels: args.labels,
        labels_name: None,
        at_column: args.at_column,
        time_zone: args.time_zone,
        out: args.out.clone(),
        availability: match args.availability {
            AvailabilityArg::Known => Availability::Known,
            AvailabilityArg::Event => Availability::Event,
        },
        memory_budget: args.memory_mb.map_or(options.memory_budget, |mb| u64::from(mb) << 20),
        cuts: BTreeMap::new(),
    };
    let bar = output::bar();
    let outcome = lake.training_set(&request, &bar).await;
    bar.finish();
    let outcome = outcome?;
    output::data(&format!("{} rows written to {}", outcome.rows, args.out.display()));
    output::data(&format!("manifest: {}.manifest.json", args.out.display()));
    Ok(ExitCode::SUCCESS)
}
