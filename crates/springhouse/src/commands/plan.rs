//! `springhouse plan`: what applying the files would change.
//!
//! Exit status: 0 nothing changes, 2 something does, 1 the plan can't be made.

use super::validate::Format;
use crate::output;
use crate::project::Project;
use clap::Args;
use springhouse_node::Plan;
use std::path::Path;
use std::process::ExitCode;

/// The exit status that says that something changes.
const EXIT_CHANGES: u8 = 2;

/// Arguments of `springhouse plan`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 nothing changes, 2 something does, 1 the plan can't be made.")]
pub(crate) struct PlanArgs {
    /// How to print the plan.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Compares the project's files with what is applied.
pub(crate) async fn make(project: &Project) -> anyhow::Result<Plan> {
    let loaded = project.load_definitions()?;
    Ok(Plan::make(loaded.definitions, &project.registry()?).await?)
}

pub(crate) async fn run(args: PlanArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let plan = make(&Project::open(project)?).await?;
    match args.format {
        Format::Json => output::data(&serde_json::to_string_pretty(&plan.json())?),
        Format::Text => output::data(plan.text().trim_end()),
    }
    Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHANGES) })
}
