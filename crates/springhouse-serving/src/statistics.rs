//! What was done to keep answering: numbers that only grow, and how things are now. For metrics and `/ready`.

/// A server's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServingStatistics {
    /// Requests under way now.
    pub requests_under_way: usize,
    /// Requests refused because there was too much to do, in the order of [`crate::Priority::ALL`].
    pub shed: [u64; 3],
}
