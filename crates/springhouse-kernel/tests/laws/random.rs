//! Random views, events and moments from a seed.

use springhouse_core::definition::{
    AggregateFunction as F, DefaultValue, FeatureView, FreshnessSlo, HOP_EXACT, LatestFeature, Meta,
    ViewKind, WindowFeature, aggregate_output_type,
};
use springhouse_core::time::{HOUR, MINUTE, SECOND};
use springhouse_core::{Micros, Value, ValueType};
use springhouse_kernel::{Event, READ_BACK, Stamp, ViewInput, ViewPlan};

/// splitmix64.
pub(crate) struct Random(u64);

pub(crate) struct View {
    pub(crate) definition: FeatureView,
    pub(crate) plan: ViewPlan,
}

impl View {
    fn new(kind: ViewKind, hard_ttl: Micros, op: Option<String>) -> Self {
        let definition = FeatureView {
            name: "v".into(),
            version: 1,
            entity: "e".into(),
            source: "s".into(),
            key_columns: vec!["k".into()],
            op,
            filter: None,
            derived: Vec::new(),
            kind,
            soft_ttl: None,
            hard_ttl,
            slo: FreshnessSlo { tier: None, p95: 1, p99: 1 },
            meta: Meta::default(),
        };
        let plan = ViewPlan::compile(&definition, &column_type).unwrap();
        Self { definition, plan }
    }

    /// One feature: events by the values of a column of this type.
    pub(crate) fn of_counts_by_group(group: &str, window: Micros) -> Self {
        let group: ValueType = group.parse().unwrap();
        let feature = WindowFeature {
            name: "counts".into(),
            function: F::Count,
            column: None,
            column_type: None,
            window: Some(window),
            hop: SECOND,
            filter: None,
            group_by: Some(format!("c_{group}")),
            value_type: aggregate_output_type(&F::Count, None, Some(&group)).unwrap(),
            group_type: Some(group),
            default: DefaultValue::Null,
            pii: false,
            meta: Meta::default(),
        };
        Self::new(ViewKind::Windows(vec![feature]), i64::MAX, None)
    }

    pub(crate) fn function(&self, feature: usize) -> Option<&F> {
        match &self.definition.kind {
            ViewKind::Latest(_) => None,
            ViewKind::Windows(features) => Some(&features[feature].function),
        }
    }

    /// The place of a column among the plan's inputs.
    pub(crate) fn column(&self, column: &str) -> usize {
        let is_it = |i: &ViewInput| matches!(i, ViewInput::Column { name, .. } if name == column);
        self.plan.inputs().iter().position(is_it).unwrap()
    }

    /// The place of the predicate of rows that take others back.
    pub(crate) fn takes_back(&self) -> Option<usize> {
        let op = self.definition.op.as_deref()?;
        Some(self.predicate(&springhouse_core::change::Change::takes_back_sql(op)))
    }

    pub(crate) fn predicate(&self, text: &str) -> usize {
        let is_it = |i: &ViewInput| matches!(i, ViewInput::Predicate { sql } if sql == text);
        self.plan.inputs().iter().position(is_it).unwrap()
    }
}

const TYPES: [&str; 13] = [
    "float64",
    "float32",
    "int64",
    "int32",
    "string",
    "bool",
    "bytes",
    "timestamp",
    "date",
    "decimal(9,2)",
    "list<int64>",
    "vector<2>",
    "json",
];

