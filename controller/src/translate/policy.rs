//! AuthorizationPolicy to the layer 4 policy proxies enforce (interop §2.2, §2.5; api-surface A2).

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::source::ObjectKey;
use fairway_core::source::istio::{Action, AuthorizationPolicy, TargetReference};
use fairway_core::source::objects::annotation;
use fairway_proto::security::{self, Authorization, Clause, Rule, Scope};
use serde_json::Value;

use super::Fault;
use crate::l7::authorizers::Authorizers;
use crate::l7::authz::{self, Place, read};

mod rules;
pub(crate) mod values;

const DRY_RUN: &str = "istio.io/dry-run";
/// Rules of one policy, as the CRD says (api-surface A2.1).
const MAXIMUM_RULES: usize = 512;

/// Whom a policy applies to, beyond what its scope says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The scope says it all.
    Scope,
    /// Workloads with these labels, within one namespace or, without one, within all.
    Selector {
        /// The namespace.
        within: Option<String>,
        /// The labels.
        labels: BTreeMap<String, String>,
    },
}

/// A valid policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What is enforced by node proxies, unless the policy is not for them.
    pub enforced: Option<(Authorization, Attachment)>,
    /// What is enforced by waypoints, if it is for those.
    pub attached: Option<Arc<authz::Policy>>,
    /// Where this differs from what was written.
    pub warnings: Vec<Fault>,
}

/// What must be known of a policy in order to refuse what it selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stance {
    /// Labels of the workloads; empty for all of the namespace.
    pub selector: BTreeMap<String, String>,
    /// Nobody would enforce it, were it valid.
    pub ignored: bool,
    /// What it is attached to, which makes it one for waypoints; none where it is for node proxies.
    pub places: Option<Vec<Place>>,
}

impl Stance {
    /// Of a policy that can be read.
    #[must_use]
    pub fn of(policy: &AuthorizationPolicy, root: &str) -> Self {
        let spec = &policy.spec;
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        let targets: Vec<_> = spec.target_ref.iter().chain(&spec.target_refs).collect();
        // What is attached where it must not be is not in force there.
        let places = || targets.iter().filter_map(|target| read::place(target, namespace, root).ok()).collect();
        Self {
            selector: spec.selector.clone().unwrap_or_default().match_labels,
            ignored: spec.action == Action::Audit || is_dry_run(policy),
            // With both a selector and targets nobody can tell what was meant.
            places: (!targets.is_empty() && spec.selector.is_none()).then(places),
        }
    }

    /// Of a policy as it was written; what cannot be understood counts as absent, which selects more.
    #[must_use]
    pub fn read(written: &Value, namespace: &str, root: &str) -> Self {
        let at = |path: &str| written.pointer(path);
        let labels = at("/spec/selector/matchLabels").and_then(Value::as_object);
        let selector: Option<BTreeMap<String, String>> = labels.and_then(|labels| {
            labels.iter().map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        });
        let single = at("/spec/targetRef").filter(|target| target.is_object());
        let targets: Vec<&Value> =
            single.into_iter().chain(at("/spec/targetRefs").into_iter().flat_map(list)).collect();
        let places = || {
            let place = |target: &&Value| match serde_json::from_value::<TargetReference>((*target).clone()) {
                Ok(target) => read::place(&target, namespace, root).ok(),
                Err(_) => Some(Place::Namespace(namespace.to_owned())),
            };
            targets.iter().filter_map(place).collect()
        };
        let annotation = at("/metadata/annotations").and_then(|all| all.get(DRY_RUN));
        Self {
            selector: selector.unwrap_or_default(),
            ignored: at("/spec/action").and_then(Value::as_str) == Some("AUDIT")
                || annotation.and_then(Value::as_str) == Some("true"),
            places: (!targets.is_empty() && at("/spec/selector").is_none()).then(places),
        }
    }
}

/// The entries of a list; what is none counts as one that cannot be read.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice).iter()
}

/// Whether a policy is only tried out.
pub(crate) fn is_dry_run(policy: &AuthorizationPolicy) -> bool {
    annotation(&policy.metadata, DRY_RUN) == Some("true")
}

