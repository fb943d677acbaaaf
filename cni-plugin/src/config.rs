//! The agent's settings: flags, each with an environment name, checked once at the start.

mod istio;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use fairway_core::limits::{self, Limit};

use crate::enroll;
use crate::install::{self, Place};
use crate::kernel::{Backend, Tools};
use crate::plugin::protocol::{DEFAULT_RUN_DIR, Fail, PLUGIN};
use crate::rules::{Capture, Probes};
pub use istio::ignored;

/// File name of our copy of a configuration.
const OWNED: &str = "02-fairway-cni.conflist";

/// Node agent: decides which pods of this node are in the mesh, captures their traffic and hands them to the node
/// proxy.
#[derive(Clone, Debug, Parser)]
#[command(name = "fairway-cni-agent", version)]
pub struct Config {
    /// Where objects come from [default: directory].
    #[arg(long, value_enum, env = "FAIRWAY_SOURCE")]
    pub source: Option<SourceKind>,
    /// Directory of Kubernetes manifests; status is written below it.
    #[arg(long, env = "FAIRWAY_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// How to reach the API server [default: as a pod of the cluster].
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// Socket that node proxies connect to.
    #[arg(long, env = "ZTUNNEL_UDS_ADDRESS", value_name = "PATH", default_value = "/var/run/ztunnel/ztunnel.sock")]
    pub ztunnel_uds_address: PathBuf,
    /// Directory of network namespaces, where runtimes put them; one named by its pod's uid is found without a runtime.
    #[arg(long, env = "FAIRWAY_NETNS_DIR", value_name = "DIR", default_value = "/var/run/netns")]
    pub netns_dir: PathBuf,
    /// Capture IPv6 as well.
    #[arg(long, env = "AMBIENT_IPV6", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub ipv6: bool,
    /// Capture DNS queries, unless a pod's annotation says otherwise.
    #[arg(long, env = "AMBIENT_DNS_CAPTURE", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub dns_capture: bool,
    /// Source address of the kubelet's probes over IPv4, where something on the node rewrites it. Fairway does not:
    /// probes from the node's own addresses pass as they are.
    #[arg(long, env = "HOST_PROBE_SNAT_IP", value_name = "ADDRESS")]
    pub host_probe_snat_ip: Option<Ipv4Addr>,
    /// The same over IPv6.
    #[arg(long, env = "HOST_PROBE_SNAT_IPV6", value_name = "ADDRESS")]
    pub host_probe_snat_ipv6: Option<Ipv6Addr>,
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
    /// Namespace of the agent itself, whose pods are never captured: the agent starts without its own help.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,
    /// Which pods opt in: selectors of pods and namespaces, as YAML. The label istio.io/dataplane-mode decides unless
    /// it is set.
    #[arg(long, env = "AMBIENT_ENABLEMENT_SELECTOR", value_name = "YAML", default_value = "",
        value_parser = enroll::Selectors::parse)]
    pub enablement_selector: enroll::Selectors,
    /// Write rules with these tools of iptables, `nft` or `legacy`, even where nftables works.
    #[arg(long, env = "FORCE_IPTABLES_BINARY", value_name = "TOOLS", default_value = "", value_parser = parse_backends)]
    pub force_iptables_binary: Backends,
    /// Where to serve /readyz, /healthz, /metrics, /debug/pods and /debug/events.
    #[arg(long, env = "FAIRWAY_AGENT_MONITORING_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:15114")]
    pub monitoring_listen: SocketAddr,
    /// The same by its port alone, on all addresses, as Istio's charts set it.
    #[arg(long, env = "MONITORING_PORT", value_name = "PORT")]
    pub monitoring_port: Option<u16>,
    /// On SIGTERM, take everything from this node as --uninstall does, instead of leaving pods captured for the next agent.
    #[arg(long, env = "AMBIENT_DISABLE_SAFE_UPGRADE")]
    pub cleanup_on_exit: bool,
    /// Take the plugin, its configuration and all rules from this node, and end. No other agent of the node may run.
    #[arg(long)]
    pub uninstall: bool,
    /// Directory of the container runtime's CNI configurations, as the agent sees it.
    #[arg(long, env = "MOUNTED_CNI_NET_DIR", value_name = "DIR", default_value = "/host/etc/cni/net.d")]
    pub cni_net_dir: PathBuf,
    /// The same directory, as the node sees it.
    #[arg(long, env = "FAIRWAY_NODE_CNI_NET_DIR", value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub node_cni_net_dir: PathBuf,
    /// Directory of the container runtime's CNI plugins, as the agent sees it.
    #[arg(long, env = "FAIRWAY_CNI_BIN_DIR", value_name = "DIR", default_value = "/host/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Directory in which the container runtime remembers results, as the agent sees it.
    #[arg(long, env = "FAIRWAY_CNI_CACHE_DIR", value_name = "DIR", default_value = "/host/var/lib/cni")]
    pub cni_cache_dir: PathBuf,
    /// The plugin to install; `fairway-cni` beside the agent's own program unless it is set.
    #[arg(long, env = "FAIRWAY_CNI_PLUGIN", value_name = "PATH")]
    pub plugin_program: Option<PathBuf>,
    /// Directory of the socket on which the plugin asks the agent, the same for both.
    #[arg(long, env = "CNI_AGENT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub cni_agent_run_dir: PathBuf,
    /// File name of the configuration to chain into; the first one unless it is set.
    #[arg(long, env = "CNI_CONF_NAME", value_name = "NAME")]
    pub cni_conf_name: Option<String>,
    /// Chain into a copy of the first configuration, and leave the original to its owner.
    #[arg(long, env = "ISTIO_OWNED_CNI_CONFIG", value_name = "BOOL", default_value_t = false, action = ArgAction::Set)]
    pub owned_cni_config: bool,
    /// File name of that copy; it has to come before the original [default: 02-fairway-cni.conflist].
    #[arg(long, env = "ISTIO_OWNED_CNI_CONFIG_FILENAME", value_name = "NAME")]
    pub owned_cni_config_filename: Option<String>,
    /// The same, by the name that Istio's chart sets.
    #[arg(long, env = "ISTIO_OWNED_CNI_CONF_FILENAME", value_name = "NAME", hide = true)]
    pub owned_cni_conf_filename: Option<String>,
    /// What happens to new pods while the agent does not answer: `closed` refuses those of enrolled namespaces, `open`
    /// none.
    #[arg(long, env = "FAIRWAY_CNI_FAIL", value_name = "HOW", default_value = "closed", value_parser = parse_fail)]
    pub plugin_fail: Fail,
    /// How long the plugin waits for the agent, in milliseconds.
    #[arg(long, env = "FAIRWAY_CNI_PLUGIN_PATIENCE", value_name = "MS", default_value_t = limits::PLUGIN_PATIENCE.default,
        value_parser = |text: &str| parse_limit(&limits::PLUGIN_PATIENCE, text))]
    pub plugin_patience: u64,
    /// How long connections may go on that were open when their pod came in or left, in milliseconds; 0 cuts them at
    /// once.
    #[arg(long, env = "FAIRWAY_ESTABLISHED_GRACE", value_name = "MS", default_value_t = limits::ESTABLISHED_GRACE.default,
        value_parser = |text: &str| parse_limit(&limits::ESTABLISHED_GRACE, text))]
    pub established_grace: u64,
    /// Where the agent sees the node's file system.
    #[arg(long, env = "FAIRWAY_HOST_MOUNTS", value_name = "DIR", default_value = "/host")]
    pub host_mounts: PathBuf,
}

