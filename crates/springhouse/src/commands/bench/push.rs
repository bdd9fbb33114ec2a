//! `springhouse bench push`: events of now, each with an id of its own.

use super::http::Http;
use super::run::{Outcome, Target, run_all};
use super::{LoadArgs, finish};
use clap::Args;
use springhouse_core::time::format_instant;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Arguments of `springhouse bench push`.
#[derive(Clone, Debug, Args)]
pub(super) struct PushLoadArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// The source.
    #[arg(long, default_value = "events")]
    source: String,
    /// Events in one push.
    #[arg(long, default_value_t = 500)]
    batch: u64,
    /// Different users among the events.
    #[arg(long, default_value_t = 100_000)]
    users: u64,
}

pub(super) async fn run(args: PushLoadArgs) -> anyhow::Result<ExitCode> {
    let target = |_| Pushing {
        http: Http::new(args.load.address, &format!("/v1/push/{}", args.source)),
        batch: args.batch.max(1),
        users: args.users.max(1),
        body: String::new(),
    };
    let measured = run_all(&args.load, target).await?;
    finish(&args.load, &measured, args.batch.max(1))
}

struct Pushing {
    http: Http,
    batch: u64,
    users: u64,
    body: String,
}

impl Target for Pushing {
    async fn call(&mut self, number: u64) -> Outcome {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        let stamp = format_instant(now);
        let body = &mut self.body;
        body.clear();
        body.push_str("{\"rows\":[");
        for i in 0..self.batch {
            let sequence = number * self.batch + i;
            let user = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.users;
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(
                body,
                "{comma}{{\"event_id\":\"{now}-{sequence}\",\"user_id\":{user},\"at\":\"{stamp}\",\"amount\":{}.25}}",
                sequence % 1000
            );
        }
        body.push_str("]}");
        self.http.post(&self.body).await
    }
}
