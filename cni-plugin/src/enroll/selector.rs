//! Which pods opt in: a list of selectors of pods and of their namespaces, as Istio's `AMBIENT_ENABLEMENT_SELECTOR`
//! writes it (interoperability notes §6.5).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// The label opts in, on the pod, or on its namespace unless the pod opts out.
const DEFAULT: &str = r#"[
  {"podSelector": {"matchLabels": {"istio.io/dataplane-mode": "ambient"}}},
  {"podSelector": {"matchExpressions": [{"key": "istio.io/dataplane-mode", "operator": "NotIn", "values": ["none"]}]},
   "namespaceSelector": {"matchLabels": {"istio.io/dataplane-mode": "ambient"}}}
]"#;

/// The labels of an object: the value of each.
pub(super) type Labels<'a> = &'a dyn Fn(&str) -> Option<&'a str>;

/// A pod opts in when one of the entries selects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selectors(Vec<Entry>);

/// Whose labels made a pod opt in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Pod,
    Namespace,
}

/// Why selectors were not understood. Labels that were meant to select little must not select everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the enablement selector is not understood: {0}; it is a YAML list of entries with podSelector and namespaceSelector"
)]
pub struct SelectorError(String);

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Entry {
    pod_selector: Selector,
    namespace_selector: Selector,
}

/// A Kubernetes label selector: everything in it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Selector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Default for Selectors {
    fn default() -> Self {
        // A test parses it.
        Self::parse(DEFAULT).unwrap_or(Self(Vec::new()))
    }
}

impl Selectors {
    /// Reads selectors; nothing at all stands for the default ones.
    ///
    /// # Errors
    /// When anything in them is not known.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map(Self).map_err(|error| SelectorError(error.to_string()))
    }

    /// Whether they select the pod. Without a namespace there are no labels of it that anybody could select.
    pub(super) fn select(&self, pod: Labels<'_>, namespace: Option<Labels<'_>>) -> Option<By> {
        let selecting = self.0.iter().find(|entry| {
            let by_namespace = || namespace.is_some_and(|namespace| entry.namespace_selector.selects(namespace));
            entry.pod_selector.selects(pod) && (entry.namespace_selector.is_empty() || by_namespace())
        });
        selecting.map(|entry| if entry.namespace_selector.is_empty() { By::Pod } else { By::Namespace })
    }

    /// Whether some namespace could make them select the pod.
    pub(super) fn depend_on_namespace(&self, pod: Labels<'_>) -> bool {
        self.0.iter().any(|entry| !entry.namespace_selector.is_empty() && entry.pod_selector.selects(pod))
    }
}

impl Selector {
    fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    fn selects(&self, labels: Labels<'_>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels(&requirement.key)))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let is_listed = || value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => is_listed(),
            Operator::NotIn => !is_listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(labels: &[(&str, &'a str)], key: &str) -> Option<&'a str> {
        labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    #[test]
    fn entries_are_alternatives_and_all_of_an_entry_must_hold() {
        let text = "
- podSelector: {matchLabels: {mesh: 'yes', tier: web}}
- podSelector:
    matchExpressions:
    - {key: mesh, operator: NotIn, values: ['no']}
  namespaceSelector:
    matchExpressions:
    - {key: team, operator: In, values: [a, b]}
    - {key: frozen, operator: DoesNotExist}
- namespaceSelector: {matchExpressions: [{key: everything, operator: Exists}]}
";
        let selectors = Selectors::parse(text).unwrap();
        type Labels<'a> = &'a [(&'a str, &'a str)];
        // pod, namespace, by whom
        let rows: [(Labels<'_>, Option<Labels<'_>>, Option<By>); 9] = [
            (&[("mesh", "yes"), ("tier", "web")], Some(&[]), Some(By::Pod)),
            (&[("mesh", "yes"), ("tier", "web")], None, Some(By::Pod)),
            (&[("mesh", "yes")], Some(&[]), None),
            (&[], Some(&[("team", "a")]), Some(By::Namespace)),
            (&[("mesh", "no")], Some(&[("team", "a")]), None),
            (&[], Some(&[("team", "c")]), None),
            (&[], Some(&[("team", "a"), ("frozen", "")]), None),
            (&[("mesh", "no")], Some(&[("everything", "")]), Some(By::Namespace)),
            (&[], None, None),
        ];
        for (pod, namespace, wanted) in rows {
            let of_namespace = |key: &str| value(namespace.unwrap_or_default(), key);
            let found = selectors.select(&|key| value(pod, key), namespace.is_some().then_some(&of_namespace));
            assert_eq!(found, wanted, "{pod:?} in {namespace:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_and_nothing_is_the_default() {
        for text in [
            "podSelector: {}",
            "- podSelectors: {}",
            "- podSelector: {matchLabel: {a: b}}",
            "- podSelector: {matchExpressions: [{key: a, operator: Near}]}",
            "- podSelector: {matchExpressions: [{operator: Exists}]}",
            "- [",
        ] {
            let error = Selectors::parse(text).unwrap_err().to_string();
            assert!(error.contains("podSelector and namespaceSelector"), "{text}: {error}");
        }
        assert_eq!(Selectors::parse(" \n"), Ok(Selectors::default()));
        assert_eq!(Selectors::default().0.len(), 2);
        assert_eq!(Selectors::parse("[]").unwrap().select(&|_| None, None), None);
    }
}
