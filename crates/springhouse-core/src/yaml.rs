//! YAML text as a tree that remembers where everything stands. No meaning yet: that is `read.rs`.

use crate::diagnostic::{Diagnostic, Location};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span as ParserSpan};
use std::collections::HashMap;
use std::sync::Arc;

/// The largest definition file.
pub(crate) const FILE_BYTES_MAX: usize = 4 << 20;
/// Most nodes in a file once aliases are spelled out, so that no nest of aliases fills the memory.
const NODES_MAX: usize = 200_000;
/// Deepest nesting.
const DEPTH_MAX: usize = 64;

/// A stretch of one line of one file. Line and column from 1, column and length in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) file: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) length: u32,
}

/// One node of the tree.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Null,
    /// `plain`: written without quotes, so that `1` may be a number.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) span: Span,
}

impl Node {
    /// What it is, for messages.
    pub(crate) fn what(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
            Kind::Scalar { text, .. } => format!("`{}`", shorten(text)),
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&(Key, Node)> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(k, _)| k.text == key),
            _ => None,
        }
    }
}

/// A text short enough for one line of a message.
pub(crate) fn shorten(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    if line.len() == text.len() && line.chars().count() <= CHARACTERS_MAX {
        return line.to_owned();
    }
    line.chars().take(CHARACTERS_MAX).chain("...".chars()).collect()
}

/// The files read, and the way from a span to a place that can be shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files(Vec<(Arc<str>, Arc<str>)>);

impl Files {
    pub(crate) fn add(&mut self, name: &str, text: &str) -> u32 {
        self.0.push((name.into(), text.into()));
        u32::try_from(self.0.len() - 1).expect("far fewer files than 2^32 are ever read")
    }

    pub(crate) fn locate(&self, span: Span) -> Location {
        let (file, text) = &self.0[span.file as usize];
        let line = text.lines().nth((span.line as usize).saturating_sub(1)).unwrap_or_default();
        let rest = line.chars().count().saturating_sub(span.column as usize - 1);
        Location {
            file: file.clone(),
            line: span.line,
            column: span.column,
            length: (span.length as usize).min(rest).max(1) as u32,
            text: line.into(),
        }
    }

    pub(crate) fn text(&self, file: u32) -> &Arc<str> {
        &self.0[file as usize].1
    }
}

/// Parses one file; mistakes of YAML itself go to `diagnostics`. An empty file is an empty mapping.
pub(crate) fn parse(files: &Files, file: u32, diagnostics: &mut Vec<Diagnostic>) -> Option<Node> {
    let text = files.text(file).clone();
    let start = Span { file, line: 1, column: 1, length: 1 };
    if text.len() > FILE_BYTES_MAX {
        diagnostics.push(Diagnostic::error(
            "file_too_large",
            files.locate(start),
            format!("the file has {} bytes; at most {FILE_BYTES_MAX} are read", text.len()),
        ));
        return None;
    }
    let mut builder = Builder {
        files,
        file,
        parser: Parser::new_from_str(&text),
        anchors: HashMap::new(),
        nodes: 0,
        diagnostics,
    };
    match builder.document() {
        Ok(Some(Node { kind: Kind::Null, .. }) | None) => Some(Node { span: start, kind: Kind::Map(vec![]) }),
        Ok(node) => node,
        Err(diagnostic) => {
            diagnostics.push(*diagnostic);
            None
        }
    }
}

struct Builder<'a, 'i> {
    files: &'a Files,
    file: u32,
    parser: Parser<'i, serde_saphyr::granit_parser::StrInput<'i>>,
    /// Finished nodes by anchor, with the number of nodes in each.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    diagnostics: &'a mut Vec<Diagnostic>,
}

type Built<T> = Result<T, Box<Diagnostic>>;

