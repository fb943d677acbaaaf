//! Pods that a runtime starts and ends through the plugin, and what goes wrong meanwhile.

use std::net::IpAddr;

use fairway_core::limits;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::enroll::NOT_CAPTURED;
use crate::event::{AssignedAddress, Attached, Attachment, Network};
use crate::kernel::fake::ADDRESS;
use crate::serve::{Verdict, Want};

/// A pod as a runtime's source has it before its sandbox is there.
pub(super) fn starting(uid: &str) -> String {
    pod(uid).replace("podIP: 10.0.0.1", "hostIP: 10.9.9.9").replace("Running", "Pending")
}

pub(super) fn sandbox(container: &str) -> Attachment {
    let address = Network::new(ADDRESS.into(), 24);
    Attachment {
        netns: format!("/var/run/netns/{container}"),
        pod_name: "web".to_owned(),
        pod_namespace: "shop".to_owned(),
        pod_uid: "u1".to_owned(),
        container_id: container.to_owned(),
        network: "pods".to_owned(),
        ips: vec![AssignedAddress { interface: json!(1), address, gateway: json!("") }],
    }
}

impl World {
    /// A pod that has no sandbox yet.
    pub(super) fn before_the_sandbox() -> Self {
        let world = Self::new();
        world.write("pod.yaml", &starting("u1"));
        world.kernel.vanish(&world.netns("u1"));
        world
    }

    pub(super) fn make(&self, container: &str, inode: u64) {
        self.kernel.place(Path::new(&format!("/var/run/netns/{container}")), inode);
    }

    fn unmake(&self, container: &str) {
        self.kernel.vanish(Path::new(&format!("/var/run/netns/{container}")));
    }

    pub(super) fn call(
        &mut self,
        want: impl FnOnce(Attachment) -> Want,
        attachment: Attachment,
    ) -> oneshot::Receiver<Verdict> {
        self.ask(want(attachment))
    }

    fn ask(&mut self, want: Want) -> oneshot::Receiver<Verdict> {
        let (answer, wait) = oneshot::channel();
        let now = self.now;
        self.reconciler.heard(Call { want, answer }, now);
        wait
    }

    fn collect(&mut self, network: &str, containers: &[&str]) {
        let containers = containers.iter().map(ToString::to_string).collect();
        let mut answer = self.ask(Want::Collect(Attached { network: network.to_owned(), containers }));
        assert!(matches!(answer.try_recv(), Ok(Verdict::Agreed(_))));
    }

    pub(super) fn add(&mut self, container: &str) -> oneshot::Receiver<Verdict> {
        self.call(Want::Add, sandbox(container))
    }

    pub(super) fn add_to(&mut self, namespace: &str, container: &str) -> oneshot::Receiver<Verdict> {
        self.call(Want::Add, Attachment { pod_namespace: namespace.to_owned(), ..sandbox(container) })
    }

    pub(super) fn add_with(&mut self, container: &str, address: IpAddr) -> oneshot::Receiver<Verdict> {
        let mut attachment = sandbox(container);
        attachment.ips[0].address = Network::new(address, 24);
        self.call(Want::Add, attachment)
    }

    pub(super) fn add_without_uid(&mut self, container: &str) -> oneshot::Receiver<Verdict> {
        self.call(Want::Add, Attachment { pod_uid: String::new(), ..sandbox(container) })
    }

    fn delete(&mut self, container: &str) {
        let mut answer = self.call(Want::Delete, sandbox(container));
        assert!(matches!(answer.try_recv(), Ok(Verdict::Agreed(_))), "a DEL never fails, and never waits");
    }

    /// Adds the pod and sees it captured.
    async fn started(container: &str, inode: u64) -> (Self, Client) {
        let mut world = Self::before_the_sandbox();
        let client = world.ready().await;
        world.make(container, inode);
        let mut answer = world.add(container);
        world.pass().await;
        assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "not before it is captured");
        client.take("u1");
        world.answered(Answer::Accepted).await;
        world.pass().await;
        assert!(agreed(&mut answer, true));
        // The runtime goes on, and its source hears of it.
        world.write("pod.yaml", &pod("u1"));
        assert_eq!(world.pass().await.actual, Actual::Captured);
        (world, client)
    }
}

