//! The store as its callers see it: reads, and what is known of the servers.

use crate::connection::{Access, Connections};
use crate::error::{corrupt, foreign, invalid, lost, unavailable, unexpected};
use crate::layout::{Layout, Meta, build, position_of};
use crate::new_rows::NEW_ROWS_MAX;
use crate::settings::{RedisSettings, RowLayout};
use crate::shared::{build_text, builds_of, positions_of, state_of};
use crate::slots::Slots;
use crate::writer::Writing;
use futures::future::{join_all, try_join_all};
use parking_lot::{Mutex, RwLock};
use redis::{Cmd, Pipeline, Value};
use springhouse_core::{EntityKey, Micros};
use springhouse_online::{
    BoxFuture, Condition, Holding, Lane, OnlineStore, Positions, SharedNotes, States, StoreError,
    StoreErrorKind, StoreStatistics, ViewHandle, ViewKeys, ViewStatus, Write,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Why a store's rows can't be relied on.
pub(crate) const EMPTIED: &str = "the store has been emptied";
pub(crate) const MADE_ANEW: &str = "the store has been made anew since this process opened it";
pub(crate) const EARLIER: &str =
    "the store is at an earlier moment than it had confirmed (a failover or a restart lost writes)";

/// Values in one read; the server does nothing else while it answers.
const READ_KEYS_MAX: usize = 5_000;
/// Keys that one step of a scan looks at.
const SCAN_KEYS: usize = 1_000;
/// Steps of a scan for a sample; a store of a hundred other views may not have the sample's view in them.
const SAMPLE_STEPS_MAX: usize = 1_000;

/// The Redis store, open for reading and, as its newest writer, for writing.
#[derive(Debug)]
pub struct RedisStore {
    pub(crate) settings: RedisSettings,
    pub(crate) connections: Connections,
    known: RwLock<Arc<Known>>,
    /// Held shared by writes of new rows, of which several may be on their way; alone by everything else that writes.
    pub(crate) writing: tokio::sync::RwLock<Writing>,
    slots: RwLock<Slots>,
    /// Why what is there can't be relied on; set until the store has been taken again.
    lost: RwLock<Option<Arc<str>>>,
    was_new: AtomicBool,
    /// Builds (view and generation) that were found to have rows; writes of others are first tried as new ones.
    pub(crate) with_rows: Mutex<BTreeSet<String>>,
    /// The server's user may not make transactions.
    pub(crate) transactions_refused: AtomicBool,
}

/// What is asked of one shard, and where the values belong.
#[derive(Default)]
struct Wanted {
    keys: Vec<WantedKey>,
    /// One for each value.
    places: Vec<Place>,
}

/// A key whose value is wanted, or a hash.
struct WantedKey {
    key: Vec<u8>,
    /// Of the hash; none when the key's own value is wanted.
    fields: Vec<Arc<str>>,
}

impl WantedKey {
    fn values(&self) -> usize {
        self.fields.len().max(1)
    }
}

impl Wanted {
    /// In pieces of so many values that the server does not answer one of them for too long.
    fn cut(&self) -> Vec<(&[WantedKey], &[Place])> {
        let (mut keys, mut places) = (self.keys.as_slice(), self.places.as_slice());
        let mut pieces = Vec::new();
        while !keys.is_empty() {
            let (mut count, mut values) = (0, 0);
            while let Some(wanted) = keys.get(count)
                && (count == 0 || values + wanted.values() <= READ_KEYS_MAX)
            {
                count += 1;
                values += wanted.values();
            }
            let (piece, rest) = keys.split_at(count);
            let (of_piece, rest_places) = places.split_at(values);
            pieces.push((piece, of_piece));
            (keys, places) = (rest, rest_places);
        }
        pieces
    }
}

/// A row of one of several views that are read together.
#[derive(Clone, Copy)]
struct Place {
    view: usize,
    row: usize,
    /// Of workers, to be merged with the other.
    is_shared: bool,
}

/// The store as this process took it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) identity: String,
    /// The token with which this process may write.
    pub(crate) writer: String,
    pub(crate) layout: Layout,
    /// By shard: the number that was confirmed to this process. A store with a smaller one has lost writes.
    pub(crate) floors: Vec<AtomicU64>,
}

