use crate::support::{HARD_ROW, NOON, PATIENCE, Server};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::ipc::writer::StreamWriter;
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use springhouse_api::grpc::v1::column::Kind;
use springhouse_api::grpc::v1::{self, Column, GetFeaturesRequest, PushRequest, push_request::Rows};
use springhouse_api::grpc::{CODE, GET_FEATURES, PUSH, frame};
use springhouse_server::ServerSettings;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

async fn channel(server: &Server) -> Channel {
    Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap()
}

/// A client as the generated ones are.
#[derive(Clone)]
struct FeatureStoreClient(tonic::client::Grpc<Channel>);

impl FeatureStoreClient {
    async fn call<Q, A>(
        &mut self,
        path: &'static str,
        request: impl tonic::IntoRequest<Q>,
    ) -> Result<tonic::Response<A>, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        self.0.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::default();
        self.0.unary(request.into_request(), PathAndQuery::from_static(path), codec).await
    }

    async fn get_features(
        &mut self,
        request: impl tonic::IntoRequest<GetFeaturesRequest>,
    ) -> Result<tonic::Response<v1::GetFeaturesResponse>, Status> {
        self.call(GET_FEATURES, request).await
    }

    async fn push(&mut self, request: PushRequest) -> Result<tonic::Response<v1::PushResponse>, Status> {
        self.call(PUSH, request).await
    }
}

async fn client(server: &Server) -> FeatureStoreClient {
    FeatureStoreClient(tonic::client::Grpc::new(channel(server).await))
}

fn integers(values: &[i64]) -> Column {
    Column { kind: Some(Kind::Integers(v1::Integers { values: values.to_vec() })), nulls: Vec::new() }
}

fn users(values: &[i64]) -> BTreeMap<String, Column> {
    BTreeMap::from([("user".to_owned(), integers(values))])
}

fn ask(service: &str, users_asked: &[i64]) -> GetFeaturesRequest {
    GetFeaturesRequest { service: service.to_owned(), entities: users(users_asked), ..Default::default() }
}

/// The code of a refusal.
fn code(status: &Status) -> (Code, &str) {
    (status.code(), status.metadata().get(CODE).map_or("", |code| code.to_str().unwrap()))
}

