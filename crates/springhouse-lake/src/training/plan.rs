//! What a training set needs, resolved once: stored views with their plans, request views in order, output columns. A view
//! is narrowed to the features that are asked for, so that nothing else of it is read or computed.

use crate::error::{LakeError, Result};
use crate::training::selection::{Asked, asked};
use springhouse_core::definition::{
    DefaultValue, Entity, FeatureRef, FeatureView, RequestView, Source, ViewKind,
};
use springhouse_core::{Definitions, ValueType};
use springhouse_expr::{RequestPlan, ViewProjection};
use springhouse_kernel::{ViewInput, ViewPlan};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A stored view that is needed.
#[derive(Debug)]
pub(crate) struct ViewJob<'a> {
    pub view: Cow<'a, FeatureView>,
    pub source: &'a Source,
    pub entity: &'a Entity,
    pub plan: ViewPlan,
    pub projection: ViewProjection,
    pub defaults: Vec<DefaultValue>,
}

impl ViewJob<'_> {
    /// The way to the view's inputs from rows that are known to count.
    pub(crate) fn inputs(&self) -> Result<ViewProjection> {
        Ok(ViewProjection::plan_inputs(self.source, &self.view, &self.plan)?)
    }
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
    /// True when the default stands in for a stale value (`on_stale: default`).
    pub stale_is_default: bool,
}

/// A service's own name of a column, and the column's.
#[derive(Clone, Debug)]
pub(crate) struct ServiceColumns {
    pub service: String,
    pub columns: Vec<(String, String)>,
}

impl ViewJob<'_> {
    /// True for a latest view whose features are columns of its source as they are.
    pub(crate) fn has_plain_inputs(&self) -> bool {
        let is_column = |input: &ViewInput| match input {
            ViewInput::Column { name, .. } => self.source.columns.iter().any(|column| column.name == *name),
            ViewInput::Predicate { .. } => false,
        };
        is_latest(&self.view) && self.plan.inputs().iter().all(is_column)
    }

    /// The features of a latest view that are a column.
    pub(crate) fn features_of(&self, column: &str) -> Vec<usize> {
        let inputs = self.plan.inputs();
        let is_it = |input: usize| matches!(&inputs[input], ViewInput::Column { name, .. } if name == column);
        let features = self.plan.inputs_of_rows().iter().enumerate();
        features.filter(|(_, input)| is_it(**input)).map(|(feature, _)| feature).collect()
    }
}

/// Everything that a training set needs.
#[derive(Debug)]
pub(crate) struct ServicePlan<'a> {
    pub views: Vec<ViewJob<'a>>,
    pub requests: Vec<RequestJob<'a>>,
    pub outputs: Vec<OutputFeature>,
    pub services: Vec<ServiceColumns>,
}

/// Compiles a stored view and the way of its rows.
pub(crate) fn view_job<'a>(definitions: &'a Definitions, view: &'a FeatureView) -> Result<ViewJob<'a>> {
    compiled(definitions, Cow::Borrowed(view))
}

fn compiled<'a>(definitions: &'a Definitions, view: Cow<'a, FeatureView>) -> Result<ViewJob<'a>> {
    let broken = |what: &str, name: &str| {
        LakeError::new(
            "definition_incomplete",
            format!("view `{}` names {what} `{name}`, which is not defined", view.name),
        )
    };
    let source = definitions.sources.get(&view.source).ok_or_else(|| broken("source", &view.source))?;
    let entity = definitions.entities.get(&view.entity).ok_or_else(|| broken("entity", &view.entity))?;
    let plan = compile(source, &view)?;
    let projection = ViewProjection::plan(source, entity, &view, &plan)?;
    let defaults = view.defaults().into_iter().cloned().collect();
    Ok(ViewJob { view, source, entity, plan, projection, defaults })
}

/// Compiles a view's plan with the types of its source's and its own columns.
pub(crate) fn compile(source: &Source, view: &FeatureView) -> Result<ViewPlan> {
    let mut types: BTreeMap<String, ValueType> = source.schema().into_iter().collect();
    types.extend(view.derived.iter().map(|d| (d.name.clone(), d.value_type.clone())));
    Ok(ViewPlan::compile(view, &|name| types.get(name).cloned())?)
}

