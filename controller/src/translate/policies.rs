//! All policies together: which are in force, which stay as they were, which refuse, and to whom they are attached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_core::source::external_processor::ExternalProcessor;
use fairway_core::source::istio::{AuthorizationPolicy, PeerAuthentication};
use fairway_core::source::istio_tokens::RequestAuthentication;
use fairway_core::source::labels::HasLabels;
use fairway_core::source::objects::matches_labels;
use fairway_core::source::rate_limit::RateLimit;
use fairway_core::source::{Kind, Loaded, ObjectKey, Objects, Remembered};
use fairway_proto::security::Authorization;
use serde::Serialize;
use serde_json::Value;

use self::harmless::Harmless;
use super::peer::{self, PeerRule, PeerRules};
use super::policy::{self, Attachment, Outcome};
use super::{Fault, Problem, Settings, Severity};
use crate::l7::{authz, processors as processors_of, rates as rates_of, tokens as request_tokens};

mod harmless;
mod tokens;

const KEPT: &str = "the version before it stays in force until this is fixed";
const REFUSING: &str = "it was never valid, so everything it could select is refused until this is fixed";
const IGNORED: &str = "until this is fixed it has no effect, as it would only be watched";
const UNLIMITED: &str = "it was never valid, so it limits nothing until this is fixed";
const UNSEEN: &str = "nobody sees these requests until this is fixed";
const STRICT: &str = "it was never valid, so everything it could select accepts mutual TLS only until this is fixed";

/// The last good version of each policy, and as they are written those that never were valid.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    authorization: BTreeMap<ObjectKey, Good<AuthorizationPolicy, Outcome>>,
    peer: BTreeMap<ObjectKey, Good<PeerAuthentication, PeerRule>>,
    tokens: BTreeMap<ObjectKey, Good<RequestAuthentication, Option<request_tokens::Policy>>>,
    rates: BTreeMap<ObjectKey, Good<RateLimit, rates_of::Policy>>,
    processors: BTreeMap<ObjectKey, Good<ExternalProcessor, processors_of::Policy>>,
    refused: BTreeMap<ObjectKey, Arc<Value>>,
}

/// An object, and what it means.
#[derive(Debug)]
struct Good<O, T> {
    object: Arc<O>,
    means: Arc<T>,
}

impl<O, T> Clone for Good<O, T> {
    fn clone(&self) -> Self {
        Self { object: Arc::clone(&self.object), means: Arc::clone(&self.means) }
    }
}

impl Accepted {
    /// What was accepted before a restart.
    #[must_use]
    pub fn remembered(loaded: &Loaded, settings: &Settings) -> Self {
        translate(&loaded.objects, &loaded.rejected, settings, &Self::default()).accepted
    }

    /// What must be known after a restart to give the same answers, for policies that come from `loaded`.
    #[must_use]
    pub fn to_remember(&self, loaded: &Loaded) -> Vec<Remembered> {
        let mut files = loaded.files(Kind::AuthorizationPolicy);
        files.extend(loaded.files(Kind::PeerAuthentication));
        files.extend(loaded.files(Kind::RequestAuthentication));
        files.extend(loaded.files(Kind::RateLimit));
        files.extend(loaded.files(Kind::ExternalProcessor));
        let authorization = self.authorization.iter().map(|(key, good)| (key, written(&good.object)));
        let peer = self.peer.iter().map(|(key, good)| (key, written(&good.object)));
        let tokens = self.tokens.iter().map(|(key, good)| (key, written(&good.object)));
        let rates = self.rates.iter().map(|(key, good)| (key, written(&good.object)));
        let processors = self.processors.iter().map(|(key, good)| (key, written(&good.object)));
        let refused = self.refused.iter().map(|(key, written)| (key, written.as_ref().clone()));
        authorization
            .chain(peer)
            .chain(tokens)
            .chain(rates)
            .chain(processors)
            .chain(refused)
            .filter_map(|(key, object)| Some(Remembered { file: (*files.get(key)?).to_owned(), object }))
            .collect()
    }
}

/// The object as a manifest would hold it, without what controllers say of it. These types always have such a form.
fn written<T: Serialize>(object: &T) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    value
}

/// Policies in force.
#[derive(Debug, Default)]
pub struct Policies {
    /// What proxies are told, by key.
    pub authorizations: Vec<Authorization>,
    /// What waypoints enforce.
    pub attached: Vec<(ObjectKey, Arc<authz::Policy>)>,
    /// Whose tokens waypoints believe.
    pub tokens: Vec<(ObjectKey, Arc<request_tokens::Policy>)>,
    /// How many requests pass at waypoints.
    pub rates: Vec<(ObjectKey, Arc<rates_of::Policy>)>,
    /// Who sees requests at waypoints.
    pub processors: Vec<(ObjectKey, Arc<processors_of::Policy>)>,
    /// For the next translation.
    pub accepted: Accepted,
    /// What a user should know.
    pub problems: Vec<Problem>,
    /// Policies with a selector, by the namespace they select in; none stands for all.
    selecting: BTreeMap<Option<String>, Vec<Selecting>>,
    peers: PeerRules,
}

#[derive(Debug, PartialEq, Eq)]
struct Selecting {
    key: String,
    labels: BTreeMap<String, String>,
}

impl Policies {
    /// Keys of the policies that a workload lists.
    #[must_use]
    pub fn attached_to(&self, namespace: &str, workload: &impl HasLabels) -> Vec<String> {
        let here = self.selecting.get(&Some(namespace.to_owned()));
        let selected = here
            .into_iter()
            .chain(self.selecting.get(&None))
            .flatten()
            .filter(|selecting| matches_labels(workload, &selecting.labels))
            .map(|selecting| selecting.key.clone());
        let keys: BTreeSet<String> = selected.chain(self.peers.attached_to(namespace, workload)).collect();
        keys.into_iter().collect()
    }

