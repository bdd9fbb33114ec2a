//! `springhouse dead-letters`: refused rows, why, and another try once the reason is gone.

use crate::output;
use crate::project::Project;
use crate::session::Session;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::value::RawValue;
use springhouse_api::{DeadLetterBody, DeadLetterList, PushBody};
use springhouse_core::definition::Source;
use std::path::Path;
use std::process::ExitCode;

/// Most letters that a server gives at once.
const LETTERS_MAX: usize = 10_000;

/// Rows sent in one push.
const BATCH_ROWS: usize = 1_000;

/// The longest row and reason in a table, in characters; `show` has all of it.
const CELL_CHARS_MAX: usize = 80;

/// Arguments of `springhouse dead-letters`.
#[derive(Debug, Args)]
pub(crate) struct DeadLettersArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The newest refused rows of a source.
    List(ListArgs),
    /// One refused row, whole.
    Show(ShowArgs),
    /// Push refused rows once more, when the definitions or the reason have been mended. A row that is accepted is known
    /// from now on, and is not counted twice however often it is replayed.
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The source.
    source: String,
    /// How many, the newest.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=LETTERS_MAX as u64))]
    limit: u64,
    /// Only those refused for this reason, such as `wrong_type`.
    #[arg(long)]
    code: Option<String>,
    /// How to print them.
    #[arg(long, value_enum, default_value_t)]
    format: output::Format,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The source.
    source: String,
    /// The row's place in the log, as `list` shows it.
    offset: i64,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// The source.
    source: String,
    /// Only these, by their place in the log.
    #[arg(long = "offset")]
    offsets: Vec<i64>,
    /// Only those refused for this reason.
    #[arg(long)]
    code: Option<String>,
}

pub(crate) async fn run(args: DeadLettersArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let session = Session::open(project).await?;
    let done = match args.what {
        What::List(args) => list(&session, &args).await,
        What::Show(args) => show(&session, &args).await,
        What::Replay(args) => replay(&session, &args, project).await,
    };
    session.close().await?;
    done
}

async fn letters(session: &Session, source: &str, limit: usize) -> anyhow::Result<Vec<DeadLetterBody>> {
    let answer = session.client.get(&format!("/v1/dead-letters/{source}?limit={limit}")).await?;
    let list: DeadLetterList =
        serde_json::from_value(answer).context("the answer is no list of dead letters")?;
    Ok(list.dead_letters)
}

