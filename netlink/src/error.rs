//! Errors: an errno only for what the kernel said.

use std::io;

use nix::errno::Errno;

use crate::Ns;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The kernel refused the request; `message` is its extended ack (`NLMSGERR_ATTR_MSG`,
    /// linux/netlink.h), if there was one.
    #[error("{}", describe(*errno, message.as_deref()))]
    Kernel {
        /// Error number of the kernel.
        errno: Errno,
        /// The kernel's own words.
        message: Option<String>,
    },
    /// The kernel marked a dump as inconsistent (`NLM_F_DUMP_INTR`) as often as it was repeated.
    #[error("the kernel's answer was interrupted by other changes each time")]
    DumpInterrupted,
    /// An answer did not fit into the socket's receive buffer.
    #[error("the kernel's answer was lost: the receive buffer is full")]
    AnswerLost,
    /// A datagram is larger than the kernel sends.
    #[error("the kernel's answer is too long")]
    TruncatedAnswer,
    /// A message cannot be parsed.
    #[error("the kernel's answer cannot be parsed")]
    InvalidAnswer,
    /// The namespace does not exist.
    #[error("{0} is not there")]
    NoSuchNamespace(Ns),
    /// The name of a namespace to be created pins another one.
    #[error("another namespace has the name")]
    NameInUse,
    /// `/run/netns` is not a directory, so that no namespace can be pinned.
    #[error("/run/netns is no directory: remove it, and try again")]
    RunDirBlocked,
    /// Namespaces that are watched were replaced meanwhile.
    #[error("watched namespaces changed meanwhile")]
    NamespacesChanged,
    /// A job panicked, on this thread or on the helper thread; its effect is not known.
    #[error("the request panicked")]
    Panicked,
    /// The monitor has given every namespace id.
    #[error("no namespace id is left")]
    IdsExhausted,
}

fn describe(errno: Errno, message: Option<&str>) -> String {
    match message {
        Some(message) => format!("{message} ({})", errno.desc()),
        None => errno.desc().to_owned(),
    }
}

impl Error {
    /// Returns the error number, if the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Kernel { errno, .. } => Some(*errno),
            Error::DumpInterrupted
            | Error::AnswerLost
            | Error::TruncatedAnswer
            | Error::InvalidAnswer
            | Error::NoSuchNamespace(_)
            | Error::NameInUse
            | Error::RunDirBlocked
            | Error::NamespacesChanged
            | Error::Panicked
            | Error::IdsExhausted => None,
        }
    }

    /// Returns true if a repetition of the request may succeed at once.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Error::DumpInterrupted | Error::AnswerLost)
            || matches!(self.errno(), Some(Errno::EAGAIN | Errno::ENOBUFS))
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::Kernel {
            errno,
            message: None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error.errno() {
            Some(errno) => errno.into(),
            None => io::Error::other(error),
        }
    }
}

/// Returns the error number behind an error of `std`; EIO for the few that `std` made itself.
pub fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
