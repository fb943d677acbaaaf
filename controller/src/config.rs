//! Flags and environment, checked once.

pub mod authority;
pub mod peers;
pub mod waypoints;
pub mod webhook;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fairway_core::ident::TrustDomain;

use crate::ca::authorize::Rules;
use crate::keys::Reach;
use crate::l7::mesh::{self, Mesh};
use crate::lifecycle::render::WaypointSettings;
use crate::mesh_config;
use crate::tls::Bounds;
use crate::translate::Settings;
use authority::{AuthorityArgs, AuthorityConfig};
use peers::PeerArgs;
use waypoints::WaypointArgs;
use webhook::{WebhookArgs, WebhookConfig};

/// Names the server's certificate always has.
const OWN_NAMES: [&str; 3] = ["fairway-controller.fairway-system.svc", "istiod.istio-system.svc", "localhost"];
/// Longest lifetime of workload certificates: beyond it a stolen key is worth too much.
const MAXIMUM_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// Turns Kubernetes objects into configuration and certificates for the proxies of a mesh.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "controller", version)]
pub struct Args {
    /// Where objects come from [default: directory].
    #[arg(long, value_enum, env = "FAIRWAY_SOURCE")]
    pub source: Option<SourceKind>,
    /// Directory of Kubernetes manifests to watch.
    #[arg(long, value_name = "DIR", env = "FAIRWAY_MANIFESTS")]
    pub manifests: Option<PathBuf>,
    /// How to reach the API server [default: as a pod of the cluster].
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<String>,
    /// Name of this replica among others [default: a random one].
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub replica: Option<String>,
    /// Whether conditions are written to policies.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, env = "FAIRWAY_WRITE_STATUS")]
    pub write_status: bool,
    /// What becomes of traffic whose waypoint is missing or not ready.
    #[arg(long, value_enum, default_value = "refuse", env = "FAIRWAY_MISSING_WAYPOINT")]
    pub missing_waypoint: MissingWaypoint,
    /// Whom a ServiceEntry or WorkloadEntry outside the root namespace may mean something to.
    #[arg(long, value_enum, default_value = "mesh", env = "FAIRWAY_ENTRIES_REACH")]
    pub entries_reach: EntriesReach,
    /// Directory for what must survive a restart: the mesh's root, in ca/, and the last good version of every policy.
    #[arg(long, value_name = "DIR", env = "FAIRWAY_STATE_DIR")]
    pub state_dir: PathBuf,
    /// Address for proxies: discovery and certificates, gRPC over TLS.
    #[arg(long, default_value = "0.0.0.0:15012", env = "FAIRWAY_LISTEN")]
    pub listen: SocketAddr,
    /// Address for operators: readiness, metrics, debug pages, HTTP.
    #[arg(long, default_value = "127.0.0.1:15014", env = "FAIRWAY_ADMIN_LISTEN")]
    pub admin_listen: SocketAddr,
    /// PEM file with the public keys that sign service-account tokens [default: the API server is asked about tokens].
    #[arg(long, value_name = "FILE", env = "FAIRWAY_SERVICE_ACCOUNT_KEY")]
    pub service_account_key: Option<PathBuf>,
    /// Audience tokens must be for.
    #[arg(long, default_value = "istio-ca", env = "FAIRWAY_TOKEN_AUDIENCE")]
    pub token_audience: String,
    /// Issuer tokens must be from [default: https://kubernetes.default.svc.<cluster domain>].
    #[arg(long, env = "FAIRWAY_TOKEN_ISSUER")]
    pub token_issuer: Option<String>,
    /// Trust domain of all identities.
    #[arg(long, default_value = "cluster.local", env = "TRUST_DOMAIN")]
    pub trust_domain: String,
    /// Name of this cluster, the first part of workload uids.
    #[arg(long, default_value = "Kubernetes", env = "CLUSTER_ID")]
    pub cluster_id: String,
    /// DNS suffix of services.
    #[arg(long, default_value = "cluster.local", env = "FAIRWAY_CLUSTER_DOMAIN")]
    pub cluster_domain: String,
    /// Namespace whose policies without selector apply to the whole mesh.
    #[arg(long, default_value = "fairway-system", env = "FAIRWAY_ROOT_NAMESPACE")]
    pub root_namespace: String,
    /// Network of workloads that name none.
    #[arg(long, default_value = "", env = "NETWORK")]
    pub network: String,
    /// Service accounts, as namespace/name, that may ask for the identities on their node.
    #[arg(long, value_delimiter = ',', default_value = "fairway-system/ztunnel", env = "CA_TRUSTED_NODE_ACCOUNTS")]
    pub trusted_node_accounts: Vec<String>,
    /// Further DNS name or address for the server's certificate; can be repeated.
    #[arg(long, value_name = "NAME_OR_IP", value_delimiter = ',', env = "FAIRWAY_TLS_SAN")]
    pub tls_san: Vec<String>,
    /// Longest lifetime of workload certificates, such as 24h or 90m.
    #[arg(long, default_value = "24h", value_parser = duration, env = "DEFAULT_WORKLOAD_CERT_TTL")]
    pub workload_cert_ttl: Duration,
    /// About how long a proxy's stream may last before it must connect again, such as 30m; 0s for no limit.
    #[arg(long, default_value = "30m", value_parser = duration, env = "FAIRWAY_MAX_CONNECTION_AGE")]
    pub max_connection_age: Duration,
    /// Config map in which every namespace is told the mesh's root, as root-cert.pem; takes an API server, and an empty
    /// name leaves it out.
    #[arg(long, value_name = "NAME", default_value = "istio-ca-root-cert", env = "FAIRWAY_ROOT_CONFIG_MAP")]
    pub root_config_map: String,
    /// Hosts from which keys of tokens may be fetched: names, *.NAME, * for all that are not this machine or its link, or none.
    #[arg(long, value_name = "HOSTS", default_value = "*", env = "FAIRWAY_JWKS_HOSTS")]
    pub jwks_hosts: Reach,
    /// How long keys of tokens are good that cannot be fetched again, such as 24h; an issuer that says it has none is believed at once.
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = key_age, env = "FAIRWAY_JWKS_MAX_AGE")]
    pub jwks_max_age: Duration,
    /// File with Istio's mesh configuration, of which extensionProviders and defaultProviders are read: who AuthorizationPolicies
    /// with action CUSTOM may ask, whom Telemetries have told about requests (traces and access logs), who counts requests for
    /// RateLimits, and who sees and changes them for ExternalProcessors. Changes are followed.
    #[arg(long, value_name = "FILE", env = "FAIRWAY_MESH_CONFIG")]
    pub mesh_config: Option<PathBuf>,
    /// About the certificate authority.
    #[command(flatten)]
    pub authority: AuthorityArgs,
    /// About waypoints.
    #[command(flatten)]
    pub waypoints: WaypointArgs,
    /// About the webhook.
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// About how much peers may take.
    #[command(flatten)]
    pub peers: PeerArgs,
    /// Shape of log lines: plain or json.
    #[arg(long, default_value = "plain", env = "LOG_FORMAT")]
    pub log_format: String,
    /// What is logged, such as info or fairway_controller=debug,info.
    // The library says as an error, each time anew, what is said once and with its remedy here.
    #[arg(long, default_value = "info,kube_client=off", env = "RUST_LOG")]
    pub log: String,
}

