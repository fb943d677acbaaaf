//! Keeps the mesh's roots in the configuration of the webhook, so that the API server trusts who answers there. The replica that
//! leads writes; the rest of the configuration is its owner's, and where there is none, none is made.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_core::io::drain::Drain;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::api_server::{self, Complaints, is_conflict, resource, unless_gone, within};
use crate::ca::signer::Current;
use crate::status::lease::Leadership;

/// How names of our webhooks end, among those of one configuration.
const OURS: &str = ".fairway.dev";
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// The configuration as it is, and word of changes.
#[derive(Debug, Default)]
struct Seen {
    configuration: Mutex<Option<DynamicObject>>,
    changed: Notify,
}

/// Keeps the bundle of the configuration called `name` while `leads` says so, until the drain starts.
pub async fn run(client: kube::Client, mut leads: Leadership, mut current: Current, name: String, mut drain: Drain) {
    let api: Api<DynamicObject> = Api::all_with(client, &kind());
    let seen = watch(&api, &name);
    let mut complaints = Complaints::new("configuration of the webhook");
    loop {
        let signer = Arc::clone(&current.borrow_and_update());
        let mut is_behind = false;
        let known = seen.configuration.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(mut configuration) = known.filter(|_| leads.may_write())
            && set(&mut configuration.data, &STANDARD.encode(signer.roots_pem()))
        {
            let replaced = within(api.replace(&name, &PostParams::default(), &configuration)).await.map(drop);
            let result = replaced.or_else(|failure| {
                // Who was faster is heard of.
                if is_conflict(&failure) { Ok(()) } else { unless_gone(failure) }
            });
            is_behind = !complaints.note((String::new(), name.clone()), result);
        }
        tokio::select! {
            changed = leads.changed() => if changed.is_err() { return },
            changed = current.changed() => if changed.is_err() { return },
            () = seen.changed.notified() => {}
            () = tokio::time::sleep(RETRY), if is_behind => {}
            _ = drain.started() => return,
        }
    }
}

fn kind() -> ApiResource {
    let plural = "validatingwebhookconfigurations";
    resource("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", plural)
}

/// Puts the bundle where it belongs; whether anything is different now.
fn set(configuration: &mut Value, bundle: &str) -> bool {
    let webhooks = configuration.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten();
    let is_ours =
        |webhook: &Value| webhook.get("name").and_then(Value::as_str).is_some_and(|name| name.ends_with(OURS));
    let mut is_new = false;
    for webhook in webhooks.filter(|webhook| is_ours(webhook)) {
        let Some(client) = webhook.get_mut("clientConfig").and_then(Value::as_object_mut) else { continue };
        let wanted = json!(bundle);
        is_new |= client.insert("caBundle".to_owned(), wanted.clone()) != Some(wanted);
    }
    is_new
}

fn watch(api: &Api<DynamicObject>, name: &str) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let weak = Arc::downgrade(&seen);
    // By name, so that a role can be for this name alone.
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let api = api.clone();
    let mut listed = None;
    tokio::spawn(async move {
        api_server::follow(api, config, "the configuration of the webhook", move |event| {
            let Some(seen) = weak.upgrade() else { return ControlFlow::Break(()) };
            let now = match event {
                Event::Init => {
                    listed = None;
                    return ControlFlow::Continue(());
                }
                Event::InitApply(configuration) => {
                    listed = Some(configuration);
                    return ControlFlow::Continue(());
                }
                Event::InitDone => listed.take(),
                Event::Apply(configuration) => Some(configuration),
                Event::Delete(_) => None,
            };
            *seen.configuration.lock().unwrap_or_else(PoisonError::into_inner) = now;
            seen.changed.notify_one();
            ControlFlow::Continue(())
        })
        .await;
    });
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_of_our_webhooks_is_kept_and_nothing_else() {
        let mut configuration = json!({"webhooks": [
            {"name": "validate.fairway.dev", "clientConfig": {"service": {"name": "it"}, "caBundle": "old"}},
            {"name": "validate.example.org", "clientConfig": {"caBundle": "theirs"}},
            {"name": "bare.fairway.dev"},
        ]});
        assert!(set(&mut configuration, "new"));
        assert_eq!(configuration["webhooks"][0]["clientConfig"], json!({"service": {"name": "it"}, "caBundle": "new"}));
        assert_eq!(configuration["webhooks"][1]["clientConfig"]["caBundle"], "theirs");
        assert!(!set(&mut configuration, "new"));
        assert!(!set(&mut json!({}), "new"));
    }
}
