//! Labels taken from a table by a query, row by row.

use crate::error::{LakeError, Result};
use crate::source::conform::{Place, conform};
use crate::source::zone::Zone;
use crate::training::label_table::{LabelTable, ZONE_FIX};
use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use springhouse_core::ValueType;
use springhouse_expr::{ExprError, Expression, RowOutput, RowQuery};
use springhouse_kernel::{arrow_type, value_type_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A query that was parsed; the table is not opened yet.
#[derive(Debug)]
pub(crate) struct ParsedLabelQuery(RowQuery);

/// A query over an opened table.
#[derive(Debug)]
pub(crate) struct LabelQuery {
    name: String,
    zone: Zone,
    schema: SchemaRef,
    outputs: Vec<Output>,
    filter: Option<Computed>,
    stored: SchemaRef,
    is_csv: bool,
}

#[derive(Debug)]
enum Output {
    /// A column of the table.
    Stored(usize),
    Computed(Computed),
}

/// An expression with the table's columns that it reads.
#[derive(Debug)]
struct Computed {
    expression: Expression,
    /// Position in the table and type, in the order of the expression's columns.
    reads: Vec<(usize, ValueType)>,
}

fn wrong(error: ExprError) -> LakeError {
    LakeError { code: "labels_bad_query", message: error.message, hint: error.hint }
}

impl LabelQuery {
    pub(crate) fn parse(sql: &str) -> Result<ParsedLabelQuery> {
        RowQuery::parse(sql).map(ParsedLabelQuery).map_err(wrong)
    }
}

impl ParsedLabelQuery {
    /// The path after FROM.
    pub(crate) fn table(&self) -> &str {
        self.0.table()
    }

    /// The types that the definitions say of the table's columns: a column that becomes a key has the key's type.
    pub(crate) fn declared(&self, types: &BTreeMap<String, ValueType>) -> BTreeMap<String, ValueType> {
        let mut declared = types.clone();
        for (column, name) in self.0.renamed() {
            match types.get(name) {
                Some(value_type) => declared.insert(column.to_owned(), value_type.clone()),
                None => declared.remove(column),
            };
        }
        declared
    }

    /// Plans it over the opened table.
    pub(crate) fn plan(&self, table: &LabelTable, name: &str, zone: Zone) -> Result<LabelQuery> {
        let columns: Vec<(String, Option<ValueType>)> = table
            .schema
            .fields()
            .iter()
            .map(|field| (field.name().clone(), readable_type(field.data_type())))
            .collect();
        let planned = self.0.plan(&columns).map_err(wrong)?;
        let position = |column: &str| {
            columns
                .iter()
                .position(|(name, _)| name == column)
                .ok_or_else(|| LakeError::internal("a query reads a column that its table lacks"))
        };
        let computed = |expression: Expression| -> Result<Computed> {
            let mut reads = Vec::with_capacity(expression.columns().len());
            for column in expression.columns() {
                let at = position(column)?;
                let value_type = columns[at].1.clone();
                reads.push((
                    at,
                    value_type.ok_or_else(|| LakeError::internal("an expression over an untyped column"))?,
                ));
            }
            Ok(Computed { expression, reads })
        };
        let (mut fields, mut outputs) = (Vec::new(), Vec::new());
        for (name, output) in planned.outputs {
            let (data_type, nullable, output) = match output {
                RowOutput::Column(column) => {
                    let at = position(&column)?;
                    let field = table.schema.field(at);
                    (field.data_type().clone(), field.is_nullable(), Output::Stored(at))
                }
                RowOutput::Computed(expression) => {
                    (arrow_type(expression.value_type()), true, Output::Computed(computed(expression)?))
                }
            };
            fields.push(Field::new(name, data_type, nullable));
            outputs.push(output);
        }
        let query = LabelQuery {
            name: name.to_owned(),
            zone,
            schema: Arc::new(Schema::new(fields)),
            outputs,
            filter: planned.filter.map(computed).transpose()?,
            stored: Arc::clone(&table.schema),
            is_csv: table.is_csv(),
        };
        // Types are checked before any row is read.
        let all: Vec<usize> = (0..query.outputs.len()).collect();
        let reads = query.stored_columns(&all);
        let empty =
            reads.iter().map(|column| new_empty_array(query.stored.field(*column).data_type())).collect();
        query.run(&query.stored_batch(&reads, empty)?, &all)?;
        Ok(query)
    }
}

impl LabelQuery {
    /// The columns of the answer.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether it leaves rows out.
    pub(crate) fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// The table's columns (sorted positions) that are read for some columns of the answer.
    pub(crate) fn stored_columns(&self, columns: &[usize]) -> Vec<usize> {
        let computed = columns.iter().flat_map(|column| match &self.outputs[*column] {
            Output::Stored(at) => vec![*at],
            Output::Computed(computed) => computed.reads.iter().map(|(at, _)| *at).collect(),
        });
        let filter = self.filter.iter().flat_map(|filter| filter.reads.iter().map(|(at, _)| *at));
        let read: BTreeSet<usize> = computed.chain(filter).collect();
        // Constants alone: some column must say how many rows there are.
        if read.is_empty() { vec![0] } else { read.into_iter().collect() }
    }

    fn stored_batch(&self, reads: &[usize], arrays: Vec<ArrayRef>) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(0));
        Ok(RecordBatch::try_new_with_options(Arc::new(self.stored.project(reads)?), arrays, &options)?)
    }

    /// Some columns of the answer, from a batch of [`Self::stored_columns`] of them.
    pub(crate) fn run(&self, stored: &RecordBatch, columns: &[usize]) -> Result<RecordBatch> {
        let reads = self.stored_columns(columns);
        let mut stored = stored.clone();
        if let Some(filter) = &self.filter {
            let mask = self.evaluate(filter, &stored, &reads)?;
            stored = filter_record_batch(&stored, mask.as_boolean())?;
        }
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
        for column in columns {
            arrays.push(match &self.outputs[*column] {
                Output::Stored(at) => Arc::clone(stored.column(place(&reads, *at))),
                Output::Computed(computed) => self.evaluate(computed, &stored, &reads)?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(stored.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::new(self.schema.project(columns)?), arrays, &options)?)
    }

    fn evaluate(&self, computed: &Computed, stored: &RecordBatch, reads: &[usize]) -> Result<ArrayRef> {
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for ((at, value_type), name) in computed.reads.iter().zip(computed.expression.columns()) {
            let array = stored.column(place(reads, *at));
            let conformed = conform(
                array,
                value_type,
                Place {
                    file: &self.name,
                    column: name,
                    zone: self.zone,
                    zone_fix: ZONE_FIX,
                    local_time_errors_are_null: false,
                    first_row: 0,
                    text: self.is_csv && array.data_type() == &DataType::Utf8,
                },
            )?;
            fields.push(Field::new(name, conformed.data_type().clone(), true));
            arrays.push(conformed);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(stored.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?;
        Ok(computed.expression.evaluate(&batch))
    }
}

fn place(reads: &[usize], column: usize) -> usize {
    reads.binary_search(&column).expect("every column read is in the list")
}

/// The type that a column is read as in an expression; None = it can only be passed through.
fn readable_type(data_type: &DataType) -> Option<ValueType> {
    match data_type {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => Some(ValueType::Int32),
        DataType::UInt32 | DataType::UInt64 => Some(ValueType::Int64),
        DataType::Float16 => Some(ValueType::Float32),
        DataType::LargeUtf8 | DataType::Utf8View => Some(ValueType::String),
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Some(ValueType::Bytes),
        DataType::Timestamp(..) => Some(ValueType::Timestamp),
        DataType::Date64 => Some(ValueType::Date),
        DataType::Dictionary(_, inner) => readable_type(inner),
        DataType::Boolean
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Decimal128(..) => value_type_of(data_type),
        _ => None,
    }
}
