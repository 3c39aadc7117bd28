//! The grammar of ip(8), bridge(8) and brctl(8): words to a [`Request`]. Does no I/O.

use std::net::IpAddr;

use netnsd_api::{
    Cidr, InterfaceAddress, LinkType, Mac, Neighbour, Problem, RT_TABLE_DEFAULT, RT_TABLE_MAIN,
    Route, Rule, parse,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    request::{DeviceType, DeviceWords, NewLink, Request, SetLink, Show},
    select::{DestinationFilter, Relation, Selection, Table},
};
use crate::{
    entries::{Edit, Verb},
    output::join_words,
    parse_args,
};

/// A verb of an object of ip(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Entry(Verb),
    Set,
    Flush,
    Show,
    Help,
}

const SHOW: [(&str, Command); 4] = [
    ("show", Command::Show),
    ("lst", Command::Show),
    ("list", Command::Show),
    ("help", Command::Help),
];

/// Verbs in the order in which iproute2 compares them, which decides abbreviations.
const LINK_VERBS: &[(&str, Command)] = &[
    ("add", Command::Entry(Verb::Add)),
    ("set", Command::Set),
    ("change", Command::Set),
    ("delete", Command::Entry(Verb::Delete)),
    SHOW[0],
    SHOW[1],
    SHOW[2],
    SHOW[3],
];
const ENTRY_VERBS: &[(&str, Command)] = &[
    ("add", Command::Entry(Verb::Add)),
    ("change", Command::Entry(Verb::Change)),
    ("chg", Command::Entry(Verb::Change)),
    ("replace", Command::Entry(Verb::Replace)),
    ("delete", Command::Entry(Verb::Delete)),
    SHOW[0],
    SHOW[1],
    SHOW[2],
    ("flush", Command::Flush),
    SHOW[3],
];
const RULE_VERBS: &[(&str, Command)] = &[
    SHOW[0],
    SHOW[1],
    SHOW[2],
    ("add", Command::Entry(Verb::Add)),
    ("delete", Command::Entry(Verb::Delete)),
    ("flush", Command::Flush),
    SHOW[3],
];
const BRIDGE_LINK_VERBS: &[(&str, Command)] =
    &[("set", Command::Set), SHOW[0], SHOW[1], SHOW[2], SHOW[3]];
const SHOW_VERBS: &[(&str, Command)] = &SHOW;

/// Verbs of ip(8) that netnsctl does not have.
const UNSUPPORTED_VERBS: &[&str] = &[
    "afstats", "append", "get", "prepend", "property", "restore", "save", "showdump", "test",
    "xstats",
];

/// Commands of brctl(8).
pub const BRCTL_COMMANDS: &[&str] = &[
    "addbr",
    "delbr",
    "addif",
    "delif",
    "show",
    "showmacs",
    "showstp",
    "stp",
    "setageing",
    "setbridgeprio",
    "setfd",
    "sethello",
    "setmaxage",
    "setpathcost",
    "setportprio",
    "hairpin",
];

/// The way in which a value of an option is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// `on`, `off`, `1` or `0`.
    Flag,
    Number,
    /// A time in hundredths of a second, as the kernel has it.
    Centiseconds,
    /// A time in seconds, with fractions.
    Seconds,
    /// A bit mask, decimal or hexadecimal.
    Mask,
    /// A word that the API has too.
    Word,
    /// A word whose case does not matter.
    LowerCase,
}

/// Options of `type bridge` in ip-link(8), and the fields of a bridge.
const BRIDGE_OPTIONS: &[(&str, &str, Form)] = &[
    ("stp_state", "stp", Form::Flag),
    ("priority", "priority", Form::Number),
    ("ageing_time", "ageing_time_s", Form::Centiseconds),
    ("forward_delay", "forward_delay_s", Form::Centiseconds),
    ("hello_time", "hello_time_s", Form::Centiseconds),
    ("max_age", "max_age_s", Form::Centiseconds),
    ("mcast_snooping", "multicast_snooping", Form::Flag),
    ("vlan_filtering", "vlan_filtering", Form::Flag),
    ("vlan_default_pvid", "vlan_default_pvid", Form::Number),
    ("vlan_protocol", "vlan_protocol", Form::LowerCase),
    ("group_fwd_mask", "group_fwd_mask", Form::Mask),
    ("group_address", "group_addr", Form::LowerCase),
    ("mcast_querier", "multicast_querier", Form::Flag),
    ("mcast_router", "multicast_router", Form::Number),
    ("mcast_igmp_version", "multicast_igmp_version", Form::Number),
    ("mcast_mld_version", "multicast_mld_version", Form::Number),
    (
        "mcast_last_member_count",
        "multicast_last_member_count",
        Form::Number,
    ),
    (
        "mcast_startup_query_count",
        "multicast_startup_query_count",
        Form::Number,
    ),
    (
        "mcast_last_member_interval",
        "multicast_last_member_interval_s",
        Form::Centiseconds,
    ),
    (
        "mcast_membership_interval",
        "multicast_membership_interval_s",
        Form::Centiseconds,
    ),
    (
        "mcast_querier_interval",
        "multicast_querier_interval_s",
        Form::Centiseconds,
    ),
    (
        "mcast_query_interval",
        "multicast_query_interval_s",
        Form::Centiseconds,
    ),
    (
        "mcast_query_response_interval",
        "multicast_query_response_interval_s",
        Form::Centiseconds,
    ),
    (
        "mcast_startup_query_interval",
        "multicast_startup_query_interval_s",
        Form::Centiseconds,
    ),
];

/// Options of `type bridge_slave` in ip-link(8) and of `bridge link set`, and the fields of a port.
const PORT_OPTIONS: &[(&str, &str, Form)] = &[
    ("cost", "path_cost", Form::Number),
    ("priority", "priority", Form::Number),
    ("hairpin", "hairpin", Form::Flag),
    ("isolated", "isolated", Form::Flag),
    ("learning", "learning", Form::Flag),
    ("guard", "bpdu_guard", Form::Flag),
    ("root_block", "root_block", Form::Flag),
    ("fastleave", "mcast_fast_leave", Form::Flag),
    ("flood", "flood", Form::Flag),
    ("mcast_flood", "mcast_flood", Form::Flag),
    ("bcast_flood", "bcast_flood", Form::Flag),
    ("mcast_to_unicast", "mcast_to_unicast", Form::Flag),
    ("neigh_suppress", "neigh_suppress", Form::Flag),
    ("proxy_arp", "proxy_arp", Form::Flag),
    ("mcast_router", "mcast_router", Form::Number),
];

/// States of a neighbour (`nud` in ip-neighbour(8)).
const NEIGHBOUR_STATES: &[&str] = &[
    "permanent",
    "noarp",
    "reachable",
    "stale",
    "none",
    "incomplete",
    "delay",
    "probe",
    "failed",
];

/// Words of ip-link(8) about every device that netnsd has no field for.
const UNMANAGED_DEVICE_WORDS: &[&str] = &[
    "addrgenmode",
    "altname",
    "broadcast",
    "brd",
    "carrier",
    "dynamic",
    "group",
    "index",
    "multicast",
    "numrxqueues",
    "numtxqueues",
    "protodown",
    "vf",
    "vrf",
    "xdp",
];

/// A parser of the words of one command.
pub type Parser = fn(&[String]) -> Result<Request, String>;

/// Returns true if a word is a keyword or an abbreviation of it, as `matches()` of iproute2.
pub fn matches(word: &str, keyword: &str) -> bool {
    !word.is_empty() && keyword.starts_with(word)
}

