//! `springhouse train`, as a user runs it.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

const DEFINITIONS: &str = "
entities: {user: {keys: {user: int64}}}
sources:
  orders:
    table: data/orders.csv
    event_time: at
    columns: {user: int64, at: timestamp!, amount: float64, shop: string}
feature_views:
  newest: {entity: user, source: orders, ttl: 30d, features: {amount: {column: amount, default: 0.0}, shop: shop}}
  spending: {entity: user, source: orders, ttl: 1d, aggregate: {spent: {fn: [count, sum], column: amount, windows: [1h, 1d]}}}
feature_services:
  checkout: {features: [newest, spending]}
  risk: {features: [spending:spent_count_1d]}
";

const ORDERS: &str = "\
user,at,amount,shop
1,2024-05-01T10:00:00Z,10.5,north
2,2024-05-01T11:00:00Z,20,south
1,2024-05-01T11:30:00Z,4.5,south
";

const LABELS: &str = "\
user,ts,clicked
1,2024-05-01T12:00:00Z,true
2,2024-05-01T11:00:00Z,false
3,2024-05-01T12:00:00Z,false
1,2024-05-02T11:00:00Z,true
";

struct Project {
    folder: tempfile::TempDir,
}

struct Said {
    status: i32,
    out: String,
    err: String,
}

