//! Our entry in other CNIs' configurations, as pure functions from text to text.

use serde_json::{Map, Value, json};

use crate::plugin::protocol::{PLUGIN, VERSIONS};

/// Name of a list made of a configuration without one.
const DEFAULT_NAME: &str = "k8s-pod-network";
/// Key by which we remember that a list was a single configuration before.
const WAS_SINGLE: &str = "fairwayWasSinglePlugin";

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConflistError {
    /// Not JSON, or only the beginning of it.
    #[error("not JSON (yet): {0}")]
    NotJson(String),
    /// JSON, but no configuration.
    #[error("no CNI configuration: {0}")]
    NotAConfiguration(&'static str),
    /// Of a version without chains.
    #[error("of version \"{0}\", which has no chains of plugins; 0.3.1 or later is needed")]
    TooOld(String),
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A list of plugins: `.conflist`.
    List,
    /// One plugin: `.conf` or `.json`.
    Single,
}

impl Form {
    /// By the ending of a file's name; nothing for files that runtimes do not read.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "conflist" => Some(Self::List),
            "conf" | "json" => Some(Self::Single),
            _ => None,
        }
    }
}

/// The list in `text` with `entry` in it, once.
///
/// # Errors
/// When there is no usable configuration in it.
pub fn chained(text: &str, form: Form, entry: &Value) -> Result<Value, ConflistError> {
    let mut list = match form {
        Form::List => object(text)?,
        Form::Single => list_of(object(text)?)?,
    };
    let version = list.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if !VERSIONS.contains(&version) {
        return Err(ConflistError::TooOld(version.to_owned()));
    }
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut);
    let plugins = plugins.ok_or(ConflistError::NotAConfiguration("it has no `plugins`"))?;
    if !plugins.iter().any(|plugin| plugin_type(plugin).is_some_and(|name| name != PLUGIN)) {
        return Err(ConflistError::NotAConfiguration("it has no plugin that makes a network"));
    }
    if plugins.iter().any(|plugin| plugin_type(plugin).is_none()) {
        return Err(ConflistError::NotAConfiguration("one of its `plugins` has no `type`"));
    }
    let place = plugins.iter().position(is_ours).unwrap_or(plugins.len());
    plugins.retain(|plugin| !is_ours(plugin));
    // Others may have come after us meanwhile; our place among them does not matter.
    plugins.insert(place.min(plugins.len()), entry.clone());
    Ok(Value::Object(list))
}

/// The configuration without us, and its form, when we are in it.
#[must_use]
pub fn unchained(text: &str) -> Option<(Value, Form)> {
    let mut list = object(text).ok()?;
    let plugins = list.get_mut("plugins")?.as_array_mut()?;
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    if plugins.len() == before {
        return None;
    }
    if list.remove(WAS_SINGLE).is_some()
        && let Some([Value::Object(plugin)]) = list.get("plugins").and_then(Value::as_array).map(Vec::as_slice)
    {
        let mut single = plugin.clone();
        for key in ["cniVersion", "name"] {
            if let Some(value) = list.get(key) {
                single.insert(key.to_owned(), value.clone());
            }
        }
        return Some((Value::Object(single), Form::Single));
    }
    Some((Value::Object(list), Form::List))
}

/// Whether `text` is a configuration that names us.
#[must_use]
pub fn names_us(text: &str) -> bool {
    unchained(text).is_some()
}

/// Text as it is written into a file.
#[must_use]
pub fn render(value: &Value) -> String {
    format!("{value:#}\n")
}

fn object(text: &str) -> Result<Map<String, Value>, ConflistError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ConflistError::NotAConfiguration("it is no object")),
        Err(error) => Err(ConflistError::NotJson(error.to_string())),
    }
}

fn list_of(mut single: Map<String, Value>) -> Result<Map<String, Value>, ConflistError> {
    if !single.get("type").is_some_and(Value::is_string) {
        return Err(ConflistError::NotAConfiguration("it has no `type`"));
    }
    let version = single.remove("cniVersion").unwrap_or_default();
    let name = single.remove("name").unwrap_or_else(|| json!(DEFAULT_NAME));
    let list = json!({"cniVersion": version, "name": name, WAS_SINGLE: true, "plugins": [single]});
    match list {
        Value::Object(list) => Ok(list),
        _ => Err(ConflistError::NotAConfiguration("it is no object")),
    }
}