impl Known {
    pub(crate) fn new(identity: String, writer: String, layout: Layout, metas: &[Meta]) -> Self {
        Self {
            identity,
            writer,
            layout,
            floors: metas.iter().map(|meta| AtomicU64::new(meta.number)).collect(),
        }
    }

    pub(crate) fn floor(&self, shard: u32) -> u64 {
        self.floors[shard as usize].load(Ordering::Acquire)
    }

    pub(crate) fn confirm(&self, shard: u32, number: u64) {
        self.floors[shard as usize].fetch_max(number, Ordering::AcqRel);
    }
}

impl RedisStore {
    /// Connects and becomes the store's writer: whoever was it before can't write any more. With `was_filled_before`, a store
    /// that is not there is one that has been emptied: it is made closed for readers ([`Condition::Filling`]).
    ///
    /// # Errors
    /// `Invalid` when the settings are wrong, `Unavailable` when the servers don't answer, `Corrupt` when what is there was
    /// written by another program. A store that has lost rows opens: see [`OnlineStore::condition`].
    pub async fn open(settings: RedisSettings, was_filled_before: bool) -> Result<Self, StoreError> {
        let complaints = settings.validate();
        if !complaints.is_empty() {
            return Err(invalid("open", complaints.join("; ")));
        }
        let connections = Connections::new(settings.clone())?;
        let shards = if connections.is_cluster() { settings.shards } else { 1 };
        let layout = Layout::new(&settings.key_prefix, shards, settings.row_layout);
        let store = Self {
            settings,
            connections,
            known: RwLock::new(Arc::new(Known::new(String::new(), String::new(), layout, &[]))),
            writing: tokio::sync::RwLock::new(Writing::default()),
            slots: RwLock::new(Slots::default()),
            lost: RwLock::new(None),
            was_new: AtomicBool::new(false),
            with_rows: Mutex::default(),
            transactions_refused: AtomicBool::new(false),
        };
        store
            .connections
            .within(async {
                store.learn_slots().await?;
                let mut writing = store.writing.write().await;
                store.take(&mut writing, was_filled_before, false).await?;
                store.warn_of_settings().await;
                Ok::<_, StoreError>(())
            })
            .await?;
        tracing::info!(
            connections = store.settings.connection_count(),
            in_flight_max = store.settings.in_flight_max,
            shards = store.known().layout.shards,
            "the Redis store is open"
        );
        Ok(store)
    }

    /// True when opening made the store: nothing was there before.
    pub fn was_new(&self) -> bool {
        self.was_new.load(Ordering::Acquire)
    }

    /// The random name that the store was given when it was made.
    pub fn identity(&self) -> String {
        self.known().identity.clone()
    }

    pub(crate) fn set_was_new(&self, was_new: bool) {
        self.was_new.store(was_new, Ordering::Release);
    }

