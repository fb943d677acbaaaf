//! The control socket: one JSON line asks, one JSON line answers.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::layout::{CONTROL_SOCKET, Layout};

/// Longest wait for an answer; the supervisor itself gives up sooner on whatever it asks.
const PATIENCE: Duration = Duration::from_secs(30);

/// A question to the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Request {
    /// Is anybody there?
    Ping,
    /// The whole state, a [`Status`](crate::status::Status).
    Status,
    /// Where a pod's namespaces are, a [`Location`].
    Locate {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
    },
    /// Sends a signal to a component's process.
    Signal {
        /// Its name.
        component: String,
        /// The signal's name, such as `SIGKILL`.
        signal: String,
    },
    /// GETs a URL from inside a node, or from the underlay when `node` is none; a [`Page`].
    Get {
        /// Name of the node.
        node: Option<String>,
        /// `http://IP:PORT/PATH`.
        url: String,
    },
}

/// Where a pod's namespaces are.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Location {
    /// The supervisor's thread that holds them, by its id within the lab.
    pub tid: i32,
}

/// Answer to [`Request::Get`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// What the server's clock said.
    #[serde(default)]
    pub date: Option<String>,
    /// Body.
    pub body: String,
}

/// The supervisor's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    Ok(serde_json::Value),
    Error(String),
}

/// Asks the supervisor of the lab at `layout`.
///
/// # Errors
/// When the lab does not run, or the supervisor could not do what was asked.
pub fn ask<T: DeserializeOwned>(layout: &Layout, request: &Request) -> Result<T> {
    let mut stream = connect(layout).map_err(|error| {
        Error::new(format!("lab `{}` does not answer", layout.name()))
            .because(error)
            .hint("bring it up with `fairway lab up`, or see which labs there are with `fairway lab status`")
    })?;
    let mut line = serde_json::to_string(request).doing(|| "writing the question")?;
    line.push('\n');
    let mut answer = String::new();
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(line.as_bytes()))
        .and_then(|()| BufReader::new(stream).read_line(&mut answer))
        .doing(|| format!("asking the supervisor of lab `{}`", layout.name()))?;
    match serde_json::from_str(&answer).doing(|| "reading the supervisor's answer")? {
        Answer::Ok(value) => serde_json::from_value(value).doing(|| "reading the supervisor's answer"),
        Answer::Error(message) => Err(Error::new(message)),
    }
}

/// Connects by way of the directory's descriptor: the path itself may be longer than a socket address holds (`unix(7)`).
fn connect(layout: &Layout) -> std::io::Result<UnixStream> {
    let directory = open(layout.root(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{CONTROL_SOCKET}", directory.as_raw_fd()))
}
