//! `POST /v1/admin/plan` and `/v1/admin/apply`: definitions as texts, compared with what is applied, or applied.

use super::{Answer, json};
use crate::app::App;
use crate::body;
use crate::peer::check_admin;
use crate::problem::{from_node, from_part};
use axum::extract::Request;
use axum::http::StatusCode;
use springhouse_api::{ApiError, DefinitionsBody, PlanBody, from_object};
use springhouse_core::Clock;
use springhouse_node::{Plan, SystemClock, load_files};
use springhouse_registry::SnapshotMeta;
use std::sync::Arc;

pub(super) async fn plan(app: Arc<App>, request: Request) -> Answer {
    let (plan, _) = read(&app, request).await?;
    json(StatusCode::OK, &body_of(&plan, None))
}

pub(super) async fn apply(app: Arc<App>, request: Request) -> Answer {
    let (plan, body) = read(&app, request).await?;
    if let Some(refusal) = plan.refusal(body.allow_breaking) {
        let error = ApiError::new(
            "breaking_changes",
            format!("these changes are breaking\n{}", refusal.lines.join("\n")),
        );
        return Err(if refusal.may_be_forced {
            error.hint("`allow_breaking` applies them all the same")
        } else {
            error
        });
    }
    let registry = app.node.registry();
    let meta = SnapshotMeta {
        applied_at: SystemClock.now(),
        applied_by: body.by.unwrap_or_else(|| "unknown".to_owned()),
        message: body.message,
    };
    let applied = plan.apply(registry, meta).await.map_err(from_node)?;
    // Also when nothing changed: another process may have applied what this server has not taken up yet.
    app.node.reload().await.map_err(from_node)?;
    json(StatusCode::OK, &body_of(&plan, applied.map(|snapshot| snapshot.number)))
}

async fn read(app: &Arc<App>, request: Request) -> Result<(Plan, DefinitionsBody), ApiError> {
    check_admin(&request, app.settings.admin_remote)?;
    body::expect_json(request.headers())?;
    let bytes = body::read(request, app.settings.body_bytes_max, &app.settings).await?;
    let body: DefinitionsBody = from_object(&bytes)?;
    let files: Vec<(String, String)> =
        body.files.iter().map(|(name, text)| (name.clone(), text.clone())).collect();
    let loaded = load_files(&files).map_err(|mistakes| {
        // The caller's own files: what is said of them may go out whole.
        from_part("definitions_wrong", &mistakes.to_string(), None)
    })?;
    let plan = Plan::make(loaded.definitions, app.node.registry()).await.map_err(from_node)?;
    Ok((plan, body))
}

fn body_of(plan: &Plan, applied: Option<u64>) -> PlanBody {
    let changes = plan.changes.iter().map(|change| serde_json::to_value(change).unwrap_or_default());
    PlanBody {
        against: plan.head.as_ref().map(|head| head.number),
        definition_hash: plan.next.content_hash(),
        breaking: plan.breaking().count(),
        changes: changes.collect(),
        text: plan.text(),
        is_empty: plan.is_empty(),
        applied,
    }
}
