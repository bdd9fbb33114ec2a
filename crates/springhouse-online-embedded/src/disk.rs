//! The lower level: the LMDB file, its layout and its versions. Format 1:
//!
//! - database `rows`: slot number (u32, big endian), place (u16, big endian, see [`place_of`]), then the entity key; the
//!   value is the kernel's codec bytes, which carry their own checksum;
//! - database `lanes`: lane name; the value is the position (i64, little endian);
//! - database `catalog`: `format` (u32); `next_slot` (u32); `slot/<view id>\0<generation>` (u32);
//!   `status/<view id>\0<generation>` (text); `active/<view id>` (u32); `garbage/<slot>` (nothing). Numbers in keys
//!   are big endian, in values little endian.
//!
//! Values of `lanes` and `catalog` end with the CRC-32C of key and value: LMDB itself has no checksums, and a wrong
//! position would lose events without a word.

use crate::catalog::{Catalog, Slot};
use crate::error::{corrupt, from_lmdb, invalid, unavailable};
use crate::settings::EmbeddedSettings;
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, PutFlags, RoTxn, RwTxn, WithTls};
use springhouse_core::{EntityKey, key};
use springhouse_online::{StoreError, ViewStatus};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The layout that this program writes and reads.
pub(crate) const FORMAT: u32 = 1;
const DATABASES: u32 = 3;
const CHECKSUM_BYTES: usize = 4;
const PLACE_BYTES: usize = size_of::<u16>();
/// LMDB wants a whole number of pages; whatever a page is, this is a multiple.
const MAP_SIZE_UNIT: u64 = 1 << 20;

type Table = Database<Bytes, Bytes>;
pub(crate) type Reader<'a> = RoTxn<'a, WithTls>;

#[derive(Debug)]
pub(crate) struct Disk {
    env: Env<WithTls>,
    rows: Table,
    lanes: Table,
    catalog: Table,
}

impl Disk {
    /// Opens the file in `folder` for writing, and makes it if there is none.
    pub(crate) fn open(folder: &Path, settings: &EmbeddedSettings) -> Result<Self, StoreError> {
        let env = open_env(folder, settings, EnvFlags::empty())?;
        // Slots of readers that were killed would pin old pages for ever.
        env.clear_stale_readers().map_err(from_lmdb("open"))?;
        let mut txn = env.write_txn().map_err(from_lmdb("open"))?;
        let mut table = |name| env.create_database(&mut txn, Some(name)).map_err(from_lmdb("open"));
        let (rows, lanes, catalog) = (table("rows")?, table("lanes")?, table("catalog")?);
        let disk = Self { env: env.clone(), rows, lanes, catalog };
        if disk.catalog.is_empty(&txn).map_err(from_lmdb("open"))? {
            disk.put_sealed(&mut txn, disk.catalog, b"format", &FORMAT.to_le_bytes(), "open")?;
        }
        disk.check_format(&txn)?;
        txn.commit().map_err(from_lmdb("open"))?;
        Ok(disk)
    }

    /// Opens the file in `folder` for reading, beside a process that may be writing.
    pub(crate) fn open_read_only(folder: &Path, settings: &EmbeddedSettings) -> Result<Self, StoreError> {
        if !folder.join("data.mdb").exists() {
            return Err(invalid("open", format!("{}: no store is there yet", folder.display())));
        }
        let env = open_env(folder, settings, EnvFlags::READ_ONLY)?;
        let txn = env.read_txn().map_err(from_lmdb("open"))?;
        let table = |name| match env.open_database(&txn, Some(name)) {
            Ok(Some(table)) => Ok(table),
            Ok(None) => Err(corrupt("open", format!("{}: the file is no store", folder.display()))),
            Err(error) => Err(from_lmdb("open")(error)),
        };
        let disk = Self {
            rows: table("rows")?,
            lanes: table("lanes")?,
            catalog: table("catalog")?,
            env: env.clone(),
        };
        disk.check_format(&txn)?;
        // Without a commit LMDB would take the handles of the tables back.
        txn.commit().map_err(from_lmdb("open"))?;
        Ok(disk)
    }

    fn check_format(&self, txn: &RoTxn<'_>) -> Result<(), StoreError> {
        match self.number(txn, b"format", "open")? {
            Some(FORMAT) => Ok(()),
            Some(other) => Err(corrupt(
                "open",
                format!(
                    "the store has format {other}, this program reads format {FORMAT}; use the program that wrote it, or remove the store and rebuild"
                ),
            )),
            None => Err(corrupt("open", "the store does not say its format; remove it and rebuild")),
        }
    }

