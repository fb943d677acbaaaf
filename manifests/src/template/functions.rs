//! Functions of templates: those of Go, Sprig and Helm that the chart uses.

use serde_json::{Value, json};

/// Whether an `if` takes its first branch.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(it) => *it,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// How a value is written.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Calls a function; what it says when it cannot.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    match (name, arguments) {
        ("and" | "or", [.., last]) => Ok(last.clone()),
        ("not", [value]) => Ok(json!(!is_true(value))),
        ("eq", [first, second]) => Ok(json!(first == second)),
        ("ne", [first, second]) => Ok(json!(first != second)),
        ("default", [otherwise, value]) => Ok(if is_true(value) { value.clone() } else { otherwise.clone() }),
        ("quote", [value]) => Ok(json!(json!(text(value)).to_string())),
        ("toYaml", [value]) => {
            let written = serde_saphyr::to_string(value).map_err(|error| error.to_string())?;
            Ok(json!(written.trim_end()))
        }
        ("toPrettyJson", [value]) => pretty(value).map(Value::String),
        ("nindent", [Value::Number(spaces), value]) => Ok(json!(format!("\n{}", indented(spaces, value)?))),
        ("indent", [Value::Number(spaces), value]) => Ok(json!(indented(spaces, value)?)),
        ("printf", [Value::String(format), values @ ..]) => formatted(format, values).map(Value::String),
        ("list", values) => Ok(json!(values)),
        ("join", [Value::String(between), Value::Array(items)]) => {
            Ok(json!(items.iter().map(text).collect::<Vec<_>>().join(between)))
        }
        ("fail", [message]) => Err(text(message)),
        _ => Err(format!("there is no function {name} with {} such arguments", arguments.len())),
    }
}

/// As Go writes JSON: what means something in HTML is escaped, and so are line separators.
fn pretty(value: &Value) -> Result<String, String> {
    let written = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    let escaped = |character: char| match character {
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => format!("\\u{:04x}", u32::from(character)),
        other => other.to_string(),
    };
    Ok(written.chars().map(escaped).collect())
}

fn indented(spaces: &serde_json::Number, value: &Value) -> Result<String, String> {
    let spaces = spaces.as_u64().and_then(|it| usize::try_from(it).ok()).ok_or("the indentation must be a number")?;
    let lines = text(value).lines().map(|line| format!("{:spaces$}{line}", "")).collect::<Vec<_>>();
    Ok(lines.join("\n"))
}

/// `%s`, `%d` and `%v`, each with one value.
fn formatted(format: &str, values: &[Value]) -> Result<String, String> {
    let mut values = values.iter();
    let mut pieces = format.split('%');
    let mut output = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.strip_prefix(['s', 'd', 'v']).ok_or("printf takes %s, %d and %v")?;
        output.push_str(&text(values.next().ok_or("printf has too few values")?));
        output.push_str(rest);
    }
    if values.next().is_some() { Err("printf has too many values".to_owned()) } else { Ok(output) }
}
