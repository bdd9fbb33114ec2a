//! `SELECT ... FROM 'table' WHERE ...` over one table, row by row: what labels are taken from. Everything that needs more
//! than one row (joins, aggregates, an order) is refused, with what to do instead.

use crate::check;
use crate::error::ExprError;
use crate::expression::Expression;
use datafusion_sql::parser::{DFParserBuilder, Statement};
use datafusion_sql::sqlparser::ast::{
    Expr, GroupByExpr, ObjectNamePart, Query, Select, SelectItem, SetExpr, Statement as SqlStatement,
    TableFactor,
};
use springhouse_core::ValueType;

/// The longest query, in bytes; keeps planning and recursion bounded.
const QUERY_BYTES_MAX: usize = 64 * 1024;

/// A query that was parsed; its table is not known yet.
#[derive(Clone, Debug)]
pub struct RowQuery {
    table: String,
    items: Vec<Item>,
    filter: Option<String>,
}

#[derive(Clone, Debug)]
enum Item {
    /// Every column of the table.
    All,
    /// An expression and what it is called.
    Named { sql: String, name: String },
}

/// A query over a table whose columns are known.
#[derive(Clone, Debug)]
pub struct PlannedRowQuery {
    /// What each column of the answer is called, and where it comes from.
    pub outputs: Vec<(String, RowOutput)>,
    /// Which rows are in the answer: those where it is true.
    pub filter: Option<Expression>,
}

/// Where a column of the answer comes from.
#[derive(Clone, Debug)]
pub enum RowOutput {
    /// A column of the table, as it is.
    Column(String),
    /// Computed, row by row; a row on which it fails has null.
    Computed(Expression),
}

impl RowQuery {
    /// Parses a query.
    ///
    /// # Errors
    /// What is no SQL, or needs more than one row at a time.
    pub fn parse(sql: &str) -> Result<Self, ExprError> {
        if sql.len() > QUERY_BYTES_MAX {
            return Err(ExprError::new(format!("the query is longer than {QUERY_BYTES_MAX} bytes")));
        }
        let statements = DFParserBuilder::new(sql).build().and_then(|mut parser| parser.parse_statements());
        let mut statements =
            statements.map_err(|error| check::syntax_error(sql, &error.strip_backtrace(), "query"))?;
        let (Some(Statement::Statement(statement)), true) = (statements.pop_front(), statements.is_empty())
        else {
            return Err(not_a_select());
        };
        let SqlStatement::Query(query) = *statement else { return Err(not_a_select()) };
        let select = plain_select(&query)?;
        let table = table(select)?;
        let items = select.projection.iter().map(item).collect::<Result<Vec<_>, _>>()?;
        let filter = select.selection.as_ref().map(ToString::to_string);
        // Whatever else the grammar has: what is understood, written out, must be all there is.
        let projection: Vec<String> = select.projection.iter().map(ToString::to_string).collect();
        let mut understood = format!("SELECT {} FROM {}", projection.join(", "), table_text(select));
        if let Some(filter) = &filter {
            understood.push_str(&format!(" WHERE {filter}"));
        }
        if understood != query.to_string() {
            return Err(ExprError::new("the query has more than SELECT, FROM and WHERE").with_hint(
                "write the labels to a file with the tool that knows the rest, and name that file",
            ));
        }
        Ok(Self { table, items, filter })
    }

    /// What stands after FROM: the path of a file, a glob, or a table's folder.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// What may be columns that are passed through, alone: (column, name). One that is no column of the table is an
    /// expression.
    pub fn renamed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.items.iter().filter_map(|item| match item {
            Item::Named { sql, name } => Some((unquoted(sql), name.as_str())),
            Item::All => None,
        })
    }

    /// Plans it over a table's columns; those without a type can only be passed through.
    ///
    /// # Errors
    /// As [`Expression::plan`]; two columns of one name.
    pub fn plan(&self, columns: &[(String, Option<ValueType>)]) -> Result<PlannedRowQuery, ExprError> {
        let mut outputs: Vec<(String, RowOutput)> = Vec::new();
        for item in &self.items {
            match item {
                Item::All => {
                    outputs.extend(
                        columns.iter().map(|(name, _)| (name.clone(), RowOutput::Column(name.clone()))),
                    );
                }
                Item::Named { sql, name } => {
                    let column = columns.iter().find(|(column, _)| column == unquoted(sql));
                    let output = match column {
                        Some((column, _)) => RowOutput::Column(column.clone()),
                        None => RowOutput::Computed(plan_over(sql, columns, Expression::plan)?),
                    };
                    outputs.push((name.clone(), output));
                }
            }
        }
        if let Some((name, _)) = outputs
            .iter()
            .enumerate()
            .find(|(at, (name, _))| outputs[..*at].iter().any(|o| o.0 == *name))
            .map(|f| f.1)
        {
            return Err(ExprError::new(format!("two columns of the query are called `{name}`"))
                .with_hint("give one of them another name with AS"));
        }
        let filter = self.filter.as_deref().map(|sql| plan_over(sql, columns, Expression::plan_predicate));
        Ok(PlannedRowQuery { outputs, filter: filter.transpose()? })
    }
}

type Plan = fn(&str, &[(String, ValueType)]) -> Result<Expression, ExprError>;