    /// A moment of the file.
    pub(crate) fn read(&self, action: &'static str) -> Result<Reader<'_>, StoreError> {
        self.env.read_txn().map_err(from_lmdb(action))
    }

    /// The one write transaction at a time.
    pub(crate) fn write(&self, action: &'static str) -> Result<RwTxn<'_>, StoreError> {
        self.env.write_txn().map_err(from_lmdb(action))
    }

    /// The bytes of one row. `buffer` is for the key.
    pub(crate) fn row<'t>(
        &self,
        txn: &'t RoTxn<'_>,
        slot: u32,
        key: &EntityKey,
        buffer: &mut Vec<u8>,
        action: &'static str,
    ) -> Result<Option<&'t [u8]>, StoreError> {
        row_key(slot, key, buffer);
        self.rows.get(txn, buffer).map_err(from_lmdb(action))
    }

    /// The bytes of any row of a slot.
    pub(crate) fn any_row<'t>(&self, txn: &'t RoTxn<'_>, slot: u32) -> Result<Option<&'t [u8]>, StoreError> {
        let mut rows = self.rows.prefix_iter(txn, &slot.to_be_bytes()).map_err(from_lmdb("read"))?;
        rows.next().map(|row| row.map(|(_, value)| value).map_err(from_lmdb("read"))).transpose()
    }

    /// Writes one row. `append` when its key is greater than all others.
    pub(crate) fn put_row(
        &self,
        txn: &mut RwTxn<'_>,
        slot: u32,
        key: &EntityKey,
        value: &[u8],
        append: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        row_key(slot, key, buffer);
        let flags = if append { PutFlags::APPEND } else { PutFlags::empty() };
        self.rows.put_with_flags(txn, flags, buffer, value).map_err(from_lmdb("checkpoint"))
    }

    /// True when no row has a key at or above this, so that it can be appended.
    pub(crate) fn ends_before(
        &self,
        txn: &RoTxn<'_>,
        slot: u32,
        key: &EntityKey,
    ) -> Result<bool, StoreError> {
        let mut first = Vec::new();
        row_key(slot, key, &mut first);
        let last = self.rows.last(txn).map_err(from_lmdb("checkpoint"))?;
        Ok(last.is_none_or(|(key, _)| key < first.as_slice()))
    }

    /// The entity keys of a slot, up to `limit`.
    pub(crate) fn keys(
        &self,
        txn: &RoTxn<'_>,
        slot: u32,
        limit: usize,
    ) -> Result<Vec<EntityKey>, StoreError> {
        let action = "sample keys";
        let prefix = slot.to_be_bytes();
        let rows = self.rows.prefix_iter(txn, &prefix).map_err(from_lmdb(action))?;
        let key = |row: heed::Result<(&[u8], &[u8])>| {
            let (key, _) = row.map_err(from_lmdb(action))?;
            let key = key.get(prefix.len() + PLACE_BYTES..).ok_or_else(|| damaged(action))?;
            EntityKey::from_encoded(key).map_err(|error| corrupt(action, error.to_string()))
        };
        rows.take(limit).map(key).collect()
    }

    /// Deletes up to `limit` rows of a slot; gives how many there were.
    pub(crate) fn delete_rows(
        &self,
        txn: &mut RwTxn<'_>,
        slot: u32,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let action = "drop generation";
        let prefix = slot.to_be_bytes();
        let rows = self.rows.prefix_iter(txn, &prefix).map_err(from_lmdb(action))?;
        let keys = rows.take(limit).map(|row| row.map(|(key, _)| key.to_vec()));
        let keys = keys.collect::<heed::Result<Vec<_>>>().map_err(from_lmdb(action))?;
        for key in &keys {
            self.rows.delete(txn, key).map_err(from_lmdb(action))?;
        }
        Ok(keys.len())
    }

    pub(crate) fn lanes(
        &self,
        txn: &RoTxn<'_>,
        action: &'static str,
    ) -> Result<BTreeMap<Arc<str>, i64>, StoreError> {
        let mut lanes = BTreeMap::new();
        for item in self.lanes.iter(txn).map_err(from_lmdb(action))? {
            let (key, value) = item.map_err(from_lmdb(action))?;
            let position = i64::from_le_bytes(unseal_array(key, value, action)?);
            lanes.insert(text(key, action)?.into(), position);
        }
        Ok(lanes)
    }

    pub(crate) fn put_lane(&self, txn: &mut RwTxn<'_>, name: &str, position: i64) -> Result<(), StoreError> {
        self.put_sealed(txn, self.lanes, name.as_bytes(), &position.to_le_bytes(), "checkpoint")
    }