/// The words of a command that are left.
struct Words<'a> {
    rest: &'a [String],
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// Returns the value of a keyword.
    fn value(&mut self, keyword: &str) -> Result<&'a str, String> {
        self.next()
            .ok_or_else(|| format!("{keyword} needs a value after it"))
    }

    /// Returns the value of a keyword, parsed.
    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        keyword: &str,
    ) -> Result<T, String> {
        parse_value(keyword, self.value(keyword)?)
    }
}

fn parse_value<T: std::str::FromStr<Err: std::fmt::Display>>(
    keyword: &str,
    text: &str,
) -> Result<T, String> {
    text.parse()
        .map_err(|error| format!("{keyword} {text:?}: {error}"))
}

/// Splits off the verb; a command without words shows.
fn take_verb<'a>(
    object: &str,
    verbs: &[(&str, Command)],
    words: &'a [String],
) -> Result<(Command, Words<'a>), String> {
    let Some((word, rest)) = words.split_first() else {
        return Ok((Command::Show, Words { rest: words }));
    };
    match verbs.iter().find(|(verb, _)| matches(word, verb)) {
        Some((_, command)) => Ok((*command, Words { rest })),
        None => {
            let known: Vec<&str> = verbs
                .iter()
                .map(|(verb, _)| *verb)
                .filter(|verb| !matches!(*verb, "lst" | "chg"))
                .collect();
            let expected = known.join(", ");
            Err(if UNSUPPORTED_VERBS.contains(&word.as_str()) {
                let program = if object.starts_with("bridge") {
                    ""
                } else {
                    "ip "
                };
                format!(
                    "netnsctl does not do {object} {word}: netnsctl netns exec NAME {program}{object} {}",
                    words.join(" ")
                )
            } else {
                format!(
                    "{object} {word:?} is not a command: expected {expected}; of the namespace \
                     {word}: netnsctl -n {word} {object}"
                )
            })
        }
    }
}

/// Parses the words after `ip link`.
pub fn parse_link(words: &[String]) -> Result<Request, String> {
    let (command, mut words) = take_verb("link", LINK_VERBS, words)?;
    match command {
        Command::Help => Ok(Request::Help),
        Command::Show => Ok(Request::Show(
            Show::Links,
            parse_selection(LINK_FILTERS, words)?,
        )),
        Command::Entry(Verb::Delete) => {
            let (mut device, mut kind) = (None, None);
            while let Some(word) = words.next() {
                match word {
                    "dev" => device = Some(words.value("dev")?),
                    "type" => kind = Some(parse_link_type(words.value("type")?)?),
                    name if device.is_none() => device = Some(name),
                    other => {
                        return Err(format!(
                            "link delete takes one device, and {other:?} is another word"
                        ));
                    }
                }
            }
            let device = device.ok_or("link delete needs a device: link delete veth0")?;
            Ok(Request::DeleteLink(device.to_owned(), kind))
        }
        Command::Set => parse_set_link(words),
        Command::Entry(_) => parse_add_link(words),
        Command::Flush => Err("links are not flushed: link delete DEVICE".into()),
    }
}

/// Parses `link add`.
fn parse_add_link(mut words: Words<'_>) -> Result<Request, String> {
    let mut device = parse_device(&mut words, true)?;
    let Some(link_type) = words.next() else {
        return Err("link add needs a type: link add veth0 type veth peer name veth1".into());
    };
    let link = match parse_link_type(link_type)? {
        DeviceType::Veth => NewLink::Veth(parse_peer(words)?),
        DeviceType::Bridge | DeviceType::Link(_) if device.name.is_none() => {
            return Err(format!(
                "a {link_type} needs a name: link add NAME type {link_type}"
            ));
        }
        DeviceType::Bridge => NewLink::Bridge(parse_options("type bridge", BRIDGE_OPTIONS, words)?),
        DeviceType::Link(known) => {
            NewLink::Link(known, parse_type_words(known, &mut device, words)?)
        }
    };
    if device.lower.is_some() && !takes_lower(&link) {
        return Err(format!(
            "a {link_type} is on no other device: leave link out"
        ));
    }
    Ok(Request::AddLink(device, link))
}

/// Returns true if links of a type may be on another device.
fn takes_lower(link: &NewLink) -> bool {
    match link {
        NewLink::Veth(_) | NewLink::Bridge(_) => false,
        NewLink::Link(link_type, _) => link_type.field_names().contains(&"lower"),
    }
}

/// Parses the words after the type of a link that is neither a bridge nor a pair.
fn parse_type_words(
    link_type: LinkType,
    device: &mut DeviceWords,
    mut words: Words<'_>,
) -> Result<Map<String, Value>, String> {
    let options = type_options(link_type);
    let mut fields = Map::new();
    while let Some(word) = words.next() {
        match (word, link_type) {
            ("dev", LinkType::Vxlan) => device.lower = Some(words.value("dev")?.into()),
            ("remote", LinkType::Vxlan) => {
                let remote = words.value("remote")?;
                fields.insert("remotes".into(), Value::from(vec![remote]));
            }
            ("learning" | "nolearning", LinkType::Vxlan) => {
                fields.insert("learning".into(), Value::from(word == "learning"));
            }
            ("ttl", LinkType::Vxlan) => match words.value("ttl")? {
                "auto" | "0" => {}
                ttl => drop(fields.insert("ttl".into(), parse_form("ttl", Form::Number, ttl)?)),
            },
            _ => {
                let Some((_, field, form)) = options.iter().find(|(name, ..)| *name == word) else {
                    let known: Vec<&str> = options.iter().map(|(name, ..)| *name).collect();
                    return Err(match &known[..] {
                        [] => format!("unknown word {word:?} after type {link_type}"),
                        known => format!(
                            "{word} of type {link_type} is not managed by netnsd: expected {}",
                            known.join(", ")
                        ),
                    });
                };
                let value = parse_form(word, *form, words.value(word)?)?;
                fields.insert((*field).into(), value);
            }
        }
    }
    Ok(fields)
}

/// Returns the options of a type in ip-link(8) that have a value, with the field of each.
const fn type_options(link_type: LinkType) -> &'static [(&'static str, &'static str, Form)] {
    match link_type {
        LinkType::Dummy => &[],
        LinkType::Macvlan | LinkType::Ipvlan => &[("mode", "mode", Form::Word)],
        LinkType::Vlan => &[
            ("id", "vlan_id", Form::Number),
            ("protocol", "protocol", Form::LowerCase),
            ("proto", "protocol", Form::LowerCase),
        ],
        LinkType::Vxlan => &[
            ("id", "vni", Form::Number),
            ("vni", "vni", Form::Number),
            ("local", "local", Form::Word),
            ("group", "group", Form::Word),
            ("dstport", "udp_port", Form::Number),
        ],
    }
}

fn parse_link_type(word: &str) -> Result<DeviceType, String> {
    DeviceType::from_word(word).ok_or_else(|| {
        format!(
            "type {word} is not managed by netnsd yet; managed types: {}",
            DeviceType::words().join(", ")
        )
    })
}

/// Parses the words after `type veth`.
fn parse_peer(mut words: Words<'_>) -> Result<DeviceWords, String> {
    match words.next() {
        None => Ok(DeviceWords::default()),
        Some("peer") => {
            let peer = parse_device(&mut words, true)?;
            match words.next() {
                None => Ok(peer),
                Some(_) => Err("peer has no type: it is the other end of the pair".into()),
            }
        }
        Some(other) => Err(format!(
            "unknown word {other:?} after type veth: expected peer name NAME"
        )),
    }
}

