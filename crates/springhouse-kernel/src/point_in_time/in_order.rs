//! Windows over events that became visible in the order in which they happened, as most do.
//!
//! What a label sees is then a prefix of the entity's events in time order, and a window the piece between two places, so
//! that counts and sums are differences of running totals, shared by all windows; an extreme is found on a stack of
//! candidates, distinct values by whether a value came before the window's tail. Every sum is of integers (a float64 is one
//! in the unit of the least bit used) and rounded once, so the bits are those of the states in [`crate::aggregate`].

mod fixed;
mod series;

use super::EventColumns;
use super::grouped::{Asked, Happened};
use super::windows::Column;
use crate::aggregate::Kind;
use crate::plan::WindowsPlan;
use crate::stamp::Window;
use series::{Need, Series};
use springhouse_core::definition::AggregateFunction as Function;

/// The features of a view that this way answers, and its buffers, used for one entity after the other.
pub(super) struct InOrder<'a> {
    series: Vec<Series<'a>>,
    tails: Vec<Tails>,
    reads: Vec<Read>,
    /// Per label, how many events are visible.
    heads: Vec<u32>,
}

/// A window, and per label the place of the first event inside.
struct Tails {
    window: Window,
    places: Vec<u32>,
}

/// How one feature is read.
struct Read {
    /// The feature.
    column: usize,
    series: usize,
    tails: usize,
    need: Need,
}

impl<'a> InOrder<'a> {
    pub(super) fn new(windows: &WindowsPlan, events: &EventColumns<'a>) -> Self {
        let mut this = Self { series: Vec::new(), tails: Vec::new(), reads: Vec::new(), heads: Vec::new() };
        for (column, feature) in windows.features.iter().enumerate() {
            let reader = &windows.readers[feature.reader];
            let slot = &windows.levels[reader.level].slots[reader.slots[feature.place]];
            if slot.group.is_some() {
                continue;
            }
            let need = match (&feature.function, slot.kind) {
                (Function::Count, Kind::Count | Kind::Integers { .. } | Kind::Floats { .. }) => Need::Count,
                (Function::Sum, Kind::Integers { .. } | Kind::Floats { .. }) => Need::Sum,
                (Function::Mean, Kind::Integers { .. } | Kind::Floats { .. }) => Need::Mean,
                (_, Kind::Least) => Need::Least,
                (_, Kind::Greatest) => Need::Greatest,
                (Function::CountDistinct { .. }, Kind::Counted { cap }) => Need::Distinct { cap },
                (_, Kind::NewestTime) => Need::NewestTime,
                _ => continue,
            };
            let known = this.series.iter().position(|series| series.is_of(slot));
            let series = match known {
                Some(series) => series,
                None => match Series::new(slot, events) {
                    Some(series) => {
                        this.series.push(series);
                        this.series.len() - 1
                    }
                    None => continue,
                },
            };
            if !this.series[series].can(&need) {
                continue;
            }
            this.series[series].will(&need);
            let tails = this.tails.iter().position(|tails| tails.window == reader.window);
            let tails = tails.unwrap_or_else(|| {
                this.tails.push(Tails { window: reader.window, places: Vec::new() });
                this.tails.len() - 1
            });
            this.reads.push(Read { column, series, tails, need });
        }
        this.series.iter_mut().for_each(|series| series.prepare(events));
        this
    }

    /// True when it answers a feature.
    pub(super) fn covers(&self, column: usize) -> bool {
        self.reads.iter().any(|read| read.column == column)
    }

    /// Answers one entity's labels (in time order) from its events (in the order of event time and of visibility).
    /// False, and nothing is answered, when a sum can't be had this way.
    pub(super) fn run(&mut self, events: &[Happened], asked: &[Asked], out: &mut [Column]) -> bool {
        if !self.series.iter_mut().all(|series| series.fill(events)) {
            return false;
        }
        self.find_places(events, asked);
        for read in &self.reads {
            let (series, out) = (&self.series[read.series], &mut out[read.column]);
            series.read(&read.need, events, asked, &self.heads, &self.tails[read.tails].places, out);
        }
        true
    }

    fn find_places(&mut self, events: &[Happened], asked: &[Asked]) {
        self.heads.clear();
        let mut head = 0;
        for label in asked {
            while head < events.len() && events[head].visible_at < label.at {
                head += 1;
            }
            self.heads.push(head as u32);
        }
        for tails in &mut self.tails {
            tails.places.clear();
            let mut tail = 0;
            for (label, head) in asked.iter().zip(&self.heads) {
                let low = tails.window.bounds(label.at).low;
                while tail < *head && events[tail as usize].event_time < low {
                    tail += 1;
                }
                tails.places.push(tail);
            }
        }
    }
}
