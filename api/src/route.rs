//! Routes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Address, Code, Destination, FieldError, InterfaceName, is_link_local, string_enum::string_enum,
};

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
    /// The output device; null: the device on whose link the gateway is.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
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
                .is_some_and(|address| address.0.is_ipv6()),
        }
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

        if let Some(via) = self.via
            && is_link_local(via.0)
            && self.interface.is_none()
        {
            return Err(invalid(
                "interface",
                format!("the gateway {via} is link-local: it needs an interface"),
            ));
        }
        if self.onlink && (self.via.is_none() || self.interface.is_none()) {
            return Err(invalid("onlink", "onlink needs both via and interface"));
        }
        Ok(())
    }

    /// Checks that a unicast route has a next hop, and that any other has none.
    fn check_next_hop(&self) -> Result<(), FieldError> {
        match self.kind {
            RouteType::Unicast => {
                if self.via.is_none() && self.interface.is_none() {
                    return Err(invalid(
                        "via",
                        "a unicast route needs via (its gateway), interface, or both",
                    ));
                }
            }
            kind @ (RouteType::Blackhole | RouteType::Unreachable | RouteType::Prohibit) => {
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

    /// Checks the family of the addresses, and that they are those of hosts.
    fn check_addresses(&self) -> Result<(), FieldError> {
        let is_ipv6 = self.is_ipv6();
        for (field, address) in [("via", self.via), ("source", self.source)] {
            let Some(address) = address else { continue };
            if address.0.is_ipv6() != is_ipv6 {
                return Err(invalid(
                    field,
                    format!(
                        "\"{address}\" is {}, the route is {}: both must be of one family",
                        family_name(!is_ipv6),
                        family_name(is_ipv6)
                    ),
                ));
            }
            address
                .check_host()
                .map_err(|detail| invalid(field, detail))?;
        }
        Ok(())
    }
}

fn invalid(field: &str, detail: impl Into<String>) -> FieldError {
    FieldError::at(Code::InvalidField, &[field], detail)
}

fn family_name(is_ipv6: bool) -> &'static str {
    if is_ipv6 { "IPv6" } else { "IPv4" }
}
