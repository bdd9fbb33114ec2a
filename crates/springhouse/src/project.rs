//! A project on disk: its settings, its definition files, its registry. The only reader of both kinds of file.

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use springhouse_core::diagnostic::{Diagnostic, closest};
use springhouse_core::settings::SettingsSection;
use springhouse_core::{
    Clock, Definitions, ExpressionProblem, LoadedDefinitions, Settings, load_definitions, load_settings,
};
use springhouse_ingest::PushSettings;
use springhouse_node::{NodeOptions, NodePaths};
use springhouse_online_embedded::EmbeddedSettings;
use springhouse_registry::Registry;
use springhouse_server::ServerSettings;
use springhouse_serving::ServingSettings;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that makes a folder a project.
pub(crate) const SETTINGS_FILE: &str = "springhouse.yaml";
/// The folder of definition files.
pub(crate) const FEATURES_FOLDER: &str = "features";
/// The folder of what the program keeps.
pub(crate) const STATE_FOLDER: &str = ".springhouse";
/// Deepest folder below `features/`; keeps a circle of links from being followed for ever.
const FOLDER_DEPTH_MAX: usize = 16;
/// Most definition files.
const FILES_MAX: usize = 10_000;

/// A project whose settings have been read.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    /// Its folder.
    pub(crate) root: PathBuf,
    /// `springhouse.yaml`.
    pub(crate) settings: Settings,
    /// Its section `push`.
    pub(crate) push: PushSettings,
    /// Its section `serving`.
    pub(crate) serving: ServingSettings,
    /// Its section `online`.
    pub(crate) online: EmbeddedSettings,
    /// Its section `server`.
    pub(crate) server: ServerSettings,
}

/// Mistakes in the files of a project; prints each with its line.
#[derive(Debug)]
pub(crate) struct Mistakes(pub(crate) Vec<Diagnostic>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.len();
        writeln!(f, "{number} mistake{} in the project's files", if number == 1 { "" } else { "s" })?;
        for diagnostic in &self.0 {
            write!(f, "\n{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl Project {
    /// Reads the settings of the project in `root`.
    ///
    /// # Errors
    /// [`Mistakes`]; or why the file can't be read.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        let path = root.join(SETTINGS_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "{} is no project: it has no {SETTINGS_FILE}\n  = help: `springhouse init NAME` makes a project; \
                 `--project DIR` names one",
                root.display()
            ),
            Err(error) => return Err(error).with_context(|| format!("{} can't be read", path.display())),
        };
        let settings = load_settings(SETTINGS_FILE, &text).map_err(Mistakes)?;
        let mut mistakes = Vec::new();
        let push = read(&settings.push, &mut mistakes);
        let serving = read(&settings.serving, &mut mistakes);
        let online = read(&settings.online, &mut mistakes);
        let server = read(&settings.server, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes).into());
        }
        Ok(Self { root: root.to_owned(), settings, push, serving, online, server })
    }

    /// Reads and checks everything below `features/`, SQL included.
    ///
    /// # Errors
    /// [`Mistakes`], all there are; or why a file can't be read.
    pub(crate) fn load_definitions(&self) -> anyhow::Result<LoadedDefinitions> {
        let files = self.definition_files()?;
        Ok(load_definitions(&files, &resolve_types).map_err(Mistakes)?)
    }

    /// The definition files as (path below the project, text), in the order of their paths.
    fn definition_files(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut paths = Vec::new();
        collect(&self.root.join(FEATURES_FOLDER), 0, &mut paths)?;
        paths.sort();
        if paths.is_empty() {
            bail!(
                "there is nothing to read in {}\n  = help: definitions are in files `*.yaml` below this folder",
                self.root.join(FEATURES_FOLDER).display()
            );
        }
        paths
            .into_iter()
            .map(|path| {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("{} can't be read", path.display()))?;
                let name = path.strip_prefix(&self.root).unwrap_or(&path);
                Ok((name.display().to_string(), text))
            })
            .collect()
    }

    /// Where the project keeps its things.
    pub(crate) fn paths(&self) -> NodePaths {
        let at = |path: &str| self.root.join(path);
        NodePaths {
            project: self.root.clone(),
            registry: at(&self.settings.registry_path),
            lake: at(&self.settings.lake_path),
            online: at(&self.settings.store.path),
            log: at(&self.settings.log_path),
        }
    }

    /// How to open the project's node.
    pub(crate) fn node_options(&self, clock: Arc<dyn Clock>) -> NodeOptions {
        NodeOptions {
            paths: self.paths(),
            push: self.push.clone(),
            serving: self.serving.clone(),
            online: self.online.clone(),
            memory_budget: u64::from(self.settings.memory_budget_mb) << 20,
            clock,
        }
    }

    /// The applied definitions.
    ///
    /// # Errors
    /// When the registry's folder has no absolute path.
    pub(crate) fn registry(&self) -> anyhow::Result<Registry> {
        Ok(Registry::local(&self.paths().registry)?)
    }
}

/// Reads a section; its mistakes go to `mistakes`.
fn read<T: DeserializeOwned + Default>(section: &SettingsSection, mistakes: &mut Vec<Diagnostic>) -> T {
    section.read().map_err(|found| mistakes.extend(found)).unwrap_or_default()
}

/// Plans the SQL of definitions, and fills in the types that follow from it; looks up time zones.
fn resolve_types(definitions: &mut Definitions) -> Vec<ExpressionProblem> {
    let problems = springhouse_expr::resolve_types(definitions).err().unwrap_or_default();
    let in_sql = problems.into_iter().map(|(path, error)| ExpressionProblem {
        path,
        message: error.message,
        hint: error.hint,
        column: error.column,
    });
    let unknown_zones = definitions.sources.values().filter_map(|source| {
        let zone = source.time_zone.as_ref()?;
        zone.parse::<chrono_tz::Tz>().err()?;
        let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        let hint = closest(zone, known).map(|meant| format!("did you mean `{meant}`?"));
        Some(ExpressionProblem {
            path: format!("sources.{}.time_zone", source.name),
            message: format!("there is no time zone `{zone}`"),
            hint: hint.or_else(|| Some("write a name such as `UTC` or `America/New_York`".to_owned())),
            column: None,
        })
    });
    in_sql.chain(unknown_zones).collect()
}

fn collect(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if depth == 0 && error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("{} can't be read", folder.display())),
    };
    for entry in entries {
        let path = entry.with_context(|| format!("{} can't be read", folder.display()))?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_hidden {
            continue;
        }
        if path.is_dir() {
            if depth == FOLDER_DEPTH_MAX {
                bail!("{} is nested deeper than {FOLDER_DEPTH_MAX} folders", path.display());
            }
            collect(&path, depth + 1, paths)?;
        } else if is_yaml {
            if paths.len() == FILES_MAX {
                bail!("there are over {FILES_MAX} definition files");
            }
            paths.push(path);
        }
    }
    Ok(())
}
