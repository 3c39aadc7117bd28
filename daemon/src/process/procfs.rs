//! Processes and their network namespaces, read from `/proc`.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use netnsd_api::{Name, Process, ProcessNamespace};
use netnsd_netlink::{errno_of as errno, netns::file::RUN_DIR as RUN};

use super::{ProcessError, open_namespace_file};

/// Identity of a namespace: device and inode number (namespaces(7)).
type NsKey = (u64, u64);

fn key_of(path: &str) -> io::Result<NsKey> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

fn key_of_file(file: OwnedFd) -> io::Result<NsKey> {
    fs::File::from(file)
        .metadata()
        .map(|found| (found.dev(), found.ino()))
}

/// Lists the processes whose main thread is in the namespace, by their ids.
pub(super) fn list_processes(name: &Name) -> Result<Vec<Process>, ProcessError> {
    let key = key_of_file(open_namespace_file(name)?)
        .map_err(|error| ProcessError::refused("look at the namespace", errno(&error)))?;
    let entries = fs::read_dir("/proc")
        .map_err(|error| ProcessError::refused("read /proc", errno(&error)))?;
    let ids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process that has ended meanwhile, or that is hidden from a sandbox, is left out.
    let mut found: Vec<Process> = ids
        .filter(|pid: &u32| key_of(&format!("/proc/{pid}/ns/net")).is_ok_and(|of| of == key))
        .filter_map(read_process)
        .collect();
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

fn read_process(pid: u32) -> Option<Process> {
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let command = String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(&comm)).into_owned();
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    Some(Process {
        pid,
        command,
        uid: parse_effective_uid(&String::from_utf8_lossy(&status))?,
    })
}

/// Returns the effective user id: the second number of `Uid:` (proc_pid_status(5)).
fn parse_effective_uid(status: &str) -> Option<u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Returns the namespace of a process, with its name if it has one.
pub(super) fn identify_process(pid: u32) -> Result<ProcessNamespace, ProcessError> {
    let key = key_of(&format!("/proc/{pid}/ns/net")).map_err(|error| match error.kind() {
        // A zombie has no namespaces any more.
        io::ErrorKind::NotFound => ProcessError::NoProcess(pid),
        io::ErrorKind::PermissionDenied => ProcessError::HiddenProcess(pid),
        _ => ProcessError::refused("look at the process", errno(&error)),
    })?;
    Ok(ProcessNamespace {
        pid,
        namespace: find_name(key),
        inode: key.1,
    })
}

/// Returns the first name, in lexical order, that pins the namespace.
fn find_name(key: NsKey) -> Option<String> {
    let entries = fs::read_dir(RUN).ok()?;
    entries
        .flatten()
        .filter(|entry| {
            fs::metadata(entry.path()).is_ok_and(|found| (found.dev(), found.ino()) == key)
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .min()
}
