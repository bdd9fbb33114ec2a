//! Bytes of states: LEB128 numbers, zigzag for signed ones, values with a type tag. Reading never trusts a length.

use crate::CodecError;
use springhouse_core::Value;

/// What is being written.
pub(crate) type Out = Vec<u8>;

/// Appends an unsigned number.
pub(crate) fn put_number(out: &mut Out, number: u64) {
    if number < 0x80 {
        return out.push(number as u8);
    }
    if number >> 56 != 0 {
        return put_long(out, number.into());
    }
    // All groups of seven bits at once, as `Reader::short_number` takes them.
    let fours = number & 0x0fff_ffff | (number & 0x00ff_ffff_f000_0000) << 4;
    let pairs = fours & 0x0000_3fff_0000_3fff | (fours & 0x0fff_c000_0fff_c000) << 2;
    let bytes = pairs & 0x007f_007f_007f_007f | (pairs & 0x3f80_3f80_3f80_3f80) << 1;
    let last = (63 - bytes.leading_zeros()) / 8;
    let more = 0x8080_8080_8080_8080 & ((1 << (8 * last)) - 1);
    let end = out.len() + last as usize + 1;
    out.extend_from_slice(&(bytes | more).to_le_bytes());
    out.truncate(end);
}

/// Appends a signed number.
pub(crate) fn put_signed(out: &mut Out, number: i64) {
    put_number(out, (number << 1 ^ number >> 63) as u64);
}

/// Appends a signed 128-bit number.
pub(crate) fn put_wide(out: &mut Out, number: i128) {
    put_long(out, (number << 1 ^ number >> 127) as u128);
}

