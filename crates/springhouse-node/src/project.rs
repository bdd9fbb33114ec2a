//! A project on disk: its settings, its definition files, its registry. The only reader of both kinds of file.

use crate::{NodeError, NodeOptions, NodePaths};
use serde::de::DeserializeOwned;
use springhouse_core::diagnostic::{Diagnostic, closest};
use springhouse_core::settings::SettingsSection;
use springhouse_core::settings::StoreKind;
use springhouse_core::{
    Clock, Definitions, ExpressionProblem, LoadedDefinitions, Settings, load_definitions, load_settings,
};
use springhouse_ingest::PushSettings;
use springhouse_kafka::KafkaSettings;
use springhouse_online_embedded::EmbeddedSettings;
use springhouse_online_redis::RedisSettings;
use springhouse_registry::Registry;
use springhouse_serving::ServingSettings;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that makes a folder a project.
pub const SETTINGS_FILE: &str = "springhouse.yaml";
/// The folder of definition files.
pub const FEATURES_FOLDER: &str = "features";
/// The folder of what the program keeps.
pub const STATE_FOLDER: &str = ".springhouse";
/// Deepest folder below `features/`; keeps a circle of links from being followed for ever.
const FOLDER_DEPTH_MAX: usize = 16;
/// Most definition files.
const FILES_MAX: usize = 10_000;

/// A project whose settings have been read.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its folder.
    pub root: PathBuf,
    /// `springhouse.yaml`.
    pub settings: Settings,
    /// Its section `push`.
    pub push: PushSettings,
    /// Its section `serving`.
    pub serving: ServingSettings,
    /// Its section `online`.
    pub online: EmbeddedSettings,
    /// Its section `redis`, where the store is on Redis.
    pub redis: Option<RedisSettings>,
    /// Its section `kafka`.
    pub kafka: KafkaSettings,
}

/// Mistakes in the files of a project; prints each with its line.
#[derive(Clone, Debug)]
pub struct Mistakes(pub Vec<Diagnostic>);

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

