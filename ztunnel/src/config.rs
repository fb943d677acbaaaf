//! Settings of the node proxy: flags and Istio's environment names, checked once and immutable afterwards.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use fairway_core::config::{ControlPlaneAddress, SettingError, parse_bool};
use fairway_core::ident::TrustDomain;
use fairway_core::io::drain;
use fairway_core::io::grpc::{ControlPlaneConfig, RootSource, TokenSource};
use fairway_core::io::logging::Shape;
use fairway_core::io::socket::PACKET_MARK;
use fairway_core::io::tls::profile::Profile;
use fairway_core::io::xds::NodeInfo;
use fairway_core::limits::{self, Limits};
use serde::Serialize;

use crate::node::PodInfo;
use crate::telemetry::LeftOut;

pub mod dns;
mod foreign;
mod limits_arguments;
mod standalone;

pub use limits_arguments::LimitArguments;
pub use standalone::{Local, Mode, Signer};

/// Where the root of the test authority is kept.
const DEFAULT_TEST_ROOT: &str = "./fake-ca.pem";

/// Where Istio's charts mount the control plane's roots.
const DEFAULT_ROOTS: &str = "./var/run/secrets/istio/root-cert.pem";

/// Node tunnel: mutual TLS, identity and L4 policy for the pods of one node, or for one workload.
///
/// Every setting is a flag and an environment variable; the variables are those of Istio's ztunnel.
#[derive(Clone, Debug, Parser)]
#[command(name = "ztunnel", disable_version_flag = true, after_long_help = foreign::help())]
pub struct Arguments {
    /// Print version and cryptography, and end
    #[arg(long, short = 'V')]
    pub version: bool,
    /// `proxy` (the default) or `version`; further words after `proxy` are tolerated, as Istio's charts pass them
    #[arg(value_name = "COMMAND")]
    pub words: Vec<String>,
    /// What to serve: `shared` for the pods of a node, `dedicated` for one workload in our own network namespace
    #[arg(long, env = "PROXY_MODE", value_name = "MODE", default_value = "shared")]
    pub proxy_mode: String,
    /// The workload of a dedicated proxy: namespace/name/serviceaccount
    #[arg(long, env = "PROXY_WORKLOAD_INFO", value_name = "WORKLOAD")]
    pub proxy_workload_info: Option<String>,
    /// File with workloads, services and policies, followed while we run; what the control plane says goes before it
    #[arg(long, env = "LOCAL_XDS_PATH", value_name = "FILE")]
    pub local_xds_path: Option<String>,
    /// The same as text
    #[arg(long, env = "LOCAL_XDS", value_name = "YAML")]
    pub local_xds: Option<String>,
    /// Sign certificates ourselves, for anybody: for tests only
    #[arg(long, env = "FAKE_CA", value_name = "BOOL", default_value = "false")]
    pub fake_ca: String,
    /// File with the root and key that FAKE_CA signs with, made if missing; proxies with the same file trust each other
    #[arg(long, env = "FAKE_CA_ROOT", value_name = "FILE", default_value = DEFAULT_TEST_ROOT)]
    pub fake_ca_root: String,
    /// Mark on our own packets, by which capture rules let them through: 1337 for a node, none for one workload
    #[arg(long, env = "PACKET_MARK", value_name = "NUMBER")]
    pub packet_mark: Option<String>,
    /// Key exchange: `pqc` for post-quantum only, `fips` for what FIPS 140-3 approves; else all there is
    #[arg(long, env = "COMPLIANCE_POLICY", value_name = "PROFILE")]
    pub compliance_policy: Option<String>,
    /// Labels that metrics of connections do without, separated by commas; their counters are added up
    #[arg(long, env = "FAIRWAY_METRIC_LABELS_LEFT_OUT", value_name = "NAMES", default_value = "")]
    pub metric_labels_left_out: String,
    /// Send TCP keepalive probes
    #[arg(long, env = "KEEPALIVE_ENABLED", value_name = "BOOL", default_value = "true")]
    pub keepalive_enabled: String,
    /// Give up connections whose data is not acknowledged for as long as all keepalive probes take
    #[arg(long, env = "USER_TIMEOUT_ENABLED", value_name = "BOOL", default_value = "false")]
    pub user_timeout_enabled: String,
    /// Where configuration comes from: host:port for TLS, or with http:// or https:// before it; empty for nowhere, with
    /// LOCAL_XDS_PATH
    #[arg(long, env = "XDS_ADDRESS", value_name = "ADDRESS")]
    pub xds_address: Option<String>,
    /// Where certificates come from; the configuration's address if not set
    #[arg(long, env = "CA_ADDRESS", value_name = "ADDRESS")]
    pub ca_address: Option<String>,
    /// Roots that vouch for the configuration server: a PEM file, read again when it changes, PEM text, or SYSTEM for those
    /// of the machine
    #[arg(long, env = "XDS_ROOT_CA", value_name = "FILE_OR_PEM", default_value = DEFAULT_ROOTS, allow_hyphen_values = true)]
    pub xds_root_ca: String,
    /// Roots that vouch for the certificate authority: a PEM file, read again when it changes, PEM text, or SYSTEM for those
    /// of the machine
    #[arg(long, env = "CA_ROOT_CA", value_name = "FILE_OR_PEM", default_value = DEFAULT_ROOTS, allow_hyphen_values = true)]
    pub ca_root_ca: String,
    /// A further name the configuration server's certificate may carry
    #[arg(long, env = "ALT_XDS_HOSTNAME", value_name = "NAME")]
    pub alt_xds_hostname: Option<String>,
    /// A further name the certificate authority's certificate may carry
    #[arg(long, env = "ALT_CA_HOSTNAME", value_name = "NAME")]
    pub alt_ca_hostname: Option<String>,
    /// The token that proves who we are: a file, read for each request, or the token itself; empty for none
    #[arg(
        long,
        env = "AUTH_TOKEN",
        value_name = "FILE_OR_TOKEN",
        default_value = "./var/run/secrets/tokens/istio-token",
        hide_env_values = true
    )]
    pub auth_token: String,
    /// Ask for workloads and services when connections need them, instead of holding all of the mesh
    #[arg(long, env = "XDS_ON_DEMAND", value_name = "BOOL", default_value = "false")]
    pub xds_on_demand: String,
    /// Describe the workload in answers to other proxies, and use their word for labels where there is no other
    #[arg(long, env = "ENABLE_RESPONSE_BAGGAGE", value_name = "BOOL", default_value = "true")]
    pub enable_response_baggage: String,
    /// Let tunnels in that came around the waypoint of what they are for, as Istio's node proxy does
    #[arg(long, env = "FAIRWAY_WAYPOINT_BYPASS", value_name = "BOOL", default_value = "false")]
    pub waypoint_bypass: String,
    /// Have policies look at the client for whom a waypoint speaks, beside the waypoint; false is as Istio's node proxy does
    #[arg(long, env = "FAIRWAY_CLIENTS_BEHIND_WAYPOINTS", value_name = "BOOL", default_value = "true")]
    pub clients_behind_waypoints: String,
    /// Speak over loopback to an application that takes the PROXY protocol, instead of at its pod's address
    #[arg(long, env = "LOCALHOST_APP_TUNNEL", value_name = "BOOL", default_value = "true")]
    pub localhost_app_tunnel: String,
    /// Directory in which the last good configuration is kept, to be served after a restart until the control plane
    /// answers; nothing is kept if it is not set
    #[arg(long, env = "FAIRWAY_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Socket of the node agent
    #[arg(long, env = "INPOD_UDS", value_name = "PATH", default_value = "/var/run/ztunnel/ztunnel.sock")]
    pub inpod_uds: PathBuf,
    /// Name of the node we run on
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Name of our own pod
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value = "")]
    pub pod_name: String,
    /// Namespace of our own pod
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "")]
    pub pod_namespace: String,
    /// Service account of our own pod
    #[arg(long, env = "SERVICE_ACCOUNT", value_name = "NAME", default_value = "")]
    pub service_account: String,
    /// IP address of our own pod
    #[arg(long, env = "INSTANCE_IP", value_name = "IP")]
    pub instance_ip: Option<String>,
    /// Name of our cluster
    #[arg(long, env = "CLUSTER_ID", value_name = "NAME")]
    pub cluster_id: Option<String>,
    /// Name of our network
    #[arg(long, env = "NETWORK", value_name = "NAME", default_value = "")]
    pub network: String,
    /// Trust domain of the mesh, cluster.local if not set. Pods that the control plane has not announced yet are taken to be
    /// of it only if it is set, or if the other pods of the node are
    #[arg(long, env = "TRUST_DOMAIN", value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// Serve pods on IPv6 as well
    #[arg(long, env = "IPV6_ENABLED", value_name = "BOOL", default_value = "true")]
    pub ipv6_enabled: String,
    /// Let applications see their clients' addresses instead of ours. Left out: for a node where we have the right to,
    /// for one workload not, because answers to its clients only reach us with routes that somebody must have set up
    #[arg(long, env = "ENABLE_ORIG_SRC", value_name = "BOOL")]
    pub enable_orig_src: Option<String>,
    /// File with certificate revocation lists, PEM or DER
    #[arg(long, env = "CRL_PATH", value_name = "FILE")]
    pub crl_path: Option<String>,
    /// The pod's grace period in seconds, from which CONNECTION_TERMINATION_DEADLINE is derived if it is not set
    #[arg(long, env = "TERMINATION_GRACE_PERIOD_SECONDS", value_name = "SECONDS")]
    pub termination_grace_period_seconds: Option<String>,
    /// Shape of log lines: plain or json
    #[arg(long, env = "LOG_FORMAT", value_name = "SHAPE", default_value = "plain")]
    pub log_format: String,
    /// What is logged, for example `info` or `access=debug,info`
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    pub log_filter: String,
    /// Threads that carry connections: a number, or a share of the cores such as 25%
    #[arg(long, env = "ZTUNNEL_WORKER_THREADS", value_name = "N_OR_PERCENT", default_value = "2")]
    pub worker_threads: String,
    /// The DNS proxy
    #[command(flatten)]
    pub dns: dns::DnsArguments,
    /// Port of the admin server, on loopback
    #[arg(long, value_name = "PORT", default_value_t = 15000)]
    pub admin_port: u16,
    /// Port metrics are served on
    #[arg(long, value_name = "PORT", default_value_t = 15020)]
    pub stats_port: u16,
    /// Port readiness is served on
    #[arg(long, value_name = "PORT", default_value_t = 15021)]
    pub readiness_port: u16,
    /// The limits.
    #[command(flatten)]
    pub limits: LimitArguments,
}

