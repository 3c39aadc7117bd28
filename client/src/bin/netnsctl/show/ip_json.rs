//! Live kernel state in the JSON of `ip -j` and `bridge -j`: the same keys and spellings, of the
//! keys that netnsd knows.

use netnsd_api::{
    BridgePort, FdbEntry, LinkAddress, LiveLink, LiveNeighbour, LiveRoute, LiveRule, Network,
};
use serde_json::{Map, Value, json};

use super::text::{is_loopback, link_flags, rule_protocol, short_destination, table_name};
use crate::cli::IpOptions;

/// Keys of a link with `-br`.
const BRIEF_LINK_KEYS: &[&str] = &["link", "ifname", "operstate", "address", "flags"];
/// Keys of a link with addresses and `-br`.
const BRIEF_ADDRESS_KEYS: &[&str] = &["link", "ifname", "operstate", "addr_info"];
/// Keys of an address with `-br`.
const BRIEF_INFO_KEYS: &[&str] = &["local", "address", "prefixlen"];
/// Keys of a neighbour with `-br`.
const BRIEF_NEIGHBOUR_KEYS: &[&str] = &["dst", "dev", "lladdr"];

/// An object without the keys that have no value.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.into(), value.into());
    }

    fn set_some(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// Returns the object; if it is brief, with these keys only.
    fn finish(mut self, brief: bool, brief_keys: &[&str]) -> Value {
        if brief {
            self.0.retain(|key, _| brief_keys.contains(&key.as_str()));
        }
        self.0.into()
    }
}

fn link_object(options: &IpOptions, link: &LiveLink) -> Object {
    let mut object = Object::default();
    object.set("ifindex", link.index);
    // ip names a peer only in the same namespace.
    let peer = link.peer.as_ref();
    let peer = peer.filter(|peer| peer.namespace == options.netns);
    object.set_some("link", peer.map(|peer| peer.interface.as_str()));
    object.set("ifname", link.name.as_str());
    object.set("flags", link_flags(link));
    object.set("mtu", link.mtu);
    object.set_some("master", link.bridge.as_deref());
    object.set("operstate", link.operstate.to_uppercase());
    let link_type = if is_loopback(link) {
        "loopback"
    } else {
        "ether"
    };
    // As ip leaves it out beside the addresses of one family.
    let one_family = options.ipv4 || options.ipv6;
    let mac = link.mac.as_deref().filter(|_| !one_family);
    object.set_some("link_type", mac.map(|_| link_type));
    object.set_some("address", mac);
    if options.details
        && let Some(kind) = &link.kind
    {
        let mut info = json!({"info_kind": kind});
        if link.bridge.is_some() {
            info["info_slave_kind"] = "bridge".into();
        }
        object.set("linkinfo", info);
    }
    if options.stats {
        let counters = &link.statistics;
        object.set(
            "stats64",
            json!({
                "rx": {
                    "bytes": counters.rx_bytes,
                    "packets": counters.rx_packets,
                    "errors": counters.rx_errors,
                    "dropped": counters.rx_dropped,
                },
                "tx": {
                    "bytes": counters.tx_bytes,
                    "packets": counters.tx_packets,
                    "errors": counters.tx_errors,
                    "dropped": counters.tx_dropped,
                },
            }),
        );
    }
    object
}

/// Returns an item of `ip -j link`.
pub fn link(options: &IpOptions, link: &LiveLink) -> Value {
    link_object(options, link).finish(options.brief, BRIEF_LINK_KEYS)
}

/// Returns an item of `ip -j addr`.
pub fn link_with_addresses(
    options: &IpOptions,
    link: &LiveLink,
    addresses: &[&LinkAddress],
) -> Value {
    let mut object = link_object(options, link);
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|address| info(options, address))
        .collect();
    object.set("addr_info", addresses);
    object.finish(options.brief, BRIEF_ADDRESS_KEYS)
}

/// Returns an item of `addr_info`.
fn info(options: &IpOptions, address: &LinkAddress) -> Value {
    let mut object = Object::default();
    let is_ipv6 = address.address.contains(':');
    object.set("family", if is_ipv6 { "inet6" } else { "inet" });
    // The prefix length is that of the peer if there is one.
    let network = address.peer.as_ref().unwrap_or(&address.address);
    let (remote, length) = network.split_once('/').unwrap_or((network, ""));
    let local = address.address.split('/').next();
    object.set_some("local", local);
    object.set_some("address", address.peer.as_ref().map(|_| remote));
    object.set_some("prefixlen", length.parse::<u8>().ok());
    object.set("scope", address.scope.as_str());
    object.set_some("dynamic", (!address.permanent).then_some(true));
    object.finish(options.brief, BRIEF_INFO_KEYS)
}

