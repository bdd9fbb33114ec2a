//! From the tree to what the files may say. Reading goes on after a mistake, so that one run reports them all.

use crate::diagnostic::{Diagnostic, Location, closest, did_you_mean};
use crate::yaml::{Files, Key, Kind, Node, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// Something that a node can say.
pub(crate) trait FromNode: Sized {
    /// True when a null is a thing to say, not the absence of one.
    const TAKES_NULL: bool = false;

    /// Reads it; None after a mistake was reported.
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self>;
}

/// Where the parts of the definitions stand: from a path such as `feature_views.v.where` to file, line and column.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    pub(crate) files: Files,
    places: BTreeMap<String, Place>,
    aliases: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    key: Span,
    value: Span,
    /// True for the text of a plain or quoted scalar on one line, in which a column can be pointed at.
    text_starts: Option<u32>,
}

impl Spans {
    /// Where the value at `path` stands, or the nearest thing around it that is there.
    pub fn locate(&self, path: &str) -> Location {
        self.files.locate(self.place(path).map(|place| place.value).unwrap_or_default().showable())
    }

    /// Where the key of `path` stands, or of the nearest thing around it that is there.
    pub fn locate_key(&self, path: &str) -> Location {
        self.files.locate(self.place(path).map(|place| place.key).unwrap_or_default().showable())
    }

    /// Where the `column`-th character (from 1) of the text at `path` stands; the whole text when it spans lines.
    pub fn locate_within(&self, path: &str, column: usize) -> Location {
        let whole = self.locate(path);
        let place = self.places.get(self.canonical(path).as_ref());
        let Some(Place { text_starts: Some(start), .. }) = place else { return whole };
        let offset = (column as u32).saturating_sub(1);
        if start + offset >= whole.column + whole.length {
            return whole;
        }
        let column = start + offset;
        let word =
            whole.text.chars().skip(column as usize - 1).take_while(|c| c.is_alphanumeric() || *c == '_');
        Location { column, length: (word.count() as u32).max(1), ..whole }
    }

    /// Lets `alias` and what is below it be found as `path`.
    pub(crate) fn alias(&mut self, path: &str, alias: &str) {
        self.aliases.insert(alias.to_owned(), path.to_owned());
    }

    /// The path as the files have it: an aggregate's features are known by names of their own.
    pub(crate) fn canonical<'a>(&self, path: &'a str) -> Cow<'a, str> {
        let below_feature = path.match_indices('.').nth(3).map_or(path.len(), |(at, _)| at);
        match self.aliases.get(&path[..below_feature]) {
            Some(known) => Cow::Owned(format!("{known}{}", &path[below_feature..])),
            None => Cow::Borrowed(path),
        }
    }

    /// The paths exactly one step below this one.
    pub(crate) fn names_below(&self, path: &str) -> Vec<String> {
        let below = format!("{path}.");
        let range = self.places.range(below.clone()..).map(|(at, _)| at);
        let within = range.take_while(|at| at.starts_with(&below));
        within.filter(|at| !at[below.len()..].contains('.')).cloned().collect()
    }

    /// True when something stands at exactly this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// Lets `path` stand where `to` stands.
    pub(crate) fn point(&mut self, path: &str, to: &str) {
        if let Some(place) = self.places.get(to).copied()
            && let Some(from) = self.places.get_mut(path)
        {
            *from = Place { key: from.key, ..place };
        }
    }

    fn place(&self, path: &str) -> Option<&Place> {
        let canonical = self.canonical(path);
        let mut path = canonical.as_ref();
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(place);
            }
            path = path.rsplit_once('.')?.0;
        }
    }
}

impl Span {
    /// A span that can be shown: the default one stands at the first character of the first file.
    fn showable(self) -> Self {
        Self { line: self.line.max(1), column: self.column.max(1), ..self }
    }
}

/// Reads nodes; keeps the path, the places and the mistakes.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) spans: Spans,
    pub(crate) diagnostics: Vec<Diagnostic>,
    path: Vec<String>,
    /// Paths about which something was reported: nothing more is said of them, nor of what depends on them.
    broken: BTreeSet<String>,
    /// Columns and features whose expression did not plan, so that their type is not known.
    untyped: BTreeSet<String>,
}

