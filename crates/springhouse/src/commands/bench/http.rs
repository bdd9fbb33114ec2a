//! A bare HTTP/1.1 client over one kept connection: it shares the machine with the server that it measures, so it must cost
//! next to nothing. It understands what our server sends and no more.

use super::run::Outcome;
use anyhow::{Context, bail};
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A worker whose connection broke waits this long before the next one.
pub(super) const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// One connection, made when first used and again after it broke.
#[derive(Debug)]
pub(super) struct Http {
    address: SocketAddr,
    path: String,
    stream: Option<TcpStream>,
    request: String,
    answer: Vec<u8>,
}

impl Http {
    pub(super) fn new(address: SocketAddr, path: &str) -> Self {
        Self { address, path: path.to_owned(), stream: None, request: String::new(), answer: Vec::new() }
    }

    /// The body of the last answer.
    pub(super) fn answer(&self) -> &[u8] {
        &self.answer
    }

    /// Posts JSON.
    pub(super) async fn post(&mut self, body: &str) -> Outcome {
        // Taken out, so that a call that is given up halfway leaves no half-read answer behind.
        let stream = self.stream.take();
        match self.exchange(stream, body).await {
            Ok((status, stream)) => {
                self.stream = Some(stream);
                match status {
                    200 => Ok(level(&self.answer)),
                    _ => Err(code(status, &self.answer)),
                }
            }
            Err(_) => {
                tokio::time::sleep(RECONNECT_PAUSE).await;
                Err("connection broken".to_owned())
            }
        }
    }

    async fn exchange(&mut self, stream: Option<TcpStream>, body: &str) -> anyhow::Result<(u16, TcpStream)> {
        let mut stream = match stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        self.request.clear();
        write!(
            self.request,
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.path,
            self.address,
            body.len()
        )?;
        stream.write_all(self.request.as_bytes()).await?;
        let status = read_answer(&mut stream, &mut self.answer).await?;
        Ok((status, stream))
    }
}

/// `"level"` stands near the start of an answer.
fn level(answer: &[u8]) -> String {
    const MARK: &[u8] = b"\"level\":\"";
    let head = &answer[..answer.len().min(100)];
    let level = head.windows(MARK.len()).position(|window| window == MARK).and_then(|at| {
        let rest = &head[at + MARK.len()..];
        let end = rest.iter().position(|byte| *byte == b'"')?;
        std::str::from_utf8(&rest[..end]).ok()
    });
    level.unwrap_or_default().to_owned()
}

fn code(status: u16, answer: &[u8]) -> String {
    let error = serde_json::from_slice::<springhouse_api::ErrorBody>(answer);
    error.map_or_else(|_| format!("HTTP {status}"), |body| body.error.code)
}

/// Reads one answer with a content length into `answer` (its body) and gives its status.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> anyhow::Result<u16> {
    answer.clear();
    let head_end = loop {
        if let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(answer).await? == 0 {
            bail!("the server closed the connection");
        }
    };
    let head = std::str::from_utf8(&answer[..head_end]).context("the answer's head is no text")?;
    let status = head.get(9..12).and_then(|s| s.parse().ok()).context("no status")?;
    let length: usize = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .context("the answer has no content-length")?;
    while answer.len() < head_end + length {
        if stream.read_buf(answer).await? == 0 {
            bail!("the server closed the connection");
        }
    }
    answer.drain(..head_end);
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_codes_are_found() {
        assert_eq!(level(br#"{"at":"2013-01-01T12:00:01.000000Z","level":"stale","x":1}"#), "stale");
        assert_eq!(level(b"{}"), "");
        assert_eq!(code(429, br#"{"error":{"code":"shed","message":"m"}}"#), "shed");
        assert_eq!(code(502, b"<html>"), "HTTP 502");
    }
}