/// Why a project's files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// What is written in them is wrong.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
    /// They can't be read, or what is below them fails.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl Project {
    /// Reads the settings of the project in `root`.
    ///
    /// # Errors
    /// [`Mistakes`]; `no_project` or `file_unreadable`.
    pub fn open(root: &Path) -> Result<Self, ProjectError> {
        let path = root.join(SETTINGS_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let message = format!("{} is no project: it has no {SETTINGS_FILE}", root.display());
                let hint = "`springhouse init NAME` makes a project; `--project DIR` names one";
                return Err(NodeError::new("no_project", message, hint).into());
            }
            Err(error) => return Err(unreadable(&path, &error).into()),
        };
        let settings = load_settings(SETTINGS_FILE, &text).map_err(Mistakes)?;
        let mut mistakes = Vec::new();
        let push = read_section(&settings.push, &mut mistakes);
        let serving: ServingSettings = read_section(&settings.serving, &mut mistakes);
        let online = read_section(&settings.online, &mut mistakes);
        let kafka: KafkaSettings = read_section(&settings.kafka, &mut mistakes);
        let redis: RedisSettings = read_section(&settings.redis, &mut mistakes);
        let redis = (settings.store.kind == StoreKind::Redis).then(|| redis.in_folder(root));
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes).into());
        }
        let complaints = serving.validate();
        if !complaints.is_empty() {
            let hint = "correct the section `serving` of springhouse.yaml";
            return Err(NodeError::new("wrong_settings", complaints.join("; "), hint).into());
        }
        let complaints = redis.as_ref().map(RedisSettings::validate).unwrap_or_default();
        if !complaints.is_empty() {
            let hint = "correct the section `redis` of springhouse.yaml";
            return Err(NodeError::new("wrong_settings", complaints.join("; "), hint).into());
        }
        let complaints = kafka.validate();
        if !complaints.is_empty() {
            let hint = "correct the section `kafka` of springhouse.yaml";
            return Err(NodeError::new("wrong_settings", complaints.join("; "), hint).into());
        }
        if kafka.workers && redis.is_none() {
            let message = "`kafka.workers` needs an online store that several processes can write";
            let hint = "set `store: {kind: redis}` and the section `redis` in springhouse.yaml, or take `workers` out of `kafka:`";
            return Err(NodeError::new("wrong_settings", message, hint).into());
        }
        Ok(Self { root: root.to_owned(), settings, push, serving, online, redis, kafka })
    }

    /// Reads and checks everything below `features/`, SQL included.
    ///
    /// # Errors
    /// [`Mistakes`], all there are; or why a file can't be read.
    pub fn load_definitions(&self) -> Result<LoadedDefinitions, ProjectError> {
        Ok(load_files(&self.definition_files()?)?)
    }

    /// The definition files as (path below the project, text), in the order of their paths.
    ///
    /// # Errors
    /// `no_definitions`, `file_unreadable`, or that there are too many files or folders.
    pub fn definition_files(&self) -> Result<Vec<(String, String)>, NodeError> {
        let mut paths = Vec::new();
        collect(&self.root.join(FEATURES_FOLDER), 0, &mut paths)?;
        paths.sort();
        if paths.is_empty() {
            return Err(NodeError::new(
                "no_definitions",
                format!("there is nothing to read in {}", self.root.join(FEATURES_FOLDER).display()),
                "definitions are in files `*.yaml` below this folder",
            ));
        }
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
            let name = path.strip_prefix(&self.root).unwrap_or(&path);
            Ok((name.display().to_string(), text))
        };
        paths.into_iter().map(read).collect()
    }

    /// Where the project keeps its things.
    pub fn paths(&self) -> NodePaths {
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
    pub fn node_options(&self, clock: Arc<dyn Clock>) -> NodeOptions {
        NodeOptions {
            paths: self.paths(),
            push: self.push.clone(),
            serving: self.serving.clone(),
            online: self.online.clone(),
            redis: self.redis.clone(),
            kafka: self.kafka.clone(),
            memory_budget: u64::from(self.settings.memory_budget_mb) << 20,
            event_cache: u64::from(self.settings.event_cache_mb) << 20,
            clock,
        }
    }

    /// The applied definitions.
    ///
    /// # Errors
    /// When the registry's folder has no absolute path.
    pub fn registry(&self) -> Result<Registry, NodeError> {
        Ok(Registry::local(&self.paths().registry)?)
    }
}

/// Reads and checks definition files given as (name, text), SQL included.
///
/// # Errors
/// Every mistake.
pub fn load_files(files: &[(String, String)]) -> Result<LoadedDefinitions, Mistakes> {
    load_definitions(files, &resolve_types).map_err(Mistakes)
}

/// Reads a section of the settings; its mistakes go to `mistakes`.
pub fn read_section<T: DeserializeOwned + Default>(
    section: &SettingsSection,
    mistakes: &mut Vec<Diagnostic>,
) -> T {
    section.read().map_err(|found| mistakes.extend(found)).unwrap_or_default()
}

fn unreadable(path: &Path, error: &std::io::Error) -> NodeError {
    let message = format!("{} can't be read: {error}", path.display());
    NodeError::new("file_unreadable", message, "check that it exists and may be read")
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
    let wrong_schemas = definitions.sources.values().filter_map(|source| {
        let wrong = springhouse_kafka::check_schema(source.kafka.as_ref()?)?;
        Some(ExpressionProblem {
            path: format!("sources.{}.stream.kafka.schema", source.name),
            message: format!("the schema can't be used: {wrong}"),
            hint: None,
            column: None,
        })
    });
    in_sql.chain(unknown_zones).chain(wrong_schemas).collect()
}

fn collect(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), NodeError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if depth == 0 && error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(folder, &error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_hidden {
            continue;
        }
        if path.is_dir() {
            if depth == FOLDER_DEPTH_MAX {
                let message = format!("{} is nested deeper than {FOLDER_DEPTH_MAX} folders", path.display());
                return Err(NodeError::new("too_many_files", message, "put the definitions less deep"));
            }
            collect(&path, depth + 1, paths)?;
        } else if is_yaml {
            if paths.len() == FILES_MAX {
                let message = format!("there are over {FILES_MAX} definition files");
                return Err(NodeError::new("too_many_files", message, "join some of them"));
            }
            paths.push(path);
        }
    }
    Ok(())
}
