//! Why an expression has no plan, in words for people.

use datafusion_common::DataFusionError;

/// Why an expression can't be planned. `message` is one line for people; `hint` says what to do, when that is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Where in the SQL text (1-based column), when known.
    pub column: Option<usize>,
}

impl ExprError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, column: None }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn at(mut self, column: Option<usize>) -> Self {
        self.column = column;
        self
    }

    /// The first line of DataFusion's message, with our names for types and without its prefixes.
    pub(crate) fn from_engine(error: &DataFusionError) -> Self {
        let text = error.strip_backtrace();
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let mut message = line.to_owned();
        for prefix in [
            "Error during planning: ",
            "This feature is not implemented: ",
            "Schema error: ",
            "Execution error: ",
            "type_coercion",
            "Arrow error: ",
            "Internal error: ",
        ] {
            message = message.replace(prefix, "");
        }
        let end = message.find(" No function matches").or_else(|| message.find("This issue was likely"));
        message.truncate(end.unwrap_or(message.len()));
        if message.starts_with("Could not plan array literal") {
            return Self::new("lists can't be written in an expression").with_hint("use `x IN (1, 2)`");
        }
        for (theirs, ours) in TYPE_NAMES {
            message = message.replace(theirs, ours);
        }
        let message = message.trim().trim_end_matches(['.', ',', ';']).to_owned();
        Self::new(if message.is_empty() { "the expression can't be planned".to_owned() } else { message })
    }
}

/// DataFusion's names of types, longest first, and ours.
const TYPE_NAMES: [(&str, &str); 14] = [
    ("Timestamp(Microsecond, Some(\"UTC\"))", "timestamp"),
    ("Timestamp(µs, \"UTC\")", "timestamp"),
    ("Timestamp(ns)", "timestamp"),
    ("LargeUtf8", "string"),
    ("Utf8View", "string"),
    ("Utf8", "string"),
    ("LargeBinary", "bytes"),
    ("Boolean", "bool"),
    ("Float64", "float64"),
    ("Float32", "float32"),
    ("Int64", "int64"),
    ("Int32", "int32"),
    ("Date32", "date"),
    ("Binary", "bytes"),
];

/// The candidate that `name` was likely meant to be.
pub(crate) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (wanted.len().max(candidate.len()) / 3).max(1))
        .min_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(b.1)))
        .map(|(_, candidate)| candidate)
}
