//! Views, entities and random events for the suite, and the naive fold that says what a store must hold.

use crate::{Lane, OnlineStore, ViewHandle, Write};
use springhouse_core::definition::{
    AggregateFunction, DefaultValue, FeatureView, FreshnessSlo, LatestFeature, Meta, ViewKind, WindowFeature,
    default_hop,
};
use springhouse_core::time::{HOUR, MINUTE, SECOND};
use springhouse_core::{EntityKey, Micros, Value, ValueType};
use springhouse_kernel::{EntityAnswer, Event, READ_BACK, Stamp, ViewInput, ViewPlan};
use std::collections::BTreeMap;
use std::sync::Arc;

const ENTITIES: usize = 24;
const EVENTS_PER_BATCH_MAX: u64 = 12;
const START: Micros = 1_767_225_600 * SECOND;

/// A small generator (splitmix64): the suite is a library and must replay from one number.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit` (0 for 0).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_number().checked_rem(limit).unwrap_or(0)
    }
}

/// Events of one write.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Lane and position of the write.
    pub lane: Lane,
    /// The writer's present.
    pub now: Micros,
    events: Vec<(ViewHandle, EntityKey, Event)>,
}

/// Three views ([0] latest values; [1] windows; [2] the next generation of [1]), entities, and a stream of random events.
#[derive(Debug)]
pub struct World {
    seed: u64,
    random: Random,
    views: Vec<ViewHandle>,
    entities: Vec<EntityKey>,
    now: Micros,
    next_seq: i64,
}

impl World {
    /// A world that is the same for the same seed.
    pub fn new(seed: u64) -> Self {
        let handle = |view: &FeatureView, generation| ViewHandle {
            id: view.id().into(),
            generation,
            plan: Arc::new(ViewPlan::compile(view, &column_type).expect("the suite's views are valid")),
            is_shared: false,
        };
        let keys = [("user".to_owned(), ValueType::String), ("shop".to_owned(), ValueType::Int64)];
        let key = |i: usize| {
            // Of several lengths, up to the longest that is allowed.
            let name = "u".repeat([1, 3, 12, 420][i % 4]) + &i.to_string();
            EntityKey::encode(&keys, &[Value::string(name), Value::Int64(i as i64 - 3)])
                .expect("a short key of the right types")
        };
        let windows = window_view();
        Self {
            seed,
            random: Random::new(seed),
            views: vec![handle(&latest_view(), 0), handle(&windows, 0), handle(&windows, 1)],
            entities: (0..ENTITIES).map(key).collect(),
            now: START,
            next_seq: 0,
        }
    }

    /// The views.
    pub fn views(&self) -> &[ViewHandle] {
        &self.views
    }

    /// How many entities there are.
    pub fn entity_count(&self) -> usize {
        self.entities.len()
    }

    /// An entity.
    pub fn entity(&self, index: usize) -> &EntityKey {
        &self.entities[index]
    }

    /// The newest present of any batch.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// The generator.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// One event for each (view, entity).
    pub fn batch_of(&mut self, lane: &str, position: i64, targets: &[(usize, usize)]) -> Batch {
        self.now += self.random.below(4) as Micros * SECOND;
        let events = targets
            .iter()
            .map(|(view, entity)| {
                let view = self.views[*view].clone();
                let event = self.event(&view.plan);
                (view, self.entities[*entity].clone(), event)
            })
            .collect();
        Batch { lane: Lane { name: lane.into(), position }, now: self.now, events }
    }

    /// Random events of random entities in all views; now and then none.
    pub fn random_batch(&mut self, lane: &str, position: i64) -> Batch {
        let count = self.random.below(EVENTS_PER_BATCH_MAX + 1);
        let views = self.views.len() as u64;
        let targets: Vec<_> = (0..count)
            .map(|_| (self.random.below(views) as usize, self.random.below(ENTITIES as u64) as usize))
            .collect();
        self.batch_of(lane, position, &targets)
    }

    /// Panics unless the store holds exactly the events of `batches` in every view.
    pub async fn assert_holds(&self, store: &dyn OnlineStore, batches: &[Batch], when: &str) {
        for view in &self.views {
            self.assert_holds_in(store, view, batches, when).await;
        }
    }

    /// Panics unless the store holds exactly the events of `batches` in one view.
    pub async fn assert_holds_in(
        &self,
        store: &dyn OnlineStore,
        view: &ViewHandle,
        batches: &[Batch],
        when: &str,
    ) {
        let mut expected: BTreeMap<&EntityKey, Vec<&Event>> = BTreeMap::new();
        for (of, key, event) in batches.iter().flat_map(|batch| &batch.events) {
            if (&of.id, of.generation) == (&view.id, view.generation) {
                expected.entry(key).or_default().push(event);
            }
        }
        let states = store.get_many(view, &self.entities).await.expect("get");
        assert_eq!(states.len(), self.entities.len());
        for (index, (key, state)) in self.entities.iter().zip(&states).enumerate() {
            let events = expected.get(key);
            let context = format!(
                "{when}: view {} generation {}, entity {index}, seed={}",
                view.id, view.generation, self.seed
            );
            assert_eq!(state.is_some(), events.is_some(), "{context}");
            let (Some(state), Some(events)) = (state, events) else { continue };
            // The moments that must be exact: the oldest, the writer's present, and when windows have emptied.
            for at in [self.now - READ_BACK, self.now, self.now + 3 * MINUTE, self.now + 2 * HOUR] {
                let naive = fold(&view.plan, events, at);
                assert_eq!(view.plan.read(state, at), naive, "at {at}; {context}");
            }
        }
    }

