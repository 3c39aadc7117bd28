//! The whole network as a document: apply, plan, diff, export, edit; and passes on demand.

use std::{
    fs,
    io::{self, IsTerminal, Read, Write},
    process::Command,
};

use clap::Args;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use netnsd_api::{
    DryRun, Kind, Problem, Progress, Reconciled, ResourceRef, Topology, TopologyResult, parse,
    read_yaml, sparse,
};
use serde::Serialize;
use serde_json::{Map, Value};
use similar::{ChangeTag, TextDiff};

use crate::{
    cli::Context,
    curl::{Body, encoded, with_query},
    fail::Failure,
    output::{Format, line, print, raw, visible, yaml},
    status::Which,
};

/// A document, and what of it.
#[derive(Debug, Args)]
pub struct Document {
    /// The document, YAML or JSON; - is the standard input
    #[arg(short, long, value_name = "FILE|-")]
    file: String,
    /// Also delete what is recorded and not in it
    #[arg(long)]
    prune: bool,
    /// With --prune: delete namespaces with the interfaces in them that netnsd did not make
    #[arg(long, requires = "prune")]
    cascade: bool,
    /// Only resources with this label: KEY=VALUE, KEY or KEY!=VALUE; repeatable
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Take over, in place, what others made at the same places
    #[arg(long)]
    adopt: bool,
}

impl Document {
    fn read(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let read = match self.file.as_str() {
            "-" => io::stdin().read_to_string(&mut text).map(drop),
            file => fs::read_to_string(file).map(|read| text = read),
        };
        read.map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", self.file)))?;
        Ok(text)
    }

    fn method(&self) -> Method {
        if self.prune {
            Method::PUT
        } else {
            Method::PATCH
        }
    }

    /// What of the network is meant, as a query's parameters.
    fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.label.iter().map(|label| ("label", label.as_str()))
    }

    /// The same for a write.
    fn query(&self) -> impl Iterator<Item = (&str, &str)> {
        let asked = [("adopt", self.adopt), ("cascade", self.cascade)];
        self.labels().chain(
            asked
                .into_iter()
                .filter(|(_, is_asked)| *is_asked)
                .map(|(name, _)| (name, "true")),
        )
    }
}

const PATH: &str = "/v1/topology";

/// Makes the network as a document says.
pub async fn apply(context: &Context, document: &Document) -> Result<(), Failure> {
    let text = document.read()?;
    send(
        context,
        document.method(),
        document.query(),
        &Body::Yaml(&text),
    )
    .await
}

/// Sends a document, and tells how far it is and what it changed.
pub async fn send<'a>(
    context: &Context,
    method: Method,
    query: impl Iterator<Item = (&'a str, &'a str)>,
    body: &Body<'_>,
) -> Result<(), Failure> {
    let query: Vec<(&str, &str)> = query.chain(context.asked()).collect();
    let path = with_query(PATH, &query);
    if context.dry_run || !context.wait {
        let answer = context.api.send(method, &path, Some(body)).await?;
        return if context.dry_run {
            show_plan(context, &answer)
        } else {
            summary(context, &answer)
        };
    }
    let bar = ProgressBar::hidden();
    if io::stderr().is_terminal() {
        bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} operations") {
            bar.set_style(style);
        }
    }
    let mut last = String::new();
    let follow = |text: &str| {
        match serde_json::from_str::<Progress>(text) {
            Ok(progress) => {
                bar.set_length(progress.total as u64);
                bar.set_position(progress.done as u64);
            }
            Err(_) => text.clone_into(&mut last),
        }
        true
    };
    let answer = context.api.follow(method, &path, body, follow).await;
    bar.finish_and_clear();
    answer?;
    if let Ok(problem) = serde_json::from_str::<Problem>(&last) {
        return Err(problem.into());
    }
    summary(context, last.as_bytes())
}

/// Says what was changed.
fn summary(context: &Context, answer: &[u8]) -> Result<(), Failure> {
    match context.format {
        Format::Json => line(answer),
        Format::Yaml => print(yaml(answer)?),
        _ => raw(changes(context, &serde_json::from_slice(answer)?)),
    }
}

