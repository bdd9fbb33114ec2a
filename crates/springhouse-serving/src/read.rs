//! What a request brings, checked; keys; and the store's answers in time.

use crate::admission::shed;
use crate::answer::Origin;
use crate::error::ServingError;
use crate::guard::{Ask, Call, GuardedStore, NoAnswer, RowRead};
use crate::last_known::{Known, LastKnown};
use crate::plan::{RequestShape, ViewRead};
use crate::request::{FeatureRequest, ServingSettings, Signature, ViewFrontier};
use crate::snapshot::Snapshot;
use crate::stages::Stages;
use crate::statistics::Count;
use futures::future::join_all;
use springhouse_core::definition::OnUnavailable;
use springhouse_core::{EntityKey, KeyError, Micros, Value, ValueType};
use springhouse_kernel::EntityState;
use springhouse_online::{BoxFuture, OnlineStore, States, StoreError, ViewHandle};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// The request's columns in the order of the shape's signature, and its row count.
pub(crate) struct Inputs<'a> {
    pub(crate) row_count: usize,
    pub(crate) keys: Vec<&'a [Value]>,
    /// One value for each row, one for all of them, or none at all (null).
    pub(crate) fields: Vec<Option<&'a [Value]>>,
}

pub(crate) fn check_inputs<'a>(
    shape: &RequestShape,
    request: &'a FeatureRequest,
    settings: &ServingSettings,
) -> Result<Inputs<'a>, ServingError> {
    let signature = &*shape.signature;
    let mut keys = Vec::with_capacity(signature.keys.len());
    for (name, value_type) in &signature.keys {
        let column = request.entities.get(name).ok_or_else(|| missing_key(shape, name, request))?;
        check_types("entity key", name, value_type, column)?;
        keys.push(column.as_slice());
    }
    if request.entities.len() > keys.len() {
        check_no_stranger(signature, request)?;
    }
    let row_count = row_count(signature, request)?;
    if row_count > settings.rows_max {
        let message = format!("the request has {row_count} rows; at most {} are answered", settings.rows_max);
        return Err(ServingError::new("too_many_rows", message)
            .with_hint("ask in several requests, or raise `serving.rows_max`"));
    }
    let mut fields = Vec::with_capacity(signature.fields.len());
    for (name, value_type, required) in &signature.fields {
        let column = request.request.get(name).or_else(|| request.entities.get(name));
        if let Some(column) = column {
            check_types("request field", name, value_type, column)?;
        }
        if *required && column.is_none_or(|column| column.iter().any(Value::is_null)) {
            let message = format!("the request field `{name}` ({value_type}) is required");
            return Err(ServingError::new("missing_request_field", message)
                .with_hint("send it for every row, or one value for all"));
        }
        fields.push(column.map(Vec::as_slice));
    }
    if let Some(stranger) =
        request.request.keys().find(|name| !signature.fields.iter().any(|(field, _, _)| field == *name))
    {
        let message = format!("no feature of the request uses a field `{stranger}`");
        let error = ServingError::new("unknown_request_field", message);
        return Err(match signature.fields.as_slice() {
            [] => error.with_hint("the request takes no fields"),
            fields => error.meant(stranger, fields.iter().map(|(field, _, _)| field)),
        });
    }
    Ok(Inputs { row_count, keys, fields })
}

fn missing_key(shape: &RequestShape, name: &str, request: &FeatureRequest) -> ServingError {
    let of = shape.entities.iter().find(|entity| entity.keys.iter().any(|(key, _)| key == name));
    let entity = of.map_or("", |entity| entity.name.as_str());
    let error =
        ServingError::new("missing_entity_key", format!("the key `{name}` of entity `{entity}` is missing"));
    match springhouse_core::diagnostic::closest(name, request.entities.keys()) {
        Some(given) => error.with_hint(format!("the request has `{given}`; the key is called `{name}`")),
        None => error.with_hint(format!("send `{name}` for every row")),
    }
}

/// An entity column that is neither a key nor taken as a request field.
fn check_no_stranger(signature: &Signature, request: &FeatureRequest) -> Result<(), ServingError> {
    for name in request.entities.keys() {
        let is_key = signature.keys.iter().any(|(key, _)| key == name);
        if !is_key && !signature.fields.iter().any(|(field, _, _)| field == name) {
            let error = ServingError::new(
                "unknown_entity_key",
                format!("no feature of the request has a key `{name}`"),
            );
            return Err(match signature.keys.as_slice() {
                [] => error.with_hint("the request takes no entity keys"),
                keys => error.meant(name, keys.iter().map(|(key, _)| key)),
            });
        }
    }
    Ok(())
}

