//! Go templates, as far as the chart uses them: what is understood is rendered as Helm renders it, and everything else is
//! an error. A test holds both against each other.

mod evaluate;
mod functions;
mod lex;
mod parse;

use std::collections::BTreeMap;

use serde_json::Value;

/// What is wrong, and on which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Failure {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

type Result<T> = std::result::Result<T, Failure>;

/// Templates that know each other by what they define.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    defined: BTreeMap<String, Vec<parse::Node>>,
    files: BTreeMap<String, Vec<parse::Node>>,
}

impl Templates {
    /// Reads one more.
    pub(crate) fn add(&mut self, name: &str, text: &str) -> Result<()> {
        let nodes = parse::parse(text, &mut self.defined)?;
        self.files.insert(name.to_owned(), nodes);
        Ok(())
    }

    /// Renders the one of this name with `dot`.
    pub(crate) fn render(&self, name: &str, dot: &Value) -> Result<String> {
        let nodes = self.files.get(name).map(Vec::as_slice).unwrap_or_default();
        evaluate::render(nodes, &self.defined, dot)
    }
}

#[cfg(test)]
mod tests;
