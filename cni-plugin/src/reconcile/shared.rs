//! Values that many pods have alike, kept once.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What is in use of such values.
#[derive(Debug)]
pub(super) struct Shared<T>(BTreeSet<Arc<T>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Ord> Shared<T> {
    /// The one that equals `value`.
    pub(super) fn share(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.0.get(&value) {
            return Arc::clone(known);
        }
        let value = Arc::new(value);
        self.0.insert(Arc::clone(&value));
        value
    }

    /// Lets go of what nobody has any more.
    pub(super) fn forget_unused(&mut self) {
        self.0.retain(|value| Arc::strong_count(value) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_are_one_and_go_with_their_last_user() {
        let mut shared = Shared::default();
        let (one, same, other) = (shared.share(1), shared.share(1), shared.share(2));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        drop((one, other));
        shared.forget_unused();
        assert_eq!(shared.0.iter().map(|value| **value).collect::<Vec<_>>(), [1]);
        assert!(Arc::ptr_eq(&same, &shared.share(1)));
    }
}
