//! Exact sums: a sparse fixed-point accumulator wide enough for every float64, and one rounding at the end.
//!
//! A float64 is an integer times 2^-1074, its square an integer times 2^-2148, so sums of either are integers and
//! don't depend on the order of addition. Idea: the superaccumulator of Kulisch, and R. Neal, "Fast exact summation
//! using small and large superaccumulators", 2015, arXiv 1505.05571.

use num_bigint::{BigInt, BigUint, Sign};
use smallvec::{SmallVec, smallvec};

/// Bits of one limb.
const LIMB_BITS: u32 = 64;
/// The exponent of a float64's least bit.
const FLOAT64_UNIT: i64 = -1074;

/// A signed integer of any size as two's complement limbs, least first; only the limbs that are used are held.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExactSum {
    /// How many zero limbs lie below `limbs[0]`.
    base: usize,
    /// The top limb carries the sign. Empty is zero. Values of about one size need three, which lie beside the rest.
    limbs: SmallVec<[u64; 3]>,
}

/// The magnitude of a finite float64 as an integer, and the bit it starts at in units of 2^-1074.
fn decompose(value: f64) -> (u64, u32) {
    let bits = value.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    match ((bits >> 52) & 0x7ff) as u32 {
        0 => (fraction, 0),
        exponent => (fraction | (1 << 52), exponent - 1),
    }
}

impl ExactSum {
    /// Adds a finite float64; the unit is 2^-1074.
    pub(crate) fn add_float(&mut self, value: f64) {
        let (magnitude, shift) = decompose(value);
        self.add_shifted(u128::from(magnitude), shift, value.is_sign_negative());
    }

    /// Takes away a finite float64 that was added.
    pub(crate) fn remove_float(&mut self, value: f64) {
        let (magnitude, shift) = decompose(value);
        self.add_shifted(u128::from(magnitude), shift, !value.is_sign_negative());
    }

    /// Adds (or takes away) the square of a finite float64; the unit is 2^-2148.
    pub(crate) fn add_float_square(&mut self, value: f64, remove: bool) {
        let (magnitude, shift) = decompose(value);
        self.add_shifted(u128::from(magnitude) * u128::from(magnitude), 2 * shift, remove);
    }

    /// Adds (or takes away) the square of an integer; the unit is 1.
    pub(crate) fn add_integer_square(&mut self, value: i64, remove: bool) {
        let magnitude = u128::from(value.unsigned_abs());
        self.add_shifted(magnitude * magnitude, 0, remove);
    }

    fn add_shifted(&mut self, magnitude: u128, shift: u32, negative: bool) {
        if magnitude == 0 {
            return;
        }
        let (index, bit) = ((shift / LIMB_BITS) as usize, shift % LIMB_BITS);
        let (low, high) = (magnitude as u64, (magnitude >> 64) as u64);
        let parts = match bit {
            0 => [low, high, 0],
            _ => [low << bit, low >> (64 - bit) | high << bit, high >> (64 - bit)],
        };
        let used = if parts[2] != 0 { 3 } else { 1 + usize::from(parts[1] != 0) };
        self.make_room(index, index + used);
        let at = index - self.base;
        add_limbs(&mut self.limbs[at..], &parts[..used], negative, false);
    }

    /// Makes `limbs` cover `from` and at least one limb above `to`, with a top limb that one carry can't overflow.
    fn make_room(&mut self, from: usize, to: usize) {
        if self.limbs.is_empty() {
            self.base = from;
        } else if from < self.base {
            self.limbs.insert_many(0, std::iter::repeat_n(0, self.base - from));
            self.base = from;
        }
        let sign = self.sign_limb();
        while self.base + self.limbs.len() <= to {
            self.limbs.push(sign);
        }
        let top = self.limbs.last().copied().unwrap_or(0);
        if (top >> 63) != (top >> 62) & 1 {
            self.limbs.push(sign);
        }
    }

    fn sign_limb(&self) -> u64 {
        if self.is_negative() { u64::MAX } else { 0 }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.limbs.iter().all(|limb| *limb == 0)
    }

    fn is_negative(&self) -> bool {
        self.limbs.last().is_some_and(|top| top >> 63 == 1)
    }

    /// Adds another sum of the same unit.
    pub(crate) fn merge(&mut self, other: &Self) {
        if other.limbs.is_empty() {
            return;
        }
        self.make_room(other.base, other.base + other.limbs.len());
        let at = other.base - self.base;
        add_limbs(&mut self.limbs[at..], &other.limbs, false, other.is_negative());
    }