/// What the process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Proxy,
    /// Print the version.
    Version,
}

/// The settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whom we serve.
    pub mode: Mode,
    /// Configuration server, if there is one.
    pub xds: Option<ControlPlaneConfig>,
    /// Configuration besides that.
    pub local: Option<Local>,
    /// Who signs certificates.
    pub signer: Signer,
    /// Who we are to the configuration server.
    pub node: NodeInfo,
    /// Addresses are asked for when connections need them.
    pub on_demand: bool,
    /// Where the last good configuration is kept, if it is.
    pub state_directory: Option<PathBuf>,
    /// Name of our cluster.
    pub cluster_id: String,
    /// Trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// Whether that is configured, and not merely the default.
    pub names_trust_domain: bool,
    /// Name of our network.
    pub network: String,
    /// Our own service account.
    pub service_account: String,
    /// Serve pods on IPv6 as well.
    pub ipv6: bool,
    /// Applications see their clients' addresses; none for wherever we have the right to.
    pub preserve_source: Option<bool>,
    /// The mark on our packets.
    pub packet_mark: Option<u32>,
    /// The key exchanges of tunnels.
    pub tls_profile: Profile,
    /// Labels that metrics of connections do without.
    pub labels_left_out: LeftOut,
    /// Send TCP keepalive probes.
    pub keepalive: bool,
    /// Give up connections whose data is not acknowledged.
    pub user_timeout: bool,
    /// Describe the workload in answers to other proxies, and use their word for labels.
    pub exchange_baggage: bool,
    /// Whether tunnels may come around waypoints that they should have come through.
    pub waypoint_bypass: bool,
    /// Whether policies look at the clients for whom waypoints speak.
    pub clients_behind_waypoints: bool,
    /// Speak over loopback to an application that takes the PROXY protocol.
    pub tunnel_over_loopback: bool,
    /// Every bound.
    pub limits: Limits,
    /// Lifetime asked for certificates.
    pub certificate_lifetime: Duration,
    /// File with certificate revocation lists.
    pub revocation_list: Option<PathBuf>,
    /// How long open connections may last when we shut down.
    pub drain_deadline: Duration,
    /// Shape of log lines.
    pub log_shape: Shape,
    /// What is logged.
    pub log_filter: String,
    /// Threads that carry connections.
    pub worker_threads: usize,
    /// The DNS proxy.
    pub dns: dns::DnsConfig,
    /// Ports we are operated through.
    pub ports: Ports,
    /// Variables that are set and have no effect, to be logged at start.
    pub ignored: Vec<(&'static str, &'static str)>,
}

