//! Tests of `reconcile`.

use std::fs;
use std::path::Path;

use fairway_core::source::directory::load;
use fairway_core::source::status::Writer;
use fairway_proto::zds::workload_request::Payload;

use serde_json::json;

use clap::Parser as _;

use super::record::COMPLAIN_AFTER;
use super::*;
use crate::config::Config;
use crate::enroll::REDIRECTION;
use crate::events::{Reason, Recorder};
use crate::handoff::client::{Client, until};
use crate::kernel::fake::FakeKernel;

const NODE: &str = "node-1";
const INODE: u64 = 7;
/// Where the node's CNI configurations are: no manifests.
const NODE_FILES: &str = ".node";
const GRACE: Duration = Duration::from_secs(60);

struct World {
    directory: tempfile::TempDir,
    kernel: Arc<FakeKernel>,
    handoff: Handoff,
    reconciler: Reconciler,
    events: Arc<Recorder>,
    loaded: Loaded,
    now: Instant,
}

impl World {
    /// One pod in a namespace that opts in, with a namespace file; nothing has been done yet.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kernel = Arc::new(FakeKernel::default());
        let events = Arc::new(Recorder::new(Metrics::default(), None));
        let (handoff, reconciler) = Self::agent(directory.path(), &kernel, &events);
        let now = Instant::now();
        let mut world = Self { directory, kernel, handoff, reconciler, events, loaded: Loaded::default(), now };
        world.label(Some("ambient"));
        world.write("pod.yaml", &pod("u1"));
        world.kernel.place(&world.netns("u1"), INODE);
        world
    }

    fn agent(root: &Path, kernel: &Arc<FakeKernel>, events: &Arc<Recorder>) -> (Handoff, Reconciler) {
        let handoff = Handoff::new();
        let settings = Settings {
            node: NODE.to_owned(),
            netns_dir: "/netns".into(),
            namespaces_exist: false,
            rules: enroll::Rules {
                excluded_namespaces: BTreeSet::new(),
                selectors: enroll::Selectors::default(),
                defaults: Capture::default(),
            },
            leave_grace: LEAVE_GRACE,
            pods_wait: true,
            established_grace: GRACE,
            host_mounts: "/host".into(),
            memory: root.join(NODE_FILES).is_dir().then(|| Arc::new(installation(&root.join(NODE_FILES)))),
            events: Arc::<Recorder>::clone(events),
        };
        let status = Writer::new(root, "cni-agent.node-1").unwrap();
        let kernel: Arc<dyn Kernel> = kernel.clone();
        let reconciler =
            Reconciler::new(settings, kernel, handoff.clone(), status, Reports::default(), Metrics::default());
        (handoff, reconciler)
    }

    /// A new agent in the place of the old one, which left everything as it was.
    fn restart(&mut self) {
        (self.handoff, self.reconciler) = Self::agent(self.directory.path(), &self.kernel, &self.events);
    }

    /// The agent writes down which namespaces are enrolled.
    fn note(&mut self) {
        fs::create_dir(self.directory.path().join(NODE_FILES)).unwrap();
        self.restart();
    }

    /// What was said of pods, in order.
    fn said(&self) -> Vec<Reason> {
        self.events.latest().iter().rev().map(|event| event.reason).collect()
    }

    fn netns(&self, uid: &str) -> PathBuf {
        Path::new("/netns").join(uid)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.directory.path().join(name)).unwrap();
    }

    fn label(&mut self, mode: Option<&str>) {
        let labels = mode.map(|mode| format!("istio.io/dataplane-mode: {mode}")).unwrap_or_default();
        self.write(
            "ns.yaml",
            &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n"),
        );
    }

    async fn connect(&self) -> Client {
        let path = self.directory.path().join("ztunnel.sock");
        let _ = fs::remove_file(&path);
        let (server, socket) = (self.handoff.clone(), path.clone());
        tokio::spawn(async move { server.serve(&socket).await });
        let limit = Instant::now() + Duration::from_secs(30);
        while !path.exists() && Instant::now() < limit {
            tokio::task::yield_now().await;
        }
        Client::connect(&path)
    }

    /// A proxy that accepted everything there was.
    async fn ready(&self) -> Client {
        let client = self.connect().await;
        client.hello();
        while let Payload::Add(_) | Payload::Keep(_) = client.next().0 {
            client.accept();
        }
        client.accept();
        client
    }

    async fn pass(&mut self) -> PodReport {
        self.loaded = load(self.directory.path(), Some(&self.loaded));
        self.reconciler.pass(&self.loaded, self.now, true).await;
        self.report()
    }

    async fn pass_later(&mut self) -> PodReport {
        self.now += LEAVE_GRACE;
        self.pass().await
    }

    fn report(&self) -> PodReport {
        let pods = self.reconciler.reports.latest().pods;
        pods.first().cloned().expect("no pod was looked at")
    }

    async fn answered(&self, answer: Answer) {
        until(&self.handoff, |handoff| handoff.answer("u1") == answer).await;
    }

    /// The pod, captured, and the proxy that serves it.
    async fn captured() -> (Self, Client) {
        let mut world = Self::new();
        world.pass().await;
        let client = world.ready().await;
        world.answered(Answer::Accepted).await;
        assert_eq!(world.pass().await.actual, Actual::Captured);
        (world, client)
    }

    /// What readers of the manifests see.
    fn redirection(&self) -> Option<String> {
        let loaded = load(self.directory.path(), None);
        let pod = loaded.objects.pod("shop", "web")?;
        pod.annotation(REDIRECTION).map(str::to_owned)
    }
}

