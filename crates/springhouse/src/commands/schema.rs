//! `springhouse schema`: the JSON Schema of the files, for editors.

use crate::output;
use clap::Args;
use springhouse_core::{definition_schema, settings::settings_schema};
use std::process::ExitCode;

/// Arguments of `springhouse schema`.
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// That of `springhouse.yaml` rather than of the definition files.
    #[arg(long)]
    settings: bool,
}

pub(crate) async fn run(args: SchemaArgs) -> anyhow::Result<ExitCode> {
    let schema = if args.settings { settings_schema() } else { definition_schema() };
    output::data(&serde_json::to_string_pretty(&schema)?);
    Ok(ExitCode::SUCCESS)
}