/// Parses `link set`.
fn parse_set_link(mut words: Words<'_>) -> Result<Request, String> {
    let device = parse_device(&mut words, false)?;
    let mut set = SetLink {
        device,
        ..SetLink::default()
    };
    match words.next() {
        None => {}
        Some("bridge") => set.bridge = parse_options("type bridge", BRIDGE_OPTIONS, words)?,
        Some("bridge_slave") => set.port = parse_options("type bridge_slave", PORT_OPTIONS, words)?,
        Some(other) => {
            return Err(format!(
                "type {other} has no settings that netnsd manages: expected bridge or bridge_slave"
            ));
        }
    }
    if set.device.name.is_none() {
        return Err("link set needs a device: link set veth0 up".into());
    }
    if set == nothing_of(&set.device.name) {
        return Err(
            "link set needs a change: up, down, netns, master, nomaster, mtu, address, txqueuelen, \
             alias, promisc, allmulticast, arp or name"
                .into(),
        );
    }
    Ok(Request::SetLink(set))
}

/// Returns a change of a device that changes nothing.
fn nothing_of(name: &Option<String>) -> SetLink {
    SetLink {
        device: DeviceWords {
            name: name.clone(),
            ..DeviceWords::default()
        },
        ..SetLink::default()
    }
}

/// Parses the words that every device has, up to and with `type`.
///
/// In `link add` the name may be after `name`; in `link set` that is the new name.
fn parse_device(words: &mut Words<'_>, is_new: bool) -> Result<DeviceWords, String> {
    let mut device = DeviceWords::default();
    while let Some(word) = words.next() {
        match word {
            "type" => {
                if words.rest.is_empty() {
                    return Err("type needs a value after it".into());
                }
                return Ok(device);
            }
            "dev" => device.name = Some(words.value("dev")?.into()),
            "name" if is_new => device.name = Some(words.value("name")?.into()),
            "name" => drop(
                device
                    .fields
                    .insert("interface".into(), words.value("name")?.into()),
            ),
            "up" | "down" => drop(device.fields.insert("up".into(), (word == "up").into())),
            "mtu" => {
                let mtu: u32 = words.parsed("mtu")?;
                device.fields.insert("mtu".into(), mtu.into());
            }
            "txqueuelen" | "txqlen" | "qlen" => {
                let length: u32 = words.parsed("txqueuelen")?;
                device.fields.insert("txqueuelen".into(), length.into());
            }
            "alias" => {
                let alias = words.value("alias")?;
                let alias = (!alias.is_empty()).then_some(alias);
                device.fields.insert("alias".into(), alias.into());
            }
            "promisc" | "allmulticast" | "arp" => {
                let field = if word == "promisc" {
                    "promiscuous"
                } else {
                    word
                };
                let on = parse_form(word, Form::Flag, words.value(word)?)?;
                device.fields.insert(field.into(), on);
            }
            "address" | "addr" => {
                let mac: Mac = words.parsed("address")?;
                device.fields.insert("mac".into(), mac.to_string().into());
            }
            "netns" => device.netns = Some(words.value("netns")?.into()),
            "master" => device.master = Some(Some(words.value("master")?.into())),
            "nomaster" => device.master = Some(None),
            "link" if is_new => device.lower = Some(words.value("link")?.into()),
            unmanaged if UNMANAGED_DEVICE_WORDS.contains(&unmanaged) && device.name.is_some() => {
                return Err(format!("{unmanaged} is not managed by netnsd yet"));
            }
            name if device.name.is_none() => device.name = Some(name.into()),
            other => {
                return Err(format!(
                    "unknown word {other:?}: expected up, down, netns, master, nomaster, mtu, \
                     address, txqueuelen, alias, promisc, allmulticast, arp, name or type"
                ));
            }
        }
    }
    Ok(device)
}

/// Parses options with values, by a table.
fn parse_options(
    of: &str,
    options: &[(&str, &str, Form)],
    mut words: Words<'_>,
) -> Result<Map<String, Value>, String> {
    let mut fields = Map::new();
    while let Some(word) = words.next() {
        let Some((_, field, form)) = options.iter().find(|(name, ..)| *name == word) else {
            let known: Vec<&str> = options.iter().map(|(name, ..)| *name).collect();
            return Err(format!(
                "{word} of {of} is not managed by netnsd: expected {}",
                known.join(", ")
            ));
        };
        let value = parse_form(word, *form, words.value(word)?)?;
        fields.insert((*field).into(), value);
    }
    Ok(fields)
}

fn parse_form(word: &str, form: Form, text: &str) -> Result<Value, String> {
    match form {
        Form::Flag => parse_args::parse_on_off(text)
            .map(Value::from)
            .map_err(|error| format!("{word} {error}")),
        Form::Number => parse_value::<u32>(word, text).map(Value::from),
        Form::Word => Ok(Value::from(text)),
        Form::Centiseconds => {
            let hundredths: u32 = parse_value(word, text)?;
            Ok(Value::from(f64::from(hundredths) / 100.0))
        }
        Form::Seconds => parse_value::<f64>(word, text)
            .map(Value::from)
            .and_then(|value| match value {
                Value::Null => Err(format!("{word} {text:?} is not a number of seconds")),
                finite => Ok(finite),
            }),
        Form::Mask => parse_args::parse_mask(text).map_err(|error| format!("{word}: {error}")),
        Form::LowerCase => Ok(text.to_lowercase().into()),
    }
}

/// Keywords of the filters of a list; a word that is none is a value of the first.
type Filters = &'static [&'static str];

const LINK_FILTERS: Filters = &["dev", "up", "type", "master"];
const ADDRESS_FILTERS: Filters = &[
    "dev",
    "up",
    "type",
    "master",
    "to",
    "scope",
    "permanent",
    "dynamic",
];
const FLUSH_ADDRESS_FILTERS: Filters = &["dev", "to", "scope", "permanent"];
const ROUTE_FILTERS: Filters = &[
    "to", "exact", "root", "match", "dev", "table", "type", "via", "src", "proto", "scope",
];
const FLUSH_ROUTE_FILTERS: Filters = &[
    "to", "exact", "root", "match", "dev", "table", "type", "via", "src",
];
const NEIGHBOUR_FILTERS: Filters = &["to", "dev", "nud"];
const PORT_FILTERS: Filters = &["dev", "master"];
const FDB_FILTERS: Filters = &["br", "master", "dev", "brport"];

/// Returns true for a keyword of a filter of any list.
fn is_filter(word: &str) -> bool {
    [ADDRESS_FILTERS, ROUTE_FILTERS, NEIGHBOUR_FILTERS]
        .iter()
        .any(|filters| filters.contains(&word))
}

/// Parses the filters of a list.
fn parse_selection(filters: Filters, mut words: Words<'_>) -> Result<Selection, String> {
    let mut selection = Selection::default();
    let first = filters.first().copied().unwrap_or_default();
    let mut has_first = false;
    while let Some(word) = words.next() {
        let (keyword, value) = match word {
            "protocol" => ("proto", None),
            known if filters.contains(&known) => (known, None),
            // A bridge has no name here but after `br`.
            value if !has_first && first != "br" && !is_filter(value) => (first, Some(value)),
            other => {
                return Err(format!(
                    "unknown filter {other:?}: expected {}",
                    join_words(filters, "or")
                ));
            }
        };
        has_first |= keyword == first;
        let mut value = || value.map_or_else(|| words.value(keyword), Ok);
        match keyword {
            "up" => selection.up = true,
            "permanent" | "dynamic" => selection.permanent = Some(keyword == "permanent"),
            "dev" | "brport" => selection.device = Some(value()?.into()),
            "master" | "br" => selection.master = Some(value()?.into()),
            "type" => selection.kind = Some(value()?.into()),
            "scope" => selection.scope = Some(value()?.into()),
            "proto" => selection.protocol = Some(value()?.into()),
            "via" | "src" => {
                let address: IpAddr = parse_value(keyword, value()?)?;
                let field = if keyword == "via" {
                    &mut selection.via
                } else {
                    &mut selection.source
                };
                *field = Some(address.to_string());
            }
            "nud" => selection.state = Some(parse_neighbour_state(value()?)?),
            "table" => selection.table = Some(parse_table(value()?)?),
            "to" | "exact" | "root" | "match" if filters.contains(&"root") => {
                selection.destination = Some(parse_destination(keyword, value()?, &mut words)?);
            }
            _ => selection.network = Some(parse_cidr(value()?)?),
        }
    }
    Ok(selection)
}

