//! The sequence number of an event that workers read from a topic: its partition, its offset, and which row of the message it
//! is. A function of the message alone, so that every worker gives an event the same number however often it is read.

/// Bits of an offset. Kafka's go further, but no topic does: a million messages a second for a year are 2^45.
const OFFSET_BITS: u32 = 45;
/// A message is one row, or two where it is an update.
const ROW_BITS: u32 = 1;

/// The most partitions that a topic of workers may have.
pub const PARTITIONS_MAX: i32 = 1 << (63 - OFFSET_BITS - ROW_BITS);

/// The number of row `row` (0 or 1) of a message.
pub const fn topic_seq(partition: i32, offset: i64, row: usize) -> i64 {
    (partition as i64) << (OFFSET_BITS + ROW_BITS) | offset << ROW_BITS | (row as i64 & 1)
}

/// The partition in a number.
pub const fn partition_of(seq: i64) -> i32 {
    (seq >> (OFFSET_BITS + ROW_BITS)) as i32
}

/// The offset in a number.
pub const fn offset_of(seq: i64) -> i64 {
    (seq >> ROW_BITS) & ((1 << OFFSET_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_hold_their_parts_and_sort_by_them() {
        let mut numbers = Vec::new();
        for partition in [0, 1, 77, PARTITIONS_MAX - 1] {
            for offset in [0, 1, 1 << 30, (1 << OFFSET_BITS) - 1] {
                for row in 0..2 {
                    let seq = topic_seq(partition, offset, row);
                    assert_eq!((partition_of(seq), offset_of(seq), seq & 1), (partition, offset, row as i64));
                    numbers.push(seq);
                }
            }
        }
        assert!(numbers.is_sorted() && numbers[0] == 0, "{numbers:?}");
    }
}
