//! The checks that need every type: keys, columns of aggregates, defaults.

use crate::declared::DefaultDecl;
use crate::definition::{
    AggregateFunction, DefaultValue, Definitions, Entity, PopulationStatistic, ViewKind,
    aggregate_output_type,
};
use crate::read::Reader;
use crate::resolve::{DeclaredFeature, Resolved};
use crate::yaml::Kind;
use crate::{ValueType, constant};
use std::collections::BTreeMap;

/// Fills in the types of features and their defaults.
pub(crate) fn complete(reader: &mut Reader, resolved: &mut Resolved) {
    let Definitions { entities, sources, feature_views, .. } = &mut resolved.definitions;
    for (name, view) in feature_views {
        let path = format!("feature_views.{name}");
        let Some(source) = sources.get(&view.source) else { continue };
        // Columns whose type is known; those with a mistake of their own are left out.
        let mut types: BTreeMap<String, ValueType> = source.schema().into_iter().collect();
        types.extend(view.derived.iter().map(|d| (d.name.clone(), d.value_type.clone())));
        let derived_paths =
            (source.derived.iter().map(|d| (format!("sources.{}.derived", source.name), &d.name)))
                .chain(view.derived.iter().map(|d| (format!("{path}.derived"), &d.name)));
        for (path, column) in derived_paths {
            if reader.is_untyped(&format!("{path}.{column}")) {
                types.remove(column);
            }
        }
        if let Some(entity) = entities.get(&view.entity) {
            check_keys(reader, &path, entity, &view.key_columns, &types);
        }
        let declared = resolved.features.get(name).map(Vec::as_slice).unwrap_or_default();
        match &mut view.kind {
            ViewKind::Latest(features) => {
                for (feature, declared) in features.iter_mut().zip(declared) {
                    let Some(value_type) = types.get(&feature.column) else { continue };
                    feature.value_type = value_type.clone();
                    feature.default = default(reader, declared, &feature.name, value_type, true);
                }
            }
            ViewKind::Windows(features) => {
                for (feature, declared) in features.iter_mut().zip(declared) {
                    let type_of = |column: &Option<String>| match column {
                        None => Some(None),
                        Some(column) => types.get(column).cloned().map(Some),
                    };
                    let (Some(column), Some(group)) = (type_of(&feature.column), type_of(&feature.group_by))
                    else {
                        continue;
                    };
                    match aggregate_output_type(&feature.function, column.as_ref(), group.as_ref()) {
                        Ok(value_type) => {
                            feature.column_type = column;
                            feature.group_type = group;
                            feature.default = default(reader, declared, &feature.name, &value_type, true);
                            feature.value_type = value_type;
                        }
                        Err(reason) => {
                            report_aggregate(
                                reader,
                                &declared.path,
                                &feature.function,
                                column,
                                group,
                                reason,
                            );
                        }
                    }
                }
            }
        }
    }
    let stored = resolved.definitions.feature_views.values();
    let undefaulted: Vec<(String, String)> = stored
        .filter_map(|view| {
            let declared = resolved.features.get(&view.name)?;
            let names = view.features().into_iter().zip(declared);
            let names: Vec<String> = names
                .filter(|(_, declared)| {
                    declared.default.is_none() && !reader.is_broken(&format!("{}.default", declared.path))
                })
                .map(|((name, _), _)| format!("`{name}`"))
                .collect();
            (!names.is_empty()).then(|| (format!("feature_views.{}", view.name), names.join(", ")))
        })
        .collect();
    for (path, names) in undefaulted {
        let message = format!("without a default, callers get null where there is no fresh value: {names}");
        reader.warn(&path, "missing_default", message).set_hint("write `default: null` if that is meant");
    }
    for (name, view) in &mut resolved.definitions.request_views {
        let declared = resolved.features.get(name).map(Vec::as_slice).unwrap_or_default();
        for (feature, declared) in view.features.iter_mut().zip(declared) {
            if !reader.is_untyped(&declared.path) {
                feature.default = default(reader, declared, &feature.name, &feature.value_type, false);
            }
        }
    }
}

fn check_keys(
    reader: &mut Reader,
    path: &str,
    entity: &Entity,
    columns: &[String],
    types: &BTreeMap<String, ValueType>,
) {
    for ((key, key_type), column) in entity.keys.iter().zip(columns) {
        let Some(column_type) = types.get(column).filter(|t| *t != key_type) else { continue };
        let message = format!(
            "key `{key}` of entity `{}` is {key_type}, the column `{column}` is {column_type}",
            entity.name
        );
        let place = reader.spans.locate_key(&format!("entities.{}.keys.{key}", entity.name));
        // Under `keys` if it says the column there, else where the entity is named.
        let own = format!("{path}.keys.{key}");
        let at = if reader.spans.has(&own) { own } else { format!("{path}.entity") };
        if let Some(diagnostic) = reader.report_at(&at, "wrong_key_type", message) {
            diagnostic.relate(place, "the key");
        }
    }
}

fn report_aggregate(
    reader: &mut Reader,
    path: &str,
    function: &AggregateFunction,
    column: Option<ValueType>,
    group: Option<ValueType>,
    reason: String,
) {
    // What is wrong with a parameter, or with a column that is missing, was reported with the files at hand.
    if reader.is_broken_below(path) {
        return;
    }
    let alone = aggregate_output_type(function, column.as_ref(), None);
    let key = if group.is_some() && alone.is_ok() { "group_by" } else { "column" };
    reader.report_at(&format!("{path}.{key}"), "wrong_column_type", reason);
}

fn default(
    reader: &mut Reader,
    declared: &DeclaredFeature,
    feature: &str,
    value_type: &ValueType,
    has_population: bool,
) -> DefaultValue {
    let path = format!("{}.default", declared.path);
    match &declared.default {
        None => DefaultValue::Null,
        Some(DefaultDecl::Constant(node)) if matches!(node.kind, Kind::Null) => DefaultValue::Null,
        Some(DefaultDecl::Constant(node)) => match constant::constant(node, value_type) {
            Ok(value) => DefaultValue::Constant(value),
            Err(mismatch) => {
                let message = format!(
                    "the default of `{feature}` should be {}, found {}",
                    mismatch.expected,
                    node.what()
                );
                if let Some(diagnostic) = reader.report_at(&path, "wrong_default", message) {
                    diagnostic.hint = mismatch.hint;
                }
                DefaultValue::Null
            }
        },
        Some(DefaultDecl::Population(statistic)) => {
            let fits = match statistic {
                PopulationStatistic::Mean | PopulationStatistic::Median => value_type.is_numeric(),
                PopulationStatistic::Mode => value_type.is_scalar(),
            };
            let word = match statistic {
                PopulationStatistic::Mean => "mean",
                PopulationStatistic::Median => "median",
                PopulationStatistic::Mode => "mode",
            };
            if !has_population {
                let message = "a request-time feature has no history; expected a constant".to_owned();
                reader.report_at(&path, "wrong_default", message);
            } else if !fits {
                let message = format!("`{feature}` is {value_type}, of which there is no {word}");
                reader.report_at(&path, "wrong_default", message);
            }
            DefaultValue::Population { statistic: *statistic, value: None, computed_at: None }
        }
    }
}
