//! Rows that are not there yet, as a materialisation brings them: not read first, and several writes under way at once.
//!
//! On a server of its own they go in a transaction (`WATCH`, `MSETNX`, `EXEC`): arguments of a script are made into Lua's
//! strings and back, which costs the server as much as all the rest. `MSETNX` writes all or nothing, a mark among the rows
//! tells the script at the end which of the two it was, and the watched key changes when somebody else becomes the writer.
//! Elsewhere one script does the same.

use crate::error::{ends_connection, from_redis, unexpected};
use crate::intent::Part;
use crate::layout::{Layout, WRITER_LEN};
use crate::scripts::{Call, FINISH_NEW, READY, Said, WRITE_NEW_FIELDS, WRITE_NEW_ROWS, run};
use crate::settings::RowLayout;
use crate::store::{Known, RedisStore};
use crate::writer::{RowsOf, Writing, add_lane, by, new_token};
use redis::{Cmd, ErrorKind, Pipeline, ServerErrorKind, Value};
use springhouse_core::Micros;
use springhouse_online::{Lane, StoreError, StoreErrorKind, Write};
use std::sync::atomic::Ordering;

/// Rows that are written as new ones in one script at most. Larger scripts leave the server's cache; their keys and values
/// together must fit Lua's stack (8,000).
pub(crate) const NEW_ROWS_MAX: usize = 500;

/// A script on its way beside others; leaves a doubt when its answer does not come, or nobody waits for it.
struct Sent<'a> {
    writing: &'a Writing,
    is_answered: bool,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.writing.set_in_doubt(true);
        }
    }
}

impl RedisStore {
    /// The rows of a write as they are when none of them is there yet, which saves reading them. None when a row of its views
    /// has been met, or when it does not fit one script.
    pub(crate) fn as_new(
        &self,
        writes: &mut [Write],
        plans: &[(String, String)],
        now: Micros,
    ) -> Option<Part> {
        let count: usize = writes.iter().map(|write| write.deltas.len()).sum();
        let layout = &self.known().layout;
        if count == 0 || count > self.settings.script_rows_max.min(NEW_ROWS_MAX) || layout.shards > 1 {
            return None;
        }
        {
            let with_rows = self.with_rows.lock();
            if plans.iter().any(|(build, _)| with_rows.contains(build)) {
                return None;
            }
        }
        let mut rows = Vec::with_capacity(count);
        for Write { view, deltas } in writes {
            let mut of_view = RowsOf::new(&self.settings, layout, view);
            for (key, state) in deltas {
                // What no read will see can go before the states are merged, if that it comes to, as well as after.
                view.plan.compact(state, now);
                rows.push(of_view.row(key, state));
            }
        }
        let mut parts = self.cut(0, rows);
        if parts.len() == 1 { parts.pop() } else { None }
    }

    /// Writes rows that are to be new, beside other writes of new rows: while the server carries out one the next is made and
    /// sent. None when a row is there; then nothing was written.
    pub(crate) async fn write_new(
        &self,
        lane: &Lane,
        plans: &[(String, String)],
        part: Part,
    ) -> Result<Option<bool>, StoreError> {
        let writing = self.beside_others().await?;
        let known = self.known();
        let mut sent = Sent { writing: &writing, is_answered: false };
        let said = match self.transact(&known, lane, plans, &part).await {
            Ok(None) => {
                let mut call = self.with_lane(&known, lane, plans);
                add_new_rows(&mut call, &known.layout, part);
                run(&self.connections, "write", by(&known, &WRITE_NEW_ROWS, &WRITE_NEW_FIELDS), &call).await
            }
            Ok(Some(said)) => Ok(said),
            Err(error) => Err(error),
        };
        sent.is_answered = !matches!(&said, Err(error) if error.kind == StoreErrorKind::Unavailable);
        match &*self.verdict("write", &known, 0, said?)?.word {
            "OK" => Ok(Some(true)),
            "SKIPPED" => Ok(Some(false)),
            _ => Ok(None),
        }
    }

