//! Rows that workers write: see `springhouse_online::SharedRows`.
//!
//! Beside a shard's meta key lie the hashes `builds` (what may be written, and from where) and `positions` (how far each has
//! come in this shard), and under `n/WORKER` how often each worker has written: a smaller number than was confirmed to it says
//! that the shard has lost writes. Shard 0 has the hash `notes`. A row begins with its version, which a script compares before it
//! puts another one in its place; the servers' other checks are those of the writer, but for the writer's token: workers need none,
//! since a row can't take a message twice.

use crate::connection::{Access, Connections};
use crate::error::{corrupt, foreign, invalid, lost, unexpected};
use crate::layout::{Layout, Meta, build};
use crate::scripts::{COMMIT_SHARED, Call, REPLACE_IN_HASHES, REPLACE_ROWS, Said, Script, run};
use crate::settings::{RedisSettings, RowLayout};
use crate::store::{EARLIER, EMPTIED, MADE_ANEW, bytes_of, read_hash};
use crate::writer::{SCRIPT_BYTES_MAX, expiry, new_token};
use futures::future::try_join_all;
use parking_lot::RwLock;
use redis::{Cmd, Pipeline, Value};
use serde::{Deserialize, Serialize};
use springhouse_core::EntityKey;
use springhouse_kernel::{EntityState, ViewPlan};
use springhouse_online::{
    BoxFuture, Build, Builds, Positions, Replacement, SharedRow, SharedRows, StoreError, ViewHandle,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Keys in one `MGET`.
const READ_KEYS_MAX: usize = 2_000;
/// Letters of a worker's name.
const WORKER_LEN: usize = 16;
/// Bytes of a row's version.
const VERSION_BYTES: usize = 8;
/// A worker's number is forgotten when it has not written for this long, in seconds.
pub(crate) const WORKER_LASTS_S: u64 = 86_400;

/// The store as a worker has it.
#[derive(Debug)]
pub struct RedisShared {
    settings: RedisSettings,
    connections: Connections,
    worker: String,
    taken: RwLock<Arc<Taken>>,
    /// Versions begin at random, so that no two workers give the same one.
    version: AtomicU64,
}

/// The store as it was when it was last begun with.
#[derive(Debug)]
struct Taken {
    identity: String,
    layout: Layout,
    /// By shard: this worker's number that was confirmed to it.
    floors: Vec<AtomicU64>,
}

/// One row of a script.
struct RowCall {
    place: usize,
    version: u64,
    call: Call,
    expires: bool,
}

/// A build, as the hash has it.
#[derive(Serialize, Deserialize)]
struct BuildText {
    fingerprint: String,
    start: Positions,
}

pub(crate) fn build_text(plan: &ViewPlan, start: &Positions) -> String {
    let text = BuildText { fingerprint: format!("{:016x}", plan.fingerprint()), start: start.clone() };
    serde_json::to_string(&text).unwrap_or_default()
}

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

fn damaged() -> StoreError {
    corrupt("read how far workers are", "what stands there can't be read; run `springhouse rebuild`")
}

pub(crate) fn builds_of(pairs: Pairs) -> Result<BTreeMap<Arc<str>, Build>, StoreError> {
    let build = |(name, text): (Vec<u8>, Vec<u8>)| {
        let name: Arc<str> = std::str::from_utf8(&name).ok()?.into();
        let text: BuildText = serde_json::from_slice(&text).ok()?;
        let fingerprint = u64::from_str_radix(&text.fingerprint, 16).ok()?;
        Some((name, Build { fingerprint, start: text.start }))
    };
    pairs.into_iter().map(|pair| build(pair).ok_or_else(damaged)).collect()
}

/// Positions by build; a field is `BUILD PARTITION`.
pub(crate) fn positions_of(pairs: Pairs) -> Result<BTreeMap<Arc<str>, Positions>, StoreError> {
    let mut all: BTreeMap<Arc<str>, Positions> = BTreeMap::new();
    for (field, offset) in pairs {
        let read = || {
            let (name, partition) = std::str::from_utf8(&field).ok()?.rsplit_once(' ')?;
            let offset = std::str::from_utf8(&offset).ok()?.parse().ok()?;
            Some((Arc::<str>::from(name), partition.parse().ok()?, offset))
        };
        let (name, partition, offset) = read().ok_or_else(damaged)?;
        all.entry(name).or_default().insert(partition, offset);
    }
    Ok(all)
}

/// Version, a checksum, and how many positions follow; then the positions and the state.
fn encode_row(version: u64, positions: &[(i32, i64)], plan: &ViewPlan, state: &EntityState) -> Vec<u8> {
    let mut head = Vec::with_capacity(2 + positions.len() * 12);
    head.extend_from_slice(&(positions.len() as u16).to_le_bytes());
    for (partition, offset) in positions {
        head.extend_from_slice(&partition.to_le_bytes());
        head.extend_from_slice(&offset.to_le_bytes());
    }
    let mut out = Vec::with_capacity(VERSION_BYTES + 4 + head.len() + 96);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
    out.extend_from_slice(&head);
    plan.encode(state, &mut out);
    out
}

/// The parts of a row: version, positions, and the state's bytes.
type RowParts<'a> = (u64, Vec<(i32, i64)>, &'a [u8]);

