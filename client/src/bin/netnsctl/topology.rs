//! The whole network as a document: apply, plan, diff, export; and reconcile.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal, Read},
};

use clap::Args;
use http::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use netnsd_api::{
    Code, Kind, Problem, Progress, Reconciled, ResourceRef, Topology, TopologyResult,
    locate_pointer, parse, read_yaml, sparse,
};
use serde_json::{Map, Value};
use similar::{ChangeTag, TextDiff};

use crate::{
    api::{RequestBody, with_query},
    cli::Context,
    error::{CliError, describe_field, describe_problem},
    output::{
        Format, GREEN, GREY, RED, YELLOW, escape_controls, print_dry_run, print_json_or_yaml,
        print_line, print_text, write_raw,
    },
    plan::{PlanArgs, print_plan},
    recorded::{MAX_ATTEMPTS, changed_too_often},
    yaml::{format_yaml, to_yaml},
};

const PATH: &str = "/v1/topology";

/// A document, and options of a write.
#[derive(Debug, Args)]
pub struct DocumentArgs {
    /// The document, YAML or JSON; - is the standard input
    #[arg(value_name = "FILE|-", value_hint = clap::ValueHint::FilePath,
        required_unless_present = "file", conflicts_with = "file")]
    document: Option<String>,
    /// The document, written as an option
    #[arg(short, long, value_name = "FILE|-", value_hint = clap::ValueHint::FilePath)]
    file: Option<String>,
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
    fn source(&self) -> DocumentFile<'_> {
        let file = self.file.as_ref().or(self.document.as_ref());
        // The parser requires one of them.
        DocumentFile(file.map_or("-", String::as_str))
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

/// The file of a document; `-` is the standard input.
#[derive(Debug, Clone, Copy)]
pub struct DocumentFile<'a>(pub &'a str);

impl DocumentFile<'_> {
    /// Returns the name of the file for messages.
    fn name(&self) -> &str {
        match self.0 {
            "-" => "standard input",
            file => file,
        }
    }

    /// Reads the document, and checks that it is YAML.
    fn read_text(&self) -> Result<String, CliError> {
        let text = match self.0 {
            "-" => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map(|_| text)
            }
            file => fs::read_to_string(file),
        };
        let name = self.name();
        let text = text.map_err(|error| CliError::Usage(format!("cannot read {name}: {error}")))?;
        match read_yaml(&text) {
            Ok(Value::Null) => Err(CliError::Usage(format!("{name} is empty"))),
            Ok(_) => Ok(text),
            Err(error) => Err(CliError::Usage(format!("{name}: {error}"))),
        }
    }

    /// Names the line and the resource of a refused document.
    fn locate(&self, text: &str, error: CliError) -> CliError {
        let CliError::Problem { problem, hint } = error else {
            return error;
        };
        let document = read_yaml(text).unwrap_or_default();
        let pointer = problem
            .pointer
            .clone()
            .or_else(|| find_pointer(&document, problem.resources.first()?));
        let Some(pointer) = pointer.filter(|pointer| !pointer.is_empty()) else {
            return CliError::Problem { problem, hint };
        };
        let place =
            locate_pointer(text, &pointer).map_or(String::new(), |(line, _)| format!(":{line}"));
        let field = describe_item(&document, &pointer);
        // The detail of a problem without a pointer names the resource.
        let field = match &problem.pointer {
            Some(_) if !field.is_empty() => format!(" {field}:"),
            _ => String::new(),
        };
        let hint = hint.map_or(String::new(), |hint| format!("\n  {hint}"));
        CliError::Refused(format!(
            "{}{place}:{field} {}{hint}",
            self.name(),
            describe_problem(&problem)
        ))
    }

    /// Reads the document without asking netnsd.
    pub fn read_topology(&self) -> Result<Topology, CliError> {
        let text = self.read_text()?;
        let document = RequestBody::Yaml(&text).to_value();
        document
            .and_then(|value| Ok(parse(&value).map_err(Problem::from)?))
            .map_err(|error| self.locate(&text, error))
    }
}

/// Returns the pointer of a resource in a document.
fn find_pointer(document: &Value, resource: &ResourceRef) -> Option<String> {
    let plural = resource.kind.plural();
    let items = document.get(plural)?.as_array()?;
    let index = items
        .iter()
        .position(|item| item["name"] == resource.name.as_str())?;
    Some(format!("/{plural}/{index}"))
}

