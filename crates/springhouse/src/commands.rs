//! One file a subcommand: its `clap` arguments and one function that runs it.

pub(crate) mod apply;
pub(crate) mod bench;
pub(crate) mod conformance;
pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod get;
pub(crate) mod ingest;
pub(crate) mod init;
mod job;
pub(crate) mod materialize;
pub(crate) mod optimize;
pub(crate) mod plan;
pub(crate) mod push;
pub(crate) mod registry;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod statistics;
pub(crate) mod status;
pub(crate) mod train;
pub(crate) mod validate;
pub(crate) mod verify;
