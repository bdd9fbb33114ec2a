//! Answers of a latest view whose features all have values of one width: every value is written once, to the place where the
//! output has it, so that nothing is put together or brought in order afterwards.

use crate::error::Result;
use crate::source::plain::PlainValues;
use crate::source::scan::{ColumnRows, ColumnValues};
use crate::spill::Budget;
use crate::training::assemble::is_usable;
use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, make_array, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{ArrowNativeType, DataType};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use springhouse_core::ValueStatus;
use springhouse_kernel::{nan_as_null, partition_point_near};

use std::ops::Range;
use std::sync::Arc;

/// The answers of one view, for the labels of one range at a time.
#[derive(Debug)]
pub(crate) struct DenseAnswers {
    features: Arc<[DataType]>,
    chunks: Vec<RwLock<Option<DenseRows>>>,
    chunk_rows: u64,
    /// Labels in all.
    rows: u64,
    budget: Arc<Budget>,
}

/// The answers of some labels, each at its place.
#[derive(Debug)]
pub(crate) struct DenseRows {
    features: Arc<[DataType]>,
    /// None until it gets a value.
    columns: Vec<Mutex<Option<Column>>>,
    /// Of the row that has the label's values.
    statuses: Mutex<Vec<u8>>,
    rows: usize,
    bytes: u64,
}

/// The values of one feature, each at the place of its label.
#[derive(Debug)]
pub(crate) struct Column {
    values: Values,
    /// Labels whose row has no value.
    absent: Vec<u32>,
}

/// Values by their width in bytes; what they are is known elsewhere.
#[derive(Debug)]
enum Values {
    Bool(Vec<bool>),
    Four(Vec<u32>),
    Eight(Vec<u64>),
    Sixteen(Vec<i128>),
}

/// A row, and the place in a chunk of a label that sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DenseRow {
    pub row: u32,
    place: u32,
}

/// True for what [`DenseAnswers`] can hold.
pub(crate) fn is_dense(data_type: &DataType) -> bool {
    *data_type == DataType::Boolean || matches!(data_type.primitive_width(), Some(4 | 8 | 16))
}

impl DenseRow {
    pub(crate) fn new(row: u32, place: u32) -> Self {
        Self { row, place }
    }

    /// The same label with another row.
    pub(crate) fn at_row(self, row: u32) -> Self {
        Self { row, ..self }
    }
}

/// Rows in the order of a part of a file, brought in that of the chunks that their labels are in: where values are gathered
/// before they go to their labels' places, so that both steps write to little memory at a time.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// The position of the first value.
    first: u32,
    /// By chunk, where its values begin, after `first`; one more than there are chunks.
    starts: Vec<u32>,
    /// In the order of the values: the label's place in its chunk.
    places: Vec<u16>,
}

impl Gathered {
    /// Rows in a chunk, at most.
    pub(crate) const CHUNK_ROWS_MAX: usize = 1 << 16;

    /// Gives rows whose places are those of their labels positions from `first` on instead.
    pub(crate) fn new(rows: &mut [DenseRow], first: u32, chunks: usize, chunk_rows: u32) -> Self {
        let mut starts = vec![0; chunks + 1];
        for row in rows.iter() {
            starts[(row.place / chunk_rows) as usize + 1] += 1;
        }
        for chunk in 0..chunks {
            starts[chunk + 1] += starts[chunk];
        }
        let (mut next, mut places) = (starts.clone(), vec![0; rows.len()]);
        for row in rows {
            let chunk = row.place / chunk_rows;
            let position = &mut next[chunk as usize];
            places[*position as usize] = (row.place - chunk * chunk_rows) as u16;
            row.place = first + *position;
            *position += 1;
        }
        Self { first, starts, places }
    }

    /// The position of the first value.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// Of a chunk: the positions of its values, and the labels' places in the chunk.
    fn of_chunk(&self, chunk: usize) -> (Range<usize>, &[u16]) {
        let range = self.starts[chunk] as usize..self.starts[chunk + 1] as usize;
        let first = self.first as usize;
        (first + range.start..first + range.end, &self.places[range])
    }