    pub(crate) fn delete_lane(&self, txn: &mut RwTxn<'_>, name: &str) -> Result<(), StoreError> {
        self.lanes.delete(txn, name.as_bytes()).map_err(from_lmdb("checkpoint"))?;
        Ok(())
    }

    /// Reads the whole catalog.
    pub(crate) fn load_catalog(&self, txn: &RoTxn<'_>) -> Result<Catalog, StoreError> {
        let action = "open";
        let mut catalog = Catalog::default();
        for item in self.catalog.iter(txn).map_err(from_lmdb(action))? {
            let (key, value) = item.map_err(from_lmdb(action))?;
            if let Some(rest) = key.strip_prefix(b"slot/") {
                let (view_id, generation) = view_generation(rest, action)?;
                let number = u32::from_le_bytes(unseal_array(key, value, action)?);
                let slot = Slot { number, has_rows: true, saved: true, plan: OnceLock::new() };
                catalog.views.entry(view_id).or_default().insert(generation, slot);
            } else if let Some(rest) = key.strip_prefix(b"status/") {
                let note = text(unseal(key, value, action)?, action)?.to_owned();
                catalog.statuses.insert(view_generation(rest, action)?, ViewStatus { note });
            } else if let Some(rest) = key.strip_prefix(b"active/") {
                let generation = u32::from_le_bytes(unseal_array(key, value, action)?);
                catalog.active.insert(text(rest, action)?.into(), generation);
            } else if let Some(rest) = key.strip_prefix(b"garbage/") {
                catalog.garbage.push(big_endian(rest, action)?);
            }
        }
        catalog.next_slot = self.number(txn, b"next_slot", action)?.unwrap_or(0);
        Ok(catalog)
    }

    pub(crate) fn slot(
        &self,
        txn: &RoTxn<'_>,
        view_id: &str,
        generation: u32,
    ) -> Result<Option<u32>, StoreError> {
        self.number(txn, &view_key("slot/", view_id, generation), "read")
    }

    pub(crate) fn put_slot(
        &self,
        txn: &mut RwTxn<'_>,
        view_id: &str,
        generation: u32,
        number: u32,
        next_slot: u32,
    ) -> Result<(), StoreError> {
        let key = view_key("slot/", view_id, generation);
        self.put_sealed(txn, self.catalog, &key, &number.to_le_bytes(), "checkpoint")?;
        self.put_sealed(txn, self.catalog, b"next_slot", &next_slot.to_le_bytes(), "checkpoint")
    }

    /// Takes a generation out of the catalog and, if it had a slot, leaves the slot to [`Self::delete_rows`].
    pub(crate) fn drop_generation(
        &self,
        txn: &mut RwTxn<'_>,
        view_id: &str,
        generation: u32,
        slot: Option<u32>,
    ) -> Result<(), StoreError> {
        let action = "drop generation";
        for kind in ["slot/", "status/"] {
            let key = view_key(kind, view_id, generation);
            self.catalog.delete(txn, &key).map_err(from_lmdb(action))?;
        }
        match slot {
            Some(slot) => self.put_sealed(txn, self.catalog, &garbage_key(slot), &[], action),
            None => Ok(()),
        }
    }

    pub(crate) fn forget_garbage(&self, txn: &mut RwTxn<'_>, slot: u32) -> Result<(), StoreError> {
        self.catalog.delete(txn, &garbage_key(slot)).map_err(from_lmdb("drop generation"))?;
        Ok(())
    }

    pub(crate) fn status(
        &self,
        txn: &RoTxn<'_>,
        view_id: &str,
        generation: u32,
    ) -> Result<Option<ViewStatus>, StoreError> {
        let action = "read a status";
        let key = view_key("status/", view_id, generation);
        let Some(value) = self.catalog.get(txn, &key).map_err(from_lmdb(action))? else { return Ok(None) };
        Ok(Some(ViewStatus { note: text(unseal(&key, value, action)?, action)?.to_owned() }))
    }

    pub(crate) fn put_status(
        &self,
        txn: &mut RwTxn<'_>,
        view_id: &str,
        generation: u32,
        status: &ViewStatus,
    ) -> Result<(), StoreError> {
        let key = view_key("status/", view_id, generation);
        self.put_sealed(txn, self.catalog, &key, status.note.as_bytes(), "set a status")
    }

    pub(crate) fn active(&self, txn: &RoTxn<'_>, view_id: &str) -> Result<Option<u32>, StoreError> {
        self.number(txn, &active_key(view_id), "read the active generation")
    }