impl Project {
    fn new() -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        for (name, text) in [
            ("springhouse.yaml", "project: shop\n"),
            ("features/all.yaml", DEFINITIONS),
            ("data/orders.csv", ORDERS),
            ("labels.csv", LABELS),
        ] {
            let path = project.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let said = project.run(&["apply"]);
        assert_eq!(said.status, 0, "{}", said.err);
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_springhouse"))
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Said {
            status: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs `train --labels labels.csv` with more arguments.
    fn train(&self, arguments: &[&str]) -> Said {
        self.run(&[&["train", "--labels", "labels.csv"], arguments].concat())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

#[test]
fn csv_goes_to_standard_output_and_talk_to_the_other() {
    let project = Project::new();
    let said = project.train(&["--service", "checkout", "--out", "-", "--output-format", "csv"]);
    assert_eq!((said.status, said.err.as_str()), (0, "4 rows written to standard output\n"));
    insta::assert_snapshot!("csv", said.out);
    let stdout = said.out;
    let said = project.train(&["--service", "checkout", "--out", "set.csv"]);
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    assert_eq!(said.out, "4 rows written to set.csv\nmanifest: set.csv.manifest.json\n");
    assert_eq!(project.read("set.csv"), stdout);
}

#[test]
fn features_and_services_and_samples_are_chosen() {
    let project = Project::new();
    let out = ["--out", "-", "--output-format", "csv"];
    let said = project
        .train(&[&["--features", "spent_sum_1h,newest:shop", "--service", "checkout"], &out[..]].concat());
    insta::assert_snapshot!("subset", said.out);
    let said = project.train(&[&["--service", "risk", "--service", "checkout"], &out[..]].concat());
    insta::assert_snapshot!("several_services", said.out.lines().next().unwrap());
    let said = project.train(&[&["--service", "risk", "--sample", "2", "--seed", "1"], &out[..]].concat());
    insta::assert_snapshot!("sample", said.out);
    let sql = "SELECT user, ts + INTERVAL '1 day' AS event_timestamp, NOT clicked AS ignored FROM 'labels.csv' WHERE user < 3";
    let said = project.run(&[&["train", "--service", "risk", "--labels-sql", sql], &out[..]].concat());
    insta::assert_snapshot!("query", said.out);
}

#[test]
fn a_dry_run_says_how_and_makes_nothing() {
    let project = Project::new();
    let said = project.train(&["--service", "checkout", "--dry-run", "--memory-mb", "64"]);
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    let threads = std::thread::available_parallelism().unwrap().get().min(16);
    let text = said.out.replace(&format!("{threads} threads"), "N threads");
    insta::assert_snapshot!("plan", text);
    assert!(!project.path("training.parquet").exists());
    let said = project.train(&["--service", "checkout", "--dry-run", "--format", "json"]);
    let plan: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&plan["made"], &plan["labels"]["rows"]), (&serde_json::Value::Null, &4.into()));
    let said =
        project.train(&["--service", "checkout", "--explain", "--format", "json", "--out", "set.arrow"]);
    assert_eq!(said.err, "4 rows written to set.arrow\n");
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["made"]["rows"], 4);
    let stages = report["made"]["stages"].as_array().unwrap();
    assert!(stages.iter().any(|stage| stage["stage"] == "write" && stage["seconds"].is_f64()));
    let said = project.train(&["--service", "checkout", "--explain", "--out", "set.arrow"]);
    for part in [
        "pass",
        "4 rows written to set.arrow",
        "manifest: set.arrow.manifest.json",
        "seconds",
        "nothing spilled",
    ] {
        assert!(said.out.contains(part), "{part} is missing:\n{}", said.out);
    }
}

#[test]
fn a_wrong_request_says_what_to_do() {
    let project = Project::new();
    let sql = |sql: &'static str| ["--service", "risk", "--out", "x.csv", "--labels-sql", sql];
    let mut all = String::new();
    for (name, arguments) in [
        ("no such feature", &["--service", "checkout", "--features", "spent_sum_1w", "--out", "x.csv"][..]),
        ("no such view", &["--features", "spendings", "--out", "x.csv"]),
        ("a feature of another service", &["--service", "risk", "--features", "shop", "--out", "x.csv"]),
        ("neither service nor features", &["--out", "x.csv"]),
        ("a format that is none", &["--service", "risk", "--out", "x.xlsx"]),
        ("standard output without a format", &["--service", "risk", "--out", "-"]),
        ("Parquet to standard output", &["--service", "risk", "--out", "-", "--output-format", "parquet"]),
        ("a sample that is none", &["--service", "risk", "--out", "x.csv", "--sample", "0%"]),
        ("a seed without a sample", &["--service", "risk", "--out", "x.csv", "--seed", "1"]),
        ("labels twice", &sql("SELECT 1")),
    ] {
        let said = project.train(arguments);
        assert_ne!(said.status, 0, "{name}");
        all += &format!("# {name}\n{}\n", said.err);
    }
    for (name, query) in [
        ("no SQL", "SELEKT * FROM 'labels.csv'"),
        ("two statements", "SELECT * FROM 'labels.csv'; SELECT 1"),
        ("no table", "SELECT 1 AS user"),
        ("a table by name", "SELECT * FROM labels"),
        ("a table function", "SELECT * FROM read_csv('labels.csv')"),
        ("a join", "SELECT * FROM 'labels.csv' JOIN 'orders.csv' ON true"),
        ("two tables", "SELECT * FROM 'labels.csv', 'orders.csv'"),
        ("a subquery", "SELECT * FROM (SELECT * FROM 'labels.csv')"),
        ("a union", "SELECT * FROM 'labels.csv' UNION ALL SELECT * FROM 'labels.csv'"),
        ("WITH", "WITH x AS (SELECT 1) SELECT * FROM 'labels.csv'"),
        ("DISTINCT", "SELECT DISTINCT user FROM 'labels.csv'"),
        ("GROUP BY", "SELECT user, count(*) AS n FROM 'labels.csv' GROUP BY user"),
        ("an aggregate", "SELECT user, max(ts) AS ts FROM 'labels.csv'"),
        ("a window", "SELECT user, row_number() OVER () AS n, ts FROM 'labels.csv'"),
        ("ORDER BY", "SELECT * FROM 'labels.csv' ORDER BY ts"),
        ("LIMIT", "SELECT * FROM 'labels.csv' LIMIT 10"),
        ("TABLESAMPLE", "SELECT * FROM 'labels.csv' TABLESAMPLE (10 PERCENT)"),
        ("an expression without a name", "SELECT user, ts, user + 1 FROM 'labels.csv'"),
        ("a name twice", "SELECT *, user + 1 AS user FROM 'labels.csv'"),
        ("no such column", "SELECT usr AS user, ts FROM 'labels.csv'"),
        ("no such function", "SELECT user, ts, uper(clicked) AS c FROM 'labels.csv'"),
        ("not deterministic", "SELECT user, now() AS ts FROM 'labels.csv'"),
        ("a condition that is none", "SELECT * FROM 'labels.csv' WHERE user"),
        ("EXCLUDE", "SELECT * EXCLUDE (clicked) FROM 'labels.csv'"),
        ("no such file", "SELECT * FROM 'label.csv'"),
        ("no moment", "SELECT user, clicked FROM 'labels.csv'"),
        ("no rows", "SELECT * FROM 'labels.csv' WHERE user > 100"),
    ] {
        let said = project.run(&["train", "--service", "risk", "--out", "x.csv", "--labels-sql", query]);
        assert_ne!(said.status, 0, "{name}");
        all += &format!("# {name}: {query}\n{}\n", said.err);
    }
    assert!(!project.path("x.csv").exists() && !project.path("x.csv.manifest.json").exists());
    let all = all.replace(&project.folder.path().display().to_string(), "PROJECT");
    insta::assert_snapshot!("wrong_requests", all);
}
