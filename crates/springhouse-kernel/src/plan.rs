//! What is compiled once from a feature view, and the operations on an entity's state that follow from it.

mod compile;

use crate::Stamp;
use crate::aggregate::{Kind, Slot};
use crate::answer::{EntityAnswer, EntityExplanation, ReadFrom, Reading};
use crate::codec::{Out, Reader};
use crate::stamp::Window;
use crate::state::{CODEC_VERSION, CODEC_VERSION_READ, EntityState, Inner, LatestState, SurvivingState};
use springhouse_core::definition::{AggregateFunction, FeatureView};
use springhouse_core::{Micros, Value, ValueType};

/// How far back from the newest applied moment a read is still exact: raw events this young stay beside the tiles. More than a
/// request takes and clocks of machines differ by; no more, since every write of a row carries these events, and a frequent
/// entity has thousands a second.
pub const READ_BACK: Micros = 2 * springhouse_core::time::SECOND;

/// One Arrow column that a plan reads for each event.
#[derive(Clone, Debug, PartialEq)]
pub enum ViewInput {
    /// A column of the source or a derived column.
    Column {
        /// Its name.
        name: String,
        /// Its type.
        value_type: ValueType,
    },
    /// A boolean: whether an aggregate's `where` is true (null is not true).
    Predicate {
        /// The SQL text.
        sql: String,
    },
}

impl ViewInput {
    /// The type of its values.
    pub fn value_type(&self) -> &ValueType {
        match self {
            Self::Column { value_type, .. } => value_type,
            Self::Predicate { .. } => &ValueType::Bool,
        }
    }
}

/// One event of one entity, with a value for each of the plan's inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its times.
    pub stamp: Stamp,
    /// One per [`ViewPlan::inputs`]; predicates are `Value::Bool`, anything but `Bool(true)` is not true.
    pub values: Vec<Value>,
}

/// True when the input that says so (if the plan has one) is true: the event takes another back.
pub(crate) fn takes_back(input: Option<usize>, values: &[Value]) -> bool {
    input.is_some_and(|input| values[input] == Value::Bool(true))
}

/// Everything that the kernel must know of a feature view, resolved once.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewPlan {
    pub(crate) inputs: Vec<ViewInput>,
    pub(crate) features: Vec<(String, ValueType)>,
    pub(crate) kind: PlanKind,
    /// Hash of everything that a stored state's meaning depends on.
    pub(crate) fingerprint: u64,
}

/// The two kinds of plan.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PlanKind {
    /// The greatest visible row.
    Latest(LatestPlan),
    /// Aggregates over windows.
    Windows(WindowsPlan),
}

/// How latest values are read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LatestPlan {
    /// The input of each feature.
    pub(crate) columns: Vec<usize>,
    /// After this age a row is expired.
    pub(crate) hard_ttl: Micros,
    /// The predicate of rows that take others back.
    pub(crate) takes_back: Option<usize>,
}

/// How windowed aggregates are kept and read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WindowsPlan {
    /// The tiles kept, one level per hop.
    pub(crate) levels: Vec<Level>,
    /// The windows read, each once.
    pub(crate) readers: Vec<WindowReader>,
    /// Where each feature's value comes from.
    pub(crate) features: Vec<FeatureRead>,
    /// The longest window with an exact tail; raw events are kept for it.
    pub(crate) exact: Option<Window>,
    /// Which inputs those raw events need.
    pub(crate) exact_inputs: Vec<bool>,
    /// The predicate of events that take others back.
    pub(crate) takes_back: Option<usize>,
}

/// How a level cuts time into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tiling {
    /// One tile for all time.
    Lifetime,
    /// Tiles as wide as the hop: a window's tail always falls between two.
    Stepped(Micros),
    /// Tiles inside windows of a microsecond's hop; raw events stand in for the tile that the tail cuts.
    Exact(Micros),
}

/// Tiles of one width, each with the states that windows of this hop need.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Level {
    /// How time is cut.
    pub(crate) tiling: Tiling,
    /// The longest window that reads the level.
    pub(crate) longest: Window,
    /// The states in each tile.
    pub(crate) slots: Vec<Slot>,
}

/// A window over some slots of a level.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WindowReader {
    /// Which level.
    pub(crate) level: usize,
    /// Its bounds.
    pub(crate) window: Window,
    /// Which slots of the level.
    pub(crate) slots: Vec<usize>,
}

/// A feature's place among the readers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FeatureRead {
    /// Which reader.
    pub(crate) reader: usize,
    /// Which of the reader's slots.
    pub(crate) place: usize,
    /// What is made of the state.
    pub(crate) function: AggregateFunction,
}

/// Why a view has no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("view `{view}` can't be planned: {reason}")]
pub struct PlanError {
    /// The view.
    pub view: String,
    /// What is wrong with it.
    pub reason: String,
}

