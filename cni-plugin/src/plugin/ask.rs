//! Asks the agent over its Unix socket: one HTTP request and its answer, never longer than it may take.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::{Domain, SockAddr, Socket, Type};

use super::protocol::Configuration;
use crate::event::Answer;

/// How long the agent may take to hear of one end or of many (GC); it finds out by itself as well.
pub(super) const DELETE_PATIENCE: Duration = Duration::from_secs(1);
/// How long the agent may take to take a connection, when that alone is asked.
const GREETING_PATIENCE: Duration = Duration::from_millis(500);
/// Longest answer that is read, in bytes; answers are a line long.
const MAX_ANSWER: usize = 64 * 1024;

/// The agent agreed, and how.
pub type Reply = Answer;

/// Why there is no agreement.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers the socket.
    #[error("the agent cannot be reached at {path}: {error}")]
    Unreachable {
        /// The socket.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// It took too long.
    #[error("the agent did not answer within {0:?}")]
    Late(Duration),
    /// It answered something else than HTTP with JSON.
    #[error("the agent's answer makes no sense: {0}")]
    Garbage(String),
    /// It does not know the question, as Istio's agent does not know all of ours.
    #[error("the agent does not know this call")]
    Unknown,
    /// It is ending, and cannot say.
    #[error("the agent is ending")]
    Ending,
    /// It refused.
    #[error("the agent refused: {0}")]
    Refused(String),
}

/// Sends `body` and waits for the answer, no longer than `patience` in all.
pub(super) fn ask(socket: &Path, path: &str, body: &impl Serialize, patience: Duration) -> Result<Reply, AskError> {
    let deadline = Instant::now() + patience;
    let unreachable = |error| AskError::Unreachable { path: socket.display().to_string(), error };
    let passing = |error: io::Error| if is_late(&error) { AskError::Late(patience) } else { unreachable(error) };
    let stream = connect(socket, patience).map_err(passing)?;
    let body = serde_json::to_vec(body).map_err(|error| AskError::Garbage(error.to_string()))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut rest = &[head.as_bytes(), &body].concat()[..];
    while !rest.is_empty() {
        let left = remaining(deadline).ok_or(AskError::Late(patience))?;
        stream.set_write_timeout(Some(left)).map_err(unreachable)?;
        match (&stream).write(rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(passing(error)),
        }
    }
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = remaining(deadline).ok_or(AskError::Late(patience))?;
        stream.set_read_timeout(Some(left)).map_err(unreachable)?;
        match (&stream).read(&mut buffer) {
            Ok(0) => return parse(&answer, true),
            Ok(count) => answer.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(passing(error)),
        }
        if answer.len() > MAX_ANSWER {
            return Err(AskError::Garbage("it is too long".to_owned()));
        }
        // An answer of known length is complete before its sender closes.
        match parse(&answer, false) {
            Err(AskError::Garbage(_)) => {}
            complete => return complete,
        }
    }
}

/// Whether the agent takes connections.
pub(super) fn is_answering(configuration: &Configuration) -> bool {
    connect(&configuration.socket(), GREETING_PATIENCE).is_ok()
}

fn connect(path: &Path, patience: Duration) -> io::Result<Socket> {
    let deadline = Instant::now() + patience;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    loop {
        // Also bounds the wait for a place in a full queue, see unix(7) and connect(2).
        socket.set_write_timeout(Some(remaining(deadline).ok_or(io::ErrorKind::TimedOut)?))?;
        match socket.connect(&address) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map(|()| socket),
        }
    }
}

fn remaining(deadline: Instant) -> Option<Duration> {
    Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Understands an answer, complete when its length is known and reached, or when its sender has `closed`.
fn parse(bytes: &[u8], closed: bool) -> Result<Reply, AskError> {
    let garbage = |what: &str| AskError::Garbage(what.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| garbage("it is not text"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| garbage("it has no end of its head"))?;
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let is_http = first.next().is_some_and(|word| word.starts_with("HTTP/1."));
    let status: u16 =
        first.next().filter(|_| is_http).and_then(|word| word.parse().ok()).ok_or_else(|| garbage("it is not HTTP"))?;
    let length =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: Option<usize> = length.and_then(|(_, value)| value.trim().parse().ok());
    let complete = length.map_or(closed, |length| body.len() >= length);
    if !complete {
        return Err(garbage("it ends early"));
    }
    let answer = serde_json::from_str::<Answer>(body);
    match (status, answer) {
        // Istio's agent says nothing more than that.
        (200, answer) => Ok(answer.unwrap_or_default()),
        (503, _) => Err(AskError::Ending),
        (_, Ok(answer)) if !answer.reason.is_empty() => Err(AskError::Refused(answer.reason)),
        (404 | 405, _) => Err(AskError::Unknown),
        (status, _) if body.trim().is_empty() => Err(AskError::Refused(format!("status {status}"))),
        (_, _) => Err(AskError::Refused(body.trim().chars().take(600).collect())),
    }
}
