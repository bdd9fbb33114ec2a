//! `springhouse demo`: a day of real flights, from definitions to live features, told step by step.
//!
//! History is 1 to 12 January 2013; the demo's clock then runs through the 13th, minute by minute: flights depart and
//! land, and an hour before each scheduled departure a model asks for its features.

mod page;
mod replay;

use super::statistics;
use crate::project::Project;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use page::Page;
use replay::Replay;
use springhouse_core::time::{DAY, parse_instant};
use springhouse_core::{Clock, Micros};
use springhouse_lake::{Lake, OutputFormat, Silent, TrainingOutput, TrainingRequest};
use springhouse_node::{Node, SettableClock};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Where history ends and the demo's day begins: midnight in New York.
const DAY_BEGINS: &str = "2013-01-13T05:00:00Z";
/// The feature service asked.
const SERVICE: &str = "late_departure";

/// The example project, shipped inside the program.
const FILES: [(&str, &[u8]); 12] = [
    ("springhouse.yaml", include_bytes!("../../../../examples/flights/springhouse.yaml")),
    ("features/entities.yaml", include_bytes!("../../../../examples/flights/features/entities.yaml")),
    ("features/sources.yaml", include_bytes!("../../../../examples/flights/features/sources.yaml")),
    ("features/views.yaml", include_bytes!("../../../../examples/flights/features/views.yaml")),
    ("features/service.yaml", include_bytes!("../../../../examples/flights/features/service.yaml")),
    (
        "data/departed/history.parquet",
        include_bytes!("../../../../examples/flights/data/departed/history.parquet"),
    ),
    (
        "data/arrived/history.parquet",
        include_bytes!("../../../../examples/flights/data/arrived/history.parquet"),
    ),
    (
        "data/weather/weather.parquet",
        include_bytes!("../../../../examples/flights/data/weather/weather.parquet"),
    ),
    ("data/labels.parquet", include_bytes!("../../../../examples/flights/data/labels.parquet")),
    ("data/next/departed.parquet", include_bytes!("../../../../examples/flights/data/next/departed.parquet")),
    ("data/next/arrived.parquet", include_bytes!("../../../../examples/flights/data/next/arrived.parquet")),
    ("data/next/labels.parquet", include_bytes!("../../../../examples/flights/data/next/labels.parquet")),
];

