//! Network namespaces and netlink: sockets, namespace files, notifications, sysctls.
//!
//! This crate knows no resource and no plan. Everything that enters another namespace does so
//! here, and is back in the namespace of the daemon before it returns.

pub mod address;
pub mod error;
pub mod helper_thread;
pub mod link;
pub mod monitor;
pub mod neigh;
pub mod netns;
pub mod ns;
pub mod nsid;
pub mod resolv_conf;
pub mod route;
pub mod rule;
pub mod socket;
pub mod sysctl;

pub use self::{
    error::{Error, errno_of},
    helper_thread::HelperThread,
    monitor::{
        Monitor,
        event::{KernelEvent, NsChange, WatchChange},
    },
    netns::{
        file::{NetnsFile, StalePin},
        pool::NamespacePool,
        switch::{CurrentNs, NamespaceSwitcher, NsConnection},
    },
    ns::Ns,
    resolv_conf::DnsFile,
    socket::RouteSocket,
};
