//! Where a workload is, from the labels of its node.

use std::collections::BTreeMap;

use fairway_core::source::Objects;
use fairway_core::source::objects::label;
use fairway_proto::workload::Locality;

use super::Settings;

/// Label with the network of a node, a pod or the mesh's own namespace.
pub(super) const NETWORK: &str = "topology.istio.io/network";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";

/// What the labels of nodes say.
#[derive(Debug)]
pub struct Nodes<'a> {
    by_name: BTreeMap<&'a str, Node<'a>>,
    network: &'a str,
}

#[derive(Debug)]
struct Node<'a> {
    locality: Option<Locality>,
    network: Option<&'a str>,
}

impl<'a> Nodes<'a> {
    /// Reads the labels of all nodes, and of the mesh's own namespace.
    #[must_use]
    pub fn new(objects: &'a Objects, settings: &'a Settings) -> Self {
        let by_name = objects.nodes.iter().map(|(key, node)| {
            let text = |key| label(&node.metadata, key).unwrap_or_default().to_owned();
            let locality = Locality { region: text(REGION), zone: text(ZONE), subzone: text(SUBZONE) };
            let locality = (locality != Locality::default()).then_some(locality);
            (key.name.as_str(), Node { locality, network: label(&node.metadata, NETWORK) })
        });
        let of_mesh = || objects.namespace_label(&settings.root_namespace, NETWORK);
        let network = Some(settings.network.as_str()).filter(|it| !it.is_empty()).or_else(of_mesh).unwrap_or_default();
        Self { by_name: by_name.collect(), network }
    }

    /// The locality of what runs on `node`.
    #[must_use]
    pub fn locality(&self, node: &str) -> Option<Locality> {
        self.by_name.get(node)?.locality.clone()
    }

    /// The network of what runs on `node` and names none itself.
    #[must_use]
    pub fn network(&self, node: &str) -> &'a str {
        self.by_name.get(node).and_then(|node| node.network).unwrap_or(self.network)
    }
}

/// The locality written as `region/zone/subzone`.
#[must_use]
pub fn written_locality(text: &str) -> Option<Locality> {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let locality = Locality { region: next(), zone: next(), subzone: next() };
    (locality != Locality::default()).then_some(locality)
}
