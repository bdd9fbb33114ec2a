//! What the demo tells, as it happens.

use crate::output;
use std::time::Instant;

/// The page, printed line by line.
#[derive(Debug)]
pub(crate) struct Page {
    begun: Instant,
    steps: u32,
}

impl Page {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), steps: 0 }
    }

    pub(crate) fn title(&self, text: &str) {
        output::data(&format!("\n{text}\n{}", "=".repeat(text.chars().count())));
    }

    pub(crate) fn step(&mut self, text: &str) {
        self.steps += 1;
        output::data(&format!("\n{}. {text}  [{:.1} s]", self.steps, self.begun.elapsed().as_secs_f64()));
    }

    /// A paragraph, wrapped.
    pub(crate) fn text(&self, text: &str) {
        const WIDTH: usize = 100;
        let indent = text.len() - text.trim_start().len();
        if text.contains("->") || text.contains('|') {
            return output::data(&format!("   {text}"));
        }
        let mut line = String::new();
        for word in text.split_whitespace() {
            if line.len() + word.len() > WIDTH {
                output::data(&format!("   {}{line}", " ".repeat(indent)));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        output::data(&format!("   {}{line}", " ".repeat(indent)));
    }

    pub(crate) fn end(&self) {
        output::data(&format!("\nDone in {:.1} s.", self.begun.elapsed().as_secs_f64()));
    }
}
