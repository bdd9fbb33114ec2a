//! What changes from one set of definitions to another, whether that breaks somebody, and whom it touches.
//!
//! An object is described by its *facets*: short texts under a path, each marked by what a change of it means. Two objects
//! are compared facet by facet, so that what can be changed freely is said in one place: where the facets are listed.

mod describe;
mod facets;

pub use describe::describe_changes;

use crate::definition::{DefaultValue, Definitions, FeatureView, RequestView, Source, SourceKind, ViewKind};
use crate::resolve::mentions;
use facets::{Facet, Weight};
use serde::Serialize;
use std::collections::BTreeSet;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The object, such as `feature_views.origin_delays`.
    pub object: String,
    /// What of it, such as `feature_views.origin_delays.ttl.hard`; the object's own path when all of it comes or goes.
    pub path: String,
    /// Whether it comes, goes or becomes another.
    pub kind: ChangeKind,
    /// Whether somebody who relies on it breaks.
    pub compatibility: Compatibility,
    /// The difference in words, such as `6h -> 12h`.
    pub text: String,
    /// How to make a breaking change properly, such as raising the view's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// True when a breaking change may be applied as it is, by who says so. False when what is stored would no longer
    /// fit what is defined.
    pub may_be_forced: bool,
    /// The views, request views and services that read it, such as `feature_services.delay_model`.
    pub touches: Vec<String>,
}

/// Whether something comes, goes or becomes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was not there.
    Add,
    /// It is gone.
    Remove,
    /// It is another.
    Change,
}

/// Whether somebody who relies on it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compatibility {
    /// Nobody does.
    Compatible,
    /// Somebody may.
    Breaking,
}

/// Everything that changes from `old` to `new`, object by object.
pub fn diff(old: &Definitions, new: &Definitions) -> Vec<Change> {
    let mut differ = Differ { old, new, changes: vec![] };
    differ.entities();
    differ.sources();
    differ.feature_views();
    differ.request_views();
    differ.services();
    differ.changes
}

impl Definitions {
    /// Takes over the population statistics that were computed for `applied`, for each feature whose default still asks
    /// for the same one and whose view is still in the same version.
    pub fn keep_statistics(&mut self, applied: &Self) {
        for view in self.feature_views.values_mut() {
            let Some(old) = applied.feature_views.get(&view.name).filter(|old| old.version == view.version)
            else {
                continue;
            };
            let known: Vec<(String, DefaultValue)> = old
                .features()
                .into_iter()
                .zip(old.defaults())
                .map(|((name, _), default)| (name.to_owned(), default.clone()))
                .collect();
            let defaults: Vec<(&str, &mut DefaultValue)> = match &mut view.kind {
                ViewKind::Latest(all) => all.iter_mut().map(|f| (f.name.as_str(), &mut f.default)).collect(),
                ViewKind::Windows(all) => all.iter_mut().map(|f| (f.name.as_str(), &mut f.default)).collect(),
            };
            for (name, default) in defaults {
                let before = known.iter().find(|(known, _)| known == name).map(|(_, default)| default);
                if let (
                    DefaultValue::Population { statistic, .. },
                    Some(DefaultValue::Population { statistic: same, .. }),
                ) = (&*default, before)
                    && statistic == same
                {
                    *default = before.cloned().unwrap_or_default();
                }
            }
        }
    }
}

struct Differ<'a> {
    old: &'a Definitions,
    new: &'a Definitions,
    changes: Vec<Change>,
}

/// What a change means beside the facet's own weight.
struct Verdict {
    breaking: bool,
    remedy: Option<String>,
    may_be_forced: bool,
}

impl Verdict {
    fn compatible() -> Self {
        Self { breaking: false, remedy: None, may_be_forced: true }
    }

    fn forceable(remedy: &str) -> Self {
        Self { breaking: true, remedy: Some(remedy.to_owned()), may_be_forced: true }
    }

    fn firm(remedy: String) -> Self {
        Self { breaking: true, remedy: Some(remedy), may_be_forced: false }
    }
}

