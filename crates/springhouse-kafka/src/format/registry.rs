//! A registry of schemas with the HTTP interface of Confluent's.

use crate::settings::KafkaSettings;
use reqwest::{Certificate, Client, StatusCode, Url};
use serde::Deserialize;
use springhouse_core::definition::MessageFormat;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Most bytes of one answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Most schemas that one refers to, directly or not.
const REFERENCES_MAX: usize = 200;

/// A schema's text, and those of the schemas that it refers to, by the name it has for them.
#[derive(Clone, Debug)]
pub(super) struct Registered {
    pub(super) text: String,
    pub(super) references: Vec<(String, String)>,
}

#[derive(Debug)]
pub(super) struct Registry {
    client: Client,
    url: Url,
    user: Option<(String, String)>,
}

#[derive(Deserialize)]
struct Answer {
    schema: String,
    /// Absent for Avro.
    #[serde(default, rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: u32,
}

impl Registry {
    pub(super) fn of(settings: &KafkaSettings) -> Result<Self, String> {
        if settings.registry_url.is_empty() {
            return Err(
                "no schema is given; set `stream.kafka.schema` of the source, or `kafka.registry_url` of \
                        springhouse.yaml"
                    .to_owned(),
            );
        }
        let wrong = |error: &dyn std::fmt::Display| format!("kafka.registry_url: {error}");
        let mut url = settings.registry_url.clone();
        if !url.ends_with('/') {
            url.push('/');
        }
        let url = Url::parse(&url).map_err(|error| wrong(&error))?;
        let mut client = Client::builder()
            .timeout(Duration::from_millis(settings.registry_timeout_ms))
            .redirect(reqwest::redirect::Policy::none());
        if !settings.registry_ca_file.is_empty() {
            let file = &settings.registry_ca_file;
            let pem =
                std::fs::read(file).map_err(|error| format!("kafka.registry_ca_file {file}: {error}"))?;
            let certificate = Certificate::from_pem(&pem);
            client = client.add_root_certificate(
                certificate.map_err(|error| format!("kafka.registry_ca_file {file}: {error}"))?,
            );
        }
        let client = client.build().map_err(|error| wrong(&error))?;
        let user = if settings.registry_username.is_empty() {
            None
        } else {
            let variable = &settings.registry_password_env;
            let password = std::env::var(variable)
                .map_err(|_| format!("kafka.registry_password_env: `{variable}` is not set"))?;
            Some((settings.registry_username.clone(), password))
        };
        Ok(Self { client, url, user })
    }

    /// A schema by its number. The inner error: there is none, or it is of another format.
    ///
    /// # Errors
    /// When the registry does not answer, or not as one.
    pub(super) async fn schema(
        &self,
        number: u32,
        format: MessageFormat,
    ) -> Result<Result<Registered, String>, String> {
        let Some(answer) = self.get(&format!("schemas/ids/{number}")).await? else {
            return Ok(Err("the registry does not have it".to_owned()));
        };
        let kind = answer.kind.as_deref().unwrap_or("AVRO");
        let expected = match format {
            MessageFormat::Protobuf => "PROTOBUF",
            _ => "AVRO",
        };
        if kind != expected {
            return Ok(Err(format!("it is of kind {kind}, and the source says {expected}")));
        }
        let mut references = Vec::new();
        let mut seen = BTreeSet::new();
        let mut wanted = VecDeque::from(answer.references);
        while let Some(reference) = wanted.pop_front() {
            if !seen.insert(reference.name.clone()) {
                continue;
            }
            if seen.len() > REFERENCES_MAX {
                return Ok(Err(format!("it refers to more than {REFERENCES_MAX} others")));
            }
            let path = format!("subjects/{}/versions/{}", escaped(&reference.subject), reference.version);
            let Some(found) = self.get(&path).await? else {
                return Ok(Err(format!(
                    "the registry does not have `{}`, to which it refers",
                    reference.name
                )));
            };
            wanted.extend(found.references);
            references.push((reference.name, found.schema));
        }
        Ok(Ok(Registered { text: answer.schema, references }))
    }

    async fn get(&self, path: &str) -> Result<Option<Answer>, String> {
        let failed = |why: &dyn std::fmt::Display| format!("the schema registry: {why}");
        let url = self.url.join(path).map_err(|error| failed(&error))?;
        let mut request = self.client.get(url).header("accept", "application/vnd.schemaregistry.v1+json");
        if let Some((name, password)) = &self.user {
            request = request.basic_auth(name, Some(password));
        }
        let mut answer = request.send().await.map_err(|error| failed(&error.without_url()))?;
        let status = answer.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if status != StatusCode::OK {
            return Err(failed(&format!("it answers {status} to {path}")));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| failed(&error.without_url()))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(failed(&format!("its answer to {path} has more than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        serde_json::from_slice(&body).map(Some).map_err(|error| failed(&error))
    }
}

/// A part of a path.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
