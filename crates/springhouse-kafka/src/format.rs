//! What messages say that are not JSON, as the JSON of a row: from there on they are checked like every other row.
//!
//! A schema stands in the definition, or its number stands before every message (the wire format of Confluent's clients) and a
//! registry has it. Fields that the source has no column for are left out, so that a schema may grow.

mod avro;
mod json;
mod protobuf;
mod registry;

use crate::settings::KafkaSettings;
use avro::AvroSchema;
use bytes::Bytes;
use protobuf::ProtobufSchema;
use registry::{Registered, Registry};
use serde_json::{Map, Value as Json};
use springhouse_core::ValueType;
use springhouse_core::definition::{Column, KafkaStream, MessageFormat, Source};
use springhouse_ingest::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Schemas that are kept of a topic; beyond them, all are asked for again.
const SCHEMAS_MAX: usize = 1_000;
/// What stands before a message in the wire format: a zero, and four bytes of the schema's number.
const WIRE_BYTES: usize = 5;

/// Why a message is no row: a code and a reason.
type Flaw = (&'static str, String);

fn malformed(why: impl Into<String>) -> Flaw {
    ("malformed_row", why.into())
}

/// A schema of either kind.
#[derive(Debug)]
enum Schema {
    Avro(AvroSchema),
    Protobuf(ProtobufSchema),
}

impl Schema {
    fn parse(format: MessageFormat, registered: &Registered, message: Option<&str>) -> Result<Self, String> {
        match format {
            MessageFormat::Avro => AvroSchema::parse(registered).map(Self::Avro),
            MessageFormat::Protobuf => ProtobufSchema::parse(registered, message).map(Self::Protobuf),
            MessageFormat::Json => Err("JSON has no schema".to_owned()),
        }
    }
}

/// Checks the schema in a definition. Gives what is wrong with it.
pub fn check_schema(stream: &KafkaStream) -> Option<String> {
    let text = stream.schema.as_ref()?;
    let alone = Registered { text: text.clone(), references: Vec::new() };
    match Schema::parse(stream.format, &alone, stream.message.as_deref()) {
        Err(why) => Some(why),
        Ok(Schema::Protobuf(schema)) if schema.is_ambiguous() => {
            Some("it has several messages, or none; say in `message` which is meant".to_owned())
        }
        Ok(_) => None,
    }
}

/// Reads the messages of one topic.
#[derive(Debug)]
pub(crate) struct Decoder {
    shared: Arc<Shared>,
    from: From,
    /// By number; none for one that the registry does not have, or that can't be read.
    known: tokio::sync::Mutex<HashMap<u32, Arc<Result<Schema, String>>>>,
}

#[derive(Debug)]
struct Shared {
    format: MessageFormat,
    wanted: Wanted,
}

/// The fields of a message that are read.
#[derive(Debug, Default)]
struct Wanted {
    columns: BTreeMap<String, ValueType>,
    /// Whether `before` and `after` are rows: the message is a change of a table.
    images: bool,
}

impl Wanted {
    fn of(source: &Source) -> Self {
        let column = |column: &Column| (column.name.clone(), column.value_type.clone());
        let mut columns: BTreeMap<String, ValueType> = source.columns.iter().map(column).collect();
        let images = source.op.is_some() && !IMAGES.iter().any(|image| columns.contains_key(*image));
        if images {
            // What the envelope of a change calls it, whatever the column's name is.
            columns.entry("op".to_owned()).or_insert(ValueType::String);
        }
        Self { columns, images }
    }

    fn is_image(&self, field: &str) -> bool {
        self.images && IMAGES.contains(&field)
    }
}

/// The rows in the envelope of a change.
const IMAGES: [&str; 2] = ["before", "after"];

#[derive(Debug)]
enum From {
    Definition(Arc<Schema>),
    Registry(Registry),
}

impl Decoder {
    /// None for JSON.
    ///
    /// # Errors
    /// What is wrong with the schema or the settings of the registry.
    pub(crate) fn of(source: &Source, settings: &KafkaSettings) -> Result<Option<Self>, String> {
        let Some(stream) = source.kafka.as_ref().filter(|stream| stream.format != MessageFormat::Json) else {
            return Ok(None);
        };
        let from = match &stream.schema {
            Some(text) => {
                let alone = Registered { text: text.clone(), references: Vec::new() };
                let schema = Schema::parse(stream.format, &alone, stream.message.as_deref())?;
                From::Definition(Arc::new(schema))
            }
            None => From::Registry(Registry::of(settings)?),
        };
        let shared = Arc::new(Shared { format: stream.format, wanted: Wanted::of(source) });
        Ok(Some(Self { shared, from, known: tokio::sync::Mutex::default() }))
    }

    /// Puts rows in the place of values; a message that is none says why.
    ///
    /// # Errors
    /// When the registry does not answer: nothing was changed, and it can be tried again.
    pub(crate) async fn decode(&self, messages: &mut Vec<Message>) -> Result<(), String> {
        let schemas = match &self.from {
            From::Definition(schema) => Schemas::One(schema.clone()),
            From::Registry(registry) => Schemas::Numbered(self.schemas(registry, messages).await?),
        };
        let shared = self.shared.clone();
        let mut taken = std::mem::take(messages);
        let decoded = tokio::task::spawn_blocking(move || {
            taken.iter_mut().for_each(|message| shared.decode(&schemas, message));
            taken
        });
        *messages = decoded.await.map_err(|error| error.to_string())?;
        Ok(())
    }

    async fn schemas(
        &self,
        registry: &Registry,
        messages: &[Message],
    ) -> Result<HashMap<u32, Arc<Result<Schema, String>>>, String> {
        let values = messages.iter().filter_map(|message| message.value.as_ref());
        let wanted: BTreeSet<u32> = values.filter_map(|value| number_of(value)).collect();
        let mut known = self.known.lock().await;
        if known.len() + wanted.len() > SCHEMAS_MAX {
            known.clear();
        }
        let mut found = HashMap::with_capacity(wanted.len());
        for number in wanted {
            let schema = match known.get(&number) {
                Some(schema) => schema.clone(),
                None => {
                    let schema = match registry.schema(number, self.shared.format).await? {
                        Ok(registered) => Schema::parse(self.shared.format, &registered, None),
                        Err(why) => Err(why),
                    };
                    let schema = Arc::new(schema);
                    // What was not there may come.
                    if schema.is_ok() {
                        known.insert(number, schema.clone());
                    }
                    schema
                }
            };
            found.insert(number, schema);
        }
        Ok(found)
    }
}

/// The schemas of some messages.
enum Schemas {
    One(Arc<Schema>),
    Numbered(HashMap<u32, Arc<Result<Schema, String>>>),
}

fn number_of(value: &[u8]) -> Option<u32> {
    let (wire, _) = value.split_first_chunk::<WIRE_BYTES>()?;
    let [0, number @ ..] = wire else { return None };
    Some(u32::from_be_bytes(*number))
}

impl Shared {
    fn decode(&self, schemas: &Schemas, message: &mut Message) {
        let Some(value) = &message.value else { return };
        // What a message can do to a library must not stop the messages behind it.
        let read = std::panic::catch_unwind(AssertUnwindSafe(|| self.row(schemas, value)));
        match read.unwrap_or_else(|_| Err(malformed("the message can't be read"))) {
            Ok(row) => message.value = Some(Bytes::from(Json::Object(row).to_string())),
            Err(flaw) => message.flaw = Some(flaw),
        }
    }

    fn row(&self, schemas: &Schemas, value: &[u8]) -> Result<Map<String, Json>, Flaw> {
        match schemas {
            Schemas::One(schema) => match &**schema {
                Schema::Avro(schema) => schema.row(value, &self.wanted),
                Schema::Protobuf(schema) => schema.row(value, &self.wanted),
            },
            Schemas::Numbered(schemas) => {
                let number = number_of(value).ok_or_else(|| {
                    malformed("the message does not begin with a zero and the number of its schema")
                })?;
                let schema = schemas.get(&number).ok_or_else(|| malformed("the message has no schema"))?;
                let value = &value[WIRE_BYTES..];
                match &**schema {
                    Ok(Schema::Avro(schema)) => schema.row(value, &self.wanted),
                    Ok(Schema::Protobuf(schema)) => schema.row_of_nested(value, &self.wanted),
                    Err(why) => Err(malformed(format!("schema {number}: {why}"))),
                }
            }
        }
    }
}
