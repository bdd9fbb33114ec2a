use super::*;
use crate::topics::{OffsetRange, Origin};
use std::path::Path;

const BIG: u64 = 1 << 30;

fn batch(base: i64, rows: u32, known_at: Micros) -> Record {
    Record {
        source: "s".to_owned(),
        base,
        accepted: rows,
        known_at,
        ids: Some((0..rows).map(|row| 1 + base as u128 + u128::from(row)).collect()),
        rows: bytes::Bytes::from(vec![base as u8; 3 * rows as usize]),
        ..Record::default()
    }
}

fn full(base: i64) -> Record {
    Record {
        batch_key: Some(9),
        duplicates: vec![1, 4],
        row_known_at: Some(vec![5, 6]),
        refused: vec![RefusedRow {
            row: 2,
            code: "wrong_type",
            reason: "why".to_owned(),
            text: "{\"ключ\": 1}".to_owned(),
        }],
        origin: Some(Origin {
            topic: "t".to_owned(),
            ranges: vec![
                OffsetRange { partition: 0, from: 5, to: 9, newest: Micros::MIN },
                OffsetRange { partition: 7, from: 0, to: 0, newest: 8 },
            ],
        }),
        ..batch(base, 2, 10)
    }
}

fn open(directory: &Path, segment_bytes: u64) -> Result<(Opened, Vec<Record>), LogError> {
    let mut records = Vec::new();
    let opened = Log::open(directory, 0, segment_bytes, |record| records.push(record.clone()))?;
    // Where a record stood is no part of what was written.
    records.iter_mut().for_each(|record| record.group_start = 0);
    Ok((opened, records))
}

/// Three groups: one record, two records, one record. Returns the records and the byte after each group.
fn three_groups(directory: &Path) -> (Vec<Record>, Vec<u64>) {
    let (mut opened, found) = open(directory, BIG).unwrap();
    assert!(found.is_empty());
    let records = vec![batch(0, 3, 10), full(3), batch(6, 1, 12), batch(7, 2, 12)];
    let mut ends = vec![opened.writer.position];
    for group in [&records[..1], &records[1..3], &records[3..]] {
        group.iter().for_each(|record| opened.writer.add(record).unwrap());
        opened.writer.commit().unwrap();
        ends.push(opened.writer.position);
    }
    (records, ends)
}

fn file(directory: &Path) -> std::path::PathBuf {
    directory.join(segment::file_name(0))
}

#[test]
fn records_come_back_as_they_were_written() {
    let directory = tempfile::tempdir().unwrap();
    let (records, _) = three_groups(directory.path());
    let (opened, found) = open(directory.path(), BIG).unwrap();
    assert_eq!(found, records);
    assert_eq!((opened.log.first(), opened.log.end(), opened.last_known_at), (0, 9, 12));
    let mut reader = LogReader::new(opened.log.clone(), 4);
    let read = reader.read(7, usize::MAX).unwrap();
    assert_eq!(read.iter().map(|r| r.base).collect::<Vec<_>>(), [3, 6]);
    assert_eq!(reader.read(100, 1).unwrap()[0].base, 7);
    assert!(reader.read(100, 1).unwrap().is_empty());
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_off_and_the_log_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (records, ends) = three_groups(directory.path());
    let whole = std::fs::read(file(directory.path())).unwrap();
    for length in 0..whole.len() {
        // Nothing, zeros or ones behind the tear, by turns.
        {
            let filler = [&[][..], &[0; 40][..], &[0xff; 40][..]][length % 3];
            let torn = tempfile::tempdir().unwrap();
            std::fs::write(file(torn.path()), [&whole[..length], filler].concat()).unwrap();
            let opened = open(torn.path(), BIG);
            let header_is_torn = length < segment::HEADER_BYTES as usize;
            if header_is_torn && !filler.is_empty() && length + filler.len() > segment::HEADER_BYTES as usize
            {
                // More than a header, and not a header: no interrupted creation.
                assert!(matches!(opened, Err(LogError::Corrupt { byte: 0, .. })), "{length}");
                continue;
            }
            let (mut opened, found) = opened.unwrap();
            let durable = ends.iter().filter(|end| **end <= length as u64).count();
            // At least all whole groups; a whole record of a torn group may be there too.
            let least = [0, 0, 1, 3, 4][durable];
            assert!(found.len() >= least && found.len() <= least + 1, "{length}: {}", found.len());
            assert_eq!(found, records[..found.len()], "{length}");
            let next = batch(opened.log.end(), 1, 20);
            opened.writer.add(&next).unwrap();
            opened.writer.commit().unwrap();
            drop(opened);
            let (_, again) = open(torn.path(), BIG).unwrap();
            assert_eq!(again[..], [&found[..], &[next][..]].concat(), "{length}");
        }
    }
}

