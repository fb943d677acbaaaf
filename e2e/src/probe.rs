//! Readiness probes of containers, made from the node as the kubelet makes them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::http;
use crate::sandbox::Sandbox;
use crate::services::container_port;

/// Time a probe gets unless it says otherwise; Kubernetes' default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest pause between probes: the lab is for watching changes, so the ten seconds of Kubernetes are too long.
const MAX_PERIOD: Duration = Duration::from_secs(1);
/// Pause until the first success.
pub(crate) const STARTING_PERIOD: Duration = Duration::from_millis(100);

/// How readiness of one container is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    how: How,
    address: SocketAddr,
    timeout: Duration,
    pub(crate) period: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    Connect,
    Get(String),
}

impl Probe {
    /// The probe a container declares; `None` when it declares none, or one of a kind the lab does not make.
    pub(crate) fn of(pod: &Pod, container: &Container, address: IpAddr) -> Option<Self> {
        let declared = container.readiness_probe.as_ref()?;
        let (how, port) = if let Some(get) = &declared.http_get {
            (How::Get(get.path.clone().unwrap_or_else(|| "/".to_owned())), &get.port)
        } else {
            (How::Connect, &declared.tcp_socket.as_ref()?.port)
        };
        let port = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => container_port(pod, name)?,
        };
        let seconds = |value: Option<i32>| {
            value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).map(Duration::from_secs)
        };
        Some(Self {
            how,
            address: SocketAddr::new(address, u16::try_from(port).ok()?),
            timeout: seconds(declared.timeout_seconds).unwrap_or(DEFAULT_TIMEOUT),
            period: seconds(declared.period_seconds).unwrap_or(MAX_PERIOD).min(MAX_PERIOD),
        })
    }

    /// Makes the probe from `node`; the reason when it fails.
    pub(crate) async fn check(&self, node: &Sandbox) -> Result<(), String> {
        let work = async {
            let stream = http::connect(node, None, self.address).await.map_err(|error| error.to_string())?;
            let How::Get(path) = &self.how else { return Ok(()) };
            let answer = http::get(stream, &self.address.to_string(), path).await.map_err(|error| error.to_string())?;
            // Any status from 200 to 399 counts as ready in Kubernetes.
            if (200..400).contains(&answer.status) { Ok(()) } else { Err(format!("{path} answered {}", answer.status)) }
        };
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer from {} within {:?}", self.address, self.timeout)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn probes_find_named_ports_and_are_frequent() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{
            "name": "c", "ports": [{"name": "web", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"port": "web", "path": "/ok"}, "periodSeconds": 10, "timeoutSeconds": 3}}]}}))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let probe = Probe::of(&pod, container, "10.101.0.2".parse().unwrap()).unwrap();
        assert_eq!(probe.address.to_string(), "10.101.0.2:8080");
        assert_eq!(probe.how, How::Get("/ok".to_owned()));
        assert_eq!((probe.timeout, probe.period), (Duration::from_secs(3), MAX_PERIOD));
    }
}
