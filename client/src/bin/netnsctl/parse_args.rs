//! Parsers of command line arguments, in the syntax of iproute2, to JSON.

use std::net::IpAddr;

use netnsd_api::{
    RT_TABLE_DEFAULT, RT_TABLE_LOCAL, RT_TABLE_MAIN, RouteType, RuleAction, VlanRange,
};
use serde_json::{Map, Value};

/// Parses `on` or `off`.
pub fn parse_on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        other => Err(format!("{other:?} is not valid: expected on or off")),
    }
}

/// Parses a number, or `none`: the kernel's choice.
pub fn parse_number_or_none(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    if let Ok(number) = text.parse::<u64>() {
        return Ok(Value::from(number));
    }
    text.parse::<f64>()
        .ok()
        .map(Value::from)
        .filter(|value| !value.is_null()) // not finite
        .ok_or_else(|| format!("{text:?} is not a number or none"))
}

/// Parses a bit mask, or `none`.
pub fn parse_mask_or_none(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    parse_mask(text).map_err(|error| format!("{error}, or none"))
}

/// Parses a bit mask as ip(8) does, decimal or hexadecimal.
pub fn parse_mask(text: &str) -> Result<Value, String> {
    let mask = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    mask.map(Value::from)
        .map_err(|_| format!("{text:?} is not a mask: write a number such as 8 or 0x8"))
}

/// Parses VLANs and ranges of them, such as `10,20-30`, or `none` for an empty list.
pub fn parse_vlans(text: &str) -> Result<Value, String> {
    let vlan = |item: &str| -> Result<VlanRange, String> {
        serde_json::from_value(item.into()).map_err(|error| error.to_string())
    };
    let items = text.split(',').filter(|item| *item != "none");
    let vlans: Vec<VlanRange> = items.map(vlan).collect::<Result<_, _>>()?;
    serde_json::to_value(vlans).map_err(|error| error.to_string())
}

/// Parses a text, or `none`.
pub fn parse_text_or_none(text: &str) -> Result<Value, String> {
    Ok(if text == "none" {
        Value::Null
    } else {
        Value::from(text)
    })
}

/// Parses a netnsid, `auto` or `none`.
pub fn parse_netnsid(text: &str) -> Result<Value, String> {
    match text {
        "none" => Ok(Value::Null),
        "auto" => Ok(Value::from("auto")),
        _ => text
            .parse::<u32>()
            .map(Value::from)
            .map_err(|_| format!("{text:?} is not a netnsid, auto or none")),
    }
}

/// Parses `KEY=VALUE`.
pub fn parse_key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Returns a destination with its prefix length, which a host may lack as in `ip route`.
fn complete_destination(text: &str) -> String {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => format!("{text}/32"),
        Ok(IpAddr::V6(_)) => format!("{text}/128"),
        Err(_) => text.to_owned(),
    }
}

/// Parses a route as in `ip route add`: `[TYPE] DESTINATION [via A] [dev I] [metric N] [table N]
/// [src A] [onlink] [mtu N] [advmss N] [initcwnd N] [nexthop [via A] [dev I] [weight N]]…`.
pub fn parse_route(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    parse_route_words(text.split_whitespace()).map(Value::Object)
}

/// Parses the words of a route.
pub fn parse_route_words<'a>(
    words: impl Iterator<Item = &'a str>,
) -> Result<Map<String, Value>, String> {
    let mut words = words.peekable();
    let mut route = Map::new();
    let mut hops: Vec<Map<String, Value>> = Vec::new();
    let _ = words.next_if(|word| *word == "to"); // It may be left out.
    if let Some(kind) = words.next_if(|word| word.parse::<RouteType>().is_ok()) {
        route.insert("type".into(), kind.into());
    }
    let destination = words
        .next()
        .ok_or("a route starts with default or a network: default via 10.0.0.1")?;
    route.insert(
        "destination".into(),
        complete_destination(destination).into(),
    );
    while let Some(word) = words.next() {
        if word == "onlink" {
            route.insert("onlink".into(), true.into());
            continue;
        }
        if word == "nexthop" {
            hops.push(Map::new());
            continue;
        }
        let mut value = || {
            words
                .next()
                .ok_or_else(|| format!("{word:?} at the end of a route needs a value"))
        };
        let (field, value) = match word {
            "via" => ("via", Value::from(value()?)),
            "dev" => ("interface", Value::from(value()?)),
            "weight" if !hops.is_empty() => ("weight", parse_u32(word, value()?)?),
            "mtu" | "advmss" | "initcwnd" => match value()? {
                "lock" => return Err(format!("{word} lock of a route is not managed by netnsd")),
                number => (word, parse_u32(word, number)?),
            },
            "src" => ("source", Value::from(value()?)),
            "metric" | "preference" | "priority" => ("metric", parse_u32(word, value()?)?),
            "table" => ("table", parse_table(word, value()?)?),
            other => {
                return Err(format!(
                    "unknown route keyword {other:?}: expected via, dev, metric, table, src, onlink, mtu, \
                     advmss, initcwnd or nexthop"
                ));
            }
        };
        match hops.last_mut() {
            Some(hop) if matches!(field, "via" | "interface" | "weight") => {
                hop.insert(field.into(), value);
            }
            _ => drop(route.insert(field.into(), value)),
        }
    }
    if !hops.is_empty() {
        route.insert("nexthops".into(), hops.into());
    }
    if route.get("type") == Some(&RouteType::Local.as_str().into()) {
        // As ip(8) does.
        route.entry("table").or_insert(RT_TABLE_LOCAL.into());
        if route.get("interface") == Some(&"lo".into()) {
            route.remove("interface");
        }
    }
    Ok(route)
}

