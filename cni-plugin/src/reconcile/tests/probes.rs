//! From where the node may probe a pod, and as whom a pod is served.

use std::net::IpAddr;

use super::runtime::starting;
use super::*;
use crate::kernel::fake::{ADDRESS, NODE_ADDRESS};

fn probed(pod: String) -> String {
    pod.replace("containers: []", "containers: [{name: c, readinessProbe: {httpGet: {port: 8080}}}]")
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl World {
    /// Goes on as when something has happened, not in turn.
    async fn look(&mut self) {
        self.loaded = load(self.directory.path(), Some(&self.loaded));
        self.reconciler.pass(&self.loaded, self.now, false).await;
    }

    fn sources(&self, inode: u64) -> Vec<IpAddr> {
        self.kernel.content(inode).unwrap().probes.sources.into_iter().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_come_from_where_the_node_really_sends_them() {
    let mut world = World::new();
    world.write("pod.yaml", &probed(pod("u1")));
    world.pass().await;
    let _client = world.ready().await;
    world.answered(Answer::Accepted).await;
    world.pass().await;
    assert_eq!(world.sources(INODE), [NODE_ADDRESS]);
    assert_eq!(world.kernel.content(INODE).unwrap().probes.ports.into_iter().collect::<Vec<_>>(), [8080]);
    // Routes change: it is seen in turn.
    world.kernel.route(ADDRESS.into(), Some(address("10.0.0.253")));
    world.pass().await;
    assert_eq!(world.sources(INODE), [address("10.0.0.253")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_enrolled_with_where_its_probes_come_from_although_its_route_came_after_it() {
    let mut world = World::new();
    world.write("pod.yaml", &probed(pod("u1")));
    world.kernel.route(ADDRESS.into(), None);
    world.pass().await;
    let _client = world.ready().await;
    world.answered(Answer::Accepted).await;
    world.kernel.route(ADDRESS.into(), Some(NODE_ADDRESS.into()));
    world.look().await;
    assert_eq!(world.sources(INODE), [NODE_ADDRESS]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_a_pod_gets_later_is_probed_from_where_the_node_reaches_that_one() {
    let mut world = World::new();
    let (second, towards) = (address("fd00::5"), address("fd00::1"));
    world.kernel.route(second, Some(towards));
    world.write("pod.yaml", &probed(pod("u1")));
    world.pass().await;
    let _client = world.ready().await;
    world.answered(Answer::Accepted).await;
    world.look().await;
    let both =
        probed(pod("u1")).replace("podIP: 10.0.0.1", "podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::5\"}]");
    world.write("pod.yaml", &both);
    world.look().await;
    assert_eq!(world.sources(INODE), [NODE_ADDRESS.into(), towards]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_was_replaced_does_not_leave_the_next_one_its_sources_of_probes() {
    let mut world = World::before_the_sandbox();
    world.write("pod.yaml", &probed(starting("u1")));
    let client = world.ready().await;
    let (first, second) = (address("10.0.0.1"), address("10.0.0.2"));
    let sources = [address("10.0.0.251"), address("10.0.0.252")];
    for (container, inode, given, source) in [("one", 20, first, sources[0]), ("two", 21, second, sources[1])] {
        world.kernel.route(given, Some(source));
        world.kernel.give(inode, &[given]);
        world.make(container, inode);
        let _answer = world.add_with(container, given);
        world.look().await;
        if inode == 21 {
            client.let_go("u1");
        }
        client.take("u1");
        world.answered(Answer::Accepted).await;
        world.look().await;
        assert_eq!(world.sources(inode), [source], "{container}");
        // The status tells of the first one for a while.
        world.write("pod.yaml", &probed(pod("u1")));
        world.look().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_another_service_account_is_handed_over_as_that() {
    let (mut world, client) = World::captured().await;
    world.write("pod.yaml", &pod("u1").replace("serviceAccountName: web", "serviceAccountName: other"));
    assert_eq!(world.pass().await.actual, Actual::Pending);
    client.let_go("u1");
    let Payload::Add(add) = client.next().0 else { panic!("not handed over") };
    assert_eq!(add.workload_info.unwrap().service_account, "other");
    client.accept();
    world.answered(Answer::Accepted).await;
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
    assert_eq!(world.kernel.calls(), ["apply 7"], "its rules are as they were");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_of_which_no_uid_is_told_is_not_given_to_an_earlier_pod_that_was_told_to_end() {
    let ending = |uid: &str| starting(uid).replace("uid:", "deletionTimestamp: \"2026-01-01T00:00:00Z\", uid:");
    let mut world = World::before_the_sandbox();
    let client = world.ready().await;
    world.write("pod.yaml", &ending("u0"));
    world.make("one", 20);
    let _answer = world.add_without_uid("one");
    world.pass().await;
    assert!(world.reconciler.tracked.is_empty());
    world.write("pod.yaml", &starting("u1"));
    world.pass().await;
    // An agent before this one may have handed that over.
    client.let_go("u0");
    client.take("u1");
    world.answered(Answer::Accepted).await;
    // Told to end later, it is still its own.
    world.write("pod.yaml", &ending("u1"));
    assert_eq!(world.pass().await.actual, Actual::Captured);
}