/// Ports we are operated through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Ports {
    pub admin: u16,
    pub stats: u16,
    pub readiness: u16,
}

impl Arguments {
    /// What to do.
    ///
    /// # Errors
    /// If the first word is no command.
    pub fn command(&self) -> Result<Command, SettingError> {
        if self.version {
            return Ok(Command::Version);
        }
        match self.words.first().map(String::as_str) {
            None | Some("proxy") => Ok(Command::Proxy),
            Some("version") => Ok(Command::Version),
            Some(other) => Err(wrong("the command", other, "write `proxy`, `version` or nothing")),
        }
    }

    /// The key exchanges asked for.
    ///
    /// # Errors
    /// If there is no such profile.
    pub fn tls_profile(&self) -> Result<Profile, SettingError> {
        set(self.compliance_policy.as_deref()).map_or(Ok(Profile::DEFAULT), |text| parse("COMPLIANCE_POLICY", text))
    }

    /// Checks everything. `environment` supplies what is no flag of its own: `ISTIO_META_*` and the like.
    ///
    /// # Errors
    /// Names the first setting that cannot be used and what to write.
    pub fn check(self, environment: &BTreeMap<String, String>) -> Result<Config, SettingError> {
        let ignored = foreign::check(environment)?;
        let cluster_id = set(self.cluster_id.as_deref())
            .or_else(|| set(environment.get("ISTIO_META_CLUSTER_ID").map(String::as_str)))
            .unwrap_or("Kubernetes")
            .to_owned();
        let ourselves = PodInfo {
            name: self.pod_name.clone(),
            namespace: self.pod_namespace.clone(),
            service_account: self.service_account.clone(),
        };
        let mode =
            standalone::mode(&self.proxy_mode, self.proxy_workload_info.as_deref(), self.inpod_uds.clone(), ourselves)?;
        let packet_mark = standalone::packet_mark(&mode, self.packet_mark.as_deref(), PACKET_MARK)?;
        let local = standalone::local(self.local_xds_path.as_deref(), self.local_xds.as_deref())?;
        let node_name = set(self.node_name.as_deref()).unwrap_or_default().to_owned();
        if node_name.is_empty() && matches!(mode, Mode::Shared { .. }) {
            return Err(wrong("NODE_NAME", "", "write the name of the node this proxy serves, as Kubernetes has it"));
        }
        let default_address = if environment.contains_key("KUBERNETES_SERVICE_HOST") {
            "https://istiod.istio-system.svc:15012"
        } else {
            "https://localhost:15012"
        };
        // Charts write empty values for what is not set; but where a file says what there is, it means "nowhere".
        let nowhere = local.is_some() && self.xds_address.as_deref().is_some_and(|text| text.trim().is_empty());
        let xds_address = set(self.xds_address.as_deref()).or((!nowhere).then_some(default_address));
        let ca_address = set(self.ca_address.as_deref()).or(xds_address);
        let given = self.limits.check()?;
        let limits = Limits::with(&given).map_err(|conflict| wrong("the limits", "", &conflict.to_string()))?;
        let control_plane = |name, address, roots: &str, alternative: Option<&str>, headers| {
            Ok::<_, SettingError>(ControlPlaneConfig {
                address: parse::<ControlPlaneAddress>(name, address)?,
                roots: RootSource::parse(set(Some(roots)).unwrap_or(DEFAULT_ROOTS)),
                alternative_name: set(alternative).map(str::to_owned),
                token: TokenSource::parse(&self.auth_token),
                cluster_id: cluster_id.clone(),
                headers: foreign::headers(environment, headers),
                packet_mark,
                limits: limits.clone(),
            })
        };
        let alternative = self.alt_xds_hostname.as_deref();
        let xds = xds_address
            .map(|address| control_plane("XDS_ADDRESS", address, &self.xds_root_ca, alternative, "XDS_HEADER_"))
            .transpose()?;
        let signer = if given_switch("FAKE_CA", &self.fake_ca)?.unwrap_or(false) {
            Signer::Test(set(Some(&self.fake_ca_root)).unwrap_or(DEFAULT_TEST_ROOT).into())
        } else {
            let Some(address) = ca_address else {
                return Err(wrong(
                    "CA_ADDRESS",
                    "",
                    "write the certificate authority's address, or set FAKE_CA=true for a test",
                ));
            };
            let alternative = self.alt_ca_hostname.as_deref();
            Signer::ControlPlane(control_plane("CA_ADDRESS", address, &self.ca_root_ca, alternative, "CA_HEADER_")?)
        };
        let address = set(self.instance_ip.as_deref());
        if let Some(address) = address {
            parse::<IpAddr>("INSTANCE_IP", address)?;
        }
        let mut metadata = foreign::metadata(environment)?;
        metadata.entry("CLUSTER_ID".to_owned()).or_insert_with(|| cluster_id.clone().into());
        let grace = set(self.termination_grace_period_seconds.as_deref())
            .map(|text| parse::<u64>("TERMINATION_GRACE_PERIOD_SECONDS", text))
            .transpose()?;
        let on_demand = set(Some(&self.xds_on_demand)).is_some() && switch("XDS_ON_DEMAND", &self.xds_on_demand)?;
        let tls_profile = self.tls_profile()?;
        let dns = self.dns.check()?;
        if on_demand && dns.port.is_some() {
            let problem = "the DNS proxy must know all names; leave this out, or set ISTIO_META_DNS_CAPTURE=false here and \
                           AMBIENT_DNS_CAPTURE=false for the agent";
            return Err(wrong("XDS_ON_DEMAND", &self.xds_on_demand, problem));
        }
        if on_demand && xds.is_none() {
            return Err(wrong(
                "XDS_ON_DEMAND",
                &self.xds_on_demand,
                "there is nobody to ask without XDS_ADDRESS; leave it out",
            ));
        }
        let trust_domain = set(self.trust_domain.as_deref()).unwrap_or(TrustDomain::DEFAULT);
        let names_trust_domain = set(self.trust_domain.as_deref()).is_some();
        let explicit = given.contains_key(limits::DRAIN_DEADLINE.name);
        let explicit = explicit.then(|| limits.duration(&limits::DRAIN_DEADLINE));
        let drain_deadline = drain::deadline(explicit, grace, limits.duration(&limits::DRAIN_DEADLINE));
        let milliseconds = u64::try_from(drain_deadline.as_millis()).unwrap_or(u64::MAX);
        let preserve_source = match &self.enable_orig_src {
            Some(text) => given_switch("ENABLE_ORIG_SRC", text)?,
            None => None,
        };
        Ok(Config {
            xds,
            local,
            signer,
            cluster_id,
            packet_mark,
            tls_profile,
            labels_left_out: parse("FAIRWAY_METRIC_LABELS_LEFT_OUT", &self.metric_labels_left_out)?,
            keepalive: switch("KEEPALIVE_ENABLED", &self.keepalive_enabled)?,
            user_timeout: given_switch("USER_TIMEOUT_ENABLED", &self.user_timeout_enabled)?.unwrap_or(false),
            exchange_baggage: switch("ENABLE_RESPONSE_BAGGAGE", &self.enable_response_baggage)?,
            waypoint_bypass: switch("FAIRWAY_WAYPOINT_BYPASS", &self.waypoint_bypass)?,
            clients_behind_waypoints: switch("FAIRWAY_CLIENTS_BEHIND_WAYPOINTS", &self.clients_behind_waypoints)?,
            tunnel_over_loopback: switch("LOCALHOST_APP_TUNNEL", &self.localhost_app_tunnel)?,
            certificate_lifetime: limits.duration(&limits::CERTIFICATE_LIFETIME),
            limits: limits.and(&limits::DRAIN_DEADLINE, milliseconds),
            node: NodeInfo {
                pod_name: self.pod_name,
                namespace: self.pod_namespace,
                address: address.map(str::to_owned),
                node_name,
                metadata,
            },
            on_demand,
            state_directory: self.state_dir.filter(|directory| !directory.as_os_str().is_empty()),
            trust_domain: TrustDomain::new(trust_domain)
                .map_err(|error| wrong("TRUST_DOMAIN", trust_domain, &error.to_string()))?,
            names_trust_domain,
            network: self.network,
            service_account: self.service_account,
            ipv6: switch("IPV6_ENABLED", &self.ipv6_enabled)?,
            // Nothing sends the answers back to a dedicated proxy unless somebody has seen to it.
            preserve_source: preserve_source.or(matches!(mode, Mode::Dedicated(_)).then_some(false)),
            mode,
            revocation_list: set(self.crl_path.as_deref()).map(PathBuf::from),
            drain_deadline,
            log_shape: parse("LOG_FORMAT", &self.log_format)?,
            log_filter: self.log_filter,
            worker_threads: threads(&self.worker_threads, std::thread::available_parallelism().map_or(1, usize::from))?,
            dns,
            ports: Ports { admin: self.admin_port, stats: self.stats_port, readiness: self.readiness_port },
            ignored,
        })
    }
}