fn row_count(signature: &Signature, request: &FeatureRequest) -> Result<usize, ServingError> {
    let mut found: Option<(&str, usize)> = None;
    for (name, column) in &request.entities {
        match found {
            None => found = Some((name, column.len())),
            Some((first, rows)) if rows != column.len() => {
                return Err(mismatch(first, rows, name, column.len()));
            }
            Some(_) => {}
        }
    }
    for (name, column) in &request.request {
        match found {
            Some((first, rows))
                if column.len() != rows && column.len() != 1 && (rows != 1 || !signature.keys.is_empty()) =>
            {
                return Err(mismatch(first, rows, name, column.len()));
            }
            Some(_) if column.len() == 1 || !signature.keys.is_empty() => {}
            // Without entity keys the fields alone say how many rows there are; one value goes with any number.
            _ => found = Some((name, column.len())),
        }
    }
    Ok(found.map_or(1, |(_, rows)| rows))
}

fn mismatch(first: &str, rows: usize, other: &str, other_rows: usize) -> ServingError {
    let message = format!("`{first}` has {rows} rows, `{other}` has {other_rows}");
    ServingError::new("row_count_mismatch", message).with_hint("every column has one value per row")
}

fn check_types(what: &str, name: &str, value_type: &ValueType, column: &[Value]) -> Result<(), ServingError> {
    match column.iter().position(|value| !is_of_type(value, value_type)) {
        None => Ok(()),
        Some(row) => Err(ServingError::new(
            "wrong_type",
            format!("the {what} `{name}` is {value_type}; in row {row} it is {}", type_word(&column[row])),
        )),
    }
}

/// True for null and for a value of this type.
fn is_of_type(value: &Value, value_type: &ValueType) -> bool {
    match (value, value_type) {
        (Value::Null, _)
        | (Value::Bool(_), ValueType::Bool)
        | (Value::Int32(_), ValueType::Int32)
        | (Value::Int64(_), ValueType::Int64)
        | (Value::Float32(_), ValueType::Float32)
        | (Value::Float64(_), ValueType::Float64)
        | (Value::String(_), ValueType::String | ValueType::Json)
        | (Value::Bytes(_), ValueType::Bytes)
        | (Value::Timestamp(_), ValueType::Timestamp)
        | (Value::Date(_), ValueType::Date) => true,
        (Value::Decimal(_, found), ValueType::Decimal { scale, .. }) => found == scale,
        (Value::Vector(values), ValueType::Vector(dimension)) => values.len() == *dimension as usize,
        (Value::List(values), ValueType::List(inner)) => values.iter().all(|value| is_of_type(value, inner)),
        (Value::Map(pairs), ValueType::Map(key, inner)) => {
            pairs.iter().all(|(k, v)| is_of_type(k, key) && is_of_type(v, inner))
        }
        _ => false,
    }
}

/// What kind of value it is; never the value, which may be personal.
fn type_word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Int32(_) => "an int32",
        Value::Int64(_) => "an int64",
        Value::Float32(_) => "a float32",
        Value::Float64(_) => "a float64",
        Value::String(_) => "a string",
        Value::Bytes(_) => "bytes",
        Value::Timestamp(_) => "a timestamp",
        Value::Date(_) => "a date",
        Value::Decimal(..) => "a decimal of another scale",
        Value::List(_) => "a list",
        Value::Vector(_) => "a vector",
        Value::Map(_) => "a map",
    }
}

/// The keys of every entity of the shape, one per row.
pub(crate) fn encode_entities(
    shape: &RequestShape,
    inputs: &Inputs<'_>,
) -> Result<Vec<Vec<EntityKey>>, ServingError> {
    let mut row: Vec<Value> = Vec::new();
    let mut entities = Vec::with_capacity(shape.entities.len());
    for entity in &shape.entities {
        let columns: Vec<&[Value]> =
            entity.keys.iter().map(|(name, _)| key_column(shape, inputs, name)).collect();
        let mut encoded = Vec::with_capacity(inputs.row_count);
        for at in 0..inputs.row_count {
            let values = match columns.as_slice() {
                [column] => &column[at..=at],
                columns => {
                    row.clear();
                    row.extend(columns.iter().map(|column| column[at].clone()));
                    &row
                }
            };
            let key = EntityKey::encode(&entity.keys, values);
            encoded.push(key.map_err(|error| invalid_key(&error, at))?);
        }
        entities.push(encoded);
    }
    Ok(entities)
}

