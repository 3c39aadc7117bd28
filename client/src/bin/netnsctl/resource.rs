//! What the three kinds have in common: list, show, add, set, delete.

use std::collections::BTreeMap;

use clap::Args;
use http::Method;
use netnsd_api::{Resource, State, Status, Stored};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    cli::Context,
    curl::{Body, encoded, with_query},
    fail::Failure,
    output::{self, Format, line, print, table},
    words,
};

/// A kind, as it is shown.
pub trait Shown: Resource {
    /// The columns of a list.
    const COLUMNS: &'static [&'static str];
    /// Its row in a list.
    fn row(stored: &Stored<Self>) -> Vec<String>;
    /// Everything about it; what is empty is left out.
    fn fields(stored: &Stored<Self>) -> Vec<(&'static str, String)>;
}

/// What a list is narrowed to.
#[derive(Debug, Args)]
pub struct Filter {
    /// Only those with this label: KEY=VALUE, KEY or KEY!=VALUE; repeatable
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// Only those in this state: in_sync, pending, drifted, failed or conflict
    #[arg(long)]
    pub state: Option<String>,
    /// Only those in this namespace
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
}

impl Filter {
    /// As a query's parameters.
    pub fn query(&self) -> Vec<(&str, &str)> {
        let labels = self.label.iter().map(|label| ("label", label.as_str()));
        let state = self.state.as_deref().map(|state| ("state", state));
        let namespace = self
            .namespace
            .as_deref()
            .map(|namespace| ("namespace", namespace));
        labels.chain(state).chain(namespace).collect()
    }
}

/// Labels that `add` and `set` give.
#[derive(Debug, Args)]
pub struct Labels {
    /// A label; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::pair)]
    pub label: Vec<(String, String)>,
    /// In set, a label to take away; repeatable
    #[arg(long, value_name = "KEY")]
    pub no_label: Vec<String>,
}

/// What a bridge and an end of a pair have in common; `none` leaves a value to the kernel.
#[derive(Debug, Args)]
pub struct LinkOptions {
    /// The device's name; by default a bridge is called as its resource
    #[arg(long, value_name = "INTERFACE")]
    interface: Option<String>,
    /// The namespace that it lives in
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// It lives in the host's own namespace
    #[arg(long, conflicts_with = "namespace")]
    host: bool,
    /// MAC address, or none
    #[arg(long, value_parser = words::text)]
    mac: Option<Value>,
    /// MTU in bytes, or none
    #[arg(long, value_name = "BYTES", value_parser = words::number)]
    mtu: Option<Value>,
    /// It is up
    #[arg(long, conflicts_with = "down")]
    up: bool,
    /// It is down
    #[arg(long)]
    down: bool,
    /// An address of its own; repeatable; in set these replace all, none empties the list
    #[arg(long, value_name = "CIDR", value_parser = words::text)]
    address: Vec<Value>,
}

impl LinkOptions {
    /// Puts what was given into a body.
    pub fn put(&self, body: &mut words::Body) {
        body.put("interface", self.interface.clone());
        body.put("namespace", self.namespace.clone());
        body.put("namespace", self.host.then_some(Value::Null));
        body.put("mac", self.mac.clone());
        body.put("mtu", self.mtu.clone());
        body.flags("up", self.up, self.down);
        body.list("addresses", &self.address);
    }
}

/// What to delete.
#[derive(Debug, Args)]
pub struct Delete {
    /// Their names
    #[arg(required_unless_present = "all", value_name = "NAME")]
    pub names: Vec<String>,
    /// All of them, with all that depends on them
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Take along what depends on them
    #[arg(long)]
    pub cascade: bool,
}

/// The path of a resource.
pub fn path<R: Resource>(name: &str) -> String {
    format!("/v1/{}/{}", R::KIND.plural(), encoded(name))
}

/// The name in an item of a list.
#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

/// Names of a list's items.
pub fn names(items: &[Box<RawValue>]) -> Result<Vec<String>, Failure> {
    items
        .iter()
        .map(|item| Ok(serde_json::from_str::<Named>(item.get())?.name))
        .collect()
}

/// Lists resources.
pub async fn list<R: Shown>(context: &Context, filter: &Filter) -> Result<(), Failure> {
    let listed = context
        .api
        .list(&format!("/v1/{}", R::KIND.plural()), &filter.query())
        .await?;
    match context.format {
        Format::Json => line(&listed.body),
        Format::Yaml => print(output::yaml(&listed.body)?),
        Format::Name => names(&listed.items)?.into_iter().try_for_each(line),
        Format::Table => {
            let row = |item: &RawValue| Ok(R::row(&serde_json::from_str(item.get())?));
            let rows: Result<Vec<_>, Failure> = listed.items.iter().map(|item| row(item)).collect();
            print(table(R::COLUMNS, rows?))
        }
    }
}

