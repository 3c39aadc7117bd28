//! The wire types of netnsd's HTTP API, version 1, and the checks that one resource alone can
//! answer.
//!
//! Requests are read in two steps, so that every error carries a JSON pointer: [`parse`] turns a
//! JSON value into a type of this crate, then [`Resource::check`] validates what needs more than
//! one field.
//!
//! [`resource_kinds!`] is the one list of resource kinds. Each kind has a file of its own below
//! `kinds/`.

#![forbid(unsafe_code)]

mod about;
mod access;
mod device;
mod dns;
mod dry_run;
mod event;
mod exec;
mod graph;
mod interface_address;
mod kinds;
mod list;
mod neighbour;
mod observed;
mod parse;
mod ping;
mod problem;
mod process;
mod read;
mod route;
mod rule;
mod shell;
mod status;
mod string_enum;
mod topology;
mod values;

pub use about::*;
pub use access::*;
pub use dns::*;
pub use dry_run::*;
pub use event::*;
pub use exec::*;
pub use graph::*;
pub use interface_address::{DetailedAddress, InterfaceAddress};
pub use kinds::*;
pub use list::*;
pub use neighbour::*;
pub use observed::*;
pub use parse::{READ_ONLY, parse};
pub use ping::*;
pub use problem::{Code, FieldError, Problem};
pub use process::*;
pub use read::{locate_pointer, read_json, read_yaml};
pub use route::*;
pub use rule::*;
pub use shell::shell_word;
pub use status::*;
pub use topology::*;
pub use values::*;
