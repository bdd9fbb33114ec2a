//! For the tests of what is sent: answers of features that have nothing to do with each other.

use springhouse_core::{Micros, Value, ValueStatus, ValueType};
use springhouse_serving::{
    AnswerHead, DegradationLevel, FeatureAnswer, FeatureHead, Origin, Prepared, ViewHead,
};
use std::sync::Arc;

/// One feature, of a view of its own; lists have an item for each row.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) value_type: ValueType,
    pub(crate) values: Vec<Value>,
    pub(crate) statuses: Vec<ValueStatus>,
    pub(crate) ages: Vec<Option<Micros>>,
    pub(crate) event_times: Vec<Option<Micros>>,
    pub(crate) origins: Vec<Origin>,
}

/// An answer of these; the store answered for none of their views.
pub(crate) fn answer_of(row_count: usize, columns: Vec<Column>) -> FeatureAnswer {
    let count = columns.len();
    let feature = |(view, column): (usize, &Column)| FeatureHead {
        name: column.name.clone(),
        view,
        value_type: column.value_type.clone(),
        type_name: column.value_type.to_string(),
    };
    let head = AnswerHead {
        features: columns.iter().enumerate().map(feature).collect(),
        views: vec![ViewHead { name: "view".into(), id: Some("view@1".into()) }; count],
        definition_hash: "abc".into(),
        prepared: Prepared::default(),
    };
    let mut answer = FeatureAnswer {
        head: Arc::new(head),
        at: 0,
        row_count,
        level: DegradationLevel::Degraded,
        values: Vec::new(),
        statuses: Vec::new(),
        origins: Vec::new(),
        ages: Vec::new(),
        event_times: Vec::new(),
        cuts: vec![None; count],
    };
    for column in columns {
        answer.values.extend(column.values);
        answer.statuses.extend(column.statuses);
        answer.origins.extend(column.origins);
        answer.ages.extend(column.ages);
        answer.event_times.extend(column.event_times);
    }
    answer
}
