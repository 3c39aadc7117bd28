//! The words of the command line, made into JSON: as iproute2 spells them.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// `on` or `off`.
pub fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        other => Err(format!("{other:?} is neither on nor off")),
    }
}

/// A number, or `none`: the kernel's choice.
pub fn number(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    let whole = text.parse::<u64>().map(Value::from).ok();
    let value = whole
        .or_else(|| text.parse::<f64>().ok().map(Value::from))
        .filter(|value| !value.is_null());
    value.ok_or_else(|| format!("{text:?} is not a number, nor none"))
}

/// A text, or `none`.
pub fn text(text: &str) -> Result<Value, String> {
    Ok(if text == "none" {
        Value::Null
    } else {
        Value::from(text)
    })
}

/// A netnsid, `auto` or `none`.
pub fn netnsid(text: &str) -> Result<Value, String> {
    match text {
        "none" => Ok(Value::Null),
        "auto" => Ok(Value::from("auto")),
        _ => text
            .parse::<u32>()
            .map(Value::from)
            .map_err(|_| format!("{text:?} is not a netnsid, auto or none")),
    }
}

/// `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Where a route leads to; a host may do without its prefix length, as with `ip route`.
fn destination(text: &str) -> String {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => format!("{text}/32"),
        Ok(IpAddr::V6(_)) => format!("{text}/128"),
        Err(_) => text.to_owned(),
    }
}

/// A route as `ip route add` takes it: `[TYPE] DESTINATION [via A] [dev I] [metric N] [table N]
/// [src A] [onlink]`.
pub fn route(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    let mut words = text.split_whitespace().peekable();
    let mut route = Map::new();
    if let Some(kind) =
        words.next_if(|word| ["unicast", "blackhole", "unreachable", "prohibit"].contains(word))
    {
        route.insert("type".into(), kind.into());
    }
    let to = words
        .next()
        .ok_or("a route begins with default or a network: default via 10.0.0.1")?;
    route.insert("destination".into(), destination(to).into());
    while let Some(word) = words.next() {
        if word == "onlink" {
            route.insert("onlink".into(), true.into());
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
            "src" => ("source", Value::from(value()?)),
            "metric" | "preference" | "priority" => ("metric", whole(word, value()?)?),
            "table" => match value()? {
                "main" => ("table", Value::from(254)),
                "default" => ("table", Value::from(253)),
                number => ("table", whole(word, number)?),
            },
            other => {
                return Err(format!(
                    "{other:?} is no word of a route: known are via, dev, metric, table, src and onlink"
                ));
            }
        };
        route.insert(field.into(), value);
    }
    Ok(Value::Object(route))
}

fn whole(word: &str, text: &str) -> Result<Value, String> {
    text.parse::<u32>()
        .map(Value::from)
        .map_err(|_| format!("{word} {text:?} is not a number"))
}

/// An entry as `ip neigh add` takes it: `ADDRESS lladdr MAC dev INTERFACE`.
pub fn neighbour(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    let mut words = text.split_whitespace();
    let mut entry = Map::new();
    let address = words
        .next()
        .ok_or("a neighbour is ADDRESS lladdr MAC dev INTERFACE")?;
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
                    "\"{word} {value}\" is not known here: ADDRESS lladdr MAC dev INTERFACE"
                ));
            }
        };
    }
    Ok(Value::Object(entry))
}

/// One end of a pair:
/// `[NAMESPACE:][INTERFACE][,addr=CIDR][,bridge=BRIDGE][,mac=MAC][,mtu=N][,down]…`.
pub fn end(text: &str) -> Result<Value, String> {
    let mut parts = text.split(',');
    let device = parts.next().unwrap_or_default();
    let mut end = Map::new();
    let (namespace, interface) = device.split_once(':').unwrap_or(("", device));
    for (field, name) in [("namespace", namespace), ("interface", interface)] {
        if !name.is_empty() {
            end.insert(field.into(), name.into());
        }
    }
    let (mut addresses, mut port) = (Vec::new(), Map::new());
    for part in parts {
        let (word, value) = part
            .split_once('=')
            .map_or((part, None), |(word, value)| (word, Some(value)));
        let needed = || value.ok_or_else(|| format!("{word} needs a value: {word}=…"));
        match word {
            "addr" | "address" => addresses.push(Value::from(needed()?)),
            "bridge" | "master" => drop(end.insert("bridge".into(), needed()?.into())),
            "mac" => drop(end.insert("mac".into(), needed()?.into())),
            "mtu" => drop(end.insert("mtu".into(), whole(word, needed()?)?)),
            "up" | "down" if value.is_none() => {
                drop(end.insert("up".into(), (word == "up").into()))
            }
            "path_cost" | "priority" => drop(port.insert(word.into(), whole(word, needed()?)?)),
            "hairpin" | "isolated" | "learning" | "bpdu_guard" | "root_block"
            | "mcast_fast_leave" => {
                drop(port.insert(word.into(), on_off(value.unwrap_or("on"))?.into()));
            }
            other => {
                return Err(format!(
                    "{other:?} is no word of an end: known are addr=, bridge=, mac=, mtu=, up, down, path_cost=, \
                     priority=, hairpin, isolated, learning, bpdu_guard, root_block and mcast_fast_leave"
                ));
            }
        }
    }
    if !addresses.is_empty() {
        end.insert("addresses".into(), addresses.into());
    }
    if !port.is_empty() {
        end.insert("port".into(), port.into());
    }
    Ok(Value::Object(end))
}

