//! Routes.

use std::{borrow::Cow, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Address, Code, Destination, FieldError, InterfaceName, MIN_IPV6_MTU, is_link_local,
    kinds::checks::{check_count, check_unique},
    string_enum::string_enum,
};

/// Maximum number of next hops of a route.
const MAX_NEXT_HOPS: usize = 128;
/// Minimum MTU of an IPv4 link (RFC 791).
const MIN_IPV4_MTU: u32 = 68;
/// Maximum MTU and MSS of a route; the kernel lowers greater ones to these
/// (`ip_metrics_convert()`, net/ipv4/metrics.c).
const MAX_ROUTE_MTU: u32 = 65_520;
const MAX_ROUTE_MSS: u32 = 65_495;
/// Maximum weight of a next hop: `rtnh_hops` is one byte, and one less (linux/rtnetlink.h).
const MAX_WEIGHT: u16 = 256;

/// The main routing table (`RT_TABLE_MAIN`, linux/rtnetlink.h).
pub const RT_TABLE_MAIN: u32 = 254;

/// The table `default` (`RT_TABLE_DEFAULT`, linux/rtnetlink.h).
pub const RT_TABLE_DEFAULT: u32 = 253;

/// The table of local addresses (`RT_TABLE_LOCAL`, linux/rtnetlink.h), which the kernel looks at
/// first and keeps its own routes to local addresses in.
pub const RT_TABLE_LOCAL: u32 = 255;

/// Metric of an IPv6 route that was added without one (`IP6_RT_PRIO_USER`, linux/ipv6_route.h).
pub const IP6_RT_PRIO_USER: u32 = 1024;

/// Returns the metric that the kernel gives to a route without one.
pub fn default_metric(is_ipv6: bool) -> u32 {
    if is_ipv6 { IP6_RT_PRIO_USER } else { 0 }
}

/// A route (`ip-route(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The destination.
    pub destination: Destination,
    /// The gateway.
    #[serde(default)]
    pub via: Option<Address>,
    /// The output device; null: the device on whose link the gateway is. Of a local route it is
    /// `lo` if it is null.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
    /// Several next hops, instead of `via` and `interface`: each gets its share of the flows.
    #[serde(default)]
    #[schema(max_items = 128)]
    pub nexthops: Vec<NextHop>,
    /// The metric (priority); null: the kernel's default, 0 for IPv4 and 1024 for IPv6.
    #[serde(default)]
    pub metric: Option<u32>,
    /// The routing table; 254 is `main`.
    #[serde(default = "main_table")]
    #[schema(minimum = 1)]
    pub table: u32,
    /// The preferred source address.
    #[serde(default)]
    pub source: Option<Address>,
    /// The type of the route.
    #[serde(default, rename = "type")]
    pub kind: RouteType,
    /// True if the gateway is taken as reachable on `interface`, whatever its addresses are.
    #[serde(default)]
    pub onlink: bool,
    /// The path MTU in bytes; null: that of the device.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The maximum segment size that TCP advertises; null: by the MTU.
    #[serde(default)]
    pub advmss: Option<u32>,
    /// TCP's initial congestion window in segments; null: the kernel's default.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub initcwnd: Option<u32>,
}

/// Returns next hops in the words of ip-route(8).
pub fn format_next_hops(hops: &[NextHop]) -> String {
    let format = |hop: &NextHop| {
        let via = hop.via.map(|via| format!(" via {via}"));
        let device = hop.interface.as_ref().map(|name| format!(" dev {name}"));
        let words = [via, device].map(Option::unwrap_or_default).concat();
        format!(" nexthop{words} weight {}", hop.weight)
    };
    hops.iter().map(format).collect()
}

/// One of several next hops of a route (`nexthop` in ip-route(8)).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NextHop {
    /// The gateway.
    #[serde(default)]
    pub via: Option<Address>,
    /// The output device; null: the device on whose link the gateway is.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
    /// Its share of the flows, as against the others.
    #[serde(default = "default_weight")]
    #[schema(minimum = 1, maximum = 256)]
    pub weight: u16,
}

fn default_weight() -> u16 {
    1
}

impl NextHop {
    /// Returns true if its gateway has an IPv6 address.
    pub fn is_ipv6(&self) -> bool {
        self.via.is_some_and(|via| via.0.is_ipv6())
    }

    /// Returns true if the kernel's next hop fulfils this one: it also has the device that the
    /// kernel has chosen.
    fn is_fulfilled_by(&self, known: &Self) -> bool {
        (self.via, self.weight) == (known.via, known.weight)
            && (self.interface.is_none() || self.interface == known.interface)
    }
}

fn main_table() -> u32 {
    RT_TABLE_MAIN
}

