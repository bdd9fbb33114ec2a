//! Features of given rows at a given moment, without a project, a log or a disk: for a user's own feature tests.
//!
//! Nothing here computes a value: rows go through the same checks, projection and kernel as pushed ones, into the
//! in-memory store, and the same server answers.

use crate::NodeError;
use springhouse_core::definition::FeatureView;
use springhouse_core::{Definitions, EntityKey, Micros};
use springhouse_expr::ViewProjection;
use springhouse_ingest::{GivenRows, GivenSource, given_rows};
use springhouse_kernel::{EntityState, ViewPlan};
use springhouse_online::{Lane, MemoryStore, OnlineStore, ViewHandle, Write};
use springhouse_serving::{FeatureServer, Frontiers, ServedStore, ServingSettings, ViewFrontier};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// All there is has been seen, and it is this moment.
#[derive(Debug)]
struct Frozen(Micros);

impl Frontiers for Frozen {
    fn of(&self, _view_id: &str) -> ViewFrontier {
        ViewFrontier { frontier: self.0, cut: -1 }
    }

    fn now(&self) -> Micros {
        self.0
    }
}

/// A server that answers at `at` from the given rows of each named source; a source without rows is empty. Rows that were
/// not known at `at` are not seen.
///
/// # Errors
/// `unknown_source`, what is wrong with a row (codes and texts of a push), or with the definitions.
pub async fn evaluate(
    definitions: Arc<Definitions>,
    rows: &[GivenSource],
    at: Micros,
) -> Result<FeatureServer, NodeError> {
    let mut given: BTreeMap<&str, GivenRows> = BTreeMap::new();
    for rows in rows {
        let name = &rows.source;
        let source = definitions.sources.get(name).ok_or_else(|| {
            let known: Vec<&str> = definitions.sources.keys().map(String::as_str).collect();
            NodeError::new(
                "unknown_source",
                format!("there is no source `{name}`"),
                format!("the sources are: {}", known.join(", ")),
            )
        })?;
        given.insert(name, given_rows(&definitions, source, rows)?);
    }
    let store = Arc::new(MemoryStore::new());
    let mut views = BTreeMap::new();
    let mut writes = Vec::new();
    for view in definitions.feature_views.values() {
        let handle = handle(&definitions, view)?;
        if let Some(rows) = given.get(view.source.as_str()) {
            writes.push(fold(&definitions, view, &handle, rows, at)?);
        }
        views.insert(view.name.clone(), handle);
    }
    store.write(writes, Lane { name: "given".into(), position: 1 }, at).await?;
    let hash = definitions.content_hash().as_str().into();
    let settings = ServingSettings::default();
    Ok(FeatureServer::new(
        definitions,
        hash,
        views,
        ServedStore::Local(store),
        Arc::new(Frozen(at)),
        settings,
    )?)
}

fn handle(definitions: &Definitions, view: &FeatureView) -> Result<ViewHandle, NodeError> {
    let source = &definitions.sources[&view.source];
    let declared = source.schema().into_iter();
    let columns: HashMap<String, _> =
        declared.chain(view.derived.iter().map(|d| (d.name.clone(), d.value_type.clone()))).collect();
    let plan = ViewPlan::compile(view, &|name| columns.get(name).cloned())
        .map_err(|error| NodeError::new("view_not_planned", error.to_string(), "correct the definition"))?;
    Ok(ViewHandle { id: view.id().into(), generation: 0, plan: Arc::new(plan), is_shared: false })
}

fn fold(
    definitions: &Definitions,
    view: &FeatureView,
    handle: &ViewHandle,
    given: &GivenRows,
    at: Micros,
) -> Result<Write, NodeError> {
    let (source, entity) = (&definitions.sources[&view.source], &definitions.entities[&view.entity]);
    let plan = &handle.plan;
    let projection = ViewProjection::plan(source, entity, view, plan)
        .map_err(|error| NodeError::new("view_not_planned", error.to_string(), "correct the definition"))?;
    let projected = projection.project(&given.rows);
    let mut states: HashMap<EntityKey, EntityState> = HashMap::new();
    for (index, key) in projection.keys(&projected).into_iter().enumerate() {
        // A row without a usable key describes no entity of this view.
        let Ok(key) = key else { continue };
        let stamp = given.stamps[projected.rows[index] as usize];
        let event = projection.event(&projected, index, stamp);
        // With `at` as the present the state is exact at `at`, whatever comes after it.
        plan.insert(states.entry(key).or_insert_with(|| plan.empty()), event, at);
    }
    Ok(Write { view: handle.clone(), deltas: states.into_iter().collect() })
}
