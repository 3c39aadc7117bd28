//! Memory that is given back.

#![allow(unsafe_code, reason = "malloc_trim(3) has no safe form")]

/// Gives the pages that the allocator holds for nobody back to the kernel: after work on many resources at once that is more than
/// everything that stays (`malloc_trim(3)`; other C libraries than glibc have none). Takes a millisecond or two.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and locks what it walks through.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
