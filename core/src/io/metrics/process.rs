//! Metrics of the process itself, read from /proc when rendered.

use nix::sys::resource::{Resource, getrlimit};

use super::Metrics;

const OPEN_FDS: &str = "process_open_fds";
const MAX_FDS: &str = "process_max_fds";
const RESIDENT: &str = "process_resident_memory_bytes";

pub(super) fn register(metrics: &Metrics) {
    metrics.describe(OPEN_FDS, "Open file descriptors.");
    metrics.describe(MAX_FDS, "File descriptors the process may open.");
    metrics.describe(RESIDENT, "Resident memory in bytes.");
    let open = metrics.gauge(OPEN_FDS, &[]);
    let max = metrics.gauge(MAX_FDS, &[]);
    let resident = metrics.gauge(RESIDENT, &[]);
    metrics.before_render(move || {
        // What cannot be read keeps its last value: /proc may be hidden in a hardened container.
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // The directory handle itself is one of the entries.
            open.set(small(entries.count().saturating_sub(1)));
        }
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            max.set(small(usize::try_from(soft).unwrap_or(usize::MAX)));
        }
        if let Some(bytes) = resident_memory() {
            resident.set(bytes);
        }
    });
}

/// Resident memory of this process in bytes, where /proc tells.
#[must_use]
pub fn resident_memory() -> Option<f64> {
    std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes)
}

/// `VmRSS` of a /proc status file, in bytes.
fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u32 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(f64::from(kibibytes) * 1024.0)
}

fn small(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "Name:\tztunnel\nVmPeak:\t  9000 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(resident_bytes(status), Some(2_097_152.0));
        assert_eq!(resident_bytes("VmRSS:\tmany\n"), None);
        assert_eq!(resident_bytes(""), None);
    }

    #[test]
    fn process_metrics_are_rendered() {
        let text = Metrics::default().render();
        for name in [OPEN_FDS, MAX_FDS, RESIDENT] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value > 0.0, "{line}");
        }
    }
}
