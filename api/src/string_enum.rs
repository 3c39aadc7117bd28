//! Enums that JSON and the command line spell as one of a few words.

/// Defines an enum from its words: serde, OpenAPI, `ALL`, `as_str`, `Display` and `FromStr` follow.
///
/// The text after `as` names the type in the message about an unknown word.
macro_rules! string_enum {
    (
        $(#[$type_meta:meta])*
        pub enum $type:ident as $noun:literal {
            $(
                $(#[$meta:meta])*
                $variant:ident = $word:expr,
            )+
        }
    ) => {
        #[derive(
            Debug,
            Clone,
            Copy,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            ::serde::Serialize,
            ::serde::Deserialize,
            ::utoipa::ToSchema,
        )]
        $(#[$type_meta])*
        pub enum $type {
            $(
                $(#[$meta])*
                $variant,
            )+
        }

        impl $type {
            /// All values, in the order of their definition.
            pub const ALL: [$type; [$($type::$variant),+].len()] = [$($type::$variant),+];

            /// Returns the word that stands for the value in JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($type::$variant => $word,)+
                }
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = $crate::InvalidValue;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $type::ALL
                    .into_iter()
                    .find(|known| known.as_str() == text)
                    .ok_or_else(|| {
                        let words = $type::ALL.map($type::as_str).join(", ");
                        $crate::InvalidValue(format!(
                            "{text:?} is not {}: expected one of {words}",
                            $noun
                        ))
                    })
            }
        }
    };
}
pub(crate) use string_enum;

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};

    use serde::Serialize;

    use crate::{EventType, HostAccess, Kind, Role, RouteType, State};

    fn words_match_json<T: Serialize + Display + Debug>(values: &[T]) {
        for value in values {
            let json = serde_json::to_value(value).unwrap();
            assert_eq!(json, value.to_string(), "as_str and serde disagree");
        }
    }

    #[test]
    fn words_of_enums_match_their_json() {
        words_match_json(&EventType::ALL);
        words_match_json(&HostAccess::ALL);
        words_match_json(&Kind::ALL);
        words_match_json(&Role::ALL);
        words_match_json(&RouteType::ALL);
        words_match_json(&State::ALL);
    }

    #[test]
    fn unknown_word_lists_the_known_ones() {
        let error = "x".parse::<Role>().unwrap_err();
        assert_eq!(
            error.0,
            "\"x\" is not a role: expected one of viewer, operator, admin"
        );
    }
}
