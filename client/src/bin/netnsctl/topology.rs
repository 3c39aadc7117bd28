//! The whole network as a document: apply, plan, diff, export; and reconcile.

use std::{
    fs,
    io::{self, IsTerminal, Read},
};

use clap::Args;
use http::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use netnsd_api::{
    DryRun, Kind, Problem, Progress, Reconciled, ResourceRef, Topology, TopologyResult, parse,
    read_yaml, sparse,
};
use serde_json::{Map, Value};
use similar::{ChangeTag, TextDiff};

use crate::{
    api::{RequestBody, with_query},
    cli::Context,
    error::CliError,
    output::{Format, escape_controls, print_line, print_text, to_yaml, write_raw},
};

const PATH: &str = "/v1/topology";

/// Colors of text in terminals (ECMA-48, select graphic rendition).
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const GREY: u8 = 90;

/// A document, and options of a write.
#[derive(Debug, Args)]
pub struct DocumentArgs {
    /// The document, YAML or JSON; - is the standard input
    #[arg(short, long, value_name = "FILE|-")]
    file: String,
    /// Delete recorded resources that are not in the document
    #[arg(long)]
    prune: bool,
    /// With --prune: delete namespaces even if they contain interfaces that netnsd does not manage
    #[arg(long, requires = "prune")]
    cascade: bool,
    /// Only resources with this label: KEY=VALUE, KEY or KEY!=VALUE; repeatable
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Adopt existing namespaces, bridges and veth pairs in the same places
    #[arg(long)]
    adopt: bool,
}

impl DocumentArgs {
    fn read_file(&self) -> Result<String, CliError> {
        let text = match self.file.as_str() {
            "-" => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map(|_| text)
            }
            file => fs::read_to_string(file),
        };
        text.map_err(|error| CliError::Usage(format!("cannot read {}: {error}", self.file)))
    }

    fn method(&self) -> Method {
        if self.prune {
            Method::PUT
        } else {
            Method::PATCH
        }
    }

    /// Returns the label filters as query parameters.
    fn label_params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.label.iter().map(|label| ("label", label.as_str()))
    }

    /// Returns the query parameters of a write.
    fn write_params(&self) -> impl Iterator<Item = (&str, &str)> {
        let adopt = self.adopt.then_some(("adopt", "true"));
        let cascade = self.cascade.then_some(("cascade", "true"));
        self.label_params().chain(adopt).chain(cascade)
    }
}

/// Applies a document.
pub async fn apply_document(context: &Context, document: &DocumentArgs) -> Result<(), CliError> {
    let text = document.read_file()?;
    send_document(
        context,
        document.method(),
        document.write_params(),
        &RequestBody::Yaml(&text),
    )
    .await
}

/// Sends a document, shows its progress, and prints the changes.
pub async fn send_document<'a>(
    context: &Context,
    method: Method,
    query: impl Iterator<Item = (&'a str, &'a str)>,
    body: &RequestBody<'_>,
) -> Result<(), CliError> {
    let query: Vec<(&str, &str)> = query.chain(context.write_params()).collect();
    let path = with_query(PATH, &query);
    if context.dry_run {
        let answer = context.api.send(method, &path, Some(body)).await?;
        return print_plan(context, &answer);
    }
    if !context.wait {
        let answer = context.api.send(method, &path, Some(body)).await?;
        return print_result(context, &answer);
    }

    let bar = create_progress_bar();
    let mut last_line = String::new();
    let answer = context
        .api
        .send_with_progress(method, &path, body, |line| {
            match serde_json::from_str::<Progress>(line) {
                Ok(progress) => {
                    bar.set_length(progress.total as u64);
                    bar.set_position(progress.done as u64);
                }
                Err(_) => line.clone_into(&mut last_line),
            }
            true
        })
        .await;
    bar.finish_and_clear();
    answer?;

    // The last line is the result, or a problem.
    if let Ok(problem) = serde_json::from_str::<Problem>(&last_line) {
        return Err(problem.into());
    }
    print_result(context, last_line.as_bytes())
}

/// Returns a progress bar, which is hidden unless stderr is a terminal.
fn create_progress_bar() -> ProgressBar {
    let bar = ProgressBar::hidden();
    if io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} operations") {
            bar.set_style(style);
        }
    }
    bar
}

/// Prints the changes of a write.
fn print_result(context: &Context, answer: &[u8]) -> Result<(), CliError> {
    match context.format {
        Format::Json => print_line(answer),
        Format::Yaml => print_text(to_yaml(answer)?),
        Format::Table | Format::Name => {
            write_raw(format_changes(context, &serde_json::from_slice(answer)?))
        }
    }
}

fn format_changes(context: &Context, result: &TopologyResult) -> String {
    let mut text = String::new();
    for (sign, color, resources) in [
        ("+", GREEN, &result.created),
        ("~", YELLOW, &result.updated),
        ("-", RED, &result.deleted),
    ] {
        for ResourceRef { kind, name } in resources {
            text += &context.paint(color, &format!("{sign} {kind}/{name}"));
            text += "\n";
        }
    }
    let (created, updated, deleted) = (
        result.created.len(),
        result.updated.len(),
        result.deleted.len(),
    );
    text + &format!(
        "{created} created, {updated} updated, {deleted} deleted, {} unchanged\n",
        result.unchanged
    )
}

/// Prints the changes that a document would make, and the equivalent commands.
pub async fn plan_document(context: &Context, document: &DocumentArgs) -> Result<(), CliError> {
    let text = document.read_file()?;
    let query: Vec<(&str, &str)> = document
        .write_params()
        .chain([("dry_run", "true")])
        .collect();
    let answer = context
        .api
        .send(
            document.method(),
            &with_query(PATH, &query),
            Some(&RequestBody::Yaml(&text)),
        )
        .await?;
    print_plan(context, &answer)
}

