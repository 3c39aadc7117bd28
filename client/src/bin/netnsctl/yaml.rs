//! YAML as people write it: names first, short entries of lists on one line.

use std::cmp::Reverse;

use serde_json::{Map, Value};

use crate::error::CliError;

/// Lines that are not longer than this take an entry of a list.
const MAX_WIDTH: usize = 80;

/// Fields that precede the others, in this order.
const FIRST_FIELDS: [&str; 4] = ["name", "namespace", "interface", "destination"];

/// Returns JSON as YAML.
pub fn to_yaml(json: &[u8]) -> Result<String, CliError> {
    Ok(format_yaml(&serde_json::from_slice(json)?))
}

/// Returns a value as YAML.
pub fn format_yaml(value: &Value) -> String {
    let mut text = String::new();
    write_block(&mut text, 0, value);
    text
}

/// Returns a value in the flow style of YAML, on one line.
pub fn format_inline(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let pairs = order_fields(fields).into_iter();
            let pairs: Vec<String> = pairs
                .map(|(key, value)| format!("{}: {}", format_text(key), format_inline(value)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(format_inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::String(text) => format_text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Writes a value in lines that begin at a column.
fn write_block(text: &mut String, indent: usize, value: &Value) {
    let margin = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in order_fields(fields) {
                *text += &format!("{margin}{}:", format_text(key));
                match value {
                    Value::Object(fields) if !fields.is_empty() => {
                        text.push('\n');
                        write_block(text, indent + 2, value);
                    }
                    Value::Array(items) if !items.is_empty() => {
                        text.push('\n');
                        write_block(text, indent, value);
                    }
                    other => *text += &format!(" {}\n", format_inline(other)),
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                *text += &format!("{margin}- ");
                match item {
                    Value::Object(fields) if !is_short(indent, item, fields) => {
                        // Its first line follows the hyphen.
                        let mut lines = String::new();
                        write_block(&mut lines, indent + 2, item);
                        *text += lines.trim_start_matches(' ');
                    }
                    other => *text += &format!("{}\n", format_inline(other)),
                }
            }
        }
        other => *text += &format!("{margin}{}\n", format_inline(other)),
    }
}

/// Returns true for an entry of a list, without a name of its own, that fits in a line.
fn is_short(indent: usize, item: &Value, fields: &Map<String, Value>) -> bool {
    fields.is_empty()
        || !fields.contains_key("name")
            && indent + 2 + format_inline(item).chars().count() <= MAX_WIDTH
}

fn order_fields(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut ordered: Vec<_> = fields.iter().collect();
    ordered.sort_by_key(|(key, _)| {
        let place = FIRST_FIELDS.iter().rev().position(|first| first == key);
        Reverse(place.map_or(0, |place| place + 1))
    });
    ordered
}

/// Returns a text as a scalar, in quotes if it could be taken for something else.
fn format_text(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_./-+:% ()@".contains(c);
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    let is_plain = begins_well
        && text.chars().all(is_word)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !is_special_in_yaml_1_1(text)
        && yaml_serde::from_str::<Value>(text).is_ok_and(|value| value == *text);
    if is_plain {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

/// Returns true for a text that YAML 1.1 takes for a truth value, a date or a number to base 60,
/// such as a MAC address of digits.
fn is_special_in_yaml_1_1(text: &str) -> bool {
    const WORDS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
        || text
            .chars()
            .all(|c| c.is_ascii_digit() || ":-_".contains(c))
}

#[cfg(test)]
mod tests {
    use netnsd_api::read_yaml;
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_reads_like_the_examples() {
        let value = json!({
            "veths": [{
                "endpoints": [
                    {"addresses": ["10.1.0.1/24", "fd00::1/64"], "interface": "eth0", "namespace": "a"},
                    {"bridge": "br0", "interface": "port0", "port": {"hairpin": true}},
                ],
                "name": "lan",
                "labels": {"team": "1", "empty": ""},
            }],
            "namespaces": [{
                "name": "a",
                "routes": [{"via": "10.1.0.2", "destination": "default"}],
                "sysctls": {"net.ipv4.ip_forward": "1"},
            }],
            "bridges": [],
        });
        let expected = "\
bridges: []
namespaces:
- name: a
  routes:
  - {destination: default, via: 10.1.0.2}
  sysctls:
    net.ipv4.ip_forward: \"1\"
veths:
- name: lan
  endpoints:
  - {namespace: a, interface: eth0, addresses: [10.1.0.1/24, fd00::1/64]}
  - {interface: port0, bridge: br0, port: {hairpin: true}}
  labels:
    empty: \"\"
    team: \"1\"
";
        assert_eq!(format_yaml(&value), expected);
    }

    #[test]
    fn yaml_is_read_as_the_same_value() {
        let texts = [
            "",
            " ",
            "a",
            "null",
            "~",
            "true",
            "No",
            "1",
            "0x1f",
            "1e3",
            "1_000",
            ".5",
            "-",
            "- a",
            "a: b",
            "a:b",
            "a:",
            "#a",
            "a #b",
            "a,b",
            "[a]",
            "{a}",
            "'a'",
            "\"a\"",
            "&a",
            "*a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a`",
            "2026-01-31",
            "12:30:45",
            "fe80::1%eth0",
            "02:00:00:00:00:01",
            "::1",
            "a\nb\n",
            "tab\t",
            "\u{1b}[0m",
            "ü",
            "10.0.0.0/8",
            "=",
            "<<",
            "y",
            "a\\b",
            "---",
            "...",
        ];
        for text in texts {
            for value in [
                json!(text),
                json!([text, [text], {}]),
                json!({"a": text, "list": [{"a": text, "b": [text, null, 1.5, true]}]}),
                json!({text: [{"name": text, "x": [{text: {}}, []]}]}),
            ] {
                let yaml = format_yaml(&value);
                let read = read_yaml(&yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
                assert_eq!(read, value, "{yaml}");
            }
        }
    }

    #[test]
    fn long_entries_have_a_line_for_each_field() {
        let name = "x".repeat(70);
        let value = json!([{"interface": name, "mtu": 1400}]);
        assert_eq!(
            format_yaml(&value),
            format!("- interface: {name}\n  mtu: 1400\n")
        );
    }
}
