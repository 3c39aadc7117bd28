//! Query parameters. Unknown and malformed ones are refused by name.

use std::{borrow::Cow, collections::BTreeMap, fmt::Display, ops::RangeInclusive, str::FromStr};

use netnsd_api::Code;
use percent_encoding::percent_decode_str;

use super::problem::Failure;

/// Items on a page by default.
const DEFAULT_LIMIT: u32 = 1000;
/// Items on a page at most.
const MAX_LIMIT: u32 = 10_000;

/// Values of one repeatable condition at most: each is compared with every resource.
pub(super) const CONDITIONS: usize = 16;

/// Parameters of one request. Handlers take them out by name; [`Query::finish`] refuses the rest.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Query {
    /// Reads the query of a URI (`application/x-www-form-urlencoded`).
    pub fn read(query: Option<&str>) -> Result<Self, Failure> {
        let parts = query
            .unwrap_or_default()
            .split('&')
            .filter(|part| !part.is_empty());
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decode(name)?, decode(value)?))
        };
        Ok(Self {
            pairs: parts.map(pair).collect::<Result<_, Failure>>()?,
            known: Vec::new(),
        })
    }

    /// Takes all values of a repeatable parameter.
    pub fn all(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let (found, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pairs)
            .into_iter()
            .partition(|(key, _)| key == name);
        self.pairs = rest;
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// Takes all values of a repeatable condition.
    ///
    /// # Errors
    /// `invalid_query` if there are more than [`CONDITIONS`].
    pub fn conditions(&mut self, name: &'static str) -> Result<Vec<String>, Failure> {
        let values = self.all(name);
        if values.len() > CONDITIONS {
            let detail = format!(
                "{name} is given {} times: it may be given {CONDITIONS} times",
                values.len()
            );
            return Err(Failure::new(Code::InvalidQuery, detail));
        }
        Ok(values)
    }

    /// Takes all values of a repeatable condition, and parses them.
    pub fn values<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
    ) -> Result<Vec<T>, Failure> {
        self.conditions(name)?
            .iter()
            .map(|text| read(name, text))
            .collect()
    }

    /// Takes the conditions on labels.
    pub fn labels(&mut self) -> Result<Vec<Label>, Failure> {
        self.conditions("label")?
            .iter()
            .map(|text| Label::read(text))
            .collect()
    }

    /// Takes the value of a parameter that may be given once.
    pub fn one(&mut self, name: &'static str) -> Result<Option<String>, Failure> {
        let mut values = self.all(name);
        if values.len() > 1 {
            return Err(Failure::new(
                Code::InvalidQuery,
                format!(
                    "{name} is given {} times: it may be given once",
                    values.len()
                ),
            ));
        }
        Ok(values.pop())
    }

    /// Takes the value of a parameter, and parses it.
    pub fn value<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, Failure> {
        self.one(name)?.map(|text| read(name, &text)).transpose()
    }

    /// Takes the value of a parameter, a whole number in `range`.
    pub fn number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, Failure> {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let most = if *range.end() == u64::MAX {
                " or more".to_owned()
            } else {
                format!(" to {}", range.end())
            };
            Failure::new(
                Code::InvalidQuery,
                format!(
                    "{name}={text}: it is a whole number, {}{most}",
                    range.start()
                ),
            )
        })
    }

    /// Takes the value of a parameter, true or false; `default` if it is not given.
    pub fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, Failure> {
        match self.one(name)?.as_deref() {
            None => Ok(default),
            Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Failure::new(
                Code::InvalidQuery,
                format!("{name}={other}: it must be true or false"),
            )),
        }
    }

    /// Takes the maximum number of items (`limit`).
    pub fn limit(&mut self) -> Result<u32, Failure> {
        let limit = self.number("limit", 1..=MAX_LIMIT.into())?;
        Ok(limit
            .and_then(|limit| limit.try_into().ok())
            .unwrap_or(DEFAULT_LIMIT))
    }

    /// Refuses the parameters that have not been taken.
    pub fn finish(self) -> Result<(), Failure> {
        let Some((name, value)) = self.pairs.first() else {
            return Ok(());
        };
        let known = match &self.known[..] {
            [] => "there are none".to_owned(),
            known => format!("there are {}", known.join(", ")),
        };
        let detail = format!(
            "{:?} is not a parameter of this request: {known}",
            format!("{name}={value}")
        );
        Err(Failure::new(Code::InvalidQuery, detail))
    }
}

