//! What cannot be read, or not yet: nothing is let go of, nothing forgotten, and nothing said of it.

use fairway_core::limits;
use tokio::sync::oneshot::error::TryRecvError;

use super::runtime::{agreed, starting};
use super::*;
use crate::serve::Verdict;

const FAULT: &str = "kind: [";

impl World {
    /// A new agent, which has read nothing yet, in the place of the old one.
    fn start_anew(&mut self) {
        self.restart();
        self.loaded = Loaded::default();
    }

    fn remembered(&self) -> Remembered {
        self.reconciler.settings.memory.as_ref().unwrap().remembered()
    }

    /// The pod, captured by an agent that writes down who is enrolled.
    async fn captured_and_noted() -> (Self, Client) {
        let mut world = Self::new();
        world.note();
        world.pass().await;
        let client = world.ready().await;
        world.answered(Answer::Accepted).await;
        assert_eq!(world.pass().await.actual, Actual::Captured);
        assert_eq!(world.remembered().enrols("shop"), Some(true));
        (world, client)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_the_manifest_of_a_namespace_lets_no_pod_go_when_the_agent_starts() {
    let (mut world, client) = World::captured_and_noted().await;
    drop(client);
    world.write("ns.yaml", FAULT);
    world.start_anew();
    let report = world.pass().await;
    assert_eq!((report.desired, report.reason), (Desired::Captured, "remembered_namespace"));
    let _client = world.ready().await;
    world.answered(Answer::Accepted).await;
    assert_eq!(world.pass_later().await.actual, Actual::Captured, "the proxy was handed it again");
    assert_eq!(world.kernel.calls(), ["apply 7"]);
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
    assert_eq!(world.remembered().enrols("shop"), Some(true));
    // Once it can be read, it counts.
    world.label(None);
    assert_eq!(world.pass().await.desired, Desired::Excluded);
    assert_eq!((world.redirection(), world.remembered().enrols("shop")), (None, Some(false)));
    world.pass_later().await;
    assert_eq!(world.kernel.content(INODE), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_pod_of_an_unread_namespace_stays_where_nothing_was_remembered() {
    let (mut world, client) = World::captured().await;
    drop(client);
    world.write("ns.yaml", FAULT);
    world.start_anew();
    for _ in 0..3 {
        let report = world.pass_later().await;
        assert_eq!((report.desired, report.reason), (Desired::Unknown, "unread_namespace"));
        assert!(report.error.unwrap().contains("cannot be read"));
    }
    assert_eq!(world.kernel.calls(), ["apply 7"]);
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
    world.label(None);
    world.pass().await;
    assert_eq!((world.kernel.content(INODE), world.redirection()), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_a_pod_that_was_unlabelled_meanwhile_is_withdrawn_although_something_else_is_in_error() {
    let mut world = World::new();
    world.label(None);
    world.write("other.yaml", FAULT);
    world.kernel.tamper(INODE, Some(Capture::default()));
    let annotations = json!({"metadata": {"annotations": {REDIRECTION: "enabled"}}});
    for name in ["web", "elsewhere"] {
        world.reconciler.status.write(&ObjectKey::pod("shop", name), "u1", &annotations).unwrap();
    }
    world.pass().await;
    assert_eq!(world.redirection(), None);
    assert_eq!(world.kernel.calls(), ["remove 7"]);
    let elsewhere = [ObjectKey::pod("shop", "elsewhere")];
    assert_eq!(world.reconciler.status.owned().unwrap(), elsewhere, "it may be in what cannot be read");
    world.remove("other.yaml");
    world.pass().await;
    assert!(world.reconciler.status.owned().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_manifest_cannot_be_read_is_not_taken_for_deleted() {
    let (mut world, _client) = World::captured().await;
    world.remove("pod.yaml");
    world.write("moved.yaml", FAULT);
    let look = async |world: &mut World| {
        world.loaded = load(world.directory.path(), Some(&world.loaded));
        world.reconciler.pass(&world.loaded, world.now, true).await;
        (world.kernel.content(INODE).is_some(), world.handoff.answer("u1"), world.reconciler.status.owned().unwrap())
    };
    assert_eq!(look(&mut world).await, (true, Answer::Accepted, vec![ObjectKey::pod("shop", "web")]));
    world.remove("moved.yaml");
    assert_eq!(look(&mut world).await, (false, Answer::Waiting, vec![]), "now it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_anything_was_read_an_add_is_answered_by_what_was_remembered() {
    let (mut world, client) = World::captured_and_noted().await;
    drop(client);
    world.start_anew();
    let missing = load(&world.directory.path().join("missing"), None);
    let mut enrolled = world.add("one");
    let mut other = world.add_to("bank", "two");
    for (waited, full) in [(limits::UNSEEN_POD_WAIT, true), (limits::CAPTURE_WAIT, false)] {
        world.reconciler.pass(&missing, world.now + waited.duration(), full).await;
        if full {
            assert_eq!(enrolled.try_recv(), Err(TryRecvError::Empty));
            assert!(agreed(&mut other, false), "nobody is held up who is not enrolled");
        }
    }
    assert!(matches!(enrolled.try_recv(), Ok(Verdict::Refused(_))));
    assert_eq!(world.reconciler.reports.latest().passes, 0, "no proxy gets a snapshot without the node's pods");
    assert_eq!(world.kernel.calls(), ["apply 7"]);
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
    assert_eq!(world.remembered().enrols("shop"), Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_an_api_server_shows_before_its_namespace_waits_for_it() {
    let mut world = World::before_the_sandbox();
    world.reconciler.settings.namespaces_exist = true;
    world.remove("ns.yaml");
    let client = world.ready().await;
    world.make("one", 20);
    let mut answer = world.add("one");
    assert_eq!(world.pass().await.desired, Desired::Unknown);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "it is not said to be outside the mesh");
    world.label(Some("ambient"));
    world.pass().await;
    client.take("u1");
    world.answered(Answer::Accepted).await;
    world.pass().await;
    assert!(agreed(&mut answer, true));
    // The other way round it is as before.
    let mut world = World::before_the_sandbox();
    world.remove("ns.yaml");
    let mut answer = world.add("one");
    assert_eq!(world.pass().await.desired, Desired::Excluded, "a directory may leave the namespace out");
    assert!(agreed(&mut answer, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_keeps_its_capture_when_an_api_server_shows_the_end_of_its_namespace_first() {
    let (mut world, client) = World::captured_and_noted().await;
    world.reconciler.settings.namespaces_exist = true;
    world.remove("ns.yaml");
    assert_eq!(world.pass().await.actual, Actual::Captured);
    world.write("pod.yaml", &starting("u2").replace("name: web", "name: next"));
    world.pass().await;
    client.let_go("u1");
    assert_eq!(world.kernel.content(INODE), None);
    world.remove("pod.yaml");
    world.loaded = load(world.directory.path(), Some(&world.loaded));
    world.reconciler.pass(&world.loaded, world.now, true).await;
    assert_eq!(world.remembered().enrols("shop"), Some(false), "it is gone with its last pod");
}
