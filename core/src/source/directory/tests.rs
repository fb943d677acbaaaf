//! Tests of `directory`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::super::istio::{Action, MutualTlsMode};
use super::super::labels::HasLabels;
use super::super::status::Writer;
use super::super::{Kind, ObjectKey, SourceError};
use super::{Loaded, MAX_MANIFEST_BYTES, Remembered, load, watch, watch_from};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace: shop\n  labels:\n    app: web\n";
const DENY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: deny\n  namespace: shop\nspec:\n  action: DENY\n  rules:\n  - from:\n    - source:\n        namespaces: [\"other\"]\n";

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn load_one(text: &str) -> Loaded {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a.yaml", text);
    load(root.path(), None)
}

fn only_error(loaded: &Loaded) -> &SourceError {
    assert_eq!(loaded.errors.len(), 1, "{:#?}", loaded.errors);
    &loaded.errors[0]
}

#[test]
fn reads_every_kind() {
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, namespace: ignored}}\n---\n{POD}---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{ports: [{{port: 80, targetPort: http}}]}}\n---\n---\n\
         apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: web, namespace: shop}}\n---\n{DENY}---\n\
         apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {{name: strict, namespace: shop}}\n\
         spec: {{mtls: {{mode: STRICT}}, portLevelMtls: {{8080: {{mode: PERMISSIVE}}}}}}\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {{name: node-1}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web}}\naddressType: IPv4\nendpoints: []\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: web}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute\nmetadata: {{name: web}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: web}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: web}}\n---\n\
         apiVersion: networking.istio.io/v1beta1\nkind: WorkloadEntry\nmetadata: {{name: web}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: web}}\n---\n\
         apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: web}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {{name: web}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1alpha3\nkind: TLSRoute\nmetadata: {{name: web}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: web}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: web}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web}}\n---\n\
         apiVersion: fairway.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: web}}\n---\n\
         apiVersion: fairway.dev/v1alpha1\nkind: ExternalProcessor\nmetadata: {{name: web}}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\n"
    );
    let loaded = load_one(&text);
    assert_eq!(loaded.errors, []);
    assert!(loaded.objects.counts().values().all(|count| *count == 1), "{:?}", loaded.objects.counts());
    assert_eq!(loaded.objects.pod("shop", "web").unwrap().label("app"), Some("web"));
    let service = loaded.objects.services.get(&ObjectKey::new(Kind::Service, "default", "web")).unwrap();
    assert_eq!(service.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(loaded.objects.namespace("shop").unwrap().metadata.namespace, None);
    let policy = loaded.objects.authorization_policies.values().next().unwrap();
    assert_eq!(policy.spec.action, Action::Deny);
    assert_eq!(policy.spec.rules[0].from[0].source.as_ref().unwrap().namespaces, ["other"]);
    let peer = loaded.objects.peer_authentications.values().next().unwrap();
    assert_eq!(peer.spec.mtls.unwrap().mode, MutualTlsMode::Strict);
    assert_eq!(peer.spec.port_level_mtls.keys().map(|port| port.get()).collect::<Vec<_>>(), [8080]);
    let unknown = &loaded.objects.unknown;
    assert_eq!((unknown.len(), unknown[0].kind.as_str(), unknown[0].name.as_str()), (1, "Deployment", "web"));
}

#[test]
fn every_authorization_field_is_read() {
    let fields = |names: &[&str]| names.iter().map(|name| format!("{name}: [a]")).collect::<Vec<_>>().join(", ");
    let source = fields(&[
        "principals",
        "notPrincipals",
        "requestPrincipals",
        "notRequestPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
        "trustDomains",
        "notTrustDomains",
        "ipBlocks",
        "notIpBlocks",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
    ]);
    let operation = fields(&["hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"]);
    let loaded = load_one(&format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: all}}\nspec:\n  \
         selector: {{matchLabels: {{app: web}}}}\n  targetRefs: [{{group: '', kind: Service, name: web}}]\n  action: CUSTOM\n  \
         provider: {{name: ext}}\n  rules:\n  - from: [{{source: {{{source}}}}}]\n    to: [{{operation: {{{operation}}}}}]\n    \
         when: [{{key: 'request.headers[x]', values: [a], notValues: [b]}}]\n"
    ));
    assert_eq!(loaded.errors, []);
    let spec = &loaded.objects.authorization_policies.values().next().unwrap().spec;
    let source = serde_json::to_value(spec.rules[0].from[0].source.as_ref().unwrap()).unwrap();
    assert!(source.as_object().unwrap().values().all(|value| *value == json!(["a"])), "{source}");
    let operation = serde_json::to_value(spec.rules[0].to[0].operation.as_ref().unwrap()).unwrap();
    assert!(operation.as_object().unwrap().values().all(|value| *value == json!(["a"])), "{operation}");
}

