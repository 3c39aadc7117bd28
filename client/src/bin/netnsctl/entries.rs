//! Edits of single entries of the lists of a resource: addresses, routes, rules,
//! neighbours.

use netnsd_api::{
    Address, Destination, DetailedAddress, Family, InterfaceAddress, InterfaceName, Neighbour,
    NextHop, RT_TABLE_MAIN, Route, Rule,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{cli::IpOptions, error::CliError};

/// The way in which an entry is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// The entry must not exist with other values.
    Add,
    /// The entry may exist.
    Replace,
    /// The entry must exist.
    Change,
    /// The entry must exist, and is removed.
    Delete,
}

/// An edit of one entry of a list.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Writes an address.
    Address(Verb, InterfaceAddress),
    /// Writes a route.
    Route(Verb, Box<Route>),
    /// Removes the first route that has all of these fields, of one family if it is given: true is
    /// IPv6.
    DeleteRoute(Map<String, Value>, Option<bool>),
    /// Adds a rule.
    AddRule(Box<Rule>),
    /// Removes the first rule that has all of these fields, of this family if one is given.
    DeleteRule(Map<String, Value>, Option<Family>),
    /// Removes all rules, or those of one family.
    FlushRules(Option<Family>),
    /// Writes a neighbour.
    Neighbour(Verb, Neighbour),
    /// Removes a neighbour; true for a proxy entry.
    DeleteNeighbour(Address, InterfaceName, bool),
}