impl Reader {
    pub(crate) fn path(&self) -> String {
        self.path.join(".")
    }

    /// The path of `key` in what is being read.
    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path()) }
    }

    /// Reads with `segment` added to the path.
    pub(crate) fn within<T>(
        &mut self,
        segment: &str,
        key: Span,
        node: &Node,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.path.push(segment.to_owned());
        let text_starts = match &node.kind {
            Kind::Scalar { text, plain } if !text.contains('\n') => {
                Some(node.span.column + u32::from(!plain))
            }
            _ => None,
        };
        let place = Place { key, value: node.span, text_starts };
        self.spans.places.insert(self.path(), place);
        let result = read(self);
        self.path.pop();
        result
    }

    /// Reports a mistake at the present path, at `span`.
    pub(crate) fn report(&mut self, span: Span, code: &'static str, message: String) -> &mut Diagnostic {
        self.broken.insert(self.path());
        self.diagnostics.push(Diagnostic::error(code, self.spans.files.locate(span), message));
        self.diagnostics.last_mut().expect("just pushed")
    }

    /// Reports a mistake about the value at `path`, unless something was already said about it.
    pub(crate) fn report_at(
        &mut self,
        path: &str,
        code: &'static str,
        message: String,
    ) -> Option<&mut Diagnostic> {
        let location = self.spans.locate(path);
        self.report_once(path, location, code, message)
    }

    /// Reports a mistake about the key at `path`, unless something was already said about it.
    pub(crate) fn report_key(
        &mut self,
        path: &str,
        code: &'static str,
        message: String,
    ) -> Option<&mut Diagnostic> {
        let location = self.spans.locate_key(path);
        self.report_once(path, location, code, message)
    }

    fn report_once(
        &mut self,
        path: &str,
        location: Location,
        code: &'static str,
        message: String,
    ) -> Option<&mut Diagnostic> {
        if !self.broken.insert(path.to_owned()) {
            return None;
        }
        self.diagnostics.push(Diagnostic::error(code, location, message));
        self.diagnostics.last_mut()
    }

    /// Says something worth a look about the key at `path`.
    pub(crate) fn warn(&mut self, path: &str, code: &'static str, message: String) -> &mut Diagnostic {
        self.diagnostics.push(Diagnostic::warning(code, self.spans.locate_key(path), message));
        self.diagnostics.last_mut().expect("just pushed")
    }

    /// True when something was reported about `path` itself.
    pub(crate) fn is_broken(&self, path: &str) -> bool {
        self.broken.contains(path)
    }

    /// True when something was reported about `path` or anything below it.
    pub(crate) fn is_broken_below(&self, path: &str) -> bool {
        let below = format!("{path}.");
        self.is_broken(path)
            || self.broken.range(below.clone()..).next().is_some_and(|p| p.starts_with(&below))
    }

    /// Remembers that the column or feature at `path` has no type.
    pub(crate) fn mark_untyped(&mut self, path: &str) {
        self.untyped.insert(path.to_owned());
    }

    /// True when the type of the column or feature at `path` is not known.
    pub(crate) fn is_untyped(&self, path: &str) -> bool {
        self.untyped.contains(path) || self.is_broken(path)
    }

    /// Says nothing more of `path`.
    pub(crate) fn mark_broken(&mut self, path: &str) {
        self.broken.insert(path.to_owned());
    }

    /// Reports that `node` is not what was expected here.
    pub(crate) fn expected<T>(&mut self, node: &Node, expected: &str) -> Option<T> {
        let message = format!("expected {expected}, found {}", node.what());
        self.report(node.span, "wrong_type", message);
        None
    }

    /// Checks that `node` is a mapping with only these keys.
    pub(crate) fn check_keys(&mut self, node: &Node, what: &str, known: &[&str]) -> Option<()> {
        let Kind::Map(entries) = &node.kind else {
            return self.expected(node, &format!("a mapping ({what})"));
        };
        for (key, value) in entries {
            if !known.contains(&key.text.as_str()) {
                let meant = self.within(&key.text, key.span, value, |reader| {
                    let message = format!("`{}` is not a key of {what}", key.text);
                    let hint = did_you_mean(&key.text, known);
                    reader.report(key.span, "unknown_key", message).hint = hint;
                    closest(&key.text, known).map(str::to_owned)
                });
                // Who misspells a key does not also want to hear that it is missing.
                if let Some(meant) = meant.filter(|meant| node.entry(meant).is_none()) {
                    let path = self.path_of(&meant);
                    self.mark_broken(&path);
                }
            }
        }
        Some(())
    }

    /// The value of a key that must be there.
    pub(crate) fn required<T: FromNode>(&mut self, node: &Node, what: &str, key: &str) -> Option<T> {
        match node.entry(key) {
            Some((k, value)) if T::TAKES_NULL || !matches!(value.kind, Kind::Null) => {
                self.within(key, k.span, value, |reader| T::from_node(value, reader))
            }
            found => {
                let path = self.path_of(key);
                // A key with nothing behind it is pointed at itself, an absent one at what lacks it.
                let location = match found {
                    Some((k, _)) => self.spans.files.locate(k.span),
                    None => self.spans.locate_key(&self.path()),
                };
                let message = format!("`{key}` is missing; {what} needs it");
                self.report_once(&path, location, "missing_key", message);
                None
            }
        }
    }

    /// The value of a key that may be there.
    pub(crate) fn optional<T: FromNode>(&mut self, node: &Node, key: &str) -> Option<T> {
        let (k, value) = node.entry(key)?;
        if matches!(value.kind, Kind::Null) && !T::TAKES_NULL {
            return None;
        }
        self.within(key, k.span, value, |reader| T::from_node(value, reader))
    }
}