#[test]
fn lists_are_unrolled() {
    let loaded = load_one(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n\
         apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: one}\n- metadata: {name: two, labels: {n: 2}}\n",
    );
    assert_eq!((loaded.objects.namespaces.len(), loaded.objects.pods.len()), (1, 1));
    let error = only_error(&loaded);
    assert_eq!((error.line, error.field.as_deref()), (Some(10), Some("items[1].metadata.labels.n")));
}

/// name, text, line, column, field, part of the message
type BadInput = (&'static str, &'static str, Option<u32>, Option<u32>, Option<&'static str>, &'static str);

const BAD_INPUTS: &[BadInput] = &[
    ("tab", "kind: Pod\nmetadata:\n\tname: a\n", Some(3), None, None, "not valid YAML"),
    ("open quote", "kind: \"Pod\n", Some(2), None, None, "not valid YAML"),
    ("key twice", "apiVersion: v1\nkind: Pod\nkind: Pod\n", Some(3), Some(1), None, "duplicate"),
    ("scalar", "just text\n", Some(1), Some(1), None, "must be a Kubernetes object"),
    ("no kind", "apiVersion: v1\nmetadata: {name: a}\n", Some(1), Some(1), Some("kind"), "is missing"),
    ("no version", "kind: Pod\nmetadata: {name: a}\n", Some(1), Some(1), Some("apiVersion"), "is missing"),
    ("no metadata", "apiVersion: v1\nkind: Pod\n", Some(1), Some(1), Some("metadata.name"), "is missing"),
    (
        "number as name",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: 1\n",
        Some(4),
        Some(3),
        Some("metadata.name"),
        "quote it",
    ),
    (
        "bad name",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: Web_1\n",
        Some(4),
        Some(3),
        Some("metadata.name"),
        "RFC 1123",
    ),
    (
        "dotted namespace",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a.b\n",
        Some(4),
        Some(3),
        Some("metadata.name"),
        "RFC 1123",
    ),
    (
        "bad namespace",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: -x\n",
        Some(5),
        Some(3),
        Some("metadata.namespace"),
        "RFC 1123",
    ),
    (
        "version we do not know",
        "kind: AuthorizationPolicy\napiVersion: security.istio.io/v2\nmetadata: {name: a}\n",
        Some(2),
        Some(1),
        Some("apiVersion"),
        "use one of: v1, v1beta1",
    ),
    (
        "wrong type in a Kubernetes kind",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  hostNetwork: \"yes\"\n",
        Some(6),
        Some(3),
        Some("spec.hostNetwork"),
        "expected a boolean",
    ),
    (
        "number as label",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    app.kubernetes.io/version: 2\n",
        Some(6),
        Some(5),
        Some("metadata.labels[\"app.kubernetes.io/version\"]"),
        "expected a string",
    ),
    (
        "unknown field deep in a policy",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\nspec:\n  rules:\n  - from:\n    - source:\n        principal: [x]\n",
        Some(9),
        Some(9),
        Some("spec.rules[0].from[0].source.principal"),
        "unknown field `principal`",
    ),
    (
        "unknown field at the top of a policy",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\nrules: []\n",
        Some(5),
        Some(1),
        Some("rules"),
        "unknown field `rules`",
    ),
    (
        "unknown action",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\nspec:\n  action: PERMIT\n",
        Some(6),
        Some(3),
        Some("spec.action"),
        "unknown variant `PERMIT`",
    ),
    (
        "port as number",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\nspec:\n  rules:\n  - to:\n    - operation:\n        ports:\n        - 80\n",
        Some(10),
        Some(11),
        Some("spec.rules[0].to[0].operation.ports[0]"),
        "expected a string",
    ),
    (
        "condition without key",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\nspec:\n  rules:\n  - when:\n    - values: [a]\n",
        Some(8),
        Some(7),
        Some("spec.rules[0].when[0]"),
        "missing field `key`",
    ),
    (
        "unknown mode",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: a\nspec:\n  mtls:\n    mode: ON\n",
        Some(7),
        Some(5),
        Some("spec.mtls.mode"),
        "unknown variant `ON`",
    ),
    (
        "unknown field in a peer authentication",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: a\nspec:\n  mtsl: {}\n",
        Some(6),
        Some(3),
        Some("spec.mtsl"),
        "unknown field `mtsl`",
    ),
    (
        "port out of range",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: a\nspec:\n  portLevelMtls:\n    70000: {mode: STRICT}\n",
        Some(7),
        Some(5),
        Some("spec.portLevelMtls.70000"),
        "70000",
    ),
    (
        "port zero",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: a\nspec:\n  portLevelMtls:\n    0: {mode: STRICT}\n",
        Some(7),
        Some(5),
        Some("spec.portLevelMtls.0"),
        "nonzero",
    ),
];

