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

/// Forms of secrets: what is before them stays (`keep`), the rest goes.
const FORMS: [&str; 7] = [
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
    r#"(?i)(?P<keep>\b[a-z0-9_.-]*(?:passw(?:or)?d|secret|api[_-]?key|access[_-]?key|private[_-]?key)[a-z0-9_.-]*"?\s*[:=]\s*"?)[^\s",\[{&]+"#,
    // Parameters of requests that carry tokens (RFC 6750 §2.3).
    r"(?i)(?P<keep>[?&](?:access_token|id_token|token|code|signature)=)[^&\s]+",
];

static PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| FORMS.iter().filter_map(|form| Regex::new(form).ok()).collect());

/// A text without what has the form of a secret.
pub(super) fn text(text: &str) -> String {
    PATTERNS
        .iter()
        .fold(text.to_owned(), |text, pattern| pattern.replace_all(&text, format!("${{keep}}{GONE}")).into_owned())
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
    inside(object);
}

fn inside(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in CONTAINERS {
                for container in fields.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
                    environment(container);
                }
            }
            // Keys of tokens in a policy (RFC 7517): those that are symmetric are secret.
            if let Some(keys) = fields.get_mut("jwks").filter(|keys| keys.is_string()) {
                *keys = GONE.into();
            }
            fields.values_mut().for_each(inside);
        }
        Value::Array(items) => items.iter_mut().for_each(inside),
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
        ] {
            assert_eq!(text(line), line);
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
