//! Events of a source with an `op` column, as rows: an update is two, the row that was and the row that is.
//!
//! Two shapes are read: a row with its `op` (an update with the old row under `before`), and the envelope of Debezium with
//! `before` and `after`, bare or as the `payload` beside its `schema`.

use super::{Flaw, json_rows};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use springhouse_core::change::{Change, DELETE, INSERT, UPDATE, UPDATE_AFTER, UPDATE_BEFORE};
use springhouse_core::definition::{KnownAt, Source};
use std::borrow::Cow;
use std::fmt;

/// Rows made of events.
#[derive(Debug, Default)]
pub(super) struct Images<'a> {
    /// The text of each row.
    pub(super) texts: Vec<Cow<'a, str>>,
    /// What is wrong with the event it was made of.
    pub(super) flaws: Vec<Option<Flaw>>,
    /// The number of that event.
    pub(super) numbers: Vec<u32>,
}

/// What of a source matters for its changes.
#[derive(Debug)]
pub(super) struct ChangeColumns {
    op: String,
    /// The column that says when a change was known: of an update, when it was, not when the old row was.
    known_at: Option<String>,
    /// Columns that come beside a message's value, and hold for both of its rows.
    beside: Vec<String>,
    /// `before` and `after`, unless they are columns.
    envelope: bool,
}

/// The members of an object, in their order.
type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

impl ChangeColumns {
    /// None for a source whose rows can't take others back.
    pub(super) fn of(source: &Source) -> Option<Self> {
        let op = source.op.clone()?;
        let kafka = source.kafka.as_ref();
        let headers = kafka.into_iter().flat_map(|kafka| kafka.headers.keys().cloned());
        let is_column = |name: &str| source.columns.iter().any(|column| column.name == name);
        Some(Self {
            op,
            known_at: match &source.known_at {
                KnownAt::Column(name) => Some(name.clone()),
                KnownAt::Delay(_) => None,
            },
            beside: kafka.and_then(|kafka| kafka.key.clone()).into_iter().chain(headers).collect(),
            envelope: !is_column("before") && !is_column("after"),
        })
    }

