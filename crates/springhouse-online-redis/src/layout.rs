//! The names of keys, and the meta key's content.
//!
//! Keys of shard K begin with `{PREFIX:K}`, which Redis Cluster takes as the part that decides the node. `m` is the shard's
//! meta key, `t` its writer's token, `r/NAME@VERSION/GENERATION/ENTITY` a row, `w/NAME@VERSION/GENERATION/ENTITY` a row of workers. Shard 0 has the hashes `lanes`, `active`, `status`, `plans`, `floors`
//! and `intents` besides, and an intent's parts under `i/LANE`.
//!
//! With a hash per entity a row keeps its name everywhere but in the server: there it is the field `r/NAME@VERSION/GENERATION` of
//! the hash `e/ENTITY`.

use crate::settings::RowLayout;
use springhouse_core::EntityKey;
use springhouse_core::key::{identity, spread};
use std::borrow::Cow;
use std::sync::Arc;

/// Names of keys.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    prefix: String,
    /// What the keys of each shard begin with.
    tags: Arc<[String]>,
    pub(crate) shards: u32,
    pub(crate) rows: RowLayout,
}

/// Where the server has a row.
pub(crate) struct Address {
    pub(crate) key: Vec<u8>,
    /// Of the hash that the key is; none when it is the row itself.
    pub(crate) field: Option<Vec<u8>>,
}

impl Layout {
    /// What the keys of entities' hashes begin with, after the tag.
    pub(crate) const HASHES: &str = "e/";

    pub(crate) fn new(prefix: &str, shards: u32, rows: RowLayout) -> Self {
        let tags = (0..shards).map(|shard| tag(prefix, shard)).collect();
        Self { prefix: prefix.to_owned(), tags, shards, rows }
    }

    /// As the store was made, whatever the settings say.
    pub(crate) fn as_made(&self, meta: &Meta) -> Self {
        Self::new(&self.prefix, meta.shards, meta.rows)
    }

