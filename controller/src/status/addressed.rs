//! What is said on Services, ServiceEntries and WorkloadEntries: that something about them has no effect, by field, and which
//! addresses hosts were given. Those that are as they should be say nothing, unless they said otherwise before.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairway_core::source::istio_network::StatusAddress;
use fairway_core::source::{Kind, ObjectKey};
use serde_json::{Value, json};

use super::Verdict;
use crate::state::Published;

/// Condition of objects whose status is others' as well.
pub(super) const FAIRWAY_ACCEPTED: &str = "fairway.dev/Accepted";

/// Addresses with which a status keeps those of hosts that are given none now, of which those that went last come first:
/// twice what the 256 hosts have that an entry may have.
const MAXIMUM_ADDRESSES: usize = 1024;

/// What is said of one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addressed {
    pub(super) verdict: Verdict,
    /// Addresses that hosts were given.
    given: Vec<(String, IpAddr)>,
}

/// Whether a condition is ours.
pub(super) fn is_ours(condition: &Value) -> bool {
    condition.get("type").and_then(Value::as_str) == Some(FAIRWAY_ACCEPTED)
}

/// The conditions that an object has now; of a service, as far as they are kept.
pub(super) fn present<'a>(published: &'a Published, key: &ObjectKey) -> Cow<'a, [Value]> {
    let objects = &published.loaded.objects;
    match key.kind {
        Kind::Service => {
            let status = objects.services.get(key).and_then(|service| service.status.as_ref());
            let conditions = status.and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().map(|condition| json!(condition)).collect()
        }
        Kind::ServiceEntry => {
            objects.service_entries.get(key).map(|it| it.status.conditions.as_slice()).unwrap_or_default().into()
        }
        Kind::WorkloadEntry => {
            objects.workload_entries.get(key).map(|it| it.status.conditions.as_slice()).unwrap_or_default().into()
        }
        _ => Cow::default(),
    }
}

fn generation(published: &Published, key: &ObjectKey) -> Option<i64> {
    let objects = &published.loaded.objects;
    match key.kind {
        Kind::Service => objects.services.get(key)?.metadata.generation,
        Kind::ServiceEntry => objects.service_entries.get(key)?.metadata.generation,
        Kind::WorkloadEntry => objects.workload_entries.get(key)?.metadata.generation,
        _ => None,
    }
}

/// What is to be said of all of them.
pub(super) fn verdicts(published: &Published) -> Vec<(ObjectKey, Addressed)> {
    let objects = &published.loaded.objects;
    let mut problems: BTreeMap<&ObjectKey, Vec<String>> = BTreeMap::new();
    let meant = |kind| matches!(kind, Kind::Service | Kind::ServiceEntry | Kind::WorkloadEntry);
    for problem in published.problems.iter().filter(|problem| meant(problem.object.kind)) {
        let text = match problem.field.as_str() {
            "" => problem.message.clone(),
            field => format!("{field}: {}", problem.message),
        };
        problems.entry(&problem.object).or_default().push(text);
    }
    // Hardly any of the many has a status that is kept.
    let services = objects.services.iter().filter(|(_, it)| it.status.is_some()).map(|(key, _)| key);
    let entries = objects.service_entries.iter().filter(|(_, it)| !it.status.conditions.is_empty());
    let workloads = objects.workload_entries.iter().filter(|(_, it)| !it.status.conditions.is_empty());
    let before = services.chain(entries.map(|(key, _)| key)).chain(workloads.map(|(key, _)| key));
    let before = before.filter(|key| present(published, key).iter().any(is_ours));
    let keys: BTreeSet<&ObjectKey> = problems.keys().copied().chain(before).chain(published.with_given()).collect();
    let verdict = |key: &ObjectKey| {
        let (holds, reason, message) = match problems.get(key) {
            Some(texts) => (false, "Invalid", texts.join("; ")),
            None => (true, "Accepted", "nothing about it is left out".to_owned()),
        };
        let generation = generation(published, key);
        let verdict = Verdict { condition: FAIRWAY_ACCEPTED, holds, reason, message, generation };
        (key.clone(), Addressed { verdict, given: published.given(key).to_vec() })
    };
    keys.into_iter().map(verdict).collect()
}

