//! `springhouse verify`: online against offline, bit for bit.

use super::job;
use crate::output;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use springhouse_api::JobRequestBody;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `springhouse verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Only these views; all when left out.
    #[arg(long = "view", value_name = "VIEW")]
    views: Vec<String>,
    /// Entities compared in each view.
    #[arg(long, default_value_t = 1_000)]
    entities: usize,
}

pub(crate) async fn run(args: VerifyArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let session = Session::open(project).await?;
    let request = JobRequestBody {
        views: (!args.views.is_empty()).then_some(args.views),
        until: None,
        entities_per_view: Some(args.entities),
    };
    let job = job::follow(&session, "verify", &request).await;
    session.close().await?;
    let verified = job?.verified.context("the server ran no verification")?;
    for difference in &verified.differences {
        output::data(&format!(
            "{}:{} {} at {}: online {}, offline {}",
            difference.view,
            difference.feature,
            difference.key,
            difference.at,
            difference.online,
            difference.offline
        ));
    }
    output::data(&format!(
        "{} values of {} entities compared, {} differ",
        verified.values, verified.entities, verified.difference_count
    ));
    Ok(if verified.difference_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