fn put_long(out: &mut Out, mut rest: u128) {
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Out, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a value: a tag for its type, then itself.
pub(crate) fn put_value(out: &mut Out, value: &Value) {
    match value {
        Value::Null => out.push(0),
        Value::Bool(v) => out.extend_from_slice(&[1, u8::from(*v)]),
        Value::Int32(v) => {
            out.push(2);
            put_signed(out, i64::from(*v));
        }
        Value::Int64(v) => {
            out.push(3);
            put_signed(out, *v);
        }
        Value::Float32(v) => {
            out.push(4);
            out.extend_from_slice(&v.to_bits().to_le_bytes());
        }
        Value::Float64(v) => {
            let mut bytes = [5; 9];
            bytes[1..].copy_from_slice(&v.to_bits().to_le_bytes());
            out.extend_from_slice(&bytes);
        }
        Value::String(v) => {
            out.push(6);
            put_bytes(out, v.as_bytes());
        }
        Value::Bytes(v) => {
            out.push(7);
            put_bytes(out, v);
        }
        Value::Timestamp(v) => {
            out.push(8);
            put_signed(out, *v);
        }
        Value::Date(v) => {
            out.push(9);
            put_signed(out, i64::from(*v));
        }
        Value::Decimal(v, scale) => {
            out.extend_from_slice(&[10, *scale as u8]);
            put_wide(out, *v);
        }
        Value::List(items) => {
            out.push(11);
            put_number(out, items.len() as u64);
            items.iter().for_each(|item| put_value(out, item));
        }
        Value::Vector(items) => {
            out.push(12);
            put_number(out, items.len() as u64);
            items.iter().for_each(|item| out.extend_from_slice(&item.to_bits().to_le_bytes()));
        }
        Value::Map(pairs) => {
            out.push(13);
            put_number(out, pairs.len() as u64);
            for (key, value) in pairs.iter() {
                put_value(out, key);
                put_value(out, value);
            }
        }
    }
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// Values inside values stop here; a list of structs of lists is as deep as types go.
const VALUE_DEPTH_MAX: u32 = 4;

/// Reads what the `put_*` functions wrote.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// Of the codec that wrote it.
    pub(crate) version: u8,
}

type Taken<T> = Result<T, CodecError>;

fn malformed<T>(why: &'static str) -> Taken<T> {
    Err(CodecError::Malformed(why))
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of what a version of the codec wrote.
    pub(crate) fn new(bytes: &'a [u8], version: u8) -> Self {
        Self { rest: bytes, version }
    }

    /// Fails unless everything was read.
    pub(crate) fn finish(&self) -> Taken<()> {
        if self.rest.is_empty() { Ok(()) } else { malformed("bytes are left over") }
    }

    fn exactly<const N: usize>(&mut self) -> Taken<[u8; N]> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return malformed("it ends too soon");
        };
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub(crate) fn byte(&mut self) -> Taken<u8> {
        Ok(self.exactly::<1>()?[0])
    }

    /// An unsigned number.
    pub(crate) fn number(&mut self) -> Taken<u64> {
        if let Some(number) = self.short_number() {
            return Ok(number);
        }
        let wide = self.wide_unsigned(64)?;
        u64::try_from(wide).or(malformed("a number is too large"))
    }

    /// One of at most 56 bits, looked at as a whole; none where it is longer, or near the end, or not as it should be.
    fn short_number(&mut self) -> Option<u64> {
        let word = u64::from_le_bytes(*self.rest.first_chunk()?);
        let last = !word & 0x8080_8080_8080_8080;
        if last == 0 {
            return None;
        }
        let bits = last.trailing_zeros() + 1;
        let bytes = word & (u64::MAX >> (64 - bits));
        // One spelling per number: the last byte is not 0 where there are others.
        if bits > 8 && bytes >> (bits - 8) == 0 {
            return None;
        }
        self.rest = &self.rest[bits as usize / 8..];
        let pairs = bytes & 0x007f_007f_007f_007f | (bytes & 0x7f00_7f00_7f00_7f00) >> 1;
        let fours = pairs & 0x0000_3fff_0000_3fff | (pairs & 0x3fff_0000_3fff_0000) >> 2;
        Some(fours & 0x0fff_ffff | (fours & 0x0fff_ffff_0000_0000) >> 4)
    }

    /// A signed number.
    pub(crate) fn signed(&mut self) -> Taken<i64> {
        Ok(unzigzag(self.number()?))
    }

    /// A signed 128-bit number.
    pub(crate) fn wide(&mut self) -> Taken<i128> {
        let number = self.wide_unsigned(128)?;
        Ok((number >> 1) as i128 ^ -((number & 1) as i128))
    }

    fn wide_unsigned(&mut self, bits: u32) -> Taken<u128> {
        let mut number = 0u128;
        for shift in (0..bits).step_by(7) {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            if shift + 7 > bits && part >> (bits - shift) != 0 {
                return malformed("a number is too large");
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                // One spelling per number, so that equal states have equal bytes.
                return if byte == 0 && shift > 0 { malformed("a number is padded") } else { Ok(number) };
            }
        }
        malformed("a number is too long")
    }

    /// How many elements follow, each of at least `bytes_min` bytes: never more than the bytes that are left allow.
    pub(crate) fn length(&mut self, bytes_min: usize) -> Taken<usize> {
        let length = self.number()?;
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() / bytes_min.max(1) => Ok(length),
            _ => malformed("a length is greater than what follows"),
        }
    }

    /// A length and the bytes.
    pub(crate) fn bytes(&mut self) -> Taken<&'a [u8]> {
        let length = self.length(1)?;
        let (head, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(head)
    }

    /// So many values.
    pub(crate) fn values(&mut self, count: usize) -> Taken<Vec<Value>> {
        // Not collected: a `Result` forgets how many there will be.
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(self.value()?);
        }
        Ok(values)
    }

    /// The bytes of so many values, looked through: each can be read.
    pub(crate) fn skip_values(&mut self, count: usize) -> Taken<&'a [u8]> {
        let before = self.rest;
        for _ in 0..count {
            self.skip_within(VALUE_DEPTH_MAX)?;
        }
        Ok(&before[..before.len() - self.rest.len()])
    }

    /// A value of bytes that [`Self::skip_values`] gave.
    #[inline]
    pub(crate) fn checked_value(&mut self) -> Value {
        // Most are numbers, and the way of the others, with its results in between, is long for them.
        if let Some((tag, rest)) = self.rest.split_first() {
            let mut after = Self { rest, version: self.version };
            let number = match tag {
                3 => after.short_number().map(|number| Value::Int64(unzigzag(number))),
                5 => after.exactly().ok().map(|bits| Value::Float64(f64::from_le_bytes(bits))),
                _ => None,
            };
            if let Some(number) = number {
                *self = after;
                return number;
            }
        }
        self.value().expect("it was looked through when it was read")
    }

    /// Passes over a value of such bytes.
    pub(crate) fn skip_checked(&mut self) {
        self.skip_within(VALUE_DEPTH_MAX).expect("it was looked through when it was read");
    }

    /// Fails where [`Self::value_within`] does.
    fn skip_within(&mut self, depth: u32) -> Taken<()> {
        let Some(deeper) = depth.checked_sub(1) else { return malformed("values are nested too deep") };
        match self.byte()? {
            0 => {}
            1 if self.byte()? > 1 => return malformed("a bool is neither 0 nor 1"),
            1 => {}
            2 | 9 => {
                self.small()?;
            }
            3 | 8 => {
                self.number()?;
            }
            4 => {
                self.exactly::<4>()?;
            }
            5 => {
                self.exactly::<8>()?;
            }
            6 if std::str::from_utf8(self.bytes()?).is_err() => return malformed("a string is not UTF-8"),
            6 => {}
            7 => {
                self.bytes()?;
            }
            10 => {
                self.byte()?;
                self.wide()?;
            }
            11 => {
                let length = self.length(1)?;
                (0..length).try_for_each(|_| self.skip_within(deeper))?;
            }
            12 => {
                let length = self.length(4)?;
                (0..length).try_for_each(|_| self.exactly::<4>().map(|_| ()))?;
            }
            13 => {
                let length = self.length(2)?;
                (0..2 * length).try_for_each(|_| self.skip_within(deeper))?;
            }
            _ => return malformed("a value has an unknown type"),
        }
        Ok(())
    }

    /// A value.
    pub(crate) fn value(&mut self) -> Taken<Value> {
        self.value_within(VALUE_DEPTH_MAX)
    }

    fn value_within(&mut self, depth: u32) -> Taken<Value> {
        let Some(deeper) = depth.checked_sub(1) else { return malformed("values are nested too deep") };
        Ok(match self.byte()? {
            0 => Value::Null,
            1 => match self.byte()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return malformed("a bool is neither 0 nor 1"),
            },
            2 => Value::Int32(self.small()?),
            3 => Value::Int64(self.signed()?),
            4 => Value::Float32(f32::from_bits(u32::from_le_bytes(self.exactly()?))),
            5 => Value::Float64(f64::from_bits(u64::from_le_bytes(self.exactly()?))),
            6 => match std::str::from_utf8(self.bytes()?) {
                Ok(text) => Value::string(text),
                Err(_) => return malformed("a string is not UTF-8"),
            },
            7 => Value::Bytes(self.bytes()?.into()),
            8 => Value::Timestamp(self.signed()?),
            9 => Value::Date(self.small()?),
            10 => {
                let scale = self.byte()? as i8;
                Value::Decimal(self.wide()?, scale)
            }
            11 => {
                let length = self.length(1)?;
                Value::List((0..length).map(|_| self.value_within(deeper)).collect::<Taken<_>>()?)
            }
            12 => {
                let length = self.length(4)?;
                let float = |_| Ok(f32::from_bits(u32::from_le_bytes(self.exactly()?)));
                Value::Vector((0..length).map(float).collect::<Taken<_>>()?)
            }
            13 => {
                let length = self.length(2)?;
                let pair = |_| Ok((self.value_within(deeper)?, self.value_within(deeper)?));
                Value::Map((0..length).map(pair).collect::<Taken<_>>()?)
            }
            _ => return malformed("a value has an unknown type"),
        })
    }

    fn small(&mut self) -> Taken<i32> {
        i32::try_from(self.signed()?).or(malformed("a 32-bit number is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state ^ state >> 29
        }
    }

    #[test]
    fn numbers_are_written_as_group_by_group() {
        let mut random = draws(29);
        let edges = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX]);
        let drawn = (0..100_000).map(|_| random() >> (random() % 64)).collect::<Vec<_>>();
        for number in edges.chain(drawn) {
            let (mut at_once, mut by_groups) = (vec![7], vec![7]);
            put_number(&mut at_once, number);
            put_long(&mut by_groups, number.into());
            assert_eq!(at_once, by_groups, "{number}");
            assert_eq!(Reader::new(&at_once[1..], 2).number(), Ok(number));
        }
    }

    #[test]
    fn what_can_be_passed_over_can_be_read() {
        let mut random = draws(23);
        let (mut passed, mut refused) = (0, 0);
        for _ in 0..50_000 {
            // Tags and short lengths mostly, so that many are values.
            let bytes: Vec<u8> = (0..1 + random() % 12)
                .map(|_| if random().is_multiple_of(4) { random() as u8 } else { (random() % 15) as u8 })
                .collect();
            let count = 1 + (random() % 3) as usize;
            let (mut read, mut skipped) = (Reader::new(&bytes, 2), Reader::new(&bytes, 2));
            let (values, skip) = (read.values(count), skipped.skip_values(count));
            match (values, skip) {
                (Ok(values), Ok(found)) => {
                    assert_eq!(read.rest, skipped.rest, "{bytes:02x?}");
                    let mut again = Reader::new(found, 2);
                    let values_again: Vec<Value> = (0..count).map(|_| again.checked_value()).collect();
                    assert!(again.rest.is_empty() && values_again == values, "{bytes:02x?}");
                    passed += 1;
                }
                (Err(one), Err(other)) => {
                    assert_eq!(one, other, "{bytes:02x?}");
                    refused += 1;
                }
                different => panic!("{bytes:02x?}: {different:?}"),
            }
        }
        assert!(passed > 1_000 && refused > 1_000, "{passed} passed, {refused} refused");
    }

    #[test]
    fn numbers_read_the_same_whole_and_byte_by_byte() {
        let mut random = draws(17);
        for round in 0..20_000 {
            let mut bytes = Vec::new();
            match round % 3 {
                0 => put_number(&mut bytes, random() >> (random() % 64)),
                1 => bytes.extend((0..1 + random() % 11).map(|_| random() as u8)),
                // Padded, or nearly.
                _ => bytes.extend((0..random() % 10).map(|_| 0x80).chain([random() as u8 & 1])),
            }
            bytes.extend((0..random() % 9).map(|_| random() as u8));
            let (mut whole, mut slow) = (Reader::new(&bytes, 2), Reader::new(&bytes, 2));
            let expected = slow
                .wide_unsigned(64)
                .and_then(|wide| u64::try_from(wide).or(malformed("a number is too large")));
            assert_eq!(whole.number(), expected, "{bytes:02x?}");
            if expected.is_ok() {
                assert_eq!(whole.rest, slow.rest, "{bytes:02x?}");
            }
        }
    }
}
