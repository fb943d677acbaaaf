//! What the kernel says a process has used: processor time, memory, threads.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

/// Clock ticks per second in `/proc`: USER_HZ, which is 100 on every architecture we build for (`proc_pid_stat(5)`).
const TICKS_PER_SECOND: u64 = 100;
const BYTES_PER_KIBIBYTE: u64 = 1024;

/// Processor time of all threads of the process, the ended ones included: user and system.
///
/// # Errors
/// When there is no such process.
pub(crate) fn cpu_time(pid: i32) -> Result<Duration> {
    let stat = read(pid, "stat")?;
    let ticks = ticks(&stat).ok_or_else(|| anyhow!("/proc/{pid}/stat is not as proc(5) says"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Resident memory in bytes.
///
/// # Errors
/// When there is no such process.
pub(crate) fn resident(pid: i32) -> Result<u64> {
    kibibytes(pid, "VmRSS")
}

/// The most memory that was ever resident, in bytes.
///
/// # Errors
/// When there is no such process.
pub(crate) fn peak_resident(pid: i32) -> Result<u64> {
    kibibytes(pid, "VmHWM")
}

/// Forgets what was ever resident: from now on [`peak_resident`] begins with what is (proc(5), `clear_refs`).
///
/// # Errors
/// When there is no such process, or it is somebody else's.
pub(crate) fn forget_peak(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("writing {path}"))
}

/// How many threads the process has.
///
/// # Errors
/// When there is no such process.
pub(crate) fn threads(pid: i32) -> Result<u64> {
    field(pid, "Threads")
}

/// Thread ids of the process.
///
/// # Errors
/// When there is no such process.
pub(crate) fn thread_ids(pid: i32) -> Result<Vec<i32>> {
    let directory = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&directory).with_context(|| format!("reading {directory}"))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

fn kibibytes(pid: i32, name: &str) -> Result<u64> {
    Ok(field(pid, name)? * BYTES_PER_KIBIBYTE)
}

fn field(pid: i32, name: &str) -> Result<u64> {
    status_field(&read(pid, "status")?, name).ok_or_else(|| anyhow!("/proc/{pid}/status has no {name}"))
}

fn read(pid: i32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("reading {path}: has the process ended?"))
}

/// Fields 14 and 15, utime and stime. The name in parentheses may itself contain spaces and parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_a_process_with_a_hostile_name() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194560 100 200 3 4 250 31 7 8 20 0 4 0 4242 9 9 9";
        assert_eq!(ticks(stat), Some(281));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn status_fields_are_found_by_their_whole_name() {
        let status = "VmRSSX:\t1 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n";
        assert_eq!(status_field(status, "VmRSS"), Some(1024));
        assert_eq!(status_field(status, "Threads"), Some(3));
        assert_eq!(status_field(status, "Vm"), None);
    }

    #[test]
    fn the_own_process_is_seen_at_work() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(resident(pid).unwrap() > 0 && peak_resident(pid).unwrap() >= resident(pid).unwrap() / 2);
        assert!(thread_ids(pid).unwrap().contains(&pid) && threads(pid).unwrap() > 0);
        let before = cpu_time(pid).unwrap();
        let mut work = 0_u64;
        // Ends only when the kernel has charged the work done here.
        while cpu_time(pid).unwrap() <= before {
            work = std::hint::black_box(work.wrapping_mul(31).wrapping_add(7));
        }
    }

    #[test]
    fn the_peak_is_that_since_it_was_forgotten() {
        const LARGE: usize = 256 << 20;
        let pid = i32::try_from(std::process::id()).unwrap();
        drop(std::hint::black_box(vec![1_u8; LARGE]));
        let large = u64::try_from(LARGE).unwrap();
        assert!(peak_resident(pid).unwrap() >= large);
        forget_peak(pid).unwrap();
        assert!(peak_resident(pid).unwrap() < large);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(cpu_time(i32::MAX).unwrap_err().to_string().contains("/proc/2147483647/stat"));
    }
}
