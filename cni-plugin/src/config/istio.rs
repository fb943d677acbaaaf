//! Settings of Istio's istio-cni that mean nothing here: taken, so that its manifests work, and named when they ask for
//! something else than what is done anyway. Those that do mean something are flags of the agent's own.

/// A setting, the value that asks for what is done anyway, and why no value changes anything.
type Setting = (&'static str, &'static str, &'static str);

const KUBECONFIG: &str = "the plugin asks the agent and needs no kubeconfig";
const ENTRY: &str = "the plugin's entry is made from the agent's own settings";
const REPAIR: &str = "there is nothing to repair: a pod that should be captured does not start before it is";
const IDENTITY: &str = "the agent is known by the name of its node";

/// All of interoperability notes §12.2 that are not flags.
const SETTINGS: [Setting; 29] = [
    ("CHAINED_CNI_PLUGIN", "true", "the plugin makes no network of its own, so it always follows one that does"),
    ("CNI_NETWORK_CONFIG", "", ENTRY),
    ("CNI_NETWORK_CONFIG_FILE", "", ENTRY),
    ("KUBECONFIG_MODE", "", KUBECONFIG),
    ("KUBE_CA_FILE", "", KUBECONFIG),
    ("SKIP_TLS_VERIFY", "false", KUBECONFIG),
    ("CNI_CONF_GROUP_READ", "false", "configurations are readable by their owner alone"),
    ("LOG_LEVEL", "", "the plugin says what went wrong and nothing else; RUST_LOG is for the agent"),
    ("AMBIENT_ENABLED", "true", "this agent does nothing else"),
    ("ENABLE_AMBIENT_DETECTION_RETRY", "true", "the plugin always waits until the agent has seen its pod"),
    ("REPAIR_ENABLED", "false", REPAIR),
    ("REPAIR_REPAIR_PODS", "false", REPAIR),
    ("REPAIR_DELETE_PODS", "false", REPAIR),
    ("REPAIR_LABEL_PODS", "false", REPAIR),
    ("REPAIR_NODE_NAME", "", REPAIR),
    ("REPAIR_SIDECAR_ANNOTATION", "", REPAIR),
    ("REPAIR_INIT_CONTAINER_NAME", "", REPAIR),
    ("REPAIR_INIT_CONTAINER_EXIT_CODE", "", REPAIR),
    ("REPAIR_BROKEN_POD_LABEL_KEY", "", REPAIR),
    ("REPAIR_BROKEN_POD_LABEL_VALUE", "", REPAIR),
    ("REPAIR_LABEL_SELECTORS", "", REPAIR),
    ("REPAIR_FIELD_SELECTORS", "", REPAIR),
    ("AMBIENT_RECONCILE_POD_RULES_ON_STARTUP", "true", "rules are compared at the start and ever after"),
    ("NATIVE_NFTABLES", "true", "nftables is used wherever it works; FORCE_IPTABLES_BINARY asks for iptables"),
    ("AMBIENT_USE_SCOPED_XTABLES_LOCKING", "", "nftables needs no lock, and iptables waits for its own"),
    ("AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE", "false", "probes pass as they are, and the node's routes are left alone"),
    ("ALLOW_SWITCH_TO_HOST_NS", "", "nothing is written into the node's own network"),
    ("POD_NAME", "", IDENTITY),
    ("REVISION", "", IDENTITY),
];

/// The settings in an environment that are not followed, and why not.
pub fn ignored(variable: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, &'static str)> {
    let is_other = |name: &str, done: &str| {
        variable(name).is_some_and(|value| !value.is_empty() && !value.eq_ignore_ascii_case(done))
    };
    let others = SETTINGS.into_iter().filter(|(name, done, _)| is_other(name, done));
    others.map(|(name, _, why)| (name, why)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::config::Config;
    use crate::enroll::Selectors;
    use crate::install::Place;
    use crate::kernel::{Backend, Tools};

    /// Every name in interoperability notes §12.2.
    const ALL: [&str; 48] = [
        "CNI_CONF_NAME",
        "CHAINED_CNI_PLUGIN",
        "CNI_NETWORK_CONFIG",
        "CNI_NETWORK_CONFIG_FILE",
        "ISTIO_OWNED_CNI_CONFIG",
        "ISTIO_OWNED_CNI_CONFIG_FILENAME",
        "ISTIO_OWNED_CNI_CONF_FILENAME",
        "MOUNTED_CNI_NET_DIR",
        "CNI_AGENT_RUN_DIR",
        "KUBECONFIG_MODE",
        "CNI_CONF_GROUP_READ",
        "KUBE_CA_FILE",
        "SKIP_TLS_VERIFY",
        "LOG_LEVEL",
        "MONITORING_PORT",
        "AMBIENT_ENABLED",
        "ZTUNNEL_UDS_ADDRESS",
        "ENABLE_AMBIENT_DETECTION_RETRY",
        "REPAIR_ENABLED",
        "REPAIR_REPAIR_PODS",
        "REPAIR_DELETE_PODS",
        "REPAIR_LABEL_PODS",
        "REPAIR_NODE_NAME",
        "REPAIR_SIDECAR_ANNOTATION",
        "REPAIR_INIT_CONTAINER_NAME",
        "REPAIR_INIT_CONTAINER_EXIT_CODE",
        "REPAIR_BROKEN_POD_LABEL_KEY",
        "REPAIR_BROKEN_POD_LABEL_VALUE",
        "REPAIR_LABEL_SELECTORS",
        "REPAIR_FIELD_SELECTORS",
        "AMBIENT_ENABLEMENT_SELECTOR",
        "AMBIENT_DNS_CAPTURE",
        "AMBIENT_IPV6",
        "AMBIENT_RECONCILE_POD_RULES_ON_STARTUP",
        "AMBIENT_DISABLE_SAFE_UPGRADE",
        "NATIVE_NFTABLES",
        "FORCE_IPTABLES_BINARY",
        "HOST_PROBE_SNAT_IP",
        "HOST_PROBE_SNAT_IPV6",
        "AMBIENT_USE_SCOPED_XTABLES_LOCKING",
        "AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE",
        "ALLOW_SWITCH_TO_HOST_NS",
        "EXCLUDE_NAMESPACES",
        "POD_NAMESPACE",
        "SYSTEM_NAMESPACE",
        "NODE_NAME",
        "POD_NAME",
        "REVISION",
    ];

    /// The flag that has this environment name.
    fn flag(name: &str) -> Option<String> {
        let command = Config::command();
        let argument = command.get_arguments().find(|argument| argument.get_env().is_some_and(|env| env == name))?;
        argument.get_long().map(|long| format!("--{long}"))
    }

    /// As the environment would set it, which a test cannot change for itself alone.
    fn with(name: &str, value: &str) -> Result<Config, String> {
        let flag = flag(name).ok_or(format!("no flag for {name}"))?;
        let start = ["agent", "--manifests", "m"].map(str::to_owned);
        let node = if name == "NODE_NAME" { vec![] } else { vec!["--node-name=n".to_owned()] };
        // One that takes no value is set by `true`.
        let takes_value = name != "AMBIENT_DISABLE_SAFE_UPGRADE";
        let set = if takes_value { format!("{flag}={value}") } else { flag };
        let arguments = start.into_iter().chain(node).chain([set]);
        let matches = Config::command().try_get_matches_from(arguments).map_err(|error| error.to_string())?;
        Config::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn every_name_is_a_flag_or_named_as_ignored_and_never_both() {
        for name in ALL {
            let is_ignored = SETTINGS.iter().any(|(ignored, ..)| *ignored == name);
            assert_ne!(is_ignored, flag(name).is_some(), "{name}");
        }
    }

    #[test]
    fn names_with_a_meaning_have_it() {
        type Check = fn(&Config) -> bool;
        let selector = "[{podSelector: {matchLabels: {mesh: 'on'}}}]";
        let rows: [(&str, &str, Check); 24] = [
            ("CNI_CONF_NAME", "05-a.conflist", |it| it.install().place == Place::Named("05-a.conflist".to_owned())),
            ("CNI_CONF_NAME", "", |it| it.install().place == Place::First),
            ("ISTIO_OWNED_CNI_CONFIG", "true", |it| matches!(it.install().place, Place::Owned(_))),
            ("ISTIO_OWNED_CNI_CONFIG_FILENAME", "01-x.conflist", |it| it.owned_file() == "01-x.conflist"),
            // As Istio's chart writes it.
            ("ISTIO_OWNED_CNI_CONF_FILENAME", "01-y.conflist", |it| it.owned_file() == "01-y.conflist"),
            ("MOUNTED_CNI_NET_DIR", "/net", |it| it.install().net_dir.as_os_str() == "/net"),
            ("CNI_AGENT_RUN_DIR", "/agent", |it| it.install().run_dir.as_os_str() == "/agent"),
            ("MONITORING_PORT", "15014", |it| it.monitoring().port() == 15014),
            ("ZTUNNEL_UDS_ADDRESS", "/z.sock", |it| it.ztunnel_uds_address.as_os_str() == "/z.sock"),
            ("AMBIENT_ENABLEMENT_SELECTOR", selector, |it| it.rules().selectors != Selectors::default()),
            ("AMBIENT_ENABLEMENT_SELECTOR", "", |it| it.rules().selectors == Selectors::default()),
            ("AMBIENT_DNS_CAPTURE", "false", |it| !it.rules().defaults.dns),
            ("AMBIENT_IPV6", "false", |it| !it.rules().defaults.ipv6),
            ("AMBIENT_DISABLE_SAFE_UPGRADE", "true", |it| it.cleanup_on_exit),
            ("FORCE_IPTABLES_BINARY", "legacy", |it| it.backends() == [Backend::Iptables(Tools::Legacy)]),
            ("FORCE_IPTABLES_BINARY", "nft", |it| it.backends() == [Backend::Iptables(Tools::Nft)]),
            ("FORCE_IPTABLES_BINARY", "", |it| it.backends() == Backend::ALL),
            ("HOST_PROBE_SNAT_IP", "169.254.7.127", |it| it.rules().defaults.probes.sources.len() == 1),
            ("HOST_PROBE_SNAT_IPV6", "fd16::1", |it| it.rules().defaults.probes.sources.len() == 1),
            ("EXCLUDE_NAMESPACES", "a,b", |it| it.rules().excluded_namespaces.contains("b")),
            ("POD_NAMESPACE", "agents", |it| it.rules().excluded_namespaces.contains("agents")),
            ("SYSTEM_NAMESPACE", "sys", |it| it.rules().excluded_namespaces.contains("sys")),
            ("NODE_NAME", "node-9", |it| it.node_name == "node-9"),
            ("AMBIENT_IPV6", "true", |it| it.rules().defaults.ipv6),
        ];
        for (name, value, check) in rows {
            let config = with(name, value).unwrap_or_else(|error| panic!("{name}={value}: {error}"));
            assert!(check(&config), "{name}={value}");
        }
        let has_a_row = |name: &&str| rows.iter().any(|(row, ..)| row == name);
        let flags: Vec<&str> = ALL.into_iter().filter(|name| flag(name).is_some()).collect();
        assert_eq!(flags.iter().filter(|name| !has_a_row(name)).count(), 0, "{flags:?}");
        for (name, value) in [("FORCE_IPTABLES_BINARY", "best"), ("AMBIENT_ENABLEMENT_SELECTOR", "- pods: {}")] {
            assert!(with(name, value).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn what_asks_for_something_else_is_named() {
        let said = |set: &[(&str, &str)]| {
            let set: BTreeMap<&str, &str> = set.iter().copied().collect();
            ignored(|name| set.get(name).map(|value| (*value).to_owned()))
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        assert_eq!(said(&[]), [""; 0]);
        assert_eq!(said(&[("CHAINED_CNI_PLUGIN", "true"), ("AMBIENT_ENABLED", "True"), ("REVISION", "")]), [""; 0]);
        let set = [("CHAINED_CNI_PLUGIN", "false"), ("NATIVE_NFTABLES", "false"), ("REPAIR_ENABLED", "true")];
        assert_eq!(said(&set), ["CHAINED_CNI_PLUGIN", "REPAIR_ENABLED", "NATIVE_NFTABLES"]);
    }
}
