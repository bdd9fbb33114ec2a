//! Which entity a row is about, as 128 bits: what partitions are made by and what labels and events meet on.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Date32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use springhouse_core::key::{ENTITY_KEY_BYTES_MAX, push_bool, push_bytes, push_i32, push_i64};
use springhouse_core::{EntityKey, ValueType};
use std::ops::Range;

/// An entity's identity.
pub(crate) type Identity = u128;

pub(crate) use springhouse_core::key::{identity as identity_of, spread as mix};

/// The encoded key of each row; None where a part is null or the key is too long. The bytes are those of
/// [`springhouse_kernel::encode_keys`] (a test compares them), made without an allocation per row.
pub(crate) fn for_each_key(
    columns: &[ArrayRef],
    keys: &[(String, ValueType)],
    rows: usize,
    mut each: impl FnMut(usize, Option<&[u8]>),
) {
    let mut buffer = Vec::with_capacity(64);
    let has_nulls = columns.iter().any(|c| c.null_count() > 0);
    for row in 0..rows {
        if has_nulls && columns.iter().any(|c| c.is_null(row)) {
            each(row, None);
            continue;
        }
        buffer.clear();
        for (column, (_, value_type)) in columns.iter().zip(keys) {
            match value_type {
                ValueType::Bool => push_bool(&mut buffer, column.as_boolean().value(row)),
                ValueType::Int32 => push_i32(&mut buffer, column.as_primitive::<Int32Type>().value(row)),
                ValueType::Date => push_i32(&mut buffer, column.as_primitive::<Date32Type>().value(row)),
                ValueType::Int64 => push_i64(&mut buffer, column.as_primitive::<Int64Type>().value(row)),
                ValueType::Timestamp => {
                    push_i64(&mut buffer, column.as_primitive::<TimestampMicrosecondType>().value(row));
                }
                ValueType::Bytes => push_bytes(&mut buffer, column.as_binary::<i32>().value(row)),
                _ => push_bytes(&mut buffer, column.as_string::<i32>().value(row).as_bytes()),
            }
        }
        each(row, (buffer.len() <= ENTITY_KEY_BYTES_MAX).then_some(&buffer));
    }
}

/// The identity of each row, in order; None where there is no key.
pub(crate) fn for_each_identity(
    columns: &[ArrayRef],
    keys: &[(String, ValueType)],
    rows: usize,
    mut each: impl FnMut(usize, Option<Identity>),
) {
    if let ([column], [(_, ValueType::Int64)]) = (columns, keys) {
        let of = |v: i64| identity_of(&(v as u64 ^ (1 << 63)).to_be_bytes());
        let column = column.as_primitive::<Int64Type>();
        if column.null_count() == 0 {
            column.values().iter().enumerate().for_each(|(row, v)| each(row, Some(of(*v))));
        } else {
            column.iter().enumerate().for_each(|(row, v)| each(row, v.map(of)));
        }
        return;
    }
    for_each_key(columns, keys, rows, |row, key| each(row, key.map(identity_of)));
}

/// The identities of rows, where neighbours have the same told once for all of them.
pub(crate) fn for_each_run(
    columns: &[ArrayRef],
    keys: &[(String, ValueType)],
    rows: usize,
    mut each: impl FnMut(Range<usize>, Option<Identity>),
) {
    if let ([column], [(_, ValueType::Int64)]) = (columns, keys)
        && column.null_count() == 0
    {
        let mut start = 0;
        for run in column.as_primitive::<Int64Type>().values().chunk_by(|a, b| a == b) {
            each(start..start + run.len(), Some(identity_of(&(run[0] as u64 ^ (1 << 63)).to_be_bytes())));
            start += run.len();
        }
        return;
    }
    let mut run: Option<(usize, Option<Identity>)> = None;
    for_each_identity(columns, keys, rows, |row, found| match run {
        Some((_, same)) if same == found => {}
        _ => {
            if let Some((start, identity)) = run.replace((row, found)) {
                each(start..row, identity);
            }
        }
    });
    if let Some((start, identity)) = run {
        each(start..rows, identity);
    }
}

/// A set of identities that may say yes too often, never no: one bit per hash.
#[derive(Debug)]
pub(crate) struct Presence {
    bits: Vec<u64>,
    shift: u32,
}

impl Presence {
    /// For about `count` identities: 16 bits each, at most 64 MiB.
    pub(crate) fn with_capacity(count: u64) -> Self {
        let log2 = (count.max(4) * 16).next_power_of_two().trailing_zeros().clamp(6, 29);
        Self { bits: vec![0; 1 << (log2 - 6)], shift: 64 - log2 }
    }

