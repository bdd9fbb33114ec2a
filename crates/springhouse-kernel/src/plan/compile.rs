//! From a feature view to its plan: inputs found once, states shared by the features that read the same thing.

use super::{
    FeatureRead, LatestPlan, Level, PlanError, PlanKind, Tiling, ViewInput, ViewPlan, WindowReader,
    WindowsPlan,
};
use crate::aggregate::{GROUPS_MAX, Kind, Slot};
use crate::stamp::Window;
use springhouse_core::change::Change;
use springhouse_core::definition::{
    FeatureView, HOP_EXACT, LatestFeature, ViewKind, WindowFeature, aggregate_output_type, default_hop,
};
use springhouse_core::{Micros, ValueType};
use std::fmt::Write;

type ColumnType<'a> = &'a dyn Fn(&str) -> Option<ValueType>;

pub(super) fn compile(view: &FeatureView, column_type: ColumnType<'_>) -> Result<ViewPlan, PlanError> {
    let mut inputs = Inputs { inputs: Vec::new(), column_type };
    let takes_back = view.op.as_deref().map(|op| {
        let sql = Change::takes_back_sql(op);
        inputs.place(ViewInput::Predicate { sql })
    });
    let kind = match &view.kind {
        ViewKind::Latest(features) => inputs
            .latest(features)
            .map(|columns| PlanKind::Latest(LatestPlan { columns, hard_ttl: view.hard_ttl, takes_back })),
        ViewKind::Windows(features) => windows(features, takes_back, &mut inputs).map(PlanKind::Windows),
    };
    let kind = kind.map_err(|reason| PlanError { view: view.name.clone(), reason })?;
    let features = view.features().into_iter().map(|(name, t)| (name.to_owned(), t.clone())).collect();
    let fingerprint = fingerprint(&inputs.inputs, &kind);
    Ok(ViewPlan { inputs: inputs.inputs, features, kind, fingerprint })
}

struct Inputs<'a> {
    inputs: Vec<ViewInput>,
    column_type: ColumnType<'a>,
}

impl Inputs<'_> {
    fn place(&mut self, input: ViewInput) -> usize {
        if let Some(at) = self.inputs.iter().position(|held| *held == input) {
            return at;
        }
        self.inputs.push(input);
        self.inputs.len() - 1
    }

    fn column(&mut self, name: &str) -> Result<(usize, ValueType), String> {
        let value_type = (self.column_type)(name).ok_or_else(|| format!("there is no column `{name}`"))?;
        let input = ViewInput::Column { name: name.to_owned(), value_type: value_type.clone() };
        Ok((self.place(input), value_type))
    }

    fn latest(&mut self, features: &[LatestFeature]) -> Result<Vec<usize>, String> {
        let place = |feature: &LatestFeature| {
            let (at, value_type) = self.column(&feature.column)?;
            check_type(&feature.value_type, &value_type)
                .map_err(|why| format!("feature `{}`: {why}", feature.name))?;
            Ok(at)
        };
        features.iter().map(place).collect()
    }
}

fn check_type(declared: &ValueType, found: &ValueType) -> Result<(), String> {
    if declared == found {
        return Ok(());
    }
    Err(format!("it is declared {declared}, its values are {found}"))
}

fn windows(
    features: &[WindowFeature],
    takes_back: Option<usize>,
    inputs: &mut Inputs<'_>,
) -> Result<WindowsPlan, String> {
    let mut plan = WindowsPlan {
        levels: Vec::new(),
        readers: Vec::new(),
        features: Vec::new(),
        exact: None,
        exact_inputs: Vec::new(),
        takes_back,
    };
    for feature in features {
        let name = &feature.name;
        let slot =
            slot(feature, takes_back.is_some(), inputs).map_err(|why| format!("feature `{name}`: {why}"))?;
        let (tiling, window) = tiling(feature).map_err(|why| format!("feature `{name}`: {why}"))?;
        let level = plan.level(tiling, window);
        let slot = plan.levels[level].place(slot);
        let reader = plan.reader(level, window);
        let slots = &mut plan.readers[reader].slots;
        let place = slots.iter().position(|held| *held == slot).unwrap_or_else(|| {
            slots.push(slot);
            slots.len() - 1
        });
        plan.features.push(FeatureRead { reader, place, function: feature.function.clone() });
    }
    plan.note_exact(inputs.inputs.len());
    Ok(plan)
}

fn tiling(feature: &WindowFeature) -> Result<(Tiling, Window), String> {
    let Some(length) = feature.window else {
        // A lifetime has no tail, so its hop has no meaning: one spelling for all.
        return Ok((Tiling::Lifetime, Window { length: None, hop: HOP_EXACT }));
    };
    if length < 1 || feature.hop < 1 {
        return Err("a window and its hop are at least one microsecond long".to_owned());
    }
    let window = Window { length: Some(length), hop: feature.hop };
    let tiling = match feature.hop {
        HOP_EXACT => Tiling::Exact(default_hop(length)),
        hop => Tiling::Stepped(hop),
    };
    Ok((tiling, window))
}

fn slot(feature: &WindowFeature, takes_back: bool, inputs: &mut Inputs<'_>) -> Result<Slot, String> {
    let column = feature.column.as_deref().map(|name| inputs.column(name)).transpose()?;
    let group = feature.group_by.as_deref().map(|name| inputs.column(name)).transpose()?;
    let predicate =
        feature.filter.as_ref().map(|sql| inputs.place(ViewInput::Predicate { sql: sql.clone() }));
    let column_type = column.as_ref().map(|(_, value_type)| value_type);
    let output =
        aggregate_output_type(&feature.function, column_type, group.as_ref().map(|(_, group)| group))?;
    check_type(&feature.value_type, &output)?;
    let kind = match Kind::of(&feature.function, column_type) {
        kind @ (Kind::Count | Kind::Integers { .. } | Kind::Floats { .. }) => kind,
        _ if takes_back => Kind::Kept,
        kind => kind,
    };
    Ok(Slot {
        kind,
        column: column.map(|(at, _)| at),
        predicate,
        group: group.map(|(at, _)| (at, GROUPS_MAX)),
        takes_back,
    })
}

