//! Who gets an address that several claim.

use fairway_core::source::directory::load;

use super::*;
use crate::age::by_age;

const CLUSTER: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop}
spec: {nodeName: node-1, containers: []}
status: {phase: Running, podIP: 10.101.0.5, hostIP: 10.99.0.11}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank, namespace: bank, creationTimestamp: "2024-01-01T00:00:00Z"}
spec: {hosts: [db.example.com], addresses: [203.0.113.5, 198.51.100.0/24], ports: [{number: 1, name: a}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: machine, namespace: bank, creationTimestamp: "2024-01-01T00:00:00Z"}
spec: {address: 192.0.2.7}
"#;

/// The younger object that claims something, written to a file beside those of the cluster.
fn objects(claiming: &str) -> Objects {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("input.yaml"), format!("{CLUSTER}---\n{claiming}")).unwrap();
    let loaded = load(root.path(), None);
    assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
    loaded.objects
}

/// What an entry of `namespace` gets of an address.
fn claim(namespace: &str, address: &str) -> Claimed {
    let objects = objects(&format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: taker, namespace: {namespace}}}\n\
         spec: {{hosts: [x.example.com], ports: [{{number: 1, name: a}}], addresses: [\"{address}\"]}}\n"
    ));
    let settings = Settings::default();
    let pods = PodAddresses::default().after(&Objects::default(), &objects);
    let mut claims = Claims::new(&objects, &pods, &settings);
    let mut last = Claimed::default();
    for (key, entry) in by_age(objects.service_entries.iter(), |entry| &entry.metadata) {
        let block = |text: &String| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).unwrap();
        let written = entry.spec.addresses.iter().map(|text| ("spec.addresses[0]".to_owned(), block(text)));
        last = claims.service_entry(key, written.collect());
    }
    last
}

#[test]
fn addresses_of_the_cluster_are_nobody_elses() {
    for (address, owner) in
        [("10.96.0.1", "Service shop/web"), ("10.101.0.5", "Pod shop/web-1"), ("10.99.0.11", "a node")]
    {
        let claimed = claim("shop", address);
        assert_eq!((claimed.addresses.len(), claimed.is_private), (0, false), "{address}");
        assert!(claimed.faults[0].message.contains(owner), "{:?}", claimed.faults);
        // The mesh's own namespace may say what it likes.
        assert_eq!(claim("fairway-system", address).faults, []);
    }
}

#[test]
fn the_older_entry_is_what_others_know_an_address_by() {
    for (namespace, address, is_private) in [
        ("shop", "203.0.113.5", true),
        ("shop", "198.51.100.0/24", true),
        ("shop", "198.51.100.9", true),
        ("shop", "198.51.0.0/16", false),
        ("shop", "203.0.113.6", false),
        ("bank", "203.0.113.5", false),
        ("bank", "198.51.100.9", false),
    ] {
        let claimed = claim(namespace, address);
        assert_eq!((claimed.addresses.len(), claimed.is_private), (1, is_private), "{namespace} {address}");
        assert_eq!(claimed.faults.is_empty(), !is_private, "{:?}", claimed.faults);
    }
}

#[test]
fn a_machine_is_what_its_oldest_entry_says() {
    for (namespace, address, owner) in [
        ("shop", "192.0.2.7", Some("WorkloadEntry bank/machine, which is older")),
        ("bank", "192.0.2.7", None),
        ("shop", "10.101.0.5", Some("Pod shop/web-1")),
        ("shop", "10.96.0.1", Some("Service shop/web")),
        ("fairway-system", "10.99.0.11", None),
        ("shop", "192.0.2.8", None),
    ] {
        let objects = objects(&format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
             metadata: {{name: taker, namespace: {namespace}}}\nspec: {{address: {address}}}\n"
        ));
        let settings = Settings::default();
        let pods = PodAddresses::default().after(&Objects::default(), &objects);
        let mut claims = Claims::new(&objects, &pods, &settings);
        let results = by_age(objects.workload_entries.iter(), |entry| &entry.metadata)
            .into_iter()
            .map(|(key, entry)| claims.workload_entry(key, entry.spec.address.parse().unwrap()));
        assert_eq!(results.last().unwrap().err().as_deref(), owner, "{namespace} {address}");
    }
}
