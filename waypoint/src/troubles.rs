//! Who is in trouble, so that the log says it once when it begins and once when it is over.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Clusters that are in trouble. Cheap to clone; clones are one.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Arc<Mutex<HashSet<Arc<str>>>>);

impl Troubles {
    /// It is in trouble; whether that is news.
    #[must_use]
    pub fn begin(&self, cluster: &Arc<str>) -> bool {
        let mut troubled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !troubled.contains(cluster) && troubled.insert(Arc::clone(cluster))
    }

    /// It is not; whether that is news.
    #[must_use]
    pub fn end(&self, cluster: &Arc<str>) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_is_news_when_it_begins_and_when_it_is_over() {
        let troubles = Troubles::default();
        let [one, other]: [Arc<str>; 2] = ["one", "other"].map(Arc::from);
        assert!(!troubles.end(&one));
        assert!(troubles.begin(&one) && !troubles.clone().begin(&one) && troubles.begin(&other));
        assert!(troubles.end(&one) && !troubles.end(&one) && troubles.begin(&one));
    }
}