    /// The rows that events are.
    pub(super) fn images<'a>(&self, events: &[&'a str]) -> Images<'a> {
        let mut images = Images::default();
        for (number, event) in (0u32..).zip(events) {
            let rows = members(event).map(|members| self.rows(members));
            let (texts, flaw) = match rows {
                // What is no object is said by whoever reads it as a row.
                None => (vec![Cow::Borrowed(*event)], None),
                Some(Ok(texts)) => (texts.into_iter().map(Cow::Owned).collect(), None),
                Some(Err(flaw)) => (vec![Cow::Borrowed(*event)], Some(flaw)),
            };
            for text in texts {
                images.texts.push(text);
                images.flaws.push(flaw.clone());
                images.numbers.push(number);
            }
        }
        images
    }

    fn rows(&self, mut event: Members<'_>) -> Result<Vec<String>, Flaw> {
        if self.envelope
            && find(&event, "schema").is_some()
            && find(&event, &self.op).is_none()
            && let Some(payload) = find(&event, "payload").and_then(|payload| members(payload.get()))
        {
            // What came beside the message's value stays.
            event.retain(|(name, _)| self.beside.iter().any(|column| column == name));
            event.extend(payload);
        }
        // The envelope has its own name for it.
        let has_envelope = self.envelope && find(&event, "after").is_some();
        let op_name = if has_envelope && find(&event, &self.op).is_none() { "op" } else { &self.op };
        let Some(raw) = find(&event, op_name) else {
            return Ok(vec![self.row(None, event.iter())]);
        };
        let op: Cow<'_, str> = serde_json::from_str(raw.get()).unwrap_or(Cow::Borrowed(raw.get()));
        let before = if self.envelope { self.image(&event, "before")? } else { None };
        let after = if self.envelope { self.image(&event, "after")? } else { None };
        let is_mark = |name: &str| name == op_name || self.envelope && (name == "before" || name == "after");
        let mut rest: Members<'_> = event.iter().filter(|(name, _)| !is_mark(name)).cloned().collect();
        if has_envelope {
            let is_kept = |name: &str| self.beside.iter().chain(&self.known_at).any(|column| column == name);
            rest.retain(|(name, _)| is_kept(name));
        }
        let is = match &after {
            Some(after) => self.with(after, &rest),
            None => rest.clone(),
        };
        let was = before.as_ref().map(|before| self.with(before, &is));
        let word = meaning(&op).ok_or_else(|| unknown_op(op_name, raw.get()))?;
        let gone = || Flaw {
            code: "missing_column",
            reason: format!(
                "{} does not say what the row was: `before` is missing; a change data feed sends it when the table is told to \
                 log whole rows",
                if word == UPDATE { "an update" } else { "a delete" }
            ),
        };
        match word {
            UPDATE if has_envelope && after.is_none() => Err(Flaw {
                code: "missing_column",
                reason: "an update does not say what the row is: `after` is null".to_owned(),
            }),
            UPDATE => {
                let was = was.ok_or_else(gone)?;
                Ok(vec![self.row(Some(UPDATE_BEFORE), was.iter()), self.row(Some(UPDATE_AFTER), is.iter())])
            }
            DELETE if has_envelope => Ok(vec![self.row(Some(DELETE), was.ok_or_else(gone)?.iter())]),
            DELETE => Ok(vec![self.row(Some(DELETE), was.unwrap_or(is).iter())]),
            word => Ok(vec![self.row(Some(word), is.iter())]),
        }
    }

    /// The members of `before` or `after`; none when it is absent or null.
    fn image<'a>(&self, event: &Members<'a>, name: &str) -> Result<Option<Members<'a>>, Flaw> {
        match find(event, name) {
            Some(raw) if raw.get() != "null" => members(raw.get()).map(Some).ok_or_else(|| Flaw {
                code: "wrong_type",
                reason: format!("`{name}` should be a row, got {}", json_rows::quote(raw.get())),
            }),
            _ => Ok(None),
        }
    }

    /// A row with what holds for all rows of its event.
    fn with<'a>(&self, image: &Members<'a>, whole: &Members<'a>) -> Members<'a> {
        let mut row = image.clone();
        for (name, value) in whole {
            if self.known_at.as_deref() == Some(name) {
                row.retain(|(column, _)| column != name);
                row.push((name.clone(), value));
            } else if self.beside.iter().any(|column| column == name) && find(&row, name).is_none() {
                row.push((name.clone(), value));
            }
        }
        row
    }

    fn row<'m, 'a: 'm>(
        &self,
        op: Option<&str>,
        members: impl Iterator<Item = &'m (Cow<'a, str>, &'a RawValue)>,
    ) -> String {
        let mut out = String::from("{");
        let mut put = |name: &str, value: &str| {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&serde_json::Value::from(name).to_string());
            out.push(':');
            out.push_str(value);
        };
        if let Some(op) = op {
            put(&self.op, &format!("\"{op}\""));
        }
        members.for_each(|(name, value)| put(name, value.get()));
        out.push('}');
        out
    }
}

/// The word that is stored for a word that is sent.
fn meaning(op: &str) -> Option<&'static str> {
    match op {
        "update" | "u" => Some(UPDATE),
        UPDATE_BEFORE | "update_preimage" | "-U" => Some(UPDATE_BEFORE),
        UPDATE_AFTER | "update_postimage" | "+U" => Some(UPDATE_AFTER),
        op => Change::of(op).map(|change| match change {
            Change::Adds => INSERT,
            Change::TakesBack => DELETE,
        }),
    }
}

/// What is said of an `op` that means nothing.
pub(super) fn unknown_op(column: &str, found: &str) -> Flaw {
    let words: Vec<&str> = Change::words().collect();
    Flaw {
        code: "malformed_value",
        reason: format!(
            "column `{column}` says what a row does; {} is none of {}, or update with the old row under `before`",
            json_rows::quote(found),
            words.join(", ")
        ),
    }
}

fn find<'a>(members: &Members<'a>, name: &str) -> Option<&'a RawValue> {
    members.iter().find(|(member, _)| member == name).map(|(_, value)| *value)
}

/// The members of an object; none when the text is no object.
fn members(text: &str) -> Option<Members<'_>> {
    struct Object;
    impl<'de> Visitor<'de> for Object {
        type Value = Members<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut members = Members::new();
            while let Some(name) = entries.next_key::<Name<'de>>()? {
                members.push((name.0, entries.next_value()?));
            }
            Ok(members)
        }
    }
    let mut input = serde_json::Deserializer::from_str(text);
    let members = input.deserialize_map(Object).ok()?;
    input.end().ok().map(|()| members)
}

