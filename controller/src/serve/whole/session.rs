//! One client that is told the state of the world: what it subscribed to, what it was sent, what it said to that; pure.
//!
//! Every response of a type names everything the client should hold of it. There is no queue: a slow client skips states.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_proto::discovery::{DiscoveryRequest, DiscoveryResponse};
use prost_types::Any;
use tonic::Status;

use super::super::session::{
    Event, MAXIMUM_NAMES, MAXIMUM_REFUSAL, MAXIMUM_RESPONSE_BYTES, Progress, RESOURCE_OVERHEAD, WILDCARD,
};
use crate::l7::Client;
use crate::world::{Resource, ResourceType, World};

/// What a client has of one type.
#[derive(Debug, Default)]
struct Subscription {
    /// What it asks for; none is everything.
    names: Option<BTreeSet<String>>,
    /// Names and versions it was sent last.
    sent: BTreeMap<Arc<str>, String>,
    /// It asked for something since.
    is_owed: bool,
    /// Of the last response, which tells whether a request has seen it.
    nonce: String,
    /// Of the parts of the last plan before that response.
    parts: Vec<String>,
    /// One of those was refused.
    has_refused: bool,
    /// The generation of the last response.
    generation: u64,
    progress: Progress,
}

/// The state of one client.
#[derive(Debug, Default)]
pub(in super::super) struct Session {
    client: Client,
    subscriptions: BTreeMap<ResourceType, Subscription>,
    last_nonce: u64,
}

impl Session {
    pub(in super::super) fn of(client: Client) -> Self {
        Self { client, ..Self::default() }
    }

    /// Takes in a request.
    pub(in super::super) fn receive(&mut self, request: DiscoveryRequest) -> Event {
        let Some(kind) = ResourceType::find(&request.type_url).filter(|kind| kind.is_l7()) else {
            return Event::UnknownType(request.type_url);
        };
        if request.resource_names.len() > MAXIMUM_NAMES {
            return Event::Flood;
        }
        let is_new = !self.subscriptions.contains_key(&kind);
        let subscription = self.subscriptions.entry(kind).or_default();
        if !is_new && request.response_nonce != subscription.nonce {
            let is_part = subscription.parts.contains(&request.response_nonce);
            // It has not seen the last response yet, and says what it wants again when it has.
            let Some(detail) = request.error_detail.filter(|_| is_part) else { return Event::Stale };
            subscription.has_refused = true;
            return subscription.refused(kind, &detail.message);
        }
        let is_wildcard = request.resource_names.iter().any(|name| name == WILDCARD);
        // Nothing at all stands for everything at first; later it says that nothing is wanted any more.
        let is_all = is_wildcard || (request.resource_names.is_empty() && (is_new || subscription.names.is_none()));
        let names = (!is_all).then(|| request.resource_names.into_iter().collect::<BTreeSet<String>>());
        let is_more = match (&subscription.names, &names) {
            (Some(before), Some(now)) => now.iter().any(|name| !before.contains(name)),
            (before, now) => before.is_some() != now.is_some(),
        };
        subscription.is_owed |= is_new || is_more;
        let is_changed = subscription.names != names;
        subscription.names = names;
        if is_new {
            return Event::Subscribed(kind);
        }
        match request.error_detail {
            Some(detail) => subscription.refused(kind, &detail.message),
            None if subscription.has_refused => Event::Stale,
            None if is_changed => Event::Names(kind),
            None => {
                // Every response says all there is.
                subscription.progress.took_all(subscription.generation);
                Event::Acknowledged(kind)
            }
        }
    }

    /// How far the client is, by type.
    pub(in super::super) fn progress(&self) -> impl Iterator<Item = (ResourceType, &Progress)> {
        self.subscriptions.iter().map(|(kind, subscription)| (*kind, &subscription.progress))
    }

    /// What brings the client to `world`, for each type that differs.
    ///
    /// Of listeners and clusters a response has to name all there are; of other types it may be a part.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when a response would be longer than clients take.
    pub(in super::super) fn plan(&mut self, world: &World) -> Result<Vec<DiscoveryResponse>, Status> {
        let mut responses = Vec::new();
        for kind in ResourceType::L7 {
            let Some(subscription) = self.subscriptions.get_mut(&kind) else { continue };
            let snapshot = world.l7();
            let resources: Vec<Resource> = match &subscription.names {
                None => snapshot.all(kind, &self.client).collect(),
                Some(names) => names.iter().filter_map(|name| snapshot.find(kind, name, &self.client)).collect(),
            };
            let now: BTreeMap<Arc<str>, String> =
                resources.iter().map(|resource| (Arc::clone(&resource.name), resource.version.clone())).collect();
            let progress = &mut subscription.progress;
            // Names that were given up need no answer.
            let is_same = now.iter().all(|(name, version)| subscription.sent.get(name) == Some(version))
                && subscription.sent.keys().all(|name| now.contains_key(name) || !is_wanted(&subscription.names, name));
            if is_same && !subscription.is_owed {
                if progress.acked == progress.sent && progress.nacked.is_none() {
                    progress.acked = world.generation;
                }
                progress.sent = world.generation;
                subscription.generation = world.generation;
                subscription.sent = now;
                continue;
            }
            subscription.sent = now;
            subscription.is_owed = false;
            subscription.generation = world.generation;
            progress.sent = world.generation;
            (subscription.parts, subscription.has_refused) = (Vec::new(), false);
            for part in parts(kind, resources)? {
                self.last_nonce = self.last_nonce.wrapping_add(1);
                let before = std::mem::replace(&mut subscription.nonce, format!("{:x}", self.last_nonce));
                subscription.parts.push(before);
                responses.push(DiscoveryResponse {
                    version_info: world.generation.to_string(),
                    resources: part,
                    type_url: kind.type_url().to_owned(),
                    nonce: subscription.nonce.clone(),
                    ..DiscoveryResponse::default()
                });
            }
            // That was the last response of an earlier plan.
            subscription.parts.remove(0);
        }
        Ok(responses)
    }
}

impl Subscription {
    fn refused(&mut self, kind: ResourceType, message: &str) -> Event {
        let message: String = message.chars().take(MAXIMUM_REFUSAL).collect();
        self.progress.refused(self.sent.keys().cloned(), &message);
        Event::Refused(kind, message)
    }
}

/// Resources in responses that clients take, at least one.
fn parts(kind: ResourceType, resources: Vec<Resource>) -> Result<Vec<Vec<Any>>, Status> {
    let can_be_part = matches!(kind, ResourceType::RouteConfiguration | ResourceType::ClusterLoadAssignment);
    let mut parts = vec![Vec::new()];
    let mut bytes = 0_usize;
    for resource in resources {
        let size = resource.body.len().saturating_add(RESOURCE_OVERHEAD);
        bytes = bytes.saturating_add(size);
        if bytes > MAXIMUM_RESPONSE_BYTES {
            if !can_be_part {
                return Err(Status::resource_exhausted(format!(
                    "all of {} are longer than the {MAXIMUM_RESPONSE_BYTES} bytes of a response; subscribe by name, or by delta",
                    kind.short_name()
                )));
            }
            parts.push(Vec::new());
            bytes = size;
        }
        if let Some(part) = parts.last_mut() {
            part.push(Any { type_url: kind.type_url().to_owned(), value: resource.body });
        }
    }
    Ok(parts)
}

fn is_wanted(names: &Option<BTreeSet<String>>, name: &str) -> bool {
    names.as_ref().is_none_or(|names| names.contains(name))
}

#[cfg(test)]
mod tests;
