//! Settings: the environment that the controller gives a waypoint's pods, checked once and immutable afterwards.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fairway_core::config::{ControlPlaneAddress, SettingError, Strings, parse_duration, read, read_limits, read_with};
use fairway_core::io::dns::resolvers::Resolvers;
use fairway_core::io::grpc::{ControlPlaneConfig, RootSource, TokenSource};
use fairway_core::io::logging::Shape;
use fairway_core::io::tls::profile::Profile;
use fairway_core::io::xds::NodeInfo;
use fairway_core::limits::Limits;

/// Where the controller's root is, unless the environment says otherwise.
const ROOT: &str = "/var/run/secrets/fairway/trust/root-cert.pem";
/// Where the token is.
const TOKEN: &str = "/var/run/secrets/fairway/token/token";
/// Longest time for connections to end, of the minute that the pod has.
const DRAIN: Duration = Duration::from_secs(50);

/// The settings, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Configuration server.
    pub xds: ControlPlaneConfig,
    /// Certificate authority.
    pub ca: ControlPlaneConfig,
    /// Who we are to the configuration server.
    pub node: NodeInfo,
    /// Our own service account.
    pub service_account: String,
    /// Key exchanges of tunnels.
    pub tls_profile: Profile,
    /// Every bound.
    pub limits: Limits,
    /// Threads that carry connections.
    pub worker_threads: usize,
    /// How long open connections may last when we stop.
    pub drain: Duration,
    /// Shape of log lines.
    pub log_shape: Shape,
    /// What is logged.
    pub log_filter: String,
    /// Who is asked for the addresses of names.
    pub resolvers: Resolvers,
    /// Ports.
    pub ports: Ports,
}

/// Ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Tunnels.
    pub tunnels: u16,
    /// Operators, on loopback.
    pub admin: u16,
    /// Metrics.
    pub stats: u16,
    /// Readiness.
    pub readiness: u16,
}

impl Settings {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// Names the first setting that cannot be used and what to write.
    pub fn read(strings: &impl Strings) -> Result<Self, SettingError> {
        let text = |name: &str| strings.get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let needed = |name: &str, problem: &str| text(name).ok_or_else(|| empty(name, problem));
        let namespace = needed("POD_NAMESPACE", "write the namespace of this waypoint's pod")?;
        let pod_name = needed("POD_NAME", "write the name of this waypoint's pod")?;
        let service_account = needed("SERVICE_ACCOUNT", "write the service account of this waypoint's pod")?;
        needed("XDS_ADDRESS", "write where the controller is, such as https://controller:15012")?;
        let Some(xds_address) = read::<ControlPlaneAddress>(strings, "XDS_ADDRESS")? else {
            return Err(empty("XDS_ADDRESS", "is missing"));
        };
        let ca_address = read(strings, "CA_ADDRESS")?.unwrap_or_else(|| xds_address.clone());
        let limits = read_limits(strings)?;
        let cluster_id = text("CLUSTER_ID").unwrap_or_else(|| "Kubernetes".to_owned());
        let control_plane = |address, roots: &str| ControlPlaneConfig {
            address,
            roots: RootSource::parse(&text(roots).unwrap_or_else(|| ROOT.to_owned())),
            alternative_name: text("ALT_XDS_HOSTNAME"),
            token: TokenSource::parse(&text("AUTH_TOKEN").unwrap_or_else(|| TOKEN.to_owned())),
            cluster_id: cluster_id.clone(),
            headers: Vec::new(),
            packet_mark: None,
            limits: limits.clone(),
        };
        let address: Option<IpAddr> = read(strings, "INSTANCE_IP")?;
        let mut metadata = BTreeMap::from([("CLUSTER_ID".to_owned(), cluster_id.clone().into())]);
        for (setting, key) in [("NETWORK", "NETWORK"), ("GATEWAY_NAME", "GATEWAY_NAME")] {
            metadata.extend(text(setting).map(|value| (key.to_owned(), value.into())));
        }
        let port = |name: &str, otherwise: u16| Ok::<_, SettingError>(read(strings, name)?.unwrap_or(otherwise));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = |text: &str| match text.parse::<usize>() {
            Ok(threads) if (1..=1024).contains(&threads) => Ok(threads),
            _ => Err("write a number from 1 to 1024"),
        };
        Ok(Self {
            xds: control_plane(xds_address, "XDS_ROOT_CA"),
            ca: control_plane(ca_address, "CA_ROOT_CA"),
            node: NodeInfo {
                pod_name,
                namespace,
                address: address.map(|address| address.to_string()),
                node_name: text("NODE_NAME").unwrap_or_default(),
                metadata,
            },
            service_account,
            tls_profile: read(strings, "COMPLIANCE_POLICY")?.unwrap_or(Profile::DEFAULT),
            worker_threads: read_with(strings, "WAYPOINT_WORKER_THREADS", threads)?.unwrap_or(cores),
            drain: read_with(strings, "DRAIN_DEADLINE", parse_duration)?.unwrap_or(DRAIN),
            log_shape: read(strings, "LOG_FORMAT")?.unwrap_or(Shape::Plain),
            log_filter: text("RUST_LOG").unwrap_or_else(|| "info".to_owned()),
            resolvers: resolvers(strings)?,
            ports: Ports {
                tunnels: port("HBONE_PORT", fairway_core::route::HBONE_PORT)?,
                admin: port("ADMIN_PORT", 15_000)?,
                stats: port("STATS_PORT", 15_020)?,
                readiness: port("READINESS_PORT", 15_021)?,
            },
            limits,
        })
    }
}

fn empty(name: &str, problem: &str) -> SettingError {
    SettingError { name: name.to_owned(), value: String::new(), problem: problem.to_owned() }
}

/// Those that are set, else those of this machine.
fn resolvers(strings: &impl Strings) -> Result<Resolvers, SettingError> {
    let fixed = read_with(strings, "DNS_RESOLVERS", Resolvers::parse)?;
    Ok(fixed.unwrap_or_else(Resolvers::of_machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let usual = [
            ("XDS_ADDRESS", "https://controller.fairway-system.svc:15012"),
            ("POD_NAMESPACE", "shop"),
            ("POD_NAME", "waypoint-0"),
            ("SERVICE_ACCOUNT", "waypoint"),
            ("INSTANCE_IP", "10.0.0.9"),
        ];
        usual.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_the_controller_gives_is_enough() {
        let settings = Settings::read(&given(&[("GATEWAY_NAME", "waypoint")])).unwrap();
        assert_eq!(settings.ca.address, settings.xds.address);
        assert_eq!(settings.node.message_of("waypoint").id, "waypoint~10.0.0.9~waypoint-0.shop~shop.svc.cluster.local");
        assert_eq!(settings.ports, Ports { tunnels: 15008, admin: 15000, stats: 15020, readiness: 15021 });
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let rows = [
            ("XDS_ADDRESS", ""),
            ("POD_NAME", ""),
            ("INSTANCE_IP", "here"),
            ("WAYPOINT_WORKER_THREADS", "0"),
            ("CONNECT_TIMEOUT", "soon"),
            ("HBONE_PORT", "70000"),
            ("DNS_RESOLVERS", "10.0.0.1,dns.example.com"),
        ];
        for (name, value) in rows {
            let error = Settings::read(&given(&[(name, value)])).unwrap_err();
            assert_eq!(error.name, name, "{error}");
        }
    }
}