#[test]
fn bad_input_names_file_line_and_field() {
    let mut wrong = Vec::new();
    for (name, text, line, column, field, message) in BAD_INPUTS {
        let loaded = load_one(text);
        let [error] = loaded.errors.as_slice() else {
            wrong.push(format!("{name}: {:#?}", loaded.errors));
            continue;
        };
        let right = error.file == "a.yaml"
            && error.line == *line
            && (column.is_none() || error.column == *column)
            && error.field.as_deref() == *field
            && error.message.contains(message)
            && loaded.objects.counts().values().all(|count| *count == 0);
        if !right {
            wrong.push(format!("{name}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn deep_and_hostile_documents_are_errors() {
    let deep = format!("a: {}", "[".repeat(5000));
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n{}",
        ["b: &b [*a]\n"]
            .iter()
            .chain(&["c: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n", "d: [*c,*c,*c,*c,*c,*c,*c,*c]\n"])
            .copied()
            .collect::<String>()
    );
    assert_eq!(only_error(&load_one(&deep)).file, "a.yaml");
    assert!(!load_one(&bomb).errors.is_empty());
}

#[test]
fn unreadable_files_are_errors_and_others_apply() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "sub/good.yaml", POD);
    let size = usize::try_from(MAX_MANIFEST_BYTES).unwrap() + 1;
    write(root.path(), "big.yaml", &"#".repeat(size));
    fs::write(root.path().join("latin.yaml"), b"name: \xff").unwrap();
    write(root.path(), ".hidden.yaml", "{");
    write(root.path(), ".git/x.yaml", "{");
    write(root.path(), "notes.txt", "{");
    let loaded = load(root.path(), None);
    let files: Vec<_> = loaded.errors.iter().map(|error| (error.file.as_str(), error.line)).collect();
    assert_eq!(files, [("big.yaml", None), ("latin.yaml", None)]);
    assert!(loaded.errors[0].message.contains("larger than"));
    assert_eq!(loaded.objects.pods.len(), 1);
}

#[test]
fn a_file_that_breaks_keeps_what_it_gave() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a.yaml", &format!("{POD}---\n{DENY}"));
    let first = load(root.path(), None);
    assert_eq!(first.errors, []);

    // Not YAML any more, while another file appears.
    write(root.path(), "a.yaml", "kind: [");
    write(root.path(), "b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
    let second = load(root.path(), Some(&first));
    assert_eq!(only_error(&second).file, "a.yaml");
    assert_eq!((second.objects.pods.len(), second.objects.authorization_policies.len()), (1, 1));
    assert_eq!(second.objects.namespaces.len(), 1);
    assert!(second.rejected.is_empty());

    // YAML again: the pod changes, the policy is in error and stays as it was.
    let broken = DENY.replace("namespaces", "namespace");
    write(root.path(), "a.yaml", &format!("{}---\n{broken}", POD.replace("app: web", "app: new")));
    let third = load(root.path(), Some(&second));
    assert_eq!(only_error(&third).object, Some(ObjectKey::new(Kind::AuthorizationPolicy, "shop", "deny")));
    assert_eq!(third.objects.pod("shop", "web").unwrap().label("app"), Some("new"));
    assert_eq!(third.objects.authorization_policies, first.objects.authorization_policies);

    // Unchanged: nothing is read anew, the kept objects survive.
    let fourth = load(root.path(), Some(&third));
    assert!(fourth.is_same_as(&third));

    // Repaired by removing the policy: now it goes.
    write(root.path(), "a.yaml", POD);
    let fifth = load(root.path(), Some(&fourth));
    assert_eq!((fifth.errors.len(), fifth.objects.authorization_policies.len()), (0, 0));

    fs::remove_file(root.path().join("a.yaml")).unwrap();
    assert!(load(root.path(), Some(&fifth)).objects.pods.is_empty());
}

#[test]
fn a_new_object_in_error_is_reported_as_rejected() {
    let loaded = load_one(&format!("{POD}---\n{}", DENY.replace("namespaces", "namespace")));
    let key = ObjectKey::new(Kind::AuthorizationPolicy, "shop", "deny");
    assert_eq!(loaded.rejected.keys().collect::<Vec<_>>(), [&key]);
    assert_eq!(loaded.rejected[&key]["spec"]["action"], json!("DENY"));
    assert_eq!(loaded.objects.pods.len(), 1, "its neighbour applies");
}

#[test]
fn the_first_file_that_defines_an_object_wins() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "b.yaml", &POD.replace("app: web", "app: second"));
    write(root.path(), "a.yaml", POD);
    let loaded = load(root.path(), None);
    let error = only_error(&loaded);
    assert_eq!((error.file.as_str(), error.line), ("b.yaml", Some(4)));
    assert!(error.message.contains("a.yaml") && error.message.contains("b.yaml"), "{error}");
    assert_eq!(loaded.objects.pod("shop", "web").unwrap().label("app"), Some("web"));
    let twice = load_one(&format!("{POD}---\n{POD}"));
    assert_eq!(only_error(&twice).line, Some(12));
}

