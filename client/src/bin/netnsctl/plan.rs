//! `netnsctl plan`: the changes of a document as a tree of fields, or as commands.

use std::collections::BTreeSet;

use clap::Args;
use netnsd_api::{DryRun, ResourceRef, TopologyResult};
use serde_json::{Map, Value};

use crate::{
    cli::Context,
    error::CliError,
    output::{Format, GREEN, RED, YELLOW, print_json_or_yaml, print_line, write_raw},
    topology::{DocumentArgs, Resources},
    yaml::format_inline,
};

/// `netnsctl plan …`
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub document: DocumentArgs,
    /// Print the equivalent commands of ip(8), bridge(8) and sysctl(8) instead, for a shell
    #[arg(long)]
    pub commands: bool,
}

/// Prints the changes that a document would make: the answer to a dry run, with the fields of the
/// resources before and after.
pub fn print_plan(
    context: &Context,
    answer: &[u8],
    recorded: &Resources,
    desired: &Resources,
) -> Result<(), CliError> {
    if print_json_or_yaml(context.format, answer)? {
        return Ok(());
    }
    let dry_run: DryRun = serde_json::from_slice(answer)?;
    let result: TopologyResult = serde_json::from_value(dry_run.result)?;
    if context.format == Format::Name {
        return [&result.created, &result.updated, &result.deleted]
            .into_iter()
            .flatten()
            .try_for_each(|resource| print_line(format!("{}/{}", resource.kind, resource.name)));
    }
    let mut tree = Tree {
        context,
        text: String::new(),
    };
    for resource in &result.created {
        tree.add_resource(Sign::Add, resource, None, desired.find(resource));
    }
    for resource in &result.updated {
        tree.add_resource(
            Sign::Change,
            resource,
            recorded.find(resource),
            desired.find(resource),
        );
    }
    for resource in &result.deleted {
        tree.add_resource(Sign::Remove, resource, recorded.find(resource), None);
    }
    let (created, updated, deleted) = (
        result.created.len(),
        result.updated.len(),
        result.deleted.len(),
    );
    let summary = if created + updated + deleted == 0 {
        format!("no changes, {} unchanged\n", result.unchanged)
    } else {
        format!(
            "{created} to create, {updated} to update, {deleted} to delete, {} unchanged\n",
            result.unchanged
        )
    };
    write_raw(tree.text + &summary)
}

/// Signs of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Add,
    Change,
    Remove,
}

impl Sign {
    fn of(before: &Value, after: &Value) -> Self {
        match (before.is_null(), after.is_null()) {
            (true, _) => Sign::Add,
            (false, true) => Sign::Remove,
            (false, false) => Sign::Change,
        }
    }

    fn symbol_and_color(self) -> (char, u8) {
        match self {
            Sign::Add => ('+', GREEN),
            Sign::Change => ('~', YELLOW),
            Sign::Remove => ('-', RED),
        }
    }
}

/// A tree of changes as text.
struct Tree<'a> {
    context: &'a Context,
    text: String,
}

impl Tree<'_> {
    fn add_line(&mut self, depth: usize, sign: Sign, text: &str) {
        let (symbol, color) = sign.symbol_and_color();
        let indent = "  ".repeat(depth);
        self.text += &self
            .context
            .paint(color, &format!("{indent}{symbol} {text}"));
        self.text.push('\n');
    }

    fn add_resource(
        &mut self,
        sign: Sign,
        resource: &ResourceRef,
        before: Option<&Value>,
        after: Option<&Value>,
    ) {
        self.add_line(0, sign, &format!("{}/{}", resource.kind, resource.name));
        let (before, after) = (fields(before), fields(after));
        self.add_fields(1, &before, &after);
    }

    fn add_fields(
        &mut self,
        depth: usize,
        before: &Map<String, Value>,
        after: &Map<String, Value>,
    ) {
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for key in keys {
            let before = before.get(key).unwrap_or(&Value::Null);
            let after = after.get(key).unwrap_or(&Value::Null);
            self.add_value(depth, key, before, after);
        }
    }

    fn add_value(&mut self, depth: usize, key: &str, before: &Value, after: &Value) {
        if before == after {
            return;
        }
        let sign = Sign::of(before, after);
        match (before, after) {
            (Value::Object(_) | Value::Null, Value::Object(_) | Value::Null) => {
                self.add_line(depth, sign, &format!("{key}:"));
                self.add_fields(depth + 1, &fields(Some(before)), &fields(Some(after)));
            }
            (Value::Array(_) | Value::Null, Value::Array(_) | Value::Null) => {
                self.add_list(depth, key, items(before), items(after));
            }
            _ => {
                let text = match sign {
                    Sign::Add => format_inline(after),
                    Sign::Remove => format_inline(before),
                    Sign::Change => {
                        format!("{} -> {}", format_inline(before), format_inline(after))
                    }
                };
                self.add_line(depth, sign, &format!("{key}: {text}"));
            }
        }
    }

    fn add_list(&mut self, depth: usize, key: &str, before: &[Value], after: &[Value]) {
        // The ends of a pair have places; all other lists are sets.
        if key == "endpoints" {
            for i in 0..before.len().max(after.len()) {
                let before = before.get(i).unwrap_or(&Value::Null);
                let after = after.get(i).unwrap_or(&Value::Null);
                self.add_value(depth, &format!("end {i}"), before, after);
            }
            return;
        }
        for item in before.iter().filter(|item| !after.contains(item)) {
            self.add_line(
                depth,
                Sign::Remove,
                &format!("{key}: {}", format_inline(item)),
            );
        }
        for item in after.iter().filter(|item| !before.contains(item)) {
            self.add_line(depth, Sign::Add, &format!("{key}: {}", format_inline(item)));
        }
        let is_reordered =
            before.len() == after.len() && before.iter().all(|item| after.contains(item));
        if is_reordered {
            self.add_line(depth, Sign::Change, &format!("{key}: order"));
        }
    }
}

/// Returns the fields of an object without its name; none for null.
fn fields(value: Option<&Value>) -> Map<String, Value> {
    let mut fields = value
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    fields.remove("name");
    fields
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

impl Resources {
    fn find(&self, resource: &ResourceRef) -> Option<&Value> {
        self.of_kind(resource.kind)
            .iter()
            .find(|item| item["name"] == resource.name.as_str())
    }
}
