//! Everything that changes the store. A process is one writer; one change at a time, but for new rows.

use crate::connection::Access;
use crate::error::{corrupt, failed, foreign, unavailable, unexpected};
use crate::intent::{Head, Part, Row};
use crate::layout::{IDENTITY_LEN, Layout, Meta, WRITER_LEN, build, position_text};
use crate::scripts::{
    CHANGE_HASH, COMMIT_INTENT, Call, DELETE_FIELDS, DELETE_KEYS, SET_STATE, STORE_INTENT, Said, Script,
    TAKE_SHARD, WRITE_FIELDS, WRITE_PART, WRITE_PART_FIELDS, WRITE_ROWS, run,
};
use crate::settings::{RedisSettings, RowLayout};
use crate::store::{EARLIER, EMPTIED, Known, MADE_ANEW, RedisStore, bytes_of};
use futures::{StreamExt, TryStreamExt, stream};
use redis::Value;
use springhouse_core::key::{identity, spread};
use springhouse_core::{EntityKey, Micros};
use springhouse_kernel::EntityState;
use springhouse_online::{Lane, StoreError, StoreErrorKind, ViewHandle, Write};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::RwLockReadGuard;

/// Bytes of rows in one script; a larger write is carried out in parts.
pub(crate) const SCRIPT_BYTES_MAX: usize = 16 << 20;
/// Reads, and parts of a write, that are under way at once.
const PIPELINE: usize = 4;
/// Entities that one read of a write asks for.
const MERGE_KEYS: usize = 1_000;
/// How long the parts of an intent stay whose head was never stored, in seconds.
const UNFINISHED_INTENT_S: u64 = 3_600;
/// Rows that live longer than this are kept without an end: about ten years, in milliseconds.
const EXPIRY_MAX_MS: u64 = 315_360_000_000;

/// What a writer has to finish before it writes again.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    /// A script may still arrive at the server (its answer did not come, or nobody waited for it): the token must be
    /// changed first, so that it then does nothing. Set before a script is sent, or by [`Sent`], so that it holds when the
    /// caller goes away.
    is_in_doubt: AtomicBool,
    /// The token of an attempt to end the doubt that did not come through on every shard.
    next_writer: Option<String>,
    /// Intents that may be stored already.
    pending: Vec<Pending>,
}

impl Writing {
    fn is_in_doubt(&self) -> bool {
        self.is_in_doubt.load(Ordering::Acquire)
    }

    pub(crate) fn set_in_doubt(&self, is_in_doubt: bool) {
        self.is_in_doubt.store(is_in_doubt, Ordering::Release);
    }
}

/// Makes the rows of a view.
pub(crate) struct RowsOf<'a> {
    settings: &'a RedisSettings,
    layout: &'a Layout,
    view: &'a ViewHandle,
    names: String,
    /// Where a row is encoded: it is as long as the rows before need, and no row has to grow.
    encoded: Vec<u8>,
}

impl<'a> RowsOf<'a> {
    pub(crate) fn new(settings: &'a RedisSettings, layout: &'a Layout, view: &'a ViewHandle) -> Self {
        let names = Layout::rows_of(&view.id, view.generation);
        Self { settings, layout, view, names, encoded: Vec::new() }
    }

    pub(crate) fn row(&mut self, key: &EntityKey, state: &EntityState) -> Row {
        self.encoded.clear();
        self.view.plan.encode(state, &mut self.encoded);
        Row {
            key: self.layout.row(self.layout.shard_of(key), &self.names, key),
            value: self.encoded.clone(),
            expires: expiry(self.settings, self.view, key),
        }
    }
}

/// A write in parts.
#[derive(Debug)]
struct Pending {
    lane: Lane,
    plans: Vec<(String, String)>,
    parts: Vec<Part>,
}

/// A shard to be made.
#[derive(Clone, Copy)]
struct Make<'a> {
    identity: &'a str,
    state: &'a str,
}

/// How a shard is taken.
#[derive(Clone, Copy)]
struct Claim<'a> {
    writer: &'a str,
    /// Closes it for readers.
    close: bool,
    /// The writers' tokens of which one must be there; none: whoever it is.
    allowed: &'a [&'a str],
}

/// A shard's answer to being taken.
struct Taken {
    was_new: bool,
    meta: Meta,
}

