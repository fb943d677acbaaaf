//! Should this pod be in the mesh, and why.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairway_core::source::labels::{DATAPLANE_MODE, HasLabels, NONE};
use fairway_core::source::objects::label;
use fairway_core::source::{MeshPod, ObjectKey};
use k8s_openapi::api::core::v1::Namespace;

use crate::report::Desired;
use crate::rules::{Capture, InterfaceName};
use selector::By;

mod known;
mod selector;

pub use known::{Home, Known};
pub use selector::{SelectorError, Selectors};

/// Annotation a sidecar injector leaves on pods it changed.
pub const SIDECAR_STATUS: &str = "sidecar.istio.io/status";
/// Annotation we write: `enabled` or `pending`.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Annotation we write on a pod that opts in and cannot be captured: why.
pub const NOT_CAPTURED: &str = "fairway.dev/not-captured";
/// Annotation on a pod: leave inbound traffic alone.
pub const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
/// Annotation on a pod: capture DNS or not, whatever the node's default.
pub const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
/// Annotation on a pod: interfaces whose traffic counts as outbound (virtual machines in pods).
pub const VIRTUAL_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";

/// Why a pod is in, out, or not yet in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The pod's own label opts in.
    PodLabel,
    /// Its namespace's label opts in, and the pod's do not say otherwise.
    NamespaceLabel,
    /// Its namespace's label opted in when it was read last, and cannot be read now.
    RememberedNamespace,
    /// Whether it belongs in is not known before its namespace is read.
    UnreadNamespace,
    /// To be captured once the pod has a uid.
    NoUid,
    /// To be captured once the pod has an address.
    NoAddress,
    /// Neither the pod nor its namespace opts in.
    NotLabelled,
    /// The pod opts out of its namespace's choice.
    PodOptsOut,
    /// The pod uses its node's network, which is never captured.
    HostNetwork,
    /// A sidecar handles the pod's traffic already.
    Sidecar,
    /// The namespace is excluded by configuration.
    ExcludedNamespace,
    /// The pod ran to its end.
    Terminal,
    /// The pod runs on Windows, where nothing of ours works.
    Windows,
    /// The pod runs in a virtual machine of its own, whose network nothing on the node can listen in.
    VirtualMachine,
}

impl Reason {
    /// Stable name, as shown at `/debug/pods`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::PodLabel => "pod_label",
            Self::NamespaceLabel => "namespace_label",
            Self::RememberedNamespace => "remembered_namespace",
            Self::UnreadNamespace => "unread_namespace",
            Self::NoUid => "waiting_for_uid",
            Self::NoAddress => "waiting_for_address",
            Self::NotLabelled => "not_labelled",
            Self::PodOptsOut => "pod_opts_out",
            Self::HostNetwork => "host_network",
            Self::Sidecar => "sidecar",
            Self::ExcludedNamespace => "excluded_namespace",
            Self::Terminal => "terminal",
            Self::Windows => "windows",
            Self::VirtualMachine => "virtual_machine",
        }
    }

    /// What to tell the owner of a pod that opts in and cannot be captured; nothing when it can, or does not want to.
    #[must_use]
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Self::HostNetwork => Some(
                "the pod uses its node's network (hostNetwork), where its traffic cannot be told from the node's; it stays outside the mesh",
            ),
            Self::Windows => Some("pods on Windows nodes cannot be captured; it stays outside the mesh"),
            Self::VirtualMachine => Some(
                "pods of a runtime class that runs them in a virtual machine cannot be captured; it stays outside the mesh",
            ),
            _ => None,
        }
    }
}

/// The verdict on one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Capture it like this.
    Capture {
        /// Why.
        reason: Reason,
        /// What its namespace should hold.
        capture: Capture,
        /// Annotations that were not understood; they are treated as absent.
        warnings: Vec<String>,
    },
    /// Belongs in, but cannot be captured yet, or may belong in; leave it as it is.
    Wait(Reason),
    /// Does not belong in.
    Exclude(Reason),
}

impl Decision {
    /// Why it was decided so.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Capture { reason, .. } | Self::Wait(reason) | Self::Exclude(reason) => *reason,
        }
    }

    /// Whether the pod belongs in the mesh.
    #[must_use]
    pub fn desired(&self) -> Desired {
        match self {
            Self::Exclude(_) => Desired::Excluded,
            Self::Wait(Reason::UnreadNamespace) => Desired::Unknown,
            Self::Capture { .. } | Self::Wait(_) => Desired::Captured,
        }
    }
}

