//! Entity keys: one canonical byte spelling of the typed key values.

use crate::{Value, ValueType};
use std::fmt;
use std::sync::Arc;

/// The longest encoded entity key in bytes; what the embedded store can index.
pub const ENTITY_KEY_BYTES_MAX: usize = 440;

/// The key of one entity: its key values in declared order, encoded so that equal keys have equal bytes.
///
/// Encoding, part by part: bool 1 byte; int32 and date 4 bytes, int64 and timestamp 8 bytes, big endian with the
/// sign bit flipped; string and bytes: LEB128 length, then the bytes. The types are not in the bytes: the entity has them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityKey(Arc<[u8]>);

/// Why key values make no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A key part is null.
    #[error("key `{0}` is null; every key of an entity needs a value")]
    Null(String),
    /// A key part has another type than declared.
    #[error("key `{name}` should be {expected}, got {got}")]
    Type {
        /// Which key.
        name: String,
        /// Its declared type.
        expected: ValueType,
        /// What came.
        got: String,
    },
    /// Another number of parts than declared.
    #[error("the entity has {expected} keys, got {got}")]
    Count {
        /// How many are declared.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// The encoded key is over [`ENTITY_KEY_BYTES_MAX`].
    #[error("the key takes {0} bytes; at most 440 are allowed")]
    TooLong(usize),
    /// The bytes are no key of this entity.
    #[error("the stored key does not decode with the entity's key types")]
    Corrupt,
}

impl EntityKey {
    /// Encodes `values` as a key of an entity with these (name, type) pairs.
    ///
    /// # Errors
    /// [`KeyError`] when a part is null, of another type, missing, or the whole is too long.
    pub fn encode(keys: &[(String, ValueType)], values: &[Value]) -> Result<Self, KeyError> {
        if keys.len() != values.len() {
            return Err(KeyError::Count { expected: keys.len(), got: values.len() });
        }
        let mut out = Vec::with_capacity(16 * values.len());
        for ((name, value_type), value) in keys.iter().zip(values) {
            match (value_type, value) {
                (_, Value::Null) => return Err(KeyError::Null(name.clone())),
                (ValueType::Bool, Value::Bool(v)) => push_bool(&mut out, *v),
                (ValueType::Int32, Value::Int32(v)) | (ValueType::Date, Value::Date(v)) => {
                    push_i32(&mut out, *v)
                }
                (ValueType::Int64, Value::Int64(v)) | (ValueType::Timestamp, Value::Timestamp(v)) => {
                    push_i64(&mut out, *v)
                }
                (ValueType::String, Value::String(v)) => push_bytes(&mut out, v.as_bytes()),
                (ValueType::Bytes, Value::Bytes(v)) => push_bytes(&mut out, v),
                (expected, got) => {
                    return Err(KeyError::Type {
                        name: name.clone(),
                        expected: expected.clone(),
                        got: format!("{got:?}"),
                    });
                }
            }
        }
        Self::from_encoded(&out)
    }

