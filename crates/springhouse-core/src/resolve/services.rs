//! Feature services: what they show, whether it can be asked for in one request, and who may read it.

use super::{Resolver, entries, mentions, meta};
use crate::ValueType;
use crate::declared::FeatureServiceDecl;
use crate::definition::{Definitions, FeatureRef, FeatureService, ViewKind};
use std::collections::{BTreeMap, BTreeSet};

impl Resolver<'_> {
    pub(super) fn feature_services(&mut self) {
        for entry in entries(self.declared.feature_services.as_ref()) {
            let path = format!("feature_services.{}", entry.name);
            self.check_name(&path, &entry.name);
            let Some(decl) = &entry.value else { continue };
            let Some(features) = self.service_features(&path, decl) else { continue };
            self.check_keys_agree(&path, &features);
            self.check_readers(&path, decl, &features);
            let slo = decl.slo.as_ref();
            let service = FeatureService {
                name: entry.name.clone(),
                features,
                on_stale: decl.on_stale.unwrap_or_default(),
                on_unavailable: decl.on_unavailable.unwrap_or_default(),
                on_missing: decl.on_missing.unwrap_or_default(),
                on_expired: decl.on_expired.unwrap_or_default(),
                readers: decl.readers.clone().unwrap_or_default(),
                latency_p99: slo.and_then(|s| s.latency_p99).map(|d| d.0),
                availability_percent: slo.and_then(|s| s.availability).map(|p| p.0),
                meta: meta(&decl.description, &decl.owner, &decl.tags),
            };
            self.out.definitions.feature_services.insert(entry.name.clone(), service);
        }
    }

    /// Spells out the features; None when one of them is not usable.
    fn service_features(&mut self, path: &str, decl: &FeatureServiceDecl) -> Option<Vec<FeatureRef>> {
        let listed = decl.features.as_ref()?;
        if listed.is_empty() {
            let message = "the service has no features; expected at least one".to_owned();
            self.reader.report_at(&format!("{path}.features"), "no_features", message);
        }
        let mut whole = true;
        let mut features: Vec<FeatureRef> = Vec::new();
        for (at, text) in listed.iter().enumerate() {
            let path = format!("{path}.features.{at}");
            let reference = match text.split_once(':') {
                None | Some((_, "*")) => None,
                Some(_) => match self.feature_ref(&path, text) {
                    Some(reference) => Some(reference),
                    None => {
                        whole = false;
                        continue;
                    }
                },
            };
            let view = text.split(':').next().unwrap_or_default();
            if !self.check_feature(&path, view, reference.as_ref().map(|r| r.feature.as_str())) {
                whole = false;
                continue;
            }
            let added = match reference {
                Some(reference) => vec![reference],
                None => all_features(&self.out.definitions, view),
            };
            for reference in added {
                if features.contains(&reference) {
                    let message =
                        format!("the service has `{reference}` already; expected each feature once");
                    self.reader.report_at(&path, "duplicate_feature", message);
                    continue;
                }
                features.push(reference);
            }
        }
        whole.then_some(features)
    }

    /// One request brings one set of keys and fields, so that a name must mean the same to all views of the service.
    fn check_keys_agree(&mut self, path: &str, features: &[FeatureRef]) {
        let definitions = &self.out.definitions;
        let mut meaning: BTreeMap<String, (ValueType, String)> = BTreeMap::new();
        let mut conflicts = Vec::new();
        let mut add = |name: &str, value_type: &ValueType, of: String| match meaning.get(name) {
            Some((other, first)) if other != value_type => {
                conflicts.push(format!("`{name}` is {other} in {first} and {value_type} in {of}"));
            }
            Some(_) => {}
            None => {
                meaning.insert(name.to_owned(), (value_type.clone(), of));
            }
        };
        for view in views_read(definitions, features) {
            if let Some(view) = definitions.feature_views.get(&view) {
                let keys =
                    definitions.entities.get(&view.entity).map(|e| e.keys.as_slice()).unwrap_or_default();
                for (name, value_type) in keys {
                    add(name, value_type, format!("entity `{}`", view.entity));
                }
            }
            if let Some(view) = definitions.request_views.get(&view) {
                for field in &view.fields {
                    add(&field.name, &field.value_type, format!("request view `{}`", view.name));
                }
            }
        }
        if !conflicts.is_empty() {
            self.reader.report_key(
                &format!("{path}.features"),
                "key_conflict",
                format!("{}; expected one type in one service", conflicts.join(", ")),
            );
        }
    }

    /// Personal data is shown to named readers only.
    fn check_readers(&mut self, path: &str, decl: &FeatureServiceDecl, features: &[FeatureRef]) {
        for (at, reader) in decl.readers.iter().flatten().enumerate() {
            if reader.trim().is_empty() {
                let message = "a reader is a role such as `role:delay-model`, this one is empty".to_owned();
                self.reader.report_at(&format!("{path}.readers.{at}"), "wrong_reader", message);
            }
        }
        if decl.readers.as_ref().is_some_and(|r| !r.is_empty())
            || self.reader.is_broken_below(&format!("{path}.readers"))
        {
            return;
        }
        let shown: Vec<String> = features
            .iter()
            .filter(|f| is_personal(&self.out.definitions, f, &mut BTreeSet::new()))
            .map(|f| format!("`{f}`"))
            .collect();
        if shown.is_empty() {
            return;
        }
        let message = format!("the service shows personal data ({}) to everyone", shown.join(", "));
        if let Some(diagnostic) =
            self.reader.report_key(&format!("{path}.readers"), "pii_without_readers", message)
        {
            diagnostic.set_hint("say who may read it: `readers: [role:...]`");
        }
    }
}

