//! A write that is too large for one script, as it is stored before it is carried out.

use crate::error::corrupt;
use springhouse_online::StoreError;

/// Rows for one shard, in their final states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) shard: u32,
    pub(crate) rows: Vec<Row>,
}

/// One row as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// Milliseconds until it expires; 0 = never.
    pub(crate) expires: u64,
}

/// What an intent's head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The position that its lane reaches.
    pub(crate) position: i64,
    /// The writer that stored the parts: theirs are the fields `WRITER/INDEX`.
    pub(crate) writer: String,
    pub(crate) parts: usize,
}

impl Head {
    pub(crate) fn text(&self) -> String {
        format!("{} {} {}", self.position, self.writer, self.parts)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(bytes).ok()?.split(' ');
        let head = Self {
            position: words.next()?.parse().ok()?,
            writer: words.next()?.to_owned(),
            parts: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(head)
    }

    pub(crate) fn field(&self, index: usize) -> String {
        format!("{}/{index}", self.writer)
    }
}

impl Part {
    /// Bytes with a checksum.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let size: usize = self.rows.iter().map(|row| row.key.len() + row.value.len() + 16).sum();
        let mut out = Vec::with_capacity(size + 12);
        out.extend_from_slice(&self.shard.to_le_bytes());
        for row in &self.rows {
            out.extend_from_slice(&(row.key.len() as u32).to_le_bytes());
            out.extend_from_slice(&row.key);
            out.extend_from_slice(&(row.value.len() as u32).to_le_bytes());
            out.extend_from_slice(&row.value);
            out.extend_from_slice(&row.expires.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::parse(bytes).ok_or_else(|| {
            corrupt("complete a write", "a stored part of a write is damaged; run `springhouse rebuild`")
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (content, checksum) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let (shard, mut rest) = content.split_first_chunk::<4>()?;
        let mut part = Self { shard: u32::from_le_bytes(*shard), rows: Vec::new() };
        while !rest.is_empty() {
            let key = take(&mut rest)?.to_vec();
            let value = take(&mut rest)?.to_vec();
            let (expires, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            part.rows.push(Row { key, value, expires: u64::from_le_bytes(*expires) });
        }
        Some(part)
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (bytes, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_heads_come_back() {
        let row = |n: u8| Row { key: vec![n; 3], value: vec![n; usize::from(n)], expires: u64::from(n) * 7 };
        let part = Part { shard: 5, rows: (0..20).map(row).collect() };
        let bytes = part.encode();
        assert_eq!(Part::decode(&bytes).expect("whole"), part);
        for end in 0..bytes.len() {
            assert!(Part::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for byte in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 1;
            assert!(Part::decode(&damaged).is_err(), "byte {byte}");
        }
        let head = Head { position: -5, writer: "w3".to_owned(), parts: 12 };
        assert_eq!(Head::parse(head.text().as_bytes()), Some(head));
        assert_eq!(Head::parse(b"1 2"), None);
    }
}
