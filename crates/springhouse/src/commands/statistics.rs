//! `springhouse statistics`: population defaults, computed from history and applied with their date.

use crate::output;
use crate::project::Project;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use springhouse_core::time::{format_instant, parse_instant};
use springhouse_core::{Clock, Definitions, Micros};
use springhouse_lake::{Lake, fill_population_defaults};
use springhouse_node::{NodePaths, SystemClock};
use springhouse_registry::SnapshotMeta;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `springhouse statistics`.
#[derive(Debug, Args)]
pub(crate) struct StatisticsArgs {
    /// Only history visible at this moment (RFC 3339); now when left out.
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
}

pub(crate) async fn run(args: StatisticsArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let opened = Project::open(&std::path::absolute(project)?)?;
    let as_of = args.as_of.as_deref().map(parse_instant).transpose()?.unwrap_or_else(|| SystemClock.now());
    // What was pushed and is still in the log belongs to history too.
    let session = Session::open(project).await?;
    let flushed = session.client.post("/v1/admin/flush", &serde_json::json!({})).await;
    session.close().await?;
    flushed?;
    let registry = opened.registry()?;
    let head = registry.head().await?.context("nothing has been applied yet; run `springhouse apply`")?;
    let (definitions, lines) = compute(head.definitions, &opened.paths(), as_of).await?;
    if lines.is_empty() {
        output::note("no feature with a population default has a value in history");
        return Ok(ExitCode::SUCCESS);
    }
    let meta = SnapshotMeta {
        applied_at: SystemClock.now(),
        applied_by: "statistics".to_owned(),
        message: format!("population defaults as of {}", format_instant(as_of)),
    };
    let snapshot = registry.put(&definitions, Some(head.number), meta).await?;
    for line in lines {
        output::data(&line);
    }
    output::note(&format!(
        "applied as snapshot {}; a running server takes it up with POST /v1/admin/reload",
        snapshot.number
    ));
    Ok(ExitCode::SUCCESS)
}

/// The definitions with their population defaults, and a line for each.
pub(super) async fn compute(
    mut definitions: Definitions,
    paths: &NodePaths,
    as_of: Micros,
) -> anyhow::Result<(Definitions, Vec<String>)> {
    let lake = Lake::open(&paths.project, &paths.lake)?;
    let found = lake.population_statistics(&definitions, as_of).await?;
    fill_population_defaults(&mut definitions, &found, as_of)?;
    let lines =
        found.iter().map(|(feature, value)| format!("{feature} defaults to {}", output::value(value)));
    Ok((definitions, lines.collect()))
}