#[test]
fn a_changed_byte_before_a_later_group_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let (_, ends) = three_groups(directory.path());
    let whole = std::fs::read(file(directory.path())).unwrap();
    for at in 0..whole.len() {
        let damaged = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        std::fs::write(file(damaged.path()), &bytes).unwrap();
        let result = open(damaged.path(), BIG);
        // The last group has nobody who vouches for it.
        if (at as u64) < ends[2] {
            let Err(LogError::Corrupt { path, byte, .. }) = result else {
                panic!("byte {at} was not noticed")
            };
            assert_eq!(path, file(damaged.path()));
            assert!(byte <= at as u64, "{at} {byte}");
            // Nothing was cut off.
            assert_eq!(std::fs::read(path).unwrap(), bytes);
        } else {
            assert_eq!(result.unwrap().1.len(), 3, "byte {at}");
        }
    }
}

#[test]
fn a_clean_stop_vouches_for_the_last_group_too() {
    let directory = tempfile::tempdir().unwrap();
    let (_, ends) = three_groups(directory.path());
    let (mut opened, _) = open(directory.path(), BIG).unwrap();
    opened.writer.close().unwrap();
    drop(opened);
    let whole = std::fs::read(file(directory.path())).unwrap();
    for at in ends[2] as usize..ends[3] as usize {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(file(directory.path()), &bytes).unwrap();
        assert!(matches!(open(directory.path(), BIG), Err(LogError::Corrupt { .. })), "byte {at}");
    }
}

#[test]
fn segments_roll_are_read_across_and_deleted_from_the_front() {
    let directory = tempfile::tempdir().unwrap();
    let (mut opened, _) = open(directory.path(), 200).unwrap();
    let mut base = 0;
    for _ in 0..20 {
        opened.writer.add(&batch(base, 5, base)).unwrap();
        opened.writer.commit().unwrap();
        base += 5;
    }
    let segments = opened.log.segments_below(i64::MAX);
    assert!(segments.len() > 5, "{}", segments.len());
    let mut reader = LogReader::new(opened.log.clone(), 0);
    let read = reader.read(base, usize::MAX).unwrap();
    assert_eq!(read.iter().map(Record::end).collect::<Vec<_>>(), (1..=20).map(|n| n * 5).collect::<Vec<_>>());
    let bytes = opened.log.bytes();
    opened.log.delete_first_segment(0).unwrap();
    assert_eq!(opened.log.first(), segments[0].end);
    assert_eq!(opened.log.bytes(), bytes - segments[0].bytes);
    assert!(LogReader::new(opened.log.clone(), 0).read(base, 1).is_err());
    opened.writer.close().unwrap();
    drop((opened, reader));
    let (opened, found) = open(directory.path(), 200).unwrap();
    assert_eq!((opened.log.first(), opened.log.end(), opened.last_known_at), (segments[0].end, base, 95));
    assert_eq!(found[0].base, segments[0].end);
    // A segment in the middle that is gone is noticed.
    drop(opened);
    std::fs::remove_file(directory.path().join(segment::file_name(segments[3].first))).unwrap();
    assert!(matches!(open(directory.path(), 200), Err(LogError::Corrupt { byte: 0, .. })));
}

#[test]
fn a_torn_segment_that_is_not_the_last_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let (mut opened, _) = open(directory.path(), 200).unwrap();
    for n in 0..10 {
        opened.writer.add(&batch(n * 5, 5, 1)).unwrap();
        opened.writer.commit().unwrap();
    }
    drop(opened);
    let path = file(directory.path());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let Err(LogError::Corrupt { path: named, .. }) = open(directory.path(), 200) else {
        panic!("not noticed")
    };
    assert_eq!(named, path);
}

#[test]
fn one_writer_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (opened, _) = open(directory.path(), BIG).unwrap();
    assert!(matches!(open(directory.path(), BIG), Err(LogError::Locked(_))));
    drop(opened);
    assert!(open(directory.path(), BIG).is_ok());
}

#[test]
fn after_a_failed_write_nothing_is_taken_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let (mut opened, _) = open(directory.path(), BIG).unwrap();
    opened.writer.add(&batch(0, 1, 1)).unwrap();
    opened.writer.commit().unwrap();
    // A file that can't be written: every write to it is an error of the operating system.
    let path = file(directory.path());
    let writable = std::mem::replace(&mut opened.writer.file, File::open(&path).unwrap());
    opened.writer.add(&batch(1, 1, 1)).unwrap();
    assert!(matches!(opened.writer.commit(), Err(LogError::Io { action: "writing the log", .. })));
    opened.writer.file = writable;
    assert!(matches!(opened.writer.commit(), Err(LogError::Failed(_))), "the failure stays");
    assert!(opened.log.failure().is_some());
    assert_eq!(opened.log.end(), 1);
    drop(opened);
    let (opened, found) = open(directory.path(), BIG).unwrap();
    assert_eq!((found.len(), opened.log.end()), (1, 1));
}

#[test]
fn rows_come_back_from_their_bytes() {
    use arrow::array::{ArrayRef, Int64Array};
    let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(i64::MAX)]));
    let rows = arrow::array::RecordBatch::try_from_iter([("x", column)]).unwrap();
    assert_eq!(decode_rows(&encode_rows(&rows).unwrap()).unwrap(), Some(rows));
    assert_eq!(decode_rows(&[]).unwrap(), None);
}
