//! What to ask for, what to make of the answers, and what to say to them; no I/O.
//!
//! One thing leads to the next: listeners name routes, routes name clusters, and clusters name endpoints.

use std::collections::BTreeSet;
use std::sync::Arc;

use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use fairway_proto::envoy_core::Node;
use fairway_proto::{rpc_status, type_url};

use super::held::Held;
use crate::config::{self, Config, Listener};

/// Code of an error that is the server's to mend (gRPC `INVALID_ARGUMENT`).
const INVALID: i32 = 3;

/// The types, in the order in which one leads to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// What we asked for of one type, and what became of it.
#[derive(Debug, Default)]
struct Subscription {
    wanted: BTreeSet<String>,
    /// Of that, what there was no answer to yet, whatever it would be.
    unanswered: BTreeSet<String>,
}

/// What a response leads to.
#[derive(Debug, Default)]
pub struct Received {
    /// To be sent.
    pub requests: Vec<DeltaDiscoveryRequest>,
    /// What was not taken, and why.
    pub rejections: Vec<(String, String)>,
}

/// What we hold, across streams.
#[derive(Debug)]
pub struct Session {
    node: Node,
    subscriptions: [Subscription; KINDS.len()],
    config: Config,
    held: Held,
}

impl Session {
    /// Nothing yet; what comes is kept in `held`, too, as it comes.
    #[must_use]
    pub fn new(node: Node, held: Held) -> Self {
        Self { node, subscriptions: Default::default(), config: Config::default(), held }
    }

