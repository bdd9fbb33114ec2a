//! Answers for a few keys, computed again from history: what `verify` compares online answers with.

use crate::error::{LakeError, Result};
use crate::identity::{Presence, identity_of};
use crate::lake::Lake;
use crate::source::scan::{Origin, ScanSpec, SourceRows};
use crate::spill::{Budget, Partitions, SpillFile};
use crate::training::gather::{EventGroup, Extras, Keep, Payload};
use crate::training::join::{label_columns, label_schema, load_partition};
use crate::training::plan::view_job;
use crate::training::{Cut, blocking, threads};
use springhouse_core::definition::FeatureView;
use springhouse_core::{Definitions, EntityKey, Micros};
use springhouse_kernel::{EntityAnswer, value_at};
use std::sync::Arc;

/// Bytes of events in memory before they are spilled.
const BUDGET: u64 = 256 << 20;

impl Lake {
    /// Raw answers (before TTL policy, after nothing) for a few keys of one view, one moment each, recomputed from history:
    /// what `verify` compares with. `known` availability.
    ///
    /// # Errors
    /// As [`Lake::training_set`], without those of labels.
    pub async fn recompute(
        &self,
        definitions: &Definitions,
        view: &FeatureView,
        keys: &[EntityKey],
        at: &[Micros],
        cut: &Cut,
    ) -> Result<Vec<EntityAnswer>> {
        if keys.len() != at.len() {
            return Err(LakeError::internal("recompute needs one moment per key"));
        }
        let job = view_job(definitions, view)?;
        let source = self.open_source(&job, cut.clone(), None).await?;
        blocking(|| {
            let budget = Arc::new(Budget::new(BUDGET));
            let file = Arc::new(SpillFile::new(self.tables()));
            let labels = Partitions::new(1, label_schema(), &budget, &file);
            let asked = keys.iter().zip(0..).zip(at);
            let columns =
                label_columns(asked.map(|((key, row), at)| (identity_of(key.as_bytes()) as i128, row, *at)))?;
            labels.push(&columns, &vec![0; keys.len()])?;
            let group = EventGroup::new(&[&job], vec![0], Payload::Inputs, Extras::all(job.source, false))?;
            let spec = ScanSpec {
                offsets: 0..cut.stream_end.unwrap_or(i64::MAX),
                with_ids: job.source.event_id.is_some(),
                ..ScanSpec::all(group.source_columns())
            };
            let events = Partitions::new(1, Arc::clone(group.schema()), &budget, &file);
            let present = Presence::of(keys);
            let admits = |rows: &SourceRows, row: usize| source.admits(rows, row);
            group.gather(
                &source.files,
                &spec,
                threads(),
                Some(&present),
                &|_, file| {
                    file.origin == Origin::Stream || source.cursor.as_ref().is_none_or(|c| c.knows(file))
                },
                Keep { admits: source.cursor.is_some().then_some(&admits), ..Keep::ALL },
                &source.counts,
                &|_| Ok(()),
                &events,
                None,
            )?;
            let joined = load_partition(&labels, &events, 0)?;
            let columns = joined.answer(&job.plan, &group, group.inputs_of(0));
            let features = job.plan.features();
            let answer = |row: usize| EntityAnswer {
                values: columns
                    .values
                    .iter()
                    .zip(features)
                    .map(|(array, (_, value_type))| value_at(array, row, value_type))
                    .collect(),
                statuses: columns.statuses.iter().map(|of_feature| of_feature[row]).collect(),
                event_time: columns.event_times.as_ref().and_then(|times| times[row]),
            };
            Ok((0..keys.len()).map(answer).collect())
        })
    }
}
