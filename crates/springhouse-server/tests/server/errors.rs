use crate::support::Server;
use insta::assert_snapshot;
use std::fmt::Write;

const FEATURES: &str = "/v1/features";

/// Every wrong request with what is said of it; the shape is always the same.
#[tokio::test]
async fn wrong_requests_and_what_is_said_of_them() {
    let server = Server::start().await;
    let posts = [
        (FEATURES, ""),
        (FEATURES, "{\"service\": \"everything\",\n \"entities\": {\"user\": [1,]}}"),
        (FEATURES, "[]"),
        (FEATURES, r#"{"service":"everything","entity":{}}"#),
        (FEATURES, r#"{"service":"everythink","entities":{"user":[1]}}"#),
        (FEATURES, r#"{"features":["profile:amout"],"entities":{"user":[1]}}"#),
        (FEATURES, r#"{"features":["profil"],"entities":{"user":[1]}}"#),
        (FEATURES, r#"{"service":"everything"}"#),
        (FEATURES, r#"{"service":"everything","entities":{}}"#),
        (FEATURES, r#"{"service":"everything","entities":{"usr":[1]}}"#),
        (FEATURES, r#"{"service":"everything","entities":{"user":[9223372036854775808]}}"#),
        (FEATURES, r#"{"service":"everything","entities":{"user":[null]}}"#),
        (FEATURES, r#"{"features":["place_score"],"entities":{"city":["a","b"],"since":["2000-01-01"]}}"#),
        (FEATURES, r#"{"features":["place_score"],"entities":{"city":["a"],"since":["2000-02-30"]}}"#),
        (FEATURES, r#"{"service":"decision","entities":{"user":[1]}}"#),
        (FEATURES, r#"{"service":"decision","entities":{"user":[1]},"request":{"limt":[1]}}"#),
        (FEATURES, r#"{"service":"decision","entities":{"user":[1]},"request":{"limit":["12"]}}"#),
        (FEATURES, r#"{"service":"secret","entities":{"user":[1]}}"#),
        (FEATURES, r#"{"service":"strict","entities":{"user":[1]}}"#),
        (FEATURES, r#"{"service":"everything","entities":{"user":[1]},"max_age":"soon"}"#),
        ("/v1/push/nothing", "[]"),
        ("/v1/push/history", "[{}]"),
        ("/v1/push/events", "[{]"),
        ("/v1/push/events", "7"),
        ("/v1/push/events", r#"{"rows":[],"idempotency_key":""}"#),
        ("/v1/push/events?backfil=true", "[]"),
        ("/v1/push/events?backfill=yes", "[]"),
        ("/v1/nothing", "{}"),
        ("/v1/status", "{}"),
        ("/v1/admin/materialize", r#"{"views":["nothing"]}"#),
        ("/v1/admin/materialize", r#"{"until":"tomorrow"}"#),
        ("/v1/admin/rebuild", r#"{"entities_per_view":1}"#),
    ];
    let gets = [
        "/",
        "/v1/features",
        "/v1/explain",
        "/v1/explain?view=nothing",
        "/v1/explain?view=activity",
        "/v1/explain?view=activity&key.user=one",
        "/v1/explain?view=activity&key.user=1&key.usr=1",
        "/v1/explain?view=activity&view=profile",
        "/v1/explain?view=%zz",
        "/v1/dead-letters/nothing",
        "/v1/dead-letters/events?limit=0",
        "/v1/admin/jobs/77",
    ];
    let mut said = String::new();
    for (path, body) in posts {
        let reply = server.post(path, body).await;
        let _ = writeln!(said, "POST {path} {}\n  {}", body.replace('\n', "\\n"), reply.line());
        assert!(reply.headers["x-trace-id"].to_str().unwrap().len() == 32);
        assert_eq!(reply.json()["error"]["trace_id"], reply.headers["x-trace-id"].to_str().unwrap());
    }
    for path in gets {
        let reply = server.get(path).await;
        let _ = writeln!(said, "GET {path}\n  {}", reply.line());
    }
    assert_snapshot!("wrong_requests", said);
}

#[tokio::test]
async fn wrong_headers_and_sizes() {
    let server = Server::start().await;
    let json = ("content-type", "application/json");
    let body = r#"{"service":"everything","entities":{"user":[1]}}"#;
    let code = async |headers: &[(&str, &str)], path: &str, body: &str| {
        let reply = server.send("POST", path, headers, body.to_owned()).await;
        format!("{} {}", reply.status.as_u16(), reply.code())
    };
    let form = ("content-type", "application/x-www-form-urlencoded");
    assert_eq!(code(&[form], FEATURES, body).await, "415 unsupported_content_type");
    assert_eq!(code(&[form], "/v1/push/events", "[]").await, "415 unsupported_content_type");
    assert_eq!(
        code(&[json, ("content-encoding", "gzip")], FEATURES, body).await,
        "415 unsupported_content_encoding"
    );
    let long = "x".repeat(40 << 10);
    assert_eq!(code(&[json, ("x-long", &long)], FEATURES, body).await, "431 headers_too_large");
    let keys = [json, ("idempotency-key", "a")];
    let differing = r#"{"rows":[],"idempotency_key":"b"}"#;
    assert_eq!(code(&keys, "/v1/push/events", differing).await, "400 invalid_idempotency_key");
    let arrow = ("content-type", "application/vnd.apache.arrow.stream");
    assert_eq!(code(&[arrow], "/v1/push/events", "no arrow").await, "400 malformed_body");
    for (headers, expected) in [
        (vec![json, ("origin", "http://localhost")], "403 forbidden_origin"),
        (vec![json, ("host", "evil.example")], "403 forbidden_origin"),
    ] {
        assert_eq!(code(&headers, "/v1/admin/flush", "").await, expected);
    }
    // The usual parameters of a content type are fine.
    let with_charset = ("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(server.send("POST", FEATURES, &[with_charset], body).await.status, 200);
    // A caller's trace id is taken over.
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{id}-00f067aa0ba902b7-01");
    let reply = server.send("GET", "/health", &[("traceparent", &parent)], "").await;
    assert_eq!(reply.headers["x-trace-id"], id);
}

#[tokio::test]
async fn rows_beyond_the_limit_are_refused() {
    let server = Server::start().await;
    let users: Vec<_> = (0..10_001).map(|n| n.to_string()).collect();
    let body = format!(r#"{{"features":["activity"],"entities":{{"user":[{}]}}}}"#, users.join(","));
    let reply = server.features(&body).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (413, "too_many_rows"));
}
