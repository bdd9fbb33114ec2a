//! Tiles, lifetime states and raw events of one entity.
//!
//! Two facts carry the whole: an event is folded into tiles only when it became visible before the horizon, so every
//! tile is visible to every read at or after the horizon; and every window's tail falls between two tiles of its level
//! (or, with an exact tail, the raw events of the cut tile are there).

use super::{event_bytes, put_events, take_events};
use crate::CodecError;
use crate::aggregate::{Slot, State};
use crate::answer::EntityAnswer;
use crate::codec::{Out, Reader, put_number, put_signed};
use crate::plan::{Event, Level, Tiling, WindowReader, WindowsPlan, takes_back};
use crate::stamp::{WindowBounds, tile_start};
use springhouse_core::{Micros, Value};
use std::cmp::Ordering;
use std::collections::VecDeque;

/// What an entity keeps for its windows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WindowsState {
    /// Events that became visible at or after the horizon of the last write; by visible_at, then the order.
    pub(super) recent: VecDeque<Event>,
    /// Folded events that a window with an exact tail can still cut; in the order. Inputs it does not need are null.
    pub(super) exact: VecDeque<Event>,
    /// Tiles of each level, ascending.
    pub(super) levels: Vec<Vec<Tile>>,
}

/// The events of one stretch of time, as one state per slot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tile {
    /// The least event time it may hold.
    pub(super) start: Micros,
    /// One per slot of the level.
    pub(super) states: Box<[State]>,
}

/// By the moment of visibility, so that what is folded next comes first.
pub(super) fn by_visibility(a: &Event, b: &Event) -> Ordering {
    let key = |event: &Event| (event.stamp.visible_at(), event.stamp);
    key(a).cmp(&key(b)).then_with(|| a.values.cmp(&b.values))
}

fn by_order(a: &Event, b: &Event) -> Ordering {
    a.stamp.cmp(&b.stamp).then_with(|| a.values.cmp(&b.values))
}

pub(super) fn insert_sorted(
    events: &mut VecDeque<Event>,
    event: Event,
    order: fn(&Event, &Event) -> Ordering,
) {
    // New events are nearly always the greatest.
    if events.back().is_none_or(|last| order(last, &event).is_le()) {
        events.push_back(event);
        return;
    }
    let at = events.partition_point(|held| order(held, &event).is_le());
    events.insert(at, event);
}

pub(super) fn merge_sorted(
    events: &mut VecDeque<Event>,
    more: &VecDeque<Event>,
    order: fn(&Event, &Event) -> Ordering,
) {
    if more.len() * 8 < events.len() {
        more.iter().for_each(|event| insert_sorted(events, event.clone(), order));
        return;
    }
    events.extend(more.iter().cloned());
    // Two sorted runs: one pass.
    events.make_contiguous().sort_by(order);
}

impl Level {
    fn tile_start(&self, event_time: Micros) -> Micros {
        match self.tiling {
            Tiling::Lifetime => 0,
            Tiling::Stepped(width) | Tiling::Exact(width) => tile_start(event_time, width),
        }
    }

    /// The least start of a tile that a read at or after `horizon` can use.
    fn least_start(&self, horizon: Micros) -> Micros {
        match self.tiling {
            Tiling::Lifetime => Micros::MIN,
            // The longest window sees farthest back; its tail only moves forward.
            Tiling::Stepped(_) | Tiling::Exact(_) => self.longest.bounds(horizon).low,
        }
    }

    fn empty_tile(&self, start: Micros) -> Tile {
        Tile { start, states: self.slots.iter().map(Slot::empty).collect() }
    }

    /// Adds an event to its tile, unless no read can see that tile any more.
    fn fold(&self, tiles: &mut Vec<Tile>, event: &Event, takes_back: bool, least_start: Micros) {
        let start = self.tile_start(event.stamp.event_time);
        if start < least_start {
            return;
        }
        let mut place = None;
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(taken) = slot.taken(|input| &event.values[input]) else { continue };
            let at = *place.get_or_insert_with(|| self.place_of(tiles, start));
            slot.change(&mut tiles[at].states[index], &event.stamp, &taken, takes_back);
        }
    }

    /// The place of the tile at `start`, made if it is not there.
    fn place_of(&self, tiles: &mut Vec<Tile>, start: Micros) -> usize {
        if tiles.last().is_some_and(|last| last.start == start) {
            return tiles.len() - 1;
        }
        let at = tiles.partition_point(|tile| tile.start < start);
        if tiles.get(at).is_none_or(|tile| tile.start != start) {
            tiles.insert(at, self.empty_tile(start));
        }
        at
    }

    fn merge(&self, tiles: &mut Vec<Tile>, more: &[Tile]) {
        for tile in more {
            let at = tiles.partition_point(|held| held.start < tile.start);
            match tiles.get_mut(at) {
                Some(held) if held.start == tile.start => {
                    let states = held.states.iter_mut().zip(&tile.states);
                    self.slots.iter().zip(states).for_each(|(slot, (state, more))| slot.merge(state, more));
                }
                _ => tiles.insert(at, tile.clone()),
            }
        }
    }

    /// The start of the first tile that lies wholly at or after `low`.
    fn first_whole(&self, low: Micros) -> Micros {
        match self.tiling {
            Tiling::Lifetime => Micros::MIN,
            Tiling::Stepped(_) => low,
            Tiling::Exact(width) => match tile_start(low, width) {
                start if start == low => low,
                start => start.saturating_add(width),
            },
        }
    }
}

