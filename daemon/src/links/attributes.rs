//! The macro that makes an attribute table, and the values that attributes have.

use netnsd_api::{Centiseconds, GroupAddr, VlanProtocol, shell_word};

/// Value of a link attribute.
pub(super) trait AttributeValue: Clone + PartialEq {
    /// Returns true if the kernel may show `shown` where this value was set.
    fn is_shown_as(&self, shown: &Self) -> bool {
        self == shown
    }

    /// Returns the value as an argument of ip-link(8); `flags` spell false and true.
    fn ip_arg(&self, flags: [&str; 2]) -> String;

    /// Returns the value to set: the one that is wanted, or the default if one was wanted before,
    /// unless the kernel shows it.
    fn change(
        wanted: &Option<Self>,
        was_wanted: bool,
        default: Self,
        shown: &Self,
    ) -> Option<Self> {
        wanted
            .clone()
            .or(was_wanted.then_some(default))
            .filter(|value| !value.is_shown_as(shown))
    }
}

impl AttributeValue for bool {
    fn ip_arg(&self, flags: [&str; 2]) -> String {
        flags[usize::from(*self)].to_owned()
    }
}

impl AttributeValue for String {
    fn ip_arg(&self, _flags: [&str; 2]) -> String {
        shell_word(self)
    }
}

/// Implements [`AttributeValue`] for types whose text is their argument of ip-link(8).
macro_rules! plain_values {
    ($($type:ty),+) => {
        $(
            impl AttributeValue for $type {
                fn ip_arg(&self, _flags: [&str; 2]) -> String {
                    self.to_string()
                }
            }
        )+
    };
}

plain_values!(u8, u16, u32, GroupAddr, VlanProtocol);

impl AttributeValue for Centiseconds {
    /// The kernel counts in ticks of its own, and shows up to a hundredth of a second less.
    fn is_shown_as(&self, shown: &Self) -> bool {
        self.0.abs_diff(shown.0) <= 1
    }

    fn ip_arg(&self, _flags: [&str; 2]) -> String {
        self.0.to_string()
    }
}

/// Defines the attributes of a device type: the type that holds them all, with the kernel's
/// defaults, and its functions. `$settings` has the same fields as options; what is `None` stays
/// as it is. A row gives type and default, the argument of ip-link(8), the netlink attribute of a
/// value, and the value of a netlink attribute.
macro_rules! link_attributes {
    (
        $(#[$meta:meta])*
        $attrs:ident, $settings:ty, $nla:ident, flags $flags:expr;
        $($field:ident: $type:ty = $default:expr, $arg:literal,
            $encode:expr, $decode:pat => $value:expr;)+
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, reason = "named as the API's fields")]
        pub struct $attrs {
            $(pub $field: $type,)+
        }

        impl Default for $attrs {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $attrs {
            /// Returns the netlink attributes of settings.
            pub fn encode(settings: &$settings) -> Vec<$nla> {
                [$(Clone::clone(&settings.$field).map($encode),)+].into_iter().flatten().collect()
            }

            /// Returns the arguments of ip-link(8) for settings, each after a space.
            pub fn ip_args(settings: &$settings) -> String {
                let mut args = String::new();
                $(
                    if let Some(value) = &settings.$field {
                        args += concat!(" ", $arg, " ");
                        args += &AttributeValue::ip_arg(value, $flags);
                    }
                )+
                args
            }

            /// Takes over a netlink attribute; others than these are passed over.
            #[allow(unreachable_patterns, reason = "a table may have a row for each attribute")]
            pub fn decode(&mut self, attribute: &$nla) {
                match attribute {
                    $($decode => self.$field = $value,)+
                    _ => {}
                }
            }

            /// Takes over settings.
            pub fn apply(&mut self, settings: &$settings) {
                $(
                    if let Some(value) = &settings.$field {
                        self.$field = Clone::clone(value);
                    }
                )+
            }

            /// Returns every attribute as a setting.
            #[allow(clippy::needless_update, reason = "a port has settings that are no attributes")]
            pub fn settings(&self) -> $settings {
                type Settings = $settings;
                Settings {
                    $($field: Some(Clone::clone(&self.$field)),)+
                    ..Settings::default()
                }
            }

            /// Returns the settings that lead from here to those wanted. What was wanted earlier
            /// and is no longer goes back to its default.
            #[allow(clippy::needless_update, reason = "a port has settings that are no attributes")]
            pub fn changes(&self, wanted: &$settings, earlier: &[&$settings]) -> $settings {
                type Settings = $settings;
                let default = Self::default();
                Settings {
                    $($field: AttributeValue::change(
                        &wanted.$field,
                        earlier.iter().any(|settings| settings.$field.is_some()),
                        default.$field,
                        &self.$field,
                    ),)+
                    ..Settings::default()
                }
            }

            /// Returns the attributes that are not at their default.
            pub fn non_defaults(&self) -> $settings {
                Self::default().changes(&self.settings(), &[])
            }
        }
    };
}

pub(super) use link_attributes;
