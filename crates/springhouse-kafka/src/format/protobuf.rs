//! Messages in Protobuf.

use super::json::{bytes, float, items, members, moment, wrong_type};
use super::registry::Registered;
use super::{Flaw, Wanted, malformed};
use base64::Engine;
use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use serde_json::{Map, Value as Json};
use springhouse_core::ValueType;
use std::collections::BTreeMap;

/// What the file is called whose text is given.
const FILE: &str = "schema.proto";

/// A file with the message that is meant, unless the messages themselves say which.
#[derive(Debug)]
pub(super) struct ProtobufSchema {
    messages: Vec<MessageDescriptor>,
    meant: Option<MessageDescriptor>,
}

impl ProtobufSchema {
    /// `message`: the name of the message; none: the only one, if there is but one.
    pub(super) fn parse(registered: &Registered, message: Option<&str>) -> Result<Self, String> {
        let mut files = ChainFileResolver::new();
        let mut texts: BTreeMap<String, String> = registered.references.iter().cloned().collect();
        texts.insert(FILE.to_owned(), registered.text.clone());
        files.add(Texts(texts));
        files.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(files);
        compiler.open_file(FILE).map_err(|error| format!("it is no Protobuf schema: {error}"))?;
        let pool = compiler.descriptor_pool();
        let file = pool.get_file_by_name(FILE).ok_or("it is no Protobuf schema")?;
        let messages: Vec<_> = file.messages().collect();
        let meant =
            match (message, messages.as_slice()) {
                (Some(name), _) => {
                    let found = pool.get_message_by_name(name);
                    Some(found.ok_or_else(|| {
                        format!("it has no message `{name}` (with the name of its package)")
                    })?)
                }
                (None, [only]) => Some(only.clone()),
                (None, _) => None,
            };
        Ok(Self { messages, meant })
    }

    /// Of a message whose kind the definition says.
    pub(super) fn row(&self, message: &[u8], wanted: &Wanted) -> Result<Map<String, Json>, Flaw> {
        let meant = self.meant.as_ref().ok_or_else(|| malformed("which message it is, is not said"))?;
        row(meant, message, wanted)
    }

    /// Of a message that begins with the path to its kind, as Confluent's clients write it.
    pub(super) fn row_of_nested(&self, message: &[u8], wanted: &Wanted) -> Result<Map<String, Json>, Flaw> {
        let mut rest = message;
        let cut_off = || malformed("the path to the message's kind can't be read");
        let count = zigzag(&mut rest).ok_or_else(cut_off)?;
        // An empty path is short for the first message.
        let mut path = vec![0];
        if count > 0 {
            path = (0..count.min(rest.len() as i64))
                .map(|_| zigzag(&mut rest))
                .collect::<Option<_>>()
                .ok_or_else(cut_off)?;
        }
        let mut kinds = self.messages.clone();
        let mut kind = None;
        for place in path {
            let found = usize::try_from(place).ok().and_then(|place| kinds.get(place)).cloned();
            let found =
                found.ok_or_else(|| malformed("the schema has no message at the path that is given"))?;
            kinds = found.child_messages().collect();
            kind = Some(found);
        }
        row(&kind.ok_or_else(cut_off)?, rest, wanted)
    }

    /// True when it must be said which message is meant.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.meant.is_none()
    }
}

fn zigzag(rest: &mut &[u8]) -> Option<i64> {
    let number = prost_reflect::prost::encoding::decode_varint(rest).ok()?;
    Some((number >> 1) as i64 ^ -((number & 1) as i64))
}

fn row(kind: &MessageDescriptor, message: &[u8], wanted: &Wanted) -> Result<Map<String, Json>, Flaw> {
    let message = DynamicMessage::decode(kind.clone(), message)
        .map_err(|error| malformed(format!("the message is not of its schema: {error}")))?;
    fields(kind, &message, wanted)
}