/// Translates a policy.
///
/// # Errors
/// Everything that is wrong with it.
pub fn outcome(policy: &AuthorizationPolicy, root: &str, authorizers: &Authorizers) -> Result<Outcome, Vec<Fault>> {
    let spec = &policy.spec;
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    let attached = spec.target_ref.is_some() || !spec.target_refs.is_empty();
    if attached && spec.selector.is_some() {
        faults.push(fault("spec.selector", "cannot be combined with targetRefs; use one of them"));
    }
    if spec.rules.len() > MAXIMUM_RULES {
        let message = format!("has {} rules; at most {MAXIMUM_RULES} are allowed", spec.rules.len());
        faults.push(Fault { field: "spec.rules".to_owned(), message });
    }
    if spec.action == Action::Custom && spec.provider.is_none() {
        faults.push(fault("spec.provider", "is missing; an action CUSTOM names its authorizer"));
    }
    let action = match spec.action {
        Action::Allow => security::Action::Allow,
        Action::Deny | Action::Audit | Action::Custom => security::Action::Deny,
    };
    let rules = rules::rules(&spec.rules, namespace, action, &mut faults, &mut warnings);
    let mut read = None;
    if attached {
        // What requests show, waypoints see.
        warnings.clear();
        read = Some(read::read(policy, root, &mut faults, &mut warnings));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let no_effect = |field: &str, message: &str| {
        let message = format!("{message}: this policy has no effect");
        Ok(Outcome { enforced: None, attached: None, warnings: vec![Fault { field: field.to_owned(), message }] })
    };
    if spec.action == Action::Audit && !attached {
        return no_effect("spec.action", "only waypoints audit, by targetRefs");
    }
    if attached && spec.action == Action::Custom && is_dry_run(policy) {
        return no_effect(
            &format!("metadata.annotations[{DRY_RUN}]"),
            "authorizers are not asked to try something out",
        );
    }
    if spec.action == Action::Custom {
        let provider = spec.provider.clone().unwrap_or_default().name;
        let problem = if !attached {
            Some(("spec.action", "CUSTOM asks an external authorizer, which node proxies cannot".to_owned()))
        } else if !authorizers.contains_key(&provider) {
            Some(("spec.provider.name", format!("the mesh configuration has no external authorizer {provider:?}")))
        } else {
            None
        };
        warnings.extend(problem.map(|(field, message)| Fault {
            field: field.to_owned(),
            message: format!("{message}: what the rules match is refused"),
        }));
    }
    match annotation(&policy.metadata, DRY_RUN) {
        None | Some("true" | "false") => {}
        Some(other) => warnings.push(Fault {
            field: format!("metadata.annotations[{DRY_RUN}]"),
            message: format!("{other:?} is neither \"true\" nor \"false\": the policy is enforced"),
        }),
    }
    if let Some(read) = read {
        return Ok(Outcome { enforced: None, attached: Some(Arc::new(read)), warnings });
    }
    let labels = spec.selector.clone().unwrap_or_default().match_labels;
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    let mut enforced = placed(name, namespace, labels, root);
    enforced.0.action = action.into();
    enforced.0.rules = rules;
    enforced.0.dry_run = is_dry_run(policy);
    Ok(Outcome { enforced: Some(enforced), attached: None, warnings })
}

/// A policy that refuses everything the policy `key` could select.
#[must_use]
pub fn refusing(key: &ObjectKey, stance: &Stance, root: &str) -> Outcome {
    if stance.ignored {
        return Outcome { enforced: None, attached: None, warnings: Vec::new() };
    }
    if let Some(places) = &stance.places {
        let attached = refuse_all(format!("{}/{}", key.namespace, key.name), places.clone());
        return Outcome { enforced: None, attached: Some(Arc::new(attached)), warnings: Vec::new() };
    }
    let enforced = {
        let mut enforced = placed(&key.name, &key.namespace, stance.selector.clone(), root);
        enforced.0.action = security::Action::Deny.into();
        enforced.0.rules = vec![match_everything()];
        enforced
    };
    Outcome { enforced: Some(enforced), attached: None, warnings: Vec::new() }
}

/// A policy for waypoints that refuses everything there.
#[must_use]
pub fn refuse_all(name: String, places: Vec<Place>) -> authz::Policy {
    let rule = authz::Rule { index: 0, who: authz::Check::ALWAYS, what: authz::Check::ALWAYS };
    authz::Policy { name, places, verdict: authz::Verdict::Deny, is_tried: false, rules: vec![rule] }
}

/// A policy without rules, where it belongs (interop §2.5).
fn placed(name: &str, namespace: &str, labels: BTreeMap<String, String>, root: &str) -> (Authorization, Attachment) {
    let is_root = namespace == root;
    let (scope, attachment) = if !labels.is_empty() {
        let within = (!is_root).then(|| namespace.to_owned());
        (Scope::WorkloadSelector, Attachment::Selector { within, labels })
    } else if is_root {
        (Scope::Global, Attachment::Scope)
    } else {
        (Scope::Namespace, Attachment::Scope)
    };
    let authorization = Authorization {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        scope: scope.into(),
        ..Authorization::default()
    };
    (authorization, attachment)
}

/// A rule that matches all traffic: an empty clause matches, an empty match would not (interop §2.3).
fn match_everything() -> Rule {
    Rule { clauses: vec![Clause::default()] }
}

fn fault(field: &str, message: &str) -> Fault {
    Fault { field: field.to_owned(), message: message.to_owned() }
}