impl<'i> Builder<'_, 'i> {
    fn fail<T>(&self, code: &'static str, span: Span, message: String) -> Built<T> {
        Err(Box::new(Diagnostic::error(code, self.files.locate(span), message)))
    }

    fn next(&mut self) -> Built<Option<(Event<'i>, Span)>> {
        match self.parser.next() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                let span = self.span(&span);
                Ok(Some((event, span)))
            }
            Some(Err(error)) => {
                let marker = error.marker();
                let span = Span {
                    file: self.file,
                    line: marker.line().max(1) as u32,
                    column: marker.col() as u32 + 1,
                    length: 1,
                };
                self.fail("yaml_syntax", span, format!("this is not YAML: {}", error.info()))
            }
        }
    }

    fn span(&self, span: &ParserSpan) -> Span {
        let (start, end) = (span.start, span.end);
        let length = if end.line() == start.line() {
            end.col().saturating_sub(start.col())
        } else {
            usize::from(u16::MAX)
        };
        Span {
            file: self.file,
            line: start.line().max(1) as u32,
            column: start.col() as u32 + 1,
            length: length.max(1) as u32,
        }
    }

    fn document(&mut self) -> Built<Option<Node>> {
        let mut root = None;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::DocumentStart(..) if root.is_some() => {
                    return self.fail(
                        "second_document",
                        span,
                        "a second document begins here; expected one document a file".to_owned(),
                    );
                }
                Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_) => {
                    root = Some(self.node(event, span, 0)?);
                }
                _ => {}
            }
        }
        Ok(root)
    }

    fn node(&mut self, event: Event<'i>, span: Span, depth: usize) -> Built<Node> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return self.fail("too_many_nodes", span, format!("the file has over {NODES_MAX} values"));
        }
        if depth > DEPTH_MAX {
            return self.fail("too_deep", span, format!("this is nested deeper than {DEPTH_MAX} levels"));
        }
        let before = self.nodes;
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, scalar(&text, style, span)),
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        None | Some((Event::SequenceEnd, _)) => break,
                        Some((event, span)) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (anchor, Node { span, kind: Kind::List(items) })
            }
            Event::MappingStart(_, anchor, _) => (anchor, self.mapping(span, depth)?),
            Event::Alias(id) => {
                let Some((node, nodes)) = self.anchors.get(&id).cloned() else {
                    return self.fail("yaml_syntax", span, "this alias refers to itself".to_owned());
                };
                self.nodes += nodes;
                return Ok(node);
            }
            _ => return self.fail("yaml_syntax", span, "this is not YAML: a value was expected".to_owned()),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn mapping(&mut self, span: Span, depth: usize) -> Built<Node> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<Node> = Vec::new();
        loop {
            let (event, key_span) = match self.next()? {
                None | Some((Event::MappingEnd, _)) => break,
                Some(found) => found,
            };
            let key = match self.node(event, key_span, depth + 1)?.kind {
                Kind::Scalar { text, .. } => text,
                Kind::Null => "null".to_owned(),
                _ => return self.fail("key_not_text", key_span, "a key must be a plain text".to_owned()),
            };
            let Some((event, value_span)) = self.next()? else { break };
            let value = self.node(event, value_span, depth + 1)?;
            if key == "<<" {
                merged.push(value);
                continue;
            }
            if let Some((first, _)) = entries.iter().find(|(k, _)| k.text == key) {
                let mut diagnostic = Diagnostic::error(
                    "duplicate_key",
                    self.files.locate(key_span),
                    format!("`{key}` is given twice; expected each key once"),
                );
                diagnostic.relate(self.files.locate(first.span), "first given here");
                self.diagnostics.push(diagnostic);
                continue;
            }
            entries.push((Key { text: key, span: key_span }, value));
        }
        for map in merged.into_iter().flat_map(|node| match node.kind {
            Kind::List(items) => items,
            _ => vec![node],
        }) {
            let Kind::Map(inherited) = map.kind else {
                return self.fail(
                    "yaml_syntax",
                    map.span,
                    "`<<` takes a mapping or a list of them".to_owned(),
                );
            };
            for (key, value) in inherited {
                if !entries.iter().any(|(k, _)| k.text == key.text) {
                    entries.push((key, value));
                }
            }
        }
        Ok(Node { span, kind: Kind::Map(entries) })
    }
}

fn scalar(text: &str, style: ScalarStyle, span: Span) -> Node {
    let plain = style == ScalarStyle::Plain;
    if plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Node { span, kind: Kind::Null };
    }
    Node { span, kind: Kind::Scalar { text: text.to_owned(), plain } }
}