/// Shows one resource.
pub async fn show<R: Shown>(context: &Context, name: &str) -> Result<(), Failure> {
    let body = context.api.get(&path::<R>(name)).await?;
    match context.format {
        Format::Json => line(&body),
        Format::Yaml => print(output::yaml(&body)?),
        Format::Name => line(name),
        Format::Table => {
            let stored: Stored<R> = serde_json::from_slice(&body)?;
            let mut fields = vec![
                ("name", stored.spec.name().to_string()),
                ("state", stored.status.state.as_str().to_owned()),
                ("reason", stored.status.reason.clone().unwrap_or_default()),
                ("labels", labels(stored.spec.labels())),
            ];
            fields.extend(R::fields(&stored));
            fields.extend([
                ("uid", stored.uid),
                ("generation", stored.generation.to_string()),
                ("created", stored.created_at),
                ("updated", stored.updated_at),
            ]);
            let rows = fields.into_iter().filter(|(_, value)| !value.is_empty());
            print(table(
                &[],
                rows.map(|(field, value)| vec![field.to_owned(), value])
                    .collect(),
            ))
        }
    }
}

/// Sends a write, and prints what it answers.
///
/// `names` says that the name is printed also where nobody asked for it: because netnsd chose it.
pub async fn write(
    context: &Context,
    method: Method,
    path: &str,
    query: &[(&str, &str)],
    body: Option<&Value>,
    names: bool,
) -> Result<(), Failure> {
    let query: Vec<(&str, &str)> = query.iter().copied().chain(context.asked()).collect();
    let body = body.map(Body::Json);
    let answer = context
        .api
        .send(method, &with_query(path, &query), body.as_ref())
        .await?;
    if context.dry_run {
        return output::dry_run(context.format, &answer);
    }
    if answer.is_empty() {
        return Ok(());
    }
    /// What is of interest in any answer; an end of a pair has no name.
    #[derive(Deserialize)]
    struct Written {
        name: Option<String>,
        status: Status<Value>,
    }
    let written: Written = serde_json::from_slice(&answer)?;
    let mut segments = path.trim_start_matches("/v1/").split('/');
    let kind = segments.next().unwrap_or_default().trim_end_matches('s');
    let name = written
        .name
        .as_deref()
        .or(segments.next())
        .unwrap_or_default();
    if let (State::Pending, Some(reason), true) =
        (written.status.state, &written.status.reason, context.wait)
    {
        eprintln!("netnsctl: {kind} {name} is pending: {reason}");
    }
    match context.format {
        Format::Json => line(&answer),
        Format::Yaml => print(output::yaml(&answer)?),
        Format::Name => line(name),
        Format::Table if names => line(name),
        Format::Table => Ok(()),
    }
}

/// Creates a resource.
pub async fn add<R: Resource>(context: &Context, body: &Value) -> Result<(), Failure> {
    let unnamed = body["name"].is_null();
    write(
        context,
        Method::POST,
        &format!("/v1/{}", R::KIND.plural()),
        &[],
        Some(body),
        unnamed,
    )
    .await
}

/// Merges a patch into what a path names.
pub async fn set(context: &Context, path: &str, patch: &Value) -> Result<(), Failure> {
    if patch.as_object().is_some_and(|fields| fields.is_empty()) {
        return Err(Failure::Usage(
            "nothing to set: say what, see --help".into(),
        ));
    }
    write(context, Method::PATCH, path, &[], Some(patch), false).await
}

/// Does the same to several resources: goes on past a refusal, and then fails.
pub async fn each(
    names: &[String],
    mut act: impl AsyncFnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut worst = 0;
    for name in names {
        match act(name).await {
            Ok(()) => {}
            Err(failure @ (Failure::Refused(_) | Failure::Exit(_))) => {
                worst = worst.max(failure.report())
            }
            Err(other) => return Err(other),
        }
    }
    if worst == 0 {
        Ok(())
    } else {
        Err(Failure::Exit(worst))
    }
}

/// Deletes resources.
pub async fn delete<R: Resource>(context: &Context, what: &Delete) -> Result<(), Failure> {
    let names = if what.all {
        names(
            &context
                .api
                .list(&format!("/v1/{}", R::KIND.plural()), &[])
                .await?
                .items,
        )?
    } else {
        what.names.clone()
    };
    let query: &[_] = if what.all || what.cascade {
        &[("cascade", "true")]
    } else {
        &[]
    };
    each(&names, async |name| {
        write(
            context,
            Method::DELETE,
            &path::<R>(name),
            query,
            None,
            false,
        )
        .await
    })
    .await
}

/// Labels as text.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// Values as text, one a line.
pub fn lines<T: ToString>(values: &[T]) -> String {
    let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

/// `on` or `off`.
pub fn switch(on: bool) -> String {
    (if on { "on" } else { "off" }).to_owned()
}