/// Declares a mapping with known keys: a struct whose fields are all `Option` (None: absent, or reported), its reader
/// and its JSON Schema.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident, $what:literal;
     required { $($(#[$rmeta:meta])* $rkey:literal $rfield:ident: $rtype:ty,)* }
     optional { $($(#[$ometa:meta])* $okey:literal $ofield:ident: $otype:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub(crate) struct $name {
            $($(#[$rmeta])* #[schemars(rename = $rkey, required)] pub(crate) $rfield: Option<$rtype>,)*
            $($(#[$ometa])* #[schemars(rename = $okey)] pub(crate) $ofield: Option<$otype>,)*
        }

        impl crate::read::FromNode for $name {
            fn from_node(node: &crate::yaml::Node, reader: &mut crate::read::Reader) -> Option<Self> {
                reader.check_keys(node, $what, &[$($rkey,)* $($okey,)*])?;
                Some(Self {
                    $($rfield: reader.required(node, $what, $rkey),)*
                    $($ofield: reader.optional(node, $okey),)*
                })
            }
        }
    };
}
pub(crate) use section;

/// Declares how an enum of single words is read.
macro_rules! words {
    ($($type:ident $(as $synonyms:path)?: $($word:literal => $value:expr),+;)*) => {$(
        impl crate::read::FromNode for $type {
            fn from_node(node: &crate::yaml::Node, reader: &mut crate::read::Reader) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),+];
                let synonyms: &[fn(&str) -> Option<&'static str>] = &[$($synonyms)?];
                let text = crate::read::word(node, reader, WORDS, synonyms.first().copied())?;
                match text { $($word => Some($value),)+ _ => None }
            }
        }
    )*};
}
pub(crate) use words;

/// One of `words`; reports anything else. `synonyms`: what other words may have been meant to say.
pub(crate) fn word<'a>(
    node: &'a Node,
    reader: &mut Reader,
    words: &[&str],
    synonyms: Option<fn(&str) -> Option<&'static str>>,
) -> Option<&'a str> {
    let expected = words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
    let expected = if words.len() == 1 { expected } else { format!("one of {expected}") };
    match &node.kind {
        Kind::Scalar { text, .. } if words.contains(&text.as_str()) => Some(text),
        Kind::Scalar { text, .. } => {
            let message = format!("expected {expected}, found {}", node.what());
            let meant = synonyms.and_then(|synonyms| synonyms(text)).or_else(|| closest(text, words));
            let hint = meant.map(|meant| format!("did you mean `{meant}`?"));
            reader.report(node.span, "unknown_word", message).hint = hint;
            None
        }
        _ => reader.expected(node, &expected),
    }
}

impl FromNode for String {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.kind {
            Kind::Scalar { text, .. } => Some(text.clone()),
            _ => reader.expected(node, "a text"),
        }
    }
}

impl FromNode for bool {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.kind {
            Kind::Scalar { text, plain: true } if text == "true" => Some(true),
            Kind::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => reader.expected(node, "`true` or `false`"),
        }
    }
}

fn whole_number<T: FromStr>(node: &Node, reader: &mut Reader) -> Option<T> {
    match &node.kind {
        Kind::Scalar { text, plain: true } if text.parse::<T>().is_ok() => text.parse().ok(),
        _ => reader.expected(node, "a whole number, 0 or more"),
    }
}

impl FromNode for u32 {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        whole_number(node, reader)
    }
}