    /// What is in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether there is an answer to everything that was asked for.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.subscriptions.iter().all(|subscription| subscription.unanswered.is_empty())
    }

    /// What to say first on a new stream.
    #[must_use]
    pub fn connected(&self) -> Vec<DeltaDiscoveryRequest> {
        let request = |(kind, subscription): (Kind, &Subscription)| DeltaDiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: kind.url().to_owned(),
            resource_names_subscribe: subscription.wanted.iter().cloned().collect(),
            initial_resource_versions: self.held.versions(kind),
            ..Default::default()
        };
        let asked = KINDS.into_iter().zip(&self.subscriptions);
        // A request for nothing would be one for everything.
        asked.filter(|(_, subscription)| !subscription.wanted.is_empty()).map(request).collect()
    }

    /// From now on these listeners are wanted.
    pub fn want(&mut self, listeners: Vec<String>) -> Vec<DeltaDiscoveryRequest> {
        let changed = self.subscribe(Kind::Listener, listeners.into_iter().collect());
        changed.into_iter().chain(self.follow()).collect()
    }

    /// Asks for what is named by what is there, one type after the other: what is let go of one names nothing of the next.
    fn follow(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for kind in [Kind::Routes, Kind::Cluster, Kind::Endpoints] {
            requests.extend(self.subscribe(kind, self.named(kind)));
        }
        requests
    }

    /// What is named of a type by what is there of those before.
    fn named(&self, kind: Kind) -> BTreeSet<String> {
        let Config { listeners, routes, clusters, .. } = &self.config;
        let mut named = BTreeSet::new();
        match kind {
            Kind::Listener => {}
            Kind::Routes | Kind::Cluster => {
                for listener in listeners.values() {
                    match (&**listener, kind) {
                        (Listener::Http(http), Kind::Routes) => drop(named.insert(http.routes.clone())),
                        (Listener::Http(http), Kind::Cluster) => {
                            named.extend(http.custom.iter().map(|it| it.authorizer.cluster.to_string()));
                            named.extend(http.limiter.iter().map(|limiter| limiter.cluster.to_string()));
                            named.extend(http.processor.iter().map(|processor| processor.cluster.to_string()));
                            named.extend(http.tracing.iter().map(|it| it.collector.cluster.to_string()));
                            named.extend(http.logs.iter().flat_map(|it| it.clusters()).map(|it| it.to_string()));
                        }
                        (Listener::Opaque(opaque), Kind::Cluster) => {
                            named.extend(opaque.clusters().cloned());
                            let logs = opaque.chains().flat_map(|chain| &chain.logs);
                            named.extend(logs.flat_map(|it| it.clusters()).map(|it| it.to_string()));
                        }
                        _ => {}
                    }
                }
                if kind == Kind::Cluster {
                    named.extend(routes.values().flat_map(|table| table.clusters().map(str::to_owned)));
                }
            }
            Kind::Endpoints => {
                let discovered = clusters.values().filter(|cluster| cluster.names.is_none());
                named.extend(discovered.map(|cluster| cluster.endpoints.clone()));
            }
        }
        named
    }

    fn subscribe(&mut self, kind: Kind, wanted: BTreeSet<String>) -> Option<DeltaDiscoveryRequest> {
        let place = &mut self.subscriptions[kind as usize];
        let is_first = place.wanted.is_empty();
        let more: Vec<String> = wanted.difference(&place.wanted).cloned().collect();
        let less: Vec<String> = place.wanted.difference(&wanted).cloned().collect();
        if more.is_empty() && less.is_empty() {
            return None;
        }
        place.wanted = wanted;
        place.unanswered.extend(more.iter().cloned());
        for name in &less {
            place.unanswered.remove(name);
        }
        for name in &less {
            self.forget(kind, name);
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
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Received {
        let mut received = Received::default();
        let Some(kind) = KINDS.into_iter().find(|kind| kind.url() == response.type_url) else { return received };
        for resource in response.resources {
            let Resource { name, version, resource, .. } = resource;
            let place = &mut self.subscriptions[kind as usize];
            if !place.wanted.contains(&name) {
                continue;
            }
            place.unanswered.remove(&name);
            let any = resource.unwrap_or_default();
            let taken = if any.type_url == kind.url() {
                self.take(kind, &name, &any.value).map_err(|wrong| wrong.to_string())
            } else {
                Err(format!("its type is {:?}", any.type_url))
            };
            match taken {
                Ok(()) => {
                    self.config.faults.remove(&name);
                    self.held.take(kind, &name, &version, &any.value);
                }
                Err(fault) => {
                    self.held.refuse(kind, &name, &version, &fault);
                    self.config.faults.insert(name.clone(), fault.clone());
                    received.rejections.push((name, fault));
                }
            }
        }
        for name in response.removed_resources {
            let place = &mut self.subscriptions[kind as usize];
            if !place.wanted.contains(&name) {
                continue;
            }
            place.unanswered.remove(&name);
            self.forget(kind, &name);
            if kind == Kind::Listener {
                self.config.absent.insert(name);
            }
        }
        received.requests.push(DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            response_nonce: response.nonce,
            error_detail: error(&received.rejections),
            ..Default::default()
        });
        received.requests.extend(self.follow());
        received
    }

    fn take(&mut self, kind: Kind, name: &str, bytes: &[u8]) -> Result<(), config::Wrong> {
        let name = name.to_owned();
        match kind {
            Kind::Listener => {
                let listener = Arc::new(config::listener(bytes)?);
                self.config.absent.remove(&name);
                drop(self.config.listeners.insert(name, listener));
            }
            Kind::Routes => drop(self.config.routes.insert(name, Arc::new(config::table(bytes)?))),
            Kind::Cluster => drop(self.config.clusters.insert(name, Arc::new(config::cluster(bytes)?))),
            Kind::Endpoints => drop(self.config.endpoints.insert(name, Arc::new(config::assignment(bytes)?))),
        }
        Ok(())
    }

    fn forget(&mut self, kind: Kind, name: &str) {
        self.config.faults.remove(name);
        self.held.forget(kind, name);
        match kind {
            Kind::Listener => {
                self.config.absent.remove(name);
                drop(self.config.listeners.remove(name));
            }
            Kind::Routes => drop(self.config.routes.remove(name)),
            Kind::Cluster => drop(self.config.clusters.remove(name)),
            Kind::Endpoints => drop(self.config.endpoints.remove(name)),
        }
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
