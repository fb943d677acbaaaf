//! Takes secrets out of what is passed on: by their form in any text, and by their place in objects.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// What stands in the place of a secret.
pub(super) const GONE: &str = "[REDACTED]";
/// Annotations that repeat a whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Where pods and what makes pods have containers.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Where containers say what is run.
const RUN: [&str; 2] = ["command", "args"];
/// Below these fields are values of headers, which of them are secret nobody can tell.
const HEADERS: [&str; 4] = ["headers", "httpHeaders", "set", "add"];
/// What stays of headers and of matches of them.
const PLAIN: [&str; 2] = ["name", "type"];

/// Names of what is secret; `NAMES` in the forms below.
const NAMES: &str = "passw(?:or)?d|secret|api[_-]?key|access[_-]?key|private[_-]?key";
/// Names that are secret where they are surely those of headers or variables; `FIELDS` in the forms below.
const FIELDS: &str = "authorization|cookie|token|credential";

/// Forms of secrets: what is around them stays (`keep`, `after`), the rest goes.
const FORMS: [&str; 8] = [
    // Keys (RFC 7468), whatever is between the lines of a log or the escapes of JSON.
    r"(?s)(?P<keep>-----BEGIN [A-Z ]*PRIVATE KEY-----).*?-----END [A-Z ]*PRIVATE KEY-----",
    // Tokens (RFC 7519): two parts in base64url that begin an object of JSON, and a signature.
    r"(?P<keep>)eyJ[A-Za-z0-9_-]{5,}\.eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*",
    // Credentials of requests (RFC 9110 §11.4).
    r#"(?i)(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}"#,
    r#"(?i)(?P<keep>\b(?:authorization|proxy-authorization|cookie|set-cookie|x-api-key)"?\s*[:=]\s*"?)[^\s",\[][^"\r\n]*"#,
    // Userinfo of URLs (RFC 3986 §3.2.1).
    r"(?P<keep>[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+@",
    // Names that say it.
    r#"(?i)(?P<keep>\b[a-z0-9_.-]*(?:NAMES)[a-z0-9_.-]*"?\s*[:=]\s*"?)[^\s",\[{&]+"#,
    // A name, and its value after it in quotes of its own, as Rust writes pairs and structures; also within JSON.
    r#"(?i)(?P<keep>"[a-z0-9_.-]*(?:NAMES|FIELDS)[a-z0-9_.-]*\\*"[),]+\s*(?:[a-z_]+:\s*)?(?:[a-z]+\()*b?\\*")[^"\\\r\n]+(?P<after>\\*"(?:[^:]|$))"#,
    // Parameters of requests that carry tokens (RFC 6750 §2.3).
    r"(?i)(?P<keep>[?&](?:access_token|id_token|token|code|signature)=)[^&\s]+",
];

static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| FORMS.iter().filter_map(|form| compiled(form)).collect());
static SENSITIVE: LazyLock<Option<Regex>> = LazyLock::new(|| compiled("(?i)NAMES|FIELDS"));

fn compiled(form: &str) -> Option<Regex> {
    Regex::new(&form.replace("NAMES", NAMES).replace("FIELDS", FIELDS)).ok()
}

/// A text without what has the form of a secret.
pub(super) fn text(text: &str) -> String {
    PATTERNS.iter().fold(text.to_owned(), |text, pattern| {
        pattern.replace_all(&text, format!("${{keep}}{GONE}${{after}}")).into_owned()
    })
}

/// An object without its secrets, and without what only repeats it.
pub(super) fn object(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    // A mesh reads none of these; whoever has them among manifests keeps them for himself.
    if matches!(object.get("kind").and_then(Value::as_str), Some("Secret" | "ConfigMap")) {
        for field in ["data", "stringData", "binaryData"] {
            for (_, value) in object.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
                *value = GONE.into();
            }
        }
    }
    inside(object, false);
}

fn is_sensitive(name: &str) -> bool {
    SENSITIVE.as_ref().is_none_or(|pattern| pattern.is_match(name))
}

