//! Springhouse: a feature store whose training data and live answers are the same numbers.
//!
//! `main` parses, builds what a command needs, and maps the result to an exit status; each subcommand is one file.

mod client;
mod commands;
mod output;
mod project;
mod session;
mod telemetry;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A feature store: one definition of every feature, for training and for serving.
#[derive(Debug, Parser)]
#[command(name = "springhouse", version, about, max_term_width = 110, propagate_version = true)]
struct Cli {
    /// The project folder (where springhouse.yaml is).
    #[arg(long, short = 'C', global = true, default_value = ".", value_name = "DIR")]
    project: std::path::PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a small project that works as it is.
    Init(commands::init::InitArgs),
    /// Check the files; every mistake at once.
    Validate(commands::validate::ValidateArgs),
    /// Show what applying the files would change.
    Plan(commands::plan::PlanArgs),
    /// Make what the files say what is applied.
    Apply(commands::apply::ApplyArgs),
    /// Show what was applied, when, by whom.
    Registry(commands::registry::RegistryArgs),
    /// Print the JSON Schema of the files, for editors.
    Schema(commands::schema::SchemaArgs),
    /// Make a training set: the features of a service for every row of a label file, as known at its moment.
    Train(commands::train::TrainArgs),
    /// Compute the population defaults of a service's features from labels, and apply them with their date.
    Statistics(commands::statistics::StatisticsArgs),
    /// Load what is new in history into the online store.
    Materialize(commands::materialize::MaterializeArgs),
    /// Build the online store again from history, beside the served one, and switch when it is complete.
    Rebuild(commands::materialize::RebuildArgs),
    /// Put the lake's small files together, rows of an entity side by side; answers stay the same.
    Optimize(commands::optimize::OptimizeArgs),
    /// Serve features and take pushes over HTTP.
    Serve(commands::serve::ServeArgs),
    /// Read a share of the topics, beside other workers: with `kafka.workers` in springhouse.yaml.
    Ingest(commands::ingest::IngestArgs),
    /// Push events from a file or standard input.
    Push(commands::push::PushArgs),
    /// Show one feature vector, with status, age, event time and origin of each value.
    Get(commands::get::GetArgs),
    /// Read entities online, recompute them from history at the same moment, compare bit for bit.
    Verify(commands::verify::VerifyArgs),
    /// Show how far each view is.
    Status(commands::status::StatusArgs),
    /// Show refused rows and why, and try them once more.
    DeadLetters(commands::dead_letters::DeadLettersArgs),
    /// Send load to a running server and measure what its callers would see.
    Bench(commands::bench::BenchArgs),
    /// Show a day of real flights, from definitions to live features.
    Demo(commands::demo::DemoArgs),
    /// Run cases with known answers through every door of the product and compare bit for bit.
    Conformance(commands::conformance::ConformanceArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // For kill tests: makes this process die at a named point. Settings are read nowhere below `main`.
    if let Ok(point) = std::env::var("SPRINGHOUSE_CRASH_AT")
        && let Err(error) = springhouse_core::crash_point::arm(&point)
    {
        output::error(&error, None);
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&format!("the async runtime can't start: {error}"), None);
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli));
    // Background tasks have been told to stop by the command that started them.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(code) => code,
        Err(error) => {
            output::failure(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let project = cli.project.as_path();
    match cli.command {
        Command::Init(args) => commands::init::run(args).await,
        Command::Validate(args) => commands::validate::run(args, &cli.project).await,
        Command::Plan(args) => commands::plan::run(args, &cli.project).await,
        Command::Apply(args) => commands::apply::run(args, &cli.project).await,
        Command::Registry(args) => commands::registry::run(args, &cli.project).await,
        Command::Schema(args) => commands::schema::run(args).await,
        Command::Train(args) => commands::train::run(args, project).await,
        Command::Statistics(args) => commands::statistics::run(args, project).await,
        Command::Materialize(args) => commands::materialize::run(args, project).await,
        Command::Rebuild(args) => commands::materialize::run_rebuild(args, project).await,
        Command::Optimize(args) => commands::optimize::run(args, project).await,
        Command::Serve(args) => commands::serve::run(args, project).await,
        Command::Ingest(args) => commands::ingest::run(args, project).await,
        Command::Push(args) => commands::push::run(args, project).await,
        Command::Get(args) => commands::get::run(args, project).await,
        Command::Verify(args) => commands::verify::run(args, project).await,
        Command::Status(args) => commands::status::run(args, project).await,
        Command::DeadLetters(args) => commands::dead_letters::run(args, project).await,
        Command::Bench(args) => commands::bench::run(args).await,
        Command::Demo(args) => commands::demo::run(args).await,
        Command::Conformance(args) => commands::conformance::run(args).await,
    }
}
