//! Settings of the DNS proxy.

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use fairway_core::config::SettingError;
use fairway_core::dns::Zone;

use super::{set, switch, wrong};
use fairway_core::io::dns::resolvers::{RESOLVER_PORT, Resolvers};

/// What Istio calls the address that capture rules redirect to.
const DEFAULT_ADDRESS: &str = "localhost:15053";

/// The DNS proxy's flags.
#[derive(Clone, Debug, Args)]
pub struct DnsArguments {
    /// Answer the pods' captured DNS queries about names of the mesh; the others go to the resolvers
    #[arg(long, env = "ISTIO_META_DNS_CAPTURE", value_name = "BOOL", default_value = "true")]
    pub dns_capture: String,
    /// Where captured queries arrive in each pod: loopback, and the port that the node agent's rules know
    #[arg(long, env = "ISTIO_META_DNS_PROXY_ADDR", value_name = "ADDRESS", default_value = DEFAULT_ADDRESS)]
    pub dns_proxy_addr: String,
    /// Resolvers to ask instead of those in /etc/resolv.conf: addresses, with a port if it is not 53, separated by commas
    #[arg(long, env = "DNS_RESOLVERS", value_name = "ADDRESSES")]
    pub dns_resolvers: Option<String>,
    /// DNS domain of the cluster
    #[arg(long, env = "CLUSTER_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Of several services with one hostname, none of them the client's own or canonical, the one of this namespace wins
    // Istio's spelling.
    #[arg(long, env = "PREFERED_SERVICE_NAMESPACE", value_name = "NAME")]
    pub prefered_service_namespace: Option<String>,
}

/// The DNS proxy's settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// The port in each pod; none if queries are not served.
    pub port: Option<u16>,
    /// What gives short names their meaning.
    pub zone: Zone,
    /// Resolvers to ask; none for those of this machine.
    pub fixed_resolvers: Option<Vec<SocketAddr>>,
}

impl DnsArguments {
    pub(super) fn check(self) -> Result<DnsConfig, SettingError> {
        let port = port(set(Some(&self.dns_proxy_addr)).unwrap_or(DEFAULT_ADDRESS))?;
        let domain = set(Some(&self.cluster_domain)).unwrap_or("cluster.local").trim_matches('.').to_ascii_lowercase();
        let fixed_resolvers = set(self.dns_resolvers.as_deref()).map(resolvers).transpose()?;
        Ok(DnsConfig {
            port: switch("ISTIO_META_DNS_CAPTURE", &self.dns_capture)?.then_some(port),
            zone: Zone {
                domain: domain.into(),
                preferred_namespace: set(self.prefered_service_namespace.as_deref()).map(Into::into),
            },
            fixed_resolvers,
        })
    }
}

impl DnsConfig {
    /// The resolvers to ask.
    #[must_use]
    pub fn resolvers(&self) -> Resolvers {
        match &self.fixed_resolvers {
            Some(resolvers) => Resolvers::fixed(resolvers),
            None => Resolvers::of_machine(),
        }
    }
}

/// The port of an address on loopback: nothing else makes sense in a pod.
fn port(text: &str) -> Result<u16, SettingError> {
    let problem = || {
        wrong("ISTIO_META_DNS_PROXY_ADDR", text, "write localhost and a port; the agent's rules send queries to 15053")
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    port.parse().ok().filter(|port| is_loopback && *port != 0).ok_or_else(problem)
}

fn resolvers(text: &str) -> Result<Vec<SocketAddr>, SettingError> {
    let read = |word: &str| {
        let with_default = |ip| SocketAddr::new(ip, RESOLVER_PORT);
        let address = word.parse::<SocketAddr>().ok().or_else(|| word.parse::<IpAddr>().ok().map(with_default));
        let problem = "write IP addresses separated by commas, with a port if it is not 53: 10.96.0.10,[fd00::a]:5353";
        address.filter(|address| address.port() != 0).ok_or_else(|| wrong("DNS_RESOLVERS", word, problem))
    };
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(read).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        dns: DnsArguments,
    }

    fn checked(words: &[&str]) -> Result<DnsConfig, String> {
        let line = ["ztunnel"].iter().chain(words).copied();
        Flags::try_parse_from(line).unwrap().dns.check().map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_and_empty_values() {
        let config = checked(&[]).unwrap();
        assert_eq!(config, DnsConfig { port: Some(15053), zone: Zone::default(), fixed_resolvers: None });
        let empty = [
            "--dns-capture=",
            "--dns-proxy-addr=",
            "--dns-resolvers=",
            "--cluster-domain=",
            "--prefered-service-namespace=",
        ];
        assert_eq!(checked(&empty), Ok(config));
    }

    #[test]
    fn everything_set() {
        let config = checked(&[
            "--dns-proxy-addr=[::1]:5300",
            "--dns-resolvers=10.96.0.10, fd00::a,[fd00::b]:5353",
            "--cluster-domain=.Example.ORG.",
            "--prefered-service-namespace=shop",
        ])
        .unwrap();
        let resolvers = ["10.96.0.10:53", "[fd00::a]:53", "[fd00::b]:5353"].map(|text| text.parse().unwrap());
        assert_eq!(config.fixed_resolvers.as_deref(), Some(&resolvers[..]));
        assert_eq!((config.port, &*config.zone.domain), (Some(5300), "example.org"));
        assert_eq!(config.zone.preferred_namespace.as_deref(), Some("shop"));
        assert_eq!(checked(&["--dns-capture=false"]).unwrap().port, None);
    }

    #[test]
    fn mistakes_name_the_variable() {
        for (word, expected) in [
            ("--dns-capture=maybe", "ISTIO_META_DNS_CAPTURE"),
            ("--dns-proxy-addr=10.0.0.1:15053", "ISTIO_META_DNS_PROXY_ADDR"),
            ("--dns-proxy-addr=localhost", "ISTIO_META_DNS_PROXY_ADDR"),
            ("--dns-proxy-addr=localhost:0", "ISTIO_META_DNS_PROXY_ADDR"),
            ("--dns-resolvers=10.0.0.1,dns.example.com", "DNS_RESOLVERS=\"dns.example.com\""),
            ("--dns-resolvers=10.0.0.1:0", "DNS_RESOLVERS"),
        ] {
            let error = checked(&[word]).unwrap_err();
            assert!(error.starts_with(expected), "{word}: {error}");
        }
    }
}
