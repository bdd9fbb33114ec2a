//! The scripts that change the store. Each begins with the same check of who writes and what the store is; each is one
//! atomic step on one node.

use crate::connection::{Access, Connections};
use crate::error::{from_redis, unexpected};
use redis::{Cmd, ErrorKind, ServerErrorKind, Value};
use springhouse_online::StoreError;
use std::sync::LazyLock;

/// `KEYS[1]` is the meta key; `ARGV[1..3]` are identity, writer, and the number that the store must have reached.
const FENCE: &str = r"
local meta = redis.call('GET', KEYS[1])
if not meta then return {'EMPTY', 0} end
if string.sub(meta, 1, 32) ~= ARGV[1] then return {'OTHER', 0} end
local number = tonumber(string.sub(meta, 49, 64))
if string.sub(meta, 33, 48) ~= ARGV[2] then return {'FENCED', number} end
if number < tonumber(ARGV[3]) then return {'EARLIER', number} end
local function done()
  number = number + 1
  redis.call('SETRANGE', KEYS[1], 48, string.format('%016d', number))
  return {'OK', number}
end
";

/// Lets a write through once, and holds its plans against those that rows were written with. Keys: meta, lanes, plans.
/// Arguments: fence, lane, position, number of plans, pairs of build and fingerprint; what follows is at `after`.
const ADMIT: &str = r"
local reached = redis.call('HGET', KEYS[2], ARGV[4])
if reached and reached >= ARGV[5] then return {'SKIPPED', number} end
local after = 7 + 2 * tonumber(ARGV[6])
for i = 7, after - 1, 2 do
  local known = redis.call('HGET', KEYS[3], ARGV[i])
  if known and known ~= ARGV[i + 1] then return {'PLAN', number, ARGV[i]} end
end
for i = 7, after - 1, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
";

/// Where a row is a key: it has one argument, its value. `put` writes it, for ever or for some milliseconds; `version` is what a row of
/// workers begins with.
const BY_KEY: &str = r"
local width = 1
local function put(key, at, ms)
  if ms then redis.call('SET', key, ARGV[at], 'PX', ms) else redis.call('SET', key, ARGV[at]) end
end
local function version(key, at)
  return redis.call('GETRANGE', key, 0, 7)
end
";

/// Where a row is a field of a hash: it has two arguments, field and value.
const BY_FIELD: &str = r"
local width = 2
local function put(key, at, ms)
  redis.call('HSET', key, ARGV[at], ARGV[at + 1])
  lasts(key, ms)
end
local function version(key, at)
  return string.sub(redis.call('HGET', key, ARGV[at]) or '', 1, 8)
end
";

/// Rows: their keys from `KEYS[key]` on; from `ARGV[at]` on the number of rows that stay, their arguments, then those of the rows that
/// expire, each with its milliseconds.
const ROWS: &str = r"
local function rows(key, at)
  local expiring = key + tonumber(ARGV[at])
  at = at + 1
  for i = key, #KEYS do
    if i < expiring then
      put(KEYS[i], at)
      at = at + width
    else
      put(KEYS[i], at, ARGV[at + width])
      at = at + width + 1
    end
  end
end
";

/// A hash goes when all of its fields may: `lasts(KEY, MILLISECONDS)` after a field was set, without milliseconds for one that stays.
/// One that is there alone and has no end was made just now.
const LASTS: &str = r"
local function lasts(key, ms)
  if not ms then
    redis.call('PERSIST', key)
    return
  end
  local left = redis.call('PTTL', key)
  if left < tonumber(ms) and (left >= 0 or redis.call('HLEN', key) == 1) then redis.call('PEXPIRE', key, ms) end
end
";

/// Takes a shard for a writer; gives its meta key as it was. Keys: meta, the writer's token. Arguments: identity, state and shards of a store to be made (an
/// empty identity: it must be there); the writer's token; `close` to close it for readers (where its rows are stays as it is); the
/// tokens of which one must be there now (none: any).
const TAKE: &str = r"
local meta = redis.call('GET', KEYS[1])
if not meta then
  if ARGV[1] == '' then return {'EMPTY', ''} end
  redis.call('SET', KEYS[1], ARGV[1] .. ARGV[4] .. string.format('%016d', 0) .. ARGV[2] .. ARGV[3] .. string.format('%016d', 0))
  redis.call('SET', KEYS[2], ARGV[4])
  return {'NEW', redis.call('GET', KEYS[1])}