/// What holds for all pods of this node.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Namespaces whose pods are never captured.
    pub excluded_namespaces: BTreeSet<String>,
    /// Who opts in.
    pub selectors: Selectors,
    /// How a pod is captured unless its annotations say otherwise.
    pub defaults: Capture,
}

/// Decides on `pod`, called `key`, which lives in `home`. `assigned` are the addresses it was just given, which its status
/// does not have yet.
#[must_use]
pub fn decide(key: &ObjectKey, pod: &MeshPod, home: Home<'_>, rules: &Rules, assigned: &[IpAddr]) -> Decision {
    let reason = match opted_in(pod, home, &rules.selectors) {
        _ if rules.excluded_namespaces.contains(&key.namespace) => return Decision::Exclude(Reason::ExcludedNamespace),
        Err(Reason::UnreadNamespace) => return Decision::Wait(Reason::UnreadNamespace),
        Err(reason) => return Decision::Exclude(reason),
        Ok(_) if pod.is_host_network => return Decision::Exclude(Reason::HostNetwork),
        Ok(_) if pod.is_windows => return Decision::Exclude(Reason::Windows),
        Ok(_) if is_virtual_machine(pod) => return Decision::Exclude(Reason::VirtualMachine),
        Ok(_) if pod.annotation(SIDECAR_STATUS).is_some() => return Decision::Exclude(Reason::Sidecar),
        Ok(_) if pod.is_terminal => return Decision::Exclude(Reason::Terminal),
        Ok(reason) => reason,
    };
    if pod.uid().is_none() {
        return Decision::Wait(Reason::NoUid);
    }
    if assigned.is_empty() && pod.addresses.is_empty() {
        return Decision::Wait(Reason::NoAddress);
    }
    let mut warnings = Vec::new();
    let capture = capture_of(pod, &rules.defaults, &mut warnings);
    Decision::Capture { reason, capture, warnings }
}

/// Whether the pods of `namespace` are captured unless they say otherwise.
#[must_use]
pub fn is_enrolled(namespace: &Namespace, rules: &Rules) -> bool {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let by = rules.selectors.select(&|_| None, Some(&|key| label(&namespace.metadata, key)));
    by.is_some() && !rules.excluded_namespaces.contains(name)
}

/// By the name of its runtime class: what a runtime really does is known to it alone, and Kata's are named so by its
/// own installation.
fn is_virtual_machine(pod: &MeshPod) -> bool {
    let class = &*pod.runtime_class;
    class == "kata" || class.starts_with("kata-")
}

fn opted_in(pod: &MeshPod, home: Home<'_>, selectors: &Selectors) -> Result<Reason, Reason> {
    let of_pod = |key: &str| pod.label(key);
    let chosen = match home {
        Home::Read(namespace) => selectors.select(&of_pod, Some(&|key| label(&namespace.metadata, key))),
        Home::Absent | Home::Unread(_) => selectors.select(&of_pod, None),
    };
    match (chosen, home) {
        (Some(By::Pod), _) => Ok(Reason::PodLabel),
        (Some(By::Namespace), _) => Ok(Reason::NamespaceLabel),
        (None, Home::Unread(was_enrolled)) if selectors.depend_on_namespace(&of_pod) => match was_enrolled {
            Some(true) => Ok(Reason::RememberedNamespace),
            Some(false) | None => Err(Reason::UnreadNamespace),
        },
        _ if pod.label(DATAPLANE_MODE) == Some(NONE) => Err(Reason::PodOptsOut),
        _ => Err(Reason::NotLabelled),
    }
}

fn capture_of(pod: &MeshPod, defaults: &Capture, warnings: &mut Vec<String>) -> Capture {
    let mut flag = |name: &str| match pod.annotation(name)? {
        "true" => Some(true),
        "false" => Some(false),
        other => {
            warnings.push(format!("annotation {name} is \"{other}\"; it must be \"true\" or \"false\""));
            None
        }
    };
    let mut capture = defaults.clone();
    capture.probes.ports = pod.probed.iter().copied().collect();
    capture.dns = flag(DNS_CAPTURE).unwrap_or(capture.dns);
    capture.inbound = !flag(BYPASS_INBOUND).unwrap_or(!capture.inbound);
    let names = pod.annotation(VIRTUAL_INTERFACES).unwrap_or_default();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match InterfaceName::parse(name) {
            Ok(name) => drop(capture.virtual_interfaces.insert(name)),
            Err(error) => warnings.push(format!("annotation {VIRTUAL_INTERFACES}: {error}")),
        }
    }
    capture
}

#[cfg(test)]
mod tests;
