//! What expressions give, what they refuse, and that a row's value does not depend on its batch.
#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use insta::assert_snapshot;
use proptest::prelude::*;
use springhouse_core::{Value, ValueType};
use springhouse_expr::Expression;
use springhouse_kernel::{array_from_values, arrow_type, value_at};
use std::sync::Arc;

/// Four rows: ordinary, zeros and empties, extremes, nulls (and a NaN in `x`).
fn columns() -> Vec<(String, ValueType, Vec<Value>)> {
    let list = |values: &[i64]| Value::List(values.iter().map(|v| Value::Int64(*v)).collect());
    let hour = 3_600_000_000i64;
    let rows: Vec<(&str, &str, [Value; 4])> = vec![
        ("a", "int64", [Value::Int64(7), Value::Int64(0), Value::Int64(i64::MAX), Value::Null]),
        ("b", "int64", [Value::Int64(2), Value::Int64(0), Value::Int64(-1), Value::Null]),
        ("i", "int32", [Value::Int32(3), Value::Int32(0), Value::Int32(i32::MIN), Value::Null]),
        ("x", "float64", [1.5, 0.0, -4.0, f64::NAN].map(Value::Float64)),
        ("f", "float32", [Value::Float32(0.25), Value::Float32(0.0), Value::Float32(f32::MAX), Value::Null]),
        ("name", "string", [Value::string("m1"), Value::string(""), Value::string("Ünï 12"), Value::Null]),
        ("Carrier", "string", [Value::string("UA"), Value::string("B6"), Value::string("10"), Value::Null]),
        ("ok", "bool", [Value::Bool(true), Value::Bool(false), Value::Bool(true), Value::Null]),
        (
            "at",
            "timestamp",
            [
                Value::Timestamp(1_357_020_000_000_000),
                Value::Timestamp(-1),
                Value::Timestamp(29 * hour + 7),
                Value::Null,
            ],
        ),
        (
            "until",
            "timestamp",
            [
                Value::Timestamp(1_357_020_000_000_000 + hour),
                Value::Timestamp(0),
                Value::Timestamp(0),
                Value::Null,
            ],
        ),
        ("day", "date", [Value::Date(15_706), Value::Date(-1), Value::Date(0), Value::Null]),
        (
            "price",
            "decimal(9,2)",
            [Value::Decimal(1250, 2), Value::Decimal(0, 2), Value::Decimal(-999_999_999, 2), Value::Null],
        ),
        ("tags", "list<int64>", [list(&[1, 2]), list(&[]), list(&[-5]), Value::Null]),
        ("doc", "json", [Value::string("{}"), Value::string("[1]"), Value::string("1"), Value::Null]),
    ];
    let typed = rows.into_iter();
    typed.map(|(name, text, values)| (name.to_owned(), text.parse().unwrap(), values.into())).collect()
}

fn schema() -> Vec<(String, ValueType)> {
    columns().into_iter().map(|(name, value_type, _)| (name, value_type)).collect()
}

fn batch_of(columns: &[(String, ValueType, Vec<Value>)]) -> RecordBatch {
    let fields: Vec<_> = columns.iter().map(|(n, t, _)| Field::new(n, arrow_type(t), true)).collect();
    let arrays: Vec<ArrayRef> = columns.iter().map(|(_, t, values)| array_from_values(t, values)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(v) => v.to_string(),
        Value::Int32(v) => v.to_string(),
        Value::Int64(v) => v.to_string(),
        Value::Float32(v) => format!("{v:?}"),
        Value::Float64(v) => format!("{v:?}"),
        Value::String(v) => format!("'{v}'"),
        other => format!("{other:?}"),
    }
}

