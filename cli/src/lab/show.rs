//! `fairway lab status`.

use std::process::ExitCode;

use fairway_lab::layout::Layout;
use fairway_lab::{Error, Result, lab, manage, status};

use crate::output::Format;

/// Prints the state of a lab; when there is none of that name, the labs there are.
pub(crate) fn status(layout: &Layout, format: &Format) -> Result<ExitCode> {
    if manage::supervisor(layout).is_none() {
        return Err(not_running(layout)?);
    }
    format.follow(|| {
        let state = lab::status_of(layout)?;
        format.print(&state, |colour| status::tables(&state, colour))?;
        Ok(ExitCode::SUCCESS)
    })
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
