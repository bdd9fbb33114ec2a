use crate::support::{NOON, PATIENCE, Server};
use insta::assert_snapshot;
use springhouse_api::{JobBody, JobState, Method, ROUTES, StatusBody, openapi};
use springhouse_core::Clock;
use std::collections::BTreeSet;

#[tokio::test]
async fn the_router_has_the_documents_routes_and_no_others() {
    let server = Server::start().await;
    let document = server.get("/openapi.json").await.json();
    assert_eq!(document, openapi());
    let paths = document["paths"].as_object().unwrap();
    let mut known = BTreeSet::new();
    for (path, operations) in paths {
        let real = path.replace("{source}", "events").replace("{id}", "1");
        for method in ["get", "post", "put", "delete", "patch"] {
            let reply =
                server.send(&method.to_uppercase(), &real, &[("content-type", "application/json")], "").await;
            let routed = operations.get(method).is_some();
            assert_eq!(reply.status != 405, routed, "{method} {path}: {}", reply.text);
            if !routed {
                assert_eq!(reply.code(), "method_not_allowed");
            } else {
                assert!(
                    reply.status != 404 || reply.code() == "unknown_job",
                    "{method} {path}: {}",
                    reply.text
                );
                known.insert((path.as_str(), method));
            }
        }
    }
    let table: BTreeSet<_> = ROUTES
        .iter()
        .map(|route| (route.path, if route.method == Method::Get { "get" } else { "post" }))
        .collect();
    assert_eq!(known, table);
}

#[tokio::test]
async fn health_and_readiness_say_what_is_wrong() {
    let server = Server::start().await;
    assert_eq!(server.get("/health").await.json()["status"], "alive");
    let ready = server.get("/ready").await;
    assert_snapshot!(ready.line(), @r#"200 {"ready":true,"degraded":false,"checks":[{"name":"accepting","ok":true,"required":true},{"name":"definitions","ok":true,"required":true},{"name":"store","ok":true,"required":true},{"name":"log","ok":true,"required":false},{"name":"flush","ok":true,"required":false},{"name":"frontier","ok":true,"required":true},{"name":"view activity@1","ok":true,"required":false},{"name":"view place_score@1","ok":true,"required":false},{"name":"view profile@1","ok":true,"required":false}]}"#);
}

#[tokio::test]
async fn metrics_count_what_happened_and_hold_no_keys() {
    let server = Server::start().await;
    let city = "a-key-that-must-not-be-a-label";
    server
        .push(
            "visits",
            &format!(r#"[{{"at":"2013-01-01T11:59:00Z","city":"{city}","since":"2000-01-01","score":7}}]"#),
        )
        .await;
    server.clock.set(NOON + 1);
    server
        .features(&format!(
            r#"{{"features":["place_score"],"entities":[{{"city":"{city}","since":"2000-01-01"}}]}}"#
        ))
        .await;
    server.features("{").await;
    server.get(&format!("/{city}")).await;
    let reply = server.get("/metrics").await;
    assert!(reply.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(!reply.text.contains(city));
    for line in [
        "springhouse_server_request_duration_seconds_count{route=\"features\",status=\"2xx\"} 1",
        "springhouse_server_request_duration_seconds_count{route=\"features\",status=\"4xx\"} 1",
        "springhouse_server_request_duration_seconds_count{route=\"unknown\",status=\"4xx\"} 1",
        "springhouse_serving_values_total{view=\"place_score\",status=\"fresh\"} 1",
        "springhouse_serving_answers_total{level=\"healthy\"} 1",
        "springhouse_ingest_rows_total{outcome=\"accepted\"} 1",
        "springhouse_ingest_log_end_rows 1",
        "springhouse_ingest_applied_end_rows 1",
        "springhouse_view_age_seconds{view=\"place_score@1\"}",
        "springhouse_server_connections",
    ] {
        assert!(reply.text.contains(line), "{line} is not in\n{}", reply.text);
    }
    assert!(reply.text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn catalog_and_status_are_for_people() {
    let server = Server::start().await;
    let views = server.get("/v1/views").await.json();
    let names: Vec<_> =
        views["views"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["activity", "place_score", "profile", "ask"]);
    assert_snapshot!(views["views"][0]["features"][2]["is"].as_str().unwrap(), @"sum(amount) over 1h by 1m");
    let services = server.get("/v1/services").await.json();
    assert_eq!(services["services"][0]["features"], serde_json::json!(["activity:total_1h", "ask:over"]));
    server.push("events", r#"[{"at":"2013-01-01T11:00:00Z","user":1}]"#).await;
    let status: StatusBody = serde_json::from_str(&server.get("/v1/status").await.text).unwrap();
    assert_eq!((status.positions.log_end, status.positions.applied_end, status.snapshot), (1, 1, 1));
    assert_eq!(status.views.len(), 3);
    assert_eq!(status.views[0].tier.as_deref(), Some("realtime"));
    // Nothing was served yet; then what was, by its age: the pushed event is of an hour ago.
    assert_eq!((status.views[2].view.as_str(), status.views[2].served_p50_s), ("profile@1", None));
    server.features(r#"{"features":["profile"],"entities":[{"user":1},{"user":9}]}"#).await;
    let status: StatusBody = serde_json::from_str(&server.get("/v1/status").await.text).unwrap();
    let served = &status.views[2];
    let hour = 3_600.0..3_600.0 * 1.5;
    assert!(
        [served.served_p50_s, served.served_p99_s].iter().all(|age| hour.contains(&age.unwrap())),
        "{served:?}"
    );
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("springhouse_serving_value_age_seconds_count{view=\"profile\"} 1"), "{metrics}");
}

async fn finished(server: &Server, id: &str) -> JobBody {
    let poll = async {
        loop {
            let job: JobBody =
                serde_json::from_str(&server.get(&format!("/v1/admin/jobs/{id}")).await.text).unwrap();
            if job.state != JobState::Running {
                return job;
            }
            // `verify` waits for the frontier to pass the moment that it compares.
            server.clock.set(server.clock.now() + 1_000);
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.unwrap()
}

#[tokio::test]
async fn an_operator_flushes_loads_rebuilds_and_verifies() {
    let server = Server::start().await;
    server
        .push(
            "events",
            r#"[{"at":"2013-01-01T11:00:00Z","user":1,"amount":2},{"at":"2013-01-01T11:30:00Z","user":2}]"#,
        )
        .await;
    server.clock.set(NOON + 1_000_000);
    assert_snapshot!(server.post("/v1/admin/flush", "").await.line(), @r#"200 {"flushed_end":2}"#);
    assert_snapshot!(server.post("/v1/admin/checkpoint", "").await.line(), @r#"200 {"checkpointed":true}"#);
    assert_snapshot!(server.post("/v1/admin/reload", "").await.line(), @r#"200 {"snapshot":1}"#);
    for kind in ["materialize", "rebuild", "verify"] {
        let reply = server.post(&format!("/v1/admin/{kind}"), r#"{"views":["activity"]}"#).await;
        assert_eq!(reply.status, 202, "{}", reply.text);
        let job = finished(&server, reply.json()["id"].as_str().unwrap()).await;
        assert_eq!(job.state, JobState::Done, "{kind}: {job:?}");
        if let Some(verified) = &job.verified {
            assert_eq!((verified.difference_count, verified.entities), (0, 2), "{job:?}");
        }
        if let Some(views) = &job.views {
            assert_eq!(views[0].view, "activity@1");
        }
    }
    let ask = r#"{"features":["activity:total_1h"],"entities":{"user":[1]},"metadata":false}"#;
    assert!(server.features(ask).await.text.contains("[2.0]"));
}
