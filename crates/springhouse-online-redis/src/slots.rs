//! Which node of a Cluster has which slots, for breakers and scans; the commands themselves find their way alone.

use crate::error::unexpected;
use crate::store::bytes_of;
use redis::Value;
use springhouse_online::StoreError;
use std::collections::BTreeMap;

/// The primaries and their slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    nodes: Vec<(String, u16)>,
    /// By the last slot of a range: its first slot and node.
    ranges: BTreeMap<u16, (u16, usize)>,
}

/// Slots of every Cluster.
const SLOTS: u16 = 16_384;

const ACTION: &str = "ask for the Cluster's slots";

impl Slots {
    /// Reads the answer of `CLUSTER SLOTS`.
    pub(crate) fn parse(answer: Value) -> Result<Self, StoreError> {
        let wrong = || unexpected(ACTION, "a Cluster's slots");
        let Value::Array(ranges) = answer else { return Err(wrong()) };
        let mut slots = Self::default();
        let mut numbers: BTreeMap<(String, u16), usize> = BTreeMap::new();
        for range in ranges {
            let Value::Array(parts) = range else { return Err(wrong()) };
            let mut parts = parts.into_iter();
            let (Some(Value::Int(first)), Some(Value::Int(last)), Some(Value::Array(primary))) =
                (parts.next(), parts.next(), parts.next())
            else {
                return Err(wrong());
            };
            let mut primary = primary.into_iter();
            let host = bytes_of(ACTION, primary.next().ok_or_else(wrong)?)?.unwrap_or_default();
            let Some(Value::Int(port)) = primary.next() else { return Err(wrong()) };
            let host = String::from_utf8(host).map_err(|_| wrong())?;
            let node = (host, u16::try_from(port).map_err(|_| wrong())?);
            let next = numbers.len();
            let number = *numbers.entry(node.clone()).or_insert(next);
            if number == next {
                slots.nodes.push(node);
            }
            let slot = |number: i64| u16::try_from(number).map_err(|_| wrong());
            slots.ranges.insert(slot(last)?, (slot(first)?, number));
        }
        Ok(slots)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (String, u16)> + '_ {
        self.nodes.iter().cloned()
    }

    /// Of a tag with its braces.
    pub(crate) fn node_of(&self, tag: &str) -> usize {
        let tag = tag.trim_matches(['{', '}']);
        let slot = crc16::State::<crc16::XMODEM>::calculate(tag.as_bytes()) % SLOTS;
        let range = self.ranges.range(slot..).next();
        range.filter(|(_, (first, _))| *first <= slot).map_or(0, |(_, (_, node))| *node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_by_slot() {
        let range = |first: i64, last: i64, port: i64| {
            let node = Value::Array(vec![Value::BulkString(b"localhost".to_vec()), Value::Int(port)]);
            Value::Array(vec![Value::Int(first), Value::Int(last), node])
        };
        let answer = Value::Array(vec![range(0, 8191, 7001), range(8192, 16383, 7002)]);
        let slots = Slots::parse(answer).expect("well formed");
        assert_eq!(slots.nodes().count(), 2);
        let seen: std::collections::BTreeSet<usize> =
            (0..64).map(|shard| slots.node_of(&format!("{{springhouse:{shard}}}"))).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1]);
        assert!(Slots::parse(Value::Nil).is_err());
    }
}
