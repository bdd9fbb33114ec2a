use super::*;
use crate::features::{EntityRows, FeaturesRequestBody};
use insta::assert_snapshot;
use proptest::prelude::*;
use springhouse_core::{Value, ValueType};

fn signature() -> Arc<Signature> {
    let typed = |name: &str, text: &str| (name.to_owned(), text.parse::<ValueType>().unwrap());
    Arc::new(Signature {
        keys: vec![typed("origin", "string"), typed("user", "int64")],
        fields: [
            ("distance", "float64", true),
            ("price", "decimal(10,2)", false),
            ("tags", "list<string>", false),
            ("embedding", "vector<2>", false),
            ("at", "timestamp", false),
            ("day", "date", false),
            ("raw", "bytes", false),
            ("small", "int32", false),
            ("flag", "bool", false),
            ("document", "json", false),
            ("single", "float32", false),
            ("counts", "map<string,int64>", false),
        ]
        .into_iter()
        .map(|(name, text, required)| (name.to_owned(), text.parse().unwrap(), required))
        .collect(),
        features: vec![],
    })
}

fn parse(body: &str) -> Result<ParsedFeatures, ApiError> {
    parse_features(body.as_bytes(), |_| Ok(signature()))
}

/// The only place that touches the API: what is read, or the error, as text.
fn read(body: &str) -> String {
    match parse(body) {
        Ok(ParsedFeatures { request, options }) => {
            let mut lines = vec![format!("{:?} {:?}", request.selection, request.max_age)];
            if options != AnswerOptions::default() {
                lines.push(format!("{options:?}"));
            }
            lines.extend(request.entities.iter().map(|(name, values)| format!("key {name} = {values:?}")));
            lines.extend(request.request.iter().map(|(name, values)| format!("field {name} = {values:?}")));
            lines.join("\n")
        }
        Err(error) => match error.hint.clone() {
            Some(hint) => format!("{} {}: {} ({hint})", error.status(), error.code, error.message),
            None => format!("{} {}: {}", error.status(), error.code, error.message),
        },
    }
}

