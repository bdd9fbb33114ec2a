//! What may stand in an expression, checked on the parsed text, where positions are still known.

use crate::error::{ExprError, did_you_mean};
use crate::functions::{FUNCTIONS, Refusal, called_name};
use datafusion_sql::parser::DFParserBuilder;
use datafusion_sql::sqlparser::ast::{
    Expr, Function, FunctionArguments, Ident, ObjectNamePart, Query, Spanned, Value, ValueWithSpan, VisitMut,
    Visitor, VisitorMut,
};
use datafusion_sql::sqlparser::tokenizer::{Location, Span};
use springhouse_core::ValueType;
use std::ops::ControlFlow;

/// The longest expression, in bytes; keeps planning and recursion bounded.
const SQL_BYTES_MAX: usize = 16 * 1024;

/// Parses `sql` and checks everything that needs no types. Gives the tree and the columns it reads, in order.
pub(crate) fn parse(sql: &str, columns: &[(String, ValueType)]) -> Result<(Expr, Vec<String>), ExprError> {
    if sql.trim().is_empty() {
        return Err(ExprError::new("the expression is empty"));
    }
    if sql.len() > SQL_BYTES_MAX {
        return Err(ExprError::new(format!("the expression is longer than {SQL_BYTES_MAX} bytes")));
    }
    let parsed = DFParserBuilder::new(sql)
        .build()
        .and_then(|mut parser| parser.parse_into_expr())
        .map_err(|error| syntax_error(sql, &error.strip_backtrace(), "expression"))?;
    if let Some(alias) = parsed.alias {
        return Err(ExprError::new(format!("an expression has no `AS {alias}`; its name is its key"))
            .at(column_of(sql, alias.span.start)));
    }
    let mut expr = parsed.expr;
    let _: ControlFlow<()> = expr.visit(&mut ColumnsNamedAsFunctions(columns));
    let mut check = Check { sql, columns, used: Vec::new() };
    match datafusion_sql::sqlparser::ast::Visit::visit(&expr, &mut check) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok((expr, check.used)),
    }
}

/// The parser's message with its position taken out of the text, where it is ours to say.
pub(crate) fn syntax_error(sql: &str, text: &str, what: &str) -> ExprError {
    let message = text.lines().next().unwrap_or_default();
    let message = message.trim_start_matches("SQL error: ");
    let message = message.strip_prefix("ParserError(").unwrap_or(message).trim_end_matches(')');
    let message = message.strip_prefix("TokenizerError(").unwrap_or(message).trim_matches('"');
    let (message, position) = match message.rfind(" at Line: ") {
        Some(at) => (&message[..at], parse_position(&message[at..])),
        None => (message, None),
    };
    let column = position.and_then(|(line, column)| column_of(sql, Location { line, column }));
    ExprError::new(format!("this is no SQL {what}: {}", message.trim_start_matches("sql parser error: ")))
        .at(column)
}

fn parse_position(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The 1-based column in the whole text (line breaks count as one) of a position in it.
fn column_of(sql: &str, location: Location) -> Option<usize> {
    if location.line == 0 {
        return None;
    }
    let line = usize::try_from(location.line - 1).ok()?;
    let before: usize = sql.split('\n').take(line).map(|text| text.chars().count() + 1).sum();
    Some(before + usize::try_from(location.column).ok()?)
}

/// A few words (`user`, `current_date`) are functions without parentheses to the parser; where a column has that name, the
/// column is meant.
struct ColumnsNamedAsFunctions<'a>(&'a [(String, ValueType)]);

impl VisitorMut for ColumnsNamedAsFunctions<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(ident) = word_of(expr)
            && self.0.iter().any(|(column, _)| *column == ident.value)
        {
            *expr = Expr::Identifier(ident);
        }
        ControlFlow::Continue(())
    }
}

/// The name in an expression that is a function without parentheses.
pub(crate) fn word_of(expr: &Expr) -> Option<Ident> {
    match expr {
        Expr::Function(Function { name, args: FunctionArguments::None, over: None, .. }) => {
            match name.0.as_slice() {
                [ObjectNamePart::Identifier(ident)] => Some(ident.clone()),
                _ => None,
            }
        }
        _ => None,
    }
}