/// Parses the destination of a filter: `[to] [exact|root|match] DESTINATION`.
fn parse_destination(
    keyword: &str,
    value: &str,
    words: &mut Words<'_>,
) -> Result<DestinationFilter, String> {
    let relation = |word: &str| match word {
        "exact" => Some(Relation::Exact),
        "root" => Some(Relation::Root),
        "match" => Some(Relation::Match),
        _ => None,
    };
    let (relation, text) = match (relation(keyword), relation(value)) {
        (Some(relation), _) => (relation, value),
        (None, Some(relation)) => (relation, words.value(value)?),
        (None, None) => (Relation::Exact, value),
    };
    let network = match text {
        "default" | "any" | "all" => None,
        text => Some(parse_cidr(text)?),
    };
    Ok(DestinationFilter { relation, network })
}

fn parse_table(text: &str) -> Result<Table, String> {
    Ok(match text {
        "all" => Table::All,
        "local" | "255" => {
            return Err(
                "table local is the kernel's own, and not shown by netnsctl: netnsctl netns exec \
                 NAME ip route show table local"
                    .into(),
            );
        }
        "main" => Table::Id(RT_TABLE_MAIN),
        "default" => Table::Id(RT_TABLE_DEFAULT),
        number => Table::Id(number.parse().map_err(|_| {
            format!("invalid routing table {number:?}: expected a number, main, default or all")
        })?),
    })
}

fn parse_neighbour_state(text: &str) -> Result<String, String> {
    let state = text.to_lowercase();
    if NEIGHBOUR_STATES.contains(&state.as_str()) {
        Ok(state)
    } else {
        Err(format!(
            "nud {text:?} is not a state: expected {}",
            join_words(NEIGHBOUR_STATES, "or")
        ))
    }
}

/// Returns an address with its prefix length, which is that of one host if it is left out.
fn parse_cidr(text: &str) -> Result<Cidr, String> {
    let full = match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => format!("{text}/32"),
        Ok(IpAddr::V6(_)) => format!("{text}/128"),
        Err(_) => text.to_owned(),
    };
    full.parse().map_err(|error| format!("{error}"))
}

/// Parses the words after `ip address`.
pub fn parse_address(words: &[String]) -> Result<Request, String> {
    let (command, words) = take_verb("addr", ENTRY_VERBS, words)?;
    match command {
        Command::Help => Ok(Request::Help),
        Command::Show => {
            let selection = parse_selection(ADDRESS_FILTERS, words)?;
            Ok(Request::Show(Show::Addresses, selection))
        }
        Command::Entry(verb) => {
            let (address, device) = parse_address_words(words)?;
            Ok(Request::EditDevice(Edit::Address(verb, address), device))
        }
        Command::Flush => {
            let selection = parse_selection(FLUSH_ADDRESS_FILTERS, words)?;
            // The recorded addresses are of this scope.
            if let Some(scope) = &selection.scope {
                expect_value("scope", scope, "global")?;
            }
            let device = selection.device.clone();
            let device = device.ok_or("a device is missing: addr flush dev veth0")?;
            Ok(Request::FlushAddresses(device, selection))
        }
        Command::Set => Err("addresses are not set: addr add ADDRESS dev DEVICE".into()),
    }
}

/// Parses an address and its device.
fn parse_address_words(mut words: Words<'_>) -> Result<(InterfaceAddress, String), String> {
    let (mut address, mut peer, mut device) = (None, None, None);
    let mut fields = Map::new();
    while let Some(word) = words.next() {
        match word {
            "dev" => device = Some(words.value("dev")?.to_owned()),
            "local" if address.is_none() => address = Some(parse_cidr(words.value("local")?)?),
            "peer" => {
                let other = parse_cidr(words.value("peer")?)?;
                fields.insert("peer".into(), other.to_string().into());
                peer = Some(other);
            }
            "broadcast" | "brd" => {
                fields.insert("broadcast".into(), words.value(word)?.into());
            }
            "metric" | "priority" | "preference" => {
                let metric: u32 = parse_value(word, words.value(word)?)?;
                fields.insert("metric".into(), metric.into());
            }
            "label" => {
                fields.insert("label".into(), words.value("label")?.into());
            }
            // So it is anyway, by netnsd or the kernel.
            "nodad" => {}
            "scope" => expect_value("scope", words.value("scope")?, "global")?,
            "valid_lft" | "preferred_lft" => {
                expect_value(word, words.value(word)?, "forever")?;
            }
            "anycast" | "home" | "mngtmpaddr" | "noprefixroute" | "autojoin" | "optimistic"
            | "proto" => {
                return Err(format!("{word} of an address is not managed by netnsd yet"));
            }
            other if address.is_none() => address = Some(parse_cidr(other)?),
            other => {
                return Err(format!(
                    "unknown word {other:?} after the address: expected dev DEVICE, peer, broadcast, metric or label"
                ));
            }
        }
    }
    let address = address.ok_or("an address is missing: addr add 10.0.0.1/24 dev veth0")?;
    let device = device.ok_or("a device is missing: addr add 10.0.0.1/24 dev veth0")?;
    let Cidr(net) = peer.unwrap_or(address);
    match fields.get("broadcast").and_then(Value::as_str) {
        Some("+") => drop(fields.insert("broadcast".into(), net.broadcast().to_string().into())),
        Some("-") => drop(fields.remove("broadcast")),
        Some(_) | None => {}
    }
    fields.insert("address".into(), address.to_string().into());
    let address = parse::<InterfaceAddress>(&fields.into()).map_err(|error| error.detail)?;
    Ok((address, device))
}

fn expect_value(keyword: &str, value: &str, expected: &str) -> Result<(), String> {
    if value == expected {
        Ok(())
    } else {
        Err(format!(
            "{keyword} {value} is not managed by netnsd yet: leave it out"
        ))
    }
}

/// Parses the words after `ip route`.
pub fn parse_route(words: &[String]) -> Result<Request, String> {
    let (command, words) = take_verb("route", ENTRY_VERBS, words)?;
    match command {
        Command::Help => Ok(Request::Help),
        Command::Show => {
            let selection = parse_selection(ROUTE_FILTERS, words)?;
            Ok(Request::Show(Show::Routes, selection))
        }
        Command::Entry(Verb::Delete) => {
            let fields = parse_args::parse_route_words(words.rest.iter().map(String::as_str))?;
            Ok(Request::EditNamespace(Edit::DeleteRoute(fields, None)))
        }
        Command::Entry(verb) => {
            let fields = parse_args::parse_route_words(words.rest.iter().map(String::as_str))?;
            let route: Route = typed(fields)?;
            Ok(Request::EditNamespace(Edit::Route(verb, Box::new(route))))
        }
        Command::Flush => {
            let selection = parse_selection(FLUSH_ROUTE_FILTERS, words)?;
            if selection == Selection::default() {
                return Err(format!(
                    "route flush needs a filter: {}",
                    join_words(FLUSH_ROUTE_FILTERS, "or")
                ));
            }
            Ok(Request::FlushRoutes(selection))
        }
        Command::Set => Err("routes are not set: route replace DESTINATION via GATEWAY".into()),
    }
}

