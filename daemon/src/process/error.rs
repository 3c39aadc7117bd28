//! Reasons for which a command or a ping is refused or fails.

use std::{borrow::Cow, path::PathBuf};

use netnsd_api::{Code, FieldError, Name};
use netnsd_netlink::netns::file::StalePin;
use nix::errno::Errno;

use super::permits::{NON_ADMINS, SHARE, TOTAL};

/// Failure of a command, a ping or a look at processes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// A field of the request is invalid.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The kernel refused to execute the program.
    #[error("program {program:?} could not be executed: {}{}", errno.desc(), advise(*errno))]
    NotExecutable {
        /// First argument of the command.
        program: String,
        /// Error of execve(2).
        errno: Errno,
    },
    /// The kernel refused a step.
    #[error("could not {step}: {}", errno.desc())]
    Refused {
        /// Step, in words that follow "could not".
        step: Cow<'static, str>,
        /// Error of the kernel.
        errno: Errno,
    },
    /// This kernel has no IPv6.
    #[error("this kernel has no IPv6")]
    NoIpv6,
    /// No file in `/run/netns` has the name.
    #[error("there is no namespace {0}")]
    NoNamespace(Name),
    /// The file in `/run/netns` pins no namespace.
    #[error("there is no namespace {name}: {} is {pin}", path.display())]
    StaleNamespace {
        /// Name of the namespace.
        name: Name,
        /// Path of the file.
        path: PathBuf,
        /// Type of the file.
        pin: StalePin,
    },
    /// The name of a recorded namespace pins a namespace that is not netnsd's.
    #[error(
        "namespace {name} is recorded, but the one in the kernel is not netnsd's ({reason}): only admins run commands and pings \
         there; GET /v1/namespaces/{name} tells its state"
    )]
    ForeignNamespace {
        /// Name of the namespace.
        name: Name,
        /// Sign of it.
        reason: &'static str,
    },
    /// A file of the namespace is a link whose target does not exist.
    #[error("{} is a link that leads nowhere: mend or remove it", .0.display())]
    DanglingLink(PathBuf),
    /// A directory cannot cover a file, nor a file a directory.
    #[error(
        "{} is {}, and {} is {}: one cannot stand for the other, so remove or rename {}",
        from.display(), name_type(*is_dir), to.display(), name_type(!*is_dir), from.display()
    )]
    TypesDiffer {
        /// File of the namespace.
        from: PathBuf,
        /// File in `/etc` that it would cover.
        to: PathBuf,
        /// True if the namespace's file is a directory.
        is_dir: bool,
    },
    /// The namespace has `dns`, and no file of it.
    #[error(
        "{} is missing, and the command would ask the host's name servers: POST /v1/reconcile writes it again",
        .0.display()
    )]
    NoResolvConf(PathBuf),
    /// A path has a NUL byte.
    #[error("a path with a NUL byte")]
    NulInPath,
    /// No process has the number.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// The daemon may not look at the process.
    #[error("the daemon may not look at process {0}")]
    HiddenProcess(u32),
    /// No permit is free for a caller who is not an admin.
    #[error(
        "no place is free: {caller} may have {SHARE} {work} at the same time, all who are no admins {NON_ADMINS}; end \
         one, or try again later"
    )]
    ShareFull {
        /// Name of the caller.
        caller: String,
        /// Work, in the plural.
        work: &'static str,
    },
    /// No permit is free.
    #[error("{TOTAL} {work} run already: end one, or try again later")]
    Full {
        /// Work, in the plural.
        work: &'static str,
    },
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
    /// The thread that reaps the command ended before it.
    #[error("the command's thread ended before the command")]
    ThreadEnded,
    /// A thread for blocking work panicked.
    #[error("a worker thread failed: {0}")]
    WorkerFailed(String),
}

impl ProcessError {
    /// Returns the error of an invalid field of the request, at a path of keys.
    pub(super) fn invalid(path: &[&str], detail: impl Into<String>) -> Self {
        FieldError::at(Code::InvalidField, path, detail).into()
    }

    /// Returns the error of a step that the kernel refused.
    pub(super) fn refused(step: impl Into<Cow<'static, str>>, errno: Errno) -> Self {
        Self::Refused {
            step: step.into(),
            errno,
        }
    }
}

/// Returns advice on an error of execve(2), to end a sentence.
fn advise(errno: Errno) -> &'static str {
    match errno {
        Errno::EACCES => {
            ": it needs to be a file that its user may execute (chmod +x), in directories that it may enter"
        }
        Errno::ENOEXEC => {
            ": a script begins with #! and its interpreter, or is given to one, as [\"sh\", \"script\"]"
        }
        _ => "",
    }
}

fn name_type(is_dir: bool) -> &'static str {
    if is_dir { "a directory" } else { "a file" }
}