    /// A store's state as a letter of its meta key, which tells where rows are too.
    pub(crate) fn state(&self, is_filling: bool) -> &'static str {
        match (self.rows, is_filling) {
            (RowLayout::View, false) => "r",
            (RowLayout::View, true) => "f",
            (RowLayout::Entity, false) => "R",
            (RowLayout::Entity, true) => "F",
        }
    }

    pub(crate) fn tag(&self, shard: u32) -> Cow<'_, str> {
        // A name found in the server may be of a shard that there was once.
        let known = self.tags.get(shard as usize);
        known.map_or_else(|| tag(&self.prefix, shard).into(), |tag| tag.into())
    }

    /// Matches every key of the store.
    pub(crate) fn every_key(&self) -> String {
        // Braces and the prefix's characters have no meaning in patterns.
        format!("{{{}:*", self.prefix)
    }

    pub(crate) fn meta(&self, shard: u32) -> String {
        format!("{}m", self.tag(shard))
    }

    /// Changes with the writer and with nothing else, so that a transaction can watch it.
    pub(crate) fn writer(&self, shard: u32) -> String {
        self.hash(shard, "t")
    }

    /// A key of shard 0.
    pub(crate) fn control(&self, name: &str) -> String {
        self.hash(0, name)
    }

    /// A hash of any shard.
    pub(crate) fn hash(&self, shard: u32, name: &str) -> String {
        format!("{}{name}", self.tag(shard))
    }

    pub(crate) fn intent(&self, lane: &str) -> String {
        format!("{}i/{lane}", self.tag(0))
    }

    pub(crate) fn shard_of(&self, key: &EntityKey) -> u32 {
        if self.shards == 1 {
            return 0;
        }
        (spread(identity(key.as_bytes())) % u64::from(self.shards)) as u32
    }

    /// What the keys of a generation's rows begin with, after the tag.
    pub(crate) fn rows_of(view_id: &str, generation: u32) -> String {
        format!("r/{}", build(view_id, generation)) + "/"
    }

    /// The same of rows that workers write.
    pub(crate) fn shared_rows_of(view_id: &str, generation: u32) -> String {
        format!("w/{}", build(view_id, generation)) + "/"
    }

    /// The field of such rows in the hashes of their entities.
    pub(crate) fn field(rows: &str) -> &str {
        rows.trim_end_matches('/')
    }

    /// A row's key; `rows` as [`Layout::rows_of`] gives it.
    pub(crate) fn row(&self, shard: u32, rows: &str, key: &EntityKey) -> Vec<u8> {
        let tag = self.tag(shard);
        let mut name = Vec::with_capacity(tag.len() + rows.len() + key.as_bytes().len());
        name.extend_from_slice(tag.as_bytes());
        name.extend_from_slice(rows.as_bytes());
        name.extend_from_slice(key.as_bytes());
        name
    }

    /// Matches the rows of a generation in all shards, of both kinds.
    pub(crate) fn every_row(&self, view_id: &str, generation: u32) -> String {
        let rows: String = Self::rows_of(view_id, generation)[1..]
            .chars()
            .flat_map(|c| matches!(c, '*' | '?' | '[' | ']' | '\\').then_some('\\').into_iter().chain([c]))
            .collect();
        format!("{{{}:*}}[rw]{rows}*", self.prefix)
    }

    /// Where the server has the row of a name, see [`Layout::row`].
    pub(crate) fn address(&self, name: Vec<u8>) -> Address {
        if self.rows == RowLayout::View {
            return Address { key: name, field: None };
        }
        // The tag, and what it is a row of: neither has a slash but those between the parts.
        let tag = name.iter().position(|byte| *byte == b'}').map_or(0, |end| end + 1);
        let mut slashes = name.iter().enumerate().skip(tag).filter(|(_, byte)| **byte == b'/');
        let end = slashes.nth(2).map_or(name.len(), |(position, _)| position);
        let entity = name.get(end + 1..).unwrap_or_default();
        let key = [&name[..tag], Self::HASHES.as_bytes(), entity].concat();
        Address { key, field: Some(name[tag..end].to_vec()) }
    }

    /// The hash of an entity.
    pub(crate) fn hash_of(&self, shard: u32, key: &EntityKey) -> Vec<u8> {
        [self.tag(shard).as_bytes(), Self::HASHES.as_bytes(), key.as_bytes()].concat()
    }

    /// Matches the hashes of all entities in all shards.
    pub(crate) fn every_hash(&self) -> String {
        format!("{{{}:*}}{}*", self.prefix, Self::HASHES)
    }

    /// The shard in a key's tag.
    pub(crate) fn shard_in(&self, name: &[u8]) -> Option<u32> {
        let rest = name.strip_prefix(b"{")?.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b":")?;
        let end = rest.iter().position(|byte| *byte == b'}')?;
        std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
    }
}

fn tag(prefix: &str, shard: u32) -> String {
    format!("{{{prefix}:{shard}}}")
}

/// A view's generation, as a field of the hashes.
pub(crate) fn build(view_id: &str, generation: u32) -> String {
    format!("{view_id}/{generation}")
}

/// Positions as text that sorts as they do.
pub(crate) fn position_text(position: i64) -> String {
    format!("{:020}", (position as u64) ^ (1 << 63))
}

/// The position that [`position_text`] wrote.
pub(crate) fn position_of(text: &[u8]) -> Option<i64> {
    let number: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some((number ^ (1 << 63)) as i64)
}

/// Letters of an identity.
pub(crate) const IDENTITY_LEN: usize = 32;
/// Letters of a writer's token.
pub(crate) const WRITER_LEN: usize = 16;
/// Bytes of a meta key: identity, writer, number, state, shards, stamp.
const META_LEN: usize = IDENTITY_LEN + WRITER_LEN + 16 + 1 + 4 + 16;

/// What a meta key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Random, given when the store was made.
    pub(crate) identity: String,
    /// The token of the one process that may write: the last that took the store.
    pub(crate) writer: String,
    /// Grows with every write.
    pub(crate) number: u64,
    /// True while the store is filled from history and must not be read.
    pub(crate) is_filling: bool,
    pub(crate) shards: u32,
    pub(crate) rows: RowLayout,
    /// The number that shard 0 had when it held the newest intent of which this shard got a part. A shard 0 with a smaller
    /// number has lost that intent, and this shard has rows that no lane knows of.
    pub(crate) stamp: u64,
}

