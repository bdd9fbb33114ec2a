//! Named points where a kill test makes the process die, compiled in always.
//!
//! A point costs one relaxed load until `main` has armed one (from `SPRINGHOUSE_CRASH_AT=name` or `name:count`, which
//! dies the `count`-th time). Dying is an abort: no destructor runs and nothing is flushed, as with `kill -9`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static ARMED: AtomicBool = AtomicBool::new(false);
static TARGET: OnceLock<Target> = OnceLock::new();

struct Target {
    name: String,
    passes_left: AtomicU64,
}

/// Arms one point of this process; once only.
///
/// # Errors
/// When `spec` is no `name` or `name:count` with a count of at least 1, or a point is armed already.
pub fn arm(spec: &str) -> Result<(), String> {
    let (name, count) = parse(spec)?;
    TARGET
        .set(Target { name, passes_left: AtomicU64::new(count) })
        .map_err(|_| "a crash point is armed already".to_owned())?;
    ARMED.store(true, Ordering::Release);
    Ok(())
}

/// Dies here when this point is armed and its count is reached.
#[inline]
pub fn crash_point(name: &str) {
    if ARMED.load(Ordering::Relaxed) {
        pass(name);
    }
}

#[cold]
fn pass(name: &str) {
    let Some(target) = TARGET.get() else { return };
    if target.name == name && target.passes_left.fetch_sub(1, Ordering::SeqCst) == 1 {
        std::process::abort();
    }
}

fn parse(spec: &str) -> Result<(String, u64), String> {
    let (name, count) = spec.split_once(':').unwrap_or((spec, "1"));
    match count.parse::<u64>() {
        Ok(count) if count >= 1 && !name.is_empty() => Ok((name.to_owned(), count)),
        _ => Err(format!("`{spec}` is no crash point; write name or name:count with a count of at least 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_a_name_and_a_count() {
        assert_eq!(parse("before_log_write"), Ok(("before_log_write".to_owned(), 1)));
        assert_eq!(parse("a:12"), Ok(("a".to_owned(), 12)));
        for spec in ["", ":1", "a:0", "a:x", "a:"] {
            assert!(parse(spec).is_err(), "{spec}");
        }
    }

    #[test]
    fn an_unarmed_point_is_passed() {
        crash_point("nobody armed this");
    }
}
