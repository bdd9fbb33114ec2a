//! Running totals of floats as 128-bit integers, where their bits lie close enough together.

/// Bits that a total may have besides its sign.
const BITS: u32 = 126;

/// The sums of the first floats, exact, in the unit of the least bit that is set in any of them.
#[derive(Debug, Default)]
pub(super) struct FixedSums {
    /// The sum before each place; one more than there are floats.
    sums: Vec<i128>,
    /// The unit as a float64.
    unit: f64,
}

/// Magnitude (an integer) and its place above 2^-1074; a finite float64.
fn decompose(value: f64) -> (u64, u32) {
    let bits = value.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    match ((bits >> 52) & 0x7ff) as u32 {
        0 => (fraction, 0),
        exponent => (fraction | (1 << 52), exponent - 1),
    }
}

/// `2^(shift - 1074)`, for a shift below 2046.
fn power(shift: u32) -> f64 {
    match shift {
        0..52 => f64::from_bits(1 << shift),
        shift => f64::from_bits(u64::from(shift - 51) << 52),
    }
}

impl FixedSums {
    /// Takes up these floats; false when a total may not fit, or one is infinite.
    pub(super) fn fill(&mut self, floats: &[f64]) -> bool {
        let (mut low, mut high) = (u32::MAX, 0);
        for value in floats {
            if value.is_infinite() {
                return false;
            }
            let (magnitude, shift) = decompose(*value);
            if magnitude != 0 {
                low = low.min(shift + magnitude.trailing_zeros());
                high = high.max(shift + 64 - magnitude.leading_zeros());
            }
        }
        let low = low.min(high);
        if high - low + (usize::BITS - floats.len().leading_zeros()) > BITS {
            return false;
        }
        self.unit = power(low);
        self.sums.clear();
        self.sums.push(0);
        let mut sum = 0i128;
        self.sums.extend(floats.iter().map(|value| {
            let (magnitude, shift) = decompose(*value);
            // Bits below the unit are zeros.
            let magnitude = match shift >= low {
                true => i128::from(magnitude) << (shift - low),
                false => i128::from(magnitude >> (low - shift).min(63)),
            };
            sum += if value.is_sign_negative() { -magnitude } else { magnitude };
            sum
        }));
        true
    }

    /// The sum of the floats from one place to another, rounded once, ties to even; zero is `+0.0`.
    pub(super) fn between(&self, from: usize, to: usize) -> f64 {
        to_float(self.sums[to] - self.sums[from]) * self.unit
    }
}

/// Rounded once. Times a power of two it stays so: where the product has fewer bits than a normal number, the sum is a
/// multiple of 2^-1074 and has no more bits than are kept.
fn to_float(sum: i128) -> f64 {
    // The conversion of 64 bits is one instruction.
    match i64::try_from(sum) {
        Ok(sum) => sum as f64,
        Err(_) => sum as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::ExactSum;

    /// Floats of all magnitudes within `spread` bits of each other, some with few bits, some zeros.
    fn floats(state: &mut u64, count: usize, middle: u64, spread: u64) -> Vec<f64> {
        let mut next = || {
            *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let x = *state ^ (*state >> 33);
            x.wrapping_mul(0xff51_afd7_ed55_8ccd)
        };
        let one = |_| {
            let exponent = (middle + next() % spread.max(1)).min(2046);
            let fraction = match next() % 4 {
                0 => 0,
                1 => next() << 40 & ((1 << 52) - 1),
                _ => next() & ((1 << 52) - 1),
            };
            let sign = next() & 1;
            let value = f64::from_bits(sign << 63 | exponent << 52 | fraction);
            if next().is_multiple_of(16) { 0.0f64.copysign(value) } else { value }
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn a_difference_of_totals_is_the_exact_sum_to_the_bit() {
        let (mut state, mut fitted) = (20_261_126, 0);
        for round in 0..3_000u64 {
            let middle = match round % 5 {
                0 => 0,
                1 => 2_046 - 40,
                _ => (round * 7_919) % 2_000,
            };
            let values = floats(&mut state, 1 + (round % 60) as usize, middle, round % 90);
            let mut sums = FixedSums::default();
            if !sums.fill(&values) {
                continue;
            }
            fitted += 1;
            for from in 0..=values.len() {
                let mut exact = ExactSum::default();
                for to in from..=values.len() {
                    let (got, expected) = (sums.between(from, to), exact.to_float());
                    assert_eq!(
                        got.to_bits(),
                        expected.to_bits(),
                        "round {round}: {from}..{to} of {values:?}"
                    );
                    if let Some(value) = values.get(to) {
                        exact.add_float(*value);
                    }
                }
            }
        }
        assert!(fitted > 1_500, "only {fitted} rounds fitted");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut sums = FixedSums::default();
        assert!(!sums.fill(&[1e300, 1e-300]));
        assert!(!sums.fill(&[f64::INFINITY]));
        assert!(sums.fill(&[]) && sums.between(0, 0).to_bits() == 0);
        assert!(sums.fill(&[-0.0]) && sums.between(0, 1).to_bits() == 0);
        assert!(sums.fill(&[f64::MAX, f64::MAX, -f64::MAX]));
        assert_eq!((sums.between(0, 2), sums.between(0, 3)), (f64::INFINITY, f64::MAX));
    }
}