impl Config {
    /// What operators may see of it in a dump: no token.
    #[must_use]
    pub fn dump(&self) -> serde_json::Value {
        let ca = match &self.signer {
            Signer::ControlPlane(config) => Some(config),
            Signer::Test(_) => None,
        };
        let (node_socket, workload) = match &self.mode {
            Mode::Shared { node_socket, .. } => (Some(node_socket), None),
            Mode::Dedicated(info) => (None, Some(info.to_string())),
        };
        let (local_file, local_text) = match &self.local {
            Some(Local::File(path)) => (Some(path), false),
            Some(Local::Text(_)) => (None, true),
            None => (None, false),
        };
        serde_json::json!({
            "xdsAddress": self.xds.as_ref().map(|xds| xds.address.to_string()),
            "caAddress": ca.map(|ca| ca.address.to_string()),
            "xdsRootCert": self.xds.as_ref().map(|xds| xds.roots.to_string()),
            "caRootCert": ca.map(|ca| ca.roots.to_string()),
            "fakeCa": ca.is_none(),
            "proxyMode": if workload.is_some() { "Dedicated" } else { "Shared" },
            "proxyWorkloadInformation": workload,
            "localXdsPath": local_file,
            "localXds": local_text,
            "clusterId": self.cluster_id,
            "localNode": self.node.node_name,
            "xdsOnDemand": self.on_demand,
            "stateDirectory": self.state_directory,
            "inpodUds": node_socket,
            "packetMark": self.packet_mark,
            "tlsProfile": self.tls_profile,
            "metricLabelsLeftOut": self.labels_left_out.to_string(),
            "keepaliveEnabled": self.keepalive,
            "userTimeoutEnabled": self.user_timeout,
            "enableResponseBaggage": self.exchange_baggage,
            "waypointBypass": self.waypoint_bypass,
            "clientsBehindWaypoints": self.clients_behind_waypoints,
            "localhostAppTunnel": self.tunnel_over_loopback,
            "limits": limits_arguments::dump(&self.limits),
            "trustDomain": self.trust_domain.to_string(),
            "network": self.network,
            "ipv6Enabled": self.ipv6,
            "enableOriginalSource": self.preserve_source,
            "crlPath": self.revocation_list,
            "secretTtlSeconds": self.certificate_lifetime.as_secs(),
            "terminationDeadlineSeconds": self.drain_deadline.as_secs(),
            "dnsProxyPort": self.dns.port,
            "dnsResolvers": self.dns.fixed_resolvers,
            "clusterDomain": self.dns.zone.domain,
            "ports": self.ports,
        })
    }
}

