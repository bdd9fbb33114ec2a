//! What a server tells of itself besides its metrics: logs, and traces in OpenTelemetry's protocol.
//!
//! A trace is written down after its request, from times that were taken on the way: what is not sampled costs nothing, and
//! the libraries know nothing of any tracing.

use anyhow::Context;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks,
    SpanProcessor,
};
use springhouse_server::{FinishedRequest, RequestTracer, TraceContext};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What is logged: the Delta reader tells of every snapshot it opens, and of every commit that another writer was faster with.
const LOG_FILTER: &str = "info,buoyant_kernel=warn,buoyant_kernel_engine=warn,deltalake_core=warn,deltalake_core::kernel::transaction=error";
/// Most spans sent at once.
const EXPORT_SPANS_MAX: usize = 512;
/// How long spans wait for others.
const EXPORT_DELAY: Duration = Duration::from_secs(1);
/// How long a stopping server waits for its last spans to be sent.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// The section `telemetry` of a project's settings.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TelemetrySettings {
    /// Lines for people, or JSON objects.
    pub log_format: LogFormat,
    /// Where a collector takes OTLP over gRPC, such as `http://127.0.0.1:4317`; nothing: no traces.
    pub otlp_endpoint: String,
    /// The part of the traces that is kept of requests whose caller does not trace, 0 to 1. A caller that traces decides.
    pub sample_ratio: f64,
    /// The name of this service in traces.
    pub service_name: String,
    /// Most spans that wait to be sent; further ones are thrown away.
    pub spans_max: usize,
    /// How long the collector may take.
    pub export_timeout_ms: u64,
}

/// The log's form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            otlp_endpoint: String::new(),
            sample_ratio: 0.01,
            service_name: "springhouse".to_owned(),
            spans_max: 8_192,
            export_timeout_ms: 10_000,
        }
    }
}

impl TelemetrySettings {
    /// All complaints at once; empty when the settings make sense.
    pub(crate) fn validate(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            complaints.push("`telemetry.sample_ratio` lies between 0 and 1".to_owned());
        }
        if !self.otlp_endpoint.is_empty() && !self.otlp_endpoint.starts_with("http://") {
            complaints.push(
                "`telemetry.otlp_endpoint` begins with `http://`; TLS to elsewhere is the work of a collector beside the server"
                    .to_owned(),
            );
        }
        for (name, value) in
            [("spans_max", self.spans_max as u64), ("export_timeout_ms", self.export_timeout_ms)]
        {
            if value == 0 {
                complaints.push(format!("`telemetry.{name}` must not be 0"));
            }
        }
        complaints
    }
}

/// Begins to write the log.
pub(crate) fn begin_log(format: LogFormat) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(LOG_FILTER))
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// Sends traces to a collector.
#[derive(Debug)]
pub(crate) struct Traces {
    processor: BatchSpanProcessor,
    ids: RandomIdGenerator,
    scope: InstrumentationScope,
    sample_ratio: f64,
}

impl Traces {
    /// None when no collector is given. Needs a runtime; the collector need not be there yet.
    ///
    /// # Errors
    /// When the endpoint is no address.
    pub(crate) fn begin(settings: &TelemetrySettings) -> anyhow::Result<Option<Arc<Self>>> {
        if settings.otlp_endpoint.is_empty() {
            return Ok(None);
        }
        let timeout = Duration::from_millis(settings.export_timeout_ms);
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&settings.otlp_endpoint)
            .with_timeout(timeout)
            .build()
            .with_context(|| format!("`telemetry.otlp_endpoint`: {}", settings.otlp_endpoint))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(settings.spans_max)
            .with_max_export_batch_size(EXPORT_SPANS_MAX.min(settings.spans_max))
            .with_scheduled_delay(EXPORT_DELAY)
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let resource = Resource::builder()
            .with_service_name(settings.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        processor.set_resource(&resource);
        let scope =
            InstrumentationScope::builder("springhouse").with_version(env!("CARGO_PKG_VERSION")).build();
        let (ids, sample_ratio) = (RandomIdGenerator::default(), settings.sample_ratio);
        Ok(Some(Arc::new(Self { processor, ids, scope, sample_ratio })))
    }

    /// Sends what is left, for a bounded time.
    pub(crate) fn end(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }

    fn span(&self, name: &'static str, context: SpanContext, times: (SystemTime, SystemTime)) -> SpanData {
        SpanData {
            span_context: context,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: times.0,
            end_time: times.1,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }

    fn context(&self, trace: TraceId) -> SpanContext {
        let span = self.ids.new_span_id();
        SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::default())
    }
}

impl RequestTracer for Traces {
    fn wants(&self, context: &TraceContext) -> bool {
        match context.parent {
            Some(parent) => parent.is_sampled,
            None => context.is_in(self.sample_ratio),
        }
    }

    fn finished(&self, request: &FinishedRequest<'_>) {
        let Ok(trace) = TraceId::from_hex(&request.context.id) else { return };
        let began = SystemTime::now() - request.began.elapsed();
        let mut root = self.span(request.route, self.context(trace), (began, began + request.took));
        root.span_kind = SpanKind::Server;
        if let Some(parent) = request.context.parent {
            root.parent_span_id = SpanId::from_bytes(parent.id.to_be_bytes());
            root.parent_span_is_remote = true;
        }
        root.attributes.push(KeyValue::new("http.response.status_code", i64::from(request.status)));
        if let Some(rows) = request.rows {
            root.attributes.push(KeyValue::new("springhouse.rows", i64::try_from(rows).unwrap_or(i64::MAX)));
        }
        if request.status >= 500 {
            root.status = Status::error("");
        }
        if let Some(stages) = request.stages
            && let Some(begun) = stages.begun()
        {
            let begun = began + begun.duration_since(request.began);
            for (stage, offset, took) in stages.iter() {
                let times = (begun + offset, begun + offset + took);
                let mut span = self.span(stage.word(), self.context(trace), times);
                span.parent_span_id = root.span_context.span_id();
                if stage == springhouse_serving::Stage::Store {
                    let calls = i64::from(stages.store_calls);
                    span.attributes.push(KeyValue::new("springhouse.store_calls", calls));
                }
                self.processor.on_end(span);
            }
        }
        self.processor.on_end(root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use springhouse_server::ParentSpan;

    fn settings(ratio: f64) -> TelemetrySettings {
        let otlp_endpoint = "http://127.0.0.1:1".to_owned();
        TelemetrySettings { otlp_endpoint, sample_ratio: ratio, ..TelemetrySettings::default() }
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(TelemetrySettings::default().validate(), Vec::<String>::new());
        let wrong = TelemetrySettings {
            otlp_endpoint: "https://collector:4317".to_owned(),
            sample_ratio: f64::NAN,
            spans_max: 0,
            ..TelemetrySettings::default()
        };
        assert_eq!(wrong.validate().len(), 3);
    }

    #[tokio::test]
    async fn the_caller_decides_else_the_ratio() {
        for ratio in [0.0, 1.0] {
            let traces = Traces::begin(&settings(ratio)).unwrap().unwrap();
            let context = |parent| TraceContext { id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(), parent };
            assert_eq!(traces.wants(&context(None)), ratio == 1.0);
            for is_sampled in [false, true] {
                let parent = Some(ParentSpan { id: 7, is_sampled });
                assert_eq!(traces.wants(&context(parent)), is_sampled);
            }
        }
    }
}
