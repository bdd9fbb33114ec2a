//! Data goes to stdout, talk goes to stderr; the one place that prints.

#![expect(clippy::print_stderr, reason = "a command line prints, here and nowhere else")]

use crate::client::Refused;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use springhouse_core::Value;
use springhouse_lake::{LakeError, Progress};
use springhouse_node::NodeError;
use springhouse_registry::RegistryError;
use std::io::{IsTerminal, Write};

/// How a command prints its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A table with these headings.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings);
    table
}

/// A progress bar on stderr; silent where stderr is no terminal.
pub(crate) fn bar() -> Bar {
    let style =
        ProgressStyle::with_template("{msg:<24} [{bar:30}] {human_pos}/{human_len} {per_sec} ETA {eta}");
    let bar = ProgressBar::new(0);
    bar.set_style(style.expect("the template is a constant that parses"));
    Bar(bar)
}

/// A progress bar.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn set(&self, stage: &str, done: u64, total: u64) {
        // A stage's rate and ETA are its own; a stage of the same name that starts again is another one.
        if self.0.message() != stage || done < self.0.position() {
            self.0.set_message(stage.to_owned());
            self.0.set_position(0);
            self.0.reset_eta();
        }
        self.0.set_length(total.max(done));
        self.0.set_position(done);
    }

    /// Talk beside the bar.
    pub(crate) fn note(&self, text: &str) {
        self.0.suspend(|| note(text));
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn report(&self, stage: &'static str, done: u64, total: u64) {
        self.set(stage, done, total);
    }
}

/// Data, for people or programs.
pub(crate) fn data(text: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}") {
        // A reader that has seen enough (`| head`) closes the pipe; anything else must not look like success.
        let enough = error.kind() == std::io::ErrorKind::BrokenPipe;
        std::process::exit(if enough { 0 } else { 1 });
    }
}

/// Data that takes the place of what was shown before; one after the other where stdout is no terminal.
pub(crate) fn page(text: &str) {
    const HOME_AND_CLEAR: &str = "\x1b[H\x1b[2J";
    let clear = if std::io::stdout().is_terminal() { HOME_AND_CLEAR } else { "" };
    data(&format!("{clear}{text}"));
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
        } else if let Some(refused) = cause.downcast_ref::<Refused>() {
            (hint, code) = (refused.hint.as_deref(), Some(refused.code.as_str()));
        }
    }
    let chain: Vec<String> = failure.chain().map(ToString::to_string).collect();
    let message = chain.join(": ");
    match code {
        Some(code) => error(&format!("[{code}] {message}"), hint),
        None => error(&message, hint),
    }
}

/// A value in a sentence.
pub(crate) fn value(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Int64(v) => v.to_string(),
        Value::Int32(v) => v.to_string(),
        Value::Float64(v) => format!("{v:.1}"),
        Value::String(v) => v.to_string(),
        other => format!("{other:?}"),
    }
}
