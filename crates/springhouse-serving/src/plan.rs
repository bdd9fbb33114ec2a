//! The shape of a request: what to read, what to compute, what to show, found once per selection.

use crate::answer::{AnswerHead, FeatureHead, Prepared, ViewHead};
use crate::error::ServingError;
use crate::request::{Selection, ServingSettings, Signature};
use crate::snapshot::Snapshot;
use springhouse_core::definition::{FeatureRef, FeatureService, OnAbsent, OnStale, OnUnavailable};
use springhouse_core::{Definitions, Value, ValueType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How deep request views may read each other; their definitions are checked to have no circle.
const DEPTH_MAX: usize = 32;

/// What is done for every request of one selection.
#[derive(Debug)]
pub(crate) struct RequestShape {
    pub(crate) signature: Arc<Signature>,
    pub(crate) entities: Vec<EntityShape>,
    pub(crate) reads: Vec<ViewRead>,
    /// In an order in which each finds its inputs computed.
    pub(crate) computed: Vec<ComputedView>,
    /// Every value needed: those asked for, in that order, then others.
    pub(crate) columns: Vec<ColumnShape>,
    pub(crate) head: Arc<AnswerHead>,
    pub(crate) policy: Policy,
    /// Who may ask; empty is everyone.
    pub(crate) readers: Vec<String>,
    /// Personal data asked for by name, with who may have each; everyone else is denied.
    pub(crate) personal: Vec<(FeatureRef, Vec<String>)>,
}

/// An entity whose key is encoded once per row, for all its views.
#[derive(Debug)]
pub(crate) struct EntityShape {
    pub(crate) name: String,
    pub(crate) keys: Vec<(String, ValueType)>,
}

/// One batched read.
#[derive(Debug)]
pub(crate) struct ViewRead {
    /// Place in the snapshot's views.
    pub(crate) view: usize,
    /// Place in the shape's entities.
    pub(crate) entity: usize,
    /// Feature of the view, column of the shape.
    pub(crate) features: Vec<(usize, usize)>,
}

/// One request view to evaluate.
#[derive(Debug)]
pub(crate) struct ComputedView {
    pub(crate) name: String,
    /// Where each of the plan's columns comes from.
    pub(crate) inputs: Vec<ComputedInput>,
    /// The column of each feature of the view, where it is wanted.
    pub(crate) outputs: Vec<Option<usize>>,
}

/// Where a column of a request view's expressions comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ComputedInput {
    Column(usize),
    Field(usize),
    /// The moment asked for: the plan has it.
    Now,
}

#[derive(Debug)]
pub(crate) struct ColumnShape {
    pub(crate) feature: FeatureRef,
    pub(crate) value_type: ValueType,
    pub(crate) default: Value,
    pub(crate) from: ColumnFrom,
}

/// What gives a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnFrom {
    /// A place in the shape's reads.
    Read(usize),
    /// A place in its computed views.
    Computed(usize),
}

impl ColumnFrom {
    /// The place among all views, of which so many are read.
    pub(crate) fn view(self, reads: usize) -> usize {
        match self {
            Self::Read(read) => read,
            Self::Computed(computed) => reads + computed,
        }
    }
}

/// What to do with values that are not fresh.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) on_stale: OnStale,
    pub(crate) on_unavailable: OnUnavailable,
    pub(crate) on_missing: OnAbsent,
    pub(crate) on_expired: OnAbsent,
}

impl Policy {
    /// True when a status may make the request fail.
    pub(crate) fn may_refuse(&self) -> bool {
        self.on_stale == OnStale::Fail
            || self.on_missing == OnAbsent::Fail
            || self.on_expired == OnAbsent::Fail
    }
}

pub(crate) fn plan_selection(
    snapshot: &Snapshot,
    selection: &Selection,
    settings: &ServingSettings,
) -> Result<RequestShape, ServingError> {
    let definitions = &*snapshot.definitions;
    let (features, service) = match selection {
        Selection::Service(name) => {
            let service = definitions.feature_services.get(name).ok_or_else(|| {
                ServingError::new("unknown_service", format!("there is no feature service `{name}`"))
                    .meant(name, definitions.feature_services.keys())
            })?;
            (service.features.clone(), Some(service))
        }
        Selection::Features(texts) => (named_features(definitions, texts)?, None),
    };
    if features.len() > settings.features_max {
        let message = format!(
            "the request asks for {} features; at most {} are answered",
            features.len(),
            settings.features_max
        );
        return Err(ServingError::new("too_many_features", message)
            .with_hint("ask in several requests, or raise `serving.features_max`"));
    }
    let mut planner = Planner::new(snapshot);
    let mut shown = Vec::with_capacity(features.len());
    let mut seen = BTreeSet::new();
    for feature in features {
        if seen.insert(feature.clone()) {
            shown.push(planner.column(&feature, 0)?);
        }
    }
    planner.finish(shown, service)
}

