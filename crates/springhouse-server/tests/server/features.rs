use crate::support::{HARD_ROW, NOON, Server};
use arrow::ipc::reader::StreamReader;
use insta::assert_snapshot;
use springhouse_api::FeaturesBody;

#[tokio::test]
async fn every_type_comes_back_exactly() {
    let server = Server::start().await;
    server.push("events", HARD_ROW).await;
    server.clock.set(NOON + 1_000_000);
    let ask = r#"{"service":"everything","entities":{"user":[9007199254740993]}}"#;
    assert_snapshot!(server.features(ask).await.line(), @r#"200 {"at":"2013-01-01T12:00:01.000000Z","level":"healthy","definition":"HASH","row_count":1,"features":{"amount":{"type":"float64","values":[0.30000000000000004],"status":["fresh"],"age_s":[30.999999]},"number":{"type":"int64","values":[-9223372036854775808],"status":["fresh"],"age_s":[30.999999]},"single":{"type":"float32","values":[0.1],"status":["fresh"],"age_s":[30.999999]},"raw":{"type":"bytes","values":["AP8HCQ=="],"status":["fresh"],"age_s":[30.999999]},"seen":{"type":"timestamp","values":["1969-12-31T23:59:59.999999Z"],"status":["fresh"],"age_s":[30.999999]},"born":{"type":"date","values":["1900-02-28"],"status":["fresh"],"age_s":[30.999999]},"price":{"type":"decimal(20,4)","values":["-1234567890123456.0001"],"status":["fresh"],"age_s":[30.999999]},"tags":{"type":"list<string>","values":[["a\"b",null,""]],"status":["fresh"],"age_s":[30.999999]},"embedding":{"type":"vector<2>","values":[[1.5,-0.0]],"status":["fresh"],"age_s":[30.999999]},"document":{"type":"json","values":[{"deep":[1,{"x":null}]}],"status":["fresh"],"age_s":[30.999999]},"flag":{"type":"bool","values":[false],"status":["fresh"],"age_s":[30.999999]},"nickname":{"type":"string","values":["é\n"],"status":["fresh"],"age_s":[30.999999]},"events_1h":{"type":"int64","values":[1],"status":["fresh"],"age_s":[0]},"events_lifetime":{"type":"int64","values":[1],"status":["fresh"],"age_s":[0]},"total_1h":{"type":"float64","values":[0.30000000000000004],"status":["fresh"],"age_s":[0]},"kinds_1h":{"type":"map<string,int64>","values":[[["é\n",1]]],"status":["fresh"],"age_s":[0]}}}"#);
    let rows = r#"{"service":"everything","entities":[{"user":9007199254740993}],"format":"rows","metadata":false,"int64":"string"}"#;
    assert_snapshot!(server.features(rows).await.line(), @r#"200 {"at":"2013-01-01T12:00:01.000000Z","level":"healthy","definition":"HASH","row_count":1,"rows":[{"values":{"amount":0.30000000000000004,"number":"-9223372036854775808","single":0.1,"raw":"AP8HCQ==","seen":"1969-12-31T23:59:59.999999Z","born":"1900-02-28","price":"-1234567890123456.0001","tags":["a\"b",null,""],"embedding":[1.5,-0.0],"document":{"deep":[1,{"x":null}]},"flag":false,"nickname":"é\n","events_1h":"1","events_lifetime":"1","total_1h":0.30000000000000004,"kinds_1h":[["é\n","1"]]}}]}"#);
    // A neighbour that a float could not tell apart is somebody else.
    let neighbour = r#"{"features":["activity:events_lifetime"],"entities":{"user":["9007199254740992"]},"metadata":false}"#;
    assert_snapshot!(server.features(neighbour).await.line(), @r#"200 {"at":"2013-01-01T12:00:01.000000Z","level":"healthy","definition":"HASH","row_count":1,"features":{"events_lifetime":{"values":[0]}}}"#);
}

#[tokio::test]
async fn values_that_are_no_numbers_have_words() {
    let server = Server::start().await;
    let reply = server
        .push(
            "events",
            r#"[{"at":"2013-01-01T11:59:00Z","user":1,"amount":"NaN"},{"at":"2013-01-01T11:59:00Z","user":2,"amount":"-Infinity"}]"#,
        )
        .await;
    assert_eq!(reply.json()["accepted"], 2);
    server.clock.set(NOON + 1);
    let ask = r#"{"features":["profile:amount"],"entities":{"user":[1,2,3]},"metadata":false}"#;
    assert_snapshot!(server.features(ask).await.line(), @r#"200 {"at":"2013-01-01T12:00:00.000001Z","level":"healthy","definition":"HASH","row_count":3,"features":{"amount":{"values":[null,"-Infinity",null]}}}"#);
}

#[tokio::test]
async fn columns_and_rows_answer_the_same_questions() {
    let server = Server::start().await;
    server
        .push("visits", r#"[{"at":"2013-01-01T11:00:00Z","city":"Köln","since":"2000-01-01","score":7}]"#)
        .await;
    server.clock.set(NOON + 1);
    let columns = server
        .features(r#"{"features":["place_score"],"entities":{"city":["Köln","Köln"],"since":["2000-01-01","2000-01-02"]},"full":true}"#)
        .await;
    let rows = server
        .features(r#"{"features":["place_score:score"],"entities":[{"since":"2000-01-01","city":"Köln"},{"city":"Köln","since":"2000-01-02"}],"full":true}"#)
        .await;
    assert_eq!(columns.line(), rows.line());
    assert_snapshot!(columns.line(), @r#"200 {"at":"2013-01-01T12:00:00.000001Z","level":"stale","definition":"HASH","row_count":2,"features":{"score":{"type":"int32","values":[7,null],"status":["stale","missing"],"age_s":[3600.000001,null],"event_time":["2013-01-01T11:00:00.000000Z",null],"origin":["store","default"]}},"positions":[{"view":"place_score@1","cut":1}]}"#);
    let body: FeaturesBody = serde_json::from_str(&columns.text).unwrap();
    assert_eq!(body.row_count, 2);
    assert_eq!(body.features.unwrap()["score"].values[0].get(), "7");
}

#[tokio::test]
async fn request_fields_are_computed_with() {
    let server = Server::start().await;
    server.push("events", r#"[{"at":"2013-01-01T11:59:00Z","user":1,"amount":10.5}]"#).await;
    server.clock.set(NOON + 1);
    let ask = r#"{"service":"decision","entities":{"user":[1,1]},"request":{"limit":[10.5,10.4]}}"#;
    assert_snapshot!(server.features(ask).await.line(), @r#"200 {"at":"2013-01-01T12:00:00.000001Z","level":"healthy","definition":"HASH","row_count":2,"features":{"total_1h":{"type":"float64","values":[10.5,10.5],"status":["fresh","fresh"],"age_s":[0,0]},"over":{"type":"bool","values":[false,true],"status":["fresh","fresh"],"age_s":[0,0]}}}"#);
}

#[tokio::test]
async fn ages_and_levels_follow_the_clock() {
    let server = Server::start().await;
    server.push("events", r#"[{"at":"2013-01-01T11:59:00Z","user":1,"amount":1}]"#).await;
    let ask = r#"{"features":["profile:amount"],"entities":{"user":[1]}}"#;
    server.clock.set(NOON + 1);
    assert_snapshot!(server.features(ask).await.line(), @r#"200 {"at":"2013-01-01T12:00:00.000001Z","level":"healthy","definition":"HASH","row_count":1,"features":{"amount":{"type":"float64","values":[1.0],"status":["fresh"],"age_s":[60.000001]}}}"#);
    let stale_after = r#"{"features":["profile:amount"],"entities":{"user":[1]},"max_age":"30s"}"#;
    assert_eq!(server.features(stale_after).await.json()["level"], "stale");
    server.clock.set(NOON + 3_600_000_000);
    assert_snapshot!(server.features(ask).await.line(), @r#"200 {"at":"2013-01-01T13:00:00.000000Z","level":"stale","definition":"HASH","row_count":1,"features":{"amount":{"type":"float64","values":[1.0],"status":["stale"],"age_s":[3660]}}}"#);
    server.clock.set(NOON + 31 * 86_400_000_000);
    assert_snapshot!(server.features(ask).await.line(), @r#"200 {"at":"2013-02-01T12:00:00.000000Z","level":"critical","definition":"HASH","row_count":1,"features":{"amount":{"type":"float64","values":[null],"status":["expired"],"age_s":[2678460]}}}"#);
}

#[tokio::test]
async fn an_explanation_shows_what_is_inside_a_number() {
    let server = Server::start().await;
    server
        .push(
            "events",
            r#"[{"at":"2013-01-01T11:59:00Z","user":1,"amount":1.5,"kind":"a"},{"at":"2013-01-01T11:59:10Z","user":1,"amount":2}]"#,
        )
        .await;
    server.clock.set(NOON + 1);
    let reply = server.get("/v1/explain?view=activity&key.user=1").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let body: springhouse_api::ExplainBody = serde_json::from_str(&reply.text).unwrap();
    assert_eq!((body.view.as_str(), body.key["user"].get()), ("activity@1", "1"));
    let total = body.features.iter().find(|feature| feature.name == "total_1h").unwrap();
    assert_eq!(total.value.get(), "3.5");
    assert!(!total.lines.is_empty(), "{}", reply.text);
    let nobody = server.get("/v1/explain?view=profile&key.user=77").await;
    assert_eq!(nobody.status, 200);
    assert!(nobody.text.contains("\"missing\""), "{}", nobody.text);
}

#[tokio::test]
async fn an_arrow_answer_says_what_json_says() {
    let server = Server::start().await;
    server.push("events", HARD_ROW).await;
    server.clock.set(NOON + 1_000_000);
    let ask = r#"{"service":"everything","entities":{"user":[9007199254740993,5]},"full":true}"#;
    let json = server.features(ask).await.json();
    let accept = ("accept", "text/html, application/vnd.apache.arrow.stream;q=0.9");
    let (headers, bytes) = server.send_bytes("POST", "/v1/features", &[accept], ask).await;
    assert_eq!(headers["content-type"], "application/vnd.apache.arrow.stream");
    let mut reader = StreamReader::try_new(bytes.as_ref(), None).unwrap();
    let schema = reader.schema();
    assert_eq!(schema.metadata()["springhouse.at"], json["at"].as_str().unwrap());
    assert_eq!(schema.metadata()["springhouse.level"], "healthy");
    let batch = reader.next().unwrap().unwrap();
    assert!(reader.next().is_none());
    let features = json["features"].as_object().unwrap();
    assert_eq!(batch.num_columns(), features.len() * 5);
    // Arrow's own writer of JSON is the other reader of the values.
    let mut lines = arrow::json::LineDelimitedWriter::new(Vec::new());
    lines.write(&batch).unwrap();
    lines.finish().unwrap();
    let rows: Vec<serde_json::Value> = lines
        .into_inner()
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(rows.len(), 2);
    for (name, column) in features {
        for (row, said) in rows.iter().enumerate() {
            let got = |what: &str| said.get(format!("{name}__{what}")).cloned().unwrap_or_default();
            assert_eq!(got("status"), column["status"][row], "{name}");
            assert_eq!(got("age_s").as_f64(), column["age_s"][row].as_f64(), "{name}");
            assert_eq!(got("origin"), column["origin"][row], "{name}");
            if matches!(column["type"].as_str().unwrap(), "float64" | "int64" | "string" | "bool") {
                assert_eq!(said.get(name).cloned().unwrap_or_default(), column["values"][row], "{name}");
            }
        }
    }
    // Only values, no rows.
    let ask = r#"{"service":"everything","entities":{"user":[]},"metadata":false}"#;
    let (_, bytes) = server.send_bytes("POST", "/v1/features", &[accept], ask).await;
    let batch = StreamReader::try_new(bytes.as_ref(), None).unwrap().next().unwrap().unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (0, features.len()));
    // A refusal is JSON all the same.
    let (headers, bytes) = server.send_bytes("POST", "/v1/features", &[accept], r#"{"service":"x"}"#).await;
    assert_eq!(headers["content-type"], "application/json");
    assert!(bytes.starts_with(b"{\"error\""));
}
