//! The delta protocol as a state machine without I/O: what to ask, what to apply, what to answer.

use std::collections::{BTreeMap, HashSet};

use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use fairway_proto::{rpc_status, type_url};

use prost_types::value::Kind;

use super::convert;
use super::digest::{self, Buckets, Digest};
use super::extent::{self, Extent};
use super::node::NodeInfo;
use crate::policy::PolicyKey;
use crate::snapshot::{Snapshot, Update};

/// Bytes of names and versions a subscription may carry: gRPC servers refuse messages above 4 MiB unless told
/// otherwise, and 40,000 workloads reach that.
const MAX_RESUME_BYTES: usize = 3 * 1024 * 1024;
/// Below this many names a digest saves nothing worth the resources that share a bucket with one that changed.
const FEW_NAMES: usize = 64;
/// Bytes a map entry costs besides name and version.
const ENTRY_OVERHEAD_BYTES: usize = 16;
/// The name that stands for all.
const WILDCARD: &str = "*";
/// Bytes of error text in one answer: enough to see what is wrong, too little to be refused.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Resource types we subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    pub(super) fn find(url: &str) -> Option<Self> {
        TYPES.into_iter().find(|known| known.url() == url)
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
    /// To be applied to the world, in this order, as one batch; empty where [`Session::receive`] gave them away.
    pub updates: Vec<Update>,
    /// To be sent after that; none if the response was not one of ours.
    pub answer: Option<DeltaDiscoveryRequest>,
    /// Resources not taken.
    pub rejections: Vec<Rejection>,
    /// Set when this completed the first answer of a type: its URL.
    pub first_of: Option<&'static str>,
    /// How much of what we are owed has arrived with this.
    pub extent: Extent,
    /// Names and aliases of what was given, if names are asked for one by one.
    pub found: Vec<String>,
    /// Names that were removed, or never existed.
    pub removed: Vec<String>,
}

/// What we hold of each type, across streams.
#[derive(Debug)]
pub struct Session {
    node: NodeInfo,
    /// Addresses are subscribed to by name.
    on_demand: bool,
    /// The last server that answered understands a digest of what we hold.
    digests: bool,
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
    unannounced: Unannounced,
}

/// What we hold that the server was not told by name when we subscribed, so that it will not tell us if it is gone.
#[derive(Debug)]
enum Unannounced {
    /// These, as far as the answer has not come to them yet.
    These(HashSet<String>),
    /// Everything, of which the answer has come to these.
    AllBut(HashSet<String>),
}

impl Unannounced {
    fn answered(&mut self, name: &str) {
        match self {
            Self::These(names) => drop(names.remove(name)),
            Self::AllBut(seen) => drop(seen.insert(name.to_owned())),
        }
    }
}

/// How to subscribe.
#[derive(Clone, Copy, Debug)]
struct Manner {
    on_demand: bool,
    digest: bool,
    max_bytes: usize,
}

