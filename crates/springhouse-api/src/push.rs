//! Pushes: the JSON envelope, the Arrow stream, and the outcome. The rows themselves are the ingestion's to read: it
//! knows the source's columns.

use crate::ApiError;
use crate::position::from_object;
use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::Cursor;
use std::ops::Range;

/// The content type of an Arrow IPC stream.
pub const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";

/// Where a training set's Arrow schema carries its manifest.
pub const MANIFEST_KEY: &str = "springhouse.manifest";

/// The longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Rows to push: an object, or just the list of rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PushRequestBody {
    /// With options.
    Batch(PushBatch),
    /// Only rows.
    Rows(Vec<serde_json::Map<String, serde_json::Value>>),
}

/// Rows with options.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushBatch {
    /// One object per row with the source's declared columns.
    pub rows: Vec<serde_json::Map<String, serde_json::Value>>,
    /// A second push with this key changes nothing and gets the first outcome again. Also as the header
    /// `Idempotency-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// An idempotency key per row (null = none), for sources without an `event_id` column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_keys: Option<Vec<Option<String>>>,
    /// Old events: they count as known by the source's table rule, not from now on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backfill: bool,
}

/// A JSON push without its rows' meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushEnvelope {
    /// Where in the body the array of rows is.
    pub rows: Range<usize>,
    /// Of the whole batch.
    pub idempotency_key: Option<String>,
    /// Per row.
    pub row_keys: Option<Vec<Option<String>>>,
    /// Old events.
    pub backfill: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(borrow)]
    rows: &'a RawValue,
    #[serde(borrow, default)]
    idempotency_key: Option<Cow<'a, str>>,
    #[serde(default)]
    row_keys: Option<Vec<Option<String>>>,
    #[serde(default)]
    backfill: bool,
}

/// Reads a JSON push. `header_key` is the `Idempotency-Key` header.
///
/// # Errors
/// `malformed_json`, `invalid_request`, `invalid_idempotency_key`. Broken JSON inside a bare array is left for the
/// reader of the rows to find.
pub fn parse_push(body: &[u8], header_key: Option<&str>) -> Result<PushEnvelope, ApiError> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Ok(PushEnvelope {
            rows: 0..body.len(),
            idempotency_key: batch_key(header_key, None)?,
            row_keys: None,
            backfill: false,
        });
    }
    let envelope: Envelope<'_> = from_object(body)?;
    let rows = envelope.rows.get();
    if !rows.starts_with('[') {
        return Err(ApiError::new("invalid_request", "`rows` is not a list")
            .hint(r#"send {"rows": [{...}, {...}]} or just [{...}, {...}]"#));
    }
    let start = rows.as_ptr() as usize - body.as_ptr() as usize;
    Ok(PushEnvelope {
        rows: start..start + rows.len(),
        idempotency_key: batch_key(header_key, envelope.idempotency_key.as_deref())?,
        row_keys: envelope.row_keys,
        backfill: envelope.backfill,
    })
}

/// The batch's key from header or body; both may be given when they are equal.
///
/// # Errors
/// `invalid_idempotency_key`.
pub fn batch_key(header: Option<&str>, body: Option<&str>) -> Result<Option<String>, ApiError> {
    let invalid = |message| Err(ApiError::new("invalid_idempotency_key", message));
    if let (Some(header), Some(body)) = (header, body)
        && header != body
    {
        return invalid("the idempotency keys in the header and in the body differ");
    }
    match header.or(body) {
        Some("") => invalid("the idempotency key is empty"),
        Some(key) if key.len() > IDEMPOTENCY_KEY_BYTES_MAX => {
            invalid("the idempotency key is longer than 255 bytes")
        }
        key => Ok(key.map(str::to_owned)),
    }
}

/// Reads the batches of an Arrow IPC stream.
///
/// # Errors
/// `malformed_body` when the bytes are no such stream, or end before it does.
pub fn arrow_batches(body: &[u8]) -> Result<Vec<RecordBatch>, ApiError> {
    let malformed = |error: arrow::error::ArrowError| {
        ApiError::new("malformed_body", format!("the body is no Arrow IPC stream: {error}"))
            .hint("write it with a stream writer (not a file writer) and finish it")
    };
    let reader = StreamReader::try_new(Cursor::new(body), None).map_err(malformed)?;
    reader.collect::<Result<Vec<_>, _>>().map_err(malformed)
}

/// What became of a push. Rows that are not in `exceptions` were accepted: durable, and visible to every later read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushBody {
    /// Rows accepted.
    pub accepted: usize,
    /// Rows whose id was seen before; counted once.
    pub duplicates: usize,
    /// Rows refused; they are in the dead-letter table.
    pub refused: usize,
    /// The rows that were not accepted.
    pub exceptions: Vec<PushExceptionBody>,
    /// The log offset after the last row: an answer whose `positions` are at least this has seen the push.
    pub end_offset: i64,
    /// The moment of the durable append, RFC 3339.
    pub known_at: String,
}

