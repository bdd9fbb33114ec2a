//! Several expressions over one row, some built on others, with filters between them: compiled to a list of steps.

use crate::check::parse;
use crate::error::ExprError;
use crate::expression::Expression;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::compute::{filter, prep_null_mask_filter, take};
use springhouse_core::ValueType;
use std::sync::Arc;

/// Names in scope, with what each stands for.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    columns: Vec<(String, ValueType)>,
    derived: Vec<(String, Expression)>,
    /// Derived columns that did not plan: what uses them has no error of its own.
    broken: Vec<(String, ValueType)>,
}

impl Scope {
    /// A scope of columns that the batch brings.
    pub(crate) fn new(columns: Vec<(String, ValueType)>) -> Self {
        Self { columns, derived: Vec::new(), broken: Vec::new() }
    }

    /// Plans a further column over everything named before it.
    pub(crate) fn derive(&mut self, name: &str, sql: &str) -> Result<ValueType, ExprError> {
        let all = self.names();
        if all.iter().any(|(known, _)| known == name) {
            return Err(ExprError::new(format!("`{name}` is already the name of a column"))
                .with_hint("give the derived column another name"));
        }
        let expression = Expression::plan(sql, &all).inspect_err(|_| {
            // The type is of no account: nothing is evaluated over it.
            self.broken.push((name.to_owned(), ValueType::Json));
        })?;
        let value_type = expression.value_type().clone();
        self.derived.push((name.to_owned(), expression));
        Ok(value_type)
    }

    /// Everything that can be named now.
    pub(crate) fn names(&self) -> Vec<(String, ValueType)> {
        let derived = self.derived.iter().map(|(name, e)| (name.clone(), e.value_type().clone()));
        self.columns.iter().cloned().chain(derived).collect()
    }

    /// Plans a condition over everything named before it.
    pub(crate) fn predicate(&self, sql: &str) -> Result<Expression, ExprError> {
        Expression::plan_predicate(sql, &self.names())
    }

    /// True for a derived column that did not plan.
    pub(crate) fn is_broken(&self, name: &str) -> bool {
        self.broken.iter().any(|(broken, _)| broken == name)
    }

    /// True when `sql` reads a column that did not plan, so that its own failure says nothing new.
    pub(crate) fn reads_broken(&self, sql: &str) -> bool {
        let mut all = self.names();
        all.extend(self.broken.iter().cloned());
        parse(sql, &all).is_ok_and(|(_, used)| used.iter().any(|name| self.is_broken(name)))
    }

    fn find(&self, name: &str) -> Option<Option<&Expression>> {
        if self.columns.iter().any(|(column, _)| column == name) {
            return Some(None);
        }
        self.derived.iter().find(|(derived, _)| derived == name).map(|(_, expression)| Some(expression))
    }
}

/// What to do with a batch, in order. A slot holds an array; every slot is written once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps {
    steps: Vec<Step>,
    slot_count: usize,
    /// The batch's columns that are read.
    columns: Vec<String>,
    outputs: Vec<usize>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Takes a column of the batch (of the rows kept so far).
    Load { column: usize, slot: usize },
    /// Evaluates over slots.
    Compute { expression: Expression, inputs: Vec<usize>, slot: usize },
    /// Keeps rows where it is true. `live`: the slots that later steps or outputs read.
    Filter { predicate: usize, live: Vec<usize> },
}

/// Builds [`Steps`], asking for each name only when something needs it: what is not used is not computed, and what only
/// the features need is computed after the filters.
#[derive(Debug, Default)]
pub(crate) struct StepsBuilder {
    steps: Steps,
    slots: Vec<(String, usize)>,
}

impl StepsBuilder {
    fn slot_of(&mut self, scope: &Scope, name: &str) -> usize {
        if let Some((_, slot)) = self.slots.iter().find(|(known, _)| known == name) {
            return *slot;
        }
        let slot = match scope.find(name).expect("expressions were planned over this scope's names") {
            None => {
                let slot = self.new_slot();
                self.steps.steps.push(Step::Load { column: self.steps.columns.len(), slot });
                self.steps.columns.push(name.to_owned());
                slot
            }
            Some(expression) => self.compute(scope, expression),
        };
        self.slots.push((name.to_owned(), slot));
        slot
    }

