//! Clients that name what they want, and what goes with that.

use fairway_core::io::xds;
use fairway_proto::workload::{NetworkAddress, NetworkMode, PortList, Service};

use super::*;

/// A service with a block of addresses besides its own, two pods of which one is on `node-1`, one pod on the host's
/// network, and one that nobody asks for.
fn shop(previous: &World, db: bool) -> World {
    let pod = |name: &str, node: &str, last: u8| Workload {
        uid: format!("c//Pod/n/{name}"),
        name: name.to_owned(),
        namespace: "n".to_owned(),
        node: node.to_owned(),
        addresses: vec![vec![10, 0, 0, last]],
        ..Workload::default()
    };
    let mut web = pod("web", "node-2", 1);
    web.services.insert("n/web.example".to_owned(), PortList::default());
    let mut host = pod("host", "node-2", 9);
    host.network_mode = NetworkMode::HostNetwork.into();
    let address =
        |bytes: [u8; 4], length| NetworkAddress { address: bytes.to_vec(), length, ..NetworkAddress::default() };
    let service = Service {
        name: "web".to_owned(),
        namespace: "n".to_owned(),
        hostname: "web.example".to_owned(),
        addresses: vec![address([10, 96, 0, 1], None), address([10, 97, 0, 0], Some(16))],
        ..Service::default()
    };
    let mut workloads = vec![web, pod("own", "node-1", 2), host, pod("other", "node-2", 4)];
    workloads.extend(db.then(|| pod("db", "node-2", 3)));
    previous.next(&Desired::of(workloads, [service], []))
}

fn ask(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    xds::Session::ask(owned(subscribe), owned(unsubscribe)).remove(0)
}

fn connect(client: &mut xds::Session) -> Session {
    let mut server = node_proxy();
    for request in client.connected() {
        server.receive(request);
    }
    server
}

fn client() -> xds::Session {
    xds::Session::on_demand(xds::NodeInfo { node_name: "node-1".to_owned(), ..xds::NodeInfo::default() })
}

/// Changed and removed names of the addresses that come, sorted; everything is taken over.
fn next(client: &mut xds::Session, server: &mut Session, world: &World) -> (Vec<String>, Vec<String>) {
    let (mut changed, mut removed) = (Vec::new(), Vec::new());
    server.plan(world);
    while let Some(response) = server.next_response() {
        if response.type_url == type_url::ADDRESS {
            changed.extend(response.resources.iter().map(|resource| resource.name.clone()));
            removed.extend(response.removed_resources.clone());
        }
        server.receive(client.received(response).answer.unwrap());
    }
    changed.sort();
    removed.sort();
    (changed, removed)
}

fn names(changed: &[&str], removed: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    (owned(changed), owned(removed))
}

#[test]
fn a_client_that_asks_holds_what_it_named_what_belongs_to_that_and_its_own_node() {
    let world = shop(&World::default(), false);
    let mut client = client();
    let mut server = connect(&mut client);
    assert_eq!(next(&mut client, &mut server, &world), names(&["c//Pod/n/own"], &[]));
    // The service brings its workloads; what does not exist is said to.
    server.receive(ask(&["/10.96.0.1", "/10.0.0.3"], &[]));
    assert_eq!(next(&mut client, &mut server, &world), names(&["c//Pod/n/web", "n/web.example"], &["/10.0.0.3"]));
    // Inside of its block, and by its name: it is told again, since it asked.
    for name in ["/10.97.5.5", "n/web.example"] {
        server.receive(ask(&[name], &[]));
        assert_eq!(next(&mut client, &mut server, &world), names(&["n/web.example"], &[]), "{name}");
    }
    // An address that many share means nobody.
    server.receive(ask(&["/10.0.0.9"], &[]));
    assert_eq!(next(&mut client, &mut server, &world), names(&[], &["/10.0.0.9"]));
    assert_eq!(next(&mut client, &mut server, &world), names(&[], &[]));
}

#[test]
fn what_did_not_exist_is_sent_when_it_does_unless_nobody_wants_it_any_more() {
    let without = shop(&World::default(), false);
    let with = shop(&without, true);
    let mut client = client();
    let mut server = connect(&mut client);
    server.receive(ask(&["/10.0.0.3"], &[]));
    next(&mut client, &mut server, &without);
    assert_eq!(next(&mut client, &mut server, &with), names(&["c//Pod/n/db"], &[]));
    assert_eq!(next(&mut client, &mut server, &without), names(&[], &["c//Pod/n/db"]));
    server.receive(ask(&[], &["/10.0.0.3"]));
    assert_eq!(next(&mut client, &mut server, &with), names(&[], &[]));
}

#[test]
fn a_client_that_comes_back_keeps_what_it_had_asked_for() {
    let with = shop(&World::default(), true);
    let without = shop(&with, false);
    let mut client = client();
    let mut server = connect(&mut client);
    server.receive(ask(&["/10.0.0.3", "n/web.example"], &[]));
    next(&mut client, &mut server, &with);
    let mut server = connect(&mut client);
    assert_eq!(next(&mut client, &mut server, &with), names(&[], &[]));
    let mut server = connect(&mut client);
    assert_eq!(next(&mut client, &mut server, &without), names(&[], &["c//Pod/n/db"]));
}

#[test]
fn the_first_request_says_which_manner_and_later_ones_may_change_it() {
    let world = shop(&World::default(), false);
    let rows: [(&[&str], &[&str], usize); 5] = [
        (&[], &[], 5),
        (&["*"], &[], 5),
        (&["*"], &["*"], 0),
        (&["c//Pod/n/web"], &[], 1),
        (&["*", "c//Pod/n/web"], &["*"], 1),
    ];
    for (first, without, expected) in rows {
        let mut server = node_proxy();
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        server.receive(DeltaDiscoveryRequest {
            resource_names_subscribe: owned(first),
            resource_names_unsubscribe: owned(without),
            ..subscribe(ADDRESS)
        });
        server.plan(&world);
        let held = |responses: Vec<DeltaDiscoveryResponse>| {
            let of = responses.iter().flat_map(|response| &response.resources);
            of.map(|resource| resource.name.clone()).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(held(drain(&mut server)), expected, "{first:?} without {without:?}");
        server.receive(ask(&["*"], &[]));
        server.plan(&world);
        assert_eq!(held(drain(&mut server)), 5 - expected, "{first:?} without {without:?}, then everything");
    }
}
