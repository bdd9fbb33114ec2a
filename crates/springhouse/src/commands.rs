//! One file a subcommand: its `clap` arguments and one function that runs it.

pub(crate) mod apply;
pub(crate) mod conformance;
pub(crate) mod init;
pub(crate) mod plan;
pub(crate) mod registry;
pub(crate) mod schema;
pub(crate) mod validate;
