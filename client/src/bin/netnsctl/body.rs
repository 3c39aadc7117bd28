//! Bodies of requests, built from command line options.

use serde_json::{Map, Value, json};

/// Builds the JSON body of a request; options that were not given leave their fields out.
#[derive(Debug, Default)]
pub struct BodyBuilder(Map<String, Value>);

impl BodyBuilder {
    /// Sets a field, if the option was given.
    pub fn set(&mut self, field: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(field.into(), value.into());
        }
    }

    /// Sets a list, if an item was given; null (`none`) stands for the empty list.
    pub fn set_list(&mut self, field: &str, values: &[Value]) {
        if !values.is_empty() {
            let items = values.iter().filter(|value| !value.is_null());
            self.0.insert(field.into(), items.cloned().collect());
        }
    }

    /// Sets the entries of a map that were given; `removed` are keys to remove.
    pub fn set_map(&mut self, field: &str, values: &[(String, String)], removed: &[String]) {
        let removed = removed.iter().map(|key| (key.clone(), Value::Null));
        let map: Map<String, Value> = values
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .chain(removed)
            .collect();
        if !map.is_empty() {
            self.0.insert(field.into(), map.into());
        }
    }

    /// Sets a field from two opposite flags, if one was given.
    pub fn set_flag(&mut self, field: &str, yes: bool, no: bool) {
        if yes || no {
            self.0.insert(field.into(), yes.into());
        }
    }

    /// Returns true if no field was set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the body.
    pub fn build(self) -> Value {
        Value::Object(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_not_given_leave_fields_out() {
        let mut body = BodyBuilder::default();
        body.set("mtu", None::<u32>);
        body.set("mac", Some(Value::Null));
        body.set_list("addresses", &[Value::Null]);
        body.set_map("labels", &[("a".into(), "b".into())], &["c".into()]);
        body.set_flag("up", false, false);
        assert_eq!(
            body.build(),
            json!({"mac": null, "addresses": [], "labels": {"a": "b", "c": null}})
        );
    }
}