impl Edit {
    /// Returns the field of the resource that has the list.
    pub fn field(&self) -> &'static str {
        match self {
            Edit::Address(..) => "addresses",
            Edit::Route(..) | Edit::DeleteRoute(..) => "routes",
            Edit::AddRule(_) | Edit::DeleteRule(..) | Edit::FlushRules(_) => "rules",
            Edit::Neighbour(..) | Edit::DeleteNeighbour(..) => "neighbours",
        }
    }

    /// Returns the edit of an entry of the family that the options of ip(8) name; without one,
    /// `default` is IPv4 unless a word is an IPv6 address.
    ///
    /// # Errors
    /// An entry of the other family.
    pub fn of_family(self, options: &IpOptions) -> Result<Self, CliError> {
        let is_ipv6 = match &self {
            Edit::Address(_, address) => address.ip().is_ipv6(),
            Edit::Route(_, route) => route.is_ipv6(),
            Edit::Neighbour(_, entry) => entry.address.0.is_ipv6(),
            Edit::DeleteNeighbour(address, ..) => address.0.is_ipv6(),
            Edit::DeleteRoute(fields, _) => {
                let words = ["destination", "via", "source"].map(|field| fields.get(field));
                let has_ipv6 = words
                    .into_iter()
                    .flatten()
                    .any(|word| word.as_str().is_some_and(|word| word.contains(':')));
                let is_default = fields.get("destination").is_some_and(|to| to == "default");
                has_ipv6 || is_default && options.ipv6
            }
            Edit::AddRule(_) | Edit::DeleteRule(..) | Edit::FlushRules(_) => {
                return Ok(self.of_rule_family(options.family()));
            }
        };
        if let Some(option) = options.excluding_family(is_ipv6) {
            let family = if is_ipv6 { "IPv6" } else { "IPv4" };
            let hint = match &self {
                Edit::Route(_, route) if route.via.is_none() && route.source.is_none() => {
                    ": a default route is of the family of its gateway or source"
                }
                Edit::Route(..)
                | Edit::Address(..)
                | Edit::Neighbour(..)
                | Edit::DeleteNeighbour(..)
                | Edit::DeleteRoute(..)
                | Edit::AddRule(_)
                | Edit::DeleteRule(..)
                | Edit::FlushRules(_) => "",
            };
            return Err(CliError::Usage(format!(
                "{option} was given, and the entry is {family}{hint}"
            )));
        }
        Ok(match self {
            Edit::DeleteRoute(fields, _) => Edit::DeleteRoute(fields, Some(is_ipv6)),
            other => other,
        })
    }

    /// Returns the edit of rules for the family of the option -4 or -6: as by ip(8), a new rule
    /// without an address is one of IPv4.
    fn of_rule_family(self, family: Option<Family>) -> Self {
        match self {
            Edit::AddRule(mut rule) => {
                rule.family = match rule.families() {
                    [_] => rule.family.or(family),
                    _ => Some(family.unwrap_or(Family::Ipv4)),
                };
                Edit::AddRule(rule)
            }
            Edit::DeleteRule(fields, _) => Edit::DeleteRule(fields, family),
            Edit::FlushRules(_) => Edit::FlushRules(family),
            other @ (Edit::Address(..)
            | Edit::Route(..)
            | Edit::DeleteRoute(..)
            | Edit::Neighbour(..)
            | Edit::DeleteNeighbour(..)) => other,
        }
    }

    /// Applies the edit to the list.
    ///
    /// # Errors
    /// An entry that has other values, or does not exist.
    pub fn apply(&self, list: &mut Vec<Value>) -> Result<(), CliError> {
        match self {
            Edit::Address(verb, address) => {
                let entries: Vec<InterfaceAddress> = read_list(list)?;
                let at = entries.iter().position(|entry| {
                    entry.net() == address.net() && entry.peer() == address.peer()
                });
                let new = match at {
                    // It says no more of the entry that has the same address.
                    Some(index) if address.details().is_none_or(has_only_peer) => {
                        list[index].clone()
                    }
                    _ => to_value(address)?,
                };
                write_entry(list, *verb, at, new, &format!("address {address}"))
            }
            Edit::Route(verb, route) => {
                let routes: Vec<Route> = read_list(list)?;
                let at = routes.iter().position(|other| {
                    other.key() == route.key() && other.is_ipv6() == route.is_ipv6()
                });
                let name = format!("route {}", route.destination);
                write_entry(list, *verb, at, to_value(route)?, &name)
            }
            Edit::DeleteRoute(fields, is_ipv6) => delete_route(list, fields, *is_ipv6),
            Edit::AddRule(rule) => {
                let rules: Vec<Rule> = read_list(list)?;
                let is_there = |new: Rule| {
                    let mut known = rules.iter().flat_map(Rule::per_family);
                    known.any(|known| known == new)
                };
                if !rule.per_family().all(is_there) {
                    list.push(to_value(rule)?);
                }
                Ok(())
            }
            Edit::DeleteRule(fields, family) => delete_rule(list, fields, *family),
            Edit::FlushRules(family) => {
                let rules: Vec<Rule> = read_list(list)?;
                let mut rules = rules.iter();
                list.retain(|_| {
                    let is_of = |rule: &Rule| is_of_family(rule, *family);
                    !rules.next().is_some_and(is_of)
                });
                Ok(())
            }
            Edit::Neighbour(verb, neighbour) => {
                let at = find_neighbour(list, neighbour.key())?;
                let name = format!("neighbour {}", neighbour.address);
                write_entry(list, *verb, at, to_value(neighbour)?, &name)
            }
            Edit::DeleteNeighbour(address, interface, proxy) => {
                let at = find_neighbour(list, (interface, *address, *proxy))?;
                let name = format!("neighbour {address} of {interface}");
                write_entry(list, Verb::Delete, at, Value::Null, &name)
            }
        }
    }
}

/// Returns the address of an entry, which may have other fields beside it.
pub fn address_of(entry: &Value) -> Option<&str> {
    entry.as_str().or(entry["address"].as_str())
}

fn has_only_peer(details: &DetailedAddress) -> bool {
    details.broadcast.is_none() && details.metric.is_none() && details.label.is_none()
}

fn to_value(entry: &impl Serialize) -> Result<Value, CliError> {
    Ok(serde_json::to_value(entry)?)
}

fn read_list<T: DeserializeOwned>(list: &[Value]) -> Result<Vec<T>, CliError> {
    list.iter()
        .map(|item| Ok(serde_json::from_value(item.clone())?))
        .collect()
}