fn key_column<'a>(shape: &RequestShape, inputs: &Inputs<'a>, name: &str) -> &'a [Value] {
    let place = shape.signature.keys.iter().position(|(key, _)| key == name);
    inputs.keys[place.expect("the signature has every key of every entity")]
}

pub(crate) fn invalid_key(error: &KeyError, row: usize) -> ServingError {
    let code = match error {
        KeyError::Type { .. } => "wrong_type",
        _ => "invalid_entity_key",
    };
    ServingError::new(code, format!("row {row}: {error}"))
}

/// What was found of one view.
#[derive(Debug)]
pub(crate) enum Found {
    /// The store answered. The frontier was read before the store was asked, so the answer has seen at least that.
    States(Vec<Option<Arc<EntityState>>>, ViewFrontier),
    /// Row by row.
    Rows(Vec<FoundRow>),
}

/// What was found of one row.
#[derive(Debug)]
pub(crate) enum FoundRow {
    /// The store's answer, to this request or to one before it.
    Read(RowRead),
    /// The store did not answer; this is remembered.
    Known(Known),
    /// Nothing is known.
    Nothing,
}

impl Found {
    /// The log offset that every row's answer had seen applied, at least; none when no row has an answer.
    pub(crate) fn cut(&self) -> Option<i64> {
        match self {
            Self::States(_, frontier) => Some(frontier.cut),
            Self::Rows(rows) => {
                let cut = |row: &FoundRow| match row {
                    FoundRow::Read(read) => Some(read.frontier.cut),
                    FoundRow::Known(_) | FoundRow::Nothing => None,
                };
                rows.iter().filter_map(cut).min()
            }
        }
    }
}

/// The views of a request, its keys, and where to read them.
pub(crate) struct Reader<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) shape: &'a RequestShape,
    pub(crate) entities: &'a [Vec<EntityKey>],
    pub(crate) frontiers: &'a [ViewFrontier],
    pub(crate) last_known: &'a LastKnown,
    pub(crate) fallbacks: &'a FallbackCounts,
    pub(crate) ask: Ask,
}

/// Rows that something stood in for.
#[derive(Debug, Default)]
pub(crate) struct FallbackCounts {
    pub(crate) last_known: Count,
    pub(crate) defaults: Count,
}

