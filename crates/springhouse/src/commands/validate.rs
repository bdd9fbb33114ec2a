//! `springhouse validate`: every mistake in the files, at once.

use crate::output;
use crate::project::Project;
use clap::{Args, ValueEnum};
use springhouse_core::definition::{Definitions, ViewKind};
use springhouse_node::Mistakes;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `springhouse validate`.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// How to print what was found.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs; the keys are stable.
    Json,
}

pub(crate) async fn run(args: ValidateArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let loaded = Project::open(project).and_then(|project| project.load_definitions());
    let (mistakes, definitions) = match loaded {
        Ok(loaded) => (loaded.warnings, Some(loaded.definitions)),
        Err(error) => (error.downcast::<Mistakes>()?.0, None),
    };
    match args.format {
        Format::Json => output::data(&serde_json::to_string_pretty(&mistakes)?),
        Format::Text => {
            for mistake in &mistakes {
                output::note(&mistake.to_string());
            }
            match &definitions {
                Some(definitions) => output::data(&summary(definitions)),
                None => {
                    let number = mistakes.len();
                    output::note(&format!("{number} mistake{} found", if number == 1 { "" } else { "s" }));
                }
            }
        }
    }
    Ok(if definitions.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(definitions: &Definitions) -> String {
    let features: usize = definitions
        .feature_views
        .values()
        .map(|view| match &view.kind {
            ViewKind::Latest(features) => features.len(),
            ViewKind::Windows(features) => features.len(),
        })
        .chain(definitions.request_views.values().map(|view| view.features.len()))
        .sum();
    let count =
        |number: usize, one: &str, many: &str| format!("{number} {}", if number == 1 { one } else { many });
    format!(
        "valid: {}, {}, {} with {}, {}",
        count(definitions.entities.len(), "entity", "entities"),
        count(definitions.sources.len(), "source", "sources"),
        count(definitions.feature_views.len() + definitions.request_views.len(), "view", "views"),
        count(features, "feature", "features"),
        count(definitions.feature_services.len(), "feature service", "feature services"),
    )
}
