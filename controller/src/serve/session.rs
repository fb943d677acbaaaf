//! One discovery client: what it subscribed to, what it was sent, what it said to that; pure.
//!
//! There is no queue of updates. A client is always brought from what it holds to the newest world, and only once everything
//! planned before has left; a slow client therefore skips worlds instead of piling them up. What it should hold is all
//! there is, or what it named and what goes with that ([`interest`]).

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use fairway_core::io::xds::digest::{Buckets, METADATA_KEY};
use fairway_core::io::xds::{Digest, Extent};
use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Sent};
use prost_types::Any;

use crate::l7::Client;
use crate::l7::client::metadata;
use crate::world::{Delta, Resource, ResourceType, Resources, World};

mod interest;

use interest::Interest;

/// Bytes of resources in one response, below the 4 MiB that gRPC clients accept unless told otherwise, with room for framing.
pub const MAXIMUM_RESPONSE_BYTES: usize = 3 * 1024 * 1024;
/// Responses a client may leave unanswered before it is sent no more.
pub const MAXIMUM_UNANSWERED: usize = 32;
/// Bytes of a name and a version and their framing, added to each body.
pub(super) const RESOURCE_OVERHEAD: usize = 128;
/// Unknown types a client may ask for before it has taken the answers to those before.
const MAXIMUM_ASKED: usize = 10_000;
/// Names of one type a client may ask for before it has taken the answers, and names it may be subscribed to: more than any
/// node needs, and some 10 MB.
pub(super) const MAXIMUM_NAMES: usize = 100_000;
/// The name that stands for all.
pub(super) const WILDCARD: &str = "*";
/// Names of one type that are remembered as refused: who refuses more refuses everything.
const MAXIMUM_REFUSED: usize = 1_000;
/// Characters of a refusal that are kept.
pub(super) const MAXIMUM_REFUSAL: usize = 4096;

/// What a request turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first request of a type.
    Subscribed(ResourceType),
    /// A response was taken over.
    Acknowledged(ResourceType),
    /// A response was refused, at least in part, with this message.
    Refused(ResourceType, String),
    /// The answer to a response that another one has replaced.
    Stale,
    /// A type this server does not have; it is answered with nothing.
    UnknownType(String),
    /// Single names were asked for or given up.
    Names(ResourceType),
    /// More is asked for than the client takes; its stream should end.
    Flood,
    /// Everything is asked for by who may not know it; its stream should end.
    Denied(ResourceType),
}

/// What a client has of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Generation of the newest world sent completely.
    pub sent: u64,
    /// Generation of the newest world acknowledged completely.
    pub acked: u64,
    /// The last refusal, until a later response is acknowledged.
    pub nacked: Option<String>,
    /// What was refused by name and not taken over since.
    pub refused: Refusals,
}

/// What a client refuses of one type, by name. An answer about something else does not change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    named: BTreeMap<Arc<str>, Refusal>,
    /// There were more than are remembered: who refuses so much refuses everything.
    overflow: Option<Refusal>,
}

/// Why something is refused, and what is in force in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client said.
    pub message: Arc<str>,
    /// The newest generation in which the client has taken it over.
    pub held: u64,
}

impl Refusals {
    /// All that are known by name.
    pub fn named(&self) -> impl Iterator<Item = (&Arc<str>, &Refusal)> {
        self.named.iter()
    }

    /// Set when anything may be refused.
    #[must_use]
    pub fn overflow(&self) -> Option<&Refusal> {
        self.overflow.as_ref()
    }

    /// What is refused a second time has been in force no longer than when it was first.
    fn add(&mut self, names: impl IntoIterator<Item = Arc<str>>, refusal: &Refusal) {
        for name in names {
            let held = self.named.get(&name).map_or(refusal.held, |before| before.held);
            if self.named.len() >= MAXIMUM_REFUSED && !self.named.contains_key(&name) {
                self.overflow.get_or_insert_with(|| refusal.clone());
                return;
            }
            self.named.insert(name, Refusal { held, ..refusal.clone() });
        }
    }
}

