//! The state of one entity in one view.

/// The state of one entity in one view; made and changed only by [`crate::ViewPlan`].
#[derive(Clone, Debug, PartialEq)]
pub struct EntityState {
    // kernel owner: replace
}

impl EntityState {
    /// About how many bytes it takes in memory.
    pub fn size_bytes(&self) -> usize {
        unimplemented!()
    }
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