/// Arguments of `springhouse demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where the project goes; a temporary folder that is deleted at the end when left out.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let scratch = tempfile::TempDir::new().context("no temporary folder can be made")?;
    let project = args.dir.clone().unwrap_or_else(|| scratch.path().join("flights"));
    anyhow::ensure!(
        !project.exists(),
        "{} exists already; name a folder that does not, or delete it",
        project.display()
    );
    for (name, bytes) in FILES {
        let file = project.join(name);
        std::fs::create_dir_all(file.parent().unwrap_or(&project))?;
        std::fs::write(&file, bytes).with_context(|| format!("{} can't be written", file.display()))?;
    }
    let mut page = Page::new();
    let same = tell(&project, &mut page).await?;
    if args.dir.is_some() {
        page.text(&format!(
            "The project is in {}; look around with `springhouse -C` and that folder.",
            project.display()
        ));
    }
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn tell(project: &Path, page: &mut Page) -> anyhow::Result<bool> {
    let begins = parse_instant(DAY_BEGINS)?;
    page.title("Springhouse: will this flight leave 30 minutes late?");
    page.text(
        "Real flights out of New York, January 2013. Twelve days are history; then a clock runs through the 13th, and a \
         model asks for features one hour before every scheduled departure.",
    );

    page.step("Apply the definitions");
    let opened = Project::open(&std::path::absolute(project)?)?;
    let definitions = opened.load_definitions()?.definitions;
    let registry = opened.registry()?;
    let meta = springhouse_registry::SnapshotMeta {
        applied_at: begins,
        applied_by: "demo".to_owned(),
        message: "the flights example".to_owned(),
    };
    let first = registry.put(&definitions, None, meta.clone()).await?;
    page.text(&format!(
        "{} sources, {} feature views, 1 feature service: snapshot {} of the registry.",
        definitions.sources.len(),
        definitions.feature_views.len(),
        first.number
    ));
    let (definitions, lines) = statistics::compute(definitions, &opened.paths(), begins).await?;
    let snapshot = registry.put(&definitions, Some(first.number), meta).await?;
    page.text(&format!(
        "{} features default to a statistic of their history, noted with its date in snapshot {}; such as {}.",
        lines.len(),
        snapshot.number,
        lines.first().map_or("none", String::as_str)
    ));

    let clock = Arc::new(SettableClock::default());
    clock.set(begins);
    let shared: Arc<dyn Clock> = clock.clone();
    let node = Node::open(opened.node_options(shared)).await?;

    page.step("Build a training set from history");
    let training =
        train(&node, project, "data/labels.parquet", "training.parquet", &snapshot.definition_hash).await?;
    page.text(&format!(
        "{} past flights, each with its features as they were known an hour before departure: late events count from \
         when they arrived, so nothing leaks from the future.",
        training
    ));

    page.step("Load history into the online store");
    for outcome in node.materialize(None, None, &Silent).await? {
        page.text(&format!(
            "{:<24} {:>6} rows -> {:>5} entities",
            outcome.view, outcome.rows, outcome.entities
        ));
    }

    page.step("Serve, while the day goes on");
    let session = Session::serve(node.clone()).await?;
    page.text(&format!(
        "A server listens on http://{} for as long as the demo runs.",
        session.client.address()
    ));
    let replay = Replay::open(project, begins, begins + DAY)?;
    let told = replay.run(&node, &clock, page).await?;
    page.text(&format!(
        "{} departures and landings pushed, {} flights asked for; every push was durable and served when it was answered.",
        told.pushed,
        told.asked.len()
    ));

    page.step("Ask the server, as a model would");
    replay::ask_over_http(&session.client, page).await?;

    page.step("Watch a value age");
    replay::show_ages(&node, &clock, page).await?;

    page.step("Prove that serving equals training");
    node.ingest().flush().await?;
    train(&node, project, "data/next/labels.parquet", "served.parquet", &snapshot.definition_hash).await?;
    let (compared, differences) = replay::compare(&told, &definitions, &project.join("served.parquet"))?;
    page.text(&format!(
        "A training set made afterwards for the {} flights asked live: {compared} values compared bit for bit, {} differ.",
        told.asked.len(),
        differences.len()
    ));
    for difference in differences.iter().take(10) {
        page.text(&format!("  {difference}"));
    }
    let verified = node.verify(None, 500).await?;
    page.text(&format!(
        "`verify` read {} entities online and recomputed them from history: {} values, {} differ.",
        verified.entities, verified.values, verified.difference_count
    ));
    session.close().await?;
    page.end();
    Ok(differences.is_empty() && verified.difference_count == 0)
}

/// Makes a training set inside the project; gives its number of rows.
async fn train(node: &Node, project: &Path, labels: &str, out: &str, hash: &str) -> anyhow::Result<u64> {
    let lake: &Lake = node.lake();
    let definitions = node.definitions();
    let out = project.join(out);
    let out = TrainingOutput::File(&out, OutputFormat::Parquet);
    let budget = node.options().memory_budget;
    let request = TrainingRequest::new(&definitions, hash, SERVICE, project.join(labels), out, budget);
    Ok(lake.training_set(&request, &Silent).await?.rows)
}

/// Minutes and hours of the demo's clock, in New York.
fn local(at: Micros) -> String {
    chrono::DateTime::from_timestamp_micros(at)
        .map(|utc| utc.with_timezone(&chrono_tz::America::New_York).format("%H:%M").to_string())
        .unwrap_or_default()
}
