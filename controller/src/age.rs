//! Who came first: where objects contradict each other, the oldest wins (api-surface A14.3).

use std::sync::Arc;

use fairway_core::source::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

/// Orders objects from the oldest to the newest; those without a time come last, and ties go by namespace and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age<'a> {
    is_unknown: bool,
    created: Option<&'a Time>,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Age<'a> {
    /// The age of an object that was created then.
    pub(crate) fn new(created: Option<&'a Time>, namespace: &'a str, name: &'a str) -> Self {
        Self { is_unknown: created.is_none(), created, namespace, name }
    }

    /// The age of the object `key`.
    pub(crate) fn of(key: &'a ObjectKey, metadata: &'a ObjectMeta) -> Self {
        Self::new(metadata.creation_timestamp.as_ref(), &key.namespace, &key.name)
    }
}

/// Objects from the oldest to the newest.
pub(crate) fn by_age<'a, T>(
    objects: impl IntoIterator<Item = (&'a ObjectKey, &'a Arc<T>)>,
    metadata: impl Fn(&'a T) -> &'a ObjectMeta,
) -> Vec<(&'a ObjectKey, &'a Arc<T>)> {
    let mut sorted: Vec<_> = objects.into_iter().collect();
    sorted.sort_by_key(|(key, object)| Age::of(key, metadata(object)));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_comes_first_and_who_has_no_time_last() {
        let time = |text: &str| Time(text.parse().unwrap());
        let (old, new) = (time("2024-01-01T00:00:00Z"), time("2025-01-01T00:00:00Z"));
        let sorted = [
            Age::new(Some(&old), "b", "b"),
            Age::new(Some(&new), "a", "b"),
            Age::new(Some(&new), "b", "a"),
            Age::new(Some(&new), "b", "b"),
            Age::new(None, "a", "a"),
        ];
        assert!(sorted.is_sorted(), "{sorted:?}");
    }
}
