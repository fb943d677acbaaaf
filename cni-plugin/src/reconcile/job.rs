//! Kernel work for several pods at a time, off the asynchronous threads.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use super::{Capture, Inspection, Kernel, Namespace};

/// Pods worked on at a time: the work is short processes, so a few fill a machine.
const AT_A_TIME: usize = 4;

/// Work on one pod's namespace.
pub(super) enum Job {
    /// Make the rules hold, writing only when they do not.
    Ensure { uid: String, network: Namespace, capture: Capture },
    /// Remove them.
    Remove { uid: String, network: Namespace },
    /// Remove them if there are any.
    Clean { uid: String, network: Namespace },
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
}

/// Runs all jobs; the order of the results is not that of the jobs.
pub(super) async fn run_all(kernel: &Arc<dyn Kernel>, jobs: Vec<Job>) -> Vec<(String, Result<Done, String>)> {
    let run = |job: Job| {
        let kernel = Arc::clone(kernel);
        async move {
            let uid = job.uid().to_owned();
            let result = tokio::task::spawn_blocking(move || job.run(kernel.as_ref())).await;
            (uid, result.unwrap_or_else(|error| Err(error.to_string())))
        }
    };
    stream::iter(jobs.into_iter().map(run)).buffer_unordered(AT_A_TIME).collect().await
}

impl Job {
    fn uid(&self) -> &str {
        match self {
            Self::Ensure { uid, .. } | Self::Remove { uid, .. } | Self::Clean { uid, .. } | Self::Probe { uid, .. } => {
                uid
            }
        }
    }

    fn run(&self, kernel: &dyn Kernel) -> Result<Done, String> {
        match self {
            Self::Ensure { network, capture, .. } => ensure(kernel, network, capture),
            Self::Remove { network, .. } => {
                kernel.remove(network).map(|()| Done::Removed).map_err(|error| error.to_string())
            }
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

/// What counts is what is read back, not that writing succeeded.
fn ensure(kernel: &dyn Kernel, network: &Namespace, capture: &Capture) -> Result<Done, String> {
    let inspect = || kernel.inspect(network, capture).map_err(|error| error.to_string());
    if inspect()? == Inspection::Same {
        return Ok(Done::Held);
    }
    kernel.apply(network, capture).map_err(|error| error.to_string())?;
    match inspect()? {
        Inspection::Same => Ok(Done::Written),
        _ => Err("the rules were written but something else changes them; look for another CNI in the pod".to_owned()),
    }
}
