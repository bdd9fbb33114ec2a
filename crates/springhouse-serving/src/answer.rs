//! What the caller gets.

use springhouse_core::{Micros, Value, ValueStatus, ValueType};
use std::any::Any;
use std::sync::{Arc, OnceLock};

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Read from the store, for this request.
    Store,
    /// Read from the store a moment ago, for another request.
    HotCache,
    /// The same, and due to be read again: that is being done while this answer goes out.
    StaleCache,
    /// The store did not answer; this is what it said the last time.
    LastKnown,
    /// The default stands in.
    Default,
    /// Computed for this request.
    Computed,
}

/// How degraded an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DegradationLevel {
    /// Every value fresh, or honestly missing or null.
    Healthy,
    /// Some value is stale.
    Stale,
    /// Some value is a default because it expired or the store did not answer.
    Degraded,
    /// No value came from the store although all should have.
    Critical,
}

/// What all answers to one selection have in common. They share it: counting who holds a name costs more than a value, where
/// several threads do.
#[derive(Debug)]
pub struct AnswerHead {
    /// In the order asked for.
    pub features: Vec<FeatureHead>,
    /// Those that are read from the store, then those that are computed.
    pub views: Vec<ViewHead>,
    /// Hash of the definitions.
    pub definition_hash: Arc<str>,
    /// What is made of it once.
    pub prepared: Prepared,
}

/// What those who send answers make of a head once for all of them, such as its names in their own writing.
#[derive(Debug, Default)]
pub struct Prepared(OnceLock<Box<dyn Any + Send + Sync>>);

impl Prepared {
    /// What was made; it is made now if it was not yet.
    ///
    /// # Panics
    /// When it is of another type: there is one contract that prepares.
    pub fn get_or_make<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> &T {
        let made = self.0.get_or_init(|| Box::new(make()));
        made.downcast_ref().expect("one contract prepares heads")
    }
}

/// A feature of an answer.
#[derive(Clone, Debug)]
pub struct FeatureHead {
    /// `feature`, or `view:feature` where the request asked for two of one name.
    pub name: String,
    /// Its view: a place in [`AnswerHead::views`].
    pub view: usize,
    /// Its type.
    pub value_type: ValueType,
    /// The type's name.
    pub type_name: String,
}

/// A view of an answer.
#[derive(Clone, Debug)]
pub struct ViewHead {
    /// Its name.
    pub name: Arc<str>,
    /// `name@version`; none of a view that is computed.
    pub id: Option<Arc<str>>,
}

/// The answer. Lists that have an item for each feature and row, or for each view and row, have the rows of the first, then
/// those of the second, and so on.
#[derive(Clone, Debug)]
pub struct FeatureAnswer {
    /// What it has in common with others.
    pub head: Arc<AnswerHead>,
    /// The moment answered for.
    pub at: Micros,
    /// Rows.
    pub row_count: usize,
    /// How degraded.
    pub level: DegradationLevel,
    /// By feature and row. Behind those of the features asked for may be others, which were needed to compute them.
    pub values: Vec<Value>,
    /// As the values.
    pub statuses: Vec<ValueStatus>,
    /// As the values.
    pub origins: Vec<Origin>,
    /// By view and row, microseconds; None = no age (missing, or computed from the request alone).
    pub ages: Vec<Option<Micros>>,
    /// By view and row: event time of latest values.
    pub event_times: Vec<Option<Micros>>,
    /// By view: the log offset that it had applied (at least) when it was read from the store.
    pub cuts: Vec<Option<i64>>,
}

/// One feature for all rows of the request; lists have an item for each row.
#[derive(Clone, Copy, Debug)]
pub struct FeatureColumn<'a> {
    /// The feature.
    pub head: &'a FeatureHead,
    /// Its values.
    pub values: &'a [Value],
    /// What became of each.
    pub statuses: &'a [ValueStatus],
    /// Where each came from.
    pub origins: &'a [Origin],
    /// As [`FeatureAnswer::ages`].
    pub ages: &'a [Option<Micros>],
    /// As [`FeatureAnswer::event_times`].
    pub event_times: &'a [Option<Micros>],
}

impl FeatureAnswer {
    /// The features in the order asked for.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = FeatureColumn<'_>> {
        (0..self.head.features.len()).map(|place| self.column(place))
    }

    /// The feature at a place in that order.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn column(&self, place: usize) -> FeatureColumn<'_> {
        let head = &self.head.features[place];
        FeatureColumn {
            head,
            values: self.values_of(place),
            statuses: self.rows(&self.statuses, place),
            origins: self.rows(&self.origins, place),
            ages: self.ages_of(head.view),
            event_times: self.rows(&self.event_times, head.view),
        }
    }

    /// The values of the feature at a place, row by row.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn values_of(&self, place: usize) -> &[Value] {
        self.rows(&self.values, place)
    }

    /// The ages of the view at a place, row by row.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn ages_of(&self, view: usize) -> &[Option<Micros>] {
        self.rows(&self.ages, view)
    }

    fn rows<'a, T>(&self, of: &'a [T], number: usize) -> &'a [T] {
        &of[number * self.row_count..][..self.row_count]
    }

    /// The feature of this name.
    pub fn named(&self, name: &str) -> Option<FeatureColumn<'_>> {
        self.columns().find(|column| column.head.name == name)
    }

    /// The views that the store answered for, by id, with their [`Self::cuts`].
    pub fn positions(&self) -> impl Iterator<Item = (&str, i64)> {
        let views = self.head.views.iter().zip(&self.cuts);
        views.filter_map(|(view, cut)| Some((view.id.as_deref()?, (*cut)?)))
    }
}
