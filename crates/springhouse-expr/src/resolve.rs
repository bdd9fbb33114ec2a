//! The types that only planning the SQL can tell, filled into the definitions.

use crate::error::{ExprError, did_you_mean};
use crate::request::request_scope;
use crate::steps::Scope;
use springhouse_core::definition::{
    Derived, FeatureRef, FeatureView, RequestView, ViewKind, aggregate_output_type,
};
use springhouse_core::{Definitions, ValueType};
use std::collections::{BTreeMap, BTreeSet};

type Errors = Vec<(String, ExprError)>;

/// Checks every expression and fills in what follows from it: the types of derived columns, of latest and window features,
/// and of request features.
///
/// # Errors
/// Every [`ExprError`] with the path of the expression inside the definitions (such as
/// `feature_views.origin_delays.where`). A view of a source whose own SQL is wrong is still checked, as far as that goes.
pub fn resolve_types(definitions: &mut Definitions) -> Result<(), Errors> {
    let mut errors = Errors::new();
    let mut source_scopes: BTreeMap<String, Scope> = BTreeMap::new();
    for (name, source) in &mut definitions.sources {
        let path = format!("sources.{name}");
        let declared = source.columns.iter().map(|c| (c.name.clone(), c.value_type.clone()));
        let mut scope = Scope::new(declared.collect());
        derive(&mut scope, &mut source.derived, &path, &mut errors);
        check_filter(&scope, source.filter.as_deref(), format!("{path}.where"), &mut errors);
        source_scopes.insert(name.clone(), scope);
    }
    for (name, view) in &mut definitions.feature_views {
        if let Some(scope) = source_scopes.get(&view.source) {
            resolve_view(view, scope.clone(), &format!("feature_views.{name}"), &mut errors);
        }
    }
    resolve_request_views(definitions, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn derive(scope: &mut Scope, derived: &mut [Derived], path: &str, errors: &mut Errors) {
    for column in derived {
        match scope.derive(&column.name, &column.sql) {
            Ok(value_type) => column.value_type = value_type,
            Err(error) => {
                push(scope, &column.sql, format!("{path}.derived.{}", column.name), error, errors);
            }
        }
    }
}

fn check_filter(scope: &Scope, sql: Option<&str>, path: String, errors: &mut Errors) {
    if let Some(sql) = sql
        && let Err(error) = scope.predicate(sql)
    {
        push(scope, sql, path, error, errors);
    }
}

/// Adds the error, unless it only follows from another.
fn push(scope: &Scope, sql: &str, path: String, error: ExprError, errors: &mut Errors) {
    if !scope.reads_broken(sql) {
        errors.push((path, error));
    }
}

fn resolve_view(view: &mut FeatureView, mut scope: Scope, path: &str, errors: &mut Errors) {
    derive(&mut scope, &mut view.derived, path, errors);
    check_filter(&scope, view.filter.as_deref(), format!("{path}.where"), errors);
    let names = scope.names();
    // None: a derived column that has its error already; features of it get none on top.
    let type_of = |name: &str| -> Result<Option<ValueType>, ExprError> {
        match names.iter().find(|(column, _)| column == name) {
            Some((_, value_type)) => Ok(Some(value_type.clone())),
            None if scope.is_broken(name) => Ok(None),
            None => Err(unknown_column(name, &names)),
        }
    };
    match &mut view.kind {
        ViewKind::Latest(features) => {
            for feature in features {
                match type_of(&feature.column) {
                    Ok(Some(value_type)) => feature.value_type = value_type,
                    Ok(None) => {}
                    Err(error) => errors.push((format!("{path}.features.{}", feature.name), error)),
                }
            }
        }
        ViewKind::Windows(features) => {
            // One entry of the file gives a feature per window: each text is checked, and complained about, once.
            let mut checked: BTreeSet<&str> = BTreeSet::new();
            for feature in features {
                let path = format!("{path}.aggregate.{}", feature.name);
                if let Some(sql) = &feature.filter
                    && checked.insert(sql)
                {
                    check_filter(&scope, Some(sql), format!("{path}.where"), errors);
                }
                let typed = |name: &Option<String>| name.as_deref().map(type_of).transpose();
                let (column_type, group_type) = match (typed(&feature.column), typed(&feature.group_by)) {
                    (Ok(Some(None)), _) | (_, Ok(Some(None))) => continue,
                    (Ok(column), Ok(group)) => (column.flatten(), group.flatten()),
                    (Err(error), _) => {
                        errors.push((format!("{path}.column"), error));
                        continue;
                    }
                    (_, Err(error)) => {
                        errors.push((format!("{path}.group_by"), error));
                        continue;
                    }
                };
                match aggregate_output_type(&feature.function, column_type.as_ref(), group_type.as_ref()) {
                    Ok(value_type) => feature.value_type = value_type,
                    Err(reason) => errors.push((path, ExprError::new(reason))),
                }
                feature.column_type = column_type;
                feature.group_type = group_type;
            }
        }
    }
}

fn unknown_column(name: &str, names: &[(String, ValueType)]) -> ExprError {
    let error = ExprError::new(format!("there is no column `{name}`"));
    match did_you_mean(name, names.iter().map(|(column, _)| column.as_str())) {
        Some(meant) => error.with_hint(format!("did you mean `{meant}`?")),
        None => error,
    }
}

/// Request views may read each other: in rounds, each round resolving those whose inputs are all known.
fn resolve_request_views(definitions: &mut Definitions, errors: &mut Errors) {
    let mut known: BTreeMap<FeatureRef, ValueType> = BTreeMap::new();
    for (name, view) in &definitions.feature_views {
        for (feature, value_type) in view.features() {
            let feature = FeatureRef { view: name.clone(), feature: feature.to_owned() };
            known.insert(feature, value_type.clone());
        }
    }
    let mut waiting: Vec<&mut RequestView> = definitions.request_views.values_mut().collect();
    loop {
        let (ready, blocked): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|view| view.inputs.iter().all(|(_, feature)| known.contains_key(feature)));
        if ready.is_empty() {
            // Unknown inputs and cycles: named by the checks on the definitions as a whole, but never let through.
            for view in blocked {
                for (_, feature) in view.inputs.iter().filter(|(_, feature)| !known.contains_key(feature)) {
                    let error = ExprError::new(format!("the input `{feature}` has no type"));
                    errors.push((
                        format!("request_views.{}.inputs", view.name),
                        error.with_hint(
                            "name a feature that exists; request views can't read each other in a circle",
                        ),
                    ));
                }
            }
            return;
        }
        for view in ready {
            resolve_request_view(view, &mut known, errors);
        }
        waiting = blocked;
    }
}

fn resolve_request_view(
    view: &mut RequestView,
    known: &mut BTreeMap<FeatureRef, ValueType>,
    errors: &mut Errors,
) {
    let inputs: Vec<_> =
        view.inputs.iter().map(|(name, feature)| (name.clone(), known[feature].clone())).collect();
    let mut scope = request_scope(view, &inputs);
    for feature in &mut view.features {
        match scope.derive(&feature.name, &feature.sql) {
            Ok(value_type) => feature.value_type = value_type,
            Err(error) => {
                let path = format!("request_views.{}.features.{}", view.name, feature.name);
                push(&scope, &feature.sql, path, error, errors);
            }
        }
        // Known also when it failed: its own error is enough.
        let feature_ref = FeatureRef { view: view.name.clone(), feature: feature.name.clone() };
        known.insert(feature_ref, feature.value_type.clone());
    }
}
