//! Text in columns, for people.

use std::fmt::Write as _;

/// Space between two columns.
const GAP: usize = 2;

/// Rows under a heading, each column as wide as what it holds.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns whose text stands to the right: numbers.
    numbers: &'static [usize],
}

impl Table {
    /// A table with these headings. `numbers` are the columns of numbers.
    pub(super) fn new(headings: &[&str], numbers: &'static [usize]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()], numbers }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, each line ended; nothing when there are no rows.
    pub(super) fn text(&self) -> String {
        if self.rows.len() < 2 {
            return String::new();
        }
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let wide = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| wide(row, column)).max().unwrap_or_default())
            .collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match self.numbers.contains(&column) {
                    true => write!(line, "{cell:>width$}{:GAP$}", ""),
                    false => write!(line, "{cell:width$}{:GAP$}", ""),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_they_hold() {
        let mut table = Table::new(&["ROUTE", "REQUESTS"], &[1]);
        assert_eq!(table.text(), "");
        table.row(["orders-and-more".into(), "7".into()]);
        table.row(["ü".into(), "1200".into()]);
        assert_eq!(
            table.text(),
            "ROUTE            REQUESTS\norders-and-more         7\nü                    1200\n"
        );
    }
}
