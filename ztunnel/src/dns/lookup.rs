//! Addresses of endpoints that have only a name, remembered for a bounded time and asked for once at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use fairway_core::io::dns::addresses::{self, LookupError};
use fairway_core::io::dns::upstream::Upstream;
use fairway_core::limits;
use fairway_core::reason::Reason;
use fairway_core::workload::Workload;
use rand::seq::IndexedRandom;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::metrics::DnsMetrics;

/// Resolves hostnames of endpoints. Cheap to clone; clones share what is remembered.
#[derive(Clone, Debug)]
pub struct Lookup {
    upstream: Upstream,
    metrics: DnsMetrics,
    slots: Arc<Mutex<HashMap<Arc<str>, Arc<Slot>>>>,
}

/// One name: being asked for, or known until some time.
type Slot = OnceCell<Known>;

#[derive(Debug)]
struct Known {
    until: Instant,
    result: Result<Arc<[IpAddr]>, LookupError>,
}

impl Lookup {
    /// Asks through `upstream`.
    #[must_use]
    pub fn new(upstream: Upstream, metrics: DnsMetrics) -> Self {
        Self { upstream, metrics, slots: Arc::default() }
    }

    /// An address of `hostname` for a connection of `client`, drawn at random; of the family of `dialled` if there is one.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub async fn address(
        &self,
        hostname: &Arc<str>,
        client: &Workload,
        dialled: IpAddr,
    ) -> Result<IpAddr, LookupError> {
        self.metrics.resolved(client, hostname);
        let slot = self.slot(hostname, Instant::now());
        let known = slot.get_or_init(|| self.ask(hostname)).await;
        let addresses = known.result.clone()?;
        let preferred: Vec<IpAddr> = addresses.iter().copied().filter(|ip| ip.is_ipv4() == dialled.is_ipv4()).collect();
        let from = if preferred.is_empty() { &*addresses } else { &*preferred };
        from.choose(&mut rand::rng()).copied().ok_or_else(|| LookupError::no_address(hostname))
    }

    /// The slot of a name: what is known and not too old, what is being asked for, or a new one.
    fn slot(&self, hostname: &Arc<str>, now: Instant) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(hostname)
            && slot.get().is_none_or(|known| now < known.until)
        {
            return Arc::clone(slot);
        }
        let most = self.upstream.limits().size(&limits::DNS_CACHE_ENTRIES);
        if slots.len() >= most {
            slots.retain(|_, slot| slot.get().is_none_or(|known| now < known.until));
        }
        if slots.len() >= most {
            // Those that are being asked for last: somebody waits for them, and they are as fresh as can be.
            let soonest =
                slots.iter().min_by_key(|(_, slot)| slot.get().map_or((true, now), |known| (false, known.until)));
            if let Some(soonest) = soonest.map(|(name, _)| Arc::clone(name)) {
                slots.remove(&soonest);
            }
        }
        let slot = Arc::new(Slot::new());
        slots.insert(Arc::clone(hostname), Arc::clone(&slot));
        slot
    }

    async fn ask(&self, hostname: &Arc<str>) -> Known {
        let addresses::Known { result, lifetime } = addresses::of(&self.upstream, hostname).await;
        if let Err(error) = &result {
            self.metrics.reason(Reason::DnsFailed);
            tracing::debug!(%error, "cannot resolve an endpoint's name");
        }
        Known { until: Instant::now() + lifetime, result }
    }
}

#[cfg(test)]
mod tests;
