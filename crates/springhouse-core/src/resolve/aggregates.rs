//! Windowed aggregates: one entry of the file makes a feature for each of its functions and windows.

use super::views::{TYPE_TO_COME, ViewColumns};
use super::{DeclaredFeature, Resolver, meta};
use crate::declared::{AggregateDecl, FunctionName, WindowText};
use crate::definition::{
    AGGREGATE_CAP_MAX, AGGREGATE_N_MAX, AggregateFunction, DefaultValue, WindowFeature, default_hop,
};
use crate::read::{Entries, OneOrMany};
use crate::time::{SECOND, format_duration};
use std::fmt::Display;
use std::ops::RangeInclusive;

/// The relative error of `approx_quantile` when none is given.
const ALPHA_DEFAULT: f64 = 0.01;
/// The precision of `approx_count_distinct` when none is given: 4096 registers, 1.6 % standard error.
const PRECISION_DEFAULT: u32 = 12;

impl FunctionName {
    fn name(self) -> &'static str {
        self.build(1, 0.5, ALPHA_DEFAULT, 4, 1).name()
    }

    fn build(self, n: u32, q: f64, alpha: f64, precision: u8, cap: u32) -> AggregateFunction {
        match self {
            Self::Count => AggregateFunction::Count,
            Self::Sum => AggregateFunction::Sum,
            Self::Mean => AggregateFunction::Mean,
            Self::Min => AggregateFunction::Min,
            Self::Max => AggregateFunction::Max,
            Self::Variance => AggregateFunction::Variance,
            Self::Stddev => AggregateFunction::Stddev,
            Self::First => AggregateFunction::First,
            Self::Last => AggregateFunction::Last,
            Self::FirstN => AggregateFunction::FirstN(n),
            Self::LastN => AggregateFunction::LastN(n),
            Self::CountDistinct => AggregateFunction::CountDistinct { cap },
            Self::ApproxCountDistinct => AggregateFunction::ApproxCountDistinct { precision },
            Self::ApproxQuantile => AggregateFunction::ApproxQuantile { q, alpha },
            Self::TopN => AggregateFunction::TopN { n, cap },
            Self::ValueCounts => AggregateFunction::ValueCounts { cap },
            Self::SecondsSinceLast => AggregateFunction::SecondsSinceLast,
        }
    }

    /// True when the function takes this parameter.
    fn takes(self, parameter: &str) -> bool {
        match parameter {
            "n" => matches!(self, Self::FirstN | Self::LastN | Self::TopN),
            "q" | "alpha" => self == Self::ApproxQuantile,
            "precision" => self == Self::ApproxCountDistinct,
            "cap" | "over_cap" => matches!(self, Self::CountDistinct | Self::TopN | Self::ValueCounts),
            "column" => self != Self::SecondsSinceLast,
            _ => true,
        }
    }

    /// True when the function gives values of its column back, so that a column of personal data shows in the feature.
    fn shows_values(self) -> bool {
        matches!(
            self,
            Self::Min
                | Self::Max
                | Self::First
                | Self::Last
                | Self::FirstN
                | Self::LastN
                | Self::ApproxQuantile
                | Self::TopN
                | Self::ValueCounts
        )
    }
}

