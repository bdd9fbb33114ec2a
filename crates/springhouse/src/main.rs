//! Springhouse: a feature store whose training data and live answers are the same numbers.
//!
//! `main` parses, builds what a command needs, and maps the result to an exit status; each subcommand is one file.

mod commands;
mod output;
mod project;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Run cases with known answers through every door of the product and compare bit for bit.
    Conformance(commands::conformance::ConformanceArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
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
    match cli.command {
        Command::Init(args) => commands::init::run(args).await,
        Command::Validate(args) => commands::validate::run(args, &cli.project).await,
        Command::Plan(args) => commands::plan::run(args, &cli.project).await,
        Command::Apply(args) => commands::apply::run(args, &cli.project).await,
        Command::Registry(args) => commands::registry::run(args, &cli.project).await,
        Command::Schema(args) => commands::schema::run(args).await,
        Command::Conformance(args) => commands::conformance::run(args).await,
    }
}