    /// The lifetime count in an answer of the windowed view.
    pub fn lifetime_count(answer: &EntityAnswer) -> i64 {
        match answer.values[0] {
            Value::Int64(count) => count,
            ref other => panic!("the first feature is a count, not {other:?}"),
        }
    }

    fn event(&mut self, plan: &ViewPlan) -> Event {
        let age = match self.random.below(4) {
            0 => 0,
            1 => self.random.below(20) as Micros * SECOND,
            2 => self.random.below(200) as Micros * MINUTE,
            _ => self.random.below(1 << 33) as Micros,
        };
        let event_time = self.now - age;
        let late = self.random.below(3) as Micros * SECOND;
        let stamp = Stamp { event_time, known_at: (event_time + late).min(self.now), seq: self.next_seq };
        self.next_seq += 1;
        let values = plan.inputs().iter().map(|input| self.value(input)).collect();
        Event { stamp, values }
    }

    fn value(&mut self, input: &ViewInput) -> Value {
        let number = self.random.below(7) as i64 - 3;
        match input {
            ViewInput::Predicate { .. } => Value::Bool(number > 0),
            ViewInput::Column { .. } if number == -3 => Value::Null,
            ViewInput::Column { value_type: ValueType::Int64, .. } => Value::Int64(number << 40),
            ViewInput::Column { value_type: ValueType::Float64, .. } => Value::Float64(number as f64 * 1e-3),
            ViewInput::Column { .. } => Value::string(format!("text {number}")),
        }
    }
}

impl Batch {
    /// The write: events folded per entity, as a writer does it.
    pub fn writes(&self) -> Vec<Write> {
        let mut writes: Vec<Write> = Vec::new();
        for (view, key, event) in &self.events {
            let same = |w: &Write| w.view.id == view.id && w.view.generation == view.generation;
            let at = writes.iter().position(same).unwrap_or_else(|| {
                writes.push(Write { view: view.clone(), deltas: Vec::new() });
                writes.len() - 1
            });
            let deltas = &mut writes[at].deltas;
            let delta = deltas.iter().position(|(k, _)| k == key).unwrap_or_else(|| {
                deltas.push((key.clone(), view.plan.empty()));
                deltas.len() - 1
            });
            view.plan.insert(&mut deltas[delta].1, event.clone(), self.now);
        }
        writes
    }
}

/// Every event anew, none folded before the moment asked for.
fn fold(plan: &ViewPlan, events: &[&Event], at: Micros) -> EntityAnswer {
    let mut state = plan.empty();
    for event in events {
        plan.insert(&mut state, (*event).clone(), at);
    }
    plan.read(&state, at)
}

fn column_type(name: &str) -> Option<ValueType> {
    match name {
        "amount" => Some(ValueType::Int64),
        "score" => Some(ValueType::Float64),
        "city" => Some(ValueType::String),
        _ => None,
    }
}

fn view(name: &str, kind: ViewKind) -> FeatureView {
    FeatureView {
        name: name.to_owned(),
        version: 1,
        entity: "visit".to_owned(),
        source: "visits".to_owned(),
        key_columns: vec!["user".to_owned(), "shop".to_owned()],
        op: None,
        filter: None,
        derived: Vec::new(),
        kind,
        soft_ttl: None,
        hard_ttl: 24 * HOUR,
        slo: FreshnessSlo { tier: None, p95: MINUTE, p99: HOUR },
        meta: Meta::default(),
    }
}

fn latest_view() -> FeatureView {
    let feature = |name: &str| LatestFeature {
        name: name.to_owned(),
        column: name.to_owned(),
        value_type: column_type(name).expect("a column of the suite"),
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    };
    view("newest", ViewKind::Latest(vec![feature("amount"), feature("score"), feature("city")]))
}

fn window_view() -> FeatureView {
    use AggregateFunction::{Count, LastN, Mean, Sum, TopN};
    let feature =
        |name: &str, function, column: Option<&str>, window: Option<Micros>, value_type| WindowFeature {
            name: name.to_owned(),
            function,
            column: column.map(str::to_owned),
            column_type: column.and_then(column_type),
            window,
            hop: window.map_or(SECOND, default_hop),
            filter: None,
            group_by: None,
            group_type: None,
            value_type,
            default: DefaultValue::Null,
            pii: false,
            meta: Meta::default(),
        };
    let list_of_text = ValueType::List(Box::new(ValueType::String));
    let features = vec![
        feature("count_lifetime", Count, None, None, ValueType::Int64),
        feature("sum_2m", Sum, Some("amount"), Some(2 * MINUTE), ValueType::Int64),
        feature("mean_1h", Mean, Some("score"), Some(HOUR), ValueType::Float64),
        feature("last_3_1h", LastN(3), Some("city"), Some(HOUR), list_of_text.clone()),
        feature("top_lifetime", TopN { n: 2, cap: 100 }, Some("city"), None, list_of_text),
    ];
    view("recent", ViewKind::Windows(features))
}