fn split_row(bytes: &[u8]) -> Option<RowParts<'_>> {
    let (version, rest) = bytes.split_first_chunk::<VERSION_BYTES>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let (count, positions) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_le_bytes(*count)) * 12;
    let (positions, state) = positions.split_at_checked(length)?;
    if crc32c::crc32c(&rest[..2 + length]) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let position = |bytes: &[u8]| {
        let (partition, offset) = bytes.split_first_chunk::<4>()?;
        Some((i32::from_le_bytes(*partition), i64::from_le_bytes(*offset.first_chunk::<8>()?)))
    };
    let positions = positions.chunks(12).map(position).collect::<Option<_>>()?;
    Some((u64::from_le_bytes(*version), positions, state))
}

/// The state in a worker's row.
pub(crate) fn state_of(plan: &ViewPlan, bytes: &[u8]) -> Result<EntityState, String> {
    let (_, _, state) = split_row(bytes).ok_or("the row's head is damaged")?;
    plan.decode(state).map_err(|error| error.to_string())
}

impl RedisShared {
    /// Connects. The store must have been made by the process that owns it.
    ///
    /// # Errors
    /// `Invalid` when the settings are wrong.
    pub fn new(settings: RedisSettings) -> Result<Self, StoreError> {
        let complaints = settings.validate();
        if !complaints.is_empty() {
            return Err(invalid("open", complaints.join("; ")));
        }
        let worker = new_token(WORKER_LEN);
        let layout = Layout::new(&settings.key_prefix, 1, settings.row_layout);
        let taken = Taken { identity: String::new(), layout, floors: Vec::new() };
        Ok(Self {
            connections: Connections::new(settings.clone())?,
            settings,
            version: AtomicU64::new(u64::from_str_radix(&worker, 16).unwrap_or_default()),
            worker,
            taken: RwLock::new(Arc::new(taken)),
        })
    }

    fn taken(&self) -> Arc<Taken> {
        Arc::clone(&self.taken.read())
    }

    fn number_key(&self, layout: &Layout, shard: u32) -> String {
        format!("{}n/{}", layout.tag(shard), self.worker)
    }

    /// A shard's meta key, and how often this worker has written there.
    async fn look(&self, layout: &Layout, shard: u32) -> Result<(Option<Meta>, u64), StoreError> {
        let action = "look at the store";
        let mut command = redis::cmd("MGET");
        command.arg(layout.meta(shard)).arg(self.number_key(layout, shard));
        let answer = self.connections.call(action, Access::Write, &command).await?;
        let Value::Array(values) = answer else { return Err(unexpected(action, "two values")) };
        let [meta, number] = <[Value; 2]>::try_from(values).map_err(|_| unexpected(action, "two values"))?;
        let meta = bytes_of(action, meta)?;
        let meta = meta.map(|bytes| Meta::parse(&bytes).ok_or_else(|| foreign(action))).transpose()?;
        Ok((meta, number_of(bytes_of(action, number)?)))
    }

    async fn take(&self) -> Result<Builds, StoreError> {
        let action = "take the store";
        let layout = Layout::new(&self.settings.key_prefix, 1, self.settings.row_layout);
        let (meta, _) = self.look(&layout, 0).await?;
        let meta = meta.ok_or_else(|| lost(action, EMPTIED))?;
        let layout = layout.as_made(&meta);
        let looks = try_join_all((0..layout.shards).map(|shard| self.look(&layout, shard))).await?;
        let mut floors = Vec::new();
        for (of_shard, number) in looks {
            if of_shard.is_none_or(|of_shard| of_shard.identity != meta.identity) {
                return Err(lost(action, MADE_ANEW));
            }
            floors.push(AtomicU64::new(number));
        }
        let taken = Arc::new(Taken { identity: meta.identity, layout, floors });
        let builds = self.read_positions(&taken.layout).await?;
        *self.taken.write() = taken;
        Ok(builds)
    }

