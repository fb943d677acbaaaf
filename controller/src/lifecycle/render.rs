//! What a waypoint Gateway becomes: account, service and deployment, and what its annotations ask for beside them; pure.

use std::collections::BTreeMap;

use fairway_core::config::read_limits;
use fairway_core::limits;
use fairway_core::source::gateway::Gateway;
use fairway_core::source::labels::{DATAPLANE_MODE, NONE, WAYPOINT_CLASS};
use fairway_core::source::objects::annotation;
use serde_json::{Value, json};

/// Who a GatewayClass says makes its gateways.
pub const CONTROLLER_NAME: &str = "fairway.dev/waypoint-controller";
/// Label that names the gateway on all that is made of it.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Label that names its class.
pub const GATEWAY_CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";
/// Annotation of a gateway: how many pods.
pub const REPLICAS: &str = "fairway.dev/replicas";
/// Annotation of a gateway: fewest and most pods, such as `2-5`; how many there are is then decided by their load.
pub const AUTOSCALE: &str = "fairway.dev/autoscale";
/// Annotation of a gateway: pods that must stay while nodes are drained, such as `1` or `50%`.
pub const DISRUPTION: &str = "fairway.dev/min-available";
/// Annotation of a gateway: Secrets of its namespace that its pods have as files, such as `db-client, broker`.
pub const SECRETS: &str = "fairway.dev/secrets";
/// Annotation of a gateway: bounds of its pods by their variables, such as `STREAM_IDLE=5m, SECRET_TTL=1h`.
pub const LIMITS: &str = "fairway.dev/limits";
/// Where Secrets are, each in a directory of its name.
const SECRETS_DIRECTORY: &str = "/etc/fairway/secrets";
/// Most of them: a pod has a volume of each.
const MAXIMUM_SECRETS: usize = 16;
/// Longest name of a Secret (RFC 1123 §2.1).
const MAXIMUM_SECRET_NAME: usize = 253;
/// Most pods of a waypoint: beyond it, the number is a mistake.
const MAXIMUM_REPLICAS: u32 = 1000;
/// Load of the pods' CPU requests, in percent, that an autoscaler aims at.
const TARGET_LOAD: u32 = 80;
/// Longest name of a Service (RFC 1035 §2.3.4).
const MAXIMUM_NAME: usize = 63;
/// What takes tunnels.
const PROTOCOL: &str = "HBONE";
/// Where waypoints take tunnels.
const TUNNEL_PORT: u16 = 15008;
/// Where they say whether they are ready.
const STATUS_PORT: u16 = 15021;
/// Where they show metrics.
const METRICS_PORT: u16 = 15020;
/// How long a pod may take to let its connections go.
const GRACE_SECONDS: u32 = 60;
/// Lifetime of the token with which a waypoint asks for its certificate; renewed long before.
const TOKEN_SECONDS: u32 = 43_200;
/// User that waypoints run as, like Istio's proxies.
const USER: u32 = 1337;

/// What is the same for all waypoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaypointSettings {
    /// The image that pods run.
    pub image: String,
    /// CPU that a pod asks for.
    pub cpu: String,
    /// Memory that a pod asks for, and is limited to.
    pub memory: String,
    /// Where waypoints find the controller.
    pub controller: String,
    /// Config map of every namespace that holds the mesh's root in `root-cert.pem`; it may be missing.
    pub root_config_map: String,
    /// Audience of tokens.
    pub token_audience: String,
    /// DNS suffix of services.
    pub cluster_domain: String,
    /// Name of this cluster.
    pub cluster_id: String,
}

/// A kind of object that a waypoint consists of, in the order they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Who its pods are.
    ServiceAccount,
    /// Its address.
    Service,
    /// Its pods.
    Deployment,
    /// How many of them.
    HorizontalPodAutoscaler,
    /// How many of them must stay.
    PodDisruptionBudget,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ServiceAccount,
        Self::Service,
        Self::Deployment,
        Self::HorizontalPodAutoscaler,
        Self::PodDisruptionBudget,
    ];

    /// Group, version, kind and plural, as the API has them.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::HorizontalPodAutoscaler => {
                ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            }
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
        }
    }

    /// The `apiVersion` field.
    #[must_use]
    pub fn api_version(self) -> String {
        let (group, version, ..) = self.names();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }
}

