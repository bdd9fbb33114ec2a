//! A project folder: its files, its registry, and its node behind the HTTP contract.

use crate::error::{error, from_mistakes, from_node, from_project, from_server};
use axum::http::Request;
use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde_json::json;
use springhouse_core::definition::Definitions;
use springhouse_core::{Clock, LoadedDefinitions};
use springhouse_node::{Mistakes, Node, Plan, Project, SystemClock, load_files, read_section};
use springhouse_online_embedded::writer_process;
use springhouse_registry::SnapshotMeta;
use springhouse_server::{InProcess, ServerSettings};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Runtime;

/// A project on this machine's disk.
#[pyclass(frozen, weakref)]
pub(crate) struct NativeProject {
    root: PathBuf,
    /// The process it was made in. A forked child has the memory of the runtime, but none of its threads.
    process: u32,
    /// None only while it is being dropped.
    runtime: Option<Runtime>,
    /// The open node; opened by the first call that needs it, because it takes the project's writer lock.
    open: Mutex<Option<InProcess>>,
}

type Answer<'py> = (u16, Bound<'py, PyDict>, Bound<'py, PyBytes>);

#[pymethods]
impl NativeProject {
    /// Finds the project in a folder; reads its settings and opens nothing yet.
    #[new]
    fn new(path: PathBuf) -> PyResult<Self> {
        let root = std::path::absolute(path).map_err(|e| error("file_unreadable", e, None))?;
        Project::open(&root).map_err(from_project)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("springhouse")
            .build()
            .map_err(|e| error("internal", format!("the runtime can't start: {e}"), None))?;
        let process = std::process::id();
        Ok(Self { root, process, runtime: Some(runtime), open: Mutex::new(None) })
    }

    /// True in a child process that was forked after the project was opened.
    fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    /// The address of the server that has the project open, if one has.
    fn running_server(&self) -> PyResult<Option<String>> {
        let project = self.project()?;
        let Some(process) = writer_process(&project.paths().online) else { return Ok(None) };
        if process.pid == std::process::id() {
            return Ok(None);
        }
        match process.address {
            Some(address) => Ok(Some(address)),
            None => Err(error(
                "store_locked",
                format!("process {} has this project open and offers no address", process.pid),
                Some("wait until it ends, or stop it"),
            )),
        }
    }

    /// One request of the HTTP contract: status, headers, body.
    fn call<'py>(
        &self,
        py: Python<'py>,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        headers: Vec<(String, String)>,
    ) -> PyResult<Answer<'py>> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let request = request
            .body(body.map_or_else(Bytes::new, Bytes::copy_from_slice))
            .map_err(|e| error("invalid_request", e, None))?;
        let answer = py.detach(|| {
            let open = self.opened()?;
            Ok::<_, PyErr>(self.runtime().block_on(open.call(request)))
        })?;
        let (parts, body) = answer.into_parts();
        let headers = PyDict::new(py);
        for (name, value) in &parts.headers {
            headers.set_item(name.as_str(), value.to_str().unwrap_or_default())?;
        }
        Ok((parts.status.as_u16(), headers, PyBytes::new(py, &body)))
    }

    /// The plan as JSON; with `apply` it is applied, and an open node takes it up.
    #[pyo3(signature = (files, apply, message, by, allow_breaking))]
    fn plan(
        &self,
        py: Python<'_>,
        files: Option<Vec<(String, String)>>,
        apply: bool,
        message: String,
        by: String,
        allow_breaking: bool,
    ) -> PyResult<String> {
        self.check_process()?;
        py.detach(|| {
            let definitions = self.load(files)?.definitions;
            let registry = self.project()?.registry().map_err(from_node)?;
            let meta = SnapshotMeta { applied_at: SystemClock.now(), applied_by: by, message };
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.runtime().block_on(async {
                let plan = Plan::make(definitions, &registry).await.map_err(from_node)?;
                let mut applied = None;
                if apply {
                    if let Some(refusal) = plan.refusal(allow_breaking) {
                        let message = format!("these changes are breaking\n{}", refusal.lines.join("\n"));
                        let hint = refusal
                            .may_be_forced
                            .then_some("`allow_breaking=True` applies them all the same");
                        return Err(error("breaking_changes", message, hint));
                    }
                    applied = plan.apply(&registry, meta).await.map_err(from_node)?;
                    if let Some(open) = open {
                        open.node().reload().await.map_err(from_node)?;
                    }
                }
                let mut body = plan.json();
                body["text"] = json!(plan.text());
                body["is_empty"] = json!(plan.is_empty());
                body["applied"] = json!(applied.map(|snapshot| snapshot.number));
                Ok(body.to_string())
            })
        })
    }

    /// The definition files as (name, text).
    fn definition_files(&self) -> PyResult<Vec<(String, String)>> {
        self.project()?.definition_files().map_err(from_node)
    }

    /// Flushes, checkpoints, closes the node; the project can be opened by others. Safe to call twice.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_forked() {
            return Ok(());
        }
        py.detach(|| {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
            match open {
                Some(open) => self.runtime().block_on(open.close()).map_err(from_server),
                None => Ok(()),
            }
        })
    }
}