/// Kinds of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceKind {
    /// A directory of manifests.
    Directory,
    /// The API server of a cluster.
    Kubernetes,
}

/// Whom entries for the world outside the cluster may mean something to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EntriesReach {
    /// All clients of the mesh, as with Istio.
    Mesh,
    /// Clients of the same namespace.
    Namespace,
}

/// What becomes of traffic whose waypoint is missing or not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MissingWaypoint {
    /// It is refused.
    Refuse,
    /// It goes without.
    Bypass,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// A directory of manifests.
    Directory(PathBuf),
    /// The API server that a kubeconfig names, or that of the cluster this runs in.
    Kubernetes(Option<PathBuf>),
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where objects come from.
    pub source: SourceConfig,
    /// Name among other replicas.
    pub replica: String,
    /// Whether conditions are written.
    pub write_status: bool,
    /// Directory for what must survive a restart.
    pub state_directory: PathBuf,
    /// Where the certificate authority is.
    pub authority: AuthorityConfig,
    /// Directory of the mesh's own root.
    pub ca_directory: PathBuf,
    /// Address for proxies.
    pub listen: SocketAddr,
    /// Address for operators.
    pub admin_listen: SocketAddr,
    /// File of keys that sign tokens; without one the API server is asked.
    pub service_account_key: Option<PathBuf>,
    /// Audience of tokens.
    pub token_audience: String,
    /// Issuer of tokens.
    pub token_issuer: String,
    /// What translation needs.
    pub settings: Settings,
    /// File of the mesh configuration, which is followed.
    pub mesh_config: Option<PathBuf>,
    /// Who may ask for which certificate.
    pub rules: Rules,
    /// Names of the server.
    pub server_names: Vec<String>,
    /// Longest lifetime of workload certificates.
    pub certificate_lifetime: Duration,
    /// Config map that tells every namespace the root, if any.
    pub root_config_map: Option<String>,
    /// How waypoints are made; not at all unless this is set.
    pub waypoints: Option<WaypointSettings>,
    /// Where the API server asks of what users apply.
    pub webhook: WebhookConfig,
    /// How much peers may take at the port for proxies.
    pub bounds: Bounds,
    /// How long streams may last.
    pub maximum_connection_age: Option<Duration>,
    /// From where keys of tokens may be fetched.
    pub jwks_hosts: Reach,
    /// How long those are good that cannot be fetched again.
    pub jwks_maximum_age: Duration,
}

