//! Policy rules: requests of rtnetlink(7).

use rtnetlink::packet_route::{RouteNetlinkMessage, rule::RuleMessage};

/// Builds a request for the rules of every family.
pub fn get_rules() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetRule(RuleMessage::default())
}
