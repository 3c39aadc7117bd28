//! Times of bridges.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

/// A time of a bridge: in JSON seconds with up to two decimals, in the kernel hundredths of a
/// second (`USER_HZ`, `linux/if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Centiseconds(pub u32);

impl Serialize for Centiseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(100) {
            serializer.serialize_u32(self.0 / 100)
        } else {
            serializer.serialize_f64(f64::from(self.0) / 100.0)
        }
    }
}

impl<'de> Deserialize<'de> for Centiseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Centiseconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds")
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Centiseconds, E> {
                let hundredths = (seconds * 100.0).round();
                if !(0.0..=f64::from(i32::MAX)).contains(&hundredths)
                    || (hundredths - seconds * 100.0).abs() > 1e-6
                {
                    return Err(E::custom(format!(
                        "{seconds} is not a time in seconds with at most two decimals"
                    )));
                }
                Ok(Centiseconds(hundredths as u32))
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Centiseconds, E> {
                self.visit_f64(seconds as f64)
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Centiseconds, E> {
                self.visit_f64(seconds as f64)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for Centiseconds {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .minimum(Some(0))
            .description(Some("a time in seconds; fractions down to 0.01"))
            .examples([serde_json::json!(15)])
            .into()
    }
}

impl ToSchema for Centiseconds {}