end
if string.len(meta) ~= 85 then return {'FOREIGN', meta} end
local now = string.sub(meta, 33, 48)
local allowed = #ARGV < 6
for i = 6, #ARGV do
  if ARGV[i] == now then allowed = true end
end
if not allowed then return {'FENCED', meta} end
redis.call('SETRANGE', KEYS[1], 32, ARGV[4])
redis.call('SET', KEYS[2], ARGV[4])
if ARGV[5] ~= '' then redis.call('SETRANGE', KEYS[1], 64, string.sub(meta, 65, 65) < 'a' and 'F' or 'f') end
return {'OLD', meta}
";

/// After [`ADMIT`]. Further keys: rows. Further arguments: rows.
const WRITE: &str = r"
rows(4, after)
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
return done()
";

/// After [`ADMIT`]: writes rows that are not there, in few calls and without a look at each; refuses when one is there. Further
/// arguments: the number of rows that stay and of those that expire; pairs of key and value of the former; keys, values and
/// milliseconds of the latter. For a single server: the rows' keys are not among `KEYS`.
const WRITE_NEW: &str = r"
local keep, expiring = tonumber(ARGV[after]), tonumber(ARGV[after + 1])
local at = after + 2 + 2 * keep
if expiring > 0 and redis.call('EXISTS', unpack(ARGV, at, at + expiring - 1)) > 0 then return {'THERE', number} end
if keep > 0 and redis.call('MSETNX', unpack(ARGV, after + 2, at - 1)) == 0 then return {'THERE', number} end
for i = at, at + expiring - 1 do
  redis.call('SET', ARGV[i], ARGV[i + expiring], 'PX', ARGV[i + 2 * expiring])
end
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
return done()
";

/// After [`ADMIT`]: rows that are not there may come in a transaction.
const ADMITTED: &str = r"
return {'OK', number}
";

/// Ends such a transaction. Keys: meta, lanes, the mark that was written with the rows. Arguments: fence, lane, position. The mark goes
/// first: a script that has written goes on also where the rows have filled the server's memory.
const MARK: &str = r"
if redis.call('DEL', KEYS[3]) == 0 then return {'THERE', 0} end
";
const ARRIVED: &str = r"
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
return done()
";

/// As [`WRITE_NEW`] with a hash per entity: after the two numbers come hash, field and value of each row, and milliseconds where it expires.
const NEW_FIELDS: &str = r"
local keep, expiring = tonumber(ARGV[after]), tonumber(ARGV[after + 1])
local first = after + 2
local at = first
for i = 1, keep + expiring do
  if redis.call('HSETNX', ARGV[at], ARGV[at + 1], ARGV[at + 2]) == 0 then
    -- Nothing was written: what was put there just now goes again.
    local back = first
    for j = 1, i - 1 do
      redis.call('HDEL', ARGV[back], ARGV[back + 1])
      if j <= keep then back = back + 3 else back = back + 4 end
    end
    return {'THERE', number}
  end
  if i <= keep then
    lasts(ARGV[at])
    at = at + 3
  else
    lasts(ARGV[at], ARGV[at + 3])
    at = at + 4
  end
end
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
return done()
";

/// After [`ADMIT`]. Further keys: intents, the intent's parts. Further argument: the intent's head.
const INTEND: &str = r"
redis.call('PERSIST', KEYS[5])
redis.call('HSET', KEYS[4], ARGV[4], ARGV[after])
return done()
";

/// Keys: meta, rows. Arguments: fence, stamp, rows.
const PART: &str = r"
redis.call('SETRANGE', KEYS[1], 69, ARGV[4])
rows(2, 5)
return done()
";

/// Keys: meta, lanes, intents, floors, the intent's parts. Arguments: fence, lane, position, then pairs of shard and number.
const COMMIT: &str = r"
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1]) end
redis.call('HDEL', KEYS[3], ARGV[4])
redis.call('UNLINK', KEYS[5])
return done()
";

/// Keys: meta, then what to delete. Arguments: fence.
const DELETE: &str = r"
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return done()
";

/// Keys: meta, hashes. Arguments: fence, the fields to delete in each.
const DELETE_FIELD: &str = r"
for i = 2, #KEYS do redis.call('HDEL', KEYS[i], unpack(ARGV, 4)) end
return done()
";

