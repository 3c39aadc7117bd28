//! Checks that several kinds share.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{Code, FieldError, InterfaceName, Kind, Name};

/// Maximum number of labels of a resource.
const MAX_LABELS: usize = 64;
/// Maximum length of a label's key, in bytes.
const MAX_LABEL_KEY: usize = 128;
/// Maximum length of a label's value, in bytes.
const MAX_LABEL_VALUE: usize = 1024;

/// Checks the number of labels, their keys and their values.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), FieldError> {
    if labels.len() > MAX_LABELS {
        return Err(FieldError::new(
            Code::InvalidField,
            "/labels",
            format!("{} labels are too many: at most {MAX_LABELS}", labels.len()),
        ));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > MAX_LABEL_KEY || !key.chars().all(is_label_key_char) {
            return Err(FieldError::at(
                Code::InvalidField,
                &["labels", key],
                format!(
                    "{key:?} is not a label key: it has 1 to {MAX_LABEL_KEY} characters of A-Z a-z 0-9 . _ - /"
                ),
            ));
        }
        if value.len() > MAX_LABEL_VALUE || value.chars().any(char::is_control) {
            return Err(FieldError::at(
                Code::InvalidField,
                &["labels", key],
                format!(
                    "a label value has at most {MAX_LABEL_VALUE} bytes and no control characters"
                ),
            ));
        }
    }
    Ok(())
}

/// Checks that a resource without `interface` has a name that its device can have.
pub(super) fn check_default_interface(
    kind: Kind,
    name: &Name,
    interface: Option<&InterfaceName>,
) -> Result<(), FieldError> {
    match (interface, name.as_str().parse::<InterfaceName>()) {
        (Some(_), _) | (None, Ok(_)) => Ok(()),
        (None, Err(error)) => Err(FieldError::new(
            Code::InvalidField,
            "/interface",
            format!("the {kind} name is not a valid interface name ({error}): set interface"),
        )),
    }
}

fn is_label_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/')
}

/// Checks that a list has at most `max` items.
pub(crate) fn check_count(field: &str, count: usize, max: usize) -> Result<(), FieldError> {
    if count > max {
        return Err(FieldError::at(
            Code::InvalidField,
            &[field],
            format!("{count} {field} are too many: at most {max}"),
        ));
    }
    Ok(())
}

/// Checks that no two items of a list have the same key.
pub(crate) fn check_unique<K: Ord, T: fmt::Display>(
    field: &str,
    items: impl IntoIterator<Item = (K, T)>,
) -> Result<(), FieldError> {
    let mut seen = BTreeSet::new();
    for (i, (key, item)) in items.into_iter().enumerate() {
        if !seen.insert(key) {
            return Err(FieldError::at(
                Code::Duplicate,
                &[field, &i.to_string()],
                format!("duplicate \"{item}\""),
            ));
        }
    }
    Ok(())
}
