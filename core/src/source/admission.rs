//! What an API server asks of a webhook before it stores an object, and the answer (admission.k8s.io/v1).

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Kind, ObjectKey};

/// The version that is spoken.
const API_VERSION: &str = "admission.k8s.io/v1";
/// The kind of question and answer.
const KIND: &str = "AdmissionReview";
/// Longest question, in bytes: an object of the largest size the API takes, as it is to be and as it was, with room for the rest.
pub const MAXIMUM_REVIEW_BYTES: usize = 4 * 1024 * 1024;
/// Longest uid that is repeated, in bytes; the API's have 36.
const MAXIMUM_UID_BYTES: usize = 256;
/// What a name that the API server is still to make up ends with, as long as it is not known.
const MADE_UP: &str = "new";

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Too long.
    #[error("the review has more than {MAXIMUM_REVIEW_BYTES} bytes")]
    Long,
    /// Not JSON of that form.
    #[error("the review cannot be read: {0}")]
    Form(#[from] serde_json::Error),
    /// Something else.
    #[error("{found} is not {KIND} of {API_VERSION}; list v1 in admissionReviewVersions of the webhook configuration")]
    Version {
        /// What it says it is.
        found: String,
    },
    /// Without an id there is no answer.
    #[error("request.uid must have 1 to {MAXIMUM_UID_BYTES} bytes")]
    Uid,
}

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// Which question it is.
    pub uid: String,
    /// The object, and what it is to be; nothing where there is nothing to say: of kinds that are not read, and of what goes.
    pub object: Option<(ObjectKey, Value)>,
    /// Whether nothing new is asked for: the object is on its way out, or what it asks for is as it was. Refusing that helps nobody,
    /// and would keep finalizers from being removed, and whole namespaces from going.
    pub is_nothing_new: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
    #[serde(default, rename = "oldObject")]
    old_object: Value,
}

impl Request {
    fn is_nothing_new(&self) -> bool {
        let is_going = || self.object.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string);
        let is_same = || self.old_object.is_object() && self.object.get("spec") == self.old_object.get("spec");
        self.operation == "UPDATE" && (is_going() || is_same())
    }
}

impl Review {
    /// Reads a question.
    ///
    /// # Errors
    /// When it is none, or has no uid to answer to.
    pub fn read(bytes: &[u8]) -> Result<Self, ReviewError> {
        if bytes.len() > MAXIMUM_REVIEW_BYTES {
            return Err(ReviewError::Long);
        }
        let Written { api_version, kind, request } = serde_json::from_slice(bytes)?;
        if api_version != API_VERSION || kind != KIND {
            let found: String = format!("{kind} of {api_version}").chars().take(MAXIMUM_UID_BYTES).collect();
            return Err(ReviewError::Version { found });
        }
        let request = request.filter(|request| (1..=MAXIMUM_UID_BYTES).contains(&request.uid.len()));
        let request = request.ok_or(ReviewError::Uid)?;
        let is_stored = matches!(request.operation.as_str(), "CREATE" | "UPDATE");
        let is_nothing_new = request.is_nothing_new();
        let Request { uid, name, namespace, object, .. } = request;
        let object = if is_stored { identified(object, name, &namespace) } else { None };
        Ok(Self { uid, object, is_nothing_new })
    }

    /// The answer that the object may be stored, and what to tell who applies it.
    #[must_use]
    pub fn allow(&self, warnings: &[String]) -> Value {
        self.answer(json!({"uid": self.uid, "allowed": true, "warnings": warnings}))
    }

    /// The answer that it may not, and why.
    #[must_use]
    pub fn refuse(&self, why: &str) -> Value {
        let status = json!({"code": 422, "reason": "Invalid", "message": why});
        self.answer(json!({"uid": self.uid, "allowed": false, "status": status}))
    }

    fn answer(&self, response: Value) -> Value {
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": response})
    }
}

