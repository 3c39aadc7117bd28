//! Network namespaces and netlink: sockets, namespace files, notifications, sysctls.
//!
//! This crate knows no resource and no plan. Everything that enters another namespace does so
//! here, and is back in the namespace of the daemon before it returns.

pub mod error;
pub mod monitor;
pub mod netns;
pub mod ns;
pub mod resolv_conf;
pub mod sysctl;

pub use self::{
    error::{Error, errno_of},
    monitor::event::{KernelEvent, NsChange, WatchChange},
    netns::file::StalePin,
    ns::Ns,
    resolv_conf::DnsFile,
};
