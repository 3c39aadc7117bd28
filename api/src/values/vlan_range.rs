//! Ranges of VLAN ids.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, schema::Type},
};

/// Maximum VLAN id (`VLAN_VID_MASK - 1`, linux/if_vlan.h).
pub const MAX_VLAN: u16 = 4094;

/// VLAN id, or a range of them: in JSON `10` or `"10-20"`, as in bridge(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanRange {
    first: u16,
    last: u16,
}

impl VlanRange {
    /// Returns the range, if its ids are valid and in order.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (1 <= first && first <= last && last <= MAX_VLAN).then_some(Self { first, last })
    }

    /// Returns the first and the last id.
    pub fn bounds(self) -> (u16, u16) {
        (self.first, self.last)
    }

    /// Returns the ids.
    pub fn ids(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }

    /// Returns the fewest ranges that have these ids, which are in order.
    pub fn from_ids(ids: impl IntoIterator<Item = u16>) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        for id in ids {
            match ranges.last_mut() {
                Some(range) if range.last + 1 == id => range.last = id,
                _ => ranges.push(Self {
                    first: id,
                    last: id,
                }),
            }
        }
        ranges
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(first.parse().ok()?, last.parse().ok()?)
    }
}

impl fmt::Display for VlanRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl Serialize for VlanRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for VlanRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = VlanRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a VLAN id such as 10, or a range such as \"10-20\"")
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<VlanRange, E> {
                self.visit_str(&id.to_string())
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<VlanRange, E> {
                self.visit_str(&id.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<VlanRange, E> {
                VlanRange::parse(text).ok_or_else(|| {
                    E::custom(format!(
                        "{text:?} is not a VLAN id from 1 to {MAX_VLAN}, or a range such as \"10-20\""
                    ))
                })
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for VlanRange {
    fn schema() -> RefOr<Schema> {
        let id = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(MAX_VLAN));
        let range = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[0-9]{1,4}(-[0-9]{1,4})?$"));
        OneOfBuilder::new()
            .item(id)
            .item(range)
            .description(Some("a VLAN id, or a range of them such as \"10-20\""))
            .into()
    }
}

impl ToSchema for VlanRange {}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn vlan_range_is_a_number_or_two() {
        for value in [json!(10), json!("10-20"), json!("4094"), json!("7-7")] {
            from_value::<VlanRange>(value).unwrap();
        }
        for bad in [
            json!(0),
            json!(4095),
            json!("20-10"),
            json!("a"),
            json!("1-"),
            json!(-1),
        ] {
            from_value::<VlanRange>(bad).unwrap_err();
        }
        let ranges = VlanRange::from_ids([1, 2, 3, 5, 7, 8]);
        assert_eq!(to_value(ranges).unwrap(), json!(["1-3", 5, "7-8"]));
    }
}
