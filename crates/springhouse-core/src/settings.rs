//! `springhouse.yaml`: where a project keeps its things, and the limits of its parts. What is defined is elsewhere.

use crate::diagnostic::Diagnostic;
use crate::read::{FromNode, Reader, section, words};
use crate::yaml::{self, Files, Kind, Node};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, DeserializeOwned, IntoDeserializer, value};
use std::borrow::Cow;
use std::fmt::Display;

/// The deployment of one project. Paths are as written: relative ones start at the project's folder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The project's name.
    pub project: String,
    /// Where applied definitions are kept.
    pub registry_path: String,
    /// Where the Delta tables of what was pushed are.
    pub lake_path: String,
    /// Where the push log is.
    pub log_path: String,
    /// Which online store, and where.
    pub store: StoreSettings,
    /// Address and limits of the HTTP server, read by the server.
    pub server: SettingsSection,
    /// Memory budget of one training set or materialisation, in MiB.
    pub memory_budget_mb: u32,
    /// What training sets may keep on disk of the history that they have read, in MiB; 0 = nothing.
    pub event_cache_mb: u32,
    /// Limits of the embedded store, read by it.
    pub online: SettingsSection,
    /// Address and limits of the Redis store, read by it.
    pub redis: SettingsSection,
    /// Address and limits of Kafka, read by who reads its topics.
    pub kafka: SettingsSection,
    /// Limits of push, read by who takes pushes.
    pub push: SettingsSection,
    /// Limits of serving, read by who serves.
    pub serving: SettingsSection,
    /// Logs and traces, read by the program.
    pub telemetry: SettingsSection,
}

/// Which online store, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Which.
    pub kind: StoreKind,
    /// Where the embedded one is; the Redis store keeps this process's lock and a note there.
    pub path: String,
}

/// The online stores there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum StoreKind {
    /// In this process and on its disk.
    #[default]
    Embedded,
    /// On Redis or Valkey servers.
    Redis,
}

section! {
    /// The deployment of a Springhouse project.
    SettingsFile, "springhouse.yaml";
    required {
        /// The project's name.
        "project" project: String,
    }
    optional {
        /// Applied definitions.
        "registry" registry: PathDecl,
        /// Delta tables of what was pushed.
        "lake" lake: PathDecl,
        /// The push log.
        "log" log: PathDecl,
        /// The online store.
        "store" store: StoreDecl,
        /// The HTTP server.
        "server" server: SectionDecl,
        /// Training sets, materialisation.
        "jobs" jobs: JobsDecl,
        /// Limits of the embedded store.
        "online" online: SectionDecl,
        /// Address and limits of the Redis store.
        "redis" redis: SectionDecl,
        /// Address and limits of Kafka.
        "kafka" kafka: SectionDecl,
        /// Limits of push.
        "push" push: SectionDecl,
        /// Limits of serving.
        "serving" serving: SectionDecl,
        /// Logs and traces.
        "telemetry" telemetry: SectionDecl,
    }
}

section! {
    /// A folder.
    PathDecl, "a folder";
    required {
        /// The folder; a relative one starts at the project.
        "path" path: String,
    }
    optional {}
}

section! {
    /// The online store.
    StoreDecl, "the online store";
    required {}
    optional {
        /// embedded, redis.
        "kind" kind: StoreKind,
        /// The folder of the embedded store.
        "path" path: String,
    }
}

section! {
    /// Training sets, materialisation.
    JobsDecl, "jobs";
    required {}
    optional {
        /// Memory budget of one job in MiB; over it, work is spilled to disk. More is faster.
        "memory_budget_mb" memory_budget_mb: u32,
        /// What training sets keep on disk, in the lake, of the history that they have read, in MiB, so that the next one reads only
        /// what is new; 0 (the default): nothing.
        "event_cache_mb" event_cache_mb: u32,
    }
}

words! {
    StoreKind: "embedded" => Self::Embedded, "redis" => Self::Redis;
}

/// A part of the settings whose keys another crate knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct SectionDecl(Option<Node>);

impl FromNode for SectionDecl {
    fn from_node(node: &Node, _: &mut Reader) -> Option<Self> {
        Some(Self(Some(node.clone())))
    }
}

impl JsonSchema for SectionDecl {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Section".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object"})
    }
}

/// Memory budget of a job when nothing is said.
const MEMORY_BUDGET_MB_DEFAULT: u32 = 1024;

/// Reads `springhouse.yaml`.
///
/// # Errors
/// Every mistake in it.
pub fn load_settings(file: &str, text: &str) -> Result<Settings, Vec<Diagnostic>> {
    let mut reader = Reader::default();
    let id = reader.spans.files.add(file, text);
    let root = yaml::parse(&reader.spans.files, id, &mut reader.diagnostics);
    let declared =
        root.as_ref().and_then(|root| SettingsFile::from_node(root, &mut reader)).unwrap_or_default();
    if declared.jobs.as_ref().and_then(|j| j.memory_budget_mb) == Some(0) {
        let message = "a job needs some memory, this is 0".to_owned();
        reader.report_at("jobs.memory_budget_mb", "out_of_range", message);
    }
    if !reader.diagnostics.is_empty() {
        return Err(reader.diagnostics);
    }
    let folder = |decl: Option<PathDecl>, name: &str| {
        decl.and_then(|d| d.path).unwrap_or_else(|| format!(".springhouse/{name}"))
    };
    let section = |name: &'static str, decl: Option<SectionDecl>| SettingsSection {
        name,
        node: decl.and_then(|d| d.0),
        files: reader.spans.files.clone(),
    };
    let store = declared.store.unwrap_or_default();
    let jobs = declared.jobs.unwrap_or_default();
    Ok(Settings {
        project: declared.project.unwrap_or_default(),
        registry_path: folder(declared.registry, "registry"),
        lake_path: folder(declared.lake, "lake"),
        log_path: folder(declared.log, "log"),
        store: StoreSettings {
            kind: store.kind.unwrap_or_default(),
            path: store.path.unwrap_or_else(|| ".springhouse/online".to_owned()),
        },
        server: section("server", declared.server),
        memory_budget_mb: jobs.memory_budget_mb.unwrap_or(MEMORY_BUDGET_MB_DEFAULT),
        event_cache_mb: jobs.event_cache_mb.unwrap_or(0),
        online: section("online", declared.online),
        redis: section("redis", declared.redis),
        kafka: section("kafka", declared.kafka),
        push: section("push", declared.push),
        serving: section("serving", declared.serving),
        telemetry: section("telemetry", declared.telemetry),
    })
}

