//! netnsd: Linux network namespaces, veth pairs and bridges behind an HTTP/JSON API.
//!
//! See `docs/architecture.md` for the code map.

pub mod access;
#[allow(unsafe_code, reason = "descriptors that the service manager passes")]
pub mod daemon;
pub mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod http;
pub mod intent;
pub mod kernel;
pub mod links;
pub mod liveness;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod process;
#[allow(
    unsafe_code,
    reason = "system calls between fork and exec, and an ioctl"
)]
pub mod sandbox;
mod service_manager;
pub mod settings;
pub mod shares;
#[cfg(test)]
#[path = "../tests/common/skip.rs"]
#[allow(dead_code, reason = "integration tests use the rest")]
pub(crate) mod skip;
pub mod store;
pub mod tryout;
pub mod watchdog;
