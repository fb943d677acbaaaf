//! Fetches one page of one part: in a lab from inside its network, of a cluster by port-forward through the API server.

use std::process::Command;
use std::time::Duration;

use fairway_lab::control::Page;
use fairway_lab::layout::Layout;
use fairway_lab::{Error, Result, http};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::time::timeout;

use super::Part;
use crate::objects::Cluster;

/// Longest wait for a page of a cluster: a large dump over a slow link, and not a proxy that never answers.
const PATIENCE: Duration = Duration::from_secs(15);
/// What the pages' own servers are called; they do not look at it.
const HOST: &str = "localhost";

/// What a page says, if it says what was asked for.
pub(super) fn usable(part: Part<'_>, page: Page) -> Result<Page> {
    if page.status == 200 {
        return Ok(page);
    }
    // The first line says what is wrong, the others how to ask.
    let said = page.body.lines().next().unwrap_or_default().to_owned();
    Err(Error::new(format!("{} cannot say", part.name())).because(said))
}

pub(super) fn unreadable(part: Part<'_>, error: serde_json::Error) -> Error {
    Error::new(format!("reading the answer of {}", part.name())).because(error)
}

/// A page of a pod of a lab, asked by a program that runs in there.
pub(super) fn inside(layout: &Layout, namespace: &str, pod: &str, port: u16, path: &str) -> Result<Page> {
    let program = std::env::current_exe().map_err(|error| Error::new("finding this program").because(error))?;
    let program = program.to_string_lossy().into_owned();
    let name = format!("{namespace}/{pod}");
    let url = format!("http://127.0.0.1:{port}{path}");
    let output = Command::new(&program)
        .args(["lab", "--lab", &layout.name(), "exec", &name, "--", &program, "lab", "tool", "http-get", &url])
        .output()
        .map_err(|error| Error::new(format!("asking in {name}")).because(error))?;
    answered(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
        let said = [output.stdout, output.stderr].concat();
        Error::new(format!("asking in {name}")).because(String::from_utf8_lossy(&said).trim().to_owned())
    })
}

/// What `http-get` has printed: the status, and the body.
fn answered(text: &str) -> Option<Page> {
    let (status, body) = text.split_once(' ')?;
    Some(Page { status: status.parse().ok()?, date: None, body: body.to_owned() })
}

/// A page of a pod of a cluster, from its loopback, which is where pages that are not protected listen.
pub(super) fn forwarded(cluster: &Cluster, namespace: &str, pod: &str, port: u16, path: &str) -> Result<Page> {
    let doing = || format!("asking {namespace}/{pod} for {path}");
    let work = async {
        let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
        let mut forwarder = pods.portforward(pod, &[port]).await.map_err(|error| {
            let hint = format!(
                "port-forward takes the right to `create` `pods/portforward` in {namespace}; \
                 try: kubectl -n {namespace} port-forward {pod} {port}"
            );
            Error::new(doing()).because(error).hint(hint)
        })?;
        let refused = forwarder.take_error(port);
        let stream = forwarder.take_stream(port).ok_or_else(|| Error::new(doing()))?;
        let asked = http::get(stream, HOST, path).await;
        forwarder.abort();
        match asked {
            Ok(answer) => Ok(Page { status: answer.status, date: answer.date, body: answer.body }),
            // The node has the better reason: nobody listens, or there is no such pod.
            Err(error) => {
                let node = match refused {
                    Some(mut refused) => refused_because(&mut refused).await,
                    None => None,
                };
                Err(match node {
                    Some(reason) => Error::new(doing()).because(reason.trim().to_owned()),
                    None => Error::new(doing()).because(error),
                })
            }
        }
    };
    let patient = async { timeout(PATIENCE, work).await };
    cluster.run(patient).map_err(|_| Error::new(doing()).because(format!("no answer within {PATIENCE:?}")))?
}

/// What the node says of a port that cannot be forwarded, if it has said anything by now.
async fn refused_because(refused: &mut (impl Future<Output = Option<String>> + Unpin)) -> Option<String> {
    timeout(Duration::from_millis(200), refused).await.ok().flatten()
}

#[cfg(test)]
mod tests;
