//! Which processes live in which namespace.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use netnsd_api::{Code, Name, Problem, Process, ProcessNamespace};
use netnsd_netlink::{errno_of as errno, netns::file::RUN_DIR as RUN};

use super::{failed, namespace_file};

/// What tells one namespace from another: device and inode number.
type Key = (u64, u64);

fn key_of(path: &str) -> io::Result<Key> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

fn key_of_file(file: OwnedFd) -> io::Result<Key> {
    fs::File::from(file)
        .metadata()
        .map(|found| (found.dev(), found.ino()))
}

/// The processes whose main thread is in the namespace.
pub(super) fn processes(name: &Name) -> Result<Vec<Process>, Problem> {
    let key = key_of_file(namespace_file(name)?)
        .map_err(|error| failed("look at the namespace", errno(&error)))?;
    let entries = fs::read_dir("/proc").map_err(|error| failed("read /proc", errno(&error)))?;
    let ids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process may be gone by the time it is looked at, or be hidden from a sandbox: then it is
    // not listed.
    let mut found: Vec<Process> = ids
        .filter(|pid: &u32| key_of(&format!("/proc/{pid}/ns/net")).is_ok_and(|of| of == key))
        .filter_map(describe)
        .collect();
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

fn describe(pid: u32) -> Option<Process> {
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let command = String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(&comm)).into_owned();
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    Some(Process {
        pid,
        command,
        uid: effective_user(&String::from_utf8_lossy(&status))?,
    })
}

/// `Uid:` is followed by the real, the effective, the saved and the file system's.
fn effective_user(status: &str) -> Option<u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// The namespace of a process, and its name if it has one.
pub(super) fn identify(pid: u32) -> Result<ProcessNamespace, Problem> {
    let key = key_of(&format!("/proc/{pid}/ns/net")).map_err(|error| match error.kind() {
        // A zombie has no namespaces any more.
        io::ErrorKind::NotFound => {
            Problem::new(Code::NotFound, format!("there is no process {pid}"))
        }
        io::ErrorKind::PermissionDenied => Problem::new(
            Code::Forbidden,
            format!("the daemon may not look at process {pid}"),
        ),
        _ => failed("look at the process", errno(&error)),
    })?;
    Ok(ProcessNamespace {
        pid,
        namespace: name_of(key),
        inode: key.1,
    })
}

/// The first name, in their order, that pins the namespace.
fn name_of(key: Key) -> Option<String> {
    let entries = fs::read_dir(RUN).ok()?;
    entries
        .flatten()
        .filter(|entry| {
            fs::metadata(entry.path()).is_ok_and(|found| (found.dev(), found.ino()) == key)
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .min()
}
