//! Filters of lists in the words of ip(8): `dev eth0`, `table 100`, `to 10.0.0.0/8`.

use netnsd_api::{Cidr, LiveRoute, NextHop, RT_TABLE_MAIN, Route};

/// Filters of a list; an entry is selected if it passes all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only of this device.
    pub device: Option<String>,
    /// Only links, or routes, of this type.
    pub kind: Option<String>,
    /// Only ports of this bridge.
    pub master: Option<String>,
    /// Only links that are up.
    pub up: bool,
    /// Only addresses in this network.
    pub network: Option<Cidr>,
    /// Only addresses, or routes, of this scope.
    pub scope: Option<String>,
    /// Only addresses that do not expire, or only those that do.
    pub permanent: Option<bool>,
    /// Only neighbours in this state.
    pub state: Option<String>,
    /// Only routes to this destination.
    pub destination: Option<DestinationFilter>,
    /// Only routes of this table, or of all tables; the main table if `None`.
    pub table: Option<Table>,
    /// Only routes of this origin.
    pub protocol: Option<String>,
    /// Only routes by this gateway.
    pub via: Option<String>,
    /// Only routes with this source address.
    pub source: Option<String>,
}

/// A choice of routing tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Every table.
    All,
    /// One table.
    Id(u32),
}

/// A relation between the destination of a route and a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It is the network.
    Exact,
    /// It lies in the network.
    Root,
    /// It contains the network.
    Match,
}

/// A filter of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestinationFilter {
    pub relation: Relation,
    /// The network; `None`: `default`.
    pub network: Option<Cidr>,
}

impl DestinationFilter {
    /// Returns true if a destination is selected; `None` is `default`.
    fn selects(&self, destination: Option<Cidr>, is_ipv6: bool) -> bool {
        match (self.relation, self.network, destination) {
            (Relation::Root, None, _) | (Relation::Exact | Relation::Match, None, None) => true,
            (Relation::Exact | Relation::Match, None, Some(_))
            | (Relation::Exact | Relation::Root, Some(_), None) => false,
            (Relation::Match, Some(network), None) => network.0.addr().is_ipv6() == is_ipv6,
            (Relation::Exact, Some(network), Some(destination)) => network == destination,
            (Relation::Root, Some(network), Some(destination)) => {
                network.0.contains(&destination.0)
            }
            (Relation::Match, Some(network), Some(destination)) => {
                destination.0.contains(&network.0)
            }
        }
    }
}

/// The fields of a route by which it is selected.
pub struct RouteFields<'a> {
    /// `None`: `default`.
    destination: Option<Cidr>,
    is_ipv6: bool,
    table: u32,
    kind: &'a str,
    device: Option<String>,
    via: Option<String>,
    source: Option<String>,
    /// Protocol and scope, which the kernel knows.
    live: Option<(&'a str, &'a str)>,
}

impl<'a> RouteFields<'a> {
    /// Returns those of a route of the kernel.
    pub fn of_live(route: &'a LiveRoute) -> Self {
        Self {
            destination: route.destination.parse().ok(),
            is_ipv6: is_ipv6(route),
            table: route.table,
            kind: &route.kind,
            device: route.interface.clone(),
            via: route.via.clone(),
            source: route.source.clone(),
            live: Some((&route.protocol, &route.scope)),
        }
    }

    /// Returns those of a recorded route.
    pub fn of_recorded(route: &'a Route) -> Self {
        Self {
            destination: route.destination.to_string().parse().ok(),
            is_ipv6: route.is_ipv6(),
            table: route.table,
            kind: route.kind.as_str(),
            device: route.interface.as_ref().map(ToString::to_string),
            via: route.via.map(|via| via.to_string()),
            source: route.source.map(|source| source.to_string()),
            live: None,
        }
    }
}