    pub(crate) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read())
    }

    pub(crate) fn set_known(&self, known: Known) {
        let mut current = self.known.write();
        *current = Arc::new(known);
        *self.lost.write() = None;
    }

    /// Remembers that rows are gone; gives the error that says so. An answer to a question from before the store was taken
    /// again says nothing of it now.
    pub(crate) fn lose(&self, action: &'static str, known: &Known, why: &str) -> StoreError {
        let current = self.known.read();
        let mut lost_before = self.lost.write();
        if lost_before.is_none() && current.identity == known.identity && current.writer == known.writer {
            tracing::error!(why, "the Redis store no longer holds what it had confirmed");
            *lost_before = Some(why.into());
        }
        lost(action, why)
    }

    pub(crate) fn check_not_lost(&self, action: &'static str) -> Result<(), StoreError> {
        match &*self.lost.read() {
            Some(why) => Err(lost(action, &**why)),
            None => Ok(()),
        }
    }

    /// Holds what a shard says of itself against what is known.
    fn check_meta(
        &self,
        action: &'static str,
        known: &Known,
        floor: u64,
        meta: Option<&[u8]>,
    ) -> Result<Meta, StoreError> {
        let parse = |bytes: &[u8]| Meta::parse(bytes).ok_or_else(|| foreign(action));
        self.check_known(action, known, floor, meta.map(parse).transpose()?)
    }

    /// The same, of a meta key that has been read; `floor` is what had been confirmed before it was asked for.
    pub(crate) fn check_known(
        &self,
        action: &'static str,
        known: &Known,
        floor: u64,
        meta: Option<Meta>,
    ) -> Result<Meta, StoreError> {
        let Some(meta) = meta else {
            return Err(self.lose(action, known, EMPTIED));
        };
        if meta.identity != known.identity {
            // Or somebody else has made it anew since; then this process must take it up again in any case.
            return Err(self.lose(action, known, MADE_ANEW));
        }
        if meta.number < floor {
            return Err(self.lose(action, known, EARLIER));
        }
        Ok(meta)
    }

    /// The values of keys that all lie in one shard, with the shard's meta key: in one command, or, of hashes, in commands that go
    /// and come together, between two looks at the meta key.
    async fn read_shard(
        &self,
        action: &'static str,
        known: &Known,
        shard: u32,
        keys: &[WantedKey],
        is_for_write: bool,
    ) -> Result<Vec<Value>, StoreError> {
        // A replica may be behind what the primary has confirmed.
        let may_be_behind = self.settings.replica_reads && !is_for_write;
        let floor = if may_be_behind { 0 } else { known.floor(shard) };
        let access = if is_for_write { Access::Write } else { Access::Read };
        let meta_key = known.layout.meta(shard);
        let (metas, values) = match known.layout.rows {
            RowLayout::View => {
                let mut values = self.read_keys(action, access, &meta_key, keys).await?;
                (vec![values.remove(0)], values)
            }
            RowLayout::Entity => self.read_hashes(action, access, &meta_key, keys).await?,
        };
        for meta in metas {
            let meta = bytes_of(action, meta)?;
            let meta = self.check_meta(action, known, floor, meta.as_deref())?;
            if meta.is_filling && !is_for_write {
                return Err(unavailable(action, "the store is being filled from history"));
            }
        }
        Ok(values)
    }

    /// The values of the meta key and of keys.
    async fn read_keys(
        &self,
        action: &'static str,
        access: Access,
        meta: &str,
        keys: &[WantedKey],
    ) -> Result<Vec<Value>, StoreError> {
        let bytes: usize = keys.iter().map(|wanted| wanted.key.len() + 16).sum();
        let mut command = Cmd::with_capacity(keys.len() + 2, bytes + 64);
        command.arg("MGET").arg(meta);
        for wanted in keys {
            command.arg(wanted.key.as_slice());
        }
        match self.connections.call(action, access, &command).await? {
            Value::Array(values) if values.len() == keys.len() + 1 => Ok(values),
            _ => Err(unexpected(action, "as many values as keys")),
        }
    }

    /// The values of the meta key, before and after, and of fields of hashes.
    async fn read_hashes(
        &self,
        action: &'static str,
        access: Access,
        meta: &str,
        keys: &[WantedKey],
    ) -> Result<(Vec<Value>, Vec<Value>), StoreError> {
        let mut commands = Pipeline::with_capacity(keys.len() + 2);
        commands.cmd("GET").arg(meta);
        for wanted in keys {
            commands.cmd("HMGET").arg(wanted.key.as_slice());
            for field in &wanted.fields {
                commands.arg(field.as_bytes());
            }
        }
        commands.cmd("GET").arg(meta);
        let mut answers = self.connections.call_all(action, access, &commands).await?.into_iter();
        let mut metas: Vec<Value> = answers.next().into_iter().collect();
        let mut values = Vec::with_capacity(keys.iter().map(WantedKey::values).sum());
        for wanted in keys {
            match answers.next() {
                Some(Value::Array(of_hash)) if of_hash.len() == wanted.fields.len() => values.extend(of_hash),
                _ => return Err(unexpected(action, "as many values as fields")),
            }
        }
        metas.extend(answers.next());
        Ok((metas, values))
    }

    /// What is asked of each shard for the rows of several views.
    fn wanted(&self, known: &Known, reads: &[ViewKeys<'_>], is_for_write: bool) -> BTreeMap<u32, Wanted> {
        let mut by_shard: BTreeMap<u32, Wanted> = BTreeMap::new();
        // With a hash per entity: where an entity's is among those of its shard.
        let mut hashes: HashMap<&EntityKey, (u32, usize), ahash::RandomState> = HashMap::default();
        let mut of_hashes: BTreeMap<u32, Vec<Vec<Place>>> = BTreeMap::new();
        for (view, read) in reads.iter().enumerate() {
            let (id, generation) = (&read.view.id, read.view.generation);
            // The process that owns the store writes its own rows only.
            let is_shared = read.view.is_shared && !is_for_write;
            let names = [Layout::rows_of(id, generation), Layout::shared_rows_of(id, generation)];
            let names: Vec<(bool, Arc<str>)> = [false, true]
                .into_iter()
                .zip(names.map(Into::into))
                .take(1 + usize::from(is_shared))
                .collect();
            let field_of = |name: &Arc<str>| Arc::from(Layout::field(name));
            let fields: Vec<Arc<str>> = names.iter().map(|(_, name)| field_of(name)).collect();
            for (row, key) in read.keys.iter().enumerate() {
                let places = names.iter().map(|(is_shared, _)| Place { view, row, is_shared: *is_shared });
                match known.layout.rows {
                    RowLayout::View => {
                        let shard = known.layout.shard_of(key);
                        let wanted = by_shard.entry(shard).or_default();
                        let key = |(_, rows): &(bool, Arc<str>)| known.layout.row(shard, rows, key);
                        let keys = names.iter().map(key);
                        wanted.keys.extend(keys.map(|key| WantedKey { key, fields: Vec::new() }));
                        wanted.places.extend(places);
                    }
                    RowLayout::Entity => {
                        let (shard, number) = *hashes.entry(key).or_insert_with(|| {
                            let shard = known.layout.shard_of(key);
                            let wanted = by_shard.entry(shard).or_default();
                            let key = known.layout.hash_of(shard, key);
                            wanted.keys.push(WantedKey { key, fields: Vec::new() });
                            of_hashes.entry(shard).or_default().push(Vec::new());
                            (shard, wanted.keys.len() - 1)
                        });
                        let wanted = by_shard.entry(shard).or_default();
                        wanted.keys[number].fields.extend(fields.iter().cloned());
                        of_hashes.entry(shard).or_default()[number].extend(places);
                    }
                }
            }
        }
        for (shard, places) in of_hashes {
            by_shard.entry(shard).or_default().places = places.into_iter().flatten().collect();
        }
        by_shard
    }

    /// The rows of several views: one command per shard. What can't be read of one view is no failure of the others.
    async fn read_views(
        &self,
        action: &'static str,
        reads: &[ViewKeys<'_>],
        is_for_write: bool,
    ) -> Result<Vec<Result<States, StoreError>>, StoreError> {
        if reads.iter().all(|read| read.keys.is_empty()) {
            return Ok(reads.iter().map(|_| Ok(Vec::new())).collect());
        }
        self.check_not_lost(action)?;
        let known = self.known();
        let by_shard = self.wanted(&known, reads, is_for_write);
        let commands: Vec<_> = by_shard
            .iter()
            .flat_map(|(shard, wanted)| {
                wanted.cut().into_iter().map(move |(keys, places)| (*shard, keys, places))
            })
            .collect();
        let ask = |keys, shard| self.read_shard(action, &known, shard, keys, is_for_write);
        let answers = match commands.as_slice() {
            [(shard, keys, _)] => vec![ask(keys, *shard).await?],
            commands => try_join_all(commands.iter().map(|(shard, keys, _)| ask(keys, *shard))).await?,
        };
        let mut found: Vec<_> = reads.iter().map(|read| Ok(vec![None; read.keys.len()])).collect();
        for ((_, _, places), values) in commands.iter().zip(answers) {
            for (place, value) in places.iter().zip(values) {
                let Some(bytes) = bytes_of(action, value)? else { continue };
                let Ok(states) = &mut found[place.view] else { continue };
                let view = reads[place.view].view;
                let decoded = match place.is_shared {
                    false => view.plan.decode(&bytes).map_err(|error| error.to_string()),
                    true => state_of(&view.plan, &bytes),
                };
                match decoded {
                    Ok(state) => {
                        let merged = match states[place.row].take() {
                            Some(other) => {
                                let mut merged = Arc::unwrap_or_clone(other);
                                view.plan.merge(&mut merged, &state);
                                merged
                            }
                            None => state,
                        };
                        states[place.row] = Some(Arc::new(merged));
                    }
                    Err(error) => {
                        found[place.view] = Err(corrupt(action, format!("view `{}`: {error}", view.id)));
                    }
                }
            }
        }
        Ok(found)
    }

    pub(crate) async fn read_rows(
        &self,
        action: &'static str,
        view: &ViewHandle,
        keys: &[EntityKey],
        is_for_write: bool,
    ) -> Result<States, StoreError> {
        let mut found = self.read_views(action, &[ViewKeys { view, keys }], is_for_write).await?;
        found.pop().unwrap_or_else(|| Ok(Vec::new()))
    }

    /// A hash of shard 0, once its meta key has been looked at.
    pub(crate) async fn control_hash(
        &self,
        action: &'static str,
        name: &str,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        self.check_shards(action, &[0]).await?;
        read_hash(&self.connections, action, self.known().layout.control(name)).await
    }

    async fn control_field(
        &self,
        action: &'static str,
        name: &str,
        field: &str,
    ) -> Result<Option<String>, StoreError> {
        self.check_shards(action, &[0]).await?;
        let mut command = redis::cmd("HGET");
        command.arg(self.known().layout.control(name)).arg(field);
        let answer = bytes_of(action, self.connections.call(action, Access::Write, &command).await?)?;
        answer.map(|bytes| String::from_utf8(bytes).map_err(|_| unexpected(action, "text"))).transpose()
    }

    /// Reads the meta keys of shards and holds them against what is known.
    async fn check_shards(&self, action: &'static str, shards: &[u32]) -> Result<Vec<Meta>, StoreError> {
        self.check_not_lost(action)?;
        let known = self.known();
        let one = async |shard: u32| {
            let floor = known.floor(shard);
            let mut command = redis::cmd("GET");
            command.arg(known.layout.meta(shard));
            let answer = bytes_of(action, self.connections.call(action, Access::Write, &command).await?)?;
            self.check_meta(action, &known, floor, answer.as_deref())
        };
        join_all(shards.iter().map(|shard| one(*shard))).await.into_iter().collect()
    }

    pub(crate) async fn learn_slots(&self) -> Result<(), StoreError> {
        if !self.connections.is_cluster() {
            return Ok(());
        }
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let answer = self.connections.call("ask for the Cluster's slots", Access::Write, &command).await?;
        *self.slots.write() = Slots::parse(answer)?;
        Ok(())
    }

    /// Tells of settings of the server under which rows may vanish.
    async fn warn_of_settings(&self) {
        let mut command = redis::cmd("INFO");
        command.arg("memory");
        // Not every user may ask; then nothing can be said.
        let Ok(answer) =
            self.connections.call("ask for the server's settings", Access::Write, &command).await
        else {
            return;
        };
        let text = match answer {
            Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Value::VerbatimString { text, .. } => text,
            _ => return,
        };
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let limit = field("maxmemory").unwrap_or("0");
        let policy = field("maxmemory_policy").unwrap_or("noeviction").trim();
        if limit.trim() != "0" && policy != "noeviction" {
            tracing::warn!(
                policy,
                "the Redis server may throw rows away when its memory is full, and entities would look new: set `maxmemory-policy noeviction`"
            );
        }
    }

    /// Begins to look for every key that matches, node by node.
    pub(crate) async fn scan(
        &self,
        action: &'static str,
        pattern: String,
        steps_max: usize,
    ) -> Result<Scan<'_>, StoreError> {
        let nodes = if self.connections.is_cluster() {
            self.learn_slots().await?;
            self.slots.read().nodes().map(Some).collect()
        } else {
            vec![None]
        };
        Ok(Scan { store: self, action, pattern, steps: steps_max, nodes, cursor: b"0".to_vec() })
    }

    async fn sample(&self, view: &ViewHandle, limit: usize) -> Result<Vec<EntityKey>, StoreError> {
        let action = "sample keys";
        let known = self.known();
        let (pattern, head) = match known.layout.rows {
            RowLayout::View => {
                let rows = Layout::rows_of(&view.id, view.generation);
                (known.layout.every_row(&view.id, view.generation), rows.len())
            }
            RowLayout::Entity => (known.layout.every_hash(), Layout::HASHES.len()),
        };
        // Rows of workers count too.
        let with_shared = ViewHandle { is_shared: true, ..view.clone() };
        let mut keys = BTreeSet::new();
        self.check_shards(action, &[0]).await?;
        let mut scan = self.scan(action, pattern, SAMPLE_STEPS_MAX).await?;
        while keys.len() < limit
            && let Some(found) = scan.next().await?
        {
            let entity = |name: Vec<u8>| {
                let tag = known.layout.tag(known.layout.shard_in(&name)?);
                EntityKey::from_encoded(name.get(tag.len() + head..)?).ok()
            };
            let mut found: Vec<EntityKey> = found.into_iter().filter_map(entity).collect();
            if known.layout.rows == RowLayout::Entity {
                // An entity may have rows of other views alone.
                let states = self.read_rows(action, &with_shared, &found, false).await?;
                let mut states = states.into_iter();
                found.retain(|_| states.next().flatten().is_some());
            }
            keys.extend(found.iter().map(|key| key.as_bytes().to_vec()));
        }
        let keys = keys.iter().take(limit);
        Ok(keys.filter_map(|bytes| EntityKey::from_encoded(bytes).ok()).collect())
    }

    /// Nothing is written to a build any more, and what was said of it is forgotten.
    async fn end_build(&self, action: &'static str, name: &str) -> Result<(), StoreError> {
        if self.control_field(action, "builds", name).await?.is_none() {
            return Ok(());
        }
        let positions = positions_of(self.control_hash(action, "positions").await?)?;
        let partitions = positions.get(name).into_iter().flat_map(|positions| positions.keys());
        let fields: Vec<String> = partitions.map(|partition| format!("{name} {partition}")).collect();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        // Shard 0 last, so that an interruption leaves something to be found.
        for shard in (0..self.known().layout.shards).rev() {
            self.change_in(action, shard, "builds", &[name], &[]).await?;
            self.change_in(action, shard, "positions", &fields, &[]).await?;
        }
        Ok(())
    }

    async fn condition_now(&self) -> Result<Condition, StoreError> {
        let shards: Vec<u32> = (0..self.known().layout.shards).collect();
        match self.check_shards("look at the store", &shards).await {
            Ok(metas) if metas.iter().any(|meta| meta.is_filling) => Ok(Condition::Filling),
            Ok(_) => Ok(Condition::Whole),
            Err(error) if error.kind == StoreErrorKind::Lost => Ok(Condition::Lost(error.detail)),
            Err(error) => Err(error),
        }
    }
}

