//! Limits of the own process that a measurement would otherwise run into.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open files wanted: two per connection for a relay that holds the default 10,000 idle ones, and room to spare.
const OPEN_FILES: u64 = 65_536;

/// Raises the limit of open files as far as the system lets us and says how far that is.
pub(crate) fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    // Raising the hard limit takes CAP_SYS_RESOURCE, which containers often lack (getrlimit(2)).
    [OPEN_FILES.max(hard), hard]
        .into_iter()
        .find(|limit| setrlimit(Resource::RLIMIT_NOFILE, *limit, *limit).is_ok())
        .unwrap_or(soft)
}
