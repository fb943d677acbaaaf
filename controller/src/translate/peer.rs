//! PeerAuthentication to policies that refuse peers without identity (interop §2.5; api-surface A3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_core::source::ObjectKey;
use fairway_core::source::istio::{MutualTlsMode, PeerAuthentication};
use fairway_core::source::labels::HasLabels;
use fairway_core::source::objects::matches_labels;
use fairway_proto::security::string_match::MatchType;
use fairway_proto::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Fault;
use crate::age::Age;

/// Name, in the root namespace, of the policy that all strict workloads share.
pub const STATIC_STRICT: &str = "istio_converted_static_strict";
/// How the names of policies begin that are made of a single PeerAuthentication.
pub const CONVERTED_PREFIX: &str = "converted_peer_authentication_";

/// What a PeerAuthentication asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRule {
    namespace: String,
    name: String,
    created: Option<Time>,
    labels: BTreeMap<String, String>,
    mode: MutualTlsMode,
    ports: BTreeMap<u16, MutualTlsMode>,
}

impl PeerRule {
    /// Mutual TLS only, for what the unreadable object `key` could select.
    #[must_use]
    pub fn strict(key: &ObjectKey, labels: BTreeMap<String, String>) -> Self {
        Self {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            created: None,
            labels,
            mode: MutualTlsMode::Strict,
            ports: BTreeMap::new(),
        }
    }

    fn age(&self) -> Age<'_> {
        Age::new(self.created.as_ref(), &self.namespace, &self.name)
    }
}

/// Reads a PeerAuthentication, with warnings.
///
/// # Errors
/// Everything that is wrong with it.
pub fn rule(object: &PeerAuthentication, root: &str) -> Result<(PeerRule, Vec<Fault>), Vec<Fault>> {
    let spec = &object.spec;
    let labels = spec.selector.clone().unwrap_or_default().match_labels;
    let metadata = &object.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let fault = |field: &str, message: &str| Fault { field: field.to_owned(), message: message.to_owned() };
    if labels.is_empty() && !spec.port_level_mtls.is_empty() {
        return Err(vec![fault("spec.portLevelMtls", "needs a selector")]);
    }
    let mode = spec.mtls.map(|mtls| mtls.mode).unwrap_or_default();
    let mut warnings = Vec::new();
    if namespace == root && !labels.is_empty() {
        warnings.push(fault(
            "spec.selector",
            "in the root namespace selects workloads of that namespace only; leave it out to cover the mesh",
        ));
    }
    let disabled = |mode: MutualTlsMode| mode == MutualTlsMode::Disable;
    if disabled(mode) || spec.port_level_mtls.values().any(|mtls| disabled(mtls.mode)) {
        warnings
            .push(fault("spec.mtls", "DISABLE cannot turn mutual TLS off for enrolled peers; it acts as PERMISSIVE"));
    }
    let rule = PeerRule {
        namespace,
        name: metadata.name.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.clone(),
        labels,
        mode,
        ports: spec.port_level_mtls.iter().map(|(port, mtls)| (port.get(), mtls.mode)).collect(),
    };
    Ok((rule, warnings))
}

/// All rules, by what they cover: workloads beat their namespace, which beats the mesh.
#[derive(Debug, Default)]
pub struct PeerRules {
    root: String,
    mesh_is_strict: bool,
    namespaces: BTreeMap<String, bool>,
    /// With the key of the policy it stands for, if any, in order of precedence.
    workloads: Vec<(Arc<PeerRule>, Option<String>)>,
    converted: Vec<Authorization>,
    exist: bool,
}

impl PeerRules {
    /// Sorts out which rule wins where.
    #[must_use]
    pub fn new(mut rules: Vec<Arc<PeerRule>>, root: &str) -> Self {
        rules.sort_by(|left, right| left.age().cmp(&right.age()));
        let mut result = Self { root: root.to_owned(), exist: !rules.is_empty(), ..Self::default() };
        let widest = |rule: &&Arc<PeerRule>| rule.labels.is_empty();
        if let Some(rule) = rules.iter().filter(widest).find(|rule| rule.namespace == root) {
            result.mesh_is_strict = is_strict(rule.mode, false);
        }
        for rule in rules.iter().filter(widest) {
            let strict = is_strict(rule.mode, result.mesh_is_strict);
            result.namespaces.entry(rule.namespace.clone()).or_insert(strict);
        }
        for rule in rules.into_iter().filter(|rule| !rule.labels.is_empty()) {
            let base = is_strict(rule.mode, result.namespace_is_strict(&rule.namespace));
            let key = match convert(&rule, base) {
                Some(authorization) => {
                    let key = format!("{}/{}", authorization.namespace, authorization.name);
                    result.converted.push(authorization);
                    Some(key)
                }
                None => base.then(|| result.static_key()),
            };
            result.workloads.push((rule, key));
        }
        result
    }

