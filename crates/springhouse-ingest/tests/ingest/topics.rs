//! Messages of topics: each counts once through redeliveries, restarts and removed segments; each is known at its timestamp.

use crate::support::{Project, Random, START, click};
use springhouse_core::Micros;
use springhouse_core::time::SECOND;
use springhouse_ingest::{Message, Messages, OffsetRange};
use std::collections::BTreeMap;
use std::sync::Arc;

fn message(partition: i32, offset: i64, value: Option<String>, timestamp: Option<Micros>) -> Message {
    let value = value.map(|text| text.into_bytes().into());
    Message { partition, offset, timestamp, key: None, value, headers: Vec::new(), flaw: None }
}

fn messages(all: Vec<Message>) -> Messages {
    messages_from(&[], all)
}

/// The ranges begin at `starts`, by partition; else with the first message.
fn messages_from(starts: &[i64], all: Vec<Message>) -> Messages {
    let mut ranges: BTreeMap<i32, OffsetRange> = BTreeMap::new();
    for message in &all {
        let Message { partition, offset, .. } = *message;
        let from = starts.get(partition as usize).copied().unwrap_or(offset);
        let new = OffsetRange { partition, from, to: from, newest: Micros::MIN };
        let range = ranges.entry(partition).or_insert(new);
        range.to = offset + 1;
        range.newest = range.newest.max(message.timestamp.unwrap_or(Micros::MIN));
    }
    Messages {
        source: "clicks".to_owned(),
        topic: "t".to_owned(),
        ranges: ranges.into_values().collect(),
        messages: all,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_counts_once_whatever_is_given_again() {
    let mut removed_segments = 0;
    for seed in 1..=20 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut project = Project::new();
        project.settings.segment_bytes = 600;
        let mut ingest = project.open().await;
        let mut next = [0i64; 3];
        let mut expected = BTreeMap::from([("a", 0i64), ("b", 0)]);
        let mut last: Option<Messages> = None;
        for round in 0..40 {
            project.clock.advance(SECOND);
            match random.below(5) {
                0 => {
                    // A crash; or a clean stop, which brings everything to the lake and removes segments.
                    if random.below(2) == 0 {
                        ingest.shutdown().await.unwrap();
                    }
                    drop(ingest);
                    ingest = project.open().await;
                }
                1 if last.is_some() => {
                    let again = last.clone().unwrap();
                    let outcome = ingest.submit_messages(again.clone()).await.unwrap();
                    assert_eq!((outcome.accepted, outcome.refused), (0, 0), "seed {seed}, round {round}");
                    let mut beside = again.clone();
                    beside.ranges[0].to += 1;
                    let error = ingest.submit_messages(beside).await.unwrap_err();
                    assert_eq!(error.code, "invalid_request");
                }
                _ => {
                    let mut all = Vec::new();
                    let starts = next;
                    for _ in 0..=random.below(6) {
                        let partition = random.below(3) as i32;
                        let offset = next[partition as usize] + random.below(3) as i64;
                        next[partition as usize] = offset + 1;
                        let user = if random.below(2) == 0 { "a" } else { "b" };
                        let value = match random.below(6) {
                            0 => None,
                            1 => Some("{".to_owned()),
                            _ => {
                                *expected.get_mut(user).unwrap() += 1;
                                Some(click(None, user, START, 1.0))
                            }
                        };
                        all.push(message(partition, offset, value, Some(START)));
                    }
                    // In two batches, the second begun while the first is under way.
                    let later = all.split_off(random.below(all.len() as u64 + 1) as usize);
                    let mut between = starts;
                    for message in &all {
                        between[message.partition as usize] = message.offset + 1;
                    }
                    let batch = messages_from(&starts, all);
                    let first = ingest.begin_messages(Arc::new(batch.clone())).await.unwrap();
                    let later = messages_from(&between, later);
                    let second = ingest.begin_messages(Arc::new(later.clone())).await.unwrap();
                    second.await.unwrap();
                    first.await.unwrap();
                    last = Some(if later.ranges.is_empty() { batch } else { later });
                    // What skips messages is refused, and nothing of it is taken.
                    let skipping = message(0, next[0] + 1, Some(click(None, "a", START, 1.0)), Some(START));
                    if ingest.topic_positions("clicks", "t").contains_key(&0) {
                        let error = ingest.submit_messages(messages(vec![skipping])).await.unwrap_err();
                        assert_eq!(error.code, "invalid_request");
                    }
                }
            }
            for (user, count) in &expected {
                assert_eq!(
                    project.clicks(&ingest, user).await.0,
                    *count,
                    "seed {seed}, round {round}, {user}"
                );
            }
            for (partition, position) in ingest.topic_positions("clicks", "t") {
                assert_eq!(position.next, next[partition as usize], "seed {seed}, round {round}");
            }
        }
        ingest.shutdown().await.unwrap();
        removed_segments += usize::from(project.log().join("topic-positions.json").exists());
    }
    assert!(removed_segments > 0, "positions must have outlived their segments");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_known_at_its_timestamp_and_a_wrong_one_says_its_place() {
    let project = Project::new();
    let ingest = project.open().await;
    let stamp = START - 100 * SECOND;
    let batch = messages(vec![
        message(0, 3, Some(click(None, "a", stamp + 4 * SECOND, 1.0)), Some(stamp)),
        message(0, 4, Some(click(None, "a", stamp + 6 * SECOND, 1.0)), Some(stamp)),
        // Without a timestamp, or with one that is still to come, it is known when it is logged.
        message(0, 5, Some(click(None, "a", START, 1.0)), None),
        message(0, 6, Some(click(None, "a", START + 6 * SECOND, 1.0)), Some(START + 60 * SECOND)),
    ]);
    let outcome = ingest.submit_messages(batch).await.unwrap();
    assert_eq!((outcome.accepted, outcome.refused), (2, 2));
    let letters = ingest.dead_letters("clicks", 10).await.unwrap();
    let told: Vec<_> = letters.iter().map(|l| (&*l.code, l.reason.rsplit_once(" (").unwrap().1)).collect();
    assert_eq!(
        told,
        [
            ("event_time_in_future", "topic `t`, partition 0, offset 4)"),
            ("event_time_in_future", "topic `t`, partition 0, offset 6)"),
        ]
    );
    ingest.flush().await.unwrap();
    assert_eq!(project.clicks(&ingest, "a").await.0, 2);
    assert_eq!(ingest.topic_positions("clicks", "t")[&0].next, 7);
    assert_eq!(ingest.topic_positions("clicks", "other").len(), 0);
    ingest.shutdown().await.unwrap();
}
