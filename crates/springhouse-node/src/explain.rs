//! What lies behind an answer, for people.

use crate::{Node, NodeError};
use springhouse_core::{EntityKey, Micros};
use springhouse_kernel::EntityExplanation;
use springhouse_online::ViewHandle;

impl Node {
    /// The handle of the served generation of a view, by the view's name.
    ///
    /// # Errors
    /// `unknown_view`.
    pub fn view(&self, name: &str) -> Result<ViewHandle, NodeError> {
        self.applied().views.get(name).cloned().ok_or_else(|| {
            let known: Vec<String> = self.applied().views.keys().cloned().collect();
            NodeError::new(
                "unknown_view",
                format!("there is no feature view `{name}`"),
                format!("the applied views are: {}", known.join(", ")),
            )
        })
    }

    /// The tiles, events or row behind each feature of one entity at `at`; no features when the entity was never seen.
    ///
    /// # Errors
    /// `unknown_view`, or what the store says.
    pub async fn explain(
        &self,
        view: &str,
        key: &EntityKey,
        at: Micros,
    ) -> Result<EntityExplanation, NodeError> {
        let handle = self.view(view)?;
        let states = self.store().get_many(&handle, std::slice::from_ref(key)).await?;
        Ok(match states.first() {
            Some(Some(state)) => handle.plan.explain(state, at),
            _ => EntityExplanation { features: Vec::new() },
        })
    }
}