fn plugin_type(plugin: &Value) -> Option<&str> {
    plugin.get("type").and_then(Value::as_str)
}

fn is_ours(plugin: &Value) -> bool {
    plugin_type(plugin) == Some(PLUGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Value {
        json!({"type": PLUGIN, "fail": "closed"})
    }

    fn types(list: &Value) -> Vec<&str> {
        list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn the_entry_is_in_once_and_everything_else_stays() {
        let bare = json!({"cniVersion": "0.3.1", "name": "n", "odd": [1], "plugins": [{"type": "a", "x": {"y": 1}}, {"type": "b"}]});
        let list = chained(&bare.to_string(), Form::List, &entry()).unwrap();
        assert_eq!(types(&list), ["a", "b", PLUGIN]);
        assert_eq!(chained(&list.to_string(), Form::List, &entry()).unwrap(), list, "again changes nothing");
        assert_eq!(unchained(&list.to_string()), Some((bare.clone(), Form::List)));
        assert_eq!(unchained(&bare.to_string()), None);

        let mut others = list.clone();
        others["plugins"].as_array_mut().unwrap().push(json!({"type": "late"}));
        others["plugins"][2]["fail"] = json!("open");
        others["plugins"].as_array_mut().unwrap().push(json!({"type": PLUGIN, "old": true}));
        let list = chained(&others.to_string(), Form::List, &entry()).unwrap();
        assert_eq!(types(&list), ["a", "b", PLUGIN, "late"]);
        assert_eq!(list["plugins"][2], entry());
    }

    #[test]
    fn a_single_plugin_becomes_a_list_and_itself_again() {
        for name in [Some("n"), None] {
            let mut single = json!({"cniVersion": "0.4.0", "type": "bridge", "bridge": "br0"});
            if let Some(name) = name {
                single["name"] = json!(name);
            }
            let list = chained(&single.to_string(), Form::Single, &entry()).unwrap();
            assert_eq!(types(&list), ["bridge", PLUGIN]);
            assert_eq!(list["name"], name.unwrap_or("k8s-pod-network"));
            assert!(list["plugins"][0].get("cniVersion").is_none());
            single["name"] = list["name"].clone();
            assert_eq!(unchained(&list.to_string()), Some((single, Form::Single)));
        }
    }

    #[test]
    fn what_is_no_configuration_is_left_alone() {
        let whole = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "a"}]}).to_string();
        for length in 0..whole.len() {
            let half = &whole[..length];
            assert!(matches!(chained(half, Form::List, &entry()), Err(ConflistError::NotJson(_))), "{half}");
        }
        for bad in [
            "[]",
            "{}",
            r#"{"cniVersion":"1.0.0"}"#,
            r#"{"cniVersion":"1.0.0","plugins":[]}"#,
            r#"{"cniVersion":"1.0.0","plugins":[{}]}"#,
            r#"{"cniVersion":"1.0.0","plugins":[{"type":"fairway-cni"}]}"#,
            r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"},{}]}"#,
            r#"{"cniVersion":"0.2.0","plugins":[{"type":"a"}]}"#,
            r#"{"plugins":[{"type":"a"}]}"#,
        ] {
            let error = chained(bad, Form::List, &entry()).unwrap_err();
            assert!(!matches!(error, ConflistError::NotJson(_)), "{bad}: {error}");
        }
        assert!(chained(r#"{"cniVersion":"1.0.0","name":"n"}"#, Form::Single, &entry()).is_err());
    }

    #[test]
    fn files_that_runtimes_read() {
        let rows = [
            ("10-a.conflist", Some(Form::List)),
            ("a.conf", Some(Form::Single)),
            ("a.json", Some(Form::Single)),
            ("calico-kubeconfig", None),
            ("a.conf.bak", None),
        ];
        for (name, form) in rows {
            assert_eq!(Form::of(name), form, "{name}");
        }
    }
}