/// Reads a value of the API from its fields.
fn typed<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, String> {
    parse(&Value::Object(fields)).map_err(|error| Problem::from(error).detail)
}

/// Parses the words after `ip neighbour`.
pub fn parse_neighbour(words: &[String]) -> Result<Request, String> {
    let (command, words) = take_verb("neigh", ENTRY_VERBS, words)?;
    let entry = || parse_args::parse_neighbour_words(words.rest.iter().map(String::as_str));
    match command {
        Command::Help => Ok(Request::Help),
        Command::Show => {
            let selection = parse_selection(NEIGHBOUR_FILTERS, words)?;
            Ok(Request::Show(Show::Neighbours, selection))
        }
        Command::Entry(Verb::Delete) => {
            let mut fields = entry()?;
            let is_proxy = fields.contains_key("proxy");
            let mut text = |field: &str, word: &str| match fields.remove(field) {
                Some(Value::String(text)) => Ok(text),
                _ => Err(format!(
                    "{word} is missing: neigh delete 10.0.0.2 dev veth0"
                )),
            };
            let (address, device) = (text("address", "the address")?, text("interface", "dev")?);
            Ok(Request::EditNamespace(Edit::DeleteNeighbour(
                parse_value("address", &address)?,
                parse_value("dev", &device)?,
                is_proxy,
            )))
        }
        Command::Entry(verb) => {
            let fields = entry()?;
            for (field, word) in [("mac", "lladdr MAC"), ("interface", "dev DEVICE")] {
                let is_proxy = fields.contains_key("proxy") && field == "mac";
                if !fields.contains_key(field) && !is_proxy {
                    return Err(format!(
                        "{word} is missing: neigh add 10.0.0.2 lladdr 02:00:00:00:00:01 dev veth0"
                    ));
                }
            }
            let neighbour: Neighbour = typed(fields)?;
            Ok(Request::EditNamespace(Edit::Neighbour(verb, neighbour)))
        }
        Command::Flush => {
            let selection = parse_selection(NEIGHBOUR_FILTERS, words)?;
            if selection.state.as_deref() != Some("permanent") {
                return Err(
                    "neigh flush without \"nud permanent\" is about neighbours that the kernel \
                     learned: netnsctl netns exec NAME ip neigh flush …; for recorded ones: neigh \
                     flush dev DEVICE nud permanent"
                        .into(),
                );
            }
            Ok(Request::FlushNeighbours(selection))
        }
        Command::Set => {
            Err("neighbours are not set: neigh replace ADDRESS lladdr MAC dev DEVICE".into())
        }
    }
}

/// Parses the words after `ip rule`.
pub fn parse_rule(words: &[String]) -> Result<Request, String> {
    let (command, words) = take_verb("rule", RULE_VERBS, words)?;
    let fields = || parse_args::parse_rule_words(words.rest.iter().map(String::as_str));
    match command {
        Command::Help => Ok(Request::Help),
        Command::Show => match words.rest {
            [] => Ok(Request::Show(Show::Rules, Selection::default())),
            [word, ..] => Err(format!(
                "unknown filter {word:?}: rule show shows all rules"
            )),
        },
        Command::Entry(Verb::Delete) => {
            let fields = fields()?;
            if fields.is_empty() {
                return Err("a rule is missing: rule delete priority 100".into());
            }
            Ok(Request::EditNamespace(Edit::DeleteRule(fields, None)))
        }
        Command::Entry(_) => {
            let fields = fields()?;
            if !fields.contains_key("priority") {
                return Err(
                    "priority is missing: rule add priority 100 from 10.0.0.0/8 table 7".into(),
                );
            }
            let rule: Rule = typed(fields)?;
            Ok(Request::EditNamespace(Edit::AddRule(Box::new(rule))))
        }
        Command::Flush => match words.rest {
            [] => Ok(Request::EditNamespace(Edit::FlushRules(None))),
            [word, ..] => Err(format!(
                "unknown word {word:?}: rule flush removes all recorded rules; for one, rule delete"
            )),
        },
        Command::Set => Err("rules are not set: rule add, rule delete".into()),
    }
}

/// Parses the words after `bridge link`.
pub fn parse_bridge_link(words: &[String]) -> Result<Request, String> {
    let (command, mut words) = take_verb("bridge link", BRIDGE_LINK_VERBS, words)?;
    match command {
        Command::Help => Ok(Request::Help),
        Command::Set => {
            let device = match words.next() {
                Some("dev") => words.value("dev")?,
                _ => {
                    return Err(
                        "bridge link set needs a device: bridge link set dev veth0 …".into(),
                    );
                }
            };
            let mut set = nothing_of(&Some(device.to_owned()));
            set.port = parse_options("bridge link", PORT_OPTIONS, words)?;
            if set.port.is_empty() {
                return Err("bridge link set needs a change: cost, priority, hairpin on …".into());
            }
            Ok(Request::SetLink(set))
        }
        Command::Show | Command::Entry(_) | Command::Flush => Ok(Request::Show(
            Show::Ports,
            parse_selection(PORT_FILTERS, words)?,
        )),
    }
}

/// Parses the words after `bridge fdb`.
pub fn parse_bridge_fdb(words: &[String]) -> Result<Request, String> {
    let (command, words) = take_verb("bridge fdb", SHOW_VERBS, words)?;
    if command == Command::Help {
        return Ok(Request::Help);
    }
    let selection = parse_selection(FDB_FILTERS, words)?;
    Ok(Request::Show(Show::Fdb, selection))
}

/// Parses the words after `brctl`.
pub fn parse_brctl(words: &[String]) -> Result<Request, String> {
    let texts: Vec<&str> = words.iter().map(String::as_str).collect();
    let of_bridge = |bridge: &str| Selection {
        master: Some(bridge.to_owned()),
        ..Selection::default()
    };
    match texts.as_slice() {
        [] | ["help"] => Ok(Request::Help),
        ["addbr", bridge] => Ok(Request::AddLink(named(bridge), NewLink::Bridge(Map::new()))),
        ["delbr", bridge] => Ok(Request::DeleteLink(
            (*bridge).to_owned(),
            Some(DeviceType::Bridge),
        )),
        ["addif", bridge, port] => Ok(set_master(port, Some(bridge), None)),
        ["delif", bridge, port] => Ok(set_master(port, None, Some(bridge))),
        ["addif" | "delif", _, _, ..] => {
            Err("netnsctl attaches one port in a command: brctl addif br0 veth1".into())
        }
        ["show"] => Ok(Request::Show(Show::Bridges, Selection::default())),
        ["show", bridge] => Ok(Request::Show(Show::Bridges, of_bridge(bridge))),
        ["showmacs", bridge] => Ok(Request::Show(Show::Fdb, of_bridge(bridge))),
        ["showstp", bridge] => Ok(Request::Show(Show::Stp, of_bridge(bridge))),
        [command, arguments @ ..] if BRCTL_COMMANDS.contains(command) => {
            parse_brctl_setting(command, arguments)
        }
        [other, ..] => Err(format!(
            "{other:?} is not a command of brctl: expected {}",
            BRCTL_COMMANDS.join(", ")
        )),
    }
}

