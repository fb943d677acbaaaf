//! Kernel work for several pods at a time, off the asynchronous threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};

use super::{Capture, Inspection, Kernel, Namespace};

/// Pods worked on at a time: the work is short processes, so a few fill a machine.
const AT_A_TIME: usize = 4;
/// How long work is begun in one pass; five hundred pods at once fit in, a program that hangs does not hold the agent up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Work on one pod's namespace.
pub(super) enum Job {
    /// Make the rules hold, writing only when they do not; a sandbox that is `fresh` cannot have them, which saves a look.
    Ensure { uid: String, network: Namespace, capture: Arc<Capture>, fresh: bool },
    /// Remove them.
    Remove { uid: String, network: Namespace },
    /// Remove them if there are any.
    Clean { uid: String, network: Namespace },
    /// Redirect nothing new, and remove them once nothing depends on them any more.
    Drain { uid: String, network: Namespace, capture: Arc<Capture> },
    /// See whether there are any.
    Probe { uid: String, network: Namespace },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// They held already.
    Held,
    Written,
    Removed,
    /// There was nothing to remove.
    Clean,
    /// Nothing was there when it was looked for.
    Missing,
    /// Something was there, right or not.
    Present,
    /// There are connections that depend on them.
    Draining,
}

/// Runs all jobs; the order of the results is not that of the jobs.
///
/// After [`PATIENCE`] no more are begun: when programs hang, each pod would hold up the others for as long as one may
/// take. Those have no result, good or bad; their turn comes with the next pass.
pub(super) async fn run_all(kernel: &Arc<dyn Kernel>, jobs: Vec<Job>) -> Vec<(String, Result<Done, String>)> {
    let deadline = Instant::now() + PATIENCE;
    let run = |job: Job| {
        let kernel = Arc::clone(kernel);
        async move {
            let uid = job.uid().to_owned();
            if Instant::now() >= deadline {
                return None;
            }
            let result = tokio::task::spawn_blocking(move || job.run(kernel.as_ref())).await;
            Some((uid, result.unwrap_or_else(|error| Err(error.to_string()))))
        }
    };
    stream::iter(jobs.into_iter().map(run)).buffer_unordered(AT_A_TIME).filter_map(std::future::ready).collect().await
}

impl Job {
    fn uid(&self) -> &str {
        match self {
            Self::Ensure { uid, .. }
            | Self::Remove { uid, .. }
            | Self::Clean { uid, .. }
            | Self::Drain { uid, .. }
            | Self::Probe { uid, .. } => uid,
        }
    }

    fn run(&self, kernel: &dyn Kernel) -> Result<Done, String> {
        match self {
            Self::Ensure { network, capture, fresh, .. } => match kernel.ensure(network, capture, *fresh) {
                Ok(written) => Ok(if written { Done::Written } else { Done::Held }),
                Err(error) => Err(error.to_string()),
            },
            Self::Remove { network, .. } => {
                kernel.remove(network).map(|()| Done::Removed).map_err(|error| error.to_string())
            }
            Self::Drain { network, capture, .. } => drain(kernel, network, capture),
            Self::Probe { network, .. } => match kernel.inspect(network, &Capture::default()) {
                Ok(Inspection::Absent) => Ok(Done::Missing),
                Ok(_) => Ok(Done::Present),
                Err(error) => Err(error.to_string()),
            },
            Self::Clean { network, .. } => match kernel.inspect(network, &Capture::default()) {
                Ok(Inspection::Absent) => Ok(Done::Clean),
                Ok(_) => kernel.remove(network).map(|()| Done::Removed).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

/// First nothing new begins, then it is counted: the other way round, one could begin in between.
fn drain(kernel: &dyn Kernel, network: &Namespace, capture: &Capture) -> Result<Done, String> {
    kernel.ensure(network, capture, false).map_err(|error| error.to_string())?;
    match kernel.captured_connections(network) {
        Ok(0) => kernel.remove(network).map(|()| Done::Removed).map_err(|error| error.to_string()),
        Ok(_) => Ok(Done::Draining),
        Err(error) => Err(error.to_string()),
    }
}