fn plan_over(
    sql: &str,
    columns: &[(String, Option<ValueType>)],
    plan: Plan,
) -> Result<Expression, ExprError> {
    // The type of a column without one is of no account: nothing is evaluated over it.
    let all: Vec<(String, ValueType)> =
        columns.iter().map(|(name, t)| (name.clone(), t.clone().unwrap_or(ValueType::Json))).collect();
    let within = |mut error: ExprError| {
        error.message = format!("in `{sql}`: {}", error.message);
        error.column = None;
        error
    };
    let (_, used) = check::parse(sql, &all).map_err(within)?;
    let untyped = |name: &&String| columns.iter().any(|(column, t)| column == *name && t.is_none());
    if let Some(name) = used.iter().find(untyped) {
        return Err(within(ExprError::new(format!("column `{name}` has a type that no expression takes")))
            .with_hint("it can only be selected as it is"));
    }
    plan(sql, &all).map_err(within)
}

/// A quoted name without its quotes; anything else as it is.
fn unquoted(sql: &str) -> &str {
    sql.strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .filter(|name| !name.contains('"'))
        .unwrap_or(sql)
}

fn not_a_select() -> ExprError {
    ExprError::new("the query is no single SELECT")
        .with_hint("write SELECT columns FROM 'file' WHERE condition")
}

fn refused(what: &str, hint: &str) -> ExprError {
    ExprError::new(format!("{what} in a query for labels: it sees one row at a time")).with_hint(hint)
}

fn plain_select(query: &Query) -> Result<&Select, ExprError> {
    const ELSEWHERE: &str = "write the labels to a file with a query engine, and name that file";
    if query.with.is_some() {
        return Err(refused("there is no WITH", ELSEWHERE));
    }
    let select = match query.body.as_ref() {
        SetExpr::Select(select) => select.as_ref(),
        SetExpr::SetOperation { op, .. } => {
            return Err(refused(
                &format!("there is no {op}"),
                "a glob such as 'labels/*.parquet' reads several files as one table",
            ));
        }
        _ => return Err(not_a_select()),
    };
    if query.order_by.is_some() {
        return Err(refused(
            "there is no ORDER BY",
            "rows keep the order of the table; sort its files, or the training set afterwards",
        ));
    }
    if query.limit_clause.is_some() || query.fetch.is_some() || select.top.is_some() {
        return Err(refused("there is no LIMIT", "take a sample: `--sample 1000` or `--sample 1%`"));
    }
    if select.distinct.is_some() {
        return Err(refused("there is no DISTINCT", ELSEWHERE));
    }
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, modifiers) => !expressions.is_empty() || !modifiers.is_empty(),
    };
    if grouped || select.having.is_some() {
        return Err(refused(
            "there is no GROUP BY",
            "aggregates over time are features: define them in a view",
        ));
    }
    Ok(select)
}

fn table(select: &Select) -> Result<String, ExprError> {
    let one_table = || {
        refused(
            "there is one table and no join",
            "columns that features are made of belong into views; join the others into the label file beforehand",
        )
    };
    let from = match select.from.as_slice() {
        [] => return Err(not_a_select()),
        [from] if from.joins.is_empty() => from,
        _ => return Err(one_table()),
    };
    match &from.relation {
        TableFactor::Table { args: Some(_), name, .. } => {
            Err(ExprError::new(format!("there is no table function `{name}`"))
                .with_hint("name the file alone: FROM 'labels/*.parquet'"))
        }
        TableFactor::Table { name, .. } => match name.0.as_slice() {
            [ObjectNamePart::Identifier(ident)] if ident.quote_style.is_some() => Ok(ident.value.clone()),
            _ => Err(ExprError::new(format!("`{name}` is no file"))
                .with_hint(format!("write its path in single quotes: FROM '{name}.parquet'"))),
        },
        TableFactor::Derived { .. } => Err(refused("there is no subquery", "write one SELECT over one file")),
        _ => Err(one_table()),
    }
}

/// What was understood of the table, written out.
fn table_text(select: &Select) -> String {
    match select.from.first().map(|from| &from.relation) {
        Some(TableFactor::Table { name, alias: Some(alias), .. }) => format!("{name} {alias}"),
        Some(TableFactor::Table { name, alias: None, .. }) => name.to_string(),
        _ => String::new(),
    }
}

fn item(item: &SelectItem) -> Result<Item, ExprError> {
    match item {
        SelectItem::Wildcard(_) if item.to_string() == "*" => Ok(Item::All),
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => {
            Ok(Item::Named { sql: Expr::Identifier(ident.clone()).to_string(), name: ident.value.clone() })
        }
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
            let last = parts.last().map_or("", |part| part.value.as_str());
            Err(ExprError::new(format!("`{item}` names a table; there is one only"))
                .with_hint(format!("write `{last}`")))
        }
        // `user` and the like, which the parser takes for functions.
        SelectItem::UnnamedExpr(expr) if check::word_of(expr).is_some() => {
            Ok(Item::Named { sql: expr.to_string(), name: unquoted(&expr.to_string()).to_owned() })
        }
        SelectItem::UnnamedExpr(expr) => {
            Err(ExprError::new(format!("`{expr}` has no name"))
                .with_hint(format!("give it one: {expr} AS name")))
        }
        SelectItem::ExprWithAlias { expr, alias } => {
            Ok(Item::Named { sql: expr.to_string(), name: alias.value.clone() })
        }
        _ => Err(ExprError::new(format!("`{item}` can't be selected"))
            .with_hint("select `*`, columns, and expressions with AS")),
    }
}
