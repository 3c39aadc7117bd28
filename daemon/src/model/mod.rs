//! Domain model: specs, records and changes of resources.
//!
//! Pure, and below every other module: it imports nothing of the daemon.

pub mod auto_name;
mod change;
mod etag;
mod record;
mod spec;
mod time;

pub use self::{
    change::{
        Change, ChangeKind, Decision, Document, DocumentItem, Edit, EditError, Precondition,
        Selects, WriteOutcome, main_change,
    },
    etag::{Version, tag_versions},
    record::{Leftovers, MachineKey, Record, Row, TokenRow},
    spec::{BridgeDevice, DeviceSpec, PortSpec, Spec, SpecOf, ipv6_switches},
    time::format_rfc3339,
};
