//! netnsd: Linux network namespaces, veth pairs and bridges behind an HTTP/JSON API.
//!
//! `docs/architecture.md` is the map of this house.

pub mod access;
pub mod daemon;
pub mod engine;
pub mod http;
pub mod intent;
pub mod kernel;
pub mod metrics;
pub mod plan;
pub mod process;
pub mod sandbox;
pub mod settings;
pub mod store;
pub mod tryout;
