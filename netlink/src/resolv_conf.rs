//! Files of name resolution in `/etc/netns/NAME`, which `ip netns exec` and netnsd mount over those
//! in `/etc` (ip-netns(8)).

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use netnsd_api::Name;
use nix::errno::Errno;

use crate::errno_of;

/// A file of name resolution in `/etc/netns/NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DnsFile {
    /// Name servers, search domains and options (resolv.conf(5)).
    ResolvConf,
    /// Services that are asked for a name (nsswitch.conf(5)).
    Nsswitch,
}

impl DnsFile {
    /// Every file.
    pub const ALL: [DnsFile; 2] = [DnsFile::ResolvConf, DnsFile::Nsswitch];

    /// Returns the file's name.
    pub fn as_str(self) -> &'static str {
        match self {
            DnsFile::ResolvConf => "resolv.conf",
            DnsFile::Nsswitch => "nsswitch.conf",
        }
    }

    /// Returns the name under which the file is written before it is renamed.
    pub fn temp_name(self) -> String {
        format!(".{self}.netnsd")
    }
}

impl fmt::Display for DnsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the directory of a namespace's own files of `/etc` (ip-netns(8)).
pub fn etc_dir(name: &Name) -> PathBuf {
    Path::new("/etc/netns").join(name.as_str())
}

/// Reads those of a namespace's files that exist; one stat(2) for a namespace without any.
pub fn read_dns_files(name: &Name) -> BTreeMap<DnsFile, String> {
    let dir = etc_dir(name);
    if !dir.is_dir() {
        return BTreeMap::new();
    }
    DnsFile::ALL
        .into_iter()
        .filter_map(|file| Some((file, read_text(&dir.join(file.as_str()))?)))
        .collect()
}

/// Reads the host's `/etc/nsswitch.conf`.
pub fn read_host_nsswitch() -> Option<String> {
    read_text(Path::new("/etc/nsswitch.conf"))
}

fn read_text(path: &Path) -> Option<String> {
    fs::read(path)
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a file of a namespace, or removes it if `content` is `None`, and then its directory if
/// that is empty.
///
/// # Errors
/// Those of open(2), write(2), rename(2) and unlink(2); removing a missing file is no error.
pub fn write_dns_file(name: &Name, file: DnsFile, content: Option<&str>) -> Result<(), Errno> {
    let dir = etc_dir(name);
    let result = match content {
        Some(content) => replace_file(&dir, file, content),
        None => remove_file(&dir, file),
    };
    result.map_err(|error| errno_of(&error))
}

fn replace_file(dir: &Path, file: DnsFile, content: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let temp = dir.join(file.temp_name());
    fs::write(&temp, content)?;
    fs::rename(&temp, dir.join(file.as_str()))
}

fn remove_file(dir: &Path, file: DnsFile) -> io::Result<()> {
    match fs::remove_file(dir.join(file.as_str())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => {
            let _ = fs::remove_dir(dir); // it may hold files of others
            Ok(())
        }
    }
}
