//! A large made-up mesh, as an API server tells of it.

use serde_json::{Value, json};

/// Services of one namespace.
const SERVICES_PER_NAMESPACE: u32 = 20;
/// Pods of one node.
const PODS_PER_NODE: u32 = 100;
/// Where the addresses of pods and of services begin.
const PODS: u32 = u32::from_be_bytes([10, 128, 0, 0]);
const SERVICES: u32 = u32::from_be_bytes([10, 64, 0, 0]);

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mesh {
    pub(super) services: u32,
    pub(super) pods: u32,
    pub(super) policies: u32,
    pub(super) routes: u32,
}

fn namespace(app: u32) -> String {
    format!("team-{}", app / SERVICES_PER_NAMESPACE)
}

fn address(first: u32, number: u32) -> String {
    std::net::Ipv4Addr::from_bits(first + number).to_string()
}

fn metadata(namespace: Option<&str>, name: &str, labels: Value) -> Value {
    json!({"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels})
}

impl Mesh {
    /// Resources that a node proxy is sent: workloads, services and policies.
    pub(super) fn resources(self) -> usize {
        usize::try_from(self.pods + self.services + self.policies).unwrap_or(usize::MAX)
    }

    /// How many objects of a kind there are.
    pub(super) fn count(self, plural: &str) -> u32 {
        match plural {
            "namespaces" => self.services.div_ceil(SERVICES_PER_NAMESPACE),
            "nodes" => self.pods.div_ceil(PODS_PER_NODE),
            "pods" => self.pods,
            "services" | "endpointslices" | "serviceaccounts" => self.services,
            "authorizationpolicies" => self.policies,
            "httproutes" => self.routes,
            _ => 0,
        }
    }

    /// One object of a kind.
    pub(super) fn object(self, plural: &str, number: u32) -> Value {
        match plural {
            "namespaces" => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata(None, &format!("team-{number}"), json!({"istio.io/dataplane-mode": "ambient"}))}),
            "nodes" => {
                let labels = json!({"topology.kubernetes.io/region": "region-1",
                    "topology.kubernetes.io/zone": format!("zone-{}", number % 3)});
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata(None, &format!("node-{number}"), labels)})
            }
            "serviceaccounts" => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata(Some(&namespace(number)), &format!("app-{number}"), json!({}))}),
            "pods" => self.pod(number, "v1"),
            "services" => json!({"kind": "Service", "apiVersion": "v1",
                "metadata": metadata(Some(&namespace(number)), &format!("app-{number}"), json!({"app": format!("app-{number}")})),
                "spec": {"type": "ClusterIP", "clusterIP": address(SERVICES, number), "clusterIPs": [address(SERVICES, number)],
                    "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
                    "selector": {"app": format!("app-{number}")}, "sessionAffinity": "None",
                    "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
                "status": {"loadBalancer": {}}}),
            "endpointslices" => {
                let members: Vec<u32> = (number..self.pods).step_by(self.apps()).collect();
                self.slice(number, &format!("app-{number}-x7k2p"), &members)
            }
            "authorizationpolicies" => {
                let principals =
                    [number + 1, number + 2].map(|app| format!("cluster.local/ns/{}/sa/app-{app}", namespace(app)));
                json!({"kind": "AuthorizationPolicy", "apiVersion": "security.istio.io/v1",
                    "metadata": metadata(Some(&namespace(number)), &format!("policy-{number}"), json!({})),
                    "spec": {"selector": {"matchLabels": {"app": format!("app-{number}")}}, "action": "ALLOW",
                        "rules": [{"from": [{"source": {"principals": principals}}], "to": [{"operation": {"ports": ["8080"]}}]}]}})
            }
            _ => {
                let parent = json!({"group": "", "kind": "Service", "name": format!("app-{number}"), "port": 80});
                json!({"kind": "HTTPRoute", "apiVersion": "gateway.networking.k8s.io/v1",
                    "metadata": metadata(Some(&namespace(number)), &format!("route-{number}"), json!({})),
                    "spec": {"parentRefs": [parent], "rules": [
                        {"matches": [{"path": {"type": "PathPrefix", "value": "/v2"}}],
                         "backendRefs": [{"name": format!("app-{number}"), "port": 80}]},
                        {"backendRefs": [{"name": format!("app-{number}"), "port": 80}]}]}})
            }
        }
    }

    fn apps(self) -> usize {
        usize::try_from(self.services.max(1)).unwrap_or(1)
    }

    fn name(self, number: u32) -> String {
        format!("app-{}-6c8b4d7f9-{number:06}", number % self.services.max(1))
    }

    /// The key of a pod in workload discovery.
    pub(super) fn uid(self, number: u32) -> String {
        format!("Kubernetes//Pod/{}/{}", namespace(number % self.services.max(1)), self.name(number))
    }

    /// A pod about as long as an API server sends them, of which most is for its kubelet.
    pub(super) fn pod(self, number: u32, version: &str) -> Value {
        let app = number % self.services.max(1);
        let node = format!("node-{}", number / PODS_PER_NODE);
        let mut metadata = metadata(
            Some(&namespace(app)),
            &self.name(number),
            json!({"app": format!("app-{app}"), "version": version, "pod-template-hash": "6c8b4d7f9", "team": namespace(app)}),
        );
        metadata["annotations"] = json!({"ambient.istio.io/redirection": "enabled",
            "kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z"});
        metadata["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("app-{app}-6c8b4d7f9"),
            "uid": "11111111-2222-3333-4444-555555555555", "controller": true, "blockOwnerDeletion": true}]);
        metadata["managedFields"] = json!([{"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "subresource": "status",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}}},
            "f:containerStatuses": {}, "f:hostIP": {}, "f:phase": {}, "f:podIP": {}, "f:podIPs": {}, "f:startTime": {}}}}]);
        let condition =
            |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"});
        let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata,
            "spec": {"nodeName": node, "serviceAccountName": format!("app-{app}"), "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30,
                "containers": [{"name": "app", "image": "registry.example/shop/app:1.2.3", "imagePullPolicy": "IfNotPresent",
                    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                    "env": [{"name": "LEVEL", "value": "info"}, {"name": "ZONE", "value": "a"}],
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10},
                    "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]}],
                "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
            "status": {"phase": "Running", "podIP": address(PODS, number), "podIPs": [{"ip": address(PODS, number)}],
                "hostIP": "172.16.0.1", "startTime": "2026-01-01T00:00:00Z", "qosClass": "Burstable",
                "conditions": conditions,
                "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": "registry.example/shop/app:1.2.3",
                    "imageID": "registry.example/shop/app@sha256:0123456789abcdef", "state": {"running": {"startedAt": "2026-01-01T00:00:05Z"}}}]}})
    }

    /// A slice of a service with these pods.
    pub(super) fn slice(self, app: u32, name: &str, members: &[u32]) -> Value {
        let endpoints = members.iter().map(|number| {
            json!({"addresses": [address(PODS, *number)], "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", number / PODS_PER_NODE), "zone": "zone-1",
                "targetRef": {"kind": "Pod", "namespace": namespace(app), "name": self.name(*number), "uid": "u"}})
        });
        json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
            "metadata": metadata(Some(&namespace(app)), name, json!({"kubernetes.io/service-name": format!("app-{app}")})),
            "endpoints": endpoints.collect::<Vec<_>>(), "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
    }
}
