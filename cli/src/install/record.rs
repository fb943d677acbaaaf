//! What was installed, with which values, kept in the cluster: so that an upgrade keeps what was chosen.

use fairway_lab::{Error, Result};
use serde_json::{Value, json};

use super::MANAGER;
use super::cluster::Cluster;

/// Name of the config map.
const NAME: &str = "fairway-installation";

/// An installation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) version: String,
    /// What the user chose, over the chart's own values.
    pub(super) values: Value,
}

impl Record {
    /// What is installed in `namespace` by this command, if anything.
    pub(super) fn of(cluster: &Cluster, namespace: &str) -> Result<Option<Self>> {
        let map = cluster.get("v1", "ConfigMap", namespace, NAME)?;
        map.map(|map| Self::read(&map)).transpose()
    }

    /// Writes it down.
    pub(super) fn keep(&self, cluster: &Cluster, namespace: &str) -> Result<()> {
        cluster.apply(&self.written(namespace), true)
    }

    fn read(map: &Value) -> Result<Self> {
        let wrong = || format!("reading the config map {NAME}");
        let text = |key: &str| {
            map["data"][key].as_str().ok_or_else(|| Error::new(wrong()).because(format!("it has no {key}")))
        };
        let values =
            fairway_manifests::parse(NAME, text("values")?).map_err(|error| Error::new(wrong()).because(error))?;
        Ok(Self { version: text("version")?.to_owned(), values })
    }

    fn written(&self, namespace: &str) -> Value {
        let labels =
            json!({fairway_manifests::PART_OF.0: fairway_manifests::PART_OF.1, fairway_manifests::MANAGED_BY: MANAGER});
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": namespace, "labels": labels},
            "data": {"version": self.version, "values": serde_json::to_string_pretty(&self.values).unwrap_or_default()},
        })
    }
}

/// Whether an object is such a record: the chart does not have it, and yet it is no leftover.
pub(super) fn is_record(object: &Value) -> bool {
    object["kind"] == "ConfigMap" && object["metadata"]["name"] == NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let record = Record { version: "1.2.3".to_owned(), values: json!({"a": {"b": [1, "x"]}, "n": null}) };
        let written = record.written("n");
        assert!(is_record(&written));
        assert_eq!(Record::read(&written).unwrap(), record);
        assert!(Record::read(&json!({"data": {"version": "1"}})).is_err());
    }
}
