//! The parsers of netlink messages, for `crate::fuzz`.

use std::collections::BTreeMap;

use rtnetlink::packet_route::RouteNetlinkMessage;

use netnsd_netlink::{
    monitor::classify::{PortStateCache, split_datagram},
    neigh::parse_neigh,
    socket::{Answers, Route},
};

use super::parse;

pub(crate) fn answers(data: &[u8]) {
    let names = BTreeMap::from([(1, "lo".to_owned()), (2, "eth0".to_owned())]);
    let mut parse = |answer| {
        match answer {
            RouteNetlinkMessage::NewLink(message) => drop(parse::link(&message)),
            RouteNetlinkMessage::NewAddress(message) => drop(parse::address(&message)),
            RouteNetlinkMessage::NewRoute(message) => drop(parse::route(&message, &names, true)),
            RouteNetlinkMessage::NewRule(message) => drop(parse::rule(&message)),
            answer @ RouteNetlinkMessage::NewNeighbour(_) => {
                drop(parse_neigh(answer).and_then(|seen| parse::neighbour(&seen, &names)));
            }
            _ => {}
        }
        None::<()>
    };
    let _ = Answers::default().read::<Route>(data, 0, &mut parse);
}

pub(crate) fn notices(data: &[u8]) {
    let mut ports = PortStateCache::default();
    for event in split_datagram(data) {
        let _ = (
            ports.is_duplicate(&event),
            event.deleted_nsid(),
            event.classify(),
        );
    }
}
