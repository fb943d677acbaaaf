//! Asks the API server who a token belongs to, and remembers the answer for a moment.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tonic::Status;

use super::{Caller, CallerPod, SUBJECT_PREFIX, TokenError};
use crate::per_peer::PerPeer;

/// How long an answer is believed: a node proxy that starts asks for a certificate per service account with one token, and
/// a token that is revoked must not be good for long.
const BELIEVED: Duration = Duration::from_secs(20);
/// How much longer it is believed while the API server cannot be asked, if the token lasts: a proxy that loses its connection
/// then must not stay without one. What was revoked in that time nobody could have told us either.
const BELIEVED_IN_AN_OUTAGE: Duration = Duration::from_secs(3600);
/// How long a refusal is believed: who is refused tries again, and the reason may be gone.
const REFUSAL_BELIEVED: Duration = Duration::from_secs(2);
/// Answers that are remembered: a token each of several thousand nodes and waypoints, of about 300 bytes.
const REMEMBERED: usize = 10_000;
/// Questions under way at once, about tokens that are known and about those that are not: made-up tokens must not keep those
/// from being asked about that proxies have. Others wait.
const QUESTIONS: usize = 16;
/// The same for one peer, so that one that sends made-up tokens does not keep others from being asked about.
const QUESTIONS_PER_PEER: usize = 4;
/// For an answer. Callers wait about as long.
const PATIENCE: Duration = Duration::from_secs(5);
/// For a place, and then for an answer, about a token that was accepted before: who calls must not have given up when it is taken
/// to be as it was.
const PATIENCE_FOR_KNOWN: Duration = Duration::from_secs(2);
/// Prefix of what a review tells about the pod a token is bound to.
const EXTRA: &str = "authentication.kubernetes.io/";

type Answer = Result<Caller, TokenError>;
type Fingerprint = [u8; 32];

/// Asks about tokens.
pub struct Reviewer {
    api: Api<TokenReview>,
    audience: String,
    answers: Mutex<HashMap<Fingerprint, Remembered>>,
    about_unknown: Questions,
    about_known: Questions,
    /// Whether the last question about a token that is known had no answer. What becomes of others says nothing: who sends them
    /// may see to it that they cannot be answered.
    is_away: AtomicBool,
}

/// Why there is no answer.
enum Unknown {
    /// It was asked for and not given, or not to who asked before: the API server is away.
    Away(Status),
    /// It was not asked for, which says nothing of the API server.
    NotAsked(Status),
}

/// Places of questions under way.
struct Questions {
    all: Semaphore,
    peers: PerPeer,
}

impl Questions {
    fn new() -> Self {
        Self { all: Semaphore::new(QUESTIONS), peers: PerPeer::new(QUESTIONS_PER_PEER) }
    }

    /// A place for a question of this peer. Its own place comes first: who waits for that keeps nobody else waiting.
    async fn place(&self, peer: Option<IpAddr>) -> Result<Place<'_>, Status> {
        let closed = |_| Status::unavailable("the controller is shutting down");
        let own = match peer {
            Some(peer) => Some(self.peers.of(peer).acquire_owned().await.map_err(closed)?),
            None => None,
        };
        Ok((own, self.all.acquire().await.map_err(closed)?))
    }
}

/// Of a question, while it is held.
type Place<'a> = (Option<OwnedSemaphorePermit>, SemaphorePermit<'a>);

/// An answer, and how long it holds.
struct Remembered {
    answer: Answer,
    since: Instant,
    /// When the token ends, in seconds of Unix time; a token that does not say so holds no longer than it is believed.
    ends: u64,
}

impl Remembered {
    /// Whether it need not be asked for again.
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < if self.answer.is_ok() { BELIEVED } else { REFUSAL_BELIEVED }
    }

    /// Whether it holds when nobody can be asked.
    fn is_spare(&self, now: Instant) -> bool {
        self.answer.is_ok() && now.saturating_duration_since(self.since) < BELIEVED_IN_AN_OUTAGE
    }
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviewer").field("audience", &self.audience).finish_non_exhaustive()
    }
}

