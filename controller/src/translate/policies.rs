//! All policies together: which are in force, which stay as they were, which refuse, and to whom they are attached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_core::source::objects::matches_labels;
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_proto::security::Authorization;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::peer::{self, PeerRule, PeerRules};
use super::policy::{self, Attachment, Outcome};
use super::{Fault, Problem, Settings, Severity};

const KEPT: &str = "the version before it stays in force until this is fixed";
const REFUSING: &str = "it was never valid, so everything it could select is refused until this is fixed";
const IGNORED: &str = "until this is fixed it has no effect, as it would only be watched or is for waypoints";
const STRICT: &str = "it was never valid, so everything it could select accepts mutual TLS only until this is fixed";

/// The last good version of each policy.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    authorization: BTreeMap<ObjectKey, Arc<Outcome>>,
    peer: BTreeMap<ObjectKey, Arc<PeerRule>>,
}

/// Policies in force.
#[derive(Debug, Default)]
pub struct Policies {
    /// What proxies are told, by key.
    pub authorizations: Vec<Authorization>,
    /// For the next translation.
    pub accepted: Accepted,
    /// What a user should know.
    pub problems: Vec<Problem>,
    attachments: Vec<(String, Attachment)>,
    peers: PeerRules,
}

impl Policies {
    /// Keys of the policies that a pod with this metadata lists.
    #[must_use]
    pub fn attached_to(&self, namespace: &str, metadata: &ObjectMeta) -> Vec<String> {
        let selected = self
            .attachments
            .iter()
            .filter(|(_, attachment)| attachment.selects(namespace, metadata))
            .map(|(key, _)| key.clone());
        let keys: BTreeSet<String> = selected.chain(self.peers.attached_to(namespace, metadata)).collect();
        keys.into_iter().collect()
    }

    fn report(&mut self, object: &ObjectKey, severity: Severity, faults: Vec<Fault>, then: &str) {
        self.problems.extend(faults.into_iter().map(|fault| Problem {
            object: object.clone(),
            field: fault.field,
            message: if then.is_empty() { fault.message } else { format!("{}; {then}", fault.message) },
            severity,
        }));
    }

    /// A policy that was never valid.
    fn refuse(&mut self, object: &ObjectKey, faults: Vec<Fault>, stance: &policy::Stance, root: &str) {
        let then = if stance.ignored { IGNORED } else { REFUSING };
        self.report(object, Severity::Error, faults, then);
        self.add(&policy::refusing(object, stance, root));
    }

    fn add(&mut self, outcome: &Outcome) {
        let Some((authorization, attachment)) = &outcome.enforced else {
            return;
        };
        let key = format!("{}/{}", authorization.namespace, authorization.name);
        self.authorizations.push(authorization.clone());
        self.attachments.push((key, attachment.clone()));
    }
}

/// Translates all policies; see [`super::translate`] for the arguments.
#[must_use]
pub fn translate(
    objects: &Objects,
    rejected: &BTreeMap<ObjectKey, Arc<Value>>,
    settings: &Settings,
    previous: &Accepted,
) -> Policies {
    let mut policies = Policies::default();
    authorization_policies(&mut policies, objects, rejected, settings, previous);
    peer_authentications(&mut policies, objects, rejected, settings, previous);
    let converted = policies.peers.authorizations();
    policies.authorizations.extend(converted);
    policies
}

fn authorization_policies(
    policies: &mut Policies,
    objects: &Objects,
    rejected: &BTreeMap<ObjectKey, Arc<Value>>,
    settings: &Settings,
    previous: &Accepted,
) {
    let root = &settings.root_namespace;
    for (key, object) in &objects.authorization_policies {
        match policy::outcome(object, root) {
            Ok(outcome) => {
                policies.report(key, Severity::Warning, outcome.warnings.clone(), "");
                policies.add(&outcome);
                policies.accepted.authorization.insert(key.clone(), Arc::new(outcome));
            }
            Err(faults) => {
                if let Some(last) = previous.authorization.get(key) {
                    policies.report(key, Severity::Error, faults, KEPT);
                    policies.add(last);
                    policies.accepted.authorization.insert(key.clone(), Arc::clone(last));
                } else {
                    policies.refuse(key, faults, &policy::Stance::of(object), root);
                }
            }
        }
    }
    for (key, written) in rejected {
        if key.kind != Kind::AuthorizationPolicy || objects.authorization_policies.contains_key(key) {
            continue;
        }
        // The source reports what is wrong with it.
        if let Some(last) = previous.authorization.get(key) {
            policies.add(last);
            policies.accepted.authorization.insert(key.clone(), Arc::clone(last));
        } else {
            let fault = Fault { field: String::new(), message: "cannot be read".to_owned() };
            policies.refuse(key, vec![fault], &policy::Stance::read(written), root);
        }
    }
}

fn peer_authentications(
    policies: &mut Policies,
    objects: &Objects,
    rejected: &BTreeMap<ObjectKey, Arc<Value>>,
    settings: &Settings,
    previous: &Accepted,
) {
    let mut rules = Vec::new();
    for (key, object) in &objects.peer_authentications {
        let rule = match peer::rule(object, &settings.root_namespace) {
            Ok((rule, warnings)) => {
                policies.report(key, Severity::Warning, warnings, "");
                let rule = Arc::new(rule);
                policies.accepted.peer.insert(key.clone(), Arc::clone(&rule));
                rule
            }
            Err(faults) => {
                if let Some(last) = previous.peer.get(key) {
                    policies.report(key, Severity::Error, faults, KEPT);
                    policies.accepted.peer.insert(key.clone(), Arc::clone(last));
                    Arc::clone(last)
                } else {
                    policies.report(key, Severity::Error, faults, STRICT);
                    let selector = object.spec.selector.clone().unwrap_or_default();
                    Arc::new(PeerRule::strict(key, selector.match_labels))
                }
            }
        };
        rules.push(rule);
    }
    for (key, written) in rejected {
        if key.kind != Kind::PeerAuthentication || objects.peer_authentications.contains_key(key) {
            continue;
        }
        if let Some(last) = previous.peer.get(key) {
            policies.accepted.peer.insert(key.clone(), Arc::clone(last));
            rules.push(Arc::clone(last));
        } else {
            let fault = Fault { field: String::new(), message: "cannot be read".to_owned() };
            policies.report(key, Severity::Error, vec![fault], STRICT);
            let selector = policy::Stance::read(written).selector;
            rules.push(Arc::new(PeerRule::strict(key, selector)));
        }
    }
    policies.peers = PeerRules::new(rules, &settings.root_namespace);
}

impl Attachment {
    fn selects(&self, namespace: &str, metadata: &ObjectMeta) -> bool {
        let Self::Selector { within, labels } = self else {
            return false;
        };
        within.as_deref().is_none_or(|within| within == namespace) && matches_labels(metadata, labels)
    }
}
