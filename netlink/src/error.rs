//! Errors: an errno only for what the kernel said.

use std::io;

use nix::errno::Errno;

/// Why a request to the kernel failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The kernel refused the request; `message` is its extended ack (`NLMSGERR_ATTR_MSG`,
    /// linux/netlink.h), if there was one.
    #[error("{}", describe_refusal(*errno, message.as_deref()))]
    Kernel {
        /// Error number of the kernel.
        errno: Errno,
        /// The kernel's own words.
        message: Option<String>,
    },
    /// A dump that the kernel marked as inconsistent (`NLM_F_DUMP_INTR`) every time.
    #[error("the kernel's answer was interrupted by changes")]
    DumpInterrupted,
    /// An answer that did not fit into the socket's receive buffer.
    #[error("the kernel's answer was lost: the receive buffer is full")]
    AnswerLost,
    /// A datagram that is larger than the kernel sends, or that cannot be parsed.
    #[error("the kernel's answer cannot be read")]
    InvalidAnswer,
    /// A namespace that does not exist.
    #[error("{0} is not there")]
    NoSuchNamespace(crate::Ns),
    /// A namespace to be created whose name pins another one.
    #[error("the name is in use by another namespace")]
    NameInUse,
    /// A job that panicked, on this thread or on the helper thread; nothing is known of its effect.
    #[error("the request panicked")]
    Panicked,
    /// All namespace ids of a socket's namespace were handed out.
    #[error("no namespace id is left")]
    IdsExhausted,
}

fn describe_refusal(errno: Errno, message: Option<&str>) -> String {
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
            | Error::InvalidAnswer
            | Error::NoSuchNamespace(_)
            | Error::NameInUse
            | Error::Panicked
            | Error::IdsExhausted => None,
        }
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

/// Returns the error number behind an error of `std`; EIO for the few that `std` made itself.
pub fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