#[test]
fn a_vanished_root_keeps_everything() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("manifests");
    write(&root, "a.yaml", POD);
    let first = load(&root, None);
    fs::remove_dir_all(&root).unwrap();
    let second = load(&root, Some(&first));
    assert!(only_error(&second).message.contains("cannot be read"));
    assert_eq!(second.objects, first.objects);
    let third = load(&root, Some(&second));
    assert_eq!(third.errors.len(), 1);
    assert!(third.is_same_as(&second));
    write(&root, "a.yaml", POD);
    assert_eq!(load(&root, Some(&third)).errors, []);
}

#[test]
fn a_root_that_vanishes_while_it_is_listed_keeps_everything() {
    let parent = tempfile::tempdir().unwrap();
    let (root, elsewhere) = (parent.path().join("manifests"), parent.path().join("elsewhere"));
    for number in 0..100 {
        write(&root, &format!("{number}.yaml"), &POD.replace("web", &format!("web-{number}")));
    }
    let mut loaded = load(&root, None);
    let (whole, mover) = (loaded.objects.pods.len(), (root.clone(), elsewhere.clone()));
    let moving = std::thread::spawn(move || {
        for _ in 0..3_000 {
            fs::rename(&mover.0, &mover.1).unwrap();
            std::thread::yield_now();
            fs::rename(&mover.1, &mover.0).unwrap();
        }
    });
    while !moving.is_finished() {
        loaded = load(&root, Some(&loaded));
        assert_eq!(loaded.objects.pods.len(), whole);
    }
    moving.join().unwrap();
    // What is deleted indeed goes.
    fs::remove_file(root.join("7.yaml")).unwrap();
    for name in ["dangling.yaml", ".status"] {
        std::os::unix::fs::symlink("nowhere", root.join(name)).unwrap();
    }
    loaded = load(&root, Some(&loaded));
    assert_eq!((loaded.objects.pods.len(), loaded.errors.len()), (whole - 1, 0), "{:?}", loaded.errors);
}

