//! A proxy's own configuration file: workloads, services and policies in YAML, in the format of Istio's ztunnel
//! (interop §11).
//!
//! Pure: text in, domain types out. Each entry is read into the message a controller would have sent and goes through
//! the same conversion, so that a file and a controller cannot mean different things by the same words. A file counts
//! as a whole: one fault, and none of it is used.

mod entry;
mod policy;
mod service;
#[cfg(test)]
mod tests;
mod watch;
mod workload;

use std::collections::HashSet;
use std::fmt;

use crate::policy::Policy;
use crate::service::Service;
use crate::snapshot::Update;
use crate::workload::Workload;
use crate::yaml::{self, FieldPath, Node, Place, Step};

pub use watch::{Reading, watch};

/// What entries of a file may leave out, because the proxy has a setting for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Trust domain of workloads that name none. Istio's proxy takes the empty one, which nobody can prove to be of.
    pub trust_domain: String,
    /// Cluster of workloads that name none.
    pub cluster_id: String,
}

/// A configuration file that was understood, entry by entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct LocalConfig {
    pub workloads: Vec<Workload>,
    pub services: Vec<Service>,
    pub policies: Vec<Policy>,
}

/// What is wrong with a configuration file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", Where(self))]
pub struct LocalError {
    /// Line, from 1, where it is known.
    pub line: Option<u32>,
    /// Column, from 1, where it is known.
    pub column: Option<u32>,
    /// The field, such as `policies[0].action`, unless it is the file as a whole.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// The place of an error, as its message begins.
struct Where<'a>(&'a LocalError);

impl fmt::Display for Where<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LocalError { line, column, field, .. } = self.0;
        if let Some(line) = line {
            write!(formatter, "line {line}")?;
            column.map_or(Ok(()), |column| write!(formatter, ", column {column}"))?;
            formatter.write_str(": ")?;
        }
        field.as_ref().map_or(Ok(()), |field| write!(formatter, "field `{field}`: "))
    }
}

impl LocalError {
    fn at(place: Place, field: Option<String>, message: impl Into<String>) -> Self {
        Self { line: place.line(), column: place.column(), field, message: message.into() }
    }

    fn in_field(root: &Node, path: &FieldPath, message: impl Into<String>) -> Self {
        Self::at(root.locate(path), (!path.is_empty()).then(|| path.to_string()), message)
    }
}

impl LocalConfig {
    /// Reads the text of a file.
    ///
    /// An empty file is a fault: it is what a reader sees of a file that is being written. A file that means to say
    /// nothing says `{}`.
    ///
    /// # Errors
    /// The first fault, with its place.
    pub fn parse(text: &str, defaults: &Defaults) -> Result<Self, LocalError> {
        let documents =
            yaml::documents(text).map_err(|fault| LocalError::at(fault.place, fault.field, fault.message))?;
        let root = match documents.as_slice() {
            [root] => root,
            [] => return Err(LocalError::at(Place::default(), None, "it is empty; write {} for no configuration")),
            [_, second, ..] => return Err(LocalError::at(second.place, None, "it must be one document")),
        };
        if let Some(unknown) = root.keys().find(|key| !["workloads", "services", "policies"].contains(key)) {
            let message = "unknown; there are workloads, services and policies";
            return Err(LocalError::in_field(root, &FieldPath::of(&[unknown]), message));
        }
        if !root.is_mapping() {
            return Err(LocalError::at(root.place, None, "it must have workloads, services and policies, each a list"));
        }
        Ok(Self {
            workloads: entry::read(root, "workloads", |entry: workload::Entry| entry.into_message(defaults))?,
            services: entry::read(root, "services", |entry: service::Entry| Ok(entry.into_message()))?,
            policies: entry::read(root, "policies", |entry: policy::Entry| Ok(entry.into_message()))?,
        })
        .and_then(|config: Self| config.without_duplicates(root))
    }

    /// What makes an empty world into this one.
    #[must_use]
    pub fn updates(self) -> Vec<Update> {
        let policies = self.policies.into_iter().map(Update::from);
        let services = self.services.into_iter().map(Update::from);
        policies.chain(services).chain(self.workloads.into_iter().map(Update::from)).collect()
    }

    fn without_duplicates(self, root: &Node) -> Result<Self, LocalError> {
        let uids = self.workloads.iter().map(|workload| workload.uid.as_str());
        let services = self.services.iter().map(|service| service.key.as_str());
        let policies = self.policies.iter().map(|policy| policy.key.as_str());
        let mut again = second_of(uids).map(|found| ("workloads", found));
        again = again.or_else(|| second_of(services).map(|found| ("services", found)));
        again = again.or_else(|| second_of(policies).map(|found| ("policies", found)));
        let Some((list, (index, key))) = again else { return Ok(self) };
        let path = FieldPath(vec![Step::Key(list.to_owned()), Step::Index(index)]);
        Err(LocalError::in_field(root, &path, format!("{key:?} is in the list before")))
    }
}

/// The first key that is there a second time, and where.
fn second_of<'a>(keys: impl Iterator<Item = &'a str>) -> Option<(usize, &'a str)> {
    let mut seen = HashSet::new();
    keys.enumerate().find(|(_, key)| !seen.insert(*key))
}
