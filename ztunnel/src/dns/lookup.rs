//! Addresses of endpoints that have only a name, remembered for a bounded time and asked for once at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fairway_core::dns::Family;
use fairway_core::limits;
use fairway_core::reason::Reason;
use fairway_core::workload::Workload;
use rand::seq::IndexedRandom;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::metrics::DnsMetrics;
use super::upstream::Upstream;
use super::wire::{self, Found};

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

/// Why an endpoint's name gave no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// It is no name that could be asked for.
    #[error("{0:?} is not a DNS name")]
    Name(Arc<str>),
    /// The name has no address, or nobody could say.
    #[error("{name}: {problem}")]
    Nothing {
        /// The name.
        name: Arc<str>,
        /// What went wrong.
        problem: String,
    },
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
        let nothing = || LookupError::Nothing { name: hostname.clone(), problem: "the name has no address".to_owned() };
        from.choose(&mut rand::rng()).copied().ok_or_else(nothing)
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
        let (four, six) = tokio::join!(self.ask_for(hostname, Family::V4), self.ask_for(hostname, Family::V6));
        let limits = self.upstream.limits();
        let (minimum, maximum) =
            (limits.duration(&limits::DNS_CACHE_MINIMUM), limits.duration(&limits::DNS_CACHE_MAXIMUM));
        let (result, lifetime) = match (four, six) {
            (Ok((mut addresses, lifetime)), Ok((more, other))) => {
                addresses.extend(more);
                (Ok(addresses), lifetime.min(other))
            }
            // One family is enough to connect; the other is asked for again soon.
            (Ok((addresses, _)), Err(_)) | (Err(_), Ok((addresses, _))) if !addresses.is_empty() => {
                (Ok(addresses), minimum)
            }
            (Err(error), _) | (_, Err(error)) => (Err(error), minimum),
        };
        let result = match result {
            Ok(addresses) if addresses.is_empty() => {
                Err(LookupError::Nothing { name: hostname.clone(), problem: "the name has no address".to_owned() })
            }
            result => result.map(Into::into),
        };
        if let Err(error) = &result {
            self.metrics.reason(Reason::DnsFailed);
            tracing::debug!(%error, "cannot resolve an endpoint's name");
        }
        let lifetime = if result.is_ok() { lifetime.clamp(minimum, maximum) } else { minimum };
        Known { until: Instant::now() + lifetime, result }
    }

    async fn ask_for(&self, hostname: &Arc<str>, family: Family) -> Result<(Vec<IpAddr>, Duration), LookupError> {
        let nothing = |problem: String| LookupError::Nothing { name: hostname.clone(), problem };
        let query =
            wire::question(rand::random(), hostname, family).ok_or_else(|| LookupError::Name(hostname.clone()))?;
        let reply = self.upstream.ask(&query).await.map_err(|error| nothing(error.to_string()))?;
        match wire::addresses(&reply) {
            Found::Addresses(addresses, ttl) => {
                // A name without records of one family says nothing about how long to remember the other.
                let ttl = if addresses.is_empty() { Duration::MAX } else { ttl };
                Ok((addresses.into_iter().filter(|ip| family.is_of(ip)).collect(), ttl))
            }
            Found::Nothing(problem) => Err(nothing(problem)),
        }
    }
}

#[cfg(test)]
mod tests;
