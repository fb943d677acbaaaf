//! Keeps one fresh certificate for every identity somebody holds a handle to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::request::{SigningRequest, acceptable};
use super::{Authority, CertificateError, WorkloadCertificate, schedule};
use crate::ident::Identity;
use crate::io::tls::trust::{Anchors, Trust};
use crate::io::wall_clock;
use crate::limits::{self, Limits};

/// Where certificates come from; clones share everything.
#[derive(Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
}

struct Shared {
    authority: Arc<dyn Authority>,
    provider: Arc<CryptoProvider>,
    limits: Limits,
    now: fn() -> SystemTime,
    trust: Trust,
    tally: Tally,
    permits: Semaphore,
    /// Renewals outlive the connection that asked first, and the thread it was on.
    runtime: Handle,
    entries: Mutex<HashMap<Identity, Weak<Entry>>>,
}

/// What became of requests so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) granted: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Seconds since 1970; 0 if none ever failed.
    pub(super) last_failure: AtomicU64,
}

struct Entry {
    identity: Identity,
    state: watch::Receiver<State>,
    /// A reason to believe that the authority answers otherwise now.
    hurry: Arc<Notify>,
    renewal: AbortHandle,
    now: fn() -> SystemTime,
    /// How long a connection waits for the first certificate.
    wait: Duration,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// What is known about one identity's certificate.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The newest certificate obtained; kept through failed renewals.
    pub certificate: Option<Arc<WorkloadCertificate>>,
    /// What went wrong since, if something did.
    pub last_error: Option<String>,
}

impl State {
    fn usable(&self, identity: &Identity, now: SystemTime) -> Result<Arc<WorkloadCertificate>, CertificateError> {
        let last_error = || self.last_error.clone().unwrap_or_else(|| "none".to_owned());
        match &self.certificate {
            Some(certificate) => match certificate.expired_since(now) {
                None => Ok(Arc::clone(certificate)),
                Some(since) => {
                    Err(CertificateError::Expired { identity: identity.clone(), since, last_error: last_error() })
                }
            },
            None if self.last_error.is_none() => Err(CertificateError::Pending { identity: identity.clone() }),
            None => Err(CertificateError::Unavailable { identity: identity.clone(), last_error: last_error() }),
        }
    }
}

/// A claim on one identity's certificate: it is kept fresh while a handle lives and forgotten with the last one.
#[derive(Clone)]
pub struct CertificateHandle(Arc<Entry>);

impl Certificates {
    /// Certificates signed by `authority` with the given lifetime; `now` tells the wall-clock time. Renewals run in the
    /// runtime this is called in.
    #[must_use]
    pub fn new(
        authority: Arc<dyn Authority>,
        provider: Arc<CryptoProvider>,
        lifetime: Duration,
        now: fn() -> SystemTime,
    ) -> Self {
        let lifetime = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let limits = Limits::default().and(&limits::CERTIFICATE_LIFETIME, lifetime);
        Self::within(limits, authority, provider, now)
    }

    /// The same, with these values of the limits instead of the defaults.
    #[must_use]
    pub fn within(
        limits: Limits,
        authority: Arc<dyn Authority>,
        provider: Arc<CryptoProvider>,
        now: fn() -> SystemTime,
    ) -> Self {
        let permits = Semaphore::new(limits.size(&limits::CERTIFICATE_REQUESTS));
        let entries = Mutex::new(HashMap::new());
        let (trust, tally) = (Trust::default(), Tally::default());
        Self {
            shared: Arc::new(Shared {
                authority,
                provider,
                limits,
                now,
                trust,
                tally,
                permits,
                runtime: Handle::current(),
                entries,
            }),
        }
    }

    /// Claims `identity`; the first claim starts a request at once.
    #[must_use]
    pub fn claim(&self, identity: &Identity) -> CertificateHandle {
        let mut entries = self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(identity).and_then(Weak::upgrade) {
            return CertificateHandle(entry);
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let (publish, state) = watch::channel(State::default());
        let hurry = Arc::new(Notify::new());
        let renewal = keep_fresh(Arc::clone(&self.shared), identity.clone(), publish, Arc::clone(&hurry));
        let renewal = self.shared.runtime.spawn(renewal).abort_handle();
        let entry = Arc::new(Entry {
            identity: identity.clone(),
            state,
            hurry,
            renewal,
            now: self.shared.now,
            wait: self.shared.limits.duration(&limits::CERTIFICATE_WAIT),
        });
        entries.insert(identity.clone(), Arc::downgrade(&entry));
        CertificateHandle(entry)
    }

    /// What peers are checked against: the roots that came with the newest answer.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.shared.trust
    }

    /// The cryptography in use.
    #[must_use]
    pub fn provider(&self) -> &Arc<CryptoProvider> {
        &self.shared.provider
    }

