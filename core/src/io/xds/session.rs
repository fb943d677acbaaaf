//! The delta protocol as a state machine without I/O: what to ask, what to apply, what to answer.

use std::collections::{BTreeMap, HashSet};

use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use fairway_proto::{rpc_status, type_url};

use super::convert;
use super::extent::Extent;
use super::node::NodeInfo;
use crate::policy::PolicyKey;
use crate::snapshot::{Snapshot, Update};

/// Bytes of names and versions a subscription may carry: gRPC servers refuse messages above 4 MiB unless told
/// otherwise, and 40,000 workloads reach that.
const MAX_RESUME_BYTES: usize = 3 * 1024 * 1024;
/// Bytes a map entry costs besides name and version.
const ENTRY_OVERHEAD_BYTES: usize = 16;
/// Bytes of error text in one answer: enough to see what is wrong, too little to be refused.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Resource types we subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResourceType {
    Address,
    Authorization,
}

/// In the order of subscription. Nothing is decided before the first answer to each has been applied, whatever the order
/// of the answers; later on a policy is best known before the workloads that name it.
pub(super) const TYPES: [ResourceType; 2] = [ResourceType::Authorization, ResourceType::Address];

impl ResourceType {
    pub(super) const fn url(self) -> &'static str {
        match self {
            Self::Address => type_url::ADDRESS,
            Self::Authorization => type_url::AUTHORIZATION,
        }
    }

    pub(super) const fn short_name(self) -> &'static str {
        match self {
            Self::Address => "workloads",
            Self::Authorization => "policies",
        }
    }

    fn removal(self, name: String) -> Update {
        match self {
            Self::Address => Update::RemoveAddress(name),
            Self::Authorization => Update::RemovePolicy(PolicyKey::of_resource(&name)),
        }
    }
}

/// One resource we did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The resource's name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a response leads to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// To be applied to the world, in this order, as one batch.
    pub updates: Vec<Update>,
    /// To be sent after that; none if the response was not one of ours.
    pub answer: Option<DeltaDiscoveryRequest>,
    /// Resources not taken.
    pub rejections: Vec<Rejection>,
    /// Set when this completed the first answer of a type: its URL.
    pub first_of: Option<&'static str>,
}

/// What we hold of each type, across streams.
#[derive(Debug)]
pub struct Session {
    node: NodeInfo,
    types: [TypeState; TYPES.len()],
}

#[derive(Debug)]
struct TypeState {
    resource_type: ResourceType,
    /// Accepted resources and their versions.
    held: BTreeMap<String, String>,
    /// Resources rejected since they were last accepted, or not known to be applied. An older version of them may be in
    /// use.
    rejected: HashSet<String>,
    answered_once: bool,
    /// Held resources the last subscription had no room for: the server will not tell us if they are gone. Those its
    /// answer has not come to yet.
    unannounced: HashSet<String>,
}