impl RedisStore {
    /// Becomes the writer of what is there, and completes what the writer before left half done. A store that is not there
    /// is made, closed for readers when it was filled before; one that is there is closed when `close` says so. True when it
    /// was closed already.
    pub(crate) async fn take(
        &self,
        writing: &mut Writing,
        was_filled_before: bool,
        close: bool,
    ) -> Result<bool, StoreError> {
        let action = "open";
        *writing = Writing::default();
        let before = self.known();
        let layout = before.layout.clone();
        let writer = new_token(WRITER_LEN);
        let make = Make { identity: &new_token(IDENTITY_LEN), state: layout.state(was_filled_before) };
        let claim = Claim { writer: &writer, close, allowed: &[] };
        let first = self.take_shard(action, &layout, 0, Some(make), claim).await?;
        let Some(first) = first else { return Err(unexpected(action, "a shard that was made")) };
        self.set_was_new(first.was_new);
        // How many there are was decided when the store was made.
        let layout = layout.as_made(&first.meta);
        if layout.shards > 1 && !self.connections.is_cluster() {
            return Err(failed(
                StoreErrorKind::Invalid,
                action,
                "the rows were written for a Cluster; set `mode: cluster`, or give another `key_prefix`",
            ));
        }
        let identity = first.meta.identity.clone();
        let was_filling = first.meta.is_filling;
        let mut metas = vec![first.meta];
        let mut missing = None;
        for shard in 1..layout.shards {
            let state = layout.state(metas[0].is_filling);
            let make = (metas[0].is_filling || self.was_new()).then_some(Make { identity: &identity, state });
            let taken = self.take_shard(action, &layout, shard, make, claim).await?;
            let why = match taken {
                Some(taken) if taken.meta.identity == identity => {
                    metas.push(taken.meta);
                    continue;
                }
                Some(_) => "a node holds rows of an older store",
                None => "a node of the Cluster has been emptied",
            };
            missing.get_or_insert(why);
            metas.push(Meta { number: 0, stamp: 0, ..metas[0].clone() });
        }
        self.set_known(Known::new(identity, writer, layout.clone(), &metas));
        let why = match missing {
            Some(why) => Some(why),
            None => self.out_of_step(&before, &metas).await?,
        };
        match why {
            Some(why) => drop(self.lose(action, &self.known(), why)),
            None => self.complete_left_behind().await?,
        }
        Ok(was_filling)
    }

    /// Takes one shard; makes it when there is none and `make` says how. None when it is not there.
    async fn take_shard(
        &self,
        action: &'static str,
        layout: &Layout,
        shard: u32,
        make: Option<Make<'_>>,
        claim: Claim<'_>,
    ) -> Result<Option<Taken>, StoreError> {
        let mut call = Call::default();
        let make = make.unwrap_or(Make { identity: "", state: " " });
        call.key(layout.meta(shard))
            .key(layout.writer(shard))
            .arg(make.identity)
            .arg(make.state)
            .arg(format!("{:04}", layout.shards))
            .arg(claim.writer)
            .arg(if claim.close { "close" } else { "" });
        for token in claim.allowed {
            call.arg(*token);
        }
        let said = run(&self.connections, action, &TAKE_SHARD, &call).await?;
        let was_new = match &*said.word {
            "NEW" => true,
            "OLD" => false,
            "EMPTY" => return Ok(None),
            "FENCED" => return Err(fenced(action)),
            _ => return Err(foreign(action)),
        };
        let meta = Meta::parse(&said.text).ok_or_else(|| foreign(action))?;
        Ok(Some(Taken { was_new, meta }))
    }