impl Reviewer {
    /// One that asks the API server of `client` about tokens for `audience`.
    #[must_use]
    pub fn new(client: kube::Client, audience: &str) -> Self {
        Self {
            api: Api::all(client),
            audience: audience.to_owned(),
            answers: Mutex::default(),
            about_unknown: Questions::new(),
            about_known: Questions::new(),
            is_away: AtomicBool::new(false),
        }
    }

    pub(super) fn audience(&self) -> &str {
        &self.audience
    }

    /// Whose token it is that `peer` has sent.
    ///
    /// # Errors
    /// UNAUTHENTICATED when the API server refuses the token, UNAVAILABLE when it cannot be asked.
    pub async fn verify(&self, token: &str, peer: Option<IpAddr>, now: SystemTime) -> Result<Caller, Status> {
        let fingerprint = fingerprint(token);
        if let Some(answer) = self.remembered(&fingerprint) {
            return Ok(answer?);
        }
        let known = self.spare(&fingerprint, now);
        match self.find_out(token, &fingerprint, peer, known.is_some()).await {
            Ok(answer) => Ok(answer?),
            Err(Unknown::Away(status)) => known.ok_or(status),
            // Whoever keeps all places taken must not have tokens believed that the API server would refuse.
            Err(Unknown::NotAsked(status)) => Err(status),
        }
    }

    /// Whether the API server can be asked about a token.
    pub async fn can_check(&self, token: &str, now: SystemTime) -> bool {
        let fingerprint = fingerprint(token);
        let is_known = self.spare(&fingerprint, now).is_some();
        // Of streams that end at about the same time one asks.
        self.remembered(&fingerprint).is_some() || self.find_out(token, &fingerprint, None, is_known).await.is_ok()
    }

    /// Asks, once there is a place for it.
    async fn find_out(
        &self,
        token: &str,
        fingerprint: &Fingerprint,
        peer: Option<IpAddr>,
        is_known: bool,
    ) -> Result<Answer, Unknown> {
        let _place = if is_known {
            let place = tokio::time::timeout(PATIENCE_FOR_KNOWN, self.about_known.place(peer)).await;
            let late = |_| {
                let status = Status::unavailable("too many questions about tokens are under way; try again");
                if self.is_away.load(Ordering::Relaxed) { Unknown::Away(status) } else { Unknown::NotAsked(status) }
            };
            place.map_err(late)?.map_err(Unknown::NotAsked)?
        } else {
            self.about_unknown.place(peer).await.map_err(Unknown::NotAsked)?
        };
        // Somebody may have asked while this one waited.
        if let Some(answer) = self.remembered(fingerprint) {
            return Ok(answer);
        }
        let asked = self.ask(token, if is_known { PATIENCE_FOR_KNOWN } else { PATIENCE }).await;
        if is_known || asked.is_ok() {
            self.is_away.store(asked.is_err(), Ordering::Relaxed);
        }
        let answer = asked.map_err(Unknown::Away)?;
        self.remember(*fingerprint, answer.clone(), expiry(token));
        Ok(answer)
    }