    fn compute(&mut self, scope: &Scope, expression: &Expression) -> usize {
        let inputs = expression.columns().iter().map(|name| self.slot_of(scope, name)).collect();
        let slot = self.new_slot();
        self.steps.steps.push(Step::Compute { expression: expression.clone(), inputs, slot });
        slot
    }

    fn new_slot(&mut self) -> usize {
        self.steps.slot_count += 1;
        self.steps.slot_count - 1
    }

    /// From here on only rows where `predicate` is true.
    pub(crate) fn filter(&mut self, scope: &Scope, predicate: &Expression) {
        let predicate = self.compute(scope, predicate);
        self.steps.steps.push(Step::Filter { predicate, live: Vec::new() });
    }

    /// The next output is the column `name`.
    pub(crate) fn output(&mut self, scope: &Scope, name: &str) {
        let slot = self.slot_of(scope, name);
        self.steps.outputs.push(slot);
    }

    /// The next output is `expression`.
    pub(crate) fn output_of(&mut self, scope: &Scope, expression: &Expression) {
        let slot = self.compute(scope, expression);
        self.steps.outputs.push(slot);
    }

    pub(crate) fn finish(mut self) -> Steps {
        let mut live = self.steps.outputs.clone();
        for step in self.steps.steps.iter_mut().rev() {
            match step {
                Step::Load { .. } => {}
                Step::Compute { inputs, .. } => live.extend_from_slice(inputs),
                Step::Filter { predicate, live: kept } => {
                    live.sort_unstable();
                    live.dedup();
                    kept.clone_from(&live);
                    live.push(*predicate);
                }
            }
        }
        self.steps
    }
}

/// What is left of a batch, and the outputs over that.
#[derive(Debug)]
pub(crate) struct StepsOutput {
    /// The rows kept, by number; None = all.
    pub(crate) rows: Option<UInt32Array>,
    /// In the order asked for.
    pub(crate) arrays: Vec<ArrayRef>,
}

impl Steps {
    /// The batch's columns that are read.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Runs over `row_count` rows; `column` gives an array by its place in [`Self::columns`] and its name.
    pub(crate) fn run(&self, row_count: usize, column: &dyn Fn(usize, &str) -> ArrayRef) -> StepsOutput {
        let mut slots: Vec<Option<ArrayRef>> = vec![None; self.slot_count];
        let mut rows: Option<UInt32Array> = None;
        let read = |slots: &[Option<ArrayRef>], slot: usize| {
            Arc::clone(
                slots[slot].as_ref().expect("a slot is written before it is read, and kept while live"),
            )
        };
        for step in &self.steps {
            match step {
                Step::Load { column: at, slot } => {
                    let array = column(*at, &self.columns[*at]);
                    slots[*slot] = Some(match &rows {
                        None => array,
                        Some(rows) => take(&array, rows, None).expect("row numbers are inside the batch"),
                    });
                }
                Step::Compute { expression, inputs, slot } => {
                    let arrays = inputs.iter().map(|input| read(&slots, *input)).collect();
                    let kept = rows.as_ref().map_or(row_count, |rows| rows.len());
                    slots[*slot] = Some(expression.evaluate_arrays(arrays, kept));
                }
                Step::Filter { predicate, live } => {
                    let mask = read(&slots, *predicate);
                    keep(mask.as_boolean(), live, &mut slots, &mut rows);
                }
            }
        }
        StepsOutput { rows, arrays: self.outputs.iter().map(|slot| read(&slots, *slot)).collect() }
    }
}

fn keep(mask: &BooleanArray, live: &[usize], slots: &mut [Option<ArrayRef>], rows: &mut Option<UInt32Array>) {
    let mask = if mask.null_count() == 0 { mask.clone() } else { prep_null_mask_filter(mask) };
    if mask.true_count() == mask.len() {
        return;
    }
    *rows = Some(match rows.as_ref() {
        // A batch has far fewer rows than 2^32: Arrow readers bound it.
        None => mask.values().set_indices().map(|row| row as u32).collect::<Vec<_>>().into(),
        Some(rows) => mask.values().set_indices().map(|row| rows.value(row)).collect::<Vec<_>>().into(),
    });
    for (slot, array) in slots.iter_mut().enumerate() {
        if live.binary_search(&slot).is_err() {
            *array = None;
        } else if let Some(array) = array {
            *array = filter(array, &mask).expect("the mask has the array's length");
        }
    }
}
