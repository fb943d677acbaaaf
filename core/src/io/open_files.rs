//! The limit on open files of the own process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises it as far as it goes without privileges: the usual soft limit of 1024 is meant for programs that use select(2). A
/// lower limit is no reason not to start; the log says what may come of it, which is `otherwise`.
pub fn raise(otherwise: &str) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok((soft, hard))
    });
    match raised {
        Ok((before, now)) => tracing::debug!(before, now, "limit on open files raised"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit on open files; {otherwise} (ulimit -n)"),
    }
}
