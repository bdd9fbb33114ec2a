//! HyperLogLog: about how many distinct values, in 2^precision registers.
//!
//! Registers: Flajolet, Fusy, Gandouet, Meunier, "HyperLogLog", 2007. Estimate: O. Ertl, "New cardinality estimation
//! algorithms for HyperLogLog sketches", 2017, arXiv 1702.01284, algorithm 6; it needs no correction tables and only
//! operations that IEEE 754 rounds exactly, so every machine gives the same number.

use springhouse_core::Value;

/// Registers, sparse while few are set. Which form is held depends on the number set alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DistinctSketch {
    /// (register, rank), ascending by register.
    Sparse(Vec<(u16, u8)>),
    /// One rank per register.
    Dense(Vec<u8>),
}

/// Up to this part of the registers the sparse form is smaller.
fn sparse_max(precision: u8) -> usize {
    (1usize << precision) / 4
}

/// The register and rank of a value.
pub(crate) fn register_of(value: &Value, precision: u8, scratch: &mut Vec<u8>) -> (u16, u8) {
    scratch.clear();
    crate::codec::put_value(scratch, value);
    let hash = xxhash_rust::xxh3::xxh3_64(scratch);
    let register = (hash >> (64 - u32::from(precision))) as u16;
    // The sentinel bit bounds the rank at 64 - precision + 1.
    let rest = hash << precision | 1 << (precision - 1);
    (register, rest.leading_zeros() as u8 + 1)
}

impl DistinctSketch {
    /// Nothing seen.
    pub(crate) fn empty() -> Self {
        Self::Sparse(Vec::new())
    }

    /// Adds a value; false when that leaves the registers as they were.
    pub(crate) fn insert(&mut self, value: &Value, precision: u8) -> bool {
        let mut scratch = Vec::with_capacity(32);
        let (register, rank) = register_of(value, precision, &mut scratch);
        self.raise(register, rank, precision)
    }

    fn raise(&mut self, register: u16, rank: u8, precision: u8) -> bool {
        let held = match self {
            Self::Dense(ranks) => &mut ranks[usize::from(register)],
            Self::Sparse(set) => match set.binary_search_by_key(&register, |pair| pair.0) {
                Ok(at) => &mut set[at].1,
                Err(at) => {
                    set.insert(at, (register, rank));
                    self.densify(precision);
                    return true;
                }
            },
        };
        let is_higher = *held < rank;
        *held = (*held).max(rank);
        is_higher
    }

    fn densify(&mut self, precision: u8) {
        if let Self::Sparse(set) = self
            && set.len() > sparse_max(precision)
        {
            let mut ranks = vec![0u8; 1 << precision];
            set.iter().for_each(|(register, rank)| ranks[usize::from(*register)] = *rank);
            *self = Self::Dense(ranks);
        }
    }

    /// Adds all that another has seen.
    pub(crate) fn merge(&mut self, other: &Self, precision: u8) {
        match (&mut *self, other) {
            (Self::Dense(ranks), Self::Dense(more)) => {
                ranks.iter_mut().zip(more).for_each(|(held, rank)| *held = (*held).max(*rank));
            }
            (_, Self::Sparse(more)) => {
                for (register, rank) in more {
                    self.raise(*register, *rank, precision);
                }
            }
            (Self::Sparse(set), Self::Dense(more)) => {
                let mut ranks = more.clone();
                for (register, rank) in set.iter() {
                    let held = &mut ranks[usize::from(*register)];
                    *held = (*held).max(*rank);
                }
                *self = Self::Dense(ranks);
            }
        }
    }

    /// True before the first value.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Sparse(set) if set.is_empty())
    }

    /// The registers that are set, ascending; every rank is at least 1.
    pub(crate) fn registers(&self) -> Vec<(u16, u8)> {
        match self {
            Self::Sparse(set) => set.clone(),
            Self::Dense(ranks) => {
                let set = ranks.iter().enumerate().filter(|(_, rank)| **rank > 0);
                set.map(|(register, rank)| (register as u16, *rank)).collect()
            }
        }
    }

    /// The sketch with these registers; None when they are not ascending or out of range.
    pub(crate) fn from_registers(registers: Vec<(u16, u8)>, precision: u8) -> Option<Self> {
        let ascending = registers.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let in_range = |(register, rank): &(u16, u8)| {
            usize::from(*register) < 1 << precision && (1..=65 - precision).contains(rank)
        };
        if !ascending || !registers.iter().all(in_range) {
            return None;
        }
        let mut sketch = Self::Sparse(registers);
        sketch.densify(precision);
        Some(sketch)
    }

    /// About how many distinct values were seen.
    pub(crate) fn estimate(&self, precision: u8) -> i64 {
        let (registers, ranks_max) = (1usize << precision, usize::from(64 - precision));
        let mut histogram = vec![0u32; ranks_max + 2];
        let set = self.registers();
        histogram[0] = (registers - set.len()) as u32;
        set.iter().for_each(|(_, rank)| histogram[usize::from(*rank)] += 1);
        let m = registers as f64;
        let mut z = m * tau(1.0 - f64::from(histogram[ranks_max + 1]) / m);
        for count in histogram[1..=ranks_max].iter().rev() {
            z = 0.5 * (z + f64::from(*count));
        }
        z += m * sigma(f64::from(histogram[0]) / m);
        // 1 / (2 ln 2)
        let alpha = 0.721_347_520_444_481_7;
        (alpha * m * (m / z)).round() as i64
    }
}

fn sigma(x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut x, mut y, mut z) = (x, 1.0, x);
    loop {
        x *= x;
        let previous = z;
        z += x * y;
        y += y;
        if z == previous {
            return z;
        }
    }
}

fn tau(x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut x, mut y, mut z) = (x, 1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let previous = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == previous {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl Iterator<Item = i64>, precision: u8) -> DistinctSketch {
        let mut sketch = DistinctSketch::empty();
        for v in values {
            sketch.insert(&Value::Int64(v), precision);
        }
        sketch
    }

    #[test]
    fn the_estimate_keeps_its_declared_error() {
        for precision in [4u8, 10, 12, 14, 16] {
            let error = 1.04 / f64::from(1u32 << precision).sqrt();
            for count in [0i64, 1, 2, 10, 100, 1_000, 20_000, 200_000] {
                let estimate = of(0..count, precision).estimate(precision);
                let off = (estimate - count).abs() as f64;
                assert!(off <= 4.0 * error * count as f64 + 1e-9, "p={precision} n={count}: {estimate}");
            }
        }
    }

    #[test]
    fn merging_is_the_sketch_of_the_union_whatever_the_form() {
        for precision in [4u8, 8, 12] {
            for (a, b) in [(0..3, 2..5), (0..10_000, 5..8), (7..9, 0..10_000), (0..9_000, 5_000..20_000)] {
                let union = of(a.clone().chain(b.clone()), precision);
                let mut merged = of(a.clone(), precision);
                merged.merge(&of(b.clone(), precision), precision);
                assert_eq!(merged, union);
                let mut other = of(b, precision);
                other.merge(&of(a, precision), precision);
                assert_eq!(other, union);
                assert_eq!(DistinctSketch::from_registers(union.registers(), precision), Some(union));
            }
        }
    }
}
