//! Who this proxy tells the control plane it is.

use std::collections::BTreeMap;

use fairway_proto::envoy_core::Node;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

/// Address in the node id when our own is not known; the control plane needs a syntactically valid one.
const UNKNOWN_ADDRESS: &str = "1.1.1.1";

/// What goes into the node message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeInfo {
    /// Our pod's name.
    pub pod_name: String,
    /// Our pod's namespace.
    pub namespace: String,
    /// Our pod's IP address, if known.
    pub address: Option<String>,
    /// The machine's name.
    pub node_name: String,
    /// Further metadata; replaces the fixed keys where they are the same.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

impl NodeInfo {
    /// The message: id `ztunnel~<ip>~<pod>.<ns>~<ns>.svc.cluster.local` and metadata (interop §3.2).
    #[must_use]
    pub fn message(&self) -> Node {
        self.message_of("ztunnel")
    }

    /// The same of another kind of proxy: a waypoint is called `waypoint`.
    #[must_use]
    pub fn message_of(&self, kind: &str) -> Node {
        let address = self.address.as_deref().unwrap_or(UNKNOWN_ADDRESS);
        let (pod, namespace) = (&self.pod_name, &self.namespace);
        let fixed = [
            ("NAME", pod.as_str()),
            ("NAMESPACE", namespace.as_str()),
            ("INSTANCE_IPS", address),
            ("NODE_NAME", self.node_name.as_str()),
            ("FAIRWAY_VERSION", env!("CARGO_PKG_VERSION")),
        ];
        let mut fields: BTreeMap<String, Value> =
            fixed.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect();
        fields.extend(self.metadata.iter().map(|(key, value)| (key.clone(), wire_value(value))));
        Node {
            id: format!("{kind}~{address}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            cluster: String::new(),
            metadata: Some(Struct { fields: fields.into_iter().collect() }),
            ..Node::default()
        }
    }
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

fn wire_value(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;

    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Json::String(value) => Kind::StringValue(value.clone()),
        Json::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(wire_value).collect() })
        }
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields.iter().map(|(key, value)| (key.clone(), wire_value(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_metadata() {
        let info = NodeInfo {
            pod_name: "ztunnel-abc".to_owned(),
            namespace: "fairway-system".to_owned(),
            address: Some("10.99.0.11".to_owned()),
            node_name: "node-1".to_owned(),
            metadata: BTreeMap::from([("CLUSTER_ID".to_owned(), "Kubernetes".into()), ("N".to_owned(), 1.into())]),
        };
        let node = info.message();
        assert_eq!(node.id, "ztunnel~10.99.0.11~ztunnel-abc.fairway-system~fairway-system.svc.cluster.local");
        let fields = node.metadata.unwrap().fields;
        assert_eq!(fields["NODE_NAME"], text("node-1"));
        assert_eq!(fields["CLUSTER_ID"], text("Kubernetes"));
        assert_eq!(fields["INSTANCE_IPS"], text("10.99.0.11"));
        assert_eq!(fields["FAIRWAY_VERSION"], text(env!("CARGO_PKG_VERSION")));
        assert_eq!(fields["N"].kind, Some(Kind::NumberValue(1.0)));
    }

    #[test]
    fn an_unknown_address_still_gives_four_parts() {
        assert_eq!(NodeInfo::default().message().id.split('~').count(), 4);
    }
}