    /// The limbs without the zeros below and the sign extension above: one spelling per number.
    fn canonical(&self) -> (usize, &[u64]) {
        let mut limbs = &self.limbs[..];
        while let [rest @ .., top] = limbs
            && *top == rest.last().map_or(0, |next| if next >> 63 == 1 { u64::MAX } else { 0 })
        {
            limbs = rest;
        }
        let zeros = limbs.iter().take_while(|limb| **limb == 0).count();
        if zeros == limbs.len() { (0, &[]) } else { (self.base + zeros, &limbs[zeros..]) }
    }

    /// Little-endian two's complement bytes without leading zeros and sign extension, and how many zero bytes lie below.
    pub(crate) fn to_bytes(&self) -> (usize, Vec<u8>) {
        let (base, limbs) = self.canonical();
        let bytes: Vec<u8> = limbs.iter().flat_map(|limb| limb.to_le_bytes()).collect();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let mut bytes = &bytes[zeros..];
        while let [rest @ .., top] = bytes
            && let Some(next) = rest.last()
            && *top == if next >> 7 == 1 { u8::MAX } else { 0 }
        {
            bytes = rest;
        }
        if bytes.is_empty() { (0, Vec::new()) } else { (base * 8 + zeros, bytes.to_vec()) }
    }

    /// The sum that [`Self::to_bytes`] wrote; None when it is no spelling that it writes.
    pub(crate) fn from_bytes(zeros: usize, bytes: &[u8]) -> Option<Self> {
        let Some(top) = bytes.last() else { return (zeros == 0).then(Self::default) };
        // 4,196 bits hold a square, 64 more the carries of 2^64 additions.
        if zeros + bytes.len() > 540 {
            return None;
        }
        let sign = if top >> 7 == 1 { u8::MAX } else { 0 };
        // Only the spelling that is written: no zeros below, no sign extension above.
        let is_padded = match bytes {
            [.., next, top] => *top == if next >> 7 == 1 { u8::MAX } else { 0 },
            _ => false,
        };
        if bytes[0] == 0 || is_padded {
            return None;
        }
        let mut limbs: SmallVec<[u64; 3]> =
            smallvec![if sign == 0 { 0 } else { u64::MAX }; (zeros % 8 + bytes.len()).div_ceil(8)];
        // The bits below the first byte are zeros, those above the last its sign.
        limbs[0] = limbs[0].checked_shl(8 * (zeros % 8) as u32).unwrap_or(0);
        for (at, byte) in bytes.iter().enumerate() {
            let (limb, shift) = ((zeros % 8 + at) / 8, 8 * ((zeros % 8 + at) % 8));
            limbs[limb] = limbs[limb] & !(0xff << shift) | u64::from(*byte) << shift;
        }
        Some(Self { base: zeros / 8, limbs })
    }

    /// The sum as an integer in its unit.
    pub(crate) fn to_big(&self) -> BigInt {
        let (base, limbs) = self.canonical();
        let bytes: Vec<u8> = limbs.iter().flat_map(|limb| limb.to_le_bytes()).collect();
        let integer = if bytes.is_empty() { BigInt::ZERO } else { BigInt::from_signed_bytes_le(&bytes) };
        integer << (base * LIMB_BITS as usize)
    }

    /// The sum of floats, rounded once to the nearest float64, ties to even. Zero is `+0.0`.
    pub(crate) fn to_float(&self) -> f64 {
        let (base, limbs) = self.canonical();
        let negative = limbs.last().is_some_and(|top| top >> 63 == 1);
        // The magnitude; a sum of float64 has at most 34 limbs, of which few are used.
        let mut buffer = [0u64; 72];
        let magnitude = &mut buffer[..limbs.len()];
        magnitude.copy_from_slice(limbs);
        if negative {
            negate(magnitude);
        }
        let count = limbs.len() - magnitude.iter().rev().take_while(|limb| **limb == 0).count();
        // Its top 128 bits, and whether anything below them is not zero.
        let limb = |from_top: usize| count.checked_sub(from_top).map_or(0, |i| magnitude[i]);
        let top = u128::from(limb(1)) << 64 | u128::from(limb(2));
        let sticky = count > 2 && magnitude[..count - 2].iter().any(|limb| *limb != 0);
        let exponent = (base + count) as i64 * 64 - 128 + FLOAT64_UNIT;
        let value = round_to_float(top, sticky, exponent);
        if negative { -value } else { value }
    }
}

impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

/// `target += parts` or `target -= parts`, the carry running to the top; `extend`: parts are negative (sign-extended).
fn add_limbs(target: &mut [u64], parts: &[u64], subtract: bool, extend: bool) {
    let mut carry = subtract;
    for (i, limb) in target.iter_mut().enumerate() {
        let beyond = i >= parts.len();
        if beyond && !extend && carry == subtract {
            // Nothing more to add: without a carry (or with a borrow undone) the limbs above stay.
            return;
        }
        let part = if beyond { if extend { u64::MAX } else { 0 } } else { parts[i] };
        let part = if subtract { !part } else { part };
        let (sum, first) = limb.overflowing_add(part);
        let (sum, second) = sum.overflowing_add(u64::from(carry));
        *limb = sum;
        carry = first || second;
    }
}