    /// The place of the label whose value has a position.
    fn place(&self, position: u32, chunk_rows: u32) -> u32 {
        let position = position - self.first;
        let chunk = self.starts.partition_point(|start| *start <= position) - 1;
        chunk as u32 * chunk_rows + u32::from(self.places[position as usize])
    }
}

/// Brings rows in the order of their numbers, digit by digit: those of one part of a file differ in two bytes mostly.
pub(crate) fn sort_by_row(rows: &mut Vec<DenseRow>) {
    /// Fewer are sorted sooner by comparing.
    const FEW: usize = 1_000;
    const DIGITS: usize = 256;
    if rows.len() < FEW {
        return rows.sort_unstable_by_key(|row| row.row);
    }
    let (least, greatest) =
        rows.iter().fold((u32::MAX, 0), |(least, greatest), row| (least.min(row.row), greatest.max(row.row)));
    let mut sorted = vec![DenseRow::new(0, 0); rows.len()];
    let mut shift = 0;
    while (greatest - least) >> shift > 0 {
        let digit = |row: &DenseRow| ((row.row - least) >> shift) as usize % DIGITS;
        let mut next = [0; DIGITS];
        rows.iter().for_each(|row| next[digit(row)] += 1);
        let mut start = 0;
        for place in &mut next {
            start += std::mem::replace(place, start);
        }
        for row in rows.iter() {
            let place = &mut next[digit(row)];
            sorted[*place] = *row;
            *place += 1;
        }
        std::mem::swap(rows, &mut sorted);
        shift += DIGITS.ilog2();
        if shift == u32::BITS {
            break;
        }
    }
}

/// A column as it is read with null for what is no number; plain values are looked at when they are put.
pub(crate) fn numbers<'a>(from: &ColumnRows<'a>, array: &'a mut Option<ArrayRef>) -> ColumnValues<'a> {
    match from.values {
        ColumnValues::Array(values) => ColumnValues::Array(array.insert(nan_as_null(Arc::clone(values)))),
        ColumnValues::Plain(values) => ColumnValues::Plain(values),
    }
}

/// Those of some rows, ascending, from the row `first` on; `next` is the place after the last that was before it, as a guess.
pub(crate) fn from_row(rows: &[DenseRow], first: u32, next: usize) -> &[DenseRow] {
    // Values that come again begin before it.
    let is_again = next.checked_sub(1).is_some_and(|last| rows[last].row >= first);
    let near = if is_again { 0 } else { next };
    &rows[partition_point_near(near..rows.len(), |place| rows[place].row < first)..]
}

/// The rows among some, ascending, that a column has values of.
pub(crate) fn among<'a>(rows: &'a [DenseRow], of: &ColumnRows<'_>) -> &'a [DenseRow] {
    let (first, end) = (of.first, u64::from(of.first) + of.count as u64);
    let rows = &rows[rows.partition_point(|row| row.row < first)..];
    &rows[..rows.partition_point(|row| u64::from(row.row) < end)]
}

impl DenseAnswers {
    /// Of so many labels; all features must be [`is_dense`].
    pub(crate) fn new(features: Vec<DataType>, rows: u64, chunk_rows: u64, budget: &Arc<Budget>) -> Self {
        let chunks = (0..rows.div_ceil(chunk_rows)).map(|_| RwLock::default()).collect();
        Self { features: features.into(), chunks, chunk_rows, rows, budget: Arc::clone(budget) }
    }

    /// Writes the answers of some labels of a chunk: `values` are of the features, of which these `positions` are in the labels'
    /// order.
    pub(crate) fn put(
        &self,
        chunk: usize,
        label_rows: &[u64],
        values: &[ArrayRef],
        positions: Range<usize>,
        statuses: &[ValueStatus],
    ) {
        let rows = positions.zip(label_rows).map(|(position, row)| self.row(chunk, position as u32, *row));
        let rows: Vec<DenseRow> = rows.collect();
        self.put_statuses(chunk, &rows, statuses.iter().copied());
        self.within(chunk, |chunk| {
            for (feature, values) in values.iter().enumerate() {
                chunk.within(feature, |column| column.put_array(values, 0, &rows));
            }
        });
    }