async fn list(session: &Session, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let limit = args.limit as usize;
    // Of one reason there may be fewer among the newest than were asked for.
    let asked = if args.code.is_some() { LETTERS_MAX } else { limit };
    let mut letters = letters(session, &args.source, asked).await?;
    letters.retain(|letter| args.code.as_ref().is_none_or(|code| *code == letter.code));
    letters.drain(..letters.len().saturating_sub(limit));
    if args.format == output::Format::Json {
        output::data(&serde_json::to_string_pretty(&letters)?);
        return Ok(ExitCode::SUCCESS);
    }
    if letters.is_empty() {
        output::data("no dead letters");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = output::table(&["offset", "refused at", "code", "reason", "row"]);
    for letter in letters {
        let (reason, row) = (short(&letter.reason), short(&letter.row));
        table.add_row([letter.offset.to_string(), letter.refused_at, letter.code, reason, row]);
    }
    output::data(&table.to_string());
    Ok(ExitCode::SUCCESS)
}

fn short(text: &str) -> String {
    let line = text.replace(['\n', '\r', '\t'], " ");
    if line.chars().count() <= CELL_CHARS_MAX {
        return line;
    }
    line.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

async fn show(session: &Session, args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let letters = letters(session, &args.source, LETTERS_MAX).await?;
    let Some(letter) = letters.into_iter().find(|letter| letter.offset == args.offset) else {
        bail!("none of the newest {LETTERS_MAX} dead letters of `{}` is at {}", args.source, args.offset)
    };
    output::data(&format!(
        "offset      {}\nrefused at  {}\ncode        {}\nreason      {}\nrow         {}",
        letter.offset, letter.refused_at, letter.code, letter.reason, letter.row
    ));
    Ok(ExitCode::SUCCESS)
}

/// The body of one push; rows go as they came.
#[derive(Serialize)]
struct Body<'a> {
    rows: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row_keys: Option<Vec<String>>,
}

async fn replay(session: &Session, args: &ReplayArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let applied =
        Project::open(project)?.registry()?.head().await?.context("no definitions are applied yet")?;
    let definitions = applied.definitions;
    let source = definitions.sources.get(&args.source);
    let source = source.with_context(|| format!("there is no source `{}`", args.source))?;
    let mut letters = letters(session, &args.source, LETTERS_MAX).await?;
    letters.retain(|letter| {
        (args.offsets.is_empty() || args.offsets.contains(&letter.offset))
            && args.code.as_ref().is_none_or(|code| *code == letter.code)
    });
    if letters.is_empty() {
        bail!("no dead letter of `{}` is meant", args.source);
    }
    let rows: Vec<(i64, &RawValue)> = letters
        .iter()
        .filter_map(|letter| {
            let row: &RawValue = serde_json::from_str(&letter.row).ok()?;
            row.get().starts_with('{').then_some((letter.offset, row))
        })
        .collect();
    let bar = output::bar();
    let (mut accepted, mut duplicates, mut refused, mut done) = (0, 0, 0, 0);
    for batch in rows.chunks(BATCH_ROWS) {
        // What would be refused again is not sent: it would become a second letter, and could be replayed twice.
        let checked = push(session, args, source, batch, "?dry_run=true").await?;
        let mut fine = vec![true; batch.len()];
        for exception in &checked.exceptions {
            fine[exception.row] = false;
            let (code, reason) = (exception.code.as_deref(), exception.reason.as_deref());
            let (code, reason) = (code.unwrap_or_default(), reason.unwrap_or_default());
            output::note(&format!("offset {}: [{code}] {reason}", batch[exception.row].0));
        }
        let fine: Vec<_> = batch.iter().zip(fine).filter(|(_, fine)| *fine).map(|(row, _)| *row).collect();
        refused += batch.len() - fine.len();
        if !fine.is_empty() {
            let pushed = push(session, args, source, &fine, "").await?;
            accepted += pushed.accepted;
            duplicates += pushed.duplicates;
            refused += pushed.refused;
        }
        done += batch.len();
        bar.set("rows", done as u64, rows.len() as u64);
    }
    bar.finish();
    let unreadable = letters.len() - rows.len();
    output::data(&format!(
        "{accepted} accepted, {duplicates} accepted before, {refused} refused again, {unreadable} are no rows"
    ));
    Ok(if refused + unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn push(
    session: &Session,
    args: &ReplayArgs,
    source: &Source,
    rows: &[(i64, &RawValue)],
    query: &str,
) -> anyhow::Result<PushBody> {
    // A row without an identity of its own gets that of its letter, so that a second replay counts nothing twice.
    let key = |(offset, _): &(i64, _)| format!("dead-letter-{offset}");
    let body = Body {
        rows: rows.iter().map(|(_, row)| *row).collect(),
        row_keys: source.event_id.is_none().then(|| rows.iter().map(key).collect()),
    };
    let path = format!("/v1/push/{}{query}", args.source);
    let answer = session.client.post_text(&path, serde_json::to_vec(&body)?.into()).await?;
    serde_json::from_value(answer).context("the answer is no push outcome")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_one_short_line() {
        assert_eq!(short("a\nb"), "a b");
        assert_eq!(short(&"é".repeat(80)), "é".repeat(80));
        assert_eq!(short(&"é".repeat(81)), format!("{}…", "é".repeat(79)));
    }
}
