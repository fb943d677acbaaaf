//! What each message of the node agent means, without I/O (interop §5.3, §5.4).

use std::collections::HashSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fairway_proto::zds::{WorkloadInfo, WorkloadRequest, workload_request::Payload};

/// A pod's Kubernetes UID; not the key it has in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(Arc<str>);

impl PodUid {
    /// Any text but the empty one is a UID.
    pub fn new(uid: impl Into<Arc<str>>) -> Self {
        Self(uid.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Which pod it is; what finds its workload in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct PodInfo {
    pub name: String,
    pub namespace: String,
    pub service_account: String,
}

impl fmt::Display for PodInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl From<WorkloadInfo> for PodInfo {
    fn from(info: WorkloadInfo) -> Self {
        Self { name: info.name, namespace: info.namespace, service_account: info.service_account }
    }
}

/// A message that must not be. There is no way back into step but to connect anew.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The bytes are no request.
    #[error("a packet is no request: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A request without payload, or with one we do not know.
    #[error("a request of an unknown kind")]
    Unknown,
    /// The wrong number of file descriptors came along.
    #[error("{request} must carry {expected} file descriptors, {found} came")]
    Descriptors {
        /// The request.
        request: &'static str,
        /// How many belong to it.
        expected: usize,
        /// How many there were.
        found: usize,
    },
    /// A pod without UID.
    #[error("{0} names no pod")]
    Uid(&'static str),
    /// A pod nothing is known of.
    #[error("pod {0} was added without its name, namespace and service account")]
    Info(PodUid),
    /// Keep is a part of the snapshot.
    #[error("pod {0} is to be kept after the snapshot")]
    LateKeep(PodUid),
    /// One snapshot a connection.
    #[error("a second snapshot on one connection")]
    SecondSnapshot,
}

/// What to do, before the request is acknowledged.
#[derive(Debug)]
pub(super) enum Step {
    /// Only acknowledge.
    Nothing,
    Start {
        uid: PodUid,
        info: PodInfo,
        netns: OwnedFd,
    },
    /// Not to be started any more; if it runs, the end of the snapshot stops it.
    Forget(PodUid),
    /// Stop at once.
    Stop(PodUid),
    /// Stop all others.
    Retain(HashSet<PodUid>),
}

/// One connection's stage.
#[derive(Debug)]
pub(super) enum Protocol {
    Snapshot { listed: HashSet<PodUid> },
    Live,
}

impl Default for Protocol {
    fn default() -> Self {
        Self::Snapshot { listed: HashSet::new() }
    }
}

impl Protocol {
    /// Whether the snapshot is complete.
    pub(super) fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }

    pub(super) fn receive(
        &mut self,
        request: WorkloadRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Step, ProtocolError> {
        match request.payload.ok_or(ProtocolError::Unknown)? {
            Payload::Add(add) => {
                let netns = exactly_one(descriptors)?;
                let uid = uid("add", add.uid)?;
                let Some(info) = add.workload_info else { return Err(ProtocolError::Info(uid)) };
                if let Self::Snapshot { listed } = self {
                    listed.insert(uid.clone());
                }
                Ok(Step::Start { uid, info: info.into(), netns })
            }
            Payload::Keep(keep) => {
                none("keep", &descriptors)?;
                let uid = uid("keep", keep.uid)?;
                match self {
                    Self::Snapshot { listed } => {
                        listed.insert(uid);
                        Ok(Step::Nothing)
                    }
                    Self::Live => Err(ProtocolError::LateKeep(uid)),
                }
            }
            Payload::Del(del) => {
                none("del", &descriptors)?;
                let uid = uid("del", del.uid)?;
                match self {
                    Self::Snapshot { listed } => {
                        listed.remove(&uid);
                        Ok(Step::Forget(uid))
                    }
                    Self::Live => Ok(Step::Stop(uid)),
                }
            }
            Payload::SnapshotSent(_) => {
                none("snapshot_sent", &descriptors)?;
                match std::mem::replace(self, Self::Live) {
                    Self::Snapshot { listed } => Ok(Step::Retain(listed)),
                    Self::Live => Err(ProtocolError::SecondSnapshot),
                }
            }
        }
    }
}

fn uid(request: &'static str, uid: String) -> Result<PodUid, ProtocolError> {
    if uid.is_empty() { Err(ProtocolError::Uid(request)) } else { Ok(PodUid::new(uid)) }
}

fn exactly_one(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, ProtocolError> {
    let [netns] = <[OwnedFd; 1]>::try_from(descriptors).map_err(|others| ProtocolError::Descriptors {
        request: "add",
        expected: 1,
        found: others.len(),
    })?;
    Ok(netns)
}

fn none(request: &'static str, descriptors: &[OwnedFd]) -> Result<(), ProtocolError> {
    match descriptors.len() {
        0 => Ok(()),
        found => Err(ProtocolError::Descriptors { request, expected: 0, found }),
    }
}

#[cfg(test)]
mod tests {
    use fairway_proto::zds::{AddWorkload, DelWorkload, KeepWorkload, SnapshotSent};

    use super::*;

    fn add(uid: &str, with_info: bool) -> Payload {
        let info = WorkloadInfo { name: "a".into(), namespace: "shop".into(), service_account: "web".into() };
        Payload::Add(AddWorkload { uid: uid.into(), workload_info: with_info.then_some(info) })
    }

    fn keep(uid: &str) -> Payload {
        Payload::Keep(KeepWorkload { uid: uid.into() })
    }

    fn del(uid: &str) -> Payload {
        Payload::Del(DelWorkload { uid: uid.into() })
    }

    fn sent() -> Payload {
        Payload::SnapshotSent(SnapshotSent {})
    }

    /// Feeds messages (with so many descriptors) and shows the last step.
    fn last(messages: Vec<(Payload, usize)>) -> String {
        let mut protocol = Protocol::default();
        let mut shown = String::new();
        for (payload, count) in messages {
            let descriptors = (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
            shown = match protocol.receive(WorkloadRequest { payload: Some(payload) }, descriptors) {
                Ok(Step::Nothing) => "nothing".to_owned(),
                Ok(Step::Start { uid, info, .. }) => format!("start {uid} {}", info.service_account),
                Ok(Step::Forget(uid)) => format!("forget {uid}"),
                Ok(Step::Stop(uid)) => format!("stop {uid}"),
                Ok(Step::Retain(uids)) => {
                    let mut uids: Vec<_> = uids.iter().map(PodUid::as_str).collect();
                    uids.sort_unstable();
                    format!("retain {}", uids.join(","))
                }
                Err(error) => format!("error: {error}"),
            };
        }
        shown
    }

    #[test]
    fn steps() {
        let rows: Vec<(Vec<(Payload, usize)>, &str)> = vec![
            (vec![(add("u1", true), 1)], "start u1 web"),
            (vec![(keep("u1"), 0)], "nothing"),
            (vec![(sent(), 0)], "retain "),
            (vec![(add("u1", true), 1), (keep("u2"), 0), (sent(), 0)], "retain u1,u2"),
            (vec![(add("u1", true), 1), (keep("u2"), 0), (del("u2"), 0), (sent(), 0)], "retain u1"),
            (vec![(del("u9"), 0)], "forget u9"),
            (vec![(sent(), 0), (del("u9"), 0)], "stop u9"),
            (vec![(sent(), 0), (add("u1", true), 1)], "start u1 web"),
        ];
        for (messages, expected) in rows {
            assert_eq!(last(messages), expected);
        }
    }

    #[test]
    fn breaches() {
        let rows: Vec<(Vec<(Payload, usize)>, &str)> = vec![
            (vec![(add("u1", false), 1)], "without its name"),
            (vec![(add("u1", true), 0)], "must carry 1 file descriptors, 0 came"),
            (vec![(add("u1", true), 2)], "must carry 1 file descriptors, 2 came"),
            (vec![(keep("u1"), 1)], "must carry 0 file descriptors, 1 came"),
            (vec![(del("u1"), 1)], "must carry 0 file descriptors"),
            (vec![(sent(), 1)], "must carry 0 file descriptors"),
            (vec![(add("", true), 1)], "names no pod"),
            (vec![(sent(), 0), (keep("u1"), 0)], "kept after the snapshot"),
            (vec![(sent(), 0), (sent(), 0)], "second snapshot"),
        ];
        for (messages, expected) in rows {
            let shown = last(messages);
            assert!(shown.starts_with("error: ") && shown.contains(expected), "{shown} / {expected}");
        }
        assert!(Protocol::default().receive(WorkloadRequest { payload: None }, vec![]).is_err());
    }
}
