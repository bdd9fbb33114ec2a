//! JSON rows into columns: one pass over a body for its rows, one over each row for its values.

use super::columns::ColumnBuilder;
use super::{Flaw, SourceSchema, Table};
use crate::outcome::PushError;
use crate::settings::PushSettings;
use arrow::array::ArrayRef;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Longest piece of a value that a reason quotes.
const QUOTE_CHARS_MAX: usize = 64;

/// Reads a body: an array of objects.
pub(super) fn read<'a>(
    schema: &SourceSchema,
    body: &'a [u8],
    settings: &PushSettings,
) -> Result<Table<'a>, PushError> {
    if body.len() > settings.batch_bytes_max {
        return Err(PushError::new(
            "too_large",
            format!("the body has {} bytes; at most {} are taken", body.len(), settings.batch_bytes_max),
        )
        .hint("push smaller batches, or raise push.batch_bytes_max"));
    }
    let rows = split_rows(body, settings.batch_rows_max)?;
    Ok(read_rows(schema, rows.into_iter().map(RawValue::get).collect()))
}

/// Reads rows that are texts of their own, each an object or not.
pub(super) fn read_rows<'a>(schema: &SourceSchema, rows: Vec<&'a str>) -> Table<'a> {
    let Some(changes) = &schema.changes else {
        let (columns, flaws) = read_texts(schema, &rows, &[]);
        return Table { columns, flaws, numbers: None, text_of: Box::new(move |row| rows[row].to_owned()) };
    };
    let images = changes.images(&rows);
    let texts: Vec<&str> = images.texts.iter().map(AsRef::as_ref).collect();
    let (columns, flaws) = read_texts(schema, &texts, &images.flaws);
    Table {
        columns,
        flaws,
        numbers: Some(images.numbers),
        text_of: Box::new(move |row| rows[row].to_owned()),
    }
}

/// Columns, and the first flaw of each row, which may be `known` already.
fn read_texts(
    schema: &SourceSchema,
    rows: &[&str],
    known: &[Option<Flaw>],
) -> (Vec<ArrayRef>, Vec<Option<Flaw>>) {
    let mut columns: Vec<ColumnBuilder> =
        schema.columns.iter().map(|c| ColumnBuilder::new(&c.value_type, rows.len())).collect();
    let mut flaws = Vec::with_capacity(rows.len());
    let mut cells: Vec<Option<&str>> = vec![None; columns.len()];
    for (number, row) in rows.iter().enumerate() {
        cells.fill(None);
        let mut flaw = read_cells(schema, row, &mut cells);
        if let Some(Some(known)) = known.get(number) {
            flaw = Some(known.clone());
        }
        for ((builder, cell), rule) in columns.iter_mut().zip(&cells).zip(&schema.columns) {
            let Some(raw) = cell else {
                builder.push_null();
                continue;
            };
            if let Err((code, more)) = builder.push(raw, schema.zone) {
                flaw.get_or_insert_with(|| Flaw {
                    code,
                    reason: format!(
                        "column `{}` should be {}, got {}{more}",
                        rule.name,
                        rule.value_type,
                        quote(raw)
                    ),
                });
            }
        }
        flaws.push(flaw);
    }
    (columns.into_iter().map(ColumnBuilder::finish).collect(), flaws)
}

/// The start of a value, for a message.
pub(super) fn quote(raw: &str) -> String {
    match raw.char_indices().nth(QUOTE_CHARS_MAX) {
        None => raw.to_owned(),
        Some((end, _)) => format!("{}...", &raw[..end]),
    }
}

fn split_rows(body: &[u8], rows_max: usize) -> Result<Vec<&RawValue>, PushError> {
    let malformed =
        |why: String| PushError::new("malformed_body", why).hint("send a JSON array of objects, one per row");
    let text = std::str::from_utf8(body)
        .map_err(|e| malformed(format!("the body is not UTF-8 from byte {}", e.valid_up_to())))?;
    let mut input = serde_json::Deserializer::from_str(text);
    let rows = Rows { rows_max }
        .deserialize(&mut input)
        .map_err(|e| malformed(format!("the body is no JSON array of rows: {e}")))?;
    input.end().map_err(|e| malformed(format!("the body goes on after its array: {e}")))?;
    match rows {
        Some(rows) => Ok(rows),
        None => Err(PushError::new("too_large", format!("a push has at most {rows_max} rows"))
            .hint("push smaller batches, or raise push.batch_rows_max")),
    }
}

/// The rows of the array as text; none when there are more than allowed.
struct Rows {
    rows_max: usize,
}

impl<'de> DeserializeSeed<'de> for Rows {
    type Value = Option<Vec<&'de RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows {
    type Value = Option<Vec<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = items.next_element::<&'de RawValue>()? {
            if rows.len() < self.rows_max {
                rows.push(row);
            } else {
                // The rest is only read to its end.
                while items.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
        }
        Ok(Some(rows))
    }
}

/// Finds the text of each declared column in a row; the flaw is of the row's keys.
fn read_cells<'a>(schema: &SourceSchema, row: &'a str, cells: &mut [Option<&'a str>]) -> Option<Flaw> {
    if !row.starts_with('{') {
        return Some(Flaw {
            code: "malformed_row",
            reason: format!("a row should be an object, got {}", quote(row)),
        });
    }
    let mut flaw = None;
    let mut input = serde_json::Deserializer::from_str(row);
    let read = Cells { schema, cells, flaw: &mut flaw }.deserialize(&mut input).and_then(|()| input.end());
    if let Err(error) = read {
        flaw.get_or_insert_with(|| Flaw {
            code: "malformed_row",
            reason: format!("the row can't be read: {error}"),
        });
    }
    flaw
}

struct Cells<'s, 'c, 'a> {
    schema: &'s SourceSchema,
    cells: &'c mut [Option<&'a str>],
    flaw: &'c mut Option<Flaw>,
}

impl<'de> DeserializeSeed<'de> for Cells<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Cells<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        // Rows mostly have their columns in one order: the next one is guessed before it is looked up.
        let mut guess = 0;
        while let Some(key) = entries.next_key_seed(Key { schema: self.schema, guess })? {
            let value: &'de RawValue = entries.next_value()?;
            match key {
                Ok(column) => {
                    guess = column + 1;
                    if self.cells[column].replace(value.get()).is_some() {
                        let name = &self.schema.columns[column].name;
                        self.flaw.get_or_insert_with(|| Flaw {
                            code: "duplicate_column",
                            reason: format!("column `{name}` is there twice"),
                        });
                    }
                }
                Err(name) => {
                    self.flaw.get_or_insert_with(|| self.schema.unknown_column(&name));
                }
            }
        }
        Ok(())
    }
}

struct Key<'s> {
    schema: &'s SourceSchema,
    guess: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Result<usize, String>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        if self.schema.columns.get(self.guess).is_some_and(|c| c.name == name) {
            return Ok(Ok(self.guess));
        }
        Ok(self.schema.by_name.get(name).copied().ok_or_else(|| name.to_owned()))
    }
}

impl SourceSchema {
    /// What is said of a column that is not declared.
    pub(super) fn unknown_column(&self, name: &str) -> Flaw {
        let close = self
            .columns
            .iter()
            .map(|c| (strsim::jaro_winkler(&c.name, name), &c.name))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let more = match close {
            Some((_, close)) => format!("; did you mean `{close}`?"),
            None => {
                let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
                format!("; its columns are {}", names.join(", "))
            }
        };
        Flaw {
            code: "unknown_column",
            reason: format!("source `{}` has no column `{}`{more}", self.source.name, quote(name)),
        }
    }
}