#[test]
fn status_is_merged_over_the_object_it_is_about() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a.yaml", POD);
    let pod = ObjectKey::pod("shop", "web");
    let lab = Writer::new(root.path(), "lab").unwrap();
    let agent = Writer::new(root.path(), "cni-agent.node-1").unwrap();
    let ready =
        json!({"conditions": [{"type": "Ready", "status": "True"}], "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
    lab.write(&pod, json!({"metadata": {"uid": "u1", "labels": {"app": null, "zone": "z"}}, "status": ready})).unwrap();
    agent.write(&pod, json!({"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}})).unwrap();
    lab.write(&ObjectKey::pod("shop", "gone"), json!({})).unwrap();
    let loaded = load(root.path(), None);
    assert_eq!(loaded.errors, []);
    let object = loaded.objects.pod("shop", "web").unwrap();
    assert_eq!(loaded.objects.pods.len(), 1, "status alone makes no object");
    assert_eq!(object.uid(), Some("u1"));
    assert_eq!((object.label("app"), object.label("zone")), (None, Some("z")));
    assert_eq!(object.annotation("ambient.istio.io/redirection"), Some("enabled"));
    assert!(object.is_ready);
    assert_eq!(object.addresses.len(), 2);

    // One owner writes nonsense: named, left out, the other still counts.
    lab.write(&pod, json!({"status": {"podIPs": "10.0.0.1"}})).unwrap();
    let broken = load(root.path(), Some(&loaded));
    let error = only_error(&broken);
    assert_eq!((error.file.as_str(), error.field.as_deref()), (".status/lab/Pod_shop_web.yaml", Some("status.podIPs")));
    assert!(error.line.is_some());
    let object = broken.objects.pod("shop", "web").unwrap();
    assert_eq!(object.annotation("ambient.istio.io/redirection"), Some("enabled"));

    agent.remove(&pod).unwrap();
    lab.remove(&pod).unwrap();
    let bare = load(root.path(), Some(&broken));
    assert_eq!(bare.objects.pod("shop", "web").unwrap().annotation("ambient.istio.io/redirection"), None);
}

fn deny_of(root: &Path, previous: &Loaded) -> Option<Option<String>> {
    let loaded = load(root, Some(previous));
    let key = ObjectKey::new(Kind::AuthorizationPolicy, "shop", "deny");
    let policy = loaded.objects.authorization_policies.get(&key)?;
    Some(policy.metadata.annotations.as_ref().and_then(|all| all.get("version").cloned()))
}

#[test]
fn what_is_remembered_stands_for_what_a_file_gave_before() {
    let deny = |version: &str| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "deny", "namespace": "shop", "annotations": {"version": version}}})
    };
    let key = ObjectKey::new(Kind::AuthorizationPolicy, "shop", "deny");
    let before =
        Loaded::remembered(&[Remembered { file: "sub/a.yaml".to_owned(), object: deny("old \"text\"\n: [x") }]);
    assert!(before.errors.is_empty() && before.has_unseen() && before.is_never_read());
    let old = Some(Some("old \"text\"\n: [x".to_owned()));
    let new = Some(Some("new".to_owned()));
    // text of the file, what is in force, whether something may be hidden
    let rows = [
        ("syntax", Some("kind: [".to_owned()), old.clone(), true),
        (
            "the policy in error",
            Some(deny("new").to_string().replace("\"metadata\"", "\"rules\":[],\"metadata\"")),
            old.clone(),
            false,
        ),
        ("a neighbour without kind", Some(format!("{POD}---\na: b\n")), old.clone(), true),
        ("a pod in error", Some(POD.replace("app: web", "app: 1")), old, true),
        ("changed", Some(deny("new").to_string()), new.clone(), false),
        ("changed and a neighbour in error", Some(format!("{}\n---\na: b\n", deny("new"))), new, true),
        ("removed", Some(POD.to_owned()), None, false),
        ("twice", Some(format!("{POD}---\n{POD}")), Some(Some("old \"text\"\n: [x".to_owned())), false),
        ("no file", None, None, false),
    ];
    for (what, text, expected, unseen) in rows {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "other.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
        if let Some(text) = text {
            write(root.path(), "sub/a.yaml", &text);
        }
        assert_eq!(deny_of(root.path(), &before), expected, "{what}");
        let loaded = load(root.path(), Some(&before));
        assert_eq!(loaded.has_unseen(), unseen, "{what}");
        // Read again, unchanged: it stays so.
        let again = load(root.path(), Some(&loaded));
        assert!(again.is_same_as(&loaded) && again.has_unseen() == unseen, "{what}");
        if expected.is_some() {
            assert_eq!(loaded.files(Kind::AuthorizationPolicy), [(&key, "sub/a.yaml")].into(), "{what}");
        }
        // Repaired.
        write(root.path(), "sub/a.yaml", POD);
        let repaired = load(root.path(), Some(&loaded));
        assert!(!repaired.has_unseen() && repaired.objects.authorization_policies.is_empty(), "{what}");
        // What breaks later hides nothing that was not seen.
        write(root.path(), "sub/a.yaml", "kind: [");
        let broken = load(root.path(), Some(&repaired));
        assert!(!broken.has_unseen() && broken.objects.pods.len() == 1, "{what}");
    }

    // Never valid: remembered as it was written.
    let mut bad = deny("1");
    bad["rules"] = json!([]);
    let before = Loaded::remembered(&[Remembered { file: "a.yaml".to_owned(), object: bad.clone() }]);
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a.yaml", "kind: [");
    let loaded = load(root.path(), Some(&before));
    assert_eq!(loaded.rejected.iter().map(|(key, value)| (key, value.as_ref())).collect::<Vec<_>>(), [(&key, &bad)]);
    assert_eq!(loaded.files(Kind::AuthorizationPolicy), [(&key, "a.yaml")].into());

    let missing = load(&root.path().join("missing"), Some(&before));
    assert!(missing.is_never_read() && missing.has_unseen() && missing.rejected.len() == 1);
    write(root.path(), "a.yaml", POD);
    assert!(!load(root.path(), Some(&missing)).has_unseen());
    let remembered = Loaded::remembered(&[Remembered { file: "a.yaml".to_owned(), object: deny("1") }]);
    write(root.path(), "a.yaml", "kind: [");
    assert_eq!(watch_from(root.path(), &remembered).borrow().objects.authorization_policies.len(), 1);
}

#[test]
fn fields_of_policies_are_found_in_their_files() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "a.yaml",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: security.istio.io/v1\n  kind: AuthorizationPolicy\n  metadata:\n    \
         name: p\n    annotations: {istio.io/dry-run: maybe}\n  spec:\n    rules:\n    - to:\n      - operation:\n          ports:\n          \
         - \"80\"\n          - eighty\n      when: [{key: colour}]\n",
    );
    write(root.path(), "pod.yaml", POD);
    let loaded = load(root.path(), None);
    assert_eq!(loaded.errors, []);
    let policy = ObjectKey::new(Kind::AuthorizationPolicy, "default", "p");
    let rows = [
        ("spec.rules[0].to[0].operation.ports[1]", 15, 13),
        ("spec.rules[0].to[0].operation.ports", 13, 11),
        ("spec.rules[0].when[0].key", 16, 15),
        ("metadata.annotations[istio.io/dry-run]", 8, 19),
        ("metadata.annotations[\"istio.io/dry-run\"]", 8, 19),
        // The nearest that is there.
        ("spec.rules[0].from[3].source", 11, 7),
        ("spec.rules[7]", 10, 5),
        ("", 4, 3),
        ("spec.[[", 9, 3),
    ];
    for (field, line, column) in rows {
        let found = loaded.locate(&policy, field).unwrap();
        assert_eq!((found.file.as_str(), found.line, found.column), ("a.yaml", Some(line), Some(column)), "{field}");
    }
    let pod = loaded.locate(&ObjectKey::pod("shop", "web"), "spec.hostNetwork").unwrap();
    assert_eq!(pod.to_string(), "pod.yaml:4:3", "of others only the name is known");
    assert_eq!(loaded.locate(&ObjectKey::pod("shop", "other"), ""), None);

    // In error: the source knows where. Kept: the lines of the text before mean nothing any more.
    write(root.path(), "pod.yaml", &DENY.replace("namespaces", "namespace"));
    write(root.path(), "a.yaml", "kind: [");
    let loaded = load(root.path(), Some(&loaded));
    let deny = ObjectKey::new(Kind::AuthorizationPolicy, "shop", "deny");
    assert_eq!(loaded.locate(&deny, "").unwrap().to_string(), "pod.yaml:11:9");
    assert_eq!(loaded.locate(&policy, "spec.rules[0]").unwrap().to_string(), "a.yaml");
}