impl Progress {
    /// These were taken over.
    fn took(&mut self, names: &[Arc<str>]) {
        self.nacked = None;
        if !self.refused.named.is_empty() {
            names.iter().for_each(|name| drop(self.refused.named.remove(name)));
        }
    }

    /// Everything was taken over.
    pub(super) fn took_all(&mut self, generation: u64) {
        *self = Self { sent: self.sent, acked: generation, ..Self::default() };
    }

    /// At least one of these was refused.
    pub(crate) fn refused(&mut self, names: impl IntoIterator<Item = Arc<str>>, message: &str) {
        self.nacked = Some(message.to_owned());
        self.refused.add(names, &Refusal { message: message.into(), held: self.acked });
    }
}

#[derive(Debug, Default)]
struct Subscription {
    /// What it should hold.
    interest: Interest,
    /// What a client brought from an earlier stream; taken by the first plan.
    initial: Option<Brought>,
    /// What the client holds once everything sent has arrived.
    held: Option<Arc<Resources>>,
    /// Set while the answer to the subscription is open: what the client brought, and may be gone or only not known here.
    withheld: Option<Vec<Arc<str>>>,
    /// Names to answer although nothing changed.
    asked: Vec<String>,
    progress: Progress,
}

/// What a client says it holds.
#[derive(Debug)]
enum Brought {
    /// Name to version.
    Versions(BTreeMap<String, String>),
    /// Sums over those.
    Digest(Digest),
}

/// A part of a plan, small enough for one response.
#[derive(Debug, Default)]
struct Chunk {
    type_url: String,
    kind: Option<ResourceType>,
    changed: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
    with_aliases: bool,
    /// Set on the last chunk of a plan: the generation then held completely.
    completes: Option<u64>,
    /// Whether more may exist than the plan knows.
    is_open: bool,
    /// Set on the last chunk of the answer to a digest.
    differing: Option<Buckets>,
}

#[derive(Debug)]
struct Unanswered {
    nonce: String,
    kind: Option<ResourceType>,
    completes: Option<u64>,
    /// What it says something about.
    names: Vec<Arc<str>>,
}

/// What a caller is, by the account of its token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// A node proxy: it may know all workloads and policies, and is told of those on its node.
    Node,
    /// The waypoint of a gateway that there is: it may know all, because it may be dialled by anybody and dial any endpoint.
    Waypoint,
    /// Anybody else: it may know what it can name.
    #[default]
    Other,
}

/// The state of one client.
#[derive(Debug, Default)]
pub struct Session {
    subscriptions: BTreeMap<ResourceType, Subscription>,
    pending: VecDeque<Chunk>,
    unanswered: VecDeque<Unanswered>,
    last_nonce: u64,
    role: Role,
    /// Name of the client's node.
    node: String,
    /// What else of it decides what it is told.
    client: Client,
}

impl Session {
    /// The session of this client.
    #[must_use]
    pub fn of(client: Client, role: Role) -> Self {
        Self { client, role, ..Self::default() }
    }

    /// Takes in a request.
    pub fn receive(&mut self, request: DeltaDiscoveryRequest) -> Event {
        let Some(kind) = ResourceType::find(&request.type_url) else {
            return self.unknown_type(request);
        };
        let answer = (!request.response_nonce.is_empty()).then(|| self.answered(kind, &request));
        let is_new = !self.subscriptions.contains_key(&kind);
        let digest = request.node.as_ref().and_then(|node| metadata(node, METADATA_KEY)).and_then(Digest::decode);
        if let Some(node) =
            request.node.as_ref().and_then(|node| metadata(node, "NODE_NAME")).filter(|_| self.role == Role::Node)
        {
            node.clone_into(&mut self.node);
        }
        let subscription = self.subscriptions.entry(kind).or_default();
        subscription.asked.extend(request.resource_names_subscribe.iter().filter(|name| *name != WILDCARD).cloned());
        if is_new {
            subscription.interest = Interest::of_first(&request);
        } else {
            subscription.interest.change(request.resource_names_subscribe, request.resource_names_unsubscribe);
        }
        if subscription.interest.is_all() && !kind.is_l7() && self.role == Role::Other {
            return Event::Denied(kind);
        }
        if subscription.asked.len() > MAXIMUM_NAMES || subscription.interest.names() > MAXIMUM_NAMES {
            return Event::Flood;
        }
        if is_new {
            // A nonce of an earlier stream does not make this less of a first request.
            subscription.initial = Some(match digest {
                Some(digest) if subscription.interest.is_all() => Brought::Digest(digest),
                _ => Brought::Versions(request.initial_resource_versions),
            });
            return Event::Subscribed(kind);
        }
        answer.unwrap_or(Event::Names(kind))
    }