pub(super) fn agreed(answer: &mut oneshot::Receiver<Verdict>, captured: bool) -> bool {
    matches!(answer.try_recv(), Ok(Verdict::Agreed(given)) if given.captured == captured)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_is_answered_once_the_pod_is_captured() {
    let (world, _client) = World::started("one", 20).await;
    let content = world.kernel.content(20).unwrap();
    assert_eq!(content.phase, Phase::Settled, "a pod that has not run has no connections to spare");
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_starts_has_its_rules_before_its_proxy_answers_where_it_cannot_run_without_both() {
    for (pods_wait, is_noted) in [(true, true), (false, true), (true, false)] {
        let mut world = World::before_the_sandbox();
        world.reconciler.settings.pods_wait = pods_wait;
        let node = tempfile::tempdir().unwrap();
        world.reconciler.settings.memory = is_noted.then(|| Arc::new(installation(node.path())));
        let client = world.ready().await;
        world.make("one", 20);
        let mut answer = world.add("one");
        world.pass().await;
        assert_eq!(world.kernel.content(20).is_some(), pods_wait && is_noted, "{pods_wait} {is_noted}");
        assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "not before the proxy listens");
        client.take("u1");
        world.answered(Answer::Accepted).await;
        world.pass().await;
        assert!(agreed(&mut answer, true) && world.kernel.content(20).is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_captured_pod_is_said_again_when_it_comes_back_or_somebody_takes_it_away() {
    let (mut world, _client) = World::started("one", 20).await;
    let status = world.directory.path().join(".status/cni-agent.node-1/Pod_shop_web.yaml");
    let enabled = |world: &World| world.redirection().as_deref() == Some("enabled");
    // In turn with everything else.
    fs::remove_file(&status).unwrap();
    world.reconciler.pass(&world.loaded, world.now, false).await;
    assert!(!enabled(&world));
    world.pass().await;
    assert!(enabled(&world));
    // At once when the pod itself has left meanwhile.
    world.label(None);
    world.pass().await;
    assert!(!enabled(&world));
    world.label(Some("ambient"));
    world.loaded = load(world.directory.path(), Some(&world.loaded));
    world.reconciler.pass(&world.loaded, world.now, false).await;
    assert!(enabled(&world));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_own_view_of_the_nodes_files_comes_first() {
    let mut world = World::before_the_sandbox();
    let client = world.ready().await;
    world.kernel.place(Path::new("/host/var/run/netns/one"), 30);
    world.make("one", 20);
    let _answer = world.add("one");
    world.pass().await;
    client.take("u1");
    world.answered(Answer::Accepted).await;
    world.pass().await;
    assert!(world.kernel.content(30).is_some() && world.kernel.content(20).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_del_of_an_earlier_sandbox_in_the_same_file_changes_nothing() {
    let (mut world, _client) = World::started("two", 20).await;
    let earlier = Attachment { container_id: "one".to_owned(), ..sandbox("two") };
    let mut answer = world.call(Want::Delete, earlier);
    assert!(matches!(answer.try_recv(), Ok(Verdict::Agreed(_))));
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert!(world.kernel.content(20).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_outside_the_mesh_is_not_held_up() {
    let mut world = World::before_the_sandbox();
    world.label(None);
    world.make("one", 20);
    let mut answer = world.add("one");
    world.pass().await;
    assert!(agreed(&mut answer, false), "no proxy is needed for it");
    assert_eq!(world.kernel.calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_without_a_proxy_is_refused_with_the_reason_in_time() {
    let mut world = World::before_the_sandbox();
    world.make("one", 20);
    let mut answer = world.add("one");
    world.pass().await;
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    world.now += limits::CAPTURE_WAIT.duration();
    world.pass().await;
    let Ok(Verdict::Refused(reason)) = answer.try_recv() else { panic!("not refused") };
    assert!(reason.contains("no node proxy"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_the_source_does_not_show_waits_only_where_it_matters() {
    for (mode, agrees) in [(None, true), (Some("ambient"), false)] {
        let mut world = World::before_the_sandbox();
        world.label(mode);
        world.remove("pod.yaml");
        world.make("one", 20);
        let mut answer = world.add("one");
        world.now += limits::UNSEEN_POD_WAIT.duration();
        world.loaded = load(world.directory.path(), None);
        world.reconciler.pass(&world.loaded, world.now, true).await;
        assert_eq!(agreed(&mut answer, false), agrees, "{mode:?}");
        if !agrees {
            // An earlier pod of its name is not it.
            world.write("pod.yaml", &starting("u0"));
            world.pass().await;
            assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
            world.now += limits::CAPTURE_WAIT.duration();
            world.pass().await;
            assert!(
                matches!(answer.try_recv(), Ok(Verdict::Refused(reason)) if reason.contains("does not see the pod"))
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_that_is_retried_gets_the_same_answer() {
    let mut world = World::before_the_sandbox();
    let client = world.ready().await;
    world.make("one", 20);
    let mut first = world.add("one");
    world.pass().await;
    let mut second = world.add("one");
    client.take("u1");
    world.answered(Answer::Accepted).await;
    world.pass().await;
    assert!(agreed(&mut first, true) && agreed(&mut second, true));
    let mut third = world.add("one");
    world.pass().await;
    assert!(agreed(&mut third, true));
    assert_eq!(world.kernel.calls(), ["apply 20"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_del_takes_the_pod_from_the_proxy_although_its_object_is_still_there() {
    let (mut world, client) = World::started("one", 20).await;
    // Its namespace can also be found without the runtime's help.
    let by_uid = world.netns("u1");
    world.kernel.place(&by_uid, 20);
    world.delete("one");
    client.let_go("u1");
    for _ in 0..2 {
        let report = world.pass().await;
        assert_eq!(report.actual, Actual::Absent);
        assert!(report.error.unwrap().contains("sandbox"));
        world.delete("one");
    }
    world.unmake("one");
    world.kernel.vanish(&by_uid);
    world.pass().await;
    // A new sandbox of the same pod, in a namespace with a number used again.
    world.make("two", 20);
    let mut answer = world.add("two");
    world.pass().await;
    client.take("u1");
    world.answered(Answer::Accepted).await;
    world.pass().await;
    assert!(agreed(&mut answer, true));
    // The runtime is late with the old one.
    world.delete("one");
    assert_eq!(world.pass().await.actual, Actual::Captured);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_sandbox_that_its_runtime_does_not_list_is_dropped() {
    let (mut world, client) = World::started("one", 20).await;
    for (network, containers) in [("pods", &["one", "other"][..]), ("another", &[])] {
        world.collect(network, containers);
        assert_eq!(world.pass().await.actual, Actual::Captured, "{network}");
    }
    world.collect("pods", &["other"]);
    client.let_go("u1");
    let report = world.pass().await;
    assert!(report.error.unwrap().contains("no network namespace"), "what the runtime said of it is forgotten");
    assert_eq!((report.actual, world.redirection()), (Actual::Absent, None));
    // The pod's next sandbox, which no list can have yet.
    world.make("two", 21);
    let mut answer = world.add("two");
    world.pass().await;
    world.collect("pods", &["other"]);
    client.take("u1");
    world.answered(Answer::Accepted).await;
    world.pass().await;
    assert!(agreed(&mut answer, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pod_that_its_runtime_fails_to_list_stays_captured() {
    let (mut world, _client) = World::started("one", 20).await;
    world.kernel.run_process("u1", 20, Path::new("/proc/30/ns/net"));
    world.collect("pods", &[]);
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_del_while_the_proxy_reconnects_is_not_undone_by_its_snapshot() {
    let (mut world, client) = World::started("one", 20).await;
    drop(client);
    world.answered(Answer::NoProxy).await;
    world.delete("one");
    let client = world.connect().await;
    client.hello();
    assert!(matches!(client.next().0, Payload::SnapshotSent(_)), "the pod is not in it");
    client.accept();
    assert_eq!(world.pass().await.actual, Actual::Absent);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_any_step_of_an_add_is_followed_by_one_that_finishes_it() {
    for step in 0..5 {
        let mut world = World::before_the_sandbox();
        let mut client = world.ready().await;
        world.make("one", 20);
        let _lost = world.add("one");
        if step > 0 {
            world.pass().await;
        }
        if step > 1 {
            client.take("u1");
            world.answered(Answer::Accepted).await;
        }
        if step > 2 {
            world.pass().await;
        }
        if step > 3 {
            // It may even have been answered, and the runtime went on.
            world.write("pod.yaml", &pod("u1"));
            world.pass().await;
        }
        world.restart();
        world.pass().await;
        client = world.ready().await;
        let mut answer = world.add("one");
        world.pass().await;
        client.take("u1");
        world.answered(Answer::Accepted).await;
        world.pass().await;
        assert!(agreed(&mut answer, true), "killed after step {step}");
        assert_eq!(world.report().actual, Actual::Captured);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_around_a_del_leaves_nothing_with_the_proxy() {
    for deleted_before in [true, false] {
        let (mut world, client) = World::started("one", 20).await;
        if deleted_before {
            world.delete("one");
        }
        drop(client);
        world.restart();
        if !deleted_before {
            world.delete("one");
        }
        world.unmake("one");
        world.pass().await;
        let client = world.connect().await;
        client.hello();
        assert!(matches!(client.next().0, Payload::SnapshotSent(_)), "deleted before the restart: {deleted_before}");
        client.accept();
        assert_eq!(world.redirection(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_killed_at_any_step_of_an_add_is_followed_by_one_that_serves_the_pod() {
    for step in 0..3 {
        let mut world = World::before_the_sandbox();
        let client = world.ready().await;
        world.make("one", 20);
        let mut answer = world.add("one");
        world.pass().await;
        if step > 0 {
            assert!(matches!(client.next().0, Payload::Add(_)));
        }
        if step > 1 {
            client.accept();
            world.answered(Answer::Accepted).await;
        }
        drop(client);
        world.answered(Answer::NoProxy).await;
        world.pass().await;
        assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "killed after step {step}");
        let _client = world.ready().await;
        world.answered(Answer::Accepted).await;
        world.pass().await;
        assert!(agreed(&mut answer, true), "killed after step {step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_was_used_again_by_another_pod_is_not_served() {
    let mut world = World::new();
    let others: IpAddr = "10.0.0.77".parse().unwrap();
    world.kernel.give(INODE, &[others]);
    let report = world.pass().await;
    assert_eq!(report.actual, Actual::Absent);
    assert!(report.error.unwrap().contains("(10.0.0.1) but 10.0.0.77"));
    // Its address fits, but the processes in it are another pod's.
    world.kernel.give(INODE, &[ADDRESS.into()]);
    world.kernel.run_process("u9", INODE, Path::new("/proc/30/ns/net"));
    let report = world.pass().await;
    assert!(report.error.unwrap().contains("uid u9"));
    let client = world.connect().await;
    client.hello();
    assert!(matches!(client.next().0, Payload::SnapshotSent(_)), "no identity was handed out for it");
    world.kernel.run_process("u1", INODE, Path::new("/proc/31/ns/net"));
    assert_eq!(world.pass().await.actual, Actual::Pending, "its own process is there too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_the_chain_missed_is_found_by_its_processes() {
    let mut world = World::new();
    world.kernel.vanish(&world.netns("u1"));
    assert!(world.pass().await.error.unwrap().contains("no network namespace"));
    world.kernel.run_process("u1", 40, Path::new("/proc/4242/ns/net"));
    let client = world.ready().await;
    world.pass().await;
    client.take("u1");
    world.answered(Answer::Accepted).await;
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert!(world.kernel.content(40).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_with_the_state_kept_everything_is_captured_anew() {
    let (mut world, client) = World::captured().await;
    // Status says enabled, as it did before; namespaces and proxy are new.
    drop(client);
    world.restart();
    world.kernel.place(&world.netns("u1"), 50);
    let report = world.pass().await;
    assert_eq!(report.actual, Actual::Pending);
    assert_eq!(world.redirection(), None, "what was said before the reboot is not believed");
    let _client = world.ready().await;
    world.answered(Answer::Accepted).await;
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert!(world.kernel.content(50).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_opts_in_and_cannot_be_captured_is_told_why_and_left_alone() {
    let mut world = World::new();
    world.write("pod.yaml", &pod("u1").replace("spec: {", "spec: {hostNetwork: true, "));
    let report = world.pass().await;
    assert_eq!((report.desired, report.reason), (Desired::Excluded, "host_network"));
    assert!(report.error.unwrap().contains("hostNetwork"));
    let note = |world: &World| {
        let loaded = load(world.directory.path(), None);
        loaded.objects.pod("shop", "web").unwrap().annotation(NOT_CAPTURED).map(str::to_owned)
    };
    assert!(note(&world).unwrap().contains("hostNetwork"));
    let _client = world.ready().await;
    world.pass().await;
    assert_eq!(world.kernel.calls(), Vec::<String>::new());
    let metrics = world.reconciler.metrics.render();
    assert!(metrics.contains(r#"fairway_agent_pods{state="refused"} 1"#), "{metrics}");
    assert_eq!(world.said(), [Reason::CannotBeCaptured], "it is said once");
    world.now += REMIND_EVERY;
    world.pass().await;
    assert_eq!(world.said(), [Reason::CannotBeCaptured; 2], "and again when others may have forgotten it");
    // Another pod that takes its name has not been told.
    world.write("pod.yaml", &pod("u2").replace("spec: {", "spec: {hostNetwork: true, "));
    world.pass().await;
    assert_eq!(world.said().len(), 3);
    world.label(None);
    world.pass().await;
    assert_eq!(note(&world), None, "it does not opt in any more");
    let event = world.events.latest().pop().unwrap();
    assert_eq!((event.reason, event.uid.as_str()), (Reason::CannotBeCaptured, "u1"));
    assert_eq!(event.pod, ObjectKey::pod("shop", "web"));
    assert!(event.message.contains("hostNetwork"), "{event:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_can_never_be_captured_is_said_at_label_time_and_never_half_done() {
    for (specification, reason) in [
        ("hostNetwork: true", "host_network"),
        ("os: {name: windows}", "windows"),
        ("runtimeClassName: kata-qemu", "virtual_machine"),
    ] {
        let mut world = World::new();
        world.label(None);
        world.write("pod.yaml", &pod("u1").replace("spec: {", &format!("spec: {{{specification}, ")));
        assert_eq!(world.pass().await.error, None, "{reason}: nobody asked for it");
        let client = world.ready().await;
        world.label(Some("ambient"));
        let report = world.pass().await;
        assert_eq!((report.desired, report.reason, report.actual), (Desired::Excluded, reason, Actual::Absent));
        assert_eq!(world.said(), [Reason::CannotBeCaptured], "{reason}");
        let note = fs::read_to_string(world.directory.path().join(".status/cni-agent.node-1/Pod_shop_web.yaml"));
        assert!(note.is_ok_and(|note| note.contains(NOT_CAPTURED)), "{reason}");
        assert!(world.reconciler.metrics.render().contains(r#"fairway_agent_pods{state="refused"} 1"#), "{reason}");
        assert_eq!((world.kernel.calls(), world.redirection()), (vec![], None), "{reason}");
        // Its proxy has not heard of it: the next thing it is told is something else.
        world.handoff.add(crate::handoff::client::pod("other").0);
        client.take("other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labelled_but_not_captured_is_counted() {
    let mut world = World::new();
    world.pass().await;
    let count = |world: &World, count: u8| {
        let wanted = format!("fairway_agent_pods{{state=\"not_captured\"}} {count}");
        world.reconciler.metrics.render().contains(&wanted)
    };
    assert!(count(&world, 1));
    let _client = world.ready().await;
    world.answered(Answer::Accepted).await;
    world.pass().await;
    assert!(count(&world, 0));
    let mut check = world.call(Want::Check, sandbox("one"));
    assert!(matches!(check.try_recv(), Ok(Verdict::Agreed(_))));
    world.kernel.refuse_apply(true);
    world.kernel.tamper(INODE, None);
    world.pass().await;
    assert!(count(&world, 1));
    let mut check = world.call(Want::Check, sandbox("one"));
    assert!(matches!(check.try_recv(), Ok(Verdict::Refused(reason)) if reason.contains("refused by the test")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_runs_already_when_it_is_enrolled_keeps_its_connections_although_a_runtime_started_it() {
    let mut world = World::before_the_sandbox();
    world.label(None);
    world.make("one", 20);
    let mut answer = world.add("one");
    world.pass().await;
    assert!(agreed(&mut answer, false));
    world.write("pod.yaml", &pod("u1"));
    world.label(Some("ambient"));
    world.pass().await;
    let _client = world.ready().await;
    world.answered(Answer::Accepted).await;
    world.pass().await;
    assert_eq!(world.kernel.content(20).unwrap().phase, Phase::Joining);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_lacks_its_capture_for_long_is_told_why_until_it_has_it() {
    let mut world = World::new();
    let note = |world: &World| {
        let loaded = load(world.directory.path(), None);
        loaded.objects.pod("shop", "web").unwrap().annotation(NOT_CAPTURED).map(str::to_owned)
    };
    world.kernel.vanish(&world.netns("u1"));
    world.pass().await;
    assert_eq!((note(&world), world.said()), (None, vec![]), "it may just be starting");
    world.now += COMPLAIN_AFTER;
    for _ in 0..2 {
        world.pass().await;
        assert_eq!(world.said(), [Reason::NotCaptured], "it is said once");
    }
    world.now += REMIND_EVERY;
    for _ in 0..2 {
        world.pass().await;
        assert_eq!(world.said(), [Reason::NotCaptured; 2], "and again when others may have forgotten it");
    }
    assert!(note(&world).unwrap().contains("no network namespace"), "{:?}", note(&world));
    world.kernel.place(&world.netns("u1"), INODE);
    world.kernel.refuse_apply(true);
    let client = world.ready().await;
    world.pass().await;
    client.take("u1");
    world.answered(Answer::Accepted).await;
    world.pass().await;
    world.now += COMPLAIN_AFTER;
    world.pass().await;
    assert!(note(&world).unwrap().contains("refused by the test"), "{:?}", note(&world));
    assert_eq!(world.redirection().as_deref(), Some("pending"));
    world.kernel.refuse_apply(false);
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!((note(&world), world.redirection().as_deref()), (None, Some("enabled")));
    assert_eq!(world.said(), [Reason::NotCaptured; 2], "it may not last");
    world.now += COMPLAIN_AFTER;
    world.pass().await;
    assert_eq!(world.said(), [Reason::NotCaptured, Reason::NotCaptured, Reason::Captured]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_comes_and_goes_all_the_time_is_said_once_and_counted_each_time() {
    const TIMES: u32 = 12;
    let (mut world, mut client) = World::captured().await;
    let shows = |world: &World, line: &str| world.reconciler.metrics.render().lines().any(|found| found == line);
    for _ in 0..TIMES {
        drop(client);
        world.answered(Answer::NoProxy).await;
        assert_eq!(world.pass().await.actual, Actual::Pending);
        world.now += COMPLAIN_AFTER / 10;
        client = world.connect().await;
        client.hello();
        world.answered(Answer::Waiting).await;
        world.pass().await;
        client.take("u1");
        assert!(matches!(client.next().0, Payload::SnapshotSent(_)));
        client.accept();
        world.answered(Answer::Accepted).await;
        assert_eq!(world.pass().await.actual, Actual::Captured);
        world.now += COMPLAIN_AFTER / 10;
    }
    assert_eq!(world.said(), [Reason::NotCaptured]);
    let message = world.events.latest().pop().unwrap().message;
    assert!(message.contains(" times in "), "{message}");
    assert!(shows(&world, &format!("fairway_agent_captures_lost_total {TIMES}")));
    assert!(shows(&world, r#"fairway_agent_pods{state="unsteady"} 1"#), "captured, and nobody can rely on it");
    assert_eq!(world.redirection().as_deref(), Some("enabled"), "peers go on as if it were");
    for _ in 0..2 {
        world.now += COMPLAIN_AFTER;
        world.pass().await;
    }
    assert_eq!(world.said(), [Reason::NotCaptured, Reason::Captured]);
    assert!(shows(&world, r#"fairway_agent_pods{state="unsteady"} 0"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_pods_added_at_once_are_all_answered() {
    const PODS: u64 = 500;
    let mut world = World::before_the_sandbox();
    let client = world.ready().await;
    let names: Vec<String> = (0..PODS).map(|number| format!("p{number:03}")).collect();
    let manifests: Vec<String> =
        names.iter().map(|name| starting(name).replace("name: web", &format!("name: {name}"))).collect();
    world.write("pod.yaml", &manifests.join("---\n"));
    let mut answers = Vec::new();
    for (inode, name) in (1000..).zip(&names) {
        world.make(name, inode);
        let attachment = Attachment { pod_name: name.clone(), pod_uid: name.clone(), ..sandbox(name) };
        answers.push(world.call(Want::Add, attachment));
    }
    let proxy = std::thread::spawn(move || {
        for _ in 0..PODS {
            assert!(matches!(client.next().0, Payload::Add(_)));
            client.accept();
        }
        client
    });
    world.pass().await;
    let accepted = |handoff: &Handoff| names.iter().all(|name| handoff.answer(name) == Answer::Accepted);
    until(&world.handoff, accepted).await;
    let _client = proxy.join().unwrap();
    world.pass().await;
    let captured = answers.iter_mut().filter_map(|answer| agreed(answer, true).then_some(())).count();
    assert_eq!(captured, names.len());
}
