//! A project as this program sees it: the node's part of its files, and the settings of the server and of telemetry.

use crate::telemetry::TelemetrySettings;
use springhouse_core::LoadedDefinitions;
use springhouse_node::{Mistakes, ProjectError, read_section};
use springhouse_registry::Registry;
use springhouse_server::ServerSettings;
use std::ops::Deref;
use std::path::Path;

/// A project whose settings have been read.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    files: springhouse_node::Project,
    /// The section `server` of its settings.
    pub(crate) server: ServerSettings,
    /// The section `telemetry`.
    pub(crate) telemetry: TelemetrySettings,
}

impl Deref for Project {
    type Target = springhouse_node::Project;

    fn deref(&self) -> &Self::Target {
        &self.files
    }
}

impl Project {
    /// Reads the settings of the project in `root`.
    ///
    /// # Errors
    /// [`Mistakes`]; or why the file can't be read.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        let files = springhouse_node::Project::open(root).map_err(told)?;
        let mut mistakes = Vec::new();
        let server = read_section(&files.settings.server, &mut mistakes);
        let telemetry = read_section(&files.settings.telemetry, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes).into());
        }
        Ok(Self { files, server, telemetry })
    }

    /// Reads and checks everything below `features/`, SQL included.
    ///
    /// # Errors
    /// [`Mistakes`], all there are; or why a file can't be read.
    pub(crate) fn load_definitions(&self) -> anyhow::Result<LoadedDefinitions> {
        self.files.load_definitions().map_err(told)
    }

    /// The applied definitions.
    ///
    /// # Errors
    /// When the registry's folder has no absolute path.
    pub(crate) fn registry(&self) -> anyhow::Result<Registry> {
        Ok(self.files.registry()?)
    }
}

/// What is printed, and how, hangs on the error itself.
fn told(error: ProjectError) -> anyhow::Error {
    match error {
        ProjectError::Mistakes(mistakes) => mistakes.into(),
        ProjectError::Node(error) => error.into(),
    }
}
