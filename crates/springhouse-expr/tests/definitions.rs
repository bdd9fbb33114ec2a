//! Types found by planning, and the way from a source's rows to a view's inputs.
#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use arrow::array::{Array, RecordBatch};
use insta::assert_snapshot;
use springhouse_core::definition::*;
use springhouse_core::{Definitions, Value, ValueType};
use springhouse_expr::{SourceTransform, ViewProjection, resolve_types};
use springhouse_kernel::{Stamp, ViewInput, ViewPlan, array_from_values};

fn typed(text: &str) -> ValueType {
    text.parse().unwrap()
}

fn column(name: &str, value_type: &str) -> Column {
    Column {
        name: name.to_owned(),
        value_type: typed(value_type),
        required: false,
        pii: false,
        from: None,
        description: String::new(),
    }
}

/// Derived columns from lines `name: sql`, typed `json` so that a type that was not filled in shows.
fn derived(lines: &str) -> Vec<Derived> {
    let pairs = lines.lines().map(str::trim).filter(|l| !l.is_empty()).filter_map(|l| l.split_once(": "));
    pairs
        .map(|(name, sql)| Derived { name: name.into(), sql: sql.into(), value_type: ValueType::Json })
        .collect()
}

fn source(filter: Option<&str>, lines: &str) -> Source {
    Source {
        name: "flights".into(),
        kind: SourceKind::Push { history: None },
        kafka: None,
        ndjson: None,
        event_time: "at".into(),
        known_at: KnownAt::Delay(0),
        columns: vec![
            column("at", "timestamp"),
            column("origin", "string"),
            column("carrier", "string"),
            column("delay", "float64"),
            column("distance", "int32"),
        ],
        filter: filter.map(str::to_owned),
        derived: derived(lines),
        sequence: None,
        event_id: None,
        op: None,
        time_zone: None,
        max_clock_skew: 5_000_000,
        max_event_age: i64::MAX,
        meta: Meta::default(),
    }
}

fn view(filter: Option<&str>, lines: &str, kind: ViewKind) -> FeatureView {
    FeatureView {
        name: "delays".into(),
        version: 1,
        entity: "origin".into(),
        source: "flights".into(),
        key_columns: vec!["origin".into()],
        op: None,
        filter: filter.map(str::to_owned),
        derived: derived(lines),
        kind,
        soft_ttl: None,
        hard_ttl: 1,
        slo: FreshnessSlo { tier: None, p95: 1, p99: 1 },
        meta: Meta::default(),
    }
}

fn window(
    name: &str,
    function: AggregateFunction,
    column: Option<&str>,
    filter: Option<&str>,
) -> WindowFeature {
    WindowFeature {
        name: name.into(),
        function,
        column: column.map(str::to_owned),
        column_type: None,
        window: Some(3_600_000_000),
        hop: 60_000_000,
        filter: filter.map(str::to_owned),
        group_by: None,
        group_type: None,
        value_type: ValueType::Json,
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    }
}

fn latest(name: &str, column: &str) -> LatestFeature {
    LatestFeature {
        name: name.into(),
        column: column.into(),
        value_type: ValueType::Json,
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    }
}

/// A request view of inputs (`name: view:feature`), one field `minutes` and features (`name: sql`).
fn request_view(name: &str, inputs: &str, lines: &str) -> RequestView {
    let pairs = inputs.lines().map(str::trim).filter_map(|l| l.split_once(": "));
    let inputs = pairs.filter_map(|(name, feature)| {
        let (view, feature) = feature.split_once(':')?;
        Some((name.to_owned(), FeatureRef { view: view.into(), feature: feature.into() }))
    });
    RequestView {
        name: name.into(),
        version: 1,
        fields: vec![column("minutes", "int64")],
        inputs: inputs.collect(),
        features: derived(lines)
            .into_iter()
            .map(|d| RequestFeature {
                name: d.name,
                sql: d.sql,
                value_type: d.value_type,
                default: DefaultValue::Null,
                meta: Meta::default(),
            })
            .collect(),
        meta: Meta::default(),
    }
}

fn definitions(source: Source, views: Vec<FeatureView>, request_views: Vec<RequestView>) -> Definitions {
    let entity = Entity {
        name: "origin".into(),
        keys: vec![("origin".into(), ValueType::String)],
        meta: Meta::default(),
    };
    Definitions {
        entities: [("origin".to_owned(), entity)].into(),
        sources: [("flights".to_owned(), source)].into(),
        feature_views: views.into_iter().map(|v| (v.name.clone(), v)).collect(),
        request_views: request_views.into_iter().map(|v| (v.name.clone(), v)).collect(),
        feature_services: [].into(),
    }
}

