//! `springhouse bench`: sends load to a running server and measures what its callers would see.
//!
//! With a rate the loop is open: requests have a timetable, and a latency counts from the planned moment, so a server that
//! stalls can't hide it (no coordinated omission). Without, each connection sends as fast as it is answered.

mod entities;
mod floor;
mod grpc;
mod http;
mod push;
mod report;
mod run;
mod shadow;
mod timetable;

use crate::output;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use entities::KeySpec;
use http::Http;
use run::{Measured, Target, run_all};
use shadow::Shadow;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use timetable::{Burst, Timetable};

/// Arguments of `springhouse bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Ask a server for features and measure latency, errors and fallbacks.
    Serve(ServeArgs),
    /// Answer every request with the same bytes, and do nothing else: the limit that a server on this machine can reach.
    Floor(floor::FloorArgs),
    /// Push made-up events (event_id, user_id, at, amount) to a server and measure.
    Push(push::PushLoadArgs),
}

/// How requests are sent.
#[derive(Clone, Debug, Args)]
struct LoadArgs {
    /// The server, such as 127.0.0.1:8765.
    #[arg(long, default_value = "127.0.0.1:8765")]
    address: SocketAddr,
    /// Requests a second over all connections; 0 is as fast as answered.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Times the rate, for this long, at the end of every such period: 5:2s:10s is five times the rate for two of every ten
    /// seconds.
    #[arg(long, value_name = "FACTOR:LENGTH:EVERY", requires = "rate")]
    burst: Option<Burst>,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before, not measured.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// A request not answered after this long has failed, milliseconds.
    #[arg(long, default_value_t = 5_000)]
    give_up_ms: u64,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    format: output::Format,
}

/// Arguments of `springhouse bench serve`.
#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// The feature service asked for.
    #[arg(long, required_unless_present = "replay", conflicts_with = "replay")]
    service: Option<String>,
    /// Values of an entity key: NAME=FROM..TO for integers, NAME=@FILE for a file with one value a line. For every key.
    #[arg(long = "key", value_name = "NAME=VALUES", conflicts_with = "replay")]
    keys: Vec<KeySpec>,
    /// A request field, the same in all requests, as JSON (a string may go without quotes).
    #[arg(long = "field", value_name = "NAME=VALUE", conflicts_with = "replay")]
    fields: Vec<String>,
    /// Entity rows in one request.
    #[arg(long, default_value_t = 1, conflicts_with = "replay")]
    rows: usize,
    /// How unevenly entities are asked for: the exponent of a Zipf distribution; 0 = all alike.
    #[arg(long, default_value_t = 1.0, conflicts_with = "replay")]
    zipf: f64,
    /// Share of entities that the server has never seen, percent.
    #[arg(long, default_value_t = 0.0, conflicts_with = "replay")]
    cold: f64,
    /// Different requests; they are drawn beforehand and sent in turn.
    #[arg(long, default_value_t = 20_000, conflicts_with = "replay")]
    requests: usize,
    /// The draw's seed.
    #[arg(long, default_value_t = 1, conflicts_with = "replay")]
    seed: u64,
    /// Only values: no types, statuses and ages.
    #[arg(long)]
    values_only: bool,
    /// Sends the lines of a file instead (bodies of POST /v1/features), in turn.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Where they go, for another server that takes JSON and answers with a content-length.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/v1/features",
        requires = "replay",
        conflicts_with = "grpc"
    )]
    path: String,
    /// Over gRPC; all connections are calls at once on this many HTTP/2 connections.
    #[arg(long, value_name = "CONNECTIONS", num_args = 0..=1, default_missing_value = "1")]
    grpc: Option<usize>,
    /// A second server that gets every measured request too; its answers are compared.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "grpc")]
    shadow: Option<SocketAddr>,
}

pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    if let What::Floor(args) = args.what {
        return floor::run(args).await;
    }
    // One thread: the client shares the machine with the server more often than not.
    tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(tokio::task::LocalSet::new().run_until(async {
            match args.what {
                What::Serve(args) => serve(args).await,
                What::Push(args) => push::run(args).await,
                What::Floor(_) => Ok(ExitCode::SUCCESS),
            }
        }))
    })
    .await
    .context("the load generator stopped")?
}

async fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let bodies = Arc::new(bodies(&args)?);
    let measured = match args.grpc {
        Some(channels) => {
            let messages = Arc::new(grpc::messages(&bodies)?);
            let address = args.load.address;
            let connections: Vec<_> = (0..channels.max(1)).map(|_| grpc::Connection::to(address)).collect();
            let target =
                |n: usize| grpc::Grpc::new(connections[n % connections.len()].clone(), messages.clone());
            run_all(&args.load, target).await?
        }
        None => {
            let target = |_| Asking {
                http: Http::new(args.load.address, &args.path),
                shadow: args.shadow.map(Shadow::new),
                bodies: bodies.clone(),
            };
            run_all(&args.load, target).await?
        }
    };
    finish(&args.load, &measured, 1)
}

/// Prints; fails when nothing was answered.
fn finish(load: &LoadArgs, measured: &Measured, rows: u64) -> anyhow::Result<ExitCode> {
    output::data(&match load.format {
        output::Format::Table => report::table(load, measured, rows),
        output::Format::Json => report::json(load, measured, rows).to_string(),
    });
    Ok(if measured.answered() == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn bodies(args: &ServeArgs) -> anyhow::Result<Vec<String>> {
    if let Some(path) = &args.replay {
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        if lines.is_empty() {
            bail!("{} has no line to send", path.display());
        }
        return Ok(lines);
    }
    let service = args.service.as_deref().context("a service is needed")?;
    entities::draw(service, args)
}

/// What is sent in turn: the one for request `number`.
fn turn<T>(all: &[T], number: u64) -> &T {
    &all[(number % all.len() as u64) as usize]
}

/// Asks over HTTP, and the shadow too.
struct Asking {
    http: Http,
    shadow: Option<Shadow>,
    bodies: Arc<Vec<String>>,
}

impl Target for Asking {
    async fn call(&mut self, number: u64) -> run::Outcome {
        let body: &String = turn(&self.bodies, number);
        self.http.post(body).await
    }

    async fn afterwards(&mut self, number: u64, measured: &mut Measured) {
        if let Some(shadow) = &mut self.shadow {
            let body = turn(&self.bodies, number);
            measured.shadow.add(shadow.compare(body, self.http.answer()).await);
        }
    }
}
