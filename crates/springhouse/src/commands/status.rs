//! `springhouse status`: how far everything is.

use crate::output;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use springhouse_api::StatusBody;
use springhouse_core::time::format_duration;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `springhouse status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: output::Format,
}

/// A line for each partition that is behind, and one for each topic.
fn topics_table(status: &StatusBody) -> comfy_table::Table {
    let mut table = output::table(&[
        "source",
        "topic",
        "position",
        "waiting",
        "msg/s",
        "applied in",
        "applied up to",
        "",
    ]);
    for topic in &status.topics {
        let verdict = match (topic.failing, topic.lost) {
            (true, _) => "not read; see the server's log".to_owned(),
            (false, 0) => "ok".to_owned(),
            (false, lost) => format!("{lost} messages lost"),
        };
        table.add_row(vec![
            topic.source.clone(),
            format!("{} ({} partitions)", topic.topic, topic.partitions.len()),
            topic.partitions.iter().map(|p| p.position).sum::<i64>().to_string(),
            topic.lag_messages.to_string(),
            format!("{:.0}", topic.rate),
            topic.lag_s.map_or_else(|| "-".to_owned(), |lag| format!("{lag:.1}s")),
            topic.frontier.clone().unwrap_or_else(|| "-".to_owned()),
            verdict,
        ]);
        for partition in topic.partitions.iter().filter(|partition| partition.lag_messages > 0) {
            table.add_row(vec![
                String::new(),
                format!("partition {}", partition.partition),
                partition.position.to_string(),
                partition.lag_messages.to_string(),
                String::new(),
                String::new(),
                partition.newest.clone().unwrap_or_else(|| "-".to_owned()),
                String::new(),
            ]);
        }
    }
    table
}

pub(crate) async fn run(args: StatusArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let session = Session::open(project).await?;
    let remote = session.is_remote();
    let address = session.client.address();
    let status = session.client.get("/v1/status").await;
    session.close().await?;
    let status = status?;
    if args.format == output::Format::Json {
        output::data(&serde_json::to_string_pretty(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    let status: StatusBody = serde_json::from_value(status).context("the answer is no status")?;
    let server =
        if remote { format!("server at http://{address}") } else { "no server is running".to_owned() };
    output::data(&format!("snapshot {} ({}), {server}", status.snapshot, status.definition));
    let mut table = output::table(&["view", "entity", "source", "applied up to", "age", "p95 target", ""]);
    for view in &status.views {
        let seconds = |s: f64| format_duration((s * 1e6).round() as i64);
        let age = view.age_s.map_or_else(|| "-".to_owned(), |age| format!("{age:.1}s"));
        let verdict = match (view.frontier.is_some(), view.within_slo) {
            (false, _) => "not materialised",
            (true, true) => "ok",
            (true, false) => "late",
        };
        table.add_row(vec![
            view.view.clone(),
            view.entity.clone(),
            view.source.clone(),
            view.frontier.clone().unwrap_or_else(|| "-".to_owned()),
            age,
            seconds(view.slo_p95_s),
            verdict.to_owned(),
        ]);
    }
    output::data(&table.to_string());
    if !status.topics.is_empty() {
        output::data(&topics_table(&status).to_string());
    }
    let positions = &status.positions;
    output::data(&format!(
        "log {} rows, {} applied, {} in the lake; {} entities in memory",
        positions.log_end, positions.applied_end, positions.flushed_end, status.store.entities_in_memory
    ));
    Ok(ExitCode::SUCCESS)
}
