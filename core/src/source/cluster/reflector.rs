//! Follows the objects of one kind: lists them, watches what changes, and goes on where it was when the watch breaks.

use std::time::Duration;

use kube::client::Body;
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::Freshness;
use super::Selection;
use super::request::{self, Resource};
use super::state::Change;
use super::wire::{self, Event, Failure, Lines};

/// Failures in a row after which everything is listed again: the version we go on from may be what the server cannot
/// serve, for example because it was restored from a backup.
const FAILURES_BEFORE_LIST: u32 = 3;
/// Time between log lines while a kind cannot be read.
const REMIND: Duration = Duration::from_secs(60);

/// How long is waited for what.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// After the first failure; twice as long after each further one.
    first: Duration,
    /// At most, after many failures: an API server that comes back is not stormed, and is not waited for long.
    longest: Duration,
    /// For a kind to be defined that is not: somebody may be installing it now.
    absent: Duration,
    /// For the head of an answer, and for the next part of a list.
    answer: Duration,
    /// For the next line of a watch. Servers send a bookmark about every minute when nothing changes, so two of them are
    /// missing.
    silence: Duration,
    /// How long a watch may last, before a part of that by chance: all of them at once would be a storm.
    watch: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(10),
            absent: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            silence: Duration::from_secs(150),
            watch: Duration::from_secs(300),
        }
    }
}

impl Pace {
    pub(super) fn divided(self, divisor: u32) -> Self {
        let of = |duration: Duration| duration.checked_div(divisor).unwrap_or(duration);
        Self {
            first: of(self.first),
            longest: of(self.longest),
            absent: of(self.absent),
            answer: of(self.answer),
            silence: of(self.silence),
            watch: self.watch,
        }
    }

    /// How long to wait after so many failures in a row; `chance` is from 0 to 1.
    fn backoff(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32 << failures.saturating_sub(1).min(16));
        doubled.min(self.longest).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

/// Nobody takes the changes any more.
#[derive(Debug)]
struct Unheard;

/// What ends a turn.
#[derive(Debug)]
enum End {
    /// The server closed the watch, as it does now and then.
    Closed,
    Failed(Failure),
    Unheard,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Unheard> for End {
    fn from(Unheard: Unheard) -> Self {
        Self::Unheard
    }
}

/// The follower of one kind.
pub(super) struct Reflector {
    client: kube::Client,
    resource: Resource,
    fields: String,
    pace: Pace,
    freshness: Freshness,
    changes: mpsc::Sender<Change>,
    /// Version that everything sent so far amounts to; without one, all must be listed.
    version: Option<String>,
    /// Whether the server lists by way of a watch.
    streams: bool,
    /// Whether objects were ever listed.
    is_listed: bool,
    failures: u32,
    reminded: Option<Instant>,
}

impl Reflector {
    pub(super) fn new(
        client: kube::Client,
        selection: Selection,
        pace: Pace,
        freshness: Freshness,
        changes: mpsc::Sender<Change>,
    ) -> Self {
        Self {
            client,
            resource: Resource::newest(selection.kind),
            fields: selection.fields,
            pace,
            freshness,
            changes,
            version: None,
            streams: true,
            is_listed: false,
            failures: 0,
            reminded: None,
        }
    }

    fn part(&self) -> &'static str {
        self.resource.kind.plural()
    }

    /// Follows until nobody takes the changes any more.
    pub(super) async fn run(mut self) {
        loop {
            let ended = match self.turn().await {
                Ok(never) => match never {},
                Err(ended) => ended,
            };
            let wait = match ended {
                End::Unheard => return,
                End::Closed => self.pace.backoff(1, rand::rng().random()),
                End::Failed(failure) => match self.failed(failure).await {
                    Ok(wait) => wait,
                    Err(Unheard) => return,
                },
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.changes.closed() => return,
            }
        }
    }

    /// Lists if it must, and watches.
    async fn turn(&mut self) -> Result<std::convert::Infallible, End> {
        if self.version.is_none() && !self.streams {
            self.list().await?;
        }
        self.watch().await
    }

    /// Lists page by page, and hands all of it on at once.
    async fn list(&mut self) -> Result<(), End> {
        let kind = self.resource.kind;
        let mut items = Vec::new();
        let mut token = String::new();
        // When a token expires, the next attempt takes everything on one page.
        let mut size = request::PAGE;
        let version = loop {
            let body = match self.open(self.resource.list(&self.fields, size, &token)).await {
                Err(Failure::Gone) if !token.is_empty() => {
                    (size, token) = (0, String::new());
                    items.clear();
                    continue;
                }
                opened => opened?,
            };
            let body = request::collect(body, request::MAXIMUM_PAGE_BYTES, self.pace.answer).await?;
            let page = wire::page(kind, &body)?;
            items.extend(page.items);
            if page.token.is_empty() {
                break page.version;
            }
            token = page.token;
        };
        self.listed(items, version).await?;
        Ok(())
    }