/// An object with its name, also where that is still to be made up.
fn identified(mut object: Value, name: String, namespace: &str) -> Option<(ObjectKey, Value)> {
    let text = |object: &Value, at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let api_version = text(&object, "/apiVersion");
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let kind = Kind::find(group, &text(&object, "/kind"))?;
    let prefix = text(&object, "/metadata/generateName");
    let name = [name, text(&object, "/metadata/name")].into_iter().find(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("{prefix}{MADE_UP}"));
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut)?;
    metadata.insert("name".to_owned(), json!(name));
    if kind.is_namespaced() {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    Some((ObjectKey::new(kind, namespace, name), object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(request: &Value) -> Vec<u8> {
        json!({"apiVersion": API_VERSION, "kind": KIND, "request": request}).to_string().into_bytes()
    }

    fn route(metadata: &Value) -> Value {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata})
    }

    #[test]
    fn an_object_is_known_by_what_the_server_calls_it() {
        for (operation, name, object, expected) in [
            ("CREATE", "web", route(&json!({"name": "web"})), Some("web")),
            ("UPDATE", "web", route(&json!({"name": "web", "namespace": "elsewhere"})), Some("web")),
            ("CREATE", "", route(&json!({"generateName": "web-"})), Some("web-new")),
            ("DELETE", "web", Value::Null, None),
            ("CONNECT", "web", route(&json!({"name": "web"})), None),
            ("CREATE", "odd", json!({"apiVersion": "v1", "kind": "Odd", "metadata": {"name": "odd"}}), None),
            ("CREATE", "bare", json!({"apiVersion": "v1", "kind": "Service"}), None),
            ("CREATE", "text", json!("no object"), None),
        ] {
            let request =
                json!({"uid": "u", "operation": operation, "name": name, "namespace": "shop", "object": object});
            let read = Review::read(&review(&request)).unwrap();
            let key = expected.map(|name| ObjectKey::new(Kind::HTTPRoute, "shop", name));
            assert_eq!(read.object.as_ref().map(|(key, _)| key), key.as_ref(), "{request}");
            if let Some((key, object)) = read.object {
                assert_eq!(
                    (&object["metadata"]["name"], &object["metadata"]["namespace"]),
                    (&json!(key.name), &json!("shop"))
                );
            }
        }
    }

    #[test]
    fn nothing_new_is_what_goes_and_what_asks_for_the_same() {
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"a": 1}});
        let with = |spec: Value| json!({"metadata": {}, "spec": spec});
        for (operation, object, before, expected) in [
            ("UPDATE", with(json!({"a": 1})), with(json!({"a": 1})), true),
            ("UPDATE", with(json!({"a": 1})), with(json!({"a": 2})), false),
            ("UPDATE", with(json!({"a": 1})), json!({"metadata": {}}), false),
            ("UPDATE", json!({"metadata": {}}), Value::Null, false),
            ("UPDATE", json!({"metadata": {}}), json!({"metadata": {}}), true),
            ("UPDATE", going.clone(), with(json!({"a": 2})), true),
            // Who creates can write anything.
            ("CREATE", going, Value::Null, false),
        ] {
            let request = json!({"uid": "u", "operation": operation, "object": object, "oldObject": before});
            assert_eq!(Review::read(&review(&request)).unwrap().is_nothing_new, expected, "{request}");
        }
    }

    #[test]
    fn what_cannot_be_answered_is_refused_by_name() {
        let deep = "[".repeat(100_000);
        for (bytes, words) in [
            (b"{".to_vec(), "cannot be read"),
            (deep.into_bytes(), "cannot be read"),
            (br#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#.to_vec(), "v1beta1"),
            (review(&Value::Null), "uid"),
            (review(&json!({"uid": "x".repeat(MAXIMUM_UID_BYTES + 1)})), "uid"),
            (vec![b' '; MAXIMUM_REVIEW_BYTES + 1], "more than"),
        ] {
            let error = Review::read(&bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_answer_is_to_its_question() {
        let review = Review { uid: "u".to_owned(), object: None, is_nothing_new: false };
        let allowed = review.allow(&["careful".to_owned()]);
        assert_eq!(allowed["response"], json!({"uid": "u", "allowed": true, "warnings": ["careful"]}));
        let refused = review.refuse("spec.action: no");
        assert_eq!(refused["response"]["allowed"], false);
        assert_eq!(refused["response"]["status"]["message"], "spec.action: no");
        assert_eq!((&refused["apiVersion"], &refused["kind"]), (&json!(API_VERSION), &json!(KIND)));
    }
}