    /// Writes a status without values for some labels of a chunk.
    pub(crate) fn put_absent(&self, chunk: usize, label_rows: &[u64], status: ValueStatus) {
        let rows: Vec<DenseRow> = label_rows.iter().map(|row| self.row(chunk, 0, *row)).collect();
        self.put_statuses(chunk, &rows, std::iter::repeat(status));
    }

    /// With a chunk, which is made if it was not.
    fn within(&self, number: usize, write: impl FnOnce(&DenseRows)) {
        if let Some(chunk) = &*self.chunks[number].read() {
            return write(chunk);
        }
        let mut chunk = self.chunks[number].write();
        if chunk.is_none() {
            let made = DenseRows::new(&self.features, self.rows_of(number));
            self.budget.add(made.bytes);
            *chunk = Some(made);
        }
        if let Some(chunk) = &*RwLockWriteGuard::downgrade(chunk) {
            write(chunk);
        }
    }

    /// Labels of a chunk.
    fn rows_of(&self, chunk: usize) -> usize {
        (self.rows - chunk as u64 * self.chunk_rows).min(self.chunk_rows) as usize
    }

    /// A label's place in a chunk, and the row that it sees.
    pub(crate) fn row(&self, chunk: usize, row: u32, label_row: u64) -> DenseRow {
        DenseRow { row, place: (label_row - chunk as u64 * self.chunk_rows) as u32 }
    }

    /// Writes the statuses of some rows, before their values.
    pub(crate) fn put_statuses(
        &self,
        chunk: usize,
        rows: &[DenseRow],
        statuses: impl Iterator<Item = ValueStatus>,
    ) {
        self.within(chunk, |chunk| {
            let mut known = chunk.statuses.lock();
            for (row, status) in rows.iter().zip(statuses) {
                known[row.place as usize] = status as u8;
            }
        });
    }

    /// Writes the values of a column that are among these, as those of some features.
    pub(crate) fn put_column(
        &self,
        chunk: usize,
        features: &[usize],
        from: &ColumnRows<'_>,
        rows: &[DenseRow],
    ) {
        self.within(chunk, |chunk| chunk.put_column(features, from, rows));
    }

    /// Places for answers that are of no chunk yet.
    pub(crate) fn rows_apart(&self, rows: usize) -> DenseRows {
        DenseRows::new(&self.features, rows)
    }

    /// Takes a chunk out: a column per feature, and the status of each label's row; none where no label sees a row.
    pub(crate) fn take(&self, chunk: usize) -> Result<Option<(Vec<ArrayRef>, Vec<u8>)>> {
        let Some(chunk) = self.chunks[chunk].write().take() else { return Ok(None) };
        self.budget.subtract(chunk.bytes);
        let statuses = std::mem::take(&mut *chunk.statuses.lock());
        Ok(Some((chunk.finish(statuses.iter().copied())?, statuses)))
    }
}

impl DenseRows {
    fn new(features: &Arc<[DataType]>, rows: usize) -> Self {
        let width = |feature: &DataType| feature.primitive_width().unwrap_or(1);
        Self {
            features: Arc::clone(features),
            columns: features.iter().map(|_| Mutex::default()).collect(),
            statuses: Mutex::new(vec![ValueStatus::Missing as u8; rows]),
            rows,
            bytes: (rows * (1 + features.iter().map(width).sum::<usize>())) as u64,
        }
    }

    /// With a feature's column, which is made if it was not.
    fn within(&self, feature: usize, write: impl FnOnce(&mut Column)) {
        let mut column = self.columns[feature].lock();
        write(column.get_or_insert_with(|| Column::new(&self.features[feature], self.rows)));
    }

