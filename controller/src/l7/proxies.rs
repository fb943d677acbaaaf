//! Who is believed about where requests come from: proxies that they pass before they come to a waypoint.
//!
//! How many there are, Istio's `numTrustedProxies` says. Who the last of them is, its certificate proves; nobody is believed who has not
//! been named, as every client in the mesh could write what proxies write (ADR 0041).

use std::collections::BTreeSet;

use fairway_core::source::gateway::Gateway;
use fairway_core::source::objects::annotation;
use serde::Deserialize;

use crate::translate::policy::values;
use crate::translate::{Fault, Settings};

/// Istio's annotation of a proxy, or of what it is made of.
const CONFIG: &str = "proxy.istio.io/config";
/// Annotation of a waypoint's gateway: service accounts of proxies before it, such as `istio-ingress/public-istio`.
const TRUSTED: &str = "fairway.dev/trusted-proxies";
/// More than any request has passed: of what cannot be read, nothing is believed.
const BEYOND: u32 = u32::MAX;

/// Who is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// How many of them a request has passed.
    pub hops: u32,
    /// Whom the last of them proves to be, as SPIFFE IDs.
    pub trusted: BTreeSet<String>,
}

/// What the mesh configuration says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    /// Proxies before gateways, as Istio counts them; none where nothing is said.
    before_gateways: Option<u32>,
    /// Namespaces and names of service accounts.
    trusted: Vec<Account>,
}

type Account = (String, String);

/// What is read of Istio's `ProxyConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ProxyConfig {
    gateway_topology: Option<Topology>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Topology {
    num_trusted_proxies: Option<u32>,
}

impl ProxyConfig {
    fn proxies(&self) -> Option<u32> {
        self.gateway_topology.as_ref()?.num_trusted_proxies
    }
}

impl Mesh {
    /// Reads what is said to all proxies, and `fairwayTrustedProxies`.
    ///
    /// # Errors
    /// A name that is none.
    pub(super) fn read(config: Option<&ProxyConfig>, trusted: &[String]) -> Result<Self, String> {
        let trusted: Result<_, String> = trusted.iter().map(|text| account(text, "")).collect();
        Ok(Self { before_gateways: config.and_then(ProxyConfig::proxies), trusted: trusted? })
    }

    /// What of it has no effect.
    pub(super) fn odd(&self) -> Option<String> {
        let is_idle = self.before_gateways.is_some() && self.trusted.is_empty();
        is_idle.then(|| {
            "defaultConfig.gatewayTopology.numTrustedProxies: waypoints believe nobody about where requests come from before \
             fairwayTrustedProxies names who their proxies are"
                .to_owned()
        })
    }

    /// How many proxies there are before a waypoint: Istio counts those before gateways, and a gateway is one more.
    fn hops(&self) -> u32 {
        self.before_gateways.map_or(0, |before| before.saturating_add(1))
    }
}

/// Who is believed at the waypoint of this gateway, and what is wrong with what it says.
#[must_use]
pub fn of(gateway: &Gateway, settings: &Settings) -> (Proxies, Vec<Fault>) {
    let (mesh, mut faults) = (&settings.mesh.proxies, Vec::new());
    let mut fault = |name: &str, message: String| {
        faults.push(Fault { field: format!("metadata.annotations[{name}]"), message });
    };
    // Annotations for the pods are there, too, where Istio looks for its own.
    let of_pods = || gateway.spec.infrastructure.annotations.get(CONFIG).map(String::as_str);
    let said = annotation(&gateway.metadata, CONFIG).or_else(of_pods);
    let said = said.map(serde_saphyr::from_str::<Option<ProxyConfig>>);
    let own = match said {
        None => None,
        Some(Ok(config)) => config.unwrap_or_default().proxies(),
        Some(Err(error)) => {
            fault(CONFIG, format!("cannot be read, so nobody is believed about where requests come from: {error}"));
            Some(BEYOND)
        }
    };
    let hops = own.unwrap_or_else(|| mesh.hops());
    let namespace = gateway.metadata.namespace.as_deref().unwrap_or_default();
    let trusted = match annotation(&gateway.metadata, TRUSTED) {
        None => mesh.trusted.clone(),
        Some(text) => {
            let names: Result<Vec<Account>, String> =
                text.split(',').map(|name| account(name.trim(), namespace)).collect();
            if hops == 0 {
                fault(TRUSTED, format!("has no effect without gatewayTopology.numTrustedProxies in {CONFIG}"));
            }
            names.unwrap_or_else(|problem| {
                fault(TRUSTED, format!("{problem}, so nobody is believed about where requests come from"));
                Vec::new()
            })
        }
    };
    if own.is_some_and(|own| own > 0 && own != BEYOND) && trusted.is_empty() {
        let message = format!(
            "nobody is believed about where requests come from before {TRUSTED} names the service accounts of those proxies"
        );
        fault(CONFIG, message);
    }
    let domain = &settings.trust_domain;
    let identity = |(namespace, name): Account| format!("spiffe://{domain}/ns/{namespace}/sa/{name}");
    (Proxies { hops, trusted: trusted.into_iter().map(identity).collect() }, faults)
}