fn negate(limbs: &mut [u64]) {
    let mut carry = true;
    for limb in limbs {
        let (value, overflow) = (!*limb).overflowing_add(u64::from(carry));
        (*limb, carry) = (value, overflow);
    }
}

/// `(magnitude + something under one unit if sticky) * 2^exponent` as the nearest float64, ties to even.
fn round_to_float(magnitude: u128, sticky: bool, exponent: i64) -> f64 {
    if magnitude == 0 {
        return 0.0;
    }
    let shift = magnitude.leading_zeros();
    let (magnitude, exponent) = (magnitude << shift, exponent - i64::from(shift));
    // The exponent of the last bit kept: 53 bits, fewer for subnormals.
    let unit = (exponent + 128 - 53).max(FLOAT64_UNIT);
    let dropped = unit - exponent;
    if dropped > 128 {
        return 0.0;
    }
    let (kept, rest) = if dropped == 128 {
        (0, magnitude)
    } else {
        ((magnitude >> dropped) as u64, magnitude & ((1u128 << dropped) - 1))
    };
    let half = 1u128 << (dropped - 1);
    let up = rest > half || rest == half && (sticky || kept & 1 == 1);
    let kept = kept + u64::from(up);
    let biased = unit - FLOAT64_UNIT;
    if biased == 0 {
        // Subnormal, or the least normal binade: the bits are the number itself.
        return f64::from_bits(kept);
    }
    if biased >= 2046 {
        return f64::INFINITY;
    }
    // 2^53 after rounding up carries into the exponent by itself; past the greatest exponent that is infinity.
    f64::from_bits((((biased + 1) as u64) << 52) + (kept - (1 << 52)))
}

/// `numerator / denominator * 2^exponent`, rounded once.
pub(crate) fn ratio_to_float(numerator: &BigInt, denominator: &BigUint, exponent: i64) -> f64 {
    let (sign, magnitude) = (numerator.sign(), numerator.magnitude());
    if sign == Sign::NoSign {
        return 0.0;
    }
    // A quotient of 127 or 128 bits: enough for the rounding, with the remainder as the sticky bit.
    let shift = 127 - (magnitude.bits() as i64 - denominator.bits() as i64);
    let (scaled, divisor) = if shift >= 0 {
        (magnitude << shift as u64, denominator.clone())
    } else {
        (magnitude.clone(), denominator << shift.unsigned_abs())
    };
    let quotient = &scaled / &divisor;
    let sticky = &quotient * &divisor != scaled;
    let digits = quotient.iter_u64_digits();
    let top = digits.enumerate().fold(0u128, |top, (i, digit)| top | u128::from(digit) << (64 * i));
    let value = round_to_float(top, sticky, exponent - shift);
    if sign == Sign::Minus { -value } else { value }
}

/// Sample variance from exact power sums in units of `2^unit` and `2^(2 * unit)`, rounded once; none under two values.
pub(crate) fn sample_variance(count: u64, sum: &BigInt, squares: &BigInt, unit: i64) -> Option<f64> {
    if count < 2 {
        return None;
    }
    let numerator = BigInt::from(count) * squares - sum * sum;
    if numerator.sign() == Sign::Minus {
        // No set of numbers has such sums: something was taken back that was not added yet.
        return None;
    }
    let denominator = BigUint::from(count) * BigUint::from(count - 1);
    Some(ratio_to_float(&numerator, &denominator, 2 * unit))
}

