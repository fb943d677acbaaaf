//! The processes of a Kubernetes control plane: what each is started with, and the files they start from.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::certificates::{Authority, new_key};
use super::kubeconfig::{self, Credentials};
use crate::addresses::{self, UNDERLAY_V4, UNDERLAY_V6};
use crate::component::{Spec, environment};
use crate::error::{Doing, Result};
use crate::layout::Layout;
use crate::options::Config;
use crate::process::write_atomically;

/// Port of the API server, on the underlay.
pub(crate) const API_PORT: u16 = 6443;
/// Port of the API server's service.
const SERVICE_PORT: u16 = 443;
/// Where etcd serves its one client.
const ETCD: &str = "127.0.0.1:2379";
/// Where etcd would meet its peers.
const ETCD_PEERS: &str = "127.0.0.1:2380";
/// Ports of health and metrics, as upstream has them.
const MANAGER_PORT: u16 = 10257;
const SCHEDULER_PORT: u16 = 10259;
/// Who issues tokens, as verifiers know it.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Service accounts of the controller and of the agents, as the chart has them.
pub(crate) const CONTROLLER: &str = "fairway-controller";
pub(crate) const AGENT: &str = "fairway-cni";
/// Names by which pods know the API server.
const SERVER_NAMES: [&str; 5] =
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
/// Controllers of the manager that the lab has no use for: volumes, clouds, address pools of nodes.
const UNUSED_CONTROLLERS: [&str; 9] = [
    "-persistentvolume-attach-detach-controller",
    "-ephemeral-volume-controller",
    "-node-ipam-controller",
    "-persistentvolume-binder-controller",
    "-persistentvolume-expander-controller",
    "-persistentvolume-protection-controller",
    "-persistentvolumeclaim-protection-controller",
    "-resourceclaim-controller",
    "-ttl-after-finished-controller",
];

/// Writes keys, certificates and kubeconfigs of the lab's own clients. Those of manager and scheduler come once there is an
/// API server to talk to: [`admit`].
pub(crate) fn prepare(layout: &Layout) -> Result<Authority> {
    let directory = layout.kubernetes();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .doing(|| format!("creating {}", directory.display()))?;
    let authority = Authority::generate()?;
    let pair = authority.pair();
    write(&layout.kubernetes_authority(), &pair.certificate)?;
    write(&directory.join("ca.key"), &pair.key)?;
    let server = authority.server(&SERVER_NAMES, &server_addresses())?;
    write(&directory.join("server.crt"), &server.certificate)?;
    write(&directory.join("server.key"), &server.key)?;
    let tokens = new_key()?;
    write(&directory.join("service-account.key"), &tokens.serialize_pem())?;
    for account in [CONTROLLER, AGENT] {
        let token = layout.account_token(account);
        let own = kubeconfig::render(&inside(), &pair.certificate, &Credentials::Token(&token));
        write(&layout.account_kubeconfig(account), &own)?;
    }
    write(&layout.token_public_key(), &tokens.public_key_pem())?;
    Ok(authority)
}

/// Lets manager and scheduler in, which start when they find their kubeconfigs.
pub(crate) fn admit(layout: &Layout, authority: &Authority) -> Result<()> {
    for name in ["kube-controller-manager", "kube-scheduler"] {
        let pair = authority.client(&format!("system:{name}"), None)?;
        let text = kubeconfig::render(&inside(), &authority.pair().certificate, &Credentials::Certificate(&pair));
        write(&kubeconfig_of(layout, name), &text)?;
    }
    Ok(())
}

/// How programs in pods find the API server: by its service.
pub(crate) fn variables() -> Vec<(String, String)> {
    let host = first_service(addresses::SERVICES_V4).map(|address| address.to_string()).unwrap_or_default();
    vec![("KUBERNETES_SERVICE_HOST".to_owned(), host), ("KUBERNETES_SERVICE_PORT".to_owned(), SERVICE_PORT.to_string())]
}

/// Address of the API server inside the lab.
pub(crate) fn inside() -> String {
    format!("{UNDERLAY_V4}:{API_PORT}")
}

fn kubeconfig_of(layout: &Layout, name: &str) -> PathBuf {
    layout.kubernetes().join(format!("{name}.kubeconfig"))
}

/// The underlay, the loopback that the host's port leads to, and the first address of the services, which is the API's.
fn server_addresses() -> Vec<IpAddr> {
    let services = [addresses::SERVICES_V4, addresses::SERVICES_V6].map(first_service);
    let own = [UNDERLAY_V4.into(), UNDERLAY_V6.into(), IpAddr::from([127, 0, 0, 1])];
    own.into_iter().chain(services.into_iter().flatten()).collect()
}

fn first_service(network: &str) -> Option<IpAddr> {
    match network.split('/').next()?.parse().ok()? {
        IpAddr::V4(base) => Some((u32::from(base) + 1).to_be_bytes().into()),
        IpAddr::V6(base) => Some((u128::from(base) + 1).to_be_bytes().into()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, text.as_bytes())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).doing(|| format!("protecting {}", path.display()))
}

