//! `fairway check`: whether a mesh can be installed, or one that runs is well; each failure with what to do about it.

mod decide;
mod facts;
mod gather;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use fairway_lab::Result;
use fairway_lab::render::{Tone, paint, wrap};
use serde::Serialize;

use crate::mesh::{Mesh, Where};
use crate::output::Format;
use decide::{Check, Outcome, Section, worst};

/// Pause between two looks while it is waited.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Widest line of a finding.
const LINE: usize = 92;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Look at what must hold before the mesh is installed
    #[arg(long)]
    pre: bool,
    /// Look again for so many seconds, until nothing has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

/// The whole answer; the schema of `-o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    /// The worst of all checks.
    outcome: Outcome,
    sections: Vec<Section>,
}

/// Looks, prints, and fails when a check has.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.format.follow(|| once(arguments))
}

fn once(arguments: &Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let sections = loop {
        let sections = look(arguments)?;
        if worst(&sections) != Outcome::Failed || began.elapsed() >= Duration::from_secs(arguments.wait) {
            break sections;
        }
        sleep(LOOK_PAUSE);
    };
    let answer = Answer { outcome: worst(&sections), sections };
    arguments.format.print(&answer, |colour| shown(&answer, colour))?;
    Ok(if answer.outcome == Outcome::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is to be said of a mesh that runs.
pub(crate) fn answer(place: &Where, mesh: &Mesh) -> Answer {
    let sections = decide::running(&gather::running(place, mesh));
    Answer { outcome: worst(&sections), sections }
}

fn look(arguments: &Arguments) -> Result<Vec<Section>> {
    if arguments.pre {
        return Ok(decide::before(&gather::before(&arguments.place)));
    }
    let mesh = arguments.place.mesh()?;
    Ok(answer(&arguments.place, &mesh).sections)
}

fn shown(answer: &Answer, colour: bool) -> String {
    let mut text = String::new();
    for section in &answer.sections {
        text.push_str(&format!("{}\n", section.title));
        for check in &section.checks {
            text.push_str(&told(check, colour));
        }
        text.push('\n');
    }
    let count = |outcome| {
        answer.sections.iter().flat_map(|section| &section.checks).filter(|check| check.outcome == outcome).count()
    };
    let (good, doubtful, failed) = (count(Outcome::Good), count(Outcome::Warning), count(Outcome::Failed));
    let (word, tone) = match answer.outcome {
        Outcome::Good => ("well", Tone::Good),
        Outcome::Warning => ("well, with warnings", Tone::Doubtful),
        Outcome::Failed => ("not well", Tone::Bad),
    };
    text.push_str(&format!("{}: {good} good, {doubtful} doubtful, {failed} failed\n", paint(word, tone, colour)));
    text
}

fn told(check: &Check, colour: bool) -> String {
    let (mark, tone) = match check.outcome {
        Outcome::Good => ("✓", Tone::Good),
        Outcome::Warning => ("‼", Tone::Doubtful),
        Outcome::Failed => ("×", Tone::Bad),
    };
    let mut text = format!("  {} {}\n", paint(mark, tone, colour), check.what);
    for finding in &check.findings {
        for (number, line) in wrap(finding, LINE).into_iter().enumerate() {
            text.push_str(&format!("    {} {line}\n", if number == 0 { "-" } else { " " }));
        }
    }
    if let Some(hint) = &check.hint {
        for (number, line) in wrap(hint, LINE - 4).into_iter().enumerate() {
            text.push_str(&format!("    {}{line}\n", if number == 0 { "fix: " } else { "     " }));
        }
    }
    text
}
