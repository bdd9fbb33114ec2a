//! The server: one immutable snapshot at a time, and the steps of one request.

use crate::admission::Admission;
use crate::answer::FeatureAnswer;
use crate::assemble::{Moment, assemble_computed, assemble_view, empty_answer, level};
use crate::error::ServingError;
use crate::guard::Ask;
use crate::last_known::LastKnown;
use crate::plan::RequestShape;
use crate::read::{FallbackCounts, Found, Reader, check_inputs, encode_entities};
use crate::request::{
    CallOptions, FeatureRequest, Frontiers, Selection, ServingSettings, Signature, ViewFrontier,
};
use crate::served::ServedStore;
use crate::snapshot::Snapshot;
use crate::stages::{Stage, Stages};
use crate::statistics::{Fallbacks, ServingStatistics};
use arc_swap::ArcSwap;
use springhouse_core::{Definitions, EntityKey, Micros};
use springhouse_kernel::{EntityAnswer, EntityExplanation};
use springhouse_online::{StoreErrorKind, ViewHandle};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Answers feature requests from one online store.
#[derive(Debug)]
pub struct FeatureServer {
    snapshot: ArcSwap<Snapshot>,
    store: ServedStore,
    frontiers: Arc<dyn Frontiers>,
    settings: ServingSettings,
    admission: Admission,
    last_known: LastKnown,
    fallbacks: FallbackCounts,
}

impl FeatureServer {
    /// A server for these definitions; `views` maps view names to the handles of their active generations.
    ///
    /// # Errors
    /// `invalid_definitions`: a plan does not fit its definition, or a request view does not plan.
    pub fn new(
        definitions: Arc<Definitions>,
        definition_hash: Arc<str>,
        views: BTreeMap<String, ViewHandle>,
        store: ServedStore,
        frontiers: Arc<dyn Frontiers>,
        settings: ServingSettings,
    ) -> Result<Self, ServingError> {
        let snapshot = ArcSwap::from_pointee(Snapshot::new(definitions, definition_hash, views)?);
        let admission = Admission::new(&settings);
        let last_known = LastKnown::new(settings.last_known_bytes_max);
        let fallbacks = FallbackCounts::default();
        Ok(Self { snapshot, store, frontiers, settings, admission, last_known, fallbacks })
    }

    /// Swaps definitions and views without dropping a request: those under way finish with what they began with.
    ///
    /// # Errors
    /// As [`Self::new`]; then everything stays as it was.
    pub fn reload(
        &self,
        definitions: Arc<Definitions>,
        definition_hash: Arc<str>,
        views: BTreeMap<String, ViewHandle>,
    ) -> Result<(), ServingError> {
        self.snapshot.store(Arc::new(Snapshot::new(definitions, definition_hash, views)?));
        Ok(())
    }

    /// What is under way, and what was done to keep answering.
    pub fn statistics(&self) -> ServingStatistics {
        ServingStatistics {
            requests_under_way: self.admission.under_way(),
            shed: self.admission.shed(),
            fallbacks: Fallbacks {
                last_known: self.fallbacks.last_known.get(),
                defaults: self.fallbacks.defaults.get(),
            },
            guard: match &self.store {
                ServedStore::Local(_) => None,
                ServedStore::Guarded(store) => Some(store.guard_statistics()),
            },
        }
    }

    /// The types that a request for `selection` needs: entity keys and request fields by name, so that the wire can parse
    /// values into their exact types.
    ///
    /// # Errors
    /// Unknown service, view or feature; too many features; two views that can't be asked for together.
    pub fn signature(&self, selection: &Selection) -> Result<Arc<Signature>, ServingError> {
        Ok(Arc::clone(&self.snapshot.load().shape(selection, &self.settings)?.signature))
    }

    /// Answers.
    ///
    /// # Errors
    /// Every code of [`ServingError::code`]; the first thing that is wrong.
    pub async fn features(&self, request: &FeatureRequest) -> Result<FeatureAnswer, ServingError> {
        self.features_in_stages(request, &mut Stages::unmeasured()).await
    }