    /// Watches from where it is, or from nothing: then the watch lists first.
    async fn watch(&mut self) -> Result<std::convert::Infallible, End> {
        let kind = self.resource.kind;
        let timeout = self.pace.watch.mul_f64(0.8 + rand::rng().random::<f64>() / 5.0);
        let request = self.resource.watch(&self.fields, self.version.as_deref(), timeout);
        let mut lines = Lines::new(self.open(request).await?);
        let mut initial = self.version.is_none().then(Vec::new);
        if initial.is_none() {
            self.confirm().await?;
        }
        while let Some(line) = lines.next(self.pace.silence).await? {
            let Some(event) = wire::event(kind, &line)? else { continue };
            match (event, &mut initial) {
                (Event::Failed(failure), _) => return Err(failure.into()),
                (Event::Applied(item, _), Some(items)) => items.push(item),
                (Event::Bookmark { version, ends_initial: true }, Some(_)) => {
                    self.listed(initial.take().unwrap_or_default(), version).await?;
                }
                // A server that does not know how to list by way of a watch just watches.
                (Event::Bookmark { .. } | Event::Deleted(..), Some(_)) => return Err(self.cannot_stream()),
                (Event::Applied(item, version), None) => {
                    self.send(Change::Applied(item)).await?;
                    self.advance(version).await?;
                }
                (Event::Deleted(key, version), None) => {
                    self.send(Change::Deleted(key)).await?;
                    self.advance(version).await?;
                }
                (Event::Bookmark { version, .. }, None) => self.advance(version).await?,
            }
        }
        Err(if initial.is_some() {
            Failure::Connection("the API server ended its list before it was complete".to_owned()).into()
        } else {
            End::Closed
        })
    }

    /// The body of a successful answer.
    async fn open(&self, request: http::Request<Body>) -> Result<Body, Failure> {
        let answer = tokio::time::timeout(self.pace.answer, self.client.send(request));
        let answer = answer.await.map_err(|_| Failure::Silent(self.pace.answer))?;
        let answer = answer.map_err(|error| Failure::broken(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let body = request::collect(answer.into_body(), request::MAXIMUM_PAGE_BYTES, self.pace.answer).await;
        Err(Failure::of_status(status.as_u16(), &body.unwrap_or_default()))
    }

    fn cannot_stream(&mut self) -> End {
        self.streams = false;
        Failure::Gone.into()
    }

    async fn listed(&mut self, items: Vec<wire::Item>, version: String) -> Result<(), Unheard> {
        self.is_listed = true;
        self.send(Change::Listed(self.resource.kind, items)).await?;
        self.advance(version).await
    }

    async fn advance(&mut self, version: String) -> Result<(), Unheard> {
        if !version.is_empty() {
            self.version = Some(version);
        }
        self.confirm().await
    }

    /// What was sent is what the server has now.
    async fn confirm(&mut self) -> Result<(), Unheard> {
        self.failures = 0;
        self.reminded = None;
        if let Some(stale) = self.freshness.succeeded(self.part(), Instant::now().into_std()) {
            tracing::info!(kind = self.part(), ?stale, "objects are read from the API server again");
            self.send(Change::Trouble(self.resource.kind, None)).await?;
        }
        Ok(())
    }

    /// Decides what is next after a failure, and how long to wait before.
    async fn failed(&mut self, failure: Failure) -> Result<Duration, Unheard> {
        self.failures = self.failures.saturating_add(1);
        let wait = self.pace.backoff(self.failures, rand::rng().random());
        match failure {
            Failure::Gone => {
                self.version = None;
                // Once is part of the protocol. Still there is a pause, for servers that would say it for ever.
                if self.failures > 1 {
                    self.stale(&Failure::Gone).await?;
                }
            }
            Failure::Refused { status: 400 | 422, .. } if self.version.is_none() && self.streams => {
                self.streams = false;
                return Ok(Duration::ZERO);
            }
            Failure::Absent if self.resource.kind.is_custom() => return self.absent().await,
            failure => self.stale(&failure).await?,
        }
        if self.failures >= FAILURES_BEFORE_LIST {
            self.version = None;
        }
        Ok(wait)
    }

    /// The server knows nothing of the kind. It may have it in another version, or not at all; or it has, and does not serve
    /// it yet because it has just started.
    async fn absent(&mut self) -> Result<Duration, Unheard> {
        self.version = None;
        let older = self.resource.next_version();
        let is_last = older == Resource::newest(self.resource.kind);
        self.resource = older;
        if !is_last {
            return Ok(Duration::ZERO);
        }
        let defined = self.open(self.resource.definition()).await;
        match defined {
            Err(Failure::Absent) => {}
            // Who may not look believes the first answer, but not that what was there is gone.
            Err(Failure::Refused { status: 403, .. }) if !self.is_listed => {}
            _ => {
                self.stale(&Failure::Absent).await?;
                return Ok(self.pace.backoff(self.failures, rand::rng().random()));
            }
        }
        if self.failures <= u32::try_from(self.resource.kind.versions().len()).unwrap_or(u32::MAX) {
            tracing::info!(kind = self.part(), "the cluster does not have the kind; waiting for it");
        }
        self.send(Change::Listed(self.resource.kind, Vec::new())).await?;
        if self.freshness.succeeded(self.part(), Instant::now().into_std()).is_some() {
            self.send(Change::Trouble(self.resource.kind, None)).await?;
        }
        Ok(self.pace.absent.mul_f64(0.5 + rand::rng().random::<f64>()))
    }

    /// What was read last stays in force.
    async fn stale(&mut self, failure: &Failure) -> Result<(), Unheard> {
        let now = Instant::now();
        let why = failure.to_string();
        let stale = self.freshness.failed(self.part(), &why, now.into_std());
        if self.reminded.is_none_or(|reminded| now.saturating_duration_since(reminded) >= REMIND) {
            self.reminded = Some(now);
            let known =
                if self.is_listed { "what was read last stays in force" } else { "nothing is known of them yet" };
            tracing::warn!(kind = self.part(), ?stale, "objects cannot be read: {why}; {known}");
        }
        self.send(Change::Trouble(self.resource.kind, Some(why))).await
    }

    async fn send(&self, change: Change) -> Result<(), Unheard> {
        self.changes.send(change).await.map_err(|_| Unheard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_grows_to_its_limit() {
        let pace = Pace::default();
        let waits: Vec<u128> = [1, 2, 3, 7, 40].iter().map(|it| pace.backoff(*it, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 10_000, 10_000]);
        assert_eq!(pace.backoff(1, 0.0), Duration::from_millis(250));
    }
}