impl Differ<'_> {
    fn push(&mut self, object: &str, path: String, kind: ChangeKind, text: String, verdict: Verdict) {
        let compatibility =
            if verdict.breaking { Compatibility::Breaking } else { Compatibility::Compatible };
        let touches = self.touches(object);
        self.changes.push(Change {
            object: object.to_owned(),
            path,
            kind,
            compatibility,
            text,
            remedy: verdict.remedy,
            may_be_forced: verdict.may_be_forced,
            touches,
        });
    }

    fn whole(&mut self, object: &str, kind: ChangeKind, text: String, verdict: Verdict) {
        self.push(object, object.to_owned(), kind, text, verdict);
    }

    /// Compares facets; `judge` says what a difference of a facet that matters means.
    fn compare(
        &mut self,
        object: &str,
        old: &[Facet],
        new: &[Facet],
        judge: &dyn Fn(&Facet, ChangeKind) -> Verdict,
    ) {
        let gone = old.iter().filter(|o| !new.iter().any(|n| n.path == o.path));
        let gone: Vec<&Facet> = gone.filter(|o| !hidden(o, old, new)).collect();
        for facet in new {
            let path = format!("{object}.{}", facet.path);
            match old.iter().find(|o| o.path == facet.path) {
                None if hidden(facet, new, old) => {}
                None => {
                    let verdict = judge(facet, ChangeKind::Add);
                    let text = facet.about.as_ref().unwrap_or(&facet.text).clone();
                    self.push(object, path, ChangeKind::Add, text, verdict);
                }
                Some(before) if before.text != facet.text => {
                    let text = format!("{} -> {}", before.text, facet.text);
                    let verdict = judge(facet, ChangeKind::Change);
                    self.push(object, path, ChangeKind::Change, text, verdict);
                }
                Some(_) => {}
            }
        }
        for facet in gone {
            let path = format!("{object}.{}", facet.path);
            let verdict = judge(facet, ChangeKind::Remove);
            let text = facet.about.as_ref().unwrap_or(&facet.text).clone();
            self.push(object, path, ChangeKind::Remove, text, verdict);
        }
    }

    fn entities(&mut self) {
        for (name, kind) in names(&self.old.entities, &self.new.entities) {
            let object = format!("entities.{name}");
            match (self.old.entities.get(&name), self.new.entities.get(&name)) {
                (Some(old), Some(new)) => {
                    let stale = self.unraised(|view| view.entity == name);
                    let judge = |facet: &Facet, _| match facet.weight {
                        Weight::Free => Verdict::compatible(),
                        Weight::Meaning => raise_views(&stale),
                    };
                    self.compare(&object, &facets::entity(old), &facets::entity(new), &judge);
                }
                (_, Some(new)) => {
                    self.whole(&object, kind, facets::summary_entity(new), Verdict::compatible())
                }
                (Some(old), _) => {
                    self.whole(&object, kind, facets::summary_entity(old), Verdict::compatible())
                }
                _ => {}
            }
        }
    }

    fn sources(&mut self) {
        for (name, kind) in names(&self.old.sources, &self.new.sources) {
            let object = format!("sources.{name}");
            match (self.old.sources.get(&name), self.new.sources.get(&name)) {
                (Some(old), Some(new)) => self.source(&object, old, new),
                (_, Some(new)) => {
                    self.whole(&object, kind, facets::summary_source(new), Verdict::compatible())
                }
                (Some(old), _) => {
                    let verdict = match old.kind {
                        SourceKind::Push { .. } => Verdict::forceable("stop pushing to it first"),
                        SourceKind::Table(_) => Verdict::compatible(),
                    };
                    self.whole(&object, kind, facets::summary_source(old), verdict);
                }
                _ => {}
            }
        }
    }

    fn source(&mut self, object: &str, old: &Source, new: &Source) {
        let readers = self.unraised(|view| view.source == new.name);
        let is_stream = old.is_stream() && new.is_stream();
        let judge = |facet: &Facet, kind: ChangeKind| {
            let column =
                facet.path.strip_prefix("columns.").map(|rest| rest.split('.').next().unwrap_or(rest));
            let Some(column) = column else {
                return match facet.weight {
                    Weight::Free => Verdict::compatible(),
                    Weight::Meaning => raise_views(&readers),
                };
            };
            let is_required = new.columns.iter().any(|c| c.name == column && c.required);
            let is_of_column = facet.path.matches('.').count() == 1;
            if is_stream {
                match (kind, facet.path.rsplit('.').next()) {
                    (ChangeKind::Add, _) if is_of_column && is_required => {
                        return Verdict::forceable(
                            "add it without `!` first; pushes that lack it are refused",
                        );
                    }
                    (ChangeKind::Remove, _) if is_of_column => {
                        return Verdict::firm(format!(
                            "pushes that bring it are refused, and the rows kept have it; keep `{column}`"
                        ));
                    }
                    (_, Some("type")) => {
                        return Verdict::firm(format!(
                            "the rows kept have the old type; add a column beside `{column}`, or a new source"
                        ));
                    }
                    (_, Some("required")) if is_required => {
                        return Verdict::forceable("pushes that lack it are refused from now on");
                    }
                    _ => {}
                }
            }
            let reading: Vec<String> =
                readers.iter().filter(|view| self.reads_column(view, column)).cloned().collect();
            match facet.weight {
                Weight::Free => Verdict::compatible(),
                Weight::Meaning => raise_views(&reading),
            }
        };
        let (before, after) = (facets::source(old), facets::source(new));
        // `judge` looks at the definitions only, never at the changes found so far.
        let mut found = Differ { old: self.old, new: self.new, changes: vec![] };
        found.compare(object, &before, &after, &judge);
        self.changes.append(&mut found.changes);
    }

    fn feature_views(&mut self) {
        for (name, kind) in names(&self.old.feature_views, &self.new.feature_views) {
            let object = format!("feature_views.{name}");
            match (self.old.feature_views.get(&name), self.new.feature_views.get(&name)) {
                (Some(old), Some(new)) => {
                    let (before, after) = (facets::feature_view(old), facets::feature_view(new));
                    self.versioned(&object, (old.version, &before), (new.version, &after), true);
                }
                (_, Some(new)) => {
                    self.whole(&object, kind, facets::summary_feature_view(new), Verdict::compatible());
                }
                (Some(old), _) => {
                    let verdict = Verdict::forceable("who asks for its features by name gets an error");
                    self.whole(&object, kind, facets::summary_feature_view(old), verdict);
                }
                _ => {}
            }
        }
    }

    fn request_views(&mut self) {
        for (name, kind) in names(&self.old.request_views, &self.new.request_views) {
            let object = format!("request_views.{name}");
            match (self.old.request_views.get(&name), self.new.request_views.get(&name)) {
                (Some(old), Some(new)) => {
                    let (before, after) = (facets::request_view(old), facets::request_view(new));
                    self.versioned(&object, (old.version, &before), (new.version, &after), false);
                }
                (_, Some(new)) => {
                    self.whole(&object, kind, facets::summary_request_view(new), Verdict::compatible());
                }
                (Some(old), _) => {
                    let verdict = Verdict::forceable("who asks for its features by name gets an error");
                    self.whole(&object, kind, facets::summary_request_view(old), verdict);
                }
                _ => {}
            }
        }
    }

    /// Two states of a view. With a higher version it is a new view beside the old one, and everything may differ.
    fn versioned(
        &mut self,
        object: &str,
        (old_version, old): (u32, &[Facet]),
        (new_version, new): (u32, &[Facet]),
        is_stored: bool,
    ) {
        if old_version != new_version {
            let text = format!("{old_version} -> {new_version}");
            let verdict = if new_version > old_version {
                Verdict::compatible()
            } else {
                Verdict::firm(format!("versions only rise; make it {}", old_version + 1))
            };
            self.push(object, format!("{object}.version"), ChangeKind::Change, text, verdict);
        }
        let is_raised = new_version > old_version;
        let judge = |facet: &Facet, kind: ChangeKind| {
            let is_new_part = kind == ChangeKind::Add && !is_stored && !facet.is_required;
            if is_raised || facet.weight == Weight::Free || is_new_part {
                return Verdict::compatible();
            }
            Verdict::firm(format!("raise `version` to {}", old_version + 1))
        };
        self.compare(object, old, new, &judge);
        let (before, after) = (feature_names(old), feature_names(new));
        let same_set = BTreeSet::from_iter(&before) == BTreeSet::from_iter(&after);
        if is_stored && before != after && same_set {
            let facet = &old[0];
            let text = format!("the order was {} and is {}", before.join(", "), after.join(", "));
            let verdict = judge(facet, ChangeKind::Change);
            self.push(object, format!("{object}.features"), ChangeKind::Change, text, verdict);
        }
    }

    fn services(&mut self) {
        for (name, kind) in names(&self.old.feature_services, &self.new.feature_services) {
            let object = format!("feature_services.{name}");
            match (self.old.feature_services.get(&name), self.new.feature_services.get(&name)) {
                (Some(old), Some(new)) => {
                    let (before, after) = (facets::service(old), facets::service(new));
                    let (all_old, all_new) = (self.old, self.new);
                    let judge = |facet: &Facet, kind: ChangeKind| {
                        let feature = facet.path.strip_prefix("features.");
                        let view = feature.and_then(|f| f.split(':').next());
                        let is_raised = view.is_some_and(|view| version_rose(all_old, all_new, view));
                        match kind {
                            ChangeKind::Remove if feature.is_some() && !is_raised => {
                                Verdict::forceable("who asks for this service no longer gets it")
                            }
                            _ => Verdict::compatible(),
                        }
                    };
                    self.compare(&object, &before, &after, &judge);
                }
                (_, Some(new)) => {
                    self.whole(&object, kind, facets::summary_service(new), Verdict::compatible());
                }
                (Some(old), _) => {
                    let verdict = Verdict::forceable("who asks for it gets an error");
                    self.whole(&object, kind, facets::summary_service(old), verdict);
                }
                _ => {}
            }
        }
    }

    /// The views that stay in their version, of those that `reads` picks in the old definitions.
    fn unraised(&self, reads: impl Fn(&FeatureView) -> bool) -> Vec<String> {
        let stays = |view: &&FeatureView| {
            self.new
                .feature_views
                .get(&view.name)
                .is_some_and(|now| now.version <= view.version && reads(now))
        };
        let views = self.old.feature_views.values().filter(|view| reads(view));
        views.filter(stays).map(|view| view.name.clone()).collect()
    }

    /// True when the view reads the column, as far as can be told from names.
    fn reads_column(&self, view: &str, column: &str) -> bool {
        let Some(view) = self.old.feature_views.get(view) else { return false };
        let own = facets::feature_view(view);
        let column = [column.to_owned()];
        let source = self.old.sources.get(&view.source);
        let implied = source.is_some_and(|s| {
            s.filter.as_deref().is_some_and(|sql| mentions(sql, &column))
                || s.derived.iter().any(|d| mentions(&d.sql, &column))
                || s.event_time == column[0]
        });
        implied || own.iter().any(|facet| facet.weight == Weight::Meaning && mentions(&facet.text, &column))
    }

    /// Who reads an object, before or after.
    fn touches(&self, object: &str) -> Vec<String> {
        let (section, name) = object.split_once('.').unwrap_or((object, ""));
        let mut found = BTreeSet::new();
        for definitions in [self.old, self.new] {
            let mut views: BTreeSet<&str> = BTreeSet::new();
            match section {
                "entities" | "sources" => {
                    let reading = definitions.feature_views.values().filter(|v| match section {
                        "entities" => v.entity == name,
                        _ => v.source == name,
                    });
                    for view in reading {
                        views.insert(&view.name);
                        found.insert(format!("feature_views.{}", view.name));
                    }
                }
                "feature_views" | "request_views" => {
                    views.insert(name);
                }
                _ => {}
            }
            readers_of(definitions, views, &mut found);
        }
        found.into_iter().collect()
    }
}

