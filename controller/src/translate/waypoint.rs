//! Which waypoint traffic to a service or workload takes (interop §7.6); a waypoint that cannot be used is named in a way
//! that nobody can resolve, so that proxies refuse the traffic rather than send it around.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairway_core::source::gateway::{Gateway, Listener};
use fairway_core::source::labels::{
    HasLabels, NONE, USE_WAYPOINT, USE_WAYPOINT_NAMESPACE, WAYPOINT_CLASS, WAYPOINT_FOR,
};
use fairway_core::source::objects::{annotation, label};
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_proto::workload::gateway_address::Destination;
use fairway_proto::workload::{GatewayAddress, NamespacedHostname, NetworkAddress, WeightedWaypoint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};

use super::automatic::{LABEL, NAME, Needed};
use super::nodes::NETWORK;
use super::service::octets;
use super::{Fault, Settings};

const CANARY: &str = "istio.io/use-waypoint-canary";
const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
const CANARY_WEIGHT: &str = "istio.io/use-waypoint-canary-weight";
const INGRESS_USE_WAYPOINT: &str = "istio.io/ingress-use-waypoint";
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Labels without which nothing has to do with any gateway.
pub(super) const BINDING: [&str; 3] = [USE_WAYPOINT, CANARY, GATEWAY_NAME];
/// Classes whose gateways are waypoints.
const CLASSES: [&str; 2] = [WAYPOINT_CLASS, "istio-waypoint"];
/// Classes whose gateways never have a waypoint themselves.
const EXEMPT: [&str; 3] = [WAYPOINT_CLASS, "istio-waypoint", "istio-east-west"];
const PROTOCOL: &str = "HBONE";
/// Port on which waypoints take tunnels.
const PORT: u16 = 15008;
/// Top-level domain in which no name exists (RFC 2606 §2).
const NOWHERE: &str = "waypoint.invalid";

/// Whether gateways of this class are waypoints.
#[must_use]
pub fn is_class(class: &str) -> bool {
    CLASSES.contains(&class)
}

/// What is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    Service,
    Workload,
}

/// The waypoints of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceBinding {
    /// The waypoint.
    pub waypoint: Option<GatewayAddress>,
    /// Shares of several.
    pub weighted: Vec<WeightedWaypoint>,
    /// Whether gateways use it, too.
    pub ingress: bool,
    /// Namespaces and names of the gateways, those that have no address yet, too.
    pub gateways: Vec<(String, String)>,
}

/// All gateways that may be waypoints.
#[derive(Debug)]
pub struct Waypoints<'a> {
    objects: &'a Objects,
    settings: &'a Settings,
    needed: &'a Needed,
    gateways: BTreeMap<(&'a str, &'a str), &'a Gateway>,
}

/// A label that asks for a waypoint.
#[derive(Debug)]
struct Wish<'a> {
    namespace: &'a str,
    name: &'a str,
    /// Said of the object itself, not of its namespace.
    is_own: bool,
    /// The label that asks.
    label: &'a str,
}

/// Why a waypoint that is asked for is not used.
#[derive(Debug)]
enum Unfit {
    /// It is not for this traffic: nothing was meant for it.
    OtherTraffic(String),
    /// It should be used and cannot be.
    Unusable(String),
}

impl<'a> Waypoints<'a> {
    /// Indexes the gateways. What is `needed` has one as soon as it is, made or not.
    #[must_use]
    pub fn new(objects: &'a Objects, settings: &'a Settings, needed: &'a Needed) -> Self {
        let gateways = objects.gateways.iter();
        let gateways = gateways.map(|(key, gateway)| ((key.namespace.as_str(), key.name.as_str()), gateway.as_ref()));
        Self { objects, settings, needed, gateways: gateways.collect() }
    }