fn changes(context: &Context, result: &TopologyResult) -> String {
    let mut text = String::new();
    for (sign, colour, resources) in [
        ("+", GREEN, &result.created),
        ("~", YELLOW, &result.updated),
        ("-", RED, &result.deleted),
    ] {
        for ResourceRef { kind, name } in resources {
            text += &context.painted(colour, &format!("{sign} {kind}/{name}"));
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

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const GREY: u8 = 90;

/// Says what a document would change, and by which commands.
pub async fn plan(context: &Context, document: &Document) -> Result<(), Failure> {
    let text = document.read()?;
    let query: Vec<(&str, &str)> = document.query().chain([("dry_run", "true")]).collect();
    let answer = context
        .api
        .send(
            document.method(),
            &with_query(PATH, &query),
            Some(&Body::Yaml(&text)),
        )
        .await?;
    show_plan(context, &answer)
}

fn show_plan(context: &Context, answer: &[u8]) -> Result<(), Failure> {
    if let Format::Json = context.format {
        return line(answer);
    }
    let dry: DryRun = serde_json::from_slice(answer)?;
    let mut text = changes(context, &serde_json::from_value(dry.result)?);
    for operation in dry.plan {
        text += &context.painted(GREY, &operation.command);
        text += "\n";
    }
    raw(text)
}

/// Shows how a document differs from what is recorded.
pub async fn diff(context: &Context, document: &Document) -> Result<(), Failure> {
    let wrong =
        |error: String| Failure::Usage(format!("{} is not a document: {error}", document.file));
    let wanted = read_yaml(&document.read()?).map_err(wrong)?;
    let wanted: Topology =
        parse(&wanted).map_err(|error| wrong(Problem::from(error).to_string()))?;
    let recorded = context
        .api
        .get(&with_query(PATH, &document.labels().collect::<Vec<_>>()))
        .await?;
    let recorded: Map<String, Value> = serde_json::from_slice(&recorded)?;
    let (mut before, mut after) = (String::new(), String::new());
    for kind in Kind::ALL {
        let list = recorded
            .get(kind.plural())
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let wanted = intents(&wanted, kind)?;
        let named = |item: &&Value| {
            document.prune || wanted.iter().any(|other| other["name"] == item["name"])
        };
        let old: Vec<&Value> = list.iter().filter(named).collect();
        for item in &old {
            before += &section(kind, item)?;
        }
        for mut item in wanted {
            if let Some(old) = old.iter().find(|old| old["name"] == item["name"]) {
                keep_chosen_names(&mut item, old);
            }
            after += &section(kind, &item)?;
        }
    }
    let diff = TextDiff::from_lines(&before, &after);
    let mut text = String::new();
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        text += &format!("{}\n", context.painted(GREY, &hunk.header().to_string()));
        for change in hunk.iter_changes() {
            let (sign, colour) = match change.tag() {
                ChangeTag::Delete => ("-", Some(RED)),
                ChangeTag::Insert => ("+", Some(GREEN)),
                ChangeTag::Equal => (" ", None),
            };
            let shown = format!("{sign}{}", change.value().trim_end_matches('\n'));
            text += &colour.map_or_else(
                || visible(&shown).into_owned(),
                |colour| context.painted(colour, &shown),
            );
            text += "\n";
        }
    }
    raw(&text)?;
    // As diff(1): there is a difference.
    if text.is_empty() {
        Ok(())
    } else {
        Err(Failure::Exit(1))
    }
}

/// A document's resources of a kind, as an export shows them, sorted.
fn intents(document: &Topology, kind: Kind) -> Result<Vec<Value>, Failure> {
    fn all<T: Serialize>(items: &[T]) -> serde_json::Result<Vec<Value>> {
        items.iter().map(serde_json::to_value).collect()
    }
    let items = match kind {
        Kind::Namespace => all(&document.namespaces),
        Kind::Bridge => all(&document.bridges),
        Kind::Veth => all(&document.veths),
    };
    let mut items: Vec<Value> = items?.into_iter().map(|item| sparse(kind, item)).collect();
    items.sort_by_key(|item| item["name"].to_string());
    Ok(items)
}

/// A device name that the document leaves out stays as it is.
fn keep_chosen_names(item: &mut Value, old: &Value) {
    for (i, end) in item
        .get_mut("endpoints")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .enumerate()
    {
        if end["interface"].is_null()
            && let Some(name) = old["endpoints"][i].get("interface")
        {
            end["interface"] = name.clone();
        }
    }
}

fn section(kind: Kind, item: &Value) -> Result<String, Failure> {
    let text = yaml_serde::to_string(item).map_err(|error| Failure::Refused(error.to_string()))?;
    Ok(format!(
        "{kind}/{}:\n{}",
        item["name"].as_str().unwrap_or_default(),
        indent(&text)
    ))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Prints the whole network as a document: YAML, unless JSON is asked for.
pub async fn export(context: &Context, labels: &[String]) -> Result<(), Failure> {
    let query: Vec<(&str, &str)> = labels
        .iter()
        .map(|label| ("label", label.as_str()))
        .collect();
    let answer = context.api.get(&with_query(PATH, &query)).await?;
    if context.format == Format::Json {
        line(answer)
    } else {
        print(yaml(&answer)?)
    }
}

/// One pass over everything, now.
pub async fn reconcile(context: &Context) -> Result<(), Failure> {
    let answer = context
        .api
        .send(Method::POST, "/v1/reconcile", None)
        .await?;
    let result: Reconciled = serde_json::from_slice(&answer)?;
    if context.format == Format::Json {
        line(&answer)?;
    } else {
        let repaired = result
            .repaired
            .iter()
            .map(|of| format!("repaired {}/{}\n", of.kind, of.name));
        let failed = result.failed.iter().map(|of| {
            let reason = of.reason.as_deref().unwrap_or_default();
            format!("{} {}/{}: {reason}\n", of.state.as_str(), of.kind, of.name)
        });
        print(repaired.chain(failed).collect::<String>())?;
    }
    if result.failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::Exit(1))
    }
}

/// Has a resource edited as YAML, and puts it back if nobody changed it meanwhile.
pub async fn edit(context: &Context, which: &Which) -> Result<(), Failure> {
    let path = format!("/v1/{}/{}", which.kind.plural(), encoded(&which.name));
    let found = context.api.get(&path).await?;
    let stored: Value = serde_json::from_slice(&found)?;
    let etag = format!("\"{}\"", stored["generation"]);
    let mut intent = stored;
    for field in netnsd_api::READ_ONLY {
        intent.as_object_mut().map(|map| map.remove(field));
    }
    let before = yaml(sparse(which.kind, intent).to_string().as_bytes())?;
    let mut file = tempfile::Builder::new()
        .prefix("netnsctl-")
        .suffix(".yaml")
        .tempfile()?;
    file.write_all(before.as_bytes())?;
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_else(|| "vi".into());
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$0\"")])
        .arg(file.path())
        .status()?;
    if !status.success() {
        return Err(Failure::Refused(format!(
            "{editor} ended with {status}: nothing was changed"
        )));
    }
    let after = fs::read_to_string(file.path())?;
    if after == before {
        eprintln!("netnsctl: nothing was changed");
        return Ok(());
    }
    let body = read_yaml(&after);
    let kept = |file: tempfile::NamedTempFile, why: String| {
        let place = file.keep().map_or_else(
            |_| String::new(),
            |(_, path)| format!("\n  what you wrote is kept in {}", path.display()),
        );
        Failure::Refused(format!("{why}{place}"))
    };
    let body = match body {
        Ok(body) => body,
        Err(error) => return Err(kept(file, format!("this is not YAML: {error}"))),
    };
    match context.api.put_if(&path, &body, &etag).await {
        Ok(()) => Ok(()),
        Err(Failure::Refused(why)) => Err(kept(file, why)),
        Err(other) => Err(other),
    }
}
