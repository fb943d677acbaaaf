//! Where a workload is, from the labels of its node.

use fairway_core::source::objects::{ByKey, label};
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_proto::workload::Locality;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Settings;

/// Label with the network of a node, a pod or the mesh's own namespace.
pub(super) const NETWORK: &str = "topology.istio.io/network";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";

/// Labels that say where a node is.
pub(super) const PLACE: [&str; 4] = [REGION, ZONE, SUBZONE, NETWORK];

/// What the labels of nodes say.
#[derive(Debug)]
pub struct Nodes<'a> {
    nodes: &'a ByKey<Node>,
    network: &'a str,
}

impl<'a> Nodes<'a> {
    /// Reads the labels of nodes, and of the mesh's own namespace.
    #[must_use]
    pub fn new(objects: &'a Objects, settings: &'a Settings) -> Self {
        let of_mesh = || objects.namespace_label(&settings.root_namespace, NETWORK);
        let network = Some(settings.network.as_str()).filter(|it| !it.is_empty()).or_else(of_mesh).unwrap_or_default();
        Self { nodes: &objects.nodes, network }
    }

    fn metadata(&self, node: &str) -> Option<&'a ObjectMeta> {
        self.nodes.get(&ObjectKey::new(Kind::Node, "", node)).map(|node| &node.metadata)
    }

    /// The locality of what runs on `node`.
    #[must_use]
    pub fn locality(&self, node: &str) -> Option<Locality> {
        locality_in(self.metadata(node)?)
    }

    /// The network of what runs on `node` and names none itself.
    #[must_use]
    pub fn network(&self, node: &str) -> &'a str {
        self.metadata(node).and_then(|node| label(node, NETWORK)).unwrap_or(self.network)
    }
}

/// The locality that the labels of a node say.
pub(super) fn locality_in(node: &ObjectMeta) -> Option<Locality> {
    let text = |key| label(node, key).unwrap_or_default().to_owned();
    let locality = Locality { region: text(REGION), zone: text(ZONE), subzone: text(SUBZONE) };
    (locality != Locality::default()).then_some(locality)
}

/// The locality written as `region/zone/subzone`.
#[must_use]
pub fn written_locality(text: &str) -> Option<Locality> {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let locality = Locality { region: next(), zone: next(), subzone: next() };
    (locality != Locality::default()).then_some(locality)
}
