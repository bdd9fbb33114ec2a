//! The Redis store against real servers.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests print their seeds and have patience"
)]

mod contract;
mod faults;
mod new_rows;
mod servers;