fn installation(configurations: &Path) -> install::Settings {
    let configurations = configurations.to_str().unwrap();
    let flags = ["agent", "--manifests", "m", "--node-name", NODE, "--cni-net-dir", configurations];
    Config::try_parse_from(flags).unwrap().install()
}

fn pod(uid: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, uid: \"{uid}\"}}\n\
         spec: {{nodeName: {NODE}, serviceAccountName: web, containers: []}}\nstatus: {{phase: Running, podIP: 10.0.0.1}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn enrols_proxy_first_then_rules_then_status() {
    let mut world = World::new();
    let report = world.pass().await;
    assert_eq!((report.desired, report.reason, report.actual), (Desired::Captured, "namespace_label", Actual::Pending));
    assert!(report.error.unwrap().contains("no node proxy"));

    let client = world.connect().await;
    client.hello();
    let (request, _) = client.next();
    assert!(matches!(request, Payload::Add(add) if add.uid == "u1"));
    world.pass().await;
    assert!(world.kernel.calls().is_empty(), "no rules before the proxy listens");
    assert_eq!(world.redirection(), None);
    client.accept();
    world.answered(Answer::Accepted).await;
    let report = world.pass().await;
    assert_eq!((report.actual, report.error), (Actual::Captured, None));
    assert_eq!(world.kernel.calls(), ["apply 7"]);
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(world.kernel.calls(), ["apply 7"], "a second look changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pod_is_pending_and_tried_again() {
    let mut world = World::new();
    world.pass().await;
    let client = world.connect().await;
    client.hello();
    let _ = client.next();
    client.acknowledge("port in use");
    assert!(matches!(client.next().0, Payload::SnapshotSent(_)));
    client.accept();
    world.answered(Answer::Refused("port in use".to_owned())).await;
    let report = world.pass().await;
    assert_eq!(report.actual, Actual::Pending);
    // The full pass asked again already, so the answer may be open; the rules must not be there either way.
    assert!(world.kernel.calls().is_empty());
    client.take("u1");
    world.answered(Answer::Accepted).await;
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_shows_in_the_status() {
    let mut world = World::new();
    world.pass().await;
    let client = world.connect().await;
    client.hello();
    let _ = client.next();
    client.acknowledge("port in use");
    world.answered(Answer::Refused("port in use".to_owned())).await;
    world.reconciler.pass(&world.loaded, world.now, false).await;
    assert!(world.report().error.unwrap().contains("port in use"));
    assert_eq!(world.redirection().as_deref(), Some("pending"));
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_status_first_then_rules_then_proxy() {
    let (mut world, client) = World::captured().await;
    world.label(None);
    let report = world.pass().await;
    assert_eq!((report.desired, report.actual), (Desired::Excluded, Actual::Pending));
    assert_eq!(world.redirection(), None);
    assert!(world.kernel.content(INODE).is_some(), "peers need time to hear of it");
    let report = world.pass_later().await;
    assert_eq!(report.actual, Actual::Absent);
    assert_eq!(world.kernel.content(INODE), None);
    client.let_go("u1");
    assert_eq!(world.pass_later().await.actual, Actual::Absent);
    assert_eq!(world.kernel.calls(), ["apply 7", "apply 7", "remove 7"], "first nothing new is captured");
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_ones_mind_while_leaving_keeps_the_capture() {
    let (mut world, _client) = World::captured().await;
    world.label(None);
    world.pass().await;
    world.label(Some("ambient"));
    assert_eq!(world.pass_later().await.actual, Actual::Captured);
    assert_eq!(world.kernel.calls(), ["apply 7"]);
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_agent_changes_nothing() {
    let (mut world, client) = World::captured().await;
    drop(client);
    world.restart();
    let report = world.pass().await;
    assert_eq!(report.actual, Actual::Pending, "no proxy has answered this agent");
    assert_eq!(world.redirection().as_deref(), Some("enabled"), "the status does not flap");
    let client = world.connect().await;
    client.hello();
    client.take("u1");
    assert!(matches!(client.next().0, Payload::SnapshotSent(_)));
    client.accept();
    world.answered(Answer::Accepted).await;
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(world.kernel.calls(), ["apply 7"], "the rules were recognised");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_an_earlier_pod_of_the_same_name_is_not_believed() {
    let (mut world, _client) = World::captured().await;
    world.restart();
    world.write("pod.yaml", &pod("u2"));
    world.kernel.vanish(&world.netns("u1"));
    world.kernel.place(&world.netns("u2"), 8);
    world.pass().await;
    assert_eq!(world.redirection(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_takes_the_name_of_another_keeps_its_status() {
    let (mut world, client) = World::captured().await;
    world.write("pod.yaml", &pod("u2"));
    world.kernel.place(&world.netns("u2"), 8);
    world.pass().await;
    client.take("u2");
    client.let_go("u1");
    until(&world.handoff, |handoff| handoff.answer("u2") == Answer::Accepted).await;
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
    assert_eq!(world.kernel.content(INODE), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_proxy_keeps_rules_and_status() {
    let (mut world, client) = World::captured().await;
    drop(client);
    world.answered(Answer::NoProxy).await;
    assert!(world.pass().await.error.unwrap().contains("no node proxy"));
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
    assert_eq!(world.kernel.calls(), ["apply 7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_namespace_is_handed_over_anew() {
    let (mut world, client) = World::captured().await;
    world.kernel.place(&world.netns("u1"), 8);
    world.pass().await;
    client.let_go("u1");
    client.take("u1");
    world.answered(Answer::Accepted).await;
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(world.kernel.calls(), ["apply 7", "apply 8"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_namespace_is_let_go() {
    let (mut world, client) = World::captured().await;
    world.kernel.vanish(&world.netns("u1"));
    let report = world.pass().await;
    assert_eq!((report.desired, report.actual), (Desired::Captured, Actual::Absent));
    assert!(report.error.unwrap().contains("no network namespace"));
    assert_eq!(world.redirection(), None);
    client.let_go("u1");
    world.kernel.place(&world.netns("u1"), 9);
    world.pass().await;
    client.take("u1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_is_forgotten() {
    let (mut world, client) = World::captured().await;
    world.remove("pod.yaml");
    world.loaded = load(world.directory.path(), Some(&world.loaded));
    world.reconciler.pass(&world.loaded, world.now, false).await;
    client.let_go("u1");
    assert!(world.reconciler.tracked.is_empty());
    assert!(world.reconciler.status.owned().unwrap().is_empty());
    assert_eq!(world.kernel.content(INODE), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_agent_left_behind_is_cleaned_up() {
    let mut world = World::new();
    world.label(None);
    world.kernel.tamper(INODE, Some(Capture::default()));
    let annotations = json!({"metadata": {"annotations": {REDIRECTION: "enabled"}}});
    for name in ["web", "gone"] {
        world.reconciler.status.write(&ObjectKey::pod("shop", name), "u1", &annotations).unwrap();
    }
    world.pass().await;
    assert_eq!(world.kernel.calls(), ["remove 7"]);
    assert!(world.reconciler.status.owned().unwrap().is_empty());
    world.pass().await;
    assert_eq!(world.kernel.calls(), ["remove 7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_somebody_changed_are_restored() {
    let (mut world, _client) = World::captured().await;
    world.kernel.tamper(INODE, None);
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(world.kernel.calls(), ["apply 7", "apply 7"]);
    world.write("pod.yaml", &pod("u1").replace("uid:", "annotations: {ambient.istio.io/dns-capture: \"true\"}, uid:"));
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert!(world.kernel.content(INODE).unwrap().dns);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_refuses_shows_and_is_asked_again() {
    let mut world = World::new();
    world.kernel.refuse_apply(true);
    world.pass().await;
    let _client = world.ready().await;
    world.answered(Answer::Accepted).await;
    let report = world.pass().await;
    assert_eq!(report.actual, Actual::Pending);
    assert!(report.error.unwrap().contains("refused by the test"));
    assert_eq!(world.redirection().as_deref(), Some("pending"));
    world.kernel.refuse_apply(false);
    let report = world.pass().await;
    assert_eq!((report.actual, report.error), (Actual::Captured, None));
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_leaves_for_good_takes_its_pods_from_the_proxies() {
    let (mut world, client) = World::captured().await;
    let answers = std::thread::spawn(move || client.let_go("u1"));
    world.reconciler.dismiss().await;
    answers.join().unwrap();
    let client = world.connect().await;
    client.hello();
    assert!(matches!(client.next().0, Payload::SnapshotSent(_)), "also from one that comes now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uid_cannot_name_another_file() {
    for uid in ["../netns/u1", "u".repeat(MAX_UID + 1).as_str()] {
        let mut world = World::new();
        world.write("pod.yaml", &pod(uid));
        let report = world.pass().await;
        assert_eq!(report.actual, Actual::Absent);
        assert!(report.error.unwrap().contains("not a uid"), "{uid}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_other_nodes_are_not_ours() {
    let mut world = World::new();
    world.write("pod.yaml", &pod("u1").replace(NODE, "node-2"));
    world.loaded = load(world.directory.path(), None);
    assert_eq!(world.loaded.objects.pods.len(), 1);
    world.reconciler.pass(&world.loaded, world.now, true).await;
    assert!(world.reconciler.reports.latest().pods.is_empty());
    assert!(world.reconciler.tracked.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_takes_turns() {
    let mut world = World::new();
    let pods: Vec<String> = (0..VERIFIED_PER_ROUND * 2 + 1).map(|number| format!("u{number:03}")).collect();
    let text: Vec<String> = pods.iter().map(|uid| pod(uid).replace("name: web", &format!("name: {uid}"))).collect();
    world.write("pod.yaml", &text.join("---\n"));
    for (inode, uid) in (100..).zip(&pods) {
        world.kernel.place(&world.netns(uid), inode);
    }
    world.pass().await;
    assert_eq!(world.reconciler.tracked.len(), pods.len());
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let due = world.reconciler.take_turns();
        assert!(due.len() <= VERIFIED_PER_ROUND);
        seen.extend(due);
    }
    assert_eq!(seen.len(), pods.len());
}

mod keep;
mod phases;
mod probes;
mod runtime;
mod unread;
