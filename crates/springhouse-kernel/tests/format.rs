//! Stored states outlive programs: the bytes of each version, written once, must still decode to the same answers. And
//! what people see of a state.
#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use insta::assert_snapshot;
use springhouse_core::definition::{
    AggregateFunction as F, DefaultValue, FeatureView, FreshnessSlo, LatestFeature, Meta, ViewKind,
    WindowFeature, aggregate_output_type, default_hop,
};
use springhouse_core::time::{HOUR, MINUTE, SECOND, parse_instant};
use springhouse_core::{Micros, Value, ValueType};
use springhouse_kernel::{CodecError, EntityState, Event, Stamp, ViewInput, ViewPlan};
use std::path::PathBuf;

fn column_type(name: &str) -> Option<ValueType> {
    Some(match name {
        "delay" => ValueType::Float64,
        "items" => ValueType::Int64,
        "carrier" => ValueType::String,
        "fare" => ValueType::Decimal { precision: 9, scale: 2 },
        _ => return None,
    })
}

fn feature(function: F, column: &str, window: Option<Micros>, hop: Option<Micros>) -> WindowFeature {
    let column = Some(column).filter(|column| !column.is_empty());
    let column_type = column.and_then(column_type);
    WindowFeature {
        name: format!("{}_{}", column.unwrap_or("events"), function.name()),
        value_type: aggregate_output_type(&function, column_type.as_ref(), None).unwrap(),
        function,
        column: column.map(str::to_owned),
        column_type,
        window,
        hop: hop.unwrap_or_else(|| default_hop(window.unwrap_or(HOUR))),
        filter: None,
        group_by: None,
        group_type: None,
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    }
}

fn view(kind: ViewKind) -> FeatureView {
    FeatureView {
        name: "delays".into(),
        version: 1,
        entity: "origin".into(),
        source: "departures".into(),
        key_columns: vec!["origin".into()],
        op: None,
        filter: None,
        derived: Vec::new(),
        kind,
        soft_ttl: None,
        hard_ttl: 6 * HOUR,
        slo: FreshnessSlo { tier: None, p95: 1, p99: 1 },
        meta: Meta::default(),
    }
}

/// Every kind of state, stepped, exact, lifetime, filtered and grouped.
fn windows() -> ViewPlan {
    let mut features = vec![
        feature(F::Count, "", Some(HOUR), None),
        feature(F::Mean, "delay", Some(HOUR), None),
        feature(F::Variance, "delay", None, None),
        feature(F::Sum, "items", Some(10 * MINUTE), Some(1)),
        feature(F::Stddev, "items", None, None),
        feature(F::Min, "delay", None, None),
        feature(F::Max, "fare", Some(HOUR), None),
        feature(F::First, "carrier", None, None),
        feature(F::LastN(2), "carrier", Some(HOUR), None),
        feature(F::CountDistinct { cap: 2 }, "items", None, None),
        feature(F::TopN { n: 2, cap: 9 }, "carrier", None, None),
        feature(F::ApproxCountDistinct { precision: 4 }, "items", None, None),
        feature(F::ApproxQuantile { q: 0.5, alpha: 0.01 }, "delay", None, None),
        feature(F::SecondsSinceLast, "", Some(HOUR), None),
    ];
    let mut grouped = feature(F::Sum, "items", Some(HOUR), None);
    grouped.name = "items_by_carrier".into();
    grouped.filter = Some("delay > 0".into());
    grouped.group_by = Some("carrier".into());
    grouped.group_type = column_type("carrier");
    grouped.value_type =
        aggregate_output_type(&F::Sum, column_type("items").as_ref(), column_type("carrier").as_ref())
            .unwrap();
    features.push(grouped);
    ViewPlan::compile(&view(ViewKind::Windows(features)), &column_type).unwrap()
}

fn latest() -> ViewPlan {
    let feature = |column: &str| LatestFeature {
        name: column.into(),
        column: column.into(),
        value_type: column_type(column).unwrap(),
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    };
    let features = ["delay", "items", "carrier", "fare"].map(feature);
    ViewPlan::compile(&view(ViewKind::Latest(features.into())), &column_type).unwrap()
}

fn at(text: &str) -> Micros {
    parse_instant(&format!("2013-01-01T{text}Z")).unwrap()
}

/// Twelve events from 09:00 on, five minutes apart, some known late; written at 10:00.
fn state(plan: &ViewPlan) -> EntityState {
    let mut state = plan.empty();
    let event_time = |i: i64| at("09:00:00") + i * 5 * MINUTE;
    let known_at = |i: i64| event_time(i) + [0, SECOND, 7 * MINUTE][i as usize % 3];
    add(plan, &mut state, 12, |i| Stamp { event_time: event_time(i), known_at: known_at(i), seq: i });
    state
}

/// The same, and nine events of the last second, which stay as they are: of two partitions of a topic, and of a table.
fn busy_state(plan: &ViewPlan) -> EntityState {
    let mut state = state(plan);
    let event_time = |i: i64| at("09:59:59") + i * 100_000;
    let seq = |i: i64| [3 << 46 | i << 1, 5 << 46 | i << 1, i64::MIN | 77 << 32 | i][i as usize % 3];
    let late = |i: i64| [20_000, -5, 0][i as usize % 3];
    add(plan, &mut state, 9, |i| Stamp {
        event_time: event_time(i),
        known_at: event_time(i) + late(i),
        seq: seq(i),
    });
    state
}

