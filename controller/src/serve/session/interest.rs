//! What a client should hold of one type: everything, or what it named and what the server volunteers (interop §3.3).

use std::collections::BTreeSet;
use std::sync::Arc;

use fairway_proto::discovery::DeltaDiscoveryRequest;

use super::WILDCARD;
use crate::l7::Client;
use crate::world::{ResourceType, Resources, World};

/// What a client should hold of one type.
#[derive(Debug, Default)]
pub(super) enum Interest {
    /// Everything.
    #[default]
    All,
    /// What these names mean.
    Named(Box<Named>),
}

/// Names, and what they meant last.
#[derive(Debug, Default)]
pub(super) struct Named {
    names: BTreeSet<String>,
    /// The resources that were looked at, and what of them is meant; none after the names have changed.
    meant: Option<(Arc<Resources>, Arc<Resources>)>,
}

impl Interest {
    /// A first request that names nothing asks for everything, one that names something only for that. Subscribing to the
    /// wildcard and unsubscribing from it at once says that names will follow. What the client brings it wants to keep.
    pub(super) fn of_first(request: &DeltaDiscoveryRequest) -> Self {
        let (subscribe, unsubscribe) = (&request.resource_names_subscribe, &request.resource_names_unsubscribe);
        let has_wildcard = |names: &[String]| names.iter().any(|name| name == WILDCARD);
        let is_all = (subscribe.is_empty() || has_wildcard(subscribe)) && !has_wildcard(unsubscribe);
        if is_all {
            return Self::All;
        }
        let brought = request.initial_resource_versions.keys();
        let names = subscribe.iter().chain(brought).filter(|name| !unsubscribe.contains(name)).cloned().collect();
        Self::Named(Box::new(Named { names, meant: None }))
    }

    /// A later request. Names in addition to everything change nothing.
    pub(super) fn change(&mut self, subscribe: Vec<String>, unsubscribe: Vec<String>) {
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return;
        }
        if unsubscribe.iter().any(|name| name == WILDCARD) {
            if self.is_all() {
                *self = Self::Named(Box::default());
            }
        } else if subscribe.iter().any(|name| name == WILDCARD) {
            *self = Self::All;
        }
        if let Self::Named(named) = self {
            named.meant = None;
            named.names.extend(subscribe.into_iter().filter(|name| name != WILDCARD));
            for name in unsubscribe {
                named.names.remove(&name);
            }
        }
    }

    pub(super) fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// How many names there are.
    pub(super) fn names(&self) -> usize {
        match self {
            Self::All => 0,
            Self::Named(named) => named.names.len(),
        }
    }

    /// The resources of a type of which each client has its own.
    pub(super) fn l7(&self, kind: ResourceType, world: &World, client: &Client) -> Arc<Resources> {
        let named = |resource: crate::world::Resource| (Arc::clone(&resource.name), Arc::new(resource));
        let snapshot = world.l7();
        Arc::new(match self {
            Self::All => snapshot.all(kind, client).map(named).collect(),
            Self::Named(wanted) => {
                wanted.names.iter().filter_map(|name| snapshot.find(kind, name, client)).map(named).collect()
            }
        })
    }

    /// The resources of `world` that a client on `node` should hold.
    pub(super) fn resources(&mut self, kind: ResourceType, world: &World, node: &str) -> Arc<Resources> {
        let all = world.resources(kind);
        match self {
            Self::All => Arc::clone(all),
            Self::Named(named) => named.resources(kind, world, node),
        }
    }
}

impl Named {
    fn resources(&mut self, kind: ResourceType, world: &World, node: &str) -> Arc<Resources> {
        let all = world.resources(kind);
        if let Some((of, meant)) = &self.meant
            && Arc::ptr_eq(of, all)
        {
            return Arc::clone(meant);
        }
        let mut meant = Resources::new();
        let mut add = |key: &Arc<str>| {
            if let Some((key, resource)) = all.get_key_value(key) {
                meant.insert(Arc::clone(key), Arc::clone(resource));
            }
        };
        for resource in self.names.iter().flat_map(|name| world.find(kind, name)) {
            add(&resource.name);
            if kind == ResourceType::Address {
                // Only a service has any.
                world.lookup().of_service(&resource.name).for_each(&mut add);
            }
        }
        if kind == ResourceType::Address && !node.is_empty() {
            world.lookup().on_node(node).for_each(&mut add);
        }
        let meant = Arc::new(meant);
        self.meant = Some((Arc::clone(all), Arc::clone(&meant)));
        meant
    }
}
