//! The workloads of services, decoded once for all clients that ask for the endpoints of one state.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fairway_proto::workload::Workload;

/// Workloads that are held decoded at once, some 2 KiB each; past it what was held is dropped, and decoded again when needed.
const MAXIMUM: usize = 16_384;

/// The workloads of those services that clients have asked for.
#[derive(Debug, Default)]
pub(super) struct Members {
    decoded: Mutex<Decoded>,
}

#[derive(Debug, Default)]
struct Decoded {
    /// By key of the service.
    services: HashMap<String, Arc<[Workload]>>,
    /// How many workloads these are together.
    workloads: usize,
}

impl Members {
    /// Those of a service; `decode` is asked where they are not known yet. Two who ask at once may both decode, rather than one
    /// wait for the other.
    pub(super) fn of(&self, service: &str, decode: impl FnOnce() -> Arc<[Workload]>) -> Arc<[Workload]> {
        let known = self.decoded.lock().unwrap_or_else(PoisonError::into_inner).services.get(service).cloned();
        if let Some(known) = known {
            return known;
        }
        let members = decode();
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if decoded.workloads.saturating_add(members.len()) > MAXIMUM {
            *decoded = Decoded::default();
        }
        if members.len() <= MAXIMUM && decoded.services.insert(service.to_owned(), Arc::clone(&members)).is_none() {
            decoded.workloads = decoded.workloads.saturating_add(members.len());
        }
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_decoded_once_and_not_held_without_end() {
        let members = Members::default();
        let ask = |service: &str, count: usize| {
            let mut is_decoded = false;
            let found = members.of(service, || {
                is_decoded = true;
                vec![Workload::default(); count].into()
            });
            assert_eq!(found.len(), count, "{service}");
            is_decoded
        };
        assert_eq!(["a", "a", "b", "a", "b"].map(|service| ask(service, 2)), [true, false, true, false, false]);
        assert!(ask("most", MAXIMUM) && !ask("most", MAXIMUM));
        assert!(ask("a", 2), "it was dropped for the larger one");
        assert!(ask("more", MAXIMUM + 1) && ask("more", MAXIMUM + 1), "never held");
    }
}
