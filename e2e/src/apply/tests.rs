//! Documents accepted and refused, objects added, changed, labelled and removed.

use super::*;

fn lab() -> (tempfile::TempDir, Layout) {
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::at(directory.path().join("lab"));
    fs::create_dir_all(layout.manifests()).unwrap();
    (directory, layout)
}

fn input(text: &str) -> Vec<Input> {
    vec![Input { name: "shop.yaml".to_owned(), text: text.to_owned() }]
}

const GOOD: &str = "# shop\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n";

#[test]
fn a_bad_document_is_named_and_the_others_apply() {
    let (_directory, layout) = lab();
    let bad =
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: client\n  namespace: shop\nspec:\n  containers: 7\n---\n";
    let unknown = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";
    let report = apply(&layout, &input(&format!("{GOOD}{bad}{unknown}"))).unwrap();
    let changes: Vec<String> =
        report.changes.iter().map(|change| format!("{} {}", change.object, change.what)).collect();
    assert_eq!(changes, ["namespace shop created", "deployment default/web created"]);
    assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
    let error = &report.errors[0];
    assert_eq!(
        (error.file.as_str(), error.line, error.field.as_deref()),
        ("shop.yaml", Some(13), Some("spec.containers"))
    );
}

#[test]
fn applying_again_changes_only_what_differs_and_delete_removes() {
    let (_directory, layout) = lab();
    assert_eq!(apply(&layout, &input(GOOD)).unwrap().changes[0].what, "created");
    assert_eq!(apply(&layout, &input(GOOD)).unwrap().changes[0].what, "unchanged");
    assert_eq!(apply(&layout, &input(&GOOD.replace("# shop", "# mine"))).unwrap().changes[0].what, "changed");
    assert_eq!(delete(&layout, &input(GOOD)).unwrap().changes[0].what, "deleted");
    assert_eq!(delete(&layout, &input(GOOD)).unwrap().changes[0].what, "not found");
}

#[test]
fn labels_are_set_and_removed() {
    let (_directory, layout) = lab();
    apply(&layout, &input(GOOD)).unwrap();
    let set = ["istio.io/dataplane-mode=ambient".to_owned(), "a=b".to_owned()];
    assert_eq!(label(&layout, Kind::Namespace, "", "shop", &set).unwrap().what, "labeled");
    label(&layout, Kind::Namespace, "", "shop", &["a-".to_owned()]).unwrap();
    let loaded = directory::load(&layout.manifests(), None);
    assert_eq!(loaded.objects.namespace_label("shop", "istio.io/dataplane-mode"), Some("ambient"));
    assert_eq!(loaded.objects.namespace_label("shop", "a"), None);
    assert!(label(&layout, Kind::Namespace, "", "shop", &["nonsense".to_owned()]).is_err());
    assert!(label(&layout, Kind::Pod, "shop", "none", &set).is_err());
}

#[test]
fn names_cannot_leave_the_manifests() {
    let (_directory, layout) = lab();
    for text in [
        "kind: Pod\nmetadata: {name: ../../x}\n",
        "kind: Thing\napiVersion: a/b\nmetadata: {name: a, namespace: ..}\n",
        "kind: ../x\napiVersion: a/b\nmetadata: {name: a}\n",
    ] {
        let report = apply(&layout, &input(text)).unwrap();
        assert_eq!((report.changes.len(), report.errors.len()), (0, 1), "{text}: {report:?}");
    }
}
