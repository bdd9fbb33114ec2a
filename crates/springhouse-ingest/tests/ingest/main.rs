//! Pushes from the outside: outcomes, restarts, kills, and what the online store and the lake hold in the end.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it unwraps, and prints its seed"
)]

mod gate;
mod kills;
mod outcomes;
mod refusals;
mod restarts;
mod support;
mod topics;
