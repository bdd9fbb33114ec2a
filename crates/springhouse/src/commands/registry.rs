//! `springhouse registry`: what was applied, when, by whom.

use super::validate::Format;
use crate::output;
use crate::project::Project;
use clap::{Args, Subcommand};
use comfy_table::Table;
use serde_json::json;
use springhouse_core::diff::{describe_changes, diff};
use springhouse_core::time::format_instant;
use springhouse_registry::Snapshot;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `springhouse registry`.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    #[command(subcommand)]
    command: RegistryCommand,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    format: Format,
}

/// What to show.
#[derive(Debug, Subcommand)]
enum RegistryCommand {
    /// Every snapshot, newest first; the chain is checked.
    History,
    /// The definitions of one snapshot, as JSON.
    Show {
        /// Its number; the newest when absent.
        number: Option<u64>,
    },
    /// What changed between two snapshots.
    Diff {
        /// The older one.
        from: u64,
        /// The newer one; the newest when absent.
        to: Option<u64>,
    },
}

pub(crate) async fn run(args: RegistryArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let registry = Project::open(project)?.registry()?;
    let newest = || async {
        registry.head().await?.ok_or_else(|| {
            anyhow::anyhow!("nothing has been applied yet\n  = help: `springhouse apply` applies the files")
        })
    };
    match args.command {
        RegistryCommand::History => {
            let mut snapshots = registry.list().await?;
            snapshots.reverse();
            match args.format {
                Format::Json => {
                    let lines: Vec<_> = snapshots.iter().map(head_json).collect();
                    output::data(&serde_json::to_string_pretty(&lines)?);
                }
                Format::Text if snapshots.is_empty() => output::note("nothing has been applied yet"),
                Format::Text => output::data(&table(&snapshots)),
            }
        }
        RegistryCommand::Show { number } => {
            let snapshot = match number {
                Some(number) => registry.get(number).await?,
                None => newest().await?,
            };
            let mut json = head_json(&snapshot);
            json["definitions"] = serde_json::to_value(&snapshot.definitions)?;
            output::data(&serde_json::to_string_pretty(&json)?);
        }
        RegistryCommand::Diff { from, to } => {
            let from = registry.get(from).await?;
            let to = match to {
                Some(number) => registry.get(number).await?,
                None => newest().await?,
            };
            let changes = diff(&from.definitions, &to.definitions);
            match args.format {
                Format::Json => output::data(&serde_json::to_string_pretty(
                    &json!({"from": from.number, "to": to.number, "changes": changes}),
                )?),
                Format::Text => {
                    let text = describe_changes(&changes, &to.definitions);
                    output::data(&format!(
                        "From snapshot {} to {}:\n\n{}",
                        from.number,
                        to.number,
                        text.trim_end()
                    ));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn head_json(snapshot: &Snapshot) -> serde_json::Value {
    json!({
        "number": snapshot.number,
        "applied_at": format_instant(snapshot.meta.applied_at),
        "applied_by": snapshot.meta.applied_by,
        "message": snapshot.meta.message,
        "definition_hash": snapshot.definition_hash,
        "checksum": snapshot.checksum,
        "parent": snapshot.parent,
    })
}

fn table(snapshots: &[Snapshot]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["snapshot", "applied at", "by", "definitions", "message"]);
    for snapshot in snapshots {
        table.add_row([
            snapshot.number.to_string(),
            format_instant(snapshot.meta.applied_at),
            snapshot.meta.applied_by.clone(),
            snapshot.definition_hash.chars().take(12).collect(),
            snapshot.meta.message.clone(),
        ]);
    }
    table.trim_fmt()
}