fn fields(
    kind: &MessageDescriptor,
    message: &DynamicMessage,
    wanted: &Wanted,
) -> Result<Map<String, Json>, Flaw> {
    let mut row = Map::new();
    for field in kind.fields() {
        let target = wanted.columns.get(field.name());
        if target.is_none() && !wanted.is_image(field.name()) {
            continue;
        }
        // Without presence, what is not written is zero, empty or false.
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        let value = message.get_field(&field);
        let value = match (target, &*value, field.kind()) {
            (Some(target), value, _) => json(value, &field, target),
            // A row within a change.
            (None, Value::Message(image), Kind::Message(kind)) => {
                fields(&kind, image, wanted).map(Json::Object)
            }
            _ => Err(malformed("it should be a message")),
        };
        let value = value.map_err(|(code, why)| (code, format!("field `{}`: {why}", field.name())))?;
        row.insert(field.name().to_owned(), value);
    }
    Ok(row)
}

fn json(value: &Value, field: &FieldDescriptor, target: &ValueType) -> Result<Json, Flaw> {
    match value {
        Value::List(values) => {
            let of = items(target)?;
            Ok(Json::Array(values.iter().map(|value| single(value, field, of)).collect::<Result<_, _>>()?))
        }
        Value::Map(values) => {
            let of = members("a map", target)?;
            let Kind::Message(entry) = field.kind() else { return Err(malformed("a map was not expected")) };
            let member = |(key, value): (&MapKey, &Value)| {
                let key = match key {
                    MapKey::Bool(key) => key.to_string(),
                    MapKey::I32(key) => key.to_string(),
                    MapKey::I64(key) => key.to_string(),
                    MapKey::U32(key) => key.to_string(),
                    MapKey::U64(key) => key.to_string(),
                    MapKey::String(key) => key.clone(),
                };
                Ok((key, single(value, &entry.map_entry_value_field(), of)?))
            };
            Ok(Json::Object(values.iter().map(member).collect::<Result<_, Flaw>>()?))
        }
        value => single(value, field, target),
    }
}

fn single(value: &Value, field: &FieldDescriptor, target: &ValueType) -> Result<Json, Flaw> {
    Ok(match value {
        Value::Bool(value) => (*value).into(),
        Value::I32(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        Value::F32(value) => float(f64::from(*value)),
        Value::F64(value) => float(*value),
        Value::String(text) => text.as_str().into(),
        Value::Bytes(value) => bytes(value, target)?,
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(kind) if !matches!(target, ValueType::Int32 | ValueType::Int64) => {
                let name = kind.get_value(*number).map(|value| value.name().to_owned());
                // One that the schema does not know yet is a number.
                name.unwrap_or_else(|| number.to_string()).into()
            }
            _ => (*number).into(),
        },
        Value::Message(message) => nested(message, target)?,
        Value::List(_) | Value::Map(_) => return Err(wrong_type("a list in a list", target)),
    })
}

fn nested(message: &DynamicMessage, target: &ValueType) -> Result<Json, Flaw> {
    let kind = message.descriptor();
    let part = |name: &str| message.get_field_by_name(name).map(|value| value.into_owned());
    match kind.full_name() {
        "google.protobuf.Timestamp" => {
            let (Some(Value::I64(seconds)), Some(Value::I32(nanos))) = (part("seconds"), part("nanos"))
            else {
                return Err(malformed("a timestamp can't be read"));
            };
            let micros = seconds.checked_mul(1_000_000).and_then(|s| s.checked_add(i64::from(nanos / 1_000)));
            let micros = micros.ok_or_else(|| ("out_of_range", "a timestamp is out of range".to_owned()))?;
            moment(micros, 1_000_000, target)
        }
        name if name.starts_with("google.protobuf.")
            && name.ends_with("Value")
            && kind.fields().len() == 1 =>
        {
            let field = kind.fields().next().ok_or_else(|| malformed("a wrapped value can't be read"))?;
            single(&message.get_field(&field), &field, target)
        }
        _ => {
            let of = members("a message", target)?;
            let mut object = Map::new();
            for field in kind.fields() {
                if !field.supports_presence() || message.has_field(&field) {
                    object.insert(field.name().to_owned(), json(&message.get_field(&field), &field, of)?);
                }
            }
            Ok(Json::Object(object))
        }
    }
}

