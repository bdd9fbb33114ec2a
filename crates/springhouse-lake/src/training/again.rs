//! Making a training set again: a manifest says which definitions, labels, files and table versions it was made from.

use crate::error::{LakeError, Result};
use crate::source::location::FileRef;
use crate::training::request::{
    Availability, LabelSource, Sample, SampleSize, TrainingOutput, TrainingRequest,
};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use springhouse_core::Definitions;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a source consisted of: an entry of a manifest's `sources`, or of [`crate::TrainingShape::inputs`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInputs {
    files: Vec<InputFile>,
    pub(crate) delta_version: Option<i64>,
    pub(crate) stream_delta_version: Option<i64>,
    pub(crate) stream_end: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InputFile {
    name: String,
    bytes: u64,
    of: InputOrigin,
}

/// Whether a file was of the table read in place, or of the stream's own, which has versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InputOrigin {
    Table,
    Stream,
}

impl SourceInputs {
    /// Of the files that the table has now, those that it had.
    pub(crate) fn of(&self, source: &str, found: Vec<FileRef>) -> Result<Vec<FileRef>> {
        let of_table = self.files.iter().filter(|file| file.of == InputOrigin::Table);
        let mut wanted: BTreeMap<&str, u64> = of_table.map(|file| (file.name.as_str(), file.bytes)).collect();
        let mut kept = Vec::new();
        for file in found {
            let Some(bytes) = wanted.remove(file.name.as_str()) else { continue };
            if bytes != file.size {
                let what = format!("`{}` has {} bytes, it had {bytes}", file.name, file.size);
                return Err(changed(source, &what));
            }
            kept.push(file);
        }
        match wanted.keys().next() {
            Some(name) => Err(changed(source, &format!("`{name}` is not there any more"))),
            None => Ok(kept),
        }
    }
}

/// The error of inputs that can't be had again.
pub(crate) fn changed(source: &str, what: &str) -> LakeError {
    LakeError::new("source_changed", format!("source `{source}` can't be read as it was: {what}"))
        .hint("bring the old files back, or make a new training set from what there is now")
}

/// The name of labels that are rows in memory.
pub(crate) const IN_MEMORY: &str = "table";

/// What of a manifest is needed to make its training set again.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    /// The hash of the definitions.
    pub definition_hash: String,
    services: Vec<Service>,
    asked_features: Vec<String>,
    availability: Availability,
    labels: ManifestLabels,
    sources: BTreeMap<String, SourceInputs>,
    rows: u64,
    features: Json,
}

#[derive(Clone, Debug, Deserialize)]
struct Service {
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct ManifestLabels {
    name: String,
    query: Option<String>,
    sample: Option<ManifestSample>,
    hash: String,
    at_column: String,
    time_zone: Option<String>,
    delta_version: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
struct ManifestSample {
    size: String,
    seed: u64,
}

/// Labels as they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelInputs {
    pub(crate) hash: String,
    pub(crate) delta_version: Option<i64>,
}

impl LabelInputs {
    pub(crate) fn check(&self, name: &str, hash: &str) -> Result<()> {
        if self.hash == hash {
            return Ok(());
        }
        let message =
            format!("the labels `{name}` are others than the manifest's: {hash}, not {}", self.hash);
        Err(LakeError::new("labels_changed", message)
            .hint("bring the old file back, or make a new training set from these labels"))
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// `file_unreadable`, `manifest_unreadable`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| LakeError::unreadable(path, &e))?;
        serde_json::from_str(&text).map_err(|error| {
            let message = format!("`{}` is not the manifest of a training set: {error}", path.display());
            LakeError::new("manifest_unreadable", message)
                .hint("give the file that `springhouse train` wrote beside its output, `OUT.manifest.json`")
        })
    }

    /// The request that it was made by; label files named within `project` are looked for there. `definitions` are those of
    /// [`Self::definition_hash`].
    ///
    /// # Errors
    /// `manifest_unreadable`; `labels_changed` for labels that were in memory.
    pub fn request<'a>(
        &self,
        project: &Path,
        definitions: &'a Definitions,
        out: TrainingOutput<'a>,
        memory_budget: u64,
    ) -> Result<TrainingRequest<'a>> {
        let labels = match &self.labels.query {
            Some(query) => LabelSource::Query(query.clone()),
            None => {
                let path = project.join(&self.labels.name);
                if self.labels.name == IN_MEMORY && !path.exists() {
                    let message = "the labels were a table in memory, which is gone";
                    return Err(LakeError::new("labels_changed", message)
                        .hint("write labels to a file first where a training set is to be made again"));
                }
                LabelSource::Path(path)
            }
        };
        let sample = self.labels.sample.as_ref().map(|sample| {
            let size: SampleSize =
                sample.size.parse().map_err(|error: String| LakeError::new("manifest_unreadable", error))?;
            Ok::<_, LakeError>(Sample { size, seed: sample.seed })
        });
        Ok(TrainingRequest {
            services: self.services.iter().map(|service| service.name.clone()).collect(),
            features: self.asked_features.clone(),
            at_column: Some(self.labels.at_column.clone()),
            time_zone: self.labels.time_zone.clone(),
            sample: sample.transpose()?,
            availability: self.availability,
            inputs: self.sources.clone(),
            label_inputs: Some(LabelInputs {
                hash: self.labels.hash.clone(),
                delta_version: self.labels.delta_version,
            }),
            ..TrainingRequest::new(definitions, self.definition_hash.as_str(), "", labels, out, memory_budget)
        })
    }

    /// Holds the manifest of what was made again against this one.
    ///
    /// # Errors
    /// `training_differs`, with the features that do.
    pub fn check(&self, again: &Json) -> Result<()> {
        let of = |features: &Json| -> BTreeMap<String, Json> {
            let features = features.as_array().into_iter().flatten();
            features.map(|f| (f["name"].as_str().unwrap_or_default().to_owned(), f.clone())).collect()
        };
        let (before, now) = (of(&self.features), of(&again["features"]));
        let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        let different: Vec<&str> = names
            .into_iter()
            .filter(|name| before.get(*name) != now.get(*name))
            .map(String::as_str)
            .collect();
        if different.is_empty() && again["rows"] == self.rows {
            return Ok(());
        }
        let message = format!(
            "from the same inputs another training set was made: {} rows, they were {}; features that differ: {}",
            again["rows"],
            self.rows,
            if different.is_empty() { "none".to_owned() } else { different.join(", ") }
        );
        Err(LakeError::new("training_differs", message).hint(
            "the output was written; a file changed without changing its size, or the program's version computes differently",
        ))
    }
}