/// Charts write empty values for what is not set.
fn set(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

fn wrong(name: &str, value: &str, problem: &str) -> SettingError {
    SettingError { name: name.to_owned(), value: value.to_owned(), problem: problem.to_owned() }
}

fn parse<T>(name: &str, text: &str) -> Result<T, SettingError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.trim().parse().map_err(|error: T::Err| wrong(name, text, &error.to_string()))
}

/// True unless it says otherwise.
fn switch(name: &str, text: &str) -> Result<bool, SettingError> {
    given_switch(name, text).map(|given| given.unwrap_or(true))
}

/// What it says, if anything.
fn given_switch(name: &str, text: &str) -> Result<Option<bool>, SettingError> {
    let read = |text| parse_bool(text).map_err(|error| wrong(name, text, &error.to_string()));
    set(Some(text)).map(read).transpose()
}

/// A number of threads, or a share of the `cores`, at least one.
fn threads(text: &str, cores: usize) -> Result<usize, SettingError> {
    let problem = || wrong("ZTUNNEL_WORKER_THREADS", text, "write a number from 1 to 1024, or a share such as 25%");
    let threads = match text.trim().strip_suffix('%') {
        Some(share) => {
            let share: usize = share.parse().map_err(|_| problem())?;
            cores.saturating_mul(share).div_ceil(100)
        }
        None => text.trim().parse().map_err(|_| problem())?,
    };
    if (1..=1024).contains(&threads) { Ok(threads) } else { Err(problem()) }
}

#[cfg(test)]
mod tests;