    /// The namespaces in which workloads may list other policies than by `before`; none when it may be so in all.
    #[must_use]
    pub fn relisted(&self, before: &Self) -> Option<BTreeSet<String>> {
        if self.selecting.get(&None) != before.selecting.get(&None) {
            return None;
        }
        let mut namespaces = self.peers.differs(&before.peers)?;
        let known = self.selecting.keys().chain(before.selecting.keys()).flatten();
        let differ = |namespace: &&String| {
            let key = Some((*namespace).clone());
            self.selecting.get(&key) != before.selecting.get(&key)
        };
        namespaces.extend(known.filter(differ).cloned());
        Some(namespaces)
    }

    fn report(&mut self, object: &ObjectKey, severity: Severity, faults: Vec<Fault>, then: &str) {
        self.problems.extend(faults.into_iter().map(|fault| Problem {
            object: object.clone(),
            field: fault.field,
            message: if then.is_empty() { fault.message } else { format!("{}; {then}", fault.message) },
            severity,
            location: None,
        }));
    }

    /// A policy that was never valid.
    fn refuse(
        &mut self,
        object: &ObjectKey,
        written: Arc<Value>,
        faults: Vec<Fault>,
        stance: &policy::Stance,
        root: &str,
    ) {
        self.accepted.refused.insert(object.clone(), written);
        let then = if stance.ignored { IGNORED } else { REFUSING };
        self.report(object, Severity::Error, faults, then);
        self.add(object, &policy::refusing(object, stance, root));
    }

    fn add(&mut self, key: &ObjectKey, outcome: &Outcome) {
        self.attached.extend(outcome.attached.clone().map(|policy| (key.clone(), policy)));
        let Some((authorization, attachment)) = &outcome.enforced else {
            return;
        };
        if let Attachment::Selector { within, labels } = attachment {
            let key = format!("{}/{}", authorization.namespace, authorization.name);
            let selecting = Selecting { key, labels: labels.clone() };
            self.selecting.entry(within.clone()).or_default().push(selecting);
        }
        self.authorizations.push(authorization.clone());
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
    tokens::translate(&mut policies, objects, rejected, &settings.root_namespace, previous);
    (policies.rates, policies.accepted.rates) = Harmless {
        kind: Kind::RateLimit,
        objects: &objects.rate_limits,
        previous: &previous.rates,
        holds: &|_| true,
        without: UNLIMITED,
    }
    .translate(&mut policies, rejected, |object| {
        rates_of::read(object, &settings.root_namespace, &settings.mesh.providers)
    });
    (policies.processors, policies.accepted.processors) = Harmless {
        kind: Kind::ExternalProcessor,
        objects: &objects.external_processors,
        previous: &previous.processors,
        // The mesh configuration may not have its provider any more.
        holds: &|policy| settings.mesh.providers.processors.contains_key(&policy.provider),
        without: UNSEEN,
    }
    .translate(&mut policies, rejected, |object| {
        processors_of::read(object, &settings.root_namespace, &settings.mesh.providers.processors)
    });
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
    for (key, object) in objects.authorization_policies.iter() {
        match policy::outcome(object, root, &settings.mesh.authorizers) {
            Ok(outcome) => {
                policies.report(key, Severity::Warning, outcome.warnings.clone(), "");
                policies.add(key, &outcome);
                let good = Good { object: Arc::clone(object), means: Arc::new(outcome) };
                policies.accepted.authorization.insert(key.clone(), good);
            }
            Err(faults) => {
                if let Some(last) = previous.authorization.get(key) {
                    policies.report(key, Severity::Error, faults, KEPT);
                    policies.add(key, &last.means);
                    policies.accepted.authorization.insert(key.clone(), last.clone());
                } else {
                    let written = Arc::new(written(object));
                    policies.refuse(key, written, faults, &policy::Stance::of(object, root), root);
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
            policies.add(key, &last.means);
            policies.accepted.authorization.insert(key.clone(), last.clone());
        } else {
            let fault = Fault { field: String::new(), message: "cannot be read".to_owned() };
            policies.refuse(
                key,
                Arc::clone(written),
                vec![fault],
                &policy::Stance::read(written, &key.namespace, root),
                root,
            );
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
    for (key, object) in objects.peer_authentications.iter() {
        let rule = match peer::rule(object, &settings.root_namespace) {
            Ok((rule, warnings)) => {
                policies.report(key, Severity::Warning, warnings, "");
                let rule = Arc::new(rule);
                let good = Good { object: Arc::clone(object), means: Arc::clone(&rule) };
                policies.accepted.peer.insert(key.clone(), good);
                rule
            }
            Err(faults) => {
                if let Some(last) = previous.peer.get(key) {
                    policies.report(key, Severity::Error, faults, KEPT);
                    policies.accepted.peer.insert(key.clone(), last.clone());
                    Arc::clone(&last.means)
                } else {
                    policies.accepted.refused.insert(key.clone(), Arc::new(written(object)));
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
            policies.accepted.peer.insert(key.clone(), last.clone());
            rules.push(Arc::clone(&last.means));
        } else {
            policies.accepted.refused.insert(key.clone(), Arc::clone(written));
            let fault = Fault { field: String::new(), message: "cannot be read".to_owned() };
            policies.report(key, Severity::Error, vec![fault], STRICT);
            let selector = policy::Stance::read(written, &key.namespace, &settings.root_namespace).selector;
            rules.push(Arc::new(PeerRule::strict(key, selector)));
        }
    }
    policies.peers = PeerRules::new(rules, &settings.root_namespace);
}
