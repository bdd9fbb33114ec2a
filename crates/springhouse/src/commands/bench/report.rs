//! What was measured, for people and for programs.

use super::LoadArgs;
use super::run::Measured;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fmt::Write;

const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// The longest bar of the histogram, in characters.
const BAR_WIDTH: f64 = 40.0;

pub(super) fn table(load: &LoadArgs, measured: &Measured, rows: u64) -> String {
    let requests = measured.latencies.len();
    let per_second = requests as f64 / measured.seconds;
    let mut out = format!("{requests} requests in {:.1} s: {per_second:.0}/s", measured.seconds);
    if load.rate > 0.0 {
        let _ = write!(
            out,
            " (planned {:.0}/s{})",
            load.rate,
            if load.burst.is_some() { " and bursts" } else { "" }
        );
    }
    if rows > 1 {
        let _ = write!(out, ", {:.0} rows/s", per_second * rows as f64);
    }
    let _ = writeln!(out, ", {} connections", load.connections);
    let _ = write!(out, "latency ");
    for (name, quantile) in QUANTILES {
        let _ = write!(out, "  {name} {}", milliseconds(measured.latencies.value_at_quantile(quantile)));
    }
    out.push('\n');
    histogram(&mut out, measured);
    shares(&mut out, "answers", &measured.levels, requests);
    shares(&mut out, "failures", &measured.failures, requests);
    let shadow = &measured.shadow;
    if shadow.compared + shadow.unanswered > 0 {
        let _ = writeln!(
            out,
            "shadow    {} compared, {} different, {} not answered",
            shadow.compared, shadow.different, shadow.unanswered
        );
        for (feature, count) in &shadow.features {
            let _ = writeln!(out, "  {feature:<30} differs in {count}");
        }
    }
    out.truncate(out.trim_end().len());
    out
}

fn milliseconds(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1000.0)
}

/// A line for each doubling of the latency.
fn histogram(out: &mut String, measured: &Measured) {
    let buckets: Vec<_> = measured
        .latencies
        .iter_log(64, 2.0)
        .map(|bucket| (bucket.value_iterated_to(), bucket.count_since_last_iteration()))
        .skip_while(|(_, count)| *count == 0)
        .collect();
    let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    for (up_to, count) in buckets {
        let bar = "#".repeat((count as f64 / most as f64 * BAR_WIDTH).ceil() as usize);
        let _ = writeln!(out, "  <= {:>12} {count:>10} {bar}", milliseconds(up_to));
    }
}

fn shares(out: &mut String, title: &str, counts: &BTreeMap<String, u64>, of: u64) {
    if counts.is_empty() {
        return;
    }
    let _ = write!(out, "{title:<8}");
    for (word, count) in counts {
        let word = if word.is_empty() { "ok" } else { word };
        let _ = write!(out, "  {word} {count} ({:.2} %)", *count as f64 * 100.0 / of as f64);
    }
    out.push('\n');
}

pub(super) fn json(load: &LoadArgs, measured: &Measured, rows: u64) -> Json {
    let per_second = measured.latencies.len() as f64 / measured.seconds;
    let at = |quantile: f64| measured.latencies.value_at_quantile(quantile);
    json!({
        "requests": measured.latencies.len(), "failed": measured.failed(), "seconds": measured.seconds,
        "requests_per_second": per_second, "rows_per_second": per_second * rows as f64,
        "connections": load.connections, "rate": load.rate,
        "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": measured.latencies.max(),
        "levels": measured.levels, "failures": measured.failures,
        "shadow": {"compared": measured.shadow.compared, "different": measured.shadow.different,
                   "unanswered": measured.shadow.unanswered, "features": measured.shadow.features},
    })
}