/// Returns an item of `ip -j rule`.
pub fn rule(live: &LiveRule) -> Value {
    let LiveRule { rule, .. } = live;
    let mut object = Object::default();
    object.set("priority", rule.priority);
    if rule.not {
        object.set("not", Value::Null);
    }
    let mut network = |keys: [&str; 2], net: Option<Network>, all: Option<&str>| {
        let [address, length] = keys;
        object.set_some(address, all.filter(|_| net.is_none()));
        let Some(Network(net)) = net else { return };
        object.set(address, net.addr().to_string());
        let is_part = net.prefix_len() < net.max_prefix_len();
        object.set_some(length, is_part.then_some(net.prefix_len()));
    };
    network(["src", "srclen"], rule.from, Some("all"));
    network(["dst", "dstlen"], rule.to, None);
    let hex = |number: u32| format!("{number:#x}");
    object.set_some("tos", live.tos.map(u32::from).map(hex));
    object.set_some("fwmark", rule.fwmark.map(hex));
    let mask = rule.fwmask.filter(|mask| *mask != u32::MAX);
    object.set_some("fwmask", mask.map(hex));
    object.set_some("iif", rule.iif.as_ref().map(ToString::to_string));
    object.set_some("oif", rule.oif.as_ref().map(ToString::to_string));
    if let Some(uids) = rule.uid_range {
        object.set("uid_start", uids.first);
        object.set("uid_end", uids.last);
    }
    object.set_some("ipproto", rule.ipproto.map(|protocol| protocol.to_string()));
    for (key, ports) in [("sport", rule.sport), ("dport", rule.dport)] {
        match ports {
            Some(ports) if ports.first == ports.last => object.set(key, ports.first),
            Some(ports) => {
                object.set(&format!("{key}_start"), ports.first);
                object.set(&format!("{key}_end"), ports.last);
            }
            None => {}
        }
    }
    object.set_some("table", rule.table.map(table_name));
    object.set_some("suppress_prefixlen", rule.suppress_prefixlength);
    object.set_some("suppress_ifgroup", live.suppress_ifgroup);
    object.set_some("goto", live.goto);
    object.set_some("action", rule.action.map(|action| action.as_str()));
    object.set_some("protocol", rule_protocol(live));
    object.0.into()
}

/// Returns an item of `ip -j route`.
pub fn route(options: &IpOptions, all_tables: bool, route: &LiveRoute) -> Value {
    let details = options.details;
    let mut object = Object::default();
    let kind = route.kind.as_str();
    object.set_some("type", (details || kind != "unicast").then_some(kind));
    object.set("dst", short_destination(route));
    // A gateway of the other family is an object.
    let is_other_family = |via: &str| {
        route.destination != "default" && via.contains(':') != route.destination.contains(':')
    };
    match route.via.as_deref() {
        Some(via) if is_other_family(via) => {
            let family = if via.contains(':') { "inet6" } else { "inet" };
            object.set("via", json!({"family": family, "host": via}));
        }
        via => object.set_some("gateway", via),
    }
    object.set_some("dev", route.interface.as_deref());
    // As ip(8): of one table it does not name it.
    let is_named = all_tables && (details || route.table != netnsd_api::RT_TABLE_MAIN);
    let table = is_named.then(|| table_name(route.table));
    object.set_some("table", table);
    let protocol = route.protocol.as_str();
    object.set_some(
        "protocol",
        (details || protocol != "boot").then_some(protocol),
    );
    let scope = route.scope.as_str();
    object.set_some("scope", (details || scope != "global").then_some(scope));
    object.set_some("prefsrc", route.source.as_deref());
    object.set_some("metric", (route.metric != 0).then_some(route.metric));
    let mut metrics = Object::default();
    metrics.set_some("mtu", route.mtu);
    metrics.set_some("advmss", route.advmss);
    metrics.set_some("initcwnd", route.initcwnd);
    if !metrics.0.is_empty() {
        object.set("metrics", vec![Value::from(metrics.0)]);
    }
    if !route.nexthops.is_empty() {
        let hops = route.nexthops.iter().map(|hop| {
            let mut object = Object::default();
            object.set_some("gateway", hop.via.map(|via| via.to_string()));
            object.set_some("dev", hop.interface.as_ref().map(ToString::to_string));
            object.set("weight", hop.weight);
            object.set("flags", Vec::<Value>::new());
            Value::from(object.0)
        });
        object.set("nexthops", hops.collect::<Vec<_>>());
    }
    let flags: &[&str] = if route.onlink { &["onlink"] } else { &[] };
    object.set("flags", flags);
    object.0.into()
}

/// Returns an item of `ip -j neigh`.
pub fn neighbour(options: &IpOptions, entry: &LiveNeighbour) -> Value {
    let mut object = Object::default();
    object.set("dst", entry.address.as_str());
    object.set("dev", entry.interface.as_str());
    object.set_some("lladdr", entry.mac.as_deref());
    if entry.proxy {
        object.set("proxy", Value::Null);
    } else {
        object.set("state", vec![entry.state.to_uppercase()]);
    }
    object.finish(options.brief, BRIEF_NEIGHBOUR_KEYS)
}

/// Returns an item of `bridge -j link`.
pub fn port(options: &IpOptions, bridge: &str, port: &BridgePort) -> Value {
    let mut object = Object::default();
    object.set("ifname", port.interface.as_str());
    object.set("master", bridge);
    object.set("state", port.state.as_str());
    object.set("priority", port.priority);
    object.set("cost", port.path_cost);
    if options.details {
        for (key, value) in [
            ("hairpin", port.hairpin),
            ("guard", port.bpdu_guard),
            ("root_block", port.root_block),
            ("fastleave", port.mcast_fast_leave),
            ("learning", port.learning),
            ("isolated", port.isolated),
        ] {
            object.set(key, value);
        }
    }
    object.0.into()
}

/// Returns an item of `bridge -j fdb`.
pub fn fdb_entry(bridge: &str, entry: &FdbEntry) -> Value {
    json!({
        "mac": entry.mac,
        "ifname": entry.interface,
        "flags": [],
        "master": bridge,
        "state": if entry.local { "permanent" } else { "" },
    })
}
