//! The single writer: one queue, group commit, status, retries.

mod types;
pub use types::*;