    /// Says so when the shards of a Cluster are not from one moment: a failover has taken some of them back, and the lanes
    /// of shard 0 don't tell what all of them hold.
    async fn out_of_step(&self, before: &Known, metas: &[Meta]) -> Result<Option<&'static str>, StoreError> {
        const WHY: &str =
            "a node of the Cluster is at an earlier moment than the others (a failover lost writes)";
        if metas.len() == 1 {
            return Ok(None);
        }
        let was_taken_back = |(shard, meta): (usize, &Meta)| meta.number < before.floor(shard as u32);
        if before.identity == metas[0].identity && metas.iter().enumerate().any(was_taken_back) {
            return Ok(Some(WHY));
        }
        // What this process has not seen: what shard 0 noted of the others, and they of shard 0.
        let floors = self.control_hash("open", "floors").await?;
        let floor = |shard: usize| -> Option<u64> {
            std::str::from_utf8(floors.get(shard.to_string().as_bytes())?).ok()?.parse().ok()
        };
        let is_behind = |(shard, meta): (usize, &Meta)| floor(shard).is_some_and(|floor| meta.number < floor);
        let is_ahead = |meta: &Meta| meta.stamp > metas[0].number;
        let is_lost = metas.iter().enumerate().any(is_behind) || metas.iter().any(is_ahead);
        Ok(is_lost.then_some(WHY))
    }

    async fn complete_left_behind(&self) -> Result<(), StoreError> {
        let action = "complete a write";
        let damaged = || corrupt(action, "a stored write can't be read; run `springhouse rebuild`");
        for (lane, head) in self.control_hash(action, "intents").await? {
            let lane = String::from_utf8(lane).map_err(|_| damaged())?;
            let head = Head::parse(&head).ok_or_else(damaged)?;
            let mut parts = Vec::new();
            for index in 0..head.parts {
                let mut command = redis::cmd("HGET");
                command.arg(self.known().layout.intent(&lane)).arg(head.field(index));
                let bytes = bytes_of(action, self.connections.call(action, Access::Write, &command).await?)?;
                parts.push(Part::decode(&bytes.ok_or_else(damaged)?)?);
            }
            tracing::info!(lane, parts = parts.len(), "completing a write that was left half done");
            let lane = Lane { name: lane.into(), position: head.position };
            self.carry_out(&lane, &parts).await?;
        }
        Ok(())
    }

    pub(crate) async fn write_all(
        &self,
        mut writes: Vec<Write>,
        lane: Lane,
        now: Micros,
    ) -> Result<bool, StoreError> {
        let plans: Vec<(String, String)> = writes
            .iter()
            .map(|Write { view, .. }| {
                (build(&view.id, view.generation), format!("{:016x}", view.plan.fingerprint()))
            })
            .collect();
        if let Some(part) = self.as_new(&mut writes, &plans, now) {
            match self.write_new(&lane, &plans, part).await? {
                Some(was_written) => return Ok(was_written),
                None => self.with_rows.lock().extend(plans.iter().map(|(build, _)| build.clone())),
            }
        }
        let mut writing = self.writing.write().await;
        self.settle(&mut writing).await?;
        let known = self.known();
        let mut rows: BTreeMap<u32, Vec<Row>> = BTreeMap::new();
        for write in writes {
            self.merge(&known, &write.view, write.deltas, now, &mut rows).await?;
        }
        let mut parts: Vec<Part> = rows.into_iter().flat_map(|(shard, rows)| self.cut(shard, rows)).collect();
        if parts.iter().all(|part| part.shard == 0) && parts.len() <= 1 {
            let part = parts.pop().unwrap_or_default();
            writing.set_in_doubt(true);
            let mut call = self.with_lane(&known, &lane, &plans);
            add_rows(&mut call, &known.layout, part);
            let said = run(&self.connections, "write", by(&known, &WRITE_ROWS, &WRITE_FIELDS), &call).await;
            return self.judge(&mut writing, said, &known, 0).map(|said| said.word == "OK");
        }
        writing.pending.push(Pending { lane, plans, parts });
        self.finish_pending(&mut writing).await
    }

    /// The right to write beside others; whoever comes first after a doubt ends it.
    pub(crate) async fn beside_others(&self) -> Result<RwLockReadGuard<'_, Writing>, StoreError> {
        let writing = self.writing.read().await;
        if !writing.is_in_doubt() && writing.pending.is_empty() {
            self.check_not_lost("write")?;
            return Ok(writing);
        }
        drop(writing);
        let mut writing = self.writing.write().await;
        self.settle(&mut writing).await?;
        Ok(writing.downgrade())
    }

    /// Reads the rows that the deltas change, merges, and puts what they become with their shard.
    async fn merge(
        &self,
        known: &Known,
        view: &ViewHandle,
        deltas: Vec<(EntityKey, EntityState)>,
        now: Micros,
        rows: &mut BTreeMap<u32, Vec<Row>>,
    ) -> Result<(), StoreError> {
        let keys: Vec<EntityKey> = deltas.iter().map(|(key, _)| key.clone()).collect();
        let mut reads = Vec::new();
        for keys in keys.chunks(MERGE_KEYS) {
            reads.push(self.read_rows("write", view, keys, true));
        }
        let mut answers = stream::iter(reads).buffered(PIPELINE);
        let mut deltas = deltas.into_iter();
        let mut of_view = RowsOf::new(&self.settings, &known.layout, view);
        while let Some(states) = answers.try_next().await? {
            for state in states {
                let Some((key, delta)) = deltas.next() else { break };
                let mut merged = match state {
                    Some(state) => {
                        let mut state = Arc::unwrap_or_clone(state);
                        view.plan.merge(&mut state, &delta);
                        state
                    }
                    None => delta,
                };
                view.plan.compact(&mut merged, now);
                let row = of_view.row(&key, &merged);
                rows.entry(known.layout.shard_of(&key)).or_default().push(row);
            }
        }
        Ok(())
    }

    /// Cuts the rows of a shard into what one script may write; in each, rows that stay come first.
    pub(crate) fn cut(&self, shard: u32, rows: Vec<Row>) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut part = Part { shard, rows: Vec::new() };
        let mut bytes = 0;
        for row in rows {
            let size = row.key.len() + row.value.len();
            let is_full = part.rows.len() >= self.settings.script_rows_max || bytes + size > SCRIPT_BYTES_MAX;
            if is_full && !part.rows.is_empty() {
                parts.push(std::mem::replace(&mut part, Part { shard, rows: Vec::new() }));
                bytes = 0;
            }
            bytes += size;
            part.rows.push(row);
        }
        if !part.rows.is_empty() {
            parts.push(part);
        }
        for part in &mut parts {
            part.rows.sort_by_key(|row| row.expires > 0);
        }
        parts
    }

    pub(crate) fn with_lane(&self, known: &Known, lane: &Lane, plans: &[(String, String)]) -> Call {
        let mut call = self.fenced(known, 0);
        call.key(known.layout.control("lanes")).key(known.layout.control("plans"));
        add_lane(&mut call, lane);
        add_plans(&mut call, plans);
        call
    }

    /// Makes sure that nothing of an earlier write is still to come, or half done.
    async fn settle(&self, writing: &mut Writing) -> Result<(), StoreError> {
        self.check_not_lost("write")?;
        if writing.is_in_doubt() {
            self.change_token(writing).await?;
        }
        if !writing.pending.is_empty() {
            self.finish_pending(writing).await?;
        }
        Ok(())
    }

    /// Takes a new token, so that what was sent with the old one and arrives late does nothing.
    async fn change_token(&self, writing: &mut Writing) -> Result<(), StoreError> {
        let action = "write";
        let known = self.known();
        let writer = writing.next_writer.get_or_insert_with(|| new_token(WRITER_LEN)).clone();
        let mut metas = Vec::new();
        for shard in 0..known.layout.shards {
            let floor = known.floor(shard);
            let allowed = [known.writer.as_str(), writer.as_str()];
            let claim = Claim { writer: &writer, close: false, allowed: &allowed };
            let taken = self.take_shard(action, &known.layout, shard, None, claim).await?;
            let meta = taken.map(|taken| taken.meta);
            metas.push(self.check_known(action, &known, floor, meta)?);
        }
        self.set_known(Known::new(known.identity.clone(), writer, known.layout.clone(), &metas));
        writing.next_writer = None;
        writing.set_in_doubt(false);
        Ok(())
    }

    /// Stores, carries out and commits the intents that are waiting. True when the last was carried out now.
    async fn finish_pending(&self, writing: &mut Writing) -> Result<bool, StoreError> {
        let mut was_written = false;
        while let Some(pending) = writing.pending.first() {
            writing.set_in_doubt(true);
            let known = self.known();
            let said = self.store_intent(&known, pending).await;
            was_written = match said.and_then(|said| self.verdict("write", &known, 0, said)) {
                Ok(said) if said.word == "SKIPPED" => false,
                Ok(_) => {
                    self.carry_out(&pending.lane, &pending.parts).await?;
                    true
                }
                Err(error) => {
                    if error.kind != StoreErrorKind::Unavailable {
                        // Refused before anything was changed.
                        writing.pending.remove(0);
                        writing.set_in_doubt(false);
                    }
                    return Err(error);
                }
            };
            writing.pending.remove(0);
            writing.set_in_doubt(false);
        }
        Ok(was_written)
    }

    async fn store_intent(&self, known: &Known, pending: &Pending) -> Result<Said, StoreError> {
        let action = "write";
        let head = Head {
            position: pending.lane.position,
            writer: known.writer.clone(),
            parts: pending.parts.len(),
        };
        let key = known.layout.intent(&pending.lane.name);
        for (index, part) in pending.parts.iter().enumerate() {
            let mut command = redis::cmd("HSET");
            command.arg(&key).arg(head.field(index)).arg(part.encode());
            self.connections.call(action, Access::Write, &command).await?;
            if index == 0 {
                // Until the head is there, nobody would find the parts of a writer that died.
                let mut command = redis::cmd("EXPIRE");
                command.arg(&key).arg(UNFINISHED_INTENT_S);
                self.connections.call(action, Access::Write, &command).await?;
            }
        }
        let mut call = self.fenced(known, 0);
        call.key(known.layout.control("lanes"))
            .key(known.layout.control("plans"))
            .key(known.layout.control("intents"))
            .key(known.layout.intent(&pending.lane.name));
        add_lane(&mut call, &pending.lane);
        add_plans(&mut call, &pending.plans);
        call.arg(head.text());
        run(&self.connections, action, &STORE_INTENT, &call).await
    }

    /// Writes the parts of a stored intent and sets its lane.
    async fn carry_out(&self, lane: &Lane, parts: &[Part]) -> Result<(), StoreError> {
        let action = "write";
        let known = self.known();
        let stamp = known.floor(0);
        let mut writes = Vec::with_capacity(parts.len());
        for part in parts {
            writes.push(self.write_part(&known, stamp, part));
        }
        let written: Vec<(u32, u64)> = stream::iter(writes).buffer_unordered(PIPELINE).try_collect().await?;
        let mut numbers: BTreeMap<u32, u64> = BTreeMap::new();
        for (shard, number) in written {
            let reached = numbers.entry(shard).or_default();
            *reached = number.max(*reached);
        }
        let mut call = self.fenced(&known, 0);
        call.key(known.layout.control("lanes"))
            .key(known.layout.control("intents"))
            .key(known.layout.control("floors"))
            .key(known.layout.intent(&lane.name));
        add_lane(&mut call, lane);
        for (shard, number) in numbers.iter().filter(|(shard, _)| **shard != 0) {
            call.arg(shard.to_string()).arg(number.to_string());
        }
        let said = run(&self.connections, action, &COMMIT_INTENT, &call).await?;
        self.verdict(action, &known, 0, said)?;
        Ok(())
    }

    /// Writes one part of an intent; gives its shard and the number that the shard has then.
    async fn write_part(&self, known: &Known, stamp: u64, part: &Part) -> Result<(u32, u64), StoreError> {
        let mut call = self.fenced(known, part.shard);
        call.arg(format!("{stamp:016}"));
        add_rows(&mut call, &known.layout, part.clone());
        let script = by(known, &WRITE_PART, &WRITE_PART_FIELDS);
        let said = run(&self.connections, "write", script, &call).await?;
        self.verdict("write", known, part.shard, said).map(|said| (part.shard, said.number))
    }

    /// Changes fields of a hash of shard 0.
    pub(crate) async fn change(
        &self,
        action: &'static str,
        hash: &str,
        removed: &[&str],
        set: &[(&str, &str)],
    ) -> Result<(), StoreError> {
        self.change_in(action, 0, hash, removed, set).await
    }

    /// Changes fields of a hash of any shard.
    pub(crate) async fn change_in(
        &self,
        action: &'static str,
        shard: u32,
        hash: &str,
        removed: &[&str],
        set: &[(&str, &str)],
    ) -> Result<(), StoreError> {
        let mut writing = self.writing.write().await;
        self.settle(&mut writing).await?;
        let known = self.known();
        let mut call = self.fenced(&known, shard);
        call.key(known.layout.hash(shard, hash)).arg(removed.len().to_string());
        for field in removed {
            call.arg(*field);
        }
        for (field, value) in set {
            call.arg(*field).arg(*value);
        }
        writing.set_in_doubt(true);
        let said = run(&self.connections, action, &CHANGE_HASH, &call).await;
        self.judge(&mut writing, said, &known, shard).map(drop)
    }

    /// Deletes the rows of a generation, those of workers too.
    pub(crate) async fn delete_rows(
        &self,
        action: &'static str,
        view_id: &str,
        generation: u32,
    ) -> Result<(), StoreError> {
        let mut writing = self.writing.write().await;
        self.settle(&mut writing).await?;
        let known = self.known();
        let pattern = match known.layout.rows {
            RowLayout::View => known.layout.every_row(view_id, generation),
            RowLayout::Entity => known.layout.every_hash(),
        };
        let mut scan = self.scan(action, pattern, usize::MAX).await?;
        // A deletion that arrives late must not remove what is written by then.
        writing.set_in_doubt(true);
        while let Some(found) = scan.next().await? {
            let mut by_shard: BTreeMap<u32, Call> = BTreeMap::new();
            for name in found {
                if let Some(shard) = known.layout.shard_in(&name) {
                    by_shard.entry(shard).or_insert_with(|| self.fenced(&known, shard)).key(name);
                }
            }
            for (shard, mut call) in by_shard {
                if known.layout.rows == RowLayout::Entity {
                    for rows in
                        [Layout::rows_of(view_id, generation), Layout::shared_rows_of(view_id, generation)]
                    {
                        call.arg(Layout::field(&rows));
                    }
                }
                let script = by(&known, &DELETE_KEYS, &DELETE_FIELDS);
                let said = run(&self.connections, action, script, &call).await?;
                self.verdict(action, &known, shard, said)?;
            }
        }
        writing.set_in_doubt(false);
        Ok(())
    }

    /// Removes everything and makes the store anew, closed for readers.
    pub(crate) async fn make_anew(&self) -> Result<(), StoreError> {
        let action = "empty the store";
        let mut writing = self.writing.write().await;
        *writing = Writing::default();
        self.with_rows.lock().clear();
        let layout = self.known().layout.clone();
        let mut scan = self.scan(action, layout.every_key(), usize::MAX).await?;
        while let Some(found) = scan.next().await? {
            let mut by_shard: BTreeMap<Option<u32>, redis::Cmd> = BTreeMap::new();
            for name in found {
                let shard = layout.shard_in(&name);
                by_shard.entry(shard).or_insert_with(|| redis::cmd("UNLINK")).arg(name);
            }
            for command in by_shard.values() {
                self.connections.call(action, Access::Write, command).await?;
            }
        }
        let (identity, writer) = (new_token(IDENTITY_LEN), new_token(WRITER_LEN));
        let mut metas = Vec::new();
        for shard in 0..layout.shards {
            let make = Some(Make { identity: &identity, state: layout.state(true) });
            let claim = Claim { writer: &writer, close: true, allowed: &[] };
            let taken = self.take_shard(action, &layout, shard, make, claim).await?;
            let taken = taken
                .filter(|taken| taken.was_new)
                .ok_or_else(|| unavailable(action, "another process makes the store anew at this moment"))?;
            metas.push(taken.meta);
        }
        self.set_known(Known::new(identity, writer, layout, &metas));
        Ok(())
    }

    /// Ends the filling: readers may read.
    pub(crate) async fn open_for_readers(&self) -> Result<(), StoreError> {
        let action = "open the store for readers";
        let mut writing = self.writing.write().await;
        self.settle(&mut writing).await?;
        let known = self.known();
        for shard in (0..known.layout.shards).rev() {
            let mut call = self.fenced(&known, shard);
            call.arg(known.layout.state(false));
            writing.set_in_doubt(true);
            let said = run(&self.connections, action, &SET_STATE, &call).await;
            self.judge(&mut writing, said, &known, shard)?;
        }
        Ok(())
    }

    /// Waits until as many replicas as `wait_replicas` asks for have everything written before.
    pub(crate) async fn wait_for_replicas(&self, action: &'static str) -> Result<(), StoreError> {
        self.check_not_lost(action)?;
        let wanted = self.settings.wait_replicas;
        if wanted == 0 {
            return Ok(());
        }
        // The server waits for what the asking connection has written. New rows went on others, so it writes last.
        if !self.connections.is_cluster() {
            self.change(action, "lanes", &[], &[]).await?;
        }
        let mut command = redis::cmd("WAIT");
        command.arg(wanted).arg(self.settings.write_timeout_ms / 2);
        let answers = if self.connections.is_cluster() {
            self.connections.call_primaries(action, command).await?
        } else {
            vec![self.connections.call(action, Access::Write, &command).await?]
        };
        for answer in answers {
            let Value::Int(confirmed) = answer else {
                return Err(unexpected(action, "a number of replicas"));
            };
            if confirmed < i64::from(wanted) {
                return Err(unavailable(
                    action,
                    format!("only {confirmed} of {wanted} replicas have confirmed (`wait_replicas`)"),
                ));
            }
        }
        Ok(())
    }

    /// A call that begins with the fence of a shard.
    pub(crate) fn fenced(&self, known: &Known, shard: u32) -> Call {
        let mut call = Call::default();
        call.key(known.layout.meta(shard))
            .arg(known.identity.as_str())
            .arg(known.writer.as_str())
            .arg(known.floor(shard).to_string());
        call
    }

    /// Says what a script's answer means; an answer, whatever it says, ends the doubt.
    fn judge(
        &self,
        writing: &mut Writing,
        said: Result<Said, StoreError>,
        known: &Known,
        shard: u32,
    ) -> Result<Said, StoreError> {
        let said = match said {
            Ok(said) => said,
            Err(error) => {
                writing.set_in_doubt(error.kind == StoreErrorKind::Unavailable);
                return Err(error);
            }
        };
        writing.set_in_doubt(false);
        self.verdict("write", known, shard, said)
    }

    pub(crate) fn verdict(
        &self,
        action: &'static str,
        known: &Known,
        shard: u32,
        said: Said,
    ) -> Result<Said, StoreError> {
        match &*said.word {
            "OK" | "SKIPPED" | "THERE" => {
                known.confirm(shard, said.number);
                Ok(said)
            }
            "EMPTY" => Err(self.lose(action, known, EMPTIED)),
            "OTHER" => Err(self.lose(action, known, MADE_ANEW)),
            "EARLIER" => Err(self.lose(action, known, EARLIER)),
            "FENCED" => Err(fenced(action)),
            "PLAN" => Err(corrupt(
                action,
                format!(
                    "the rows of `{}` were written with another meaning; fill the next generation",
                    String::from_utf8_lossy(&said.text)
                ),
            )),
            _ => Err(unexpected(action, "our script's")),
        }
    }
}