/// One line per expression: text, type, the four values.
fn values_of(expressions: &str) -> String {
    let columns = columns();
    let (schema, batch) = (schema(), batch_of(&columns));
    let mut out = String::new();
    for sql in expressions.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let line = match Expression::plan(sql, &schema) {
            Err(error) => format!("{sql} -> ERROR {error}"),
            Ok(planned) => {
                let value_type = planned.value_type();
                let array = planned.evaluate(&batch);
                assert_eq!(array.data_type(), &arrow_type(value_type), "{sql}");
                assert_eq!(array.len(), 4, "{sql}");
                let values: Vec<_> = (0..4).map(|row| show(&value_at(&array, row, value_type))).collect();
                format!("{sql} -> {value_type}: {}", values.join(" | "))
            }
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// One line per wrong expression: text, position, message, hint.
fn errors_of(expressions: &str) -> String {
    let schema = schema();
    let mut out = String::new();
    for sql in expressions.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let error = Expression::plan(sql, &schema).expect_err(sql);
        let at = error.column.map_or("-".to_owned(), |column| column.to_string());
        let hint = error.hint.map_or(String::new(), |hint| format!(" [{hint}]"));
        out.push_str(&format!("{sql} @{at}: {}{hint}\n", error.message));
    }
    out
}

#[test]
fn arithmetic_is_checked_and_a_failing_row_is_null() {
    assert_snapshot!(values_of("
        a
        a + 1
        -a
        -i
        a * b
        a / b
        a % b
        x / b
        x / 0
        i + 1
        i + a
        x + i
        f * 2
        f * 2.0
        abs(i)
        round(x)
        round(x, 1)
        power(x, 2)
        sqrt(x)
        ln(x)
        price * 2
        price + price
        CAST(price AS DOUBLE) / 3
        5
        1 / 0
        9223372036854775807 + 1
    "), @r"
    a -> int64: 7 | 0 | 9223372036854775807 | null
    a + 1 -> int64: 8 | 1 | null | null
    -a -> int64: -7 | 0 | -9223372036854775807 | null
    -i -> int32: -3 | 0 | null | null
    a * b -> int64: 14 | 0 | -9223372036854775807 | null
    a / b -> int64: 3 | null | -9223372036854775807 | null
    a % b -> int64: 1 | null | 0 | null
    x / b -> float64: 0.75 | null | 4.0 | null
    x / 0 -> float64: inf | null | -inf | null
    i + 1 -> int64: 4 | 1 | -2147483647 | null
    i + a -> int64: 10 | 0 | 9223372034707292159 | null
    x + i -> float64: 4.5 | 0.0 | -2147483652.0 | null
    f * 2 -> float32: 0.5 | 0.0 | inf | null
    f * 2.0 -> float64: 0.5 | 0.0 | 6.805646932770577e38 | null
    abs(i) -> int32: 3 | 0 | null | null
    round(x) -> float64: 2.0 | 0.0 | -4.0 | null
    round(x, 1) -> float64: 1.5 | 0.0 | -4.0 | null
    power(x, 2) -> float64: 2.25 | 0.0 | 16.0 | null
    sqrt(x) -> float64: 1.224744871391589 | 0.0 | null | null
    ln(x) -> float64: 0.4054651081081644 | -inf | null | null
    price * 2 -> decimal(30,2): Decimal(2500, 2) | Decimal(0, 2) | Decimal(-1999999998, 2) | null
    price + price -> decimal(10,2): Decimal(2500, 2) | Decimal(0, 2) | Decimal(-1999999998, 2) | null
    CAST(price AS DOUBLE) / 3 -> float64: 4.166666666666667 | 0.0 | -3333333.33 | null
    5 -> int64: 5 | 5 | 5 | 5
    1 / 0 -> int64: null | null | null | null
    9223372036854775807 + 1 -> int64: null | null | null | null
    ");
}

#[test]
fn conditions_follow_three_valued_logic_and_nan_is_null() {
    assert_snapshot!(values_of("
        x > 1
        x IS NULL
        x IS NOT NULL
        x = x
        x <> 1.5
        x BETWEEN -5 AND 0
        x IN (1.5, 0)
        NOT (x > 1)
        sqrt(x) > 1
        sqrt(x) IS NULL
        x / 0 > 1
        x / 0 = x / 0
        CAST('NaN' AS DOUBLE) > 1
        x IS DISTINCT FROM 1.5
        a > 3 AND ok
        a > 3 OR ok
        b <> 0 AND a / b > 1
        a / b > 1 AND b <> 0
        ok
        NOT ok
        ok = true
        CASE WHEN b = 0 THEN -1 ELSE a / b END
        CASE Carrier WHEN 'UA' THEN 1 WHEN 'B6' THEN 2 END
        coalesce(a, 0)
        nullif(a, 0)
        greatest(a, b, 1)
        coalesce(x, -1.0)
    "), @r"
    x > 1 -> bool: true | false | false | null
    x IS NULL -> bool: false | false | false | true
    x IS NOT NULL -> bool: true | true | true | false
    x = x -> bool: true | true | true | null
    x <> 1.5 -> bool: false | true | true | null
    x BETWEEN -5 AND 0 -> bool: false | true | true | null
    x IN (1.5, 0) -> bool: true | true | false | null
    NOT (x > 1) -> bool: false | true | true | null
    sqrt(x) > 1 -> bool: true | false | null | null
    sqrt(x) IS NULL -> bool: false | false | null | true
    x / 0 > 1 -> bool: true | null | false | null
    x / 0 = x / 0 -> bool: true | null | true | null
    CAST('NaN' AS DOUBLE) > 1 -> bool: null | null | null | null
    x IS DISTINCT FROM 1.5 -> bool: false | true | true | true
    a > 3 AND ok -> bool: true | false | true | null
    a > 3 OR ok -> bool: true | false | true | null
    b <> 0 AND a / b > 1 -> bool: true | false | false | null
    a / b > 1 AND b <> 0 -> bool: true | null | false | null
    ok -> bool: true | false | true | null
    NOT ok -> bool: false | true | false | null
    ok = true -> bool: true | false | true | null
    CASE WHEN b = 0 THEN -1 ELSE a / b END -> int64: 3 | -1 | -9223372036854775807 | null
    CASE Carrier WHEN 'UA' THEN 1 WHEN 'B6' THEN 2 END -> int64: 1 | 2 | null | null
    coalesce(a, 0) -> int64: 7 | 0 | 9223372036854775807 | 0
    nullif(a, 0) -> int64: 7 | null | 9223372036854775807 | null
    greatest(a, b, 1) -> int64: 7 | 1 | 9223372036854775807 | 1
    coalesce(x, -1.0) -> float64: 1.5 | 0.0 | -4.0 | -1.0
    ");
}

#[test]
fn text_times_and_casts_have_our_types() {
    assert_snapshot!(values_of("
        name
        upper(name)
        name || '-' || Carrier
        length(name)
        name LIKE 'm%'
        Carrier IN ('UA', 'AA')
        regexp_like(name, '^m[0-9]')
        regexp_replace(name, '[0-9]+', '#')
        split_part(name, ' ', 2)
        substr(name, 1, 2)
        strpos(name, '1')
        name = ''
        CAST(Carrier AS BIGINT)
        CAST(Carrier AS INT)
        TRY_CAST(Carrier AS INT)
        CAST(a AS INT)
        CAST(x AS INT)
        CAST(a AS VARCHAR)
        CAST(i AS SMALLINT)
        CAST(b AS BIGINT UNSIGNED)
        CAST(x AS REAL)
        CAST(x AS DECIMAL(10, 3))
        date_trunc('hour', at)
        EXTRACT(HOUR FROM at)
        EXTRACT(DOW FROM at)
        date_part('minute', at)
        EXTRACT(EPOCH FROM (until - at))
        at + INTERVAL '1 hour'
        at > TIMESTAMP '2013-01-01T00:00:00Z'
        at > '2013-01-01T00:00:00Z'
        until > at
        to_unixtime(at)
        CAST(at AS DATE)
        day + 1
        day
        CAST(day AS TIMESTAMP)
        to_timestamp('2013-01-01T05:00:00-05:00')
        to_timestamp_seconds(b)
        to_char(at, '%Y-%m-%d %H')
        make_date(2013, 1, i)
        tags
        doc
        chr(65)
        'text'
        true
        CAST(NULL AS DOUBLE)
    "), @r"
    name -> string: 'm1' | '' | 'Ünï 12' | null
    upper(name) -> string: 'M1' | '' | 'ÜNÏ 12' | null
    name || '-' || Carrier -> string: 'm1-UA' | '-B6' | 'Ünï 12-10' | null
    length(name) -> int32: 2 | 0 | 6 | null
    name LIKE 'm%' -> bool: true | false | false | null
    Carrier IN ('UA', 'AA') -> bool: true | false | false | null
    regexp_like(name, '^m[0-9]') -> bool: true | false | false | null
    regexp_replace(name, '[0-9]+', '#') -> string: 'm#' | '' | 'Ünï #' | null
    split_part(name, ' ', 2) -> string: '' | '' | '12' | null
    substr(name, 1, 2) -> string: 'm1' | '' | 'Ün' | null
    strpos(name, '1') -> int32: 2 | 0 | 5 | null
    name = '' -> bool: false | true | false | null
    CAST(Carrier AS BIGINT) -> int64: null | null | 10 | null
    CAST(Carrier AS INT) -> int32: null | null | 10 | null
    TRY_CAST(Carrier AS INT) -> int32: null | null | 10 | null
    CAST(a AS INT) -> int32: 7 | 0 | null | null
    CAST(x AS INT) -> int32: 1 | 0 | -4 | null
    CAST(a AS VARCHAR) -> string: '7' | '0' | '9223372036854775807' | null
    CAST(i AS SMALLINT) -> int32: 3 | 0 | null | null
    CAST(b AS BIGINT UNSIGNED) -> int64: 2 | 0 | null | null
    CAST(x AS REAL) -> float32: 1.5 | 0.0 | -4.0 | null
    CAST(x AS DECIMAL(10, 3)) -> decimal(10,3): Decimal(1500, 3) | Decimal(0, 3) | Decimal(-4000, 3) | null
    date_trunc('hour', at) -> timestamp: Timestamp(1357020000000000) | Timestamp(-3600000000) | Timestamp(104400000000) | null
    EXTRACT(HOUR FROM at) -> int32: 6 | 23 | 5 | null
    EXTRACT(DOW FROM at) -> int32: 2 | 3 | 5 | null
    date_part('minute', at) -> int32: 0 | 59 | 0 | null
    EXTRACT(EPOCH FROM (until - at)) -> float64: 3600.0 | 1e-6 | -104400.0 | null
    at + INTERVAL '1 hour' -> timestamp: Timestamp(1357023600000000) | Timestamp(3599999999) | Timestamp(108000000007) | null
    at > TIMESTAMP '2013-01-01T00:00:00Z' -> bool: true | false | false | null
    at > '2013-01-01T00:00:00Z' -> bool: true | false | false | null
    until > at -> bool: true | true | false | null
    to_unixtime(at) -> int64: 1357020000 | 0 | 104400 | null
    CAST(at AS DATE) -> date: Date(15706) | Date(-1) | Date(1) | null
    day + 1 -> date: Date(15707) | Date(0) | Date(1) | null
    day -> date: Date(15706) | Date(-1) | Date(0) | null
    CAST(day AS TIMESTAMP) -> timestamp: Timestamp(1356998400000000) | Timestamp(-86400000000) | Timestamp(0) | null
    to_timestamp('2013-01-01T05:00:00-05:00') -> timestamp: Timestamp(1357034400000000) | Timestamp(1357034400000000) | Timestamp(1357034400000000) | Timestamp(1357034400000000)
    to_timestamp_seconds(b) -> timestamp: Timestamp(2000000) | Timestamp(0) | Timestamp(-1000000) | null
    to_char(at, '%Y-%m-%d %H') -> string: '2013-01-01 06' | '1969-12-31 23' | '1970-01-02 05' | null
    make_date(2013, 1, i) -> date: Date(15708) | null | null | null
    tags -> list<int64>: List([Int64(1), Int64(2)]) | List([]) | List([Int64(-5)]) | null
    doc -> json: '{}' | '[1]' | '1' | null
    chr(65) -> string: 'A' | 'A' | 'A' | 'A'
    'text' -> string: 'text' | 'text' | 'text' | 'text'
    true -> bool: true | true | true | true
    CAST(NULL AS DOUBLE) -> float64: null | null | null | null
    ");
}

#[test]
fn what_has_no_place_in_a_row_is_refused_with_a_way_out() {
    assert_snapshot!(errors_of("
        dep_delay > 1
        carrier = 'UA'
        nmae = 'x'
        name = \"m1\"
        t.name
        uper(name)
        frobnicate(name)
        random()
        now() > at
        NOW()
        current_date
        current_timestamp
        uuid()
        gen_random_uuid()
        version()
        arrow_cast(a, 'Int8')
        sum(a)
        count(*)
        avg(x) > 1
        sum(a) OVER (PARTITION BY name)
        row_number() OVER ()
        (SELECT 1)
        a IN (SELECT 1)
        EXISTS (SELECT 1)
        a = $1
        a = ?
        *
        a >
        a > > 1
        a = 1; DROP TABLE x
        a AS b
        (a
        a + name
        upper(name, name)
        upper()
        a AND ok
        NULL
        until - at
        INTERVAL '1 day'
        ARRAY[1, 2]
        @a
        'unclosed
        CAST(a AS FROB)
        name > 1 AND missing = 2
    "), @r#"
    dep_delay > 1 @1: there is no column `dep_delay` [the columns are a, b, i, x, f, name, Carrier, ok, at, until, day, price, tags, doc]
    carrier = 'UA' @1: there is no column `carrier` [did you mean `Carrier`? Names are case-sensitive]
    nmae = 'x' @1: there is no column `nmae` [did you mean `name`?]
    name = "m1" @8: there is no column `m1` [text is written in single quotes: 'm1']
    t.name @1: `t.name` names a table; a row's columns are named alone [write `name`]
    uper(name) @1: there is no function `uper` [did you mean `upper`?]
    frobnicate(name) @1: there is no function `frobnicate`
    random() @1: `random` is not deterministic: training and serving would see different values [use a column of the row; a request view has the moment asked for as `now`]
    now() > at @1: `now` is not deterministic: training and serving would see different values [use a column of the row; a request view has the moment asked for as `now`]
    NOW() @1: `now` is not deterministic: training and serving would see different values [use a column of the row; a request view has the moment asked for as `now`]
    current_date @1: `current_date` is not deterministic: training and serving would see different values [use a column of the row; a request view has the moment asked for as `now`]
    current_timestamp @1: `current_timestamp` is not deterministic: training and serving would see different values [use a column of the row; a request view has the moment asked for as `now`]
    uuid() @1: `uuid` is not deterministic: training and serving would see different values [use a column of the row; a request view has the moment asked for as `now`]
    gen_random_uuid() @1: `gen_random_uuid` is not deterministic: training and serving would see different values [use a column of the row; a request view has the moment asked for as `now`]
    version() @1: there is no function `version`
    arrow_cast(a, 'Int8') @1: there is no function `arrow_cast`
    sum(a) @1: `sum` works on many rows; an expression sees one row [aggregate over time in a view's `aggregate:`]
    count(*) @1: `count` works on many rows; an expression sees one row [aggregate over time in a view's `aggregate:`]
    avg(x) > 1 @1: `avg` works on many rows; an expression sees one row [aggregate over time in a view's `aggregate:`]
    sum(a) OVER (PARTITION BY name) @1: `sum` works on many rows; an expression sees one row [aggregate over time in a view's `aggregate:`]
    row_number() OVER () @1: `row_number` works on many rows; an expression sees one row [aggregate over time in a view's `aggregate:`]
    (SELECT 1) @2: an expression sees one row and has no subquery
    a IN (SELECT 1) @7: an expression sees one row and has no subquery
    EXISTS (SELECT 1) @9: an expression sees one row and has no subquery
    a = $1 @5: `$1` is a placeholder, and nothing fills it
    a = ? @5: `?` is a placeholder, and nothing fills it
    * @1: this is no SQL expression: Expected: an expression, found: *
    a > @-: this is no SQL expression: Expected: an expression, found: EOF
    a > > 1 @5: this is no SQL expression: Expected: an expression, found: >
    a = 1; DROP TABLE x @6: this is no SQL expression: Expected: end of expression, found: ;
    a AS b @6: an expression has no `AS b`; its name is its key
    (a @-: this is no SQL expression: Expected: ), found: EOF
    a + name @-: Cannot coerce arithmetic expression int64 + string to valid types
    upper(name, name) @-: Function 'upper' expects 1 arguments but received 2
    upper() @-: 'upper' does not support zero arguments
    a AND ok @-: Cannot infer common argument type for logical boolean operation int64 AND bool
    NULL @-: the expression is always null and has no type [give it one, as in `CAST(NULL AS DOUBLE)`]
    until - at @-: the expression is a length of time, which no feature holds [take its seconds: `EXTRACT(EPOCH FROM (a - b))`]
    INTERVAL '1 day' @-: the expression is a length of time, which no feature holds [take its seconds: `EXTRACT(EPOCH FROM (a - b))`]
    ARRAY[1, 2] @-: lists can't be written in an expression [use `x IN (1, 2)`]
    @a @1: there are no variables such as `@a`
    'unclosed @1: this is no SQL expression: Unterminated string literal
    CAST(a AS FROB) @-: Unsupported SQL type FROB
    name > 1 AND missing = 2 @14: there is no column `missing` [the columns are a, b, i, x, f, name, Carrier, ok, at, until, day, price, tags, doc]
    "#);
}

#[test]
fn a_condition_must_be_a_bool() {
    let error = Expression::plan_predicate("a + 1", &schema()).unwrap_err();
    let hint = error.hint.unwrap();
    assert_snapshot!(format!("{} / {hint}", error.message), @"a condition is a bool, this is int64 / compare it with something, as in `x > 0` or `x IS NOT NULL`");
    assert!(Expression::plan_predicate("ok", &schema()).is_ok());
    assert!(Expression::plan_predicate("", &schema()).is_err());
}

#[test]
fn a_plain_column_passes_through_without_a_copy() {
    let batch = batch_of(&columns());
    for name in ["x", "\"Carrier\"", "Carrier"] {
        let planned = Expression::plan(name, &schema()).unwrap();
        let column = batch.column_by_name(name.trim_matches('"')).unwrap();
        assert!(Arc::ptr_eq(&planned.evaluate(&batch), column));
    }
    // Its NaN too; but whatever is computed from it sees null.
    let x = Expression::plan("x", &schema()).unwrap().evaluate(&batch);
    assert_eq!(x.null_count(), 0);
    let minus = Expression::plan("-x", &schema()).unwrap().evaluate(&batch);
    assert_eq!(minus.null_count(), 1);
}

#[test]
fn the_columns_read_are_named_once_each() {
    let planned =
        Expression::plan("a + b > a AND \"Carrier\" = 'UA' AND Carrier <> name", &schema()).unwrap();
    assert_eq!(planned.columns(), ["a", "b", "Carrier", "name"]);
    assert!(Expression::plan("1 + 1", &schema()).unwrap().columns().is_empty());
}

/// Expressions with every way to fail, to short-circuit and to be null.
const EXPRESSIONS: [&str; 24] = [
    "a / b",
    "a % b",
    "a + b",
    "a * b - a",
    "-a",
    "b <> 0 AND a / b > 1",
    "b = 0 OR a / b > 1",
    "a / b > 1 AND b <> 0",
    "ok AND a / b > 0",
    "ok OR a / b > 0",
    "CASE WHEN b <> 0 THEN a / b ELSE a END",
    "CASE WHEN ok THEN a / b WHEN a > 0 THEN a + b END",
    "coalesce(b, a / b)",
    "coalesce(a / b, 0)",
    "CAST(name AS BIGINT)",
    "CAST(name AS BIGINT) + a",
    "CAST(a AS INT)",
    "x / y > 1 OR CAST(name AS INT) = 3",
    "sqrt(x) > y",
    "x > y AND a / b = 0",
    "upper(name) || substr(name, 2, 3)",
    "regexp_replace(name, '[0-9]', 'n')",
    "CASE name WHEN '1' THEN a / b WHEN 'm1' THEN 5 END",
    "a BETWEEN b AND 10 / b",
];

fn random_schema() -> Vec<(String, ValueType)> {
    [("a", "int64"), ("b", "int64"), ("x", "float64"), ("y", "float64"), ("name", "string"), ("ok", "bool")]
        .map(|(name, text)| (name.to_owned(), text.parse().unwrap()))
        .into()
}

fn row() -> impl Strategy<Value = Vec<Value>> {
    let int = prop_oneof![
        3 => (-3i64..4).prop_map(Value::Int64),
        1 => prop_oneof![Just(i64::MAX), Just(i64::MIN), Just(i64::from(i32::MAX) + 1)].prop_map(Value::Int64),
        1 => Just(Value::Null),
    ];
    let float = prop_oneof![
        3 => (-2.0f64..3.0).prop_map(Value::Float64),
        2 => prop_oneof![Just(0.0), Just(-0.0), Just(f64::NAN), Just(f64::INFINITY)].prop_map(Value::Float64),
        1 => Just(Value::Null),
    ];
    let name = prop_oneof![
        prop_oneof![Just("1"), Just("3"), Just("m1"), Just(""), Just("99999999999"), Just("Ünï")]
            .prop_map(Value::string),
        Just(Value::Null),
    ];
    let ok = prop_oneof![Just(Value::Bool(true)), Just(Value::Bool(false)), Just(Value::Null)];
    (int.clone(), int, float.clone(), float, name, ok)
        .prop_map(|(a, b, x, y, name, ok)| vec![a, b, x, y, name, ok])
}

proptest! {
    #[test]
    fn a_rows_value_does_not_depend_on_its_batch(rows in prop::collection::vec(row(), 1..40)) {
        let schema = random_schema();
        let columns: Vec<_> = schema.iter().enumerate().map(|(at, (name, value_type))| {
            (name.clone(), value_type.clone(), rows.iter().map(|row| row[at].clone()).collect())
        }).collect();
        let batch = batch_of(&columns);
        for sql in EXPRESSIONS {
            let planned = Expression::plan(sql, &schema).unwrap();
            let together = planned.evaluate(&batch);
            for (row, values) in rows.iter().enumerate() {
                let alone = planned.evaluate(&batch.slice(row, 1));
                let (one, other) = (value_at(&together, row, planned.value_type()), value_at(&alone, 0, planned.value_type()));
                prop_assert_eq!(one, other, "{} over {:?}", sql, values);
            }
        }
    }
}
