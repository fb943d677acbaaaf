//! What to ask for, what to make of the answers, and what to say to them; no I/O.
//!
//! One thing leads to the next: listeners name routes, routes name clusters, and clusters name endpoints. What of it is in force
//! is for [`Warming`] to say.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::Instant;

use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use fairway_proto::envoy_core::Node;
use fairway_proto::{rpc_status, type_url};

use super::held::Held;
use super::warming::{Answers, Bounds, Warming};
use crate::config::Config;

/// Code of an error that is the server's to mend (gRPC `INVALID_ARGUMENT`).
const INVALID: i32 = 3;
/// Answers that are kept back. Beyond, the oldest is given although something waits: half of what our controller lets a client
/// leave unanswered before it says no more (32), behind which a policy would wait, too.
const MOST_WITHHELD: usize = 16;

/// The types, in the order in which one leads to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Listener,
    Routes,
    Cluster,
    Endpoints,
}

pub(super) const KINDS: [Kind; 4] = [Kind::Listener, Kind::Routes, Kind::Cluster, Kind::Endpoints];

impl Kind {
    pub(super) const fn url(self) -> &'static str {
        match self {
            Self::Listener => type_url::LISTENER,
            Self::Routes => type_url::ROUTE_CONFIGURATION,
            Self::Cluster => type_url::CLUSTER,
            Self::Endpoints => type_url::CLUSTER_LOAD_ASSIGNMENT,
        }
    }

    /// What it may lead to.
    const fn leads_to(self) -> &'static [Self] {
        match self {
            Self::Listener => &[Self::Routes, Self::Cluster],
            Self::Routes => &[Self::Cluster],
            Self::Cluster => &[Self::Endpoints],
            Self::Endpoints => &[],
        }
    }
}

/// What we asked for of one type, and what became of it.
#[derive(Debug, Default)]
struct Subscription {
    wanted: HashSet<String>,
    /// Of that, what there was no answer to yet, whatever it would be.
    unanswered: HashSet<String>,
}

/// What is wanted that was not, and what is not any more that was.
type Difference = (Vec<String>, Vec<String>);

impl Subscription {
    /// What has to change until this is wanted.
    fn until(&self, wanted: &HashSet<&str>) -> Difference {
        let more = wanted.iter().filter(|name| !self.wanted.contains(**name)).map(|name| (*name).to_owned());
        let less = self.wanted.iter().filter(|name| !wanted.contains(name.as_str())).cloned();
        let (mut more, mut less): Difference = (more.collect(), less.collect());
        more.sort_unstable();
        less.sort_unstable();
        (more, less)
    }

    fn sorted(&self) -> Vec<String> {
        let mut wanted: Vec<String> = self.wanted.iter().cloned().collect();
        wanted.sort_unstable();
        wanted
    }
}

/// What a response leads to.
#[derive(Debug, Default)]
pub struct Received {
    /// To be sent.
    pub requests: Vec<DeltaDiscoveryRequest>,
    /// What was not taken, and why.
    pub rejections: Vec<(String, String)>,
}

/// The answer to a response, said once what the response brought is in force.
#[derive(Debug)]
struct Withheld {
    kind: Kind,
    nonce: String,
    /// What it brought and waits.
    waiting: Vec<String>,
    rejected: Option<rpc_status::Status>,
}

/// What we hold, across streams.
#[derive(Debug)]
pub struct Session {
    node: Node,
    subscriptions: [Subscription; KINDS.len()],
    warming: Warming,
    withheld: VecDeque<Withheld>,
    held: Held,
    expired: u64,
    /// Types of which others may be led to than those that were asked for. With thousands of services it takes long to find out.
    stale: BTreeSet<Kind>,
}

impl Answers for [Subscription; KINDS.len()] {
    fn has(&self, kind: Kind, name: &str) -> bool {
        !self[kind as usize].unanswered.contains(name)
    }
}

impl Session {
    /// Nothing yet; what comes is kept in `held`, too, as it comes.
    #[must_use]
    pub fn new(node: Node, held: Held, bounds: Bounds) -> Self {
        let (subscriptions, warming) = (Default::default(), Warming::new(bounds));
        Self { node, subscriptions, warming, withheld: VecDeque::new(), held, expired: 0, stale: BTreeSet::new() }
    }