    pub(crate) fn put_active(
        &self,
        txn: &mut RwTxn<'_>,
        view_id: &str,
        generation: u32,
    ) -> Result<(), StoreError> {
        let action = "activate a generation";
        self.put_sealed(txn, self.catalog, &active_key(view_id), &generation.to_le_bytes(), action)
    }

    fn number(&self, txn: &RoTxn<'_>, key: &[u8], action: &'static str) -> Result<Option<u32>, StoreError> {
        let value = self.catalog.get(txn, key).map_err(from_lmdb(action))?;
        value.map(|value| Ok(u32::from_le_bytes(unseal_array(key, value, action)?))).transpose()
    }

    fn put_sealed(
        &self,
        txn: &mut RwTxn<'_>,
        table: Table,
        key: &[u8],
        value: &[u8],
        action: &'static str,
    ) -> Result<(), StoreError> {
        let mut sealed = Vec::with_capacity(value.len() + CHECKSUM_BYTES);
        sealed.extend_from_slice(value);
        sealed.extend_from_slice(&checksum(key, value).to_le_bytes());
        table.put(txn, key, &sealed).map_err(from_lmdb(action))
    }
}

fn open_env(folder: &Path, settings: &EmbeddedSettings, flags: EnvFlags) -> Result<Env<WithTls>, StoreError> {
    let disk_bytes = fs4::total_space(folder)
        .map_err(|error| unavailable("open", format!("{}: {error}", folder.display())))?;
    let map_size = settings.map_size_bytes.min(disk_bytes) / MAP_SIZE_UNIT * MAP_SIZE_UNIT;
    let map_size = usize::try_from(map_size.max(MAP_SIZE_UNIT))
        .map_err(|_| invalid("open", "`map_size_bytes` is more than this machine can address"))?;
    let mut options = EnvOpenOptions::new();
    options.map_size(map_size).max_readers(settings.readers_max).max_dbs(DATABASES);
    #[expect(unsafe_code, reason = "a memory map is unsafe to open; see SAFETY")]
    // SAFETY: the flags are none or READ_ONLY, both safe. The file is changed by LMDB only, under its own locks and,
    // for writers, ours; it is not on a network disk by the documentation; heed refuses to open it twice in a process.
    let env = unsafe {
        options.flags(flags);
        options.open(folder)
    };
    env.map_err(|error| match error {
        heed::Error::Io(error) => unavailable("open", format!("{}: {error}", folder.display())),
        error => from_lmdb("open")(error),
    })
}

fn row_key(slot: u32, key: &EntityKey, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(&slot.to_be_bytes());
    buffer.extend_from_slice(&place_of(key).to_be_bytes());
    buffer.extend_from_slice(key.as_bytes());
}

/// Where a key's row stands among those of its slot, before the order of the keys themselves.
///
/// Jobs that load history write one bucket of entities after the other, and a bucket has the entities whose spread has
/// the same low bits. Turned round, these bits put a bucket's rows side by side in the file, whatever the number of buckets
/// (a power of two): a checkpoint then touches the pages of its buckets and not a page for every row.
pub(crate) fn place_of(key: &EntityKey) -> u16 {
    (key::spread(key::identity(key.as_bytes())) as u16).reverse_bits()
}

fn view_key(kind: &str, view_id: &str, generation: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(kind.len() + view_id.len() + 5);
    key.extend_from_slice(kind.as_bytes());
    key.extend_from_slice(view_id.as_bytes());
    key.push(0);
    key.extend_from_slice(&generation.to_be_bytes());
    key
}

fn active_key(view_id: &str) -> Vec<u8> {
    [b"active/", view_id.as_bytes()].concat()
}

fn garbage_key(slot: u32) -> Vec<u8> {
    [b"garbage/", &slot.to_be_bytes()[..]].concat()
}

fn view_generation(rest: &[u8], action: &'static str) -> Result<(Arc<str>, u32), StoreError> {
    let split = rest.len().checked_sub(5).filter(|at| rest[*at] == 0).ok_or_else(|| damaged(action))?;
    Ok((text(&rest[..split], action)?.into(), big_endian(&rest[split + 1..], action)?))
}

fn big_endian(bytes: &[u8], action: &'static str) -> Result<u32, StoreError> {
    bytes.try_into().map(u32::from_be_bytes).map_err(|_| damaged(action))
}

fn text<'b>(bytes: &'b [u8], action: &'static str) -> Result<&'b str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| damaged(action))
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

fn unseal<'b>(key: &[u8], sealed: &'b [u8], action: &'static str) -> Result<&'b [u8], StoreError> {
    let split = sealed.len().checked_sub(CHECKSUM_BYTES).ok_or_else(|| damaged(action))?;
    let (value, expected) = sealed.split_at(split);
    if checksum(key, value).to_le_bytes() == expected { Ok(value) } else { Err(damaged(action)) }
}

