//! The identity of an event, as a number: history and stream must agree on it, so that an event in both counts once.

use crate::Value;
use xxhash_rust::xxh3::xxh3_128;

/// The identity of a text: an `event_id` of type string, or a row's idempotency key.
pub fn of_text(text: &str) -> u128 {
    tagged(xxh3_128(text.as_bytes()))
}

/// The identity of raw bytes.
pub fn of_bytes(bytes: &[u8]) -> u128 {
    tagged(xxh3_128(bytes) ^ 1)
}

/// The identity of an integer of any width; timestamps (microseconds) and dates (days) too.
pub fn of_integer(number: i64) -> u128 {
    tagged(xxh3_128(&number.to_le_bytes()) ^ 2)
}

/// The identity of a value of an `event_id` column; none for null, and for types that have no one spelling.
pub fn of_value(value: &Value) -> Option<u128> {
    Some(match value {
        Value::String(text) => of_text(text),
        Value::Bytes(bytes) => of_bytes(bytes),
        Value::Int32(number) | Value::Date(number) => of_integer(i64::from(*number)),
        Value::Int64(number) | Value::Timestamp(number) => of_integer(*number),
        _ => return None,
    })
}

/// Zero means "no identity" where identities are stored.
fn tagged(hash: u128) -> u128 {
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_the_same_for_ever() {
        // Stored in logs and tables: a change of these numbers would count events twice.
        assert_eq!(of_text("a"), 225_219_434_562_328_483_135_862_406_050_043_285_023);
        assert_ne!(of_text("12345678"), of_bytes(b"12345678"));
        assert_ne!(of_integer(i64::from_le_bytes(*b"12345678")), of_text("12345678"));
        assert_eq!(of_value(&Value::Int32(7)), of_value(&Value::Int64(7)));
        assert_eq!(of_value(&Value::Null), None);
    }
}
