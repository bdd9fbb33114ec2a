//! Sources read in place: which files, which columns, which types, which times.

pub(crate) mod ahead;
pub(crate) mod conform;
pub(crate) mod csv;
pub(crate) mod keys;
pub(crate) mod location;
pub(crate) mod parquet;
pub(crate) mod plain;
pub(crate) mod scan;
pub(crate) mod selected;
pub(crate) mod zone;
