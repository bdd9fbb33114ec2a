//! What applying definitions would change, and applying them.

use crate::NodeError;
use serde_json::json;
use springhouse_core::Definitions;
use springhouse_core::diff::{Change, Compatibility, describe_changes, diff};
use springhouse_registry::{Registry, Snapshot, SnapshotMeta};

/// What applying definitions would do.
#[derive(Debug)]
pub struct Plan {
    /// What is applied now.
    pub head: Option<Snapshot>,
    /// What would be.
    pub next: Definitions,
    /// The differences.
    pub changes: Vec<Change>,
}

/// Why a plan is not applied: its breaking changes.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// One line a change: its path and what to do.
    pub lines: Vec<String>,
    /// True when they can all be forced.
    pub may_be_forced: bool,
}

impl Plan {
    /// Compares definitions with what is applied.
    ///
    /// # Errors
    /// What the registry says.
    pub async fn make(mut next: Definitions, registry: &Registry) -> Result<Self, NodeError> {
        let head = registry.head().await?;
        let nothing = Definitions::default();
        let applied = head.as_ref().map_or(&nothing, |head| &head.definitions);
        next.keep_statistics(applied);
        let changes = diff(applied, &next);
        Ok(Self { head, next, changes })
    }

    /// The changes that break callers or what is stored.
    pub fn breaking(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.compatibility == Compatibility::Breaking)
    }

    /// True when there is nothing to apply.
    pub fn is_empty(&self) -> bool {
        let same = self.head.as_ref().is_some_and(|head| head.definitions == self.next);
        self.changes.is_empty() && (same || self.next == Definitions::default())
    }

    /// Why it must not be applied; None when it may.
    pub fn refusal(&self, allow_breaking: bool) -> Option<Refusal> {
        let line = |change: &Change| {
            format!("  {}: {}", change.path, change.remedy.as_deref().unwrap_or(&change.text))
        };
        let refused = self.breaking().filter(|change| !(allow_breaking && change.may_be_forced));
        let lines: Vec<String> = refused.map(line).collect();
        let may_be_forced = self.breaking().all(|change| change.may_be_forced);
        (!lines.is_empty()).then_some(Refusal { lines, may_be_forced })
    }

    /// Puts the definitions into the registry, after what was applied when the plan was made. Nothing is put when nothing
    /// changes. Whether it may be applied is the caller's question to [`Plan::refusal`].
    ///
    /// # Errors
    /// What the registry says, such as that somebody else came first.
    pub async fn apply(
        &self,
        registry: &Registry,
        meta: SnapshotMeta,
    ) -> Result<Option<Snapshot>, NodeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let parent = self.head.as_ref().map(|head| head.number);
        Ok(Some(registry.put(&self.next, parent, meta).await?))
    }

    /// For people.
    pub fn text(&self) -> String {
        let against = match &self.head {
            Some(head) => format!("Against snapshot {}", head.number),
            None => "Nothing has been applied yet".to_owned(),
        };
        format!("{against}:\n\n{}", describe_changes(&self.changes, &self.next))
    }

    /// For programs; the keys are stable.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "against": self.head.as_ref().map(|head| head.number),
            "definition_hash": self.next.content_hash(),
            "breaking": self.breaking().count(),
            "changes": self.changes,
        })
    }
}