string_enum! {
    /// Types of routes (`RTN_…`, `linux/rtnetlink.h`).
    #[derive(Default)]
    #[serde(rename_all = "lowercase")]
    pub enum RouteType as "a route type" {
        /// Packets are forwarded.
        #[default]
        Unicast = "unicast",
        /// Packets are dropped silently.
        Blackhole = "blackhole",
        /// Packets are dropped with "host unreachable".
        Unreachable = "unreachable",
        /// Packets are dropped with "administratively prohibited".
        Prohibit = "prohibit",
        /// The lookup goes on with the next rule.
        Throw = "throw",
        /// Packets are for this network namespace itself.
        Local = "local",
    }
}

impl RouteType {
    /// Returns true for a type without next hop: its lookup ends in an error (`fib_props`,
    /// net/ipv4/fib_semantics.c).
    pub fn is_error(self) -> bool {
        match self {
            RouteType::Unicast | RouteType::Local => false,
            RouteType::Blackhole
            | RouteType::Unreachable
            | RouteType::Prohibit
            | RouteType::Throw => true,
        }
    }
}

impl Route {
    /// Returns true for an IPv6 route: by its destination, or for `default` by its gateway or
    /// source.
    pub fn is_ipv6(&self) -> bool {
        match self.destination {
            Destination::Net(net) => net.addr().is_ipv6(),
            Destination::Default => self
                .via
                .or(self.source)
                .or_else(|| self.nexthops.iter().find_map(|hop| hop.via))
                .is_some_and(|address| address.0.is_ipv6()),
        }
    }

