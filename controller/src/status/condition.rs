//! Conditions as Kubernetes writes them: what is said of which version of an object, and since when.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Longest message, in bytes; the API takes 32 KiB, and nobody reads that.
const MAXIMUM_MESSAGE_BYTES: usize = 4 * 1024;

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition<'a> {
    /// Its type.
    pub kind: &'a str,
    /// Whether it holds.
    pub holds: bool,
    /// One word.
    pub reason: &'a str,
    /// For people.
    pub message: &'a str,
}

impl Condition<'_> {
    /// The condition of an object of this generation, where it has one.
    #[must_use]
    pub fn written(&self, generation: Option<i64>, since: &str) -> Value {
        let cut = self.message.floor_char_boundary(MAXIMUM_MESSAGE_BYTES);
        let mut condition = json!({
            "type": self.kind, "status": status(self.holds), "reason": self.reason,
            "message": self.message.get(..cut).unwrap_or_default(), "lastTransitionTime": since,
        });
        if let (Some(generation), Some(condition)) = (generation, condition.as_object_mut()) {
            condition.insert("observedGeneration".to_owned(), generation.into());
        }
        condition
    }

    /// The same, beside what the object has now: a condition that held before has held since then.
    #[must_use]
    pub fn beside(&self, present: &[Value], generation: Option<i64>, now: &str) -> Value {
        self.written(generation, &since(present, self.kind, self.holds, now))
    }
}

fn status(holds: bool) -> &'static str {
    if holds { "True" } else { "False" }
}

/// Since when the condition of this type is as it is, among what an object has now.
#[must_use]
pub fn since(present: &[Value], kind: &str, holds: bool, now: &str) -> String {
    let says = |condition: &Value, key: &str, value: &str| condition.get(key).and_then(Value::as_str) == Some(value);
    let same = present.iter().find(|known| says(known, "type", kind) && says(known, "status", status(holds)));
    let since = same.and_then(|condition| condition.get("lastTransitionTime")).and_then(Value::as_str);
    since.filter(|since| !since.is_empty()).unwrap_or(now).to_owned()
}

/// Whether an object has this condition, word for word; it may say more.
#[must_use]
pub fn is_said(condition: &Value, present: &[Value]) -> bool {
    let has =
        |known: &Value| condition.as_object().into_iter().flatten().all(|(key, value)| known.get(key) == Some(value));
    present.iter().any(has)
}

/// This moment, to the second, as conditions have it.
#[must_use]
pub fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).ok().and_then(|now| now.format(&Rfc3339).ok());
    now.unwrap_or_default()
}