impl<'a> ServicePlan<'a> {
    /// The plan for the features of some services, or for some features alone; see [`asked`].
    pub(crate) fn new(
        definitions: &'a Definitions,
        services: &[String],
        features: &[String],
    ) -> Result<Self> {
        let Asked { features, services } = asked(definitions, services, features)?;
        let mut resolver = Resolver { definitions, views: Vec::new(), requests: Vec::new() };
        let mut outputs = Vec::with_capacity(features.len());
        for feature in features {
            let (slot, value_type) = resolver.slot(&feature.reference)?;
            outputs.push(OutputFeature {
                name: feature.name,
                reference: feature.reference,
                value_type,
                slot,
                stale_is_default: feature.stale_is_default,
            });
        }
        let Resolver { views, mut requests, .. } = resolver;
        let places: Vec<Vec<Option<usize>>> = views.iter().map(Needed::places).collect();
        let narrowed = |slot: &mut Slot| {
            if let Slot::Stored { view, feature } = slot {
                *feature = places[*view][*feature].expect("every feature with a slot is needed");
            }
        };
        outputs.iter_mut().for_each(|output| narrowed(&mut output.slot));
        requests.iter_mut().flat_map(|job| &mut job.inputs).for_each(|(_, slot)| narrowed(slot));
        let views =
            views.into_iter().map(|needed| compiled(definitions, needed.view())).collect::<Result<_>>()?;
        Ok(Self { views, requests, outputs, services })
    }

    /// The two ways with stale values that some output has: kept, or replaced by the default.
    pub(crate) fn stale_policies(&self) -> Vec<bool> {
        let has = |policy: bool| self.outputs.iter().any(|output| output.stale_is_default == policy);
        [false, true].into_iter().filter(|policy| has(*policy)).collect()
    }
}

/// A stored view and which of its features something needs.
struct Needed<'a> {
    view: &'a FeatureView,
    features: Vec<bool>,
}

impl<'a> Needed<'a> {
    /// Where each feature is among those needed.
    fn places(&self) -> Vec<Option<usize>> {
        let mut next = 0..;
        self.features.iter().map(|needed| if *needed { next.next() } else { None }).collect()
    }

    /// The view with nothing but what is needed.
    fn view(&self) -> Cow<'a, FeatureView> {
        if self.features.iter().all(|needed| *needed) {
            return Cow::Borrowed(self.view);
        }
        fn kept<T: Clone>(all: &[T], needed: &[bool]) -> Vec<T> {
            all.iter()
                .zip(needed)
                .filter(|(_, needed)| **needed)
                .map(|(feature, _)| feature.clone())
                .collect()
        }
        let mut view = self.view.clone();
        view.kind = match &self.view.kind {
            ViewKind::Latest(features) => ViewKind::Latest(kept(features, &self.features)),
            ViewKind::Windows(features) => ViewKind::Windows(kept(features, &self.features)),
        };
        Cow::Owned(view)
    }
}

/// Finds out what is needed; features of stored views by their place in the whole view.
struct Resolver<'a> {
    definitions: &'a Definitions,
    views: Vec<Needed<'a>>,
    requests: Vec<RequestJob<'a>>,
}

impl<'a> Resolver<'a> {
    fn slot(&mut self, reference: &FeatureRef) -> Result<(Slot, ValueType)> {
        let unknown =
            || LakeError::new("definition_incomplete", format!("feature `{reference}` is not defined"));
        if let Some(view) = self.definitions.feature_views.get(&reference.view) {
            let features = view.features();
            let number = match self.views.iter().position(|needed| needed.view.name == view.name) {
                Some(number) => number,
                None => {
                    self.views.push(Needed { view, features: vec![false; features.len()] });
                    self.views.len() - 1
                }
            };
            let feature =
                features.iter().position(|(name, _)| *name == reference.feature).ok_or_else(unknown)?;
            self.views[number].features[feature] = true;
            return Ok((Slot::Stored { view: number, feature }, features[feature].1.clone()));
        }
        let view = self.definitions.request_views.get(&reference.view).ok_or_else(unknown)?;
        let number = match self.requests.iter().position(|job| job.view.name == view.name) {
            Some(number) => number,
            None => {
                let mut inputs = Vec::with_capacity(view.inputs.len());
                let mut types = Vec::with_capacity(view.inputs.len());
                for (name, input) in &view.inputs {
                    // Validation refuses cycles; a request view is pushed after all that it reads.
                    let (slot, value_type) = self.slot(input)?;
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
