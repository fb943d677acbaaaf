//! How many requests pass at waypoints: what RateLimits come to, in no proxy's language.

use std::time::Duration;

use fairway_core::source::istio::TargetReference;
use fairway_core::source::rate_limit::{
    CountBy, CountKind, DescriptorEntry, Global as WrittenGlobal, Limit as Written, RateLimit,
};
use fairway_core::source::{Kind, ObjectKey};

use super::authz::Place;
use super::authz::read::place;
use super::providers::Providers;
use super::rules::text;
use crate::translate::Fault;

/// Targets of one object, and limits of one object, as the CRD says.
pub(super) const MAXIMUM: usize = 16;
/// The longest period: a proxy that restarts forgets.
const LONGEST_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// A RateLimit that is attached to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The object.
    pub object: ObjectKey,
    /// What it is attached to.
    pub places: Vec<Place>,
    /// All of these must let a request pass.
    pub limits: Vec<Limit>,
    /// Somebody who counts for several proxies must let it pass, too.
    pub global: Option<Global>,
}

/// What somebody else counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Who: a provider of the mesh configuration.
    pub provider: String,
    /// What requests are counted by, each of these by itself: keys, and where their values are from.
    pub descriptors: Vec<Vec<(String, Counted)>>,
}

/// Where the value of a key is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    /// It is this.
    Fixed(String),
    /// It is the request's.
    Request(By),
}

impl Policy {
    /// The provider that is asked of those that these name: a proxy asks one, the first by name.
    pub(crate) fn provider<'a>(policies: impl IntoIterator<Item = &'a Self>) -> Option<&'a str> {
        policies.into_iter().filter_map(|policy| Some(policy.global.as_ref()?.provider.as_str())).min()
    }
}

/// So many requests in so much time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Namespace and name of the object, and its place there.
    pub name: String,
    /// How many.
    pub requests: u32,
    /// In so many whole seconds.
    pub period: Duration,
    /// How many at once.
    pub burst: u32,
    /// What is counted by itself.
    pub by: Vec<By>,
}

/// What tells requests apart that are counted by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Whom the client has proved to be.
    Client,
    /// Where the client is.
    Address,
    /// A header, name in lower case; requests without it are not counted.
    Header(String),
}

/// What an object comes to.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn read(object: &RateLimit, root: &str, providers: &Providers) -> Result<Policy, Vec<Fault>> {
    let (spec, metadata) = (&object.spec, &object.metadata);
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    let mut faults = Vec::new();
    let places = attachable(&spec.target_refs, namespace, root, &mut faults);
    let mut fault = |field: String, message: String| faults.push(Fault { field, message });
    let least = usize::from(spec.global.is_none());
    for (field, count, least) in [("targetRefs", spec.target_refs.len(), 1), ("limits", spec.limits.len(), least)] {
        if !(least..=MAXIMUM).contains(&count) {
            fault(format!("spec.{field}"), format!("has {count} entries; {least} to {MAXIMUM} are allowed"));
        }
    }
    let mut limits = Vec::new();
    for (index, written) in spec.limits.iter().enumerate() {
        match limit(&format!("{namespace}/{name}/{index}"), &format!("spec.limits[{index}]"), written) {
            Ok(limit) => limits.push(limit),
            Err((field, message)) => fault(field, message),
        }
    }
    let global = match spec.global.as_ref().map(|written| global(written, providers)).transpose() {
        Ok(global) => global,
        Err((field, message)) => {
            fault(format!("spec.global.{field}"), message);
            None
        }
    };
    let object = ObjectKey::new(Kind::RateLimit, namespace, name);
    if faults.is_empty() { Ok(Policy { object, places, limits, global }) } else { Err(faults) }
}

/// What these targets of an object in `namespace` stand for: what policies can be attached to, and routes.
pub(super) fn attachable(
    targets: &[TargetReference],
    namespace: &str,
    root: &str,
    faults: &mut Vec<Fault>,
) -> Vec<Place> {
    let mut places = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let route = match (target.group.as_str(), target.kind.as_str()) {
            ("gateway.networking.k8s.io", "HTTPRoute") => Some(Kind::HTTPRoute),
            ("gateway.networking.k8s.io", "GRPCRoute") => Some(Kind::GRPCRoute),
            ("networking.istio.io", "VirtualService") => Some(Kind::VirtualService),
            _ => None,
        };
        let is_here = target.namespace.as_deref().is_none_or(|it| it.is_empty() || it == namespace);
        let found = match route {
            Some(kind) if is_here && !target.name.is_empty() => {
                Ok(Place::Object(ObjectKey::new(kind, namespace, &target.name)))
            }
            // The rest is the same for routes.
            _ => place(target, namespace, root),
        };
        match found {
            Ok(found) => places.push(found),
            Err(message) => faults.push(Fault { field: format!("spec.targetRefs[{index}]"), message }),
        }
    }
    places
}