/// Adds the request views and services that read any of `views`, directly or through another.
fn readers_of<'a>(definitions: &'a Definitions, mut views: BTreeSet<&'a str>, found: &mut BTreeSet<String>) {
    loop {
        let reads = |view: &RequestView| view.inputs.iter().any(|(_, f)| views.contains(f.view.as_str()));
        let more: Vec<&RequestView> = definitions
            .request_views
            .values()
            .filter(|v| !views.contains(v.name.as_str()) && reads(v))
            .collect();
        if more.is_empty() {
            break;
        }
        for view in more {
            views.insert(&view.name);
            found.insert(format!("request_views.{}", view.name));
        }
    }
    for service in definitions.feature_services.values() {
        if service.features.iter().any(|f| views.contains(f.view.as_str())) {
            found.insert(format!("feature_services.{}", service.name));
        }
    }
}

/// The features among the facets of a view, in order.
fn feature_names(facets: &[Facet]) -> Vec<&str> {
    let names = facets.iter().filter_map(|f| f.path.strip_prefix("features."));
    names.filter(|name| !name.contains('.')).collect()
}

/// The verdict on something that changes what these views mean.
fn raise_views(views: &[String]) -> Verdict {
    if views.is_empty() {
        return Verdict::compatible();
    }
    let names: Vec<String> = views.iter().map(|v| format!("`{v}`")).collect();
    Verdict::firm(format!("raise `version` of {}", names.join(", ")))
}