impl TypeState {
    fn new(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            held: BTreeMap::new(),
            rejected: HashSet::new(),
            answered_once: false,
            unannounced: HashSet::new(),
        }
    }

    fn subscribe(&mut self, max_bytes: usize) -> DeltaDiscoveryRequest {
        let mut bytes = 0;
        let mut versions = BTreeMap::new();
        self.unannounced.clear();
        for (name, version) in &self.held {
            bytes += name.len() + version.len() + ENTRY_OVERHEAD_BYTES;
            if bytes <= max_bytes {
                versions.insert(name.clone(), version.clone());
            } else {
                self.unannounced.insert(name.clone());
            }
        }
        // A rejected one may have an accepted predecessor in use; its removal must not be missed either.
        self.unannounced.extend(self.rejected.iter().cloned());
        DeltaDiscoveryRequest {
            type_url: self.resource_type.url().to_owned(),
            initial_resource_versions: versions.into_iter().collect(),
            ..Default::default()
        }
    }

    fn received(&mut self, response: DeltaDiscoveryResponse) -> Outcome {
        let extent = Extent::of(&response.system_version_info);
        let completes_first = extent != Extent::Part && !self.answered_once;
        self.answered_once |= completes_first;
        let mut outcome = Outcome {
            updates: Vec::with_capacity(response.resources.len() + response.removed_resources.len()),
            first_of: completes_first.then_some(self.resource_type.url()),
            ..Outcome::default()
        };
        for resource in response.resources {
            let (name, version) = (resource.name.clone(), resource.version.clone());
            self.unannounced.remove(&name);
            match convert::update(self.resource_type, resource) {
                Ok(update) => {
                    self.rejected.remove(&name);
                    self.held.insert(name, version);
                    outcome.updates.push(update);
                }
                Err(unusable) => {
                    self.held.remove(&name);
                    self.rejected.insert(name.clone());
                    outcome.updates.extend(unusable.update);
                    outcome.rejections.push(Rejection { name, reason: unusable.reason });
                }
            }
        }
        // A subscription with gaps is answered with everything it did not name, so what is missing in the end is gone.
        let whole = extent == Extent::Whole;
        let missing = if whole { std::mem::take(&mut self.unannounced) } else { HashSet::new() };
        for name in response.removed_resources.into_iter().chain(missing) {
            self.held.remove(&name);
            self.rejected.remove(&name);
            self.unannounced.remove(&name);
            outcome.updates.push(self.resource_type.removal(name));
        }
        outcome.answer = Some(DeltaDiscoveryRequest {
            type_url: self.resource_type.url().to_owned(),
            response_nonce: response.nonce,
            error_detail: error_detail(&outcome.rejections),
            ..Default::default()
        });
        outcome
    }
}

impl Session {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(node: NodeInfo) -> Self {
        Self { node, types: TYPES.map(TypeState::new) }
    }

    /// Holds what the world does, but knows no versions: everything is asked for again, and what is gone by then is
    /// noticed. For when it is in doubt whether all that was received has been applied.
    #[must_use]
    pub fn resuming(node: NodeInfo, world: &Snapshot) -> Self {
        let mut session = Self::new(node);
        let (addresses, policies) = world.resource_names();
        for state in &mut session.types {
            state.rejected = match state.resource_type {
                ResourceType::Address => addresses.clone(),
                ResourceType::Authorization => policies.clone(),
            };
        }
        session
    }

    /// A stream is up: the subscriptions to send, in order.
    pub fn connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.connected_within(MAX_RESUME_BYTES)
    }

    fn connected_within(&mut self, max_bytes: usize) -> Vec<DeltaDiscoveryRequest> {
        let node = self.node.message();
        let subscribe =
            |state: &mut TypeState| DeltaDiscoveryRequest { node: Some(node.clone()), ..state.subscribe(max_bytes) };
        self.types.iter_mut().map(subscribe).collect()
    }

    /// A response has come.
    pub fn received(&mut self, response: DeltaDiscoveryResponse) -> Outcome {
        match self.types.iter_mut().find(|state| state.resource_type.url() == response.type_url) {
            Some(state) => {
                let mut outcome = state.received(response);
                if outcome.first_of.is_some() && self.types.iter().all(|state| state.answered_once) {
                    outcome.updates.push(Update::Complete);
                }
                outcome
            }
            None => {
                let rejection = Rejection { name: response.type_url.clone(), reason: "not subscribed to".to_owned() };
                let answer = DeltaDiscoveryRequest {
                    type_url: response.type_url,
                    response_nonce: response.nonce,
                    error_detail: error_detail(std::slice::from_ref(&rejection)),
                    ..Default::default()
                };
                Outcome { answer: Some(answer), rejections: vec![rejection], ..Outcome::default() }
            }
        }
    }
}

/// `name: reason` for each, joined by `; ` (interop §3.4); none when there is nothing to complain about.
fn error_detail(rejections: &[Rejection]) -> Option<rpc_status::Status> {
    let mut message = String::new();
    for (index, rejection) in rejections.iter().enumerate() {
        let part = format!("{}{}: {}", if index == 0 { "" } else { "; " }, rejection.name, rejection.reason);
        if message.len() + part.len() > MAX_ERROR_BYTES {
            message.push_str(&format!("; and {} more", rejections.len() - index));
            break;
        }
        message.push_str(&part);
    }
    (!message.is_empty()).then(|| rpc_status::Status { message, ..Default::default() })
}

#[cfg(test)]
mod tests;