/// Sample variance of floats whose sum is in units of 2^-1074.
pub(crate) fn float_variance(count: u64, sum: &ExactSum, squares: &ExactSum) -> Option<f64> {
    if count < 2 {
        return None;
    }
    sample_variance(count, &sum.to_big(), &squares.to_big(), FLOAT64_UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn float() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |v| v.is_finite()),
            (-1000i32..1000).prop_map(|v| f64::from(v) / 10.0),
            prop::sample::select(vec![
                0.0,
                -0.0,
                f64::MIN_POSITIVE,
                f64::from_bits(1),
                -f64::from_bits(1),
                f64::MAX,
                f64::MIN,
                1.0,
                9007199254740993.0,
                f64::from_bits((1 << 52) - 1),
            ]),
        ]
    }

    /// The sum in units of 2^-1074, made the slow way.
    fn big(values: &[f64]) -> BigInt {
        values.iter().fold(BigInt::ZERO, |total, value| {
            let (magnitude, shift) = decompose(*value);
            let part = BigInt::from(magnitude) << shift;
            if *value < 0.0 { total - part } else { total + part }
        })
    }

    /// The nearest float64 by exact comparison of the two neighbours of a guess: knows nothing of `round_to_float`.
    fn nearest(numerator: &BigInt, denominator: &BigInt) -> f64 {
        let distance =
            |bits: u64| (big(&[f64::from_bits(bits)]) * denominator - numerator).magnitude().clone();
        let negative = numerator.sign() == Sign::Minus;
        let sign = if negative { 1u64 << 63 } else { 0 };
        // Binary search over the finite magnitudes for the greatest that is at most |n/d|.
        let (mut low, mut high) = (0u64, f64::MAX.to_bits());
        let magnitude = BigInt::from(numerator.magnitude().clone());
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if big(&[f64::from_bits(middle)]) * denominator <= magnitude {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        if low == f64::MAX.to_bits() {
            let half = (BigInt::from(1) << (1023 + 1074 + 1)) - (BigInt::from(1) << (1023 - 53 + 1074));
            let value = if magnitude >= half * denominator { f64::INFINITY } else { f64::MAX };
            return if negative { -value } else { value };
        }
        let (below, above) = (distance(low | sign), distance((low + 1) | sign));
        let bits = match below.cmp(&above) {
            std::cmp::Ordering::Less => low,
            std::cmp::Ordering::Greater => low + 1,
            std::cmp::Ordering::Equal => low + (low & 1),
        };
        if bits == 0 { 0.0 } else { f64::from_bits(bits | sign) }
    }

    fn same(a: f64, b: f64) -> bool {
        // A magnitude that rounds to zero keeps its sign here; as a sum of floats it can't occur.
        a.to_bits() == b.to_bits() || a == 0.0 && b == 0.0
    }

    proptest! {
        #[test]
        fn a_sum_is_the_exact_sum_rounded_once(values in prop::collection::vec(float(), 0..40)) {
            let mut sum = ExactSum::default();
            values.iter().for_each(|v| sum.add_float(*v));
            prop_assert_eq!(sum.to_big(), big(&values));
            let expected = nearest(&big(&values), &BigInt::from(1));
            prop_assert_eq!(sum.to_float().to_bits(), expected.to_bits());
        }

        #[test]
        fn order_and_grouping_do_not_matter(
            mut values in prop::collection::vec(float(), 0..30), cut in 0usize..30, turn in 0usize..30,
        ) {
            let mut straight = ExactSum::default();
            values.iter().for_each(|v| straight.add_float(*v));
            let turn = turn.min(values.len());
            values.rotate_left(turn);
            let (left, right) = values.split_at(cut.min(values.len()));
            let (mut a, mut b) = (ExactSum::default(), ExactSum::default());
            left.iter().for_each(|v| a.add_float(*v));
            right.iter().for_each(|v| b.add_float(*v));
            b.merge(&a);
            prop_assert_eq!(&b, &straight);
            prop_assert_eq!(b.to_bytes(), straight.to_bytes());
            // And taking values away again leaves what was never added.
            right.iter().for_each(|v| b.remove_float(*v));
            prop_assert_eq!(&b, &a);
            let (zeros, bytes) = a.to_bytes();
            prop_assert_eq!(ExactSum::from_bytes(zeros, &bytes), Some(a));
        }

        #[test]
        fn a_variance_is_the_exact_one_rounded_once(values in prop::collection::vec(float(), 2..12)) {
            let (mut sum, mut squares) = (ExactSum::default(), ExactSum::default());
            for v in &values {
                sum.add_float(*v);
                squares.add_float_square(*v, false);
            }
            let n = BigInt::from(values.len());
            let s1 = big(&values);
            let s2 = values.iter().map(|v| big(&[*v]).pow(2)).sum::<BigInt>();
            prop_assert_eq!(squares.to_big(), s2.clone());
            // In units of 2^-2148; `nearest` wants units of 2^-1074.
            let numerator = &n * s2 - &s1 * &s1;
            let denominator = (&n * (&n - 1)) << 1074u32;
            let expected = nearest(&numerator, &denominator);
            let got = float_variance(values.len() as u64, &sum, &squares).unwrap();
            prop_assert!(same(got, expected), "{} is not {}", got, expected);
        }

        #[test]
        fn squares_of_integers_are_exact(values in prop::collection::vec(any::<i64>(), 0..20)) {
            let mut squares = ExactSum::default();
            values.iter().for_each(|v| squares.add_integer_square(*v, false));
            prop_assert_eq!(squares.to_big(), values.iter().map(|v| BigInt::from(*v).pow(2)).sum::<BigInt>());
            values.iter().for_each(|v| squares.add_integer_square(*v, true));
            prop_assert_eq!(squares, ExactSum::default());
        }
    }
}