/// The JSON Schema of `springhouse.yaml`, for editors.
pub fn settings_schema() -> serde_json::Value {
    schemars::schema_for!(SettingsFile).to_value()
}

/// A part of the settings that its owner reads into a struct of its own.
#[derive(Clone, Debug)]
pub struct SettingsSection {
    name: &'static str,
    node: Option<Node>,
    files: Files,
}

impl SettingsSection {
    /// Reads the section into `T`, whose every field must have a default.
    ///
    /// # Errors
    /// Every mistake in it: each key is tried alone.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Vec<Diagnostic>> {
        let empty = vec![];
        let entries = match self.node.as_ref().map(|n| (&n.kind, n)) {
            None | Some((Kind::Null, _)) => &empty,
            Some((Kind::Map(entries), _)) => entries,
            Some((_, node)) => {
                let message = format!("expected a mapping (`{}`), found {}", self.name, node.what());
                return Err(vec![Diagnostic::error("wrong_type", self.files.locate(node.span), message)]);
            }
        };
        let mistakes: Vec<Diagnostic> = entries
            .iter()
            .filter_map(|(key, node)| {
                let alone = std::slice::from_ref(&(key.clone(), node.clone())).to_vec();
                let error = T::deserialize(mapping(&alone)).err()?;
                Some(self.diagnostic(&key.text, key.span, node, error))
            })
            .collect();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        T::deserialize(mapping(entries)).map_err(|error| {
            let span = self.node.as_ref().map(|n| n.span).unwrap_or_default();
            vec![Diagnostic::error("wrong_settings", self.files.locate(span), error.message)]
        })
    }

    fn diagnostic(&self, key: &str, key_span: yaml::Span, node: &Node, error: ReadError) -> Diagnostic {
        match error.unknown_key {
            Some(known) => {
                let message = format!("`{key}` is not a key of `{}`", self.name);
                let mut diagnostic = Diagnostic::error("unknown_key", self.files.locate(key_span), message);
                diagnostic.set_hint_of(key, known);
                diagnostic
            }
            None => {
                let message = format!("`{key}`: {}", error.message);
                Diagnostic::error("wrong_type", self.files.locate(node.span), message)
            }
        }
    }
}

/// What serde says of a section.
#[derive(Debug)]
struct ReadError {
    message: String,
    unknown_key: Option<&'static [&'static str]>,
}

impl Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: Display>(message: T) -> Self {
        Self { message: message.to_string(), unknown_key: None }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self { message: format!("`{field}` is not known"), unknown_key: Some(expected) }
    }
}

type Entries<'a> = Vec<(Cow<'a, str>, NodeDeserializer<'a>)>;

fn mapping(
    entries: &[(yaml::Key, Node)],
) -> value::MapDeserializer<'_, std::vec::IntoIter<(Cow<'_, str>, NodeDeserializer<'_>)>, ReadError> {
    let entries: Entries<'_> = entries
        .iter()
        .map(|(key, node)| (Cow::Borrowed(key.text.as_str()), NodeDeserializer(node)))
        .collect();
    value::MapDeserializer::new(entries.into_iter())
}

/// A node for serde: plain scalars typed as YAML 1.2 types them.
struct NodeDeserializer<'a>(&'a Node);

impl<'a> IntoDeserializer<'a, ReadError> for NodeDeserializer<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> de::Deserializer<'de> for NodeDeserializer<'de> {
    type Error = ReadError;

    fn deserialize_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.0.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Scalar { text, plain } => {
                if *plain {
                    if let Ok(v) = text.parse::<bool>() {
                        return visitor.visit_bool(v);
                    }
                    if let Ok(v) = text.parse::<u64>() {
                        return visitor.visit_u64(v);
                    }
                    if let Ok(v) = text.parse::<i64>() {
                        return visitor.visit_i64(v);
                    }
                    if let Ok(v) = text.parse::<f64>() {
                        return visitor.visit_f64(v);
                    }
                }
                visitor.visit_str(text)
            }
            Kind::List(items) => {
                let items: Vec<_> = items.iter().map(NodeDeserializer).collect();
                visitor.visit_seq(value::SeqDeserializer::new(items.into_iter()))
            }
            Kind::Map(entries) => visitor.visit_map(mapping(entries)),
        }
    }

    fn deserialize_option<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.0.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: de::Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.0.kind {
            Kind::Scalar { text, .. } => {
                let text: value::StrDeserializer<'_, ReadError> = text.as_str().into_deserializer();
                de::Deserializer::deserialize_enum(text, name, variants, visitor)
            }
            _ => Err(de::Error::custom(format!("expected one word, found {}", self.0.what()))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}