/// The status to write, beside what others say there, and whether it says anything new.
pub(super) fn compare(said: &Addressed, published: &Published, key: &ObjectKey, now: &str) -> (Value, bool) {
    let conditions = present(published, key);
    let (ours, differs) = said.verdict.compare(None, &conditions, now);
    let others = conditions.iter().filter(|condition| !is_ours(condition)).cloned();
    let mut status = json!({"conditions": others.chain(ours).collect::<Vec<_>>()});
    let kept = published.loaded.objects.service_entries.get(key).map(|entry| entry.status.addresses.as_slice());
    let kept = kept.unwrap_or_default();
    let given = said.given.iter().map(|(host, value)| StatusAddress { host: host.clone(), value: value.to_string() });
    let mut addresses: Vec<StatusAddress> = given.collect();
    // What is not in use any more stays: it may be again. What is for the only host, without its name, is for one that has some.
    let is_given = |host: &str| match host {
        "" => !said.given.is_empty(),
        host => said.given.iter().any(|(known, _)| known == host),
    };
    let room = MAXIMUM_ADDRESSES.saturating_sub(addresses.len());
    addresses.extend(kept.iter().filter(|it| !is_given(&it.host)).take(room).cloned());
    if !addresses.is_empty() {
        status["addresses"] = json!(addresses);
    }
    (status, differs || addresses != kept)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fairway_core::source::directory::load;

    use super::*;
    use crate::translate::vip::Addresses;
    use crate::translate::{Problem, Settings};

    /// What is said of the only such object.
    fn said(manifests: &str) -> Option<(Value, bool)> {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.yaml"), manifests).unwrap();
        let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
        let all = verdicts(&published);
        assert!(all.len() <= 1, "{all:?}");
        let (key, said) = all.into_iter().next()?;
        Some(compare(&said, &published, &key, "2026-02-02T00:00:00Z"))
    }

    #[test]
    fn what_has_no_effect_is_said_and_taken_back() {
        let service = |label: &str, status: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, generation: 4{label}}}\n\
                 spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n{status}\n"
            )
        };
        assert_eq!(said(&service("", "")), None);
        let label = ", labels: {istio.io/use-waypoint: none-such}";
        let (status, is_new) = said(&service(label, "")).unwrap();
        assert!(is_new);
        let condition = &status["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("fairway.dev/Accepted"), &json!("False")));
        assert_eq!(condition["observedGeneration"], 4);
        let message = condition["message"].as_str().unwrap();
        assert!(message.starts_with("metadata.labels[istio.io/use-waypoint]: waypoint shop/none-such"), "{message}");
        let before = format!("status: {status}");
        assert!(!said(&service(label, &before)).unwrap().1, "said already");
        let (status, is_new) = said(&service("", &before)).unwrap();
        assert_eq!((&status["conditions"][0]["status"], is_new), (&json!("True"), true));
    }

    #[test]
    fn addresses_that_hosts_were_given_are_kept_in_the_status() {
        let entry = |status: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: far, namespace: shop}}\n\
                 spec: {{hosts: [a.example, \"*.b.example\"], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC}}\n{status}\n"
            )
        };
        let (status, is_new) = said(&entry("")).unwrap();
        assert!(is_new);
        let addresses = status["addresses"].as_array().unwrap();
        let hosts: Vec<&Value> = addresses.iter().map(|address| &address["host"]).collect();
        assert_eq!(hosts, ["a.example", "a.example"], "one of each version, and none for a name that stands for many");
        // Somebody gave it another one before, as it is after a collision with a host that has gone since.
        let other = "status: {addresses: [{host: a.example, value: 240.240.7.7}]}";
        let (status, _) = said(&entry(other)).unwrap();
        assert_eq!(status["addresses"], json!([{"host": "a.example", "value": "240.240.7.7"}]));
        assert!(!said(&entry(&format!("status: {status}"))).unwrap().1, "said already");
    }

    #[test]
    fn addresses_of_a_host_that_is_given_none_for_a_while_are_not_forgotten() {
        let entry = |hosts: &str, status: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: far, namespace: shop}}\n\
                 spec: {{hosts: [{hosts}], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC}}\n{status}\n"
            )
        };
        let (both, _) = said(&entry("a.example, b.example", "")).unwrap();
        assert_eq!(both["addresses"].as_array().map(Vec::len), Some(4), "{both}");
        let (one, is_new) = said(&entry("a.example", &format!("status: {both}"))).unwrap();
        assert_eq!((&one["addresses"], is_new), (&both["addresses"], false));
        let (other, _) = said(&entry("b.example", &format!("status: {one}"))).unwrap();
        let hosts: Vec<&Value> = other["addresses"].as_array().unwrap().iter().map(|it| &it["host"]).collect();
        assert_eq!(hosts, ["b.example", "b.example", "a.example", "a.example"]);
        let (again, _) = said(&entry("a.example, b.example", &format!("status: {other}"))).unwrap();
        assert_eq!(again["addresses"], both["addresses"]);
    }

    #[test]
    fn a_status_is_believed_where_hosts_are_given_such_addresses_and_once() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, year: u32, values: &[&str]| {
            let host = format!("{name}.example");
            let addresses: Vec<Value> = values.iter().map(|value| json!({"host": host, "value": value})).collect();
            let entry = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                "metadata": {"name": name, "namespace": "shop", "creationTimestamp": format!("{year}-01-01T00:00:00Z")},
                "spec": {"hosts": [host], "ports": [{"number": 80, "name": "http"}], "resolution": "STATIC"},
                "status": {"addresses": addresses}});
            std::fs::write(root.path().join(format!("{name}.yaml")), entry.to_string()).unwrap();
        };
        write("older", 2024, &["240.240.0.9", "2001:2::9"]);
        write("copy", 2025, &["240.240.0.9", "2001:2::9"]);
        write("outside", 2023, &["10.96.0.10"]);
        write("half", 2026, &["240.240.0.9", "2001:2::77"]);
        let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
        let outcome = |name: &str| {
            let key = ObjectKey::new(Kind::ServiceEntry, "shop", name);
            let given: Vec<String> = published.given(&key).iter().map(|(_, address)| address.to_string()).collect();
            let is_meant = |problem: &&Problem| problem.object == key && problem.field == "status.addresses";
            (given, published.problems.iter().filter(is_meant).count())
        };
        let alone = |name: &str| -> Vec<String> {
            let given = Addresses::default().allocate("shop", &format!("{name}.example"));
            given.iter().map(ToString::to_string).collect()
        };
        let texts = |all: [&str; 2]| all.map(str::to_owned).to_vec();
        assert_eq!(outcome("older"), (texts(["240.240.0.9", "2001:2::9"]), 0));
        assert_eq!(outcome("copy"), (alone("copy"), 2));
        assert_eq!(outcome("outside"), (alone("outside"), 1));
        assert_eq!(outcome("half"), (texts(["2001:2::77", &alone("half")[0]]), 1));
    }

    #[test]
    fn a_host_that_had_to_give_way_stays_where_it_is_when_the_other_has_gone() {
        // The first two names that share a hash.
        let mut known = BTreeMap::new();
        let (older, younger) = (0..)
            .find_map(|number| {
                let host = format!("h{number}.example");
                let alone = Addresses::default().allocate("shop", &host);
                known.insert(alone, host.clone()).map(|other| (other, host))
            })
            .unwrap();
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, year: u32, host: &str, status: &Value| {
            let entry = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "status": status,
                "metadata": {"name": name, "namespace": "shop", "creationTimestamp": format!("{year}-01-01T00:00:00Z")},
                "spec": {"hosts": [host], "ports": [{"number": 80, "name": "http"}], "resolution": "STATIC"}});
            std::fs::write(root.path().join(format!("{name}.yaml")), entry.to_string()).unwrap();
        };
        let published = || Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
        let key = ObjectKey::new(Kind::ServiceEntry, "shop", "b");
        write("a", 2024, &older, &json!({}));
        write("b", 2025, &younger, &json!({}));
        let both = published();
        let given = both.given(&key).to_vec();
        let alone = Addresses::default().allocate("shop", &younger);
        assert!(given.len() == 2 && given[0].1 != alone[0], "{given:?}");
        let (_, said) = verdicts(&both).into_iter().find(|(known, _)| *known == key).unwrap();
        let (status, _) = compare(&said, &both, &key, "2026-02-02T00:00:00Z");
        std::fs::remove_file(root.path().join("a.yaml")).unwrap();
        assert_eq!(published().given(&key)[0].1, alone[0], "without a status it would move");
        write("b", 2025, &younger, &status);
        assert_eq!(published().given(&key), given);
        // Nor does the older one get it when it comes back.
        write("a", 2024, &older, &json!({}));
        assert_eq!(published().given(&key), given);
    }

    #[test]
    fn what_others_say_of_an_entry_stays() {
        let entry = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: box, namespace: shop}\n\
                     spec: {address: \"unix:///run/box\"}\n\
                     status: {conditions: [{type: Healthy, status: \"True\", message: well}]}\n";
        let (status, is_new) = said(entry).unwrap();
        assert!(is_new);
        assert_eq!(status["conditions"][0], json!({"type": "Healthy", "status": "True", "message": "well"}));
        assert!(is_ours(&status["conditions"][1]), "{status}");
    }
}
