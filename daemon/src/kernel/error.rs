//! Failures of operations and observations: an errno only for what the kernel said.

use netnsd_netlink::Error;
use nix::errno::Errno;

use super::{LinkAt, Ns};

/// Failure of an operation or an observation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused it.
    #[error("{}", describe(*errno, message.as_deref()))]
    Refused {
        /// Error number of the kernel.
        errno: Errno,
        /// Extended ack of the kernel, or an explanation.
        message: Option<String>,
    },
    /// The request failed without an error of the kernel, such as by a lost answer.
    #[error(transparent)]
    Netlink(Error),
    /// Two links are not the ends of one pair.
    #[error("{link} is not the other end of {other}")]
    NotAPair {
        /// One link.
        link: LinkAt,
        /// The other link.
        other: LinkAt,
    },
    /// The namespace of a process has a name already.
    #[error("process {pid} is in {}", describe_alias(alias))]
    AlreadyNamed {
        /// Number of the process.
        pid: u32,
        /// Its namespace.
        alias: Ns,
    },
    /// A deleted namespace, which the kernel is still clearing away, has the id.
    #[error("the kernel is still clearing away a deleted namespace that has the id {id}")]
    IdNotFreed {
        /// Id of the namespace.
        id: i32,
    },
}

impl KernelError {
    /// Returns the error of an errno with an explanation.
    pub fn refused(errno: Errno, message: impl Into<String>) -> Self {
        Self::Refused {
            errno,
            message: Some(message.into()),
        }
    }

    /// Returns the error number, if the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Netlink(error) => error.errno(),
            Self::NotAPair { .. } | Self::AlreadyNamed { .. } | Self::IdNotFreed { .. } => None,
        }
    }

    /// Returns true if the namespace does not exist.
    pub fn is_missing_namespace(&self) -> bool {
        matches!(self, Self::Netlink(Error::NoSuchNamespace(_)))
    }
}

impl From<Errno> for KernelError {
    fn from(errno: Errno) -> Self {
        Self::Refused {
            errno,
            message: None,
        }
    }
}

impl From<Error> for KernelError {
    fn from(error: Error) -> Self {
        match error {
            Error::Kernel { errno, message } => Self::Refused { errno, message },
            error => Self::Netlink(error),
        }
    }
}

fn describe(errno: Errno, message: Option<&str>) -> String {
    match message {
        Some(message) => format!("{message} ({})", errno.desc()),
        None => errno.desc().to_owned(),
    }
}

fn describe_alias(alias: &Ns) -> String {
    match alias {
        Ns::Host => "the host's own network namespace, which is always there".to_owned(),
        Ns::Named(_) => format!("{alias} already, and one namespace has one name"),
    }
}
