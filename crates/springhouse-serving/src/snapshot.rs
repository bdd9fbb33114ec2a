//! What a server serves at one time: definitions, view handles, and the plans made from them. Swapped whole.

use crate::error::ServingError;
use crate::plan::{RequestShape, plan_selection};
use crate::request::{Selection, ServingSettings};
use springhouse_core::definition::FeatureRef;
use springhouse_core::{Definitions, Micros, Value, ValueType};
use springhouse_expr::RequestPlan;
use springhouse_kernel::EntityAnswer;
use springhouse_online::ViewHandle;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

/// Most request shapes kept planned. A service is one shape; beyond that, every list of features that clients send.
const SHAPES_MAX: usize = 1_024;

/// A stored view as it is served.
#[derive(Debug)]
pub(crate) struct ServedView {
    pub(crate) name: Arc<str>,
    pub(crate) entity: String,
    pub(crate) handle: ViewHandle,
    pub(crate) soft_ttl: Option<Micros>,
    pub(crate) hard_ttl: Micros,
    /// One per feature of the handle's plan.
    pub(crate) defaults: Vec<Value>,
    pub(crate) pii: Vec<bool>,
    /// The answer for an entity without state.
    pub(crate) empty: EntityAnswer,
}

/// A request view as it is served.
#[derive(Debug)]
pub(crate) struct ServedRequestView {
    pub(crate) name: Arc<str>,
    pub(crate) plan: RequestPlan,
    pub(crate) defaults: Vec<Value>,
}

/// Everything that one answer needs, immutable but for its caches.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) definition_hash: Arc<str>,
    pub(crate) views: Vec<ServedView>,
    pub(crate) view_numbers: HashMap<String, usize>,
    pub(crate) request_views: BTreeMap<String, ServedRequestView>,
    shapes: RwLock<HashMap<Selection, Arc<RequestShape>, ahash::RandomState>>,
}

impl Snapshot {
    pub(crate) fn new(
        definitions: Arc<Definitions>,
        definition_hash: Arc<str>,
        handles: BTreeMap<String, ViewHandle>,
    ) -> Result<Self, ServingError> {
        let mut views = Vec::with_capacity(handles.len());
        let mut view_numbers = HashMap::with_capacity(handles.len());
        for (name, handle) in handles {
            view_numbers.insert(name.clone(), views.len());
            views.push(served_view(&definitions, &name, handle)?);
        }
        let mut request_views = BTreeMap::new();
        for name in definitions.request_views.keys() {
            request_views.insert(name.clone(), served_request_view(&definitions, name)?);
        }
        Ok(Self {
            definitions,
            definition_hash,
            views,
            view_numbers,
            request_views,
            shapes: RwLock::default(),
        })
    }

    /// The plan for a selection: from the cache, or made now.
    pub(crate) fn shape(
        &self,
        selection: &Selection,
        settings: &ServingSettings,
    ) -> Result<Arc<RequestShape>, ServingError> {
        // A poisoned cache has whole entries all the same: each is inserted in one call.
        let found = self.shapes.read().unwrap_or_else(PoisonError::into_inner).get(selection).cloned();
        if let Some(shape) = found {
            return Ok(shape);
        }
        let shape = Arc::new(plan_selection(self, selection, settings)?);
        let mut shapes = self.shapes.write().unwrap_or_else(PoisonError::into_inner);
        if shapes.len() >= SHAPES_MAX {
            // Clients that send ever new lists pay for planning; planning one takes microseconds.
            shapes.clear();
        }
        shapes.insert(selection.clone(), Arc::clone(&shape));
        Ok(shape)
    }
}

fn invalid(message: String) -> ServingError {
    ServingError::new("invalid_definitions", message).with_hint("run `springhouse validate` and apply again")
}

fn served_view(
    definitions: &Definitions,
    name: &str,
    handle: ViewHandle,
) -> Result<ServedView, ServingError> {
    let view = definitions.feature_views.get(name);
    let view = view.ok_or_else(|| invalid(format!("there is a plan but no definition of view `{name}`")))?;
    let (defined, planned) = (view.features(), handle.plan.features());
    let is_same =
        defined.len() == planned.len() && defined.iter().zip(planned).all(|(a, b)| a.0 == b.0 && *a.1 == b.1);
    if !is_same {
        return Err(invalid(format!("the plan of view `{name}` has other features than its definition")));
    }
    if !definitions.entities.contains_key(&view.entity) {
        return Err(invalid(format!("view `{name}` is of entity `{}`, which does not exist", view.entity)));
    }
    use springhouse_core::definition::ViewKind;
    Ok(ServedView {
        name: name.into(),
        entity: view.entity.clone(),
        empty: handle.plan.read_empty(),
        handle,
        soft_ttl: view.soft_ttl,
        hard_ttl: view.hard_ttl,
        defaults: view.defaults().into_iter().map(|default| default.value()).collect(),
        pii: match &view.kind {
            ViewKind::Latest(features) => features.iter().map(|f| f.pii).collect(),
            ViewKind::Windows(features) => features.iter().map(|f| f.pii).collect(),
        },
    })
}

fn served_request_view(definitions: &Definitions, name: &str) -> Result<ServedRequestView, ServingError> {
    let view = &definitions.request_views[name];
    let mut inputs = Vec::with_capacity(view.inputs.len());
    for (input, feature) in &view.inputs {
        let value_type = feature_type(definitions, feature).ok_or_else(|| {
            invalid(format!("request view `{name}` reads `{feature}`, which does not exist"))
        })?;
        inputs.push((input.clone(), value_type));
    }
    let plan = RequestPlan::plan(view, &inputs)
        .map_err(|error| invalid(format!("request view `{name}` does not plan: {error}")))?;
    let defaults = view.features.iter().map(|feature| feature.default.value()).collect();
    Ok(ServedRequestView { name: name.into(), plan, defaults })
}

/// The type of a feature of any kind of view.
fn feature_type(definitions: &Definitions, feature: &FeatureRef) -> Option<ValueType> {
    if let Some(view) = definitions.feature_views.get(&feature.view) {
        let mut features = view.features().into_iter();
        return features.find(|(name, _)| *name == feature.feature).map(|(_, value_type)| value_type.clone());
    }
    let view = definitions.request_views.get(&feature.view)?;
    view.features.iter().find(|f| f.name == feature.feature).map(|f| f.value_type.clone())
}
