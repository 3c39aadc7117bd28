//! Edits of single entries of the lists of a resource: addresses, routes, neighbours.

use netnsd_api::{Address, Cidr, Destination, InterfaceName, Neighbour, RT_TABLE_MAIN, Route};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::error::CliError;

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
    Address(Verb, Cidr),
    /// Writes a route.
    Route(Verb, Box<Route>),
    /// Removes the first route that has all of these fields.
    DeleteRoute(Map<String, Value>),
    /// Writes a neighbour.
    Neighbour(Verb, Neighbour),
    /// Removes a neighbour.
    DeleteNeighbour(Address, InterfaceName),
}

impl Edit {
    /// Returns the field of the resource that has the list.
    pub fn field(&self) -> &'static str {
        match self {
            Edit::Address(..) => "addresses",
            Edit::Route(..) | Edit::DeleteRoute(_) => "routes",
            Edit::Neighbour(..) | Edit::DeleteNeighbour(..) => "neighbours",
        }
    }

    /// Applies the edit to the list.
    ///
    /// # Errors
    /// An entry that has other values, or does not exist.
    pub fn apply(&self, list: &mut Vec<Value>) -> Result<(), CliError> {
        match self {
            Edit::Address(verb, address) => {
                let text = address.to_string();
                let at = list
                    .iter()
                    .position(|entry| address_of(entry) == Some(&text));
                // An entry with the same address is the same entry.
                let new = at.map_or(Value::from(&*text), |index| list[index].clone());
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
            Edit::DeleteRoute(fields) => delete_route(list, fields),
            Edit::Neighbour(verb, neighbour) => {
                let at = find_neighbour(list, neighbour.address, &neighbour.interface)?;
                let name = format!("neighbour {}", neighbour.address);
                write_entry(list, *verb, at, to_value(neighbour)?, &name)
            }
            Edit::DeleteNeighbour(address, interface) => {
                let at = find_neighbour(list, *address, interface)?;
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

fn delete_route(list: &mut Vec<Value>, fields: &Map<String, Value>) -> Result<(), CliError> {
    let mut wanted = fields.clone();
    wanted.entry("table").or_insert(RT_TABLE_MAIN.into());
    let matches = |route: &Value| {
        wanted
            .iter()
            .all(|(field, value)| route[field] == normalize(field, value))
    };
    let at = list.iter().position(matches);
    let destination = wanted["destination"].as_str().unwrap_or_default();
    let name = format!("route {destination} with these fields");
    write_entry(list, Verb::Delete, at, Value::Null, &name)
}

/// Returns the value of a route's field in the spelling in which it is recorded.
fn normalize(field: &str, value: &Value) -> Value {
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
    address: Address,
    interface: &InterfaceName,
) -> Result<Option<usize>, CliError> {
    let entries: Vec<Neighbour> = read_list(list)?;
    Ok(entries
        .iter()
        .position(|entry| entry.address == address && entry.interface == *interface))
}
