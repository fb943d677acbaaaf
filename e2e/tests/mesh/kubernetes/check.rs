//! What `fairway check` finds of an API server.

use std::path::Path;

use super::super::check::{found, well};
use super::{cluster, kubectl};

const KIND: &str = "ratelimits";

#[test]
fn a_kind_that_is_not_defined_is_found_and_defined_again() {
    let Some(lab) = cluster("defined", true) else { return };
    well(&lab);
    kubectl(&lab, &["delete", "crd", &format!("{KIND}.fairway.dev")]);
    let hint = found(&lab, "kinds-defined");
    assert!(hint.contains("kubectl create -f"), "{hint}");
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("manifests");
    let folders = [manifests.join("chart/crds"), manifests.join("crds")];
    let definition = folders.map(|folder| folder.join(format!("{KIND}.yaml"))).into_iter().find(|file| file.is_file());
    kubectl(&lab, &["create", "-f", &definition.unwrap().to_string_lossy()]);
    well(&lab);
}