    /// As [`DenseAnswers::put_column`].
    pub(crate) fn put_column(&self, features: &[usize], from: &ColumnRows<'_>, rows: &[DenseRow]) {
        for feature in features {
            self.within(*feature, |column| {
                column.put(&self.features[*feature], from, rows);
            });
        }
    }

    /// A column per feature, for labels with these statuses.
    pub(crate) fn finish(self, statuses: impl Iterator<Item = u8>) -> Result<Vec<ArrayRef>> {
        let present = BooleanBuffer::from_iter(statuses.map(is_usable));
        let column = |(data_type, column): (&DataType, Mutex<Option<Column>>)| match column.into_inner() {
            Some(column) => column.finish(data_type, &present),
            None => Ok(new_null_array(data_type, self.rows)),
        };
        self.features.iter().zip(self.columns).map(column).collect()
    }
}

impl Column {
    pub(crate) fn new(data_type: &DataType, rows: usize) -> Self {
        let values = match data_type.primitive_width() {
            None => Values::Bool(vec![false; rows]),
            Some(4) => Values::Four(vec![0; rows]),
            Some(8) => Values::Eight(vec![0; rows]),
            Some(_) => Values::Sixteen(vec![0; rows]),
        };
        Self { values, absent: Vec::new() }
    }

    /// One for other values, in the memory of one that [`Self::finish`] has made an array of and nobody has any more. Where no value
    /// is put, the last one's stay; they are not shown.
    pub(crate) fn again(used: ArrayRef) -> Option<Self> {
        let buffer = used.to_data().buffers().first()?.clone();
        let width = used.data_type().primitive_width()?;
        drop(used);
        let values = match width {
            4 => Values::Four(buffer.into_vec().ok()?),
            8 => Values::Eight(buffer.into_vec().ok()?),
            16 => Values::Sixteen(buffer.into_vec().ok()?),
            _ => return None,
        };
        Some(Self { values, absent: Vec::new() })
    }

    /// True where it can hold so many values of a type.
    pub(crate) fn can_hold(&self, data_type: &DataType, rows: usize) -> bool {
        let (width, most) = match &self.values {
            Values::Bool(values) => (None, values.len()),
            Values::Four(values) => (Some(4), values.len()),
            Values::Eight(values) => (Some(8), values.len()),
            Values::Sixteen(values) => (Some(16), values.len()),
        };
        width == data_type.primitive_width() && rows <= most
    }

    /// Takes values of rows of a column as it is read; what is no number is null.
    pub(crate) fn put_numbers(
        &mut self,
        data_type: &DataType,
        from: &ColumnRows<'_>,
        rows: &[DenseRow],
    ) -> usize {
        self.put(data_type, &ColumnRows { values: numbers(from, &mut None), ..*from }, rows)
    }

    /// Takes values of rows of a column, up to the first that comes after it; none is before it. How many that are.
    pub(crate) fn put(&mut self, data_type: &DataType, from: &ColumnRows<'_>, rows: &[DenseRow]) -> usize {
        match from.values {
            ColumnValues::Plain(values) => self.put_plain(data_type, values, from, rows),
            ColumnValues::Array(values) => {
                let rows = among(rows, from);
                self.put_array(values, from.first, rows);
                rows.len()
            }
        }
    }

    /// Takes rows of an array whose first has the number `first`.
    fn put_array(&mut self, values: &ArrayRef, first: u32, rows: &[DenseRow]) {
        if let Some(nulls) = values.nulls().filter(|nulls| nulls.null_count() > 0) {
            let absent = rows.iter().filter(|row| nulls.is_null((row.row - first) as usize));
            self.absent.extend(absent.map(|row| row.place));
        }
        match &mut self.values {
            Values::Bool(target) => {
                let values = values.as_boolean();
                for row in rows {
                    target[row.place as usize] = values.value((row.row - first) as usize);
                }
            }
            Values::Four(target) => scatter(target, values, first, rows),
            Values::Eight(target) => scatter(target, values, first, rows),
            Values::Sixteen(target) => scatter(target, values, first, rows),
        }
    }

