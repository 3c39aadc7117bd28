//! Drivers: the part of a device type that no other type has.

use std::{fmt::Debug, hash::Hash};

use netnsd_api::LinkFields;
use rtnetlink::packet_route::link::InfoData;

use crate::model::Spec;

/// Way of a device from the settings that it has to those that it is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingsChange {
    /// It has them, or they are planned one by one.
    None,
    /// The kernel changes them in place.
    InPlace,
    /// The device is created again.
    Recreate,
}

/// Driver of a device type. Its functions do no I/O.
pub trait LinkDriver {
    /// Specification that asks for a device of this type.
    type Spec;
    /// Settings of the type (`IFLA_INFO_DATA`); those left out have the kernel's default.
    type Settings: Debug + Clone + PartialEq + Eq + Hash;

    /// Name of the type (`IFLA_INFO_KIND`), as in ip-link(8).
    const KIND: &'static str;
    /// Name of its creation in plans, errors and metrics.
    const CREATE_LABEL: &'static str;
    /// Name of a change of its settings.
    const SET_LABEL: &'static str;
    /// True if the kernel moves such a device to another namespace; else it is created again there.
    const CAN_MOVE: bool = true;

    /// True if the kernel puts such a device, on one of its own type, on the device below that.
    const IS_FLAT: bool = false;

    /// Returns the settings that a specification asks for.
    fn settings(spec: &Self::Spec) -> Self::Settings;

    /// Returns the netlink attributes of settings; `None` if there are none.
    fn encode(settings: &Self::Settings) -> Option<InfoData>;

    /// Returns the netlink attributes that change a device's settings in place.
    fn encode_change(settings: &Self::Settings) -> Option<InfoData> {
        Self::encode(settings)
    }

    /// Returns the settings in netlink attributes; `None` if these are of another type, or if the
    /// settings are observed one by one.
    fn decode(_data: &InfoData) -> Option<Self::Settings> {
        None
    }

    /// Returns the way from one state to another.
    fn change(_now: &Self::Settings, _wanted: &Self::Settings) -> SettingsChange {
        SettingsChange::None
    }

    /// Returns the arguments of ip-link(8) for settings, each after a space.
    fn ip_args(settings: &Self::Settings) -> String;

    /// Returns the arguments of ip-link(8) that change a device's settings in place.
    fn ip_change_args(settings: &Self::Settings) -> String {
        Self::ip_args(settings)
    }

    /// Returns the bytes of headers by which an MTU that is not asked for is below that of the
    /// underlay; `None` if it is the kernel's choice.
    fn overhead(_settings: &Self::Settings) -> Option<u32> {
        None
    }

    /// Returns the MTUs to set one after the other once the device is created; `None` if the MTU
    /// is given at its creation.
    fn mtus_after_creation(_mtu: u32) -> Option<Vec<u32>> {
        None
    }
}

/// Settings of a device type that has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NoSettings;

/// Defines the enumerations of device types and of their settings from the list of drivers.
macro_rules! define_device_types {
    ($($type:ident($driver:ty);)+) => {
        /// Device type.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "one for each driver")]
        pub enum DeviceType {
            $($type,)+
        }

        impl DeviceType {
            /// Returns the name of the type (`IFLA_INFO_KIND`).
            pub const fn kind(self) -> &'static str {
                match self {
                    $(Self::$type => <$driver>::KIND,)+
                }
            }

            /// Returns true if the kernel moves such a device to another namespace.
            pub const fn can_move(self) -> bool {
                match self {
                    $(Self::$type => <$driver>::CAN_MOVE,)+
                }
            }
        }

        impl DeviceType {
            /// Returns true if the kernel puts such a device, on one of its own type, on the device
            /// below that.
            pub const fn is_flat(self) -> bool {
                match self {
                    $(Self::$type => <$driver>::IS_FLAT,)+
                }
            }
        }

        /// Settings of a device, by its type.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "one for each driver")]
        pub enum LinkSettings {
            $($type(<$driver as LinkDriver>::Settings),)+
        }

        impl LinkSettings {
            /// Returns the type of the device.
            pub const fn device_type(&self) -> DeviceType {
                match self {
                    $(Self::$type(_) => DeviceType::$type,)+
                }
            }

            /// Returns the name of the creation of such a device.
            pub const fn create_label(&self) -> &'static str {
                match self {
                    $(Self::$type(_) => <$driver>::CREATE_LABEL,)+
                }
            }

            /// Returns the name of a change of these settings.
            pub const fn set_label(&self) -> &'static str {
                match self {
                    $(Self::$type(_) => <$driver>::SET_LABEL,)+
                }
            }

            /// Returns their netlink attributes.
            pub fn encode(&self) -> Option<InfoData> {
                match self {
                    $(Self::$type(settings) => <$driver>::encode(settings),)+
                }
            }

            /// Returns the netlink attributes that change them in place.
            pub fn encode_change(&self) -> Option<InfoData> {
                match self {
                    $(Self::$type(settings) => <$driver>::encode_change(settings),)+
                }
            }

            /// Returns the settings in netlink attributes; `None` where they are observed one by
            /// one.
            pub fn decode(data: &InfoData) -> Option<Self> {
                None$(.or_else(|| <$driver>::decode(data).map(Self::$type)))+
            }

            /// Returns the way to these settings from those that a device has.
            pub fn change_from(&self, now: &Self) -> SettingsChange {
                match (self, now) {
                    $((Self::$type(wanted), Self::$type(now)) => <$driver>::change(now, wanted),)+
                    // The kernel does not change the type of a device.
                    _ => SettingsChange::Recreate,
                }
            }

            /// Returns their arguments of ip-link(8), each after a space.
            pub fn ip_args(&self) -> String {
                match self {
                    $(Self::$type(settings) => <$driver>::ip_args(settings),)+
                }
            }

            /// Returns the arguments of ip-link(8) that change them in place.
            pub fn ip_change_args(&self) -> String {
                match self {
                    $(Self::$type(settings) => <$driver>::ip_change_args(settings),)+
                }
            }

            /// Returns the bytes by which an MTU that is not asked for is below the underlay's.
            pub fn overhead(&self) -> Option<u32> {
                match self {
                    $(Self::$type(settings) => <$driver>::overhead(settings),)+
                }
            }

            /// Returns the MTUs to set once the device is created.
            pub fn mtus_after_creation(&self, mtu: u32) -> Option<Vec<u32>> {
                match self {
                    $(Self::$type(_) => <$driver>::mtus_after_creation(mtu),)+
                }
            }
        }
    };
}

/// Adds the types of kind `link` to those that are resource kinds of their own. The driver of a
/// type is `Driver` in the module of its name.
macro_rules! define_all_types {
    ($($type:ident($fields:ident) $name:ident $description:literal;)+) => {
        define_device_types! {
            Bridge(super::bridge::Driver);
            Veth(super::veth::Driver);
            $($type(super::$name::Driver);)+
        }

        impl LinkSettings {
            /// Returns the settings that a spec asks for; `None` if it asks for no device.
            pub fn of(spec: &Spec) -> Option<Self> {
                Some(match spec {
                    Spec::Namespace(_) => return None,
                    Spec::Bridge(spec) => Self::Bridge(super::bridge::Driver::settings(spec)),
                    Spec::Veth(spec) => Self::Veth(super::veth::Driver::settings(spec)),
                    Spec::Link(spec) => match &spec.fields {
                        $(LinkFields::$type(fields) => {
                            Self::$type(super::$name::Driver::settings(fields))
                        })+
                    },
                })
            }
        }
    };
}

netnsd_api::link_types!(define_all_types);
