//! `fairway lab apply`, `delete` and `label`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use fairway_core::source::Kind;
use fairway_lab::apply::{self, Report};
use fairway_lab::layout::Layout;
use fairway_lab::options::Config;
use fairway_lab::{Error, Result};

use super::up;

/// Which manifests.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// A file, a directory, or - for standard input; may be repeated
    #[arg(short, long = "filename", required = true)]
    files: Vec<String>,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    #[command(flatten)]
    files: Files,
    /// Wait until every component and pod is ready
    #[arg(long)]
    wait: bool,
}

/// Arguments of `label`.
#[derive(Debug, Args)]
pub(crate) struct Label {
    /// Kind of the object
    kind: LabelKind,
    /// Its name
    name: String,
    /// key=value sets a label, key- removes it
    #[arg(required = true, allow_hyphen_values = true)]
    changes: Vec<String>,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LabelKind {
    #[value(alias = "ns")]
    Namespace,
    #[value(alias = "po")]
    Pod,
    #[value(alias = "svc")]
    Service,
}

/// Applies manifests; fails when any document was refused.
pub(crate) fn apply(layout: &Layout, arguments: &ApplyArguments) -> Result<ExitCode> {
    let code = over(layout, &arguments.files, apply::apply)?;
    if arguments.wait && code == ExitCode::SUCCESS {
        up::wait(layout)?;
    }
    Ok(code)
}

/// Deletes the objects of manifests.
pub(crate) fn delete(layout: &Layout, files: &Files) -> Result<ExitCode> {
    over(layout, files, apply::delete)
}

fn over(layout: &Layout, files: &Files, act: fn(&Layout, &[apply::Input]) -> Result<Report>) -> Result<ExitCode> {
    // Without a lab there is nothing to change, and the error says so.
    Config::read(layout)?;
    let mut inputs = Vec::new();
    for file in &files.files {
        inputs.extend(apply::read(file)?);
    }
    if inputs.iter().all(is_empty) {
        return Err(Error::new(format!("there is no object in {}", files.files.join(", ")))
            .hint("name a file with manifests, or a directory with files that end in .yaml, .yml or .json"));
    }
    let report = act(layout, &inputs)?;
    for change in &report.changes {
        fairway_lab::say!("{} {}", change.object, change.what);
    }
    for error in &report.errors {
        fairway_lab::complain!("error: {error}");
    }
    Ok(if report.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether there is nothing but comments and marks between documents.
fn is_empty(input: &apply::Input) -> bool {
    input.text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---")
}

/// Changes labels.
pub(crate) fn label(layout: &Layout, label: &Label) -> Result<ExitCode> {
    Config::read(layout)?;
    let kind = match label.kind {
        LabelKind::Namespace => Kind::Namespace,
        LabelKind::Pod => Kind::Pod,
        LabelKind::Service => Kind::Service,
    };
    let change = apply::label(layout, kind, &label.namespace, &label.name, &label.changes)?;
    fairway_lab::say!("{} {}", change.object, change.what);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_objects_are_told_from_others() {
        for (text, expected) in [("", true), ("# later\n---\n\n", true), ("kind: Pod\n", false), ("nonsense", false)] {
            let input = apply::Input { name: "a.yaml".to_owned(), text: text.to_owned() };
            assert_eq!(is_empty(&input), expected, "{text:?}");
        }
    }
}