    fn unknown_type(&mut self, request: DeltaDiscoveryRequest) -> Event {
        // An answer to our empty answer must not be answered again.
        if request.response_nonce.is_empty() {
            if self.pending.len() >= MAXIMUM_ASKED || request.resource_names_subscribe.len() > MAXIMUM_ASKED {
                return Event::Flood;
            }
            let type_url = request.type_url.clone();
            let names = request.resource_names_subscribe.into_iter().filter(|name| name != WILDCARD);
            let removed = names.map(Into::into).collect();
            self.pending.push_back(Chunk { type_url, removed, ..Chunk::default() });
        } else {
            self.forget(&request.response_nonce);
        }
        Event::UnknownType(request.type_url)
    }

    fn answered(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest) -> Event {
        let Some(answered) = self.forget(&request.response_nonce).filter(|answered| answered.kind == Some(kind)) else {
            return Event::Stale;
        };
        let Some(subscription) = self.subscriptions.get_mut(&kind) else {
            return Event::Stale;
        };
        let progress = &mut subscription.progress;
        match &request.error_detail {
            None => {
                if let Some(generation) = answered.completes {
                    progress.acked = progress.acked.max(generation);
                }
                progress.took(&answered.names);
                Event::Acknowledged(kind)
            }
            Some(detail) => {
                let message: String = detail.message.chars().take(MAXIMUM_REFUSAL).collect();
                progress.refused(answered.names, &message);
                Event::Refused(kind, message)
            }
        }
    }

    /// Answers come in order, so one that arrives also stands for those before it.
    fn forget(&mut self, nonce: &str) -> Option<Unanswered> {
        let position = self.unanswered.iter().position(|sent| sent.nonce == nonce)?;
        self.unanswered.remove(position)
    }

    /// Whether nothing is left to subscribe to for a node proxy; other clients subscribe to one thing after the other.
    #[must_use]
    pub fn has_every_type(&self) -> bool {
        ResourceType::NODE.iter().all(|kind| self.subscriptions.contains_key(kind))
            || self.subscriptions.keys().any(|kind| kind.is_l7())
    }

    /// Whether everything planned has left, so that the next plan may be made.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether there is something to send and the client keeps up.
    #[must_use]
    pub fn can_send(&self) -> bool {
        !self.pending.is_empty() && self.unanswered.len() < MAXIMUM_UNANSWERED
    }

    /// How far the client is, by type.
    pub fn progress(&self) -> impl Iterator<Item = (ResourceType, &Progress)> {
        self.subscriptions.iter().map(|(kind, subscription)| (*kind, &subscription.progress))
    }

    /// Plans what brings the client from what it holds to `world`.
    ///
    /// While the world is open, what the client brought and is not in it is not withdrawn: it may be in what cannot be read.
    ///
    /// New policies leave before the workloads that name them; narrowed and old ones after: a workload never names a policy
    /// the client does not hold, and a policy never concerns fewer workloads than both its versions do.
    pub fn plan(&mut self, world: &World) {
        if !self.is_idle() {
            return;
        }
        let mut policies = self.delta(ResourceType::Authorization, world);
        if let Some((delta, is_owed)) = &mut policies {
            let first = Delta { changed: std::mem::take(&mut delta.changed), ..Delta::default() };
            let has_more = !delta.is_empty();
            // The answer to a subscription is given even when it is empty.
            if !first.is_empty() || (*is_owed && !has_more) {
                self.push(ResourceType::Authorization, first, (!has_more).then_some(world), false);
            }
        }
        if let Some((delta, is_owed)) = self.delta(ResourceType::Address, world)
            && (is_owed || !delta.is_empty())
        {
            self.push(ResourceType::Address, delta, Some(world), false);
        }
        if let Some((delta, _)) = policies
            && !delta.is_empty()
        {
            let last = Delta { changed: delta.narrowed, removed: delta.removed, ..Delta::default() };
            self.push(ResourceType::Authorization, last, Some(world), false);
        }
        self.plan_l7(world);
        self.answer_names(world);
        self.note_unchanged(world.generation);
    }

