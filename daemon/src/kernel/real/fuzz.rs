//! The parsers of netlink messages, for `crate::fuzz`.

use std::collections::BTreeMap;

use rtnetlink::packet_route::RouteNetlinkMessage;

use super::{channel::Answers, news, parse};

pub(crate) fn answers(data: &[u8]) {
    let names = BTreeMap::from([(1, "lo".to_owned()), (2, "eth0".to_owned())]);
    let mut parse = |answer| {
        match answer {
            RouteNetlinkMessage::NewLink(message) => drop(parse::link(&message)),
            RouteNetlinkMessage::NewAddress(message) => drop(parse::address(&message)),
            RouteNetlinkMessage::NewRoute(message) => drop(parse::route(&message, &names, true)),
            RouteNetlinkMessage::NewNeighbour(message) => {
                drop(parse::permanent(&parse::neighbour(&message), &names));
            }
            _ => {}
        }
        None::<()>
    };
    let _broken = Answers::new().take_all(data, 0, &mut parse);
}

pub(crate) fn notices(data: &[u8]) {
    let mut ports = news::Ports::default();
    for notice in news::notified(data) {
        let _about = (ports.say_again(&notice), notice.id_gone(), notice.about());
    }
}
