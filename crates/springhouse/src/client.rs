//! Talks to a server of this project over HTTP.

use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value as Json;
use springhouse_api::ErrorBody;
use std::fmt;
use std::net::SocketAddr;

/// A client of one server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    http: HttpClient<HttpConnector, Full<Bytes>>,
}

/// What the server refused, in its own words.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, http: HttpClient::builder(TokioExecutor::new()).build(HttpConnector::new()) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Json> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Json) -> anyhow::Result<Json> {
        self.call(Method::POST, path, serde_json::to_vec(body)?.into()).await
    }

    /// A POST whose body is JSON text already.
    pub(crate) async fn post_text(&self, path: &str, body: Bytes) -> anyhow::Result<Json> {
        self.call(Method::POST, path, body).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Json> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let answer = self
            .http
            .request(request)
            .await
            .with_context(|| format!("the server at {} does not answer", self.address))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.context("the answer broke off")?.to_bytes();
        if status == StatusCode::OK || status == StatusCode::ACCEPTED || status == StatusCode::CREATED {
            return serde_json::from_slice(&body).context("the answer is no JSON");
        }
        let Ok(refused) = serde_json::from_slice::<ErrorBody>(&body) else {
            return Err(anyhow!("the server at {} answered {status}", self.address));
        };
        let error = refused.error;
        Err(Refused { code: error.code.to_string(), message: error.message, hint: error.hint }.into())
    }
}
