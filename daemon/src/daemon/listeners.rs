//! Unix and TCP sockets: opened, or taken over from the service manager.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::Router;
use nix::{
    sys::socket::{
        AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
    },
    unistd::Gid,
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinSet,
};

use super::{DaemonError, Result, Serving, prerequisites::make_dirs};
use crate::{
    http::{self, Tls},
    settings::Settings,
};

/// Sockets that the daemon serves.
#[derive(Default)]
pub(super) struct Listeners {
    unix: Vec<UnixListener>,
    tcp: Vec<TcpListener>,
    /// File of the Unix socket, removed when the last clone is dropped; `None` if the service
    /// manager owns it.
    pub(super) socket_file: Option<Arc<SocketFile>>,
}

impl Listeners {
    /// Takes over the sockets of the service manager, or opens the Unix socket; opens the TCP
    /// addresses.
    ///
    /// # Errors
    /// If one of them cannot be served.
    pub(super) async fn open(settings: &Settings, group: Option<Gid>) -> Result<Self> {
        let mut listeners = Self::take_passed(settings)?;
        if listeners.unix.is_empty() {
            let (listener, file) = bind_unix(&settings.socket, group).map_err(|error| {
                DaemonError::InvalidSettingTarget(format!(
                    "socket is \"{}\", which cannot be served: {error}",
                    settings.socket.display()
                ))
            })?;
            listeners.unix.push(listener);
            listeners.socket_file = Some(Arc::new(file));
        }
        for address in &settings.listen {
            let listener = TcpListener::bind(address).await.map_err(|error| {
                DaemonError::InvalidSettingTarget(format!(
                    "listen is \"{address}\", which cannot be served: {error}"
                ))
            })?;
            listeners.tcp.push(listener);
        }
        Ok(listeners)
    }

    /// Takes over the sockets that the service manager opened (sd_listen_fds(3)).
    fn take_passed(settings: &Settings) -> Result<Self> {
        let mut listeners = Self::default();
        let fds = sd_notify::listen_fds()
            .map_err(|error| passed_socket_error(&format!("cannot be taken: {error}")))?;
        for fd in fds {
            let socket = PassedSocket::from_fd(fd).map_err(|error| {
                passed_socket_error(&format!("(descriptor {fd}) cannot be served: {error}"))
            })?;
            match socket {
                PassedSocket::Unix(listener) => listeners.unix.push(listener),
                PassedSocket::Tcp(listener) => {
                    check_passed_tcp(&listener, settings)?;
                    listeners.tcp.push(listener);
                }
            }
        }
        Ok(listeners)
    }

    /// Returns the addresses that are served.
    pub(super) fn serving(&self, tls: bool) -> Serving {
        Serving {
            socket: self.socket_file.as_ref().map(|file| file.path.clone()),
            tcp: self
                .tcp
                .iter()
                .filter_map(|listener| listener.local_addr().ok())
                .collect(),
            tls,
        }
    }

    /// Starts a server for each socket; they end after `stopping` turns true.
    pub(super) fn serve(
        self,
        router: Router,
        tls: Option<&Arc<Tls>>,
        stopping: &watch::Receiver<bool>,
    ) -> JoinSet<()> {
        let mut servers = JoinSet::new();
        for listener in self.unix {
            servers.spawn(http::serve_unix(listener, router.clone(), stopping.clone()));
        }
        for listener in self.tcp {
            servers.spawn(http::serve_tcp(
                listener,
                router.clone(),
                tls.cloned(),
                stopping.clone(),
            ));
        }
        servers
    }
}

/// Checks that a TCP socket of the service manager is served as safely as one of the settings.
fn check_passed_tcp(listener: &TcpListener, settings: &Settings) -> Result<()> {
    let address = listener
        .local_addr()
        .map_err(|error| passed_socket_error(&error.to_string()))?;
    let has_client_ca = settings
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_ca.is_some());
    if settings.token_file.is_none() && !has_client_ca {
        return Err(passed_socket_error(&format!(
            "is TCP ({address}), which needs token_file or tls_client_ca to be set"
        )));
    }
    if !address.ip().is_loopback() && settings.tls.is_none() {
        return Err(passed_socket_error(&format!(
            "is {address}: beyond loopback TCP needs tls_cert and tls_key to be set"
        )));
    }
    Ok(())
}

fn passed_socket_error(detail: &str) -> DaemonError {
    DaemonError::Other(format!(
        "a socket handed over by the service manager {detail}"
    ))
}

/// Listening socket that the service manager passed.
enum PassedSocket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl PassedSocket {
    fn from_fd(fd: RawFd) -> io::Result<Self> {
        // SAFETY: the service manager passed this descriptor to this process alone; if it is not
        // open, the calls below return EBADF.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let listens = getsockopt(&borrowed, sockopt::AcceptConn)?;
        if !listens || getsockopt(&borrowed, sockopt::SockType)? != SockType::Stream {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a listening stream socket",
            ));
        }
        let family = getsockname::<SockaddrStorage>(fd)?.family();
        // SAFETY: it is open, as the calls above have shown, and nobody else owns it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        match family {
            Some(AddressFamily::Unix) => {
                let listener = std::os::unix::net::UnixListener::from(owned);
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Self::Unix)
            }
            Some(AddressFamily::Inet | AddressFamily::Inet6) => {
                let listener = std::net::TcpListener::from(owned);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is neither a Unix nor a TCP socket",
            )),
        }
    }
}

/// File of a Unix socket that the daemon bound; dropping it removes the file.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another daemon may have replaced the file.
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = fs::remove_file(&self.path); // A stale file is replaced by the next start.
        }
    }
}

/// Binds a Unix socket so that others can never open it: inside a private directory, from which it
/// is moved to its path.
fn bind_unix(path: &Path, group: Option<Gid>) -> io::Result<(UnixListener, SocketFile)> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_dirs(parent, 0o755)?;
    check_path_is_free(path)?;
    let private = tempfile::Builder::new()
        .prefix(".netnsd-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)?;
    let bound = private.path().join("s");
    // The path through the open directory is short, however long the directory's own is
    // (`sun_path`, unix(7)).
    let directory = File::open(private.path())?;
    let short = format!("/proc/self/fd/{}/s", directory.as_raw_fd());
    let listener = std::os::unix::net::UnixListener::bind(short)?;
    // Without the group, or the right to give the file to it, the file keeps the daemon's own.
    let _ = std::os::unix::fs::chown(&bound, None, group.map(Gid::as_raw));
    fs::set_permissions(&bound, fs::Permissions::from_mode(0o660))?;
    let inode = fs::symlink_metadata(&bound)?.ino();
    fs::rename(&bound, path)?;
    listener.set_nonblocking(true)?;
    Ok((
        UnixListener::from_std(listener)?,
        SocketFile {
            path: path.to_owned(),
            inode,
        },
    ))
}

/// Checks that no other process serves the path, and that no other file is there. A socket that a
/// crash left behind may be replaced.
fn check_path_is_free(path: &Path) -> io::Result<()> {
    let Ok(file) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket is there",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process serves it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stale_socket_is_replaced_and_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/socket");
        let (listener, file) = bind_unix(&path, None).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        assert_eq!(
            bind_unix(&path, None).err().unwrap().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(listener);
        let second = bind_unix(&path, None).unwrap();
        drop(file);
        assert!(
            path.exists(),
            "dropping the first socket removed the file of the second"
        );
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert_eq!(
            bind_unix(&path, None).err().unwrap().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
