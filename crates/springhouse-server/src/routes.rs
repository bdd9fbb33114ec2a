//! The router: one line a route, the same routes as in the document (a test compares), and gRPC beside them.

mod admin;
mod catalog;
mod definitions;
mod explain;
mod features;
mod grpc;
mod health;
mod push;
mod training;

use crate::app::{App, GrpcMethod, Refused, Routed};
use crate::problem::JSON;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use serde::Serialize;
use springhouse_api::grpc::GET_FEATURES;
use springhouse_api::{ApiError, Method, ROUTES, RouteName};
use std::sync::Arc;

/// Every handler has this shape: it reads what it needs from the request itself.
type Answer = Result<Response, ApiError>;

/// Builds the router from the document's own table, so that a route without a handler does not compile.
pub(crate) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, method_router(route.method, route.name, &app));
    }
    router
        .merge(grpc::router(&app))
        .fallback(|| async {
            refused(
                ApiError::new("unknown_route", "there is no such path")
                    .hint("all paths are in /openapi.json"),
            )
        })
        .method_not_allowed_fallback(|| async {
            refused(
                ApiError::new("method_not_allowed", "the path exists, but not with this method")
                    .hint("all paths are in /openapi.json"),
            )
        })
}

/// The route of a request that is answered without the router: that, and what goes through it about a request, cost a tenth of
/// a small answer.
pub(crate) fn hot<B>(request: &Request<B>) -> Option<Routed> {
    if request.method() != axum::http::Method::POST {
        return None;
    }
    let path = request.uri().path();
    if path == ROUTES[RouteName::Features as usize].path {
        return Some(Routed::Http(RouteName::Features));
    }
    (path == GET_FEATURES).then_some(Routed::Grpc(GrpcMethod::GetFeatures))
}

/// Answers such a request, as the router would.
pub(crate) async fn answer_hot(app: &Arc<App>, route: Routed, request: Request) -> Answer {
    match route {
        Routed::Http(_) => features::features(app.clone(), request).await,
        Routed::Grpc(_) => grpc::features(app.clone(), request).await,
    }
}

fn method_router(method: Method, name: RouteName, app: &Arc<App>) -> MethodRouter {
    macro_rules! handled_by {
        ($handler:path) => {{
            let app = app.clone();
            let handler = move |request: Request| {
                let app = app.clone();
                async move { routed(name, $handler(app, request).await) }
            };
            match method {
                Method::Get => get(handler),
                Method::Post => post(handler),
            }
        }};
    }
    match name {
        RouteName::Features => handled_by!(features::features),
        RouteName::Push => handled_by!(push::push),
        RouteName::Status => handled_by!(catalog::status),
        RouteName::Views => handled_by!(catalog::views),
        RouteName::Services => handled_by!(catalog::services),
        RouteName::Explain => handled_by!(explain::explain),
        RouteName::DeadLetters => handled_by!(catalog::dead_letters),
        RouteName::AdminFlush => handled_by!(admin::flush),
        RouteName::AdminCheckpoint => handled_by!(admin::checkpoint),
        RouteName::AdminReload => handled_by!(admin::reload),
        RouteName::AdminMaterialize => handled_by!(admin::materialize),
        RouteName::AdminRebuild => handled_by!(admin::rebuild),
        RouteName::AdminVerify => handled_by!(admin::verify),
        RouteName::AdminPlan => handled_by!(definitions::plan),
        RouteName::AdminApply => handled_by!(definitions::apply),
        RouteName::AdminTrainingSet => handled_by!(training::training_set),
        RouteName::AdminJob => handled_by!(admin::job),
        RouteName::Health => handled_by!(health::health),
        RouteName::Ready => handled_by!(health::ready),
        RouteName::Metrics => handled_by!(health::metrics),
        RouteName::OpenApi => handled_by!(catalog::openapi),
    }
}

fn routed(name: RouteName, answer: Answer) -> Response {
    let mut response = answer.unwrap_or_else(refused);
    response.extensions_mut().insert(Routed::Http(name));
    response
}

fn refused(error: ApiError) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() =
        StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.extensions_mut().insert(Refused(error));
    response
}

/// A response with bytes that are JSON already.
fn json_bytes(status: StatusCode, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(body).map_err(|error| {
        tracing::error!(error = %error, "an answer could not be written");
        ApiError::internal()
    })?;
    Ok(json_bytes(status, bytes))
}

/// The decoded last part of a path such as `/v1/push/{source}`.
fn last_segment(request: &Request) -> Result<String, ApiError> {
    let raw = request.uri().path().rsplit('/').next().unwrap_or_default();
    // The query's decoder knows one escape more (`+`), which a path spells literally.
    let pairs =
        springhouse_api::parse_query(&format!("segment={}", raw.replace('+', "%2B").replace('&', "%26")))?;
    Ok(pairs.into_iter().next().map(|pair| pair.value).unwrap_or_default())
}