/// The four processes, in start order. None without a program to run.
pub(crate) fn specs(config: &Config, layout: &Layout) -> Vec<Spec> {
    let Some(program) = &config.binaries.kubernetes else { return Vec::new() };
    let spec = |part: &str, flags: Vec<(&str, String)>, requires: PathBuf, readiness: String| Spec {
        name: part.to_owned(),
        node: None,
        program: program.clone(),
        arguments: std::iter::once(part.to_owned())
            .chain(flags.into_iter().map(|(name, value)| format!("--{name}={value}")))
            .collect(),
        environment: environment(config, "kubernetes", part, &[]),
        requires: vec![requires],
        readiness,
    };
    let client = |part: &str, port: u16, own: Vec<(&'static str, String)>| {
        let kubeconfig = kubeconfig_of(layout, part);
        let flags = [of_client(layout, &kubeconfig, port), own].concat();
        spec(part, flags, kubeconfig, format!("https://127.0.0.1:{port}/healthz"))
    };
    let server = format!("https://{}/readyz", inside());
    vec![
        spec("etcd", etcd(layout), layout.kubernetes(), format!("http://{ETCD}/readyz")),
        spec("kube-apiserver", apiserver(layout), layout.kubernetes_authority(), server),
        client("kube-controller-manager", MANAGER_PORT, manager(layout)),
        client("kube-scheduler", SCHEDULER_PORT, Vec::new()),
    ]
}

fn file(layout: &Layout, name: &str) -> String {
    layout.kubernetes().join(name).to_string_lossy().into_owned()
}

fn etcd(layout: &Layout) -> Vec<(&'static str, String)> {
    vec![
        ("data-dir", file(layout, "etcd")),
        ("listen-client-urls", format!("http://{ETCD}")),
        ("advertise-client-urls", format!("http://{ETCD}")),
        ("listen-peer-urls", format!("http://{ETCD_PEERS}")),
        ("log-level", "warn".to_owned()),
        // The data goes with the lab.
        ("unsafe-no-fsync", "true".to_owned()),
    ]
}

fn apiserver(layout: &Layout) -> Vec<(&'static str, String)> {
    vec![
        ("etcd-servers", format!("http://{ETCD}")),
        ("bind-address", "::".to_owned()),
        ("secure-port", API_PORT.to_string()),
        ("advertise-address", UNDERLAY_V4.to_string()),
        ("service-cluster-ip-range", format!("{},{}", addresses::SERVICES_V4, addresses::SERVICES_V6)),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("client-ca-file", file(layout, "ca.crt")),
        ("tls-cert-file", file(layout, "server.crt")),
        ("tls-private-key-file", file(layout, "server.key")),
        ("service-account-issuer", ISSUER.to_owned()),
        ("service-account-key-file", layout.token_public_key().to_string_lossy().into_owned()),
        ("service-account-signing-key-file", file(layout, "service-account.key")),
        ("allow-privileged", "true".to_owned()),
        ("profiling", "false".to_owned()),
    ]
}

fn manager(layout: &Layout) -> Vec<(&'static str, String)> {
    let controllers = std::iter::once("*").chain(UNUSED_CONTROLLERS).collect::<Vec<_>>().join(",");
    vec![
        ("controllers", controllers),
        ("use-service-account-credentials", "true".to_owned()),
        ("service-account-private-key-file", file(layout, "service-account.key")),
        ("root-ca-file", file(layout, "ca.crt")),
        ("cluster-signing-cert-file", file(layout, "ca.crt")),
        ("cluster-signing-key-file", file(layout, "ca.key")),
    ]
}

/// Flags of whatever works for the API server.
fn of_client(layout: &Layout, kubeconfig: &Path, port: u16) -> Vec<(&'static str, String)> {
    let kubeconfig = kubeconfig.to_string_lossy().into_owned();
    vec![
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("bind-address", "127.0.0.1".to_owned()),
        ("secure-port", port.to_string()),
        ("tls-cert-file", file(layout, "server.crt")),
        ("tls-private-key-file", file(layout, "server.key")),
        ("profiling", "false".to_owned()),
        // There is one of each, and it is to work as soon as it runs.
        ("leader-elect", "false".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_is_known_by_the_address_that_pods_dial() {
        let addresses: Vec<String> = server_addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.99.0.1", "fd00:99::1", "127.0.0.1", "10.96.0.1", "fd00:96::1"]);
    }

    #[test]
    fn keys_are_nobodys_but_the_owners() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::at(directory.path());
        let authority = prepare(&layout).unwrap();
        admit(&layout, &authority).unwrap();
        for entry in fs::read_dir(layout.kubernetes()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
        }
        assert!(kubeconfig_of(&layout, "kube-scheduler").is_file());
    }
}