/// Waits until `condition` holds of what is watched; the limit only ends a test that has failed already.
async fn until(
    receiver: &mut tokio::sync::watch::Receiver<std::sync::Arc<Loaded>>,
    condition: impl Fn(&Loaded) -> bool,
) {
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, receiver.wait_for(|loaded| condition(loaded))).await.expect("never happened").unwrap();
}

#[tokio::test]
async fn watch_follows_files_renames_and_directories() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("manifests");
    let mut receiver = watch(&root);
    assert_eq!(receiver.borrow().errors.len(), 1, "the root is missing");

    write(&root, "a.yaml", POD);
    until(&mut receiver, |loaded| loaded.objects.pods.len() == 1 && loaded.errors.is_empty()).await;

    // As editors do: a temporary file, then a rename over the old one.
    write(&root, ".a.yaml.swp", &POD.replace("app: web", "app: edited"));
    fs::rename(root.join(".a.yaml.swp"), root.join("a.yaml")).unwrap();
    let edited = |loaded: &Loaded| loaded.objects.pods.values().any(|pod| pod.label("app") == Some("edited"));
    until(&mut receiver, edited).await;

    // A whole directory arrives at once, changes, moves, goes.
    write(parent.path(), "staged/b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n");
    fs::rename(parent.path().join("staged"), root.join("sub")).unwrap();
    until(&mut receiver, |loaded| loaded.objects.namespaces.len() == 1).await;
    write(&root, "sub/c.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: c}\n");
    until(&mut receiver, |loaded| loaded.objects.namespaces.len() == 2).await;
    fs::rename(root.join("sub"), root.join("renamed")).unwrap();
    write(&root, "renamed/d.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: d}\n");
    until(&mut receiver, |loaded| loaded.objects.namespaces.len() == 3).await;
    fs::remove_dir_all(root.join("renamed")).unwrap();
    until(&mut receiver, |loaded| loaded.objects.namespaces.is_empty()).await;

    let pod = ObjectKey::pod("shop", "web");
    Writer::new(&root, "lab").unwrap().write(&pod, json!({"metadata": {"uid": "u1"}})).unwrap();
    until(&mut receiver, |loaded| loaded.objects.pods.values().any(|pod| pod.uid().is_some())).await;

    // Another directory takes the place of the root.
    fs::rename(&root, parent.path().join("old")).unwrap();
    write(&root, "z.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: z}\n");
    until(&mut receiver, |loaded| loaded.objects.pods.is_empty() && loaded.objects.namespaces.len() == 1).await;
}

#[test]
fn the_words_of_one_owner_can_be_left_out() {
    let root = tempfile::tempdir().unwrap();
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, spec: {containers: []}}";
    std::fs::write(root.path().join("pod.yaml"), pod).unwrap();
    let say = |owner: &str, key: &str| {
        let writer = super::super::status::Writer::new(root.path(), owner).unwrap();
        let said = serde_json::json!({"metadata": {"annotations": {key: "said"}}});
        writer.write(&ObjectKey::pod("shop", "web"), said).unwrap();
    };
    let (first, second) = ("first.istio.io/a", "second.istio.io/b");
    say("own", first);
    say("other", second);
    let said = |loaded: &Loaded| {
        let pod = loaded.objects.pods.get(&ObjectKey::pod("shop", "web")).unwrap();
        [first, second].map(|key| pod.annotation(key).is_some())
    };
    assert_eq!(said(&load(root.path(), None)), [true, true]);
    let watched = super::watch_for_node(root.path(), "own");
    assert_eq!(said(&watched.borrow()), [false, true]);
}
