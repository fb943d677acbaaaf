//! Which process the supervisor is, told apart from a later process that got the same pid.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};

/// Identity of the supervisor as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Init {
    /// Host process id.
    pub(crate) pid: i32,
    /// Clock ticks after boot at which it started (`proc_pid_stat(5)`, field 22); pid and start time together are unique.
    pub(crate) start_time: u64,
}

impl Init {
    /// Describes the running process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .doing(|| format!("reading the start time of process {pid}"))?;
        let pid = i32::try_from(pid).doing(|| "a process id beyond 2^31")?;
        let Stat { start_time, .. } =
            parse_stat(&stat).ok_or_else(|| crate::Error::new(format!("/proc/{pid}/stat is not as proc(5) says")))?;
        Ok(Self { pid, start_time })
    }

    /// Reads what [`Init::write`] wrote; `None` when there is no such file.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes the identity to `path` in one step.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, &serde_json::to_vec(self).doing(|| "describing the supervisor")?)
    }

    /// How far that very process is.
    pub(crate) fn life(self) -> Life {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok();
        let Some(stat) = stat.as_deref().and_then(parse_stat).filter(|stat| stat.start_time == self.start_time) else {
            return Life::Over;
        };
        match stat.state {
            'Z' | 'X' => Life::Over,
            _ if stat.flags & PF_EXITING != 0 => Life::Ending,
            _ => Life::Running,
        }
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(self) -> bool {
        self.life() != Life::Over
    }

    /// Kills it, when it still runs.
    pub(crate) fn kill(self) {
        if self.is_running() {
            // Losing the race against its own end is as good as winning it.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// How far a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Running,
    /// Killed, its processes too; the last of them wait to be collected by their parents outside.
    Ending,
    /// Gone, or a zombie: its namespaces no longer exist.
    Over,
}

/// Kernel flag of a process that is shutting down (`include/linux/sched.h`, shown in `proc_pid_stat(5)`, field 9).
const PF_EXITING: u64 = 0x4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    flags: u64,
    start_time: u64,
}

/// What matters of a `/proc/PID/stat` line. The name in parentheses may itself contain spaces and parentheses.
fn parse_stat(stat: &str) -> Option<Stat> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let flags = fields.nth(5)?.parse().ok()?;
    let start_time = fields.nth(12)?.parse().ok()?;
    Some(Stat { state, flags, start_time })
}

/// Replaces the file at `path` in one step.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("partial");
    fs::write(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path))
        .doing(|| format!("writing {}", path.display()))
}

/// Memory a process holds (resident set), in bytes (`proc_pid_status(5)`).
pub(crate) fn memory(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_hostile_names_are_read() {
        let line = "7 (a) Z (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9 9";
        assert_eq!(parse_stat(line), Some(Stat { state: 'S', flags: 4_194_560, start_time: 4242 }));
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn a_running_process_holds_memory() {
        let own = memory(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!((1 << 20..1 << 40).contains(&own), "{own}");
        assert_eq!(memory(0), None);
    }

    #[test]
    fn another_start_time_is_another_process() {
        let own = Init::of(std::process::id()).unwrap();
        assert!(own.is_running());
        assert!(!Init { start_time: own.start_time + 1, ..own }.is_running());
    }
}
