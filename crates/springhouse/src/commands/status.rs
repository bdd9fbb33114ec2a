//! `springhouse status`: how far everything is.

use crate::output;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use springhouse_api::StatusBody;
use springhouse_core::time::format_duration;
use std::fmt::Write;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `springhouse status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: output::Format,
    /// Show it again and again, every so many seconds, until Ctrl-C.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    watch: Option<f64>,
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

/// How long events take until reads see them.
fn streams_table(status: &StatusBody) -> comfy_table::Table {
    let mut table = output::table(&["source", "events", "servable after p50", "p95", "p99"]);
    for stream in &status.streams {
        let seconds = |bound: Option<f64>| bound.map_or_else(|| "> 3h".to_owned(), |s| format!("{s:.3}s"));
        let times = [stream.p50_s, stream.p95_s, stream.p99_s].map(seconds);
        table.add_row([vec![stream.source.clone(), stream.events.to_string()], times.to_vec()].concat());
    }
    table
}

pub(crate) async fn run(args: StatusArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let session = Session::open(project).await?;
    let shown = match args.watch {
        None => page(&session, args.format).await.map(|page| output::data(&page)),
        Some(seconds) => watch(&session, args.format, seconds).await,
    };
    session.close().await?;
    shown?;
    Ok(ExitCode::SUCCESS)
}

/// Shows a page after the other until the user has seen enough.
async fn watch(session: &Session, format: output::Format, seconds: f64) -> anyhow::Result<()> {
    let interval = Duration::try_from_secs_f64(seconds).ok().filter(|interval| !interval.is_zero());
    let interval = interval.context("`--watch` takes seconds, more than 0")?;
    let mut enough = pin!(springhouse_server::shutdown_signal()?);
    loop {
        // A server that restarts is worth waiting for.
        match page(session, format).await {
            Ok(page) => output::page(&page),
            Err(error) => output::page(&format!("no answer: {error:#}")),
        }
        tokio::select! {
            () = &mut enough => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
    }
}

async fn page(session: &Session, format: output::Format) -> anyhow::Result<String> {
    let status = session.client.get("/v1/status").await?;
    if format == output::Format::Json {
        return Ok(serde_json::to_string_pretty(&status)?);
    }
    let (remote, address) = (session.is_remote(), session.client.address());
    let status: StatusBody = serde_json::from_value(status).context("the answer is no status")?;
    let server =
        if remote { format!("server at http://{address}") } else { "no server is running".to_owned() };
    let mut page = format!("snapshot {} ({}), {server}\n", status.snapshot, status.definition);
    let mut table = output::table(&[
        "view",
        "entity",
        "source",
        "applied up to",
        "age",
        "served p50",
        "p95",
        "p99",
        "p95 target",
        "p99 target",
        "",
    ]);
    for view in &status.views {
        let seconds = |s: f64| format_duration((s * 1e6).round() as i64);
        let age = view.age_s.map_or_else(|| "-".to_owned(), |age| format!("{age:.1}s"));
        let served = |age: Option<f64>| age.map_or_else(|| "-".to_owned(), seconds);
        let over_target = view.served_p95_s.is_some_and(|age| age > view.slo_p95_s)
            || view.served_p99_s.is_some_and(|age| age > view.slo_p99_s);
        let verdict = match (view.frontier.is_some(), view.within_slo) {
            (false, _) => "not materialised",
            (true, true) if over_target => "served values are late",
            (true, true) => "ok",
            (true, false) => "late",
        };
        table.add_row(vec![
            view.view.clone(),
            view.entity.clone(),
            view.source.clone(),
            view.frontier.clone().unwrap_or_else(|| "-".to_owned()),
            age,
            served(view.served_p50_s),
            served(view.served_p95_s),
            served(view.served_p99_s),
            seconds(view.slo_p95_s),
            seconds(view.slo_p99_s),
            verdict.to_owned(),
        ]);
    }
    let _ = writeln!(page, "{table}");
    if !status.topics.is_empty() {
        let _ = writeln!(page, "{}", topics_table(&status));
    }
    if !status.streams.is_empty() {
        let _ = writeln!(page, "{}", streams_table(&status));
    }
    let positions = &status.positions;
    let _ = write!(
        page,
        "log {} rows, {} applied, {} in the lake; {} entities in memory",
        positions.log_end, positions.applied_end, positions.flushed_end, status.store.entities_in_memory
    );
    Ok(page)
}
