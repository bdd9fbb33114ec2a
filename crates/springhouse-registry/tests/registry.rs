//! The chain: order, conflicts, damage.

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use springhouse_core::definition::{Definitions, Entity, Meta};
use springhouse_core::{Value, ValueType};
use springhouse_registry::{Registry, RegistryErrorKind, SnapshotMeta};
use std::sync::Arc;

fn definitions(entities: &[&str]) -> Definitions {
    let mut definitions = Definitions::default();
    for name in entities {
        let entity = Entity {
            name: (*name).to_owned(),
            keys: vec![("id".to_owned(), ValueType::Int64)],
            meta: Meta::default(),
        };
        definitions.entities.insert((*name).to_owned(), entity);
    }
    definitions
}

fn meta(by: &str) -> SnapshotMeta {
    SnapshotMeta { applied_at: 1_700_000_000_000_000, applied_by: by.to_owned(), message: "why".to_owned() }
}

#[tokio::test]
async fn snapshots_follow_each_other_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::local(&folder.path().join("not/yet/there")).unwrap();
    assert!(registry.head().await.unwrap().is_none());
    assert!(registry.list().await.unwrap().is_empty());
    assert!(!folder.path().join("not").exists(), "reading makes no folder");

    let first = registry.put(&definitions(&["a"]), None, meta("ann")).await.unwrap();
    let second = registry.put(&definitions(&["a", "b"]), Some(1), meta("bob")).await.unwrap();
    assert_eq!((first.number, second.number), (1, 2));
    assert_eq!(second.parent.as_deref(), Some(first.checksum.as_str()));
    assert_eq!(registry.head().await.unwrap().unwrap(), second);
    assert_eq!(registry.get(1).await.unwrap(), first);
    assert_eq!(registry.list().await.unwrap(), [first.clone(), second]);
    assert_eq!(first.definition_hash, definitions(&["a"]).content_hash());
}

#[tokio::test]
async fn of_writers_that_race_exactly_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let stores: [Registry; 2] =
        [Registry::local(folder.path()).unwrap(), Registry::open(Arc::new(InMemory::new()), "registry")];
    for registry in stores {
        for round in 0..20u64 {
            let parent = (round > 0).then_some(round);
            let tasks: Vec<_> = ["ann", "bob", "cyd", "dan"]
                .into_iter()
                .map(|who| {
                    let registry = registry.clone();
                    tokio::spawn(async move { registry.put(&definitions(&[who]), parent, meta(who)).await })
                })
                .collect();
            let mut winners = Vec::new();
            for task in tasks {
                match task.await.unwrap() {
                    Ok(snapshot) => winners.push(snapshot),
                    Err(error) => assert_eq!(error.kind(), RegistryErrorKind::Conflict, "{error}"),
                }
            }
            assert_eq!(winners.len(), 1);
            assert_eq!(registry.head().await.unwrap().unwrap(), winners[0]);
        }
        assert_eq!(registry.list().await.unwrap().len(), 20);
    }
}

#[tokio::test]
async fn a_plan_against_an_older_snapshot_is_a_conflict() {
    let registry = Registry::open(Arc::new(InMemory::new()), "");
    registry.put(&definitions(&["a"]), None, meta("ann")).await.unwrap();
    let error = registry.put(&definitions(&["b"]), None, meta("bob")).await.unwrap_err();
    insta::assert_snapshot!(error, @"snapshot 1 was applied in between by ann; this change was planned against an empty registry");
    insta::assert_snapshot!(error.hint().unwrap(), @"run `springhouse plan` again and look at what changed");
    let error = registry.put(&definitions(&["b"]), Some(7), meta("bob")).await.unwrap_err();
    insta::assert_snapshot!(error, @"snapshot 1 was applied in between by ann; this change was planned against snapshot 7");
    let empty = Registry::open(Arc::new(InMemory::new()), "");
    let error = empty.put(&definitions(&["b"]), Some(3), meta("bob")).await.unwrap_err();
    insta::assert_snapshot!(error, @"this change was planned against snapshot 3, but the registry is empty");
}

async fn three() -> (Arc<InMemory>, Registry) {
    let store = Arc::new(InMemory::new());
    let registry = Registry::open(store.clone(), "registry");
    for number in 1..=3u64 {
        let parent = (number > 1).then_some(number - 1);
        let put = registry.put(&definitions(&[&format!("e{number}")]), parent, meta("ann")).await;
        put.expect("nobody else applies");
    }
    (store, registry)
}

