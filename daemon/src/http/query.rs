//! Query parameters: what is unknown or malformed is refused, by name.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use netnsd_api::Code;

use super::problem::Failure;

/// Items on a page, unless asked otherwise, and at the most.
const PAGE: (u32, u32) = (1000, 10_000);

/// The parameters of one request; each is taken out by its name, and nothing may be left over.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Query {
    /// Reads the query of a URI (`application/x-www-form-urlencoded`).
    pub fn read(query: Option<&str>) -> Result<Self, Failure> {
        let pairs: Result<Vec<(String, String)>, _> = serde_urlencoded::from_str(query.unwrap_or_default());
        let unreadable = |error| Failure::new(Code::InvalidQuery, format!("the query cannot be read: {error}"));
        Ok(Self { pairs: pairs.map_err(unreadable)?, known: Vec::new() })
    }

    /// Every value of a parameter that may be repeated.
    pub fn all(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let (found, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pairs).into_iter().partition(|(key, _)| key == name);
        self.pairs = rest;
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// The same, as values of some type.
    pub fn values<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Result<Vec<T>, Failure> {
        self.all(name).iter().map(|text| read(name, text)).collect()
    }

    /// The value of a parameter that may be there once.
    pub fn one(&mut self, name: &'static str) -> Result<Option<String>, Failure> {
        let mut values = self.all(name);
        if values.len() > 1 {
            return Err(Failure::new(
                Code::InvalidQuery,
                format!("{name} is given {} times: once is enough", values.len()),
            ));
        }
        Ok(values.pop())
    }

    /// The same, as a value of some type.
    pub fn value<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Result<Option<T>, Failure> {
        self.one(name)?.map(|text| read(name, &text)).transpose()
    }

    /// The same, as true or false; left out, it is `default`.
    pub fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, Failure> {
        match self.one(name)?.as_deref() {
            None => Ok(default),
            Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Failure::new(Code::InvalidQuery, format!("{name}={other}: it is true or false"))),
        }
    }

    /// How many items are asked for at the most (`limit`).
    pub fn limit(&mut self) -> Result<u32, Failure> {
        let limit = self.value::<u32>("limit")?.unwrap_or(PAGE.0);
        if !(1..=PAGE.1).contains(&limit) {
            return Err(Failure::new(Code::InvalidQuery, format!("limit={limit}: it is 1 to {}", PAGE.1)));
        }
        Ok(limit)
    }

    /// Refuses whatever nobody took.
    pub fn finish(self) -> Result<(), Failure> {
        let Some((name, _)) = self.pairs.first() else { return Ok(()) };
        let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
        Err(Failure::new(Code::InvalidQuery, format!("{name:?} is not a parameter here: known are {known}")))
    }
}

fn read<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error| Failure::new(Code::InvalidQuery, format!("{name}={text}: {error}")))
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
            return Err(Failure::new(Code::InvalidQuery, format!("label={text}: write key=value, key or key!=value")));
        }
        Ok(label)
    }

    /// Whether labels fulfil it.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
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
    fn what_is_left_over_is_refused_by_name() {
        let mut query = Query::read(Some("limit=5&label=a%3Db&label=c&colour=red")).unwrap();
        assert_eq!(query.value::<u32>("limit").unwrap(), Some(5));
        assert_eq!(query.all("label"), ["a=b", "c"]);
        let refused = query.finish().unwrap_err();
        assert!(
            refused.0.detail.contains("colour") && refused.0.detail.contains("limit, label"),
            "{}",
            refused.0.detail
        );
        assert!(Query::read(Some("limit=x")).unwrap().value::<u32>("limit").is_err());
        assert!(Query::read(Some("limit=1&limit=2")).unwrap().value::<u32>("limit").is_err());
        assert!(Query::read(Some("cascade=yes")).unwrap().flag("cascade", false).is_err());
    }

    #[test]
    fn labels_are_there_equal_or_not() {
        let labels = [("a".to_owned(), "1".to_owned())].into();
        let holds = |text: &str| Label::read(text).is_ok_and(|label| label.holds(&labels));
        assert!(holds("a=1") && holds("a") && holds("a!=2") && holds("b!=1"));
        assert!(!holds("a=2") && !holds("b") && !holds("a!=1"));
        assert!(Label::read("=x").is_err() && Label::read("!=x").is_err());
        assert_eq!(Label::read("a=b!=c").unwrap(), Label::Is("a".into(), "b!=c".into()));
    }
}
