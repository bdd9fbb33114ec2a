//! The bytes of one record: one accepted batch with everything that a restart must know of it.

use crate::topics::{OffsetRange, Origin};
use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bytes::Bytes;
use springhouse_core::Micros;

/// `[length u32][crc32c u32]` before each payload.
pub(super) const FRAME_BYTES: usize = 8;
/// The first bytes of each payload: what the search for a later record looks for.
pub(super) const RECORD_MAGIC: [u8; 4] = *b"SHR1";
/// The largest payload: far above a push body, so that a damaged length is recognised.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const FLAG_BATCH_KEY: u8 = 1;
const FLAG_ROW_KNOWN_AT: u8 = 2;
const FLAG_IDS: u8 = 4;
const FLAG_ORIGIN: u8 = 8;

/// One batch in the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    /// Where its segment was durable up to when the record was written.
    pub(crate) group_start: u64,
    /// The source; empty in the record of a clean stop.
    pub(crate) source: String,
    /// Offset of its first row.
    pub(crate) base: i64,
    /// Rows in `rows`.
    pub(crate) accepted: u32,
    /// The moment of the append; never falls along the log.
    pub(crate) known_at: Micros,
    /// Hash of the batch's idempotency key.
    pub(crate) batch_key: Option<u128>,
    /// Row numbers of duplicates within the push; kept for the outcome of a batch key.
    pub(crate) duplicates: Vec<u32>,
    /// Per accepted row; none when it is `known_at` for all.
    pub(crate) row_known_at: Option<Vec<Micros>>,
    /// Per accepted row its identity, 0 for none; none when no row has one.
    pub(crate) ids: Option<Vec<u128>>,
    /// The refused rows; they take the offsets after the accepted ones.
    pub(crate) refused: Vec<RefusedRow>,
    /// The messages that the rows came in.
    pub(crate) origin: Option<Origin>,
    /// The accepted rows as an Arrow IPC stream; empty when there are none.
    pub(crate) rows: Bytes,
}

/// A row that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedRow {
    /// Its number within the push.
    pub(crate) row: u32,
    /// Stable code.
    pub(crate) code: &'static str,
    /// Why.
    pub(crate) reason: String,
    /// The row as it came, JSON.
    pub(crate) text: String,
}

impl Record {
    /// The record of a clean stop.
    pub(super) fn closing(base: i64, known_at: Micros) -> Self {
        Self { base, known_at, ..Self::default() }
    }

    /// Offset after its last row.
    pub(crate) fn end(&self) -> i64 {
        self.first_refused() + self.refused.len() as i64
    }

    /// Offset of its first refused row.
    pub(crate) fn first_refused(&self) -> i64 {
        self.base + i64::from(self.accepted)
    }