fn column_type(name: &str) -> Option<ValueType> {
    name.strip_prefix("c_")?.parse().ok()
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// 0 to `n` inclusive.
    pub(crate) fn span(&mut self, n: Micros) -> Micros {
        (self.next() % (n as u64 + 1)) as Micros
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 <= p
    }

    pub(crate) fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    pub(crate) fn shuffled<T: Clone>(&mut self, items: &[T]) -> Vec<T> {
        let mut out = items.to_vec();
        for i in (1..out.len()).rev() {
            out.swap(i, self.below(i + 1));
        }
        out
    }

    pub(crate) fn view(&mut self) -> View {
        let kind = if self.chance(0.2) { self.latest() } else { self.windows() };
        let hard_ttl = self.pick(&[i64::MAX, HOUR, 10 * SECOND, 0]);
        let op = self.chance(0.25).then(|| "op".to_owned());
        View::new(kind, hard_ttl, op)
    }

    fn latest(&mut self) -> ViewKind {
        let count = 1 + self.below(4);
        let feature = |number: usize, random: &mut Self| {
            let value_type: ValueType = random.pick(&TYPES).parse().unwrap();
            LatestFeature {
                name: format!("f{number}"),
                column: format!("c_{value_type}"),
                value_type,
                default: DefaultValue::Null,
                pii: false,
                meta: Meta::default(),
            }
        };
        ViewKind::Latest((0..count).map(|i| feature(i, self)).collect())
    }

    fn windows(&mut self) -> ViewKind {
        let count = 1 + self.below(6);
        ViewKind::Windows((0..count).map(|i| self.window_feature(i)).collect())
    }

    fn window_feature(&mut self, number: usize) -> WindowFeature {
        loop {
            let n = 1 + self.below(4) as u32;
            let cap = self.pick(&[2u32, 4, 1_000]);
            let function = self.pick(&[
                F::Count,
                F::Sum,
                F::Sum,
                F::Mean,
                F::Min,
                F::Max,
                F::Variance,
                F::Stddev,
                F::First,
                F::Last,
                F::FirstN(n),
                F::LastN(n),
                F::CountDistinct { cap },
                F::ApproxCountDistinct { precision: 14 },
                F::ApproxCountDistinct { precision: 4 },
                F::ApproxQuantile { q: 0.5, alpha: 0.01 },
                F::ApproxQuantile { q: 0.95, alpha: 0.01 },
                F::TopN { n, cap },
                F::ValueCounts { cap },
                F::SecondsSinceLast,
            ]);
            let has_column = match function {
                F::SecondsSinceLast => false,
                F::Count => self.chance(0.5),
                _ => true,
            };
            let column_type: Option<ValueType> = has_column.then(|| self.pick(&TYPES).parse().unwrap());
            let group: Option<ValueType> =
                self.chance(0.25).then(|| self.pick(&TYPES[..10]).parse().unwrap());
            let Ok(value_type) = aggregate_output_type(&function, column_type.as_ref(), group.as_ref())
            else {
                continue;
            };
            let window =
                self.pick(&[None, Some(MINUTE), Some(10 * SECOND), Some(HOUR), Some(90 * SECOND + 7)]);
            let hop = match self.below(4) {
                0 => HOP_EXACT,
                1 => self.pick(&[7, SECOND, 30 * SECOND]),
                _ => springhouse_core::definition::default_hop(window.unwrap_or(HOUR)),
            };
            return WindowFeature {
                name: format!("f{number}_{}", function.name()),
                function,
                column: column_type.as_ref().map(|t| format!("c_{t}")),
                column_type,
                window,
                hop,
                filter: self.chance(0.3).then(|| self.pick(&["p", "q"]).to_owned()),
                group_by: group.as_ref().map(|t| format!("c_{t}")),
                group_type: group,
                value_type,
                default: DefaultValue::Null,
                pii: false,
                meta: Meta::default(),
            };
        }
    }

    /// Up to `count` events of one entity, around the epoch, many on and beside edges; late, early and at once.
    pub(crate) fn events(&mut self, view: &View, count: usize) -> Vec<Event> {
        let span = self.pick(&[20 * SECOND, 3 * MINUTE, 3 * HOUR]);
        let count = if count == 1 { 1 } else { self.below(count + 1) };
        let mut events: Vec<Event> = Vec::with_capacity(count);
        let takes_back = view.takes_back();
        for seq in 0..count {
            let flagged = |mut event: Event, flag: bool| {
                takes_back.iter().for_each(|input| event.values[*input] = Value::Bool(flag));
                event
            };
            if takes_back.is_some() && !events.is_empty() && self.chance(0.4) {
                // Known later than what it takes back, or at once.
                let taken = self.pick(&events);
                let late = self.pick(&[0, 1, SECOND, READ_BACK, MINUTE]);
                let known_at = taken.stamp.known_at + late;
                let stamp = Stamp { known_at, seq: seq as i64, ..taken.stamp };
                let is_taken = events.iter().any(|event| {
                    let flag = takes_back.map(|input| &event.values[input]) == Some(&Value::Bool(true));
                    flag && flagged(event.clone(), false).values == flagged(taken.clone(), false).values
                        && event.stamp.event_time == taken.stamp.event_time
                });
                if !is_taken {
                    events.push(flagged(Event { stamp, ..taken }, true));
                    continue;
                }
            }
            let event = {
                let mut event_time = self.span(span) - span / 2;
                if self.chance(0.4) {
                    let edge = self.pick(&[SECOND, 30 * SECOND, MINUTE, 7]);
                    event_time = event_time.div_euclid(edge) * edge + self.pick(&[-1, 0, 0, 1]);
                }
                let late = match self.below(6) {
                    0 => self.span(span),
                    1 => READ_BACK,
                    2 => 1,
                    // Known before it happened: a forecast.
                    3 => -self.span(SECOND),
                    _ => 0,
                };
                let stamp = Stamp { event_time, known_at: event_time + late, seq: seq as i64 };
                let inputs = view.plan.inputs().to_vec();
                Event { stamp, values: inputs.iter().map(|input| self.value(input)).collect() }
            };
            let mut event = flagged(event, false);
            if takes_back.is_some() && !events.is_empty() && self.chance(0.1) {
                // The same content once more.
                event = flagged(
                    Event { stamp: Stamp { seq: seq as i64, ..event.stamp }, ..self.pick(&events) },
                    false,
                );
            }
            events.push(event);
        }
        events
    }

    fn value(&mut self, input: &ViewInput) -> Value {
        if self.chance(0.12) {
            return Value::Null;
        }
        // Floats are eighths below 2^13, so that plain float arithmetic on few of them is exact.
        let eighths = self.span(1 << 16) - (1 << 15);
        match input.value_type() {
            ValueType::Bool => Value::Bool(self.chance(0.5)),
            ValueType::Int32 => Value::Int32(self.pick(&[i32::MIN, -3, 0, 1, 1, 2, 7])),
            ValueType::Int64 => Value::Int64(match self.below(12) {
                0 => i64::MAX,
                1 => i64::MIN,
                _ => self.span(9) - 4,
            }),
            ValueType::Float32 => Value::Float32(match self.below(10) {
                0 => f32::NAN,
                1 => -0.0,
                2 => 0.0,
                _ => eighths as f32 / 8.0,
            }),
            ValueType::Float64 => Value::Float64(match self.below(14) {
                0 => f64::NAN,
                1 => -0.0,
                2 => 0.0,
                3 if self.chance(0.2) => f64::INFINITY,
                4 if self.chance(0.2) => f64::NEG_INFINITY,
                5..8 => (self.span(4) - 2) as f64,
                _ => eighths as f64 / 8.0,
            }),
            ValueType::String | ValueType::Json => Value::string(self.pick(&["", "a", "b", "Ünï", "\"x\""])),
            ValueType::Bytes => Value::Bytes(self.pick(&[&[][..], &[0], &[255, 1]]).into()),
            ValueType::Timestamp => Value::Timestamp(self.span(5) - 2),
            ValueType::Date => Value::Date(self.pick(&[-1, 0, 19_000])),
            ValueType::Decimal { scale, .. } => Value::Decimal(i128::from(self.span(6) - 3), *scale),
            ValueType::List(_) => Value::List([Value::Int64(self.span(3)), Value::Null].into()),
            ValueType::Vector(_) => Value::Vector([self.span(3) as f32, -0.0].into()),
            ValueType::Map(..) => unreachable!("no column is a map"),
        }
    }

    /// A writer's moment: mostly one whose horizon is on or beside what matters.
    pub(crate) fn write_moment(&mut self, events: &[Event]) -> Micros {
        self.moment(events) + if self.chance(0.7) { READ_BACK } else { 0 }
    }

    /// A moment on, beside or between what matters.
    pub(crate) fn moment(&mut self, events: &[Event]) -> Micros {
        let free = self.span(4 * HOUR) - 2 * HOUR;
        if events.is_empty() || self.chance(0.15) {
            return free;
        }
        let stamp = self.pick(events).stamp;
        let base = self.pick(&[stamp.event_time, stamp.known_at, stamp.visible_at()]);
        let ahead =
            self.pick(&[0, 0, MINUTE, HOUR, 10 * SECOND, 90 * SECOND + 7, 30 * SECOND, READ_BACK, SECOND]);
        base + ahead + self.pick(&[-1, 0, 0, 1, 500_000])
    }
}
