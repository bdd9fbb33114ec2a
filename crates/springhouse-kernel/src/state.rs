//! The state of one entity in one view.

mod explain;
mod latest;
mod surviving;
mod windows;

pub(crate) use latest::LatestState;
pub(crate) use surviving::SurvivingState;
pub(crate) use windows::WindowsState;

use crate::aggregate::value_heap_bytes;
use crate::codec::{Out, Reader, put_value};
use crate::plan::Event;
use crate::stamp::{put_stamp, take_stamp};

/// The version of the codec that this program writes and reads.
pub(crate) const CODEC_VERSION: u8 = 1;

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

fn put_event(out: &mut Out, event: &Event) {
    put_stamp(out, &event.stamp);
    event.values.iter().for_each(|value| put_value(out, value));
}

fn take_event(reader: &mut Reader<'_>, inputs: usize) -> Result<Event, CodecError> {
    let stamp = take_stamp(reader)?;
    let values = (0..inputs).map(|_| reader.value()).collect::<Result<_, _>>()?;
    Ok(Event { stamp, values })
}

/// Why stored bytes are no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The checksum does not match.
    #[error("the stored state is damaged: its checksum does not match")]
    Checksum,
    /// Written by another version of the codec.
    #[error("the stored state has codec version {0}, this program reads version 1")]
    Version(u8),
    /// Written for another plan of the view.
    #[error("the stored state was written for another definition of the view; rebuild it")]
    Plan,
    /// Too short, or a length that can't be.
    #[error("the stored state is malformed: {0}")]
    Malformed(&'static str),
}
