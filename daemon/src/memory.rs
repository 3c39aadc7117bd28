//! The allocator: one arena, and memory that is given back.

#![allow(
    unsafe_code,
    reason = "mallopt(3) and malloc_trim(3) have no safe forms"
)]

/// Has all threads allocate from one arena (`mallopt(3)`; other C libraries than glibc have no
/// others). The engine's threads hand what they make to each other: of an arena for each, every one
/// would keep holes for what went away from it.
pub fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer.
    let _as_before_where_refused = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1) };
}

/// Gives the pages that the allocator holds for nobody back to the kernel: after work on many
/// resources at once that is more than everything that stays (`malloc_trim(3)`; other C libraries
/// than glibc have none). Takes a millisecond or two.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and locks what it walks through.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