    /// The clock that validity is counted by.
    #[must_use]
    pub fn clock(&self) -> fn() -> SystemTime {
        self.shared.now
    }

    /// The bounds in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Every claimed identity with its state, for dumps and metrics.
    #[must_use]
    pub fn states(&self) -> Vec<(Identity, State)> {
        let entries = self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let live = entries.values().filter_map(Weak::upgrade);
        let mut states: Vec<_> = live.map(|entry| (entry.identity.clone(), entry.state.borrow().clone())).collect();
        states.sort_by(|one, other| one.0.cmp(&other.0));
        states
    }
}

impl CertificateHandle {
    /// Whose certificate this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The newest certificate, if there was one ever; it may have expired.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<WorkloadCertificate>> {
        self.0.state.borrow().certificate.clone()
    }

    /// Asks at once for a certificate that was refused, instead of after a while: something has changed.
    pub fn hurry(&self) {
        if self.newest().is_none() {
            self.0.hurry.notify_one();
        }
    }

    /// The valid certificate, waiting a bounded time for the first one.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub async fn get(&self) -> Result<Arc<WorkloadCertificate>, CertificateError> {
        let usable = |state: &State| state.usable(&self.0.identity, (self.0.now)());
        if let Ok(certificate) = usable(&self.0.state.borrow()) {
            return Ok(certificate);
        }
        let mut state = self.0.state.clone();
        let _ = timeout(self.0.wait, state.wait_for(|state| usable(state).is_ok())).await;
        usable(&self.0.state.borrow())
    }
}

async fn keep_fresh(shared: Arc<Shared>, identity: Identity, publish: watch::Sender<State>, hurry: Arc<Notify>) {
    let mut trust = shared.trust.subscribe();
    let mut failures = 0;
    loop {
        let wait = match request(&shared, &identity).await {
            Ok(certificate) => {
                failures = 0;
                shared.tally.granted.fetch_add(1, Ordering::Relaxed);
                let wait = schedule::renew_after(certificate.not_after, (shared.now)(), rand::random());
                tracing::info!(%identity, serial = certificate.serial, renew_in_seconds = wait.as_secs(), "certificate obtained");
                publish.send_replace(State { certificate: Some(Arc::new(certificate)), last_error: None });
                wait
            }
            Err(error) => {
                failures += 1;
                shared.tally.failed.fetch_add(1, Ordering::Relaxed);
                let seconds = (shared.now)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
                shared.tally.last_failure.store(seconds, Ordering::Relaxed);
                let wait = schedule::retry_after(failures, rand::random(), &shared.limits);
                tracing::warn!(%identity, error, retry_in = ?wait, "certificate not obtained");
                publish.send_modify(|state| state.last_error = Some(error));
                wait
            }
        };
        let held = publish.borrow().certificate.clone();
        tokio::select! {
            () = wall_clock::pass(wait, shared.now, &shared.limits) => {}
            () = hurry.notified(), if held.is_none() => {}
            () = distrusted(&shared, &mut trust, held.as_deref()) => {
                tracing::info!(%identity, "peers do not trust our certificate any more, it is renewed early");
                // All of the node's workloads hear of it at once.
                sleep(schedule::spread(rand::random(), &shared.limits)).await;
            }
        }
    }
}

/// Resolves when roots were withdrawn or certificates revoked, and ours is concerned: peers will refuse it from now on.
async fn distrusted(shared: &Shared, trust: &mut watch::Receiver<Anchors>, held: Option<&WorkloadCertificate>) {
    let Some(held) = held else { return std::future::pending().await };
    while trust.changed().await.is_ok() {
        let anchors = trust.borrow_and_update().clone();
        // As of a moment when it was valid: age is a matter of the schedule.
        if acceptable(held.credentials.chain(), &anchors, &shared.provider, held.not_before).is_err() {
            return;
        }
    }
    std::future::pending().await
}

async fn request(shared: &Shared, identity: &Identity) -> Result<WorkloadCertificate, String> {
    let request = SigningRequest::new(identity).map_err(|error| error.to_string())?;
    let _permit = shared.permits.acquire().await.map_err(|error| error.to_string())?;
    let signed =
        shared.authority.sign(identity, request.csr_pem.clone(), shared.limits.duration(&limits::CERTIFICATE_LIFETIME));
    let after = shared.limits.duration(&limits::CERTIFICATE_WAIT);
    let answer = match timeout(after, signed).await {
        Ok(answer) => answer.map_err(|error| error.to_string())?,
        Err(_elapsed) => return Err(format!("no answer within {after:?}")),
    };
    let completed = request.complete(identity, &answer, &shared.provider, &shared.trust, (shared.now)());
    let (certificate, anchors) = completed.map_err(|error| error.to_string())?;
    if shared.trust.replace_roots(&anchors) {
        tracing::info!(roots = anchors.root_count(), "the trust bundle has changed");
    }
    Ok(certificate)
}