/// Parses a routing table: a number, or a name that the kernel has.
fn parse_table(word: &str, text: &str) -> Result<Value, String> {
    match text {
        "main" => Ok(Value::from(RT_TABLE_MAIN)),
        "default" => Ok(Value::from(RT_TABLE_DEFAULT)),
        number => parse_u32(word, number),
    }
}

/// Parses a rule as in `ip rule add`: `[not] priority N [from NET] [to NET] … table N|ACTION`.
pub fn parse_rule(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    parse_rule_words(text.split_whitespace()).map(Value::Object)
}

/// Keywords of ip-rule(8) that netnsd has no field for.
const UNMANAGED_RULE_WORDS: [&str; 12] = [
    "dsfield",
    "dscp",
    "flowlabel",
    "goto",
    "l3mdev",
    "nat",
    "nop",
    "protocol",
    "realms",
    "suppress_ifgroup",
    "tos",
    "tun_id",
];

/// Parses the words of a rule.
pub fn parse_rule_words<'a>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<Map<String, Value>, String> {
    let mut rule = Map::new();
    while let Some(word) = words.next() {
        if word == "not" {
            rule.insert("not".into(), true.into());
            continue;
        }
        if word.parse::<RuleAction>().is_ok() {
            rule.insert("action".into(), word.into());
            continue;
        }
        let mut value = || {
            words
                .next()
                .ok_or_else(|| format!("{word:?} at the end of a rule needs a value"))
        };
        let (field, value) = match word {
            "from" | "to" => match value()? {
                "all" | "any" | "default" => continue,
                net => (word, Value::from(complete_destination(net))),
            },
            "priority" | "preference" | "pref" | "order" => {
                ("priority", parse_u32(word, value()?)?)
            }
            "iif" | "dev" => ("iif", Value::from(value()?)),
            "oif" => ("oif", Value::from(value()?)),
            "fwmark" => {
                let text = value()?;
                let (mark, mask) = text
                    .split_once('/')
                    .map_or((text, None), |(mark, mask)| (mark, Some(mask)));
                if let Some(mask) = mask {
                    rule.insert("fwmask".into(), parse_mark(mask)?);
                }
                ("fwmark", parse_mark(mark)?)
            }
            "ipproto" => ("ipproto", Value::from(value()?)),
            "sport" | "dport" => (word, Value::from(value()?)),
            "uidrange" => ("uid_range", Value::from(value()?)),
            "table" | "lookup" => ("table", parse_table(word, value()?)?),
            "suppress_prefixlength" | "sup_pl" => {
                ("suppress_prefixlength", parse_u32(word, value()?)?)
            }
            "family" => ("family", Value::from(value()?)),
            unmanaged if UNMANAGED_RULE_WORDS.contains(&unmanaged) => {
                return Err(format!("{unmanaged} of a rule is not managed by netnsd"));
            }
            other => {
                return Err(format!(
                    "unknown rule keyword {other:?}: expected priority, from, to, iif, oif, fwmark, \
                     ipproto, sport, dport, uidrange, not, table, suppress_prefixlength, \
                     blackhole, unreachable or prohibit"
                ));
            }
        };
        rule.insert(field.into(), value);
    }
    Ok(rule)
}

/// Parses a firewall mark, which may be hexadecimal.
fn parse_mark(text: &str) -> Result<Value, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number
        .map(Value::from)
        .map_err(|_| format!("fwmark {text:?} is not a number, or one such as 0x10"))
}