/// What a window covers, in three parts.
pub(super) struct Covered<'a> {
    /// The tiles that lie wholly inside.
    pub(super) tiles: &'a [Tile],
    /// The bounds, which raw events are held against.
    pub(super) bounds: WindowBounds,
    /// Event times below this are in no tile of `tiles`.
    first_whole: Micros,
    state: &'a WindowsState,
    is_exact: bool,
}

impl<'a> Covered<'a> {
    /// The raw events inside: those of the tile that the tail cuts, then the recent ones.
    pub(super) fn events(&self) -> impl Iterator<Item = &'a Event> + use<'a> {
        let exact = &self.state.exact;
        let edge = match self.is_exact {
            false => 0..0,
            true => {
                let from = exact.partition_point(|event| event.stamp.event_time < self.bounds.low);
                let to = exact.partition_point(|event| event.stamp.event_time < self.first_whole);
                from..to.max(from)
            }
        };
        let head = self.bounds.head;
        let recent = self.state.recent.partition_point(|event| event.stamp.visible_at() < head);
        let bounds = self.bounds;
        let raw = exact.range(edge).chain(self.state.recent.range(..recent));
        raw.filter(move |event| bounds.contains(&event.stamp))
    }
}

impl WindowReader {
    pub(super) fn covered<'a>(&self, level: &Level, state: &'a WindowsState, at: Micros) -> Covered<'a> {
        let bounds = self.window.bounds(at);
        let first_whole = level.first_whole(bounds.low);
        let tiles = &state.levels[self.level];
        let from = tiles.partition_point(|tile| tile.start < first_whole);
        let is_exact = matches!(level.tiling, Tiling::Exact(_));
        Covered { tiles: &tiles[from..], bounds, first_whole, state, is_exact }
    }
}

impl WindowsPlan {
    /// The state of no events.
    pub(crate) fn empty(&self) -> WindowsState {
        WindowsState { levels: vec![Vec::new(); self.levels.len()], ..WindowsState::default() }
    }

    pub(crate) fn insert(&self, state: &mut WindowsState, event: Event, horizon: Micros) {
        if event.stamp.visible_at() < horizon {
            self.fold(state, event, horizon);
        } else if self.is_used(&event.values) {
            insert_sorted(&mut state.recent, event, by_visibility);
        }
    }

    fn is_used(&self, values: &[Value]) -> bool {
        self.levels
            .iter()
            .flat_map(|level| &level.slots)
            .any(|slot| slot.taken(|input| &values[input]).is_some())
    }

    fn is_used_exactly(&self, values: &[Value]) -> bool {
        let exact = self.levels.iter().filter(|level| matches!(level.tiling, Tiling::Exact(_)));
        exact.flat_map(|level| &level.slots).any(|slot| slot.taken(|input| &values[input]).is_some())
    }

    fn fold(&self, state: &mut WindowsState, mut event: Event, horizon: Micros) {
        let takes_back = takes_back(self.takes_back, &event.values);
        for (level, tiles) in self.levels.iter().zip(&mut state.levels) {
            level.fold(tiles, &event, takes_back, level.least_start(horizon));
        }
        let Some(exact) = self.exact else { return };
        if event.stamp.event_time < exact.bounds(horizon).low || !self.is_used_exactly(&event.values) {
            return;
        }
        for (value, is_needed) in event.values.iter_mut().zip(&self.exact_inputs) {
            if !is_needed {
                *value = Value::Null;
            }
        }
        insert_sorted(&mut state.exact, event, by_order);
    }

