//! Keeping processes on chosen processors.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::procfs;

/// Keeps the calling thread, and those it starts, on one processor.
///
/// # Errors
/// When there is no such processor.
pub(crate) fn pin_self(cpu: usize) -> Result<()> {
    pin_thread(0, cpu)
}

/// Keeps every thread of a process on one processor.
///
/// # Errors
/// When there is no such process or processor.
pub(crate) fn pin_process(pid: i32, cpu: usize) -> Result<()> {
    procfs::thread_ids(pid)?.into_iter().try_for_each(|thread| pin_thread(thread, cpu))
}

fn pin_thread(thread: i32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("processor {cpu}"))?;
    sched_setaffinity(Pid::from_raw(thread), &set)
        .with_context(|| format!("keeping thread {thread} on processor {cpu}"))
}
