//! `springhouse push`: events from a file (JSON lines or a JSON array) or standard input.

use crate::output;
use crate::session::Session;
use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;
use springhouse_api::PushBody;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Rows sent in one push.
const BATCH_ROWS: usize = 1_000;

/// The body of one push; rows go as they came.
#[derive(Serialize)]
struct Body<'a> {
    rows: &'a [&'a RawValue],
    backfill: bool,
}

/// Arguments of `springhouse push`.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The source.
    source: String,
    /// A file with one JSON object a line, or one JSON array; `-` is standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Old events: known by the source's table rule instead of from now on.
    #[arg(long)]
    backfill: bool,
    /// Only says what would become of the rows (it can't tell duplicates).
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: PushArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    if args.file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).context("standard input can't be read")?;
    } else {
        text = std::fs::read_to_string(&args.file)
            .with_context(|| format!("{} can't be read", args.file.display()))?;
    }
    let rows = rows(&text).with_context(|| format!("{}: not JSON rows", args.file.display()))?;
    let session = Session::open(project).await?;
    let pushed = push_all(&session, &args, &rows).await;
    session.close().await?;
    let refused = pushed?;
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The rows as they are written: no value is read and written again.
fn rows(text: &str) -> anyhow::Result<Vec<&RawValue>> {
    if text.trim_start().starts_with('[') {
        return Ok(serde_json::from_str(text)?);
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(n, line)| serde_json::from_str(line).with_context(|| format!("line {}", n + 1))).collect()
}

async fn push_all(session: &Session, args: &PushArgs, rows: &[&RawValue]) -> anyhow::Result<u64> {
    if rows.is_empty() {
        bail!("there is no row to push");
    }
    let dry_run = if args.dry_run { "?dry_run=true" } else { "" };
    let path = format!("/v1/push/{}{dry_run}", args.source);
    let bar = output::bar();
    let (mut accepted, mut duplicates, mut refused, mut done) = (0, 0, 0, 0);
    for batch in rows.chunks(BATCH_ROWS) {
        let body = serde_json::to_vec(&Body { rows: batch, backfill: args.backfill })?;
        let answer = session.client.post_text(&path, body.into()).await?;
        let answer: PushBody = serde_json::from_value(answer).context("the answer is no push outcome")?;
        for exception in answer.exceptions.iter().filter(|e| e.code.is_some()) {
            output::note(&format!(
                "row {}: [{}] {}",
                done + exception.row + 1,
                exception.code.as_deref().unwrap_or_default(),
                exception.reason.as_deref().unwrap_or_default()
            ));
        }
        accepted += answer.accepted as u64;
        duplicates += answer.duplicates as u64;
        refused += answer.refused as u64;
        done += batch.len();
        bar.set("rows", done as u64, rows.len() as u64);
    }
    bar.finish();
    output::data(&format!("{accepted} accepted, {duplicates} duplicates, {refused} refused"));
    Ok(refused)
}