impl Drop for NativeProject {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if self.is_forked() {
            // Its threads are not in this process: to wait for them would be for ever.
            std::mem::forget(runtime);
        } else {
            // Whoever wanted an orderly end has closed the project; what is acknowledged is in its log all the same.
            runtime.shutdown_background();
        }
    }
}

impl NativeProject {
    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the project is dropped")
    }

    /// Refuses to work in a child that was forked after the project was opened: its calls would wait for ever.
    fn check_process(&self) -> PyResult<()> {
        if self.is_forked() {
            return Err(error(
                "forked",
                "this store was opened before the process was forked",
                Some("open it in the child, or start children with the method `spawn`"),
            ));
        }
        Ok(())
    }

    fn project(&self) -> PyResult<Project> {
        Project::open(&self.root).map_err(from_project)
    }

    fn load(&self, files: Option<Vec<(String, String)>>) -> PyResult<LoadedDefinitions> {
        match files {
            Some(files) => load_files(&files).map_err(|mistakes| from_mistakes(&mistakes)),
            None => self.project()?.load_definitions().map_err(from_project),
        }
    }

    /// The node behind the contract, opened now if it was not.
    pub(crate) fn opened(&self) -> PyResult<InProcess> {
        self.check_process()?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.as_ref() {
            return Ok(open.clone());
        }
        let project = self.project()?;
        let mut mistakes = Vec::new();
        let settings: ServerSettings = read_section(&project.settings.server, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(from_mistakes(&Mistakes(mistakes)));
        }
        let options = project.node_options(Arc::new(SystemClock));
        // Ingestion and the store start their background tasks on the runtime they are opened on.
        let node = self.runtime().block_on(Node::open(options)).map_err(from_node)?;
        let opened = InProcess::new(node, settings).map_err(from_server)?;
        *open = Some(opened.clone());
        Ok(opened)
    }
}

/// What is wrong in definition files given as (name, text), as JSON: warnings and a summary. Raises with every mistake.
#[pyfunction]
pub(crate) fn validate_files(files: Vec<(String, String)>) -> PyResult<String> {
    let loaded = load_files(&files).map_err(|mistakes| from_mistakes(&mistakes))?;
    Ok(json!({ "mistakes": loaded.warnings, "summary": summary(&loaded.definitions) }).to_string())
}

fn summary(definitions: &Definitions) -> serde_json::Value {
    json!({
        "entities": definitions.entities.len(),
        "sources": definitions.sources.len(),
        "feature_views": definitions.feature_views.len(),
        "request_views": definitions.request_views.len(),
        "feature_services": definitions.feature_services.len(),
    })
}