    /// Takes values as they are in memory.
    fn put_plain(
        &mut self,
        data_type: &DataType,
        values: PlainValues<'_>,
        from: &ColumnRows<'_>,
        rows: &[DenseRow],
    ) -> usize {
        let absent = &mut self.absent;
        match (&mut self.values, data_type) {
            (Values::Four(target), DataType::Float32) => {
                let is_nan = |bits: u32| f32::from_bits(bits).is_nan();
                scatter_plain(target, values, from, rows, u32::from_le_bytes, is_nan, absent)
            }
            (Values::Eight(target), DataType::Float64) => {
                let is_nan = |bits: u64| f64::from_bits(bits).is_nan();
                scatter_plain(target, values, from, rows, u64::from_le_bytes, is_nan, absent)
            }
            (Values::Four(target), _) => {
                scatter_plain(target, values, from, rows, u32::from_le_bytes, |_| false, absent)
            }
            (Values::Eight(target), _) => {
                scatter_plain(target, values, from, rows, u64::from_le_bytes, |_| false, absent)
            }
            (Values::Bool(_) | Values::Sixteen(_), _) => unreachable!("they are not stored like that"),
        }
    }

    /// Takes the values of a chunk that were gathered; its first place is this one's.
    pub(crate) fn put_gathered(&mut self, from: &Self, parts: &[Gathered], chunk: usize) {
        match (&mut self.values, &from.values) {
            (Values::Bool(to), Values::Bool(from)) => scatter_gathered(to, from, parts, chunk),
            (Values::Four(to), Values::Four(from)) => scatter_gathered(to, from, parts, chunk),
            (Values::Eight(to), Values::Eight(from)) => scatter_gathered(to, from, parts, chunk),
            (Values::Sixteen(to), Values::Sixteen(from)) => scatter_gathered(to, from, parts, chunk),
            _ => unreachable!("both are of one type"),
        }
    }

    /// Of values that were gathered: which labels have one, of those of which these see a row. The parts are in the order of their
    /// positions.
    pub(crate) fn valid_gathered(
        &mut self,
        parts: &[Gathered],
        chunk_rows: u32,
        present: &BooleanBuffer,
    ) -> BooleanBuffer {
        let place = |position: u32| {
            let after = parts.partition_point(|part| part.first <= position);
            parts[after - 1].place(position, chunk_rows)
        };
        without(present, self.absent.drain(..).map(place))
    }

    /// The values as an array, for labels of which these see a row.
    pub(crate) fn finish(mut self, data_type: &DataType, present: &BooleanBuffer) -> Result<ArrayRef> {
        let valid = without(present, self.absent.drain(..));
        self.into_array(data_type, valid)
    }

    /// The first values as an array, those that are valid.
    pub(crate) fn into_array(self, data_type: &DataType, valid: BooleanBuffer) -> Result<ArrayRef> {
        let rows = valid.len();
        let nulls = Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0);
        let buffer = match self.values {
            Values::Bool(mut values) => {
                values.truncate(rows);
                return Ok(Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls)));
            }
            Values::Four(values) => Buffer::from_vec(values),
            Values::Eight(values) => Buffer::from_vec(values),
            Values::Sixteen(values) => Buffer::from_vec(values),
        };
        let data = ArrayData::builder(data_type.clone()).len(rows).add_buffer(buffer).nulls(nulls);
        Ok(make_array(data.build()?))
    }
}

/// Rows without some.
fn without(rows: &BooleanBuffer, absent: impl ExactSizeIterator<Item = u32>) -> BooleanBuffer {
    if absent.len() == 0 {
        return rows.clone();
    }
    let mut valid = BooleanBufferBuilder::new(rows.len());
    valid.append_buffer(rows);
    absent.for_each(|row| valid.set_bit(row as usize, false));
    valid.finish()
}

fn scatter_gathered<T: Copy>(to: &mut [T], from: &[T], parts: &[Gathered], chunk: usize) {
    for part in parts {
        let (positions, places) = part.of_chunk(chunk);
        for (value, place) in from[positions].iter().zip(places) {
            to[usize::from(*place)] = *value;
        }
    }
}