/// Writes an entry; `at` is the index of the one that has the same key.
fn write_entry(
    list: &mut Vec<Value>,
    verb: Verb,
    at: Option<usize>,
    new: Value,
    name: &str,
) -> Result<(), CliError> {
    match (verb, at) {
        (Verb::Delete, Some(index)) => drop(list.remove(index)),
        (Verb::Add, Some(index)) if list[index] != new => {
            return Err(CliError::Refused(format!(
                "{name} exists with other values: use replace"
            )));
        }
        (Verb::Add | Verb::Replace | Verb::Change, Some(index)) => list[index] = new,
        (Verb::Add | Verb::Replace, None) => list.push(new),
        (Verb::Change | Verb::Delete, None) => {
            return Err(CliError::Refused(format!("{name} is not recorded")));
        }
    }
    Ok(())
}

fn delete_route(
    list: &mut Vec<Value>,
    fields: &Map<String, Value>,
    is_ipv6: Option<bool>,
) -> Result<(), CliError> {
    let mut wanted = fields.clone();
    wanted.entry("table").or_insert(RT_TABLE_MAIN.into());
    let routes: Vec<Route> = read_list(list)?;
    let matches = |(route, typed): (&Value, &Route)| {
        is_ipv6.is_none_or(|is_ipv6| typed.is_ipv6() == is_ipv6)
            && wanted
                .iter()
                .all(|(field, value)| route[field] == normalize(field, value))
    };
    let at = list.iter().zip(&routes).position(matches);
    let destination = wanted["destination"].as_str().unwrap_or_default();
    let name = format!("route {destination} with these fields");
    write_entry(list, Verb::Delete, at, Value::Null, &name)
}

/// Returns true if a rule is of this family only, or any is meant.
fn is_of_family(rule: &Rule, family: Option<Family>) -> bool {
    family.is_none_or(|family| rule.families() == [family])
}

fn delete_rule(
    list: &mut Vec<Value>,
    fields: &Map<String, Value>,
    family: Option<Family>,
) -> Result<(), CliError> {
    let rules: Vec<Rule> = read_list(list)?;
    // The recorded spelling of each field that was given.
    let mut probe = fields.clone();
    probe.entry("priority").or_insert(0.into());
    if !fields.contains_key("action") {
        probe.entry("table").or_insert(RT_TABLE_MAIN.into());
    }
    let wanted: Rule = netnsd_api::parse(&Value::Object(probe))
        .map_err(|error| CliError::Usage(netnsd_api::Problem::from(error).detail))?;
    let spelled = to_value(&wanted)?;
    let matches = |rule: &Rule, item: &Value| {
        is_of_family(rule, family) && fields.keys().all(|field| item[field] == spelled[field])
    };
    let at = rules
        .iter()
        .zip(list.iter())
        .position(|(rule, item)| matches(rule, item));
    write_entry(
        list,
        Verb::Delete,
        at,
        Value::Null,
        "a rule with these fields",
    )
}

/// Returns the value of a route's field in the spelling in which it is recorded.
fn normalize(field: &str, value: &Value) -> Value {
    if field == "nexthops" {
        let hops: Result<Vec<NextHop>, _> = serde_json::from_value(value.clone());
        return hops
            .and_then(serde_json::to_value)
            .unwrap_or_else(|_| value.clone());
    }
    let Some(text) = value.as_str() else {
        return value.clone();
    };
    let normal = match field {
        "destination" => text.parse().map(|net: Destination| net.to_string()),
        "via" | "source" => text.parse().map(|address: Address| address.to_string()),
        _ => Ok(text.to_owned()),
    };
    normal.map_or_else(|_| value.clone(), Value::from)
}

fn find_neighbour(
    list: &[Value],
    key: (&InterfaceName, Address, bool),
) -> Result<Option<usize>, CliError> {
    let entries: Vec<Neighbour> = read_list(list)?;
    Ok(entries.iter().position(|entry| entry.key() == key))
}