/// Parses the number after a keyword.
fn parse_u32(word: &str, text: &str) -> Result<Value, String> {
    text.parse::<u32>()
        .map(Value::from)
        .map_err(|_| format!("{word} {text:?} is not a number"))
}

/// Parses a neighbour as in `ip neigh add`: `ADDRESS lladdr MAC dev INTERFACE`.
pub fn parse_neighbour(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    parse_neighbour_words(text.split_whitespace()).map(Value::Object)
}

/// Parses the words of a neighbour.
pub fn parse_neighbour_words<'a>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<Map<String, Value>, String> {
    let mut entry = Map::new();
    let mut address = words.next();
    if address == Some("proxy") {
        entry.insert("proxy".into(), true.into());
        address = words.next();
    }
    let address = address
        .ok_or("a neighbour is ADDRESS lladdr MAC dev INTERFACE, or proxy ADDRESS dev INTERFACE")?;
    entry.insert("address".into(), address.into());
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{word:?} at the end of a neighbour needs a value"))?;
        match (word, value) {
            ("lladdr", mac) => entry.insert("mac".into(), mac.into()),
            ("dev", interface) => entry.insert("interface".into(), interface.into()),
            ("nud", "permanent") => None,
            _ => {
                return Err(format!(
                    "unknown neighbour option \"{word} {value}\": expected ADDRESS lladdr MAC dev INTERFACE"
                ));
            }
        };
    }
    Ok(entry)
}

/// Settings of a bridge port that are on or off.
const PORT_FLAGS: [&str; 12] = [
    "hairpin",
    "isolated",
    "learning",
    "bpdu_guard",
    "root_block",
    "mcast_fast_leave",
    "flood",
    "mcast_flood",
    "bcast_flood",
    "mcast_to_unicast",
    "neigh_suppress",
    "proxy_arp",
];