/// Why a gateway cannot be made a waypoint of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Fault {
    /// The field.
    pub field: String,
    /// What is wrong, and what to do.
    pub message: String,
}

fn fault<T>(field: impl Into<String>, message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { field: field.into(), message: message.into() })
}

/// What a gateway's annotations ask for.
#[derive(Debug, PartialEq, Eq)]
struct Wishes {
    replicas: u32,
    autoscale: Option<(u32, u32)>,
    min_available: Option<Value>,
    /// Names of Secrets.
    secrets: Vec<String>,
    /// Values of limits, by variable.
    limits: BTreeMap<String, String>,
}

/// The objects of a waypoint. A part that is not among them should not exist.
///
/// # Errors
/// When the gateway asks for what no waypoint can be.
pub fn render(gateway: &Gateway, settings: &WaypointSettings) -> Result<BTreeMap<Part, Value>, Fault> {
    let name = gateway.metadata.name.as_deref().unwrap_or_default();
    let is_label = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    if name.len() > MAXIMUM_NAME || !name.starts_with(|it: char| it.is_ascii_lowercase()) || !name.chars().all(is_label)
    {
        return fault(
            "metadata.name",
            format!(
                "a waypoint's Service has this name, so it must be at most {MAXIMUM_NAME} lower-case letters, digits and '-', from a letter on"
            ),
        );
    }
    check_listeners(gateway)?;
    let wishes = wishes(gateway)?;
    let mut objects = BTreeMap::from([
        (Part::ServiceAccount, json!({"automountServiceAccountToken": false})),
        (Part::Service, json!({"spec": service(name)})),
        (Part::Deployment, json!({"spec": deployment(gateway, name, settings, &wishes)})),
    ]);
    if let Some((least, most)) = wishes.autoscale {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name});
        let load = json!({"type": "Utilization", "averageUtilization": TARGET_LOAD});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": load}});
        let spec = json!({"scaleTargetRef": target, "minReplicas": least, "maxReplicas": most, "metrics": [metric]});
        objects.insert(Part::HorizontalPodAutoscaler, json!({"spec": spec}));
    }
    if let Some(least) = &wishes.min_available {
        let spec = json!({"minAvailable": least, "selector": {"matchLabels": {GATEWAY_NAME: name}}});
        objects.insert(Part::PodDisruptionBudget, json!({"spec": spec}));
    }
    for (part, object) in &mut objects {
        complete(*part, object, gateway, name);
    }
    Ok(objects)
}

fn check_listeners(gateway: &Gateway) -> Result<(), Fault> {
    let listeners = &gateway.spec.listeners;
    for (index, listener) in listeners.iter().enumerate() {
        if listener.protocol != PROTOCOL || listener.port != TUNNEL_PORT {
            return fault(
                format!("spec.listeners[{index}]"),
                format!("waypoints take {PROTOCOL} on port {TUNNEL_PORT} and nothing else"),
            );
        }
    }
    if listeners.is_empty() {
        return fault("spec.listeners", format!("must have one of protocol {PROTOCOL} on port {TUNNEL_PORT}"));
    }
    Ok(())
}