    /// Takes bytes that were encoded part by part with the `push_*` functions of this module.
    ///
    /// # Errors
    /// [`KeyError::TooLong`].
    pub fn from_encoded(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() > ENTITY_KEY_BYTES_MAX {
            return Err(KeyError::TooLong(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key values again.
    ///
    /// # Errors
    /// [`KeyError::Corrupt`] when the bytes are no key of these types.
    pub fn decode(&self, types: &[ValueType]) -> Result<Vec<Value>, KeyError> {
        let mut rest: &[u8] = &self.0;
        let values =
            types.iter().map(|t| take(&mut rest, t).ok_or(KeyError::Corrupt)).collect::<Result<_, _>>()?;
        if rest.is_empty() { Ok(values) } else { Err(KeyError::Corrupt) }
    }
}

impl fmt::Debug for EntityKey {
    // Keys are personal data more often than not: a log line gets their length only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntityKey({} bytes)", self.0.len())
    }
}

/// Which entity an encoded key is of, as 128 bits.
///
/// A key of up to 15 bytes is its own identity (its bytes and its length). Longer keys have 120 bits of XXH3 with a
/// length byte that no short key has: two of a billion such keys meet by chance with a probability below 1e-17.
pub fn identity(key: &[u8]) -> u128 {
    const HASHED: u128 = 0xff;
    if key.len() <= 15 {
        let mut bytes = [0; 16];
        bytes[1..=key.len()].copy_from_slice(key);
        u128::from_be_bytes(bytes) | (key.len() as u128) << 120
    } else {
        xxhash_rust::xxh3::xxh3_128(key) >> 8 | HASHED << 120
    }
}

/// A well-mixed 64-bit hash of an [`identity`]. It is stored (it orders the rows of the embedded store), so it must never
/// change. History is cut into buckets by its low bits, and stores keep those that share low bits together.
pub fn spread(identity: u128) -> u64 {
    let folded = (identity as u64) ^ ((identity >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let product = u128::from(folded ^ 0x2545_f491_4f6c_dd1d) * 0xd6e8_feb8_6659_fd93_u128;
    (product as u64) ^ (product >> 64) as u64
}

/// Appends a bool key part.
pub fn push_bool(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}

/// Appends an int32 or date key part.
pub fn push_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&(value as u32 ^ (1 << 31)).to_be_bytes());
}

/// Appends an int64 or timestamp key part.
pub fn push_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&(value as u64 ^ (1 << 63)).to_be_bytes());
}

/// Appends a string or bytes key part.
pub fn push_bytes(out: &mut Vec<u8>, value: &[u8]) {
    let mut len = value.len();
    while len >= 0x80 {
        out.push((len as u8) | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(value);
}

fn take(rest: &mut &[u8], value_type: &ValueType) -> Option<Value> {
    Some(match value_type {
        ValueType::Bool => match take_n(rest, 1)?[0] {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            _ => return None,
        },
        ValueType::Int32 => Value::Int32(take_i32(rest)?),
        ValueType::Date => Value::Date(take_i32(rest)?),
        ValueType::Int64 => Value::Int64(take_i64(rest)?),
        ValueType::Timestamp => Value::Timestamp(take_i64(rest)?),
        ValueType::String => Value::string(std::str::from_utf8(take_bytes(rest)?).ok()?),
        ValueType::Bytes => Value::Bytes(take_bytes(rest)?.into()),
        _ => return None,
    })
}

fn take_n<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(head)
}

fn take_i32(rest: &mut &[u8]) -> Option<i32> {
    Some((u32::from_be_bytes(take_n(rest, 4)?.try_into().ok()?) ^ (1 << 31)) as i32)
}

fn take_i64(rest: &mut &[u8]) -> Option<i64> {
    Some((u64::from_be_bytes(take_n(rest, 8)?.try_into().ok()?) ^ (1 << 63)) as i64)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut len = 0usize;
    for shift in (0..).step_by(7).take(4) {
        let byte = take_n(rest, 1)?[0];
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return take_n(rest, len);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_a_key_stays_what_it_is_in_stored_files() {
        let spread_of = |key: &[u8]| spread(identity(key));
        assert_eq!(
            [spread_of(b""), spread_of(b"user-1"), spread_of(&[7; 15]), spread_of(&[7; 16])],
            [
                3_510_798_166_141_586_122,
                3_552_469_871_198_310_670,
                16_978_241_122_984_057_808,
                9_989_538_991_761_069_653
            ]
        );
    }

    #[test]
    fn a_key_decodes_to_its_values() {
        let keys: Vec<(String, ValueType)> = vec![
            ("a".into(), ValueType::String),
            ("b".into(), ValueType::Int64),
            ("c".into(), ValueType::Bool),
            ("d".into(), ValueType::Date),
        ];
        let types: Vec<_> = keys.iter().map(|k| k.1.clone()).collect();
        for text in ["", "ключ", "a b:c/%", &"x".repeat(300)] {
            for number in [0, -1, i64::MIN, i64::MAX] {
                let values =
                    vec![Value::string(text), Value::Int64(number), Value::Bool(true), Value::Date(-5)];
                let key = EntityKey::encode(&keys, &values).unwrap();
                assert_eq!(key.decode(&types).unwrap(), values);
            }
        }
        let long = EntityKey::encode(&keys[..1], &[Value::string("x".repeat(500))]);
        assert_eq!(long, Err(KeyError::TooLong(502)));
    }
}
