//! One snapshot and its file.

use crate::RegistryError;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use springhouse_core::{Definitions, Micros, content_hash};

/// The version of the file format; a reader refuses a higher one.
const FORMAT: u32 = 1;

/// What was applied, when, by whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// 1, 2, 3 and so on.
    pub number: u64,
    /// Checksum of the snapshot before; none for the first.
    pub parent: Option<String>,
    /// Checksum of this one.
    pub checksum: String,
    /// Hash of the definitions alone: two snapshots of the same definitions share it.
    pub definition_hash: String,
    /// When, by whom, why.
    pub meta: SnapshotMeta,
    /// What was applied.
    pub definitions: Definitions,
}

/// When, by whom and why something was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The moment.
    pub applied_at: Micros,
    /// Who, such as `ops@build-7`.
    pub applied_by: String,
    /// Why, in the words of who applied it.
    pub message: String,
}

/// The file: the checksum is over the exact text of `snapshot`, so that it survives new fields.
#[derive(Serialize, Deserialize)]
struct File<'a> {
    format: u32,
    checksum: String,
    #[serde(borrow)]
    snapshot: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct Body<D> {
    number: u64,
    parent: Option<String>,
    definition_hash: String,
    #[serde(flatten)]
    meta: SnapshotMeta,
    definitions: D,
}

impl Snapshot {
    pub(crate) fn new(
        number: u64,
        parent: Option<String>,
        definitions: Definitions,
        meta: SnapshotMeta,
    ) -> Self {
        let definition_hash = definitions.content_hash();
        let mut snapshot =
            Self { number, parent, checksum: String::new(), definition_hash, meta, definitions };
        snapshot.checksum = content_hash(snapshot.body().get().as_bytes());
        snapshot
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let file = File { format: FORMAT, checksum: self.checksum.clone(), snapshot: &self.body() };
        let mut bytes = serde_json::to_vec(&file).expect("a snapshot is plain data");
        bytes.push(b'\n');
        bytes
    }

    fn body(&self) -> Box<RawValue> {
        let body = Body {
            number: self.number,
            parent: self.parent.clone(),
            definition_hash: self.definition_hash.clone(),
            meta: self.meta.clone(),
            definitions: &self.definitions,
        };
        serde_json::value::to_raw_value(&body).expect("a snapshot is plain data")
    }

    /// Reads a file and checks everything that it says of itself.
    pub(crate) fn from_bytes(path: &str, number: u64, bytes: &[u8]) -> Result<Self, RegistryError> {
        let damaged = |what: String| RegistryError::damaged(path, what);
        let file: File<'_> =
            serde_json::from_slice(bytes).map_err(|e| damaged(format!("it is not a snapshot file ({e})")))?;
        if file.format > FORMAT {
            return Err(damaged(format!(
                "it has format {}, this program reads up to {FORMAT}; use a newer springhouse",
                file.format
            )));
        }
        let checksum = content_hash(file.snapshot.get().as_bytes());
        if checksum != file.checksum {
            return Err(damaged(format!("its checksum is {checksum}, it should be {}", file.checksum)));
        }
        let body: Body<Definitions> = serde_json::from_str(file.snapshot.get())
            .map_err(|e| damaged(format!("its definitions can't be read ({e})")))?;
        if body.number != number {
            return Err(damaged(format!("it says it is number {}", body.number)));
        }
        Ok(Self {
            number,
            parent: body.parent,
            checksum,
            definition_hash: body.definition_hash,
            meta: body.meta,
            definitions: body.definitions,
        })
    }
}
