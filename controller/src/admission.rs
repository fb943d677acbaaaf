//! Says at apply time what conditions would say later: an object is put into the state that there is, everything is decided as
//! for any other state, and what the conditions would say is the answer. Nothing comes of it otherwise.

pub mod bundle;
pub mod server;

use std::sync::Arc;

use fairway_core::source::admission::Review;

use crate::state::Published;
use crate::status::findings::{self, Findings};
use crate::translate::Settings;

/// What is said while nothing is known.
const NOT_READY: &str = "not checked by the mesh: its controller has not read all objects yet";

/// What is to be said of what somebody applies.
#[must_use]
pub fn judge(published: &Published, settings: &Settings, review: &Review) -> Findings {
    let Some((key, written)) = &review.object else { return Findings::default() };
    if published.world.generation == 0 {
        return Findings { refusal: None, notes: vec![NOT_READY.to_owned()] };
    }
    let with_it = Arc::new(published.loaded.with(key, written));
    // As it is in force.
    let settings = Settings { mesh: published.mesh.clone(), ..settings.clone() };
    let findings = findings::of(&published.next(with_it, &settings), key);
    if review.is_nothing_new { findings.let_through() } else { findings }
}

#[cfg(test)]
mod tests {
    use fairway_core::source::directory::load;
    use fairway_core::source::{Kind, ObjectKey};
    use serde_json::{Value, json};

    use super::*;
    use crate::status;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                           spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";

    fn published(manifests: &str) -> Published {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.yaml"), manifests).unwrap();
        Published::default().next(Arc::new(load(root.path(), None)), &Settings::default())
    }

    fn review(group: &str, kind: Kind, spec: &Value) -> Review {
        let object = json!({"apiVersion": format!("{group}/v1"), "kind": kind.as_str(),
            "metadata": {"name": "it", "namespace": "shop"}, "spec": spec});
        let object = Some((ObjectKey::new(kind, "shop", "it"), object));
        Review { uid: "u".to_owned(), object, is_nothing_new: false }
    }

    fn policy(spec: &Value) -> Review {
        review("security.istio.io", Kind::AuthorizationPolicy, spec)
    }

    fn route(spec: &Value) -> Review {
        review("gateway.networking.k8s.io", Kind::HTTPRoute, spec)
    }

    #[test]
    fn what_can_never_be_in_force_is_refused_and_the_rest_is_told() {
        let state = published(SERVICE);
        let web = || json!({"group": "", "kind": "Service", "name": "web"});
        let extension = || json!([{"filters": [{"type": "ExtensionRef"}]}]);
        for (review, is_refused, words) in [
            (policy(&json!({})), false, ""),
            (policy(&json!({"action": "MAYBE"})), true, "spec.action"),
            (policy(&json!({"rules": [{"to": [{"operation": {"ports": ["http"]}}]}]})), true, "ports[0]"),
            (policy(&json!({"akt": "DENY"})), true, "akt"),
            (policy(&json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]})), false, "methods"),
            (policy(&json!({"targetRefs": [{"group": "", "kind": "Service", "name": "web"}]})), false, "no waypoint"),
            (route(&json!({"parentRefs": [web()]})), false, ""),
            (route(&json!({"parentRefs": [web()], "rules": extension()})), true, "ExtensionRef"),
            // A gateway of somebody else's may know what to do.
            (route(&json!({"parentRefs": [web(), {"name": "edge"}], "rules": extension()})), false, "ExtensionRef"),
            (route(&json!({"parentRefs": [{"name": "edge"}], "rules": extension()})), false, ""),
            // What is not there may come.
            (
                route(&json!({"parentRefs": [web()], "rules": [{"backendRefs": [{"name": "new", "port": 80}]}]})),
                false,
                "new",
            ),
            (route(&json!({"parentRefs": "web"})), true, "spec.parentRefs"),
            // Its finalizers may have to be removed.
            (Review { is_nothing_new: true, ..policy(&json!({"action": "MAYBE"})) }, false, "spec.action"),
            (Review { is_nothing_new: true, ..route(&json!({"parentRefs": "web"})) }, false, "spec.parentRefs"),
            (Review { uid: "u".to_owned(), object: None, is_nothing_new: false }, false, ""),
        ] {
            let findings = judge(&state, &Settings::default(), &review);
            assert_eq!(findings.refusal.is_some(), is_refused, "{findings:?} of {review:?}");
            let said: Vec<String> = findings.notes.into_iter().chain(findings.refusal).collect();
            assert_eq!(said.is_empty(), words.is_empty(), "{said:?} of {review:?}");
            assert!(said.iter().all(|said| said.contains(words)), "{said:?} of {review:?}");
        }
        let nothing_read = Published::default();
        let findings = judge(&nothing_read, &Settings::default(), &policy(&json!({"action": "MAYBE"})));
        assert_eq!((findings.refusal, findings.notes), (None, vec![NOT_READY.to_owned()]));
    }

    #[test]
    fn the_message_is_that_of_the_condition() {
        let spec = json!({"action": "MAYBE"});
        let refusal = judge(&published(SERVICE), &Settings::default(), &policy(&spec)).refusal.unwrap();
        let applied = format!(
            "{SERVICE}---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: it, namespace: shop}}\nspec: {spec}\n"
        );
        let said = status::verdicts(&published(&applied)).into_values().next().unwrap();
        assert_eq!(refusal, said.message);
    }
}
