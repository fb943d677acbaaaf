//! Aligned tables that fit a terminal.

/// Widest line printed.
pub const MAX_COLUMNS: usize = 100;
/// Spaces between columns.
const GAP: usize = 2;

/// Colour of a cell, used on terminals only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As is.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Not yet, or not quite.
    Doubtful,
    /// Something is wrong.
    Bad,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Doubtful => Some("33"),
            Self::Bad => Some("31"),
        }
    }
}

/// One cell.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

impl Cell {
    /// A coloured cell.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

/// Text in the colour of its tone, where there are colours.
#[must_use]
pub fn paint(text: &str, tone: Tone, colour: bool) -> String {
    match tone.code().filter(|_| colour) {
        Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
        None => text.to_owned(),
    }
}

/// A table: the header, and rows of as many cells. The last column is cut where the line would get too long.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<Cell>], colour: bool) -> String {
    fitted(header, rows, colour, MAX_COLUMNS)
}

/// As [`table`], as wide as it gets.
#[must_use]
pub fn wide_table(header: &[&str], rows: &[Vec<Cell>], colour: bool) -> String {
    fitted(header, rows, colour, usize::MAX)
}

fn fitted(header: &[&str], rows: &[Vec<Cell>], colour: bool, columns: usize) -> String {
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
            cells.chain([title.chars().count()]).max().unwrap_or_default()
        })
        .collect();
    let titles: Vec<Cell> = header.iter().map(|title| Cell::from(*title)).collect();
    std::iter::once(&titles).chain(rows).map(|row| line(row, &widths, colour, columns)).collect()
}

fn line(row: &[Cell], widths: &[usize], colour: bool, columns: usize) -> String {
    let mut line = String::new();
    let mut used = 0;
    for (cell, width) in row.iter().zip(widths) {
        let room = columns.saturating_sub(used);
        let text = cut(&cell.text, room.min(*width));
        let padding = (width + GAP).saturating_sub(text.chars().count());
        match cell.tone.code().filter(|_| colour) {
            Some(code) => line.push_str(&format!("\x1b[{code}m{text}\x1b[0m")),
            None => line.push_str(&text),
        }
        line.push_str(&" ".repeat(padding));
        used += width + GAP;
    }
    format!("{}\n", line.trim_end())
}

fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(1)).collect();
    if room == 0 { kept } else { kept + "…" }
}

/// Breaks a text between words into lines of at most `width` characters; a longer word gets a line of its own.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_stay_short() {
        let rows = vec![
            vec!["client".into(), Cell::toned("yes", Tone::Good), "x".repeat(200).into()],
            vec!["a-longer-name".into(), "no".into(), "ok".into()],
        ];
        let text = table(&["POD", "READY", "MESSAGE"], &rows, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "POD            READY  MESSAGE");
        assert_eq!(lines[2], "a-longer-name  no     ok");
        assert!(lines.iter().all(|line| line.chars().count() <= MAX_COLUMNS), "{text}");
        assert!(lines[1].ends_with('…'));
    }

    #[test]
    fn long_texts_are_wrapped_between_words() {
        assert_eq!(wrap("one two  three fourteen", 9), ["one two", "three", "fourteen"]);
        assert_eq!(wrap("abcdefghijkl x", 5), ["abcdefghijkl", "x"]);
    }

    #[test]
    fn colour_does_not_move_columns() {
        let rows = vec![vec![Cell::toned("yes", Tone::Good), "b".into()]];
        let text = table(&["A", "B"], &rows, true);
        assert!(text.ends_with("\x1b[32myes\x1b[0m  b\n"), "{text:?}");
    }
}
