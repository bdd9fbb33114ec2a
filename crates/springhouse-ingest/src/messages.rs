//! Messages of a topic as rows of its source: checked like pushed rows, one by one, so that a bad one stops nobody.

use crate::log::RefusedRow;
use crate::outcome::PushError;
use crate::settings::PushSettings;
use crate::topics::{OffsetRange, Origin};
use crate::validate::{CheckedRows, SourceSchema};
use base64::Engine;
use bytes::Bytes;
use serde_json::value::RawValue;
use springhouse_core::{Micros, ValueType};
use std::borrow::Cow;

/// Longest piece of a message that is no row which its dead letter keeps, in bytes.
const LETTER_BYTES_MAX: usize = 4 << 10;

/// A message of a topic.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// When it was appended or created, as the topic has it; none: the moment it is logged here.
    pub timestamp: Option<Micros>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; none for a tombstone, which is no event.
    pub value: Option<Bytes>,
    /// Its headers, or those of them that the source reads.
    pub headers: Vec<(String, Bytes)>,
    /// Why its value is no row, where that is known already: a code and a reason.
    pub flaw: Option<(&'static str, String)>,
}

/// Messages of one topic, in the order of each partition.
#[derive(Clone, Debug)]
pub struct Messages {
    /// The source whose topic it is.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// The offsets that they take up; also those of messages that are not there (compacted, aborted).
    pub ranges: Vec<OffsetRange>,
    /// The messages.
    pub messages: Vec<Message>,
}

impl Messages {
    pub(crate) fn bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        self.messages.iter().map(|message| length(&message.value) + length(&message.key) + 64).sum()
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin { topic: self.topic.clone(), ranges: self.ranges.clone() }
    }
}

/// The places of messages, by row number.
pub(crate) type Places = Vec<(i32, i64)>;

/// Checks messages; rows are numbered by their place among them.
pub(crate) fn check(
    schema: &SourceSchema,
    messages: &Messages,
    settings: &PushSettings,
) -> Result<CheckedRows, PushError> {
    let mut texts = Vec::with_capacity(messages.messages.len());
    let mut numbers = Vec::with_capacity(messages.messages.len());
    let mut refused = Vec::new();
    let columns = MessageColumns::of(schema);
    for (number, message) in (0u32..).zip(&messages.messages) {
        let Some(value) = &message.value else { continue };
        if let Some((code, reason)) = message.flaw.clone() {
            refused.push(RefusedRow { row: number, code, reason, text: start_in_base64(value) });
            continue;
        }
        match columns.row(message, value, settings.batch_bytes_max) {
            Ok(text) => {
                texts.push(text);
                numbers.push(number);
            }
            Err((code, reason)) => {
                refused.push(RefusedRow { row: number, code, reason, text: start_of(value) });
            }
        }
    }
    let mut checked = schema.check_texts(texts.iter().map(AsRef::as_ref).collect())?;
    for row in &mut checked.refused {
        row.row = numbers[row.row as usize];
        if row.code == "malformed_row" {
            // It can't be tried again, however much is kept of it.
            row.text = start_of(row.text.as_bytes());
        }
    }
    checked.refused.extend(refused);
    let kept: Vec<u32> = match &checked.numbers {
        None => numbers,
        Some(kept) => kept.iter().map(|row| numbers[*row as usize]).collect(),
    };
    let known = |row: &u32| messages.messages[*row as usize].timestamp.unwrap_or(Micros::MAX);
    checked.known_at = Some(kept.iter().map(known).collect());
    checked.numbers = Some(kept);
    Ok(checked)
}

/// Of a message that may not be text.
fn start_in_base64(value: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(&value[..value.len().min(LETTER_BYTES_MAX)])
}

fn start_of(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(LETTER_BYTES_MAX)]).into_owned()
}

/// What of a message beside its value becomes columns.
struct MessageColumns<'a> {
    /// Column as JSON text with its colon, and whether it is text.
    key: Option<(String, bool)>,
    headers: Vec<(String, bool, &'a str)>,
}

impl<'a> MessageColumns<'a> {
    fn of(schema: &'a SourceSchema) -> Self {
        let source = &schema.source;
        let column = |name: &str| {
            let text = source.columns.iter().any(|c| c.name == name && c.value_type == ValueType::String);
            (format!("{}:", serde_json::Value::from(name)), text)
        };
        let kafka = source.kafka.as_ref();
        let headers = kafka.map(|kafka| &kafka.headers).into_iter().flatten();
        Self {
            key: kafka.and_then(|kafka| kafka.key.as_deref()).map(column),
            headers: headers
                .map(|(name, header)| {
                    let (name, is_text) = column(name);
                    (name, is_text, header.as_str())
                })
                .collect(),
        }
    }

    /// The message's value as the text of a row, with its key and headers as further members.
    fn row<'m>(
        &self,
        message: &Message,
        value: &'m [u8],
        bytes_max: usize,
    ) -> Result<Cow<'m, str>, (&'static str, String)> {
        if value.len() > bytes_max {
            let why = format!("the message has {} bytes; at most {bytes_max} are taken", value.len());
            return Err(("out_of_range", why));
        }
        let text = std::str::from_utf8(value).map_err(|error| {
            ("malformed_row", format!("the message is not UTF-8 from byte {}", error.valid_up_to()))
        })?;
        let text = text.trim_matches([' ', '\n', '\r', '\t']);
        let (Some(members), false) = (text.strip_prefix('{'), self.key.is_none() && self.headers.is_empty())
        else {
            // What is no object is refused with the other checks.
            return Ok(Cow::Borrowed(text));
        };
        let mut out = String::with_capacity(text.len() + 64);
        out.push('{');
        let mut is_first = true;
        let mut add = |name: &str, is_text: bool, value: &[u8], what: &str| {
            let value = std::str::from_utf8(value)
                .map_err(|_| ("malformed_value", format!("{what} of the message is not UTF-8")))?;
            if !std::mem::take(&mut is_first) {
                out.push(',');
            }
            out.push_str(name);
            let number = (!is_text).then(|| serde_json::from_str::<&RawValue>(value).ok()).flatten();
            match number.filter(|raw| !raw.get().starts_with(['{', '['])) {
                Some(raw) => out.push_str(raw.get()),
                None => out.push_str(&serde_json::Value::from(value).to_string()),
            }
            Ok::<_, (&'static str, String)>(())
        };
        if let (Some((name, is_text)), Some(key)) = (&self.key, &message.key) {
            add(name, *is_text, key, "the key")?;
        }
        for (name, is_text, header) in &self.headers {
            // The last one of a name counts, as in Kafka's own clients.
            if let Some((_, value)) = message.headers.iter().rev().find(|(name, _)| name == header) {
                add(name, *is_text, value, &format!("header `{header}`"))?;
            }
        }
        if !is_first && !members.trim_start().starts_with('}') {
            out.push(',');
        }
        out.push_str(members);
        Ok(Cow::Owned(out))
    }
}
