//! Notifications of changes in namespaces and in `/run/netns`.

pub mod event;
