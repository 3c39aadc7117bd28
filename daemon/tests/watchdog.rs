//! The watchdog of the service manager is fed while the daemon makes progress, and only then.
#![allow(unsafe_code, reason = "ptrace(2), which stops one thread of a process")]

mod common;

use std::{fs, time::Duration, time::Instant};

use common::Host;
use nix::{errno::Errno, libc};

const PERIOD: Duration = Duration::from_secs(2);

/// Threads of the daemon that are stopped; they go on when this is dropped.
struct Stopped(Vec<i32>);

impl Stopped {
    /// Stops the daemon's threads of this name. `None` where that is not allowed
    /// (`/proc/sys/kernel/yama/ptrace_scope`).
    fn new(host: &Host, name: &str) -> Option<Self> {
        let tasks = format!("/proc/{}/task", host.pid());
        let threads = fs::read_dir(tasks)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let named =
            threads.filter(|path| fs::read_to_string(path.join("comm")).unwrap().trim() == name);
        let ids: Vec<i32> = named
            .map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
            .collect();
        assert!(!ids.is_empty(), "no thread {name}");
        let mut stopped = Self(Vec::new());
        for id in ids {
            let no = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: neither request writes to this process.
            let taken = unsafe { libc::ptrace(libc::PTRACE_SEIZE, id, no, no) };
            if taken != 0 {
                common::skip::skip(&format!("ptrace(2): {}", Errno::last()));
                return None;
            }
            stopped.0.push(id);
            // SAFETY: the kernel writes nothing but the status, which lives as long as the call.
            unsafe {
                assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, id, no, no), 0);
                let mut status = 0;
                assert_eq!(libc::waitpid(id, &mut status, libc::__WALL), id);
            }
        }
        Some(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for id in &self.0 {
            let no = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: it writes nothing.
            unsafe { libc::ptrace(libc::PTRACE_DETACH, *id, no, no) };
        }
    }
}

fn host() -> Host {
    let mut host = Host::new();
    host.start_with(|command| {
        command.env("WATCHDOG_USEC", PERIOD.as_micros().to_string());
    });
    host
}

#[track_caller]
fn fed(host: &Host) {
    let message = host.notification(Duration::from_secs(60));
    assert_eq!(
        message.as_deref().map(str::trim_end),
        Some("WATCHDOG=1"),
        "{}",
        host.log()
    );
}

/// Waits until it was not fed for as long as a service manager would wait.
fn starves(host: &Host) {
    let start = Instant::now();
    while host.notification(PERIOD).is_some() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it is fed by a daemon that does nothing"
        );
    }
}

fn starves_without(thread: &str, part: &str) {
    let host = host();
    fed(&host);
    let Some(stopped) = Stopped::new(&host, thread) else {
        return;
    };
    starves(&host);
    assert!(host.log().contains(part), "{}", host.log());
    drop(stopped);
    fed(&host);
    host.get("/v1/health").ok();
}

#[test]
fn idle_daemon_feeds_the_watchdog() {
    let host = host();
    (0..5).for_each(|_| fed(&host));
}

#[test]
fn hung_engine_starves_the_watchdog() {
    starves_without("netnsd-engine", "part=Engine");
}

#[test]
fn hung_requests_starve_the_watchdog() {
    starves_without("netnsd", "part=Runtime");
}