    pub(crate) fn merge(&self, state: &mut WindowsState, other: &WindowsState) {
        merge_sorted(&mut state.recent, &other.recent, by_visibility);
        merge_sorted(&mut state.exact, &other.exact, by_order);
        for (level, (tiles, more)) in self.levels.iter().zip(state.levels.iter_mut().zip(&other.levels)) {
            level.merge(tiles, more);
        }
    }

    pub(crate) fn compact(&self, state: &mut WindowsState, horizon: Micros) {
        while state.recent.front().is_some_and(|event| event.stamp.visible_at() < horizon) {
            let event = state.recent.pop_front().expect("there is a first event");
            self.fold(state, event, horizon);
        }
        for (level, tiles) in self.levels.iter().zip(&mut state.levels) {
            let least_start = level.least_start(horizon);
            let dead = tiles.partition_point(|tile| tile.start < least_start);
            tiles.drain(..dead);
        }
        if let Some(exact) = self.exact {
            let low = exact.bounds(horizon).low;
            let dead = state.exact.partition_point(|event| event.stamp.event_time < low);
            state.exact.drain(..dead);
        }
    }

    pub(crate) fn read(&self, state: &WindowsState, at: Micros) -> EntityAnswer {
        let sums: Vec<Vec<State>> = self.readers.iter().map(|reader| self.sum(reader, state, at)).collect();
        let answers = self.features.iter().map(|feature| {
            let reader = &self.readers[feature.reader];
            let slot = &self.levels[reader.level].slots[reader.slots[feature.place]];
            slot.value(&feature.function, &sums[feature.reader][feature.place], at)
        });
        let (values, statuses) = answers.unzip();
        EntityAnswer { values, statuses, event_time: None }
    }

    /// The states of a window's slots over everything it covers.
    fn sum(&self, reader: &WindowReader, state: &WindowsState, at: Micros) -> Vec<State> {
        let level = &self.levels[reader.level];
        let covered = reader.covered(level, state, at);
        let mut sums: Vec<State> = reader.slots.iter().map(|slot| level.slots[*slot].empty()).collect();
        for (slot, sum) in reader.slots.iter().zip(&mut sums) {
            covered.tiles.iter().for_each(|tile| level.slots[*slot].merge(sum, &tile.states[*slot]));
        }
        for event in covered.events() {
            let takes_back = takes_back(self.takes_back, &event.values);
            for (slot, sum) in reader.slots.iter().zip(&mut sums) {
                level.slots[*slot].insert(sum, event, takes_back);
            }
        }
        sums
    }

    pub(crate) fn encode(&self, state: &WindowsState, out: &mut Out) {
        put_events(out, state.recent.iter());
        put_events(out, state.exact.iter());
        for (level, tiles) in self.levels.iter().zip(&state.levels) {
            put_number(out, tiles.len() as u64);
            let mut last: Micros = 0;
            for tile in tiles {
                put_signed(out, tile.start.wrapping_sub(last));
                last = tile.start;
                level.slots.iter().zip(&tile.states).for_each(|(slot, state)| slot.encode(state, out));
            }
        }
    }

    pub(crate) fn decode(&self, reader: &mut Reader<'_>, inputs: usize) -> Result<WindowsState, CodecError> {
        let recent = take_events(reader, inputs, by_visibility)?;
        let exact = take_events(reader, inputs, by_order)?;
        let levels = self.levels.iter().map(|level| level.decode(reader)).collect::<Result<_, _>>()?;
        Ok(WindowsState { recent, exact, levels })
    }
}

impl Level {
    fn decode(&self, reader: &mut Reader<'_>) -> Result<Vec<Tile>, CodecError> {
        let length = reader.length(1 + self.slots.len())?;
        let mut tiles: Vec<Tile> = Vec::with_capacity(length);
        let mut last: Micros = 0;
        for _ in 0..length {
            let start = last.wrapping_add(reader.signed()?);
            if self.tile_start(start) != start || tiles.last().is_some_and(|tile| tile.start >= start) {
                return Err(CodecError::Malformed("its tiles are not in order"));
            }
            let states = self.slots.iter().map(|slot| slot.decode(reader)).collect::<Result<_, _>>()?;
            tiles.push(Tile { start, states });
            last = start;
        }
        Ok(tiles)
    }
}

impl WindowsState {
    pub(crate) fn heap_bytes(&self) -> usize {
        let events = self.recent.iter().chain(&self.exact).map(event_bytes).sum::<usize>();
        let state = |state: &State| size_of::<State>() + state.heap_bytes();
        let tile = |tile: &Tile| size_of::<Tile>() + tile.states.iter().map(state).sum::<usize>();
        events + self.levels.iter().flatten().map(tile).sum::<usize>()
    }
}
