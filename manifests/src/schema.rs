//! Checks values against the chart's schema: the part of JSON Schema that it uses, so that a typing error is no silence.

use serde_json::Value;

/// What of the schema is understood here; a test sees to it that the schema has nothing else.
#[cfg(test)]
pub(crate) const KEYWORDS: [&str; 9] =
    ["$schema", "additionalProperties", "description", "enum", "items", "minimum", "minLength", "properties", "type"];

/// Checks `value`; says where it is wrong and how.
pub(crate) fn check(schema: &Value, value: &Value) -> Result<(), String> {
    at("", schema, value)
}

fn at(path: &str, schema: &Value, value: &Value) -> Result<(), String> {
    let wrong = |problem: String| Err(format!("values: {} {problem}", if path.is_empty() { "they" } else { path }));
    match &schema["type"] {
        Value::String(one) if !is_of(value, one) => return wrong(format!("must be of type {one}")),
        Value::Array(several) if !several.iter().filter_map(Value::as_str).any(|one| is_of(value, one)) => {
            let names: Vec<_> = several.iter().filter_map(Value::as_str).collect();
            return wrong(format!("must be of type {}", names.join(" or ")));
        }
        _ => {}
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let names: Vec<_> = allowed.iter().map(Value::to_string).collect();
        return wrong(format!("must be one of {}", names.join(" ")));
    }
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < least
    {
        return wrong(format!("must be at least {least}"));
    }
    if let (Some(1..), Some("")) = (schema["minLength"].as_u64(), value.as_str()) {
        return wrong("must not be empty".to_owned());
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (schema["properties"].get(name), &schema["additionalProperties"]) {
            (Some(known), _) => at(&inner, known, field)?,
            (None, Value::Bool(false)) => return Err(format!("values: there is no {inner}")),
            (None, Value::Object(_)) => at(&inner, &schema["additionalProperties"], field)?,
            (None, _) => {}
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        at(&format!("{path}[{index}]"), &schema["items"], item)?;
    }
    Ok(())
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_said_by_path() {
        let schema = json!({"type": "object", "additionalProperties": false, "properties": {
            "count": {"type": "integer", "minimum": 1},
            "kind": {"enum": ["a", "b"]},
            "name": {"type": "string", "minLength": 1},
            "either": {"type": ["string", "null"]},
            "deep": {"type": "object", "additionalProperties": {"type": "boolean"}},
            "list": {"type": "array", "items": {"type": "string"}},
        }});
        for (value, problem) in [
            (json!({"count": 1, "kind": "a", "name": "n", "either": null, "deep": {"x": true}, "list": ["a"]}), ""),
            (json!({"other": 1}), "there is no other"),
            (json!({"count": 0}), "count must be at least 1"),
            (json!({"count": "1"}), "count must be of type integer"),
            (json!({"kind": "c"}), "kind must be one of \"a\" \"b\""),
            (json!({"name": ""}), "name must not be empty"),
            (json!({"either": 1}), "either must be of type string or null"),
            (json!({"deep": {"x": 1}}), "deep.x must be of type boolean"),
            (json!({"list": ["a", 1]}), "list[1] must be of type string"),
            (json!([]), "they must be of type object"),
        ] {
            let said = check(&schema, &value).err().unwrap_or_default();
            let expected = if problem.is_empty() { String::new() } else { format!("values: {problem}") };
            assert_eq!(said, expected, "{value}");
        }
    }
}
