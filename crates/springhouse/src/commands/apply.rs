//! `springhouse apply`: makes what the files say what is applied.

use super::plan;
use super::validate::Format;
use crate::output;
use crate::project::Project;
use anyhow::bail;
use clap::Args;
use serde_json::json;
use springhouse_core::Clock;
use springhouse_node::SystemClock;
use springhouse_registry::SnapshotMeta;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `springhouse apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Why, for the history.
    #[arg(long, short = 'm', default_value = "")]
    message: String,
    /// Who, for the history; the user of this machine when absent.
    #[arg(long)]
    by: Option<String>,
    /// Print the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Also apply changes that break callers. Changes that what is stored would not survive are refused all the same.
    #[arg(long)]
    allow_breaking: bool,
    /// How to print what was done.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(crate) async fn run(args: ApplyArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let project = Project::open(project)?;
    let plan = plan::make(&project).await?;
    if args.format == Format::Text {
        output::data(plan.text().trim_end());
    }
    if let Some(refusal) = plan.refusal(args.allow_breaking) {
        let hint = if refusal.may_be_forced {
            "\n  = help: `--allow-breaking` applies them all the same"
        } else {
            ""
        };
        bail!("nothing was applied: these changes are breaking\n{}{hint}", refusal.lines.join("\n"));
    }
    let applied = if args.dry_run {
        None
    } else {
        let meta = SnapshotMeta {
            applied_at: SystemClock.now(),
            applied_by: args.by.unwrap_or_else(user),
            message: args.message,
        };
        plan.apply(&project.registry()?, meta).await?
    };
    match (args.format, &applied) {
        (Format::Json, _) => {
            let mut json = plan.json();
            json["applied"] = json!(applied.map(|snapshot| snapshot.number));
            output::data(&serde_json::to_string_pretty(&json)?);
        }
        (Format::Text, Some(snapshot)) => output::note(&format!("applied as snapshot {}", snapshot.number)),
        (Format::Text, None) if args.dry_run => output::note("dry run: nothing was applied"),
        (Format::Text, None) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Who runs this program, as far as the machine says.
fn user() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    user.unwrap_or_else(|_| "unknown".to_owned())
}
