//! Aligned text: the first column to the left, the others to the right.

/// Space between two columns.
const GAP: usize = 2;

/// Rows of cells; a row may be shorter than the widest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table with a line under its first row.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                match column {
                    0 => line.push_str(&format!("{cell}{padding}")),
                    _ => line.push_str(&format!("{}{padding}{cell}", " ".repeat(GAP))),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
            if number == 0 {
                text.push_str(&"-".repeat(widths.iter().sum::<usize>() + GAP * columns.saturating_sub(1)));
                text.push('\n');
            }
        }
        text
    }
}

/// A number with three significant digits, or whole when it has more before the point.
pub(crate) fn significant(value: f64) -> String {
    let magnitude = value.abs();
    let decimals = match magnitude {
        _ if magnitude >= 100.0 || magnitude == 0.0 => 0,
        _ if magnitude >= 10.0 => 1,
        _ if magnitude >= 1.0 => 2,
        _ if magnitude >= 0.1 => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::default();
        table.row(["measure", "none", "mesh"]);
        table.row(["µs", "1.5", "12"]);
        table.row(["longest name", "n/a"]);
        assert_eq!(
            table.render(),
            "measure       none  mesh\n\
             ------------------------\n\
             µs             1.5    12\n\
             longest name   n/a\n"
        );
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [0.0, 0.01234, 0.5678, 1.2345, 23.456, 345.6, 7890.1].map(significant);
        assert_eq!(shown, ["0", "0.0123", "0.568", "1.23", "23.5", "346", "7890"]);
    }
}
