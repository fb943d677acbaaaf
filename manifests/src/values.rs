//! Values of the chart: read, put over one another, and set one at a time, as Helm does.

use serde_json::{Map, Value};

/// Why values cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// A file that is no map.
    #[error("{0}: {1}")]
    File(String, String),
    /// What was given to `--set`.
    #[error("--set {0:?}: {1}")]
    Set(String, &'static str),
}

/// Reads a file of values.
///
/// # Errors
/// When it is no YAML, or no map.
pub fn parse(name: &str, text: &str) -> Result<Value, ValuesError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Value::Object(Map::new()));
    }
    let wrong = |problem: String| ValuesError::File(name.to_owned(), problem);
    let value: Value = serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(wrong("values are a map".to_owned())) }
}

/// Puts `over` over `base`: maps field by field, everything else as a whole; null takes a field away.
pub fn merge(base: &mut Value, over: &Value) {
    let (Value::Object(fields), Value::Object(news)) = (&mut *base, over) else {
        *base = over.clone();
        return;
    };
    for (name, new) in news {
        match fields.get_mut(name) {
            _ if new.is_null() => {
                fields.remove(name);
            }
            Some(old) if old.is_object() && new.is_object() => merge(old, new),
            _ => {
                fields.insert(name.clone(), new.clone());
            }
        }
    }
}

/// Sets what `text` says, such as `controller.replicas=3,log.format=plain`: commas part settings, a backslash takes the
/// meaning from a dot or a comma, and braces make lists.
///
/// # Errors
/// When it is not written like that.
pub fn set(values: &mut Value, text: &str) -> Result<(), ValuesError> {
    for setting in pieces(text, ',') {
        let wrong = |problem| ValuesError::Set(setting.clone(), problem);
        let (path, value) = setting.split_once('=').ok_or_else(|| wrong("write PATH=VALUE"))?;
        let mut new = read(value.trim());
        for name in pieces(path, '.').into_iter().rev() {
            if name.is_empty() {
                return Err(wrong("a name is missing in the path"));
            }
            if name.ends_with(']') {
                return Err(wrong("elements of lists cannot be set; write the whole list, or use a file"));
            }
            new = Value::Object(Map::from_iter([(name.replace('\\', ""), new)]));
        }
        merge_keeping_null(values, &new);
    }
    Ok(())
}

/// What is set to null must be null still when it is put over the chart's own values.
fn merge_keeping_null(base: &mut Value, over: &Value) {
    let (Value::Object(fields), Value::Object(news)) = (&mut *base, over) else {
        *base = over.clone();
        return;
    };
    for (name, new) in news {
        match fields.get_mut(name) {
            Some(old) if old.is_object() && new.is_object() => merge_keeping_null(old, new),
            _ => {
                fields.insert(name.clone(), new.clone());
            }
        }
    }
}

/// Parts `text` where `at` stands by itself: not after a backslash, and not within braces.
fn pieces(text: &str, at: char) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let (mut escaped, mut depth) = (false, 0_u32);
    for character in text.chars() {
        match character {
            '{' if !escaped => depth += 1,
            '}' if !escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        if character == at && !escaped && depth == 0 {
            pieces.push(String::new());
        } else if let Some(piece) = pieces.last_mut() {
            piece.push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    pieces
}

fn read(text: &str) -> Value {
    if let Some(list) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let items = pieces(list, ',').into_iter().filter(|item| !item.is_empty());
        return Value::Array(items.map(|item| read(item.trim())).collect());
    }
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        _ => match text.parse::<i64>() {
            // As with Helm, what starts with a zero is no number.
            Ok(number) if text == "0" || !text.starts_with('0') => number.into(),
            _ => Value::String(text.replace('\\', "")),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_maps() {
        assert_eq!(parse("v", "# nothing\n\n"), Ok(json!({})));
        assert_eq!(parse("v", "a: {b: 1}"), Ok(json!({"a": {"b": 1}})));
        assert_eq!(parse("v", "- a"), Err(ValuesError::File("v".to_owned(), "values are a map".to_owned())));
    }

    #[test]
    fn maps_are_merged_and_lists_replaced() {
        let mut values = json!({"a": {"b": 1, "c": [1]}, "d": 2, "e": {"f": 1}});
        merge(&mut values, &json!({"a": {"c": [2]}, "d": null, "e": 3, "g": 4}));
        assert_eq!(values, json!({"a": {"b": 1, "c": [2]}, "e": 3, "g": 4}));
    }

    #[test]
    fn settings() {
        for (text, expected) in [
            ("a.b=1,c=x", json!({"a": {"b": 1, "old": 0}, "c": "x"})),
            (r"a.x\.y/z=true", json!({"a": {"old": 0, "x.y/z": true}})),
            (r"c=1\,2", json!({"a": {"old": 0}, "c": "1,2"})),
            ("c={x,2}", json!({"a": {"old": 0}, "c": ["x", 2]})),
            ("c={}", json!({"a": {"old": 0}, "c": []})),
            ("a=null", json!({"a": null})),
            ("c=007", json!({"a": {"old": 0}, "c": "007"})),
            ("c=a=b", json!({"a": {"old": 0}, "c": "a=b"})),
            ("c=", json!({"a": {"old": 0}, "c": ""})),
        ] {
            let mut values = json!({"a": {"old": 0}});
            set(&mut values, text).unwrap();
            assert_eq!(values, expected, "{text}");
        }
        for text in ["a", "a..b=1", "a[0]=1", "=1"] {
            assert!(set(&mut json!({}), text).is_err(), "{text}");
        }
    }
}
