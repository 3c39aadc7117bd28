//! Ids of namespaces as seen from another one (`RTM_NEWNSID`, `RTM_GETNSID`;
//! net/core/net_namespace.c).

use std::os::fd::RawFd;

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};

use crate::{Error, socket::RouteSocket};

/// Builds a request that gives a namespace its id; -1 lets the kernel choose.
pub fn new_nsid(ns: RawFd, id: i32) -> RouteNetlinkMessage {
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(ns as u32), NsidAttribute::Id(id)];
    RouteNetlinkMessage::NewNsId(message)
}

/// Builds a request for the id of a namespace, which an open file or an id identifies.
pub fn get_nsid(ns: NsidAttribute) -> RouteNetlinkMessage {
    let mut message = NsidMessage::default();
    message.attributes = vec![ns];
    RouteNetlinkMessage::GetNsId(message)
}

impl RouteSocket {
    /// Returns the id of a namespace as seen from the socket's own.
    ///
    /// # Errors
    /// The kernel's refusal, such as a file that is no network namespace.
    pub fn netnsid(&self, ns: RawFd) -> Result<Option<u32>, Error> {
        let answers = self.get(get_nsid(NsidAttribute::Fd(ns as u32)))?;
        Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(nsid) => nsid.attributes.iter().find_map(id_of),
            _ => None,
        }))
    }
}

/// Returns the id that an attribute holds; `None` for -1, which means that there is none.
fn id_of(attribute: &NsidAttribute) -> Option<u32> {
    match attribute {
        NsidAttribute::Id(id) => u32::try_from(*id).ok(),
        _ => None,
    }
}
