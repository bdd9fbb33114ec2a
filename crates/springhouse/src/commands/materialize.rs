//! `springhouse materialize` and `springhouse rebuild`: history into the online store.

use super::job;
use crate::session::Session;
use clap::Args;
use springhouse_api::JobRequestBody;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `springhouse materialize`.
#[derive(Debug, Args)]
pub(crate) struct MaterializeArgs {
    /// Only these views; all when left out.
    #[arg(long = "view", value_name = "VIEW")]
    views: Vec<String>,
    /// Only rows visible at this moment (RFC 3339); now when left out.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Arguments of `springhouse rebuild`.
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Only these views; all when left out.
    #[arg(long = "view", value_name = "VIEW")]
    views: Vec<String>,
}

pub(crate) async fn run(args: MaterializeArgs, project: &Path) -> anyhow::Result<ExitCode> {
    follow(project, "materialize", args.views, args.until).await
}

pub(crate) async fn run_rebuild(args: RebuildArgs, project: &Path) -> anyhow::Result<ExitCode> {
    follow(project, "rebuild", args.views, None).await
}

async fn follow(
    project: &Path,
    kind: &str,
    views: Vec<String>,
    until: Option<String>,
) -> anyhow::Result<ExitCode> {
    let session = Session::open(project).await?;
    let views = (!views.is_empty()).then_some(views);
    let request = JobRequestBody { views, until, ..JobRequestBody::default() };
    let job = job::follow(&session, kind, &request).await;
    session.close().await?;
    job::print_views(&job?);
    Ok(ExitCode::SUCCESS)
}
