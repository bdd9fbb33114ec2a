//! Data goes to stdout, talk goes to stderr; the one place that prints.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line prints, here and nowhere else"
)]

use springhouse_lake::{LakeError, Progress};
use springhouse_node::NodeError;
use springhouse_registry::RegistryError;

/// Data, for people or programs.
pub(crate) fn data(text: &str) {
    println!("{text}");
}

/// Talk: what is being done.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// An error, with what to do about it.
pub(crate) fn error(message: &str, hint: Option<&str>) {
    eprintln!("error: {message}");
    if let Some(hint) = hint {
        eprintln!("  = help: {hint}");
    }
}

/// A failed command: the message, its causes, and the hint of the part that failed.
pub(crate) fn failure(failure: &anyhow::Error) {
    let mut hint = None;
    let mut code = None;
    for cause in failure.chain() {
        if let Some(node) = cause.downcast_ref::<NodeError>() {
            (hint, code) = (node.hint.as_deref(), Some(node.code));
        } else if let Some(lake) = cause.downcast_ref::<LakeError>() {
            (hint, code) = (lake.hint.as_deref(), Some(lake.code));
        } else if let Some(registry) = cause.downcast_ref::<RegistryError>() {
            hint = registry.hint();
        }
    }
    let chain: Vec<String> = failure.chain().map(ToString::to_string).collect();
    let message = chain.join(": ");
    match code {
        Some(code) => error(&format!("[{code}] {message}"), hint),
        None => error(&message, hint),
    }
}

/// No progress is shown.
#[derive(Debug)]
pub(crate) struct Quiet;

impl Progress for Quiet {
    fn report(&self, _stage: &'static str, _done: u64, _total: u64) {}
}
