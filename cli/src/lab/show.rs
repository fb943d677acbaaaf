//! `fairway lab status`.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use fairway_lab::layout::Layout;
use fairway_lab::{Error, Result, lab, manage, status};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Prints the state of a lab; when there is none of that name, the labs there are.
pub(crate) fn status(layout: &Layout, arguments: &Arguments) -> Result<ExitCode> {
    if manage::supervisor(layout).is_none() {
        return Err(not_running(layout)?);
    }
    let state = lab::status_of(layout)?;
    match arguments.output {
        Output::Table => fairway_lab::say!("{}", status::tables(&state, stdout().is_terminal()).trim_end()),
        Output::Json => {
            let text = serde_json::to_string_pretty(&state)
                .map_err(|error| Error::new("describing the lab").because(error))?;
            fairway_lab::say!("{text}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn not_running(layout: &Layout) -> Result<Error> {
    let name = layout.name();
    if layout.root().exists() {
        return Ok(Error::new(format!("lab `{name}` was killed"))
            .hint(format!("remove what is left: fairway lab --lab {name} down")));
    }
    let labs = manage::list()?;
    let hint = if labs.is_empty() {
        "bring it up with `fairway lab up`".to_owned()
    } else {
        let names: Vec<String> = labs.iter().map(|lab| lab.layout.name()).collect();
        format!("choose one with --lab: {}", names.join(", "))
    };
    Ok(Error::new(format!("there is no lab called `{name}`")).hint(hint))
}
