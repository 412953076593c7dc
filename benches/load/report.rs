//! Figures: collected over the rounds, shown as medians with their spread, as a table or as JSON.
//!
//! A median with its range shows how much a figure varies. It must never show a mean, which one
//! slow round distorts.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Figures of one scenario: a row per server, a column per measure, and in each cell a value per
/// round.
pub(crate) struct Sheet {
    pub(crate) title: String,
    rows: Vec<(String, Vec<Cell>)>,
    /// Notes that a reader needs to understand the figures.
    notes: Vec<String>,
}

struct Cell {
    column: &'static str,
    values: Vec<f64>,
}

impl Sheet {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), rows: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: &str, column: &'static str, value: f64) {
        let index = self.rows.iter().position(|(name, _)| name == row).unwrap_or_else(|| {
            self.rows.push((row.to_owned(), Vec::new()));
            self.rows.len() - 1
        });
        let cells = &mut self.rows[index].1;
        match cells.iter_mut().find(|cell| cell.column == column) {
            Some(cell) => cell.values.push(value),
            None => cells.push(Cell { column, values: vec![value] }),
        }
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Returns the figures as a Markdown table.
    pub(crate) fn table(&self) -> String {
        let mut columns: Vec<&str> = Vec::new();
        for cell in self.rows.iter().flat_map(|(_, cells)| cells) {
            if !columns.contains(&cell.column) {
                columns.push(cell.column);
            }
        }
        let mut text = format!(
            "\n{}\n\n| server | {} |\n|---|{}\n",
            self.title,
            columns.join(" | "),
            "---|".repeat(columns.len())
        );
        for (name, cells) in &self.rows {
            let cell = |column: &&str| {
                cells.iter().find(|cell| cell.column == *column).map_or("–".into(), Cell::text)
            };
            let cells: Vec<String> = columns.iter().map(cell).collect();
            // writing to a String does not fail
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let cell =
            |cell: &Cell| (cell.column.to_owned(), json!({"median": cell.median(), "rounds": cell.values}));
        let rows = self.rows.iter().map(|(name, cells)| (name.clone(), cells.iter().map(cell).collect()));
        json!({"scenario": self.title, "servers": rows.collect::<serde_json::Map<_, _>>(), "notes": self.notes})
    }
}

impl Cell {
    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self) -> f64 {
        let values = self.sorted();
        let middle = values.len() / 2;
        if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
    }

    fn text(&self) -> String {
        let values = self.sorted();
        match values.as_slice() {
            [value] => figure(*value),
            [least, .., most] => format!("{} ({}–{})", figure(self.median()), figure(*least), figure(*most)),
            [] => "–".to_owned(),
        }
    }
}

/// Formats a figure with at least three digits, and with two decimal places at most.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}
