//! What a row of a source with an `op` column says: that an event happened, or that it did not.
//!
//! A change that takes an event back names it by its content: the row as it was. So an update is two rows, the one that
//! was and the one that is.

/// What a row does to the history before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It adds an event.
    Adds,
    /// It takes an event of the same content back.
    TakesBack,
}

/// A new row, as rows that arrive are stored.
pub const INSERT: &str = "insert";
/// A row as it was before an update.
pub const UPDATE_BEFORE: &str = "update_before";
/// A row as it is after an update.
pub const UPDATE_AFTER: &str = "update_after";
/// A row that is gone.
pub const DELETE: &str = "delete";
/// An event that is both an `update_before` and an `update_after`; never stored.
pub const UPDATE: &str = "update";

/// What adds, with the words of change data feeds (Debezium, Flink, Delta Lake) beside ours.
const ADDING: [&str; 9] = [INSERT, UPDATE_AFTER, "update_postimage", "c", "r", "create", "read", "+I", "+U"];
/// What takes back.
const TAKING: [&str; 6] = [DELETE, UPDATE_BEFORE, "update_preimage", "d", "-D", "-U"];

impl Change {
    /// What a value of an `op` column means; none for a word that means nothing here. Case counts.
    pub fn of(op: &str) -> Option<Self> {
        match op {
            op if ADDING.contains(&op) => Some(Self::Adds),
            op if TAKING.contains(&op) => Some(Self::TakesBack),
            _ => None,
        }
    }

    /// Every word that has a meaning.
    pub fn words() -> impl Iterator<Item = &'static str> {
        ADDING.into_iter().chain(TAKING)
    }

    /// SQL that is true for rows which take an event back; a row without a value adds.
    pub fn takes_back_sql(column: &str) -> String {
        let words: Vec<String> = TAKING.iter().map(|word| format!("'{word}'")).collect();
        format!("\"{column}\" IN ({})", words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_one_meaning() {
        let words: Vec<&str> = Change::words().collect();
        for word in &words {
            let expected = if TAKING.contains(word) { Change::TakesBack } else { Change::Adds };
            assert_eq!(Change::of(word), Some(expected), "{word}");
            assert_eq!(words.iter().filter(|other| *other == word).count(), 1, "{word}");
        }
        for other in ["", "Delete", "u", UPDATE, "t"] {
            assert_eq!(Change::of(other), None, "{other}");
        }
    }
}