fn print_plan(context: &Context, answer: &[u8]) -> Result<(), CliError> {
    if context.format == Format::Json {
        return print_line(answer);
    }
    let dry_run: DryRun = serde_json::from_slice(answer)?;
    let mut text = format_changes(context, &serde_json::from_value(dry_run.result)?);
    for operation in dry_run.plan {
        text += &context.paint(GREY, &operation.command);
        text += "\n";
    }
    write_raw(text)
}

/// Prints the difference between a document and the recorded state; fails if there is one, as
/// diff(1).
pub async fn diff_document(context: &Context, document: &DocumentArgs) -> Result<(), CliError> {
    let desired = parse_document(document)?;
    let path = with_query(PATH, &document.label_params().collect::<Vec<_>>());
    let recorded: Map<String, Value> = serde_json::from_slice(&context.api.get(&path).await?)?;

    let (mut before, mut after) = (String::new(), String::new());
    for kind in Kind::ALL {
        let desired = sparse_resources(&desired, kind)?;
        let mut recorded: Vec<&Value> = recorded
            .get(kind.plural())
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .collect();
        if !document.prune {
            recorded.retain(|item| desired.iter().any(|other| has_same_name(other, item)));
        }
        for item in &recorded {
            before += &format_resource(kind, item)?;
        }
        for mut item in desired {
            if let Some(recorded) = recorded.iter().find(|old| has_same_name(old, &item)) {
                keep_chosen_names(&mut item, recorded);
            }
            after += &format_resource(kind, &item)?;
        }
    }

    let text = format_diff(context, &before, &after);
    write_raw(&text)?;
    if text.is_empty() {
        Ok(())
    } else {
        Err(CliError::Exit(1))
    }
}

fn parse_document(document: &DocumentArgs) -> Result<Topology, CliError> {
    let text = document.read_file()?;
    read_yaml(&text)
        .and_then(|value| parse(&value).map_err(|error| Problem::from(error).to_string()))
        .map_err(|error| CliError::Usage(format!("invalid document {}: {error}", document.file)))
}

fn has_same_name(a: &Value, b: &Value) -> bool {
    a["name"] == b["name"]
}

/// Returns the resources of a kind as an export shows them, sorted by name.
fn sparse_resources(document: &Topology, kind: Kind) -> Result<Vec<Value>, CliError> {
    let mut items: Vec<Value> = document
        .to_json(kind)?
        .into_iter()
        .map(|item| sparse(kind, item))
        .collect();
    items.sort_by_key(|item| item["name"].to_string());
    Ok(items)
}

/// Fills in names of devices that netnsd chose and the document leaves out.
fn keep_chosen_names(item: &mut Value, recorded: &Value) {
    let Some(endpoints) = item.get_mut("endpoints").and_then(Value::as_array_mut) else {
        return;
    };
    for (i, endpoint) in endpoints.iter_mut().enumerate() {
        if endpoint["interface"].is_null()
            && let Some(name) = recorded["endpoints"][i].get("interface")
        {
            endpoint["interface"] = name.clone();
        }
    }
}

/// Returns a resource as a section of YAML for a diff.
fn format_resource(kind: Kind, item: &Value) -> Result<String, CliError> {
    let yaml = yaml_serde::to_string(item).map_err(|error| CliError::Refused(error.to_string()))?;
    let name = item["name"].as_str().unwrap_or_default();
    let body: String = yaml.lines().map(|line| format!("  {line}\n")).collect();
    Ok(format!("{kind}/{name}:\n{body}"))
}

/// Returns a unified diff; empty if there is no difference.
fn format_diff(context: &Context, before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    let mut text = String::new();
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        text += &format!("{}\n", context.paint(GREY, &hunk.header().to_string()));
        for change in hunk.iter_changes() {
            let (sign, color) = match change.tag() {
                ChangeTag::Delete => ("-", Some(RED)),
                ChangeTag::Insert => ("+", Some(GREEN)),
                ChangeTag::Equal => (" ", None),
            };
            let line = format!("{sign}{}", change.value().trim_end_matches('\n'));
            text += &match color {
                Some(color) => context.paint(color, &line),
                None => escape_controls(&line).into_owned(),
            };
            text += "\n";
        }
    }
    text
}

/// Prints the whole network as a document: YAML, or JSON on request.
pub async fn export_document(context: &Context, labels: &[String]) -> Result<(), CliError> {
    let query: Vec<(&str, &str)> = labels
        .iter()
        .map(|label| ("label", label.as_str()))
        .collect();
    let answer = context.api.get(&with_query(PATH, &query)).await?;
    if context.format == Format::Json {
        print_line(answer)
    } else {
        print_text(to_yaml(&answer)?)
    }
}

/// Reconciles all resources with the kernel; fails if one is still not in sync.
pub async fn reconcile(context: &Context) -> Result<(), CliError> {
    let answer = context
        .api
        .send(Method::POST, "/v1/reconcile", None)
        .await?;
    let result: Reconciled = serde_json::from_slice(&answer)?;
    if context.format == Format::Json {
        print_line(&answer)?;
    } else {
        let mut text = String::new();
        for ResourceRef { kind, name } in &result.repaired {
            text += &format!("repaired {kind}/{name}\n");
        }
        for resource in &result.failed {
            let reason = resource.reason.as_deref().unwrap_or_default();
            text += &format!(
                "{} {}/{}: {reason}\n",
                resource.state, resource.kind, resource.name
            );
        }
        print_text(text)?;
    }
    if result.failed.is_empty() {
        Ok(())
    } else {
        Err(CliError::Exit(1))
    }
}
