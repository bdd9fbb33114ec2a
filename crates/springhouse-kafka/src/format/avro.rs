//! Messages in Avro.

use super::json::{bytes, float, items, members, moment, wrong_type};
use super::registry::Registered;
use super::{Flaw, Wanted, malformed};
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::{DecimalSchema, Name, RecordSchema, Schema};
use apache_avro::types::Value;
use chrono::{DateTime, NaiveDate, TimeDelta};
use serde_json::{Map, Value as Json};
use springhouse_core::ValueType;
use std::collections::HashMap;
use std::io::Read;

/// The most that a length within a message may claim, bytes; beyond it the message is damaged.
const LENGTH_MAX: usize = 16 << 20;

/// A schema with which messages were written.
#[derive(Debug)]
pub(super) struct AvroSchema {
    schema: Schema,
    /// Of other schemas, which it names.
    others: Vec<Schema>,
    names: HashMap<Name, Schema>,
}

impl AvroSchema {
    pub(super) fn parse(registered: &Registered) -> Result<Self, String> {
        apache_avro::util::max_allocation_bytes(LENGTH_MAX);
        let referred = registered.references.iter().map(|(_, text)| text);
        let (schema, others) = Schema::parse_str_with_list(&registered.text, referred)
            .map_err(|error| format!("it is no Avro schema: {error}"))?;
        if !matches!(schema, Schema::Record(_)) {
            return Err("a message must be a record".to_owned());
        }
        let mut names = HashMap::new();
        for schema in others.iter().chain([&schema]) {
            gather(schema, &mut names);
        }
        Ok(Self { schema, others, names })
    }

    pub(super) fn row(&self, message: &[u8], wanted: &Wanted) -> Result<Map<String, Json>, Flaw> {
        let broken =
            |error: apache_avro::Error| malformed(format!("the message is not of its schema: {error}"));
        let reader = GenericDatumReader::builder(&self.schema)
            .writer_schemata(self.others.iter().chain([&self.schema]).collect())
            .map_err(broken)?
            .build()
            .map_err(broken)?;
        let mut bytes = Bytes { rest: message, ran_out: false };
        let value = reader.read_value(&mut bytes).map_err(broken)?;
        // The library takes a union whose branch is cut off for null.
        if bytes.ran_out {
            return Err(malformed("the message is not of its schema: it ends too early"));
        }
        if !bytes.rest.is_empty() {
            return Err(malformed(format!("{} bytes are left of the message", bytes.rest.len())));
        }
        let (Value::Record(fields), Schema::Record(record)) = (value, &self.schema) else {
            return Err(malformed("the message is no record"));
        };
        self.fields(&fields, record, wanted)
    }

    fn fields(
        &self,
        fields: &[(String, Value)],
        record: &RecordSchema,
        wanted: &Wanted,
    ) -> Result<Map<String, Json>, Flaw> {
        let mut row = Map::new();
        for ((name, value), field) in fields.iter().zip(&record.fields) {
            let value = match wanted.columns.get(name) {
                Some(target) => self.json(value, &field.schema, target),
                None if wanted.is_image(name) => self.image(value, &field.schema, wanted),
                None => continue,
            };
            row.insert(name.clone(), value.map_err(|flaw| in_field(name, flaw))?);
        }
        Ok(row)
    }

    /// A row within a change.
    fn image(&self, value: &Value, schema: &Schema, wanted: &Wanted) -> Result<Json, Flaw> {
        let schema = match schema {
            Schema::Ref { name } => self.names.get(name).unwrap_or(schema),
            schema => schema,
        };
        match (value, schema) {
            (Value::Null, _) => Ok(Json::Null),
            (Value::Union(number, value), Schema::Union(union)) => {
                let variant = union.variants().get(*number as usize);
                self.image(value, variant.ok_or_else(|| malformed("a union has no such branch"))?, wanted)
            }
            (Value::Record(fields), Schema::Record(record)) => {
                self.fields(fields, record, wanted).map(Json::Object)
            }
            _ => Err(malformed("it should be a record")),
        }
    }

