//! A project as a command sees it: through the server that runs, or through one started for this command alone.
//!
//! One process at a time may write a project's online store and log. A command that needs them therefore asks the running
//! server; when there is none it opens the project itself behind a server on a free loopback port, so that every command
//! has one way to everything.

use crate::client::Client;
use crate::project::Project;
use anyhow::{Context, bail};
use springhouse_node::{Node, NodeOptions, SystemClock};
use springhouse_online_embedded::writer_process;
use springhouse_server::{ServerSettings, serve};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A way to the project.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    own: Option<OwnServer>,
}

/// A server that lives as long as the command.
#[derive(Debug)]
struct OwnServer {
    stop: oneshot::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Session {
    /// Finds the running server of the project, or starts one.
    pub(crate) async fn open(project: &Path) -> anyhow::Result<Self> {
        let options = node_options(project)?;
        if let Some(address) = running_server(&options.paths.online)? {
            return Ok(Self { client: Client::new(address), own: None });
        }
        Self::serve(Node::open(options).await?).await
    }

    /// Starts a server for an open node on a free loopback port.
    pub(crate) async fn serve(node: Arc<Node>) -> anyhow::Result<Self> {
        let (ready, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let settings =
            ServerSettings { bind: SocketAddr::from(([127, 0, 0, 1], 0)), ..ServerSettings::default() };
        let running = tokio::spawn(async move {
            // Nobody waits for the address any more when the command was interrupted.
            let on_ready = move |address| {
                let _ = ready.send(address);
            };
            let until = async move { drop(stopped.await) };
            serve(node, settings, None, on_ready, until).await.map_err(anyhow::Error::from)
        });
        let address = address.await.context("the project's server did not start")?;
        Ok(Self { client: Client::new(address), own: Some(OwnServer { stop, running }) })
    }

    /// True when a server was running before the command.
    pub(crate) fn is_remote(&self) -> bool {
        self.own.is_none()
    }

    /// Stops the server of the command, if it has one: flush, checkpoint.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        if let Some(own) = self.own {
            // It has stopped already when nobody listens.
            let _ = own.stop.send(());
            own.running.await.context("the project's server panicked")??;
        }
        Ok(())
    }
}

/// The address of the server that has the project open.
fn running_server(store: &Path) -> anyhow::Result<Option<SocketAddr>> {
    let Some(process) = writer_process(store) else {
        return Ok(None);
    };
    let Some(address) = process.address else {
        bail!(
            "process {} has this project open and offers no address; wait until it ends, or stop it",
            process.pid
        );
    };
    Ok(Some(
        address.parse().with_context(|| format!("process {} noted the address `{address}`", process.pid))?,
    ))
}

/// How the project's node is to be opened.
pub(crate) fn node_options(project: &Path) -> anyhow::Result<NodeOptions> {
    let project = Project::open(&std::path::absolute(project)?)?;
    Ok(project.node_options(Arc::new(SystemClock)))
}