impl ViewPlan {
    /// Compiles a view. `column_type` gives the type of a source or derived column.
    ///
    /// # Errors
    /// When a function does not take the column's type, or a parameter is out of range.
    pub fn compile(
        view: &FeatureView,
        column_type: &dyn Fn(&str) -> Option<ValueType>,
    ) -> Result<Self, PlanError> {
        compile::compile(view, column_type)
    }

    /// The columns and predicates that every event must bring, in order, without duplicates.
    pub fn inputs(&self) -> &[ViewInput] {
        &self.inputs
    }

    /// Names and types of the features, in order.
    pub fn features(&self) -> &[(String, ValueType)] {
        &self.features
    }

    /// A number for all that the meaning of a stored state depends on; plans of one number read each other's states.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// How long after its event time an entity's newest row still counts, in microseconds; None where a state has no such
    /// end (windows).
    pub fn row_lifetime(&self) -> Option<Micros> {
        match &self.kind {
            PlanKind::Latest(plan) => Some(plan.hard_ttl),
            PlanKind::Windows(_) => None,
        }
    }

    /// True for a view of latest values.
    pub fn is_latest(&self) -> bool {
        matches!(self.kind, PlanKind::Latest(_))
    }

    /// True when events can take others back: what an event means then depends on those that come later.
    pub fn takes_back(&self) -> bool {
        match &self.kind {
            PlanKind::Latest(plan) => plan.takes_back.is_some(),
            PlanKind::Windows(plan) => plan.takes_back.is_some(),
        }
    }

    /// True when answers depend on the sequence numbers of events: where one of several is picked.
    pub fn reads_sequence(&self) -> bool {
        match &self.kind {
            PlanKind::Latest(plan) => plan.takes_back.is_none(),
            PlanKind::Windows(windows) => {
                let slots = windows.levels.iter().flat_map(|level| &level.slots);
                slots.into_iter().any(|slot| matches!(slot.kind, Kind::Oldest { .. } | Kind::Newest { .. }))
            }
        }
    }

    /// The state of an entity without events.
    pub fn empty(&self) -> EntityState {
        EntityState {
            inner: match &self.kind {
                PlanKind::Latest(LatestPlan { takes_back: Some(_), .. }) => {
                    Inner::Surviving(SurvivingState::default())
                }
                PlanKind::Latest(_) => Inner::Latest(LatestState::default()),
                PlanKind::Windows(plan) => Inner::Windows(plan.empty()),
            },
        }
    }

    /// Adds an event. `now`: the newest moment of the writer (its clock, or the cut of a materialisation); events with
    /// `visible_at < now - READ_BACK` go into tiles, younger ones stay raw, so that every read at `T >= now - READ_BACK`
    /// is exact.
    ///
    /// # Panics
    /// When the event has not one value per input, or the state is of another kind of view.
    pub fn insert(&self, state: &mut EntityState, event: Event, now: Micros) {
        assert_eq!(
            event.values.len(),
            self.inputs.len(),
            "an event has one value per input of its view's plan"
        );
        let horizon = horizon(now);
        match (&self.kind, &mut state.inner) {
            (PlanKind::Latest(_), Inner::Latest(rows)) => rows.insert(event),
            (PlanKind::Latest(plan), Inner::Surviving(rows)) => plan.insert(rows, event, horizon),
            (PlanKind::Windows(plan), Inner::Windows(state)) => plan.insert(state, event, horizon),
            _ => wrong_plan(),
        }
    }

    /// Adds all events of `other` (which `state` must not hold yet). Commutative and associative, `empty` is neutral.
    ///
    /// # Panics
    /// When a state is of another kind of view.
    pub fn merge(&self, state: &mut EntityState, other: &EntityState) {
        match (&self.kind, &mut state.inner, &other.inner) {
            (PlanKind::Latest(_), Inner::Latest(rows), Inner::Latest(more)) => rows.merge(more),
            (PlanKind::Latest(_), Inner::Surviving(rows), Inner::Surviving(more)) => rows.merge(more),
            (PlanKind::Windows(plan), Inner::Windows(state), Inner::Windows(more)) => plan.merge(state, more),
            _ => wrong_plan(),
        }
    }

    /// Folds raw events older than `now - READ_BACK` into tiles and drops what no read at or after that moment can see.
    ///
    /// # Panics
    /// When the state is of another kind of view.
    pub fn compact(&self, state: &mut EntityState, now: Micros) {
        let horizon = horizon(now);
        match (&self.kind, &mut state.inner) {
            (PlanKind::Latest(_), Inner::Latest(rows)) => rows.compact(horizon),
            (PlanKind::Latest(plan), Inner::Surviving(rows)) => plan.compact(rows, horizon),
            (PlanKind::Windows(plan), Inner::Windows(state)) => plan.compact(state, horizon),
            _ => wrong_plan(),
        }
    }

