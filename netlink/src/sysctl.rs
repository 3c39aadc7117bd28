//! Sysctls, through `/proc/sys` of the namespace that the calling thread is in.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use netnsd_api::SysctlKey;
use nix::errno::Errno;

use crate::errno_of;

fn sysctl_path(key: &SysctlKey) -> PathBuf {
    key.parts()
        .fold(PathBuf::from("/proc/sys"), |path, part| path.join(part))
}

/// Reads a sysctl; each run of white space becomes one space.
///
/// # Errors
/// ENOENT if there is no such sysctl, and those of open(2) and read(2).
pub fn read_sysctl(key: &SysctlKey) -> Result<String, Errno> {
    let text = fs::read_to_string(sysctl_path(key)).map_err(|error| errno_of(&error))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Writes a sysctl. Returns the previous values of `key` and of those of `side_effects` that exist:
/// the keys that the kernel changes along with it.
///
/// # Errors
/// ENODEV if the key is of an interface that does not exist, ENOENT if there is no such sysctl, and
/// those of write(2).
pub fn write_sysctl(
    key: &SysctlKey,
    value: &str,
    side_effects: &[SysctlKey],
) -> Result<Vec<(SysctlKey, String)>, Errno> {
    let path = sysctl_path(key);
    let current = read_sysctl(key).map_err(|errno| {
        if errno == Errno::ENOENT && is_interface_missing(key, &path) {
            Errno::ENODEV
        } else {
            errno
        }
    })?;
    let mut previous = vec![(key.clone(), current)];
    previous.extend(
        side_effects
            .iter()
            .filter_map(|key| Some((key.clone(), read_sysctl(key).ok()?))),
    );

    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(|error| errno_of(&error))?;
    file.write_all(value.as_bytes())
        .map_err(|error| errno_of(&error))?;
    Ok(previous)
}

fn is_interface_missing(key: &SysctlKey, path: &Path) -> bool {
    key.interface().is_some() && path.parent().is_some_and(|interface| !interface.exists())
}

/// Says why a sysctl of a namespace was not written. The calling thread must be in the host's
/// namespace: a sysctl that is missing or read-only in a namespace, and exists on the host, belongs
/// to the host (`ensure_safe_net_sysctl()`, net/sysctl_net.c).
pub fn describe_refusal(key: &SysctlKey, value: &str, errno: Errno) -> String {
    let is_on_host = key.interface().is_none() && sysctl_path(key).exists();
    match errno {
        Errno::ENODEV => format!(
            "there is no interface {}",
            key.interface().unwrap_or_default()
        ),
        Errno::ENOENT if is_on_host => {
            "it is the host's, not the namespace's, which has none of its own".into()
        }
        Errno::ENOENT => "there is no such sysctl: it is misspelt, or this kernel lacks it".into(),
        Errno::EACCES | Errno::EPERM => {
            "it is the host's, not the namespace's: read-only there".into()
        }
        _ => format!("it does not take the value {value:?}"),
    }
}
