//! The agent's settings: flags, each with an environment name, checked once at the start.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgAction, Parser};

use crate::enroll;
use crate::rules::{Capture, DEFAULT_PROBE_IPV4, DEFAULT_PROBE_IPV6};

/// Node agent: decides which pods of this node are in the mesh, captures their traffic and hands them to the node
/// proxy.
#[derive(Clone, Debug, Parser)]
#[command(name = "fairway-cni-agent", version)]
pub struct Config {
    /// Directory of Kubernetes manifests; status is written below it.
    #[arg(long, env = "FAIRWAY_MANIFESTS", value_name = "DIR")]
    pub manifests: PathBuf,
    /// Name of this node.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// Socket that node proxies connect to.
    #[arg(long, env = "ZTUNNEL_UDS_ADDRESS", value_name = "PATH", default_value = "/var/run/ztunnel/ztunnel.sock")]
    pub ztunnel_uds_address: PathBuf,
    /// Directory of network namespaces, each named by its pod's uid.
    #[arg(long, env = "FAIRWAY_NETNS_DIR", value_name = "DIR", default_value = "/var/run/netns")]
    pub netns_dir: PathBuf,
    /// Capture IPv6 as well.
    #[arg(long, env = "AMBIENT_IPV6", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub ipv6: bool,
    /// Capture DNS queries, unless a pod's annotation says otherwise.
    #[arg(long, env = "AMBIENT_DNS_CAPTURE", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub dns_capture: bool,
    /// Source address of the kubelet's probes over IPv4, which are not captured.
    #[arg(long, env = "HOST_PROBE_SNAT_IP", value_name = "ADDRESS", default_value_t = DEFAULT_PROBE_IPV4)]
    pub host_probe_snat_ip: Ipv4Addr,
    /// Source address of the kubelet's probes over IPv6, which are not captured.
    #[arg(long, env = "HOST_PROBE_SNAT_IPV6", value_name = "ADDRESS", default_value_t = DEFAULT_PROBE_IPV6)]
    pub host_probe_snat_ipv6: Ipv6Addr,
    /// Namespace of the mesh itself, whose pods are never captured.
    #[arg(long, env = "SYSTEM_NAMESPACE", value_name = "NAME", default_value = "fairway-system")]
    pub system_namespace: String,
    /// Further namespaces whose pods are never captured.
    #[arg(
        long,
        env = "EXCLUDE_NAMESPACES",
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "kube-system"
    )]
    pub exclude_namespaces: Vec<String>,
    /// Where to serve /readyz, /healthz, /metrics and /debug/pods.
    #[arg(long, env = "FAIRWAY_AGENT_MONITORING_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:15114")]
    pub monitoring_listen: SocketAddr,
    /// On SIGTERM, release all pods instead of leaving them captured for the next agent.
    #[arg(long, env = "AMBIENT_DISABLE_SAFE_UPGRADE")]
    pub cleanup_on_exit: bool,
}

impl Config {
    /// Who is captured, and how.
    #[must_use]
    pub fn rules(&self) -> enroll::Rules {
        let names = self.exclude_namespaces.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        let mut excluded_namespaces: BTreeSet<String> = names.map(str::to_owned).collect();
        excluded_namespaces.insert(self.system_namespace.clone());
        let defaults = Capture {
            ipv6: self.ipv6,
            dns: self.dns_capture,
            probe_ipv4: self.host_probe_snat_ip,
            probe_ipv6: self.host_probe_snat_ipv6,
            ..Capture::default()
        };
        enroll::Rules { excluded_namespaces, defaults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_rules() {
        let config = Config::try_parse_from([
            "agent",
            "--manifests",
            "m",
            "--node-name",
            "n",
            "--ipv6",
            "false",
            "--dns-capture",
            "false",
            "--exclude-namespaces",
            "a, b",
            "--system-namespace",
            "sys",
        ])
        .unwrap();
        let rules = config.rules();
        assert_eq!(rules.excluded_namespaces.into_iter().collect::<Vec<_>>(), ["a", "b", "sys"]);
        assert!(!rules.defaults.ipv6 && !rules.defaults.dns && rules.defaults.inbound);
        let defaults = Config::try_parse_from(["agent", "--manifests", "m", "--node-name", "n"]).unwrap();
        assert!(!defaults.cleanup_on_exit);
        assert!(defaults.rules().excluded_namespaces.contains("kube-system"));
        assert_eq!(defaults.rules().defaults, Capture { dns: true, ..Capture::default() });
    }
}
