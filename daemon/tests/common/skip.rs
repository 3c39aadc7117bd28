//! Skipped tests, which can be seen and counted.
//!
//! Each prints a line that begins with `SKIPPED`, which libtest does not capture. With
//! `NETNSD_REQUIRE_ALL_TESTS` set, as by `.ci/run`, a missing tool fails the test; only what needs
//! root is still skipped for other users, as `SKIPPED (needs root)`.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Prints that the running test is skipped.
///
/// # Panics
/// If `NETNSD_REQUIRE_ALL_TESTS` is set.
#[track_caller]
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("NETNSD_REQUIRE_ALL_TESTS").is_none(),
        "skipped, though NETNSD_REQUIRE_ALL_TESTS is set: {reason}"
    );
    print_skipped("SKIPPED", reason);
}

/// Returns true if the test runs as root; otherwise prints that it is skipped.
pub fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        print_skipped("SKIPPED (needs root)", "");
    }
    is_root
}

/// Prints that the running test is skipped for a reason that root would not have.
///
/// # Panics
/// If `NETNSD_REQUIRE_ALL_TESTS` is set, for root.
#[track_caller]
pub fn skip_unless_root(reason: &str) {
    if is_root() {
        skip(reason);
    }
}

/// Returns true if a program is installed; otherwise prints that the test is skipped.
///
/// # Panics
/// If it is missing and `NETNSD_REQUIRE_ALL_TESTS` is set.
#[track_caller]
pub fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\"", program])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// Writes to standard error itself: the macros' output is captured by libtest.
fn print_skipped(label: &str, reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test");
    let line = match reason {
        "" => format!("{label}: {test}\n"),
        reason => format!("{label}: {test}: {reason}\n"),
    };
    let _ = std::io::stderr().write_all(line.as_bytes()); // nobody reads it
}
