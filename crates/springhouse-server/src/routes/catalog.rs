//! What is defined, how far it is, and what was refused.

use super::{Answer, json, json_bytes, last_segment};
use crate::app::App;
use crate::metrics::Metrics;
use crate::problem::{from_node, from_push};
use axum::extract::Request;
use axum::http::StatusCode;
use springhouse_api::{
    ApiError, DeadLetterBody, DeadLetterList, PartitionBody, PositionsBody, ServiceList, StatusBody,
    StoreBody, StreamBody, TopicBody, ViewList, ViewStatusBody, format_timestamp, parse_query, tier_name,
};
use springhouse_core::{Definitions, Micros};
use springhouse_ingest::LatencyHistogram;
use springhouse_node::{NodeStatus, PartitionStatus, TopicStatus, ViewLine};
use std::sync::Arc;

pub(super) async fn status(app: Arc<App>, _: Request) -> Answer {
    let status = app.node.status().await.map_err(from_node)?;
    json(StatusCode::OK, &status_body(&status, &app.node.definitions(), &app.metrics))
}

pub(super) async fn views(app: Arc<App>, _: Request) -> Answer {
    json(StatusCode::OK, &ViewList::of(&app.node.definitions()))
}

pub(super) async fn services(app: Arc<App>, _: Request) -> Answer {
    json(StatusCode::OK, &ServiceList::of(&app.node.definitions()))
}

pub(super) async fn openapi(app: Arc<App>, _: Request) -> Answer {
    Ok(json_bytes(StatusCode::OK, app.document.clone()))
}

const DEAD_LETTERS_DEFAULT: usize = 100;
const DEAD_LETTERS_MAX: usize = 10_000;

pub(super) async fn dead_letters(app: Arc<App>, request: Request) -> Answer {
    let source = last_segment(&request)?;
    let limit = limit(request.uri().query())?;
    if !app.node.definitions().sources.contains_key(&source) {
        return Err(ApiError::new("unknown_source", "there is no source of this name")
            .hint("sources are named in /v1/views"));
    }
    let letters = app.node.ingest().dead_letters(&source, limit).await.map_err(from_push)?;
    let dead_letters = letters
        .into_iter()
        .map(|letter| DeadLetterBody {
            offset: letter.offset,
            refused_at: format_timestamp(letter.refused_at),
            code: letter.code,
            reason: letter.reason,
            row: letter.row,
        })
        .collect();
    json(StatusCode::OK, &DeadLetterList { source, dead_letters })
}

fn limit(query: Option<&str>) -> Result<usize, ApiError> {
    let mut limit = DEAD_LETTERS_DEFAULT;
    for pair in parse_query(query.unwrap_or_default())? {
        let value = pair.value.parse().ok().filter(|n| (1..=DEAD_LETTERS_MAX).contains(n));
        limit = match (pair.name.as_str(), value) {
            ("limit", Some(value)) => value,
            ("limit", None) => {
                return Err(ApiError::new("invalid_query", "`limit` is a number from 1 to 10000"));
            }
            _ => return Err(ApiError::new("invalid_query", "the only query parameter here is `limit`")),
        };
    }
    Ok(limit)
}

fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}

fn topic_body(topic: &TopicStatus, now: Micros) -> TopicBody {
    let known = (topic.frontier != Micros::MIN).then_some(topic.frontier);
    let partition = |partition: &PartitionStatus| PartitionBody {
        partition: partition.partition,
        position: partition.position,
        end: partition.end,
        lag_messages: partition.lag(),
        newest: partition.newest.map(format_timestamp),
    };
    TopicBody {
        source: topic.source.clone(),
        topic: topic.topic.clone(),
        lag_messages: topic.lag(),
        lag_s: topic.lag_seconds(),
        rate: topic.rate,
        frontier: known.map(format_timestamp),
        age_s: known.map(|frontier| seconds((now - frontier).max(0))),
        messages: topic.messages,
        tombstones: topic.tombstones,
        lost: topic.lost,
        failing: topic.error.is_some(),
        partitions: topic.partitions.iter().map(partition).collect(),
    }
}

fn status_body(status: &NodeStatus, definitions: &Definitions, metrics: &Metrics) -> StatusBody {
    let view = |line: &ViewLine| {
        let name = line.view.split('@').next().unwrap_or_default();
        let tier = definitions.feature_views.get(name).and_then(|view| view.slo.tier);
        let served = metrics.served_ages(name, status.now);
        // An age beyond the last bound is no number in JSON.
        let finite = |age: f64| Some(age).filter(|age| age.is_finite());
        ViewStatusBody {
            view: line.view.clone(),
            entity: line.entity.clone(),
            source: line.source.clone(),
            tier: tier.map(|tier| tier_name(tier).to_owned()),
            generation: line.generation,
            frontier: line.frontier.map(format_timestamp),
            age_s: line.age.map(seconds),
            slo_p95_s: seconds(line.slo_p95),
            slo_p99_s: seconds(line.slo_p99),
            served_p50_s: served.and_then(|[p50, ..]| finite(p50)),
            served_p95_s: served.and_then(|[_, p95, _]| finite(p95)),
            served_p99_s: served.and_then(|[.., p99]| finite(p99)),
            within_slo: line.age.is_some_and(|age| age <= line.slo_p99),
        }
    };
    StatusBody {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: format_timestamp(status.now),
        snapshot: status.snapshot,
        definition: status.definition_hash.clone(),
        views: status.views.iter().map(view).collect(),
        positions: PositionsBody {
            log_end: status.positions.log_end,
            applied_end: status.positions.applied_end,
            flushed_end: status.positions.flushed_end,
            applied_frontier: format_timestamp(status.positions.applied_frontier),
            log_bytes: status.positions.log_bytes,
            log_failing: status.positions.log_error.is_some(),
            flush_failing: status.positions.flush_error.is_some(),
        },
        store: StoreBody {
            entities_in_memory: status.store.entities_in_memory,
            bytes_in_memory: status.store.bytes_in_memory,
            dirty_entities: status.store.dirty_entities,
        },
        topics: status.topics.iter().map(|topic| topic_body(topic, status.now)).collect(),
        streams: status.latencies.iter().map(|(source, latencies)| stream_body(source, latencies)).collect(),
    }
}

fn stream_body(source: &str, latencies: &LatencyHistogram) -> StreamBody {
    let quantile = |share| latencies.quantile_seconds(share).filter(|seconds| seconds.is_finite());
    StreamBody {
        source: source.to_owned(),
        events: latencies.count(),
        p50_s: quantile(0.5),
        p95_s: quantile(0.95),
        p99_s: quantile(0.99),
    }
}
