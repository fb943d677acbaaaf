//! Where what is in volumes comes from: the API server, or in a lab without one the lab itself.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fairway_core::source::objects::service_account_name;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccountTokenProjection};
use kube::{Api, Client};

use super::{Files, namespace};
use crate::addresses::node_name;
use crate::error::{Doing, Result};
use crate::kubelet::Placement;
use crate::kubernetes::request_token;
use crate::layout::Layout;
use crate::token::{AUDIENCE, Issuer, LIFETIME, Subject};

/// Config map of every namespace with the root of the mesh, the only one in a lab without an API server.
const ROOT: &str = "istio-ca-root-cert";
/// The file in it.
const ROOT_FILE: &str = "root-cert.pem";

/// Where it comes from.
#[derive(Clone)]
pub(crate) enum Supply {
    /// The API server.
    ApiServer(Client),
    /// The lab: it signs tokens, and knows the root of its mesh.
    Lab(Arc<Issuer>),
}

impl Supply {
    /// A token of a pod's service account.
    pub(super) async fn token(
        &self,
        pod: &Pod,
        placement: &Placement,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<String> {
        let account = service_account_name(pod);
        let audience = wanted.audience.as_deref().filter(|audience| !audience.is_empty());
        match self {
            Self::ApiServer(client) => {
                let audiences: Vec<String> = audience.map(str::to_owned).into_iter().collect();
                let seconds = wanted.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
                request_token(client, pod, account, &audiences, seconds.map_or(LIFETIME, Duration::from_secs)).await
            }
            Self::Lab(issuer) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).doing(|| "reading the clock")?.as_secs();
                let subject = Subject {
                    namespace: namespace(pod).to_owned(),
                    service_account: account.to_owned(),
                    service_account_uid: format!("{}-{account}", namespace(pod)),
                    pod: pod.metadata.name.clone().unwrap_or_default(),
                    pod_uid: placement.uid.clone(),
                    node: node_name(placement.node),
                };
                issuer.sign(&subject, audience.unwrap_or(AUDIENCE), now)
            }
        }
    }

    /// What a config map holds; nothing where there is none.
    pub(super) async fn config_map(&self, pod: &Pod, name: &str) -> Result<Option<Files>> {
        match self {
            Self::ApiServer(client) => {
                let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace(pod));
                let map = api.get_opt(name).await.doing(|| format!("reading ConfigMap {}/{name}", namespace(pod)))?;
                let Some(map) = map else { return Ok(None) };
                let texts = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
                let binary = map.binary_data.unwrap_or_default().into_iter();
                Ok(Some(texts.chain(binary.map(|(key, ByteString(bytes))| (key, bytes))).collect()))
            }
            Self::Lab(_) if name == ROOT => {
                // Made by the controller at its first start; until then there is nothing to run with.
                let path = Layout::inside().root_certificate();
                let root = fs::read(&path).doing(|| format!("reading {}", path.display()))?;
                Ok(Some(BTreeMap::from([(ROOT_FILE.to_owned(), root)])))
            }
            Self::Lab(_) => Ok(None),
        }
    }

    /// What a secret holds; nothing where there is none.
    pub(super) async fn secret(&self, pod: &Pod, name: &str) -> Result<Option<Files>> {
        let Self::ApiServer(client) = self else { return Ok(None) };
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace(pod));
        let secret = api.get_opt(name).await.doing(|| format!("reading Secret {}/{name}", namespace(pod)))?;
        let Some(secret) = secret else { return Ok(None) };
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(Some(data.map(|(key, ByteString(bytes))| (key, bytes)).collect()))
    }
}
