//! The functions that an expression may call: DataFusion's scalar functions that give the same result for the same
//! arguments wherever and whenever they run.

use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result, TableReference, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF};
use datafusion_sql::sqlparser::ast;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

/// What the planner may know: functions and options, no tables, no variables.
pub(crate) struct Functions {
    allowed: BTreeMap<String, Arc<ScalarUDF>>,
    refused: BTreeSet<String>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    pub(crate) options: Arc<ConfigOptions>,
}

/// Why a function can't be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its result depends on more than its arguments.
    NotDeterministic,
    /// It works on many rows.
    Aggregate,
    /// There is none of this name.
    Unknown,
}

/// Functions about the engine, the file or Arrow's types rather than about values.
const NOT_ABOUT_VALUES: [&str; 16] = [
    "version",
    "arrow_cast",
    "arrow_try_cast",
    "arrow_field",
    "arrow_metadata",
    "arrow_typeof",
    "with_metadata",
    "cast_to_type",
    "try_cast_to_type",
    "union_extract",
    "union_tag",
    "input_file_name",
    "file_row_index",
    "struct",
    "named_struct",
    "get_field",
];

/// What people call that works on many rows, for a better message than "unknown".
const AGGREGATES: [&str; 27] = [
    "count",
    "sum",
    "avg",
    "mean",
    "min",
    "max",
    "median",
    "stddev",
    "stddev_samp",
    "stddev_pop",
    "var",
    "var_samp",
    "var_pop",
    "variance",
    "first",
    "last",
    "first_value",
    "last_value",
    "array_agg",
    "string_agg",
    "approx_distinct",
    "approx_percentile_cont",
    "row_number",
    "rank",
    "lag",
    "lead",
    "count_distinct",
];

/// Names of other systems for what is not deterministic.
const NOT_DETERMINISTIC: [&str; 14] = [
    "rand",
    "gen_random_uuid",
    "newid",
    "getdate",
    "sysdate",
    "localtime",
    "localtimestamp",
    "current_timestamp",
    "current_date",
    "current_time",
    "current_user",
    "clock_timestamp",
    "today",
    "now",
];

pub(crate) static FUNCTIONS: LazyLock<Functions> = LazyLock::new(Functions::new);

impl Functions {
    fn new() -> Self {
        let mut options = ConfigOptions::default();
        // An instant without an offset is UTC, in every function and cast.
        options.execution.time_zone = Some("UTC".to_owned());
        options.sql_parser.enable_ident_normalization = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        let mut allowed = BTreeMap::new();
        let mut refused: BTreeSet<String> = NOT_DETERMINISTIC.iter().map(|name| (*name).to_owned()).collect();
        for function in datafusion_functions::all_default_functions() {
            let function = function.inner().with_updated_config(&options).map_or(function, Arc::new);
            let names = std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str));
            if function.signature().volatility != Volatility::Immutable {
                refused.extend(names.map(str::to_owned));
            } else if !NOT_ABOUT_VALUES.contains(&function.name()) {
                let names: Vec<_> = names.map(str::to_owned).collect();
                allowed.extend(names.into_iter().map(|name| (name, Arc::clone(&function))));
            }
        }
        let planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
            Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
            Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
        ];
        Self { allowed, refused, planners, options: Arc::new(options) }
    }

    /// Whether `name` (in any case) may be called.
    pub(crate) fn check(&self, name: &str) -> std::result::Result<(), Refusal> {
        let name = name.to_lowercase();
        if self.allowed.contains_key(&name) {
            Ok(())
        } else if self.refused.contains(&name) {
            Err(Refusal::NotDeterministic)
        } else if AGGREGATES.contains(&name.as_str()) {
            Err(Refusal::Aggregate)
        } else {
            Err(Refusal::Unknown)
        }
    }

    /// The names that may be called.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.allowed.keys().map(String::as_str)
    }
}

impl ContextProvider for Functions {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        plan_err!("an expression reads the columns of its row only, not the table {name}")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.allowed.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<arrow::datatypes::DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.allowed.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The function's name as written, and where.
pub(crate) fn called_name(function: &ast::Function) -> String {
    function.name.to_string().to_lowercase()
}
