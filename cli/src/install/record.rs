//! What was installed, with which values, kept in the cluster: so that an upgrade keeps what was chosen, and can be taken back.

use fairway_lab::{Error, Result};
use serde_json::{Value, json};

use super::MANAGER;
use super::cluster::Cluster;

/// Name of the config map.
const NAME: &str = "fairway-installation";

/// An installation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// The version that was there as a whole; none until the first installation has come to its end.
    pub(super) version: Option<String>,
    /// The version that is being brought in; the same once that has come to its end.
    pub(super) target: String,
    /// What the user chose, over the chart's own values: for what is there as a whole.
    pub(super) values: Value,
}

impl Record {
    /// As it is while `target` is brought in: what was there before as a whole is what one can go back to, with its values.
    pub(super) fn begun(before: Option<Self>, target: &str, values: &Value) -> Self {
        match before {
            Some(before) if before.version.is_some() => Self { target: target.to_owned(), ..before },
            _ => Self { version: None, target: target.to_owned(), values: values.clone() },
        }
    }

    /// As it is after the last stage.
    pub(super) fn done(version: String, values: Value) -> Self {
        Self { version: Some(version.clone()), target: version, values }
    }

    /// The version to speak of.
    pub(super) fn spoken_version(&self) -> &str {
        self.version.as_deref().unwrap_or(&self.target)
    }

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
        let found = |key: &str| map["data"][key].as_str();
        let text = |key: &str| found(key).ok_or_else(|| Error::new(wrong()).because(format!("it has no {key}")));
        let values =
            fairway_manifests::parse(NAME, text("values")?).map_err(|error| Error::new(wrong()).because(error))?;
        Ok(Self { version: found("version").map(str::to_owned), target: text("target")?.to_owned(), values })
    }

    fn written(&self, namespace: &str) -> Value {
        let labels =
            json!({fairway_manifests::PART_OF.0: fairway_manifests::PART_OF.1, fairway_manifests::MANAGED_BY: MANAGER});
        let mut map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": namespace, "labels": labels},
            "data": {"target": self.target, "values": serde_json::to_string_pretty(&self.values).unwrap_or_default()},
        });
        if let Some(version) = &self.version {
            map["data"]["version"] = version.as_str().into();
        }
        map
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
        let values = json!({"a": {"b": [1, "x"]}, "n": null});
        for record in [Record::done("1.2.3".to_owned(), values.clone()), Record::begun(None, "1.2.3", &values)] {
            let written = record.written("n");
            assert!(is_record(&written));
            assert_eq!(Record::read(&written).unwrap(), record);
        }
        assert!(Record::read(&json!({"data": {"version": "1", "target": "1"}})).is_err());
        assert!(Record::read(&json!({"data": {"version": "1", "values": "{}"}})).is_err());
    }

    #[test]
    fn what_was_whole_stays_until_the_next_is() {
        let (old, new) = (json!({"a": 1}), json!({"a": 2}));
        let first = Record::begun(None, "1.0.0", &old);
        assert_eq!((first.version.as_deref(), first.target.as_str(), &first.values), (None, "1.0.0", &old));
        // Nothing has come to its end: whatever is tried next takes its place.
        assert_eq!(Record::begun(Some(first), "1.1.0", &new), Record::begun(None, "1.1.0", &new));
        let whole = Record::done("1.0.0".to_owned(), old.clone());
        let begun = Record::begun(Some(whole), "2.0.0", &new);
        assert_eq!((begun.version.as_deref(), begun.target.as_str(), &begun.values), (Some("1.0.0"), "2.0.0", &old));
        assert_eq!(begun.spoken_version(), "1.0.0");
        // And the way back is begun in the same way.
        let back = Record::begun(Some(begun), "1.0.0", &old);
        assert_eq!(back, Record::done("1.0.0".to_owned(), old));
    }
}