/// A search through the keys of all nodes.
pub(crate) struct Scan<'a> {
    store: &'a RedisStore,
    action: &'static str,
    pattern: String,
    /// How many steps are left.
    steps: usize,
    /// Those that are left; the last is being searched.
    nodes: Vec<Option<(String, u16)>>,
    cursor: Vec<u8>,
}

impl Scan<'_> {
    /// The next keys found; a key may come twice. None at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
        let (action, connections) = (self.action, &self.store.connections);
        while let Some(node) = self.nodes.last() {
            if self.steps == 0 {
                return Ok(None);
            }
            self.steps -= 1;
            let mut command = redis::cmd("SCAN");
            command.arg(&self.cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(SCAN_KEYS);
            let answer = match node {
                Some((host, port)) => connections.call_node(action, host, *port, command).await?,
                None => connections.call(action, Access::Write, &command).await?,
            };
            let wrong = || unexpected(action, "a step of a scan");
            let Value::Array(parts) = answer else { return Err(wrong()) };
            let [next, Value::Array(found)] = <[Value; 2]>::try_from(parts).map_err(|_| wrong())? else {
                return Err(wrong());
            };
            self.cursor = bytes_of(action, next)?.ok_or_else(wrong)?;
            if self.cursor == b"0" {
                self.nodes.pop();
            }
            if !found.is_empty() {
                let key = |key| bytes_of(action, key)?.ok_or_else(wrong);
                return found.into_iter().map(key).collect::<Result<_, _>>().map(Some);
            }
        }
        Ok(None)
    }
}