impl TypeState {
    fn new(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            held: BTreeMap::new(),
            rejected: HashSet::new(),
            answered_once: false,
            unannounced: Unannounced::These(HashSet::new()),
        }
    }

    fn subscribe(&mut self, node: &NodeInfo, manner: Manner) -> Vec<DeltaDiscoveryRequest> {
        let is_address = self.resource_type == ResourceType::Address;
        let mut request = DeltaDiscoveryRequest {
            node: Some(node.message()),
            type_url: self.resource_type.url().to_owned(),
            ..Default::default()
        };
        // Policies are few, and which of them a server sends before workloads depends on what we hold of each.
        if is_address && manner.digest && !manner.on_demand && self.held.len() >= FEW_NAMES {
            let held = self.held.iter().map(|(name, version)| (name.as_str(), version.as_str()));
            let text = Digest::of(self.held.len(), held).encode();
            if let Some(metadata) = request.node.as_mut().and_then(|node| node.metadata.as_mut()) {
                let value = prost_types::Value { kind: Some(Kind::StringValue(text)) };
                metadata.fields.insert(digest::METADATA_KEY.to_owned(), value);
            }
            self.unannounced = Unannounced::AllBut(HashSet::new());
            return vec![request];
        }
        let mut bytes = 0;
        let mut left_out = HashSet::new();
        for (name, version) in &self.held {
            bytes += name.len() + version.len() + ENTRY_OVERHEAD_BYTES;
            if bytes <= manner.max_bytes {
                request.initial_resource_versions.insert(name.clone(), version.clone());
            } else {
                left_out.insert(name.clone());
            }
        }
        // A rejected one may have an accepted predecessor in use; its removal must not be missed either.
        left_out.extend(self.rejected.iter().cloned());
        if is_address && manner.on_demand {
            // Together: only what is named, from the first answer on.
            request.resource_names_subscribe = vec![WILDCARD.to_owned()];
            request.resource_names_unsubscribe = vec![WILDCARD.to_owned()];
            self.unannounced = Unannounced::These(HashSet::new());
            let more = named(left_out.into_iter().collect(), Vec::new(), manner.max_bytes);
            return std::iter::once(request).chain(more).collect();
        }
        self.unannounced = Unannounced::These(left_out);
        vec![request]
    }

    fn received(
        &mut self,
        response: DeltaDiscoveryResponse,
        on_demand: bool,
        apply: &mut impl FnMut(Update),
    ) -> Outcome {
        let extent = Extent::of(&response.system_version_info);
        let differing = extent::differing(&response.system_version_info);
        let completes_first = extent != Extent::Part && !self.answered_once;
        self.answered_once |= completes_first;
        let mut outcome =
            Outcome { first_of: completes_first.then_some(self.resource_type.url()), extent, ..Outcome::default() };
        for mut resource in response.resources {
            let (name, version) = (resource.name.clone(), resource.version.clone());
            self.unannounced.answered(&name);
            if on_demand {
                outcome.found.append(&mut resource.aliases);
                outcome.found.push(name.clone());
            }
            match convert::update(self.resource_type, resource) {
                Ok(update) => {
                    self.rejected.remove(&name);
                    self.held.insert(name, version);
                    apply(update);
                }
                Err(unusable) => {
                    self.held.remove(&name);
                    self.rejected.insert(name.clone());
                    unusable.update.into_iter().for_each(&mut *apply);
                    outcome.rejections.push(Rejection { name, reason: unusable.reason });
                }
            }
        }
        // A subscription with gaps is answered with everything it did not name, so what is missing in the end is gone.
        for name in response.removed_resources.into_iter().chain(self.gone(extent, differing.as_ref())) {
            self.held.remove(&name);
            self.rejected.remove(&name);
            self.unannounced.answered(&name);
            outcome.removed.push(name.clone());
            apply(self.resource_type.removal(name));
        }
        outcome.answer = Some(DeltaDiscoveryRequest {
            type_url: self.resource_type.url().to_owned(),
            response_nonce: response.nonce,
            error_detail: error_detail(&outcome.rejections),
            ..Default::default()
        });
        outcome
    }

    /// What is gone without having been named, now that so much has arrived.
    fn gone(&mut self, extent: Extent, differing: Option<&Buckets>) -> HashSet<String> {
        if extent == Extent::Part {
            return HashSet::new();
        }
        if let Unannounced::AllBut(seen) = &self.unannounced {
            // Without a word on buckets the server did not understand the digest, and the answer is everything. In a bucket
            // that does not differ the server has what we hold and nothing else.
            let in_doubt = |name: &String| differing.is_none_or(|differing| differing.hold(name));
            let held = self.held.keys().filter(|name| in_doubt(name));
            let names = held.chain(&self.rejected).filter(|name| !seen.contains(*name)).cloned().collect();
            self.unannounced = Unannounced::These(names);
        }
        match &mut self.unannounced {
            Unannounced::These(names) if extent == Extent::Whole => std::mem::take(names),
            Unannounced::These(_) | Unannounced::AllBut(_) => HashSet::new(),
        }
    }
}