impl FromNode for u64 {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        whole_number(node, reader)
    }
}

impl FromNode for f64 {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.kind {
            Kind::Scalar { text, plain: true } if text.parse::<Self>().is_ok_and(Self::is_finite) => {
                text.parse().ok()
            }
            _ => reader.expected(node, "a number"),
        }
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Kind::List(items) = &node.kind else { return reader.expected(node, "a list") };
        let read = |(at, item): (usize, &Node)| {
            reader.within(&at.to_string(), item.span, item, |reader| T::from_node(item, reader))
        };
        // Every item is read, for its mistakes; a list with a hole is none, as its places would be off.
        let read: Vec<Option<T>> = items.iter().enumerate().map(read).collect();
        read.into_iter().collect()
    }
}

/// Free labels.
impl FromNode for BTreeMap<String, String> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let entries = Entries::<String>::from_node(node, reader)?;
        Some(entries.0.into_iter().filter_map(|e| Some((e.name, e.value?))).collect())
    }
}

/// Named things in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Entries<T>(pub(crate) Vec<Entry<T>>);

/// A name, and what it names (none after a mistake: the name is known all the same).
#[derive(Clone, Debug)]
pub(crate) struct Entry<T> {
    pub(crate) name: String,
    pub(crate) value: Option<T>,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<T> Entries<T> {
    pub(crate) fn get(&self, name: &str) -> Option<&Entry<T>> {
        self.0.iter().find(|entry| entry.name == name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|entry| entry.name.as_str())
    }
}

impl<T: FromNode> FromNode for Entries<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else { return reader.expected(node, "a mapping from names") };
        let read = |(key, value): &(Key, Node)| {
            let value = reader.within(&key.text, key.span, value, |reader| T::from_node(value, reader));
            Entry { name: key.text.clone(), value }
        };
        Some(Self(entries.iter().map(read).collect()))
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}s", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": {"pattern": "^[a-z][a-z0-9_]*$"},
            "additionalProperties": generator.subschema_for::<T>(),
        })
    }
}

/// A text, or a mapping where more is to be said.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum ShortOr<S, L> {
    /// The short form.
    Short(S),
    /// The long form.
    Long(L),
}

impl<S: FromNode, L: FromNode> FromNode for ShortOr<S, L> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match node.kind {
            Kind::Map(_) => L::from_node(node, reader).map(Self::Long),
            _ => S::from_node(node, reader).map(Self::Short),
        }
    }
}

/// One, or a list.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum OneOrMany<T> {
    /// One.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T: FromNode> FromNode for OneOrMany<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match node.kind {
            Kind::List(_) => Vec::from_node(node, reader).map(Self::Many),
            _ => T::from_node(node, reader).map(Self::One),
        }
    }
}

impl<T> OneOrMany<T> {
    pub(crate) fn items(&self) -> &[T] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
        }
    }
}
