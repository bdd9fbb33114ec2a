//! Feature views and request views.

use super::{DeclaredFeature, Resolver, entries, meta};
use crate::ValueType;
use crate::declared::{FeatureViewDecl, FeaturesDecl, InputsDecl, LatestDecl, RequestViewDecl};
use crate::definition::{
    DefaultValue, FeatureRef, FeatureView, FreshnessSlo, LatestFeature, RequestFeature, RequestView, Tier,
    ViewKind,
};
use crate::read::ShortOr;
use crate::time::{DAY, MINUTE, Micros, SECOND, format_duration};

/// The type of a column or feature until its expression is planned.
pub(super) const TYPE_TO_COME: ValueType = ValueType::Json;

/// The columns that a view can use, as far as they are known.
pub(super) struct ViewColumns {
    /// Every name, those wrongly declared too.
    pub(super) names: Vec<String>,
    /// Those that hold personal data.
    pub(super) pii: Vec<String>,
    /// Whose they are, for messages.
    pub(super) of: String,
}

impl Resolver<'_> {
    pub(super) fn feature_views(&mut self) {
        for entry in entries(self.declared.feature_views.as_ref()) {
            let path = format!("feature_views.{}", entry.name);
            self.check_name(&path, &entry.name);
            let view = entry.value.as_ref().and_then(|decl| self.feature_view(&path, &entry.name, decl));
            if let Some((view, features)) = view {
                self.out.features.insert(entry.name.clone(), features);
                self.out.definitions.feature_views.insert(entry.name.clone(), view);
            }
        }
    }

    fn feature_view(
        &mut self,
        path: &str,
        name: &str,
        decl: &FeatureViewDecl,
    ) -> Option<(FeatureView, Vec<DeclaredFeature>)> {
        let mut columns = self.view_columns(path, decl);
        let derived = match &mut columns {
            Some(columns) => {
                let derived = self.derived(path, decl.derived.as_ref(), &columns.names);
                columns.names.extend(entries(decl.derived.as_ref()).iter().map(|e| e.name.clone()));
                for column in &derived {
                    if mentions(&column.sql, &columns.pii) {
                        columns.pii.push(column.name.clone());
                    }
                }
                derived
            }
            None => vec![],
        };
        let key_columns = self.key_columns(path, decl, columns.as_ref());
        let kind = self.view_kind(path, decl, columns.as_ref());
        let ttl = self.ttl(path, decl);
        let slo = self.freshness(path, decl);
        let version = self.version(path, decl.version);
        let (kind, features) = kind?;
        let (soft_ttl, hard_ttl) = ttl?;
        let view = FeatureView {
            name: name.to_owned(),
            version,
            entity: decl.entity.clone()?,
            source: decl.source.clone()?,
            key_columns: key_columns?,
            op: self.out.definitions.sources.get(decl.source.as_ref()?).and_then(|source| source.op.clone()),
            filter: decl.filter.clone(),
            derived,
            kind,
            soft_ttl,
            hard_ttl,
            slo,
            meta: meta(&decl.description, &decl.owner, &decl.tags),
        };
        // A view of an entity or source that did not resolve can't be checked further.
        let definitions = &self.out.definitions;
        let whole =
            definitions.entities.contains_key(&view.entity) && definitions.sources.contains_key(&view.source);
        whole.then_some((view, features))
    }

    /// The columns of the view's source; None when the source is not known or not usable.
    fn view_columns(&mut self, path: &str, decl: &FeatureViewDecl) -> Option<ViewColumns> {
        let name = decl.source.as_ref()?;
        let known: Vec<String> = declared_names(self.declared.sources.as_ref());
        if !self.check_known(&format!("{path}.source"), "unknown_source", "source", name, &known) {
            return None;
        }
        let source = self.out.definitions.sources.get(name)?;
        let declared = self.declared.sources.as_ref()?.get(name)?.value.as_ref()?;
        let mut names: Vec<String> = source.schema().into_iter().map(|(name, _)| name).collect();
        let written = declared.columns.iter().flat_map(|c| c.names());
        let written = written.chain(declared.derived.iter().flat_map(|d| d.names()));
        names
            .extend(written.filter(|n| !names.iter().any(|k| k == n)).map(str::to_owned).collect::<Vec<_>>());
        let mut pii: Vec<String> = source.columns.iter().filter(|c| c.pii).map(|c| c.name.clone()).collect();
        for column in &source.derived {
            if mentions(&column.sql, &pii) {
                pii.push(column.name.clone());
            }
        }
        Some(ViewColumns { names, pii, of: format!("source `{name}`") })
    }

    /// Checks that the value at `path` (or its key) names a column, if the columns are known.
    pub(super) fn check_column(
        &mut self,
        path: &str,
        at_key: bool,
        column: &str,
        columns: Option<&ViewColumns>,
    ) {
        let Some(columns) = columns else { return };
        if columns.names.iter().any(|name| name == column) {
            return;
        }
        let message = format!("{} has no column `{column}`", columns.of);
        let reported = if at_key {
            self.reader.report_key(path, "unknown_column", message)
        } else {
            self.reader.report_at(path, "unknown_column", message)
        };
        if let Some(diagnostic) = reported {
            diagnostic.set_hint_of(column, &columns.names);
        }
    }

    fn key_columns(
        &mut self,
        path: &str,
        decl: &FeatureViewDecl,
        columns: Option<&ViewColumns>,
    ) -> Option<Vec<String>> {
        let name = decl.entity.as_ref()?;
        let known: Vec<String> = declared_names(self.declared.entities.as_ref());
        if !self.check_known(&format!("{path}.entity"), "unknown_entity", "entity", name, &known) {
            return None;
        }
        let keys: Vec<String> = {
            let entity = self.declared.entities.as_ref()?.get(name)?.value.as_ref()?;
            entity.keys.as_ref()?.names().map(str::to_owned).collect()
        };
        for entry in entries(decl.keys.as_ref()) {
            if !keys.contains(&entry.name) {
                let message = format!("entity `{name}` has no key `{}`", entry.name);
                if let Some(diagnostic) = self.reader.report_key(
                    &format!("{path}.keys.{}", entry.name),
                    "unknown_key_column",
                    message,
                ) {
                    diagnostic.set_hint_of(&entry.name, &keys);
                }
            }
        }
        let mut found = Vec::new();
        for key in &keys {
            if let Some(entry) = decl.keys.as_ref().and_then(|k| k.get(key)) {
                if let Some(column) = &entry.value {
                    self.check_column(&format!("{path}.keys.{key}"), false, column, columns);
                    found.push(column.clone());
                }
                continue;
            }
            if let Some(columns) = columns
                && !columns.names.contains(key)
            {
                let message = format!("{} has no column `{key}`, the key of entity `{name}`", columns.of);
                if let Some(diagnostic) =
                    self.reader.report_at(&format!("{path}.entity"), "missing_key_column", message)
                {
                    let column = crate::diagnostic::closest(key, &columns.names).unwrap_or("column");
                    diagnostic
                        .set_hint(format!("say which column it is: `keys: {{{key}: {column}}}` in the view"));
                }
            }
            found.push(key.clone());
        }
        Some(found)
    }

    fn view_kind(
        &mut self,
        path: &str,
        decl: &FeatureViewDecl,
        columns: Option<&ViewColumns>,
    ) -> Option<(ViewKind, Vec<DeclaredFeature>)> {
        match (&decl.features, &decl.aggregate) {
            (Some(_), Some(_)) => {
                let message = "a view has `features` (latest values) or `aggregate` (windows), this one both";
                if let Some(diagnostic) =
                    self.reader.report_key(&format!("{path}.aggregate"), "exclusive_keys", message.to_owned())
                {
                    diagnostic.set_hint("make two views of it");
                }
                None
            }
            (None, None) => {
                let broken = |key: &str| self.reader.is_broken_below(&format!("{path}.{key}"));
                if !broken("features") && !broken("aggregate") {
                    let message = "the view has neither `features` (latest values) nor `aggregate` (windows)";
                    let path = format!("{path}.features");
                    self.reader.report_key(&path, "missing_key", message.to_owned());
                }
                None
            }
            (Some(features), None) => {
                let (features, declared) = self.latest(path, features, columns);
                Some((ViewKind::Latest(features), declared))
            }
            (None, Some(aggregates)) => {
                let (features, declared) = self.aggregates(path, aggregates, columns);
                Some((ViewKind::Windows(features), declared))
            }
        }
    }

    fn latest(
        &mut self,
        path: &str,
        decl: &FeaturesDecl,
        columns: Option<&ViewColumns>,
    ) -> (Vec<LatestFeature>, Vec<DeclaredFeature>) {
        let empty = LatestDecl::Same(());
        let is_named = matches!(decl, FeaturesDecl::Named(_));
        let listed: Vec<(&str, String, Option<&LatestDecl>)> = match decl {
            FeaturesDecl::Columns(names) => names
                .iter()
                .enumerate()
                .map(|(at, name)| (name.as_str(), format!("{path}.features.{at}"), Some(&empty)))
                .collect(),
            FeaturesDecl::Named(named) => named
                .0
                .iter()
                .map(|e| (e.name.as_str(), format!("{path}.features.{}", e.name), e.value.as_ref()))
                .collect(),
        };
        if listed.is_empty() {
            let message = "the view has no features; expected at least one".to_owned();
            self.reader.report_at(&format!("{path}.features"), "no_features", message);
        }
        let mut features: Vec<LatestFeature> = Vec::new();
        let mut declared = Vec::new();
        for (name, path, decl) in listed {
            if features.iter().any(|f| f.name == name) {
                let message = format!("the view has a feature `{name}` already");
                self.reader.report_at(&path, "duplicate_name", message);
                continue;
            }
            self.check_name(&path, name);
            let Some(decl) = decl else { continue };
            let key_path = path.clone();
            let (column, column_path, at_key, long) = match decl {
                LatestDecl::Same(()) => (name, key_path, is_named, None),
                LatestDecl::Column(column) => (column.as_str(), key_path, false, None),
                LatestDecl::Long(long) => match &long.column {
                    Some(column) => (column.as_str(), format!("{path}.column"), false, Some(long)),
                    None => (name, key_path, true, Some(long)),
                },
            };
            self.check_column(&column_path, at_key, column, columns);
            let pii = columns.is_some_and(|c| c.pii.iter().any(|p| p == column));
            features.push(LatestFeature {
                name: name.to_owned(),
                column: column.to_owned(),
                value_type: TYPE_TO_COME,
                default: DefaultValue::Null,
                pii: pii || long.and_then(|l| l.pii).unwrap_or(false),
                meta: long.map(|l| meta(&l.description, &l.owner, &l.tags)).unwrap_or_default(),
            });
            declared.push(DeclaredFeature { path, default: long.and_then(|l| l.default.clone()) });
        }
        (features, declared)
    }

    fn ttl(&mut self, path: &str, decl: &FeatureViewDecl) -> Option<(Option<Micros>, Micros)> {
        let (soft, hard, hard_path) = match decl.ttl.as_ref()? {
            ShortOr::Short(hard) => (None, hard.0, format!("{path}.ttl")),
            ShortOr::Long(ttl) => (ttl.soft.map(|d| d.0), ttl.hard?.0, format!("{path}.ttl.hard")),
        };
        if hard == 0 {
            let message = "a hard ttl of zero leaves no value to serve".to_owned();
            self.reader.report_at(&hard_path, "wrong_ttl", message);
        }
        if let Some(soft) = soft
            && soft > hard
        {
            let message = format!(
                "the soft ttl ({}) is longer than the hard one ({}); expected it to be shorter",
                format_duration(soft),
                format_duration(hard)
            );
            self.reader.report_at(&format!("{path}.ttl.soft"), "wrong_ttl", message);
        }
        Some((soft, hard))
    }

    fn freshness(&mut self, path: &str, decl: &FeatureViewDecl) -> FreshnessSlo {
        let own = decl.slo.as_ref().and_then(|slo| Some((slo.p95?.0, slo.p99?.0)));
        if decl.tier.is_some() && decl.slo.is_some() {
            let message = "`slo` and `tier` exclude each other; expected one of them".to_owned();
            self.reader.report_key(&format!("{path}.slo"), "exclusive_keys", message);
        }
        if let Some((p95, p99)) = own {
            if p95 > p99 {
                let message = format!(
                    "p95 ({}) is longer than p99 ({}); expected it to be at most that",
                    format_duration(p95),
                    format_duration(p99)
                );
                self.reader.report_at(&format!("{path}.slo.p95"), "wrong_slo", message);
            }
            return FreshnessSlo { tier: None, p95, p99 };
        }
        let tier = decl.tier.unwrap_or(Tier::Batch);
        let (p95, p99) = match tier {
            Tier::Realtime => (5 * SECOND, 15 * SECOND),
            Tier::Nearline => (5 * MINUTE, 15 * MINUTE),
            Tier::Batch => (DAY, 2 * DAY),
        };
        FreshnessSlo { tier: Some(tier), p95, p99 }
    }

    fn version(&mut self, path: &str, version: Option<u32>) -> u32 {
        if version == Some(0) {
            let message = "versions are counted from 1, this is 0".to_owned();
            self.reader.report_at(&format!("{path}.version"), "wrong_version", message);
        }
        version.unwrap_or(1)
    }

    pub(super) fn request_views(&mut self) {
        for entry in entries(self.declared.request_views.as_ref()) {
            let path = format!("request_views.{}", entry.name);
            self.check_name(&path, &entry.name);
            if self.declared.feature_views.as_ref().is_some_and(|v| v.get(&entry.name).is_some()) {
                let message =
                    format!("there is a feature view `{}` already; expected a new name", entry.name);
                let other = self.reader.spans.locate_key(&format!("feature_views.{}", entry.name));
                if let Some(diagnostic) = self.reader.report_key(&path, "duplicate_name", message) {
                    diagnostic.relate(other, "the feature view");
                }
                continue;
            }
            let view = entry.value.as_ref().and_then(|decl| self.request_view(&path, &entry.name, decl));
            if let Some((view, features)) = view {
                self.out.features.insert(entry.name.clone(), features);
                self.out.definitions.request_views.insert(entry.name.clone(), view);
            }
        }
        self.check_request_inputs();
        self.check_request_cycles();
    }

    fn request_view(
        &mut self,
        path: &str,
        name: &str,
        decl: &RequestViewDecl,
    ) -> Option<(RequestView, Vec<DeclaredFeature>)> {
        let fields = match &decl.fields {
            Some(fields) => self.columns(&format!("{path}.fields"), fields),
            None => vec![],
        };
        let mut taken: Vec<(String, String)> =
            vec![("now".to_owned(), "the moment of the request".to_owned())];
        for field in entries(decl.fields.as_ref()) {
            self.check_taken(&format!("{path}.fields.{}", field.name), &field.name, &taken, true);
            taken.push((field.name.clone(), "a field".to_owned()));
        }
        let mut inputs = Vec::new();
        for (input, text, input_path, is_named) in input_texts(path, decl.inputs.as_ref()) {
            let Some(reference) = self.feature_ref(&input_path, &text) else { continue };
            let input = input.unwrap_or_else(|| reference.feature.clone());
            if is_named {
                self.check_name(&input_path, &input);
            }
            self.check_taken(&input_path, &input, &taken, is_named);
            taken.push((input.clone(), "an input".to_owned()));
            inputs.push((input, reference));
        }
        let declared_features = decl.features.as_ref()?;
        if declared_features.0.is_empty() {
            let message = "the view has no features; expected at least one".to_owned();
            self.reader.report_at(&format!("{path}.features"), "no_features", message);
        }
        let (mut features, mut declared) = (Vec::new(), Vec::new());
        for entry in &declared_features.0 {
            let path = format!("{path}.features.{}", entry.name);
            self.check_name(&path, &entry.name);
            self.check_taken(&path, &entry.name, &taken, true);
            taken.push((entry.name.clone(), "a feature".to_owned()));
            let Some(value) = &entry.value else { continue };
            let (sql, default, meta) = match value {
                ShortOr::Short(sql) => (sql.clone(), None, Default::default()),
                ShortOr::Long(long) => {
                    // The expression of the long form is spoken of by the feature's path.
                    self.reader.spans.point(&path, &format!("{path}.sql"));
                    let Some(sql) = long.sql.clone() else { continue };
                    (sql, long.default.clone(), meta(&long.description, &long.owner, &long.tags))
                }
            };
            features.push(RequestFeature {
                name: entry.name.clone(),
                sql,
                value_type: TYPE_TO_COME,
                default: DefaultValue::Null,
                meta,
            });
            declared.push(DeclaredFeature { path, default });
        }
        let version = self.version(path, decl.version);
        let meta = meta(&decl.description, &decl.owner, &decl.tags);
        Some((RequestView { name: name.to_owned(), version, fields, inputs, features, meta }, declared))
    }

    fn check_taken(&mut self, path: &str, name: &str, taken: &[(String, String)], at_key: bool) {
        let Some((_, what)) = taken.iter().find(|(t, _)| t == name) else { return };
        let message = format!("`{name}` is {what} of this view already; expected a new name");
        if at_key {
            self.reader.report_key(path, "duplicate_name", message);
        } else if let Some(diagnostic) = self.reader.report_at(path, "duplicate_name", message) {
            diagnostic.set_hint("name the inputs: `inputs: {other_name: view:feature}`");
        }
    }

    /// Splits `view:feature`.
    pub(super) fn feature_ref(&mut self, path: &str, text: &str) -> Option<FeatureRef> {
        match text.split_once(':') {
            Some((view, feature)) if !view.is_empty() && !feature.is_empty() => {
                Some(FeatureRef { view: view.to_owned(), feature: feature.to_owned() })
            }
            _ => {
                let message = format!("expected `view:feature`, found `{text}`");
                self.reader.report_at(path, "wrong_reference", message);
                None
            }
        }
    }

    /// The features of a view that resolved, or None when the view is unknown or had a mistake of its own.
    fn view_features(&self, view: &str) -> Option<Vec<String>> {
        let definitions = &self.out.definitions;
        let names = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        if let Some(found) = definitions.feature_views.get(view) {
            let broken = ["features", "aggregate"]
                .iter()
                .any(|key| self.reader.is_broken_below(&format!("feature_views.{view}.{key}")));
            return (!broken).then(|| names(found.features().into_iter().map(|f| f.0).collect()));
        }
        let found = definitions.request_views.get(view)?;
        let broken = self.reader.is_broken_below(&format!("request_views.{view}.features"));
        (!broken).then(|| names(found.features.iter().map(|f| f.name.as_str()).collect()))
    }

    /// Checks that a reference names a view and, if one is given, a feature of it. False when nothing should be built
    /// on it.
    pub(super) fn check_feature(&mut self, path: &str, view: &str, feature: Option<&str>) -> bool {
        let mut known: Vec<String> = declared_names(self.declared.feature_views.as_ref());
        known.extend(declared_names(self.declared.request_views.as_ref()));
        if !self.check_known(path, "unknown_view", "feature view or request view", view, &known) {
            return false;
        }
        let Some(features) = self.view_features(view) else { return false };
        let Some(feature) = feature else { return true };
        if features.iter().any(|f| f == feature) {
            return true;
        }
        let message = format!("the view `{view}` has no feature `{feature}`");
        if let Some(diagnostic) = self.reader.report_at(path, "unknown_feature", message) {
            diagnostic.set_hint_of(feature, &features);
        }
        false
    }

    fn check_request_inputs(&mut self) {
        for entry in entries(self.declared.request_views.as_ref()) {
            let Some(decl) = &entry.value else { continue };
            let path = format!("request_views.{}", entry.name);
            let mut whole = true;
            for (_, text, path, _) in input_texts(&path, decl.inputs.as_ref()) {
                let Some((view, feature)) = text.split_once(':') else {
                    whole = false;
                    continue;
                };
                whole &= self.check_feature(&path, view, Some(feature));
            }
            if !whole {
                // Its expressions can't be checked without the types of its inputs.
                self.out.definitions.request_views.remove(&entry.name);
            }
        }
    }

    /// Request views may read each other, but not in a circle.
    fn check_request_cycles(&mut self) {
        let reads = |name: &str| -> Vec<String> {
            let view = self.out.definitions.request_views.get(name);
            let inputs = view.iter().flat_map(|v| v.inputs.iter().map(|(_, f)| f.view.clone()));
            inputs.filter(|v| self.out.definitions.request_views.contains_key(v)).collect()
        };
        let names: Vec<String> = self.out.definitions.request_views.keys().cloned().collect();
        let mut circles: Vec<Vec<String>> = Vec::new();
        for name in &names {
            // Depth first from `name` back to itself; a circle is told once, from its first name.
            let mut stack = vec![vec![name.clone()]];
            let mut seen = std::collections::BTreeSet::new();
            while let Some(way) = stack.pop() {
                for next in reads(way.last().expect("a way has a start")) {
                    if next == *name {
                        if way.iter().min() == Some(name) {
                            circles.push(way.clone());
                        }
                        stack.clear();
                        break;
                    }
                    if seen.insert(next.clone()) {
                        stack.push(way.iter().cloned().chain([next]).collect());
                    }
                }
            }
        }
        for circle in circles {
            let path = format!("request_views.{}.inputs", circle[0]);
            let told: Vec<String> = circle.iter().chain([&circle[0]]).map(|n| format!("`{n}`")).collect();
            let message = format!("request views read each other in a circle: {}", told.join(" -> "));
            self.reader.report_key(&path, "cycle", message);
            for name in &circle {
                self.out.definitions.request_views.remove(name);
            }
        }
    }
}

/// The inputs as they are written: name if one is given, text, path, and whether they are named.
fn input_texts(path: &str, decl: Option<&InputsDecl>) -> Vec<(Option<String>, String, String, bool)> {
    match decl {
        None => vec![],
        Some(InputsDecl::List(list)) => list
            .iter()
            .enumerate()
            .map(|(at, text)| (None, text.clone(), format!("{path}.inputs.{at}"), false))
            .collect(),
        Some(InputsDecl::Named(named)) => named
            .0
            .iter()
            .filter_map(|e| {
                let path = format!("{path}.inputs.{}", e.name);
                Some((Some(e.name.clone()), e.value.clone()?, path, true))
            })
            .collect(),
    }
}

fn declared_names<T>(section: Option<&crate::read::Entries<T>>) -> Vec<String> {
    entries(section).iter().map(|e| e.name.clone()).collect()
}

/// True when the SQL text mentions one of the columns. Errs on the side of yes: a word in a text literal counts.
pub(crate) fn mentions(sql: &str, columns: &[String]) -> bool {
    let words = sql.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.into_iter().any(|word| columns.iter().any(|c| c.eq_ignore_ascii_case(word)))
}
