//! A sample of the labels that is the same every time: a row is taken when the hash of its number is small enough.

use crate::training::request::{Sample, SampleSize};
use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;

/// Takes rows whose hash is below a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampler {
    seed: u64,
    /// The greatest hash that is taken.
    limit: u64,
}

/// A one-to-one mix of the row's number, so that no two rows have one hash and any limit takes an exact number of rows.
fn hash(seed: u64, row: u64) -> u64 {
    let mut z = row.wrapping_add(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix(z)
}

/// The finaliser of splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Sampler {
    /// `rows` gives the number of labels there are; asked for only where the size is a number. None = all are taken.
    pub(crate) fn new<E>(sample: Sample, rows: impl FnOnce() -> Result<u64, E>) -> Result<Option<Self>, E> {
        let seed = sample.seed;
        match sample.size {
            SampleSize::Share(share) if share >= 1.0 => Ok(None),
            // 2^64 as a float, exactly.
            SampleSize::Share(share) => {
                Ok(Some(Self { seed, limit: (share * 18_446_744_073_709_551_616.0) as u64 }))
            }
            SampleSize::Rows(wanted) => {
                let rows = rows()?;
                Ok((wanted < rows).then(|| Self { seed, limit: nth_hash(seed, rows, wanted) }))
            }
        }
    }

    /// Which of `count` rows from number `first` on are taken.
    pub(crate) fn mask(&self, first: u64, count: usize) -> BooleanArray {
        let taken = |offset: usize| hash(self.seed, first + offset as u64) <= self.limit;
        BooleanArray::new(BooleanBuffer::collect_bool(count, taken), None)
    }
}

/// The `wanted`-th smallest hash (from 1) of the rows `0..rows`: found digit by digit, 16 bits at a time, so that it takes
/// half a megabyte whatever the number of rows.
fn nth_hash(seed: u64, rows: u64, wanted: u64) -> u64 {
    const DIGIT_BITS: u32 = 16;
    let mut prefix = 0u64;
    let mut left = wanted;
    for shift in [48, 32, 16, 0] {
        let mut counts = vec![0u64; 1 << DIGIT_BITS];
        let above = shift + DIGIT_BITS;
        for row in 0..rows {
            let hash = hash(seed, row);
            if above == 64 || hash >> above == prefix {
                counts[(hash >> shift) as usize & 0xffff] += 1;
            }
        }
        let mut digit = 0;
        while counts[digit] < left {
            left -= counts[digit];
            digit += 1;
        }
        prefix = prefix << DIGIT_BITS | digit as u64;
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(size: SampleSize, seed: u64, rows: u64) -> Vec<u64> {
        let sampler = Sampler::new(Sample { size, seed }, || Ok::<_, ()>(rows)).unwrap();
        let Some(sampler) = sampler else { return (0..rows).collect() };
        // In pieces: what is taken depends on the number of the row alone.
        let pieces = (0..rows).step_by(7).flat_map(|first| {
            let mask = sampler.mask(first, 7.min(rows - first) as usize);
            mask.values().set_indices().map(|at| first + at as u64).collect::<Vec<_>>()
        });
        pieces.collect()
    }

    #[test]
    fn a_number_of_rows_is_taken_exactly() {
        for rows in [1, 2, 100, 5_000] {
            for wanted in [1, 2, 99, 100, 4_999, 5_000, 6_000] {
                for seed in [0, 1, u64::MAX] {
                    let got = taken(SampleSize::Rows(wanted), seed, rows).len() as u64;
                    assert_eq!(got, wanted.min(rows), "{wanted} of {rows}, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn those_taken_are_the_ones_with_the_smallest_hashes() {
        let mut hashes: Vec<(u64, u64)> = (0..1_000).map(|row| (hash(7, row), row)).collect();
        hashes.sort_unstable();
        let mut naive: Vec<u64> = hashes[..137].iter().map(|(_, row)| *row).collect();
        naive.sort_unstable();
        assert_eq!(taken(SampleSize::Rows(137), 7, 1_000), naive);
    }

    #[test]
    fn a_share_is_about_that_share_and_a_larger_one_holds_a_smaller_one() {
        let small = taken(SampleSize::Share(0.01), 3, 100_000);
        let large = taken(SampleSize::Share(0.05), 3, 100_000);
        assert!((800..1_200).contains(&small.len()), "{}", small.len());
        assert!((4_700..5_300).contains(&large.len()), "{}", large.len());
        assert!(small.iter().all(|row| large.binary_search(row).is_ok()));
        assert_ne!(small, taken(SampleSize::Share(0.01), 4, 100_000), "another seed takes other rows");
        assert_eq!(taken(SampleSize::Share(1.0), 3, 50).len(), 50);
    }
}
