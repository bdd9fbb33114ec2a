use super::*;
use crate::features::{FeaturesBody, Int64Format};
use crate::test_answer::{Column, answer_of};
use springhouse_core::{Value, ValueType};

fn column(name: &str, value_type: ValueType, values: Vec<Value>) -> Column {
    let rows = values.len();
    Column {
        name: name.into(),
        value_type,
        statuses: (0..rows)
            .map(|row| if row % 2 == 0 { ValueStatus::Fresh } else { ValueStatus::Missing })
            .collect(),
        ages: (0..rows).map(|row| if row % 2 == 0 { Some(1_500_000 + row as i64) } else { None }).collect(),
        event_times: (0..rows).map(|row| if row % 2 == 0 { Some(7) } else { None }).collect(),
        origins: (0..rows).map(|row| if row % 2 == 0 { Origin::Store } else { Origin::Default }).collect(),
        values,
    }
}

fn answer() -> FeatureAnswer {
    let columns = vec![
        column("mean_1h", ValueType::Float64, vec![Value::Float64(2.5), Value::Null]),
        column("v:\"q\"", ValueType::Int64, vec![Value::Int64(i64::MAX), Value::Int64(0)]),
    ];
    FeatureAnswer {
        at: 1_357_016_400_000_000,
        level: DegradationLevel::Stale,
        cuts: vec![Some(41), None],
        ..answer_of(2, columns)
    }
}

fn written(options: &AnswerOptions) -> String {
    let mut out = Vec::new();
    write_features(&mut out, &answer(), options);
    String::from_utf8(out).unwrap()
}

#[test]
fn columns_with_and_without_metadata() {
    insta::assert_snapshot!(written(&AnswerOptions::default()), @r#"{"at":"2013-01-01T05:00:00.000000Z","level":"stale","definition":"abc","row_count":2,"features":{"mean_1h":{"type":"float64","values":[2.5,null],"status":["fresh","missing"],"age_s":[1.5,null]},"v:\"q\"":{"type":"int64","values":[9223372036854775807,0],"status":["fresh","missing"],"age_s":[1.5,null]}}}"#);
    insta::assert_snapshot!(written(&AnswerOptions { metadata: false, ..AnswerOptions::default() }), @r#"{"at":"2013-01-01T05:00:00.000000Z","level":"stale","definition":"abc","row_count":2,"features":{"mean_1h":{"values":[2.5,null]},"v:\"q\"":{"values":[9223372036854775807,0]}}}"#);
    insta::assert_snapshot!(written(&AnswerOptions { full: true, int64: Int64Format::String, ..AnswerOptions::default() }), @r#"{"at":"2013-01-01T05:00:00.000000Z","level":"stale","definition":"abc","row_count":2,"features":{"mean_1h":{"type":"float64","values":[2.5,null],"status":["fresh","missing"],"age_s":[1.5,null],"event_time":["1970-01-01T00:00:00.000007Z",null],"origin":["store","default"]},"v:\"q\"":{"type":"int64","values":["9223372036854775807","0"],"status":["fresh","missing"],"age_s":[1.5,null],"event_time":["1970-01-01T00:00:00.000007Z",null],"origin":["store","default"]}},"positions":[{"view":"view@1","cut":41}]}"#);
}

/// A column is written as if it were the only one, whatever it shares with the one before.
#[test]
fn what_columns_have_in_common_changes_nothing() {
    let base = || column("f", ValueType::Float64, vec![Value::Float64(2.5), Value::Null]);
    let changes: [fn(&mut Column); 5] = [
        |_| {},
        |column| column.statuses[0] = ValueStatus::Stale,
        |column| column.ages[0] = Some(8_000_001),
        |column| column.event_times[1] = Some(9),
        |column| column.origins[1] = Origin::HotCache,
    ];
    for (metadata, full) in [(true, false), (false, false), (true, true), (false, true)] {
        let options = AnswerOptions { metadata, full, ..AnswerOptions::default() };
        let of = |columns: Vec<Column>| {
            let mut out = Vec::new();
            write_columns(&mut out, &answer_of(2, columns), &options);
            String::from_utf8(out).unwrap()
        };
        for first in changes {
            for second in changes {
                let columns = [first, second, first].map(|change| {
                    let mut column = base();
                    change(&mut column);
                    column
                });
                let alone = columns.clone().map(|column| of(vec![column]));
                // Each has the brackets of all around it.
                let head = ",\"features\":{".len();
                let alone = alone.each_ref().map(|text| &text[head..text.len() - 1]).join(",");
                assert_eq!(of(columns.to_vec()), format!(",\"features\":{{{alone}}}"), "{options:?}");
            }
        }
    }
}

#[test]
fn rows_hold_the_same_values() {
    insta::assert_snapshot!(written(&AnswerOptions { format: AnswerFormat::Rows, ..AnswerOptions::default() }), @r#"{"at":"2013-01-01T05:00:00.000000Z","level":"stale","definition":"abc","row_count":2,"types":{"mean_1h":"float64","v:\"q\"":"int64"},"rows":[{"values":{"mean_1h":2.5,"v:\"q\"":9223372036854775807},"status":{"mean_1h":"fresh","v:\"q\"":"fresh"},"age_s":{"mean_1h":1.5,"v:\"q\"":1.5}},{"values":{"mean_1h":null,"v:\"q\"":0},"status":{"mean_1h":"missing","v:\"q\"":"missing"},"age_s":{"mean_1h":null,"v:\"q\"":null}}]}"#);
}

/// What is written by hand is exactly what the documented types say, in every combination of options.
#[test]
fn every_shape_reads_as_the_documented_types() {
    for format in [AnswerFormat::Columns, AnswerFormat::Rows] {
        for (metadata, full) in [(true, false), (false, false), (true, true), (false, true)] {
            let options = AnswerOptions { format, metadata, full, ..AnswerOptions::default() };
            let text = written(&options);
            let body: FeaturesBody = serde_json::from_str(&text).unwrap();
            assert_eq!(body.row_count, 2);
            assert_eq!(body.positions.is_some(), full);
            assert_eq!(body.features.is_some(), format == AnswerFormat::Columns);
            for column in body.features.unwrap_or_default().into_values() {
                assert_eq!((column.status.is_some(), column.origin.is_some()), (metadata, full));
                assert_eq!(column.values.len(), 2);
            }
            for row in body.rows.unwrap_or_default() {
                assert_eq!((row.status.is_some(), row.origin.is_some()), (metadata, full));
            }
        }
    }
}

#[test]
fn seconds_are_exact() {
    for (micros, text) in [
        (Some(0), "0"),
        (Some(1), "0.000001"),
        (Some(-1_500_000), "-1.5"),
        (Some(1_000_010), "1.00001"),
        (Some(i64::MAX), "9223372036854.775807"),
        (None, "null"),
    ] {
        let mut out = Vec::new();
        write_seconds(&mut out, micros);
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}

#[test]
fn words_are_the_serde_names() {
    use ValueStatus::*;
    for status in [Fresh, Stale, Expired, Missing, Null, Overflow, OverCap, Unavailable, Denied] {
        assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{}\"", status_name(status)));
    }
}