fn unseal_array<const N: usize>(
    key: &[u8],
    sealed: &[u8],
    action: &'static str,
) -> Result<[u8; N], StoreError> {
    unseal(key, sealed, action)?.try_into().map_err(|_| damaged(action))
}

fn damaged(action: &'static str) -> StoreError {
    corrupt(action, "the store's catalog is damaged; remove the store and rebuild")
}

#[cfg(test)]
mod tests {
    use super::*;
    use springhouse_online::StoreErrorKind;

    fn settings() -> EmbeddedSettings {
        EmbeddedSettings { map_size_bytes: 4 << 20, ..EmbeddedSettings::default() }
    }

    #[test]
    fn an_unknown_format_is_refused_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        {
            let disk = Disk::open(folder.path(), &settings()).unwrap();
            let mut txn = disk.write("test").unwrap();
            disk.put_sealed(&mut txn, disk.catalog, b"format", &2u32.to_le_bytes(), "test").unwrap();
            txn.commit().unwrap();
        }
        for result in
            [Disk::open(folder.path(), &settings()), Disk::open_read_only(folder.path(), &settings())]
        {
            let error = result.map(drop).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Corrupt);
            assert!(error.to_string().contains("has format 2, this program reads format 1"), "{error}");
        }
    }

    #[test]
    fn a_damaged_position_is_never_taken_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path(), &settings()).unwrap();
        let mut txn = disk.write("test").unwrap();
        disk.put_lane(&mut txn, "log", 7).unwrap();
        let sealed = disk.lanes.get(&txn, b"log").unwrap().unwrap().to_vec();
        for byte in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[byte] ^= 0x10;
            disk.lanes.put(&mut txn, b"log", &damaged).unwrap();
            assert_eq!(disk.lanes(&txn, "test").unwrap_err().kind, StoreErrorKind::Corrupt, "byte {byte}");
        }
        // A value under another key, or cut off, is none either.
        disk.lanes.put(&mut txn, b"log", &sealed[..3]).unwrap();
        assert!(disk.lanes(&txn, "test").is_err());
        disk.lanes.put(&mut txn, b"log", &sealed).unwrap();
        assert_eq!(disk.lanes(&txn, "test").unwrap(), BTreeMap::from([("log".into(), 7)]));
        disk.lanes.put(&mut txn, b"log2", &sealed).unwrap();
        assert!(disk.lanes(&txn, "test").is_err());
    }

    #[test]
    fn rows_of_a_dropped_slot_go_in_portions_and_leave_their_neighbours() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path(), &settings()).unwrap();
        let key = |i: u8| EntityKey::from_encoded(&[i]).unwrap();
        let mut txn = disk.write("test").unwrap();
        let mut buffer = Vec::new();
        let mut in_order: Vec<_> = (0..10).map(key).collect();
        in_order.sort_by_key(|key| (place_of(key), key.clone()));
        for slot in [1, 2, 3] {
            for key in &in_order {
                assert!(disk.ends_before(&txn, slot, key).unwrap());
                disk.put_row(&mut txn, slot, key, b"state", true, &mut buffer).unwrap();
                assert!(!disk.ends_before(&txn, slot, key).unwrap());
            }
        }
        assert!(!disk.ends_before(&txn, 2, &in_order[0]).unwrap());
        let portions: Vec<_> = (0..4).map(|_| disk.delete_rows(&mut txn, 2, 4).unwrap()).collect();
        assert_eq!(portions, [4, 4, 2, 0]);
        let left = |slot| disk.keys(&txn, slot, 100).unwrap().len();
        assert_eq!([left(1), left(2), left(3)], [10, 0, 10]);
        assert_eq!(disk.keys(&txn, 3, 100).unwrap(), in_order);
    }

    #[test]
    fn a_bucket_of_a_job_stands_together_in_the_file() {
        let keys: Vec<_> =
            (0..4096_u32).map(|i| EntityKey::from_encoded(&i.to_be_bytes()).unwrap()).collect();
        for buckets in [2, 16, 1024_u64] {
            let bucket = |key: &EntityKey| key::spread(key::identity(key.as_bytes())) & (buckets - 1);
            let mut in_order = keys.clone();
            in_order.sort_by_key(|key| (place_of(key), key.clone()));
            let mut runs: Vec<_> = in_order.iter().map(bucket).collect();
            runs.dedup();
            let mut distinct = runs.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(runs.len(), distinct.len(), "each of {buckets} buckets is one run");
        }
    }
}
