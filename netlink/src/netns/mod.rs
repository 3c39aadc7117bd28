//! Network namespaces: their files in `/run/netns`, entering them, and creating them.

pub mod file;
pub mod pool;
pub mod switch;
