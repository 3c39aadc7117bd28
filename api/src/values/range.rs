//! Ranges of numbers: ports and user ids.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr, Schema,
        schema::{OneOfBuilder, Type},
    },
};

use super::InvalidValue;

/// Defines a range of numbers, which JSON spells as one number or as `"FIRST-LAST"`.
macro_rules! number_range {
    ($(#[$meta:meta])* $type:ident, $number:ty, $min:literal..=$max:expr, $noun:literal, $example:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type {
            /// The first number.
            pub first: $number,
            /// The last number.
            pub last: $number,
        }

        impl std::str::FromStr for $type {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                let number = |text: &str| {
                    let number = text.parse::<$number>().ok();
                    number.filter(|number| ($min..=$max).contains(number))
                };
                match (number(first), number(last)) {
                    (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
                    _ => Err(InvalidValue(format!(
                        "{text:?} is not {}: write a number, or a range such as \"{}\"",
                        $noun, $example
                    ))),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.first == self.last {
                    self.first.fmt(f)
                } else {
                    write!(f, "{}-{}", self.first, self.last)
                }
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if self.first == self.last {
                    self.first.serialize(serializer)
                } else {
                    serializer.collect_str(self)
                }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a number, or a range such as \"", $example, "\""))
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$type, E> {
                        self.visit_str(&number.to_string())
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$type, E> {
                        self.visit_str(&number.to_string())
                    }
                }

                deserializer.deserialize_any(Visitor)
            }
        }

        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                OneOfBuilder::new()
                    .item(
                        ObjectBuilder::new()
                            .schema_type(Type::Integer)
                            .minimum(Some($min))
                            .maximum(Some($max as usize)),
                    )
                    .item(
                        ObjectBuilder::new()
                            .schema_type(Type::String)
                            .pattern(Some("^[0-9]+-[0-9]+$")),
                    )
                    .description(Some(concat!("a number, or a range such as \"", $example, "\"")))
                    .into()
            }
        }

        impl ToSchema for $type {}
    };
}

number_range!(
    /// Ports of TCP, UDP and their like.
    PortRange, u16, 1..=u16::MAX, "a port or a range of ports from 1 to 65535", "1000-2000"
);
number_range!(
    /// User ids; the greatest number is none (`INVALID_UID`, linux/uidgid.h).
    UidRange, u32, 0..=4_294_967_294, "a user id or a range of them", "1000-1999"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn range_is_one_number_or_two() {
        let read = |text| serde_json::from_str::<PortRange>(text).unwrap();
        assert_eq!(
            read("80"),
            PortRange {
                first: 80,
                last: 80
            }
        );
        assert_eq!(
            read("\"80-90\""),
            PortRange {
                first: 80,
                last: 90
            }
        );
        assert_eq!(serde_json::to_string(&read("\"80-80\"")).unwrap(), "80");
        assert_eq!(serde_json::to_string(&read("\"8-9\"")).unwrap(), "\"8-9\"");
        for bad in ["0", "9-8", "65536", "-1", "a", "", "1-", "0-5"] {
            assert!(parse_error::<PortRange>(bad).contains("from 1 to 65535"));
        }
        assert_eq!("0".parse(), Ok(UidRange { first: 0, last: 0 }));
        for bad in ["4294967295", "5-4", "x"] {
            assert!(parse_error::<UidRange>(bad).contains("1000-1999"));
        }
    }
}
