//! netnsd.
fn main() {}
