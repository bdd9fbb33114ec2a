//! A load client for the benchmarks: raw HTTP/1.1 over kept connections, so that it costs the server's machine little.
//!
//! `load features --address HOST:PORT --bodies FILE ...` posts the lines of FILE, in turn, to `/v1/features`.
//! `load push --address HOST:PORT --source NAME ...` posts batches of fresh events to `/v1/push/NAME`.
//!
//! With `--rate` the loop is open: requests have a timetable, and a latency counts from the planned moment, so a server
//! that stalls can't hide it (no coordinated omission). Without, each connection sends as fast as it is answered.
//! Prints one JSON line.
#![expect(clippy::print_stdout, reason = "a program: its result goes to stdout")]

use anyhow::{Context, Result, bail};
use clap::Parser;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends requests and measures.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// What is sent: `features` or `push`.
    kind: String,
    /// Where to.
    #[arg(long)]
    address: String,
    /// Request bodies, one a line (features).
    #[arg(long)]
    bodies: Option<String>,
    /// The stream (push).
    #[arg(long, default_value = "events")]
    source: String,
    /// Events in one push.
    #[arg(long, default_value_t = 500)]
    batch: u64,
    /// Different users among pushed events.
    #[arg(long, default_value_t = 100_000)]
    users: u64,
    /// Requests a second over all connections; 0 is as fast as answered.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Seconds measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before, not measured.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arc::new(Arguments::parse());
    let bodies: Arc<Vec<String>> = Arc::new(match &arguments.bodies {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("can't read {path}"))?
            .lines()
            .map(str::to_owned)
            .collect(),
        None => Vec::new(),
    });
    if arguments.kind == "features" && bodies.is_empty() {
        bail!("features need --bodies with at least one line");
    }
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..arguments.connections {
        let client = Client {
            arguments: Arc::clone(&arguments),
            bodies: Arc::clone(&bodies),
            next: Arc::clone(&next),
            started,
        };
        tasks.push(tokio::spawn(client.run()));
    }
    let mut latencies = Vec::new();
    let mut failed = 0;
    let mut bytes = 0;
    for task in tasks {
        let measured = task.await??;
        latencies.extend(measured.latencies);
        failed += measured.failed;
        bytes += measured.bytes;
    }
    // A server that can't keep the timetable answers the last planned requests after its end: they count, and so does
    // the time they took.
    let measured_seconds = (started.elapsed().as_secs_f64() - arguments.warm_up).max(arguments.seconds);
    latencies.sort_unstable();
    let at = |q: f64| {
        latencies.get(((latencies.len() as f64 * q) as usize).min(latencies.len().saturating_sub(1)))
    };
    let rate = latencies.len() as f64 / measured_seconds;
    let rows = if arguments.kind == "push" { rate * arguments.batch as f64 } else { rate };
    println!(
        "{}",
        serde_json::json!({
            "kind": arguments.kind, "requests": latencies.len(), "failed": failed, "requests_per_second": rate,
            "rows_per_second": rows, "received_bytes": bytes, "connections": arguments.connections,
            "open_loop_rate": arguments.rate,
            "p50_us": at(0.50), "p90_us": at(0.90), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": latencies.last(),
        })
    );
    Ok(())
}

struct Client {
    arguments: Arc<Arguments>,
    bodies: Arc<Vec<String>>,
    next: Arc<AtomicU64>,
    started: Instant,
}

#[derive(Default)]
struct Measured {
    latencies: Vec<u64>,
    failed: u64,
    bytes: u64,
}

impl Client {
    async fn run(self) -> Result<Measured> {
        let warm = self.started + Duration::from_secs_f64(self.arguments.warm_up);
        let end = warm + Duration::from_secs_f64(self.arguments.seconds);
        let mut stream = TcpStream::connect(&self.arguments.address).await?;
        stream.set_nodelay(true)?;
        let mut measured = Measured::default();
        let (mut request, mut body, mut answer) = (String::new(), String::new(), Vec::new());
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let planned = match self.arguments.rate {
                rate if rate > 0.0 => {
                    let planned = self.started + Duration::from_secs_f64(number as f64 / rate);
                    if planned > Instant::now() {
                        tokio::time::sleep_until(planned.into()).await;
                    }
                    planned
                }
                _ => Instant::now(),
            };
            if planned >= end {
                return Ok(measured);
            }
            request.clear();
            if self.arguments.kind == "push" {
                self.events(number, &mut body);
                self.head(&mut request, &format!("/v1/push/{}", self.arguments.source), &body);
            } else {
                let line = &self.bodies[(number % self.bodies.len() as u64) as usize];
                self.head(&mut request, "/v1/features", line);
            }
            stream.write_all(request.as_bytes()).await?;
            let status = read_answer(&mut stream, &mut answer).await?;
            if planned >= warm {
                measured.latencies.push(planned.elapsed().as_micros() as u64);
                measured.bytes += answer.len() as u64;
                if status != 200 {
                    measured.failed += 1;
                    if measured.failed == 1 {
                        let text = String::from_utf8_lossy(&answer);
                        #[expect(clippy::print_stderr, reason = "a program: its complaints go to stderr")]
                        {
                            eprintln!("first failure, status {status}: {text}");
                        }
                    }
                }
            }
        }
    }

    fn head(&self, request: &mut String, path: &str, body: &str) {
        let _ = write!(
            request,
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.arguments.address,
            body.len()
        );
    }

    /// A batch of events of now, each with an id of its own.
    fn events(&self, number: u64, body: &mut String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        let stamp = springhouse_core::time::format_instant(now);
        body.clear();
        body.push_str("{\"rows\":[");
        for i in 0..self.arguments.batch {
            let sequence = number * self.arguments.batch + i;
            let user = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.arguments.users;
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(
                body,
                "{comma}{{\"event_id\":\"{now}-{sequence}\",\"user_id\":{user},\"at\":\"{stamp}\",\"amount\":{}.25}}",
                sequence % 1000
            );
        }
        body.push_str("]}");
    }
}

/// Reads one answer with a content length into `answer` (its body) and gives its status.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<u16> {
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
