//! What all connected proxies have answered, gathered once for all objects: who is how far, and who refuses what.

use std::collections::HashMap;

use crate::l7::waypoints::GatewayName;
use crate::serve::clients::{Client, TypeStatus};
use crate::serve::session::Refusal;
use crate::world::ResourceType;

/// Proxies that are told the same.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The newest state of the mesh that each has acknowledged, with its id; those who are least far come first.
    acknowledged: Vec<(u64, String)>,
    /// By what they know it by: of policies their names, of what HTTP is made of the hostname of the service.
    refused: HashMap<String, Vec<Refused>>,
    /// Of those who refuse more than is remembered.
    refused_at_large: Vec<Refused>,
}

/// Somebody who refuses something.
#[derive(Debug)]
pub(super) struct Refused {
    /// Who.
    pub(super) client: String,
    /// Why, and what is in force there.
    pub(super) refusal: Refusal,
}

impl Group {
    /// Takes in one that has acknowledged all of these types, if there is any.
    fn add<'a>(&mut self, id: &str, types: impl Iterator<Item = (ResourceType, &'a TypeStatus)>) {
        let mut furthest: Option<u64> = None;
        for (kind, status) in types {
            furthest = Some(furthest.map_or(status.acked, |least| least.min(status.acked)));
            let refused = |refusal: &Refusal| Refused { client: id.to_owned(), refusal: refusal.clone() };
            for (name, refusal) in status.refused.named() {
                let known_by = if kind.is_l7() { hostname(name) } else { name };
                let before = self.refused.entry(known_by.to_owned()).or_default();
                // One service has resources of several types and ports.
                match before.last_mut().filter(|last| last.client == id) {
                    Some(last) if last.refusal.held <= refusal.held => {}
                    Some(last) => last.refusal = refusal.clone(),
                    None => before.push(refused(refusal)),
                }
            }
            self.refused_at_large.extend(status.refused.overflow().map(refused));
        }
        self.acknowledged.extend(furthest.map(|furthest| (furthest, id.to_owned())));
    }

    /// How many have acknowledged the state `since`, and the ids of those who have not.
    pub(super) fn divide(&self, since: u64) -> (usize, &[(u64, String)]) {
        let waiting = self.acknowledged.partition_point(|(acknowledged, _)| *acknowledged < since);
        let waiting_for = self.acknowledged.get(..waiting).unwrap_or_default();
        (self.acknowledged.len().saturating_sub(waiting), waiting_for)
    }

    /// Who refuses what is known by this name.
    pub(super) fn refusing(&self, name: &str) -> impl Iterator<Item = &Refused> {
        self.refused.get(name).into_iter().flatten().chain(&self.refused_at_large)
    }

    /// Who refuses anything.
    pub(super) fn refusing_anything(&self) -> impl Iterator<Item = &Refused> {
        self.refused.values().flatten().chain(&self.refused_at_large)
    }
}

/// Of `<hostname>:<port>` and what may follow.
fn hostname(resource: &str) -> &str {
    resource.split_once(':').map_or(resource, |(hostname, _)| hostname)
}

/// All answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Of node proxies, about policies.
    pub(super) nodes: Group,
    /// Of waypoints, by gateway.
    pub(super) waypoints: HashMap<GatewayName, Group>,
    /// Of clients that route by themselves, by their namespace.
    pub(super) clients: HashMap<String, Group>,
}

impl Answers {
    /// What these clients have answered.
    pub(super) fn of(clients: &[Client]) -> Self {
        let mut answers = Self::default();
        for client in clients {
            let types = || {
                let known = client.types.iter();
                known.filter_map(|(name, status)| Some((ResourceType::named(name)?, status)))
            };
            // What others name and refuse is not what is enforced.
            if client.is_node {
                answers.nodes.add(&client.id, types().filter(|(kind, _)| *kind == ResourceType::Authorization));
            }
            let group = match &client.gateway {
                Some(gateway) => answers.waypoints.entry(gateway.clone()).or_default(),
                None => answers.clients.entry(client.namespace.clone()).or_default(),
            };
            group.add(&client.id, types().filter(|(kind, _)| kind.is_l7()));
        }
        let all = answers.waypoints.values_mut().chain(answers.clients.values_mut());
        all.chain([&mut answers.nodes]).for_each(|group| group.acknowledged.sort_unstable());
        answers
    }
}
