//! A server that reads a request and sends the same bytes back.

use crate::output;
use anyhow::Context;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::net::{TcpListener, TcpStream};

/// Arguments of `springhouse bench floor`.
#[derive(Debug, Args)]
pub(super) struct FloorArgs {
    /// The answer: the bytes of this file.
    file: PathBuf,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    bind: SocketAddr,
}

/// Serves until it is told to stop.
pub(super) async fn run(args: FloorArgs) -> anyhow::Result<ExitCode> {
    let answer = std::fs::read(&args.file).with_context(|| format!("reading {}", args.file.display()))?;
    let answer = Bytes::from(answer);
    let listener =
        TcpListener::bind(args.bind).await.with_context(|| format!("listening at {}", args.bind))?;
    output::data(&format!("listening on http://{}", listener.local_addr()?));
    let mut stop = std::pin::pin!(springhouse_server::shutdown_signal()?);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(ExitCode::SUCCESS),
            accepted = listener.accept() => drop(tokio::spawn(serve(accepted?.0, answer.clone()))),
        }
    }
}

async fn serve(stream: TcpStream, answer: Bytes) {
    // As the real server does.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            request.into_body().collect().await?;
            let mut response = Response::new(Full::new(answer));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok::<_, hyper::Error>(response)
        }
    });
    // A client that goes away is the end of its connection.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
