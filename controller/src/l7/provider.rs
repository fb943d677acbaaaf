//! What providers of the mesh configuration have in common: where they are, by when they answer, and what is said where they do
//! not.

use std::time::Duration;

use super::model::Target;
use super::rules::text;

/// A field, and what is wrong with it.
pub(super) type Wrong = (&'static str, String);

/// `[<namespace>/]<hostname>` and a port; `example` is a name of such a service.
pub(super) fn target(service: &str, port: u16, example: &str) -> Result<Target, Wrong> {
    let hostname = service.rsplit_once('/').map_or(service, |(_, host)| host);
    if !text::is_host(hostname) {
        return Err(("service", format!("is no name of a service, such as {example}.shop.svc.cluster.local")));
    }
    if port == 0 {
        return Err(("port", "is missing".to_owned()));
    }
    Ok(Target { hostname: hostname.to_owned(), port, subset: None })
}

/// `timeout`.
pub(super) fn timeout(written: Option<&str>, otherwise: Duration) -> Result<Duration, Wrong> {
    let Some(time) = written else { return Ok(otherwise) };
    let time = text::seconds(time).filter(|time| !time.is_zero());
    time.ok_or_else(|| ("timeout", "is no time; write for example 1s".to_owned()))
}

/// `statusOnError`.
pub(super) fn status(written: Option<&str>, otherwise: u16) -> Result<u16, Wrong> {
    let Some(status) = written else { return Ok(otherwise) };
    let status = status.parse().ok().filter(|status| (400..600).contains(status));
    status.ok_or_else(|| ("statusOnError", "is no status of a refusal".to_owned()))
}
