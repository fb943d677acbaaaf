//! Gives memory back to the node: what the allocator keeps although it is free, and code that only the start needed.

mod program;

pub use program::let_go;

/// Gives every free page of the heap back. It walks through the whole heap, which takes milliseconds when that is large.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn return_free_pages() {
    // SAFETY: malloc_trim takes no pointers, has no preconditions and is safe to call from any thread (malloc_trim(3)).
    #[expect(unsafe_code, reason = "the C library offers this to C only")]
    let returned = unsafe { nix::libc::malloc_trim(0) };
    tracing::debug!(returned = returned == 1, "free memory is given back");
}

/// Other allocators return memory by themselves, or offer no way to ask.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_free_pages() {}
