//! The authority in a Secret: shared by all replicas, made once, watched for changes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;

use super::material::Files;
use crate::api_server::{self, Failure, is_conflict, within};

/// Which Secret.
#[derive(Clone)]
pub struct Place {
    /// How to reach the API server.
    pub client: kube::Client,
    /// The mesh's own namespace.
    pub namespace: String,
    /// Name of the Secret.
    pub name: String,
}

impl Place {
    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What is in the Secret; nothing where there is none.
    pub(super) async fn read(&self) -> Result<Option<Files>, Failure> {
        Ok(within(self.api().get_opt(&self.name)).await?.map(files))
    }

    /// Makes the Secret with `offer` unless somebody else was faster; says whether it did.
    pub(super) async fn create(&self, offer: &Files) -> Result<bool, Failure> {
        let data: BTreeMap<_, _> = offer.iter().map(|(name, text)| (name.clone(), ByteString(text.clone()))).collect();
        let secret = Secret {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            data: Some(data),
            ..Secret::default()
        };
        match within(self.api().create(&PostParams::default(), &secret)).await {
            Ok(_) => Ok(true),
            Err(failure) if is_conflict(&failure) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// What is in the Secret from now on, until nobody listens; nothing while there is none or it is not known.
    pub(super) fn follow(&self, first: Files) -> watch::Receiver<Option<Files>> {
        let (sender, receiver) = watch::channel(Some(first));
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let (api, name) = (self.api(), self.name.clone());
        let mut listed = None;
        let what = "the secret with the certificate authority";
        tokio::spawn(async move {
            let following = api_server::follow(api, config, what, |event| {
                let is_meant = |secret: &Secret| secret.metadata.name.as_deref() == Some(name.as_str());
                match event {
                    Event::Init => listed = None,
                    Event::InitApply(secret) if is_meant(&secret) => listed = Some(files(secret)),
                    Event::InitDone => drop(sender.send_replace(listed.take())),
                    Event::Apply(secret) if is_meant(&secret) => drop(sender.send_replace(Some(files(secret)))),
                    Event::Delete(secret) if is_meant(&secret) => drop(sender.send_replace(None)),
                    Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
                }
                if sender.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            following.await;
        });
        receiver
    }
}

fn files(secret: Secret) -> Files {
    let data = secret.data.unwrap_or_default().into_iter();
    data.map(|(name, ByteString(content))| (name, content)).collect()
}
