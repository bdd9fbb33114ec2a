//! A plan for people.

use super::{Change, ChangeKind, Compatibility};
use crate::definition::{Definitions, FeatureView, HOP_EXACT, ViewKind};
use crate::time::format_duration;
use std::collections::BTreeSet;
use std::fmt::Write;

/// The changes as lines, in the manner of Terraform: `+` comes, `~` changes, `-` goes; then what stepped windows may count
/// too much, then a summary. `new`: the definitions that they lead to.
pub fn describe_changes(changes: &[Change], new: &Definitions) -> String {
    let mut out = String::new();
    let mut objects: Vec<&str> = Vec::new();
    for change in changes {
        if objects.last() != Some(&change.object.as_str()) {
            objects.push(&change.object);
        }
    }
    for object in objects {
        describe_object(&mut out, object, changes, new);
    }
    summary(&mut out, changes);
    out
}

fn describe_object(out: &mut String, object: &str, changes: &[Change], new: &Definitions) {
    let own: Vec<&Change> = changes.iter().filter(|c| c.object == object).collect();
    let whole = own.iter().find(|c| c.path == object);
    match whole {
        Some(change) => line(out, "  ", change, object),
        None => {
            let _ = writeln!(out, "  ~ {object}");
            for change in &own {
                line(out, "      ", change, &change.path[object.len() + 1..]);
            }
        }
    }
    let touches: BTreeSet<&String> = own.iter().flat_map(|c| &c.touches).collect();
    if !touches.is_empty() {
        let touches: Vec<&str> = touches.into_iter().map(String::as_str).collect();
        let _ = writeln!(out, "      read by {}", touches.join(", "));
    }
    if whole.is_none_or(|c| c.kind == ChangeKind::Add)
        && let Some(view) = object.strip_prefix("feature_views.").and_then(|name| new.feature_views.get(name))
    {
        stepped_windows(out, view, &own, whole.is_some());
    }
    out.push('\n');
}

fn line(out: &mut String, indent: &str, change: &Change, what: &str) {
    let sign = match change.kind {
        ChangeKind::Add => '+',
        ChangeKind::Remove => '-',
        ChangeKind::Change => '~',
    };
    let text = if change.text.is_empty() { String::new() } else { format!(": {}", change.text) };
    let breaking = match (change.compatibility, &change.remedy) {
        (Compatibility::Compatible, _) => String::new(),
        (Compatibility::Breaking, None) => "  # BREAKING".to_owned(),
        (Compatibility::Breaking, Some(remedy)) => format!("  # BREAKING: {remedy}"),
    };
    let _ = writeln!(out, "{indent}{sign} {what}{text}{breaking}");
}

/// What the windows of new and changed features may count too much: their tails move in steps.
fn stepped_windows(out: &mut String, view: &FeatureView, changes: &[&Change], is_new: bool) {
    let ViewKind::Windows(features) = &view.kind else { return };
    let changed = |name: &str| {
        let path = format!("feature_views.{}.features.{name}", view.name);
        let is_raised = changes.iter().any(|c| c.path == format!("feature_views.{}.version", view.name));
        let parts = [path.clone(), format!("{path}.window"), format!("{path}.hop")];
        is_new || is_raised || changes.iter().any(|c| parts.contains(&c.path))
    };
    let mut told: BTreeSet<(i64, i64)> = BTreeSet::new();
    for feature in features.iter().filter(|f| changed(&f.name) && f.hop != HOP_EXACT) {
        if let Some(window) = feature.window {
            told.insert((window, feature.hop));
        }
    }
    for (window, hop) in told {
        let _ = writeln!(
            out,
            "      a window of {} moves in steps of {}: it counts at most {} more than its length",
            format_duration(window),
            format_duration(hop),
            percent(hop as f64 / window as f64)
        );
    }
}

fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    if percent >= 0.995 { format!("{percent:.1} %") } else { format!("{percent:.2} %") }
}

fn summary(out: &mut String, changes: &[Change]) {
    if changes.is_empty() {
        out.push_str("No changes. What is defined is what is applied.\n");
        return;
    }
    let mut counts = [0usize; 3];
    let mut objects: BTreeSet<(&str, bool)> = BTreeSet::new();
    for change in changes {
        let is_whole = change.path == change.object;
        if !objects.insert((&change.object, is_whole)) {
            continue;
        }
        counts[match (is_whole, change.kind) {
            (true, ChangeKind::Add) => 0,
            (true, ChangeKind::Remove) => 2,
            _ => 1,
        }] += 1;
    }
    let breaking = changes.iter().filter(|c| c.compatibility == Compatibility::Breaking).count();
    let _ = write!(out, "Plan: {} to add, {} to change, {} to remove", counts[0], counts[1], counts[2]);
    let _ = match breaking {
        0 => writeln!(out, "; all compatible."),
        1 => writeln!(out, "; 1 BREAKING change."),
        n => writeln!(out, "; {n} BREAKING changes."),
    };
}