fn add(plan: &ViewPlan, state: &mut EntityState, count: i64, stamp: impl Fn(i64) -> Stamp) {
    for i in 0..count {
        let value = |input: &ViewInput| match input {
            ViewInput::Column { name, .. } => match (name.as_str(), i % 4) {
                ("delay", 3) => Value::Null,
                ("delay", _) => Value::Float64(i as f64 * 0.1 - 0.3),
                ("items", _) => Value::Int64(i * i - 20),
                ("carrier", kind) => Value::string(["AA", "B6", "AA", "Ünï"][kind as usize]),
                _ => Value::Decimal(i128::from(i * 1_099), 2),
            },
            ViewInput::Predicate { .. } => Value::Bool(i % 4 != 3 && i > 3),
        };
        let values = plan.inputs().iter().map(value).collect();
        plan.insert(state, Event { stamp: stamp(i), values }, at("10:00:00"));
    }
    plan.compact(state, at("10:00:00"));
}

fn encoded(plan: &ViewPlan, state: &EntityState) -> String {
    let mut bytes = Vec::new();
    plan.encode(state, &mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stored(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn answers(plan: &ViewPlan, state: &EntityState, moment: &str) -> String {
    let answer = plan.read(state, at(moment));
    let values = answer.values.iter().zip(&answer.statuses);
    let lines = plan.features().iter().zip(values);
    lines.map(|((name, _), (value, status))| format!("{name} {status:?} {value:?}\n")).collect()
}

#[test]
fn states_stored_by_every_version_still_decode() {
    for (name, plan) in [("windows", windows()), ("latest", latest())] {
        for (kind, state) in [("", state(&plan)), ("-busy", busy_state(&plan))] {
            let now = encoded(&plan, &state);
            for version in [1, 2] {
                let file = format!("{name}{kind}-v{version}.hex");
                let hex = stored(&file);
                assert_eq!(plan.decode(&bytes(&hex)).as_ref(), Ok(&state), "{file}; written now: {now}");
                assert_eq!(now == hex, version == 2, "{file}; written now: {now}");
            }
        }
    }
}

#[test]
fn answers_of_the_stored_state() {
    assert_snapshot!(answers(&windows(), &state(&windows()), "10:00:00"), @r#"
    events_count Fresh Int64(11)
    delay_mean Fresh Float64(0.20000000000000004)
    delay_variance Fresh Float64(0.1275)
    items_sum Fresh Int64(80)
    items_stddev Fresh Float64(34.435446853496764)
    delay_min Fresh Float64(-0.3)
    fare_max Fresh Decimal(10990, 2)
    carrier_first Fresh String("AA")
    carrier_last_n Fresh List([String("AA"), String("B6")])
    items_count_distinct OverCap Null
    carrier_top_n Fresh List([String("AA"), String("B6")])
    items_approx_count_distinct Fresh Int64(11)
    delay_approx_quantile Fresh Float64(0.19903896053453318)
    events_seconds_since_last Fresh Float64(600.0)
    items_by_carrier Fresh Map([(String("AA"), Int64(136)), (String("B6"), Int64(66))])
    "#);
    assert_snapshot!(answers(&latest(), &state(&latest()), "10:00:00"), @r#"
    delay Fresh Float64(0.7)
    items Fresh Int64(80)
    carrier Fresh String("AA")
    fare Fresh Decimal(10990, 2)
    "#);
    assert_snapshot!(answers(&latest(), &state(&latest()), "17:00:00"), @r#"
    delay Expired Null
    items Expired Null
    carrier Expired Null
    fare Expired Null
    "#);
}

#[test]
fn bytes_of_another_version_or_plan_say_so() {
    let (windows, latest) = (windows(), latest());
    let hex = encoded(&latest, &state(&latest));
    assert_eq!(windows.decode(&bytes(&hex)), Err(CodecError::Plan));
    let mut newer = bytes(&hex);
    newer[0] = 3;
    assert_eq!(latest.decode(&newer), Err(CodecError::Version(3)));
    assert_eq!(latest.decode(&bytes(&hex[..6])), Err(CodecError::Malformed("it ends too soon")));
    assert!(matches!(latest.decode(&[]), Err(CodecError::Malformed(_))));
}

#[test]
fn a_plan_survives_changes_that_states_do_not_depend_on() {
    let of = |change: &dyn Fn(&mut FeatureView)| {
        let mut view = view(ViewKind::Windows(vec![feature(F::Mean, "delay", Some(HOUR), None)]));
        change(&mut view);
        ViewPlan::compile(&view, &column_type).unwrap()
    };
    let first = |view: &mut FeatureView, change: &dyn Fn(&mut WindowFeature)| {
        if let ViewKind::Windows(features) = &mut view.kind {
            change(&mut features[0]);
        }
    };
    let plan = of(&|_| {});
    let mut bytes = Vec::new();
    plan.encode(&plan.empty(), &mut bytes);
    for same in [
        of(&|view| view.hard_ttl = 5),
        of(&|view| first(view, &|f| f.name = "renamed".into())),
        of(&|view| first(view, &|f| f.default = DefaultValue::Constant(Value::Float64(0.0)))),
        of(&|view| first(view, &|f| f.pii = true)),
    ] {
        assert!(same.decode(&bytes).is_ok());
    }
    for other in [
        of(&|view| first(view, &|f| f.window = Some(2 * HOUR))),
        of(&|view| first(view, &|f| f.hop = SECOND)),
        of(&|view| first(view, &|f| f.filter = Some("items > 0".into()))),
        of(&|view| first(view, &|f| f.function = F::Variance)),
    ] {
        assert_eq!(other.decode(&bytes), Err(CodecError::Plan));
    }
}

#[test]
fn an_explanation_shows_the_tiles_rows_and_events_inside_a_number() {
    let text = |plan: &ViewPlan, names: &[&str]| {
        let explanation = plan.explain(&state(plan), at("10:00:03"));
        let blocks = explanation.features.into_iter().filter(|(name, _)| names.contains(&name.as_str()));
        blocks.map(|(name, lines)| format!("{name}\n  {}\n", lines.join("\n  "))).collect::<String>()
    };
    assert_snapshot!(text(&windows(), &["delay_mean", "items_sum", "carrier_first", "items_by_carrier"]), @r#"
    delay_mean
      window from 2013-01-01T09:00:00Z to before 2013-01-01T10:00:03Z
      tile 2013-01-01T09:00:00Z +1m: count=1 sum=-0.3
      tile 2013-01-01T09:05:00Z +1m: count=1 sum=-0.19999999999999998
      tile 2013-01-01T09:10:00Z +1m: count=1 sum=-0.09999999999999998
      tile 2013-01-01T09:20:00Z +1m: count=1 sum=0.10000000000000003
      tile 2013-01-01T09:25:00Z +1m: count=1 sum=0.2
      tile 2013-01-01T09:30:00Z +1m: count=1 sum=0.3000000000000001
      tile 2013-01-01T09:40:00Z +1m: count=1 sum=0.5
      tile 2013-01-01T09:45:00Z +1m: count=1 sum=0.6000000000000001
      tile 2013-01-01T09:50:00Z +1m: count=1 sum=0.7
    items_sum
      window from 2013-01-01T09:50:03Z to before 2013-01-01T10:00:03Z
    carrier_first
      window from the beginning to before 2013-01-01T10:00:03Z
      lifetime: first="AA"
    items_by_carrier
      window from 2013-01-01T09:00:00Z to before 2013-01-01T10:00:03Z
      tile 2013-01-01T09:20:00Z +1m: sum={"AA": -4}
      tile 2013-01-01T09:25:00Z +1m: sum={"B6": 5}
      tile 2013-01-01T09:30:00Z +1m: sum={"AA": 16}
      tile 2013-01-01T09:40:00Z +1m: sum={"AA": 44}
      tile 2013-01-01T09:45:00Z +1m: sum={"B6": 61}
      tile 2013-01-01T09:50:00Z +1m: sum={"AA": 80}
    "#);
    assert_snapshot!(text(&latest(), &["delay", "carrier", "fare"]), @r#"
    delay
      row 2013-01-01T09:50:00Z known 2013-01-01T09:50:01Z: 0.7
    carrier
      row 2013-01-01T09:50:00Z known 2013-01-01T09:50:01Z: "AA"
    fare
      row 2013-01-01T09:50:00Z known 2013-01-01T09:50:01Z: 109.90
    "#);
}

#[test]
fn a_view_that_can_not_be_planned_says_why() {
    let reason = |feature: WindowFeature| {
        ViewPlan::compile(&view(ViewKind::Windows(vec![feature])), &column_type).unwrap_err().to_string()
    };
    let good = || feature(F::Sum, "items", Some(HOUR), None);
    let mut text = String::new();
    for bad in [
        WindowFeature { column: Some("nothing".into()), ..good() },
        WindowFeature { column: Some("carrier".into()), ..good() },
        WindowFeature { value_type: ValueType::Float64, ..good() },
        WindowFeature { hop: 0, ..good() },
        WindowFeature { window: Some(0), ..good() },
        WindowFeature { function: F::LastN(0), ..good() },
    ] {
        text += &format!("{}\n", reason(bad));
    }
    assert_snapshot!(text, @r#"
    view `delays` can't be planned: feature `items_sum`: there is no column `nothing`
    view `delays` can't be planned: feature `items_sum`: `sum` needs a number (int32, int64, float32 or float64), the column is string
    view `delays` can't be planned: feature `items_sum`: it is declared float64, its values are int64
    view `delays` can't be planned: feature `items_sum`: a window and its hop are at least one microsecond long
    view `delays` can't be planned: feature `items_sum`: a window and its hop are at least one microsecond long
    view `delays` can't be planned: feature `items_sum`: `n` of `last_n` is 0; it must be 1 to 1000
    "#);
}
