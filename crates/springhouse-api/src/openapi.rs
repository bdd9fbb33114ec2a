//! The OpenAPI 3.1 document, generated from the route table and the wire types.

use crate::definitions::{DefinitionsBody, PlanBody};
use crate::error::{ERROR_CODES, ErrorBody, ErrorCode};
use crate::features::{FeaturesBody, FeaturesRequestBody};
use crate::job::{AdminBody, JobBody, JobRequestBody};
use crate::push::{ARROW_STREAM, PushBody, PushRequestBody};
use crate::routes::{ROUTES, Route, RouteName};
use crate::status::{DeadLetterList, ExplainBody, HealthBody, ReadyBody, StatusBody};
use crate::{ServiceList, ViewList};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;

const DESCRIPTION: &str = "\
How values are written: bool `true`; int32 and int64 integers with all their digits (`\"int64\": \"string\"` for callers \
whose numbers end at 2^53); float32 and float64 the shortest digits that read back to the same bits, and the strings \
`NaN`, `Infinity`, `-Infinity`; bytes base64; timestamps RFC 3339 in UTC with six fractional digits; dates `2013-01-01`; \
decimals strings with all digits of their scale; lists and vectors arrays; maps arrays of `[key, value]` pairs; json \
documents as they are. Keys and request fields are read the same way, into their declared types and without rounding.\n\n\
Every answer that is not a success has the shape of `ErrorBody`; its codes are stable. The header `x-trace-id` names each \
request in the server's log; a W3C `traceparent` header's trace id is taken over.\n\n\
There is no authentication yet: the server binds to loopback unless told otherwise, and `/v1/admin` paths answer only \
this machine (unless `server.admin_remote` is set) and no web page of another origin.";

/// What the document says of a route besides its path and codes.
struct About {
    summary: &'static str,
    description: &'static str,
    /// Schema and example of a JSON request body.
    request: Option<(Json, Json)>,
    /// Status, content type, schema and example of a success.
    response: (u16, &'static str, Json, Option<Json>),
    /// Name, required, description of query parameters.
    query: &'static [(&'static str, bool, &'static str)],
}

const JSON: &str = "application/json";

/// The document.
pub fn openapi() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let mut paths: BTreeMap<&str, Map<String, Json>> = BTreeMap::new();
    let error_schema = schemas.subschema_for::<ErrorBody>().to_value();
    for route in ROUTES {
        let operation = operation(route, &error_schema, about(route.name, &mut schemas));
        paths.entry(route.path).or_default().insert(route.method.as_str().to_lowercase(), operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Springhouse",
            "version": "1",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8765"}],
        "paths": paths,
        "components": {"schemas": schemas.take_definitions(true)},
    })
}

fn operation(route: &Route, error_schema: &Json, about: About) -> Json {
    let (status, content_type, schema, example) = about.response;
    let mut responses = Map::new();
    responses.insert(status.to_string(), success(content_type, &schema, example));
    if route.name == RouteName::Ready {
        let body =
            json!({"description": "Not ready; the checks say why.", "content": {JSON: {"schema": schema}}});
        responses.insert("503".to_owned(), body);
    }
    for (status, codes) in codes_by_status(route) {
        responses.insert(status.to_string(), failure(&codes, error_schema));
    }
    let mut operation = json!({
        "operationId": route.name.label(),
        "summary": about.summary,
        "description": about.description,
        "responses": responses,
    });
    if let Some((schema, example)) = about.request {
        let mut content = json!({JSON: {"schema": schema, "example": example}});
        if route.name == RouteName::Push {
            content[ARROW_STREAM] = json!({"schema": {"type": "string", "contentMediaType": ARROW_STREAM}});
        }
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    if route.name == RouteName::Features {
        operation["responses"]["200"]["content"][ARROW_STREAM] =
            json!({"schema": {"type": "string", "contentMediaType": ARROW_STREAM}});
    }
    if route.name == RouteName::AdminTrainingSet {
        let stream = json!({"schema": {"type": "string", "contentMediaType": ARROW_STREAM}});
        operation["requestBody"] = json!({"required": true, "content": {ARROW_STREAM: stream}});
    }
    let parameters = parameters(route, about.query);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    operation
}

fn success(content_type: &str, schema: &Json, example: Option<Json>) -> Json {
    let mut content = json!({"schema": schema});
    if let Some(example) = example {
        content["example"] = example;
    }
    json!({"description": "Success.", "content": {content_type: content}})
}

/// The codes of a route by status: its own, and those that any route can answer with.
fn codes_by_status(route: &Route) -> BTreeMap<u16, Vec<&'static ErrorCode>> {
    let anywhere = ["method_not_allowed", "headers_too_large", "internal"];
    let mut by_status: BTreeMap<u16, Vec<&ErrorCode>> = BTreeMap::new();
    for code in route.codes.iter().chain(&anywhere) {
        let known = ERROR_CODES
            .iter()
            .find(|k| k.code == *code)
            .expect("the route table names known codes (a test checks)");
        by_status.entry(known.status).or_default().push(known);
    }
    by_status
}

