//! What several proxies hold, said once, with the names of those that hold it.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

/// Something that proxies hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Held {
    /// Nodes whose proxies hold exactly this.
    pub(super) held_by: Vec<String>,
    /// As they describe it.
    #[serde(flatten)]
    pub(super) item: Value,
}

/// Puts together what is the same at several nodes. What differs at all is another row, so that it is seen.
pub(super) fn held(found: Vec<(String, Vec<Value>)>) -> Vec<Held> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut all: Vec<Held> = Vec::new();
    for (node, items) in found {
        // Other things in a flattened place than objects cannot be written down.
        for item in items.into_iter().filter(Value::is_object) {
            let place = *places.entry(item.to_string()).or_insert(all.len());
            match all.get_mut(place) {
                Some(held) => held.held_by.push(node.clone()),
                None => all.push(Held { held_by: vec![node.clone()], item }),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_seen() {
        let [old, new, other] = [json!({"name": "web", "v": 1}), json!({"name": "web", "v": 2}), json!({"name": "db"})];
        let found = vec![
            ("node-1".to_owned(), vec![old.clone(), other.clone(), json!(1)]),
            ("node-2".to_owned(), vec![new.clone(), other.clone()]),
        ];
        let row = |nodes: &[&str], item: &Value| Held {
            held_by: nodes.iter().map(|node| (*node).to_owned()).collect(),
            item: item.clone(),
        };
        let wanted = [row(&["node-1"], &old), row(&["node-1", "node-2"], &other), row(&["node-2"], &new)];
        assert_eq!(held(found), wanted);
    }
}