/// Kinds of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceKind {
    /// A directory of manifests.
    Directory,
    /// The API server of a cluster.
    Kubernetes,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// A directory of manifests.
    Directory(PathBuf),
    /// The API server that a kubeconfig names, or that of the cluster this runs in.
    Kubernetes(Option<PathBuf>),
}

/// Nothing says where objects are.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing says where objects are; give --manifests DIR, or --source kubernetes")]
pub struct NoSource;

/// The ways of writing rules to choose from, the best one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backends(Vec<Backend>);

fn parse_backends(text: &str) -> Result<Backends, String> {
    match text {
        "" => Ok(Backends(Backend::ALL.to_vec())),
        "nft" => Ok(Backends(vec![Backend::Iptables(Tools::Nft)])),
        "legacy" => Ok(Backends(vec![Backend::Iptables(Tools::Legacy)])),
        _ => Err("it must be `nft` or `legacy`".to_owned()),
    }
}

fn parse_fail(text: &str) -> Result<Fail, String> {
    match text {
        "closed" => Ok(Fail::Closed),
        "open" => Ok(Fail::Open),
        _ => Err("it must be `closed` or `open`".to_owned()),
    }
}

fn parse_limit(limit: &Limit, text: &str) -> Result<u64, String> {
    let value = text.parse().map_err(|_| "it must be a number".to_owned())?;
    limit.check(value).map_err(|error| error.to_string())
}

impl Config {
    /// Where objects come from.
    ///
    /// # Errors
    /// When nothing says it.
    pub fn source(&self) -> Result<SourceConfig, NoSource> {
        match (self.source, &self.manifests) {
            (Some(SourceKind::Kubernetes), _) => {
                let named = self.kubeconfig.clone().filter(|path| !path.as_os_str().is_empty());
                Ok(SourceConfig::Kubernetes(named))
            }
            (None | Some(SourceKind::Directory), Some(root)) => Ok(SourceConfig::Directory(root.clone())),
            (None | Some(SourceKind::Directory), None) => Err(NoSource),
        }
    }