    /// What is in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.warming.in_force()
    }

    /// How often something went in force that had waited in vain, since this was last asked.
    pub fn expired(&mut self) -> u64 {
        std::mem::take(&mut self.expired)
    }

    /// Whether there is an answer to everything that was asked for.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.subscriptions.iter().all(|subscription| subscription.unanswered.is_empty())
    }

    /// What to say first on a new stream. What waits is not said to be there: it is answered when it is in force, and an answer
    /// belongs to its stream.
    #[must_use]
    pub fn connected(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        self.withheld.clear();
        self.warming.connected(now);
        let request = |(kind, subscription): (Kind, &Subscription)| {
            let mut versions = self.held.versions(kind);
            versions.retain(|name, _| !self.warming.is_waiting(kind, name));
            DeltaDiscoveryRequest {
                node: Some(self.node.clone()),
                type_url: kind.url().to_owned(),
                resource_names_subscribe: subscription.sorted(),
                initial_resource_versions: versions,
                ..Default::default()
            }
        };
        let asked = KINDS.into_iter().zip(&self.subscriptions);
        // A request for nothing would be one for everything.
        asked.filter(|(_, subscription)| !subscription.wanted.is_empty()).map(request).collect()
    }

    /// The stream is gone, and nobody is there to be waited for: policies do not.
    pub fn disconnected(&mut self, now: Instant) {
        self.warming.disconnected();
        self.step(now);
    }

    /// From now on these listeners are wanted.
    pub fn want(&mut self, listeners: Vec<String>, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        let wanted = listeners.iter().map(String::as_str).collect();
        let difference = self.subscriptions[Kind::Listener as usize].until(&wanted);
        let changed = self.subscribe(Kind::Listener, difference);
        changed.into_iter().chain(self.step(now)).collect()
    }

    /// When [`Self::wake`] has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.warming.due()
    }

    /// What has waited for too long goes in force.
    pub fn wake(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        self.step(now)
    }

    /// Asks for what is led to, puts in force what can be, and lets go of what nothing leads to any more.
    fn step(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        let asked = self.follow();
        let settled = self.warming.settle(&self.subscriptions, now);
        self.expired += settled.expired;
        self.stale.extend(settled.moved.iter().flat_map(|kind| kind.leads_to()));
        let let_go = self.follow();
        self.warming.tell();
        self.answer().into_iter().chain(asked).chain(let_go).collect()
    }

    /// Asks for what is named by what is there, one type after the other: what is let go of one names nothing of the next.
    fn follow(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        while let Some(kind) = self.stale.pop_first() {
            let difference = self.subscriptions[kind as usize].until(&self.warming.named(kind));
            requests.extend(self.subscribe(kind, difference));
        }
        requests
    }

    /// Answers that can be given, those of one type in the order of what they answer: the newest stands for what was before it.
    fn answer(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let (mut given, mut blocked) = (Vec::new(), Vec::new());
        let too_many = self.withheld.len().saturating_sub(MOST_WITHHELD);
        for (place, mut withheld) in std::mem::take(&mut self.withheld).into_iter().enumerate() {
            withheld.waiting.retain(|name| self.warming.is_waiting(withheld.kind, name));
            if place >= too_many && (!withheld.waiting.is_empty() || blocked.contains(&withheld.kind)) {
                blocked.push(withheld.kind);
                self.withheld.push_back(withheld);
                continue;
            }
            given.push(DeltaDiscoveryRequest {
                type_url: withheld.kind.url().to_owned(),
                response_nonce: withheld.nonce,
                error_detail: withheld.rejected,
                ..Default::default()
            });
        }
        given
    }

    /// Asks for what is wanted now and was not, and lets go of the rest.
    fn subscribe(&mut self, kind: Kind, (more, less): Difference) -> Option<DeltaDiscoveryRequest> {
        if more.is_empty() && less.is_empty() {
            return None;
        }
        let place = &mut self.subscriptions[kind as usize];
        let is_first = place.wanted.is_empty();
        place.wanted.extend(more.iter().cloned());
        place.unanswered.extend(more.iter().cloned());
        for name in &less {
            place.wanted.remove(name);
            place.unanswered.remove(name);
            self.warming.forget(kind, name);
            self.held.forget(kind, name);
        }
        if !less.is_empty() {
            self.stale.extend(kind.leads_to());
        }
        Some(DeltaDiscoveryRequest {
            node: is_first.then(|| self.node.clone()),
            type_url: kind.url().to_owned(),
            resource_names_subscribe: more,
            resource_names_unsubscribe: less,
            ..Default::default()
        })
    }

    /// Takes a response.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse, now: Instant) -> Received {
        let mut rejections = Vec::new();
        let Some(kind) = KINDS.into_iter().find(|kind| kind.url() == response.type_url) else {
            return Received::default();
        };
        let mut brought = Vec::new();
        for resource in response.resources {
            let Resource { name, version, resource, .. } = resource;
            let place = &mut self.subscriptions[kind as usize];
            if !place.wanted.contains(&name) {
                continue;
            }
            place.unanswered.remove(&name);
            let any = resource.unwrap_or_default();
            let taken = if any.type_url == kind.url() {
                self.warming.take(kind, &name, &any.value, now).map_err(|wrong| wrong.to_string())
            } else {
                Err(format!("its type is {:?}", any.type_url))
            };
            match taken {
                Ok(()) => {
                    self.warming.faults().remove(&name);
                    self.held.take(kind, &name, &version, &any.value);
                    brought.push(name);
                }
                Err(fault) => {
                    self.held.refuse(kind, &name, &version, &fault);
                    self.warming.faults().insert(name.clone(), fault.clone());
                    rejections.push((name, fault));
                }
            }
        }
        for name in response.removed_resources {
            let place = &mut self.subscriptions[kind as usize];
            if !place.wanted.contains(&name) {
                continue;
            }
            place.unanswered.remove(&name);
            self.warming.faults().remove(&name);
            self.warming.remove(kind, &name, now);
            self.held.forget(kind, &name);
            brought.push(name);
        }
        self.stale.extend(kind.leads_to());
        let rejected = error(&rejections);
        self.withheld.push_back(Withheld { kind, nonce: response.nonce, waiting: brought, rejected });
        Received { requests: self.step(now), rejections }
    }
}

fn error(rejections: &[(String, String)]) -> Option<rpc_status::Status> {
    if rejections.is_empty() {
        return None;
    }
    let all: Vec<String> = rejections.iter().map(|(name, fault)| format!("{name}: {fault}")).collect();
    Some(rpc_status::Status { code: INVALID, message: all.join("; "), ..Default::default() })
}

#[cfg(test)]
mod tests;
