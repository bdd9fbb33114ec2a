//! Sketches whose state is a function of the set of values: nothing random, nothing that depends on the merge tree.

mod distinct;
mod quantile;

pub(crate) use distinct::DistinctSketch;
pub(crate) use quantile::{QuantileScale, QuantileSketch, SKETCH_BUCKETS_MAX};