    pub(crate) fn insert(&mut self, identity: Identity) {
        let bit = mix(identity) >> self.shift;
        self.bits[(bit >> 6) as usize] |= 1 << (bit & 63);
    }

    pub(crate) fn may_hold(&self, identity: Identity) -> bool {
        let bit = mix(identity) >> self.shift;
        self.bits[(bit >> 6) as usize] & (1 << (bit & 63)) != 0
    }

    /// Leaves no more bits than what is in it needs: a small filter stays in the processor's cache.
    pub(crate) fn shrink(&mut self) {
        let set = |bits: &[u64]| bits.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        // Bits whose hashes differ in the last bit that counts become one.
        let folded = |word: u64| (0..32).fold(0, |half, bit| half | (word >> (2 * bit) & 3).min(1) << bit);
        while self.bits.len() > 1 && set(&self.bits) * 32 <= self.bits.len() as u64 * 64 {
            self.bits = self.bits.chunks(2).map(|pair| folded(pair[0]) | folded(pair[1]) << 32).collect();
            self.shift += 1;
        }
    }

    /// A set of these keys.
    pub(crate) fn of(keys: &[EntityKey]) -> Self {
        let mut set = Self::with_capacity(keys.len() as u64);
        keys.iter().for_each(|key| set.insert(identity_of(key.as_bytes())));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn short_keys_are_their_own_identity() {
        let keys: Vec<Vec<u8>> = vec![
            vec![],
            vec![0],
            vec![0, 0],
            vec![1],
            vec![0xff; 15],
            vec![0; 15],
            vec![0xff; 16],
            vec![0; 16],
            vec![0; 440],
        ];
        let all: HashSet<Identity> = keys.iter().map(|k| identity_of(k)).collect();
        assert_eq!(all.len(), keys.len());
    }

    #[test]
    fn runs_are_the_rows_in_order() {
        use arrow::array::{Int64Array, StringArray};
        use std::sync::Arc;
        let numbers = [Some(1), Some(1), None, None, Some(-5), Some(1), Some(i64::MIN), Some(i64::MIN)];
        let whole: Vec<Option<i64>> = numbers.iter().copied().filter(Option::is_some).collect();
        let texts = numbers.map(|n| n.map(|n| format!("a key that is {n}")));
        let cases: [(ArrayRef, ValueType); 4] = [
            (Arc::new(Int64Array::from(numbers.to_vec())), ValueType::Int64),
            (Arc::new(Int64Array::from(whole)), ValueType::Int64),
            (Arc::new(StringArray::from(texts.to_vec())), ValueType::String),
            (Arc::new(Int64Array::from(Vec::<i64>::new())), ValueType::Int64),
        ];
        for (column, value_type) in cases {
            let (rows, keys) = (column.len(), [("k".to_owned(), value_type)]);
            let columns = [column];
            let (mut expected, mut found, mut runs) = (Vec::new(), Vec::new(), Vec::new());
            for_each_identity(&columns, &keys, rows, |_, identity| expected.push(identity));
            for_each_run(&columns, &keys, rows, |range, identity| {
                assert_eq!(range.start, found.len());
                found.extend(range.map(|_| identity));
                runs.push(identity);
            });
            assert_eq!(found, expected);
            assert!(runs.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn a_presence_that_shrank_denies_what_one_of_that_size_denies() {
        let of = |n: u64| identity_of(&n.to_be_bytes());
        let (mut large, mut small) = (Presence::with_capacity(100_000), Presence::with_capacity(1000));
        (0..1000).for_each(|n| [&mut large, &mut small].into_iter().for_each(|set| set.insert(of(n))));
        large.shrink();
        assert_eq!((large.shift, &large.bits), (small.shift, &small.bits));
        let mut empty = Presence::with_capacity(1000);
        empty.shrink();
        assert_eq!(empty.bits, [0]);
    }

    #[test]
    fn a_presence_never_denies_what_is_in_it() {
        let mut set = Presence::with_capacity(1000);
        let of = |n: u64| identity_of(&n.to_be_bytes());
        (0..1000).for_each(|n| set.insert(of(n)));
        assert!((0..1000).all(|n| set.may_hold(of(n))));
        let wrong = (1000..11_000).filter(|n| set.may_hold(of(*n))).count();
        assert!(wrong < 1500, "{wrong} of 10000 others were said to be present");
    }
}