    /// What is the same for all of them.
    #[must_use]
    pub fn settings(&self) -> &'a Settings {
        self.settings
    }

    /// The waypoints of a service with this metadata, which is of this kind.
    pub fn of_service(&self, kind: Kind, metadata: &'a ObjectMeta, faults: &mut Vec<Fault>) -> ServiceBinding {
        let own_namespace = metadata.namespace.as_deref().unwrap_or_default();
        let scopes = [Some((metadata, true)), self.namespace(own_namespace).map(|it| (it, false))];
        if self.is_exempt(own_namespace, metadata) {
            return ServiceBinding::default();
        }
        let labelled = scopes.map(|scope| scope.map(|(metadata, is_own)| (metadata as &dyn HasLabels, is_own)));
        let wish = |label, label_namespace| wished(&labelled, own_namespace, label, label_namespace);
        // Who says anything is not among those.
        let key = ObjectKey::new(kind, own_namespace, metadata.name.as_deref().unwrap_or_default());
        let made = Wish { namespace: own_namespace, name: NAME, is_own: false, label: LABEL };
        let automatic = self.needed.contains(&key).then_some(made);
        let Some(primary) = automatic.or_else(|| wish(USE_WAYPOINT, USE_WAYPOINT_NAMESPACE)) else {
            return ServiceBinding::default();
        };
        let waypoint = self.resolve(&primary, own_namespace, Traffic::Service, faults);
        let ingress = scopes.iter().flatten().find_map(|(metadata, _)| label(metadata, INGRESS_USE_WAYPOINT));
        let ingress = ingress == Some("true");
        let gateways = self.gateway(&primary, own_namespace).into_iter().collect();
        let mut binding = ServiceBinding { waypoint, weighted: Vec::new(), ingress, gateways };
        if let (Some(primary), Some(canary)) = (&binding.waypoint, wish(CANARY, CANARY_NAMESPACE)) {
            let weight = scopes.iter().flatten().find_map(|(metadata, _)| annotation(metadata, CANARY_WEIGHT));
            match weight.map(|weight| weight.parse::<u32>().ok().filter(|weight| *weight <= 100)) {
                // Without a valid weight the primary keeps everything.
                None | Some(Some(0)) => {}
                Some(None) => faults.push(Fault {
                    field: format!("metadata.annotations[{CANARY_WEIGHT}]"),
                    message: "must be a number from 0 to 100; all traffic stays with the primary waypoint".to_owned(),
                }),
                Some(Some(weight)) => {
                    binding.gateways.extend(self.gateway(&canary, own_namespace));
                    if let Some(canary) = self.resolve(&canary, own_namespace, Traffic::Service, faults) {
                        let share = |destination: &GatewayAddress, weight| WeightedWaypoint {
                            destination: Some(destination.clone()),
                            weight,
                        };
                        binding.weighted = vec![share(primary, 100_u32.saturating_sub(weight)), share(&canary, weight)];
                        binding.weighted.retain(|waypoint| waypoint.weight > 0);
                    }
                }
            }
        }
        binding
    }

    /// The waypoint of a workload with these labels that runs as this service account.
    pub fn of_workload(
        &self,
        namespace: &str,
        workload: &impl HasLabels,
        service_account: &str,
        faults: &mut Vec<Fault>,
    ) -> Option<GatewayAddress> {
        if self.is_exempt(namespace, workload) {
            return None;
        }
        let account =
            self.objects.service_accounts.get(&ObjectKey::new(Kind::ServiceAccount, namespace, service_account));
        let scopes: [Option<(&dyn HasLabels, bool)>; 3] = [
            Some((workload, true)),
            account.map(|account| (&account.metadata as &dyn HasLabels, true)),
            self.namespace(namespace).map(|it| (it as &dyn HasLabels, false)),
        ];
        let wish = wished(&scopes, namespace, USE_WAYPOINT, USE_WAYPOINT_NAMESPACE)?;
        self.resolve(&wish, namespace, Traffic::Workload, faults)
    }

    fn namespace(&self, name: &str) -> Option<&'a ObjectMeta> {
        self.objects.namespace(name).map(|namespace| &namespace.metadata)
    }

    /// Waypoints do not have a waypoint.
    fn is_exempt(&self, namespace: &str, object: &impl HasLabels) -> bool {
        let gateway = object.label(GATEWAY_NAME).and_then(|name| self.gateways.get(&(namespace, name)));
        gateway.is_some_and(|gateway| EXEMPT.contains(&gateway.spec.gateway_class_name.as_str()))
    }

    fn resolve(
        &self,
        wish: &Wish<'_>,
        own_namespace: &str,
        traffic: Traffic,
        faults: &mut Vec<Fault>,
    ) -> Option<GatewayAddress> {
        let field = format!("metadata.labels[{}]", wish.label);
        match self.usable(wish, own_namespace, traffic) {
            Ok(address) => Some(address),
            Err(Unfit::OtherTraffic(message)) => {
                if wish.is_own {
                    faults.push(Fault { field, message });
                }
                None
            }
            Err(Unfit::Unusable(message)) => {
                let (then, address) = if self.settings.lenient_waypoints {
                    ("traffic goes without it, as --missing-waypoint says", None)
                } else {
                    ("traffic that should go through it is refused", Some(nowhere(wish)))
                };
                // What a namespace asks for all of its pods is said of its services.
                if wish.is_own || traffic == Traffic::Service {
                    faults.push(Fault { field, message: format!("{message}; {then}") });
                }
                address
            }
        }
    }

    fn usable(&self, wish: &Wish<'_>, own_namespace: &str, traffic: Traffic) -> Result<GatewayAddress, Unfit> {
        let gateway = self.fit(wish, own_namespace, traffic)?;
        let none = || Unfit::Unusable(format!("waypoint {}/{} has no address yet", wish.namespace, wish.name));
        self.address(gateway).ok_or_else(none)
    }

    /// The gateway that a service is bound to by this wish.
    fn gateway(&self, wish: &Wish<'_>, own_namespace: &str) -> Option<(String, String)> {
        let name = (wish.namespace.to_owned(), wish.name.to_owned());
        self.fit(wish, own_namespace, Traffic::Service).is_ok().then_some(name)
    }

    /// The gateways that are waypoints, with their class and whether they are for workloads.
    pub fn all(&self) -> impl Iterator<Item = ((String, String), &str, bool)> {
        self.gateways.iter().filter_map(|((namespace, name), gateway)| {
            let class = gateway.spec.gateway_class_name.as_str();
            let for_workloads = matches!(label(&gateway.metadata, WAYPOINT_FOR), Some("all" | "workload"));
            let name = ((*namespace).to_owned(), (*name).to_owned());
            is_class(class).then_some((name, class, for_workloads))
        })
    }

    /// A gateway that is a waypoint for this.
    fn fit(&self, wish: &Wish<'_>, own_namespace: &str, traffic: Traffic) -> Result<&'a Gateway, Unfit> {
        let title = format!("waypoint {}/{}", wish.namespace, wish.name);
        let Some(gateway) = self.gateways.get(&(wish.namespace, wish.name)) else {
            // It may have been for either kind of traffic.
            return Err(Unfit::Unusable(format!("{title} does not exist")));
        };
        let class = gateway.spec.gateway_class_name.as_str();
        if !is_class(class) {
            return Err(Unfit::Unusable(format!(
                "{title} is of class {class:?}; waypoints are of {}",
                CLASSES.join(" or ")
            )));
        }
        let accepted = label(&gateway.metadata, WAYPOINT_FOR).unwrap_or("service");
        let accepts = match accepted {
            "all" => true,
            "workload" => traffic == Traffic::Workload,
            NONE => false,
            _ => traffic == Traffic::Service,
        };
        if !accepts {
            return Err(Unfit::OtherTraffic(format!(
                "{title} is for {accepted} traffic only; the label has no effect"
            )));
        }
        let Some(listener) = gateway.spec.listeners.iter().find(|listener| listener.protocol == PROTOCOL) else {
            return Err(Unfit::Unusable(format!("{title} has no listener of protocol {PROTOCOL}")));
        };
        if !self.admits(listener, wish.namespace, own_namespace) {
            return Err(Unfit::Unusable(format!("{title} does not admit namespace {own_namespace} (allowedRoutes)")));
        }
        Ok(gateway)
    }

    fn admits(&self, listener: &Listener, namespace: &str, from: &str) -> bool {
        let allowed = &listener.allowed_routes.namespaces;
        match allowed.from.as_deref() {
            Some("All") => true,
            Some("None") => false,
            Some("Selector") => allowed
                .selector
                .as_ref()
                .is_some_and(|selector| self.namespace(from).is_some_and(|metadata| selects(selector, metadata))),
            _ => namespace == from,
        }
    }

    fn address(&self, gateway: &Gateway) -> Option<GatewayAddress> {
        let addresses = &gateway.status.addresses;
        let is_hostname = |kind: &Option<String>| kind.as_deref() == Some("Hostname");
        let hostname = addresses.iter().find(|address| is_hostname(&address.kind) && !address.value.is_empty());
        let destination = match hostname {
            Some(address) => Destination::Hostname(NamespacedHostname {
                namespace: gateway.metadata.namespace.clone().unwrap_or_default(),
                hostname: address.value.clone(),
            }),
            None => {
                let address: IpAddr = addresses.iter().find_map(|address| address.value.parse().ok())?;
                let network = label(&gateway.metadata, NETWORK).unwrap_or(&self.settings.network);
                let network = network.to_owned();
                Destination::Address(NetworkAddress { network, address: octets(address), length: None })
            }
        };
        Some(GatewayAddress { destination: Some(destination), hbone_mtls_port: PORT.into() })
    }
}

