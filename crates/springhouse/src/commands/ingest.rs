//! `springhouse ingest`: one of the processes that read the project's topics together.

use crate::output;
use crate::project::Project;
use crate::telemetry::begin_log;
use clap::Args;
use springhouse_node::{SystemClock, work};
use springhouse_server::shutdown_signal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Arguments of `springhouse ingest`.
#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    /// This worker's name in the status, instead of one made of the process's number.
    #[arg(long)]
    name: Option<String>,
}

pub(crate) async fn run(args: IngestArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let project = Project::open(&std::path::absolute(project)?)?;
    let telemetry = &project.telemetry;
    let complaints = telemetry.validate();
    anyhow::ensure!(complaints.is_empty(), "{}", complaints.join("; "));
    begin_log(telemetry.log_format);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = args.name.unwrap_or_else(|| format!("{}-{}", host.trim(), std::process::id()));
    output::note(&format!("worker {name}: reads its share of the topics until it is told to stop"));
    work(project.node_options(Arc::new(SystemClock)), name, shutdown_signal()?).await?;
    output::note("stopped: everything that was read is in the store and in the lake");
    Ok(ExitCode::SUCCESS)
}