    /// Appends frame and payload.
    pub(super) fn encode(&self, group_start: u64, out: &mut Vec<u8>) {
        let frame = out.len();
        out.reserve(self.rows.len() + 64 + 24 * self.accepted as usize);
        out.extend_from_slice(&[0; FRAME_BYTES]);
        out.extend_from_slice(&RECORD_MAGIC);
        out.extend_from_slice(&group_start.to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.known_at.to_le_bytes());
        out.extend_from_slice(&self.accepted.to_le_bytes());
        put_text(out, &self.source);
        let flags = if self.batch_key.is_some() { FLAG_BATCH_KEY } else { 0 }
            | if self.row_known_at.is_some() { FLAG_ROW_KNOWN_AT } else { 0 }
            | if self.ids.is_some() { FLAG_IDS } else { 0 }
            | if self.origin.is_some() { FLAG_ORIGIN } else { 0 };
        out.push(flags);
        if let Some(key) = self.batch_key {
            out.extend_from_slice(&key.to_le_bytes());
        }
        put_len(out, self.duplicates.len());
        self.duplicates.iter().for_each(|row| out.extend_from_slice(&row.to_le_bytes()));
        if let Some(times) = &self.row_known_at {
            assert_eq!(times.len(), self.accepted as usize, "one known_at per accepted row");
            times.iter().for_each(|time| out.extend_from_slice(&time.to_le_bytes()));
        }
        if let Some(ids) = &self.ids {
            assert_eq!(ids.len(), self.accepted as usize, "one identity per accepted row");
            ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        }
        put_len(out, self.refused.len());
        for refused in &self.refused {
            out.extend_from_slice(&refused.row.to_le_bytes());
            put_text(out, refused.code);
            put_text(out, &refused.reason);
            put_text(out, &refused.text);
        }
        if let Some(origin) = &self.origin {
            put_text(out, &origin.topic);
            put_len(out, origin.ranges.len());
            for range in &origin.ranges {
                out.extend_from_slice(&range.partition.to_le_bytes());
                for number in [range.from, range.to, range.newest] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
        put_len(out, self.rows.len());
        out.extend_from_slice(&self.rows);
        let payload = frame + FRAME_BYTES;
        let length = (out.len() - payload) as u32;
        let crc = crc32c::crc32c(&out[payload..]);
        out[frame..frame + 4].copy_from_slice(&length.to_le_bytes());
        out[frame + 4..payload].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a payload whose checksum was right; none when it is malformed all the same.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut input = Input(payload);
        if input.array::<4>()? != RECORD_MAGIC {
            return None;
        }
        let group_start = u64::from_le_bytes(input.array()?);
        let base = i64::from_le_bytes(input.array()?);
        let known_at = i64::from_le_bytes(input.array()?);
        let accepted = u32::from_le_bytes(input.array()?);
        let source = input.text()?.to_owned();
        let flags = input.array::<1>()?[0];
        let batch_key =
            if flags & FLAG_BATCH_KEY != 0 { Some(u128::from_le_bytes(input.array()?)) } else { None };
        let duplicate_count = input.len()?;
        let duplicates = input.take(duplicate_count.checked_mul(4)?)?.as_chunks::<4>().0;
        let duplicates = duplicates.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let row_known_at = if flags & FLAG_ROW_KNOWN_AT != 0 {
            let times = input.take((accepted as usize).checked_mul(8)?)?.as_chunks::<8>().0;
            Some(times.iter().map(|b| i64::from_le_bytes(*b)).collect())
        } else {
            None
        };
        let ids = if flags & FLAG_IDS != 0 {
            let ids = input.take((accepted as usize).checked_mul(16)?)?.as_chunks::<16>().0;
            Some(ids.iter().map(|b| u128::from_le_bytes(*b)).collect())
        } else {
            None
        };
        let mut refused = Vec::new();
        for _ in 0..input.len()? {
            let row = u32::from_le_bytes(input.array()?);
            let code = crate::outcome::known_code(input.text()?);
            let reason = input.text()?.to_owned();
            refused.push(RefusedRow { row, code, reason, text: input.text()?.to_owned() });
        }
        let origin = if flags & FLAG_ORIGIN != 0 { Some(input.origin()?) } else { None };
        let rows_len = input.len()?;
        let rows = Bytes::copy_from_slice(input.take(rows_len)?);
        input.0.is_empty().then_some(Self {
            group_start,
            source,
            base,
            accepted,
            known_at,
            batch_key,
            duplicates,
            row_known_at,
            ids,
            refused,
            origin,
            rows,
        })
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("a push is bounded below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn len(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.array()?) as usize)
    }

    fn origin(&mut self) -> Option<Origin> {
        let topic = self.text()?.to_owned();
        let mut ranges = Vec::new();
        for _ in 0..self.len()? {
            let partition = i32::from_le_bytes(self.array()?);
            let mut number = || Some(i64::from_le_bytes(self.array()?));
            ranges.push(OffsetRange { partition, from: number()?, to: number()?, newest: number()? });
        }
        Some(Origin { topic, ranges })
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.len()?;
        std::str::from_utf8(self.take(len)?).ok()
    }
}

/// Rows as the bytes of an Arrow IPC stream.
pub(crate) fn encode_rows(rows: &RecordBatch) -> Result<Bytes, ArrowError> {
    let mut out = Vec::with_capacity(rows.get_array_memory_size() / 2 + 1024);
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut out, rows.schema_ref())?;
    writer.write(rows)?;
    writer.finish()?;
    drop(writer);
    Ok(out.into())
}

/// The rows that [`encode_rows`] wrote; none for no bytes.
pub(crate) fn decode_rows(bytes: &[u8]) -> Result<Option<RecordBatch>, ArrowError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    arrow::ipc::reader::StreamReader::try_new(bytes, None)?.next().transpose()
}