/// Parses one end of a pair:
/// `[NAMESPACE:][INTERFACE][,addr=CIDR][,bridge=BRIDGE][,mac=MAC][,mtu=N][,down]…`.
pub fn parse_endpoint(text: &str) -> Result<Value, String> {
    let mut parts = text.split(',');
    let device = parts.next().unwrap_or_default();
    let mut endpoint = Map::new();
    let (namespace, interface) = device.split_once(':').unwrap_or(("", device));
    for (field, name) in [("namespace", namespace), ("interface", interface)] {
        if !name.is_empty() {
            endpoint.insert(field.into(), name.into());
        }
    }
    let (mut addresses, mut port) = (Vec::new(), Map::new());
    for part in parts {
        let (word, value) = part
            .split_once('=')
            .map_or((part, None), |(word, value)| (word, Some(value)));
        let required = || value.ok_or_else(|| format!("{word} needs a value: {word}=…"));
        match word {
            "addr" | "address" => addresses.push(Value::from(required()?)),
            "bridge" | "master" => drop(endpoint.insert("bridge".into(), required()?.into())),
            "mac" => drop(endpoint.insert("mac".into(), required()?.into())),
            "mtu" => drop(endpoint.insert("mtu".into(), parse_u32(word, required()?)?)),
            "up" | "down" if value.is_none() => {
                drop(endpoint.insert("up".into(), (word == "up").into()))
            }
            "path_cost" | "priority" | "mcast_router" | "vlan" => {
                drop(port.insert(word.into(), parse_u32(word, required()?)?))
            }
            "vlans" => {
                let vlans = parse_vlans(&required()?.replace('+', ","))?;
                port.insert(word.into(), vlans);
            }
            flag if PORT_FLAGS.contains(&flag) => {
                drop(port.insert(word.into(), parse_on_off(value.unwrap_or("on"))?.into()));
            }
            other => {
                return Err(format!(
                    "unknown endpoint option {other:?}: expected addr=, bridge=, mac=, mtu=, up, down, \
                     path_cost=, priority=, mcast_router=, vlan=, vlans=, \
                     {}",
                    PORT_FLAGS.join(", ")
                ));
            }
        }
    }
    if !addresses.is_empty() {
        endpoint.insert("addresses".into(), addresses.into());
    }
    if !port.is_empty() {
        endpoint.insert("port".into(), port.into());
    }
    Ok(Value::Object(endpoint))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn route_has_the_syntax_of_ip() {
        assert_eq!(
            parse_route("default via 10.0.0.1").unwrap(),
            json!({"destination": "default", "via": "10.0.0.1"})
        );
        assert_eq!(
            parse_route("10.9.9.9 via fe80::1 dev eth0 metric 5 table main src 10.0.0.2 onlink")
                .unwrap(),
            json!({"destination": "10.9.9.9/32", "via": "fe80::1", "interface": "eth0", "metric": 5, "table": 254,
                "source": "10.0.0.2", "onlink": true})
        );
        assert_eq!(
            parse_route("blackhole 10.0.0.0/8").unwrap(),
            json!({"type": "blackhole", "destination": "10.0.0.0/8"})
        );
        assert_eq!(
            parse_route("10.0.0.0/8 mtu 1400 nexthop via 10.1.0.1 dev a weight 2 nexthop dev b")
                .unwrap(),
            json!({"destination": "10.0.0.0/8", "mtu": 1400, "nexthops": [
                {"via": "10.1.0.1", "interface": "a", "weight": 2}, {"interface": "b"}]})
        );
        assert_eq!(
            parse_route("local 10.0.0.0/8 dev lo").unwrap(),
            json!({"type": "local", "destination": "10.0.0.0/8", "table": 255})
        );
        for bad in [
            "",
            "default via",
            "default gw 10.0.0.1",
            "default via 10.0.0.1 metric x",
            "default via 10.0.0.1 weight 2",
            "default via 10.0.0.1 mtu lock 1400",
        ] {
            parse_route(bad).unwrap_err();
        }
    }

    #[test]
    fn rule_has_the_syntax_of_ip() {
        let text = "not from 10.0.0.1 to all iif lo fwmark 0x10/0xff ipproto tcp dport 80-90 \
                    uidrange 0-5 lookup main pref 100 suppress_prefixlength 0";
        assert_eq!(
            parse_rule(text).unwrap(),
            json!({"not": true, "from": "10.0.0.1/32", "iif": "lo", "fwmark": 16, "fwmask": 255,
                "ipproto": "tcp", "dport": "80-90", "uid_range": "0-5", "table": 254,
                "priority": 100, "suppress_prefixlength": 0})
        );
        assert_eq!(
            parse_rule("priority 5 to fd00::/8 prohibit").unwrap(),
            json!({"priority": 5, "to": "fd00::/8", "action": "prohibit"})
        );
        for (bad, why) in [
            ("priority", "needs a value"),
            ("priority 5 goto 7", "goto of a rule is not managed"),
            (
                "priority 5 form 10.0.0.0/8",
                "unknown rule keyword \"form\"",
            ),
            ("fwmark 0xg", "fwmark \"0xg\""),
        ] {
            let error = parse_rule(bad).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn neighbour_has_the_syntax_of_ip() {
        assert_eq!(
            parse_neighbour("10.0.0.2 lladdr 02:00:00:00:00:01 dev eth0 nud permanent").unwrap(),
            json!({"address": "10.0.0.2", "mac": "02:00:00:00:00:01", "interface": "eth0"})
        );
        assert_eq!(
            parse_neighbour("proxy 10.0.0.2 dev eth0").unwrap(),
            json!({"address": "10.0.0.2", "interface": "eth0", "proxy": true})
        );
        parse_neighbour("10.0.0.2 lladdr").unwrap_err();
    }

    #[test]
    fn endpoint_has_location_and_options() {
        assert_eq!(
            parse_endpoint("eth0").unwrap(),
            json!({"interface": "eth0"})
        );
        assert_eq!(
            parse_endpoint("net0:eth0,addr=10.0.0.1/24,addr=fd00::1/64,mtu=1400,down").unwrap(),
            json!({"namespace": "net0", "interface": "eth0", "addresses": ["10.0.0.1/24", "fd00::1/64"], "mtu": 1400,
                "up": false})
        );
        assert_eq!(
            parse_endpoint("port0,bridge=br0,hairpin,learning=off,path_cost=4").unwrap(),
            json!({"interface": "port0", "bridge": "br0", "port": {"hairpin": true, "learning": false, "path_cost": 4}})
        );
        assert_eq!(
            parse_endpoint("net0:").unwrap(),
            json!({"namespace": "net0"})
        );
        assert_eq!(parse_endpoint("").unwrap(), json!({}));
        assert_eq!(
            parse_endpoint(
                "port0,bridge=br0,flood=off,neigh_suppress,mcast_router=2,vlan=3,vlans=4+6-7"
            )
            .unwrap(),
            json!({"interface": "port0", "bridge": "br0", "port": {"flood": false, "neigh_suppress": true,
                "mcast_router": 2, "vlan": 3, "vlans": [4, "6-7"]}})
        );
        parse_endpoint("port0,bridge=br0,vlans=9-7").unwrap_err();
        parse_endpoint("eth0,colour=red").unwrap_err();
        parse_endpoint("eth0,addr").unwrap_err();
    }
}
