//! How answers are printed: a table for people, JSON and YAML for programs.

use std::io::{IsTerminal, stdout};

use clap::{Args, ValueEnum};
use fairway_lab::{Error, Result};
use serde::Serialize;

/// How a command prints what it found.
#[derive(Debug, Args)]
pub(crate) struct Format {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    #[value(alias = "text")]
    Table,
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
            Output::Table => table(stdout().is_terminal()),
            Output::Json => serde_json::to_string_pretty(data).map_err(failed)?,
            Output::Yaml => serde_saphyr::to_string(data).map_err(failed)?,
        };
        fairway_lab::say!("{}", text.trim_end());
        Ok(())
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new("writing the answer down").because(error)
}