    async fn read_positions(&self, layout: &Layout) -> Result<Builds, StoreError> {
        let action = "read how far workers are";
        // Before the positions: those of a build that ends meanwhile are not taken for a new one's.
        let builds = builds_of(read_hash(&self.connections, action, layout.hash(0, "builds")).await?)?;
        let positions = (0..layout.shards)
            .map(|shard| read_hash(&self.connections, action, layout.hash(shard, "positions")));
        let positions = try_join_all(positions).await?;
        let mut positions: Vec<_> =
            positions.into_iter().map(positions_of).collect::<Result<_, StoreError>>()?;
        let with_positions = |(name, build): (Arc<str>, Build)| {
            let of_shards =
                positions.iter_mut().map(|shard| shard.remove(&name).unwrap_or_default()).collect();
            (name, (build, of_shards))
        };
        Ok(builds.into_iter().map(with_positions).collect())
    }

    async fn read_chunk(
        &self,
        taken: &Taken,
        shard: u32,
        view: &ViewHandle,
        keys: &[(usize, &EntityKey)],
    ) -> Result<Vec<(usize, Option<SharedRow>)>, StoreError> {
        let action = "read rows of workers";
        let floor = taken.floors[shard as usize].load(Ordering::Acquire);
        let values = match taken.layout.rows {
            RowLayout::View => self.read_keys(action, taken, shard, view, keys).await?,
            RowLayout::Entity => self.read_fields(action, taken, shard, view, keys).await?,
        };
        if values.len() != keys.len() + 2 {
            return Err(unexpected(action, "as many values as keys"));
        }
        let mut values = values.into_iter();
        let meta =
            bytes_of(action, values.next().unwrap_or(Value::Nil))?.ok_or_else(|| lost(action, EMPTIED))?;
        let meta = Meta::parse(&meta).ok_or_else(|| foreign(action))?;
        if meta.identity != taken.identity {
            return Err(lost(action, MADE_ANEW));
        }
        if number_of(bytes_of(action, values.next().unwrap_or(Value::Nil))?) < floor {
            return Err(lost(action, EARLIER));
        }
        let mut found = Vec::with_capacity(keys.len());
        for ((place, _), value) in keys.iter().zip(values) {
            let Some(bytes) = bytes_of(action, value)? else {
                found.push((*place, None));
                continue;
            };
            let broken = |why: String| corrupt(action, format!("view `{}`: {why}", view.id));
            let (version, positions, state) =
                split_row(&bytes).ok_or_else(|| broken("the row's head is damaged".to_owned()))?;
            let state = view.plan.decode(state).map_err(|error| broken(error.to_string()))?;
            found.push((*place, Some(SharedRow { version, positions, state })));
        }
        Ok(found)
    }

    /// The meta key, the worker's number, and rows.
    async fn read_keys(
        &self,
        action: &'static str,
        taken: &Taken,
        shard: u32,
        view: &ViewHandle,
        keys: &[(usize, &EntityKey)],
    ) -> Result<Vec<Value>, StoreError> {
        let rows = Layout::shared_rows_of(&view.id, view.generation);
        let mut command = Cmd::new();
        command.arg("MGET").arg(taken.layout.meta(shard)).arg(self.number_key(&taken.layout, shard));
        for (_, key) in keys {
            command.arg(taken.layout.row(shard, &rows, key));
        }
        match self.connections.call(action, Access::Write, &command).await? {
            Value::Array(values) => Ok(values),
            _ => Err(unexpected(action, "a list of values")),
        }
    }

    /// The same of rows that are fields. A row has a version, which says when it was another one: the numbers need to be looked at
    /// only once, after the rows.
    async fn read_fields(
        &self,
        action: &'static str,
        taken: &Taken,
        shard: u32,
        view: &ViewHandle,
        keys: &[(usize, &EntityKey)],
    ) -> Result<Vec<Value>, StoreError> {
        let rows = Layout::shared_rows_of(&view.id, view.generation);
        let field = Layout::field(&rows);
        let mut commands = Pipeline::with_capacity(keys.len() + 1);
        for (_, key) in keys {
            commands.cmd("HGET").arg(taken.layout.hash_of(shard, key)).arg(field);
        }
        commands.cmd("MGET").arg(taken.layout.meta(shard)).arg(self.number_key(&taken.layout, shard));
        let mut rows = self.connections.call_all(action, Access::Write, &commands).await?;
        let Some(Value::Array(mut values)) = rows.pop() else {
            return Err(unexpected(action, "a list of values"));
        };
        values.extend(rows);
        Ok(values)
    }