/// Describes a place in a document: `veth lan, end 0, address`.
fn describe_item(document: &Value, pointer: &str) -> String {
    let mut keys = pointer.splitn(4, '/').skip(1);
    let resource = keys.next().zip(keys.next()).and_then(|(plural, index)| {
        let kind = Kind::ALL.into_iter().find(|kind| kind.plural() == plural)?;
        let item = document.get(plural)?.get(index.parse::<usize>().ok()?)?;
        let name = item["name"].as_str().map_or_else(
            || {
                format!(
                    "number {}",
                    index.parse::<usize>().map_or(0, |index| index + 1)
                )
            },
            str::to_owned,
        );
        Some(format!("{kind} {name}"))
    });
    let Some(resource) = resource else {
        return describe_field(pointer);
    };
    let rest = keys.next().map(|rest| describe_field(&format!("/{rest}")));
    match rest.filter(|rest| !rest.is_empty()) {
        Some(field) => format!("{resource}, {field}"),
        None => resource,
    }
}

/// Resources of a document as an export shows them, by kind.
#[derive(Debug, Default)]
pub struct Resources(BTreeMap<Kind, Vec<Value>>);

impl Resources {
    /// Reads the resources of a document, for a comparison with the recorded ones.
    fn read(document: &Value) -> Result<Self, CliError> {
        let document: Topology = parse(document).map_err(Problem::from)?;
        let mut resources = Self::default();
        for kind in Kind::ALL {
            let mut items: Vec<Value> = document
                .to_json(kind)?
                .into_iter()
                .map(|item| sparse(kind, item))
                .collect();
            items.sort_by_key(|item| item["name"].to_string());
            resources.0.insert(kind, items);
        }
        Ok(resources)
    }

    /// Reads the recorded resources.
    async fn read_recorded(context: &Context, labels: &[(&str, &str)]) -> Result<Self, CliError> {
        let answer = context.api.get(&with_query(PATH, labels)).await?;
        let mut recorded: Map<String, Value> = serde_json::from_slice(&answer)?;
        let mut resources = Self::default();
        for kind in Kind::ALL {
            if let Some(Value::Array(items)) = recorded.remove(kind.plural()) {
                resources.0.insert(kind, items);
            }
        }
        Ok(resources)
    }

    /// Returns the resources of a kind, sorted by name.
    pub fn of_kind(&self, kind: Kind) -> &[Value] {
        self.0.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// Fills in names of devices that netnsd chose and the document leaves out.
    fn keep_chosen_names(&mut self, recorded: &Self) {
        for (kind, items) in &mut self.0 {
            for item in items {
                let recorded = recorded.of_kind(*kind);
                if let Some(recorded) = recorded.iter().find(|old| old["name"] == item["name"]) {
                    keep_chosen_names(item, recorded);
                }
            }
        }
    }
}

/// Applies a document.
pub async fn apply_document(context: &Context, document: &DocumentArgs) -> Result<(), CliError> {
    let text = document.source().read_text()?;
    send_document(
        context,
        document.method(),
        document.write_params(),
        &RequestBody::Yaml(&text),
        None,
        "created",
    )
    .await
    .map_err(|error| document.source().locate(&text, error))
}

/// Exit code of a command that SIGINT ended, as a shell reports it.
const INTERRUPTED: u8 = 130;

/// Sends a document, with `If-Match` if a tag is given, shows its progress, and prints the changes;
/// `created` says how the resources began that were not recorded before.
pub async fn send_document<'a>(
    context: &Context,
    method: Method,
    query: impl Iterator<Item = (&'a str, &'a str)>,
    body: &RequestBody<'_>,
    if_match: Option<&str>,
    created: &str,
) -> Result<(), CliError> {
    let query: Vec<(&str, &str)> = query.chain(context.write_params()).collect();
    let path = with_query(PATH, &query);
    if context.dry_run {
        let answer = context.api.send(method, &path, Some(body)).await?;
        return print_tree(context, &answer, body).await;
    }
    if !context.wait {
        let sending = context
            .api
            .send_if_match(method, &path, Some(body), if_match);
        let answer = sending.await?;
        return print_result(context, &answer, created);
    }

    let bar = create_progress_bar();
    let mut last_line = String::new();
    let on_line = |line: &str| {
        match serde_json::from_str::<Progress>(line) {
            Ok(progress) => {
                bar.set_length(progress.total as u64);
                bar.set_position(progress.done as u64);
            }
            Err(_) => line.clone_into(&mut last_line),
        }
        true
    };
    let sending = context
        .api
        .send_with_progress(method, &path, body, if_match, on_line);
    let answer = tokio::select! {
        answer = sending => answer,
        Ok(()) = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            eprintln!("netnsctl: interrupted; netnsd finishes a document that it has begun");
            return Err(CliError::Exit(INTERRUPTED));
        }
    };
    bar.finish_and_clear();
    answer?;

    // The last line is the result, or a problem.
    if let Ok(problem) = serde_json::from_str::<Problem>(&last_line) {
        return Err(problem.into());
    }
    print_result(context, last_line.as_bytes(), created)
}

