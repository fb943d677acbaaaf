//! What conditions say against one object, for who is about to apply it.

use fairway_core::source::{Kind, ObjectKey};
use serde_json::Value;

use super::{INVALID, addressed, traffic, unreadable, unserved, verdicts};
use crate::l7::verdict::Verdict;
use crate::state::Published;

/// What conditions say against one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why it is not what will be in force.
    pub refusal: Option<String>,
    /// What of it has no effect, or another one.
    pub notes: Vec<String>,
}

impl Findings {
    /// The same for who asks for nothing new: why it is not in force is told, and keeps nobody.
    #[must_use]
    pub fn let_through(self) -> Self {
        Self { refusal: None, notes: self.refusal.into_iter().chain(self.notes).collect() }
    }
}

/// What the conditions of `key` say in this state.
#[must_use]
pub fn of(published: &Published, key: &ObjectKey) -> Findings {
    let note = |notes: Vec<String>| Findings { refusal: None, notes };
    match key.kind {
        kind if kind.is_policy() => match verdicts(published).remove(key) {
            Some(verdict) if verdict.reason == INVALID => {
                Findings { refusal: Some(verdict.message), notes: Vec::new() }
            }
            Some(verdict) if !verdict.holds => note(vec![verdict.message]),
            _ => Findings::default(),
        },
        Kind::VirtualService | Kind::DestinationRule => {
            let said = traffic(published).remove(key).filter(|verdict| !verdict.holds);
            unread(published, key).unwrap_or_else(|| note(said.map(|verdict| verdict.message).into_iter().collect()))
        }
        Kind::HTTPRoute | Kind::GRPCRoute | Kind::TCPRoute | Kind::TLSRoute => {
            let said = published.routes().verdicts.get(key).map(|verdict| route(verdict, parents(published, key)));
            unread(published, key).or(said).unwrap_or_default()
        }
        Kind::Telemetry => {
            note(unserved::telemetry(published).remove(key).map(|verdict| verdict.message).into_iter().collect())
        }
        _ => {
            let said =
                addressed::verdicts(published).into_iter().find(|(known, said)| known == key && !said.verdict.holds);
            unread(published, key)
                .unwrap_or_else(|| note(said.map(|(_, said)| said.verdict.message).into_iter().collect()))
        }
    }
}

/// What is wrong with an object that cannot be read.
fn unread(published: &Published, key: &ObjectKey) -> Option<Findings> {
    Some(Findings { refusal: Some(unreadable::why(published, key)?), notes: Vec::new() })
}

/// How many parents a route has, those of others included.
fn parents(published: &Published, key: &ObjectKey) -> usize {
    let objects = &published.loaded.objects;
    let spec = match key.kind {
        Kind::HTTPRoute => objects.http_routes.get(key).map(|route| route.spec.parent_refs.len()),
        Kind::GRPCRoute => objects.grpc_routes.get(key).map(|route| route.spec.parent_refs.len()),
        Kind::TCPRoute => objects.tcp_routes.get(key).map(|route| route.spec.parent_refs.len()),
        Kind::TLSRoute => objects.tls_routes.get(key).map(|route| route.spec.parent_refs.len()),
        _ => None,
    };
    spec.unwrap_or_default()
}

/// A route of which nothing can be done is refused, unless others may do it. What is missing may be on its way.
fn route(verdict: &Verdict, parents: usize) -> Findings {
    let entries = verdict.parents(None, |_, _, _| String::new());
    let conditions = entries.iter().filter_map(|entry| entry.get("conditions").and_then(Value::as_array)).flatten();
    let text = |condition: &Value, key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let against = conditions.filter(|condition| {
        // All but this one say something good when they hold.
        (text(condition, "type") == "PartiallyInvalid") == (text(condition, "status") == "True")
    });
    let mut notes: Vec<String> = Vec::new();
    for message in against.map(|condition| text(condition, "message")) {
        if !notes.contains(&message) {
            notes.push(message);
        }
    }
    let is_refused = verdict.is_unsupported && verdict.parents.len() == parents;
    let refusal = is_refused.then(|| notes.join("; ")).filter(|why| !why.is_empty());
    Findings { notes: if refusal.is_some() { Vec::new() } else { notes }, refusal }
}