fn field(name: &str, value: &str) -> String {
    read(&format!(r#"{{"service":"s","request":{{"{name}":[{value}]}}}}"#))
}

#[test]
fn columns_and_rows_read_the_same() {
    let columns = read(
        r#"{"service":"s","entities":{"user":[1,9223372036854775807],"origin":["JFK","EWR"]},"request":{"distance":[1,2.5]},"max_age":"30s"}"#,
    );
    let rows = read(
        r#"{"request":[{"distance":1},{"distance":2.5}],"entities":[{"origin":"JFK","user":1},{"user":9223372036854775807,"origin":"EWR"}],"max_age":"30s","service":"s"}"#,
    );
    assert_eq!(columns, rows);
    assert_snapshot!(columns, @r#"
    Service("s") Some(30000000)
    key origin = [String("JFK"), String("EWR")]
    key user = [Int64(1), Int64(9223372036854775807)]
    field distance = [Float64(1.0), Float64(2.5)]
    "#);
    assert_snapshot!(read(r#"{"features":["a:b","c"],"format":"rows","int64":"string","metadata":false,"full":true}"#), @r#"
    Features(["a:b", "c"]) None
    AnswerOptions { format: Rows, metadata: false, full: true, int64: String }
    "#);
}

#[test]
fn every_type_is_read_exactly() {
    let big = "12345678.90";
    for (name, value, expected) in [
        ("distance", "0.30000000000000004", Value::Float64(0.1 + 0.2)),
        ("distance", "9007199254740993", Value::Float64(9007199254740992.0)),
        ("distance", "-0.0", Value::Float64(-0.0)),
        ("distance", "\"-Infinity\"", Value::Float64(f64::NEG_INFINITY)),
        ("distance", "null", Value::Null),
        ("single", "0.1", Value::Float32(0.1)),
        ("price", big, Value::Decimal(1_234_567_890, 2)),
        ("price", "\"-0.5\"", Value::Decimal(-50, 2)),
        ("tags", "[\"a\\n\",null]", Value::List([Value::string("a\n"), Value::Null].as_slice().into())),
        ("embedding", "[1,2.5]", Value::Vector([1.0f32, 2.5].as_slice().into())),
        ("at", "\"2013-01-01T05:00:00.000001Z\"", Value::Timestamp(1_357_016_400_000_001)),
        ("day", "\"1970-01-02\"", Value::Date(1)),
        ("raw", "\"AP8=\"", Value::Bytes([0u8, 255].as_slice().into())),
        ("small", "-2147483648", Value::Int32(i32::MIN)),
        ("flag", "true", Value::Bool(true)),
        (
            "document",
            "{\"b\": 1,  \"a\":12345678901234567890123}",
            Value::string("{\"b\": 1,  \"a\":12345678901234567890123}"),
        ),
        (
            "counts",
            "[[\"x\",\"9223372036854775807\"],[\"y\",null]]",
            Value::Map(
                [(Value::string("x"), Value::Int64(i64::MAX)), (Value::string("y"), Value::Null)]
                    .as_slice()
                    .into(),
            ),
        ),
    ] {
        let body = format!(r#"{{"service":"s","request":{{"{name}":[{value}]}}}}"#);
        let parsed = parse(&body).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(parsed.request.request[name], vec![expected], "{body}");
    }
    let nan = parse(r#"{"service":"s","request":{"distance":["NaN"]}}"#).unwrap();
    assert!(nan.request.request["distance"][0].is_null_or_nan());
}

#[test]
fn wrong_types_name_place_and_expectation_but_never_the_value() {
    assert_snapshot!(field("small", "2147483648"), @"400 wrong_type: request field `small`, row 0: expected int32 (an integer in range, without fraction or exponent), got a larger integer");
    assert_snapshot!(field("small", "1.0"), @"400 wrong_type: request field `small`, row 0: expected int32 (an integer in range, without fraction or exponent), got a number with a fraction, an exponent or more digits");
    assert_snapshot!(field("distance", "\"12\""), @r#"400 wrong_type: request field `distance`, row 0: expected float64 (a number in range, "NaN", "Infinity" or "-Infinity"), got a string that is none"#);
    assert_snapshot!(field("distance", "1e400"), @r#"400 wrong_type: request field `distance`, row 0: expected float64 (a number in range, "NaN", "Infinity" or "-Infinity"), got a number that does not fit"#);
    assert_snapshot!(field("price", "1.005"), @r#"400 wrong_type: request field `price`, row 0: expected decimal(10,2) (a string such as "12.50"; nothing is rounded), got a number that does not fit"#);
    assert_snapshot!(field("flag", "1"), @"400 wrong_type: request field `flag`, row 0: expected bool, got a number");
    assert_snapshot!(field("at", "\"2013-01-01T05:00:00\""), @r#"400 wrong_type: request field `at`, row 0: expected timestamp (RFC 3339 with an offset, to the microsecond, such as "2013-01-01T05:00:00Z"), got a string that is none"#);
    assert_snapshot!(field("at", "1357016400"), @r#"400 wrong_type: request field `at`, row 0: expected timestamp (RFC 3339 with an offset, to the microsecond, such as "2013-01-01T05:00:00Z"), got a number"#);
    assert_snapshot!(field("day", "\"2013-02-30\""), @r#"400 wrong_type: request field `day`, row 0: expected date (such as "2013-01-01"), got a string that is none"#);
    assert_snapshot!(field("raw", "\"%\""), @"400 wrong_type: request field `raw`, row 0: expected bytes (a base64 string), got a string that is none");
    assert_snapshot!(field("embedding", "[1]"), @"400 wrong_type: request field `embedding`, row 0: expected vector<2>, got 1 numbers");
    assert_snapshot!(field("embedding", "[1,null]"), @"400 wrong_type: request field `embedding`, row 0: expected vector<2>, got a list with a null");
    assert_snapshot!(field("tags", "\"a\""), @"400 wrong_type: request field `tags`, row 0: expected list<string>, got a string");
    assert_snapshot!(field("tags", "[1]"), @"400 wrong_type: request field `tags`, row 0: expected string, got a number");
    assert_snapshot!(field("counts", "{\"a\":1}"), @"400 wrong_type: request field `counts`, row 0: expected map<string,int64> (a list of [key, value] pairs), got an object");
    assert_snapshot!(field("counts", "[[\"a\"]]"), @"400 wrong_type: request field `counts`, row 0: expected a [key, value] pair, got one item");
}

#[test]
fn wrong_keys() {
    let entities = |text: &str| read(&format!(r#"{{"service":"s","entities":{text}}}"#));
    assert_snapshot!(entities(r#"{"user":[9223372036854775808]}"#), @"400 wrong_type: entity key `user`, row 0: expected int64 (an integer in range, without fraction or exponent), got a larger integer");
    assert_snapshot!(entities(r#"{"user":[1.0]}"#), @"400 wrong_type: entity key `user`, row 0: expected int64 (an integer in range, without fraction or exponent), got a number with a fraction, an exponent or more digits");
    assert_snapshot!(entities(r#"{"user":["01"]}"#), @"400 wrong_type: entity key `user`, row 0: expected int64 (an integer in range, without fraction or exponent), got a string that is none");
    assert_snapshot!(entities(r#"{"origin":[7]}"#), @"400 wrong_type: entity key `origin`, row 0: expected string, got a number");
    assert_snapshot!(entities(r#"{"origin":[null]}"#), @"400 invalid_entity_key: entity key `origin` is null in row 0");
    assert_snapshot!(entities(r#"{"origin":"JFK"}"#), @"400 invalid_request: expected a list with one value per row for `origin`, got a string (line 1, column 41) (the shape of each request is in /openapi.json)");
    assert_snapshot!(entities(r#"{"orgin":["JFK"]}"#), @"400 unknown_entity_key: unknown entity key `orgin` (these features take `origin`, `user`)");
    assert_snapshot!(entities(r#"[{"origin":"JFK","user":1},{"origin":"JFK"}]"#), @"400 missing_entity_key: row 1 has no entity key `user`");
    assert_snapshot!(entities(r#"[{"origin":"JFK","origin":"EWR","user":1}]"#), @"400 invalid_request: entity key `origin` is given twice in row 0");
    assert_snapshot!(entities(r#"{"origin":["JFK"],"origin":["EWR"]}"#), @"400 invalid_request: entity key `origin` is given twice");
    assert_snapshot!(entities(r#""JFK""#), @"400 invalid_request: expected an object with a list per entity key, or a list of objects with a value per entity key, got a string (line 1, column 31) (the shape of each request is in /openapi.json)");
    assert_snapshot!(entities(r#"["JFK"]"#), @"400 invalid_request: expected an object with a value per entity key in row 0, got a string (line 1, column 32) (the shape of each request is in /openapi.json)");
}

#[test]
fn wrong_envelopes() {
    assert_snapshot!(read(""), @"400 malformed_json: the body is empty (send a JSON object)");
    assert_snapshot!(read("{"), @"400 malformed_json: line 1, column 1: EOF while parsing an object");
    assert_snapshot!(read("{\"service\":\"s\",\n  \"entities\": {\"user\":[1,}}"), @"400 malformed_json: line 2, column 26: expected value");
    assert_snapshot!(read("[]"), @"400 invalid_request: the body is JSON, but not an object (the shape of each request is in /openapi.json)");
    assert_snapshot!(read("{}"), @r#"400 invalid_request: neither `service` nor `features` is given (name what you want: {"service": "..."} or {"features": ["view:feature"]})"#);
    assert_snapshot!(read(r#"{"service":"s","features":["a"]}"#), @"400 invalid_request: both `service` and `features` are given (ask for a service or for features by name, not both)");
    assert_snapshot!(read(r#"{"features":[]}"#), @"400 invalid_request: `features` is empty");
    assert_snapshot!(read(r#"{"service":"s","service":"t"}"#), @"400 invalid_request: duplicate field `service` (line 1, column 24) (the shape of each request is in /openapi.json)");
    assert_snapshot!(read(r#"{"service":"s","entity":{}}"#), @"400 invalid_request: unknown field `entity`, expected one of `service`, `features`, `entities`, `request`, `max_age`, `drop_stale`, `priority`, `timeout_ms`, `full`, `metadata`, `format`, `int64` (line 1, column 23) (the shape of each request is in /openapi.json)");
    assert_snapshot!(read(r#"{"service":7}"#), @"400 invalid_request: invalid type: integer `7`, expected a string (line 1, column 12) (the shape of each request is in /openapi.json)");
    assert_snapshot!(read(r#"{"service":"s","max_age":"soon"}"#), @"400 invalid_request: `max_age`: `soon` is not a duration; write a number and a unit such as 30s, 15m, 6h, 7d or 1h30m");
    assert_snapshot!(read(r#"{"service":"s","format":"table"}"#), @"400 invalid_request: unknown variant `table`, expected `columns` or `rows` (line 1, column 31) (the shape of each request is in /openapi.json)");
    assert_snapshot!(read(r#"{"service":"s"} x"#), @"400 malformed_json: line 1, column 17: trailing characters");
    assert_snapshot!(read("\u{feff}{}"), @"400 malformed_json: line 1, column 1: expected value");
    assert_snapshot!(read(r#"{"service":"\ud800"}"#), @"400 malformed_json: line 1, column 19: unexpected end of hex escape");
    // Ten thousand brackets overflow no stack.
    let deep = format!(r#"{{"service":"s","request":{{"tags":{}}}}}"#, "[".repeat(10_000));
    assert!(read(&deep).starts_with("400 malformed_json"));
}

#[test]
fn the_signature_decides_what_exists() {
    let body = br#"{"service":"nope"}"#;
    let error =
        parse_features(body, |_| Err(ApiError::new("unknown_service", "no service `nope`"))).unwrap_err();
    assert_eq!((error.code, error.status()), ("unknown_service", 404));
}

proptest! {
    /// The documented request type and the hot path's own reader agree.
    #[test]
    fn the_documented_request_is_what_is_read(
        users in proptest::collection::vec(any::<i64>(), 0..5),
        as_rows: bool, full: bool, metadata: Option<bool>, rows_wanted: bool, strings: bool,
    ) {
        let entities = if as_rows {
            EntityRows::Rows(users.iter().map(|u| [
                ("user".to_owned(), (*u).into()), ("origin".to_owned(), u.to_string().into()),
            ].into()).collect())
        } else {
            EntityRows::Columns([
                ("user".to_owned(), users.iter().map(|u| (*u).into()).collect()),
                ("origin".to_owned(), users.iter().map(|u| u.to_string().into()).collect()),
            ].into())
        };
        let body = FeaturesRequestBody {
            service: Some("s\"é".into()), entities: Some(entities), max_age: Some("5m".into()), full, metadata,
            format: if rows_wanted { AnswerFormat::Rows } else { AnswerFormat::Columns },
            int64: if strings { Int64Format::String } else { Int64Format::Number },
            ..FeaturesRequestBody::default()
        };
        let parsed = parse(&serde_json::to_string(&body).unwrap()).unwrap();
        let expected: Vec<_> = users.iter().map(|u| Value::Int64(*u)).collect();
        prop_assert_eq!(&parsed.request.entities["user"], &expected);
        prop_assert!(matches!(parsed.request.selection, Selection::Service(ref name) if name == "s\"é"));
        prop_assert_eq!(parsed.request.max_age, Some(300_000_000));
        let expected = AnswerOptions { format: body.format, metadata: metadata.unwrap_or(true), full, int64: body.int64 };
        prop_assert_eq!(parsed.options, expected);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_features(&bytes, |_| Ok(signature()));
    }
}
