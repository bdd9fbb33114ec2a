//! The manifest beside a training set: what it was made from, so that it can be made again, bit for bit. No clock in it.

use crate::error::{LakeError, Result};
use crate::source::scan::Origin;
use crate::training::assemble::FeatureCounts;
use crate::training::labels::Labels;
use crate::training::plan::ServicePlan;
use crate::training::{Availability, OpenSource, TrainingRequest};
use serde_json::{Value as Json, json};
use springhouse_core::ValueStatus;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Where a training set's manifest is.
pub(crate) fn path(out: &Path) -> PathBuf {
    let name = out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    out.with_file_name(format!("{name}.manifest.json"))
}

pub(crate) fn write(out: &Path, manifest: &Json) -> Result<()> {
    let path = path(out);
    let mut text = serde_json::to_string_pretty(manifest)
        .map_err(|e| LakeError::internal(format!("a manifest is not JSON: {e}")))?;
    text.push('\n');
    std::fs::write(&path, text).map_err(|e| LakeError::unwritable(&path, &e))
}

pub(crate) fn manifest(
    request: &TrainingRequest<'_>,
    plan: &ServicePlan<'_>,
    labels: &Labels,
    sources: &BTreeMap<String, OpenSource>,
    rows: u64,
    counts: &[FeatureCounts],
) -> Result<Json> {
    let features: Vec<Json> =
        plan.outputs.iter().zip(counts).map(|(output, counts)| feature(output, counts, rows)).collect();
    let sources: BTreeMap<&String, Json> = sources.iter().map(|(name, open)| (name, source(open))).collect();
    Ok(json!({
        "springhouse": env!("CARGO_PKG_VERSION"),
        "service": request.service,
        "definition_hash": request.definition_hash,
        "availability": match request.availability {
            Availability::Known => "known",
            Availability::Event => "event",
        },
        "labels": {
            "name": labels.name,
            "rows": rows,
            "hash": labels.hash()?,
            "at_column": labels.schema.field(labels.at_column).name(),
            "delta_version": labels.version,
        },
        "rows": rows,
        "sources": sources,
        "features": features,
    }))
}

fn feature(output: &crate::training::plan::OutputFeature, counts: &FeatureCounts, rows: u64) -> Json {
    let of = |status: ValueStatus| counts.by_status[status as usize];
    // Six digits: enough to compare, few enough to read.
    let rate = |count: u64| (count as f64 / rows.max(1) as f64 * 1e6).round() / 1e6;
    json!({
        "name": output.name,
        "feature": output.reference.to_string(),
        "type": output.value_type.to_string(),
        "rows": {
            "fresh": of(ValueStatus::Fresh),
            "stale": of(ValueStatus::Stale),
            "expired": of(ValueStatus::Expired),
            "missing": of(ValueStatus::Missing),
            "null": of(ValueStatus::Null),
            "overflow": of(ValueStatus::Overflow),
            "over_cap": of(ValueStatus::OverCap),
        },
        "null_rate": rate(counts.nulls),
        "default_rate": rate(counts.defaults),
        "expired_rate": rate(of(ValueStatus::Expired)),
        "stale_rate": rate(of(ValueStatus::Stale)),
        "missing_rate": rate(of(ValueStatus::Missing)),
    })
}

fn source(open: &OpenSource) -> Json {
    let files: Vec<Json> = open
        .files
        .files
        .iter()
        .map(|f| {
            let stream = (f.origin == Origin::Stream).then_some("stream");
            json!({ "name": f.file.name, "bytes": f.file.size, "rows": f.row_count(), "of": stream.unwrap_or("table") })
        })
        .collect();
    json!({
        "files": files,
        "delta_version": open.files.table_version,
        "stream_delta_version": open.files.stream_version,
        "stream_end": open.cut.stream_end,
        "rows_read": open.counts.rows_read.load(Ordering::Relaxed),
        "rows_skipped": open.counts.skipped(),
    })
}
