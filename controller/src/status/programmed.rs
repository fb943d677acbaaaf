//! Whether what a user wrote is in force: whether the proxies concerned have taken it over, by what they answered.
//!
//! An object is in force from the moment all of them have acknowledged a state of the mesh in which it is as it is now. Proxies
//! that come later do not undo that: they learn it before they take part. One that refuses it does.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fairway_core::source::objects::ByKey;
use fairway_core::source::{Kind, ObjectKey, Objects};
use serde_json::Value;

use super::condition::Condition;
use crate::l7::waypoints::GatewayName;
use crate::serve::clients::{Client, TypeStatus};
use crate::state::Published;
use crate::translate::peer::CONVERTED_PREFIX;
use crate::world::ResourceType;

/// The condition.
pub(super) const KIND: &str = "Programmed";
/// Reason while it holds.
const IN_FORCE: &str = "Programmed";
/// Proxies that are named in a message.
const NAMED: usize = 3;

/// Which proxies have to take an object over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Concerned {
    /// All node proxies, which know it by one of these names.
    nodes: BTreeSet<String>,
    /// The waypoints of these gateways.
    waypoints: BTreeSet<GatewayName>,
    /// Clients that speak HTTP and are no waypoint.
    clients: bool,
}

/// Whether an object is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programmed {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Programmed {
    pub(super) fn condition(&self) -> Condition<'_> {
        Condition { kind: KIND, holds: self.holds, reason: self.reason, message: &self.message }
    }
}

/// What is said of an object that came to be as it is in the state `since`; `was_in_force` says that it has been said of it.
pub(super) fn decide(concerned: &Concerned, since: u64, was_in_force: bool, clients: &[Client]) -> Programmed {
    let (mut taken, mut waiting, mut refused) = (0_usize, Vec::new(), Vec::new());
    for client in clients {
        let types: Vec<&TypeStatus> = concerned.types(client).collect();
        if types.is_empty() {
            continue;
        }
        if let Some(message) = types.iter().find_map(|status| concerned.refusal(status, since, was_in_force)) {
            refused.push(format!("{} refuses it: {message}", client.id));
        } else if types.iter().all(|status| status.acked >= since) {
            taken = taken.saturating_add(1);
        } else {
            waiting.push(client.id.clone());
        }
    }
    let no = |reason, message| Programmed { holds: false, reason, message };
    if !refused.is_empty() {
        return no("Refused", some(&refused, "; "));
    }
    if was_in_force || (waiting.is_empty() && taken > 0) {
        return Programmed { holds: true, reason: IN_FORCE, message: concerned.place("in force") };
    }
    if waiting.is_empty() {
        return no("NoProxies", format!("in force nowhere: {}", concerned.nobody()));
    }
    let all = waiting.len().saturating_add(taken);
    no("Pending", format!("{taken} of {all} proxies have it; waiting for {}", some(&waiting, ", ")))
}

/// The first of several texts, and how many more there are.
fn some(texts: &[String], between: &str) -> String {
    let first = texts.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(between);
    match texts.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first}{between}and {more} more"),
    }
}

impl Concerned {
    /// What of a client has to be as far as the object; nothing if the client is not concerned.
    fn types<'a>(&self, client: &'a Client) -> impl Iterator<Item = &'a TypeStatus> {
        let is_http = client.gateway.as_ref().map_or(self.clients, |gateway| self.waypoints.contains(gateway));
        // What others name and refuse is not what is enforced.
        let is_node = client.is_node && !self.nodes.is_empty();
        client.types.iter().filter_map(move |(name, status)| {
            let kind = ResourceType::ALL.into_iter().find(|kind| kind.short_name() == *name)?;
            let counts = if kind.is_l7() { is_http } else { is_node && kind == ResourceType::Authorization };
            counts.then_some(status)
        })
    }

    /// Policies are refused by name. What HTTP clients are sent is made of many objects, so that there the state counts: one
    /// that was taken over before is not what is refused.
    fn refusal(&self, status: &TypeStatus, since: u64, was_in_force: bool) -> Option<String> {
        let named = status.refused.iter().find(|(name, _)| self.nodes.contains(name.as_ref()));
        let named = named.map(|(_, message)| message.to_string());
        let is_http = !self.waypoints.is_empty() || self.clients;
        named.or_else(|| status.nacked.clone().filter(|_| is_http && !was_in_force && status.acked < since))
    }

    fn place(&self, what: &str) -> String {
        let waypoints: Vec<String> =
            self.waypoints.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
        match (self.nodes.is_empty(), waypoints.as_slice()) {
            (false, _) => format!("{what} on every node"),
            (true, []) => format!("{what} at clients"),
            (true, names) => format!("{what} at waypoint {}", some(names, ", ")),
        }
    }

    fn nobody(&self) -> &'static str {
        if !self.nodes.is_empty() {
            "no node proxy is connected"
        } else if !self.waypoints.is_empty() {
            "no replica of the waypoint is connected"
        } else {
            "the service has no waypoint, and no client that routes by itself is connected"
        }
    }
}

