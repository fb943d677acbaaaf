//! Pods that an agent finds and cannot hand over again: they stay with the proxy that has them.

use super::*;
use crate::event::Attachment;
use crate::serve::Want;

impl World {
    /// The pod was captured by an agent before this one, which cannot find its namespace.
    async fn lost() -> Self {
        let (mut world, client) = Self::captured().await;
        drop(client);
        world.restart();
        world.kernel.vanish(&world.netns("u1"));
        assert_eq!(world.pass().await.actual, Actual::Absent);
        world
    }

    /// A proxy that was told to keep the pod, and of nothing else.
    async fn keeper(&self) -> Client {
        let client = self.connect().await;
        client.hello();
        let (request, descriptors) = client.next();
        assert!(matches!(&request, Payload::Keep(keep) if keep.uid == "u1"), "{request:?}");
        assert!(descriptors.is_empty());
        client.accept();
        assert!(matches!(client.next().0, Payload::SnapshotSent(_)));
        client.accept();
        client
    }

    async fn is_told_nothing(&self) -> bool {
        let client = self.connect().await;
        client.hello();
        matches!(client.next().0, Payload::SnapshotSent(_))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_an_unread_namespace_stays_with_its_proxy_until_it_is_known_what_becomes_of_it() {
    for mode in ["ambient", "none"] {
        let (mut world, client) = World::captured().await;
        drop(client);
        world.write("ns.yaml", "kind: [");
        world.restart();
        world.loaded = Loaded::default();
        assert_eq!(world.pass().await.desired, Desired::Unknown);
        let client = world.keeper().await;
        world.pass().await;
        assert_eq!(world.redirection().as_deref(), Some("enabled"));
        world.label(Some(mode));
        world.pass().await;
        if mode == "ambient" {
            client.take("u1");
            world.answered(Answer::Accepted).await;
            assert_eq!(world.pass().await.actual, Actual::Captured);
            assert_eq!(world.kernel.calls(), ["apply 7"], "nothing was done to it meanwhile");
        } else {
            client.let_go("u1");
            assert_eq!((world.kernel.content(INODE), world.redirection()), (None, None));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_namespace_is_not_found_at_once_stays_with_its_proxy_and_is_handed_over_when_it_is() {
    let mut world = World::lost().await;
    assert_eq!(world.redirection().as_deref(), Some("enabled"), "its peers go by that");
    let client = world.keeper().await;
    world.now += COMPLAIN_AFTER;
    assert!(world.pass().await.error.unwrap().contains("no network namespace"));
    assert_eq!((world.redirection(), world.said()), (None, vec![Reason::NotCaptured]), "nobody can say that it is");
    world.kernel.place(&world.netns("u1"), INODE);
    world.pass().await;
    client.take("u1");
    world.answered(Answer::Accepted).await;
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(world.kernel.calls(), ["apply 7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_pod_is_taken_from_its_proxy_when_it_ends_or_turns_out_to_be_another() {
    let ends: [fn(&mut World); 4] = [
        |world| world.remove("pod.yaml"),
        |world| world.write("pod.yaml", &pod("u2")),
        |world| drop(world.call(Want::Delete, runtime::sandbox("one"))),
        |world| {
            world.kernel.place(&world.netns("u1"), INODE);
            world.kernel.run_process("u9", INODE, Path::new("/proc/30/ns/net"));
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let mut world = World::lost().await;
        let client = world.keeper().await;
        end(&mut world);
        world.loaded = load(world.directory.path(), Some(&world.loaded));
        world.reconciler.pass(&world.loaded, world.now, true).await;
        client.let_go("u1");
        assert!(world.is_told_nothing().await, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_no_agent_before_this_one_can_have_handed_over_is_not_kept() {
    let mut world = World::new();
    world.kernel.vanish(&world.netns("u1"));
    world.pass().await;
    assert!(world.is_told_nothing().await, "nothing says that it was ever captured");
    // One that has come since, and waits for its address.
    world.write("pod.yaml", &runtime::starting("u2"));
    world.pass().await;
    assert!(world.is_told_nothing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_namespace_cannot_be_opened_stays_with_its_proxy() {
    let (mut world, client) = World::captured().await;
    drop(client);
    world.restart();
    world.kernel.refuse_open(true);
    assert!(world.pass().await.error.unwrap().contains("cannot open"));
    let client = world.keeper().await;
    world.kernel.refuse_open(false);
    world.pass().await;
    client.take("u1");
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_opted_out_while_no_agent_ran_stays_with_its_proxy_until_its_rules_are_gone() {
    type Change = fn(&World);
    let hindrances: [(Change, Change); 2] = [
        (|world| world.kernel.vanish(&world.netns("u1")), |world| world.kernel.place(&world.netns("u1"), INODE)),
        (|world| world.kernel.refuse_open(true), |world| world.kernel.refuse_open(false)),
    ];
    for (hinder, mend) in hindrances {
        let (mut world, client) = World::captured().await;
        drop(client);
        world.restart();
        world.label(None);
        hinder(&world);
        assert_eq!(world.pass().await.desired, Desired::Excluded);
        assert_eq!(world.redirection(), None, "its peers need not send tunnels any more");
        let client = world.keeper().await;
        assert!(world.kernel.content(INODE).is_some());
        mend(&world);
        world.pass().await;
        assert_eq!(world.kernel.content(INODE), None);
        client.let_go("u1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_sandbox_that_is_long_gone_takes_no_pod_from_its_proxy() {
    let mut world = World::lost().await;
    let gone = Attachment { netns: String::new(), ..runtime::sandbox("old") };
    drop(world.call(Want::Delete, gone));
    drop(world.keeper().await);
    // One that is told before the pods are looked at for the first time.
    world.restart();
    drop(world.call(Want::Delete, Attachment { netns: String::new(), ..runtime::sandbox("old") }));
    world.pass().await;
    world.keeper().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_own_manifest_cannot_be_read_stays_with_its_proxy_until_it_is_known_to_be_gone() {
    for is_mended in [true, false] {
        let mut world = World::new();
        world.note();
        world.pass().await;
        let client = world.ready().await;
        world.answered(Answer::Accepted).await;
        assert_eq!(world.pass().await.actual, Actual::Captured);
        drop(client);
        world.write("pod.yaml", "kind: [");
        world.restart();
        world.loaded = load(world.directory.path(), None);
        world.reconciler.pass(&world.loaded, world.now, true).await;
        let client = world.keeper().await;
        assert!(world.kernel.content(INODE).is_some());
        if is_mended {
            world.write("pod.yaml", &pod("u1"));
        } else {
            world.remove("pod.yaml");
        }
        world.loaded = load(world.directory.path(), Some(&world.loaded));
        world.reconciler.pass(&world.loaded, world.now, true).await;
        if is_mended {
            client.take("u1");
        } else {
            client.let_go("u1");
        }
    }
}