fn global(written: &WrittenGlobal, providers: &Providers) -> Result<Global, (String, String)> {
    let name = &written.provider;
    if !providers.limiters.contains_key(name) {
        let message = format!("the mesh configuration has no rate limiter {name:?} (fairwayRateLimitGrpc)");
        return Err(("provider".to_owned(), message));
    }
    let is_allowed = |count: usize| (1..=MAXIMUM).contains(&count);
    let wrong = |field: String, count: usize| (field, format!("has {count} entries; 1 to {MAXIMUM} are allowed"));
    if !is_allowed(written.descriptors.len()) {
        return Err(wrong("descriptors".to_owned(), written.descriptors.len()));
    }
    let mut descriptors = Vec::new();
    for (index, descriptor) in written.descriptors.iter().enumerate() {
        let at = format!("descriptors[{index}].entries");
        if !is_allowed(descriptor.entries.len()) {
            return Err(wrong(at, descriptor.entries.len()));
        }
        let entries = descriptor.entries.iter().enumerate();
        let entries = entries.map(|(place, written)| entry(&format!("{at}[{place}]"), written));
        descriptors.push(entries.collect::<Result<_, _>>()?);
    }
    Ok(Global { provider: name.clone(), descriptors })
}

fn entry(at: &str, written: &DescriptorEntry) -> Result<(String, Counted), (String, String)> {
    if written.key.is_empty() {
        return Err((format!("{at}.key"), "is missing".to_owned()));
    }
    let from = match (&written.value, &written.from) {
        (Some(value), None) if !value.is_empty() => Counted::Fixed(value.clone()),
        // Envoy names the address by itself.
        (None, Some(from)) if from.r#type == CountKind::Address && written.key != ADDRESS => {
            return Err((format!("{at}.key"), format!("must be {ADDRESS}, by which rate limiters know it")));
        }
        (None, Some(from)) => Counted::Request(by(&format!("{at}.from"), from)?),
        _ => return Err((at.to_owned(), "must have either a value or from".to_owned())),
    };
    Ok((written.key.clone(), from))
}

fn limit(name: &str, at: &str, written: &Written) -> Result<Limit, (String, String)> {
    let whole = |period: &Duration| period.subsec_nanos() == 0 && !period.is_zero() && *period <= LONGEST_PERIOD;
    let period = text::duration(&written.period).filter(whole).ok_or_else(|| {
        let message = format!("{:?} is no time of whole seconds up to a day; write for example 1m", written.period);
        (format!("{at}.period"), message)
    })?;
    let (requests, burst) = (written.requests, written.burst.unwrap_or(written.requests));
    for (field, number) in [("requests", requests), ("burst", burst)] {
        if number == 0 {
            return Err((format!("{at}.{field}"), "must be 1 at least".to_owned()));
        }
    }
    let mut by = Vec::new();
    for (index, written) in written.by.iter().enumerate() {
        let at = format!("{at}.by[{index}]");
        let kind = self::by(&at, written)?;
        if by.contains(&kind) {
            return Err((at, "is there twice".to_owned()));
        }
        by.push(kind);
    }
    Ok(Limit { name: name.to_owned(), requests, period, burst, by })
}

/// What requests are told apart by.
fn by(at: &str, written: &CountBy) -> Result<By, (String, String)> {
    let kind = match written.r#type {
        CountKind::Header if text::is_header_name(&written.name) => By::Header(written.name.to_ascii_lowercase()),
        CountKind::Header => {
            return Err((format!("{at}.name"), format!("{:?} is no name of a header", written.name)));
        }
        _ if !written.name.is_empty() => {
            return Err((format!("{at}.name"), "is for headers alone".to_owned()));
        }
        CountKind::Client => By::Client,
        CountKind::Address => By::Address,
    };
    // A header that other proxies write says who the client is, and not what the client says.
    if kind == By::Header(CLIENT_HEADER.to_owned()) {
        return Err((format!("{at}.name"), "says who the client is; write type: Client".to_owned()));
    }
    Ok(kind)
}

/// What Envoy calls the client's address.
pub(super) const ADDRESS: &str = "remote_address";
/// By which proxies know who the client is.
pub(super) const CLIENT_HEADER: &str = "x-forwarded-client-cert";