/// Spells out `view`, `view:*` and `view:feature`.
fn named_features(definitions: &Definitions, texts: &[String]) -> Result<Vec<FeatureRef>, ServingError> {
    if texts.is_empty() {
        return Err(ServingError::new("unknown_feature", "the request names no feature")
            .with_hint("name a service, or features as `view:feature`"));
    }
    let mut features = Vec::with_capacity(texts.len());
    for text in texts {
        let (view, feature) = text.split_once(':').unwrap_or((text, "*"));
        if feature != "*" {
            features.push(FeatureRef { view: view.to_owned(), feature: feature.to_owned() });
            continue;
        }
        let all = features_of(definitions, view);
        let all = all.ok_or_else(|| unknown_view(definitions, view))?;
        features.extend(all.map(|name| FeatureRef { view: view.to_owned(), feature: name.to_owned() }));
    }
    Ok(features)
}

fn features_of<'a>(
    definitions: &'a Definitions,
    view: &str,
) -> Option<Box<dyn Iterator<Item = &'a str> + 'a>> {
    if let Some(view) = definitions.feature_views.get(view) {
        return Some(Box::new(view.features().into_iter().map(|(name, _)| name)));
    }
    let view = definitions.request_views.get(view)?;
    Some(Box::new(view.features.iter().map(|feature| feature.name.as_str())))
}

fn unknown_view(definitions: &Definitions, view: &str) -> ServingError {
    let known = definitions.feature_views.keys().chain(definitions.request_views.keys());
    ServingError::new("unknown_feature", format!("there is no view `{view}`")).meant(view, known)
}

fn unknown_feature(definitions: &Definitions, feature: &FeatureRef) -> ServingError {
    let Some(known) = features_of(definitions, &feature.view) else {
        return unknown_view(definitions, &feature.view);
    };
    let message = format!("view `{}` has no feature `{}`", feature.view, feature.feature);
    ServingError::new("unknown_feature", message).meant(&feature.feature, known)
}

struct Planner<'a> {
    snapshot: &'a Snapshot,
    entities: Vec<EntityShape>,
    reads: Vec<ViewRead>,
    computed: Vec<ComputedView>,
    columns: Vec<ColumnShape>,
    places: BTreeMap<FeatureRef, usize>,
    fields: Vec<(String, ValueType, bool)>,
}