    /// What HTTP clients hold: new clusters leave before the routes that name them, old ones after.
    fn plan_l7(&mut self, world: &World) {
        let mut gone = Vec::new();
        for kind in ResourceType::L7 {
            let Some((mut delta, is_owed)) = self.delta(kind, world) else { continue };
            let removed = std::mem::take(&mut delta.removed);
            let has_more = !removed.is_empty();
            if !delta.is_empty() || (is_owed && !has_more) {
                self.push(kind, delta, (!has_more).then_some(world), false);
            }
            if has_more {
                gone.push((kind, removed));
            }
        }
        for (kind, removed) in gone {
            self.push(kind, Delta { removed, ..Delta::default() }, Some(world), false);
        }
    }

    /// What is missing of one type, and whether the client is owed a response even when nothing is: it subscribed, or the
    /// answer to that can be closed now.
    fn delta(&mut self, kind: ResourceType, world: &World) -> Option<(Delta, bool)> {
        let subscription = self.subscriptions.get_mut(&kind)?;
        let resources = &if kind.is_l7() {
            subscription.interest.l7(kind, world, &self.client)
        } else {
            subscription.interest.resources(kind, world, &self.node)
        };
        let (mut delta, mut is_owed) = match (&subscription.held, subscription.initial.take()) {
            (Some(held), _) => (world.since(held, resources), false),
            (None, Some(Brought::Digest(held))) => (Delta::resume(&held, resources), true),
            (None, Some(Brought::Versions(held))) => (Delta::since(&held, resources), true),
            (None, None) => (Delta::since(&BTreeMap::new(), resources), true),
        };
        if is_owed && world.is_open {
            subscription.withheld = Some(std::mem::take(&mut delta.removed));
        } else if !world.is_open
            && let Some(withheld) = subscription.withheld.take()
        {
            delta.removed.extend(withheld.into_iter().filter(|name| !resources.contains_key(name)));
            is_owed = true;
        }
        subscription.held = Some(Arc::clone(resources));
        Some((delta, is_owed))
    }

    /// Names asked for one by one: with their aliases, or as removed when there is no such thing. What has just been
    /// planned is not sent twice.
    fn answer_names(&mut self, world: &World) {
        for kind in ResourceType::ALL {
            let Some(subscription) = self.subscriptions.get_mut(&kind) else { continue };
            let asked = std::mem::take(&mut subscription.asked);
            if asked.is_empty() {
                continue;
            }
            let of_kind = self.pending.iter().filter(|chunk| chunk.kind == Some(kind) && chunk.with_aliases);
            let mut sent: HashSet<Arc<str>> =
                of_kind.flat_map(|chunk| &chunk.changed).map(|resource| Arc::clone(&resource.name)).collect();
            let mut delta = Delta::default();
            for name in asked {
                let found: Vec<Arc<Resource>> = if kind.is_l7() {
                    let held = subscription.held.as_ref().and_then(|held| held.get(name.as_str()));
                    held.cloned().into_iter().collect()
                } else {
                    world.find(kind, &name).into_iter().cloned().collect()
                };
                if found.is_empty() {
                    delta.removed.push(name.into());
                }
                delta.changed.extend(found.into_iter().filter(|resource| sent.insert(Arc::clone(&resource.name))));
            }
            if !delta.is_empty() {
                self.push(kind, delta, None, true);
            }
        }
    }

