//! From the texts of definition files to checked definitions. No I/O: the caller reads the files, and brings whoever can
//! check SQL.

use crate::complete::complete;
use crate::declared::DefinitionFile;
use crate::definition::{Definitions, Derived, FeatureRef, ViewKind};
use crate::diagnostic::{Diagnostic, Severity};
use crate::read::{FromNode, Reader, Spans};
use crate::resolve::{Resolved, mentions, resolve};
use crate::yaml::{self, Key, Kind, Node, Span};

/// Definitions that are whole, and where their parts stand.
#[derive(Clone, Debug)]
pub struct LoadedDefinitions {
    /// The definitions.
    pub definitions: Definitions,
    /// From a path such as `feature_views.v.where` to file, line and column.
    pub spans: Spans,
    /// What is worth a look.
    pub warnings: Vec<Diagnostic>,
}

/// What is wrong with an expression, as whoever plans SQL says it; or with a time zone, as whoever knows their rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionProblem {
    /// The path of the expression or zone, such as `feature_views.v.derived.x`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do, when that is known.
    pub hint: Option<String>,
    /// Where in the SQL text (1-based column), when known.
    pub column: Option<usize>,
}

/// Reads definition files, given as (name, text), and checks them as a whole. `resolve_types` plans the SQL in the
/// definitions and fills in the types that follow from it; it may be called more than once.
///
/// # Errors
/// Every mistake there is, in the order of files and lines.
pub fn load_definitions(
    files: &[(String, String)],
    resolve_types: &dyn Fn(&mut Definitions) -> Vec<ExpressionProblem>,
) -> Result<LoadedDefinitions, Vec<Diagnostic>> {
    let mut reader = Reader::default();
    let root = merge(&mut reader, files);
    let declared = DefinitionFile::from_node(&root, &mut reader).unwrap_or_default();
    let mut resolved = resolve(&mut reader, &declared);
    let problems = resolve_types(&mut resolved.definitions);
    mark_untyped(&mut reader, &problems);
    complete(&mut reader, &mut resolved);
    report_problems(&mut reader, &resolved, problems);
    finish(reader, resolved)
}

fn finish(reader: Reader, resolved: Resolved) -> Result<LoadedDefinitions, Vec<Diagnostic>> {
    let Reader { spans, mut diagnostics, .. } = reader;
    diagnostics.sort_by(|a, b| a.location.cmp(&b.location));
    if diagnostics.iter().any(|d| d.severity == Severity::Error) {
        // First what must be put right.
        diagnostics.retain(|d| d.severity == Severity::Error);
        return Err(diagnostics);
    }
    Ok(LoadedDefinitions { definitions: resolved.definitions, spans, warnings: diagnostics })
}

/// Puts the sections of all files into one tree. A name that two files give is reported with both places.
fn merge(reader: &mut Reader, files: &[(String, String)]) -> Node {
    let mut sections: Vec<(Key, Node)> = Vec::new();
    for (name, text) in files {
        let file = reader.spans.files.add(name, text);
        let Some(root) = yaml::parse(&reader.spans.files, file, &mut reader.diagnostics) else { continue };
        let Kind::Map(entries) = root.kind else {
            let _: Option<()> = reader.expected(&root, "a mapping (a definition file)");
            continue;
        };
        for (key, node) in entries {
            let Some((_, known)) = sections.iter_mut().find(|(k, _)| k.text == key.text) else {
                sections.push((key, node));
                continue;
            };
            match (&mut known.kind, node.kind) {
                (_, Kind::Null) => {}
                (Kind::Map(known), Kind::Map(more)) => merge_section(reader, &key.text, known, more),
                (Kind::Null, kind) => known.kind = kind,
                (Kind::Map(_), kind) => {
                    let node = Node { span: node.span, kind };
                    let _: Option<()> = reader.expected(&node, "a mapping from names");
                }
                // The first one is reported when it is read.
                _ => {}
            }
        }
    }
    Node { span: Span { file: 0, line: 1, column: 1, length: 1 }, kind: Kind::Map(sections) }
}

fn merge_section(reader: &mut Reader, section: &str, known: &mut Vec<(Key, Node)>, more: Vec<(Key, Node)>) {
    for (key, node) in more {
        let Some((first, _)) = known.iter().find(|(k, _)| k.text == key.text) else {
            known.push((key, node));
            continue;
        };
        let message = format!("`{section}` has `{}` already; expected each name once", key.text);
        let first = reader.spans.files.locate(first.span);
        let location = reader.spans.files.locate(key.span);
        let mut diagnostic = Diagnostic::error("duplicate_name", location, message);
        diagnostic.relate(first, "first given here");
        reader.diagnostics.push(diagnostic);
    }
}

/// Derived columns and request features that have no type: nothing is said of what builds on them.
fn mark_untyped(reader: &mut Reader, problems: &[ExpressionProblem]) {
    for problem in problems {
        let parts: Vec<&str> = problem.path.split('.').collect();
        if matches!(parts.as_slice(), [_, _, "derived", _] | ["request_views", _, "features", _]) {
            reader.mark_untyped(&problem.path);
        }
    }
}

