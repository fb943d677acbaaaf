//! One list of the file: each entry typed, converted, and its faults put where a reader finds them.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::LocalError;
use crate::invalid::Invalid;
use crate::policy::RejectedPolicy;
use crate::yaml::{FieldPath, Node, Step};

/// A fault that a typed entry found in itself: field, and what is wrong.
pub(super) type EntryFault = (&'static str, String);

/// What the common conversions say is wrong.
pub(super) trait Fault {
    fn invalid(&self) -> &Invalid;
}

impl Fault for Invalid {
    fn invalid(&self) -> &Invalid {
        self
    }
}

impl Fault for Box<RejectedPolicy> {
    fn invalid(&self) -> &Invalid {
        &self.error
    }
}

/// Reads the list `key` of the file: typed entries of `T`, made into messages by `message`, converted like those of a
/// controller.
pub(super) fn read<T, M, D>(
    root: &Node,
    key: &str,
    message: impl Fn(T) -> Result<M, EntryFault>,
) -> Result<Vec<D>, LocalError>
where
    T: DeserializeOwned,
    D: TryFrom<M, Error: Fault>,
{
    let Some(list) = root.get(key) else { return Ok(Vec::new()) };
    if !list.is_sequence() {
        return Err(LocalError::in_field(root, &FieldPath::of(&[key]), "it must be a list"));
    }
    let entry = |(index, node): (usize, &Node)| {
        let own = [Step::Key(key.to_owned()), Step::Index(index)];
        let fault = |steps: Vec<Step>, message: String| {
            let path = FieldPath(own.iter().cloned().chain(steps).collect());
            LocalError::in_field(root, &path, message)
        };
        let typed: T = serde_path_to_error::deserialize(node.to_json(false))
            .map_err(|error| fault(steps(error.path()), error.inner().to_string()))?;
        let message = message(typed).map_err(|(field, message)| fault(vec![Step::Key(field.to_owned())], message))?;
        D::try_from(message).map_err(|error| {
            let invalid = error.invalid();
            fault(written(key, &invalid.field), invalid.problem.to_string())
        })
    };
    list.items().iter().enumerate().map(entry).collect()
}

fn steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(step).collect()
}

/// The path of a message's field as the file writes it.
fn written(list: &str, field: &str) -> Vec<Step> {
    let FieldPath(steps) = FieldPath::parse(field);
    let written = |step: Step| match step {
        Step::Key(name) => match name.as_str() {
            // The lists of a rule stand one in the other, without names.
            "clauses" | "matches" => None,
            "addresses" => Some(Step::Key(if list == "workloads" { "workloadIps" } else { "vips" }.to_owned())),
            "tunnel_protocol" => Some(Step::Key("protocol".to_owned())),
            "load_balancing" => Some(Step::Key("loadBalancer".to_owned())),
            "routing_preference" => Some(Step::Key("routingPreferences".to_owned())),
            // Parts of one text in the file.
            "hostname" | "address" if list != "services" => None,
            name => Some(Step::Key(camel_case(name))),
        },
        index @ Step::Index(_) => Some(index),
    };
    steps.into_iter().filter_map(written).collect()
}

fn camel_case(name: &str) -> String {
    // Keys of maps are names of the user's.
    if name.contains(['/', '.']) {
        return name.to_owned();
    }
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut text, word| {
        let mut letters = word.chars();
        text.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        text.extend(letters);
        text
    })
}
