//! Whether what a user wrote is in force: whether the proxies concerned have taken it over, by what they answered.
//!
//! An object is in force from the moment all of them have acknowledged a state of the mesh in which it is as it is now. Proxies
//! that come later do not undo that: they learn it before they take part. One that refuses it does, and so does that nobody is
//! left to enforce it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use fairway_core::source::objects::ByKey;
use fairway_core::source::{ObjectKey, Objects};
use serde_json::Value;

use super::Account;
use super::answers::Answers;
use super::concerned::Concerned;
use super::condition::Condition;
use crate::state::Published;
use crate::translate::workload::is_healthy;

/// The condition.
pub(super) const KIND: &str = "Programmed";
/// Reason while it holds.
const IN_FORCE: &str = "Programmed";
/// Proxies that are named in a message.
const NAMED: usize = 3;

/// Whether an object is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programmed {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Programmed {
    /// It is not what is in force: what another condition says is wrong with it.
    pub(super) fn invalid(because: &str) -> Self {
        let message = format!("not in force as it is written; {because} says why, and what holds instead");
        Self { holds: false, reason: "Invalid", message }
    }

    pub(super) fn condition(&self) -> Condition<'_> {
        Condition { kind: KIND, holds: self.holds, reason: self.reason, message: &self.message }
    }
}

/// What is said of an object that came to be as it is in the state `since`. `was_in_force` says that it has been said of it, and
/// that who took it over may be there still, with or without a connection to this controller.
fn decide(concerned: &Concerned, since: u64, was_in_force: bool, answers: &Answers) -> Programmed {
    let no = |reason, message| Programmed { holds: false, reason, message };
    let refused = concerned.groups(answers).flat_map(|group| concerned.refused_by(group, since));
    let refused = refused.map(|it| format!("{} refuses it: {}", it.client, it.refusal.message));
    // Who refuses several of its resources is named once for each reason.
    let refused: BTreeSet<String> = refused.collect();
    if !refused.is_empty() {
        return no("Refused", some(refused.iter().map(String::as_str), "; "));
    }
    let (mut taken, mut waiting) = (0_usize, Vec::new());
    for group in concerned.groups(answers) {
        let (have_it, behind) = group.divide(since);
        taken = taken.saturating_add(have_it);
        waiting.extend(behind.iter().map(|(_, id)| id.as_str()));
    }
    if was_in_force || (waiting.is_empty() && taken > 0) {
        return Programmed { holds: true, reason: IN_FORCE, message: concerned.place("in force") };
    }
    if waiting.is_empty() {
        return no("NoProxies", format!("in force nowhere: {}", concerned.nobody()));
    }
    let all = waiting.len().saturating_add(taken);
    let waiting_for = some(waiting.iter().copied(), ", ");
    no("Pending", format!("{taken} of {all} proxies have it; waiting for {waiting_for}"))
}

/// The first of several texts, and how many more there are.
fn some<'a>(texts: impl ExactSizeIterator<Item = &'a str>, between: &str) -> String {
    let all = texts.len();
    let first = texts.take(NAMED).collect::<Vec<_>>().join(between);
    match all.saturating_sub(NAMED) {
        0 => first,
        more => format!("{first}{between}and {more} more"),
    }
}

impl Concerned {
    fn place(&self, what: &str) -> String {
        if self.node_policy.is_some() {
            return format!("{what} on every node");
        }
        if self.waypoints.is_empty() {
            return format!("{what} at clients");
        }
        let names: Vec<String> = self.waypoints.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
        format!("{what} at waypoint {}", some(names.iter().map(String::as_str), ", "))
    }

    fn nobody(&self) -> &'static str {
        if self.node_policy.is_some() {
            "there is no node proxy"
        } else if !self.waypoints.is_empty() {
            "there is no replica of the waypoint"
        } else if self.clients.is_empty() {
            "what it is for has no waypoint"
        } else {
            "the service has no waypoint, and no client that routes by itself is connected"
        }
    }
}

/// Whether proxies are there that are not connected to this replica of the controller: to another one, or on their way.
pub(super) struct Running<'a> {
    objects: &'a Objects,
    node_accounts: &'a BTreeSet<Account>,
    /// Accounts of pods that are ready. Hardly ever asked for.
    accounts: OnceCell<BTreeSet<(&'a str, &'a str)>>,
}

