//! The chained CNI plugin: one call of the container runtime from its environment and input to output and exit code.
//!
//! It adds nothing to the network. On ADD it tells the agent of the new pod and waits, for a bounded time, until the
//! agent says that the pod may run: captured, or not to be captured. What the plugin before it gave is passed through.

pub mod ask;
pub mod protocol;
pub mod remembered;
pub mod result;

use std::path::Path;

use crate::event::{self, Attachment};
use ask::{AskError, Reply};
use protocol::{Call, Code, Command, Failure, Request, parse};
use remembered::{WithoutAgent, without_agent};

/// What the runtime gets: standard output, and whether the call succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Standard output.
    pub output: String,
    /// Standard error, for people; runtimes log it.
    pub complaint: String,
    /// Exit code.
    pub code: u8,
}

/// Carries out one call: `variable` looks an environment variable up, `input` is what was read from standard input.
pub fn run(variable: impl Fn(&str) -> Option<String>, input: &str) -> Outcome {
    match parse(variable, input) {
        Ok(request) => {
            let version = request.version.clone();
            match carry_out(&request) {
                Ok((output, complaint)) => Outcome { output, complaint, code: 0 },
                Err(failure) => failed(&failure, &version),
            }
        }
        Err((failure, version)) => failed(&failure, &version),
    }
}

fn failed(failure: &Failure, version: &str) -> Outcome {
    Outcome { output: failure.render(version), complaint: failure.to_string(), code: 1 }
}

type Done = Result<(String, String), Failure>;

fn carry_out(request: &Request) -> Done {
    match &request.command {
        Command::Version => Ok((protocol::versions(&request.version), String::new())),
        Command::Add(call) => add(request, call),
        Command::Delete(call) => {
            // What is gone cannot be kept: a DEL that fails would keep the pod from being killed.
            let told = tell(request, event::DELETE, call);
            Ok((String::new(), told.err().map(|error| error.to_string()).unwrap_or_default()))
        }
        Command::Check(call) => check(request, call),
        Command::CollectGarbage(None) => {
            let complaint =
                format!("{} is missing or null: nothing is known to be garbage", protocol::VALID_ATTACHMENTS);
            Ok((String::new(), complaint))
        }
        Command::CollectGarbage(Some(attached)) => {
            // All that is kept of pods is kept by the agent: without one there is no garbage.
            let socket = request.configuration.socket();
            let told = ask::ask(&socket, event::COLLECT, attached, ask::DELETE_PATIENCE);
            Ok((String::new(), told.err().map(|error| error.to_string()).unwrap_or_default()))
        }
        Command::Status => status(request),
    }
}

fn add(request: &Request, call: &Call) -> Done {
    let previous = call.previous.as_ref().ok_or_else(|| {
        Failure::new(Code::InvalidConfiguration, "there is no prevResult: fairway-cni has to follow another plugin")
            .details("put it last in the `plugins` of a .conflist; the agent does that by itself")
    })?;
    let output = result::pass_through(previous, &request.version);
    let Some(pod) = &call.pod else {
        return Ok((output, "not a Kubernetes pod, nothing to do".to_owned()));
    };
    match tell(request, event::ADD, call) {
        Ok(_) => Ok((output, String::new())),
        Err(error) => {
            let verdict = match &error {
                AskError::Refused(reason) => WithoutAgent::refuse_unless_open(request.configuration.fail, reason),
                _ => without_agent(&remembered(request), request.configuration.fail, &pod.namespace),
            };
            match verdict {
                WithoutAgent::Pass => Ok((output, format!("{error}; the pod runs without the mesh"))),
                WithoutAgent::Refuse(why) => Err(Failure::new(
                    Code::TryAgainLater,
                    format!("pod {}/{} must not run before it is captured: {why}", pod.namespace, pod.name),
                )
                .details(error.to_string())),
            }
        }
    }
}

fn check(request: &Request, call: &Call) -> Done {
    match tell(request, event::CHECK, call) {
        Err(AskError::Refused(reason)) => Err(Failure::new(Code::NotCaptured, reason)),
        // Without an agent nothing is known; what it had set up stays.
        Err(error) => Ok((String::new(), error.to_string())),
        Ok(_) => Ok((String::new(), String::new())),
    }
}

/// Ready means that a pod outside the mesh could start. Enrolled ones are refused one by one while the agent is away:
/// a node that is not ready would lose all the others as well.
fn status(request: &Request) -> Done {
    match remembered(request) {
        remembered::Remembered::Unreadable(why) if !ask::is_answering(&request.configuration) => {
            Err(Failure::new(Code::NotAvailable, format!("no pod can start: {why}"))
                .details("start the fairway-cni-agent of this node"))
        }
        _ => Ok((String::new(), String::new())),
    }
}

fn remembered(request: &Request) -> remembered::Remembered {
    match request.configuration.state_file.as_deref() {
        Some(path) => remembered::read(Path::new(path)),
        // Not an entry that an agent wrote, so nothing says that it was taken back.
        None => remembered::Remembered::Unreadable("the entry of fairway-cni names no state_file".to_owned()),
    }
}

fn tell(request: &Request, path: &str, call: &Call) -> Result<Reply, AskError> {
    let Some(pod) = &call.pod else { return Ok(Reply::default()) };
    let attachment = Attachment {
        netns: call.netns.clone(),
        pod_name: pod.name.clone(),
        pod_namespace: pod.namespace.clone(),
        pod_uid: pod.uid.clone(),
        container_id: call.container.clone(),
        network: call.network.clone(),
        ips: call.previous.as_ref().map(result::addresses).unwrap_or_default(),
    };
    let patience = if path == event::DELETE { ask::DELETE_PATIENCE } else { request.configuration.patience() };
    ask::ask(&request.configuration.socket(), path, &attachment, patience)
}

#[cfg(test)]
mod tests;