/// Decodes a name or a value (`application/x-www-form-urlencoded`).
fn decode(text: &str) -> Result<String, Failure> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced)
        .decode_utf8()
        .map(Cow::into_owned);
    decoded.map_err(|_| {
        Failure::new(
            Code::InvalidQuery,
            format!("{text:?} in the query is not UTF-8 once it is decoded"),
        )
    })
}

fn read<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, Failure> {
    text.parse()
        .map_err(|error| Failure::new(Code::InvalidQuery, format!("{name}={text}: {error}")))
}

/// Refuses every parameter.
pub(super) fn none(query: Option<&str>) -> Result<(), Failure> {
    Query::read(query)?.finish()
}

/// A condition on labels: `key=value`, `key`, `key!=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Label {
    Is(String, String),
    IsNot(String, String),
    Has(String),
}

impl Label {
    /// Reads a condition.
    pub fn read(text: &str) -> Result<Self, Failure> {
        let label = match text.find('=') {
            None => Label::Has(text.into()),
            Some(at) => match text[..at].strip_suffix('!') {
                Some(key) => Label::IsNot(key.into(), text[at + 1..].into()),
                None => Label::Is(text[..at].into(), text[at + 1..].into()),
            },
        };
        let (Label::Is(key, _) | Label::IsNot(key, _) | Label::Has(key)) = &label;
        if key.is_empty() {
            return Err(Failure::new(
                Code::InvalidQuery,
                format!("label={text}: write key=value, key or key!=value"),
            ));
        }
        Ok(label)
    }

    /// Returns true if labels fulfil the condition.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Label::Is(key, value) => labels.get(key) == Some(value),
            Label::IsNot(key, value) => labels.get(key) != Some(value),
            Label::Has(key) => labels.contains_key(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_invalid_parameters_are_refused() {
        let mut query = Query::read(Some("limit=5&label=a%3Db&label=c&colour=red")).unwrap();
        assert_eq!(query.limit().unwrap(), 5);
        assert_eq!(query.all("label"), ["a=b", "c"]);
        let refused = query.finish().unwrap_err();
        assert!(
            refused.0.detail.contains("colour") && refused.0.detail.contains("limit, label"),
            "{}",
            refused.0.detail
        );
        for (text, detail) in [
            ("limit=x", "limit=x: it is a whole number, 1 to 10000"),
            ("limit=", "limit=: it is a whole number, 1 to 10000"),
            (
                "limit=10001",
                "limit=10001: it is a whole number, 1 to 10000",
            ),
            (
                "limit=1&limit=2",
                "limit is given 2 times: it may be given once",
            ),
        ] {
            assert_eq!(
                Query::read(Some(text))
                    .unwrap()
                    .limit()
                    .unwrap_err()
                    .0
                    .detail,
                detail
            );
        }
        let refused = Query::read(Some("since=-1"))
            .unwrap()
            .number("since", 0..=u64::MAX)
            .unwrap_err();
        assert_eq!(
            refused.0.detail,
            "since=-1: it is a whole number, 0 or more"
        );
        let repeated = |count| {
            Query::read(Some(&"label=z!=&".repeat(count)))
                .unwrap()
                .labels()
                .map(|labels| labels.len())
        };
        assert_eq!(repeated(16).unwrap(), 16);
        assert_eq!(
            repeated(17).unwrap_err().0.detail,
            "label is given 17 times: it may be given 16 times"
        );
        assert!(
            Query::read(Some("cascade=yes"))
                .unwrap()
                .flag("cascade", false)
                .is_err()
        );
    }

    #[test]
    fn query_is_decoded_as_utf8_only() {
        let mut query = Query::read(Some("label=a+b%20%C3%A9&&label=100%&label")).unwrap();
        assert_eq!(query.all("label"), ["a b \u{e9}", "100%", ""]);
        let refused = Query::read(Some("label=%ff")).unwrap_err();
        assert_eq!(
            (refused.0.code, refused.0.detail.contains("\"%ff\"")),
            (Code::InvalidQuery, true)
        );
    }

    #[test]
    fn label_conditions_match_labels() {
        let labels = [("a".to_owned(), "1".to_owned())].into();
        let matches = |text: &str| Label::read(text).is_ok_and(|label| label.matches(&labels));
        assert!(matches("a=1") && matches("a") && matches("a!=2") && matches("b!=1"));
        assert!(!matches("a=2") && !matches("b") && !matches("a!=1"));
        assert!(Label::read("=x").is_err() && Label::read("!=x").is_err());
        assert_eq!(
            Label::read("a=b!=c").unwrap(),
            Label::Is("a".into(), "b!=c".into())
        );
    }
}