#[tokio::test]
async fn a_missing_snapshot_is_told_apart_from_one_that_never_was() {
    let (store, registry) = three().await;
    let error = registry.get(4).await.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::NotFound);
    insta::assert_snapshot!(error, @"there is no snapshot 4: the newest is 3");
    store.delete(&"registry/00000002.json".into()).await.unwrap();
    for error in [registry.get(2).await.unwrap_err(), registry.list().await.unwrap_err()] {
        assert_eq!(error.kind(), RegistryErrorKind::Damaged);
        let text = "the registry snapshot `registry/00000002.json` is damaged: it is missing, though snapshot 3 is there";
        assert_eq!(error.to_string(), text);
    }
    // The head is whole, so a node can still open and serve.
    assert_eq!(registry.head().await.unwrap().unwrap().number, 3);
}

#[tokio::test]
async fn every_flipped_byte_of_a_snapshot_is_noticed() {
    let (store, registry) = three().await;
    let path = "registry/00000003.json".into();
    let good = store.get(&path).await.unwrap().bytes().await.unwrap();
    let whole = registry.head().await.unwrap().unwrap();
    for at in 0..good.len() - 1 {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        store.put(&path, bad.into()).await.unwrap();
        match registry.head().await {
            Err(error) => assert_eq!(error.kind(), RegistryErrorKind::Damaged, "byte {at}: {error}"),
            // The format's own digit is outside of the checksum, and 0 is a format that can be read.
            Ok(read) => assert_eq!(read, Some(whole.clone()), "byte {at}"),
        }
    }
    store.put(&path, good.slice(..good.len() / 2).into()).await.unwrap();
    assert_eq!(registry.head().await.unwrap_err().kind(), RegistryErrorKind::Damaged);
    store.put(&path, good.into()).await.unwrap();
    assert!(registry.head().await.is_ok());
}

#[tokio::test]
async fn a_snapshot_of_another_chain_does_not_follow() {
    let (store, registry) = three().await;
    let other = Registry::open(Arc::new(InMemory::new()), "registry");
    other.put(&definitions(&["x"]), None, meta("eve")).await.unwrap();
    let bytes = {
        let chain = Arc::new(InMemory::new());
        let other = Registry::open(chain.clone(), "registry");
        other.put(&definitions(&["x"]), None, meta("eve")).await.unwrap();
        other.put(&definitions(&["y"]), Some(1), meta("eve")).await.unwrap();
        chain.get(&"registry/00000002.json".into()).await.unwrap().bytes().await.unwrap()
    };
    store.put(&"registry/00000002.json".into(), bytes.into()).await.unwrap();
    let error = registry.list().await.unwrap_err();
    insta::assert_snapshot!(error, @"the registry snapshot `registry/00000002.json` is damaged: it does not follow from snapshot 1");
}

#[tokio::test]
async fn every_kind_of_value_survives_the_file() {
    use springhouse_core::definition::{DefaultValue, RequestFeature, RequestView};
    let values = [
        Value::Null,
        Value::Int64(i64::MIN),
        Value::Float64(0.1),
        Value::Float64(-0.0),
        Value::Float32(1e-40),
        Value::string("ключ \" \\ \n"),
        Value::Bytes([0u8, 255].as_slice().into()),
        Value::Timestamp(-1),
        Value::Date(-1),
        Value::Decimal(-99_999_999_999_999_999_999_999_999_999_999_999_999, 38),
        Value::List([Value::Int32(1), Value::Null].as_slice().into()),
        Value::Vector([0.5f32].as_slice().into()),
    ];
    let features = values
        .into_iter()
        .enumerate()
        .map(|(at, value)| RequestFeature {
            name: format!("f{at}"),
            sql: "1".to_owned(),
            value_type: ValueType::Json,
            default: DefaultValue::Constant(value),
            meta: Meta::default(),
        })
        .collect();
    let view = RequestView {
        name: "v".to_owned(),
        version: 1,
        fields: vec![],
        inputs: vec![],
        features,
        meta: Meta::default(),
    };
    let mut all = Definitions::default();
    all.request_views.insert("v".to_owned(), view);
    let registry = Registry::open(Arc::new(InMemory::new()), "");
    registry.put(&all, None, SnapshotMeta::default()).await.unwrap();
    let read = registry.head().await.unwrap().unwrap();
    assert_eq!(read.definitions, all);
    assert_eq!(read.definitions.content_hash(), read.definition_hash);
}