fn inside(value: &mut Value, is_header: bool) {
    match value {
        Value::Object(fields) => {
            let is_secret = fields.get("name").and_then(Value::as_str).is_some_and(is_sensitive);
            if let Some(value) = fields.get_mut("value").filter(|value| is_secret && value.is_string()) {
                *value = GONE.into();
            }
            for (name, value) in fields.iter_mut().filter(|_| is_header) {
                if value.is_string() && !PLAIN.contains(&name.as_str()) {
                    *value = GONE.into();
                }
            }
            for name in CONTAINERS {
                for container in fields.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
                    environment(container);
                    run(container);
                }
            }
            // Keys of tokens in a policy (RFC 7517): those that are symmetric are secret.
            if let Some(keys) = fields.get_mut("jwks").filter(|keys| keys.is_string()) {
                *keys = GONE.into();
            }
            for (name, value) in fields.iter_mut() {
                inside(value, is_header || HEADERS.contains(&name.as_str()));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| inside(item, is_header)),
        Value::String(found) => *found = text(found),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Names of variables stay, values go: which of them are secret nobody can tell.
fn environment(container: &mut Value) {
    for variable in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(value) = variable.get_mut("value") {
            *value = GONE.into();
        }
    }
}

/// Of what a container runs, also to see whether it is well, the program stays: any word after it may be a secret.
fn run(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                if !RUN.contains(&name.as_str()) {
                    run(value);
                    continue;
                }
                let kept = usize::from(name == "command");
                for (place, word) in value.as_array_mut().into_iter().flatten().enumerate() {
                    let first = word.as_str().and_then(|word| word.split_whitespace().next()).unwrap_or_default();
                    *word = if place < kept { first.into() } else { GONE.into() };
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(run),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_is_understood() {
        assert_eq!(PATTERNS.len(), FORMS.len());
    }

    #[test]
    fn secrets_go_and_what_is_around_them_stays() {
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl";
        for (secret, before, after) in [
            ("hunter2hunter2", "Authorization: Bearer ", "\nnext"),
            ("dXNlcjpwYXNz", "authorization=\"Basic ", "\" status=200"),
            ("s3ss10n", "cookie: session=", "\nnext"),
            (token, "the token ", " was refused"),
            ("hunter2", "postgres://user:", "@db:5432/shop"),
            ("hunter2", "DB_PASSWORD=", " next"),
            ("hunter2", "\"clientSecret\": \"", "\", \"next\": 1"),
            ("hunter2", "GET /?access_token=", "&b=c"),
            ("s3cret", "Edit { name: \"x-api-key\", value: \"", "\" } next"),
            ("s3cret", "[(\\\"x-auth-token\\\", Exact(\\\"", "\\\"))] next"),
            ("MIIEvQIBADANBg", "-----BEGIN PRIVATE KEY-----\\n", "\\n-----END PRIVATE KEY-----\\nnext"),
            ("MIIEvQIBADANBg", "-----BEGIN EC PRIVATE KEY-----\n", "\n-----END EC PRIVATE KEY-----\nnext"),
        ] {
            let whole = format!("first {before}{secret}{after}");
            let redacted = text(&whole);
            assert!(!redacted.contains(secret), "{redacted}");
            assert!(redacted.starts_with("first ") && redacted.contains(GONE), "{redacted}");
            let stays =
                after.rsplit(|it: char| !it.is_ascii_alphanumeric()).find(|word| !word.is_empty()).unwrap_or_default();
            assert!(redacted.contains(stays), "{stays:?} is gone from {redacted:?}");
            assert_eq!(text(&redacted), redacted, "once is enough");
        }
    }

    #[test]
    fn what_helps_stays() {
        for line in [
            "spiffe://cluster.local/ns/shop/sa/web on node-1",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "src.addr=\"10.0.0.1:4000\" dst.service=\"web.shop.svc.cluster.local\" reason=\"policy_denied\"",
            "istio_requests_total{response_code=\"200\",destination_service=\"web\"} 7",
            "https://10.99.0.1:15012/path?destination=web:80",
            "{\"kind\":\"Secret\",\"name\":\"certificate\"}",
        ] {
            assert_eq!(text(line), line);
        }
    }

    #[test]
    fn values_go_wherever_objects_have_them() {
        let probe = json!({"exec": {"command": ["curl", "-u", "me:s3cret"]}});
        let header = json!([{"name": "X-Plain", "value": "s3cret"}]);
        for (mut whole, stays) in [
            (json!({"containers": [{"command": ["run", "--key", "s3cret"], "args": ["s3cret"]}]}), "run"),
            (json!({"initContainers": [{"command": ["run s3cret"], "livenessProbe": probe}]}), "curl"),
            (json!({"containers": [{"livenessProbe": {"httpGet": {"httpHeaders": header}}}]}), "X-Plain"),
            (json!({"filters": [{"requestHeaderModifier": {"set": header}}]}), "X-Plain"),
            (json!({"filters": [{"requestHeaderModifier": {"add": header}}]}), "X-Plain"),
            (json!({"matches": [{"headers": header}]}), "X-Plain"),
            (json!({"headers": {"request": {"set": {"x-plain": "s3cret"}}}}), "x-plain"),
            (json!({"match": [{"headers": {"x-plain": {"exact": "s3cret"}}}]}), "x-plain"),
            (json!({"parameters": [{"name": "DB_PASSWORD", "value": "s3cret"}]}), "DB_PASSWORD"),
            (json!({"parameters": [{"name": "x-auth-token", "value": "s3cret"}]}), "x-auth-token"),
            (json!({"any": {"add": ["NET_ADMIN"], "name": "plain", "value": "kept"}}), "kept"),
            (json!({"any": {"add": ["NET_ADMIN"]}}), "NET_ADMIN"),
        ] {
            object(&mut whole);
            let text = whole.to_string();
            assert!(!text.contains("s3cret") && text.contains(stays), "{text}");
        }
    }

    #[test]
    fn objects_lose_values_of_variables_keys_and_what_repeats_them() {
        let mut pod = json!({
            "kind": "Pod",
            "metadata": {"name": "web", "managedFields": [1], "annotations": {LAST_APPLIED: "all of it", "kept": "yes"}},
            "spec": {"initContainers": [{"env": [{"name": "A", "value": "hunter2"}]}],
                "containers": [{"env": [{"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                    "command": ["run", "--url=https://me:hunter2@db/"]}]},
        });
        object(&mut pod);
        let text = pod.to_string();
        assert!(!text.contains("hunter2") && !text.contains("all of it") && !text.contains("managedFields"), "{text}");
        assert!(
            text.contains("\"kept\":\"yes\"") && text.contains("\"key\":\"k\"") && text.contains("\"name\":\"A\""),
            "{text}"
        );
        let mut tokens = json!({"kind": "RequestAuthentication", "spec": {"jwtRules": [{"issuer": "i", "jwks": "{\"k\": \"c2VjcmV0\"}"}]}});
        object(&mut tokens);
        assert!(
            !tokens.to_string().contains("c2VjcmV0") && tokens.to_string().contains("\"issuer\":\"i\""),
            "{tokens}"
        );
        let mut secret = json!({"kind": "Secret", "data": {"a": "aHVudGVyMg=="}, "stringData": {"b": "hunter2"}});
        object(&mut secret);
        assert_eq!(secret["data"]["a"], GONE);
        assert_eq!(secret["stringData"]["b"], GONE);
    }
}
