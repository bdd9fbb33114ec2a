//! `springhouse serve`: one process with the API, push, the appliers and the flush to the lake.

use crate::output;
use crate::project::Project;
use crate::telemetry::{Traces, begin_log};
use clap::Args;
use springhouse_node::{Node, SystemClock};
use springhouse_server::{RequestTracer, serve, shutdown_signal};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

/// Arguments of `springhouse serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen, instead of `server.bind` in springhouse.yaml; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    bind: Option<SocketAddr>,
}

pub(crate) async fn run(args: ServeArgs, project: &Path) -> anyhow::Result<ExitCode> {
    let project = Project::open(&std::path::absolute(project)?)?;
    let telemetry = &project.telemetry;
    let complaints = telemetry.validate();
    anyhow::ensure!(complaints.is_empty(), "{}", complaints.join("; "));
    begin_log(telemetry.log_format);
    let traces = Traces::begin(telemetry)?;
    let mut server = project.server.clone();
    if let Some(bind) = args.bind {
        server.bind = bind;
    }
    let node = Node::open(project.node_options(Arc::new(SystemClock))).await?;
    node.read_topics()?;
    let _reloading = AbortOnDrop(tokio::spawn(reload_on_hangup(node.clone(), signal(SignalKind::hangup())?)));
    let announcer = node.clone();
    let on_ready = move |address: SocketAddr| {
        if let Err(error) = announcer.announce(&address.to_string()) {
            output::note(&format!("other commands won't find this server: {error}"));
        }
        // Programs that started the server read this line to learn the address.
        output::data(&format!("listening on http://{address}"));
    };
    let tracer = traces.clone().map(|traces| traces as Arc<dyn RequestTracer>);
    let served = serve(node, server, tracer, on_ready, shutdown_signal()?).await;
    if let Some(traces) = traces {
        tokio::task::spawn_blocking(move || traces.end()).await?;
    }
    served?;
    output::note("stopped: everything acknowledged is in the lake");
    Ok(ExitCode::SUCCESS)
}

/// Takes up what was applied whenever SIGHUP comes. Requests under way finish with what they began with.
async fn reload_on_hangup(node: Arc<Node>, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        match node.reload().await {
            Ok(snapshot) => tracing::info!(snapshot, "took up the applied definitions"),
            Err(error) => tracing::error!(%error, "the applied definitions could not be taken up"),
        }
    }
}

/// A task that ends with its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
