//! Conditions of a start: descriptors, capabilities, the state directory and the token's file.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::geteuid,
};

use super::{DaemonError, Result};

/// Capabilities that the daemon needs, by their numbers (capabilities(7)).
const NEEDED_CAPABILITIES: [(&str, u32); 5] = [
    ("CAP_NET_BROADCAST", 11),
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
];

/// Raises the soft limit of open files to the hard one: each connection takes a descriptor, and
/// each connection into a namespace takes two.
pub(super) fn raise_fd_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        tracing::warn!(error = errno.desc(), "cannot raise the limit of open files");
    }
}

/// Checks that the daemon has the capabilities that it needs.
///
/// # Errors
/// If some are missing, with their names.
pub(super) fn check_capabilities(effective: u64) -> Result<()> {
    let missing: Vec<_> = NEEDED_CAPABILITIES
        .iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DaemonError::Other(format!(
        "netnsd lacks {}: run it as root, or use `netnsd try` for a demo without privileges",
        missing.join(", ")
    )))
}

/// Locks the state directory, so that one daemon uses it at a time; creates it if it is missing.
/// The lock lasts until the returned file is dropped.
///
/// # Errors
/// If another daemon holds the lock, or the directory cannot be used.
pub(super) fn lock_state_dir(state_dir: &Path) -> Result<Flock<File>> {
    let file = open_lock_file(state_dir).map_err(|error| state_dir_error(state_dir, &error))?;
    let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(file, errno)| lock_error(state_dir, file, errno))?;

    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(|error| state_dir_error(state_dir, &error))?;
    Ok(file)
}

fn open_lock_file(state_dir: &Path) -> io::Result<File> {
    make_dirs(state_dir, 0o700)?;
    check_owner(state_dir)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(state_dir.join("lock"))
}

fn state_dir_error(state_dir: &Path, error: &io::Error) -> DaemonError {
    DaemonError::InvalidSettingTarget(format!(
        "state_dir is \"{}\", which cannot be used: {error}",
        state_dir.display()
    ))
}

/// Names the daemon that holds the lock, by the process id that it wrote to the file.
fn lock_error(state_dir: &Path, mut file: File, errno: Errno) -> DaemonError {
    if errno != Errno::EWOULDBLOCK {
        return state_dir_error(state_dir, &errno.into());
    }
    let mut pid = String::new();
    let _ = file.read_to_string(&mut pid); // Without it the message names no process.
    let holder = match pid.trim() {
        "" => "another daemon".to_owned(),
        pid => format!("another daemon, process {pid},"),
    };
    DaemonError::Other(format!(
        "{holder} holds the state directory {}: stop it first, or give this one another by \
         --state-dir",
        state_dir.display()
    ))
}

/// Creates a directory of this mode; missing parents are created with mode 0755.
pub(super) fn make_dirs(dir: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        result => result,
    }
}

/// Checks that no other user can put files into a directory.
fn check_owner(dir: &Path) -> io::Result<()> {
    let metadata = fs::metadata(dir)?;
    let (mode, owner) = (metadata.permissions().mode() & 0o7777, metadata.uid());
    if mode & 0o022 == 0 && (owner == 0 || owner == geteuid().as_raw()) {
        return Ok(());
    }
    let text = format!(
        "others may write it (mode {mode:04o}, owner {owner}): make it yours alone, as by chmod \
         700, or give netnsd a directory of its own"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Reads the bearer token for TCP.
///
/// # Errors
/// If the file cannot be read, or does not hold one token.
pub(super) fn read_token(path: &Path) -> Result<String> {
    let (text, mode) = read_with_mode(path)
        .map_err(|error| token_file_error(path, &format!("it cannot be read ({error})")))?;
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            "the token's file can be read by others: run chmod 600 on it"
        );
    }
    let token = text.trim();
    if token.is_empty() || token.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let detail = "it must hold one token, on one line, without spaces";
        return Err(token_file_error(path, detail));
    }
    Ok(token.to_owned())
}

fn read_with_mode(path: &Path) -> io::Result<(String, u32)> {
    let mut file = File::open(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok((text, file.metadata()?.permissions().mode()))
}

fn token_file_error(path: &Path, detail: &str) -> DaemonError {
    DaemonError::InvalidSettingTarget(format!("token_file is \"{}\": {detail}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert!(check_capabilities(u64::MAX).is_ok());
        let text = check_capabilities(1 << 12).unwrap_err().to_string();
        assert!(
            text.contains("CAP_SYS_ADMIN")
                && text.contains("root")
                && !text.contains("CAP_NET_ADMIN"),
            "{text}"
        );
    }

    #[test]
    fn second_daemon_cannot_lock_the_state_dir() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let held = lock_state_dir(&state).unwrap();
        assert_eq!(
            fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let text = lock_state_dir(&state).unwrap_err().to_string();
        assert!(
            text.contains(&std::process::id().to_string()) && text.contains("a/b"),
            "{text}"
        );
        drop(held);
        lock_state_dir(&state).unwrap();
    }

    #[test]
    fn token_must_be_one_word() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, good) in [
            ("secret\n", true),
            ("", false),
            ("\n", false),
            ("two words", false),
            ("a\nb\n", false),
        ] {
            fs::write(file.path(), text).unwrap();
            assert_eq!(read_token(file.path()).is_ok(), good, "{text:?}");
        }
    }
}