/// Milliseconds from now after which a row that was not written again may go; 0 = never. Spread by key, so that rows
/// written together don't expire together.
pub(crate) fn expiry(settings: &RedisSettings, view: &ViewHandle, key: &EntityKey) -> u64 {
    let grace = settings.expiry_grace_s.saturating_mul(1_000);
    let Some(lifetime) = view.plan.row_lifetime().filter(|_| grace > 0) else { return 0 };
    let lifetime = u64::try_from(lifetime / 1_000).unwrap_or(0);
    let jitter = spread(identity(key.as_bytes())) % (grace / 10).max(1);
    let total = lifetime.saturating_add(grace).saturating_add(jitter);
    if total > EXPIRY_MAX_MS { 0 } else { total }
}

fn fenced(action: &'static str) -> StoreError {
    failed(
        StoreErrorKind::Locked,
        action,
        "another process has opened the store for writing since; stop one of the two (each project needs its own `key_prefix`)",
    )
}

pub(crate) fn add_lane(call: &mut Call, lane: &Lane) {
    call.arg(lane.name.as_bytes()).arg(position_text(lane.position));
}

fn add_plans(call: &mut Call, plans: &[(String, String)]) {
    call.arg(plans.len().to_string());
    for (build, fingerprint) in plans {
        call.arg(build.as_str()).arg(fingerprint.as_str());
    }
}

/// The script for where the rows are.
pub(crate) fn by<'a>(known: &Known, keys: &'a Script, fields: &'a Script) -> &'a Script {
    match known.layout.rows {
        RowLayout::View => keys,
        RowLayout::Entity => fields,
    }
}

/// Rows that stay come first, see [`RedisStore::cut`].
fn add_rows(call: &mut Call, layout: &Layout, part: Part) {
    let staying = part.rows.iter().take_while(|row| row.expires == 0).count();
    call.arg(staying.to_string());
    for row in part.rows {
        let address = layout.address(row.key);
        call.key(address.key);
        if let Some(field) = address.field {
            call.arg(field);
        }
        call.arg(row.value);
        if row.expires > 0 {
            call.arg(row.expires.to_string());
        }
    }
}

/// Random letters, 16 to 32.
pub(crate) fn new_token(length: usize) -> String {
    // The seeds come from the operating system.
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())[..length].to_owned()
}