fn scatter<T: ArrowNativeType>(target: &mut [T], values: &ArrayRef, first: u32, rows: &[DenseRow]) {
    let data = values.to_data();
    let values = &data.buffers()[0].typed_data::<T>()[data.offset()..];
    rows.iter().for_each(|row| target[row.place as usize] = values[(row.row - first) as usize]);
}

/// The same from bytes, up to the first row that is behind them, and how many that are; what `is_null` says is no value is noted as
/// absent.
fn scatter_plain<T: Copy, const N: usize>(
    target: &mut [T],
    values: PlainValues<'_>,
    from: &ColumnRows<'_>,
    rows: &[DenseRow],
    value: fn([u8; N]) -> T,
    is_null: impl Fn(T) -> bool,
    absent: &mut Vec<u32>,
) -> usize {
    let (found, _) = values.bytes.as_chunks::<N>();
    let mut put = |row: &DenseRow, value: Option<T>| {
        if let Some(value) = value {
            target[row.place as usize] = value;
        }
        if value.is_none_or(&is_null) {
            absent.push(row.place);
        }
    };
    for (taken, row) in rows.iter().enumerate() {
        let position = (row.row - from.first) as usize;
        match values.present {
            // All are there.
            None => match found.get(position) {
                Some(bytes) => put(row, Some(value(*bytes))),
                None => return taken,
            },
            Some(_) if position >= from.count => return taken,
            Some(present) => put(row, present.place(position).map(|position| value(found[position]))),
        }
    }
    rows.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::draws;
    use arrow::array::{
        Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, TimestampMicrosecondArray,
    };
    use arrow::compute::{concat, take};

    #[test]
    fn rows_are_sorted_whatever_their_numbers() {
        let mut below = draws(5);
        for count in [0, 1, 999, 1_000, 1_001, 20_000] {
            for spread in [1, 2, 255, 256, 257, 65_536, 1 << 24, u64::from(u32::MAX)] {
                let first = below(u64::from(u32::MAX) - spread + 1);
                let mut rows: Vec<DenseRow> = (0..count)
                    .map(|place| DenseRow::new((first + below(spread + 1)) as u32, place))
                    .collect();
                let mut naive: Vec<(u32, u32)> = rows.iter().map(|row| (row.row, row.place)).collect();
                sort_by_row(&mut rows);
                naive.sort_unstable();
                let mut sorted: Vec<(u32, u32)> = rows.iter().map(|row| (row.row, row.place)).collect();
                assert!(sorted.is_sorted_by_key(|row| row.0), "{count} rows, {spread} apart");
                sorted.sort_unstable();
                assert_eq!(sorted, naive, "{count} rows, {spread} apart");
            }
        }
    }

    #[test]
    fn rows_are_gone_on_with_where_the_last_page_ended_and_anew_when_they_come_again() {
        let mut below = draws(7);
        for _ in 0..200 {
            let mut rows: Vec<DenseRow> =
                (0..below(40)).map(|_| DenseRow::new(below(60) as u32, 0)).collect();
            rows.sort_unstable_by_key(|row| row.row);
            let mut next = 0;
            for _ in 0..8 {
                let first = below(70) as u32;
                let found = from_row(&rows, first, next);
                let naive = rows.iter().filter(|row| row.row >= first).count();
                assert_eq!(found.len(), naive, "rows from {first} on, {next} known to be before");
                next = rows.len() - found.len() + below(1 + found.len() as u64) as usize;
            }
        }
    }

    #[test]
    fn values_that_were_gathered_are_those_that_were_put_at_once() {
        let mut below = draws(23);
        for round in 0..200 {
            let (labels, chunk_rows) = (1 + below(300) as usize, 1 + below(70) as u32);
            let chunks = labels.div_ceil(chunk_rows as usize);
            let mut seen: Vec<u32> = (0..labels as u32).filter(|_| below(4) > 0).collect();
            for place in (1..seen.len()).rev() {
                seen.swap(place, below(place as u64 + 1) as usize);
            }
            let types = [DataType::Float64, DataType::Int64, DataType::Float32, DataType::Boolean];
            let data_type = &types[below(4) as usize];
            let (mut at_once, mut gathered) =
                (Column::new(data_type, labels), Column::new(data_type, labels));
            let (mut parts, mut first) = (Vec::new(), 0);
            for part in seen.chunks(1 + below(90) as usize) {
                let count = 1 + below(50) as u32;
                let values: Vec<Option<i64>> =
                    (0..count).map(|_| (below(6) > 0).then(|| below(2) as i64)).collect();
                let values: ArrayRef = Arc::new(Int64Array::from(values));
                let values = arrow::compute::cast(&values, data_type).unwrap();
                let mut rows: Vec<DenseRow> = part
                    .iter()
                    .map(|label| DenseRow::new(100 + below(u64::from(count)) as u32, *label))
                    .collect();
                sort_by_row(&mut rows);
                let from =
                    ColumnRows { first: 100, count: count as usize, values: ColumnValues::Array(&values) };
                assert_eq!(at_once.put(data_type, &from, &rows), rows.len());
                parts.push(Gathered::new(&mut rows, first, chunks, chunk_rows));
                first += rows.len() as u32;
                assert_eq!(gathered.put(data_type, &from, &rows), rows.len());
            }
            let present = BooleanBuffer::collect_bool(labels, |label| seen.contains(&(label as u32)));
            let at_once = at_once.finish(data_type, &present).unwrap();
            let valid = gathered.valid_gathered(&parts, chunk_rows, &present);
            let mut memory: Option<Column> = None;
            for chunk in 0..chunks {
                let first = chunk * chunk_rows as usize;
                let rows = (chunk_rows as usize).min(labels - first);
                let used = memory.take().filter(|used| used.can_hold(data_type, rows));
                let mut put = used.unwrap_or_else(|| Column::new(data_type, rows));
                put.put_gathered(&gathered, &parts, chunk);
                let put = put.into_array(data_type, valid.slice(first, rows)).unwrap();
                assert_eq!(put.as_ref(), at_once.slice(first, rows).as_ref(), "round {round}, chunk {chunk}");
                memory = Column::again(put);
                assert_eq!(memory.is_some(), *data_type != DataType::Boolean, "its memory is used again");
            }
        }
    }

    #[test]
    fn values_come_out_where_their_labels_are() {
        let mut below = draws(3);
        for round in 0..100 {
            let (rows, labels, chunk_rows) = (1 + below(60) as usize, 1 + below(100), 1 + below(40));
            let has_nulls = below(3) > 0;
            let mut values = || -> Vec<Option<i64>> {
                (0..rows).map(|_| (!has_nulls || below(5) > 0).then(|| below(1000) as i64 - 500)).collect()
            };
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(values())),
                Arc::new(values().iter().map(|v| v.map(|v| v as f64)).collect::<Float64Array>()),
                Arc::new(values().iter().map(|v| v.map(|v| v as f32)).collect::<Float32Array>()),
                Arc::new(values().iter().map(|v| v.map(|v| v as i32)).collect::<Date32Array>()),
                Arc::new(values().iter().map(|v| v.map(|v| v > 0)).collect::<BooleanArray>()),
                Arc::new(values().iter().map(|v| v.map(i128::from)).collect::<Decimal128Array>()),
                Arc::new(TimestampMicrosecondArray::from(values()).with_timezone("UTC")),
            ];
            let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
            assert!(types.iter().all(is_dense));
            let budget = Arc::new(Budget::new(u64::MAX / 2));
            let dense = DenseAnswers::new(types, labels, chunk_rows, &budget);
            // What each label sees: a row and a status, a status alone, or nothing.
            let seen: Vec<(Option<u32>, ValueStatus)> = (0..labels)
                .map(|_| match below(5) {
                    0 => (None, ValueStatus::Missing),
                    1 => (None, ValueStatus::Expired),
                    2 => (Some(below(rows as u64) as u32), ValueStatus::Stale),
                    _ => (Some(below(rows as u64) as u32), ValueStatus::Fresh),
                })
                .collect();
            let by_column = below(2) == 0;
            for chunk in 0..labels.div_ceil(chunk_rows) {
                let here = chunk * chunk_rows..((chunk + 1) * chunk_rows).min(labels);
                let chunk = chunk as usize;
                let expired = here.clone().filter(|label| seen[*label as usize].1 == ValueStatus::Expired);
                let expired: Vec<u64> = expired.collect();
                if !expired.is_empty() {
                    dense.put_absent(chunk, &expired, ValueStatus::Expired);
                }
                let with_row: Vec<u64> = here.filter(|label| seen[*label as usize].0.is_some()).collect();
                let row_of = |label: &u64| seen[*label as usize].0.unwrap();
                let statuses: Vec<ValueStatus> =
                    with_row.iter().map(|label| seen[*label as usize].1).collect();
                if with_row.is_empty() {
                    continue;
                }
                if !by_column {
                    let places = arrow::array::UInt32Array::from_iter_values(with_row.iter().map(row_of));
                    let taken: Vec<ArrayRef> =
                        columns.iter().map(|column| take(column, &places, None).unwrap()).collect();
                    dense.put(chunk, &with_row, &taken, 0..with_row.len(), &statuses);
                    continue;
                }
                // From two parts, whose rows have other numbers in their file; plain where they can be.
                let (first, half) = (1000, rows / 2);
                let row = |label: &u64| dense.row(chunk, first + row_of(label), *label);
                let wanted: Vec<DenseRow> = with_row.iter().map(row).collect();
                dense.put_statuses(chunk, &wanted, statuses.into_iter());
                for (feature, column) in columns.iter().enumerate() {
                    for part in [0..half, half..rows] {
                        let array = column.slice(part.start, part.len());
                        let range = first + part.start as u32..first + part.end as u32;
                        let wanted: Vec<DenseRow> =
                            wanted.iter().filter(|row| range.contains(&row.row)).copied().collect();
                        let data = array.to_data();
                        let width = array.data_type().primitive_width().filter(|width| *width <= 8);
                        let bytes = width.filter(|_| array.null_count() == 0).map(|width| {
                            &data.buffers()[0].as_slice()[data.offset() * width..][..part.len() * width]
                        });
                        let plain = |bytes| ColumnValues::Plain(PlainValues { bytes, present: None });
                        let values = bytes.map_or(ColumnValues::Array(&array), plain);
                        let from = ColumnRows { first: range.start, count: part.len(), values };
                        dense.put_column(chunk, &[feature], &from, &wanted);
                    }
                }
            }
            let places: arrow::array::UInt32Array = seen.iter().map(|(row, _)| *row).collect();
            let mut found: Vec<Vec<ArrayRef>> = vec![Vec::new(); columns.len()];
            let mut statuses = Vec::new();
            for chunk in 0..labels.div_ceil(chunk_rows) {
                let rows = (labels - chunk * chunk_rows).min(chunk_rows) as usize;
                let (made, of_chunk) = dense.take(chunk as usize).unwrap().unwrap_or_else(|| {
                    let nulls = columns.iter().map(|column| new_null_array(column.data_type(), rows));
                    (nulls.collect(), vec![ValueStatus::Missing as u8; rows])
                });
                made.into_iter().zip(&mut found).for_each(|(made, found)| found.push(made));
                statuses.extend(of_chunk);
            }
            assert_eq!(statuses, seen.iter().map(|(_, status)| *status as u8).collect::<Vec<_>>());
            for (column, found) in columns.iter().zip(&found) {
                let found = concat(&found.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap();
                assert_eq!(found.as_ref(), take(column, &places, None).unwrap().as_ref(), "round {round}");
            }
            assert!(budget.add(0), "all was given back");
        }
    }
}