    async fn read_rows(
        &self,
        view: &ViewHandle,
        keys: &[EntityKey],
    ) -> Result<Vec<Option<SharedRow>>, StoreError> {
        let taken = self.taken();
        let mut by_shard: BTreeMap<u32, Vec<(usize, &EntityKey)>> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            by_shard.entry(taken.layout.shard_of(key)).or_default().push((place, key));
        }
        let chunks =
            by_shard.iter().flat_map(|(shard, keys)| keys.chunks(READ_KEYS_MAX).map(move |k| (*shard, k)));
        let found =
            try_join_all(chunks.map(|(shard, keys)| self.read_chunk(&taken, shard, view, keys))).await?;
        let mut rows: Vec<Option<SharedRow>> = Vec::new();
        rows.resize_with(keys.len(), || None);
        for (place, row) in found.into_iter().flatten() {
            rows[place] = row;
        }
        Ok(rows)
    }

    async fn look_again(&self) -> Result<Builds, StoreError> {
        let taken = self.taken();
        // Every shard is written to first: a shard that loses what is read from now on loses that write too, and this worker
        // notices. It relies on rows that other workers wrote, also on those of one that is dead by now.
        try_join_all((0..taken.layout.shards).map(|shard| self.commit_shard(&taken, shard, &[], &[])))
            .await?;
        let builds = self.read_positions(&taken.layout).await?;
        // Nothing was exchanged meanwhile.
        try_join_all((0..taken.layout.shards).map(|shard| self.commit_shard(&taken, shard, &[], &[])))
            .await?;
        Ok(builds)
    }

    /// A call that begins with the worker's fence.
    fn fenced(&self, taken: &Taken, shard: u32) -> Call {
        let mut call = Call::default();
        call.key(taken.layout.meta(shard))
            .key(self.number_key(&taken.layout, shard))
            .key(taken.layout.hash(shard, "builds"))
            .arg(taken.identity.as_str())
            .arg(taken.floors[shard as usize].load(Ordering::Acquire).to_string())
            .arg(WORKER_LASTS_S.to_string());
        call
    }

    fn verdict(
        &self,
        action: &'static str,
        taken: &Taken,
        shard: u32,
        said: Said,
    ) -> Result<Said, StoreError> {
        match &*said.word {
            "OK" => {
                taken.floors[shard as usize].fetch_max(said.number, Ordering::AcqRel);
                Ok(said)
            }
            "GONE" => Err(lost(action, "the build is no longer written")),
            "AHEAD" => Err(lost(action, "another worker has gone on with a partition that this one read")),
            "EMPTY" => Err(lost(action, EMPTIED)),
            "OTHER" => Err(lost(action, MADE_ANEW)),
            "EARLIER" => Err(lost(action, EARLIER)),
            _ => Err(unexpected(action, "our script's")),
        }
    }

    /// Replaces rows of one shard that fit one script; gives the new version of each.
    async fn replace_chunk(
        &self,
        taken: &Taken,
        shard: u32,
        fence: &[(String, Vec<Option<i64>>)],
        build: &str,
        chunk: Vec<RowCall>,
    ) -> Result<Vec<(usize, Option<u64>)>, StoreError> {
        let action = "replace rows of workers";
        let mut call = self.fenced(taken, shard);
        call.key(taken.layout.hash(shard, "positions")).arg(build);
        let staying = chunk.iter().filter(|row| !row.expires).count();
        call.arg(staying.to_string()).arg(fence.len().to_string());
        for (field, committed) in fence {
            let committed = committed.get(shard as usize).copied().flatten();
            call.arg(field.as_str()).arg(committed.map(|offset| offset.to_string()).unwrap_or_default());
        }
        let mut versions = Vec::with_capacity(chunk.len());
        for row in chunk {
            call.keys.extend(row.call.keys);
            call.args.extend(row.call.args);
            versions.push((row.place, Some(row.version)));
        }
        let script: &Script = match taken.layout.rows {
            RowLayout::View => &REPLACE_ROWS,
            RowLayout::Entity => &REPLACE_IN_HASHES,
        };
        let said = run(&self.connections, action, script, &call).await?;
        let said = self.verdict(action, taken, shard, said)?;
        let refused = std::str::from_utf8(&said.text).map_err(|_| unexpected(action, "our script's"))?;
        for number in refused.split_ascii_whitespace() {
            let number: usize = number.parse().map_err(|_| unexpected(action, "our script's"))?;
            versions.get_mut(number).ok_or_else(|| unexpected(action, "our script's"))?.1 = None;
        }
        Ok(versions)
    }

    async fn replace_rows(
        &self,
        view: &ViewHandle,
        fence: &[(i32, Vec<Option<i64>>)],
        rows: &[Replacement<'_>],
    ) -> Result<Vec<Option<u64>>, StoreError> {
        let taken = self.taken();
        let build = build(&view.id, view.generation);
        let field = |(partition, committed): &(i32, Vec<Option<i64>>)| {
            (format!("{build} {partition}"), committed.clone())
        };
        let fence: Vec<_> = fence.iter().map(field).collect();
        let names = Layout::shared_rows_of(&view.id, view.generation);
        let mut by_shard: BTreeMap<u32, Vec<RowCall>> = BTreeMap::new();
        for (place, row) in rows.iter().enumerate() {
            let shard = taken.layout.shard_of(row.key);
            let version = self.version.fetch_add(1, Ordering::Relaxed);
            let mut call = Call::default();
            let address = taken.layout.address(taken.layout.row(shard, &names, row.key));
            call.key(address.key);
            call.arg(row.before.map(|version| version.to_le_bytes().to_vec()).unwrap_or_default());
            if let Some(field) = address.field {
                call.arg(field);
            }
            call.arg(encode_row(version, row.positions, &view.plan, row.state));
            let expires = expiry(&self.settings, view, row.key);
            if expires > 0 {
                call.arg(expires.to_string());
            }
            by_shard.entry(shard).or_default().push(RowCall { place, version, call, expires: expires > 0 });
        }
        let mut scripts = Vec::new();
        for (shard, rows) in by_shard {
            let (mut chunk, mut bytes) = (Vec::new(), 0);
            for row in rows {
                let size: usize = row.call.keys.iter().chain(&row.call.args).map(Vec::len).sum();
                if chunk.len() >= self.settings.script_rows_max || bytes + size > SCRIPT_BYTES_MAX {
                    scripts.push((shard, std::mem::take(&mut chunk)));
                    bytes = 0;
                }
                bytes += size;
                chunk.push(row);
            }
            scripts.push((shard, chunk));
        }
        let scripts = scripts.into_iter().filter(|(_, chunk)| !chunk.is_empty()).map(|(shard, mut chunk)| {
            chunk.sort_by_key(|row| row.expires);
            self.replace_chunk(&taken, shard, &fence, &build, chunk)
        });
        let mut versions = vec![None; rows.len()];
        for (place, version) in try_join_all(scripts).await?.into_iter().flatten() {
            versions[place] = version;
        }
        Ok(versions)
    }

    async fn commit_shard(
        &self,
        taken: &Taken,
        shard: u32,
        fields: &[Field<'_>],
        notes: &[(String, String)],
    ) -> Result<(), StoreError> {
        let action = "commit what workers have done";
        let mut call = self.fenced(taken, shard);
        call.key(taken.layout.hash(shard, "positions"));
        call.key(taken.layout.hash(shard, "notes"));
        call.arg(fields.len().to_string());
        for (name, partition, offset) in fields {
            call.arg(name.as_bytes()).arg(partition.to_string()).arg(offset.to_string());
        }
        for (name, text) in notes {
            call.arg(name.as_str()).arg(text.as_str());
        }
        let said = run(&self.connections, action, &COMMIT_SHARED, &call).await?;
        self.verdict(action, taken, shard, said).map(drop)
    }

    async fn commit_all(
        &self,
        builds: &[(Arc<str>, Positions)],
        notes: &[(String, String)],
    ) -> Result<(), StoreError> {
        let taken = self.taken();
        let fields: Vec<Field<'_>> = builds
            .iter()
            .flat_map(|(name, positions)| positions.iter().map(move |(p, offset)| (&**name, *p, *offset)))
            .collect();
        let commit = |shard| self.commit_shard(&taken, shard, &fields, if shard == 0 { notes } else { &[] });
        // Shard 0 last: what it says of a build, all of them say.
        if !fields.is_empty() {
            try_join_all((1..taken.layout.shards).map(commit)).await?;
        }
        commit(0).await
    }
}

/// Build, partition, and how far it has come.
type Field<'a> = (&'a str, i32, i64);

