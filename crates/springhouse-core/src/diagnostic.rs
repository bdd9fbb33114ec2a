//! What is wrong in the files, said so that it can be put right: where, what was found, what was expected, what to do.

use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// One mistake. Branch on `code`; the texts are for people and may change. `Display` prints it with its line and a caret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether it must be put right.
    pub severity: Severity,
    /// Stable name of the kind of mistake, such as `unknown_column`.
    pub code: &'static str,
    /// What was found and what was expected.
    pub message: String,
    /// Where.
    #[serde(flatten)]
    pub location: Location,
    /// What to do, when that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Other places that belong to it, each with its part in the story.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
}

/// Whether a mistake must be put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is applied until it is.
    Error,
    /// Worth a look.
    Warning,
}

/// A place in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Location {
    /// The file, as it was named to the loader.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// How many characters it covers on its line; at least 1.
    pub length: u32,
    /// The line's text.
    #[serde(skip)]
    pub text: Arc<str>,
}

/// A second place of a mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// Where.
    #[serde(flatten)]
    pub location: Location,
    /// What is there.
    pub message: String,
}

impl Diagnostic {
    /// An error without a hint.
    pub fn error(code: &'static str, location: Location, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            location,
            hint: None,
            related: vec![],
        }
    }

    /// Something worth a look, without a hint.
    pub fn warning(code: &'static str, location: Location, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, location, message) }
    }

    /// Says what to do.
    pub fn set_hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Asks "did you mean" when one of `known` is close to `found`, else names what is known if that is short.
    pub fn set_hint_of(
        &mut self,
        found: &str,
        known: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> &mut Self {
        self.hint = did_you_mean(found, known);
        self
    }

    /// Adds a second place.
    pub fn relate(&mut self, location: Location, message: impl Into<String>) -> &mut Self {
        self.related.push(Related { location, message: message.into() });
        self
    }
}

/// Most names that a hint lists when none is close.
const NAMES_LISTED_MAX: usize = 12;
/// How close (Jaro-Winkler, 0 to 1) a name must be to be suggested.
const SIMILARITY_MIN: f64 = 0.8;

/// The one of `known` that `found` was probably meant to be.
pub fn closest<'a, S: AsRef<str> + ?Sized + 'a>(
    found: &str,
    known: impl IntoIterator<Item = &'a S>,
) -> Option<&'a str> {
    let lower = found.to_lowercase();
    let closeness = |name: &str| strsim::jaro_winkler(&lower, &name.to_lowercase());
    let scored = known.into_iter().map(|name| (closeness(name.as_ref()), name.as_ref()));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= SIMILARITY_MIN).then_some(best.1)
}

/// "did you mean `x`?" for the closest of `known`, or the list of what is known when nothing is close.
pub fn did_you_mean(found: &str, known: impl IntoIterator<Item = impl AsRef<str>>) -> Option<String> {
    let known: Vec<String> = known.into_iter().map(|name| name.as_ref().to_owned()).collect();
    if let Some(meant) = closest(found, &known) {
        return Some(format!("did you mean `{meant}`?"));
    }
    let mut listed: Vec<String> = known.iter().take(NAMES_LISTED_MAX).map(|n| format!("`{n}`")).collect();
    if known.len() > NAMES_LISTED_MAX {
        listed.push(format!("and {} more", known.len() - NAMES_LISTED_MAX));
    }
    (!listed.is_empty()).then(|| format!("known here: {}", listed.join(", ")))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}[{}]: {}", self.code, self.message)?;
        let lines = self.related.iter().map(|r| r.location.line).chain([self.location.line]);
        let width = lines.max().unwrap_or(0).to_string().len();
        excerpt(f, width, &self.location, '^', "", "-->")?;
        for related in &self.related {
            excerpt(f, width, &related.location, '-', &related.message, ":::")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "{:width$} = help: {hint}", "")?;
        }
        Ok(())
    }
}

fn excerpt(
    f: &mut fmt::Formatter<'_>,
    width: usize,
    location: &Location,
    mark: char,
    label: &str,
    arrow: &str,
) -> fmt::Result {
    let Location { file, line, column, length, text } = location;
    writeln!(f, "{:width$}{arrow} {file}:{line}:{column}", "")?;
    writeln!(f, "{:width$} |", "")?;
    writeln!(f, "{line:width$} | {text}")?;
    let marks: String = std::iter::repeat_n(mark, *length as usize).collect();
    let indent: String =
        text.chars().take(*column as usize - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    writeln!(f, "{}", format!("{:width$} | {indent}{marks} {label}", "").trim_end())
}
