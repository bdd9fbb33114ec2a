//! The manifest beside a training set: what it was made from, so that it can be made again, bit for bit. No clock in it.

use crate::error::{LakeError, Result};
use crate::source::scan::Origin;
use crate::training::assemble::FeatureCounts;
use crate::training::request::TrainingRequest;
use crate::training::{Made, OpenSource, Prepared};
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

pub(crate) fn manifest(request: &TrainingRequest<'_>, prepared: &Prepared<'_>, made: &Made) -> Result<Json> {
    let Prepared { plan, labels, sources, .. } = prepared;
    let rows = made.rows;
    let features: Vec<Json> =
        plan.outputs.iter().zip(&made.counts).map(|(output, counts)| feature(output, counts, rows)).collect();
    let sources: BTreeMap<&String, Json> = sources.iter().map(|(name, open)| (name, source(open))).collect();
    let services: Vec<Json> = plan
        .services
        .iter()
        .map(|service| {
            let columns: serde_json::Map<String, Json> =
                service.columns.iter().map(|(own, column)| (own.clone(), json!(column))).collect();
            json!({ "name": service.service, "columns": columns })
        })
        .collect();
    let sample = request.sample.map(|sample| json!({ "size": sample.size.to_string(), "seed": sample.seed }));
    Ok(json!({
        "springhouse": env!("CARGO_PKG_VERSION"),
        "service": request.services.join("+"),
        "services": services,
        "asked_features": request.features,
        "definition_hash": request.definition_hash,
        "availability": request.availability,
        "labels": {
            "name": labels.name,
            "query": request.labels.query(),
            "sample": sample,
            "rows": rows,
            "hash": labels.hash()?,
            "at_column": labels.schema.field(labels.at_column).name(),
            "time_zone": request.time_zone,
            "delta_version": labels.table.version,
        },
        "rows": rows,
        "format": request.out.format_name(),
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

/// The files and versions of the sources: what does not depend on rows.
pub(crate) fn inputs(sources: &BTreeMap<String, OpenSource>) -> Json {
    let inputs: BTreeMap<&String, Json> = sources.iter().map(|(name, open)| (name, input(open))).collect();
    json!(inputs)
}

fn source(open: &OpenSource) -> Json {
    let mut source = input(open);
    source["rows_read"] = json!(open.counts.rows_read.load(Ordering::Relaxed));
    source["rows_skipped"] = json!(open.counts.skipped());
    source
}

fn input(open: &OpenSource) -> Json {
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
    })
}