/// A row that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushExceptionBody {
    /// Its number in the batch, from 0.
    pub row: usize,
    /// What became of it.
    pub outcome: RowOutcomeKind,
    /// Stable code, such as `unknown_column`, `wrong_type`, `missing_key`, `event_time_in_future`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Column, what was expected, what came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a row that was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowOutcomeKind {
    /// Seen before.
    Duplicate,
    /// In the dead-letter table.
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::ipc::writer::StreamWriter;
    use std::sync::Arc;

    fn read(body: &str, header: Option<&str>) -> String {
        match parse_push(body.as_bytes(), header) {
            Ok(envelope) => format!(
                "{} {:?} {:?} {}",
                &body[envelope.rows], envelope.idempotency_key, envelope.row_keys, envelope.backfill
            ),
            Err(error) => format!("{} {}", error.status(), error),
        }
    }

    #[test]
    fn envelopes() {
        insta::assert_snapshot!(read(r#" [{"a":1}]"#, Some("k")), @r#" [{"a":1}] Some("k") None false"#);
        insta::assert_snapshot!(
            read(r#"{"rows": [{"a":1}, {}], "idempotency_key":"k", "row_keys":["x",null],"backfill":true}"#, Some("k")),
            @r#"[{"a":1}, {}] Some("k") Some([Some("x"), None]) true"#
        );
        insta::assert_snapshot!(read(r#"{"rows":{}}"#, None), @"400 invalid_request: `rows` is not a list");
        insta::assert_snapshot!(read(r#"{"rows":[],"idempotency_key":"k"}"#, Some("other")), @"400 invalid_idempotency_key: the idempotency keys in the header and in the body differ");
        insta::assert_snapshot!(read(r#"{"rows":[],"idempotency_key":""}"#, None), @"400 invalid_idempotency_key: the idempotency key is empty");
        insta::assert_snapshot!(read(r#"{"row":[]}"#, None), @"400 invalid_request: unknown field `row`, expected one of `rows`, `idempotency_key`, `row_keys`, `backfill` (line 1, column 6)");
        insta::assert_snapshot!(read(r#"{"rows":[1,}"#, None), @"400 malformed_json: line 1, column 12: expected value");
        insta::assert_snapshot!(read("7", None), @"400 invalid_request: the body is JSON, but not an object");
        assert!(read("[]", Some(&"k".repeat(256))).starts_with("400 invalid_idempotency_key"));
    }

    #[test]
    fn an_arrow_stream_is_read_whole_or_refused() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![1, i64::MAX]))])
            .unwrap();
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &schema).unwrap();
        writer.write(&batch).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        assert_eq!(arrow_batches(&bytes).unwrap(), vec![batch.clone(), batch]);
        for cut in [0, 1, 10, bytes.len() / 2] {
            assert_eq!(arrow_batches(&bytes[..cut]).unwrap_err().code, "malformed_body", "cut at {cut}");
        }
        assert_eq!(arrow_batches(b"{\"rows\":[]}").unwrap_err().code, "malformed_body");
    }
}