    /// Who is captured, and how.
    #[must_use]
    pub fn rules(&self) -> enroll::Rules {
        let names = self.exclude_namespaces.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        let mut excluded_namespaces: BTreeSet<String> = names.map(str::to_owned).collect();
        excluded_namespaces.insert(self.system_namespace.clone());
        excluded_namespaces.extend(self.pod_namespace.clone().filter(|name| !name.is_empty()));
        let rewritten = [self.host_probe_snat_ip.map(IpAddr::V4), self.host_probe_snat_ipv6.map(IpAddr::V6)];
        let defaults = Capture {
            ipv6: self.ipv6,
            dns: self.dns_capture,
            probes: Probes { sources: rewritten.into_iter().flatten().collect(), ports: BTreeSet::new() },
            ..Capture::default()
        };
        enroll::Rules { excluded_namespaces, selectors: self.enablement_selector.clone(), defaults }
    }

    /// The ways of writing rules to choose from, the best one first.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.force_iptables_binary.0
    }

    fn owned_file(&self) -> String {
        let names = [&self.owned_cni_config_filename, &self.owned_cni_conf_filename];
        let name = names.into_iter().flatten().find(|name| !name.is_empty());
        name.cloned().unwrap_or_else(|| OWNED.to_owned())
    }

    /// Where plugin and configuration go.
    #[must_use]
    pub fn install(&self) -> install::Settings {
        let beside = || std::env::current_exe().unwrap_or_default().with_file_name(PLUGIN);
        install::Settings {
            net_dir: self.cni_net_dir.clone(),
            node_net_dir: self.node_cni_net_dir.clone(),
            bin_dir: self.cni_bin_dir.clone(),
            cache_dir: self.cni_cache_dir.clone(),
            program: self.plugin_program.clone().unwrap_or_else(beside),
            run_dir: self.cni_agent_run_dir.clone(),
            place: match &self.cni_conf_name {
                _ if self.owned_cni_config => Place::Owned(self.owned_file()),
                Some(name) if !name.is_empty() => Place::Named(name.clone()),
                _ => Place::First,
            },
            fail: self.plugin_fail,
            patience: self.plugin_patience,
        }
    }

    /// Where to serve what the agent says of itself.
    #[must_use]
    pub fn monitoring(&self) -> SocketAddr {
        self.monitoring_port.map_or(self.monitoring_listen, |port| (Ipv6Addr::UNSPECIFIED, port).into())
    }

    /// Where network namespaces are, as this agent sees them.
    #[must_use]
    pub fn namespaces(&self) -> PathBuf {
        let relative = self.netns_dir.strip_prefix("/").unwrap_or(&self.netns_dir);
        let mounted = self.host_mounts.join(relative);
        if mounted.is_dir() { mounted } else { self.netns_dir.clone() }
    }

    /// Where the node's processes are listed.
    #[must_use]
    pub fn proc(&self) -> PathBuf {
        let mounted = self.host_mounts.join("proc");
        if mounted.is_dir() { mounted } else { "/proc".into() }
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

    #[test]
    fn sources() {
        let of = |flags: &[&str]| {
            Config::try_parse_from(["agent", "--node-name", "n"].iter().chain(flags)).unwrap().source()
        };
        assert_eq!(of(&["--manifests", "m"]), Ok(SourceConfig::Directory("m".into())));
        assert_eq!(of(&[]), Err(NoSource));
        let named = SourceConfig::Kubernetes(Some("c".into()));
        assert_eq!(of(&["--source", "kubernetes", "--manifests", "m", "--kubeconfig", "c"]), Ok(named));
    }

    #[test]
    fn flags_become_places() {
        let parse = |more: &[&str]| {
            Config::try_parse_from(["agent", "--manifests", "m", "--node-name", "n"].iter().chain(more))
                .map_err(|error| error.to_string())
        };
        assert_eq!(parse(&[]).unwrap().install().place, Place::First);
        let named = parse(&["--cni-conf-name", "10-a.conflist", "--plugin-fail", "open"]).unwrap().install();
        assert_eq!((named.place, named.fail), (Place::Named("10-a.conflist".to_owned()), Fail::Open));
        assert_eq!(parse(&[]).unwrap().monitoring().to_string(), "127.0.0.1:15114");
        assert_eq!(parse(&["--monitoring-port", "15014"]).unwrap().monitoring().to_string(), "[::]:15014");
        let owned = parse(&["--owned-cni-config", "true"]).unwrap().install();
        assert_eq!(owned.place, Place::Owned("02-fairway-cni.conflist".to_owned()));
        for (flags, complaint) in [
            (["--plugin-fail", "maybe"], "closed"),
            (["--plugin-patience", "1"], "cni_plugin_patience is 1"),
            (["--established-grace", "soon"], "a number"),
        ] {
            let error = parse(&flags).unwrap_err();
            assert!(error.contains(complaint), "{flags:?}: {error}");
        }
    }
}