fn all_features(definitions: &Definitions, view: &str) -> Vec<FeatureRef> {
    let reference = |feature: &str| FeatureRef { view: view.to_owned(), feature: feature.to_owned() };
    if let Some(view) = definitions.feature_views.get(view) {
        return view.features().into_iter().map(|(name, _)| reference(name)).collect();
    }
    let view = definitions.request_views.get(view);
    view.into_iter().flat_map(|v| v.features.iter().map(|f| reference(&f.name))).collect()
}

/// Every view behind these features: named, or read by a request view that is.
fn views_read(definitions: &Definitions, features: &[FeatureRef]) -> Vec<String> {
    let mut views: Vec<String> = Vec::new();
    let mut waiting: Vec<String> = features.iter().rev().map(|f| f.view.clone()).collect();
    while let Some(name) = waiting.pop() {
        if views.contains(&name) {
            continue;
        }
        let inputs = definitions.request_views.get(&name).map(|v| v.inputs.as_slice()).unwrap_or_default();
        waiting.extend(inputs.iter().map(|(_, f)| f.view.clone()));
        views.push(name);
    }
    views
}

/// True when a feature shows personal data, itself or through what a request view reads.
fn is_personal(definitions: &Definitions, feature: &FeatureRef, seen: &mut BTreeSet<FeatureRef>) -> bool {
    if !seen.insert(feature.clone()) {
        return false;
    }
    if let Some(view) = definitions.feature_views.get(&feature.view) {
        return match &view.kind {
            ViewKind::Latest(features) => features.iter().any(|f| f.name == feature.feature && f.pii),
            ViewKind::Windows(features) => features.iter().any(|f| f.name == feature.feature && f.pii),
        };
    }
    let Some(view) = definitions.request_views.get(&feature.view) else { return false };
    let Some(shown) = view.features.iter().position(|f| f.name == feature.feature) else { return false };
    // An expression may use the features before it: its text, and theirs.
    let mut sql: Vec<&str> = vec![&view.features[shown].sql];
    for feature in view.features[..shown].iter().rev() {
        if sql.iter().any(|sql| mentions(sql, std::slice::from_ref(&feature.name))) {
            sql.push(&feature.sql);
        }
    }
    let used = |name: &str| sql.iter().any(|sql| mentions(sql, &[name.to_owned()]));
    view.fields.iter().any(|f| f.pii && used(&f.name))
        || view.inputs.iter().any(|(name, input)| used(name) && is_personal(definitions, input, seen))
}