impl Reader<'_> {
    /// Asks a store for every view of the shape at once.
    pub(crate) async fn read_store(&self, store: &dyn OnlineStore) -> Result<Vec<Found>, ServingError> {
        let mut asked = Vec::with_capacity(self.shape.reads.len());
        for read in &self.shape.reads {
            let view = &self.snapshot.views[read.view];
            let mut answer = store.get_many(&view.handle, &self.entities[read.entity]);
            asked.push((futures::poll!(answer.as_mut()), answer));
        }
        let answers = in_time(asked, self.ask.wait).await;
        let mut found = Vec::with_capacity(answers.len());
        for ((read, answer), frontier) in self.shape.reads.iter().zip(answers).zip(self.frontiers) {
            let view = &self.snapshot.views[read.view];
            let keys = &self.entities[read.entity];
            found.push(match answer {
                Ok(states) => {
                    if self.remembers() {
                        let read = keys.iter().zip(&states).map(|(key, state)| (key, state, *frontier));
                        self.last_known.remember(&view.handle, read);
                    }
                    Found::States(states, *frontier)
                }
                Err(failure) => {
                    self.refuse(&failure, &view.name)?;
                    Found::Rows(keys.iter().map(|key| self.stand_in(&view.handle, key)).collect())
                }
            });
        }
        Ok(found)
    }

    /// The same through a guard.
    pub(crate) async fn read_guarded(
        &self,
        store: &GuardedStore,
        stages: &mut Stages,
    ) -> Result<Vec<Found>, ServingError> {
        let call = |(read, frontier): (&ViewRead, &ViewFrontier)| {
            let view = &self.snapshot.views[read.view];
            let least = |a: Option<Micros>, b: Option<Micros>| a.into_iter().chain(b).min();
            // A latest value's age does not depend on when it was read; a window's does. What is too old to be served, or was
            // read before the view had come anywhere, is worth another read.
            let served = Some(view.soft_ttl.unwrap_or(view.hard_ttl));
            let age_max = (!view.handle.plan.is_latest()).then(|| least(served, self.ask.max_age)).flatten();
            Call { view: &view.handle, keys: &self.entities[read.entity], frontier: *frontier, age_max }
        };
        let calls: Vec<Call<'_>> = self.shape.reads.iter().zip(self.frontiers).map(call).collect();
        let readings = store.read(&calls, self.ask, stages).await;
        let mut found = Vec::with_capacity(readings.len());
        for (read, reading) in self.shape.reads.iter().zip(readings) {
            let view = &self.snapshot.views[read.view];
            let keys = &self.entities[read.entity];
            if let Some(failure) = &reading.failure {
                self.refuse(failure, &view.name)?;
            }
            if self.remembers() {
                let rows = keys.iter().zip(&reading.rows).filter_map(|(key, row)| {
                    let row = row.as_ref().filter(|row| row.origin == Origin::Store)?;
                    Some((key, &row.state, row.frontier))
                });
                self.last_known.remember(&view.handle, rows);
            }
            let rows = keys.iter().zip(reading.rows).map(|(key, row)| match row {
                Some(row) => FoundRow::Read(row),
                None => self.stand_in(&view.handle, key),
            });
            found.push(Found::Rows(rows.collect()));
        }
        Ok(found)
    }

    fn remembers(&self) -> bool {
        self.shape.policy.on_unavailable == OnUnavailable::LastKnown
    }

    /// What stands in for a row that the store did not answer for.
    fn stand_in(&self, view: &ViewHandle, key: &EntityKey) -> FoundRow {
        match self.remembers().then(|| self.last_known.recall(view, key)).flatten() {
            Some(known) => {
                self.fallbacks.last_known.add(1);
                FoundRow::Known(known)
            }
            None => {
                self.fallbacks.defaults.add(1);
                FoundRow::Nothing
            }
        }
    }

    /// Some failures, and some services, make the request fail.
    fn refuse(&self, failure: &NoAnswer, view: &str) -> Result<(), ServingError> {
        let why = match failure {
            NoAnswer::Corrupt(why) => {
                return Err(ServingError::new("store_corrupt", format!("view `{view}`: {why}"))
                    .with_hint("run `springhouse rebuild`"));
            }
            NoAnswer::Shed => {
                return Err(shed("the store has all the calls that it can take", self.ask.priority));
            }
            _ if self.shape.policy.on_unavailable != OnUnavailable::Fail => return Ok(()),
            NoAnswer::Timeout(limit) => format!("no answer within {} ms", limit.as_millis()),
            NoAnswer::NotAsked(why) => (*why).to_owned(),
            NoAnswer::Failed(why) => why.to_string(),
        };
        Err(ServingError::new("store_unavailable", format!("view `{view}` can't be read: {why}"))
            .with_hint("try again; the service's policy is to fail rather than to serve defaults"))
    }
}

type Answered = Result<States, StoreError>;

/// What was answered at once, and the rest if it comes in time. A store that answers at once costs no timer (and needs no
/// runtime with one).
async fn in_time(
    asked: Vec<(Poll<Answered>, BoxFuture<'_, Answered>)>,
    limit: Duration,
) -> Vec<Result<States, NoAnswer>> {
    let told = |answered: Answered| answered.map_err(|error| NoAnswer::from(&error));
    if asked.iter().any(|(polled, _)| polled.is_pending()) {
        let rest = asked.into_iter().map(|(polled, answer)| async move {
            match polled {
                Poll::Ready(answered) => told(answered),
                Poll::Pending => {
                    let answered = tokio::time::timeout(limit, answer).await;
                    answered.map_or(Err(NoAnswer::Timeout(limit)), told)
                }
            }
        });
        return join_all(rest).await;
    }
    let ready = asked.into_iter().filter_map(|(polled, _)| match polled {
        Poll::Ready(answered) => Some(told(answered)),
        Poll::Pending => None,
    });
    ready.collect()
}

/// The age of a row's value in a view.
pub(crate) fn age_of(
    is_latest: bool,
    event_time: Option<Micros>,
    frontier: &ViewFrontier,
    at: Micros,
) -> Option<Micros> {
    if is_latest { event_time.map(|time| at.saturating_sub(time)) } else { frontier.age(at) }
}
