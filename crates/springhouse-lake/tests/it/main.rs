//! The lake from outside: files in, training sets and states out.

#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop where it is")]
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a random test takes its seed from the clock and prints it"
)]

mod by_column;
mod labels;
mod materialize;
mod optimize;
mod options;
mod population;
mod rounds;
mod stream;
mod support;
mod training;
