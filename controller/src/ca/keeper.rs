//! Keeps the authority in use: finds it at the start, follows its files or its Secret, keeps the last good one when what
//! comes is broken, and says in time when it ends.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fairway_core::io::drain::Drain;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::expiry::{Announced, Urgency};
use super::material::{Files, MaterialError, NAMES};
use super::root::{self, RootError};
use super::secret;
use super::signer::{Current, Signer};
use crate::metrics::Metrics;

/// Time between looks at files, and at the clock. In full each time: a volume that swaps a link keeps sizes and times.
const LOOK: Duration = Duration::from_secs(2);
/// Pause before the API server is asked again.
const RETRY: Duration = Duration::from_secs(2);
/// Largest file of an authority: a chain or a bundle of some dozens of certificates.
const MAXIMUM_FILE_BYTES: u64 = 256 * 1024;

/// Where the authority is.
pub enum Place {
    /// The mesh's own root in this directory, made if there is none.
    Own(PathBuf),
    /// Files that somebody else puts into this directory.
    Directory(PathBuf),
    /// A Secret that somebody else makes.
    Secret(secret::Place),
    /// The mesh's own root in a Secret that the first replica makes, with the one in this directory.
    Shared(secret::Place, PathBuf),
}

/// Why there is no authority to start with.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The mesh's own.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Files that cannot be read.
    #[error("cannot read the certificate authority in {place}: {error}")]
    Io {
        /// Where.
        place: String,
        /// What the system said.
        error: io::Error,
    },
    /// Files that cannot be used.
    #[error("the certificate authority in {place} cannot be used: {error}")]
    Unusable {
        /// Where.
        place: String,
        /// What is wrong.
        error: MaterialError,
    },
    /// Asked to end before there was any.
    #[error("asked to end before there was a certificate authority")]
    Ended,
}

/// Finds the authority, waiting for the API server if need be, and follows it until the drain starts.
///
/// # Errors
/// When what is there cannot be used. Nothing good is known then that could be kept.
pub async fn keep(
    place: Place,
    trust_domain: String,
    metrics: Metrics,
    drain: Drain,
) -> Result<Current, AuthorityError> {
    let source = Source::open(place, drain.clone()).await?;
    let first = source.read().map_err(|error| AuthorityError::Io { place: source.to_string(), error })?;
    let signer = Signer::of(&first, &trust_domain, OffsetDateTime::now_utc());
    let signer = signer.map_err(|error| AuthorityError::Unusable { place: source.to_string(), error })?;
    tracing::info!(
        place = %source, signer = signer.subject(), until = %signer.not_after(), roots = signer.root_count(),
        "certificate authority in use"
    );
    let (current, receiver) = watch::channel(Arc::new(signer));
    let keeper = Keeper {
        source,
        trust_domain,
        metrics,
        current,
        seen: first,
        refused: None,
        ends: Announced::default(),
        root_ends: Announced::default(),
    };
    tokio::spawn(keeper.run(drain));
    Ok(receiver)
}

/// Where files come from again and again.
enum Source {
    Directory(PathBuf),
    Secret { place: secret::Place, held: watch::Receiver<Option<Files>> },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", directory.display()),
            Self::Secret { place, .. } => write!(f, "Secret {}/{}", place.namespace, place.name),
        }
    }
}

impl Source {
    async fn open(place: Place, mut drain: Drain) -> Result<Self, AuthorityError> {
        let (place, offer) = match place {
            Place::Directory(directory) => return Ok(Self::Directory(directory)),
            Place::Own(directory) => {
                root::open(&directory, OffsetDateTime::now_utc())?;
                return Ok(Self::Directory(directory));
            }
            Place::Secret(place) => (place, None),
            Place::Shared(place, directory) => (place, Some(root::open(&directory, OffsetDateTime::now_utc())?)),
        };
        let files = tokio::select! {
            files = agree(&place, offer.as_ref()) => files,
            _ = drain.started() => return Err(AuthorityError::Ended),
        };
        Ok(Self::Secret { held: place.follow(files), place })
    }

    fn read(&self) -> io::Result<Files> {
        match self {
            Self::Directory(directory) => read_directory(directory),
            Self::Secret { held, .. } => {
                held.borrow().clone().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such secret"))
            }
        }
    }

