use crate::support::{NOON, PATIENCE, Server, open};
use axum::body::Bytes;
use http_body_util::Full;
use hyper::{Request, Version};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use springhouse_server::{ServerError, ServerSettings, serve};
use std::future::pending;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.unwrap()
}

/// Everything until the server closes.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer ends the reading too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn what_is_in_flight_is_answered_and_what_was_pushed_is_kept() {
    let mut server = Server::start().await;
    let row = r#"[{"at":"2013-01-01T11:00:00Z","user":1,"amount":5}]"#;
    let (first, rest) = row.split_at(10);
    let mut pushing = connect(&server).await;
    let head = format!(
        "POST /v1/push/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{first}",
        row.len()
    );
    pushing.write_all(head.as_bytes()).await.unwrap();
    // An answer on another connection: the server has had time to read the head above.
    assert_eq!(server.get("/health").await.status, 200);
    let address = server.address;
    server.tell_to_stop();
    // The listener is gone once connecting fails.
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    pushing.write_all(rest.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut pushing).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("\"accepted\":1"), "{answer}");
    server.ended().await.unwrap();
    // The node is closed: the folder can be opened again, and the row is there.
    server.clock.set(NOON + 1);
    let node = open(server.folder.path(), server.clock.clone()).await;
    assert_eq!(node.ingest().positions().applied_end, 1);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_finish_is_cut_at_the_deadline() {
    let mut server = Server::with(ServerSettings { drain_timeout_ms: 200, ..Default::default() }).await;
    let mut stuck = connect(&server).await;
    stuck
        .write_all(b"POST /v1/features HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    assert_eq!(server.get("/health").await.status, 200);
    let started = Instant::now();
    server.tell_to_stop();
    server.ended().await.unwrap();
    assert!(started.elapsed() < PATIENCE / 2);
    assert_eq!(read_to_end(&mut stuck).await, "");
}

#[tokio::test]
async fn readiness_goes_first_when_there_is_a_load_balancer() {
    let mut server = Server::with(ServerSettings { drain_delay_ms: 2_000, ..Default::default() }).await;
    assert_eq!(server.get("/ready").await.status, 200);
    server.tell_to_stop();
    let off = async {
        loop {
            let reply = server.get("/ready").await;
            if reply.status == 503 {
                return reply;
            }
        }
    };
    let reply = tokio::time::timeout(PATIENCE, off).await.unwrap();
    assert_eq!(reply.json()["ready"], false);
    assert!(reply.text.contains("the server is stopping"), "{}", reply.text);
    // Requests are still answered.
    assert_eq!(server.get("/health").await.status, 200);
    server.ended().await.unwrap();
}

#[tokio::test]
async fn slow_or_silent_peers_are_let_go() {
    let server = Server::with(ServerSettings { header_timeout_ms: 300, ..Default::default() }).await;
    for start in ["", "P", "PRI * HTTP/2", "GET /hea", "GET /health HTTP/1.1\r\nhost: loc"] {
        let mut stream = connect(&server).await;
        stream.write_all(start.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{start:?}: {answer}");
    }
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_slow_body_is_refused() {
    let server = Server::with(ServerSettings { body_timeout_ms: 200, ..Default::default() }).await;
    let mut stream = connect(&server).await;
    let head =
        "POST /v1/features HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 9\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_timeout"), "{answer}");
}

#[tokio::test]
async fn huge_bodies_are_refused_before_they_arrive() {
    let settings = ServerSettings { body_bytes_max: 1000, push_body_bytes_max: 2000, ..Default::default() };
    let server = Server::with(settings).await;
    for (path, length) in [("/v1/features", 1001u64), ("/v1/push/events", 100 << 30)] {
        let mut stream = connect(&server).await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("too_large"), "{path}: {answer}");
    }
    // Without a declared length the count decides.
    let mut stream = connect(&server).await;
    let head = "POST /v1/features HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..11 {
        let chunk = format!("64\r\n{}\r\n", " ".repeat(100));
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("too_large"), "{answer}");
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_their_turn() {
    let server = Server::with(ServerSettings { connections_max: 1, ..Default::default() }).await;
    let ask = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let first = connect(&server).await;
    let mut second = connect(&server).await;
    second.write_all(ask).await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(200), second.read(&mut byte)).await;
    assert!(early.is_err(), "the second waits while the first is open");
    drop(first);
    assert!(read_to_end(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn http_2_is_spoken_too() {
    let mut server = Server::start().await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
    let ask = |path: &str, body: &'static str| {
        let request = Request::post(format!("http://{}{path}", server.address))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(body.as_bytes())));
        client.request(request.unwrap())
    };
    let push = ask("/v1/push/events", r#"[{"at":"2013-01-01T11:00:00Z","user":1}]"#);
    let read = ask("/v1/features", r#"{"features":["activity"],"entities":{"user":[1]}}"#);
    let flush = ask("/v1/admin/flush", "");
    for answer in [push.await.unwrap(), read.await.unwrap(), flush.await.unwrap()] {
        assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 200));
    }
    // The connection is still open; it must not hold up the end.
    server.tell_to_stop();
    server.ended().await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_said_to_be() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let node = open(folder.path(), server.clock.clone()).await;
    let settings = ServerSettings { bind: server.address, ..Default::default() };
    let error = serve(node.clone(), settings, None, |_| panic!("never ready"), pending()).await.unwrap_err();
    assert!(matches!(error, ServerError::Bind { .. }), "{error}");
    let settings = ServerSettings { body_bytes_max: 0, ..Default::default() };
    let error = serve(node.clone(), settings, None, |_| panic!("never ready"), pending()).await.unwrap_err();
    assert!(matches!(error, ServerError::Settings(_)), "{error}");
    node.shutdown().await.unwrap();
}