fn failure(codes: &[&ErrorCode], error_schema: &Json) -> Json {
    let lines: Vec<_> = codes.iter().map(|c| format!("- `{}`: {}", c.code, c.meaning)).collect();
    let mut body = json!({
        "description": lines.join("\n"),
        "content": {JSON: {
            "schema": error_schema,
            "example": {"error": {"code": codes[0].code, "message": codes[0].meaning}},
        }},
    });
    if codes.iter().any(|c| c.code == "overloaded") {
        body["headers"] =
            json!({"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}});
    }
    body
}

fn parameters(route: &Route, query: &[(&str, bool, &str)]) -> Vec<Json> {
    let mut parameters = Vec::new();
    for part in route.path.split('/') {
        if let Some(name) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
            parameters
                .push(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
        }
    }
    for (name, required, description) in query {
        parameters.push(json!({
            "name": name, "in": "query", "required": required, "description": description,
            "schema": {"type": "string"},
        }));
    }
    if route.name == RouteName::Push {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false, "schema": {"type": "string"},
            "description": "A second push with this key changes nothing and gets the first outcome again.",
        }));
    }
    parameters
}

fn about(route: RouteName, schemas: &mut SchemaGenerator) -> About {
    macro_rules! schema {
        ($type:ty) => {
            schemas.subschema_for::<$type>().to_value()
        };
    }
    let plain = |summary, description, schema| About {
        summary,
        description,
        request: None,
        response: (200, JSON, schema, None),
        query: &[],
    };
    let job = |summary, description, request, response| About {
        summary,
        description,
        request: Some((request, json!({"views": ["origin_delays"]}))),
        response: (202, JSON, response, None),
        query: &[],
    };
    match route {
        RouteName::Features => About {
            summary: "Features of entities, now",
            description: "By service or by name, for one or many entity rows, with the status and age of every value. \
                          With the Arrow stream's media type in `Accept`: a column per feature and one each for `__status` and `__age_s`.",
            request: Some((
                schema!(FeaturesRequestBody),
                json!({"service": "delay_model", "entities": {"origin": ["JFK", "EWR"]}, "max_age": "30s"}),
            )),
            response: (
                200,
                JSON,
                schema!(FeaturesBody),
                Some(json!({
                    "at": "2013-01-01T05:00:00.000000Z",
                    "level": "healthy",
                    "definition": "9f2c41d0",
                    "row_count": 2,
                    "features": {"dep_delay_mean_1h": {
                        "type": "float64",
                        "values": [12.5, null],
                        "status": ["fresh", "null"],
                        "age_s": [0.42, 0.42],
                    }},
                })),
            ),
            query: &[],
        },
        RouteName::Push => About {
            summary: "Pushes events of a stream source",
            description: "Answers when the rows are durable and applied: a read that starts after the answer sees them. \
                          Rows are accepted or refused one by one; 200 says that the batch was processed, `refused` \
                          and `exceptions` say which rows were not taken. 4xx and 5xx: nothing of the batch was taken.",
            request: Some((
                schema!(PushRequestBody),
                json!({
                    "rows": [{"origin": "JFK", "departed_at": "2013-01-01T05:00:00Z", "dep_delay": 2.5}],
                    "idempotency_key": "batch-17",
                }),
            )),
            response: (
                200,
                JSON,
                schema!(PushBody),
                Some(json!({
                    "accepted": 1, "duplicates": 0, "refused": 0, "exceptions": [], "end_offset": 4711,
                    "known_at": "2013-01-01T05:00:01.250000Z",
                })),
            ),
            query: &[
                ("backfill", false, "`true`: old events, known by the source's table rule"),
                (
                    "dry_run",
                    false,
                    "`true`: only says what would become of the rows; it can't tell duplicates",
                ),
            ],
        },
        RouteName::Status => {
            plain("The node at a glance", "Views, frontiers, ages, positions.", schema!(StatusBody))
        }
        RouteName::Views => plain("Views and their features", "As applied.", schema!(ViewList)),
        RouteName::Services => {
            plain("Feature services and their policies", "As applied.", schema!(ServiceList))
        }
        RouteName::Explain => About {
            query: &[
                ("view", true, "the feature view"),
                ("key.{name}", true, "the value of each entity key, such as `key.origin=JFK`"),
            ],
            ..plain(
                "What a view's features are made of for one entity",
                "The tiles, events or row behind each number.",
                schema!(ExplainBody),
            )
        },
        RouteName::DeadLetters => About {
            query: &[("limit", false, "at most this many, 100 unless told; up to 10000")],
            ..plain("Refused rows of a source", "Newest first.", schema!(DeadLetterList))
        },
        RouteName::AdminFlush => {
            plain("Flushes the push log to the lake", "Answers when it is done.", schema!(AdminBody))
        }
        RouteName::AdminCheckpoint => {
            plain("Makes the online store durable", "Answers when it is done.", schema!(AdminBody))
        }
        RouteName::AdminReload => {
            plain("Takes up the registry's head", "After `springhouse apply`.", schema!(AdminBody))
        }
        RouteName::AdminMaterialize => job(
            "Loads what is new in the history",
            "Starts a job and answers with its id.",
            schema!(JobRequestBody),
            schema!(JobBody),
        ),
        RouteName::AdminRebuild => job(
            "Builds views again from the history and switches to them",
            "Starts a job and answers with its id.",
            schema!(JobRequestBody),
            schema!(JobBody),
        ),
        RouteName::AdminVerify => job(
            "Compares online with offline values, bit for bit",
            "Starts a job and answers with its id.",
            schema!(JobRequestBody),
            schema!(JobBody),
        ),
        RouteName::AdminPlan => About {
            summary: "What applying definitions would change",
            description: "Takes the texts of definition files and changes nothing.",
            request: Some((
                schema!(DefinitionsBody),
                json!({"files": {"features/users.yaml": "entities: {user: {keys: {user_id: int64}}}"}}),
            )),
            response: (200, JSON, schema!(PlanBody), None),
            query: &[],
        },
        RouteName::AdminApply => About {
            summary: "Applies definitions and takes them up",
            description: "All of it or nothing; a breaking change needs `allow_breaking`.",
            request: Some((
                schema!(DefinitionsBody),
                json!({"files": {"features/users.yaml": "entities: {user: {keys: {user_id: int64}}}"}, "message": "users"}),
            )),
            response: (200, JSON, schema!(PlanBody), None),
            query: &[],
        },
        RouteName::AdminTrainingSet => About {
            summary: "A training set for labels",
            description: "Takes the labels and answers with the training set, both as Arrow IPC streams, in the labels' \
                          order. The schema's metadata has the manifest under `springhouse.manifest`.",
            request: None,
            response: (200, ARROW_STREAM, json!({"type": "string", "contentMediaType": ARROW_STREAM}), None),
            query: &[
                (
                    "at_column",
                    false,
                    "the labels' column with the moment; `event_timestamp` or the only timestamp column",
                ),
                ("time_zone", false, "the zone of label times that carry none"),
                ("availability", false, "`known` (default) or `event`: which of an event's times count"),
            ],
        },
        RouteName::AdminJob => plain("A job", "The newest 100 are kept.", schema!(JobBody)),
        RouteName::Health => {
            plain("Whether the process lives", "Looks at nothing else.", schema!(HealthBody))
        }
        RouteName::Ready => {
            plain("Whether requests should be sent here", "Every check with its result.", schema!(ReadyBody))
        }
        RouteName::Metrics => About {
            response: (
                200,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                json!({"type": "string"}),
                None,
            ),
            ..plain("Metrics", "OpenMetrics text.", json!({}))
        },
        RouteName::OpenApi => plain("This document", "OpenAPI 3.1.", json!({"type": "object"})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_is_as_stored() {
        insta::assert_json_snapshot!("openapi", openapi());
    }

    #[test]
    fn every_reference_resolves_and_every_schema_is_used() {
        let document = openapi();
        let text = document.to_string();
        let known: BTreeSet<_> =
            document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
        let used: BTreeSet<_> = text
            .split("\"#/components/schemas/")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().to_owned())
            .collect();
        assert_eq!(known, used);
    }

    #[test]
    fn routes_name_known_codes_and_their_paths_are_unique() {
        let mut seen = BTreeSet::new();
        for route in ROUTES {
            assert!(seen.insert((route.path, route.method)), "{}", route.path);
            for code in route.codes {
                assert!(ERROR_CODES.iter().any(|known| known.code == *code), "{code}");
            }
        }
        // Every code belongs somewhere; these four stand before or beside the routes.
        let beside = ["unknown_route", "method_not_allowed", "headers_too_large", "not_ready", "internal"];
        for known in ERROR_CODES.iter().filter(|known| !beside.contains(&known.code)) {
            assert!(ROUTES.iter().any(|route| route.codes.contains(&known.code)), "{}", known.code);
        }
    }

    /// The examples are requests and answers that the types take.
    #[test]
    fn examples_are_valid() {
        let document = openapi();
        let at =
            |path: &str, rest: &str| document.pointer(&format!("/paths/{path}/post/{rest}")).unwrap().clone();
        let request = "requestBody/content/application~1json/example";
        let response = "responses/200/content/application~1json/example";
        let _: FeaturesRequestBody = serde_json::from_value(at("~1v1~1features", request)).unwrap();
        let text = at("~1v1~1features", response).to_string();
        let body: FeaturesBody = serde_json::from_str(&text).unwrap();
        assert_eq!(body.features.unwrap().len(), 1);
        let _: PushRequestBody = serde_json::from_value(at("~1v1~1push~1{source}", request)).unwrap();
        let _: PushBody = serde_json::from_value(at("~1v1~1push~1{source}", response)).unwrap();
        let _: JobRequestBody = serde_json::from_value(at("~1v1~1admin~1rebuild", request)).unwrap();
    }
}
