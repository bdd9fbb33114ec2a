//! Entity keys or request fields, as columns or as rows, into typed columns.

use super::typed::{Reason, TypedValue};
use crate::ApiError;
use crate::position::json_error;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use springhouse_core::{Value, ValueType};
use springhouse_serving::Signature;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

/// Which part of the request it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Entities,
    Request,
}

impl Kind {
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Entities => "entity key",
            Self::Request => "request field",
        }
    }

    fn unknown_code(self) -> &'static str {
        match self {
            Self::Entities => "unknown_entity_key",
            Self::Request => "unknown_request_field",
        }
    }

    fn missing_code(self) -> &'static str {
        match self {
            Self::Entities => "missing_entity_key",
            Self::Request => "missing_request_field",
        }
    }

    pub(crate) fn column(self, signature: &Signature, index: usize) -> (&str, &ValueType, bool) {
        match self {
            Self::Entities => (&signature.keys[index].0, &signature.keys[index].1, true),
            Self::Request => {
                let (name, value_type, required) = &signature.fields[index];
                (name, value_type, *required)
            }
        }
    }

    fn count(self, signature: &Signature) -> usize {
        match self {
            Self::Entities => signature.keys.len(),
            Self::Request => signature.fields.len(),
        }
    }

    /// Which of the declared columns `name` is.
    pub(crate) fn index_of(self, signature: &Signature, name: &str) -> Result<usize, ApiError> {
        let count = self.count(signature);
        (0..count).find(|index| self.column(signature, *index).0 == name).ok_or_else(|| {
            let known: Vec<_> =
                (0..count).map(|index| format!("`{}`", self.column(signature, index).0)).collect();
            let noun = self.noun();
            let short: String = name.chars().take(NAME_CHARS_MAX).collect();
            let error = ApiError::new(self.unknown_code(), format!("unknown {noun} `{short}`"));
            if known.is_empty() {
                error.hint(format!("these features take no {noun}"))
            } else {
                error.hint(format!("these features take {}", known.join(", ")))
            }
        })
    }

    pub(crate) fn null_key(self, name: &str, row: usize) -> ApiError {
        ApiError::new("invalid_entity_key", format!("{} `{name}` is null in row {row}", self.noun()))
    }
}

/// Reads `part`, a slice of `body`.
pub(super) fn parse_table(
    body: &[u8],
    part: &str,
    kind: Kind,
    signature: &Signature,
) -> Result<BTreeMap<String, Vec<Value>>, ApiError> {
    let fault = RefCell::new(None);
    let context = Context { kind, signature, fault: &fault };
    let mut reader = serde_json::Deserializer::from_str(part);
    let columns = context.deserialize(&mut reader).map_err(|error| {
        let place = json_error(body, part.as_bytes(), &error);
        fault.take().unwrap_or(place)
    })?;
    let mut named = BTreeMap::new();
    for (index, column) in columns.into_iter().enumerate() {
        if let Some(values) = column {
            named.insert(kind.column(signature, index).0.to_owned(), values);
        }
    }
    Ok(named)
}

/// What is read against which signature. serde's errors are texts, so the typed error waits in `fault`.
#[derive(Clone, Copy)]
struct Context<'a> {
    kind: Kind,
    signature: &'a Signature,
    fault: &'a RefCell<Option<ApiError>>,
}

/// One slot per declared column; None = not given.
type Columns = Vec<Option<Vec<Value>>>;

impl<'a> Context<'a> {
    fn fail<E: de::Error>(&self, error: ApiError) -> E {
        self.fault.replace(Some(error));
        E::custom("refused")
    }

    fn index_of<E: de::Error>(&self, name: &str) -> Result<usize, E> {
        self.kind.index_of(self.signature, name).map_err(|error| self.fail(error))
    }

    fn value<'s>(&self, index: usize, row: usize) -> Cell<'s>
    where
        'a: 's,
    {
        Cell { context: *self, index, row }
    }
}

/// A name in an error is cut to this many characters.
const NAME_CHARS_MAX: usize = 100;

/// serde's own complaint would hold the value that came, and a key is personal data more often than not.
macro_rules! refuse_scalars {
    () => {
        fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
            Err(refused(&self, "a boolean"))
        }

        fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
            Err(refused(&self, "a number"))
        }

        fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
            Err(refused(&self, "a number"))
        }

        fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
            Err(refused(&self, "a number"))
        }

        fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
            Err(refused(&self, "a string"))
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Err(refused(&self, "null"))
        }
    };
}
fn refused<E: de::Error>(expected: &dyn de::Expected, got: &str) -> E {
    E::custom(format!("expected {expected}, got {got}"))
}

