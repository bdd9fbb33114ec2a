//! Materialisation: what is online afterwards is what the naive way says, however often and however badly it was run.

use crate::support::*;