    /// Waits until there may be something new to read.
    async fn changed(&mut self) {
        let told = async {
            match self {
                Self::Directory(_) => std::future::pending().await,
                Self::Secret { held, .. } => held.changed().await.is_ok(),
            }
        };
        // Who tells no more is no reason to look more often.
        tokio::select! {
            true = told => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What all replicas use: what is in the Secret, or else what the first of them puts there.
async fn agree(place: &secret::Place, offer: Option<&Files>) -> Files {
    let mut complained = None;
    loop {
        let problem = match (place.read().await, offer) {
            (Ok(Some(files)), _) => return files,
            (Ok(None), None) => "there is none".to_owned(),
            (Ok(None), Some(offer)) => match place.create(offer).await {
                Ok(is_ours) => {
                    if is_ours {
                        tracing::info!(secret = place.name, "this replica's root is the mesh's root");
                    }
                    continue;
                }
                Err(failure) => failure.to_string(),
            },
            (Err(failure), _) => failure.to_string(),
        };
        if complained.as_ref() != Some(&problem) {
            tracing::warn!(
                namespace = place.namespace,
                secret = place.name,
                "waiting for the secret with the certificate authority: {problem}"
            );
            complained = Some(problem);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The files of an authority that are in a directory.
fn read_directory(directory: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    for name in NAMES {
        let path = directory.join(name);
        let with_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut file = match File::open(&path) {
            Ok(file) => file.take(MAXIMUM_FILE_BYTES + 1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(with_path(error)),
        };
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(with_path)?;
        if content.len() as u64 > MAXIMUM_FILE_BYTES {
            return Err(with_path(io::Error::other(format!("longer than {MAXIMUM_FILE_BYTES} bytes"))));
        }
        files.insert(name.to_owned(), content);
    }
    Ok(files)
}

/// Who alone says which authority is in use.
struct Keeper {
    source: Source,
    trust_domain: String,
    metrics: Metrics,
    current: watch::Sender<Arc<Signer>>,
    /// What was there at the last look, good or not.
    seen: Files,
    /// What was wrong with what is there, as it was said.
    refused: Option<String>,
    ends: Announced,
    root_ends: Announced,
}

impl Keeper {
    async fn run(mut self, mut drain: Drain) {
        loop {
            self.announce_end(OffsetDateTime::now_utc());
            tokio::select! {
                () = self.source.changed() => {}
                () = self.current.closed() => return,
                _ = drain.started() => return,
            }
            let read = self.source.read();
            self.take(read, OffsetDateTime::now_utc());
        }
    }

    /// Uses what was read, or says why not. Files are replaced one after the other, so nothing is said of what differs
    /// from the last look yet.
    fn take(&mut self, read: io::Result<Files>, now: OffsetDateTime) {
        let problem = match read {
            Ok(files) if files == self.seen && self.refused.is_none() => return,
            Ok(files) => match Signer::of(&files, &self.trust_domain, now) {
                Ok(signer) => {
                    (self.seen, self.refused) = (files, None);
                    return self.put(signer);
                }
                Err(error) => {
                    let is_settled = files == self.seen;
                    self.seen = files;
                    // Known to be refused, but not said.
                    self.refused.get_or_insert_default();
                    if !is_settled {
                        return;
                    }
                    error.to_string()
                }
            },
            Err(error) => error.to_string(),
        };
        self.metrics.set_authority_refused(true);
        if self.refused.as_ref() != Some(&problem) {
            tracing::error!(
                place = %self.source,
                "the certificate authority there cannot be used, and the one in use stays: {problem}"
            );
            self.refused = Some(problem);
        }
    }

    fn put(&mut self, signer: Signer) {
        self.metrics.set_authority_refused(false);
        let before = Arc::clone(&self.current.borrow());
        let (place, subject, roots) = (&self.source, signer.subject(), signer.root_count());
        tracing::info!(%place, signer = subject, until = %signer.not_after(), roots, "another certificate authority in use");
        if !before.trusts(&signer) {
            tracing::error!(
                "nobody has been told of the root that {subject} ends in: who has a new certificate and who has an old \
                 one refuse each other until all are renewed; to replace a root unnoticed, first add it to the roots, and \
                 sign with it when every certificate has been renewed since"
            );
        } else if !signer.trusts(&before) {
            tracing::warn!(
                "the root that {} ends in is withdrawn; what it signed is refused from now on",
                before.subject()
            );
        }
        self.current.send_replace(Arc::new(signer));
    }

    /// Says how long who signs, and the root, still hold.
    fn announce_end(&mut self, now: OffsetDateTime) {
        let signer = Arc::clone(&self.current.borrow());
        self.metrics.set_authority(&signer);
        let (from, at) = (signer.not_before(), signer.not_after());
        let what = signer.subject();
        match self.ends.next(from, at, now) {
            Some(Urgency::Soon) => tracing::warn!(%at, "{what}, which signs certificates, ends soon; renew it"),
            Some(Urgency::VerySoon) => {
                tracing::error!(%at, "{what}, which signs certificates, ends very soon; renew it now")
            }
            Some(Urgency::Over) => tracing::error!(%at, "{what} has ended; nothing is signed until it is replaced"),
            None => {}
        }
        let (from, at) = signer.root();
        match self.root_ends.next(from, at, now) {
            Some(_) if signer.is_root() => {}
            Some(urgency) => {
                tracing::warn!(%at, ?urgency, "the root above {what} ends; replace it, which takes two lifetimes of certificates")
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