    /// The same; `stages` tells where the time went, also of an answer that fails.
    ///
    /// # Errors
    /// As [`Self::features`].
    pub async fn features_in_stages(
        &self,
        request: &FeatureRequest,
        stages: &mut Stages,
    ) -> Result<FeatureAnswer, ServingError> {
        let _admitted = self.admission.enter(request.options.priority)?;
        if request.options.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ServingError::new("deadline_exceeded", "the caller waits no longer")
                .with_hint("nothing was begun; give the request more time"));
        }
        // Whole, not a guard: the request may wait for its store, and a reload must not wait for it.
        let snapshot = self.snapshot.load_full();
        let shape = snapshot.shape(&request.selection, &self.settings)?;
        check_readers(&shape, request)?;
        let inputs = check_inputs(&shape, request, &self.settings)?;
        let entities = encode_entities(&shape, &inputs)?;
        let moment = Moment {
            at: request.at.unwrap_or_else(|| self.frontiers.now()),
            max_age: request.max_age,
            drop_stale: request.options.drop_stale,
        };
        let frontiers: Vec<ViewFrontier> =
            shape.reads.iter().map(|read| self.frontiers.of(&snapshot.views[read.view].handle.id)).collect();
        let CallOptions { priority, timeout, use_cache, .. } = request.options;
        let wait = self.settings.wait(timeout);
        let reader = Reader {
            snapshot: &snapshot,
            shape: &shape,
            entities: &entities,
            frontiers: &frontiers,
            last_known: &self.last_known,
            fallbacks: &self.fallbacks,
            ask: Ask { at: moment.at, max_age: request.max_age, wait, priority, use_cache },
        };
        stages.end(Stage::Plan);
        let found = self.read(&reader, stages).await;
        stages.end(Stage::Store);
        let found = found?;
        let mut answer = empty_answer(&shape, inputs.row_count, moment.at);
        for (place, found) in found.iter().enumerate() {
            assemble_view(&snapshot, &shape, place, found, moment, &mut answer)?;
        }
        stages.end(Stage::Kernel);
        if !shape.computed.is_empty() {
            let at = vec![moment.at; inputs.row_count];
            for place in 0..shape.computed.len() {
                assemble_computed(&snapshot, &shape, place, &inputs, &at, &mut answer);
            }
            stages.end(Stage::Expressions);
        }
        answer.level = level(&shape, &answer);
        Ok(answer)
    }

    async fn read(&self, reader: &Reader<'_>, stages: &mut Stages) -> Result<Vec<Found>, ServingError> {
        match &self.store {
            ServedStore::Local(store) => reader.read_store(store.as_ref()).await,
            ServedStore::Guarded(store) => {
                let found = reader.read_guarded(store, stages).await;
                if found.as_ref().is_err_and(|error| error.code == "shed") {
                    self.admission.note_shed(reader.ask.priority);
                }
                found
            }
        }
    }

    /// The raw answer (before TTLs, policy and defaults) of one entity in one view at `at` (None = now), what lies behind
    /// it, and how far the view has come.
    ///
    /// # Errors
    /// `unknown_view`, `store_unavailable`, `store_corrupt`.
    pub async fn explain(
        &self,
        view: &str,
        key: &EntityKey,
        at: Option<Micros>,
    ) -> Result<(EntityAnswer, EntityExplanation, ViewFrontier), ServingError> {
        let snapshot = self.snapshot.load_full();
        let number = snapshot.view_numbers.get(view).copied().ok_or_else(|| {
            ServingError::new("unknown_view", format!("there is no feature view `{view}`"))
                .meant(view, snapshot.view_numbers.keys())
        })?;
        let handle = &snapshot.views[number].handle;
        let at = at.unwrap_or_else(|| self.frontiers.now());
        let frontier = self.frontiers.of(&handle.id);
        let states =
            self.store.store().get_many(handle, std::slice::from_ref(key)).await.map_err(|error| {
                let code = match error.kind {
                    StoreErrorKind::Corrupt => "store_corrupt",
                    _ => "store_unavailable",
                };
                ServingError::new(code, error.to_string())
            })?;
        let plan = &handle.plan;
        let empty = || Arc::new(plan.empty());
        let state = states.into_iter().next().flatten().unwrap_or_else(empty);
        Ok((plan.read(&state, at), plan.explain(&state, at), frontier))
    }
}

fn check_readers(shape: &RequestShape, request: &FeatureRequest) -> Result<(), ServingError> {
    if !shape.readers.is_empty() && !has_role(&shape.readers, &request.roles) {
        let message = format!("this service is for its readers: {}", shape.readers.join(", "));
        return Err(ServingError::new("denied", message).with_hint("ask with one of these roles"));
    }
    for (feature, readers) in &shape.personal {
        if !has_role(readers, &request.roles) {
            let message = format!("`{feature}` is personal data and not for everyone");
            return Err(ServingError::new("denied", message)
                .with_hint("ask with a role that is among the readers of a service that shows it"));
        }
    }
    Ok(())
}

/// A role is written `role:name` or `name`.
fn has_role(readers: &[String], roles: &[String]) -> bool {
    let bare = |role: &str| role.strip_prefix("role:").unwrap_or(role).to_owned();
    readers.iter().any(|reader| roles.iter().any(|role| bare(role) == bare(reader)))
}