/// Which proxies are concerned by what of a state.
pub(super) struct Places<'a> {
    published: &'a Published,
    /// By namespace and name of routes.
    routes: HashMap<String, Concerned>,
}

impl<'a> Places<'a> {
    pub(super) fn of(published: &'a Published) -> Self {
        let plan = published.world.l7().waypoints();
        let mut waypoints: HashMap<&str, BTreeSet<GatewayName>> = HashMap::new();
        for (gateway, waypoint) in &plan.waypoints {
            for service in waypoint.services.keys() {
                let hostname = service.split_once('/').map_or(service.as_str(), |(_, hostname)| hostname);
                waypoints.entry(hostname).or_default().insert(gateway.clone());
            }
        }
        let mut routes: HashMap<String, Concerned> = HashMap::new();
        for (target, attached) in &published.routes().attached {
            let gateways = waypoints.get(target.hostname.as_str());
            let entries = attached.entries().map(|entry| entry.name.as_str());
            for name in entries.chain(attached.streams.iter().map(|stream| stream.name.as_str())) {
                let object = name.match_indices('/').nth(1).map_or(name, |(end, _)| name.split_at(end).0);
                if !routes.contains_key(object) {
                    routes.insert(object.to_owned(), Concerned::default());
                }
                let Some(concerned) = routes.get_mut(object) else { continue };
                match gateways {
                    Some(gateways) => concerned.waypoints.extend(gateways.iter().cloned()),
                    None => concerned.clients = true,
                }
            }
        }
        Self { published, routes }
    }

    /// Those who look at a policy at waypoints, or on nodes.
    pub(super) fn policy(&self, key: &ObjectKey, is_attached: bool) -> Concerned {
        if is_attached {
            let waypoints = self.published.world.l7().waypoints().enforcing(key);
            return Concerned { waypoints, ..Concerned::default() };
        }
        let ObjectKey { kind, namespace, name } = key;
        let name = match kind {
            Kind::PeerAuthentication => format!("{namespace}/{CONVERTED_PREFIX}{name}"),
            _ => format!("{namespace}/{name}"),
        };
        Concerned { nodes: [name].into(), ..Concerned::default() }
    }

    /// Those who follow a route; nobody if it is attached to nothing.
    pub(super) fn route(&self, key: &ObjectKey) -> Option<&Concerned> {
        self.routes.get(&format!("{}/{}", key.namespace, key.name))
    }
}

/// What is known of objects from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    objects: Objects,
    /// Since which state of the mesh each is as it is.
    since: BTreeMap<ObjectKey, u64>,
    in_force: BTreeSet<ObjectKey>,
}

impl Memory {
    /// Takes in what has changed.
    pub(super) fn look(&mut self, published: &Published) {
        let (before, now) = (&self.objects, &published.loaded.objects);
        let mut changed = Vec::new();
        changed.extend(respecified(&before.authorization_policies, &now.authorization_policies, |it| &it.spec));
        changed.extend(respecified(&before.peer_authentications, &now.peer_authentications, |it| &it.spec));
        changed.extend(respecified(&before.request_authentications, &now.request_authentications, |it| &it.spec));
        changed.extend(respecified(&before.http_routes, &now.http_routes, |it| &it.spec));
        changed.extend(respecified(&before.grpc_routes, &now.grpc_routes, |it| &it.spec));
        changed.extend(respecified(&before.tcp_routes, &now.tcp_routes, |it| &it.spec));
        changed.extend(respecified(&before.tls_routes, &now.tls_routes, |it| &it.spec));
        changed.extend(respecified(&before.virtual_services, &now.virtual_services, |it| &it.spec));
        for (key, exists) in changed {
            self.in_force.remove(&key);
            if exists {
                self.since.insert(key, published.world.generation);
            } else {
                self.since.remove(&key);
            }
        }
        self.objects = now.clone();
    }