fn number_of(bytes: Option<Vec<u8>>) -> u64 {
    bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok()).unwrap_or(0)
}

impl SharedRows for RedisShared {
    fn begin(&self) -> BoxFuture<'_, Result<Builds, StoreError>> {
        self.connections.within(self.take())
    }

    fn identity(&self) -> String {
        self.taken.read().identity.clone()
    }

    fn positions(&self) -> BoxFuture<'_, Result<Builds, StoreError>> {
        self.connections.within(self.look_again())
    }

    fn shard_of(&self, key: &EntityKey) -> usize {
        self.taken.read().layout.shard_of(key) as usize
    }

    fn read<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<Vec<Option<SharedRow>>, StoreError>> {
        self.connections.within(self.read_rows(view, keys))
    }

    fn replace<'a>(
        &'a self,
        view: &'a ViewHandle,
        fence: &'a [(i32, Vec<Option<i64>>)],
        rows: &'a [Replacement<'a>],
    ) -> BoxFuture<'a, Result<Vec<Option<u64>>, StoreError>> {
        self.connections.within(self.replace_rows(view, fence, rows))
    }

    fn notes<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<Option<String>>, StoreError>> {
        self.connections.within(async move {
            let action = "read what workers say";
            if names.is_empty() {
                return Ok(Vec::new());
            }
            let mut command = redis::cmd("HMGET");
            command.arg(self.taken().layout.hash(0, "notes")).arg(names);
            let answer = self.connections.call(action, Access::Write, &command).await?;
            let Value::Array(values) = answer else { return Err(unexpected(action, "a list of values")) };
            let text = |value| {
                let bytes = bytes_of(action, value)?;
                bytes
                    .map(|bytes| String::from_utf8(bytes).map_err(|_| unexpected(action, "text")))
                    .transpose()
            };
            values.into_iter().map(text).collect()
        })
    }

    fn commit<'a>(
        &'a self,
        builds: &'a [(Arc<str>, Positions)],
        notes: &'a [(String, String)],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.connections.within(self.commit_all(builds, notes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_row_is_read_whole_or_not_at_all() {
        let mut row = Vec::new();
        let positions = vec![(0, 7), (5, i64::MAX), (i32::MAX, 0)];
        let mut head = 3u16.to_le_bytes().to_vec();
        for (partition, offset) in &positions {
            head.extend_from_slice(&i32::to_le_bytes(*partition));
            head.extend_from_slice(&i64::to_le_bytes(*offset));
        }
        row.extend_from_slice(&42u64.to_le_bytes());
        row.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
        row.extend_from_slice(&head);
        let whole = row.len();
        row.extend_from_slice(b"state");
        assert_eq!(split_row(&row), Some((42, positions, &b"state"[..])));
        for end in 0..whole {
            assert_eq!(split_row(&row[..end]), None, "cut at {end}");
        }
        for byte in VERSION_BYTES..whole {
            let mut damaged = row.clone();
            damaged[byte] ^= 1;
            assert_eq!(split_row(&damaged), None, "byte {byte}");
        }
    }

    #[test]
    fn builds_and_positions_come_back() {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(a, b)| (a.as_bytes().to_vec(), b.as_bytes().to_vec())).collect::<Pairs>()
        };
        let positions =
            positions_of(pairs(&[("a@1/0 3", "7"), ("a@1/0 4", "8"), ("b@2/1 3", "9")])).expect("good");
        assert_eq!(positions["a@1/0"], Positions::from([(3, 7), (4, 8)]));
        assert_eq!(positions["b@2/1"], Positions::from([(3, 9)]));
        assert!(positions_of(pairs(&[("a@1/0", "7")])).is_err());
        let builds =
            builds_of(pairs(&[("a@1/0", r#"{"fingerprint":"00ff","start":{"3":7}}"#)])).expect("good");
        assert_eq!(builds["a@1/0"], Build { fingerprint: 255, start: Positions::from([(3, 7)]) });
        assert!(builds_of(pairs(&[("a@1/0", "{")])).is_err());
    }
}