    /// The same in a transaction. None where there can't be one, or where somebody took the store in the middle of it: nothing
    /// was written, and the script says what there is to say.
    async fn transact(
        &self,
        known: &Known,
        lane: &Lane,
        plans: &[(String, String)],
        part: &Part,
    ) -> Result<Option<Said>, StoreError> {
        let action = "write";
        let is_refused = self.transactions_refused.load(Ordering::Relaxed);
        if is_refused || known.layout.rows != RowLayout::View || self.connections.is_cluster() {
            return Ok(None);
        }
        let mut line = self.connections.own_line(action).await?;
        let mut first = Pipeline::with_capacity(2);
        first.cmd("WATCH").arg(known.layout.writer(0));
        first.add_command(self.with_lane(known, lane, plans).whole(&READY));
        let mut answers = line.run_all(action, &first).await?;
        if line.was_idle && answers.as_ref().is_err_and(ends_connection) {
            // It broke while nobody used it.
            drop(line);
            line = self.connections.own_line(action).await?;
            answers = line.run_all(action, &first).await?;
        }
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {
                tracing::info!(
                    "history is loaded by scripts, which takes the server longer: the user lacks `+@transaction`"
                );
                self.transactions_refused.store(true, Ordering::Relaxed);
                return Ok(None);
            }
            Err(error) => return Err(from_redis(action, &error)),
        };
        let said = Said::read(action, answers.into_iter().nth(1).unwrap_or(Value::Nil))?;
        if said.word != "OK" {
            // What it watches still is given up by the next transaction there.
            line.give_back();
            return Ok(Some(said));
        }
        let answers = line.run_all(action, &self.transaction(known, lane, part)).await?;
        let answers = answers.map_err(|error| from_redis(action, &error))?;
        line.give_back();
        match answers.into_iter().next_back() {
            Some(Value::Nil) => Ok(None),
            Some(Value::Array(done)) => {
                let last = done.into_iter().next_back().unwrap_or(Value::Nil);
                let last = last.extract_error().map_err(|error| from_redis(action, &error))?;
                Said::read(action, last).map(Some)
            }
            _ => Err(unexpected(action, "a transaction's")),
        }
    }

    fn transaction(&self, known: &Known, lane: &Lane, part: &Part) -> Pipeline {
        let mark = known.layout.control(&format!("n/{}", new_token(WRITER_LEN)));
        let expiring: Vec<_> = part.rows.iter().filter(|row| row.expires > 0).collect();
        let mut commands = Pipeline::with_capacity(4 + expiring.len());
        commands.cmd("MULTI");
        let bytes: usize = part.rows.iter().map(|row| row.key.len() + row.value.len()).sum();
        let mut set = Cmd::with_capacity(2 * part.rows.len() + 3, bytes + mark.len() + 16);
        set.arg("MSETNX").arg(&mark).arg("");
        for row in &part.rows {
            set.arg(row.key.as_slice()).arg(row.value.as_slice());
        }
        commands.add_command(set);
        // Where a row was there already, it is written again at once, with an end of its own.
        for row in expiring {
            commands.cmd("PEXPIRE").arg(row.key.as_slice()).arg(row.expires);
        }
        let mut call = self.fenced(known, 0);
        call.key(known.layout.control("lanes")).key(mark);
        add_lane(&mut call, lane);
        commands.add_command(call.whole(&FINISH_NEW));
        commands.cmd("EXEC");
        commands
    }
}

/// As [`WRITE_NEW_ROWS`] takes them.
fn add_new_rows(call: &mut Call, layout: &Layout, part: Part) {
    let staying = part.rows.iter().take_while(|row| row.expires == 0).count();
    call.arg(staying.to_string()).arg((part.rows.len() - staying).to_string());
    if layout.rows == RowLayout::Entity {
        for row in part.rows {
            let address = layout.address(row.key);
            call.arg(address.key).arg(address.field.unwrap_or_default()).arg(row.value);
            if row.expires > 0 {
                call.arg(row.expires.to_string());
            }
        }
        return;
    }
    let mut rows = part.rows.into_iter();
    for row in rows.by_ref().take(staying) {
        call.arg(row.key).arg(row.value);
    }
    let (mut values, mut lifetimes) = (Vec::new(), Vec::new());
    for row in rows {
        call.arg(row.key);
        values.push(row.value);
        lifetimes.push(row.expires.to_string());
    }
    for value in values {
        call.arg(value);
    }
    for lifetime in lifetimes {
        call.arg(lifetime);
    }
}