fn version_rose(old: &Definitions, new: &Definitions, view: &str) -> bool {
    let version = |all: &Definitions| {
        let stored = all.feature_views.get(view).map(|v| v.version);
        stored.or_else(|| all.request_views.get(view).map(|v| v.version))
    };
    matches!((version(old), version(new)), (Some(old), Some(new)) if new > old)
}

/// A facet of a part that comes or goes whole is not told beside it.
fn hidden(facet: &Facet, own: &[Facet], other: &[Facet]) -> bool {
    own.iter().any(|around| {
        facet.path.len() > around.path.len()
            && facet.path.starts_with(&around.path)
            && facet.path[around.path.len()..].starts_with('.')
            && !other.iter().any(|o| o.path == around.path)
    })
}

/// Every name in both, with what becomes of it; what is gone comes last.
fn names<T>(
    old: &std::collections::BTreeMap<String, T>,
    new: &std::collections::BTreeMap<String, T>,
) -> Vec<(String, ChangeKind)> {
    let kept = new.keys().map(|name| {
        let kind = if old.contains_key(name) { ChangeKind::Change } else { ChangeKind::Add };
        (name.clone(), kind)
    });
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    kept.chain(gone.map(|name| (name.clone(), ChangeKind::Remove))).collect()
}

#[cfg(test)]
mod tests;