impl<'a> Running<'a> {
    pub(super) fn of(objects: &'a Objects, node_accounts: &'a BTreeSet<Account>) -> Self {
        Self { objects, node_accounts, accounts: OnceCell::new() }
    }

    fn any(&self, concerned: &Concerned) -> bool {
        let all = self.accounts.get_or_init(|| {
            let ready = self.objects.pods.iter().filter(|(_, pod)| is_healthy(pod));
            ready.map(|(key, pod)| (key.namespace.as_str(), &*pod.service_account)).collect()
        });
        let nodes = concerned.node_policy.iter().flat_map(|_| self.node_accounts);
        // Waypoints run as an account that has the name of their gateway.
        nodes.chain(&concerned.waypoints).any(|(namespace, name)| all.contains(&(namespace.as_str(), name.as_str())))
    }
}

/// What is known of one object from one look to the next.
#[derive(Debug)]
struct Known {
    concerned: Concerned,
    /// Since which state of the mesh it is as it is, for those who are concerned.
    since: u64,
    is_in_force: bool,
}

/// What is known of objects from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    objects: Objects,
    generation: u64,
    known: BTreeMap<ObjectKey, Known>,
}

impl Memory {
    /// Takes in what has changed.
    pub(super) fn look(&mut self, published: &Published) {
        let (before, now) = (&self.objects, &published.loaded.objects);
        let mut changed = Vec::new();
        changed.extend(respecified(&before.authorization_policies, &now.authorization_policies, |it| &it.spec));
        changed.extend(respecified(&before.peer_authentications, &now.peer_authentications, |it| &it.spec));
        changed.extend(respecified(&before.request_authentications, &now.request_authentications, |it| &it.spec));
        changed.extend(respecified(&before.rate_limits, &now.rate_limits, |it| &it.spec));
        changed.extend(respecified(&before.external_processors, &now.external_processors, |it| &it.spec));
        changed.extend(respecified(&before.http_routes, &now.http_routes, |it| &it.spec));
        changed.extend(respecified(&before.grpc_routes, &now.grpc_routes, |it| &it.spec));
        changed.extend(respecified(&before.tcp_routes, &now.tcp_routes, |it| &it.spec));
        changed.extend(respecified(&before.tls_routes, &now.tls_routes, |it| &it.spec));
        changed.extend(respecified(&before.virtual_services, &now.virtual_services, |it| &it.spec));
        changed.extend(respecified(&before.destination_rules, &now.destination_rules, |it| &it.spec));
        for key in changed {
            // What is said anew is decided by who takes it over from now on.
            self.known.remove(&key);
        }
        (self.objects, self.generation) = (now.clone(), published.world.generation);
    }