fn resolved(mut definitions: Definitions) -> String {
    let mut out = String::new();
    if let Err(errors) = resolve_types(&mut definitions) {
        for (path, error) in errors {
            let hint = error.hint.map_or(String::new(), |hint| format!(" [{hint}]"));
            out.push_str(&format!("{path}: {}{hint}\n", error.message));
        }
        return out;
    }
    for source in definitions.sources.values() {
        source
            .derived
            .iter()
            .for_each(|d| out.push_str(&format!("{}.{}: {}\n", source.name, d.name, d.value_type)));
    }
    for view in definitions.feature_views.values() {
        view.derived
            .iter()
            .for_each(|d| out.push_str(&format!("{}.{}: {}\n", view.name, d.name, d.value_type)));
        view.features().iter().for_each(|(name, t)| out.push_str(&format!("{}:{name}: {t}\n", view.name)));
    }
    for view in definitions.request_views.values() {
        view.features
            .iter()
            .for_each(|f| out.push_str(&format!("{}:{}: {}\n", view.name, f.name, f.value_type)));
    }
    out
}

#[test]
fn types_follow_from_the_sql_through_every_layer() {
    let source = source(
        Some("delay IS NOT NULL AND is_late"),
        "
        is_late: delay > 15
        hours: delay / 60
    ",
    );
    let mut grouped = window("by_carrier", AggregateFunction::LastN(3), Some("label"), None);
    grouped.group_by = Some("carrier".into());
    let windows = ViewKind::Windows(vec![
        window("count_1h", AggregateFunction::Count, None, Some("is_late AND km > 100")),
        window("km_sum", AggregateFunction::Sum, Some("km"), None),
        window("hours_max", AggregateFunction::Max, Some("hours"), None),
        grouped,
    ]);
    let view = view(
        Some("km > 0"),
        "
        km: distance * 1.609344
        label: carrier || '-' || CAST(distance AS VARCHAR)
    ",
        windows,
    );
    let requests = vec![
        request_view(
            "ratio",
            "n: delays:count_1h",
            "
            per_minute: n / minutes
            twice: per_minute * 2
            stamp: now
        ",
        ),
        request_view("above", "r: ratio:twice", "high: r > 1.5"),
    ];
    assert_snapshot!(resolved(definitions(source, vec![view], requests)), @r"
    flights.is_late: bool
    flights.hours: float64
    delays.km: float64
    delays.label: string
    delays:count_1h: int64
    delays:km_sum: float64
    delays:hours_max: float64
    delays:by_carrier: map<string,list<string>>
    above:high: bool
    ratio:per_minute: int64
    ratio:twice: int64
    ratio:stamp: timestamp
    ");
}

#[test]
fn every_error_is_reported_with_its_path() {
    let source = source(
        Some("delay + 1"),
        "
        late: delay > 'x' || 1
        soon: dely > 1
        delay: distance
    ",
    );
    let windows = ViewKind::Windows(vec![
        window("a", AggregateFunction::Count, None, Some("random() > 1")),
        window("b", AggregateFunction::Sum, Some("carrier"), None),
        window("c", AggregateFunction::Sum, Some("distnce"), None),
        window("d", AggregateFunction::Sum, Some("broken"), None),
        window("e", AggregateFunction::Count, None, Some("random() > 1")),
    ]);
    let mut other = view(None, "", ViewKind::Latest(vec![latest("x", "delayy"), latest("y", "delay")]));
    other.name = "latest".into();
    let view = view(Some("origin"), "broken: sum(delay)", windows);
    let requests = vec![
        request_view("one", "n: two:y", "x: n"),
        request_view("two", "n: one:x", "y: n"),
        request_view(
            "three",
            "n: delays:a",
            "
            z: n +
            again: z
            n: 1
        ",
        ),
    ];
    assert_snapshot!(resolved(definitions(source, vec![view, other], requests)), @r"
    sources.flights.derived.soon: there is no column `dely` [did you mean `delay`?]
    sources.flights.derived.delay: `delay` is already the name of a column [give the derived column another name]
    sources.flights.where: a condition is a bool, this is float64 [compare it with something, as in `x > 0` or `x IS NOT NULL`]
    feature_views.delays.derived.broken: `sum` works on many rows; an expression sees one row [aggregate over time in a view's `aggregate:`]
    feature_views.delays.where: a condition is a bool, this is string [compare it with something, as in `x > 0` or `x IS NOT NULL`]
    feature_views.delays.aggregate.a.where: `random` is not deterministic: training and serving would see different values [use a column of the row; a request view has the moment asked for as `now`]
    feature_views.delays.aggregate.b: `sum` needs a number (int32, int64, float32 or float64), the column is string
    feature_views.delays.aggregate.c.column: there is no column `distnce` [did you mean `distance`?]
    feature_views.latest.features.x: there is no column `delayy` [did you mean `delay`?]
    request_views.three.features.z: this is no SQL expression: Expected: an expression, found: EOF
    request_views.three.features.n: `n` is already the name of a column [give the derived column another name]
    request_views.one.inputs: the input `two:y` has no type [name a feature that exists; request views can't read each other in a circle]
    request_views.two.inputs: the input `one:x` has no type [name a feature that exists; request views can't read each other in a circle]
    ");
}

/// Rows as the text `at origin carrier delay distance`, `-` for null.
fn rows(text: &str) -> RecordBatch {
    let source = source(None, "");
    let parse = |field: &str, value_type: &ValueType| match (field, value_type) {
        ("-", _) => Value::Null,
        (text, ValueType::Timestamp) => Value::Timestamp(text.parse().unwrap()),
        (text, ValueType::Float64) => Value::Float64(text.parse().unwrap()),
        (text, ValueType::Int32) => Value::Int32(text.parse().unwrap()),
        (text, _) => Value::string(text),
    };
    let lines: Vec<Vec<&str>> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| l.split(' ').collect()).collect();
    let columns = source.columns.iter().enumerate().map(|(at, column)| {
        let values: Vec<Value> = lines.iter().map(|line| parse(line[at], &column.value_type)).collect();
        (column.name.clone(), array_from_values(&column.value_type, &values))
    });
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

/// Each projected row: its number, key and the values of its event.
fn projected(definitions: &Definitions, batch: &RecordBatch) -> String {
    let (source, view) = (&definitions.sources["flights"], &definitions.feature_views["delays"]);
    let entity = &definitions.entities["origin"];
    let mut scope = source.schema();
    scope.extend(view.derived.iter().map(|d| (d.name.clone(), d.value_type.clone())));
    let plan = ViewPlan::compile(view, &|name| {
        scope.iter().find(|(column, _)| column == name).map(|(_, value_type)| value_type.clone())
    });
    let plan = plan.unwrap();
    let projection = ViewProjection::plan(source, entity, view, &plan).unwrap();
    let mut out = format!("reads {}\n", projection.source_columns().join(", "));
    let named = plan.inputs().iter().map(|input| match input {
        ViewInput::Column { name, .. } => name.clone(),
        ViewInput::Predicate { sql } => format!("({sql})"),
    });
    out.push_str(&format!("inputs {}\n", named.collect::<Vec<_>>().join(", ")));
    let kept = projection.project(batch);
    let stamp = Stamp { event_time: 0, known_at: 0, seq: 0 };
    for (row, key) in projection.keys(&kept).into_iter().enumerate() {
        let key =
            key.map_or_else(|e| e.to_string(), |k| format!("{:?}", k.decode(&[ValueType::String]).unwrap()));
        let event = projection.event(&kept, row, stamp);
        out.push_str(&format!("row {} {key} {:?}\n", kept.rows[row], event.values));
    }
    out
}

fn projected_definitions() -> Definitions {
    let source = source(
        Some("delay IS NOT NULL"),
        "
        late: delay > 15
        unused: distance / 0
    ",
    );
    let windows = ViewKind::Windows(vec![
        window("late_count", AggregateFunction::Count, None, Some("late AND carrier <> 'XX'")),
        window("late_again", AggregateFunction::Max, Some("km"), Some("late AND carrier <> 'XX'")),
        window("per", AggregateFunction::Mean, Some("per_km"), None),
    ]);
    let view = view(
        Some("km > 100 OR late"),
        "
        km: distance * 2
        per_km: CAST(delay AS BIGINT) / distance
    ",
        windows,
    );
    let mut definitions = definitions(source, vec![view], vec![]);
    resolve_types(&mut definitions).unwrap();
    definitions
}

const ROWS: &str = "
    1 EWR UA 20 60
    2 JFK B6 - 500
    3 LGA AA NaN 700
    4 EWR XX 16 0
    5 EWR - 30.5 -
    6 - UA 99 51
    7 JFK UA 1 50
    8 JFK UA 1 51
";

#[test]
fn a_projection_keeps_what_the_filters_keep_and_computes_what_the_plan_reads() {
    assert_snapshot!(projected(&projected_definitions(), &rows(ROWS)), @r#"
    reads delay, distance, origin, carrier
    inputs (late AND carrier <> 'XX'), km, per_km
    row 0 [String("EWR")] [Bool(true), Int64(120), Int64(0)]
    row 3 [String("EWR")] [Bool(false), Int64(0), Null]
    row 4 [String("EWR")] [Null, Null, Null]
    row 5 key `origin` is null; every key of an entity needs a value [Bool(true), Int64(102), Int64(1)]
    row 7 [String("JFK")] [Bool(false), Int64(102), Int64(0)]
    "#);
}

#[test]
fn a_projection_of_one_row_is_its_row_of_the_whole() {
    let (definitions, batch) = (projected_definitions(), rows(ROWS));
    let rows_of = |text: String| -> Vec<String> {
        let rows = text.lines().filter(|line| line.starts_with("row "));
        rows.map(|line| line.splitn(3, ' ').last().unwrap().to_owned()).collect()
    };
    let whole = rows_of(projected(&definitions, &batch));
    let alone = (0..batch.num_rows()).flat_map(|row| rows_of(projected(&definitions, &batch.slice(row, 1))));
    assert_eq!(whole, alone.collect::<Vec<_>>());
}

#[test]
fn a_source_transform_gives_the_kept_rows_with_their_derived_columns() {
    let definitions = projected_definitions();
    let transform = SourceTransform::plan(&definitions.sources["flights"]).unwrap();
    let kept = transform.apply(&rows(ROWS));
    assert_eq!(kept.num_rows(), 6);
    assert_eq!(kept.num_columns(), 7);
    assert_eq!(kept.column_by_name("unused").unwrap().null_count(), 6);
}