    fn namespace_is_strict(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).copied().unwrap_or(self.mesh_is_strict)
    }

    fn static_key(&self) -> String {
        format!("{}/{STATIC_STRICT}", self.root)
    }

    /// Key of the policy for a workload, if its peers need an identity.
    #[must_use]
    pub fn attached_to(&self, namespace: &str, workload: &impl HasLabels) -> Option<String> {
        let winner = self
            .workloads
            .iter()
            .find(|(rule, _)| rule.namespace == namespace && matches_labels(workload, &rule.labels));
        match winner {
            Some((_, key)) => key.clone(),
            None => self.namespace_is_strict(namespace).then(|| self.static_key()),
        }
    }

    /// The namespaces in which a workload may need another policy than by `before`; none when it may be so in all.
    #[must_use]
    pub fn differs(&self, before: &Self) -> Option<BTreeSet<String>> {
        if self.mesh_is_strict != before.mesh_is_strict || self.root != before.root {
            return None;
        }
        let differ = |namespace: &&String| {
            let [now, then] = [self, before].map(|rules| {
                let selecting = rules.workloads.iter().filter(|(rule, _)| rule.namespace == **namespace);
                (rules.namespace_is_strict(namespace), selecting.collect::<Vec<_>>())
            });
            now != then
        };
        let known = [self, before].into_iter().flat_map(|rules| {
            let selecting = rules.workloads.iter().map(|(rule, _)| &rule.namespace);
            rules.namespaces.keys().chain(selecting)
        });
        let known: BTreeSet<&String> = known.collect();
        Some(known.into_iter().filter(differ).cloned().collect())
    }

    /// The policies; the shared one as soon as any PeerAuthentication exists.
    #[must_use]
    pub fn authorizations(&self) -> Vec<Authorization> {
        let shared = self.exist.then(|| {
            deny(&self.root, STATIC_STRICT, vec![Match { not_principals: vec![presence()], ..Match::default() }])
        });
        shared.into_iter().chain(self.converted.iter().cloned()).collect()
    }
}

/// DISABLE is as PERMISSIVE: node proxies accept mutual TLS always.
fn is_strict(mode: MutualTlsMode, inherited: bool) -> bool {
    match mode {
        MutualTlsMode::Unset => inherited,
        MutualTlsMode::Strict => true,
        MutualTlsMode::Disable | MutualTlsMode::Permissive => false,
    }
}

/// The policy of a rule whose ports differ from the workload as a whole.
fn convert(rule: &PeerRule, base: bool) -> Option<Authorization> {
    let differing: BTreeSet<u32> = rule
        .ports
        .iter()
        .filter(|(_, mode)| is_strict(**mode, base) != base)
        .map(|(port, _)| u32::from(*port))
        .collect();
    if differing.is_empty() {
        return None;
    }
    let without_identity = Match { not_principals: vec![presence()], ..Match::default() };
    let matches = if base {
        vec![Match { not_destination_ports: differing.into_iter().collect(), ..without_identity }]
    } else {
        let on_port = |port| Match { destination_ports: vec![port], ..without_identity.clone() };
        differing.into_iter().map(on_port).collect()
    };
    Some(deny(&rule.namespace, &format!("{CONVERTED_PREFIX}{}", rule.name), matches))
}

fn deny(namespace: &str, name: &str, alternatives: Vec<Match>) -> Authorization {
    let rule = |found| Rule { clauses: vec![Clause { matches: vec![found] }] };
    Authorization {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Deny.into(),
        rules: alternatives.into_iter().map(rule).collect(),
        ..Authorization::default()
    }
}

fn presence() -> StringMatch {
    StringMatch { match_type: Some(MatchType::Presence(())) }
}
