//! From what the files say to definitions: names, references, parameters. Types that depend on SQL come later, in
//! `complete.rs`. Every mistake is reported, and none twice: what depends on a mistake is left alone.

mod aggregates;
mod services;
mod sources;
mod views;

pub(crate) use views::mentions;

use crate::declared::{DefaultDecl, DefinitionFile};
use crate::definition::{Definitions, Entity, Meta};
use crate::read::{Entries, Reader};
use std::collections::BTreeMap;

/// The longest name.
pub(crate) const NAME_CHARACTERS_MAX: usize = 128;

/// Definitions with what is still to be settled once every type is known.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) definitions: Definitions,
    /// Per feature view and request view, in the order of its features: what was declared of each.
    pub(crate) features: BTreeMap<String, Vec<DeclaredFeature>>,
}

/// Where a feature was declared, and its default.
#[derive(Clone, Debug)]
pub(crate) struct DeclaredFeature {
    pub(crate) path: String,
    pub(crate) default: Option<DefaultDecl>,
}

/// Resolves a whole set of files, read into one.
pub(crate) fn resolve(reader: &mut Reader, declared: &DefinitionFile) -> Resolved {
    let mut resolver = Resolver { reader, declared, out: Resolved::default() };
    resolver.entities();
    resolver.sources();
    resolver.feature_views();
    resolver.request_views();
    resolver.feature_services();
    resolver.out
}

struct Resolver<'a> {
    reader: &'a mut Reader,
    declared: &'a DefinitionFile,
    out: Resolved,
}

impl Resolver<'_> {
    fn entities(&mut self) {
        for entry in entries(self.declared.entities.as_ref()) {
            let path = format!("entities.{}", entry.name);
            self.check_name(&path, &entry.name);
            let Some((decl, declared_keys)) = entry.value.as_ref().and_then(|d| Some((d, d.keys.as_ref()?)))
            else {
                continue;
            };
            if declared_keys.0.is_empty() {
                let message = "an entity needs at least one key, this one has none".to_owned();
                self.reader.report_at(&format!("{path}.keys"), "no_keys", message);
            }
            let mut keys = Vec::new();
            for key in &declared_keys.0 {
                let path = format!("{path}.keys.{}", key.name);
                self.check_name(&path, &key.name);
                let Some(text) = &key.value else { continue };
                if !text.value_type.is_key() {
                    let message = format!(
                        "a key can't have the type {}; expected bool, int32, int64, string, bytes, timestamp or date",
                        text.value_type
                    );
                    self.reader.report_at(&path, "wrong_key_type", message);
                }
                keys.push((key.name.clone(), text.value_type.clone()));
            }
            let meta = meta(&decl.description, &decl.owner, &decl.tags);
            let entity = Entity { name: entry.name.clone(), keys, meta };
            self.out.definitions.entities.insert(entry.name.clone(), entity);
        }
    }

    /// Checks a name: `[a-z][a-z0-9_]*`.
    fn check_name(&mut self, path: &str, name: &str) -> bool {
        let good = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && name.len() <= NAME_CHARACTERS_MAX;
        if good {
            return true;
        }
        let message = format!(
            "`{name}` is not a name; expected a small letter, then small letters, digits and `_`, at most \
             {NAME_CHARACTERS_MAX} in all"
        );
        let suggestion = suggest_name(name);
        if let Some(diagnostic) = self.reader.report_key(path, "wrong_name", message)
            && let Some(suggestion) = suggestion
        {
            diagnostic.set_hint(format!("`{suggestion}` would do"));
        }
        false
    }

    /// Checks that `name` (the value at `path`) is one of `known`; `what` says of what kind.
    fn check_known(
        &mut self,
        path: &str,
        code: &'static str,
        what: &str,
        name: &str,
        known: &[String],
    ) -> bool {
        if known.iter().any(|k| k == name) {
            return true;
        }
        let message = format!("there is no {what} `{name}`");
        if let Some(diagnostic) = self.reader.report_at(path, code, message) {
            diagnostic.set_hint_of(name, known);
        }
        false
    }
}

/// The entries of a section that may be absent.
fn entries<T>(section: Option<&Entries<T>>) -> &[crate::read::Entry<T>] {
    section.map_or(&[], |s| &s.0)
}

fn meta(
    description: &Option<String>,
    owner: &Option<String>,
    tags: &Option<BTreeMap<String, String>>,
) -> Meta {
    Meta {
        description: description.clone().unwrap_or_default(),
        owner: owner.clone().unwrap_or_default(),
        tags: tags.clone().unwrap_or_default(),
    }
}

/// A name near to `text`, if it can be made one: `DepDelay` and `dep-delay` are `dep_delay`.
fn suggest_name(text: &str) -> Option<String> {
    let mut name = String::new();
    let mut after_small = false;
    for c in text.chars() {
        if c.is_ascii_uppercase() && after_small {
            name.push('_');
        }
        after_small = c.is_ascii_lowercase() || c.is_ascii_digit();
        name.push(if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    }
    let name = name.trim_start_matches(|c: char| !c.is_ascii_lowercase()).trim_end_matches('_');
    (!name.is_empty() && name.len() <= NAME_CHARACTERS_MAX).then(|| name.to_owned())
}