/// What goes into a request's body, field by field; what was not given stays out.
#[derive(Debug, Default)]
pub struct Body(pub Map<String, Value>);

impl Body {
    /// A field, if it was given.
    pub fn put(&mut self, field: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(field.into(), value.into());
        }
    }

    /// A list, if any of it was given; `none` is the empty one.
    pub fn list(&mut self, field: &str, values: &[Value]) {
        if !values.is_empty() {
            self.0.insert(
                field.into(),
                values
                    .iter()
                    .filter(|value| !value.is_null())
                    .cloned()
                    .collect(),
            );
        }
    }

    /// A map, if any of it was given; `without` are keys to take out.
    pub fn map(&mut self, field: &str, values: &[(String, String)], without: &[String]) {
        let taken = without.iter().map(|key| (key.clone(), Value::Null));
        let map: Map<String, Value> = values
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .chain(taken)
            .collect();
        if !map.is_empty() {
            self.0.insert(field.into(), map.into());
        }
    }

    /// Two flags that say yes and no.
    pub fn flags(&mut self, field: &str, yes: bool, no: bool) {
        if yes || no {
            self.0.insert(field.into(), yes.into());
        }
    }

    /// The body.
    pub fn value(self) -> Value {
        Value::Object(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_spelled_as_ip_does() {
        assert_eq!(
            route("default via 10.0.0.1").unwrap(),
            json!({"destination": "default", "via": "10.0.0.1"})
        );
        assert_eq!(
            route("10.9.9.9 via fe80::1 dev eth0 metric 5 table main src 10.0.0.2 onlink").unwrap(),
            json!({"destination": "10.9.9.9/32", "via": "fe80::1", "interface": "eth0", "metric": 5, "table": 254,
                "source": "10.0.0.2", "onlink": true})
        );
        assert_eq!(
            route("blackhole 10.0.0.0/8").unwrap(),
            json!({"type": "blackhole", "destination": "10.0.0.0/8"})
        );
        for bad in [
            "",
            "default via",
            "default gw 10.0.0.1",
            "default via 10.0.0.1 metric x",
        ] {
            route(bad).unwrap_err();
        }
    }

    #[test]
    fn neighbours_are_spelled_as_ip_does() {
        assert_eq!(
            neighbour("10.0.0.2 lladdr 02:00:00:00:00:01 dev eth0 nud permanent").unwrap(),
            json!({"address": "10.0.0.2", "mac": "02:00:00:00:00:01", "interface": "eth0"})
        );
        neighbour("10.0.0.2 lladdr").unwrap_err();
    }

    #[test]
    fn ends_say_where_they_are_and_what_they_have() {
        assert_eq!(end("eth0").unwrap(), json!({"interface": "eth0"}));
        assert_eq!(
            end("net0:eth0,addr=10.0.0.1/24,addr=fd00::1/64,mtu=1400,down").unwrap(),
            json!({"namespace": "net0", "interface": "eth0", "addresses": ["10.0.0.1/24", "fd00::1/64"], "mtu": 1400,
                "up": false})
        );
        assert_eq!(
            end("port0,bridge=br0,hairpin,learning=off,path_cost=4").unwrap(),
            json!({"interface": "port0", "bridge": "br0", "port": {"hairpin": true, "learning": false, "path_cost": 4}})
        );
        assert_eq!(end("net0:").unwrap(), json!({"namespace": "net0"}));
        assert_eq!(end("").unwrap(), json!({}));
        end("eth0,colour=red").unwrap_err();
        end("eth0,addr").unwrap_err();
    }

    #[test]
    fn what_was_not_given_stays_out() {
        let mut body = Body::default();
        body.put("mtu", None::<u32>);
        body.put("mac", Some(Value::Null));
        body.list("addresses", &[Value::Null]);
        body.map("labels", &[("a".into(), "b".into())], &["c".into()]);
        body.flags("up", false, false);
        assert_eq!(
            body.value(),
            json!({"mac": null, "addresses": [], "labels": {"a": "b", "c": null}})
        );
    }
}
