//! The same requests over gRPC: encoded beforehand, HTTP/2 frames and nothing else, and of an answer only its level is read,
//! so that the client costs the machine as little as the one for HTTP does.

use super::http::RECONNECT_PAUSE;
use super::run::{Outcome, Target};
use anyhow::{Context, bail};
use h2::client::SendRequest;
use hyper::body::Bytes;
use hyper::http::{HeaderMap, Request, header};
use prost::Message;
use springhouse_api::grpc::v1::column::Kind;
use springhouse_api::grpc::{CODE, GET_FEATURES, frame, v1};
use springhouse_api::{EntityRows, FeaturesRequestBody};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// Bytes that the server may send before the client has said that it read them, a call and a connection.
const WINDOW: u32 = 8 << 20;
/// Bytes before a message: whether it is compressed, and its length.
const FRAME_HEAD: usize = 5;

/// A connection that several callers share, made when first used and again after it broke.
#[derive(Debug)]
pub(super) struct Connection {
    address: SocketAddr,
    sender: Mutex<Option<SendRequest<Bytes>>>,
}

/// One caller among those on its connection.
#[derive(Debug)]
pub(super) struct Grpc {
    connection: Rc<Connection>,
    head: Request<()>,
    messages: Arc<Vec<Bytes>>,
    answer: Vec<u8>,
}

impl Connection {
    pub(super) fn to(address: SocketAddr) -> Rc<Self> {
        Rc::new(Self { address, sender: Mutex::new(None) })
    }

    async fn sender(&self) -> anyhow::Result<SendRequest<Bytes>> {
        let mut kept = self.sender.lock().await;
        if let Some(sender) = &*kept {
            return Ok(sender.clone());
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (sender, connection) = builder.handshake(stream).await?;
        // How it ended is seen by those who call on it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(kept.insert(sender).clone())
    }
}

impl Grpc {
    pub(super) fn new(connection: Rc<Connection>, messages: Arc<Vec<Bytes>>) -> Self {
        let head = Request::post(format!("http://{}{GET_FEATURES}", connection.address))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())
            .expect("an address and a path are a URI");
        Self { connection, head, messages, answer: Vec::new() }
    }

    /// The answer's bytes are in `answer`; gives the headers that say how the call ended.
    async fn exchange(&mut self, message: Bytes) -> anyhow::Result<HeaderMap> {
        let mut sender = self.connection.sender().await?.ready().await?;
        let (response, mut body) = sender.send_request(self.head.clone(), false)?;
        body.send_data(message, true)?;
        let (head, mut body) = response.await?.into_parts();
        self.answer.clear();
        while let Some(bytes) = body.data().await {
            let bytes = bytes?;
            body.flow_control().release_capacity(bytes.len())?;
            self.answer.extend_from_slice(&bytes);
        }
        Ok(body.trailers().await?.unwrap_or(head.headers))
    }
}

impl Target for Grpc {
    async fn call(&mut self, number: u64) -> Outcome {
        let message = super::turn(&self.messages, number).clone();
        let Ok(ended) = self.exchange(message).await else {
            self.connection.sender.lock().await.take();
            tokio::time::sleep(RECONNECT_PAUSE).await;
            return Err("connection broken".to_owned());
        };
        let text = |name: &str| ended.get(name).and_then(|value| value.to_str().ok());
        match text("grpc-status") {
            Some("0") => {
                let head = Head::decode(self.answer.get(FRAME_HEAD..).unwrap_or_default());
                let head = head.map_err(|error| error.to_string())?;
                Ok(head.level().as_str_name().trim_start_matches("LEVEL_").to_ascii_lowercase())
            }
            status => Err(text(CODE).map_or_else(|| format!("gRPC {status:?}"), str::to_owned)),
        }
    }
}

/// Of an answer, its level; everything else is skipped.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(enumeration = "v1::Level", tag = "2")]
    level: i32,
}

/// The JSON bodies as framed messages.
pub(super) fn messages(bodies: &[String]) -> anyhow::Result<Vec<Bytes>> {
    bodies.iter().map(|body| Ok(frame(&message(serde_json::from_str(body)?)?).into())).collect()
}

fn message(body: FeaturesRequestBody) -> anyhow::Result<v1::GetFeaturesRequest> {
    let detail = match (body.metadata, body.full) {
        (_, true) => v1::Detail::Full,
        (Some(false), false) => v1::Detail::Values,
        _ => v1::Detail::Status,
    };
    Ok(v1::GetFeaturesRequest {
        service: body.service.unwrap_or_default(),
        features: body.features.unwrap_or_default(),
        entities: columns(body.entities)?,
        request: columns(body.request)?,
        drop_stale: body.drop_stale,
        timeout_ms: body.timeout_ms,
        detail: detail.into(),
        ..Default::default()
    })
}

fn columns(rows: Option<EntityRows>) -> anyhow::Result<BTreeMap<String, v1::Column>> {
    match rows {
        None => Ok(BTreeMap::new()),
        Some(EntityRows::Columns(columns)) => {
            columns.into_iter().map(|(name, values)| Ok((name, column(&values)?))).collect()
        }
        Some(EntityRows::Rows(_)) => bail!("over gRPC only columns of entities are sent, not rows"),
    }
}

fn column(values: &[serde_json::Value]) -> anyhow::Result<v1::Column> {
    use serde_json::Value as Json;
    fn all<T>(values: &[Json], read: impl Fn(&Json) -> Option<T>) -> Option<Vec<T>> {
        values.iter().map(read).collect()
    }
    let kind = all(values, Json::as_i64)
        .map(|values| Kind::Integers(v1::Integers { values }))
        .or_else(|| all(values, Json::as_f64).map(|values| Kind::Doubles(v1::Doubles { values })))
        .or_else(|| all(values, Json::as_bool).map(|values| Kind::Bools(v1::Bools { values })))
        .or_else(|| {
            all(values, |value| value.as_str().map(str::to_owned))
                .map(|values| Kind::Strings(v1::Strings { values }))
        });
    let kind = kind.context("over gRPC only numbers, booleans and strings are sent")?;
    Ok(v1::Column { kind: Some(kind), nulls: Vec::new() })
}
