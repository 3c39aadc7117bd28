//! The C library's allocator: one arena, and free pages returned to the kernel.

#![allow(
    unsafe_code,
    reason = "mallopt(3) and malloc_trim(3) have no safe forms"
)]

/// Makes all threads allocate from one arena (mallopt(3); only glibc has several). The engine's
/// threads pass what they allocate to each other, so every arena of a thread would keep holes.
pub fn use_single_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer.
    unsafe {
        // A refusal leaves the default number of arenas, which costs memory only.
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Returns the allocator's free pages to the kernel (malloc_trim(3); only glibc has it). After work
/// on many resources they are more than all that stays in use. Takes a millisecond or two.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and locks what it walks through.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
