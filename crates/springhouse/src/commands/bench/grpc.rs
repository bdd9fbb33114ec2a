//! The same requests over gRPC: encoded beforehand, and of an answer only its level is read, so that the client costs the
//! machine as little as the one for HTTP does.

use super::run::{Outcome, Target};
use anyhow::{Context, bail};
use hyper::body::Bytes;
use hyper::http::uri::PathAndQuery;
use prost::Message;
use springhouse_api::grpc::v1::column::Kind;
use springhouse_api::grpc::{CODE, GET_FEATURES, v1};
use springhouse_api::{EntityRows, FeaturesRequestBody};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};

/// One caller among those on its connection.
#[derive(Debug)]
pub(super) struct Grpc {
    client: tonic::client::Grpc<Channel>,
    messages: Arc<Vec<Bytes>>,
}

impl Grpc {
    pub(super) fn new(channel: Channel, messages: Arc<Vec<Bytes>>) -> Self {
        let client = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        Self { client, messages }
    }
}

impl Target for Grpc {
    async fn call(&mut self, number: u64) -> Outcome {
        let message = super::turn(&self.messages, number).clone();
        if self.client.ready().await.is_err() {
            return Err("connection broken".to_owned());
        }
        let path = PathAndQuery::from_static(GET_FEATURES);
        match self.client.unary(tonic::Request::new(message), path, Encoded).await {
            Ok(answer) => {
                let level = answer.get_ref().level().as_str_name();
                Ok(level.trim_start_matches("LEVEL_").to_ascii_lowercase())
            }
            Err(status) => Err(match status.metadata().get(CODE).and_then(|code| code.to_str().ok()) {
                Some(code) => code.to_owned(),
                None => format!("gRPC {:?}", status.code()),
            }),
        }
    }
}

/// Of an answer, its level; everything else is skipped.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(enumeration = "v1::Level", tag = "2")]
    level: i32,
}

/// Messages that are bytes already, answers of which only the head is read.
#[derive(Clone, Copy, Debug)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Head;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(out, &message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Head;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Head>, Status> {
        Head::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

pub(super) async fn connect(address: SocketAddr, connections: usize) -> anyhow::Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for _ in 0..connections {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        let channel = endpoint.connect().await;
        channels.push(channel.with_context(|| format!("the server at {address} does not answer"))?);
    }
    Ok(channels)
}

/// The JSON bodies as messages.
pub(super) fn messages(bodies: &[String]) -> anyhow::Result<Vec<Bytes>> {
    bodies.iter().map(|body| Ok(message(serde_json::from_str(body)?)?.encode_to_vec().into())).collect()
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