fn wishes(gateway: &Gateway) -> Result<Wishes, Fault> {
    let said = |name: &str| annotation(&gateway.metadata, name);
    let field = |name: &str| format!("metadata.annotations[{name}]");
    let count = |text: &str| text.trim().parse::<u32>().ok().filter(|count| (1..=MAXIMUM_REPLICAS).contains(count));
    let range = format!("from 1 to {MAXIMUM_REPLICAS}");
    let replicas = match said(REPLICAS).map(count) {
        None => 1,
        Some(Some(count)) => count,
        Some(None) => return fault(field(REPLICAS), format!("must be a number {range}")),
    };
    let autoscale = match said(AUTOSCALE) {
        None => None,
        Some(text) => match text.split_once('-').map(|(least, most)| (count(least), count(most))) {
            Some((Some(least), Some(most))) if least <= most => Some((least, most)),
            _ => return fault(field(AUTOSCALE), format!("must be the fewest and the most pods, {range}, such as 2-5")),
        },
    };
    let min_available = match said(DISRUPTION) {
        None => None,
        Some(text) => {
            let share = text.strip_suffix('%').and_then(|share| share.parse::<u8>().ok()).filter(|share| *share <= 100);
            match (share, count(text)) {
                (Some(_), _) => Some(json!(text)),
                (None, Some(count)) => Some(json!(count)),
                (None, None) => {
                    return fault(field(DISRUPTION), "must be a number of pods or a share, such as 1 or 50%");
                }
            }
        }
    };
    let secrets = match said(SECRETS).map(secrets) {
        None => Vec::new(),
        Some(Some(secrets)) => secrets,
        Some(None) => {
            return fault(
                field(SECRETS),
                format!("must be up to {MAXIMUM_SECRETS} names of Secrets, such as db-client, broker"),
            );
        }
    };
    let limits = said(LIMITS).map_or_else(|| Ok(BTreeMap::new()), limits);
    let limits = limits.or_else(|message| fault(field(LIMITS), message))?;
    Ok(Wishes { replicas, autoscale, min_available, secrets, limits })
}

/// Limits that are set, each once. What a waypoint could not start with is refused here, where its owner is told.
fn limits(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut set = BTreeMap::new();
    for one in text.split(',').map(str::trim) {
        let pair = one.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        let Some((name, value)) = pair.filter(|(_, value)| !value.is_empty()) else {
            return Err(format!("{one:?} is not a limit and its value, such as STREAM_IDLE=5m"));
        };
        if !limits::ALL.iter().any(|limit| limit.variable == Some(name)) {
            return Err(format!("{name:?} sets no limit; docs/reference/limits.md has the variables that do"));
        }
        if set.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(format!("{name} is set twice"));
        }
    }
    // Where two contradict each other, it is about no single value.
    read_limits(&set).map_err(|error| if error.value.is_empty() { error.problem } else { error.to_string() })?;
    Ok(set)
}

/// Names of Secrets, each once.
fn secrets(text: &str) -> Option<Vec<String>> {
    let is_end = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
    let is_name = |name: &str| {
        let is_known = |character: char| is_end(character) || character == '-' || character == '.';
        // Two dots would lead out of the directory.
        let is_sound = name.chars().all(is_known) && !name.contains("..");
        is_sound && name.len() <= MAXIMUM_SECRET_NAME && name.starts_with(is_end) && name.ends_with(is_end)
    };
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        if !is_name(name) {
            return None;
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    (names.len() <= MAXIMUM_SECRETS).then_some(names)
}

/// What all parts have in common: who they belong to, and how they are found.
fn complete(part: Part, object: &mut Value, gateway: &Gateway, name: &str) {
    let metadata = &gateway.metadata;
    let mut labels = gateway.spec.infrastructure.labels.clone();
    labels.extend([
        (GATEWAY_NAME.to_owned(), name.to_owned()),
        (GATEWAY_CLASS.to_owned(), WAYPOINT_CLASS.to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), "fairway-controller".to_owned()),
    ]);
    // Without blockOwnerDeletion, which would take the right to change the gateway's finalizers.
    let owner = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": name,
        "uid": metadata.uid, "controller": true});
    object["apiVersion"] = json!(part.api_version());
    object["kind"] = json!(part.names().2);
    object["metadata"] = json!({"name": name, "namespace": metadata.namespace, "labels": labels,
        "annotations": gateway.spec.infrastructure.annotations, "ownerReferences": [owner]});
}

