//! What was read of a source and what was left out, for people who ask why something takes long.

/// What a scan reads, decided before it from the footers of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selected {
    /// Row groups, or whole files where there are none.
    pub parts: u64,
    /// Of them, left out.
    pub parts_pruned: u64,
    /// Stored bytes of the columns read.
    pub bytes: u64,
    /// Stored bytes of the same columns in parts left out.
    pub bytes_pruned: u64,
    /// Rows in the parts read.
    pub rows: u64,
}

/// What a reading of a source is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PassKind {
    /// Everything that features need, or keys and times of latest values.
    Events,
    /// The rows of latest values that labels see.
    Rows,
    /// What an earlier training set has read, from the event cache; parts are buckets of entities.
    Cached,
}

/// One reading of a source.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    pub kind: PassKind,
    pub columns: Vec<String>,
    pub selected: Selected,
    /// Rows that were wanted, where somebody counted them.
    pub rows_kept: Option<u64>,
}

impl Selected {
    /// What is read in another round of the same reading; parts left out in one may be read in another.
    pub(crate) fn add(&mut self, more: &Self) {
        self.parts_pruned = self.parts_pruned.saturating_sub(more.parts - more.parts_pruned);
        self.bytes_pruned = self.bytes_pruned.saturating_sub(more.bytes);
        self.bytes += more.bytes;
        self.rows += more.rows;
    }

    /// Counts a part of so many rows and bytes.
    pub(crate) fn count(&mut self, (rows, bytes): (u64, u64), is_read: bool) {
        self.parts += 1;
        if is_read {
            self.rows += rows;
            self.bytes += bytes;
        } else {
            self.parts_pruned += 1;
            self.bytes_pruned += bytes;
        }
    }

    /// So many rows and bytes of a part that was counted as read are left out after all.
    pub(crate) fn leave_out(&mut self, rows: u64, bytes: u64) {
        self.rows -= rows;
        self.bytes -= bytes;
        self.bytes_pruned += bytes;
    }
}