impl Resolver<'_> {
    pub(super) fn aggregates(
        &mut self,
        path: &str,
        declared: &Entries<AggregateDecl>,
        columns: Option<&ViewColumns>,
    ) -> (Vec<WindowFeature>, Vec<DeclaredFeature>) {
        if declared.0.is_empty() {
            let message = "the view has no aggregates; expected at least one".to_owned();
            self.reader.report_at(&format!("{path}.aggregate"), "no_features", message);
        }
        let (mut features, mut places) = (Vec::<WindowFeature>::new(), Vec::new());
        for entry in &declared.0 {
            let aggregate_path = format!("{path}.aggregate.{}", entry.name);
            self.check_name(&aggregate_path, &entry.name);
            let Some(decl) = &entry.value else { continue };
            for feature in self.aggregate(&aggregate_path, &entry.name, decl, columns) {
                if let Some(other) = features.iter().position(|f| f.name == feature.name) {
                    let other: &DeclaredFeature = &places[other];
                    let place = self.reader.spans.locate_key(&other.path);
                    let same = other.path == aggregate_path;
                    let message = format!("the view has a feature `{}` already", feature.name);
                    if let Some(diagnostic) =
                        self.reader.report_key(&aggregate_path, "duplicate_name", message)
                        && !same
                    {
                        diagnostic.relate(place, "made here first");
                    }
                    continue;
                }
                // Whoever checks the features afterwards knows them by their own names.
                self.reader.spans.alias(&aggregate_path, &format!("{path}.aggregate.{}", feature.name));
                features.push(feature);
                let default = decl.default.clone();
                places.push(DeclaredFeature { path: aggregate_path.clone(), default });
            }
        }
        (features, places)
    }

    fn aggregate(
        &mut self,
        path: &str,
        name: &str,
        decl: &AggregateDecl,
        columns: Option<&ViewColumns>,
    ) -> Vec<WindowFeature> {
        for (key, column) in [("column", &decl.column), ("group_by", &decl.group_by)] {
            if let Some(column) = column {
                self.check_column(&format!("{path}.{key}"), false, column, columns);
            }
        }
        let Some(functions) = &decl.functions else { return vec![] };
        if functions.items().is_empty() {
            let message = "the list of functions is empty; expected at least one".to_owned();
            self.reader.report_at(&format!("{path}.fn"), "no_functions", message);
        }
        self.check_parameters(path, decl, functions.items());
        let Some(windows) = &decl.windows else { return vec![] };
        if windows.is_empty() {
            let message = "the list of windows is empty; expected at least one".to_owned();
            self.reader.report_at(&format!("{path}.windows"), "no_windows", message);
        }
        self.check_hop(path, decl, windows);
        let is_pii = |column: &Option<String>| {
            column.as_ref().is_some_and(|c| columns.is_some_and(|known| known.pii.contains(c)))
        };
        let mut features = Vec::new();
        for function in functions.items() {
            let built = function.build(
                decl.n.unwrap_or(1),
                decl.q.unwrap_or(0.5),
                decl.alpha.unwrap_or(ALPHA_DEFAULT),
                u8::try_from(decl.precision.unwrap_or(PRECISION_DEFAULT)).unwrap_or(u8::MAX),
                decl.cap.unwrap_or(1),
            );
            for window in windows {
                features.push(WindowFeature {
                    name: feature_name(name, functions, *function, window),
                    function: built.clone(),
                    column: decl.column.clone(),
                    column_type: None,
                    window: window.length,
                    // `lifetime` has no tail, so its hop says nothing; one second keeps it from looking exact.
                    hop: decl.hop.map_or_else(|| window.length.map_or(SECOND, default_hop), |h| h.0),
                    filter: decl.filter.clone(),
                    group_by: decl.group_by.clone(),
                    group_type: None,
                    value_type: TYPE_TO_COME,
                    default: DefaultValue::Null,
                    pii: (function.shows_values() && is_pii(&decl.column)) || is_pii(&decl.group_by),
                    meta: meta(&decl.description, &decl.owner, &decl.tags),
                });
            }
        }
        features
    }

    fn check_hop(&mut self, path: &str, decl: &AggregateDecl, windows: &[WindowText]) {
        let Some(hop) = decl.hop else { return };
        let path = format!("{path}.hop");
        let Some(shortest) = windows.iter().filter_map(|w| w.length).min() else {
            if !windows.is_empty() {
                let message = "a `lifetime` window has no tail, so `hop` says nothing".to_owned();
                self.reader.report_key(&path, "useless_key", message);
            }
            return;
        };
        if hop.0 > shortest {
            let message = format!(
                "the hop ({}) is longer than the window ({}); expected it to be at most that",
                format_duration(hop.0),
                format_duration(shortest)
            );
            if let Some(diagnostic) = self.reader.report_at(&path, "wrong_hop", message) {
                diagnostic
                    .set_hint(format!("without `hop` it is {}", format_duration(default_hop(shortest))));
            }
        }
    }

    fn check_parameters(&mut self, path: &str, decl: &AggregateDecl, functions: &[FunctionName]) {
        let given = [
            ("n", decl.n.is_some()),
            ("q", decl.q.is_some()),
            ("alpha", decl.alpha.is_some()),
            ("precision", decl.precision.is_some()),
            ("cap", decl.cap.is_some()),
            ("over_cap", decl.over_cap.is_some()),
            ("column", decl.column.is_some()),
        ];
        let names: Vec<String> = functions.iter().map(|f| format!("`{}`", f.name())).collect();
        for (key, is_given) in given {
            let taker = functions.iter().find(|f| f.takes(key));
            let required = match key {
                "alpha" | "precision" => None,
                // A count of events has no column.
                "column" => functions.iter().find(|f| f.takes(key) && **f != FunctionName::Count),
                _ => taker,
            };
            let path = format!("{path}.{key}");
            if is_given && taker.is_none() && !functions.is_empty() {
                let message = format!("{} takes no `{key}`", names.join(", "));
                self.reader.report_key(&path, "useless_key", message);
            } else if let Some(function) = required
                && !is_given
            {
                let message = format!("`{key}` is missing; `{}` needs it", function.name());
                let hint = match key {
                    "cap" => "the most distinct values held for an entity, such as `cap: 1000`",
                    "over_cap" => "`over_cap: null` says that the feature may be null beyond the cap",
                    "q" => "such as `q: 0.95`",
                    "n" => "such as `n: 10`",
                    _ => "name the column that it is computed over",
                };
                if let Some(diagnostic) = self.reader.report_key(&path, "missing_key", message) {
                    diagnostic.set_hint(hint);
                }
            }
        }
        self.check_range(path, "n", decl.n, 1..=AGGREGATE_N_MAX);
        self.check_range(path, "cap", decl.cap, 1..=AGGREGATE_CAP_MAX);
        self.check_range(path, "precision", decl.precision, 4..=16);
        self.check_range(path, "q", decl.q, 0.0..=1.0);
        self.check_range(path, "alpha", decl.alpha, 0.001..=0.1);
    }

    fn check_range<T: PartialOrd + Display>(
        &mut self,
        path: &str,
        key: &str,
        value: Option<T>,
        range: RangeInclusive<T>,
    ) {
        let Some(value) = value.filter(|v| !range.contains(v)) else { return };
        let message = format!("`{key}` is {value}; expected {} to {}", range.start(), range.end());
        self.reader.report_at(&format!("{path}.{key}"), "out_of_range", message);
    }
}

/// One function: NAME_WINDOW. A list of functions: NAME_FUNCTION_WINDOW.
fn feature_name(
    name: &str,
    functions: &OneOrMany<FunctionName>,
    function: FunctionName,
    window: &WindowText,
) -> String {
    match functions {
        OneOrMany::One(_) => format!("{name}_{}", window.text),
        OneOrMany::Many(_) => format!("{name}_{}_{}", function.name(), window.text),
    }
}
