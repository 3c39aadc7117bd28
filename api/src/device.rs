//! Fields that every network device has, in specifications and in what the kernel reports.

use crate::{
    AltName, Code, FieldError, InterfaceAddress, MIN_IPV6_MTU,
    kinds::checks::{check_count, check_unique},
};

/// Maximum number of addresses of a device.
const MAX_ADDRESSES: usize = 1024;
/// Maximum length of an alias, in bytes (`IFALIASZ - 1`, linux/if.h).
const MAX_ALIAS: usize = 255;
/// Maximum number of alternative names of a device.
const MAX_ALTNAMES: usize = 64;

/// Defines the specification of a device: its own first fields, the fields of every device, then
/// the rest of its own.
///
/// `#[serde(flatten)]` would give up `deny_unknown_fields`.
macro_rules! device_spec {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($first:tt)*
        } + device {
            $($rest:tt)*
        }
    ) => {
        #[derive(
            Debug,
            Clone,
            PartialEq,
            Eq,
            ::serde::Serialize,
            ::serde::Deserialize,
            ::utoipa::ToSchema,
        )]
        #[serde(deny_unknown_fields)]
        $(#[$meta])*
        pub struct $name {
            $($first)*
            /// MAC address; null: a persistent one chosen by netnsd, shown by
            /// `status.observed.mac`.
            #[serde(default)]
            pub mac: Option<$crate::Mac>,
            /// MTU in bytes, 68 to 65535; null: the kernel's choice.
            #[serde(default)]
            #[schema(minimum = 68, maximum = 65535)]
            pub mtu: Option<u32>,
            /// True if the device is set up.
            #[serde(default = "crate::kinds::enabled")]
            pub up: bool,
            /// IP addresses of the device.
            #[serde(default)]
            #[schema(max_items = 1024)]
            pub addresses: Vec<$crate::InterfaceAddress>,
            /// Length of the transmit queue, in packets; null: the kernel's choice.
            #[serde(default)]
            pub txqueuelen: Option<u32>,
            /// Text that ip-link(8) shows as `alias`, 1 to 255 bytes; null: none.
            #[serde(default)]
            #[schema(min_length = 1, max_length = 255)]
            pub alias: Option<String>,
            /// Alternative names; those that others gave the device stay.
            #[serde(default)]
            #[schema(max_items = 64)]
            pub altnames: Vec<$crate::AltName>,
            /// True if the device receives all frames (`IFF_PROMISC`); false leaves it to others.
            #[serde(default)]
            pub promiscuous: bool,
            /// True if the device receives all multicast frames (`IFF_ALLMULTI`); false leaves it to
            /// others.
            #[serde(default)]
            pub allmulticast: bool,
            /// False if the device does no ARP (`IFF_NOARP`); true leaves it to the kernel.
            #[serde(default = "crate::kinds::enabled")]
            pub arp: bool,
            $($rest)*
        }

        impl $name {
            /// Validates the fields of every device; `name` is that of its interface, empty if
            /// netnsd chooses it.
            fn check_device(&self, name: &str) -> Result<(), $crate::FieldError> {
                $crate::device::check_device(self.mtu, &self.addresses, name)?;
                $crate::device::check_names(name, self.alias.as_deref(), &self.altnames)
            }
        }
    };
}
pub(crate) use device_spec;

/// Defines the observed state of a device: the fields of every device, then its own.
macro_rules! device_observed {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: device + {
            $($rest:tt)*
        }
    ) => {
        #[derive(
            Debug,
            Clone,
            PartialEq,
            Eq,
            ::serde::Serialize,
            ::serde::Deserialize,
            ::utoipa::ToSchema,
        )]
        $(#[$meta])*
        pub struct $name {
            /// Interface index.
            pub index: u32,
            /// MAC address.
            pub mac: String,
            /// MTU in bytes.
            pub mtu: u32,
            /// True if the device is set up.
            pub up: bool,
            /// True if the device has carrier: for a bridge, that a port is forwarding; for a veth,
            /// that its peer is up.
            pub carrier: bool,
            /// Operational state (RFC 2863), in lower case.
            pub operstate: String,
            /// Requested addresses that are set.
            pub addresses: Vec<String>,
            /// Addresses that netnsd did not set.
            pub foreign_addresses: Vec<String>,
            $($rest)*
        }
    };
}
pub(crate) use device_observed;

/// Validates the MTU and the addresses of the device with this name, which is empty if netnsd
/// chooses it.
pub(crate) fn check_device(
    mtu: Option<u32>,
    addresses: &[InterfaceAddress],
    name: &str,
) -> Result<(), FieldError> {
    check_mtu(mtu)?;
    check_addresses(addresses, name)?;
    check_ipv6_mtu(mtu, addresses)
}

/// Validates the alias and the alternative names of a device.
pub(crate) fn check_names(
    device: &str,
    alias: Option<&str>,
    altnames: &[AltName],
) -> Result<(), FieldError> {
    let is_bad = |alias: &str| {
        alias.is_empty() || alias.len() > MAX_ALIAS || alias.contains(char::is_control)
    };
    if let Some(alias) = alias
        && (is_bad(alias) || alias.starts_with("netnsd:"))
    {
        return Err(FieldError::new(
            Code::InvalidField,
            "/alias",
            format!(
                "{alias:?} is not an alias: 1 to {MAX_ALIAS} bytes without control characters, and not \
                 beginning with \"netnsd:\""
            ),
        ));
    }
    check_count("altnames", altnames.len(), MAX_ALTNAMES)?;
    check_unique("altnames", altnames.iter().map(|name| (name, name)))?;
    if let Some(i) = altnames.iter().position(|name| name.as_str() == device) {
        return Err(FieldError::at(
            Code::Duplicate,
            &["altnames", &i.to_string()],
            format!("\"{device}\" is the name of the device itself"),
        ));
    }
    Ok(())
}

fn check_mtu(mtu: Option<u32>) -> Result<(), FieldError> {
    match mtu {
        Some(mtu) if !(68..=65535).contains(&mtu) => Err(FieldError::new(
            Code::InvalidField,
            "/mtu",
            format!("{mtu} is not a valid MTU: 68 to 65535 bytes"),
        )),
        _ => Ok(()),
    }
}

/// Validates the addresses of a device by its name.
pub(crate) fn check_addresses(
    addresses: &[InterfaceAddress],
    device: &str,
) -> Result<(), FieldError> {
    check_count("addresses", addresses.len(), MAX_ADDRESSES)?;
    check_unique(
        "addresses",
        addresses.iter().map(|address| (address.key(), address)),
    )?;
    for (i, address) in addresses.iter().enumerate() {
        address
            .check(device)
            .map_err(|error| error.below(&["addresses", &i.to_string()]))?;
    }
    Ok(())
}

/// Checks that an MTU suffices for the IPv6 addresses beside it (RFC 8200, section 5).
fn check_ipv6_mtu(mtu: Option<u32>, addresses: &[InterfaceAddress]) -> Result<(), FieldError> {
    let Some(mtu) = mtu.filter(|mtu| *mtu < MIN_IPV6_MTU) else {
        return Ok(());
    };
    let Some(address) = addresses.iter().find(|address| address.ip().is_ipv6()) else {
        return Ok(());
    };
    Err(FieldError::new(
        Code::InvalidField,
        "/mtu",
        format!("{mtu} is too small for {address}: IPv6 needs an MTU of at least {MIN_IPV6_MTU}"),
    ))
}