/// Requests that subscribe to some addresses and unsubscribe from others, none of them larger than a server takes.
pub(super) fn named(subscribe: Vec<String>, unsubscribe: Vec<String>, max_bytes: usize) -> Vec<DeltaDiscoveryRequest> {
    let mut requests: Vec<DeltaDiscoveryRequest> = Vec::new();
    let mut bytes = max_bytes;
    let all = subscribe.into_iter().map(|name| (true, name)).chain(unsubscribe.into_iter().map(|name| (false, name)));
    for (wanted, name) in all {
        bytes += name.len() + ENTRY_OVERHEAD_BYTES;
        if bytes > max_bytes || requests.is_empty() {
            bytes = name.len() + ENTRY_OVERHEAD_BYTES;
            requests.push(DeltaDiscoveryRequest { type_url: type_url::ADDRESS.to_owned(), ..Default::default() });
        }
        if let Some(request) = requests.last_mut() {
            let names =
                if wanted { &mut request.resource_names_subscribe } else { &mut request.resource_names_unsubscribe };
            names.push(name);
        }
    }
    requests
}

impl Session {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(node: NodeInfo) -> Self {
        Self { node, on_demand: false, digests: false, types: TYPES.map(TypeState::new) }
    }

    /// Holds nothing yet and asks for addresses by name, as [`Session::ask`] says them.
    #[must_use]
    pub fn on_demand(node: NodeInfo) -> Self {
        Self { on_demand: true, ..Self::new(node) }
    }

    /// Holds what the world does, but knows no versions: everything is asked for again, and what is gone by then is
    /// noticed. For when it is in doubt whether all that was received has been applied.
    #[must_use]
    pub fn resuming(&self, world: &Snapshot) -> Self {
        let mut session = Self { on_demand: self.on_demand, ..Self::new(self.node.clone()) };
        let (addresses, policies) = world.resource_names();
        for state in &mut session.types {
            state.rejected = match state.resource_type {
                ResourceType::Address => addresses.clone(),
                ResourceType::Authorization => policies.clone(),
            };
        }
        session
    }

    /// Whether the last server understands a digest of what is held.
    #[must_use]
    pub(super) fn digests(&self) -> bool {
        self.digests
    }

    /// What was received before this process started came from a server that does, or does not.
    pub(super) fn set_digests(&mut self, digests: bool) {
        self.digests = digests;
    }

    /// Whether the answers to all subscriptions have come.
    #[must_use]
    pub(super) fn is_answered(&self) -> bool {
        self.types.iter().all(|state| state.answered_once)
    }

    /// A stream is up: the subscriptions to send, in order.
    pub fn connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.connected_within(MAX_RESUME_BYTES)
    }

    fn connected_within(&mut self, max_bytes: usize) -> Vec<DeltaDiscoveryRequest> {
        let manner = Manner { on_demand: self.on_demand, digest: self.digests, max_bytes };
        let node = &self.node;
        self.types.iter_mut().flat_map(|state| state.subscribe(node, manner)).collect()
    }

    /// What to send in order to ask for addresses by name, or not to be told of them any more.
    #[must_use]
    pub fn ask(subscribe: Vec<String>, unsubscribe: Vec<String>) -> Vec<DeltaDiscoveryRequest> {
        named(subscribe, unsubscribe, MAX_RESUME_BYTES)
    }

    /// A response has come. Its updates are in the outcome.
    pub fn received(&mut self, response: DeltaDiscoveryResponse) -> Outcome {
        let mut updates = Vec::new();
        let outcome = self.receive(response, |update| updates.push(update));
        Outcome { updates, ..outcome }
    }

    /// A response has come. Each update is given away as soon as it is made: all of those of a large mesh together would
    /// need several times the memory that the world does.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse, mut apply: impl FnMut(Update)) -> Outcome {
        match self.types.iter_mut().find(|state| state.resource_type.url() == response.type_url) {
            Some(state) => {
                self.digests = extent::is_ours(&response.system_version_info);
                let by_name = self.on_demand && state.resource_type == ResourceType::Address;
                let outcome = state.received(response, by_name, &mut apply);
                if outcome.first_of.is_some() && self.is_answered() {
                    apply(Update::Complete);
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
