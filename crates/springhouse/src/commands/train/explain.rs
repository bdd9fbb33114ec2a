//! How a training set is made, in words and tables.

use crate::output;
use comfy_table::Table;
use indicatif::{HumanBytes, HumanCount};
use springhouse_core::time::format_instant;
use springhouse_lake::{MadeReport, PassKind, PassReport, TrainingReport, ViewWay};

/// The plan.
pub(crate) fn plan(report: &TrainingReport) -> String {
    let mut parts = vec![format!("{}\n{}", labels(report), how(report))];
    if !report.views.is_empty() {
        parts.extend([views(report), sources(report), reading(report)]);
    }
    parts.join("\n\n")
}

/// What was read, and what it took.
pub(crate) fn made(report: &TrainingReport) -> String {
    let mut parts = Vec::new();
    if !report.views.is_empty() {
        parts.push(reading(report));
    }
    if let Some(made) = &report.made {
        parts.push(stages(made));
        let spilled = match made.spilled_bytes {
            0 => "nothing spilled to disk".to_owned(),
            bytes => {
                format!("{} spilled to disk (more --memory-mb spills less)", HumanBytes(bytes))
            }
        };
        parts.push(format!("{:.3} s in all, {spilled}", made.seconds));
    }
    parts.join("\n\n")
}

fn labels(report: &TrainingReport) -> String {
    let labels = &report.labels;
    let mut line = format!("labels  {}", labels.name);
    if labels.files > 0 {
        let files = if labels.files == 1 { "1 file".to_owned() } else { format!("{} files", labels.files) };
        line += &format!(" ({files}, {})", HumanBytes(labels.bytes));
    }
    line += &match (labels.rows, labels.rows_stored) {
        (Some(rows), Some(stored)) if rows != stored => {
            format!(": {} of {} rows", HumanCount(rows), HumanCount(stored))
        }
        (Some(rows), _) => format!(": {} rows", HumanCount(rows)),
        (None, _) => String::new(),
    };
    if let (Some(first), Some(last)) = (labels.first, labels.last) {
        line += &format!(", {} to {}", format_instant(first), format_instant(last));
    }
    line
}

fn how(report: &TrainingReport) -> String {
    format!(
        "output  {} columns, {}\nmemory  {} budget, {} threads, entities in {}",
        report.columns,
        report.format,
        HumanBytes(report.memory_budget),
        report.threads,
        match report.partitions {
            1 => "one part".to_owned(),
            several => format!("{several} parts"),
        }
    )
}

fn views(report: &TrainingReport) -> String {
    let mut table = output::table(&["view", "entity", "source", "features", "pass", "way"]);
    for view in &report.views {
        table.add_row([
            view.view.clone(),
            view.entity.clone(),
            view.source.clone(),
            format!("{} of {}", view.features, view.features_defined),
            (view.pass + 1).to_string(),
            match view.way {
                ViewWay::LatestRow => "keys and times first, then the rows that labels see",
                ViewWay::Aggregate => "inputs read once, aggregated for all windows",
            }
            .to_owned(),
        ]);
    }
    text(&table)
}

fn sources(report: &TrainingReport) -> String {
    let mut table = output::table(&["source", "files", "size", "rows"]);
    for source in &report.sources {
        table.add_row([
            source.source.clone(),
            source.files.to_string(),
            HumanBytes(source.bytes).to_string(),
            HumanCount(source.rows).to_string(),
        ]);
    }
    text(&table)
}

fn reading(report: &TrainingReport) -> String {
    let mut table = output::table(&[
        "read",
        "for",
        "row groups",
        "left out",
        "bytes",
        "left out",
        "rows",
        "kept",
        "columns",
    ]);
    for source in &report.sources {
        for pass in &source.passes {
            table.add_row(pass_row(&source.source, pass));
        }
    }
    text(&table)
}

fn pass_row(source: &str, pass: &PassReport) -> [String; 9] {
    let at_most = if pass.at_most { "<= " } else { "" };
    [
        source.to_owned(),
        match pass.kind {
            PassKind::Events => "events",
            PassKind::Rows => "rows seen",
            PassKind::Cached => "cached events",
        }
        .to_owned(),
        format!("{at_most}{}", pass.parts - pass.parts_pruned),
        pass.parts_pruned.to_string(),
        format!("{at_most}{}", HumanBytes(pass.bytes)),
        HumanBytes(pass.bytes_pruned).to_string(),
        format!("{at_most}{}", HumanCount(pass.rows)),
        pass.rows_kept.map_or_else(String::new, |rows| HumanCount(rows).to_string()),
        pass.columns.join(", "),
    ]
}

fn stages(made: &MadeReport) -> String {
    let mut table = output::table(&["stage", "of", "seconds"]);
    for stage in &made.stages {
        table.add_row([stage.stage.to_owned(), stage.of.clone(), format!("{:.3}", stage.seconds)]);
    }
    text(&table)
}

/// Without the blanks that a table ends its lines with.
fn text(table: &Table) -> String {
    let table = table.to_string();
    table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
