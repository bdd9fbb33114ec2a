//! `springhouse optimize`: the lake's tables of pushed rows in few files, rows of an entity side by side.

use crate::output::{self, Format};
use crate::project::Project;
use clap::Args;
use serde_json::json;
use springhouse_lake::OptimizeOutcome;
use springhouse_node::History;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `springhouse optimize`.
#[derive(Debug, Args)]
pub(crate) struct OptimizeArgs {
    /// Only these sources; all that take pushes when left out.
    sources: Vec<String>,
    /// Also delete files that no version of the table from this time on has: 7d, 12h, 30m. Training sets of older versions
    /// can't be made again then, and a reader that is longer at work than this loses its files.
    #[arg(long, value_name = "RETENTION", value_parser = retention)]
    vacuum: Option<Duration>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// For people (table) or programs (json).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn retention(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no retention: write a number and d, h, m or s, such as 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number
        .checked_mul(seconds)
        .filter(|all| *all <= 36_500 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

pub(crate) async fn run(args: OptimizeArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let history = History::open(&*Project::open(project)?).await?;
    let bar = output::bar();
    let done = history.optimize(&args.sources, args.vacuum, args.dry_run, &bar).await;
    bar.finish();
    let done = done?;
    match args.format {
        Format::Json => {
            let lines = done.iter().map(|(source, outcome)| json(source, outcome));
            output::data(&serde_json::to_string_pretty(&lines.collect::<Vec<_>>())?);
        }
        Format::Table => {
            for (source, outcome) in &done {
                output::data(&text(source, outcome, args.dry_run));
            }
            if done.is_empty() {
                output::data("no source takes pushes, so there is nothing to compact");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn json(source: &str, outcome: &OptimizeOutcome) -> serde_json::Value {
    json!({
        "source": source,
        "files_before": outcome.files_before,
        "files_after": outcome.files_after,
        "files_rewritten": outcome.files_rewritten,
        "rows": outcome.rows,
        "bytes_before": outcome.bytes_before,
        "bytes_after": outcome.bytes_after,
        "files_deleted": outcome.files_deleted,
    })
}

fn text(source: &str, outcome: &OptimizeOutcome, dry_run: bool) -> String {
    let OptimizeOutcome { files_before, files_after, files_rewritten, rows, .. } = *outcome;
    let mut text = match (files_rewritten, dry_run) {
        (0, _) => format!("{source}: {files_before} files, nothing to put together"),
        (_, true) => format!(
            "{source}: {files_rewritten} files of {rows} rows would be put together: {files_before} files, then {files_after}"
        ),
        (_, false) => format!(
            "{source}: {files_rewritten} files of {rows} rows put together: {files_before} files, now {files_after}; {:.1} MiB, now {:.1} MiB",
            mib(outcome.bytes_before),
            mib(outcome.bytes_after)
        ),
    };
    if outcome.files_deleted > 0 {
        let verb = if dry_run { "would be deleted" } else { "deleted" };
        text.push_str(&format!("; {} old files {verb}", outcome.files_deleted));
    }
    text
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_has_a_number_and_a_unit() {
        assert_eq!(retention("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(retention("90m"), Ok(Duration::from_secs(5_400)));
        for wrong in ["", "d", "7", "7w", "-1d", "1.5h", "99999999999999999999d", "40000d"] {
            assert!(retention(wrong).is_err(), "{wrong}");
        }
    }
}