/// All fields of a hash.
pub(crate) async fn read_hash(
    connections: &Connections,
    action: &'static str,
    key: String,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
    let mut command = redis::cmd("HGETALL");
    command.arg(key);
    let answer = connections.call(action, Access::Write, &command).await?;
    let wrong = || unexpected(action, "pairs of texts");
    let mut pairs = BTreeMap::new();
    for (field, value) in answer.into_map_iter().map_err(|_| wrong())? {
        let field = bytes_of(action, field)?.ok_or_else(wrong)?;
        pairs.insert(field, bytes_of(action, value)?.ok_or_else(wrong)?);
    }
    Ok(pairs)
}

/// The bytes of an answer; None when there is no value.
pub(crate) fn bytes_of(action: &'static str, value: Value) -> Result<Option<Vec<u8>>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::SimpleString(text) => Ok(Some(text.into_bytes())),
        _ => Err(unexpected(action, "bytes")),
    }
}

impl OnlineStore for RedisStore {
    fn get_many<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<States, StoreError>> {
        self.connections.within(async move { self.read_rows("read", view, keys, false).await })
    }

    fn get_views<'a>(&'a self, reads: &'a [ViewKeys<'a>]) -> BoxFuture<'a, Vec<Result<States, StoreError>>> {
        self.connections.within(async move {
            match self.read_views("read", reads, false).await {
                Ok(found) => found,
                Err(error) => reads.iter().map(|_| Err(error.clone())).collect(),
            }
        })
    }

    fn write<'a>(
        &'a self,
        writes: Vec<Write>,
        lane: Lane,
        now: Micros,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.connections.within(self.write_all(writes, lane, now))
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.connections.within(self.wait_for_replicas("checkpoint"))
    }

    fn lanes(&self) -> BoxFuture<'_, Result<BTreeMap<Arc<str>, i64>, StoreError>> {
        self.connections.within(async {
            let pairs = self.control_hash("read lanes", "lanes").await?;
            let lane = |(name, position): (Vec<u8>, Vec<u8>)| {
                let wrong = || corrupt("read lanes", "a lane can't be read; run `springhouse rebuild`");
                let name: Arc<str> = std::str::from_utf8(&name).map_err(|_| wrong())?.into();
                Ok((name, position_of(&position).ok_or_else(wrong)?))
            };
            pairs.into_iter().map(lane).collect()
        })
    }

    fn drop_lanes<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.connections.within(async move {
            let lanes = self.lanes().await?;
            let dropped: Vec<&str> =
                lanes.keys().map(|name| &**name).filter(|name| name.starts_with(prefix)).collect();
            if dropped.is_empty() {
                return Ok(());
            }
            self.change("drop lanes", "lanes", &dropped, &[]).await
        })
    }

    fn view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
    ) -> BoxFuture<'a, Result<Option<ViewStatus>, StoreError>> {
        self.connections.within(async move {
            let field = build(&view.id, view.generation);
            let note = self.control_field("read a status", "status", &field).await?;
            Ok(note.map(|note| ViewStatus { note }))
        })
    }

    fn set_view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
        status: ViewStatus,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.connections.within(async move {
            let field = build(&view.id, view.generation);
            self.change("set a status", "status", &[], &[(&field, &status.note)]).await?;
            self.wait_for_replicas("set a status").await
        })
    }

    fn active_generation<'a>(&'a self, view_id: &'a str) -> BoxFuture<'a, Result<u32, StoreError>> {
        self.connections.within(async move {
            let action = "read the active generation";
            let Some(text) = self.control_field(action, "active", view_id).await? else { return Ok(0) };
            text.parse().map_err(|_| unexpected(action, "a number"))
        })
    }

    fn activate_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.connections.within(async move {
            let action = "activate a generation";
            self.change(action, "active", &[], &[(view_id, &generation.to_string())]).await?;
            self.wait_for_replicas(action).await
        })
    }

    fn drop_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.connections.within(async move {
            let action = "drop a generation";
            self.end_build(action, &build(view_id, generation)).await?;
            self.delete_rows(action, view_id, generation).await?;
            let field = build(view_id, generation);
            self.with_rows.lock().remove(&field);
            self.change(action, "status", &[&field], &[]).await?;
            self.change(action, "plans", &[&field], &[]).await?;
            self.wait_for_replicas(action).await
        })
    }

    fn sample_keys<'a>(
        &'a self,
        view: &'a ViewHandle,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EntityKey>, StoreError>> {
        self.connections.within(self.sample(view, limit))
    }

    fn begin_build<'a>(
        &'a self,
        view: &'a ViewHandle,
        start: &'a Positions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.connections.within(async move {
            let action = "begin a build";
            let name = build(&view.id, view.generation);
            if self.control_field(action, "builds", &name).await?.is_some() {
                return Ok(());
            }
            let text = build_text(&view.plan, start);
            // Shard 0 last: workers take up what it has.
            for shard in (0..self.known().layout.shards).rev() {
                self.change_in(action, shard, "builds", &[], &[(&name, &text)]).await?;
            }
            self.wait_for_replicas(action).await
        })
    }

    fn shared_notes(&self) -> BoxFuture<'_, Result<SharedNotes, StoreError>> {
        self.connections.within(async {
            let action = "read what workers say";
            let text = |bytes| String::from_utf8(bytes).map_err(|_| unexpected(action, "text"));
            let pair = |(name, value)| Ok((text(name)?, text(value)?));
            let notes = self.control_hash(action, "notes").await?;
            let notes = notes.into_iter().map(pair).collect::<Result<_, StoreError>>()?;
            let positions = positions_of(self.control_hash(action, "positions").await?)?;
            let builds = builds_of(self.control_hash(action, "builds").await?)?;
            Ok(SharedNotes { notes, builds, positions })
        })
    }

    fn statistics(&self) -> StoreStatistics {
        self.connections.statistics()
    }

    fn write_rows_max(&self) -> usize {
        // In a Cluster nearly every write is for several nodes, and larger ones cost less a row.
        if self.known().layout.shards > 1 {
            return usize::MAX;
        }
        self.settings.script_rows_max.min(NEW_ROWS_MAX)
    }

    fn node_of(&self, _view: &ViewHandle, key: &EntityKey) -> usize {
        // Asked for every row.
        if !self.connections.is_cluster() {
            return 0;
        }
        let known = self.known();
        self.slots.read().node_of(&known.layout.tag(known.layout.shard_of(key)))
    }

    fn condition(&self) -> BoxFuture<'_, Result<Condition, StoreError>> {
        self.connections.within(async {
            self.learn_slots().await?;
            self.condition_now().await
        })
    }

    fn take_again(&self) -> BoxFuture<'_, Result<Holding, StoreError>> {
        self.connections.within(async {
            let mut writing = self.writing.write().await;
            let was_filling = self.take(&mut writing, true, true).await?;
            let is_lost = self.check_not_lost("open").is_err();
            Ok(if self.was_new() || was_filling || is_lost { Holding::Nothing } else { Holding::Earlier })
        })
    }

    fn begin_filling(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.connections.within(self.make_anew())
    }

    fn end_filling(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.connections.within(self.open_for_readers())
    }
}