/// A member's name; borrowed unless it has escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> ChangeColumns {
        ChangeColumns {
            op: "op".into(),
            known_at: Some("seen".into()),
            beside: vec!["key".into()],
            envelope: true,
        }
    }

    fn rows(event: &str) -> Vec<String> {
        let images = columns().images(&[event]);
        let said = images.texts.iter().zip(&images.flaws);
        said.map(|(text, flaw)| {
            flaw.as_ref().map_or(text.to_string(), |flaw| format!("{}: {}", flaw.code, flaw.reason))
        })
        .collect()
    }

    #[test]
    fn a_row_with_its_op_is_one_row_and_an_update_two() {
        assert_eq!(rows(r#"{"a":1,"op":"insert"}"#), [r#"{"op":"insert","a":1}"#]);
        assert_eq!(rows(r#"{"op":"-D","a":1}"#), [r#"{"op":"delete","a":1}"#]);
        assert_eq!(rows(r#"{"op":"+U","a":1}"#), [r#"{"op":"update_after","a":1}"#]);
        assert_eq!(rows(r#"{"op":"delete","before":{"a":1}}"#), [r#"{"op":"delete","a":1}"#]);
        assert_eq!(
            rows(r#"{"op":"update","before":{"a":1},"a":2}"#),
            [r#"{"op":"update_before","a":1}"#, r#"{"op":"update_after","a":2}"#]
        );
    }

    #[test]
    fn an_envelope_is_read_with_and_without_its_schema() {
        let envelope = r#"{"before":{"a":1},"after":{"a":2},"op":"u","ts_ms":5,"source":{"x":1}}"#;
        let expected = [r#"{"op":"update_before","a":1}"#, r#"{"op":"update_after","a":2}"#];
        assert_eq!(rows(envelope), expected);
        assert_eq!(rows(&format!(r#"{{"schema":{{}},"payload":{envelope}}}"#)), expected);
        assert_eq!(rows(r#"{"before":null,"after":{"a":2},"op":"r"}"#), [r#"{"op":"insert","a":2}"#]);
        assert_eq!(rows(r#"{"before":{"a":2},"after":null,"op":"d"}"#), [r#"{"op":"delete","a":2}"#]);
    }

    #[test]
    fn what_comes_beside_a_row_holds_for_both_and_a_change_is_known_when_it_was() {
        assert_eq!(
            rows(r#"{"key":"k","op":"update","before":{"a":1,"seen":3},"a":2,"seen":4}"#),
            [
                r#"{"op":"update_before","a":1,"key":"k","seen":4}"#,
                r#"{"op":"update_after","key":"k","a":2,"seen":4}"#
            ]
        );
        assert_eq!(
            rows(r#"{"key":"k","schema":1,"payload":{"op":"d","before":{"a":1},"after":null}}"#),
            [r#"{"op":"delete","a":1,"key":"k"}"#]
        );
    }

    #[test]
    fn what_is_missing_or_unknown_is_said() {
        for (event, code, reason) in [
            (
                r#"{"op":"u","after":{"a":1},"before":null}"#,
                "missing_column",
                "does not say what the row was",
            ),
            (r#"{"op":"u","before":{"a":1},"after":null}"#, "missing_column", "`after` is null"),
            (r#"{"op":"d","before":null,"after":null}"#, "missing_column", "a delete does not say"),
            (r#"{"op":"update","a":1}"#, "missing_column", "`before` is missing"),
            (r#"{"op":"t","after":null}"#, "malformed_value", "\"t\" is none of"),
            (r#"{"op":7}"#, "malformed_value", "7 is none of"),
            (r#"{"op":"u","before":3,"after":{}}"#, "wrong_type", "`before` should be a row, got 3"),
        ] {
            let said = rows(event).join("");
            assert!(said.starts_with(code) && said.contains(reason), "{event}: {said}");
        }
        assert_eq!(rows(r#"{"a":1}"#), [r#"{"a":1}"#], "the row without it is refused as any other");
        assert_eq!(rows("[1]"), ["[1]"]);
    }
}