    fn json(&self, value: &Value, schema: &Schema, target: &ValueType) -> Result<Json, Flaw> {
        let schema = match schema {
            Schema::Ref { name } => self.names.get(name).unwrap_or(schema),
            schema => schema,
        };
        Ok(match value {
            Value::Null => Json::Null,
            Value::Boolean(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Long(value) => (*value).into(),
            Value::Float(value) => float(f64::from(*value)),
            Value::Double(value) => float(*value),
            Value::Bytes(value) | Value::Fixed(_, value) => bytes(value, target)?,
            Value::String(text) | Value::Enum(_, text) => text.as_str().into(),
            Value::Uuid(value) => value.to_string().into(),
            Value::Union(number, value) => {
                let Schema::Union(union) = schema else { return Err(malformed("a union was not expected")) };
                let variant = union.variants().get(*number as usize);
                self.json(value, variant.ok_or_else(|| malformed("a union has no such branch"))?, target)?
            }
            Value::Array(values) => {
                let Schema::Array(array) = schema else { return Err(malformed("a list was not expected")) };
                let of = items(target)?;
                let value = |value| self.json(value, &array.items, of);
                Json::Array(values.iter().map(value).collect::<Result<_, _>>()?)
            }
            Value::Map(values) => {
                let Schema::Map(map) = schema else { return Err(malformed("a map was not expected")) };
                let of = members("a map", target)?;
                let value =
                    |(name, value): (&String, &Value)| Ok((name.clone(), self.json(value, &map.types, of)?));
                Json::Object(values.iter().map(value).collect::<Result<_, Flaw>>()?)
            }
            Value::Record(fields) => {
                let Schema::Record(record) = schema else {
                    return Err(malformed("a record was not expected"));
                };
                let of = members("a record", target)?;
                let mut object = Map::new();
                for ((name, value), field) in fields.iter().zip(&record.fields) {
                    object.insert(name.clone(), self.json(value, &field.schema, of)?);
                }
                Json::Object(object)
            }
            Value::Date(days) if matches!(target, ValueType::Int32 | ValueType::Int64) => (*days).into(),
            Value::Date(days) => {
                let date = NaiveDate::default().checked_add_signed(TimeDelta::days(i64::from(*days)));
                date.map(|date| date.to_string())
                    .ok_or_else(|| ("out_of_range", "a date is out of range".to_owned()))?
                    .into()
            }
            Value::Decimal(value) => {
                let Schema::Decimal(DecimalSchema { scale, .. }) = schema else {
                    return Err(malformed("a decimal was not expected"));
                };
                decimal(&value.clone().into(), *scale).into()
            }
            Value::BigDecimal(value) => value.to_plain_string().into(),
            Value::TimeMillis(value) => (*value).into(),
            Value::TimeMicros(value) => (*value).into(),
            Value::TimestampMillis(value) => moment(*value, 1_000, target)?,
            Value::TimestampMicros(value) => moment(*value, 1_000_000, target)?,
            Value::TimestampNanos(value) => moment(*value, 1_000_000_000, target)?,
            Value::LocalTimestampMillis(value) => local(moment(*value, 1_000, target)?, target)?,
            Value::LocalTimestampMicros(value) => local(moment(*value, 1_000_000, target)?, target)?,
            Value::LocalTimestampNanos(value) => local(moment(*value, 1_000_000_000, target)?, target)?,
            Value::Duration(_) => return Err(wrong_type("a duration", target)),
        })
    }
}

/// A message that notes when more was asked for than it has.
struct Bytes<'a> {
    rest: &'a [u8],
    ran_out: bool,
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.rest.read(buffer)?;
        self.ran_out |= read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

fn in_field(name: &str, (code, why): Flaw) -> Flaw {
    (code, format!("field `{name}`: {why}"))
}

/// The digits of an unscaled value with a point before the last `scale` of them.
fn decimal(unscaled: &num_bigint::BigInt, scale: usize) -> String {
    let sign = if unscaled.sign() == num_bigint::Sign::Minus { "-" } else { "" };
    let digits = format!("{:0>width$}", unscaled.magnitude().to_string(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// A moment without a zone: as text, so that the source's own zone counts.
fn local(micros: Json, target: &ValueType) -> Result<Json, Flaw> {
    if *target != ValueType::Timestamp {
        return Ok(micros);
    }
    let moment = micros.as_i64().and_then(DateTime::from_timestamp_micros);
    let moment = moment.ok_or_else(|| ("out_of_range", "a timestamp is out of range".to_owned()))?;
    Ok(moment.format("%Y-%m-%dT%H:%M:%S%.6f").to_string().into())
}

/// Remembers every named schema within a schema.
fn gather(schema: &Schema, names: &mut HashMap<Name, Schema>) {
    match schema {
        Schema::Record(record) => {
            names.insert(record.name.clone(), schema.clone());
            record.fields.iter().for_each(|field| gather(&field.schema, names));
        }
        Schema::Enum(of) => drop(names.insert(of.name.clone(), schema.clone())),
        Schema::Fixed(of) => drop(names.insert(of.name.clone(), schema.clone())),
        Schema::Array(of) => gather(&of.items, names),
        Schema::Map(of) => gather(&of.types, names),
        Schema::Union(of) => of.variants().iter().for_each(|variant| gather(variant, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_have_all_their_digits() {
        let text = |n: i64, scale| decimal(&num_bigint::BigInt::from(n), scale);
        assert_eq!(text(-123_456, 4), "-12.3456");
        assert_eq!(text(5, 4), "0.0005");
        assert_eq!(text(-5, 1), "-0.5");
        assert_eq!(text(0, 2), "0.00");
        assert_eq!(text(i64::MIN, 0), "-9223372036854775808");
    }

    #[test]
    fn schemas_refer_to_themselves_and_to_others() {
        let node = r#"{"type": "record", "name": "a.Node", "fields": [
            {"name": "extra", "type": ["null", "b.Leaf"]}, {"name": "next", "type": ["null", "Node"]}]}"#;
        let leaf = r#"{"type": "record", "name": "b.Leaf", "fields": [{"name": "n", "type": "int"}]}"#;
        let references = vec![("b.Leaf".to_owned(), leaf.to_owned())];
        let schema = AvroSchema::parse(&Registered { text: node.to_owned(), references }).expect("a schema");
        // The second node's leaf has 3; both unions' second branches are there.
        let message = [2, 4, 2, 2, 6, 0];
        let columns = [("next".to_owned(), ValueType::Json), ("extra".to_owned(), ValueType::Json)];
        let wanted = Wanted { columns: columns.into(), images: false };
        let row = schema.row(&message, &wanted).expect("a row");
        assert_eq!(
            Json::Object(row).to_string(),
            r#"{"extra":{"n":2},"next":{"extra":{"n":3},"next":null}}"#
        );
        for end in 0..message.len() {
            assert_eq!(schema.row(&message[..end], &wanted).expect_err("cut").0, "malformed_row", "at {end}");
        }
        let claims = [2, 4, 2, 2, 6, 0, 0];
        assert!(schema.row(&claims, &wanted).expect_err("a byte is left").1.contains("1 bytes are left"));
    }

    #[test]
    fn a_change_has_two_rows_of_which_one_may_be_null() {
        let text = r#"{"type": "record", "name": "Envelope", "fields": [
            {"name": "before", "type": ["null", {"type": "record", "name": "Row", "fields": [
                {"name": "n", "type": "int"}, {"name": "other", "type": "int"}]}]},
            {"name": "after", "type": ["null", "Row"]}, {"name": "op", "type": "string"}, {"name": "ts_ms", "type": "long"}]}"#;
        let schema = AvroSchema::parse(&Registered { text: text.to_owned(), references: Vec::new() });
        let schema = schema.expect("a schema");
        let columns = [("n".to_owned(), ValueType::Int64), ("op".to_owned(), ValueType::String)];
        let wanted = Wanted { columns: columns.into(), images: true };
        let row = |message: &[u8]| schema.row(message, &wanted).map(|row| Json::Object(row).to_string());
        assert_eq!(
            row(&[2, 6, 0, 2, 8, 0, 2, b'u', 10]).as_deref(),
            Ok(r#"{"after":{"n":4},"before":{"n":3},"op":"u"}"#)
        );
        assert_eq!(
            row(&[2, 6, 0, 0, 2, b'd', 10]).as_deref(),
            Ok(r#"{"after":null,"before":{"n":3},"op":"d"}"#)
        );
    }
}
