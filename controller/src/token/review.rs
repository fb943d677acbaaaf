//! Asks the API server who a token belongs to, and remembers the answer for a moment.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use tokio::sync::Semaphore;
use tonic::Status;

use super::{Caller, CallerPod, SUBJECT_PREFIX, TokenError};

/// How long an answer is believed: a node proxy that starts asks for a certificate per service account with one token, and
/// a token that is revoked must not be good for long.
const BELIEVED: Duration = Duration::from_secs(20);
/// How long a refusal is believed: who is refused tries again, and the reason may be gone.
const REFUSAL_BELIEVED: Duration = Duration::from_secs(2);
/// Answers that are remembered: a token each of several thousand nodes and waypoints, of about 300 bytes.
const REMEMBERED: usize = 10_000;
/// Questions under way at once; others wait.
const QUESTIONS: usize = 16;
/// For an answer. Callers wait about as long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Prefix of what a review tells about the pod a token is bound to.
const EXTRA: &str = "authentication.kubernetes.io/";

type Answer = Result<Caller, TokenError>;
type Fingerprint = [u8; 32];

/// Asks about tokens.
pub struct Reviewer {
    api: Api<TokenReview>,
    audience: String,
    answers: Mutex<HashMap<Fingerprint, (Instant, Answer)>>,
    questions: Semaphore,
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
            questions: Semaphore::new(QUESTIONS),
        }
    }

    pub(super) fn audience(&self) -> &str {
        &self.audience
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// UNAUTHENTICATED when the API server refuses the token, UNAVAILABLE when it cannot be asked.
    pub async fn verify(&self, token: &str) -> Result<Caller, Status> {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(digest.as_ref());
        if let Some(answer) = self.remembered(&fingerprint) {
            return Ok(answer?);
        }
        let _permit =
            self.questions.acquire().await.map_err(|_| Status::unavailable("the controller is shutting down"))?;
        // Somebody may have asked while this one waited.
        if let Some(answer) = self.remembered(&fingerprint) {
            return Ok(answer?);
        }
        let answer = self.ask(token).await?;
        self.remember(fingerprint, answer.clone());
        Ok(answer?)
    }

    async fn ask(&self, token: &str) -> Result<Answer, Status> {
        let spec = TokenReviewSpec { audiences: Some(vec![self.audience.clone()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let parameters = PostParams::default();
        let asked = tokio::time::timeout(PATIENCE, self.api.create(&parameters, &review)).await;
        let problem = match asked {
            Ok(Ok(review)) => return Ok(answer(review.status.unwrap_or_default(), &self.audience)),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                "it does not let the controller review tokens; bind system:auth-delegator to its service account"
                    .to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        tracing::warn!("tokens cannot be checked with the API server: {problem}");
        Err(Status::unavailable(format!("the token cannot be checked with the API server now ({problem}); try again")))
    }

    fn remembered(&self, fingerprint: &Fingerprint) -> Option<Answer> {
        let answers = self.lock();
        let (until, answer) = answers.get(fingerprint)?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    fn remember(&self, fingerprint: Fingerprint, answer: Answer) {
        let now = Instant::now();
        let until = now + if answer.is_ok() { BELIEVED } else { REFUSAL_BELIEVED };
        let mut answers = self.lock();
        if answers.len() >= REMEMBERED {
            answers.retain(|_, (until, _)| now < *until);
        }
        // Full of answers that still hold: this one is asked for again.
        if answers.len() < REMEMBERED {
            answers.insert(fingerprint, (until, answer));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, (Instant, Answer)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    use serde_json::{Value, json};

    use super::*;

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