/// Keys: meta, a hash. Arguments: fence, fields to remove (their number first), then pairs to set.
const CHANGE: &str = r"
local count = tonumber(ARGV[4])
for i = 5, 4 + count do redis.call('HDEL', KEYS[2], ARGV[i]) end
for i = 5 + count, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
return done()
";

/// Keys: meta. Arguments: fence, the state.
const STATE: &str = r"
redis.call('SETRANGE', KEYS[1], 64, ARGV[4])
return done()
";

/// A worker's fence: `KEYS[1]` is the meta key, `KEYS[2]` how often the worker has written, `KEYS[3]` the builds; `ARGV[1..3]` are
/// identity, the number that must have been reached, and how long it is remembered.
const WORKER_FENCE: &str = r"
local meta = redis.call('GET', KEYS[1])
if not meta then return {'EMPTY', 0} end
if string.sub(meta, 1, 32) ~= ARGV[1] then return {'OTHER', 0} end
local number = tonumber(redis.call('GET', KEYS[2]) or '0')
if number < tonumber(ARGV[2]) then return {'EARLIER', number} end
local function done(text)
  number = number + 1
  redis.call('SET', KEYS[2], string.format('%d', number), 'EX', ARGV[3])
  return {'OK', number, text}
end
";

/// Further keys: positions, rows. Further arguments: the build, how many of the rows stay, how many partitions are looked at; for
/// each of these its field and what it must say (empty: nothing); for each row its version as it was read (empty: none) and its
/// arguments, and for those that expire the milliseconds. Says which rows were others.
const REPLACE: &str = r"
if redis.call('HEXISTS', KEYS[3], ARGV[4]) == 0 then return {'GONE', number, ''} end
local refused, at, keep = {}, 7, 4 + tonumber(ARGV[5])
for i = 1, tonumber(ARGV[6]) do
  if (redis.call('HGET', KEYS[4], ARGV[at]) or '') ~= ARGV[at + 1] then return {'AHEAD', number, ARGV[at]} end
  at = at + 2
end
for i = 5, #KEYS do
  local next = at + 1 + width
  if version(KEYS[i], at + 1) ~= ARGV[at] then
    refused[#refused + 1] = i - 5
  elseif i <= keep then
    put(KEYS[i], at + 1)
  else
    put(KEYS[i], at + 1, ARGV[next])
  end
  if i <= keep then at = next else at = next + 1 end
end
return done(table.concat(refused, ' '))
";

/// Further keys: positions, notes. Further arguments: how many positions, then for each build, partition and offset; then pairs
/// of notes.
const COMMIT_WORK: &str = r"
local at = 5
for i = 1, tonumber(ARGV[4]) do
  if redis.call('HEXISTS', KEYS[3], ARGV[at]) == 1 then
    local field = ARGV[at] .. ' ' .. ARGV[at + 1]
    local old = redis.call('HGET', KEYS[4], field)
    if not old or tonumber(old) < tonumber(ARGV[at + 2]) then redis.call('HSET', KEYS[4], field, ARGV[at + 2]) end
  end
  at = at + 3
end
for i = at, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[5], ARGV[i]) else redis.call('HSET', KEYS[5], ARGV[i], ARGV[i + 1]) end
end
return done('')
";

/// A script with its hash.
pub(crate) struct Script {
    text: String,
    hash: String,
}

fn script(parts: &[&str]) -> Script {
    let text = parts.concat();
    let hash = redis::Script::new(&text).get_hash().to_owned();
    Script { text, hash }
}

pub(crate) static TAKE_SHARD: LazyLock<Script> = LazyLock::new(|| script(&[TAKE]));
pub(crate) static WRITE_ROWS: LazyLock<Script> =
    LazyLock::new(|| script(&[FENCE, BY_KEY, ROWS, ADMIT, WRITE]));
pub(crate) static WRITE_NEW_ROWS: LazyLock<Script> = LazyLock::new(|| script(&[FENCE, ADMIT, WRITE_NEW]));
pub(crate) static READY: LazyLock<Script> = LazyLock::new(|| script(&[FENCE, ADMIT, ADMITTED]));
pub(crate) static FINISH_NEW: LazyLock<Script> = LazyLock::new(|| script(&[MARK, FENCE, ARRIVED]));
pub(crate) static WRITE_FIELDS: LazyLock<Script> =
    LazyLock::new(|| script(&[FENCE, LASTS, BY_FIELD, ROWS, ADMIT, WRITE]));
