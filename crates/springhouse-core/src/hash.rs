//! Content hashes: what a set of definitions, or a stored document, is recognised by.

use crate::Definitions;
use xxhash_rust::xxh3::xxh3_128;

/// The xxh3-128 of these bytes as 32 hex digits. Recognises content and damage; no defence against forgery.
pub fn content_hash(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

impl Definitions {
    /// The hash of these definitions: equal definitions, equal hash, whatever files they came from.
    pub fn content_hash(&self) -> String {
        // Maps are sorted and field order is fixed, so the JSON is canonical.
        let json = serde_json::to_vec(self).expect("definitions are plain data with string keys");
        content_hash(&json)
    }
}
