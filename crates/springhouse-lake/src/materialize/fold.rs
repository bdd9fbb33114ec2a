//! One bucket of events folded into a state per entity.

use crate::error::{LakeError, Result};
use crate::materialize::cursor::JobNote;
use crate::training::gather::{EVENT_TIME, EventGroup};
use crate::training::plan::ViewJob;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int64Type};
use hashbrown::HashMap;
use springhouse_core::{EntityKey, Micros};
use springhouse_expr::ProjectedRows;
use springhouse_kernel::{EntityState, READ_BACK, Stamp};

/// A bucket, folded.
pub(crate) struct Fold {
    /// Rows that went into states.
    pub rows: u64,
    /// One state per entity.
    pub deltas: Vec<(EntityKey, EntityState)>,
    /// Event times and identities of the rows.
    pub event_ids: Vec<(Micros, u128)>,
}

/// Folds the rows of a bucket; rows marked as loaded before only say which identities are known. `states` false gives
/// only the identities.
pub(crate) fn fold_bucket(
    job: &ViewJob<'_>,
    group: &EventGroup<'_>,
    rows: &RecordBatch,
    plan: &JobNote,
    states: bool,
) -> Result<Fold> {
    let int64 = |column: usize| rows.column(column).as_primitive::<Int64Type>().values();
    let absent = || LakeError::internal("a bucket has no stamps");
    let known_at = group.known_at_column().map(int64).ok_or_else(absent)?;
    let seq = group.seq_column().map(int64).ok_or_else(absent)?;
    let event_time = int64(EVENT_TIME);
    let ids = group.event_id_column().map(|c| rows.column(c).as_primitive::<Decimal128Type>());
    let id_of = |row: usize| ids.and_then(|ids| ids.is_valid(row).then(|| ids.value(row) as u128));
    let key_column = group.key_column().ok_or_else(|| LakeError::internal("a bucket has no keys"))?;
    let keys = rows.column(key_column).as_binary::<i32>();
    let was_loaded = |row: usize| keys.is_null(row);
    let event_ids =
        (0..rows.num_rows()).filter_map(|row| id_of(row).map(|id| (event_time[row], id))).collect();
    let mut fold = Fold { rows: 0, deltas: Vec::new(), event_ids };
    if !states {
        return Ok(fold);
    }
    let kept = first_of_each_id(rows.num_rows(), &was_loaded, &id_of, |row| (known_at[row], seq[row]));
    let inputs = ProjectedRows {
        rows: Vec::new(),
        key_columns: Vec::new(),
        inputs: group.inputs_of(0).iter().map(|c| rows.column(*c).clone()).collect(),
    };
    let stamp_of = |row: usize| Stamp { event_time: event_time[row], known_at: known_at[row], seq: seq[row] };
    fold.rows = kept.iter().filter(|kept| **kept).count() as u64;
    let readable = if job.plan.is_latest() && !job.plan.takes_back() {
        readable_rows(&kept, &|row| keys.value(row), &stamp_of, plan.until)
    } else {
        (0..rows.num_rows()).filter(|row| kept[*row]).collect()
    };
    let mut states: HashMap<&[u8], EntityState, ahash::RandomState> = HashMap::default();
    for row in readable {
        let event = job.projection.event(&inputs, row, stamp_of(row));
        let state = states.entry(keys.value(row)).or_insert_with(|| job.plan.empty());
        job.plan.insert(state, event, plan.until);
    }
    fold.deltas.reserve(states.len());
    for (key, state) in states {
        let key = EntityKey::from_encoded(key)
            .map_err(|e| LakeError::internal(format!("a key that was put aside is no key: {e}")))?;
        fold.deltas.push((key, state));
    }
    // Stores write in key order.
    fold.deltas.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(fold)
}

/// The rows of a latest view that some read at or after `until - READ_BACK` can see: of each entity the greatest that is
/// visible at that moment, and all that become visible later. The kernel would drop the others one by one.
fn readable_rows<'a>(
    kept: &[bool],
    key_of: &dyn Fn(usize) -> &'a [u8],
    stamp_of: &dyn Fn(usize) -> Stamp,
    until: Micros,
) -> Vec<usize> {
    let first_read = until.saturating_sub(READ_BACK);
    let mut greatest: HashMap<&[u8], (Stamp, usize), ahash::RandomState> = HashMap::default();
    let mut readable = Vec::new();
    for row in (0..kept.len()).filter(|row| kept[*row]) {
        let stamp = stamp_of(row);
        if !stamp.is_visible_to_latest(first_read) {
            readable.push(row);
            continue;
        }
        let held = greatest.entry(key_of(row)).or_insert((stamp, row));
        if stamp > held.0 {
            *held = (stamp, row);
        }
    }
    readable.extend(greatest.into_values().map(|(_, row)| row));
    readable.sort_unstable();
    readable
}

/// Which rows count: those that were not loaded before, and of each identity the one with the least (known_at, seq), unless
/// the identity was loaded before.
fn first_of_each_id(
    rows: usize,
    was_loaded: &dyn Fn(usize) -> bool,
    id_of: &dyn Fn(usize) -> Option<u128>,
    order: impl Fn(usize) -> (i64, i64),
) -> Vec<bool> {
    let mut kept: Vec<bool> = (0..rows).map(|row| !was_loaded(row)).collect();
    let mut first: HashMap<u128, Option<usize>, ahash::RandomState> = HashMap::default();
    for row in 0..rows {
        let Some(id) = id_of(row) else { continue };
        if was_loaded(row) {
            // Whatever came before it in this bucket counts no longer.
            if let Some(Some(other)) = first.insert(id, None) {
                kept[other] = false;
            }
            continue;
        }
        match first.get(&id).copied() {
            None => {
                first.insert(id, Some(row));
            }
            Some(None) => kept[row] = false,
            Some(Some(other)) if order(row) < order(other) => {
                kept[other] = false;
                first.insert(id, Some(row));
            }
            Some(Some(_)) => kept[row] = false,
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_counts_once_and_not_again_when_it_was_loaded_before() {
        // (was loaded, id, known_at)
        let rows = [
            (false, Some(1), 5),
            (false, Some(1), 3),
            (false, Some(1), 4),
            (false, Some(2), 1),
            (true, Some(2), 9),
            (false, Some(2), 0),
            (false, None, 0),
            (true, None, 0),
        ];
        let kept = first_of_each_id(rows.len(), &|r| rows[r].0, &|r| rows[r].1, |r| (rows[r].2, 0));
        assert_eq!(kept, [false, true, false, false, false, false, true, false]);
    }
}
