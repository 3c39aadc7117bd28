//! The wire types of netnsd's HTTP API, version 1, and the checks that one resource alone can
//! answer.
//!
//! Requests are read in two steps, so that every mistake is told with a JSON pointer: [`parse`]
//! makes a value of JSON into a type here, then [`Resource::check`] looks at what one field alone
//! cannot know.

#![forbid(unsafe_code)]

mod access;
mod dns;
mod doing;
mod event;
mod kinds;
mod look;
mod parse;
mod problem;
mod read;
mod resource;
mod shell;
mod string_enum;
mod topology;
mod values;

pub use access::*;
pub use dns::*;
pub use doing::*;
pub use event::*;
pub use kinds::{Kind, Resource, ResourceRef};
pub use look::*;
pub use parse::{READ_ONLY, parse};
pub use problem::{Code, FieldError, Problem};
pub use read::{read_json, read_yaml};
pub use resource::*;
pub use shell::shell_word;
pub use topology::*;
pub use values::*;
