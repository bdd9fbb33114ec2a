//! `springhouse.yaml`: defaults, and what is said of wrong ones.

use serde::Deserialize;
use springhouse_core::load_settings;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    rows_max: usize,
    ratio: f64,
    name: Option<String>,
    hosts: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows_max: 10, ratio: 0.5, name: None, hosts: vec![] }
    }
}

fn said(text: &str) -> String {
    let all = match load_settings("springhouse.yaml", text) {
        Err(all) => all,
        Ok(settings) => settings.push.read::<Limits>().expect_err("wrong settings are read"),
    };
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn everything_has_a_default() {
    let settings = load_settings("springhouse.yaml", "project: shop").unwrap();
    assert_eq!(settings.registry_path, ".springhouse/registry");
    assert_eq!(settings.store.path, ".springhouse/online");
    assert_eq!(settings.push.read::<Limits>().unwrap(), Limits::default());
    let settings =
        load_settings("springhouse.yaml", "project: shop\npush: {rows_max: 7, name: null, hosts: [a, b]}");
    let push = settings.unwrap().push.read::<Limits>().unwrap();
    assert_eq!(
        push,
        Limits { rows_max: 7, hosts: vec!["a".to_owned(), "b".to_owned()], ..Limits::default() }
    );
}

#[test]
fn settings_have_known_keys() {
    insta::assert_snapshot!(said("projet: shop\nstore: {kind: mysql}\nlake: /data\nregistry: {}\njobs: {memory_budget_mb: 0}\n"), @r"
    error[unknown_key]: `projet` is not a key of springhouse.yaml
     --> springhouse.yaml:1:1
      |
    1 | projet: shop
      | ^^^^^^
      = help: did you mean `project`?

    error[missing_key]: `path` is missing; a folder needs it
     --> springhouse.yaml:4:1
      |
    4 | registry: {}
      | ^^^^^^^^

    error[wrong_type]: expected a mapping (a folder), found `/data`
     --> springhouse.yaml:3:7
      |
    3 | lake: /data
      |       ^^^^^

    error[unknown_word]: expected one of `embedded`, `redis`, found `mysql`
     --> springhouse.yaml:2:15
      |
    2 | store: {kind: mysql}
      |               ^^^^^

    error[out_of_range]: a job needs some memory, this is 0
     --> springhouse.yaml:5:26
      |
    5 | jobs: {memory_budget_mb: 0}
      |                          ^
    ");
}

#[test]
fn a_section_tells_all_its_mistakes() {
    insta::assert_snapshot!(said("project: shop\npush:\n  row_max: 5\n  ratio: much\n  rows_max: -1\n  hosts: here\n"), @r#"
    error[unknown_key]: `row_max` is not a key of `push`
     --> springhouse.yaml:3:3
      |
    3 |   row_max: 5
      |   ^^^^^^^
      = help: did you mean `rows_max`?

    error[wrong_type]: `ratio`: invalid type: string "much", expected f64
     --> springhouse.yaml:4:10
      |
    4 |   ratio: much
      |          ^^^^

    error[wrong_type]: `rows_max`: invalid value: integer `-1`, expected usize
     --> springhouse.yaml:5:13
      |
    5 |   rows_max: -1
      |             ^^

    error[wrong_type]: `hosts`: invalid type: string "here", expected a sequence
     --> springhouse.yaml:6:10
      |
    6 |   hosts: here
      |          ^^^^
    "#);
    insta::assert_snapshot!(said("project: shop\npush: [1]\n"), @r"
    error[wrong_type]: expected a mapping (`push`), found a list
     --> springhouse.yaml:2:7
      |
    2 | push: [1]
      |       ^
    ");
}