/// The first scope that says anything decides.
fn wished<'a, const N: usize>(
    scopes: &[Option<(&'a dyn HasLabels, bool)>; N],
    own_namespace: &'a str,
    key: &'a str,
    namespace_key: &str,
) -> Option<Wish<'a>> {
    let (scope, name, is_own) =
        scopes.iter().flatten().find_map(|(scope, is_own)| Some((*scope, scope.label(key)?, *is_own)))?;
    let namespace = scope.label(namespace_key).unwrap_or(own_namespace);
    (name != NONE && !name.is_empty()).then_some(Wish { namespace, name, is_own, label: key })
}

fn nowhere(wish: &Wish<'_>) -> GatewayAddress {
    let hostname = format!("{}.{}.{NOWHERE}", wish.name, wish.namespace);
    let destination = Destination::Hostname(NamespacedHostname { namespace: wish.namespace.to_owned(), hostname });
    GatewayAddress { destination: Some(destination), hbone_mtls_port: PORT.into() }
}

/// Whether a selector selects an object; a requirement that is not understood selects nothing.
pub(crate) fn selects(selector: &LabelSelector, object: &impl HasLabels) -> bool {
    let labels = selector.match_labels.iter().flatten().all(|(key, value)| object.label(key) == Some(value));
    labels && selector.match_expressions.iter().flatten().all(|requirement| meets(requirement, object))
}

fn meets(requirement: &LabelSelectorRequirement, object: &impl HasLabels) -> bool {
    let value = object.label(&requirement.key);
    let is_listed = || value.is_some_and(|value| requirement.values.iter().flatten().any(|it| it == value));
    match requirement.operator.as_str() {
        "In" => is_listed(),
        "NotIn" => !is_listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}
