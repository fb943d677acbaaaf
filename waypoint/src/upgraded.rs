//! Connections that began as a request and go on as something else: bytes both ways under the request's terms, until both
//! ends are done or silent for too long, policy says no, or we stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fairway_core::reason::Reason;
use http::{HeaderMap, request};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio_util::io::InspectReader;

use crate::activity::Activity;
use crate::body::Ending;
use crate::config::{Config, Custom, Listener};
use crate::facts::Facts;
use crate::failure::Failure;
use crate::forward::Held;
use crate::in_flight::Phase;
use crate::rbac;
use crate::request::{head, normal_path, permit, remove_own};
use crate::stream::{Connection, denied, denied_later};

/// The request that a connection began as, to be decided about again.
pub struct Began {
    /// As it came, without what was meant for us alone.
    pub head: request::Parts,
    /// What it said of where it comes from, before anybody was asked about it.
    pub forwarded: HeaderMap,
    /// The host that was asked for.
    pub authority: String,
    /// When it came: a token that was valid then stays so.
    pub time: SystemTime,
    /// Who was asked about which requests then; their answers stand.
    pub custom: Vec<Custom>,
}

/// An upgraded connection.
pub struct Upgraded {
    /// The client's end.
    pub client: OnUpgrade,
    /// The endpoint's end.
    pub endpoint: OnUpgrade,
    /// What it began as.
    pub began: Began,
    /// Longest time without a byte.
    pub idle: Duration,
    /// What counts as under way until it ends.
    pub held: Held,
    /// Counted and logged when it ends; holds the client's stream, its permit and its part in a drain until then.
    pub ending: Ending,
}

impl Upgraded {
    /// Carries bytes until the end.
    pub async fn carry(self) {
        let Self { client, endpoint, began, idle, held: _held, mut ending } = self;
        let activity = Activity::new();
        let connection = Arc::clone(&ending.connection);
        let carried = match &ending.done.entry {
            Some(entry) => entry.carries(Phase::Upgraded, None),
            None => Arc::default(),
        };
        let mut drain = connection.drain.clone();
        let copied = async {
            let (client, endpoint) = tokio::try_join!(client, endpoint).map_err(broken)?;
            let add = |counter: &AtomicU64, bytes: &[u8]| {
                activity.note();
                counter.fetch_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
            };
            let mut client = InspectReader::new(TokioIo::new(client), |bytes| add(&carried.to_endpoint, bytes));
            let mut endpoint = InspectReader::new(TokioIo::new(endpoint), |bytes| add(&carried.to_client, bytes));
            copy_bidirectional(&mut client, &mut endpoint).await.map(drop).map_err(broken)
        };
        let ended = tokio::select! {
            ended = copied => ended,
            failure = denied_later(&connection, |config| still(&connection, config, &began)) => Err(failure),
            failure = activity.over(Some(idle)) => Err(failure),
            () = drain.immediate() => Err(Failure::new(Reason::Draining, "the waypoint stops")),
        };
        let done = &mut ending.done;
        (done.received, done.sent) = carried.now();
        if let Err(failure) = ended {
            (done.reason, done.detail) = (failure.reason, Some(failure.detail));
        }
    }
}

fn broken(error: impl ToString) -> Failure {
    Failure::new(Reason::ResetByPeer, error)
}

/// Whether the request might still be sent.
fn still(connection: &Connection, config: &Config, began: &Began) -> Result<(), Failure> {
    match config.listeners.get(&connection.listener).map(|listener| &**listener) {
        Some(Listener::Http(http)) => {
            let mut head = began.head.clone();
            remove_own(http, &mut head.headers);
            let path = normal_path(&head, http.merge_slashes);
            let path = path.map_err(|error| Failure::new(Reason::BadRequest, error))?;
            let asked = (began.authority.as_str(), path.as_deref());
            let remote = connection.remote(&http.proxies, &began.forwarded);
            let facts = connection.facts_of(self::head(&head, asked, None), remote);
            if is_unasked(&http.custom, &began.custom, &facts) {
                let detail = "a policy asks an authorizer about it since";
                return Err(Failure::new(Reason::AuthorizerFailed, detail));
            }
            permit(connection, http, (&mut head, remote), asked, began.time, None).map(drop)
        }
        Some(opaque @ Listener::Opaque(_)) => {
            let judged = rbac::judge_connection(opaque, &connection.facts());
            judged.unwrap_or(Ok(())).map_err(|denial| denied(&denial))
        }
        // What is gone from the configuration cannot be asked; its last answer stands.
        None => Ok(()),
    }
}

/// Whether somebody would be asked about the request who was not: its next one will be. How they are asked does not matter.
fn is_unasked(custom: &[Custom], before: &[Custom], facts: &Facts<'_>) -> bool {
    let is_same =
        |it: &Custom, then: &Custom| then.rules == it.rules && then.authorizer.cluster == it.authorizer.cluster;
    let is_new = |it: &Custom| !before.iter().any(|then| is_same(it, then));
    custom.iter().any(|it| is_new(it) && rbac::is_about(&it.rules, facts))
}
