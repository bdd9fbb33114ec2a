//! One file a subcommand: its `clap` arguments and one function that runs it.

pub(crate) mod conformance;
