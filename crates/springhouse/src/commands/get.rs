//! `springhouse get`: one feature vector, with where each number comes from.

use crate::output;
use crate::session::Session;
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value as Json, json};
use springhouse_api::{ExplainBody, ViewList};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `springhouse get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// A feature service.
    #[arg(long, conflicts_with = "features", required_unless_present = "features")]
    service: Option<String>,
    /// Features by name: `view` or `view:feature`.
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    features: Vec<String>,
    /// An entity key, such as `origin=JFK`; a string in quotes stays a string.
    #[arg(long = "key", short = 'k', value_name = "NAME=VALUE")]
    keys: Vec<String>,
    /// A request field, such as `distance=1617`.
    #[arg(long = "request", short = 'r', value_name = "NAME=VALUE")]
    request: Vec<String>,
    /// Show the tiles, rows and events inside every number.
    #[arg(long)]
    explain: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: output::Format,
}

pub(crate) async fn run(args: GetArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let session = Session::open(project).await?;
    let shown = show(&session, &args).await;
    session.close().await?;
    shown?;
    Ok(ExitCode::SUCCESS)
}

async fn show(session: &Session, args: &GetArgs) -> anyhow::Result<()> {
    let views: ViewList = serde_json::from_value(session.client.get("/v1/views").await?)?;
    let types = text_names(&views);
    let mut body = Map::new();
    match &args.service {
        Some(service) => body.insert("service".to_owned(), json!(service)),
        None => body.insert("features".to_owned(), json!(args.features)),
    };
    body.insert("entities".to_owned(), columns(&args.keys, &types)?);
    if !args.request.is_empty() {
        body.insert("request".to_owned(), columns(&args.request, &types)?);
    }
    body.insert("full".to_owned(), json!(true));
    let answer = session.client.post("/v1/features", &Json::Object(body)).await?;
    match args.format {
        output::Format::Json => output::data(&serde_json::to_string_pretty(&answer)?),
        output::Format::Table => print_answer(&answer)?,
    }
    if args.explain {
        explain(session, args, &views, &answer).await?;
    }
    Ok(())
}

/// The names whose values are text, so that `tail=123` can be the string 123.
fn text_names(views: &ViewList) -> BTreeSet<String> {
    let keys = views.entities.iter().flat_map(|entity| &entity.keys);
    let fields = views.views.iter().flat_map(|view| &view.request_fields);
    keys.chain(fields).filter(|field| !is_number(&field.value_type)).map(|field| field.name.clone()).collect()
}

fn is_number(value_type: &str) -> bool {
    matches!(value_type, "int32" | "int64" | "float32" | "float64" | "bool")
}

/// `name=value` pairs as one-row columns.
fn columns(pairs: &[String], text: &BTreeSet<String>) -> anyhow::Result<Json> {
    let mut columns = Map::new();
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=') else {
            bail!("`{pair}` is not NAME=VALUE");
        };
        let value = match serde_json::from_str::<Json>(value) {
            Ok(value) if !text.contains(name) || value.is_string() => value,
            _ => json!(value),
        };
        columns.insert(name.to_owned(), json!([value]));
    }
    Ok(Json::Object(columns))
}

fn print_answer(answer: &Json) -> anyhow::Result<()> {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    output::data(&format!("at {}  level {}", text(&answer["at"]), text(&answer["level"])));
    let features = answer["features"].as_object().context("the answer has no features")?;
    let mut table = output::table(&["feature", "value", "status", "age", "event time", "origin"]);
    for (name, column) in features {
        let cell = |what: &str| column[what].get(0).cloned().unwrap_or(Json::Null);
        let age = cell("age_s").as_f64().map_or_else(|| "-".to_owned(), |age| format!("{age:.3}s"));
        let or_dash = |value: Json| value.as_str().map_or_else(|| "-".to_owned(), str::to_owned);
        table.add_row(vec![
            name.clone(),
            cell("values").to_string(),
            or_dash(cell("status")),
            age,
            or_dash(cell("event_time")),
            or_dash(cell("origin")),
        ]);
    }
    output::data(&table.to_string());
    Ok(())
}

async fn explain(session: &Session, args: &GetArgs, views: &ViewList, answer: &Json) -> anyhow::Result<()> {
    let shown: BTreeSet<&str> =
        answer["features"].as_object().map(|f| f.keys().map(String::as_str).collect()).unwrap_or_default();
    for view in &views.views {
        let is_shown =
            |name: &str| shown.contains(name) || shown.contains(format!("{}:{name}", view.name).as_str());
        let entity = views.entities.iter().find(|entity| Some(&entity.name) == view.entity.as_ref());
        // A request view has no entity, and nothing stored to explain.
        let Some(entity) = entity.filter(|_| view.features.iter().any(|f| is_shown(&f.name))) else {
            continue;
        };
        let mut query = format!("/v1/explain?view={}", encode(&view.name));
        for pair in &args.keys {
            let (name, value) = pair.split_once('=').context("keys are NAME=VALUE")?;
            if entity.keys.iter().any(|key| key.name == name) {
                query.push_str(&format!("&key.{}={}", encode(name), encode(value.trim_matches('"'))));
            }
        }
        let explained: ExplainBody = serde_json::from_value(session.client.get(&query).await?)?;
        output::data(&format!("\n{} at {}", explained.view, explained.at));
        for feature in &explained.features {
            output::data(&format!("  {} = {} ({:?})", feature.name, feature.value, feature.status));
            for line in &feature.lines {
                output::data(&format!("    {line}"));
            }
        }
    }
    Ok(())
}

/// Percent-encodes what a query can't hold.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
