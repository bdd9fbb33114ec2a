//! What workers that read a topic together need of a store: rows that several processes write at once.
//!
//! A row says, beside its state, which messages are in it: of each partition all that concern it below an offset. A worker
//! reads a row, adds what is new, and puts it in the place of exactly what it read; when somebody else was faster, it reads
//! again and adds what is new then. So it does not matter who writes, how often a message is read, or whether a worker that
//! was thought dead goes on: no message is in a row twice. How far a whole build is, is committed now and then; reading begins
//! there, and a row need not remember what lies below it.

use crate::{BoxFuture, StoreError, ViewHandle};
use springhouse_core::EntityKey;
use springhouse_kernel::EntityState;
use std::collections::BTreeMap;
use std::sync::Arc;

/// By partition of a topic, the offset of the first message that is not in.
pub type Positions = BTreeMap<i32, i64>;

/// A view and generation whose stream workers write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// [`springhouse_kernel::ViewPlan::fingerprint`] of its states.
    pub fingerprint: u64,
    /// What its history has of the stream: workers write the messages from there on. A partition that is not there came
    /// later: all of it is the workers'.
    pub start: Positions,
}

/// By name (`NAME@VERSION/GENERATION`), what a build is, and how far each of the store's shards has come in it.
pub type Builds = BTreeMap<Arc<str>, (Build, Vec<Positions>)>;

/// A row as it was read.
#[derive(Clone, Debug)]
pub struct SharedRow {
    /// Another for every change.
    pub version: u64,
    /// What is in it; see the module's text.
    pub positions: Vec<(i32, i64)>,
    /// The state.
    pub state: EntityState,
}

/// A row to be put in the place of another.
#[derive(Debug)]
pub struct Replacement<'a> {
    /// The entity.
    pub key: &'a EntityKey,
    /// The version that is replaced; none: there is no row.
    pub before: Option<u64>,
    /// What is in it.
    pub positions: &'a [(i32, i64)],
    /// The state.
    pub state: &'a EntityState,
}

/// A store whose rows several processes write at once.
///
/// Every call fails as [`crate::StoreErrorKind::Lost`] when the store is another one than at [`SharedRows::begin`], or has lost
/// what it had confirmed to this process: begin again, and take nothing of what was read before for true.
pub trait SharedRows: std::fmt::Debug + Send + Sync + 'static {
    /// Takes the store as it is now.
    fn begin(&self) -> BoxFuture<'_, Result<Builds, StoreError>>;

    /// The random name of the store as it was taken.
    fn identity(&self) -> String;

    /// The same as [`SharedRows::begin`] gives, of the store as it was taken.
    fn positions(&self) -> BoxFuture<'_, Result<Builds, StoreError>>;

    /// The shard of a key, as numbered by [`SharedRows::begin`].
    fn shard_of(&self, key: &EntityKey) -> usize;

    /// The rows of some keys, in their order.
    fn read<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<Vec<Option<SharedRow>>, StoreError>>;

    /// Puts rows in the place of what was read. For each the new version; none where the row is another one by now. After an
    /// error any of them may have been replaced. `fence`: by partition whose messages are new in the rows, what each shard is
    /// known to have committed; when a shard has another number, somebody else has gone on with the partition, and may have
    /// written rows that no longer say what they have of it: that fails as [`crate::StoreErrorKind::Lost`], and so it does when
    /// the build is gone.
    fn replace<'a>(
        &'a self,
        view: &'a ViewHandle,
        fence: &'a [(i32, Vec<Option<i64>>)],
        rows: &'a [Replacement<'a>],
    ) -> BoxFuture<'a, Result<Vec<Option<u64>>, StoreError>>;

    /// What was noted last under some names.
    fn notes<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<Option<String>>, StoreError>>;

    /// Says how far builds have come: everything below is in their rows. Positions never fall. `notes` replace notes of the
    /// same name, for [`crate::OnlineStore::shared_notes`]; an empty one removes it.
    fn commit<'a>(
        &'a self,
        builds: &'a [(Arc<str>, Positions)],
        notes: &'a [(String, String)],
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// What workers say of their work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedNotes {
    /// By name.
    pub notes: BTreeMap<String, String>,
    /// By build, what it is.
    pub builds: BTreeMap<Arc<str>, Build>,
    /// By build, how far it has come.
    pub positions: BTreeMap<Arc<str>, Positions>,
}

/// The name of a view's generation: `NAME@VERSION/GENERATION`.
pub fn build_name(view: &ViewHandle) -> Arc<str> {
    format!("{}/{}", view.id, view.generation).into()
}