/// One kind that answers for both, where there is one.
fn shared(a: Kind, b: Kind) -> Option<Kind> {
    use Kind::{Count, Floats, Integers, Newest, Oldest};
    Some(match (a, b) {
        (Integers { squares: a }, Integers { squares: b }) => Integers { squares: a || b },
        (Floats { squares: a }, Floats { squares: b }) => Floats { squares: a || b },
        // Power sums hold the count.
        (sums @ (Integers { .. } | Floats { .. }), Count)
        | (Count, sums @ (Integers { .. } | Floats { .. })) => sums,
        (Oldest { n: a }, Oldest { n: b }) => Oldest { n: a.max(b) },
        (Newest { n: a }, Newest { n: b }) => Newest { n: a.max(b) },
        (a, b) if a == b => a,
        _ => return None,
    })
}

impl Level {
    fn place(&mut self, slot: Slot) -> usize {
        for (at, held) in self.slots.iter_mut().enumerate() {
            let same_events =
                held.column == slot.column && held.predicate == slot.predicate && held.group == slot.group;
            if same_events && let Some(kind) = shared(held.kind, slot.kind) {
                held.kind = kind;
                return at;
            }
        }
        self.slots.push(slot);
        self.slots.len() - 1
    }
}

impl WindowsPlan {
    fn level(&mut self, tiling: Tiling, window: Window) -> usize {
        if let Some(at) = self.levels.iter().position(|level| level.tiling == tiling) {
            let longest = &mut self.levels[at].longest;
            longest.length = longest.length.max(window.length);
            return at;
        }
        self.levels.push(Level { tiling, longest: window, slots: Vec::new() });
        self.levels.len() - 1
    }

    fn reader(&mut self, level: usize, window: Window) -> usize {
        let same = |held: &WindowReader| held.level == level && held.window == window;
        self.readers.iter().position(same).unwrap_or_else(|| {
            self.readers.push(WindowReader { level, window, slots: Vec::new() });
            self.readers.len() - 1
        })
    }

    fn note_exact(&mut self, inputs: usize) {
        self.exact_inputs = vec![false; inputs];
        for level in self.levels.iter().filter(|level| matches!(level.tiling, Tiling::Exact(_))) {
            let longest = self.exact.get_or_insert(level.longest);
            longest.length = longest.length.max(level.longest.length);
            for slot in &level.slots {
                let group = slot.group.map(|(input, _)| input);
                let used = [slot.column, slot.predicate, group].into_iter().flatten();
                used.for_each(|input| self.exact_inputs[input] = true);
            }
        }
        self.takes_back.iter().for_each(|input| self.exact_inputs[*input] = true);
    }
}

/// Hashes what a stored state's meaning depends on: inputs, levels, slots. Not names of features, TTLs or defaults, so
/// that those can change without a rebuild.
fn fingerprint(inputs: &[ViewInput], kind: &PlanKind) -> u64 {
    // Spelled out rather than derived from `Debug`: stored states must outlive a renamed enum.
    let mut text = String::new();
    for input in inputs {
        match input {
            ViewInput::Column { name, value_type } => writeln!(text, "column {name} {value_type}"),
            ViewInput::Predicate { sql } => writeln!(text, "predicate {sql}"),
        }
        .expect("a String takes all that is written");
    }
    match kind {
        PlanKind::Latest(LatestPlan { takes_back: Some(_), .. }) => text.push_str("surviving\n"),
        PlanKind::Latest(_) => text.push_str("latest\n"),
        PlanKind::Windows(plan) => {
            if plan.takes_back.is_some() {
                text.push_str("taking back\n");
            }
            for level in &plan.levels {
                text.push_str(&level_text(level));
            }
        }
    }
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

fn level_text(level: &Level) -> String {
    let tiling = match level.tiling {
        Tiling::Lifetime => "lifetime".to_owned(),
        Tiling::Stepped(width) => format!("stepped {width}"),
        Tiling::Exact(width) => format!("exact {width}"),
    };
    let longest = level.longest.length.map_or(-1, |length: Micros| length);
    let slots = level.slots.iter().map(|slot| {
        let kind = match slot.kind {
            Kind::Count => "count".to_owned(),
            Kind::Integers { squares } => format!("integers {squares}"),
            Kind::Floats { squares } => format!("floats {squares}"),
            Kind::Least => "least".to_owned(),
            Kind::Greatest => "greatest".to_owned(),
            Kind::Oldest { n } => format!("oldest {n}"),
            Kind::Newest { n } => format!("newest {n}"),
            Kind::Counted { cap } => format!("counted {cap}"),
            Kind::Distinct { precision } => format!("distinct {precision}"),
            Kind::Quantile { scale, cap } => format!("quantile {:016x} {cap}", scale.identity()),
            Kind::NewestTime => "newest time".to_owned(),
            Kind::Kept => "kept".to_owned(),
        };
        let place = |input: Option<usize>| input.map_or("-".to_owned(), |input| input.to_string());
        let (column, predicate) = (place(slot.column), place(slot.predicate));
        let group = slot.group.map_or("-".to_owned(), |(input, cap)| format!("{input}/{cap}"));
        format!("slot {kind} column {column} where {predicate} group {group}\n")
    });
    format!("level {tiling} longest {longest}\n{}", slots.collect::<String>())
}