    /// A client that holds all of an older world that is the same for its types holds this one too.
    fn note_unchanged(&mut self, generation: u64) {
        for (kind, subscription) in &mut self.subscriptions {
            let busy = self.pending.iter().any(|chunk| chunk.kind == Some(*kind));
            let progress = &mut subscription.progress;
            if !busy && progress.sent != 0 {
                // An answer that is under way comes first, also where it is about names alone and in the state that was
                // acknowledged before: what it brings is not held yet.
                if let Some(last) = self.unanswered.iter_mut().rev().find(|sent| sent.kind == Some(*kind)) {
                    last.completes = Some(generation);
                    progress.sent = generation;
                } else if progress.acked == progress.sent && progress.nacked.is_none() {
                    progress.acked = generation;
                    progress.sent = generation;
                }
            }
        }
    }

    /// Cuts a delta into responses, after which the client holds all of the world `completes`.
    fn push(&mut self, kind: ResourceType, delta: Delta, completes: Option<&World>, with_aliases: bool) {
        let is_named = self.subscriptions.get(&kind).is_some_and(|subscription| !subscription.interest.is_all());
        let with_aliases = with_aliases || is_named;
        let new = || Chunk { type_url: kind.type_url().to_owned(), kind: Some(kind), with_aliases, ..Chunk::default() };
        let mut chunk = new();
        let mut bytes = 0_usize;
        for resource in delta.changed {
            let size = resource.body.len().saturating_add(RESOURCE_OVERHEAD).saturating_add(resource.name.len());
            if bytes.saturating_add(size) > MAXIMUM_RESPONSE_BYTES && !chunk.changed.is_empty() {
                self.pending.push_back(std::mem::replace(&mut chunk, new()));
                bytes = 0;
            }
            bytes = bytes.saturating_add(size);
            chunk.changed.push(resource);
        }
        for name in delta.removed {
            let size = name.len().saturating_add(RESOURCE_OVERHEAD);
            if bytes.saturating_add(size) > MAXIMUM_RESPONSE_BYTES {
                self.pending.push_back(std::mem::replace(&mut chunk, new()));
                bytes = 0;
            }
            bytes = bytes.saturating_add(size);
            chunk.removed.push(name);
        }
        chunk.completes = completes.map(|world| world.generation);
        chunk.is_open = completes.is_some_and(|world| world.is_open);
        chunk.differing = delta.differing;
        self.pending.push_back(chunk);
    }

    /// The next response, if there is one and the client keeps up.
    pub fn next_response(&mut self) -> Option<DeltaDiscoveryResponse> {
        if !self.can_send() {
            return None;
        }
        let chunk = self.pending.pop_front()?;
        let (extent, generation) = match chunk.completes {
            Some(generation) if chunk.is_open => (Extent::Open, generation),
            Some(generation) => (Extent::Whole, generation),
            None => (Extent::Part, 0),
        };
        self.last_nonce = self.last_nonce.wrapping_add(1);
        let nonce = format!("{:x}", self.last_nonce);
        if let (Some(kind), Some(generation)) = (chunk.kind, chunk.completes)
            && let Some(subscription) = self.subscriptions.get_mut(&kind)
        {
            subscription.progress.sent = generation;
        }
        let changed = chunk.changed.iter().map(|resource| &resource.name);
        let names = changed.chain(&chunk.removed).cloned().collect();
        self.unanswered.push_back(Unanswered {
            nonce: nonce.clone(),
            kind: chunk.kind,
            completes: chunk.completes,
            names,
        });
        let resources = chunk.changed.iter().map(|resource| Sent {
            name: resource.name.to_string(),
            version: resource.version.clone(),
            resource: Some(Any { type_url: chunk.type_url.clone(), value: resource.body.clone() }),
            aliases: if chunk.with_aliases { resource.aliases.clone() } else { Vec::new() },
            ..Sent::default()
        });
        Some(DeltaDiscoveryResponse {
            system_version_info: match &chunk.differing {
                Some(differing) => extent.resumed(generation, differing),
                None => extent.in_generation(generation),
            },
            resources: resources.collect(),
            removed_resources: chunk.removed.iter().map(ToString::to_string).collect(),
            type_url: chunk.type_url,
            nonce,
        })
    }
}

#[cfg(test)]
mod tests;