fn service(name: &str) -> Value {
    json!({
        "type": "ClusterIP",
        "ipFamilyPolicy": "PreferDualStack",
        "selector": {GATEWAY_NAME: name},
        "ports": [
            {"name": "mesh", "port": TUNNEL_PORT, "protocol": "TCP", "targetPort": TUNNEL_PORT, "appProtocol": "hbone"},
            {"name": "status", "port": STATUS_PORT, "protocol": "TCP", "targetPort": STATUS_PORT},
        ],
    })
}

fn deployment(gateway: &Gateway, name: &str, settings: &WaypointSettings, wishes: &Wishes) -> Value {
    let own = json!({GATEWAY_NAME: name});
    let token = json!({"serviceAccountToken": {
        "audience": settings.token_audience, "expirationSeconds": TOKEN_SECONDS, "path": "token"}});
    let mut volumes = vec![
        json!({"name": "token", "projected": {"sources": [token]}}),
        json!({"name": "trust", "configMap": {"name": settings.root_config_map, "optional": true}}),
    ];
    // Without one of them the waypoint does all the same what does not need it, and takes it up when it comes.
    volumes.extend(wishes.secrets.iter().enumerate().map(|(index, secret)| {
        json!({"name": format!("secret-{index}"), "secret": {"secretName": secret, "optional": true}})
    }));
    let mut labels = gateway.spec.infrastructure.labels.clone();
    // A waypoint's own pods are not captured: they speak for themselves.
    labels.extend([(GATEWAY_NAME.to_owned(), name.to_owned()), (DATAPLANE_MODE.to_owned(), NONE.to_owned())]);
    let mut spec = json!({
        "selector": {"matchLabels": own},
        "template": {
            "metadata": {"labels": labels, "annotations": gateway.spec.infrastructure.annotations},
            "spec": {
                "serviceAccountName": name,
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                // Pods of one waypoint should not all go with one node.
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": own}}],
                "containers": [container(gateway, name, settings, wishes)],
                "volumes": volumes,
            },
        },
    });
    // How many there are is for the autoscaler to say where there is one.
    if wishes.autoscale.is_none() {
        spec["replicas"] = json!(wishes.replicas);
    }
    spec
}

fn container(gateway: &Gateway, name: &str, settings: &WaypointSettings, wishes: &Wishes) -> Value {
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let mut mounts =
        vec![mount("token", "/var/run/secrets/fairway/token"), mount("trust", "/var/run/secrets/fairway/trust")];
    mounts.extend(
        wishes
            .secrets
            .iter()
            .enumerate()
            .map(|(index, secret)| mount(&format!("secret-{index}"), &format!("{SECRETS_DIRECTORY}/{secret}"))),
    );
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    let root = "/var/run/secrets/fairway/trust/root-cert.pem";
    let mut environment = vec![
        variable("XDS_ADDRESS", &settings.controller),
        variable("CA_ADDRESS", &settings.controller),
        variable("XDS_ROOT_CA", root),
        variable("CA_ROOT_CA", root),
        variable("AUTH_TOKEN", "/var/run/secrets/fairway/token/token"),
        variable("CLUSTER_ID", &settings.cluster_id),
        variable("GATEWAY_NAME", name),
        variable("SERVICE_ACCOUNT", name),
        variable("POD_NAMESPACE", gateway.metadata.namespace.as_deref().unwrap_or_default()),
        json!({"name": "POD_NAME", "valueFrom": field("metadata.name")}),
        json!({"name": "NODE_NAME", "valueFrom": field("spec.nodeName")}),
        json!({"name": "INSTANCE_IP", "valueFrom": field("status.podIP")}),
    ];
    environment.extend(wishes.limits.iter().map(|(name, value)| variable(name, value)));
    json!({
        "name": "waypoint",
        "image": settings.image,
        "ports": [
            {"name": "mesh", "containerPort": TUNNEL_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
            {"name": "status", "containerPort": STATUS_PORT, "protocol": "TCP"},
        ],
        "env": environment,
        "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": STATUS_PORT, "scheme": "HTTP"}},
        "resources": {
            "requests": {"cpu": settings.cpu, "memory": settings.memory},
            "limits": {"memory": settings.memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
            "runAsNonRoot": true, "runAsUser": USER, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": mounts,
    })
}
