//! What is to be said of a route: where it takes effect, or why it does not (api-surface A17).

use fairway_core::source::ObjectKey;
use fairway_core::source::route::ParentReference;
use serde_json::{Value, json};

use crate::status::condition::Condition;
use crate::translate::{Problem, Severity};

/// Who says it.
pub const CONTROLLER_NAME: &str = "fairway.dev/controller";

/// What is wrong with a part of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path of the field, for example `spec.rules[0].backendRefs[1]`.
    pub field: String,
    /// What is wrong, and what is done instead.
    pub message: String,
    /// What kind of thing is wrong.
    pub class: Class,
}

/// Kinds of [`Finding`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A reference that cannot be followed, with the reason of Gateway API.
    Reference(&'static str),
    /// Something that is not done; the rule answers with 500, or is left out.
    Unsupported,
    /// Something that is done in another way than it says.
    Different,
}

/// What is to be said of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtParent {
    /// Its place among the route's parents.
    pub index: usize,
    /// The parent, as the route has it.
    pub parent: ParentReference,
    /// Whether it is attached, or the reason of Gateway API and a message why not.
    pub accepted: Result<(), (&'static str, String)>,
}

/// What is to be said of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Version of the spec that this is about.
    pub generation: Option<i64>,
    /// By parent; parents of other controllers are not here.
    pub parents: Vec<AtParent>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// Nothing of it can be done as it says.
    pub is_unsupported: bool,
    /// It cannot be read, so that nothing is known of its references.
    pub is_unread: bool,
}

impl Verdict {
    /// What a user should know of the route.
    pub fn problems(&self, object: &ObjectKey) -> Vec<Problem> {
        let refused = self.parents.iter().filter_map(|at| {
            let (reason, message) = at.accepted.as_ref().err()?;
            Some((format!("spec.parentRefs[{}]", at.index), format!("{reason}: {message}")))
        });
        let found = self.findings.iter().map(|finding| (finding.field.clone(), finding.message.clone()));
        let problem = |(field, message): (String, String)| Problem {
            object: object.clone(),
            field,
            message,
            severity: Severity::Warning,
            location: None,
        };
        refused.chain(found).map(problem).collect()
    }

    fn of_class(&self, wanted: impl Fn(Class) -> bool) -> Option<String> {
        let found = self.findings.iter().filter(|finding| wanted(finding.class));
        let texts: Vec<String> = found.map(|finding| format!("{}: {}", finding.field, finding.message)).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// The entries of the route's status: with what else there is to say where it is attached, and a function that says since
    /// when a condition is as it is.
    pub fn parents(
        &self,
        further: Option<Condition<'_>>,
        since: impl Fn(&ParentReference, &str, bool) -> String,
    ) -> Vec<Value> {
        let unsupported = self.of_class(|class| class == Class::Unsupported);
        let different = self.of_class(|class| class == Class::Different);
        let attached = match &different {
            Some(different) => format!("attached to the service; {different}"),
            None => "attached to the service".to_owned(),
        };
        let broken = self.findings.iter().find_map(|finding| match finding.class {
            Class::Reference(reason) => Some(reason),
            _ => None,
        });
        let references = self.of_class(|class| matches!(class, Class::Reference(_))).unwrap_or_default();
        let entry = |at: &AtParent| {
            let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
                let since = since(&at.parent, kind, holds);
                Condition { kind, holds, reason, message }.written(self.generation, &since)
            };
            let mut conditions = vec![match (&at.accepted, &unsupported) {
                (Err((reason, message)), _) => condition("Accepted", false, reason, message),
                (Ok(()), Some(message)) if self.is_unsupported => {
                    condition("Accepted", false, "UnsupportedValue", message)
                }
                (Ok(()), _) => condition("Accepted", true, "Accepted", &attached),
            }];
            match broken {
                _ if self.is_unread => {}
                Some(reason) => conditions.push(condition("ResolvedRefs", false, reason, &references)),
                None => {
                    conditions.push(condition("ResolvedRefs", true, "ResolvedRefs", "every reference can be followed"));
                }
            }
            if let (Ok(()), Some(message), false) = (&at.accepted, &unsupported, self.is_unsupported) {
                let message = format!("Dropped Rule: {message}");
                conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", &message));
            }
            if let (Ok(()), Some(further)) = (&at.accepted, further) {
                conditions.push(condition(further.kind, further.holds, further.reason, further.message));
            }
            json!({"parentRef": at.parent, "controllerName": CONTROLLER_NAME, "conditions": conditions})
        };
        self.parents.iter().map(entry).collect()
    }
}
