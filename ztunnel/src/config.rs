//! Settings of the node proxy: flags and Istio's environment names, checked once and immutable afterwards.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use fairway_core::config::{ControlPlaneAddress, SettingError, parse_bool, parse_duration};
use fairway_core::ident::TrustDomain;
use fairway_core::io::drain;
use fairway_core::io::grpc::{ControlPlaneConfig, RootSource, TokenSource};
use fairway_core::io::logging::Shape;
use fairway_core::io::socket::PACKET_MARK;
use fairway_core::io::xds::NodeInfo;
use fairway_core::limits;
use serde::Serialize;

pub mod dns;
mod foreign;

/// Where Istio's charts mount the control plane's roots.
const DEFAULT_ROOTS: &str = "./var/run/secrets/istio/root-cert.pem";

/// Node tunnel: mutual TLS, identity and L4 policy for the pods of one node.
///
/// Every setting is a flag and an environment variable; the variables are those of Istio's ztunnel.
#[derive(Clone, Debug, Parser)]
#[command(name = "ztunnel", disable_version_flag = true)]
pub struct Arguments {
    /// `proxy` (the default) or `version`; further words after `proxy` are tolerated, as Istio's charts pass them
    #[arg(value_name = "COMMAND")]
    pub words: Vec<String>,
    /// Where configuration comes from: host:port for TLS, or with http:// or https:// before it
    #[arg(long, env = "XDS_ADDRESS", value_name = "ADDRESS")]
    pub xds_address: Option<String>,
    /// Where certificates come from; the configuration's address if not set
    #[arg(long, env = "CA_ADDRESS", value_name = "ADDRESS")]
    pub ca_address: Option<String>,
    /// Roots that vouch for the configuration server: a PEM file, read again when it changes, or PEM text
    #[arg(long, env = "XDS_ROOT_CA", value_name = "FILE_OR_PEM", default_value = DEFAULT_ROOTS, allow_hyphen_values = true)]
    pub xds_root_ca: String,
    /// Roots that vouch for the certificate authority: a PEM file, read again when it changes, or PEM text
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
    /// How long a connection waits for the control plane to say what its destination is, where that is asked for
    #[arg(long, env = "XDS_DEMAND_WAIT", value_name = "DURATION")]
    pub xds_demand_wait: Option<String>,
    /// Directory in which the last good configuration is kept, to be served after a restart until the control plane
    /// answers; nothing is kept if it is not set
    #[arg(long, env = "FAIRWAY_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The last good configuration is written no more often than this
    #[arg(long, env = "XDS_STORE_INTERVAL", value_name = "DURATION")]
    pub xds_store_interval: Option<String>,
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
    /// Trust domain of the mesh
    #[arg(long, env = "TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Serve pods on IPv6 as well
    #[arg(long, env = "IPV6_ENABLED", value_name = "BOOL", default_value = "true")]
    pub ipv6_enabled: String,
    /// Let applications see their clients' addresses instead of ours
    #[arg(long, env = "ENABLE_ORIG_SRC", value_name = "BOOL", default_value = "true")]
    pub enable_orig_src: String,
    /// Lifetime asked for certificates
    #[arg(long, env = "SECRET_TTL", value_name = "DURATION", default_value = "24h")]
    pub secret_ttl: String,
    /// How long open connections may last when we shut down
    #[arg(long, env = "CONNECTION_TERMINATION_DEADLINE", value_name = "DURATION")]
    pub connection_termination_deadline: Option<String>,
    /// The pod's grace period in seconds, from which that time is derived if it is not set
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
    /// Configuration server.
    pub xds: ControlPlaneConfig,
    /// Certificate authority.
    pub ca: ControlPlaneConfig,
    /// Who we are to the configuration server.
    pub node: NodeInfo,
    /// Addresses are asked for when connections need them.
    pub on_demand: bool,
    /// How long a connection waits for such an answer.
    pub demand_wait: Duration,
    /// Where the last good configuration is kept, if it is.
    pub state_directory: Option<PathBuf>,
    /// The least time between two writings of it.
    pub store_interval: Duration,
    /// Socket of the node agent.
    pub node_socket: PathBuf,
    /// Trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// Name of our network.
    pub network: String,
    /// Our own service account.
    pub service_account: String,
    /// Serve pods on IPv6 as well.
    pub ipv6: bool,
    /// Applications see their clients' addresses.
    pub preserve_source: bool,
    /// Lifetime asked for certificates.
    pub certificate_lifetime: Duration,
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
    pub ignored: Vec<String>,
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
        match self.words.first().map(String::as_str) {
            None | Some("proxy") => Ok(Command::Proxy),
            Some("version") => Ok(Command::Version),
            Some(other) => Err(wrong("the command", other, "write `proxy`, `version` or nothing")),
        }
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
        let Some(node_name) = set(self.node_name.as_deref()).map(str::to_owned) else {
            return Err(wrong("NODE_NAME", "", "write the name of the node this proxy serves, as Kubernetes has it"));
        };
        let default_address = if environment.contains_key("KUBERNETES_SERVICE_HOST") {
            "https://istiod.istio-system.svc:15012"
        } else {
            "https://localhost:15012"
        };
        let xds_address = set(self.xds_address.as_deref()).unwrap_or(default_address);
        let ca_address = set(self.ca_address.as_deref()).unwrap_or(xds_address);
        let control_plane = |name, address, roots: &str, alternative: Option<&str>, headers| {
            Ok(ControlPlaneConfig {
                address: parse::<ControlPlaneAddress>(name, address)?,
                roots: RootSource::parse(set(Some(roots)).unwrap_or(DEFAULT_ROOTS)),
                alternative_name: set(alternative).map(str::to_owned),
                token: TokenSource::parse(&self.auth_token),
                cluster_id: cluster_id.clone(),
                headers: foreign::headers(environment, headers),
                packet_mark: Some(PACKET_MARK),
            })
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
        let dns = self.dns.check()?;
        if on_demand && dns.port.is_some() {
            let problem = "the DNS proxy must know all names; leave this out, or set ISTIO_META_DNS_CAPTURE=false here and \
                           AMBIENT_DNS_CAPTURE=false for the agent";
            return Err(wrong("XDS_ON_DEMAND", &self.xds_on_demand, problem));
        }
        let trust_domain = set(Some(&self.trust_domain)).unwrap_or(TrustDomain::DEFAULT);
        let explicit = set(self.connection_termination_deadline.as_deref())
            .map(|text| duration("CONNECTION_TERMINATION_DEADLINE", text))
            .transpose()?;
        Ok(Config {
            xds: control_plane(
                "XDS_ADDRESS",
                xds_address,
                &self.xds_root_ca,
                self.alt_xds_hostname.as_deref(),
                "XDS_HEADER_",
            )?,
            ca: control_plane(
                "CA_ADDRESS",
                ca_address,
                &self.ca_root_ca,
                self.alt_ca_hostname.as_deref(),
                "CA_HEADER_",
            )?,
            node: NodeInfo {
                pod_name: self.pod_name,
                namespace: self.pod_namespace,
                address: address.map(str::to_owned),
                node_name,
                metadata,
            },
            on_demand,
            demand_wait: limited(self.xds_demand_wait.as_deref(), &limits::XDS_DEMAND_WAIT)?,
            state_directory: self.state_dir.filter(|directory| !directory.as_os_str().is_empty()),
            store_interval: limited(self.xds_store_interval.as_deref(), &limits::XDS_STORE_INTERVAL)?,
            node_socket: self.inpod_uds,
            trust_domain: TrustDomain::new(trust_domain)
                .map_err(|error| wrong("TRUST_DOMAIN", trust_domain, &error.to_string()))?,
            network: self.network,
            service_account: self.service_account,
            ipv6: switch("IPV6_ENABLED", &self.ipv6_enabled)?,
            preserve_source: switch("ENABLE_ORIG_SRC", &self.enable_orig_src)?,
            certificate_lifetime: lifetime(&self.secret_ttl)?,
            drain_deadline: drain::deadline(explicit, grace),
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
        serde_json::json!({
            "xdsAddress": self.xds.address.to_string(),
            "caAddress": self.ca.address.to_string(),
            "xdsRootCert": self.xds.roots.to_string(),
            "caRootCert": self.ca.roots.to_string(),
            "clusterId": self.xds.cluster_id,
            "localNode": self.node.node_name,
            "xdsOnDemand": self.on_demand,
            "stateDirectory": self.state_directory,
            "inpodUds": self.node_socket,
            "trustDomain": self.trust_domain.to_string(),
            "network": self.network,
            "ipv6Enabled": self.ipv6,
            "enableOriginalSource": self.preserve_source,
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
    let Some(text) = set(Some(text)) else { return Ok(true) };
    parse_bool(text).map_err(|error| wrong(name, text, &error.to_string()))
}

fn duration(name: &str, text: &str) -> Result<Duration, SettingError> {
    parse_duration(text.trim()).map_err(|error| wrong(name, text, &error.to_string()))
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

fn lifetime(text: &str) -> Result<Duration, SettingError> {
    let Some(text) = set(Some(text)) else { return Ok(limits::CERTIFICATE_LIFETIME.duration()) };
    within("SECRET_TTL", text, &limits::CERTIFICATE_LIFETIME)
}

/// What a limit is set to by its own variable.
fn limited(text: Option<&str>, limit: &limits::Limit) -> Result<Duration, SettingError> {
    match set(text) {
        Some(text) => within(limit.variable.unwrap_or(limit.name), text, limit),
        None => Ok(limit.duration()),
    }
}

/// A duration that a limit allows.
fn within(name: &str, text: &str, limit: &limits::Limit) -> Result<Duration, SettingError> {
    let value = duration(name, text)?;
    let milliseconds = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    limit.check(milliseconds).map_err(|error| wrong(name, text, &error.to_string()))?;
    Ok(value)
}

#[cfg(test)]
mod tests;
