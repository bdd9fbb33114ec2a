//! The commands around definitions, as a user runs them.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};
use std::process::Command;

struct Project {
    folder: tempfile::TempDir,
}

struct Said {
    status: i32,
    out: String,
    err: String,
}

impl Project {
    /// What `springhouse init` makes.
    fn new() -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        let said = run(project.folder.path(), &["init", "shop"]);
        assert_eq!(said.status, 0, "{}", said.err);
        project
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("shop")
    }

    fn run(&self, arguments: &[&str]) -> Said {
        run(&self.root(), arguments)
    }

    fn features(&self) -> PathBuf {
        self.root().join("features/orders.yaml")
    }

    fn replace(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.features()).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(self.features(), text.replacen(from, to, 1)).unwrap();
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_springhouse"))
        .args(arguments)
        .current_dir(folder)
        .env("USER", "ann")
        .output()
        .unwrap();
    Said {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_new_project_validates_and_applies_as_it_is() {
    let project = Project::new();
    let said = project.run(&["validate"]);
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    insta::assert_snapshot!(said.out, @"valid: 1 entity, 1 source, 3 views with 11 features, 1 feature service");
    assert_eq!(project.run(&["plan"]).status, 2);
    let said = project.run(&["apply", "--message", "first"]);
    assert_eq!((said.status, said.err.as_str()), (0, "applied as snapshot 1\n"));
    let said = project.run(&["plan"]);
    assert_eq!(said.status, 0);
    insta::assert_snapshot!(said.out, @r"
    Against snapshot 1:

    No changes. What is defined is what is applied.
    ");
    // Applying again changes nothing.
    assert_eq!(project.run(&["apply"]).status, 0);
    let history = project.run(&["registry", "history", "--format", "json"]);
    let history: serde_json::Value = serde_json::from_str(&history.out).unwrap();
    assert_eq!(history.as_array().unwrap().len(), 1);
    assert_eq!((&history[0]["applied_by"], &history[0]["message"]), (&"ann".into(), &"first".into()));
}

#[test]
fn init_overwrites_nothing() {
    let project = Project::new();
    project.replace("Who buys", "Who buys from us");
    let said = run(project.folder.path(), &["init", "shop"]);
    assert_eq!(said.status, 1);
    insta::assert_snapshot!(said.err, @r"
    error: shop is a project already
      = help: `springhouse validate` checks it; `init` never overwrites a file
    ");
    assert!(std::fs::read_to_string(project.features()).unwrap().contains("from us"));
}

#[test]
fn a_folder_that_is_no_project_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for command in [&["validate"][..], &["plan"], &["apply"], &["registry", "history"]] {
        let said = run(folder.path(), command);
        assert_eq!(said.status, 1);
        insta::allow_duplicates! {
            insta::assert_snapshot!(said.err, @r"
            error: [no_project] . is no project: it has no springhouse.yaml
              = help: `springhouse init NAME` makes a project; `--project DIR` names one
            ");
        }
    }
}

#[test]
fn a_breaking_change_is_refused_until_the_version_is_raised() {
    let project = Project::new();
    project.run(&["apply"]);
    project.replace("amount >= 100", "amount >= 50");
    let said = project.run(&["plan"]);
    assert_eq!(said.status, 2);
    insta::assert_snapshot!(said.out, @r"
    Against snapshot 1:

      ~ feature_views.customer_orders
          ~ features.large_orders_7d.where: amount >= 100 -> amount >= 50  # BREAKING: raise `version` to 2
          read by feature_services.checkout, request_views.basket

    Plan: 0 to add, 1 to change, 0 to remove; 1 BREAKING change.
    ");
    // Stored states would no longer be what is defined: that can't be forced.
    let said = project.run(&["apply", "--allow-breaking"]);
    assert_eq!(said.status, 1);
    insta::assert_snapshot!(said.err, @r"
    error: nothing was applied: these changes are breaking
      feature_views.customer_orders.features.large_orders_7d.where: raise `version` to 2
    ");
    project.replace("    entity: customer\n", "    entity: customer\n    version: 2\n");
    let said = project.run(&["apply", "--format", "json"]);
    assert_eq!(said.status, 0, "{}", said.err);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json["against"], &json["applied"], &json["breaking"]), (&1.into(), &2.into(), &0.into()));
    let said = project.run(&["registry", "diff", "1", "2"]);
    insta::assert_snapshot!(said.out, @r"
    From snapshot 1 to 2:

      ~ feature_views.customer_orders
          ~ version: 1 -> 2
          ~ features.large_orders_7d.where: amount >= 100 -> amount >= 50
          read by feature_services.checkout, request_views.basket
          a window of 1h moves in steps of 1m: it counts at most 1.7 % more than its length
          a window of 1d moves in steps of 10m: it counts at most 0.69 % more than its length
          a window of 7d moves in steps of 1h: it counts at most 0.60 % more than its length

    Plan: 0 to add, 1 to change, 0 to remove; all compatible.
    ");
}

#[test]
fn what_callers_may_still_ask_for_goes_only_when_that_is_said() {
    let project = Project::new();
    project.run(&["apply"]);
    let text = std::fs::read_to_string(project.features()).unwrap();
    let without = text.split("feature_services:").next().unwrap();
    std::fs::write(project.features(), without).unwrap();
    let said = project.run(&["apply"]);
    assert_eq!(said.status, 1);
    insta::assert_snapshot!(said.err, @r"
    error: nothing was applied: these changes are breaking
      feature_services.checkout: who asks for it gets an error
      = help: `--allow-breaking` applies them all the same
    ");
    let said = project.run(&["apply", "--allow-breaking", "--dry-run"]);
    assert_eq!((said.status, said.err.as_str()), (0, "dry run: nothing was applied\n"));
    let said = project.run(&["apply", "--allow-breaking"]);
    assert_eq!((said.status, said.err.as_str()), (0, "applied as snapshot 2\n"));
}

#[test]
fn of_two_who_apply_at_once_both_are_told_the_truth() {
    let project = Project::new();
    let root = project.root();
    let root = root.as_path();
    let statuses: Vec<Said> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(move || run(root, &["apply"]))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // Who comes late finds nothing to change, or is told of the conflict; one snapshot is there.
    let applied = statuses.iter().filter(|said| said.err.contains("applied as snapshot 1")).count();
    assert_eq!(applied, 1);
    for said in statuses.iter().filter(|said| said.status != 0) {
        assert!(said.err.contains("in between") || said.err.contains("at this moment"), "{}", said.err);
        assert!(said.err.contains("help: run `springhouse plan` again"), "{}", said.err);
    }
    let history = project.run(&["registry", "history", "--format", "json"]);
    let history: serde_json::Value = serde_json::from_str(&history.out).unwrap();
    assert_eq!(history.as_array().unwrap().len(), 1);
}

#[test]
fn a_damaged_snapshot_is_told_with_its_file() {
    let project = Project::new();
    project.run(&["apply"]);
    let path = project.root().join(".springhouse/registry/00000001.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("Who buys", "Who sells")).unwrap();
    let said = project.run(&["plan"]);
    assert_eq!(said.status, 1);
    assert!(said.err.contains("registry/00000001.json` is damaged: its checksum is"), "{}", said.err);
    assert!(said.err.contains("help: restore this file"), "{}", said.err);
}

#[test]
fn mistakes_come_as_json_for_programs() {
    let project = Project::new();
    project.replace("int64!", "integer!");
    let said = project.run(&["validate", "--format", "json"]);
    assert_eq!(said.status, 1);
    insta::assert_snapshot!(said.out, @r#"
    [
      {
        "severity": "error",
        "code": "unknown_type",
        "message": "`integer` is not a type: the types are bool, int32, int64, float32, float64, string, bytes, timestamp, date, json, decimal(p,s), list<type>, vector<n>",
        "file": "features/orders.yaml",
        "line": 28,
        "column": 20,
        "length": 8,
        "hint": "did you mean `int64`?"
      }
    ]
    "#);
}

#[test]
fn the_schema_knows_every_section() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(folder.path(), &["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let sections: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(sections, ["entities", "feature_services", "feature_views", "request_views", "sources"]);
    let said = run(folder.path(), &["schema", "--settings"]);
    let schema: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["project"]));
}

/// Every `wrong_sql/*.yaml` beside what is said of it.
#[test]
fn every_mistake_in_sql_is_told_with_its_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong_sql");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    assert!(paths.len() >= 5, "only {} files", paths.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(&folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for path in paths {
            let project = Project::new();
            std::fs::copy(&path, project.features()).unwrap();
            let said = project.run(&["validate"]);
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert_eq!(said.status, 1, "{name} is valid");
            insta::assert_snapshot!(name, said.err);
        }
    });
}