/// Files whose texts are at hand.
struct Texts(BTreeMap<String, String>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let text = self.0.get(name).ok_or_else(|| protox::Error::file_not_found(name))?;
        // Some clients register a file as its descriptor, in base64, and not every registry makes text of it.
        let descriptor = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok();
        let descriptor = descriptor.and_then(|bytes| FileDescriptorProto::decode(bytes.as_slice()).ok());
        match descriptor {
            Some(mut descriptor) => {
                descriptor.name = Some(name.to_owned());
                Ok(File::from_file_descriptor_proto(descriptor))
            }
            None => File::from_source(name, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        syntax = "proto3"; package shop; import "other.proto";
        message First { int64 n = 1; }
        message Second { message Inner { string s = 1; optional int32 absent = 2; } other.Third third = 1; }
    "#;

    fn schema(message: Option<&str>) -> Result<ProtobufSchema, String> {
        let other = r#"syntax = "proto3"; package other; message Third { bool flag = 1; }"#;
        let references = vec![("other.proto".to_owned(), other.to_owned())];
        ProtobufSchema::parse(&Registered { text: TEXT.to_owned(), references }, message)
    }

    #[test]
    fn a_path_leads_to_the_message() {
        let schema = schema(None).expect("a schema");
        let columns = [("n", ValueType::Int64), ("s", ValueType::String), ("third", ValueType::Json)];
        let columns = columns.map(|(name, of)| (name.to_owned(), of)).into();
        let wanted = Wanted { columns, images: false };
        let row = |message: &[u8]| {
            schema
                .row_of_nested(message, &wanted)
                .map(|row| Json::Object(row).to_string())
                .map_err(|flaw| flaw.1)
        };
        // Zero is short for the path [0]; numbers are zigzag.
        assert_eq!(row(&[0, 8, 5]).as_deref(), Ok(r#"{"n":5}"#));
        assert_eq!(row(&[2, 0, 8, 5]).as_deref(), Ok(r#"{"n":5}"#));
        assert_eq!(row(&[4, 2, 0, 10, 1, b'x']).as_deref(), Ok(r#"{"s":"x"}"#));
        assert_eq!(row(&[2, 2, 10, 2, 8, 1]).as_deref(), Ok(r#"{"third":{"flag":true}}"#));
        for wrong in [&[][..], &[2], &[2, 6], &[2, 1], &[255, 255, 255], &[4, 2, 4], &[0, 8]] {
            assert!(row(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn which_message_is_meant_must_be_clear() {
        assert!(schema(None).expect("a schema").is_ambiguous());
        assert!(!schema(Some("shop.Second.Inner")).expect("a schema").is_ambiguous());
        assert!(schema(Some("Inner")).expect_err("no such").contains("no message `Inner`"));
    }

    #[test]
    fn a_change_has_rows_of_which_one_may_be_absent() {
        let text = r#"syntax = "proto3"; message Row { int64 n = 1; int64 other = 2; }
            message Envelope { Row before = 1; Row after = 2; string op = 3; int64 ts_ms = 4; }"#;
        let registered = Registered { text: text.to_owned(), references: Vec::new() };
        let schema = ProtobufSchema::parse(&registered, Some("Envelope")).expect("a schema");
        let columns = [("n".to_owned(), ValueType::Int64), ("op".to_owned(), ValueType::String)];
        let wanted = Wanted { columns: columns.into(), images: true };
        let row = |message: &[u8]| schema.row(message, &wanted).map(|row| Json::Object(row).to_string());
        assert_eq!(
            row(&[10, 4, 8, 3, 16, 1, 18, 2, 8, 4, 26, 1, b'u', 32, 5]).as_deref(),
            Ok(r#"{"after":{"n":4},"before":{"n":3},"op":"u"}"#)
        );
        assert_eq!(row(&[10, 2, 8, 3, 26, 1, b'd']).as_deref(), Ok(r#"{"before":{"n":3},"op":"d"}"#));
    }
}