impl<'a> Planner<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            entities: Vec::new(),
            reads: Vec::new(),
            computed: Vec::new(),
            columns: Vec::new(),
            places: BTreeMap::new(),
            fields: Vec::new(),
        }
    }

    /// The column of a feature, with everything that it needs planned before it.
    fn column(&mut self, feature: &FeatureRef, depth: usize) -> Result<usize, ServingError> {
        if let Some(place) = self.places.get(feature) {
            return Ok(*place);
        }
        let definitions = &*self.snapshot.definitions;
        if definitions.feature_views.contains_key(&feature.view) {
            self.stored(feature)
        } else if definitions.request_views.contains_key(&feature.view) {
            self.requested(feature, depth)
        } else {
            Err(unknown_feature(definitions, feature))
        }
    }

    fn stored(&mut self, feature: &FeatureRef) -> Result<usize, ServingError> {
        let snapshot = self.snapshot;
        let Some(number) = snapshot.view_numbers.get(&feature.view).copied() else {
            let message = format!("view `{}` is defined but not loaded", feature.view);
            return Err(ServingError::new("unknown_feature", message)
                .with_hint("apply the definitions, then `springhouse materialize`"));
        };
        let view = &snapshot.views[number];
        let features = view.handle.plan.features();
        let place = features.iter().position(|(name, _)| *name == feature.feature);
        let place = place.ok_or_else(|| unknown_feature(&snapshot.definitions, feature))?;
        let read = match self.reads.iter().position(|read| read.view == number) {
            Some(read) => read,
            None => {
                let entity = self.entity(&view.entity);
                self.reads.push(ViewRead { view: number, entity, features: Vec::new() });
                self.reads.len() - 1
            }
        };
        let column = self.add(ColumnShape {
            feature: feature.clone(),
            value_type: features[place].1.clone(),
            default: view.defaults[place].clone(),
            from: ColumnFrom::Read(read),
        });
        self.reads[read].features.push((place, column));
        Ok(column)
    }

    fn entity(&mut self, name: &str) -> usize {
        if let Some(place) = self.entities.iter().position(|entity| entity.name == name) {
            return place;
        }
        let keys = self.snapshot.definitions.entities[name].keys.clone();
        self.entities.push(EntityShape { name: name.to_owned(), keys });
        self.entities.len() - 1
    }

    /// Plans the whole request view at the first of its features.
    fn requested(&mut self, feature: &FeatureRef, depth: usize) -> Result<usize, ServingError> {
        let snapshot = self.snapshot;
        let view = &snapshot.definitions.request_views[&feature.view];
        let served = &snapshot.request_views[&feature.view];
        let place = view.features.iter().position(|f| f.name == feature.feature);
        let place = place.ok_or_else(|| unknown_feature(&snapshot.definitions, feature))?;
        if let Some(at) = self.computed.iter().position(|computed| computed.name == feature.view) {
            let column = self.add_requested(feature, place, at);
            self.computed[at].outputs[place] = Some(column);
            return Ok(column);
        }
        if depth >= DEPTH_MAX {
            let message = format!("request view `{}` reads itself in a circle", feature.view);
            return Err(ServingError::new("invalid_definitions", message));
        }
        for field in &view.fields {
            self.field(&field.name, &field.value_type, field.required, &view.name)?;
        }
        let mut inputs = Vec::with_capacity(served.plan.columns().len());
        for name in served.plan.columns() {
            inputs.push(if let Some((_, input)) = view.inputs.iter().find(|(input, _)| input == name) {
                ComputedInput::Column(self.column(input, depth + 1)?)
            } else if let Some(at) = self.fields.iter().position(|(field, _, _)| field == name) {
                ComputedInput::Field(at)
            } else {
                ComputedInput::Now
            });
        }
        let column = self.add_requested(feature, place, self.computed.len());
        let mut outputs = vec![None; view.features.len()];
        outputs[place] = Some(column);
        self.computed.push(ComputedView { name: feature.view.clone(), inputs, outputs });
        Ok(column)
    }

    fn add_requested(&mut self, feature: &FeatureRef, place: usize, computed: usize) -> usize {
        let served = &self.snapshot.request_views[&feature.view];
        self.add(ColumnShape {
            feature: feature.clone(),
            value_type: served.plan.features()[place].1.clone(),
            default: served.defaults[place].clone(),
            from: ColumnFrom::Computed(computed),
        })
    }

    fn add(&mut self, column: ColumnShape) -> usize {
        self.places.insert(column.feature.clone(), self.columns.len());
        self.columns.push(column);
        self.columns.len() - 1
    }

    /// One field may serve several request views, if they agree on its type.
    fn field(
        &mut self,
        name: &str,
        value_type: &ValueType,
        required: bool,
        view: &str,
    ) -> Result<(), ServingError> {
        let Some(field) = self.fields.iter_mut().find(|(known, _, _)| known == name) else {
            self.fields.push((name.to_owned(), value_type.clone(), required));
            return Ok(());
        };
        if field.1 != *value_type {
            let message = format!(
                "the request field `{name}` is {value_type} for request view `{view}` and {} for another",
                field.1
            );
            return Err(ServingError::new("wrong_type", message).with_hint("ask for them in two requests"));
        }
        field.2 |= required;
        Ok(())
    }

    fn finish(
        mut self,
        shown: Vec<usize>,
        service: Option<&FeatureService>,
    ) -> Result<RequestShape, ServingError> {
        let keys = self.keys()?;
        let personal = if service.is_some() { Vec::new() } else { self.personal() };
        self.put_first(&shown);
        let head = self.head(shown.len());
        let features = head.features.iter().map(|f| (f.name.clone(), f.value_type.clone())).collect();
        let signature = Signature { keys, fields: self.fields.clone(), features };
        let policy = service.map_or_else(Policy::default, |service| Policy {
            on_stale: service.on_stale,
            on_unavailable: service.on_unavailable,
            on_missing: service.on_missing,
            on_expired: service.on_expired,
        });
        Ok(RequestShape {
            signature: Arc::new(signature),
            entities: self.entities,
            reads: self.reads,
            computed: self.computed,
            columns: self.columns,
            head: Arc::new(head),
            policy,
            readers: service.map_or_else(Vec::new, |service| service.readers.clone()),
            personal,
        })
    }

    /// Moves the columns that are shown before the others, in this order.
    fn put_first(&mut self, shown: &[usize]) {
        let hidden = (0..self.columns.len()).filter(|column| !shown.contains(column));
        let order: Vec<usize> = shown.iter().copied().chain(hidden).collect();
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, old)| place[*old] = new);
        let mut columns: Vec<_> = self.columns.drain(..).map(Some).collect();
        let take = |old: &usize| columns[*old].take().expect("each column has one place");
        self.columns = order.iter().map(take).collect();
        let reads = self.reads.iter_mut().flat_map(|read| &mut read.features);
        reads.for_each(|(_, column)| *column = place[*column]);
        for computed in &mut self.computed {
            computed.outputs.iter_mut().flatten().for_each(|column| *column = place[*column]);
            for input in &mut computed.inputs {
                if let ComputedInput::Column(column) = input {
                    *column = place[*column];
                }
            }
        }
    }

    /// What the answers have in common, of which the first so many columns are shown.
    fn head(&self, shown: usize) -> AnswerHead {
        let shown = &self.columns[..shown];
        let feature = |column: &ColumnShape| {
            // `feature` where that is one of a kind among what is shown, else `view:feature`.
            let of_this_name = |other: &&ColumnShape| other.feature.feature == column.feature.feature;
            let is_one = shown.iter().filter(of_this_name).count() == 1;
            let name = if is_one { column.feature.feature.clone() } else { column.feature.to_string() };
            FeatureHead {
                name,
                view: column.from.view(self.reads.len()),
                value_type: column.value_type.clone(),
                type_name: column.value_type.to_string(),
            }
        };
        let read = |read: &ViewRead| {
            let view = &self.snapshot.views[read.view];
            ViewHead { name: Arc::clone(&view.name), id: Some(Arc::clone(&view.handle.id)) }
        };
        let computed = |computed: &ComputedView| {
            let view = &self.snapshot.request_views[&computed.name];
            ViewHead { name: Arc::clone(&view.name), id: None }
        };
        AnswerHead {
            features: shown.iter().map(feature).collect(),
            views: self.reads.iter().map(read).chain(self.computed.iter().map(computed)).collect(),
            definition_hash: Arc::clone(&self.snapshot.definition_hash),
            prepared: Prepared::default(),
        }
    }

    /// The distinct keys of all entities.
    fn keys(&self) -> Result<Vec<(String, ValueType)>, ServingError> {
        let mut keys: Vec<(String, ValueType)> = Vec::new();
        for entity in &self.entities {
            for (name, value_type) in &entity.keys {
                match keys.iter().find(|(known, _)| known == name) {
                    None => keys.push((name.clone(), value_type.clone())),
                    Some((_, known)) if known == value_type => {}
                    Some((_, known)) => {
                        let message = format!(
                            "the key `{name}` is {value_type} for entity `{}` and {known} for another",
                            entity.name
                        );
                        return Err(ServingError::new("wrong_type", message)
                            .with_hint("ask for them in two requests"));
                    }
                }
            }
        }
        Ok(keys)
    }

    /// Personal data among what is read, with the readers of the services that show it.
    fn personal(&self) -> Vec<(FeatureRef, Vec<String>)> {
        let mut personal = Vec::new();
        for read in &self.reads {
            let view = &self.snapshot.views[read.view];
            for (feature, column) in read.features.iter().filter(|(feature, _)| view.pii[*feature]) {
                debug_assert!(view.pii[*feature]);
                let feature = &self.columns[*column].feature;
                let services = self.snapshot.definitions.feature_services.values();
                let readers = services
                    .filter(|service| service.features.contains(feature))
                    .flat_map(|service| service.readers.iter().cloned());
                personal.push((feature.clone(), readers.collect()));
            }
        }
        personal
    }
}
