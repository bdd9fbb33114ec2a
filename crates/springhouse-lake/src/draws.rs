//! Numbers drawn for tests: the same for the same seed, on every machine.

/// Draws numbers below a bound.
pub(crate) fn draws(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |bound| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % bound
    }
}