    /// Decides, and remembers what is in force. `said` are conditions that the object has of its present version: what a
    /// controller has found in force before this one started stays so while its proxies come back.
    pub(super) fn decide(
        &mut self,
        key: &ObjectKey,
        concerned: &Concerned,
        generation: Option<i64>,
        said: &[Value],
        clients: &[Client],
    ) -> Programmed {
        let since = self.since.get(key).copied().unwrap_or_default();
        let was_in_force = self.in_force.contains(key) || is_in_force(said, generation);
        let programmed = decide(concerned, since, was_in_force, clients);
        if programmed.holds {
            self.in_force.insert(key.clone());
        } else {
            self.in_force.remove(key);
        }
        programmed
    }
}

/// Whether conditions say that an object of this version is in force. Without a version nobody knows of what they speak.
fn is_in_force(said: &[Value], generation: Option<i64>) -> bool {
    let text = |condition: &Value, key: &str, value: &str| condition.get(key).and_then(Value::as_str) == Some(value);
    generation.is_some()
        && said.iter().any(|condition| {
            text(condition, "type", KIND)
                && text(condition, "status", "True")
                && condition.get("observedGeneration").and_then(Value::as_i64) == generation
        })
}

/// The objects that say something else now, and whether they exist.
fn respecified<T, S: PartialEq>(before: &ByKey<T>, now: &ByKey<T>, spec: impl Fn(&T) -> &S) -> Vec<(ObjectKey, bool)> {
    let same = |left: &std::sync::Arc<T>, right: &std::sync::Arc<T>| {
        std::sync::Arc::ptr_eq(left, right) || spec(left) == spec(right)
    };
    before.differences(now, same).into_iter().map(|it| (it.key.clone(), it.new.is_some())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: &str, gateway: Option<&str>, kind: ResourceType, (acked, nacked): (u64, Option<&str>)) -> Client {
        let refused = nacked.map(|message| ("shop/it".into(), message.into())).into_iter().collect();
        let nacked = nacked.map(str::to_owned);
        let status = TypeStatus { sent: acked, acked, nacked, refused, updated: None };
        Client {
            id: id.to_owned(),
            is_node: kind == ResourceType::Authorization,
            gateway: gateway.map(|name| ("shop".to_owned(), name.to_owned())),
            types: [(kind.short_name(), status)].into(),
            ..Client::default()
        }
    }

    #[test]
    fn in_force_is_what_all_who_are_concerned_have_taken() {
        use ResourceType::{Authorization, Cluster};
        let nodes = Concerned { nodes: ["shop/it".to_owned()].into(), ..Concerned::default() };
        let waypoint = Concerned { waypoints: [("shop".to_owned(), "way".to_owned())].into(), ..Concerned::default() };
        let clients = Concerned { clients: true, ..Concerned::default() };
        let node = |id, acked, nacked| client(id, None, Authorization, (acked, nacked));
        let way = |name, acked, nacked| client("w", Some(name), Cluster, (acked, nacked));
        for (concerned, was, connected, reason, words) in [
            (&nodes, false, vec![], "NoProxies", "no node proxy"),
            (&nodes, false, vec![node("a", 7, None)], "Programmed", "on every node"),
            (
                &nodes,
                false,
                vec![node("a", 7, None), node("b", 6, None)],
                "Pending",
                "1 of 2 proxies have it; waiting for b",
            ),
            (&nodes, true, vec![node("a", 7, None), node("b", 0, None)], "Programmed", "on every node"),
            (&nodes, true, vec![node("a", 8, Some("no"))], "Refused", "a refuses it: no"),
            (&nodes, true, vec![Client { is_node: false, ..node("a", 8, Some("no")) }], "Programmed", "on every node"),
            (&waypoint, false, vec![node("a", 7, None)], "NoProxies", "no replica"),
            (&waypoint, false, vec![way("way", 7, None), way("other", 1, None)], "Programmed", "shop/way"),
            (&waypoint, false, vec![way("way", 6, Some("no"))], "Refused", "w refuses it: no"),
            // It was taken over before; what is refused now is something else.
            (&waypoint, true, vec![way("way", 8, Some("no"))], "Programmed", "shop/way"),
            (&clients, false, vec![way("way", 7, None)], "NoProxies", "has no waypoint"),
            (&clients, false, vec![client("c", None, Cluster, (7, None))], "Programmed", "at clients"),
        ] {
            let said = decide(concerned, 7, was, &connected);
            assert_eq!((said.reason, said.holds), (reason, reason == "Programmed"), "{said:?} of {connected:?}");
            assert!(said.message.contains(words), "{said:?}");
        }
    }

    #[test]
    fn what_was_said_of_this_version_stays_said() {
        let said = [serde_json::json!({"type": "Programmed", "status": "True", "observedGeneration": 3})];
        assert!(is_in_force(&said, Some(3)));
        assert!(!is_in_force(&said, Some(4)));
        assert!(!is_in_force(&said, None));
    }
}
