//! A store written in format 1 opens and answers as it did. `SPRINGHOUSE_WRITE_FIXTURE=1` writes the file anew, for the
//! day when format 1 did not exist; after a release it must never be written again.

use futures::executor::block_on;
use springhouse_core::definition::{
    AggregateFunction, DefaultValue, FeatureView, FreshnessSlo, LatestFeature, Meta, ViewKind, WindowFeature,
};
use springhouse_core::time::{HOUR, MINUTE, SECOND};
use springhouse_core::{EntityKey, Micros, Value, ValueType};
use springhouse_kernel::{Event, Stamp, ViewInput, ViewPlan};
use springhouse_online::{Lane, OnlineStore, ViewHandle, ViewStatus, Write};
use springhouse_online_embedded::{EmbeddedSettings, EmbeddedStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NOW: Micros = 1_767_225_600 * SECOND;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1/data.mdb")
}

fn open(folder: &Path) -> EmbeddedStore {
    EmbeddedStore::open(folder, &EmbeddedSettings::default()).expect("open")
}

fn view(kind: ViewKind, name: &str, generation: u32) -> ViewHandle {
    let view = FeatureView {
        name: name.to_owned(),
        version: 1,
        entity: "user".to_owned(),
        source: "visits".to_owned(),
        key_columns: vec!["user".to_owned()],
        op: None,
        filter: None,
        derived: Vec::new(),
        kind,
        soft_ttl: None,
        hard_ttl: 24 * HOUR,
        slo: FreshnessSlo { tier: None, p95: MINUTE, p99: HOUR },
        meta: Meta::default(),
    };
    let plan = ViewPlan::compile(&view, &column_type).expect("a valid view");
    ViewHandle { id: view.id().into(), generation, plan: Arc::new(plan), is_shared: false }
}

fn column_type(name: &str) -> Option<ValueType> {
    Some(if name == "city" { ValueType::String } else { ValueType::Float64 })
}

fn newest() -> ViewHandle {
    let feature = |name: &str| LatestFeature {
        name: name.to_owned(),
        column: name.to_owned(),
        value_type: column_type(name).expect("a column"),
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    };
    view(ViewKind::Latest(vec![feature("city"), feature("amount")]), "newest", 0)
}

fn recent(generation: u32) -> ViewHandle {
    let feature = |name: &str, function, window| WindowFeature {
        name: name.to_owned(),
        function,
        column: Some("amount".to_owned()),
        column_type: Some(ValueType::Float64),
        window,
        hop: MINUTE,
        filter: None,
        group_by: None,
        group_type: None,
        value_type: ValueType::Float64,
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    };
    let features = vec![
        feature("sum_1h", AggregateFunction::Sum, Some(HOUR)),
        feature("stddev_lifetime", AggregateFunction::Stddev, None),
    ];
    view(ViewKind::Windows(features), "recent", generation)
}

fn key(user: u8) -> EntityKey {
    EntityKey::from_encoded(&[1, user]).expect("a short key")
}

/// Ten events of three users, five minutes apart.
fn write_events(store: &EmbeddedStore, view: &ViewHandle, lane: &str) {
    for i in 0..10_i64 {
        let at = NOW - (10 - i) * 5 * MINUTE;
        let values = view.plan.inputs().iter().map(|input| match input {
            ViewInput::Column { value_type: ValueType::String, .. } => Value::string(format!("city {i}")),
            _ => Value::Float64(i as f64 / 3.0),
        });
        let event = Event {
            stamp: Stamp { event_time: at, known_at: at + SECOND, seq: i },
            values: values.collect(),
        };
        let mut state = view.plan.empty();
        view.plan.insert(&mut state, event, NOW);
        let deltas = vec![(key(b'a' + (i % 3) as u8), state)];
        let lane = Lane { name: lane.into(), position: i };
        block_on(store.write(vec![Write { view: view.clone(), deltas }], lane, NOW)).expect("write");
    }
}

#[test]
fn a_store_of_format_1_opens_and_answers_as_it_did() {
    if std::env::var_os("SPRINGHOUSE_WRITE_FIXTURE").is_some() {
        write_fixture();
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(fixture(), folder.path().join("data.mdb")).expect("the fixture");
    let store = open(folder.path());
    insta::assert_snapshot!(block_on(describe(&store)), @r#"
    lanes {"log": 9, "rebuild/1": 9}
    newest@1 generation 0 (active 0), note None
      a Some([String("city 9"), Float64(3.0)])
      b Some([String("city 7"), Float64(2.3333333333333335)])
      c Some([String("city 8"), Float64(2.6666666666666665)])
      d None
    recent@1 generation 0 (active 1), note None
      a None
      b None
      c None
      d None
    recent@1 generation 1 (active 1), note Some("{\"until\": 7}")
      a Some([Float64(6.0), Float64(1.2909944487358056)])
      b Some([Float64(4.0), Float64(1.0)])
      c Some([Float64(5.0), Float64(0.9999999999999999)])
      d None
    recent@1 generation 2 (active 1), note None
      a None
      b None
      c None
      d None
    "#);
    // And it can be written on.
    let before = block_on(store.get_many(&newest(), &[key(b'z')])).expect("get");
    assert_eq!(before, [None]);
    let state = newest().plan.empty();
    let lane = Lane { name: "log".into(), position: 10 };
    let write = Write { view: newest(), deltas: vec![(key(b'z'), state)] };
    assert!(block_on(store.write(vec![write], lane, NOW)).expect("write"));
    block_on(store.checkpoint()).expect("checkpoint");
}

async fn describe(store: &EmbeddedStore) -> String {
    let mut out = format!("lanes {:?}\n", store.lanes().await.expect("lanes"));
    for view in [newest(), recent(0), recent(1), recent(2)] {
        let active = store.active_generation(&view.id).await.expect("active");
        let note = store.view_status(&view).await.expect("status").map(|status| status.note);
        out.push_str(&format!(
            "{} generation {} (active {active}), note {note:?}\n",
            view.id, view.generation
        ));
        let keys = [key(b'a'), key(b'b'), key(b'c'), key(b'd')];
        for (user, state) in ["a", "b", "c", "d"].iter().zip(store.get_many(&view, &keys).await.expect("get"))
        {
            let values = state.map(|state| view.plan.read(&state, NOW).values);
            out.push_str(&format!("  {user} {values:?}\n"));
        }
    }
    out
}

fn write_fixture() {
    let folder = tempfile::tempdir().expect("a folder");
    {
        let store = open(folder.path());
        write_events(&store, &newest(), "log");
        write_events(&store, &recent(0), "rebuild/0");
        block_on(store.checkpoint()).expect("checkpoint");
        write_events(&store, &recent(1), "rebuild/1");
        let note = ViewStatus { note: "{\"until\": 7}".to_owned() };
        block_on(store.set_view_status(&recent(1), note)).expect("set");
        block_on(store.activate_generation("recent@1", 1)).expect("activate");
        block_on(store.drop_generation("recent@1", 0)).expect("drop");
        block_on(store.drop_lanes("rebuild/0")).expect("drop lanes");
        block_on(store.checkpoint()).expect("checkpoint");
    }
    std::fs::copy(folder.path().join("data.mdb"), fixture()).expect("copy");
}
