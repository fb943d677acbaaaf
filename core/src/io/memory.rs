//! Gives memory back to the node: what the allocator keeps although it is free, and code that only the start needed.

mod program;

pub use program::let_go;

use super::metrics::process::resident_memory;

/// Growth since memory was last given back that is worth to walk through the whole heap.
const WORTH_IT: f64 = 1.03;

/// Gives free pages back once for each time that the process has grown.
#[derive(Debug, Default)]
pub struct Growth {
    /// Resident memory when they were last given back, in bytes.
    before: f64,
}

impl Growth {
    /// Gives them back if it has; says whether. Where nobody tells how large the process is, it never has.
    pub fn give_back(&mut self) -> bool {
        let has_grown = resident_memory().is_some_and(|now| self.is_worth_it(now));
        if has_grown {
            return_free_pages();
            self.before = resident_memory().unwrap_or_default();
        }
        has_grown
    }

    fn is_worth_it(&self, now: f64) -> bool {
        now > self.before * WORTH_IT
    }
}

/// Gives every free page of the heap back. It walks through the whole heap, which takes milliseconds when that is large.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn return_free_pages() {
    // SAFETY: malloc_trim takes no pointers, has no preconditions and is safe to call from any thread (malloc_trim(3)).
    #[expect(unsafe_code, reason = "the C library offers this to C only")]
    let returned = unsafe { nix::libc::malloc_trim(0) };
    tracing::debug!(returned = returned == 1, "free memory is given back");
}

/// Keeps all memory of the program in one heap, from the next allocation on. Of several, each has holes that only its own threads
/// fill; a program whose threads seldom allocate at the same moment gains nothing by them. For before any thread is started.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn use_one_heap() {
    // SAFETY: mallopt takes two numbers, no pointers, and changes nothing when it does not know them (mallopt(3)).
    #[expect(unsafe_code, reason = "the C library offers this to C only")]
    let done = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1) };
    debug_assert_eq!(done, 1, "the C library does not know the setting");
}

/// Other allocators have no such setting.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn use_one_heap() {}

/// Other allocators return memory by themselves, or offer no way to ask.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_free_pages() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_for_each_growth() {
        for (before, now, expected) in [(0.0, 1e7, true), (1e8, 1.02e8, false), (1e8, 1.04e8, true), (1e8, 5e7, false)]
        {
            assert_eq!(Growth { before }.is_worth_it(now), expected, "{before} {now}");
        }
    }
}
