//! A served project, and a client.

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use springhouse_core::{ExpressionProblem, Micros, load_definitions};
use springhouse_node::{Node, NodeOptions, NodePaths, SettableClock, open_registry};
use springhouse_server::{ServerError, ServerSettings, serve};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// 2013-01-01T12:00:00Z.
pub(crate) const NOON: Micros = 1_357_041_600_000_000;

/// One row with a hard case in every column.
pub(crate) const HARD_ROW: &str = r#"[{
  "at": "2013-01-01T11:59:30.000001Z", "user": 9007199254740993,
  "amount": 0.30000000000000004, "number": -9223372036854775808, "single": 0.1,
  "raw": "AP8HCQ==", "seen": "1969-12-31T23:59:59.999999Z", "born": "1900-02-28",
  "price": "-1234567890123456.0001", "tags": ["a\"b", null, ""], "embedding": [1.5, -0.0],
  "document": {"deep": [1, {"x": null}]}, "flag": false, "kind": "é\n"
}]"#;

/// Longest wait for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const DEFINITIONS: &str = r#"
entities:
  user: {description: Somebody, owner: a@example.com, keys: {user: int64}}
  place: {description: Somewhere, owner: a@example.com, keys: {city: string, since: date}}
sources:
  events:
    description: What users do
    owner: a@example.com
    stream: push
    event_time: at
    columns:
      at: timestamp!
      user: int64!
      amount: float64
      number: int64
      single: float32
      raw: bytes
      seen: timestamp
      born: date
      price: decimal(20,4)
      tags: list<string>
      embedding: vector<2>
      document: json
      flag: bool
      kind: string
  visits:
    description: Places seen
    owner: a@example.com
    stream: push
    event_time: at
    columns: {at: timestamp!, city: string!, since: date!, score: int32}
  history:
    description: A table that takes no pushes
    owner: a@example.com
    table: data/*.csv
    event_time: at
    columns: {at: timestamp!, user: int64!, level: int32}
feature_views:
  profile:
    description: The newest of everything
    owner: a@example.com
    entity: user
    source: events
    tier: realtime
    ttl: {soft: 1h, hard: 30d}
    features:
      amount: {}
      number: {}
      single: {}
      raw: {}
      seen: {}
      born: {}
      price: {}
      tags: {}
      embedding: {}
      document: {}
      flag: {}
      nickname: {column: kind, default: nobody}
  activity:
    description: How much
    owner: a@example.com
    entity: user
    source: events
    tier: realtime
    ttl: {soft: 1h, hard: 30d}
    aggregate:
      events: {fn: count, windows: [1h, lifetime], default: 0}
      total: {fn: sum, column: amount, windows: [1h]}
      kinds: {fn: count, windows: [1h], group_by: kind}
  place_score:
    description: How good
    owner: a@example.com
    entity: place
    source: visits
    tier: realtime
    ttl: {soft: 1h, hard: 30d}
    features: {score: {}}
request_views:
  ask:
    description: What is asked
    owner: a@example.com
    fields: {limit: float64!, note: string}
    inputs: {spent: "activity:total_1h"}
    features:
      over: spent > limit
feature_services:
  everything:
    description: All of a user
    owner: a@example.com
    features: [profile, activity]
  decision:
    description: With a request field
    owner: a@example.com
    features: ["activity:total_1h", ask]
  secret:
    description: Not for everybody
    owner: a@example.com
    features: ["activity:total_1h"]
    readers: ["role:trusted"]
  strict:
    description: All or nothing
    owner: a@example.com
    features: ["profile:amount"]
    on_missing: fail
"#;

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) clock: Arc<SettableClock>,
    pub(crate) folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<(), ServerError>>>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The error code, or nothing.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Status and body on one line, without what differs from run to run.
    pub(crate) fn line(&self) -> String {
        let mut text = self.text.clone();
        for (field, stand_in) in [("\"definition\":\"", "HASH"), ("\"trace_id\":\"", "ID")] {
            if let Some(at) = text.find(field) {
                let start = at + field.len();
                let end = start + text[start..].find('"').unwrap();
                text.replace_range(start..end, stand_in);
            }
        }
        format!("{} {text}", self.status.as_u16())
    }
}

/// Opens a node of the test project in `folder`; applies the definitions when nothing is applied yet.
pub(crate) async fn open(folder: &std::path::Path, clock: Arc<SettableClock>) -> Arc<Node> {
    let paths = NodePaths::in_project(folder);
    let registry = open_registry(&paths.registry).unwrap();
    if registry.head().await.unwrap().is_none() {
        std::fs::create_dir_all(folder.join("data")).unwrap();
        std::fs::write(folder.join("data/a.csv"), "at,user,level\n2013-01-01T00:00:00Z,1,5\n").unwrap();
        let files = [("features.yaml".to_owned(), DEFINITIONS.to_owned())];
        let loaded = load_definitions(&files, &|definitions| {
            let problems = springhouse_expr::resolve_types(definitions).err().unwrap_or_default();
            problems
                .into_iter()
                .map(|(path, error)| ExpressionProblem {
                    path,
                    message: error.to_string(),
                    hint: None,
                    column: None,
                })
                .collect()
        });
        let loaded = loaded.unwrap_or_else(|mistakes| {
            let texts = mistakes.iter().fold(String::new(), |mut all, mistake| {
                let _ = writeln!(all, "{mistake}");
                all
            });
            panic!("{texts}")
        });
        registry.put(&loaded.definitions, None, Default::default()).await.unwrap();
    }
    let options = NodeOptions {
        paths,
        push: Default::default(),
        serving: springhouse_serving::ServingSettings { store_timeout_ms: 30_000, ..Default::default() },
        online: Default::default(),
        kafka: springhouse_node::KafkaSettings::default(),
        redis: None,
        memory_budget: 64 << 20,
        event_cache: 0,
        clock,
    };
    Node::open(options).await.unwrap()
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(ServerSettings::default()).await
    }

    pub(crate) async fn with(settings: ServerSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SettableClock::default());
        clock.set(NOON);
        let node = open(folder.path(), clock.clone()).await;
        let settings = ServerSettings { bind: "127.0.0.1:0".parse().unwrap(), ..settings };
        let (ready, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(
            node,
            settings,
            None,
            move |address| ready.send(address).unwrap(),
            async move {
                let _ = stopped.await;
            },
        ));
        let address = address.await.unwrap();
        assert_ne!(address.port(), 0);
        Self {
            address,
            clock,
            folder,
            stop: Some(stop),
            task: Some(task),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let (status, headers, bytes) = self.exchange(method, path, headers, body.into()).await;
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Reply { status, headers, text }
    }

    /// JSON in, whatever it is out.
    pub(crate) async fn send_bytes(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (hyper::HeaderMap, Bytes) {
        let headers = [headers, &[(header::CONTENT_TYPE.as_str(), "application/json")]].concat();
        let (_, headers, bytes) = self.exchange(method, path, &headers, body.to_owned().into()).await;
        (headers, bytes)
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> (StatusCode, hyper::HeaderMap, Bytes) {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).unwrap();
        let response = tokio::time::timeout(PATIENCE, self.client.request(request)).await.unwrap().unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, bytes)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.send("POST", path, &[(header::CONTENT_TYPE.as_str(), "application/json")], body).await
    }

    pub(crate) async fn features(&self, body: &str) -> Reply {
        self.post("/v1/features", body.to_owned()).await
    }

    /// Pushes rows that must all be accepted.
    pub(crate) async fn push(&self, source: &str, rows: &str) -> Reply {
        let reply = self.post(&format!("/v1/push/{source}"), rows.to_owned()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json()["refused"], 0, "{}", reply.text);
        reply
    }

    /// Tells the server to stop.
    pub(crate) fn tell_to_stop(&mut self) {
        self.stop.take().expect("told once").send(()).unwrap();
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> Result<(), ServerError> {
        tokio::time::timeout(PATIENCE, self.task.take().expect("waited once")).await.unwrap().unwrap()
    }
}