    /// The raw (before defaults) value of every feature at `at`.
    ///
    /// # Panics
    /// When the state is of another kind of view.
    pub fn read(&self, state: &EntityState, at: Micros) -> EntityAnswer {
        match (&self.kind, &state.inner) {
            (PlanKind::Latest(plan), Inner::Latest(rows)) => plan.read(rows.row_at(at).as_deref(), at),
            (PlanKind::Latest(plan), Inner::Surviving(rows)) => plan.read(plan.row_at(rows, at).as_ref(), at),
            (PlanKind::Windows(plan), Inner::Windows(state)) => plan.read(state, at),
            _ => wrong_plan(),
        }
    }

    /// The same, to be asked for by feature.
    ///
    /// # Panics
    /// When the state is of another kind of view.
    pub fn reading<'a>(&'a self, state: &'a EntityState, at: Micros) -> Reading<'a> {
        let from = match (&self.kind, &state.inner) {
            (PlanKind::Latest(plan), Inner::Latest(rows)) => plan.reading(rows, at),
            _ => None,
        };
        Reading { from: from.unwrap_or_else(|| ReadFrom::Answer(self.read(state, at))) }
    }

    /// The answer for an entity without any state: the same at every moment.
    pub fn read_empty(&self) -> EntityAnswer {
        self.read(&self.empty(), 0)
    }

    /// The tiles, raw events or row behind the answer at `at`.
    ///
    /// # Panics
    /// When the state is of another kind of view.
    pub fn explain(&self, state: &EntityState, at: Micros) -> EntityExplanation {
        let features = match (&self.kind, &state.inner) {
            (PlanKind::Latest(plan), Inner::Latest(rows)) => plan.explain(rows.row_at(at).as_deref(), at),
            (PlanKind::Latest(plan), Inner::Surviving(rows)) => {
                plan.explain(plan.row_at(rows, at).as_ref(), at)
            }
            (PlanKind::Windows(plan), Inner::Windows(state)) => plan.explain(state, at),
            _ => wrong_plan(),
        };
        let names = self.features.iter().map(|(name, _)| name.clone());
        EntityExplanation { features: names.zip(features).collect() }
    }

    /// Appends the state's bytes: versioned, checksummed, compact, no column names; equal states, equal bytes.
    ///
    /// # Panics
    /// When the state is of another kind of view.
    pub fn encode(&self, state: &EntityState, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(CODEC_VERSION);
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        self.encode_body(state, out);
        let checksum = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&checksum.to_le_bytes());
    }

    fn encode_body(&self, state: &EntityState, out: &mut Out) {
        match (&self.kind, &state.inner) {
            (PlanKind::Latest(_), Inner::Latest(rows)) => rows.encode(out),
            (PlanKind::Latest(_), Inner::Surviving(rows)) => rows.encode(out),
            (PlanKind::Windows(plan), Inner::Windows(state)) => plan.encode(state, out),
            _ => wrong_plan(),
        }
    }

    /// Reads a state that [`Self::encode`] wrote for the same plan.
    ///
    /// # Errors
    /// [`crate::CodecError`] when the bytes are damaged, of another version, or of another plan.
    pub fn decode(&self, bytes: &[u8]) -> Result<EntityState, crate::CodecError> {
        use crate::CodecError;
        // The version comes first: another version may have its checksum elsewhere.
        let version = *bytes.first().ok_or(CodecError::Malformed("there are no bytes"))?;
        if !(CODEC_VERSION_READ..=CODEC_VERSION).contains(&version) {
            return Err(CodecError::Version(version));
        }
        let (content, checksum) =
            bytes.split_last_chunk::<4>().ok_or(CodecError::Malformed("it ends too soon"))?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
            return Err(CodecError::Checksum);
        }
        let header = content.get(1..).and_then(|rest| rest.split_first_chunk::<8>());
        let (fingerprint, body) = header.ok_or(CodecError::Malformed("it ends too soon"))?;
        if u64::from_le_bytes(*fingerprint) != self.fingerprint {
            return Err(CodecError::Plan);
        }
        let mut reader = Reader::new(body, version);
        let inner = match &self.kind {
            PlanKind::Latest(LatestPlan { takes_back: Some(_), .. }) => {
                Inner::Surviving(SurvivingState::decode(&mut reader, self.inputs.len())?)
            }
            PlanKind::Latest(_) => Inner::Latest(LatestState::decode(&mut reader, self.inputs.len())?),
            PlanKind::Windows(plan) => Inner::Windows(plan.decode(&mut reader, self.inputs.len())?),
        };
        reader.finish()?;
        Ok(EntityState { inner })
    }
}

/// Reads at or after this moment are exact. What became visible before it needs no time of its own any more.
fn horizon(now: Micros) -> Micros {
    now.saturating_sub(READ_BACK)
}

fn wrong_plan() -> ! {
    panic!("a state was used with the plan of another kind of view")
}