/// Prints the answer to the dry run of a document as a tree of fields.
async fn print_tree(
    context: &Context,
    answer: &[u8],
    body: &RequestBody<'_>,
) -> Result<(), CliError> {
    let mut desired = Resources::read(&body.to_value()?)?;
    let recorded = Resources::read_recorded(context, &[]).await?;
    desired.keep_chosen_names(&recorded);
    print_plan(context, answer, &recorded, &desired)
}

/// Deletes all resources of a kind and their dependents, all or none: with a namespace goes what
/// lives in it, and a bridge lets its ports go. What others record meanwhile is read again, and
/// stays or goes by the same rule.
pub async fn delete_all(context: &Context, kind: Kind) -> Result<(), CliError> {
    for _ in 0..MAX_ATTEMPTS {
        let (recorded, etag) = context.api.get_with_etag(PATH).await?;
        let body = Value::Object(without_kind(serde_json::from_slice(&recorded)?, kind));
        let body = RequestBody::Json(&body);
        let query = [("cascade", "true")];
        if context.dry_run {
            let query: Vec<(&str, &str)> =
                query.into_iter().chain(context.write_params()).collect();
            let path = with_query(PATH, &query);
            let answer = context.api.send(Method::PUT, &path, Some(&body)).await?;
            // Only the commands: they can be run by hand.
            return print_dry_run(context.format, &answer);
        }
        let sent = send_document(
            context,
            Method::PUT,
            query.into_iter(),
            &body,
            etag.as_deref(),
            "created",
        );
        match sent.await {
            Err(CliError::Problem { problem, .. }) if problem.code == Code::PreconditionFailed => {}
            result => return result,
        }
    }
    Err(changed_too_often("the network"))
}

/// Returns a document without the resources of a kind and their dependents.
fn without_kind(mut document: Map<String, Value>, kind: Kind) -> Map<String, Value> {
    document.remove(kind.plural());
    for (_, items) in &mut document {
        let Value::Array(items) = items else { continue };
        match kind {
            Kind::Namespace => items.retain(|item| !is_in_namespace(item)),
            Kind::Bridge => items.iter_mut().for_each(detach_ports),
            Kind::Veth | Kind::Link => {}
        }
    }
    document
}

/// Returns true if a resource, or an end of it, lives in a namespace.
fn is_in_namespace(item: &Value) -> bool {
    let ends = item["endpoints"].as_array().into_iter().flatten();
    ends.chain([item])
        .any(|device| device.get("namespace").is_some_and(|name| !name.is_null()))
}

/// Removes the bridge of each end of a pair, and the settings of its port.
fn detach_ports(item: &mut Value) {
    let ends = item.get_mut("endpoints").and_then(Value::as_array_mut);
    for end in ends.into_iter().flatten().filter_map(Value::as_object_mut) {
        end.remove("bridge");
        end.remove("port");
    }
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
fn print_result(context: &Context, answer: &[u8], created: &str) -> Result<(), CliError> {
    if print_json_or_yaml(context.format, answer)? {
        return Ok(());
    }
    let result: TopologyResult = serde_json::from_slice(answer)?;
    match context.format {
        Format::Name => [&result.created, &result.updated, &result.deleted]
            .into_iter()
            .flatten()
            .try_for_each(|resource| print_line(format!("{}/{}", resource.kind, resource.name))),
        Format::Table | Format::Json | Format::Yaml => {
            write_raw(format_changes(context, &result, created))
        }
    }
}

fn format_changes(context: &Context, result: &TopologyResult, past: &str) -> String {
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
        "{created} {past}, {updated} updated, {deleted} deleted, {} unchanged\n",
        result.unchanged
    )
}