/// Parses a command of brctl that changes one setting.
fn parse_brctl_setting(command: &str, arguments: &[&str]) -> Result<Request, String> {
    match (bridge_setting(command), port_setting(command), arguments) {
        (Some((field, form)), _, [bridge, value]) => {
            let mut set = nothing_of(&Some((*bridge).to_owned()));
            set.bridge
                .insert(field.into(), parse_form(command, form, value)?);
            Ok(Request::SetLink(set))
        }
        (_, Some((field, form)), [bridge, port, value]) => {
            let mut set = nothing_of(&Some((*port).to_owned()));
            set.port
                .insert(field.into(), parse_form(command, form, value)?);
            set.port_of = Some((*bridge).to_owned());
            Ok(Request::SetLink(set))
        }
        (is_bridge, is_port, _) => {
            let arguments = match command {
                "addif" | "delif" => "BRIDGE DEVICE",
                "stp" => "BRIDGE on|off",
                "hairpin" => "BRIDGE PORT on|off",
                "show" => "[BRIDGE]",
                _ if is_bridge.is_some() => "BRIDGE NUMBER",
                _ if is_port.is_some() => "BRIDGE PORT NUMBER",
                _ => "BRIDGE",
            };
            Err(format!("expected brctl {command} {arguments}"))
        }
    }
}

fn bridge_setting(command: &str) -> Option<(&'static str, Form)> {
    match command {
        "stp" => Some(("stp", Form::Flag)),
        "setageing" => Some(("ageing_time_s", Form::Seconds)),
        "setbridgeprio" => Some(("priority", Form::Number)),
        "setfd" => Some(("forward_delay_s", Form::Seconds)),
        "sethello" => Some(("hello_time_s", Form::Seconds)),
        "setmaxage" => Some(("max_age_s", Form::Seconds)),
        _ => None,
    }
}

fn port_setting(command: &str) -> Option<(&'static str, Form)> {
    match command {
        "setpathcost" => Some(("path_cost", Form::Number)),
        "setportprio" => Some(("priority", Form::Number)),
        "hairpin" => Some(("hairpin", Form::Flag)),
        _ => None,
    }
}

fn named(name: &str) -> DeviceWords {
    DeviceWords {
        name: Some(name.to_owned()),
        ..DeviceWords::default()
    }
}

fn set_master(port: &str, bridge: Option<&str>, port_of: Option<&str>) -> Request {
    Request::SetLink(SetLink {
        device: DeviceWords {
            master: Some(bridge.map(str::to_owned)),
            ..named(port)
        },
        port_of: port_of.map(str::to_owned),
        ..SetLink::default()
    })
}

/// A command line of `ip`, `bridge` or `brctl`.
pub struct CommandLine<'a> {
    /// The namespace of `-n`.
    pub netns: Option<&'a str>,
    /// The words for netnsctl: without the program `ip`, and without options.
    pub words: Vec<&'a str>,
    /// The request.
    pub request: Result<Request, String>,
}

