//! The state of one entity in one view.

mod explain;
mod latest;
mod surviving;
mod windows;

pub(crate) use latest::{LatestState, StoredRow, latest_status};
pub(crate) use surviving::SurvivingState;
pub(crate) use windows::WindowsState;

use crate::aggregate::value_heap_bytes;
use crate::codec::{Out, Reader, put_number, put_value};
use crate::plan::Event;
use crate::stamp::{StampSeries, put_stamp, take_stamp};
use std::cmp::Ordering;
use std::collections::VecDeque;

/// The version of the codec that this program writes.
pub(crate) const CODEC_VERSION: u8 = 2;
/// The oldest that it reads: in version 1 lists of events had their stamps in full.
pub(crate) const CODEC_VERSION_READ: u8 = 1;

/// The state of one entity in one view; made and changed only by [`crate::ViewPlan`].
#[derive(Clone, Debug, PartialEq)]
pub struct EntityState {
    pub(crate) inner: Inner,
}

/// The kinds of state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Inner {
    /// Rows.
    Latest(LatestState),
    /// Rows that can be taken back.
    Surviving(SurvivingState),
    /// Tiles and raw events.
    Windows(WindowsState),
}

impl EntityState {
    /// About how many bytes it takes in memory.
    pub fn size_bytes(&self) -> usize {
        let inner = match &self.inner {
            Inner::Latest(rows) => rows.heap_bytes(),
            Inner::Surviving(rows) => rows.heap_bytes(),
            Inner::Windows(state) => state.heap_bytes(),
        };
        size_of::<Self>() + inner
    }
}

fn event_bytes(event: &Event) -> usize {
    let value = |value| size_of_val(value) + value_heap_bytes(value);
    size_of::<Event>() + event.values.iter().map(value).sum::<usize>()
}

/// Appends a list of events that are in an order in which stamps are close to the one before.
fn put_events<'a>(out: &mut Out, events: impl ExactSizeIterator<Item = &'a Event>) {
    put_number(out, events.len() as u64);
    let mut stamps = StampSeries::default();
    for event in events {
        stamps.put(out, &event.stamp);
        event.values.iter().for_each(|value| put_value(out, value));
    }
}

/// Reads what [`put_events`] wrote, in either version.
fn take_events(
    reader: &mut Reader<'_>,
    inputs: usize,
    order: fn(&Event, &Event) -> Ordering,
) -> Result<VecDeque<Event>, CodecError> {
    let length = reader.length(3 + inputs)?;
    let mut events: VecDeque<Event> = VecDeque::with_capacity(length);
    let mut stamps = StampSeries::default();
    for _ in 0..length {
        let stamp = match reader.version {
            CODEC_VERSION_READ => take_stamp(reader)?,
            _ => stamps.take(reader)?,
        };
        let values = reader.values(inputs)?;
        let event = Event { stamp, values };
        if events.back().is_some_and(|last| order(last, &event).is_gt()) {
            return Err(CodecError::Malformed("its events are not in order"));
        }
        events.push_back(event);
    }
    Ok(events)
}

fn put_event(out: &mut Out, event: &Event) {
    put_stamp(out, &event.stamp);
    event.values.iter().for_each(|value| put_value(out, value));
}

fn take_event(reader: &mut Reader<'_>, inputs: usize) -> Result<Event, CodecError> {
    let stamp = take_stamp(reader)?;
    let values = reader.values(inputs)?;
    Ok(Event { stamp, values })
}

/// Why stored bytes are no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The checksum does not match.
    #[error("the stored state is damaged: its checksum does not match")]
    Checksum,
    /// Written by another version of the codec.
    #[error("the stored state has codec version {0}, this program reads versions 1 and 2")]
    Version(u8),
    /// Written for another plan of the view.
    #[error("the stored state was written for another definition of the view; rebuild it")]
    Plan,
    /// Too short, or a length that can't be.
    #[error("the stored state is malformed: {0}")]
    Malformed(&'static str),
}
