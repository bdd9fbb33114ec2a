use super::*;
use std::collections::BTreeMap;

const WINDOW: Micros = 100;

/// The naive twin: everything ever seen, with its moment and number.
#[derive(Default)]
struct Model {
    seen: BTreeMap<u128, (Micros, usize)>,
    count: usize,
}

#[test]
fn an_identity_is_remembered_for_the_window_and_the_newest_so_many() {
    let seed = std::process::id() as u64;
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    let keys_max = 40;
    let mut dedup = Dedup::new(WINDOW, keys_max);
    let mut model = Model::default();
    let mut now = 0;
    for _ in 0..20_000 {
        now += random(4) as Micros;
        let id = u128::from(random(200)) + 1;
        dedup.expire(now);
        let is_known = model
            .seen
            .get(&id)
            .is_some_and(|(at, number)| *at >= now - WINDOW && model.count - number <= keys_max);
        assert_eq!(dedup.contains(id), is_known);
        assert_eq!(dedup.insert(id, now), !is_known);
        if !is_known {
            model.seen.insert(id, (now, model.count));
            model.count += 1;
        }
        assert!(dedup.pushed.set.len() <= keys_max && dedup.pushed.set.len() == dedup.pushed.order.len());
    }
}

fn record(base: i64, at: Micros, ids: &[u128], batch_key: Option<u128>) -> Record {
    Record {
        source: "s".to_owned(),
        base,
        accepted: ids.len() as u32,
        known_at: at,
        batch_key,
        duplicates: vec![7],
        ids: Some(ids.to_vec()),
        refused: vec![crate::log::RefusedRow {
            row: 3,
            code: "wrong_type",
            reason: "why".to_owned(),
            text: "{}".to_owned(),
        }],
        ..Record::default()
    }
}

#[test]
fn the_ids_of_deleted_segments_come_back_until_they_are_too_old() {
    let directory = tempfile::tempdir().unwrap();
    let mut all = Dedup::new(WINDOW, 1000);
    for (first, at) in [(0, 10), (10, 20), (20, 30)] {
        let record = record(first, at, &[0, 1 + first as u128, 2 + first as u128], Some(first as u128));
        all.replay(&record);
        let mut ids = SegmentIds::default();
        ids.add(&record);
        Dedup::keep_segment(directory.path(), first, &ids).unwrap();
    }
    let salt = source_salt("s");
    let mut loaded = Dedup::new(WINDOW, 1000);
    // The last segment is still in the log: its file does not count.
    loaded.load(directory.path(), 20).unwrap();
    for id in [1, 2, 11, 12] {
        assert!(loaded.contains(id ^ salt));
    }
    assert!(!loaded.contains(21 ^ salt) && !loaded.contains(salt));
    assert_eq!(loaded.batch(10), all.batch(10));
    assert_eq!(loaded.batch(10).unwrap().exceptions.len(), 2);
    assert_eq!(loaded.batch(20), None);
    // At 115 what is older than 15 is forgotten: the first file.
    drop_old_files(&Mutex::new(loaded), directory.path(), 115).unwrap();
    let mut later = Dedup::new(WINDOW, 1000);
    later.load(directory.path(), i64::MAX).unwrap();
    assert!(!later.contains(1 ^ salt) && later.contains(11 ^ salt) && later.contains(21 ^ salt));
    assert_eq!(later.batch(0), None);
}

#[test]
fn a_damaged_ids_file_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut ids = SegmentIds::default();
    ids.add(&record(0, 1, &[1, 2], None));
    Dedup::keep_segment(directory.path(), 0, &ids).unwrap();
    let path = directory.path().join("00000000000000000000.ids");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 2;
        std::fs::write(&path, bytes).unwrap();
        let result = Dedup::new(WINDOW, 10).load(directory.path(), i64::MAX);
        assert!(matches!(result, Err(LogError::Corrupt { path: named, .. }) if named == path), "{at}");
    }
}

#[test]
fn the_ids_of_history_survive_and_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let dedup = Mutex::new(Dedup::new(WINDOW, 50));
    for call in 0..100u128 {
        remember_history(&dedup, directory.path(), &[call * 2 + 1, call * 2 + 2], 10).unwrap();
    }
    let files = std::fs::read_dir(directory.path()).unwrap().count();
    assert!(files <= 33, "{files} files");
    let mut loaded = Dedup::new(WINDOW, 50);
    loaded.load(directory.path(), 0).unwrap();
    for id in 151..=200 {
        assert!(loaded.contains(id) && !loaded.insert(id, 20), "{id}");
    }
    assert!(!loaded.contains(150));
    loaded.expire(10 + WINDOW + 1);
    assert!(!loaded.contains(200));
    drop_old_files(&Mutex::new(loaded), directory.path(), 10 + WINDOW + 1).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn outcomes_of_batch_keys_are_bounded_in_bytes() {
    let mut dedup = Dedup::new(WINDOW, 10);
    let refused = RowOutcome::Refused { code: "wrong_type", reason: "x".repeat(1 << 20) };
    let outcome = PushOutcome {
        accepted: 0,
        duplicates: 0,
        refused: 1,
        exceptions: vec![(0, refused)],
        end_offset: 1,
        known_at: 1,
    };
    for key in 0..100 {
        dedup.insert_batch(key, 1, outcome.clone());
    }
    assert!(dedup.batch(99).is_some() && dedup.batch(0).is_none());
    assert!(dedup.batches.bytes <= OUTCOME_BYTES_MAX);
}
