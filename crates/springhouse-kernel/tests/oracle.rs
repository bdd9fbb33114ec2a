//! The kernel against the slow reference that recomputes every answer from scratch, on cases made with a fresh seed.
//! The reference lives beside the project; without it (or without Python) there is nothing to compare with.
#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "oracle/case.rs"]
mod case;

use case::{Case, reference};
use std::collections::BTreeSet;

const CASES: u32 = 300;

/// The seed of this run: `ORACLE_SEED` to replay, else a new one.
fn seed() -> u64 {
    match std::env::var("ORACLE_SEED") {
        Ok(text) => text.parse().expect("ORACLE_SEED is a number"),
        Err(_) => {
            u64::from(std::process::id()) * 7919
                + std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos() as u64
        }
    }
}

#[test]
fn every_answer_is_the_references() {
    let Some(reference) = reference() else { return };
    let seed = seed();
    println!("ORACLE_SEED={seed}");
    let out = std::process::Command::new("python3")
        .arg(reference)
        .args(["gen", "--seed", &seed.to_string(), "--cases", &CASES.to_string()])
        .output()
        .expect("python3 runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let mut differences = BTreeSet::new();
    let (mut cases, mut values) = (0, 0);
    for line in text.lines() {
        let case = Case::parse(line);
        values += case.compare(&mut differences);
        cases += 1;
    }
    assert_eq!(cases, CASES);
    assert!(values > 1_000, "only {values} values were compared");
    let shown: Vec<_> = differences.iter().take(20).collect();
    assert!(differences.is_empty(), "{} differences, seed {seed}: {shown:#?}", differences.len());
}