    /// Returns the next hops; one of `via` and `interface` if there are not several.
    pub fn hops(&self) -> Cow<'_, [NextHop]> {
        if self.nexthops.is_empty() {
            Cow::Owned(vec![NextHop {
                via: self.via,
                interface: self.interface.clone(),
                weight: 1,
            }])
        } else {
            Cow::Borrowed(&self.nexthops)
        }
    }

    /// Returns the route with these next hops: one of them is `via` and `interface`, as the kernel
    /// has it.
    pub fn with_hops(&self, mut hops: Vec<NextHop>) -> Self {
        let (mut via, mut interface) = (None, None);
        if let [hop] = &mut hops[..] {
            (via, interface) = (hop.via, hop.interface.take());
            hops.clear();
        }
        Self {
            via,
            interface,
            nexthops: hops,
            ..self.clone()
        }
    }

    /// Returns true if the next hops of a route in the kernel are those of this one, in any order.
    pub fn has_hops_of(&self, known: &Self) -> bool {
        let (hops, known) = (self.hops(), known.hops());
        let mut left: Vec<&NextHop> = known.iter().collect();
        hops.len() == known.len()
            && hops.iter().all(|hop| {
                let place = left.iter().position(|known| hop.is_fulfilled_by(known));
                place.map(|place| left.swap_remove(place)).is_some()
            })
    }

    /// Returns the metric in effect: the kernel's default where none was given.
    pub fn effective_metric(&self) -> u32 {
        match self.metric {
            // The kernel takes an IPv6 metric of 0 for "the default".
            None | Some(0) if self.is_ipv6() => IP6_RT_PRIO_USER,
            other => other.unwrap_or(0),
        }
    }

    /// Returns the fields by which the kernel tells two routes apart.
    pub fn key(&self) -> (ipnet::IpNet, u32, u32) {
        (
            self.destination.net(self.is_ipv6()),
            self.table,
            self.effective_metric(),
        )
    }

    /// Validates what needs more than one field.
    ///
    /// # Errors
    /// The first field that is wrong, with its pointer from the route.
    pub(crate) fn check(&self) -> Result<(), FieldError> {
        if self.table == 0 {
            return Err(invalid(
                "table",
                format!("0 is not a routing table: the main table is {RT_TABLE_MAIN}"),
            ));
        }
        self.check_next_hop()?;
        self.check_addresses()?;

        for (i, hop) in self.hops().iter().enumerate() {
            if let Some(via) = hop.via
                && is_link_local(via.0)
                && hop.interface.is_none()
            {
                return Err(self.at_hop(
                    i,
                    "interface",
                    format!("the gateway {via} is link-local: it needs an interface"),
                ));
            }
            if self.onlink && (hop.via.is_none() || hop.interface.is_none()) {
                return Err(invalid(
                    "onlink",
                    "onlink needs both via and interface of each next hop",
                ));
            }
        }
        self.check_metrics()
    }

    /// Returns an error of a field of a next hop.
    fn at_hop(&self, index: usize, field: &str, detail: impl Into<String>) -> FieldError {
        let error = invalid(field, detail);
        if self.nexthops.is_empty() {
            error
        } else {
            error.below(&["nexthops", &index.to_string()])
        }
    }

    fn check_metrics(&self) -> Result<(), FieldError> {
        let min_mtu = if self.is_ipv6() {
            MIN_IPV6_MTU
        } else {
            MIN_IPV4_MTU
        };
        let metrics: [(&str, Option<u32>, RangeInclusive<u32>); 3] = [
            ("mtu", self.mtu, min_mtu..=MAX_ROUTE_MTU),
            ("advmss", self.advmss, 1..=MAX_ROUTE_MSS),
            ("initcwnd", self.initcwnd, 1..=u32::MAX),
        ];
        for (field, value, range) in metrics {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                return Err(invalid(
                    field,
                    format!(
                        "{value} is out of range: {field} of this route is from {} to {}",
                        range.start(),
                        range.end()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Checks that a unicast route has a next hop, and that any other has none.
    fn check_next_hop(&self) -> Result<(), FieldError> {
        if !self.nexthops.is_empty() {
            return self.check_next_hops();
        }
        match self.kind {
            RouteType::Unicast => {
                if self.via.is_none() && self.interface.is_none() {
                    return Err(invalid(
                        "via",
                        "a unicast route needs via (its gateway), interface, or both",
                    ));
                }
            }
            RouteType::Local => {
                if self.via.is_some() {
                    return Err(invalid(
                        "via",
                        "a local route has no gateway: leave via out",
                    ));
                }
            }
            kind @ (RouteType::Blackhole
            | RouteType::Unreachable
            | RouteType::Prohibit
            | RouteType::Throw) => {
                if self.via.is_some() {
                    return Err(invalid(
                        "via",
                        format!("a {kind} route has no gateway: leave via out"),
                    ));
                }
                if self.interface.is_some() {
                    return Err(invalid(
                        "interface",
                        format!("a {kind} route has no interface: leave it out"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks the list of several next hops.
    fn check_next_hops(&self) -> Result<(), FieldError> {
        check_count("nexthops", self.nexthops.len(), MAX_NEXT_HOPS)?;
        if self.kind != RouteType::Unicast {
            return Err(invalid(
                "nexthops",
                format!("a {} route has no next hops: leave them out", self.kind),
            ));
        }
        for (field, is_given) in [
            ("via", self.via.is_some()),
            ("interface", self.interface.is_some()),
        ] {
            if is_given {
                return Err(invalid(
                    field,
                    format!("{field} and nexthops exclude each other: give it in nexthops"),
                ));
            }
        }
        if self.nexthops.len() == 1 {
            return Err(invalid(
                "nexthops",
                "one next hop is written as via and interface of the route",
            ));
        }
        for (i, hop) in self.nexthops.iter().enumerate() {
            if hop.via.is_none() && hop.interface.is_none() {
                return Err(self.at_hop(
                    i,
                    "via",
                    "a next hop needs via (its gateway), interface, or both",
                ));
            }
            if !(1..=MAX_WEIGHT).contains(&hop.weight) {
                return Err(self.at_hop(
                    i,
                    "weight",
                    format!("{} is not a weight: 1 to {MAX_WEIGHT}", hop.weight),
                ));
            }
        }
        let names = self.nexthops.iter().map(|hop| {
            let name = hop
                .via
                .map(|via| via.to_string())
                .or_else(|| hop.interface.as_ref().map(ToString::to_string));
            ((hop.via, &hop.interface), name.unwrap_or_default())
        });
        check_unique("nexthops", names)
    }

    /// Checks the family of the addresses, and that they are those of hosts.
    fn check_addresses(&self) -> Result<(), FieldError> {
        let is_ipv6 = self.is_ipv6();
        for (i, hop) in self.hops().iter().enumerate() {
            check_address(hop.via, is_ipv6).map_err(|detail| self.at_hop(i, "via", detail))?;
        }
        check_address(self.source, is_ipv6).map_err(|detail| invalid("source", detail))
    }
}

/// Checks the family of an address, and that it is that of a host.
fn check_address(address: Option<Address>, is_ipv6: bool) -> Result<(), String> {
    let Some(address) = address else {
        return Ok(());
    };
    if address.0.is_ipv6() != is_ipv6 {
        return Err(format!(
            "\"{address}\" is {}, the route is {}: both must be of one family",
            family_name(!is_ipv6),
            family_name(is_ipv6)
        ));
    }
    address.check_host()
}

fn invalid(field: &str, detail: impl Into<String>) -> FieldError {
    FieldError::at(Code::InvalidField, &[field], detail)
}

fn family_name(is_ipv6: bool) -> &'static str {
    if is_ipv6 { "IPv6" } else { "IPv4" }
}
