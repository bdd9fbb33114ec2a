//! Definition files: what they mean, and what is said of those that are wrong. Text in, text out.

use springhouse_core::definition::{Definitions, SourceKind, ViewKind};
use springhouse_core::load_definitions;
use std::path::Path;

/// Stands in for the planner of SQL: every expression is a float64.
fn all_floats(definitions: &mut Definitions) -> Vec<springhouse_core::ExpressionProblem> {
    let derived = definitions.sources.values_mut().flat_map(|s| &mut s.derived);
    let derived = derived.chain(definitions.feature_views.values_mut().flat_map(|v| &mut v.derived));
    for column in derived {
        column.value_type = springhouse_core::ValueType::Float64;
    }
    for feature in definitions.request_views.values_mut().flat_map(|v| &mut v.features) {
        feature.value_type = springhouse_core::ValueType::Float64;
    }
    vec![]
}

fn load(text: &str) -> Result<Definitions, String> {
    let files: Vec<(String, String)> = text
        .split("# file: ")
        .enumerate()
        .filter(|(at, part)| *at > 0 || !part.trim().is_empty())
        .map(|(at, part)| match at {
            0 => ("features.yaml".to_owned(), part.to_owned()),
            _ => {
                let (name, text) = part.split_once('\n').unwrap();
                (name.to_owned(), text.to_owned())
            }
        })
        .collect();
    load_definitions(&files, &all_floats)
        .map(|loaded| loaded.definitions)
        .map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn the_flights_example_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/flights/features");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        files.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
    }
    let loaded = load_definitions(&files, &all_floats)
        .unwrap_or_else(|all| panic!("{}", all.iter().map(ToString::to_string).collect::<String>()));
    let definitions = loaded.definitions;
    assert!(matches!(definitions.sources["departed"].kind, SourceKind::Push { history: Some(_) }));
    let ViewKind::Windows(features) = &definitions.feature_views["origin_departures"].kind else { panic!() };
    assert!(features.iter().any(|f| f.name.ends_with("_1h")));
    let json = serde_json::to_string(&definitions).unwrap();
    assert_eq!(serde_json::from_str::<Definitions>(&json).unwrap(), definitions);
}

/// Every `bad_definitions/*.yaml` beside what is said of it.
#[test]
fn every_mistake_is_told_with_its_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_definitions");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    assert!(paths.len() >= 40, "only {} files", paths.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(&folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for path in paths {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let said = load(&text).err().unwrap_or_else(|| panic!("{name} loads"));
            insta::assert_snapshot!(name, said);
        }
    });
}
