//! How answers are printed: a table for people, JSON and YAML for programs; once, or again and again.

use std::io::{IsTerminal, stdout};
use std::thread::sleep;
use std::time::Duration;

use clap::{Args, ValueEnum};
use fairway_lab::render::MAX_COLUMNS;
use fairway_lab::{Error, Result};
use serde::Serialize;

/// Pause between two looks of `--watch`.
const WATCH_PAUSE: Duration = Duration::from_secs(2);
/// Moves a terminal's cursor to its top and clears what is below (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[J";
/// What begins a colour, and what ends it.
const ESCAPE: char = '\x1b';
const ESCAPE_END: char = 'm';

/// How a command prints what it found.
#[derive(Debug, Args)]
pub(crate) struct Format {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Look again every other second, until interrupted
    #[arg(short, long)]
    watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people, in 100 columns
    #[value(alias = "text")]
    Table,
    /// For people, as wide as it gets
    Wide,
    Json,
    Yaml,
}

impl Format {
    /// Prints `data`, or for people what `table` makes of it; it hears whether there are colours.
    ///
    /// # Errors
    /// When `data` cannot be written down.
    pub(crate) fn print(&self, data: &impl Serialize, table: impl FnOnce(bool) -> String) -> Result<()> {
        let text = match self.output {
            Output::Table => table(stdout().is_terminal()).lines().map(|line| format!("{}\n", cut(line))).collect(),
            Output::Wide => table(stdout().is_terminal()),
            Output::Json => serde_json::to_string_pretty(data).map_err(failed)?,
            Output::Yaml => serde_saphyr::to_string(data).map_err(failed)?,
        };
        if self.watch && self.is_table() && stdout().is_terminal() {
            fairway_lab::say!("{CLEAR}{}", text.trim_end());
        } else {
            fairway_lab::say!("{}", text.trim_end());
        }
        Ok(())
    }

    /// Looks once, or until interrupted where it is to be watched.
    ///
    /// # Errors
    /// The first look's; later ones are told of, and it goes on: what is watched may just be restarting.
    pub(crate) fn follow<T>(&self, mut look: impl FnMut() -> Result<T>) -> Result<T> {
        let first = look()?;
        if !self.watch {
            return Ok(first);
        }
        loop {
            sleep(WATCH_PAUSE);
            if let Err(error) = look() {
                fairway_lab::complain!("error: {error}");
            }
        }
    }

    /// Whether it goes on until interrupted.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch
    }

    /// Whether people read it.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self.output, Output::Table | Output::Wide)
    }
}

/// What of a line fits; colours take no place, and end with what they are of.
fn cut(line: &str) -> String {
    let (mut text, mut used, mut in_escape, mut is_coloured) = (String::new(), 0, false, false);
    let length = {
        let mut inside = false;
        line.chars()
            .filter(|character| {
                inside |= *character == ESCAPE;
                let counts = !inside;
                inside &= *character != ESCAPE_END;
                counts
            })
            .count()
    };
    if length <= MAX_COLUMNS {
        return line.trim_end().to_owned();
    }
    for character in line.chars() {
        in_escape |= character == ESCAPE;
        is_coloured |= in_escape;
        if !in_escape {
            if used == MAX_COLUMNS - 1 {
                break;
            }
            used += 1;
        }
        text.push(character);
        in_escape &= character != ESCAPE_END;
    }
    text.push('…');
    if is_coloured {
        text.push_str("\x1b[0m");
    }
    text
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new("writing the answer down").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_whatever_their_colours() {
        let long = "x".repeat(120);
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"x".repeat(100)).chars().count(), 100);
        assert_eq!(cut(&long).chars().count(), 100);
        assert!(cut(&long).ends_with('…'));
        let coloured = format!("\x1b[32myes\x1b[0m {}", "y".repeat(90));
        assert_eq!(cut(&coloured), coloured, "colours take no place");
        let coloured = format!("\x1b[32myes\x1b[0m {long}");
        let text = cut(&coloured);
        assert!(text.starts_with("\x1b[32myes\x1b[0m x") && text.ends_with("…\x1b[0m"), "{text}");
    }
}
