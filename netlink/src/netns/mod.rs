//! Network namespaces: their files in `/run/netns`.

pub mod file;