/// Returns true for an IPv6 route; a default route shows its family only by its gateway, or the
/// kernel's metric.
pub fn is_ipv6(route: &LiveRoute) -> bool {
    if route.destination != "default" {
        return route.destination.contains(':');
    }
    match route.via.as_ref().or(route.source.as_ref()) {
        Some(address) => address.contains(':'),
        None if !route.nexthops.is_empty() => route.nexthops.iter().any(NextHop::is_ipv6),
        None => route.metric >= 256,
    }
}

/// Returns true if there is no filter, or it is this value.
fn passes(filter: &Option<String>, value: Option<&str>) -> bool {
    filter
        .as_ref()
        .is_none_or(|filter| Some(filter.as_str()) == value)
}

impl Selection {
    /// Returns true if a device is selected.
    pub fn selects_device(&self, device: &str) -> bool {
        passes(&self.device, Some(device))
    }

    /// Returns true if a link of this type, with this master, is selected.
    pub fn selects_link(&self, kind: Option<&str>, master: Option<&str>, is_up: bool) -> bool {
        passes(&self.kind, kind) && passes(&self.master, master) && (!self.up || is_up)
    }

    /// Returns true if there are filters of addresses.
    pub fn filters_addresses(&self) -> bool {
        self.network.is_some() || self.scope.is_some() || self.permanent.is_some()
    }

    /// Returns true if an address, with or without a prefix length, is in the selected network.
    pub fn selects_network(&self, address: &str) -> bool {
        let address = address.split('/').next().unwrap_or_default();
        self.network.is_none_or(|network| {
            address
                .parse()
                .is_ok_and(|address: std::net::IpAddr| network.0.contains(&address))
        })
    }

    /// Returns true if an address of this scope is selected.
    pub fn selects_scope(&self, scope: &str, is_permanent: bool) -> bool {
        passes(&self.scope, Some(scope)) && self.permanent.is_none_or(|it| it == is_permanent)
    }

    /// Returns true if a neighbour in this state is selected.
    pub fn selects_state(&self, state: &str) -> bool {
        passes(&self.state, Some(state))
    }

    /// Returns true if a route is selected.
    pub fn selects_route(&self, route: &RouteFields<'_>) -> bool {
        let table = self.table.unwrap_or(Table::Id(RT_TABLE_MAIN));
        let destination = self.destination.as_ref();
        (table == Table::All || table == Table::Id(route.table))
            && destination.is_none_or(|filter| filter.selects(route.destination, route.is_ipv6))
            && passes(&self.device, route.device.as_deref())
            && passes(&self.kind, Some(route.kind))
            && passes(&self.via, route.via.as_deref())
            && passes(&self.source, route.source.as_deref())
            && route.live.is_none_or(|(protocol, scope)| {
                passes(&self.protocol, Some(protocol)) && passes(&self.scope, Some(scope))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_selected_as_by_ip() {
        let selects = |relation, network: &str, destination: &str| {
            let filter = DestinationFilter {
                relation,
                network: network.parse().ok(),
            };
            filter.selects(destination.parse().ok(), destination.contains(':'))
        };
        for (relation, network, destination, expected) in [
            (Relation::Exact, "10.0.0.0/8", "10.0.0.0/8", true),
            (Relation::Exact, "10.0.0.0/8", "10.1.0.0/16", false),
            (Relation::Exact, "default", "default", true),
            (Relation::Exact, "default", "10.0.0.0/8", false),
            (Relation::Root, "10.0.0.0/8", "10.1.0.0/16", true),
            (Relation::Root, "10.1.0.0/16", "10.0.0.0/8", false),
            (Relation::Root, "10.0.0.0/8", "default", false),
            (Relation::Root, "10.0.0.0/8", "fd00::/8", false),
            (Relation::Match, "10.1.0.1/32", "10.1.0.0/16", true),
            (Relation::Match, "10.1.0.1/32", "default", true),
            (Relation::Match, "10.1.0.1/32", "10.2.0.0/16", false),
        ] {
            assert_eq!(
                selects(relation, network, destination),
                expected,
                "{relation:?} {network}: {destination}"
            );
        }
    }
}