impl<'de> DeserializeSeed<'de> for Context<'_> {
    type Value = Columns;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Columns, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Context<'_> {
    type Value = Columns;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = self.kind.noun();
        write!(f, "an object with a list per {noun}, or a list of objects with a value per {noun}")
    }

    refuse_scalars!();

    /// `{"origin": ["JFK", "EWR"]}`.
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Columns, A::Error> {
        let mut columns: Columns = vec![None; self.kind.count(self.signature)];
        while let Some(name) = entries.next_key_seed(Name)? {
            let index = self.index_of(&name)?;
            if columns[index].is_some() {
                let message = format!("{} `{name}` is given twice", self.kind.noun());
                return Err(self.fail(ApiError::new("invalid_request", message)));
            }
            columns[index] = Some(entries.next_value_seed(Column { context: self, index })?);
        }
        Ok(columns)
    }

    /// `[{"origin": "JFK"}, {"origin": "EWR"}]`.
    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Columns, A::Error> {
        let count = self.kind.count(self.signature);
        let mut columns: Vec<Vec<Value>> = vec![Vec::new(); count];
        let mut given = vec![false; count];
        let mut row = 0;
        while rows
            .next_element_seed(Row { context: self, row, columns: &mut columns, given: &mut given })?
            .is_some()
        {
            row += 1;
        }
        // A field that no row names is not there at all; keys were checked row by row.
        Ok(columns
            .into_iter()
            .zip(given)
            .map(
                |(values, given)| {
                    if given || (row == 0 && self.kind == Kind::Entities) { Some(values) } else { None }
                },
            )
            .collect())
    }
}

struct Column<'a> {
    context: Context<'a>,
    index: usize,
}

impl<'de> DeserializeSeed<'de> for Column<'_> {
    type Value = Vec<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Column<'_> {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.context.kind.column(self.context.signature, self.index).0;
        write!(f, "a list with one value per row for `{name}`")
    }

    refuse_scalars!();

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Value>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self.context.value(self.index, values.len()))? {
            values.push(value);
        }
        Ok(values)
    }
}

struct Row<'a, 'c> {
    context: Context<'a>,
    row: usize,
    columns: &'c mut [Vec<Value>],
    given: &'c mut [bool],
}

impl<'de> DeserializeSeed<'de> for Row<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Row<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a value per {} in row {}", self.context.kind.noun(), self.row)
    }

    refuse_scalars!();

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Context { kind, signature, .. } = self.context;
        while let Some(name) = entries.next_key_seed(Name)? {
            let index = self.context.index_of(&name)?;
            if self.columns[index].len() > self.row {
                let message = format!("{} `{name}` is given twice in row {}", kind.noun(), self.row);
                return Err(self.context.fail(ApiError::new("invalid_request", message)));
            }
            let value = entries.next_value_seed(self.context.value(index, self.row))?;
            self.columns[index].push(value);
            self.given[index] = true;
        }
        for (index, column) in self.columns.iter_mut().enumerate().filter(|(_, c)| c.len() <= self.row) {
            let (name, _, required) = kind.column(signature, index);
            if required {
                let message = format!("row {} has no {} `{name}`", self.row, kind.noun());
                return Err(self.context.fail(ApiError::new(kind.missing_code(), message)));
            }
            column.push(Value::Null);
        }
        Ok(())
    }
}

/// One value at its place.
struct Cell<'a> {
    context: Context<'a>,
    index: usize,
    row: usize,
}

impl<'de> DeserializeSeed<'de> for Cell<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Context { kind, signature, .. } = self.context;
        let (name, value_type, _) = kind.column(signature, self.index);
        let reason = Reason::default();
        match (TypedValue { value_type, reason: &reason }).deserialize(deserializer) {
            Ok(Value::Null) if kind == Kind::Entities => {
                Err(self.context.fail(kind.null_key(name, self.row)))
            }
            Ok(value) => Ok(value),
            Err(error) => Err(match reason.take() {
                Some(reason) => {
                    let message = format!("{} `{name}`, row {}: {reason}", kind.noun(), self.row);
                    self.context.fail(ApiError::new("wrong_type", message))
                }
                // Broken JSON keeps its position.
                None => error,
            }),
        }
    }
}

/// An object's key without a copy where it has no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}