/// Parses a command line; returns `None` for another program, or an object that netnsctl has no
/// word for.
pub fn parse_command_line(line: &[String]) -> Option<CommandLine<'_>> {
    let (program, mut rest) = line.split_first()?;
    let program = program.rsplit('/').next()?;
    let mut netns = None;
    while let [option, after @ ..] = rest
        && option.starts_with('-')
    {
        rest = after;
        if matches(option.trim_start_matches('-'), "netns") {
            let (name, after) = after.split_first()?;
            netns = Some(name.as_str());
            rest = after;
        }
    }
    let (object, after) = rest.split_first()?;
    let objects: &[(&str, Parser)] = match program {
        "ip" => &[
            ("address", parse_address),
            ("route", parse_route),
            ("rule", parse_rule),
            ("neighbour", parse_neighbour),
            ("neighbor", parse_neighbour),
            ("link", parse_link),
        ],
        "bridge" => &[("link", parse_bridge_link), ("fdb", parse_bridge_fdb)],
        "brctl" => &[],
        _ => return None,
    };
    let request = if program == "brctl" {
        parse_brctl(rest)
    } else {
        let (_, parser) = objects.iter().find(|(name, _)| matches(object, name))?;
        parser(after)
    };
    let program = (program != "ip").then_some(program);
    let words = program.into_iter().chain(rest.iter().map(String::as_str));
    Some(CommandLine {
        netns,
        words: words.collect(),
        request,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse_line(line: &str) -> Result<Request, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse_command_line(&words).expect(line).request
    }

    fn fields(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is not an object"),
        }
    }

    fn device(name: &str, value: Value) -> DeviceWords {
        DeviceWords {
            fields: fields(value),
            ..named(name)
        }
    }

    fn set(name: &str, value: Value) -> Request {
        Request::SetLink(SetLink {
            device: device(name, value),
            ..SetLink::default()
        })
    }

    fn set_bridge(name: &str, value: Value) -> Request {
        Request::SetLink(SetLink {
            device: named(name),
            bridge: fields(value),
            ..SetLink::default()
        })
    }

    fn set_port(name: &str, value: Value, port_of: Option<&str>) -> Request {
        Request::SetLink(SetLink {
            device: named(name),
            port: fields(value),
            port_of: port_of.map(str::to_owned),
            ..SetLink::default()
        })
    }

    fn show(list: Show) -> Request {
        Request::Show(list, Selection::default())
    }

    fn show_device(list: Show, name: &str) -> Request {
        let selection = Selection {
            device: Some(name.into()),
            ..Selection::default()
        };
        Request::Show(list, selection)
    }

    fn address(verb: Verb, cidr: &str, device: &str) -> Request {
        Request::EditDevice(
            Edit::Address(verb, cidr.parse::<Cidr>().unwrap().into()),
            device.into(),
        )
    }

    fn detailed(verb: Verb, value: Value) -> Request {
        let address = serde_json::from_value(value).unwrap();
        Request::EditDevice(Edit::Address(verb, address), "eth0".into())
    }

    fn route(verb: Verb, value: Value) -> Request {
        Request::EditNamespace(Edit::Route(verb, serde_json::from_value(value).unwrap()))
    }

    fn neighbour(verb: Verb, value: Value) -> Request {
        Request::EditNamespace(Edit::Neighbour(
            verb,
            serde_json::from_value(value).unwrap(),
        ))
    }

    /// Lines of the manual pages of iproute2 and bridge-utils, and of tutorials.
    #[test]
    fn lines_of_manual_pages_are_parsed() {
        let pair =
            |name: DeviceWords, peer: DeviceWords| Request::AddLink(name, NewLink::Veth(peer));
        let bridge = |name: DeviceWords, value: Value| {
            Request::AddLink(name, NewLink::Bridge(fields(value)))
        };
        let on = |name: &str, lower: &str| DeviceWords {
            lower: Some(lower.into()),
            ..named(name)
        };
        let in_netns = |words: DeviceWords, netns: &str| DeviceWords {
            netns: Some(netns.into()),
            ..words
        };
        let mac = "02:00:00:00:00:09";
        let entry = json!({"address": "10.0.0.9", "mac": mac, "interface": "eth0"});
        let default_route =
            json!({"destination": "default", "via": "192.168.1.1", "interface": "eth0"});
        for (line, expected) in [
            // ip-link(8)
            ("ip link", show(Show::Links)),
            ("ip l", show(Show::Links)),
            ("ip link show", show(Show::Links)),
            ("ip link ls", show(Show::Links)),
            ("ip -d link list dev eth0", show_device(Show::Links, "eth0")),
            ("ip link help gre", Request::Help),
            (
                "ip link set dev ppp0 mtu 1400",
                set("ppp0", json!({"mtu": 1400})),
            ),
            (
                "ip link delete dev eth0.10",
                Request::DeleteLink("eth0.10".into(), None),
            ),
            ("ip l d veth0", Request::DeleteLink("veth0".into(), None)),
            (
                "ip link del br0 type bridge",
                Request::DeleteLink("br0".into(), Some(DeviceType::Bridge)),
            ),
            (
                "ip link add veth0 type veth peer name veth1",
                pair(named("veth0"), named("veth1")),
            ),
            (
                "ip link add name veth0 type veth peer veth1",
                pair(named("veth0"), named("veth1")),
            ),
            (
                "ip link add type veth",
                pair(DeviceWords::default(), DeviceWords::default()),
            ),
            (
                "ip link add eth0 netns net0 type veth peer name eth0 netns net1",
                pair(
                    in_netns(named("eth0"), "net0"),
                    in_netns(named("eth0"), "net1"),
                ),
            ),
            (
                "ip link add veth0 mtu 1400 address 02:00:00:00:00:09 up type veth peer mtu 1400 name veth1",
                pair(
                    device("veth0", json!({"mtu": 1400, "mac": mac, "up": true})),
                    device("veth1", json!({"mtu": 1400})),
                ),
            ),
            (
                "ip link add br0 type bridge",
                bridge(named("br0"), json!({})),
            ),
            (
                "ip link add name br0 type bridge stp_state 1 ageing_time 30000 forward_delay 1500 vlan_filtering 1",
                bridge(
                    named("br0"),
                    json!({"stp": true, "ageing_time_s": 300.0, "forward_delay_s": 15.0, "vlan_filtering": true}),
                ),
            ),
            (
                "ip link add dummy0 type dummy",
                Request::AddLink(named("dummy0"), NewLink::Link(LinkType::Dummy, Map::new())),
            ),
            (
                "ip link add link eth0 name eth0.10 type vlan proto 802.1Q id 10",
                Request::AddLink(
                    on("eth0.10", "eth0"),
                    NewLink::Link(
                        LinkType::Vlan,
                        fields(json!({"vlan_id": 10, "protocol": "802.1q"})),
                    ),
                ),
            ),
            (
                "ip link add link eth0 mac0 type macvlan mode private",
                Request::AddLink(
                    on("mac0", "eth0"),
                    NewLink::Link(LinkType::Macvlan, fields(json!({"mode": "private"}))),
                ),
            ),
            (
                "ip link add vxlan0 type vxlan id 42 group 239.1.1.1 dev eth1 dstport 4789",
                Request::AddLink(
                    on("vxlan0", "eth1"),
                    NewLink::Link(
                        LinkType::Vxlan,
                        fields(json!({"vni": 42, "group": "239.1.1.1", "udp_port": 4789})),
                    ),
                ),
            ),
            (
                "ip link set dev veth0 alias uplink promisc on allmulticast off arp off",
                set(
                    "veth0",
                    json!({"alias": "uplink", "promiscuous": true, "allmulticast": false, "arp": false}),
                ),
            ),
            (
                "ip link set dev veth0 txqueuelen 50",
                set("veth0", json!({"txqueuelen": 50})),
            ),
            (
                "ip link set br0 type bridge mcast_snooping 0",
                set_bridge("br0", json!({"multicast_snooping": false})),
            ),
            (
                "ip link set br0 type bridge mcast_querier 1 mcast_query_interval 1250 group_fwd_mask 0x8",
                set_bridge(
                    "br0",
                    json!({"multicast_querier": true, "multicast_query_interval_s": 12.5, "group_fwd_mask": 8}),
                ),
            ),
            (
                "ip link set br0 type bridge vlan_protocol 802.1Q group_address 01:80:C2:00:00:0E",
                set_bridge(
                    "br0",
                    json!({"vlan_protocol": "802.1q", "group_addr": "01:80:c2:00:00:0e"}),
                ),
            ),
            ("ip link set veth0 up", set("veth0", json!({"up": true}))),
            ("ip l s veth0 down", set("veth0", json!({"up": false}))),
            (
                "ip link set dev veth0 name eth0",
                set("veth0", json!({"interface": "eth0"})),
            ),
            (
                "ip link set dev veth0 netns net0",
                Request::SetLink(SetLink {
                    device: in_netns(named("veth0"), "net0"),
                    ..SetLink::default()
                }),
            ),
            (
                "ip link set dev veth0 master br0",
                set_master("veth0", Some("br0"), None),
            ),
            (
                "ip link set veth0 nomaster",
                set_master("veth0", None, None),
            ),
            (
                "ip link set port0 type bridge_slave cost 4 fastleave on",
                set_port(
                    "port0",
                    json!({"path_cost": 4, "mcast_fast_leave": true}),
                    None,
                ),
            ),
            // ip-address(8)
            ("ip address show", show(Show::Addresses)),
            ("ip a", show(Show::Addresses)),
            ("ip addr show eth0", show_device(Show::Addresses, "eth0")),
            (
                "ip address show up",
                Request::Show(
                    Show::Addresses,
                    Selection {
                        up: true,
                        ..Selection::default()
                    },
                ),
            ),
            (
                "ip address add 2001:0db8:85a3::0370:7334/64 dev eth1",
                address(Verb::Add, "2001:db8:85a3::370:7334/64", "eth1"),
            ),
            (
                "ip address delete 2001:0db8:85a3::0370:7334/64 dev eth1",
                address(Verb::Delete, "2001:db8:85a3::370:7334/64", "eth1"),
            ),
            (
                "ip a a 10.0.0.1/24 brd + dev eth0",
                detailed(
                    Verb::Add,
                    json!({"address": "10.0.0.1/24", "broadcast": "10.0.0.255"}),
                ),
            ),
            (
                "ip addr add 10.0.0.1/24 broadcast 10.0.0.7 dev eth0 scope global label eth0:1",
                detailed(
                    Verb::Add,
                    json!({"address": "10.0.0.1/24", "broadcast": "10.0.0.7", "label": "eth0:1"}),
                ),
            ),
            (
                "ip addr change local 10.0.0.1 peer 10.0.0.2/30 metric 5 brd - dev eth0",
                detailed(
                    Verb::Change,
                    json!({"address": "10.0.0.1/32", "peer": "10.0.0.2/30", "metric": 5}),
                ),
            ),
            (
                "ip addr replace 10.0.0.1 dev eth0",
                address(Verb::Replace, "10.0.0.1/32", "eth0"),
            ),
            (
                "ip address flush dev eth4 scope global",
                Request::FlushAddresses(
                    "eth4".into(),
                    Selection {
                        device: Some("eth4".into()),
                        scope: Some("global".into()),
                        ..Selection::default()
                    },
                ),
            ),
            // ip-route(8)
            ("ip ro", show(Show::Routes)),
            ("ip -n net0 r s", show(Show::Routes)),
            (
                "ip route add default via 192.168.1.1 dev eth0",
                route(Verb::Add, default_route.clone()),
            ),
            (
                "ip route replace to default via 192.168.1.1 dev eth0",
                route(Verb::Replace, default_route),
            ),
            (
                "ip -6 route add 2001:db8::/32 via fe80::1 dev eth0 metric 5",
                route(
                    Verb::Add,
                    json!({"destination": "2001:db8::/32", "via": "fe80::1", "interface": "eth0", "metric": 5}),
                ),
            ),
            (
                "ip route del default",
                Request::EditNamespace(Edit::DeleteRoute(
                    fields(json!({"destination": "default"})),
                    None,
                )),
            ),
            (
                "ip route show table 100",
                Request::Show(
                    Show::Routes,
                    Selection {
                        table: Some(Table::Id(100)),
                        ..Selection::default()
                    },
                ),
            ),
            (
                "ip route list root 10.0.0.0/8 proto static",
                Request::Show(
                    Show::Routes,
                    Selection {
                        destination: Some(DestinationFilter {
                            relation: Relation::Root,
                            network: "10.0.0.0/8".parse().ok(),
                        }),
                        protocol: Some("static".into()),
                        ..Selection::default()
                    },
                ),
            ),
            (
                "ip route flush to match 10.0.0.1 table all",
                Request::FlushRoutes(Selection {
                    destination: Some(DestinationFilter {
                        relation: Relation::Match,
                        network: "10.0.0.1/32".parse().ok(),
                    }),
                    table: Some(Table::All),
                    ..Selection::default()
                }),
            ),
            // ip-neighbour(8)
            ("ip rule", show(Show::Rules)),
            ("ip ru ls", show(Show::Rules)),
            (
                "ip rule del pref 5",
                Request::EditNamespace(Edit::DeleteRule(fields(json!({"priority": 5})), None)),
            ),
            (
                "ip rule flush",
                Request::EditNamespace(Edit::FlushRules(None)),
            ),
            ("ip neighbour", show(Show::Neighbours)),
            ("ip n", show(Show::Neighbours)),
            (
                "ip neigh show dev eth0",
                show_device(Show::Neighbours, "eth0"),
            ),
            (
                "ip neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
                neighbour(Verb::Add, entry.clone()),
            ),
            (
                "ip n r 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0",
                neighbour(Verb::Replace, entry),
            ),
            (
                "ip neigh del 10.0.0.9 dev eth0",
                Request::EditNamespace(Edit::DeleteNeighbour(
                    "10.0.0.9".parse().unwrap(),
                    "eth0".parse().unwrap(),
                    false,
                )),
            ),
            (
                "ip neigh add proxy 10.0.0.9 dev eth0",
                Request::EditNamespace(Edit::Neighbour(
                    Verb::Add,
                    typed(fields(
                        json!({"address": "10.0.0.9", "interface": "eth0", "proxy": true}),
                    ))
                    .unwrap(),
                )),
            ),
            (
                "ip neigh flush dev eth0 nud permanent",
                Request::FlushNeighbours(Selection {
                    device: Some("eth0".into()),
                    state: Some("permanent".into()),
                    ..Selection::default()
                }),
            ),
            // bridge(8)
            ("bridge link", show(Show::Ports)),
            (
                "bridge link show dev port0",
                show_device(Show::Ports, "port0"),
            ),
            ("bridge fdb show", show(Show::Fdb)),
            (
                "bridge fdb show br br0",
                Request::Show(
                    Show::Fdb,
                    Selection {
                        master: Some("br0".into()),
                        ..Selection::default()
                    },
                ),
            ),
            (
                "bridge link set dev port0 hairpin on guard off root_block on",
                set_port(
                    "port0",
                    json!({"hairpin": true, "bpdu_guard": false, "root_block": true}),
                    None,
                ),
            ),
            // brctl(8)
            ("brctl addbr br0", bridge(named("br0"), json!({}))),
            (
                "brctl delbr br0",
                Request::DeleteLink("br0".into(), Some(DeviceType::Bridge)),
            ),
            (
                "brctl addif br0 port0",
                set_master("port0", Some("br0"), None),
            ),
            (
                "brctl delif br0 port0",
                set_master("port0", None, Some("br0")),
            ),
            ("brctl show", show(Show::Bridges)),
            ("brctl stp br0 on", set_bridge("br0", json!({"stp": true}))),
            (
                "brctl setageing br0 60.5",
                set_bridge("br0", json!({"ageing_time_s": 60.5})),
            ),
            (
                "brctl setbridgeprio br0 4096",
                set_bridge("br0", json!({"priority": 4096})),
            ),
            (
                "brctl setpathcost br0 port0 4",
                set_port("port0", json!({"path_cost": 4}), Some("br0")),
            ),
            (
                "brctl hairpin br0 port0 off",
                set_port("port0", json!({"hairpin": false}), Some("br0")),
            ),
        ] {
            assert_eq!(parse_line(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn lines_that_cannot_be_recorded_are_refused() {
        for (line, text) in [
            (
                "ip link add link eth0 name mv0 type macvtap",
                "type macvtap is not managed by netnsd yet; managed types: veth, bridge",
            ),
            (
                "ip link add link eth0 name d0 type dummy",
                "a dummy is on no other device: leave link out",
            ),
            (
                "ip link add vx0 type vxlan id 5 external",
                "external of type vxlan is not managed by netnsd: expected id, vni",
            ),
            (
                "ip link add name tun1 type ipip remote 192.168.1.1",
                "type ipip",
            ),
            (
                "ip link add d0 type dummy numtxqueues 2",
                "after type dummy",
            ),
            ("ip link add veth0", "needs a type"),
            ("ip link add type bridge", "needs a name"),
            (
                "ip link add veth0 type veth veth1",
                "expected peer name NAME",
            ),
            (
                "ip link add br0 type bridge mcast_stats_enabled 1",
                "mcast_stats_enabled of type bridge",
            ),
            ("ip link set veth0", "needs a change"),
            ("ip link set", "needs a device"),
            ("ip link set veth0 mtu", "mtu needs a value"),
            ("ip link set veth0 mtu big", "mtu \"big\""),
            ("ip link set veth0 address 1:2", "address \"1:2\""),
            ("ip link set veth0 color red", "unknown word \"color\""),
            ("ip link net0", "netnsctl -n net0 link"),
            ("ip link delete", "needs a device"),
            ("ip addr add 10.0.0.1/24", "a device is missing"),
            ("ip addr add dev eth0", "an address is missing"),
            ("ip addr add 10.0.0.1/33 dev eth0", "33"),
            (
                "ip addr add 10.0.0.1/24 dev eth0 autojoin",
                "autojoin of an address",
            ),
            ("ip addr add 10.0.0.1/24 metric x dev eth0", "metric \"x\""),
            (
                "ip addr add 10.0.0.1/24 brd x dev eth0",
                "\"x\" is not an IP address",
            ),
            (
                "ip addr flush dev eth0 10.0.0.1/24",
                "unknown filter \"10.0.0.1/24\": expected dev, to, scope or permanent",
            ),
            ("ip addr flush to 10.0.0.0/8", "a device is missing"),
            ("ip route flush", "route flush needs a filter"),
            ("ip route flush proto static", "unknown filter \"proto\""),
            (
                "ip route show table local",
                "table local is the kernel's own",
            ),
            ("ip neigh show nud asleep", "nud \"asleep\" is not a state"),
            ("ip route add 10.1.1.0/30 nhid 10", "nhid"),
            (
                "ip route add 10.1.1.0/30 encap mpls 200/300 via 10.1.1.1 dev eth0",
                "encap",
            ),
            ("ip route add default via 10.0.0.300", "10.0.0.300"),
            (
                "ip route get 10.0.0.1",
                "netnsctl does not do route get: netnsctl netns exec NAME ip route get 10.0.0.1",
            ),
            ("ip neigh add 10.0.0.9 dev eth0", "lladdr MAC is missing"),
            (
                "ip neigh flush dev eth0",
                "neigh flush dev DEVICE nud permanent",
            ),
            ("ip rule add from 10.0.0.0/8 table 7", "priority is missing"),
            ("ip rule del", "a rule is missing"),
            ("ip rule flush table 7", "removes all recorded rules"),
            (
                "ip neighbour get 10.0.1.10 dev eth0",
                "netnsctl does not do neigh get",
            ),
            ("bridge link set dev port0 state 0", "state of bridge link"),
            ("brctl addif br0", "expected brctl addif BRIDGE DEVICE"),
            ("brctl stp br0 maybe", "maybe"),
            ("brctl setgcint br0 4", "not a command of brctl"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.contains(text), "{line}: {error}");
        }
    }
}