    /// Decides, and remembers what is in force. `said` are conditions that the object has of its present version: what a
    /// controller has found in force before this one started stays so while its proxies come back.
    pub(super) fn decide(
        &mut self,
        key: &ObjectKey,
        concerned: &Concerned,
        generation: Option<i64>,
        said: &[Value],
        (answers, running): (&Answers, &Running<'_>),
    ) -> Programmed {
        let before = self.known.get(key);
        let same = before.filter(|known| concerned.is_within(&known.concerned));
        let since = same.map_or(self.generation, |known| known.since);
        // What is seen for the first time may have been in force for long.
        let was_in_force = match (before, same) {
            (None, _) => is_in_force(said, generation),
            (Some(_), same) => same.is_some_and(|known| known.is_in_force),
        };
        let has_it = || concerned.groups(answers).any(|group| group.divide(since).0 > 0);
        let is_enforced = was_in_force && (has_it() || running.any(concerned));
        let programmed = decide(concerned, since, is_enforced, answers);
        let known = Known { concerned: concerned.clone(), since, is_in_force: programmed.holds };
        self.known.insert(key.clone(), known);
        programmed
    }

    /// An object that is not in force as it is written.
    pub(super) fn is_invalid(&mut self, key: &ObjectKey) {
        self.known.remove(key);
    }

    /// Keeps what is known of these objects only.
    pub(super) fn keep(&mut self, is_there: impl Fn(&ObjectKey) -> bool) {
        self.known.retain(|key, _| is_there(key));
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

/// The objects that say something else now, or are gone.
fn respecified<T, S: PartialEq>(before: &ByKey<T>, now: &ByKey<T>, spec: impl Fn(&T) -> &S) -> Vec<ObjectKey> {
    let same = |left: &std::sync::Arc<T>, right: &std::sync::Arc<T>| {
        std::sync::Arc::ptr_eq(left, right) || spec(left) == spec(right)
    };
    before.differences(now, same).into_iter().map(|it| it.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::concerned::{Audience, Services};
    use super::*;
    use crate::serve::clients::{Client, TypeStatus};
    use crate::serve::session::Progress;
    use crate::world::ResourceType;

    /// One that has acknowledged the state `acked`, and refuses what is called so since the state `held`.
    fn client(id: &str, gateway: Option<&str>, kind: ResourceType, acked: u64, refused: Option<(&str, u64)>) -> Client {
        let mut progress = Progress::default();
        if let Some((name, held)) = refused {
            progress.acked = held;
            progress.refused([name.into()], "no");
        }
        let status = TypeStatus { sent: acked, acked, nacked: None, refused: progress.refused, updated: None };
        Client {
            id: id.to_owned(),
            namespace: "shop".to_owned(),
            is_node: kind == ResourceType::Authorization,
            gateway: gateway.map(|name| ("shop".to_owned(), name.to_owned())),
            types: [(kind.short_name(), status)].into(),
            ..Client::default()
        }
    }

    #[test]
    fn in_force_is_what_all_who_are_concerned_have_taken() {
        use ResourceType::{Authorization, Cluster};
        let web = || Services::Named(["web".to_owned()].into());
        let nodes = &Concerned { node_policy: Some("shop/it".to_owned()), ..Concerned::default() };
        let way = ("shop".to_owned(), "way".to_owned());
        let waypoint = &Concerned { waypoints: [way].into(), services: web(), ..Concerned::default() };
        let gateway = &Concerned { services: Services::All, ..waypoint.clone() };
        let of = |audience: Audience| Concerned { clients: [audience].into(), services: web(), ..Concerned::default() };
        let (clients, others) = (&of(Audience::Everybody), &of(Audience::Namespace("other".to_owned())));
        let node = |id, acked, refused| client(id, None, Authorization, acked, refused);
        let way = |name, acked, refused| client("w", Some(name), Cluster, acked, refused);
        for (concerned, was, connected, reason, words) in [
            (nodes, false, vec![], "NoProxies", "no node proxy"),
            (nodes, false, vec![node("a", 7, None)], "Programmed", "on every node"),
            (
                nodes,
                false,
                vec![node("a", 7, None), node("b", 6, None)],
                "Pending",
                "1 of 2 proxies have it; waiting for b",
            ),
            (nodes, true, vec![node("a", 7, None), node("b", 0, None)], "Programmed", "on every node"),
            (nodes, true, vec![node("a", 8, Some(("shop/it", 6)))], "Refused", "a refuses it: no"),
            (nodes, false, vec![node("a", 8, Some(("shop/other", 6)))], "Programmed", "on every node"),
            (nodes, true, vec![Client { is_node: false, ..node("a", 8, Some(("shop/it", 6))) }], "Programmed", "every"),
            (waypoint, false, vec![node("a", 7, None)], "NoProxies", "no replica"),
            (waypoint, false, vec![way("way", 7, None), way("other", 1, None)], "Programmed", "shop/way"),
            // It is refused there, whatever else has been taken over since.
            (waypoint, false, vec![way("way", 8, Some(("web:80", 6)))], "Refused", "w refuses it: no"),
            (waypoint, true, vec![way("way", 8, Some(("web:80/v1", 6)))], "Refused", "w refuses it: no"),
            // It was taken over before; what is refused now is something else.
            (waypoint, false, vec![way("way", 8, Some(("web:80", 7)))], "Programmed", "shop/way"),
            (waypoint, false, vec![way("way", 8, Some(("db:80", 6)))], "Programmed", "shop/way"),
            (gateway, false, vec![way("way", 8, Some(("db:80", 6)))], "Refused", "w refuses it: no"),
            (clients, false, vec![way("way", 7, None)], "NoProxies", "has no waypoint"),
            (clients, false, vec![client("c", None, Cluster, 7, None)], "Programmed", "at clients"),
            (others, false, vec![client("c", None, Cluster, 7, None)], "NoProxies", "has no waypoint"),
            (&Concerned::default(), false, vec![way("way", 7, None), node("a", 7, None)], "NoProxies", "no waypoint"),
        ] {
            let said = decide(concerned, 7, was, &Answers::of(&connected));
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
