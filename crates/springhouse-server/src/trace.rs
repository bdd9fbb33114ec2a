//! A name for every request: taken over from a W3C `traceparent`, else drawn; and who is told of requests.

use axum::http::{HeaderMap, HeaderName};
use springhouse_serving::{FeatureAnswer, FeatureRequest, Stages};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The header in which a caller names its trace.
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// The trace that a request belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The caller's span, if the caller traces.
    pub parent: Option<ParentSpan>,
}

impl TraceContext {
    /// Whether the trace is in a part (0 to 1) of all traces. Follows from its id alone, and mixes it: callers may count
    /// their ids up.
    pub fn is_in(&self, part: f64) -> bool {
        let half = |digits: &str| u64::from_str_radix(digits, 16).unwrap_or_default();
        let (high, low) = self.id.split_at(16);
        let lot = springhouse_core::key::spread(u128::from(half(high)) << 64 | u128::from(half(low)));
        // 2^53 lots, each a float of its own.
        ((lot >> 11) as f64) < part * 2f64.powi(53)
    }
}

/// The caller's span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentSpan {
    /// Its id.
    pub id: u64,
    /// Whether the caller keeps its part of the trace.
    pub is_sampled: bool,
}

/// What is told of a request that has been answered.
#[derive(Debug)]
pub struct FinishedRequest<'a> {
    /// Its trace.
    pub context: &'a TraceContext,
    /// The route's name in metrics and logs.
    pub route: &'static str,
    /// When it came.
    pub began: Instant,
    /// How long it took, to the first byte of the answer.
    pub took: Duration,
    /// The HTTP status that the answer has, or that a gRPC answer means.
    pub status: u16,
    /// Where the time of a features request went.
    pub stages: Option<Stages>,
    /// Rows of a features request.
    pub rows: Option<usize>,
}

/// Collects traces. Called within requests: must not wait.
pub trait RequestTracer: fmt::Debug + Send + Sync {
    /// Whether the trace is to be kept.
    fn wants(&self, context: &TraceContext) -> bool;

    /// Takes a request of a wanted trace.
    fn finished(&self, request: &FinishedRequest<'_>);
}

/// What a route notes of a request that somebody is told of; among the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Notes(Arc<Mutex<Noted>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Noted {
    pub(crate) stages: Option<Stages>,
    pub(crate) rows: Option<usize>,
    /// What was asked and answered, where it is to be logged.
    pub(crate) served: Option<Box<(FeatureRequest, FeatureAnswer)>>,
    keeps_served: bool,
}

impl Notes {
    pub(crate) fn new(keeps_served: bool) -> Self {
        Self(Arc::new(Mutex::new(Noted { keeps_served, ..Noted::default() })))
    }

    pub(crate) fn features(&self, stages: Stages, request: &FeatureRequest, answer: Option<&FeatureAnswer>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.stages = Some(stages);
        noted.rows = answer.map(|answer| answer.row_count);
        if noted.keeps_served
            && let Some(answer) = answer
        {
            noted.served = Some(Box::new((request.clone(), answer.clone())));
        }
    }

    pub(crate) fn taken(&self) -> Noted {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

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

    pub(crate) fn of(&self, headers: &HeaderMap) -> TraceContext {
        let given = headers.get(TRACE_PARENT).and_then(|value| context(value.as_bytes()));
        given.unwrap_or_else(|| {
            // An odd step visits every number before it repeats one; the mixing hides the step.
            let number = self.next.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let mixed = (number ^ (number >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
            TraceContext { id: hex(self.high, mixed), parent: None }
        })
    }
}

fn hex(high: u64, low: u64) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    let digits = bytes.map(|byte| [byte >> 4, byte & 15].map(|half| DIGITS[usize::from(half)]));
    String::from_utf8(digits.as_flattened().to_vec()).expect("digits are ASCII")
}

/// Of `00-<32 hex>-<16 hex>-<2 hex>`.
fn context(traceparent: &[u8]) -> Option<TraceContext> {
    let text = std::str::from_utf8(traceparent).ok()?;
    let mut parts = text.split('-');
    let (version, id, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let valid = is_hex(version, 2) && version != "ff" && is_hex(id, 32) && is_hex(parent, 16);
    if !valid || id.bytes().all(|b| b == b'0') {
        return None;
    }
    let flags = parts.next().filter(|flags| is_hex(flags, 2));
    let is_sampled = flags.and_then(|flags| u8::from_str_radix(flags, 16).ok()).is_some_and(|f| f & 1 == 1);
    let parent = u64::from_str_radix(parent, 16).ok().filter(|id| *id != 0);
    Some(TraceContext { id: id.to_owned(), parent: parent.map(|id| ParentSpan { id, is_sampled }) })
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
        for (flags, is_sampled) in [("01", true), ("00", false), ("03", true), ("02", false)] {
            let found = with(&format!("00-{given}-00f067aa0ba902b7-{flags}"));
            let parent = Some(ParentSpan { id: 0x00f0_67aa_0ba9_02b7, is_sampled });
            assert_eq!(found, TraceContext { id: given.to_owned(), parent });
        }
        for bad in ["", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "00-\"-x-01", "junk"] {
            let drawn = with(bad);
            assert_ne!(drawn.id, given);
            assert_eq!((drawn.id.len(), drawn.parent), (32, None));
        }
        let of = |n: u128| TraceContext { id: format!("{n:032x}"), parent: None };
        for (part, least, most) in [(0.0, 0, 0), (0.25, 2_300, 2_700), (1.0, 10_000, 10_000)] {
            let among = (1..=10_000).filter(|n| of(*n).is_in(part)).count();
            assert!((least..=most).contains(&among), "{among} of 10,000 at {part}");
        }
        let drawn: HashSet<_> = (0..10_000).map(|_| ids.of(&HeaderMap::new()).id).collect();
        assert_eq!(drawn.len(), 10_000);
    }
}
