//! Ids of namespaces in the host's namespace.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr, Schema,
        schema::{OneOfBuilder, Type},
    },
};

/// A requested nsid, as in `ip netns set NAME NETNSID|auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetnsId {
    /// The kernel's choice.
    Auto,
    /// A fixed nsid.
    Id(u32),
}

impl Serialize for NetnsId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Id(id) => serializer.serialize_u32(*id),
        }
    }
}

impl<'de> Deserialize<'de> for NetnsId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = NetnsId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer from 0, \"auto\" or null")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<NetnsId, E> {
                if text == "auto" {
                    return Ok(NetnsId::Auto);
                }
                Err(E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<NetnsId, E> {
                match u32::try_from(id) {
                    Ok(id) if id <= i32::MAX as u32 => Ok(NetnsId::Id(id)),
                    _ => Err(E::custom(format!(
                        "{id} is too large for a netnsid: at most {}",
                        i32::MAX
                    ))),
                }
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<NetnsId, E> {
                Err(E::custom(format!(
                    "{id} is not a netnsid: expected an integer from 0, \"auto\" or null"
                )))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for NetnsId {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .item(
                ObjectBuilder::new()
                    .schema_type(Type::Integer)
                    .minimum(Some(0))
                    .maximum(Some(i32::MAX)),
            )
            .item(
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some(["auto"])),
            )
            .description(Some("a netnsid, or \"auto\" for the kernel's choice"))
            .into()
    }
}

impl ToSchema for NetnsId {}
