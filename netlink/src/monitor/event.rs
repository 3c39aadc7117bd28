//! Events that the monitor reports, and the subscription changes that it takes.

use crate::Ns;

/// A change in the kernel that somebody else made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelEvent {
    /// A name appeared in `/run/netns`.
    Appeared(String),
    /// A name disappeared from `/run/netns`.
    Disappeared(String),
    /// Names may have come and gone unnoticed: `/run/netns` has to be listed.
    NamesLost,
    /// Something changed in a watched namespace.
    Changed(Ns, NsChange),
}

/// A change in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NsChange {
    /// A link changed.
    Link {
        /// Its index.
        index: u32,
        /// Its name now, or the last one that it had.
        name: String,
        /// True if it was created or deleted, or went up or down, which removes what is attached.
        presence_changed: bool,
    },
    /// An address of the link of this index changed.
    Address(u32),
    /// Routes changed.
    Routes,
    /// Policy rules changed.
    Rules,
    /// Neighbours changed.
    Neighbours,
    /// Sysctls of links changed.
    Sysctls,
    /// Anything may have changed: notifications were lost, or the name pins another namespace.
    Everything,
}

impl NsChange {
    /// Returns true for changes of links and their addresses, the only ones reported for the host.
    pub fn is_of_links(&self) -> bool {
        match self {
            NsChange::Link { .. } | NsChange::Address(_) | NsChange::Everything => true,
            NsChange::Routes | NsChange::Rules | NsChange::Neighbours | NsChange::Sysctls => false,
        }
    }
}

/// A namespace to watch from now on, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchChange {
    /// Watch the namespace that the name pins; nothing is done if that is `inode`, where known, and
    /// watched already.
    Add {
        /// The name.
        ns: Ns,
        /// The inode that was last observed.
        inode: Option<u64>,
    },
    /// Stop watching.
    Remove(Ns),
}