/// Why settings are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The mesh configuration.
    #[error("--mesh-config {0}: {1}")]
    Mesh(PathBuf, String),
    /// Bad trust domain.
    #[error("--trust-domain {0:?}: {1}")]
    TrustDomain(String, fairway_core::ident::IdentityError),
    /// Bad account.
    #[error("--trusted-node-accounts {0:?}: write <namespace>/<service account>")]
    Account(String),
    /// Bad lifetime.
    #[error("--workload-cert-ttl must be from 1s to 90 days")]
    Lifetime,
    /// No place to read objects from.
    #[error("nothing says where objects are; give --manifests DIR, or --source kubernetes")]
    Source,
    /// No way to check tokens.
    #[error("--service-account-key is needed with a directory of manifests, as there is no API server to ask")]
    Tokens,
    /// Two authorities, or one where there is none.
    #[error("give either --ca-dir or --ca-secret, and the latter only with --source kubernetes")]
    Authority,
    /// Something is empty.
    #[error("--{0} must not be empty")]
    Empty(&'static str),
}

/// The mesh configuration, if there is one. One that says what cannot be used is told of by whoever follows the file: a controller
/// that did not start would serve nobody until it is mended. Until then there is no provider, and policies that name one refuse.
fn mesh(file: Option<&Path>) -> Result<Mesh, ConfigError> {
    let Some(file) = file else { return Ok(Mesh::default()) };
    let wrong = |problem: String| ConfigError::Mesh(file.to_owned(), problem);
    let text = mesh_config::text(file).map_err(|error| wrong(error.to_string()))?;
    Ok(mesh::read(&text).unwrap_or_default())
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        TrustDomain::new(&args.trust_domain)
            .map_err(|error| ConfigError::TrustDomain(args.trust_domain.clone(), error))?;
        for (flag, value) in [
            ("cluster-id", &args.cluster_id),
            ("cluster-domain", &args.cluster_domain),
            ("root-namespace", &args.root_namespace),
            ("token-audience", &args.token_audience),
        ] {
            if value.is_empty() {
                return Err(ConfigError::Empty(flag));
            }
        }
        if args.workload_cert_ttl.is_zero() || args.workload_cert_ttl > MAXIMUM_CERTIFICATE_LIFETIME {
            return Err(ConfigError::Lifetime);
        }
        let mut trusted = BTreeSet::new();
        for account in args.trusted_node_accounts.iter().map(|account| account.trim()).filter(|it| !it.is_empty()) {
            match account.split_once('/') {
                Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                    trusted.insert((namespace.to_owned(), name.to_owned()));
                }
                _ => return Err(ConfigError::Account(account.to_owned())),
            }
        }
        let mut server_names: Vec<String> = OWN_NAMES.map(str::to_owned).into();
        for name in args.tls_san {
            if !name.is_empty() && !server_names.contains(&name) {
                server_names.push(name);
            }
        }
        let source = match (args.source, args.manifests) {
            (None | Some(SourceKind::Directory), Some(directory)) => SourceConfig::Directory(directory),
            (Some(SourceKind::Kubernetes), _) => {
                let named = args.kubeconfig.filter(|path| !path.is_empty());
                SourceConfig::Kubernetes(named.map(PathBuf::from))
            }
            (None | Some(SourceKind::Directory), None) => return Err(ConfigError::Source),
        };
        if args.service_account_key.is_none() && matches!(source, SourceConfig::Directory(_)) {
            return Err(ConfigError::Tokens);
        }
        let is_cluster = matches!(source, SourceConfig::Kubernetes(_));
        let authority = args.authority.place(is_cluster).ok_or(ConfigError::Authority)?;
        let waypoints = args.waypoints.settings(
            &args.token_audience,
            &args.root_namespace,
            &args.cluster_domain,
            &args.cluster_id,
            &args.root_config_map,
        );
        let issuer = format!("https://kubernetes.default.svc.{}", args.cluster_domain);
        let mesh = mesh(args.mesh_config.as_deref())?;
        Ok(Self {
            source,
            waypoints,
            root_config_map: (!args.root_config_map.is_empty()).then_some(args.root_config_map),
            replica: args.replica.unwrap_or_else(|| format!("controller-{:016x}", rand::random::<u64>())),
            write_status: args.write_status,
            authority,
            ca_directory: args.state_dir.join("ca"),
            state_directory: args.state_dir,
            listen: args.listen,
            admin_listen: args.admin_listen,
            service_account_key: args.service_account_key,
            token_audience: args.token_audience,
            token_issuer: args.token_issuer.unwrap_or(issuer),
            rules: Rules { trusted, trust_domain: args.trust_domain.clone() },
            mesh_config: args.mesh_config,
            settings: Settings {
                cluster_id: args.cluster_id,
                cluster_domain: args.cluster_domain,
                trust_domain: args.trust_domain,
                root_namespace: args.root_namespace,
                network: args.network,
                mesh,
                lenient_waypoints: args.missing_waypoint == MissingWaypoint::Bypass,
                private_entries: args.entries_reach == EntriesReach::Namespace,
            },
            webhook: args.webhook.into(),
            bounds: args.peers.into(),
            server_names,
            certificate_lifetime: args.workload_cert_ttl,
            maximum_connection_age: (!args.max_connection_age.is_zero()).then_some(args.max_connection_age),
            jwks_hosts: args.jwks_hosts,
            jwks_maximum_age: args.jwks_max_age,
        })
    }
}