/// Prints the changes that a document would make, or the equivalent commands.
pub async fn plan_document(context: &Context, args: &PlanArgs) -> Result<(), CliError> {
    let document = &args.document;
    let text = document.source().read_text()?;
    let body = RequestBody::Yaml(&text);
    let query: Vec<(&str, &str)> = document
        .write_params()
        .chain([("dry_run", "true")])
        .collect();
    let answer = context
        .api
        .send(document.method(), &with_query(PATH, &query), Some(&body))
        .await
        .map_err(|error| document.source().locate(&text, error))?;
    if args.commands {
        print_dry_run(context.format, &answer)
    } else {
        print_tree(context, &answer, &body).await
    }
}

/// Prints the difference between the recorded state and a document; fails if there is one, as
/// diff(1).
pub async fn diff_document(context: &Context, document: &DocumentArgs) -> Result<(), CliError> {
    let text = document.source().read_text()?;
    let mut desired = RequestBody::Yaml(&text)
        .to_value()
        .and_then(|value| Resources::read(&value))
        .map_err(|error| document.source().locate(&text, error))?;
    let labels: Vec<(&str, &str)> = document.label_params().collect();
    let recorded = Resources::read_recorded(context, &labels).await?;
    desired.keep_chosen_names(&recorded);

    let (mut before, mut after) = (String::new(), String::new());
    for kind in Kind::ALL {
        for item in recorded.of_kind(kind) {
            let is_named = desired
                .of_kind(kind)
                .iter()
                .any(|other| other["name"] == item["name"]);
            if document.prune || is_named {
                before += &format_resource(kind, item);
            }
        }
        for item in desired.of_kind(kind) {
            after += &format_resource(kind, item);
        }
    }

    let text = format_diff(context, &before, &after);
    if text.is_empty() {
        return Ok(());
    }
    write_raw(format!(
        "--- recorded\n+++ {}\n{text}",
        document.source().name()
    ))?;
    Err(CliError::Exit(1))
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
fn format_resource(kind: Kind, item: &Value) -> String {
    let yaml = format_yaml(item);
    let name = item["name"].as_str().unwrap_or_default();
    let body: String = yaml.lines().map(|line| format!("  {line}\n")).collect();
    format!("{kind}/{name}:\n{body}")
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
    if context.format == Format::Name {
        let resources = Resources::read_recorded(context, &query).await?;
        for kind in Kind::ALL {
            for item in resources.of_kind(kind) {
                let name = item["name"].as_str().unwrap_or_default();
                print_line(format!("{kind}/{name}"))?;
            }
        }
        return Ok(());
    }
    let answer = context.api.get(&with_query(PATH, &query)).await?;
    match context.format {
        Format::Json => print_line(answer),
        Format::Yaml | Format::Table | Format::Name => print_text(to_yaml(&answer)?),
    }
}

/// Reconciles all resources with the kernel; fails if one is still not in sync.
pub async fn reconcile(context: &Context) -> Result<(), CliError> {
    let answer = context
        .api
        .send(Method::POST, "/v1/reconcile", None)
        .await?;
    let result: Reconciled = serde_json::from_slice(&answer)?;
    if !print_json_or_yaml(context.format, &answer)? {
        let mut text = String::new();
        for ResourceRef { kind, name } in &result.repaired {
            text += &match context.format {
                Format::Name => format!("{kind}/{name}\n"),
                Format::Table | Format::Json | Format::Yaml => format!("repaired {kind}/{name}\n"),
            };
        }
        for resource in &result.failed {
            let name = format!("{}/{}", resource.kind, resource.name);
            let reason = resource.reason.as_deref().unwrap_or_default();
            text += &match context.format {
                Format::Name => format!("{name}\n"),
                Format::Table | Format::Json | Format::Yaml => {
                    format!("{} {name}: {reason}\n", resource.state)
                }
            };
        }
        print_text(text)?;
    }
    if result.failed.is_empty() {
        Ok(())
    } else {
        Err(CliError::Exit(1))
    }
}
