//! Which rows of a row group may be asked for, as the page index says: in a file that is sorted by entity, those of few entities
//! are in few pages.

use super::reader::FileReader;
use super::{FileFormat, ScanSpec, Unit};
use crate::source::keys::may_hold;
use crate::source::parquet;
use ::parquet::arrow::arrow_reader::RowSelection;
use ::parquet::file::page_index::column_index::ColumnIndexMetaData;
use ::parquet::file::page_index::offset_index::OffsetIndexMetaData;

/// Times are looked for in the index where at most so much of a row group's span is asked for: in rows without an order they
/// leave nothing out, and it would be read for nothing.
const TIME_SHARE_MAX: f64 = 0.5;

impl FileReader<'_> {
    /// The rows of a unit in pages that may hold what is asked for; none when that is all of them, or nothing tells.
    pub(super) fn pages(&self, unit: &Unit, spec: &ScanSpec) -> Option<RowSelection> {
        let (FileFormat::Parquet(metadata), number) = (&self.file.format, unit.row_group?) else {
            return None;
        };
        let group = metadata.metadata().row_group(number);
        let keys = self.key_leaf(spec);
        let times = self.time_leaf().filter(|times| {
            let bounds = parquet::int64_range(group, times.leaf);
            bounds.is_some_and(|(low, high)| times.share(low, high, spec) <= TIME_SHARE_MAX)
        });
        if keys.is_none() && times.is_none() {
            return None;
        }
        let paged = self.file.paged()?.metadata();
        let (columns, offsets) = (paged.column_index()?.get(number)?, paged.offset_index()?.get(number)?);
        let rows = usize::try_from(group.num_rows()).ok()?;
        // Such a file is refused when it is read.
        u32::try_from(unit.first_row + rows as u64).ok()?;
        let selection = |leaf: usize, may_hold: Vec<bool>| selection(offsets.get(leaf)?, &may_hold, rows);
        let by_key = keys.and_then(|(leaf, keys)| selection(leaf, keys.pages(columns.get(leaf)?)?));
        let by_time = times.and_then(|times| {
            let ColumnIndexMetaData::INT64(index) = columns.get(times.leaf)? else { return None };
            let bounds = index.min_values_iter().zip(index.max_values_iter());
            selection(times.leaf, may_hold(bounds, |low, high| times.may_hold(*low, *high, spec)))
        });
        let both = match (by_key, by_time) {
            (Some(by_key), Some(by_time)) => by_key.intersection(&by_time),
            (one, other) => one.or(other)?,
        };
        (both.row_count() < rows).then_some(both)
    }

    /// Stored bytes of the pages that these rows of a unit are in; none without a page index.
    pub(super) fn bytes_of(&self, unit: &Unit, rows: &RowSelection) -> Option<u64> {
        let metadata = self.file.paged()?;
        let offsets = metadata.metadata().offset_index()?.get(unit.row_group?)?;
        let mut bytes = 0;
        for leaf in self.leaves(metadata) {
            let pages = rows.scan_ranges(offsets.get(leaf)?.page_locations());
            bytes += pages.iter().map(|page| page.end - page.start).sum::<u64>();
        }
        Some(bytes.min(self.cost(unit).1))
    }
}

/// The rows of the pages of a column that may hold something; none when the index doesn't fit.
fn selection(offsets: &OffsetIndexMetaData, may_hold: &[bool], rows: usize) -> Option<RowSelection> {
    let firsts: Vec<usize> = offsets
        .page_locations()
        .iter()
        .map(|page| usize::try_from(page.first_row_index))
        .collect::<Result<_, _>>()
        .ok()?;
    if firsts.len() != may_hold.len()
        || firsts.first() != Some(&0)
        || !firsts.is_sorted()
        || *firsts.last()? > rows
    {
        return None;
    }
    let ends = firsts.iter().skip(1).copied().chain([rows]);
    let pages = firsts.iter().zip(ends).zip(may_hold).filter(|(_, may_hold)| **may_hold);
    Some(RowSelection::from_consecutive_ranges(pages.map(|((first, end), _)| *first..end), rows))
}

/// Rows of a unit by their numbers in the file, ascending.
pub(super) fn selection_of(rows: &[u32], unit: &Unit) -> RowSelection {
    let places = rows.iter().map(|row| *row as usize - unit.first_row as usize);
    let end = rows.last().map_or(0, |last| *last as usize + 1 - unit.first_row as usize);
    RowSelection::from_consecutive_ranges(places.map(|place| place..place + 1), end)
}

/// The numbers in their file of the rows of a unit.
pub(super) fn rows(selection: &RowSelection, unit: &Unit) -> Vec<u32> {
    let mut next = unit.first_row;
    let mut rows = Vec::with_capacity(selection.row_count());
    for run in selection.iter() {
        let end = next + run.row_count as u64;
        if !run.skip {
            rows.extend((next..end).map(|row| row as u32));
        }
        next = end;
    }
    rows
}
