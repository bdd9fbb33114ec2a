//! A name for every request: taken over from a W3C `traceparent`, else drawn.

use axum::http::HeaderMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Draws trace ids: unique in this process, not guessable across processes, no secret.
#[derive(Debug)]
pub(crate) struct TraceIds {
    high: u64,
    next: AtomicU64,
}

impl TraceIds {
    pub(crate) fn new() -> Self {
        // The seeds of the standard library's hash maps are the process's own randomness.
        let seed = || RandomState::new().hash_one(0u8);
        Self { high: seed(), next: AtomicU64::new(seed()) }
    }

    /// 32 hexadecimal digits.
    pub(crate) fn of(&self, headers: &HeaderMap) -> String {
        if let Some(id) = headers.get("traceparent").and_then(|value| trace_id(value.as_bytes())) {
            return id.to_owned();
        }
        // An odd step visits every number before it repeats one; the mixing hides the step.
        let number = self.next.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (number ^ (number >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
        hex(self.high, mixed)
    }
}

fn hex(high: u64, low: u64) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(32);
    for word in [high, low] {
        for shift in (0..16).rev() {
            out.push(char::from(DIGITS[(word >> (shift * 4)) as usize & 15]));
        }
    }
    out
}

/// The trace id of `00-<32 hex>-<16 hex>-<2 hex>`.
fn trace_id(traceparent: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(traceparent).ok()?;
    let mut parts = text.split('-');
    let (version, id, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let valid = is_hex(version, 2) && version != "ff" && is_hex(id, 32) && is_hex(parent, 16);
    (valid && id.bytes().any(|b| b != b'0')).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_taken_over_or_drawn() {
        let ids = TraceIds::new();
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", value.parse().unwrap());
            ids.of(&headers)
        };
        let given = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(with(&format!("00-{given}-00f067aa0ba902b7-01")), given);
        for bad in ["", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "00-\"-x-01", "junk"] {
            assert_ne!(with(bad), given);
            assert_eq!(with(bad).len(), 32);
        }
        let drawn: HashSet<_> = (0..10_000).map(|_| ids.of(&HeaderMap::new())).collect();
        assert_eq!(drawn.len(), 10_000);
    }
}