#[tokio::test]
async fn every_type_comes_back_exactly_with_status_age_time_and_origin() {
    let server = Server::start().await;
    let mut client = client(&server).await;
    let push = PushRequest {
        source: "events".to_owned(),
        rows: Some(Rows::Json(HARD_ROW.into())),
        idempotency_key: "once".to_owned(),
        ..Default::default()
    };
    let pushed = client.push(push.clone()).await.unwrap().into_inner();
    assert_eq!((pushed.accepted, pushed.end_offset, pushed.known_at_us), (1, 1, NOON));
    assert_eq!(client.push(push.clone()).await.unwrap().into_inner(), pushed, "the same push again");
    let look = PushRequest { dry_run: true, idempotency_key: String::new(), ..push };
    assert_eq!(client.push(look).await.unwrap().into_inner().end_offset, 1, "only looked at");
    server.clock.set(NOON + 1_000_000);
    let request = GetFeaturesRequest {
        detail: v1::Detail::Full.into(),
        ..ask("everything", &[9_007_199_254_740_993, 5])
    };
    let answer = client.get_features(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-trace-id").unwrap().len(), 32);
    let answer = answer.into_inner();
    assert_eq!((answer.at_us, answer.row_count), (NOON + 1_000_000, 2));
    assert_eq!(answer.level(), v1::Level::Healthy);
    let features: BTreeMap<_, _> = answer.features.iter().map(|f| (f.name.as_str(), f)).collect();
    let kind = |name: &str| features[name].values.clone().unwrap().kind.unwrap();
    assert_eq!(kind("amount"), Kind::Doubles(v1::Doubles { values: vec![0.30000000000000004, 0.0] }));
    assert_eq!(kind("number"), Kind::Integers(v1::Integers { values: vec![i64::MIN, 0] }));
    assert_eq!(kind("single"), Kind::Floats(v1::Floats { values: vec![0.1, 0.0] }));
    assert_eq!(kind("raw"), Kind::Blobs(v1::Blobs { values: vec![vec![0, 255, 7, 9], vec![]] }));
    assert_eq!(kind("seen"), Kind::Timestamps(v1::Timestamps { values: vec![-1, 0] }));
    assert_eq!(kind("born"), Kind::Dates(v1::Dates { values: vec![-25_509, 0] }));
    let strings = |values: [&str; 2]| Kind::Strings(v1::Strings { values: values.map(str::to_owned).into() });
    assert_eq!(kind("price"), strings(["-1234567890123456.0001", ""]));
    assert_eq!(kind("nickname"), strings(["é\n", "nobody"]));
    assert_eq!(kind("document"), strings([r#"{"deep":[1,{"x":null}]}"#, ""]));
    let Kind::Lists(tags) = kind("tags") else { panic!("{:?}", kind("tags")) };
    assert_eq!(tags.lengths, [3, 0]);
    assert_eq!(tags.items.unwrap().nulls, [1]);
    let Kind::Lists(embedding) = kind("embedding") else { panic!("{:?}", kind("embedding")) };
    let Some(Kind::Floats(floats)) = embedding.items.unwrap().kind else {
        panic!("an embedding of no floats")
    };
    assert_eq!(
        floats.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
        [1.5f32.to_bits(), (-0.0f32).to_bits()]
    );
    let Kind::Maps(kinds) = kind("kinds_1h") else { panic!("{:?}", kind("kinds_1h")) };
    assert_eq!(kinds.lengths, [1, 0]);
    assert_eq!(kind("events_1h"), Kind::Integers(v1::Integers { values: vec![1, 0] }));
    let amount = features["amount"];
    assert_eq!(amount.r#type, "float64");
    assert_eq!(amount.values.as_ref().unwrap().nulls, [1]);
    assert_eq!(amount.statuses().collect::<Vec<_>>(), [v1::Status::Fresh, v1::Status::Missing]);
    assert_eq!(amount.ages_us, [30_999_999, -1]);
    assert_eq!(amount.origins().collect::<Vec<_>>(), [v1::Origin::Store, v1::Origin::Default]);
    let times = amount.event_times.clone().unwrap();
    assert_eq!(times.kind.unwrap(), Kind::Timestamps(v1::Timestamps { values: vec![NOON - 29_999_999, 0] }));
    assert_eq!(times.nulls, [1]);
    let positions: Vec<_> = answer.positions.iter().map(|p| (p.view.as_str(), p.cut)).collect();
    assert_eq!(positions, [("profile@1", 1), ("activity@1", 1)]);
    // Only what was asked for.
    let request = GetFeaturesRequest { detail: v1::Detail::Values.into(), ..ask("everything", &[5]) };
    let bare = client.get_features(request).await.unwrap().into_inner();
    assert!(bare.positions.is_empty());
    assert!(
        bare.features.iter().all(|f| f.r#type.is_empty() && f.statuses.is_empty() && f.ages_us.is_empty())
    );
    let bare_values: Vec<_> = bare.features.iter().map(|f| f.values.clone().unwrap().kind).collect();
    let request = ask("everything", &[5]);
    let with_status = client.get_features(request).await.unwrap().into_inner();
    assert_eq!(
        with_status.features.iter().map(|f| f.values.clone().unwrap().kind).collect::<Vec<_>>(),
        bare_values
    );
}

#[tokio::test]
async fn request_fields_priorities_and_ages_are_those_of_http() {
    let server = Server::start().await;
    server.push("events", r#"[{"at":"2013-01-01T11:59:00Z","user":1,"amount":10.5}]"#).await;
    server.clock.set(NOON + 1);
    let mut client = client(&server).await;
    let limits =
        Column { kind: Some(Kind::Doubles(v1::Doubles { values: vec![10.5, 10.4] })), nulls: vec![] };
    let request = GetFeaturesRequest {
        request: BTreeMap::from([("limit".to_owned(), limits)]),
        priority: v1::Priority::Critical.into(),
        timeout_ms: Some(1000),
        ..ask("decision", &[1, 1])
    };
    let answer = client.get_features(request).await.unwrap().into_inner();
    assert_eq!(
        answer.features[1].values.clone().unwrap().kind,
        Some(Kind::Bools(v1::Bools { values: vec![false, true] }))
    );
    let by_age = |max_age_us, drop_stale| GetFeaturesRequest {
        features: vec!["profile:amount".to_owned()],
        entities: users(&[1]),
        max_age_us,
        drop_stale,
        ..Default::default()
    };
    let fresh = client.get_features(by_age(None, false)).await.unwrap().into_inner();
    assert_eq!(fresh.features[0].statuses().next(), Some(v1::Status::Fresh));
    let stale = client.get_features(by_age(Some(30_000_000), false)).await.unwrap().into_inner();
    assert_eq!(
        (stale.features[0].statuses().next(), stale.level()),
        (Some(v1::Status::Stale), v1::Level::Stale)
    );
    let dropped = client.get_features(by_age(Some(30_000_000), true)).await.unwrap().into_inner();
    assert_eq!(dropped.features[0].values.clone().unwrap().nulls, [0]);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_a_status_and_the_code_of_http() {
    let server = Server::start().await;
    let mut client = client(&server).await;
    let features = |names: &[&str]| GetFeaturesRequest {
        features: names.iter().map(|name| (*name).to_owned()).collect(),
        entities: users(&[1]),
        ..Default::default()
    };
    let with = |change: fn(&mut GetFeaturesRequest)| {
        let mut request = ask("everything", &[1]);
        change(&mut request);
        request
    };
    let cases = [
        (ask("nothing", &[1]), Code::NotFound, "unknown_service"),
        (features(&["profile:amuont"]), Code::NotFound, "unknown_feature"),
        (GetFeaturesRequest::default(), Code::InvalidArgument, "invalid_request"),
        (with(|r| r.features = vec!["profile".into()]), Code::InvalidArgument, "invalid_request"),
        (with(|r| r.entities.clear()), Code::InvalidArgument, "missing_entity_key"),
        (
            with(|r| drop(r.entities.insert("use".into(), integers(&[1])))),
            Code::InvalidArgument,
            "unknown_entity_key",
        ),
        (
            with(|r| drop(r.request.insert("limt".into(), integers(&[1])))),
            Code::InvalidArgument,
            "unknown_request_field",
        ),
        (
            with(|r| r.entities.get_mut("user").unwrap().nulls.push(0)),
            Code::InvalidArgument,
            "invalid_entity_key",
        ),
        (with(|r| r.entities.get_mut("user").unwrap().nulls.push(7)), Code::InvalidArgument, "wrong_type"),
        (with(|r| r.entities.get_mut("user").unwrap().kind = None), Code::InvalidArgument, "wrong_type"),
        (with(|r| r.priority = 9), Code::InvalidArgument, "invalid_request"),
        (with(|r| r.detail = -1), Code::InvalidArgument, "invalid_request"),
        (with(|r| r.max_age_us = Some(u64::MAX)), Code::InvalidArgument, "invalid_request"),
        (with(|r| r.timeout_ms = Some(0)), Code::DeadlineExceeded, "deadline_exceeded"),
        (ask("decision", &[1]), Code::InvalidArgument, "missing_request_field"),
        (ask("secret", &[1]), Code::PermissionDenied, "denied"),
        (ask("strict", &[1]), Code::FailedPrecondition, "missing_refused"),
        (ask("everything", &vec![1; 10_001]), Code::InvalidArgument, "too_many_rows"),
    ];
    for (request, status, said) in cases {
        let what = format!("{said}: {:.200}", format!("{request:?}"));
        let refusal = client.get_features(request).await.unwrap_err();
        assert_eq!(code(&refusal), (status, said), "{what}: {}", refusal.message());
        assert_eq!(refusal.metadata().get("x-trace-id").unwrap().len(), 32, "{what}");
    }
    let refusal = client.get_features(features(&["profile:amuont"])).await.unwrap_err();
    assert!(refusal.message().contains("amount"), "a hint: {}", refusal.message());
    // The caller's own deadline comes with the call. (A client of its own would give up before it asks.)
    let body = frame(&ask("everything", &[1]));
    for (timeout, said) in
        [("0n", ("4", "deadline_exceeded")), ("soon", ("3", "invalid_request")), ("9S", ("0", ""))]
    {
        let headers = raw(&server, GET_FEATURES, &[("grpc-timeout", timeout)], body.clone()).await;
        assert_eq!(status_of(&headers), said, "{timeout}");
    }
    let pushed = |source: &str, rows: Option<Rows>| PushRequest {
        source: source.to_owned(),
        rows,
        ..Default::default()
    };
    let json = |text: &str| Some(Rows::Json(text.into()));
    let cases = [
        (pushed("nothing", json("[]")), Code::NotFound, "unknown_source"),
        (pushed("history", json("[{}]")), Code::InvalidArgument, "not_a_stream"),
        (pushed("events", None), Code::InvalidArgument, "invalid_request"),
        (pushed("events", json("[{]")), Code::InvalidArgument, "malformed_body"),
        (pushed("events", Some(Rows::Arrow(vec![1, 2, 3]))), Code::InvalidArgument, "malformed_body"),
    ];
    for (request, status, said) in cases {
        let refusal = client.push(request).await.unwrap_err();
        assert_eq!(code(&refusal), (status, said), "{}", refusal.message());
    }
}

#[tokio::test]
async fn rows_are_pushed_as_json_and_as_arrow_and_each_is_accounted_for() {
    let server = Server::start().await;
    let mut client = client(&server).await;
    let rows = r#"{"rows":[{"at":"2013-01-01T11:00:00Z","user":1,"amount":1},{"user":1},{"at":"2013-01-01T11:00:00Z","user":2}],
                   "row_keys":["a","b","a"]}"#;
    let push = PushRequest {
        source: "events".to_owned(),
        rows: Some(Rows::Json(rows.into())),
        ..Default::default()
    };
    let outcome = client.push(push).await.unwrap().into_inner();
    assert_eq!((outcome.accepted, outcome.duplicates, outcome.refused), (1, 1, 1));
    let exceptions: Vec<_> =
        outcome.exceptions.iter().map(|e| (e.row, e.duplicate, e.code.as_str())).collect();
    assert_eq!(exceptions, [(1, false, "missing_column"), (2, true, "")]);
    let at = TimestampMicrosecondArray::from(vec![NOON - 5_000_000]).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 3] = [
        ("at", Arc::new(at)),
        ("user", Arc::new(Int64Array::from(vec![7]))),
        ("amount", Arc::new(Float64Array::from(vec![2.5]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut stream = Vec::new();
    let mut writer = StreamWriter::try_new(&mut stream, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let push =
        PushRequest { source: "events".to_owned(), rows: Some(Rows::Arrow(stream)), ..Default::default() };
    assert_eq!(client.push(push).await.unwrap().into_inner().accepted, 1);
    server.clock.set(NOON + 1);
    let answer = client.get_features(ask("decision_free", &[7])).await;
    assert_eq!(code(&answer.unwrap_err()).1, "unknown_service");
    let request = GetFeaturesRequest {
        features: vec!["activity:total_1h".to_owned()],
        entities: users(&[1, 7]),
        ..Default::default()
    };
    let answer = client.get_features(request).await.unwrap().into_inner();
    assert_eq!(
        answer.features[0].values.clone().unwrap().kind,
        Some(Kind::Doubles(v1::Doubles { values: vec![1.0, 2.5] }))
    );
}

/// Sends raw bytes as gRPC would and gives the answer's headers.
async fn raw(server: &Server, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> HeaderMap {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let mut request = Request::builder()
        .method("POST")
        .uri(format!("http://{}{path}", server.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let answer = tokio::time::timeout(PATIENCE, client.request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let (mut parts, body) = answer.into_parts();
    let rest = body.collect().await.unwrap();
    parts.headers.extend(rest.trailers().cloned().unwrap_or_default());
    parts.headers
}

fn status_of(headers: &HeaderMap) -> (&str, &str) {
    let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
    (text("grpc-status"), text(CODE))
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_mistake() {
    let server = Server::with(ServerSettings { body_bytes_max: 1000, ..Default::default() }).await;
    let framed = |message: &[u8]| {
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend_from_slice(message);
        body
    };
    let deep: Vec<u8> = std::iter::repeat_n(0x4b, 500).collect();
    let bodies: [(&str, Vec<u8>); 9] = [
        ("no frame", vec![]),
        ("half a frame", vec![0, 0, 0]),
        ("two gigabytes announced", vec![0, 0x80, 0, 0, 0]),
        ("cut short", framed(b"\x0a\x05every")[..8].to_vec()),
        ("more than announced", [framed(b""), vec![0]].concat()),
        ("a length behind the end", framed(b"\x0a\x7fx")),
        ("a varint without end", framed(&[0xff; 20])),
        ("another wire type", framed(b"\x08\x01")),
        ("deep groups", framed(&deep)),
    ];
    for (what, body) in bodies {
        assert_eq!(
            status_of(&raw(&server, GET_FEATURES, &[], body.clone()).await),
            ("3", "malformed_body"),
            "{what}"
        );
        assert_eq!(status_of(&raw(&server, PUSH, &[], body).await).0, "3", "{what}");
    }
    let large = framed(&[0; 2000]);
    assert_eq!(status_of(&raw(&server, GET_FEATURES, &[], large).await), ("3", "too_large"));
    let compressed = [vec![1], framed(b"")[1..].to_vec()].concat();
    let said = raw(&server, GET_FEATURES, &[], compressed).await;
    assert_eq!(status_of(&said), ("12", "unsupported_content_encoding"));
    let unknown = raw(&server, "/springhouse.v1.FeatureStore/Nothing", &[], framed(b"")).await;
    assert_eq!(status_of(&unknown), ("12", "unknown_route"));
    let long = "x".repeat(40_000);
    let said = raw(&server, GET_FEATURES, &[("x-long", &long)], framed(b"")).await;
    assert_eq!(status_of(&said), ("3", "headers_too_large"));
    // A caller who speaks no gRPC gets an HTTP error.
    let reply = server.post(GET_FEATURES, "{}").await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (415, "unsupported_content_type"));
    // All of it was counted under its own name.
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains(r#"route="grpc_get_features",status="4xx""#), "{metrics}");
    assert!(!metrics.contains(r#"route="grpc_get_features",status="2xx""#), "{metrics}");
}

#[tokio::test]
async fn health_follows_readiness_and_does_not_keep_a_server_from_stopping() {
    let mut server = Server::with(ServerSettings { drain_delay_ms: 3_000, ..Default::default() }).await;
    let mut health = HealthClient::new(channel(&server).await);
    let about = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "springhouse.v1.FeatureStore"] {
        assert_eq!(health.check(about(service)).await.unwrap().into_inner().status, 1, "serving");
    }
    assert_eq!(health.check(about("other")).await.unwrap_err().code(), Code::NotFound);
    let mut watched = health.watch(about("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status, 1);
    let mut unknown = health.watch(about("other")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status, 3);
    server.tell_to_stop();
    let told = tokio::time::timeout(PATIENCE, watched.message()).await.unwrap().unwrap();
    assert_eq!(told.unwrap().status, 2, "not serving");
    assert!(tokio::time::timeout(PATIENCE, watched.message()).await.unwrap().unwrap().is_none());
    assert!(tokio::time::timeout(PATIENCE, unknown.message()).await.unwrap().unwrap().is_none());
    server.ended().await.unwrap();
}

#[tokio::test]
async fn one_connection_carries_many_calls_at_once() {
    let server = Server::start().await;
    server.push("events", r#"[{"at":"2013-01-01T11:59:00Z","user":1,"amount":10.5}]"#).await;
    server.clock.set(NOON + 1);
    let client = client(&server).await;
    let calls = (0..200).map(|n| {
        let mut client = client.clone();
        async move {
            let request = GetFeaturesRequest {
                features: vec!["activity:total_1h".to_owned()],
                entities: users(&[1, n]),
                ..Default::default()
            };
            let answer = client.get_features(request).await.unwrap().into_inner();
            assert_eq!(answer.row_count, 2);
        }
    });
    tokio::time::timeout(PATIENCE + Duration::from_secs(1), futures::future::join_all(calls)).await.unwrap();
}