/// Less than two fetches apart, one that fails would take keys away; beyond a month nobody has withdrawn anything.
const KEY_AGES: RangeInclusive<Duration> = Duration::from_secs(10 * 60)..=Duration::from_secs(31 * 24 * 3600);

fn key_age(text: &str) -> Result<Duration, String> {
    let age = duration(text)?;
    if KEY_AGES.contains(&age) { Ok(age) } else { Err(format!("{text} must be 10m to 744h")) }
}

/// Reads durations such as `24h`, `1h30m`, `45s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write for example 24h, 90m or 3600s");
    let mut total = 0_u64;
    let mut number = String::new();
    for character in text.chars() {
        if character.is_ascii_digit() {
            number.push(character);
            continue;
        }
        let unit = match character {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(wrong()),
        };
        let amount: u64 = std::mem::take(&mut number).parse().map_err(|_| wrong())?;
        total = amount.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
    }
    if text.is_empty() || !number.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(total)) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let required = ["controller", "--manifests", "m", "--state-dir", "s", "--service-account-key", "k"];
        Args::try_parse_from(required.iter().chain(flags)).unwrap().try_into()
    }

    #[test]
    fn defaults() {
        let config = config(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:15012");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:15014");
        assert_eq!(config.settings, Settings::default());
        assert_eq!(config.token_issuer, "https://kubernetes.default.svc.cluster.local");
        assert_eq!(config.certificate_lifetime, Duration::from_secs(24 * 3600));
        assert_eq!(config.ca_directory, PathBuf::from("s/ca"));
        assert_eq!(config.maximum_connection_age, Some(Duration::from_secs(1800)));
        assert_eq!((config.bounds.connections, config.bounds.connections_of_one_peer), (20_000, 512));
        assert_eq!((config.bounds.handshakes, config.bounds.handshakes_of_one_peer), (256, 32));
        assert!(config.rules.trusted.contains(&("fairway-system".to_owned(), "ztunnel".to_owned())));
    }

    #[test]
    fn bounds_are_set_and_never_nothing() {
        let set = config(&["--max-connections-per-peer", "7", "--max-handshakes-per-peer", "3"]).unwrap();
        assert_eq!((set.bounds.connections_of_one_peer, set.bounds.handshakes_of_one_peer), (7, 3));
        let zero = ["controller", "--state-dir", "s", "--max-connections", "0"];
        assert!(Args::try_parse_from(zero).is_err());
    }

    #[test]
    fn sources() {
        let of = |flags: &[&str]| {
            let args = Args::try_parse_from(["controller", "--state-dir", "s"].iter().chain(flags)).unwrap();
            Config::try_from(args).map(|config| config.source)
        };
        let directory = SourceConfig::Directory(PathBuf::from("m"));
        assert_eq!(of(&["--manifests", "m", "--service-account-key", "k"]), Ok(directory));
        assert_eq!(of(&["--manifests", "m"]), Err(ConfigError::Tokens));
        assert_eq!(of(&[]), Err(ConfigError::Source));
        assert_eq!(of(&["--source", "directory"]), Err(ConfigError::Source));
        let named = SourceConfig::Kubernetes(Some(PathBuf::from("c")));
        assert_eq!(of(&["--source", "kubernetes", "--kubeconfig", "c"]), Ok(named));
        assert_eq!(of(&["--source", "kubernetes", "--kubeconfig", ""]), Ok(SourceConfig::Kubernetes(None)));
    }

    #[test]
    fn refused() {
        let rows: [(&[&str], ConfigError); 4] = [
            (&["--trusted-node-accounts", "a/b,c"], ConfigError::Account("c".to_owned())),
            (&["--workload-cert-ttl", "0s"], ConfigError::Lifetime),
            (&["--workload-cert-ttl", "2161h"], ConfigError::Lifetime),
            (&["--cluster-id", ""], ConfigError::Empty("cluster-id")),
        ];
        for (flags, expected) in rows {
            assert_eq!(config(flags).unwrap_err(), expected);
        }
        assert!(matches!(config(&["--trust-domain", "No"]), Err(ConfigError::TrustDomain(..))));
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("24h", Some(86_400)),
            ("1h30m", Some(5_400)),
            ("45s", Some(45)),
            ("", None),
            ("5", None),
            ("h", None),
            ("1d", None),
        ] {
            assert_eq!(duration(text).ok().map(|it| it.as_secs()), expected, "{text:?}");
        }
    }
}