struct Check<'a> {
    sql: &'a str,
    columns: &'a [(String, ValueType)],
    used: Vec<String>,
}

impl Check<'_> {
    fn at(&self, span: Span) -> Option<usize> {
        column_of(self.sql, span.start)
    }

    fn identifier(&mut self, ident: &Ident) -> Result<(), ExprError> {
        let name = ident.value.as_str();
        if self.used.iter().any(|used| used == name) {
            return Ok(());
        }
        if self.columns.iter().any(|(column, _)| column == name) {
            self.used.push(name.to_owned());
            return Ok(());
        }
        let error = ExprError::new(format!("there is no column `{name}`")).at(self.at(ident.span));
        let names = || self.columns.iter().map(|(column, _)| column.as_str());
        Err(match did_you_mean(name, names()) {
            Some(meant) if meant.eq_ignore_ascii_case(name) => {
                error.with_hint(format!("did you mean `{meant}`? Names are case-sensitive"))
            }
            Some(meant) => error.with_hint(format!("did you mean `{meant}`?")),
            None if ident.quote_style == Some('"') => {
                error.with_hint(format!("text is written in single quotes: '{name}'"))
            }
            None => error.with_hint(format!("the columns are {}", names().collect::<Vec<_>>().join(", "))),
        })
    }

    fn expression(&mut self, expr: &Expr) -> Result<(), ExprError> {
        match expr {
            Expr::Identifier(ident) if ident.value.starts_with('@') && ident.quote_style.is_none() => {
                Err(ExprError::new(format!("there are no variables such as `{}`", ident.value))
                    .at(self.at(ident.span)))
            }
            Expr::Identifier(ident) => self.identifier(ident),
            Expr::CompoundIdentifier(parts) => {
                let last = parts.last().map_or("", |part| part.value.as_str());
                Err(ExprError::new(format!("`{expr}` names a table; a row's columns are named alone"))
                    .with_hint(format!("write `{last}`"))
                    .at(self.at(expr.span())))
            }
            Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => {
                Err(ExprError::new("`*` stands for no column; name one").at(self.at(expr.span())))
            }
            Expr::Function(function) => {
                let name = called_name(function);
                let at = self.at(function.name.span());
                if function.over.is_some() {
                    return Err(many_rows(&name).at(at));
                }
                FUNCTIONS.check(&name).map_err(|refusal| refused(&name, refusal).at(at))
            }
            _ => Ok(()),
        }
    }
}

fn many_rows(name: &str) -> ExprError {
    ExprError::new(format!("`{name}` works on many rows; an expression sees one row"))
        .with_hint("aggregate over time in a view's `aggregate:`")
}

fn refused(name: &str, refusal: Refusal) -> ExprError {
    match refusal {
        Refusal::NotDeterministic => ExprError::new(format!(
            "`{name}` is not deterministic: training and serving would see different values"
        ))
        .with_hint("use a column of the row; a request view has the moment asked for as `now`"),
        Refusal::Aggregate => many_rows(name),
        Refusal::Unknown => {
            let error = ExprError::new(format!("there is no function `{name}`"));
            match did_you_mean(name, FUNCTIONS.names()) {
                Some(meant) => error.with_hint(format!("did you mean `{meant}`?")),
                None => error,
            }
        }
    }
}

impl Visitor for Check<'_> {
    type Break = ExprError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<ExprError> {
        ControlFlow::Break(
            ExprError::new("an expression sees one row and has no subquery").at(self.at(query.span())),
        )
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<ExprError> {
        match self.expression(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<ExprError> {
        match &value.value {
            Value::Placeholder(name) => ControlFlow::Break(
                ExprError::new(format!("`{name}` is a placeholder, and nothing fills it"))
                    .at(self.at(value.span)),
            ),
            _ => ControlFlow::Continue(()),
        }
    }
}