fn account(text: &str, namespace: &str) -> Result<Account, String> {
    let account = values::service_account(text, namespace)?;
    Ok((account.namespace, account.service_account))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::l7::mesh;

    const ONE: &str = "gatewayTopology: {numTrustedProxies: 1}";
    const NAMED: &str = "fairwayTrustedProxies: [ingress/public]\n";

    fn told(mesh: &str, config: Option<&str>, trusted: Option<&str>) -> (u32, Vec<String>, Vec<String>) {
        let settings = Settings { mesh: mesh::read(mesh).unwrap(), ..Settings::default() };
        let annotations = [(CONFIG, config), (TRUSTED, trusted)];
        let annotations: serde_json::Map<_, _> =
            annotations.into_iter().filter_map(|(name, said)| Some((name.to_owned(), said?.into()))).collect();
        let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "way", "namespace": "shop", "annotations": annotations}});
        let (Proxies { hops, trusted }, faults) = of(&serde_json::from_value(gateway).unwrap(), &settings);
        let faults = faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
        (hops, trusted.into_iter().collect(), faults)
    }

    #[test]
    fn who_is_believed_is_said_by_the_mesh_and_by_its_gateway() {
        let public = "spiffe://cluster.local/ns/ingress/sa/public";
        let own = "spiffe://cluster.local/ns/shop/sa/edge";
        let mesh = format!("{NAMED}defaultConfig: {{{ONE}}}\n");
        type Row<'a> = (&'a str, &'a str, Option<&'a str>, Option<&'a str>, u32, &'a [&'a str], &'a [&'a str]);
        let rows: [Row<'_>; 13] = [
            ("nothing said", "", None, None, 0, &[], &[]),
            ("names without a number", NAMED, None, None, 0, &[public], &[]),
            ("one before gateways", &mesh, None, None, 2, &[public], &[]),
            (
                "none before gateways",
                "defaultConfig: {gatewayTopology: {numTrustedProxies: 0}}",
                None,
                None,
                1,
                &[],
                &[],
            ),
            ("other configuration", "defaultConfig: {concurrency: 2, gatewayTopology: {}}", None, None, 0, &[], &[]),
            ("of the gateway", NAMED, Some(ONE), None, 1, &[public], &[]),
            (
                "of the gateway, in JSON",
                NAMED,
                Some("{\"gatewayTopology\": {\"numTrustedProxies\": 3}}"),
                None,
                3,
                &[public],
                &[],
            ),
            ("none of the gateway", &mesh, Some("gatewayTopology: {numTrustedProxies: 0}"), None, 0, &[public], &[]),
            ("of others", &mesh, Some("concurrency: 2"), None, 2, &[public], &[]),
            ("its own", &mesh, None, Some("edge, ingress/public"), 2, &[public, own], &[]),
            ("nobody", "", Some(ONE), None, 1, &[], &["config]: nobody is believed"]),
            ("no use", "", None, Some("edge"), 0, &[own], &["trusted-proxies]: has no effect"]),
            (
                "not read",
                &mesh,
                Some("gatewayTopology: {numTrustedProxies: -1}"),
                Some("*"),
                BEYOND,
                &[],
                &["config]: cannot be read", "neither <account>"],
            ),
        ];
        for (name, mesh, config, trusted, hops, identities, faults) in rows {
            let found = told(mesh, config, trusted);
            assert_eq!(
                (found.0, found.1.iter().map(String::as_str).collect::<Vec<_>>()),
                (hops, identities.to_vec()),
                "{name}: {found:?}"
            );
            let is_said =
                found.2.len() == faults.len() && found.2.iter().zip(faults).all(|(it, part)| it.contains(part));
            assert!(is_said, "{name}: {found:?}");
        }
    }

    #[test]
    fn names_of_the_mesh_have_a_namespace_and_a_number_without_names_is_told() {
        for (text, expected) in [("public", None), ("ingress/*", None), ("ingress/public", Some(0))] {
            let read = mesh::read(&format!("fairwayTrustedProxies: [{text:?}]"));
            assert_eq!(read.map(|mesh| mesh.odd.len()).ok(), expected, "{text}");
        }
        let idle = mesh::read(&format!("defaultConfig: {{{ONE}}}")).unwrap();
        assert!(idle.odd.len() == 1 && idle.odd[0].contains("fairwayTrustedProxies"), "{:?}", idle.odd);
    }
}