    async fn ask(&self, token: &str, patience: Duration) -> Result<Answer, Status> {
        let spec = TokenReviewSpec { audiences: Some(vec![self.audience.clone()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let parameters = PostParams::default();
        let asked = tokio::time::timeout(patience, self.api.create(&parameters, &review)).await;
        let problem = match asked {
            Ok(Ok(review)) => return Ok(answer(review.status.unwrap_or_default(), &self.audience)),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                "it does not let the controller review tokens; bind system:auth-delegator to its service account"
                    .to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {patience:?}"),
        };
        tracing::warn!("tokens cannot be checked with the API server: {problem}");
        Err(Status::unavailable(format!("the token cannot be checked with the API server now ({problem}); try again")))
    }

    fn remembered(&self, fingerprint: &Fingerprint) -> Option<Answer> {
        let answers = self.lock();
        let remembered = answers.get(fingerprint).filter(|it| it.is_fresh(Instant::now()))?;
        Some(remembered.answer.clone())
    }

    /// Whose token it was when somebody could be asked.
    fn spare(&self, fingerprint: &Fingerprint, now: SystemTime) -> Option<Caller> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let answers = self.lock();
        let remembered = answers.get(fingerprint).filter(|it| it.is_spare(Instant::now()) && now < it.ends)?;
        remembered.answer.clone().ok()
    }

    fn remember(&self, fingerprint: Fingerprint, answer: Answer, ends: u64) {
        let now = Instant::now();
        let mut answers = self.lock();
        if answers.len() >= REMEMBERED {
            answers.retain(|_, it| it.is_fresh(now) || it.is_spare(now));
        }
        if answers.len() >= REMEMBERED {
            answers.retain(|_, it| it.is_fresh(now));
        }
        // Full of answers that still hold: this one is asked for again.
        if answers.len() < REMEMBERED {
            answers.insert(fingerprint, Remembered { answer, since: now, ends });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, Remembered>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fingerprint(token: &str) -> Fingerprint {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest.as_ref());
    fingerprint
}

/// When a token ends by what it says itself, in seconds of Unix time; 0 if it does not say. Nothing but tokens that were
/// accepted is looked at.
fn expiry(token: &str) -> u64 {
    #[derive(Deserialize)]
    struct Expiry {
        exp: u64,
    }
    jsonwebtoken::dangerous::insecure_decode::<Expiry>(token).map(|data| data.claims.exp).unwrap_or_default()
}

/// What a review says of the caller.
fn answer(status: TokenReviewStatus, audience: &str) -> Answer {
    if status.authenticated != Some(true) {
        return Err(TokenError::Refused(status.error.unwrap_or_else(|| "no reason given".to_owned())));
    }
    // A server that knows nothing of audiences names none, and then the token was not checked for ours.
    if !status.audiences.iter().flatten().any(|it| it == audience) {
        return Err(TokenError::Audience(audience.to_owned()));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let Some((namespace, service_account)) = name.strip_prefix(SUBJECT_PREFIX).and_then(|it| it.split_once(':')) else {
        return Err(TokenError::Subject(name));
    };
    let extra = user.extra.unwrap_or_default();
    let first = |key: &str| extra.get(&format!("{EXTRA}{key}")).and_then(|values| values.first()).cloned();
    let pod = first("pod-name").zip(first("pod-uid"));
    let pod = pod.map(|(name, uid)| CallerPod { name, uid, node: first("node-name").filter(|node| !node.is_empty()) });
    Ok(Caller { namespace: namespace.to_owned(), service_account: service_account.to_owned(), pod })
}

#[cfg(test)]
mod tests {
    use std::future::Pending;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tonic::codegen::Service;

    use super::*;

    #[test]
    fn an_answer_holds_longer_while_nobody_can_be_asked_and_not_longer_than_its_token() {
        let caller = || Caller { namespace: "shop".to_owned(), service_account: "web".to_owned(), pod: None };
        let since = Instant::now();
        let remembered = |answer| Remembered { answer, since, ends: 0 };
        let accepted = remembered(Ok(caller()));
        assert!(accepted.is_fresh(since) && !accepted.is_fresh(since + BELIEVED));
        assert!(accepted.is_spare(since + BELIEVED) && !accepted.is_spare(since + BELIEVED_IN_AN_OUTAGE));
        assert!(!remembered(Err(TokenError::Expired)).is_spare(since));
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let token = format!("{}.{}.AAAA", part(r#"{"alg":"ES256"}"#), part(r#"{"exp":123,"sub":"it"}"#));
        assert_eq!((expiry(&token), expiry("opaque")), (123, 0));
    }

    /// An API server that never answers.
    #[derive(Clone)]
    struct Silent;

    impl Service<Request<Body>> for Silent {
        type Response = Response<Body>;
        type Error = std::io::Error;
        type Future = Pending<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::pending()
        }
    }

    /// The token "known" was accepted, and is to be asked about again.
    fn accepted_before(reviewer: &Reviewer, now: SystemTime) -> Caller {
        let caller = Caller { namespace: "shop".to_owned(), service_account: "web".to_owned(), pod: None };
        let ends = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 3600;
        let since = Instant::now().checked_sub(BELIEVED).unwrap();
        let known = Remembered { answer: Ok(caller.clone()), since, ends };
        reviewer.lock().insert(fingerprint("known"), known);
        caller
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_is_believed_only_while_the_api_server_is_away() {
        let reviewer = Reviewer::new(kube::Client::new(Silent, "default"), "istio-ca");
        let now = SystemTime::now();
        let caller = accepted_before(&reviewer, now);
        let all = u32::try_from(QUESTIONS).unwrap();
        let places = reviewer.about_known.all.acquire_many(all).await.unwrap();
        let refused = reviewer.verify("known", None, now).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
        drop(places);
        // Asked, and not answered.
        assert_eq!(reviewer.verify("known", None, now).await.unwrap(), caller);
        let _places = reviewer.about_known.all.acquire_many(all).await.unwrap();
        assert_eq!(reviewer.verify("known", None, now).await.unwrap(), caller);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_known_waits_for_nobody_who_is_not() {
        let reviewer = Arc::new(Reviewer::new(kube::Client::new(Silent, "default"), "istio-ca"));
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let (waiting, mut asked) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..2 * QUESTIONS {
            let (reviewer, waiting) = (Arc::clone(&reviewer), waiting.clone());
            tokio::spawn(async move {
                // From the same machine and from others.
                let peer = if number % 2 == 0 { peer } else { IpAddr::from([10, 1, 0, u8::try_from(number).unwrap()]) };
                waiting.send(()).unwrap();
                reviewer.verify(&format!("unknown-{number}"), Some(peer), SystemTime::now()).await
            });
        }
        for _ in 0..2 * QUESTIONS {
            asked.recv().await.unwrap();
        }
        let now = SystemTime::now();
        let caller = accepted_before(&reviewer, now);
        let start = tokio::time::Instant::now();
        assert_eq!(reviewer.verify("known", Some(peer), now).await.unwrap(), caller);
        assert!(start.elapsed() <= PATIENCE_FOR_KNOWN, "{:?}", start.elapsed());
        assert!(!reviewer.can_check("known", now).await);
        assert!(start.elapsed() <= 2 * PATIENCE_FOR_KNOWN, "{:?}", start.elapsed());
    }

    fn read(status: Value) -> Answer {
        answer(serde_json::from_value(status).unwrap(), "istio-ca")
    }

    #[test]
    fn answers() {
        let extra = json!({"authentication.kubernetes.io/pod-name": ["ztunnel-a"],
            "authentication.kubernetes.io/pod-uid": ["u-1"], "authentication.kubernetes.io/node-name": ["node-1"]});
        let user = json!({"username": "system:serviceaccount:fairway-system:ztunnel", "extra": extra});
        let pod = CallerPod { name: "ztunnel-a".to_owned(), uid: "u-1".to_owned(), node: Some("node-1".to_owned()) };
        let ztunnel =
            |pod| Caller { namespace: "fairway-system".to_owned(), service_account: "ztunnel".to_owned(), pod };
        let rows = [
            (json!({"authenticated": true, "audiences": ["istio-ca"], "user": user}), Ok(ztunnel(Some(pod)))),
            (
                json!({"authenticated": true, "audiences": ["istio-ca"],
                    "user": {"username": "system:serviceaccount:fairway-system:ztunnel"}}),
                Ok(ztunnel(None)),
            ),
            (json!({"authenticated": false, "error": "expired"}), Err(TokenError::Refused("expired".to_owned()))),
            (json!({}), Err(TokenError::Refused("no reason given".to_owned()))),
            (json!({"authenticated": true, "user": user}), Err(TokenError::Audience("istio-ca".to_owned()))),
            (
                json!({"authenticated": true, "audiences": ["istio-ca"], "user": {"username": "admin"}}),
                Err(TokenError::Subject("admin".to_owned())),
            ),
        ];
        for (status, expected) in rows {
            assert_eq!(read(status.clone()), expected, "{status}");
        }
    }
}