pub(crate) static WRITE_NEW_FIELDS: LazyLock<Script> =
    LazyLock::new(|| script(&[FENCE, LASTS, ADMIT, NEW_FIELDS]));
pub(crate) static WRITE_PART_FIELDS: LazyLock<Script> =
    LazyLock::new(|| script(&[FENCE, LASTS, BY_FIELD, ROWS, PART]));
pub(crate) static DELETE_FIELDS: LazyLock<Script> = LazyLock::new(|| script(&[FENCE, DELETE_FIELD]));
pub(crate) static STORE_INTENT: LazyLock<Script> = LazyLock::new(|| script(&[FENCE, ADMIT, INTEND]));
pub(crate) static WRITE_PART: LazyLock<Script> = LazyLock::new(|| script(&[FENCE, BY_KEY, ROWS, PART]));
pub(crate) static COMMIT_INTENT: LazyLock<Script> = LazyLock::new(|| script(&[FENCE, COMMIT]));
pub(crate) static DELETE_KEYS: LazyLock<Script> = LazyLock::new(|| script(&[FENCE, DELETE]));
pub(crate) static CHANGE_HASH: LazyLock<Script> = LazyLock::new(|| script(&[FENCE, CHANGE]));
pub(crate) static SET_STATE: LazyLock<Script> = LazyLock::new(|| script(&[FENCE, STATE]));

pub(crate) static REPLACE_ROWS: LazyLock<Script> = LazyLock::new(|| script(&[WORKER_FENCE, BY_KEY, REPLACE]));
pub(crate) static REPLACE_IN_HASHES: LazyLock<Script> =
    LazyLock::new(|| script(&[WORKER_FENCE, LASTS, BY_FIELD, REPLACE]));
pub(crate) static COMMIT_SHARED: LazyLock<Script> = LazyLock::new(|| script(&[WORKER_FENCE, COMMIT_WORK]));

/// Keys and arguments of one call.
#[derive(Default)]
pub(crate) struct Call {
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) args: Vec<Vec<u8>>,
}

impl Call {
    pub(crate) fn key(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.keys.push(key.into());
        self
    }

    pub(crate) fn arg(&mut self, arg: impl Into<Vec<u8>>) -> &mut Self {
        self.args.push(arg.into());
        self
    }

    /// With the script's text: in a transaction it is too late to learn that the server does not know it.
    pub(crate) fn whole(&self, script: &Script) -> Cmd {
        self.command("EVAL", &script.text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let bytes: usize = self.keys.iter().chain(&self.args).map(|part| part.len() + 16).sum();
        let mut command =
            Cmd::with_capacity(self.keys.len() + self.args.len() + 3, bytes + script.len() + 32);
        command.arg(name).arg(script).arg(self.keys.len());
        for part in self.keys.iter().chain(&self.args) {
            command.arg(part.as_slice());
        }
        command
    }
}

/// What a script says: a word, a number or text, perhaps more text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) word: String,
    pub(crate) number: u64,
    pub(crate) text: Vec<u8>,
}

/// Runs a script; the server is sent its text only when it does not know it.
pub(crate) async fn run(
    connections: &Connections,
    action: &'static str,
    script: &Script,
    call: &Call,
) -> Result<Said, StoreError> {
    let by_hash = call.command("EVALSHA", &script.hash);
    let answer = match connections.call_raw(action, Access::Write, &by_hash).await? {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            connections.call_raw(action, Access::Write, &call.whole(script)).await?
        }
        answer => answer,
    };
    Said::read(action, answer.map_err(|error| from_redis(action, &error))?)
}

impl Said {
    pub(crate) fn read(action: &'static str, answer: Value) -> Result<Self, StoreError> {
        let wrong = || unexpected(action, "our script's");
        let Value::Array(parts) = answer else { return Err(wrong()) };
        let mut parts = parts.into_iter();
        let Some(Value::BulkString(word)) = parts.next() else { return Err(wrong()) };
        let word = String::from_utf8(word).map_err(|_| wrong())?;
        let mut said = Self { word, number: 0, text: Vec::new() };
        for part in parts {
            match part {
                Value::Int(number) => said.number = u64::try_from(number).map_err(|_| wrong())?,
                Value::BulkString(text) => said.text = text,
                _ => return Err(wrong()),
            }
        }
        Ok(said)
    }
}
