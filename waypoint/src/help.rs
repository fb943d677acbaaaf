//! What the waypoint says of itself: its environment, as `--help` lists it.

use std::fmt::Write as _;

use fairway_core::limits;

/// Variables that are read, besides those of the limits, and what each is.
const VARIABLES: [(&str, &str); 24] = [
    ("POD_NAMESPACE", "namespace of the pod; needed"),
    ("POD_NAME", "name of the pod; needed"),
    ("SERVICE_ACCOUNT", "service account of the pod; needed"),
    ("XDS_ADDRESS", "where the controller is, such as https://controller:15012; needed"),
    ("CA_ADDRESS", "where certificates are signed; without it, XDS_ADDRESS"),
    ("CLUSTER_ID", "name of the cluster, Kubernetes without it"),
    ("ALT_XDS_HOSTNAME", "name in the certificate of the controller, where it is not that of its address"),
    ("AUTH_TOKEN", "file of the service-account token"),
    ("INSTANCE_IP", "address of the pod"),
    ("NETWORK", "network of the pod"),
    ("GATEWAY_NAME", "the Gateway that it was made of"),
    ("XDS_ROOT_CA", "file of the roots that the controller is checked against"),
    ("CA_ROOT_CA", "file of the roots that who signs is checked against"),
    ("NODE_NAME", "node of the pod"),
    ("COMPLIANCE_POLICY", "key exchanges of tunnels, as for node proxies"),
    ("WAYPOINT_WORKER_THREADS", "threads, 1 to 1024; without it, as many as processors"),
    ("DRAIN_DEADLINE", "how long open connections may last when it stops, 50s without it"),
    ("LOG_FORMAT", "plain or json"),
    ("RUST_LOG", "what is logged, info without it"),
    ("HBONE_PORT", "port of tunnels, 15008 without it"),
    ("ADMIN_PORT", "port of operators, on loopback, 15000 without it"),
    ("STATS_PORT", "port of metrics, 15020 without it"),
    ("READINESS_PORT", "port of readiness, 15021 without it"),
    ("DNS_RESOLVERS", "who is asked for names of endpoints, instead of /etc/resolv.conf: addresses, by commas"),
];
/// Where what a variable is begins.
const COLUMN: usize = 26;

/// What it says when it is asked for its version.
#[must_use]
pub fn version() -> String {
    format!("waypoint {}\n", env!("CARGO_PKG_VERSION"))
}

/// What it says when it is asked for help.
#[must_use]
pub fn help() -> String {
    let mut text = String::from(
        "Proxy of the mesh that looks into requests, of a namespace, a service account or services\n\n\
         Usage: waypoint\n\n\
         The controller gives its pods what they need, as variables of the environment; there are no flags.\n\
         What a user may set comes from annotations of the Gateway and from the chart: docs/guides/waypoint.md\n\n\
         Options:\n  -h, --help     Print help\n  -V, --version  Print version\n\nEnvironment:\n",
    );
    let mut row = |name: &str, told: &str| {
        let _ = writeln!(text, "  {name:<COLUMN$} {told}");
    };
    VARIABLES.iter().for_each(|(name, told)| row(name, told));
    text.push_str("\nLimits, each a variable of the environment: docs/reference/limits.md\n");
    for limit in limits::ALL {
        let (unit, default) = (limit.unit.as_str(), limit.default);
        if let Some(variable) = limit.variable {
            let _ = writeln!(text, "  {variable:<36} {default} {unit}, {} to {}", limit.minimum, limit.maximum);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_variable_that_is_read_is_told_of() {
        let code = include_str!("settings.rs").split("#[cfg(test)]\nmod tests").next().unwrap();
        let is_name =
            |text: &&str| text.len() > 3 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        let read: BTreeSet<&str> = code.split('"').skip(1).step_by(2).filter(is_name).collect();
        let told: BTreeSet<&str> = VARIABLES.iter().map(|(name, _)| *name).collect();
        assert_eq!(told, read);
    }

    #[test]
    fn lines_fit_a_terminal_and_limits_are_there() {
        let text = help();
        assert!(text.lines().all(|line| line.chars().count() <= 115), "{text}");
        assert!(text.contains("  CONNECT_TIMEOUT ") && text.contains("10000 ms, 100 to 600000"), "{text}");
    }
}
