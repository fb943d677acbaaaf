//! The addresses of one name: both families asked for at once, and for how long the answer holds.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::upstream::Upstream;
use super::wire::{self, Found};
use crate::dns::Family;
use crate::limits;

/// What is known of a name, and for how long.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its addresses, one at least.
    pub result: Result<Arc<[IpAddr]>, LookupError>,
    /// As the resolvers say, within the limits.
    pub lifetime: Duration,
}

/// Why a name gave no address.
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

impl LookupError {
    /// The name has no address.
    #[must_use]
    pub fn no_address(name: &Arc<str>) -> Self {
        Self::Nothing { name: Arc::clone(name), problem: "the name has no address".to_owned() }
    }
}

/// Asks for the addresses of `hostname`.
pub async fn of(upstream: &Upstream, hostname: &Arc<str>) -> Known {
    in_part(upstream, hostname).await.0
}

/// Asks for the addresses of `hostname`. Where nobody could say anything of one family, also how long the addresses of the other
/// hold by themselves.
pub async fn in_part(upstream: &Upstream, hostname: &Arc<str>) -> (Known, Option<Duration>) {
    let (four, six) = tokio::join!(family(upstream, hostname, Family::V4), family(upstream, hostname, Family::V6));
    let limits = upstream.limits();
    let (minimum, maximum) = (limits.duration(&limits::DNS_CACHE_MINIMUM), limits.duration(&limits::DNS_CACHE_MAXIMUM));
    let mut half = None;
    let (result, lifetime) = match (four, six) {
        (Ok((mut addresses, lifetime)), Ok((more, other))) => {
            addresses.extend(more);
            (Ok(addresses), lifetime.min(other))
        }
        // One family is enough to connect; the other is asked for again soon.
        (Ok((addresses, lifetime)), Err(_)) | (Err(_), Ok((addresses, lifetime))) if !addresses.is_empty() => {
            half = Some(lifetime.clamp(minimum, maximum));
            (Ok(addresses), minimum)
        }
        (Err(error), _) | (_, Err(error)) => (Err(error), minimum),
    };
    let result = match result {
        Ok(addresses) if addresses.is_empty() => Err(LookupError::no_address(hostname)),
        result => result.map(Into::into),
    };
    let lifetime = if result.is_ok() { lifetime.clamp(minimum, maximum) } else { minimum };
    (Known { result, lifetime }, half)
}

async fn family(
    upstream: &Upstream,
    hostname: &Arc<str>,
    family: Family,
) -> Result<(Vec<IpAddr>, Duration), LookupError> {
    let nothing = |problem: String| LookupError::Nothing { name: Arc::clone(hostname), problem };
    let query = wire::question(rand::random(), hostname, family).ok_or_else(|| LookupError::Name(hostname.clone()))?;
    let reply = upstream.ask(&query).await.map_err(|error| nothing(error.to_string()))?;
    match wire::addresses(&reply) {
        Found::Addresses(addresses, ttl) => {
            // A name without records of one family says nothing about how long to remember the other.
            let ttl = if addresses.is_empty() { Duration::MAX } else { ttl };
            Ok((addresses.into_iter().filter(|ip| family.is_of(ip)).collect(), ttl))
        }
        Found::Nothing(problem) => Err(nothing(problem)),
    }
}
