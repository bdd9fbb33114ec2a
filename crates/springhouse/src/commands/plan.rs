//! `springhouse plan`: what applying the files would change.
//!
//! Exit status: 0 nothing changes, 2 something does, 1 the plan can't be made.

use super::validate::Format;
use crate::output;
use crate::project::Project;
use clap::Args;
use serde_json::json;
use springhouse_core::Definitions;
use springhouse_core::diff::{Change, Compatibility, describe_changes, diff};
use springhouse_registry::Snapshot;
use std::path::Path;
use std::process::ExitCode;

/// The exit status that says that something changes.
const EXIT_CHANGES: u8 = 2;

/// Arguments of `springhouse plan`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 nothing changes, 2 something does, 1 the plan can't be made.")]
pub(crate) struct PlanArgs {
    /// How to print the plan.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What applying the files would do.
pub(crate) struct Plan {
    pub(crate) head: Option<Snapshot>,
    pub(crate) next: Definitions,
    pub(crate) changes: Vec<Change>,
}

impl Plan {
    /// Reads the files and compares them with what is applied.
    ///
    /// # Errors
    /// Mistakes in the files; what the registry says.
    pub(crate) async fn make(project: &Project) -> anyhow::Result<Self> {
        let loaded = project.load_definitions()?;
        let head = project.registry()?.head().await?;
        let mut next = loaded.definitions;
        let nothing = Definitions::default();
        let applied = head.as_ref().map_or(&nothing, |head| &head.definitions);
        next.keep_statistics(applied);
        let changes = diff(applied, &next);
        Ok(Self { head, next, changes })
    }

    pub(crate) fn breaking(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.compatibility == Compatibility::Breaking)
    }

    /// True when there is nothing to apply.
    pub(crate) fn is_empty(&self) -> bool {
        let same = self.head.as_ref().is_some_and(|head| head.definitions == self.next);
        self.changes.is_empty() && (same || self.next == Definitions::default())
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let against = match &self.head {
            Some(head) => format!("Against snapshot {}", head.number),
            None => "Nothing has been applied yet".to_owned(),
        };
        format!("{against}:\n\n{}", describe_changes(&self.changes, &self.next))
    }

    /// For programs; the keys are stable.
    pub(crate) fn json(&self) -> serde_json::Value {
        json!({
            "against": self.head.as_ref().map(|head| head.number),
            "definition_hash": self.next.content_hash(),
            "breaking": self.breaking().count(),
            "changes": self.changes,
        })
    }
}

pub(crate) async fn run(args: PlanArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let plan = Plan::make(&Project::open(project)?).await?;
    match args.format {
        Format::Json => output::data(&serde_json::to_string_pretty(&plan.json())?),
        Format::Text => output::data(plan.text().trim_end()),
    }
    Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHANGES) })
}