/// Reports what is wrong with expressions, except where another mistake explains it.
fn report_problems(reader: &mut Reader, resolved: &Resolved, problems: Vec<ExpressionProblem>) {
    for problem in problems {
        let path = reader.spans.canonical(&problem.path).into_owned();
        let is_zone = path.ends_with(".time_zone");
        let untyped = untyped_names(reader, &resolved.definitions, &path);
        let follows = match sql_at(&resolved.definitions, &problem.path) {
            Some(sql) => mentions(sql, &untyped),
            // Not about a text of SQL but about a column or function: reported more exactly before, if at all.
            None => reader.is_broken_below(&path) || (!is_zone && !untyped.is_empty()),
        };
        if follows || reader.is_broken(&path) {
            continue;
        }
        let location = match problem.column {
            Some(column) => reader.spans.locate_within(&path, column),
            None => reader.spans.locate(&path),
        };
        reader.mark_broken(&path);
        let code = if is_zone { "unknown_time_zone" } else { "wrong_expression" };
        let mut diagnostic = Diagnostic::error(code, location, problem.message);
        diagnostic.hint = problem.hint;
        reader.diagnostics.push(diagnostic);
    }
}

/// The SQL at a path.
fn sql_at<'a>(definitions: &'a Definitions, path: &str) -> Option<&'a str> {
    let derived =
        |list: &'a [Derived], name: &str| list.iter().find(|d| d.name == name).map(|d| d.sql.as_str());
    match path.split('.').collect::<Vec<_>>().as_slice() {
        ["sources", source, "where"] => definitions.sources.get(*source)?.filter.as_deref(),
        ["sources", source, "derived", name] => derived(&definitions.sources.get(*source)?.derived, name),
        ["feature_views", view, "where"] => definitions.feature_views.get(*view)?.filter.as_deref(),
        ["feature_views", view, "derived", name] => {
            derived(&definitions.feature_views.get(*view)?.derived, name)
        }
        ["feature_views", view, "aggregate", name, "where"] => {
            match &definitions.feature_views.get(*view)?.kind {
                ViewKind::Windows(features) => features.iter().find(|f| f.name == *name)?.filter.as_deref(),
                ViewKind::Latest(_) => None,
            }
        }
        ["request_views", view, "features", name] => {
            let view = definitions.request_views.get(*view)?;
            view.features.iter().find(|f| f.name == *name).map(|f| f.sql.as_str())
        }
        _ => None,
    }
}

/// The names that SQL at `path` may use and that have no type, because of a mistake of their own.
fn untyped_names(reader: &Reader, definitions: &Definitions, path: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('.').collect();
    match parts.as_slice() {
        ["sources", source, ..] => untyped_columns(reader, source, None, path),
        ["feature_views", view, ..] => definitions
            .feature_views
            .get(*view)
            .map(|found| untyped_columns(reader, &found.source, Some(view), path))
            .unwrap_or_default(),
        ["request_views", view, ..] => {
            let Some(found) = definitions.request_views.get(*view) else { return vec![] };
            let mut names = Vec::new();
            for key in ["fields", "features"] {
                names.extend(untyped_below(reader, &format!("request_views.{view}.{key}"), path));
            }
            let inputs =
                found.inputs.iter().filter(|(_, input)| is_untyped_feature(reader, definitions, input));
            names.extend(inputs.map(|(name, _)| name.clone()));
            names
        }
        _ => vec![],
    }
}

/// The columns of a source, and those derived in a view of it, that have no type.
fn untyped_columns(reader: &Reader, source: &str, view: Option<&str>, except: &str) -> Vec<String> {
    let mut sections = vec![format!("sources.{source}.columns"), format!("sources.{source}.derived")];
    sections.extend(view.map(|view| format!("feature_views.{view}.derived")));
    sections.iter().flat_map(|section| untyped_below(reader, section, except)).collect()
}

fn untyped_below(reader: &Reader, section: &str, except: &str) -> Vec<String> {
    let below = reader.spans.names_below(section);
    let untyped = below.iter().filter(|at| *at != except && reader.is_untyped(at));
    untyped.filter_map(|at| Some(at.rsplit_once('.')?.1.to_owned())).collect()
}

fn is_untyped_feature(reader: &Reader, definitions: &Definitions, feature: &FeatureRef) -> bool {
    let FeatureRef { view, feature } = feature;
    let Some(stored) = definitions.feature_views.get(view) else {
        return reader.is_untyped(&format!("request_views.{view}.features.{feature}"));
    };
    let columns: Vec<&String> = match &stored.kind {
        ViewKind::Latest(all) => all.iter().filter(|f| f.name == *feature).map(|f| &f.column).collect(),
        ViewKind::Windows(all) => {
            let found = all.iter().filter(|f| f.name == *feature);
            found.flat_map(|f| f.column.iter().chain(&f.group_by)).collect()
        }
    };
    let untyped = untyped_columns(reader, &stored.source, Some(view), "");
    columns.into_iter().any(|column| untyped.contains(column))
}

/// The JSON Schema of definition files, for editors.
pub fn definition_schema() -> serde_json::Value {
    let schema = schemars::schema_for!(DefinitionFile);
    schema.to_value()
}