impl Meta {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text =
            std::str::from_utf8(bytes).ok().filter(|text| text.len() == META_LEN && text.is_ascii())?;
        let (identity, rest) = text.split_at(IDENTITY_LEN);
        let (rows, is_filling) = match rest.as_bytes()[32] {
            b'f' => (RowLayout::View, true),
            b'r' => (RowLayout::View, false),
            b'F' => (RowLayout::Entity, true),
            b'R' => (RowLayout::Entity, false),
            _ => return None,
        };
        Some(Self {
            identity: identity.to_owned(),
            writer: rest[..WRITER_LEN].to_owned(),
            number: rest[16..32].parse().ok()?,
            is_filling,
            rows,
            shards: rest[33..37].parse().ok().filter(|shards| *shards > 0)?,
            stamp: rest[37..].parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_sort_as_text() {
        let positions = [i64::MIN, i64::MIN + 1, -1, 0, 1, 1_700_000_000_000_000, i64::MAX];
        let texts: Vec<String> = positions.iter().map(|p| position_text(*p)).collect();
        assert!(texts.is_sorted(), "{texts:?}");
        for (position, text) in positions.iter().zip(&texts) {
            assert_eq!(position_of(text.as_bytes()), Some(*position));
        }
        assert_eq!(position_of(b"x"), None);
    }

    #[test]
    fn a_meta_key_is_read_whole_or_not_at_all() {
        let text = format!("{}{}{:016}{}{:04}{:016}", "a".repeat(32), "b".repeat(16), 12, 'f', 64, 7);
        let meta = Meta::parse(text.as_bytes()).expect("well formed");
        assert_eq!((&*meta.writer, meta.number), ("bbbbbbbbbbbbbbbb", 12));
        assert_eq!((meta.is_filling, meta.rows, meta.shards, meta.stamp), (true, RowLayout::View, 64, 7));
        let by_entity = Meta::parse(text.replacen('f', "R", 1).as_bytes()).expect("well formed");
        assert_eq!((by_entity.is_filling, by_entity.rows), (false, RowLayout::Entity));
        for rows in [RowLayout::View, RowLayout::Entity] {
            for is_filling in [true, false] {
                let state = Layout::new("p", 1, rows).state(is_filling);
                let meta = Meta::parse(text.replacen('f', state, 1).as_bytes()).expect("well formed");
                assert_eq!((meta.rows, meta.is_filling), (rows, is_filling));
            }
        }
        for broken in [&text[1..], &text.replace('f', "x"), &text.replace("0064", "0000"), "", "nonsense"] {
            assert_eq!(Meta::parse(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn a_row_is_a_key_or_a_field_of_its_entitys_hash() {
        let key = EntityKey::from_encoded(b"a/b}c").expect("short");
        let names = [Layout::rows_of("sums@1", 12), Layout::shared_rows_of("sums@1", 12)];
        for (rows, field) in names.iter().zip(["r/sums@1/12", "w/sums@1/12"]) {
            let by_view = Layout::new("shop", 64, RowLayout::View);
            let name = by_view.row(7, rows, &key);
            let address = by_view.address(name.clone());
            assert_eq!((address.key, address.field), (name.clone(), None));
            let by_entity = Layout::new("shop", 64, RowLayout::Entity);
            let address = by_entity.address(name);
            assert_eq!(address.key, by_entity.hash_of(7, &key));
            assert_eq!(address.key, b"{shop:7}e/a/b}c");
            assert_eq!(address.field.as_deref(), Some(field.as_bytes()));
        }
    }

    #[test]
    fn shards_are_read_back_from_keys() {
        let layout = Layout::new("shop.v1", 64, RowLayout::View);
        let key = layout.tag(63).into_owned() + "r/x@1/0/abc";
        assert_eq!(layout.shard_in(key.as_bytes()), Some(63));
        assert_eq!(layout.shard_in(b"{other:3}r/x"), None);
        assert_eq!(layout.every_row("a*b@1", 2), "{shop.v1:*}[rw]/a\\*b@1/2/*");
    }
}
