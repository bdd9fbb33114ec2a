//! Every route of the API, once: the document is generated from this table, and the server's router is tested against it.

/// HTTP methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
}

impl Method {
    /// As in a request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

macro_rules! routes {
    ($($name:ident, $label:literal, $method:ident, $path:literal, $codes:expr;)*) => {
        /// The routes by name; their label in metrics is the operation id of the document.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RouteName {
            $(#[doc = concat!("`", $path, "`.")] $name,)*
        }

        impl RouteName {
            /// The operation id in the document and the label in metrics.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }

        /// Every route.
        pub const ROUTES: &[Route] = &[
            $(Route { name: RouteName::$name, method: Method::$method, path: $path, codes: $codes },)*
        ];
    };
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Its name.
    pub name: RouteName,
    /// Its method.
    pub method: Method,
    /// Its path, parameters in braces.
    pub path: &'static str,
    /// The error codes that belong to it, besides those that any route can answer with.
    pub codes: &'static [&'static str],
}

const BODY: [&str; 6] = [
    "malformed_json",
    "invalid_request",
    "too_large",
    "unsupported_content_type",
    "unsupported_content_encoding",
    "body_timeout",
];

const FEATURES: &[&str] = &[
    BODY[0],
    BODY[1],
    BODY[2],
    BODY[3],
    BODY[4],
    BODY[5],
    "unknown_service",
    "unknown_feature",
    "unknown_view",
    "missing_entity_key",
    "unknown_entity_key",
    "invalid_entity_key",
    "wrong_type",
    "missing_request_field",
    "unknown_request_field",
    "row_count_mismatch",
    "too_many_rows",
    "too_many_features",
    "denied",
    "stale_refused",
    "expired_refused",
    "missing_refused",
    "store_unavailable",
    "store_corrupt",
    "shed",
    "deadline_exceeded",
];

const PUSH: &[&str] = &[
    BODY[0],
    BODY[1],
    BODY[2],
    BODY[3],
    BODY[4],
    BODY[5],
    "invalid_query",
    "malformed_body",
    "schema_mismatch",
    "unknown_source",
    "not_a_stream",
    "invalid_idempotency_key",
    "overloaded",
    "log_failed",
    "log_corrupt",
    "store_failed",
    "store_lost",
    "shutting_down",
];

const ADMIN: &[&str] = &[
    BODY[0],
    BODY[1],
    BODY[2],
    BODY[3],
    BODY[4],
    BODY[5],
    "forbidden_origin",
    "nothing_applied",
    "store_lost",
    "lake_failed",
    "log_failed",
    "store_unavailable",
    "shutting_down",
];

const JOB: &[&str] = &[
    BODY[0],
    BODY[1],
    BODY[2],
    BODY[3],
    BODY[4],
    BODY[5],
    "forbidden_origin",
    "unknown_view",
    "job_running",
    "shutting_down",
];

const DEFINITIONS: &[&str] = &[
    BODY[0],
    BODY[1],
    BODY[2],
    BODY[3],
    BODY[4],
    BODY[5],
    "forbidden_origin",
    "definitions_wrong",
    "breaking_changes",
    "registry_conflict",
    "store_unavailable",
];

const TRAINING: &[&str] = &[
    BODY[2],
    BODY[3],
    BODY[4],
    BODY[5],
    "forbidden_origin",
    "invalid_query",
    "malformed_body",
    "unknown_service",
    "job_running",
    "labels_empty",
    "labels_missing_at_column",
    "labels_missing_key",
    "labels_missing_field",
    "labels_wrong_type",
    "labels_column_taken",
    "labels_bad_time",
    "labels_unreadable",
    "naive_timestamp",
    "ambiguous_local_time",
    "unknown_time_zone",
    "source_not_found",
    "source_changed",
    "lake_failed",
    "log_failed",
    "shutting_down",
];

const EXPLAIN: &[&str] = &[
    "invalid_query",
    "unknown_view",
    "missing_entity_key",
    "unknown_entity_key",
    "invalid_entity_key",
    "wrong_type",
    "denied",
    "store_unavailable",
    "store_corrupt",
];

routes! {
    Features, "features", Post, "/v1/features", FEATURES;
    Push, "push", Post, "/v1/push/{source}", PUSH;
    Status, "status", Get, "/v1/status", &["store_unavailable"];
    Views, "views", Get, "/v1/views", &[];
    Services, "services", Get, "/v1/services", &[];
    Explain, "explain", Get, "/v1/explain", EXPLAIN;
    DeadLetters, "dead_letters", Get, "/v1/dead-letters/{source}", &["invalid_query", "unknown_source"];
    AdminFlush, "admin_flush", Post, "/v1/admin/flush", ADMIN;
    AdminCheckpoint, "admin_checkpoint", Post, "/v1/admin/checkpoint", ADMIN;
    AdminReload, "admin_reload", Post, "/v1/admin/reload", ADMIN;
    AdminMaterialize, "admin_materialize", Post, "/v1/admin/materialize", JOB;
    AdminRebuild, "admin_rebuild", Post, "/v1/admin/rebuild", JOB;
    AdminVerify, "admin_verify", Post, "/v1/admin/verify", JOB;
    AdminPlan, "admin_plan", Post, "/v1/admin/plan", DEFINITIONS;
    AdminApply, "admin_apply", Post, "/v1/admin/apply", DEFINITIONS;
    AdminTrainingSet, "admin_training_set", Post, "/v1/admin/training-sets/{service}", TRAINING;
    AdminJob, "admin_job", Get, "/v1/admin/jobs/{id}", &["forbidden_origin", "unknown_job"];
    Health, "health", Get, "/health", &[];
    Ready, "ready", Get, "/ready", &[];
    Metrics, "metrics", Get, "/metrics", &[];
    OpenApi, "openapi", Get, "/openapi.json", &[];
}
