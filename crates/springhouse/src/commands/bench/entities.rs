//! Which entities are asked for.

use super::ServeArgs;
use anyhow::{Context, bail};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde_json::{Map, Value as Json, json};
use std::ops::Range;
use std::str::FromStr;

/// The values of one entity key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KeySpec {
    name: String,
    values: Values,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    Integers(Range<i64>),
    Listed(Vec<Json>),
}

impl FromStr for KeySpec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, values) = text.split_once('=').context("a key is written NAME=FROM..TO or NAME=@FILE")?;
        let values = match values.strip_prefix('@') {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("can't read {path}"))?;
                Values::Listed(text.lines().map(json_or_text).collect())
            }
            None => {
                let (from, to) = values.split_once("..").context("integers are written FROM..TO")?;
                let number = |text: &str| text.parse().with_context(|| format!("`{text}` is no integer"));
                Values::Integers(number(from)?..number(to)?)
            }
        };
        let spec = Self { name: name.to_owned(), values };
        if spec.len() == 0 {
            bail!("key `{name}` has no value");
        }
        Ok(spec)
    }
}

impl KeySpec {
    fn len(&self) -> u64 {
        match &self.values {
            Values::Integers(range) => u64::try_from(range.end - range.start).unwrap_or(0),
            Values::Listed(values) => values.len() as u64,
        }
    }

    fn value(&self, entity: u64) -> Json {
        let place = entity % self.len();
        match &self.values {
            Values::Integers(range) => json!(range.start + place as i64),
            Values::Listed(values) => values[place as usize].clone(),
        }
    }

    /// A value that is not among them.
    fn cold(&self, number: u64) -> Json {
        match &self.values {
            Values::Integers(range) => json!(range.end.saturating_add(1 + number as i64)),
            Values::Listed(_) => json!(format!("cold-{number}")),
        }
    }
}

/// Numbers and quoted strings as JSON, everything else as a string.
fn json_or_text(text: &str) -> Json {
    match serde_json::from_str(text) {
        Ok(value @ (Json::Number(_) | Json::String(_) | Json::Bool(_))) => value,
        _ => json!(text),
    }
}

/// The bodies of the requests.
pub(super) fn draw(service: &str, args: &ServeArgs) -> anyhow::Result<Vec<String>> {
    let fields: Map<String, Json> = args
        .fields
        .iter()
        .map(|field| {
            let (name, value) = field.split_once('=').context("a field is written NAME=VALUE")?;
            Ok((name.to_owned(), json!([json_or_text(value)])))
        })
        .collect::<anyhow::Result<_>>()?;
    let entities = args.keys.iter().map(KeySpec::len).max().unwrap_or(1);
    let zipf = Zipf::new(entities as f64, args.zipf).ok().context("`--zipf` must not be negative")?;
    let mut random = SmallRng::seed_from_u64(args.seed);
    let mut cold = 0;
    let mut body = || {
        let mut columns: Vec<Vec<Json>> = vec![Vec::with_capacity(args.rows); args.keys.len()];
        for _ in 0..args.rows {
            // Drawn in any case, so that the others stay the same whatever the share.
            let entity = zipf.sample(&mut random) as u64 - 1;
            let is_cold = random.random::<f64>() * 100.0 < args.cold;
            cold += u64::from(is_cold);
            for (key, column) in args.keys.iter().zip(&mut columns) {
                column.push(if is_cold { key.cold(cold) } else { key.value(entity) });
            }
        }
        let keys = args.keys.iter().map(|key| key.name.clone());
        let mut body = json!({"service": service, "entities": keys.zip(columns.into_iter().map(Json::Array)).collect::<Map<_, _>>()});
        if !fields.is_empty() {
            body["request"] = Json::Object(fields.clone());
        }
        if args.values_only {
            body["metadata"] = json!(false);
        }
        body.to_string()
    };
    Ok((0..args.requests.max(1)).map(|_| body()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::BTreeMap;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn drawn(words: &[&str]) -> Vec<Json> {
        let line = [&["bench", "--service", "s"], words].concat();
        let args = Line::try_parse_from(line).unwrap().serve;
        draw("s", &args).unwrap().iter().map(|body| serde_json::from_str(body).unwrap()).collect()
    }

    fn counts(bodies: &[Json]) -> BTreeMap<i64, usize> {
        let mut counts = BTreeMap::new();
        for body in bodies {
            for user in body["entities"]["user"].as_array().unwrap() {
                *counts.entry(user.as_i64().unwrap()).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn entities_are_drawn_as_asked() {
        let even = counts(&drawn(&["--key", "user=10..20", "--zipf", "0", "--requests", "2000"]));
        assert!(even.keys().copied().eq(10..20), "{even:?}");
        assert!(even.values().all(|count| (120..280).contains(count)), "{even:?}");
        let skewed =
            counts(&drawn(&["--key", "user=0..1000", "--zipf", "1", "--requests", "200", "--rows", "10"]));
        assert!(skewed[&0] > 20 * skewed.get(&100).copied().unwrap_or(1), "{skewed:?}");
        let cold = counts(&drawn(&["--key", "user=0..10", "--cold", "50", "--requests", "1000"]));
        let unknown: usize = cold.range(10..).map(|(_, count)| *count).sum();
        assert!((400..600).contains(&unknown) && cold.range(10..).all(|(_, count)| *count == 1), "{cold:?}");
        let same = |seed: &str| drawn(&["--key", "user=0..1000", "--requests", "20", "--seed", seed]);
        assert_eq!(same("5"), same("5"));
        assert_ne!(same("5"), same("6"));
    }

    #[test]
    fn fields_and_listed_keys_are_what_they_look_like() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "JFK\n\"12\"\n7\n").unwrap();
        let spec = format!("city=@{}", file.path().display());
        let bodies =
            drawn(&["--key", &spec, "--field", "limit=10.5", "--field", "note=a b", "--values-only"]);
        let body = &bodies[0];
        assert_eq!(body["request"], json!({"limit": [10.5], "note": ["a b"]}));
        assert_eq!(body["metadata"], json!(false));
        let values: std::collections::BTreeSet<String> =
            bodies.iter().map(|body| body["entities"]["city"][0].to_string()).collect();
        assert_eq!(values.into_iter().collect::<Vec<_>>(), [r#""12""#, r#""JFK""#, "7"]);
        for bad in ["user", "user=1", "user=1..x", "user=5..5", "user=@/no/such/file"] {
            assert!(bad.parse::<KeySpec>().is_err(), "{bad}");
        }
    }
}
