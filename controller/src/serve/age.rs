//! When a stream has lived long enough: after its age, and not before its client could come back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use crate::token::Verifier;

/// Between looks whether tokens can be checked again; callers of that time come back over a few minutes.
const AGAIN: Duration = Duration::from_secs(60);

/// The age of one stream.
#[derive(Debug)]
pub(super) struct Age {
    /// When it has lived long enough; none is never.
    ends: Option<Instant>,
    verifier: Arc<Verifier>,
    /// Of the request that opened the stream, with its token.
    metadata: MetadataMap,
    /// A question under way.
    question: Option<JoinHandle<bool>>,
}

impl Age {
    /// That of a stream that starts now and is to live about as long as `maximum`.
    pub(super) fn new(maximum: Option<Duration>, verifier: &Arc<Verifier>, metadata: &MetadataMap) -> Self {
        let ends = maximum.map(|age| Instant::now() + spread(age, rand::random()));
        Self { ends, verifier: Arc::clone(verifier), metadata: metadata.clone(), question: None }
    }

    /// Returns when the stream should end. May be dropped and called again.
    ///
    /// While nobody can say whose a token is, a client that is sent away could not come back to any replica, and what it does
    /// not know by then it would not learn: the stream lives on.
    pub(super) async fn over(&mut self) {
        let Some(ends) = self.ends else { return std::future::pending().await };
        tokio::time::sleep_until(ends).await;
        loop {
            let question = self.question.get_or_insert_with(|| {
                let (verifier, metadata) = (Arc::clone(&self.verifier), self.metadata.clone());
                tokio::spawn(async move { verifier.can_check(&metadata, SystemTime::now()).await })
            });
            let can_come_back = question.await.unwrap_or_default();
            self.question = None;
            if can_come_back {
                return;
            }
            self.ends = Some(Instant::now() + spread(AGAIN, rand::random()));
            tracing::debug!("a stream lives on, because tokens cannot be checked now");
            if let Some(ends) = self.ends {
                tokio::time::sleep_until(ends).await;
            }
        }
    }
}

/// The age by chance, from 0 to 1, between nine and eleven tenths of its nominal length.
fn spread(age: Duration, chance: f64) -> Duration {
    age.mul_f64(0.9 + chance.clamp(0.0, 1.0) / 5.0)
}
