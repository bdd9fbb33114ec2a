//! What a feature service needs, resolved once: stored views with their plans, request views in order, output columns.

use crate::error::{LakeError, Result, did_you_mean};
use springhouse_core::definition::{
    DefaultValue, Entity, FeatureRef, FeatureView, RequestView, Source, ViewKind,
};
use springhouse_core::{Definitions, ValueType};
use springhouse_expr::{RequestPlan, ViewProjection};
use springhouse_kernel::ViewPlan;
use std::collections::BTreeMap;

/// A stored view that is needed.
#[derive(Debug)]
pub(crate) struct ViewJob<'a> {
    pub view: &'a FeatureView,
    pub source: &'a Source,
    pub entity: &'a Entity,
    pub plan: ViewPlan,
    pub projection: ViewProjection,
    pub defaults: Vec<&'a DefaultValue>,
}

/// A request view that is needed; after all that it reads.
#[derive(Debug)]
pub(crate) struct RequestJob<'a> {
    pub view: &'a RequestView,
    pub plan: RequestPlan,
    /// Where each input comes from.
    pub inputs: Vec<(String, Slot)>,
}

/// Where a feature is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// A stored view's feature.
    Stored { view: usize, feature: usize },
    /// A request view's feature.
    Request { view: usize, feature: usize },
}

/// A column of the training set.
#[derive(Clone, Debug)]
pub(crate) struct OutputFeature {
    /// `feature`, or `view:feature` where two share a name.
    pub name: String,
    pub reference: FeatureRef,
    pub value_type: ValueType,
    pub slot: Slot,
}

/// Everything that a service needs.
#[derive(Debug)]
pub(crate) struct ServicePlan<'a> {
    pub views: Vec<ViewJob<'a>>,
    pub requests: Vec<RequestJob<'a>>,
    pub outputs: Vec<OutputFeature>,
}

/// Compiles a stored view and the way of its rows.
pub(crate) fn view_job<'a>(definitions: &'a Definitions, view: &'a FeatureView) -> Result<ViewJob<'a>> {
    let broken = |what: &str, name: &str| {
        LakeError::new(
            "definition_incomplete",
            format!("view `{}` names {what} `{name}`, which is not defined", view.name),
        )
    };
    let source = definitions.sources.get(&view.source).ok_or_else(|| broken("source", &view.source))?;
    let entity = definitions.entities.get(&view.entity).ok_or_else(|| broken("entity", &view.entity))?;
    let plan = compile(source, view)?;
    let projection = ViewProjection::plan(source, entity, view, &plan)?;
    Ok(ViewJob { view, source, entity, plan, projection, defaults: view.defaults() })
}

/// Compiles a view's plan with the types of its source's and its own columns.
pub(crate) fn compile(source: &Source, view: &FeatureView) -> Result<ViewPlan> {
    let mut types: BTreeMap<String, ValueType> = source.schema().into_iter().collect();
    types.extend(view.derived.iter().map(|d| (d.name.clone(), d.value_type.clone())));
    Ok(ViewPlan::compile(view, &|name| types.get(name).cloned())?)
}

impl<'a> ServicePlan<'a> {
    pub(crate) fn new(definitions: &'a Definitions, service: &str) -> Result<Self> {
        let Some(service) = definitions.feature_services.get(service) else {
            let known = definitions.feature_services.keys().map(String::as_str);
            let hint = did_you_mean(service, known.clone())
                .unwrap_or_else(|| format!("the services are {}", known.collect::<Vec<_>>().join(", ")));
            return Err(LakeError::new(
                "unknown_service",
                format!("there is no feature service `{service}`"),
            )
            .hint(hint));
        };
        let mut plan = Self { views: Vec::new(), requests: Vec::new(), outputs: Vec::new() };
        for reference in &service.features {
            let (slot, value_type) = plan.slot(definitions, reference)?;
            let shared = service.features.iter().filter(|f| f.feature == reference.feature).count() > 1;
            let name = if shared { reference.to_string() } else { reference.feature.clone() };
            plan.outputs.push(OutputFeature { name, reference: reference.clone(), value_type, slot });
        }
        Ok(plan)
    }

    fn slot(&mut self, definitions: &'a Definitions, reference: &FeatureRef) -> Result<(Slot, ValueType)> {
        let unknown =
            || LakeError::new("definition_incomplete", format!("feature `{reference}` is not defined"));
        if let Some(view) = definitions.feature_views.get(&reference.view) {
            let number = match self.views.iter().position(|job| job.view.name == view.name) {
                Some(number) => number,
                None => {
                    self.views.push(view_job(definitions, view)?);
                    self.views.len() - 1
                }
            };
            let features = view.features();
            let feature =
                features.iter().position(|(name, _)| *name == reference.feature).ok_or_else(unknown)?;
            return Ok((Slot::Stored { view: number, feature }, features[feature].1.clone()));
        }
        let view = definitions.request_views.get(&reference.view).ok_or_else(unknown)?;
        let number = match self.requests.iter().position(|job| job.view.name == view.name) {
            Some(number) => number,
            None => {
                let mut inputs = Vec::with_capacity(view.inputs.len());
                let mut types = Vec::with_capacity(view.inputs.len());
                for (name, input) in &view.inputs {
                    // Validation refuses cycles; a request view is pushed after all that it reads.
                    let (slot, value_type) = self.slot(definitions, input)?;
                    inputs.push((name.clone(), slot));
                    types.push((name.clone(), value_type));
                }
                let plan = RequestPlan::plan(view, &types)?;
                self.requests.push(RequestJob { view, plan, inputs });
                self.requests.len() - 1
            }
        };
        let feature = view.features.iter().position(|f| f.name == reference.feature).ok_or_else(unknown)?;
        Ok((Slot::Request { view: number, feature }, view.features[feature].value_type.clone()))
    }
}

/// True for a view of latest values.
pub(crate) fn is_latest(view: &FeatureView) -> bool {
    matches!(view.kind, ViewKind::Latest(_))
}
