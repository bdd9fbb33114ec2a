//! Sources: where the rows are, their columns, their two times.

use super::{Resolver, entries, meta};
use crate::ValueType;
use crate::declared::{ColumnDecl, KafkaDecl, LocationDecl, SourceDecl};
use crate::definition::{
    Column, Derived, KafkaStream, KnownAt, MAX_EVENT_AGE_DEFAULT, MessageFormat, Source, SourceKind,
    TableFormat, TableLocation, TopicStart,
};
use crate::read::{Entries, Entry, ShortOr};
use crate::time::{SECOND, parse_instant};
use std::collections::BTreeMap;

/// How far an event time may lie after its append when the source does not say.
const MAX_CLOCK_SKEW_DEFAULT: i64 = 5 * SECOND;

/// The longest name of a topic that Kafka takes.
const TOPIC_BYTES_MAX: usize = 249;

impl Resolver<'_> {
    pub(super) fn sources(&mut self) {
        for entry in entries(self.declared.sources.as_ref()) {
            let path = format!("sources.{}", entry.name);
            self.check_name(&path, &entry.name);
            if let Some(source) = entry.value.as_ref().and_then(|decl| self.source(&path, &entry.name, decl))
            {
                self.out.definitions.sources.insert(entry.name.clone(), source);
            }
        }
    }

    fn source(&mut self, path: &str, name: &str, decl: &SourceDecl) -> Option<Source> {
        let kind = self.source_kind(path, decl);
        let mut columns = match &decl.columns {
            Some(declared) => self.columns(&format!("{path}.columns"), declared),
            None => vec![],
        };
        let declared = decl.columns.as_ref();
        let is_table = matches!(kind, Some(SourceKind::Table(_)));
        // What gives the times need not be repeated under `columns`.
        let implied = [
            ("event_time", &decl.event_time, ValueType::Timestamp, true),
            ("known_at", &decl.known_at, ValueType::Timestamp, is_table),
            ("sequence", &decl.sequence, ValueType::Int64, is_table),
            ("op", &decl.op, ValueType::String, true),
        ];
        for (key, column, value_type, required) in implied {
            let Some(column) = column else { continue };
            let path = format!("{path}.{key}");
            match declared.and_then(|d| d.get(column)).map(|_| columns.iter().find(|c| c.name == *column)) {
                None => {
                    if self.check_column_name(&path, column) && !columns.iter().any(|c| c.name == *column) {
                        columns.push(implied_column(column, value_type, required));
                    }
                }
                // Declared, but wrongly: that was reported.
                Some(None) => {}
                Some(Some(found)) if found.value_type != value_type => {
                    let message = format!(
                        "`{key}` needs a column of type {value_type}, `{column}` is {}",
                        found.value_type
                    );
                    self.reader.report_at(&path, "wrong_column_type", message);
                }
                Some(Some(_)) => {}
            }
        }
        let mut names: Vec<String> =
            declared.map(|d| d.names().map(str::to_owned).collect()).unwrap_or_default();
        names.extend(
            columns.iter().map(|c| c.name.clone()).filter(|n| !names.contains(n)).collect::<Vec<_>>(),
        );
        let derived = self.derived(path, decl.derived.as_ref(), &names);
        if let Some(id) = &decl.event_id {
            let path = format!("{path}.event_id");
            if self.check_known(
                &path,
                "unknown_column",
                &format!("column of source `{name}` named"),
                id,
                &names,
            ) && let Some(column) = columns.iter().find(|c| c.name == *id)
                && !column.value_type.is_key()
            {
                let message = format!(
                    "`event_id` needs a column of a key type (such as string or int64), `{id}` is {}",
                    column.value_type
                );
                self.reader.report_at(&path, "wrong_column_type", message);
            }
        }
        if decl.op.is_some() && decl.event_id.is_some() {
            let message =
                "`op` and `event_id` exclude each other: an event and what takes it back would have one id";
            if let Some(diagnostic) =
                self.reader.report_key(&format!("{path}.event_id"), "exclusive_keys", message.to_owned())
            {
                diagnostic
                    .set_hint("a redelivered message counts once by its offset, a pushed row by its row key");
            }
        }
        if decl.known_at.is_some() && decl.delay.is_some() {
            let message = "`delay` and `known_at` exclude each other; expected one of them".to_owned();
            self.reader.report_key(&format!("{path}.delay"), "exclusive_keys", message);
        }
        if let Some(zone) = &decl.time_zone
            && !is_zone(zone)
        {
            let message = format!("`{zone}` is not a time zone");
            if let Some(diagnostic) =
                self.reader.report_at(&format!("{path}.time_zone"), "unknown_time_zone", message)
            {
                diagnostic.set_hint("write a name such as `UTC` or `America/New_York`");
            }
        }
        let known_at = match &decl.known_at {
            Some(column) => KnownAt::Column(column.clone()),
            None => KnownAt::Delay(decl.delay.map_or(0, |d| d.0)),
        };
        let (mut kafka, mut ndjson) = (None, None);
        if let Some(ShortOr::Long(stream)) = &decl.stream {
            let at = format!("{path}.stream");
            match (&stream.kafka, &stream.ndjson) {
                (Some(topic), None) => kafka = Some(self.kafka(&format!("{at}.kafka"), topic, &columns)?),
                (None, Some(file)) if file.trim().is_empty() => {
                    self.reader.report_at(
                        &format!("{at}.ndjson"),
                        "wrong_path",
                        "the path is empty".to_owned(),
                    );
                    return None;
                }
                (None, Some(file)) => ndjson = Some(file.clone()),
                (Some(_), Some(_)) => {
                    let message =
                        "a stream is read from `kafka` or from an `ndjson` file, this one says both";
                    self.reader.report_key(&format!("{at}.ndjson"), "exclusive_keys", message.to_owned());
                    return None;
                }
                // Wrongly declared, which was reported; or empty.
                (None, None) => {
                    if !self.reader.is_broken_below(&at) {
                        let message = "the stream says neither `kafka` nor `ndjson`; expected one of them";
                        self.reader.report_key(&at, "missing_key", message.to_owned());
                    }
                    return None;
                }
            }
        }
        let source = Source {
            name: name.to_owned(),
            kind: kind?,
            kafka,
            ndjson,
            event_time: decl.event_time.clone()?,
            known_at,
            columns,
            filter: decl.filter.clone(),
            derived,
            sequence: decl.sequence.clone(),
            event_id: decl.event_id.clone(),
            op: decl.op.clone(),
            time_zone: decl.time_zone.clone(),
            max_clock_skew: decl.max_clock_skew.map_or(MAX_CLOCK_SKEW_DEFAULT, |d| d.0),
            max_event_age: decl.max_event_age.map_or(MAX_EVENT_AGE_DEFAULT, |d| d.0),
            meta: meta(&decl.description, &decl.owner, &decl.tags),
        };
        self.check_hand_over(path, &source);
        Some(source)
    }

    fn topic_start(
        &mut self,
        path: &str,
        start: Option<&ShortOr<String, Entries<u64>>>,
    ) -> Option<TopicStart> {
        let text = match start {
            None => return Some(TopicStart::Earliest),
            Some(ShortOr::Long(offsets)) => return self.topic_offsets(path, offsets),
            Some(ShortOr::Short(text)) => text,
        };
        let start = match text.as_str() {
            "earliest" => Some(TopicStart::Earliest),
            "latest" => Some(TopicStart::Latest),
            moment => parse_instant(moment).ok().map(TopicStart::At),
        };
        if start.is_none() {
            let message = format!("`{text}` is not a place to begin at");
            if let Some(diagnostic) = self.reader.report_at(path, "wrong_start", message) {
                diagnostic.set_hint(
                    "write `earliest`, `latest`, a moment such as `2026-01-31T00:00:00Z`, or an offset for each partition: `{0: 1200}`",
                );
            }
        }
        start
    }

    fn topic_offsets(&mut self, path: &str, declared: &Entries<u64>) -> Option<TopicStart> {
        let mut offsets = BTreeMap::new();
        for Entry { name, value } in &declared.0 {
            let Some(value) = value else { continue };
            match (name.parse::<i32>(), i64::try_from(*value)) {
                (Ok(partition), Ok(offset)) if partition >= 0 => {
                    offsets.insert(partition, offset);
                }
                _ => {
                    let message = format!("`{name}: {value}` is no partition with its offset");
                    if let Some(diagnostic) =
                        self.reader.report_at(&format!("{path}.{name}"), "wrong_start", message)
                    {
                        diagnostic.set_hint(
                            "write the number of the partition and the first offset to read: `0: 1200`",
                        );
                    }
                    return None;
                }
            }
        }
        Some(TopicStart::Offsets(offsets))
    }

    /// A history without identities must meet the topic at known places.
    fn check_hand_over(&mut self, path: &str, source: &Source) {
        let begins_anywhere = source
            .kafka
            .as_ref()
            .is_some_and(|kafka| matches!(kafka.start, TopicStart::Latest | TopicStart::At(_)));
        let has_history = matches!(source.kind, SourceKind::Push { history: Some(_) });
        if begins_anywhere && has_history && source.event_id.is_none() {
            let message =
                "where the history ends the topic must begin, to the message; this start is a guess";
            if let Some(diagnostic) = self.reader.report_at(
                &format!("{path}.stream.kafka.start"),
                "wrong_start",
                message.to_owned(),
            ) {
                diagnostic.set_hint(
                    "write the first offset of each partition that the history does not have (`start: {0: 1200}`), or name an \
                     `event_id`, so that an event that is in both counts once",
                );
            }
        }
    }

    fn source_kind(&mut self, path: &str, decl: &SourceDecl) -> Option<SourceKind> {
        let broken = |key: &str| self.reader.is_broken_below(&format!("{path}.{key}"));
        let (table_broken, stream_broken) = (broken("table"), broken("stream"));
        match (&decl.table, &decl.stream) {
            (Some(_), Some(_)) => {
                let message = "a source is a `table` or a `stream`, this one says both".to_owned();
                if let Some(diagnostic) =
                    self.reader.report_key(&format!("{path}.table"), "exclusive_keys", message)
                {
                    diagnostic.set_hint("a stream's earlier events go under `history`");
                }
                None
            }
            (None, None) if table_broken || stream_broken => None,
            (None, None) => {
                let message = "the source says neither `table` nor `stream`; expected one of them".to_owned();
                self.reader.report_key(&format!("{path}.table"), "missing_key", message);
                None
            }
            (Some(table), None) => {
                if decl.history.is_some() {
                    let message = "only a stream has a `history`; a table is its own".to_owned();
                    self.reader.report_key(&format!("{path}.history"), "exclusive_keys", message);
                }
                self.location(&format!("{path}.table"), table).map(SourceKind::Table)
            }
            (None, Some(_)) => {
                let history = match &decl.history {
                    Some(history) => Some(self.location(&format!("{path}.history"), history)?),
                    None => None,
                };
                Some(SourceKind::Push { history })
            }
        }
    }

    fn kafka(&mut self, path: &str, decl: &KafkaDecl, columns: &[Column]) -> Option<KafkaStream> {
        let topic = decl.topic.clone()?;
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX || !topic.chars().all(is_letter) {
            let message = format!("`{topic}` is not a name that a topic can have");
            if let Some(diagnostic) = self.reader.report_at(&format!("{path}.topic"), "wrong_topic", message)
            {
                diagnostic.set_hint("topics have letters, digits, `.`, `_` and `-`, at most 249");
            }
        }
        let brokers = decl.brokers.as_ref().map(|b| b.items().to_vec()).unwrap_or_default();
        for broker in &brokers {
            let port = broker.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                let message = format!("`{broker}` is not the address of a broker");
                if let Some(diagnostic) =
                    self.reader.report_at(&format!("{path}.brokers"), "wrong_address", message)
                {
                    diagnostic.set_hint("write `host:port`, such as `localhost:9092`");
                }
            }
        }
        let start = self.topic_start(&format!("{path}.start"), decl.start.as_ref())?;
        let format = decl.format.unwrap_or_default();
        if decl.schema.is_some() && format == MessageFormat::Json {
            let message = "only `avro` and `protobuf` have a schema; write `format`".to_owned();
            self.reader.report_key(&format!("{path}.schema"), "exclusive_keys", message);
        }
        if decl.message.is_some() && (format != MessageFormat::Protobuf || decl.schema.is_none()) {
            let message = "`message` says which message of a `protobuf` `schema` is meant".to_owned();
            self.reader.report_key(&format!("{path}.message"), "exclusive_keys", message);
        }
        let headers = decl.headers.clone().unwrap_or_default();
        let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        let of_key = decl.key.iter().map(|column| ("key".to_owned(), column));
        let of_headers = headers.keys().map(|column| (format!("headers.{column}"), column));
        for (key, column) in of_key.chain(of_headers) {
            self.check_known(
                &format!("{path}.{key}"),
                "unknown_column",
                "column of the source named",
                column,
                &names,
            );
        }
        Some(KafkaStream {
            brokers,
            topic,
            format,
            schema: decl.schema.clone(),
            message: decl.message.clone(),
            start,
            isolation: decl.isolation.unwrap_or_default(),
            key: decl.key.clone(),
            headers,
        })
    }

    fn location(&mut self, path: &str, decl: &LocationDecl) -> Option<TableLocation> {
        let (uri, format, at) = match decl {
            ShortOr::Short(uri) => (uri.clone(), None, path.to_owned()),
            ShortOr::Long(long) => (long.path.clone()?, long.format, format!("{path}.path")),
        };
        if uri.trim().is_empty() {
            self.reader.report_at(&at, "wrong_path", "the path is empty".to_owned());
            return None;
        }
        if let ShortOr::Long(_) = decl
            && format.is_none()
            && self.reader.is_broken(&format!("{path}.format"))
        {
            return None;
        }
        if let Some((scheme, _)) = uri.split_once("://")
            && !SCHEMES.contains(&scheme)
        {
            let message = format!("`{scheme}://` is not an address that can be read");
            if let Some(diagnostic) = self.reader.report_at(&at, "wrong_path", message) {
                diagnostic.set_hint_of(scheme, SCHEMES);
            }
            return None;
        }
        let Some(format) = format.or_else(|| format_of(&uri)) else {
            let message = format!("`{uri}` does not tell the format of the table");
            if let Some(diagnostic) = self.reader.report_at(&at, "unknown_format", message) {
                diagnostic.set_hint(format!("write {{path: {uri}, format: parquet}}, or csv, or delta"));
            }
            return None;
        };
        if format == TableFormat::Delta && uri.contains('*') {
            let message = "a Delta table is one folder; expected a path without `*`".to_owned();
            self.reader.report_at(&at, "wrong_path", message);
        }
        Some(TableLocation { format, uri })
    }

    /// Columns of a source, or fields of a request view.
    pub(super) fn columns(&mut self, path: &str, declared: &Entries<ColumnDecl>) -> Vec<Column> {
        declared.0.iter().filter_map(|entry| self.column(&format!("{path}.{}", entry.name), entry)).collect()
    }

    fn column(&mut self, path: &str, entry: &Entry<ColumnDecl>) -> Option<Column> {
        self.check_name(path, &entry.name);
        match entry.value.as_ref()? {
            ShortOr::Short(text) => Some(Column {
                name: entry.name.clone(),
                value_type: text.value_type.clone(),
                required: text.required,
                pii: false,
                from: None,
                description: String::new(),
            }),
            ShortOr::Long(long) => {
                let Some(text) = long.value_type.as_ref() else {
                    self.reader.mark_broken(path);
                    return None;
                };
                Some(Column {
                    name: entry.name.clone(),
                    value_type: text.value_type.clone(),
                    required: text.required || long.required.unwrap_or(false),
                    pii: long.pii.unwrap_or(false),
                    from: long.from.clone(),
                    description: long.description.clone().unwrap_or_default(),
                })
            }
        }
    }

    /// Derived columns of a source or view, their types not yet known. `taken`: the columns there are already.
    pub(super) fn derived(
        &mut self,
        path: &str,
        declared: Option<&Entries<String>>,
        taken: &[String],
    ) -> Vec<Derived> {
        let mut derived = Vec::new();
        for entry in entries(declared) {
            let path = format!("{path}.derived.{}", entry.name);
            self.check_name(&path, &entry.name);
            if taken.contains(&entry.name) {
                let message = format!("there is a column `{}` already; expected a new name", entry.name);
                self.reader.report_key(&path, "duplicate_name", message);
                continue;
            }
            let Some(sql) = &entry.value else { continue };
            derived.push(Derived {
                name: entry.name.clone(),
                sql: sql.clone(),
                value_type: super::views::TYPE_TO_COME,
            });
        }
        derived
    }

    /// Like `check_name`, for a name that is a value.
    fn check_column_name(&mut self, path: &str, name: &str) -> bool {
        let before = self.reader.diagnostics.len();
        let good = self.check_name(path, name);
        if !good && self.reader.diagnostics.len() > before {
            let location = self.reader.spans.locate(path);
            if let Some(diagnostic) = self.reader.diagnostics.last_mut() {
                diagnostic.location = location;
                diagnostic.set_hint("declare it under `columns` with a name of its own and `from: ...`");
            }
        }
        good
    }
}

/// Addresses that a table may have.
const SCHEMES: &[&str] = &["file", "s3", "gs", "az", "abfss", "https"];

/// The format that a path tells: by its extension, that of the files in it, or `_delta_log`.
fn format_of(uri: &str) -> Option<TableFormat> {
    let lower = uri.to_lowercase();
    let has = |extension: &str| lower.ends_with(extension);
    if has(".parquet") || has(".pq") {
        Some(TableFormat::Parquet)
    } else if has(".csv") || has(".csv.gz") {
        Some(TableFormat::Csv)
    } else if has(".delta") || has(".delta/") {
        Some(TableFormat::Delta)
    } else {
        None
    }
}

fn implied_column(name: &str, value_type: ValueType, required: bool) -> Column {
    Column { name: name.to_owned(), value_type, required, pii: false, from: None, description: String::new() }
}

/// True for what can be a zone's name. Whether the zone exists is known where its rules are.
fn is_zone(text: &str) -> bool {
    let good = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_+-".contains(c))
    };
    text.split('/').all(good)
}
