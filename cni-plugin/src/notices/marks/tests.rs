//! Tests of `marks`: what is compared, and what a server that fails now and then gets to hear.

use super::*;

fn pod(uid: &str, annotations: Value) -> MeshPod {
    let pod = json!({"metadata": {"uid": uid, "annotations": annotations}});
    serde_json::from_value(pod).unwrap()
}

fn mark(uid: &str, annotations: &[(&'static str, &str)]) -> Mark {
    Mark { uid: uid.to_owned(), annotations: annotations.iter().map(|(name, it)| (*name, (*it).to_owned())).collect() }
}

fn loaded(pods: &[MeshPod]) -> Loaded {
    let pods = pods.iter().map(|pod| (web(), Arc::new(pod.clone()))).collect();
    let mut loaded = Loaded::default();
    loaded.objects.pods = pods;
    loaded
}

fn web() -> ObjectKey {
    ObjectKey::pod("shop", "web")
}

#[test]
fn only_what_differs_is_patched() {
    let enabled = json!({REDIRECTION: "enabled"});
    let both = json!({REDIRECTION: "enabled", NOT_CAPTURED: "why", "mine": "1"});
    let foreign = json!({REDIRECTION: "disabled"});
    let none = json!({});
    let patch_of = |annotations: Value| Some(json!({"metadata": {"uid": "u", "annotations": annotations}}));
    let rows: [(&str, &Value, Mark, Option<Value>); 7] = [
        ("says it", &enabled, mark("u", &[(REDIRECTION, "enabled")]), None),
        ("says nothing", &none, mark("u", &[(REDIRECTION, "enabled")]), patch_of(json!({REDIRECTION: "enabled"}))),
        ("nothing to say", &none, mark("u", &[]), None),
        ("another pod", &enabled, mark("v", &[]), None),
        ("takes back ours", &both, mark("u", &[]), patch_of(json!({REDIRECTION: null, NOT_CAPTURED: null}))),
        ("leaves a user's word", &foreign, mark("u", &[]), None),
        ("one of two", &both, mark("u", &[(REDIRECTION, "enabled")]), patch_of(json!({NOT_CAPTURED: null}))),
    ];
    for (name, annotations, mark, expected) in rows {
        assert_eq!(patch(&pod("u", annotations.clone()), &mark), expected, "{name}");
    }
}

fn marks(loaded: Loaded) -> (watch::Sender<Arc<Loaded>>, Marks) {
    let (sender, source) = watch::channel(Arc::new(loaded));
    (sender, Marks::unsent(source))
}

#[test]
fn what_is_said_outlives_the_agent_and_not_the_pod() {
    let (sender, marks) = marks(loaded(&[pod("u", json!({REDIRECTION: "enabled"}))]));
    assert!(marks.has(&web()), "said before a restart");
    assert_eq!(marks.owned(), [web()]);
    marks.remove(&web(), None);
    assert!(!marks.has(&web()) && marks.owned().is_empty());
    assert_eq!(marks.shared.state().due(&marks.source.borrow()).len(), 1);
    // Another pod of that name: what was to be taken back went with the first.
    sender.send_replace(Arc::new(loaded(&[pod("v", json!({REDIRECTION: "enabled"}))])));
    assert!(marks.shared.state().due(&marks.source.borrow()).is_empty());
    marks.shared.state().prune(&sender.borrow());
    assert!(marks.has(&web()));
    sender.send_replace(Arc::new(Loaded::default()));
    marks.write(&web(), "v", &json!({"metadata": {"annotations": {REDIRECTION: "enabled"}}})).unwrap();
    assert!(!marks.has(&web()), "there is no pod to say it of");
}

#[test]
fn what_was_decided_of_a_pod_is_not_said_of_the_next_one_of_its_name() {
    let (sender, marks) = marks(loaded(&[pod("u", json!({}))]));
    // The agent goes by an earlier reading.
    sender.send_replace(Arc::new(loaded(&[pod("v", json!({REDIRECTION: "enabled"}))])));
    marks.write(&web(), "u", &json!({"metadata": {"annotations": {NOT_CAPTURED: "why"}}})).unwrap();
    marks.remove(&web(), Some("u"));
    assert!(marks.shared.state().due(&marks.source.borrow()).is_empty());
    marks.remove(&web(), Some("v"));
    assert_eq!(marks.shared.state().due(&marks.source.borrow()).len(), 1);
}

#[test]
fn a_failure_is_told_until_it_is_over_or_something_else_is_said() {
    let (_sender, marks) = marks(loaded(&[pod("u", json!({}))]));
    let say = |text: &str| marks.write(&web(), "u", &json!({"metadata": {"annotations": {REDIRECTION: text}}}));
    say("pending").unwrap();
    marks.shared.state().failed.insert(web(), "the server is away".to_owned());
    let error = say("pending").unwrap_err().to_string();
    assert!(error.contains("shop/web") && error.contains("the server is away"), "{error}");
    say("enabled").unwrap();
    assert!(say("enabled").is_err());
    marks.shared.state().failed.clear();
    say("enabled").unwrap();
}
