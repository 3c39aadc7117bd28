//! Commands that all kinds share: list, show, add, set, delete.

use std::{collections::BTreeMap, fmt};

use clap::Args;
use http::Method;
use netnsd_api::{Cidr, Code, DryRun, Kind, Resource, State, Status, Stored};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    api::{RequestBody, percent_encode, with_query},
    body::BodyBuilder,
    cli::Context,
    entries::{Edit, Verb},
    error::CliError,
    output::{Format, compare_natural, format_table, print_dry_run, print_line, print_text},
    parse_args,
    recorded::{Recorded, edit_operations, merge_operations, patch_recorded},
    topology,
    yaml::to_yaml,
};

/// A kind that tables can show.
pub trait ShowInTable: Resource {
    /// The columns of a list.
    const COLUMNS: &'static [&'static str];

    /// Returns its row in a list.
    fn row(stored: &Stored<Self>) -> Vec<String>;

    /// Returns all of its fields by name; empty ones are not shown.
    fn fields(stored: &Stored<Self>) -> Vec<(&'static str, String)>;
}

/// Filters of a list.
#[derive(Debug, Default, Args)]
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
    /// Returns the filters as query parameters.
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

/// Options for labels of `add` and `set`.
#[derive(Debug, Args)]
pub struct LabelOptions {
    /// A label; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_args::parse_key_value)]
    pub label: Vec<(String, String)>,
    /// With set: remove this label; repeatable
    #[arg(long, value_name = "KEY")]
    pub no_label: Vec<String>,
}

impl LabelOptions {
    /// Sets the labels in a body.
    pub fn apply_to(&self, body: &mut BodyBuilder) {
        body.set_map("labels", &self.label, &self.no_label);
    }
}

/// Options for the fields of every device; `none` leaves a value to the kernel.
#[derive(Debug, Args)]
pub struct DeviceOptions {
    /// The device's name [default: that of the resource, or the first free vethN]
    #[arg(long, value_name = "INTERFACE")]
    interface: Option<String>,
    /// The namespace that it is in
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Place it in the host's namespace
    #[arg(long, conflicts_with = "namespace")]
    host: bool,
    /// MAC address, or none
    #[arg(long, value_parser = parse_args::parse_text_or_none)]
    mac: Option<Value>,
    /// MTU in bytes, or none
    #[arg(long, value_name = "BYTES", value_parser = parse_args::parse_number_or_none)]
    mtu: Option<Value>,
    /// Length of the transmit queue in packets, or none
    #[arg(long, value_name = "PACKETS", value_parser = parse_args::parse_number_or_none)]
    txqueuelen: Option<Value>,
    /// Text that ip shows as alias, or none
    #[arg(long, value_name = "TEXT", value_parser = parse_args::parse_text_or_none)]
    alias: Option<Value>,
    /// An alternative name; repeatable; with set they replace all alternative names, none removes them
    #[arg(long, value_name = "NAME", value_parser = parse_args::parse_text_or_none)]
    altname: Vec<Value>,
    /// Receive all frames
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    promiscuous: Option<bool>,
    /// Receive all multicast frames
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    allmulticast: Option<bool>,
    /// Do ARP
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    arp: Option<bool>,
    /// Set it up
    #[arg(long, conflicts_with = "down")]
    up: bool,
    /// Set it down
    #[arg(long)]
    down: bool,
    /// An IP address; repeatable; with set they replace all addresses, none removes them
    #[arg(long, value_name = "CIDR", value_parser = parse_args::parse_text_or_none)]
    address: Vec<Value>,
}

impl DeviceOptions {
    /// Sets the fields in a body.
    pub fn apply_to(&self, body: &mut BodyBuilder) {
        body.set("interface", self.interface.clone());
        body.set("namespace", self.namespace.clone());
        body.set("namespace", self.host.then_some(Value::Null));
        body.set("mac", self.mac.clone());
        body.set("mtu", self.mtu.clone());
        body.set("txqueuelen", self.txqueuelen.clone());
        body.set("alias", self.alias.clone());
        body.set_list("altnames", &self.altname);
        body.set("promiscuous", self.promiscuous);
        body.set("allmulticast", self.allmulticast);
        body.set("arp", self.arp);
        body.set_flag("up", self.up, self.down);
        body.set_list("addresses", &self.address);
    }
}

/// Options of `set` for single addresses.
#[derive(Debug, Default, Args)]
pub struct AddressEdits {
    /// Add an IP address, and keep the others; repeatable
    #[arg(long, value_name = "CIDR")]
    add_address: Vec<Cidr>,
    /// Remove an IP address, and keep the others; repeatable
    #[arg(long, value_name = "CIDR")]
    remove_address: Vec<Cidr>,
}

impl AddressEdits {
    /// Returns the edits: removals first.
    pub fn edits(&self) -> Vec<Edit> {
        let edit = |verb| move |address: &Cidr| Edit::Address(verb, (*address).into());
        let removed = self.remove_address.iter().map(edit(Verb::Delete));
        let added = self.add_address.iter().map(edit(Verb::Add));
        removed.chain(added).collect()
    }
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The names
    #[arg(required_unless_present = "all", value_name = "NAME")]
    pub names: Vec<String>,
    /// Delete all of them, and all of their dependents
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Delete their dependents too
    #[arg(long)]
    pub cascade: bool,
}

/// The path of a resource, of a part of it, or of all resources of a kind.
#[derive(Debug, Clone)]
pub struct ResourcePath {
    kind: Kind,
    /// `None` for all resources of the kind.
    name: Option<String>,
    path: String,
}

impl ResourcePath {
    /// Returns the path of all resources of a kind.
    pub fn collection<R: Resource>() -> Self {
        Self {
            kind: R::KIND,
            name: None,
            path: collection_path(R::KIND),
        }
    }

    /// Returns the path of a resource.
    pub fn resource<R: Resource>(name: &str) -> Self {
        Self::of(R::KIND, name)
    }

    /// Returns the path of a resource of a kind.
    pub fn of(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            name: Some(name.to_owned()),
            path: resource_path(kind, name),
        }
    }

    /// Returns the kind of the resource.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the name of the resource; empty for all of a kind.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Returns the path of a part of the resource.
    pub fn child(self, part: &str) -> Self {
        Self {
            path: format!("{}/{part}", self.path),
            ..self
        }
    }
}

impl fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// Returns the path of all resources of a kind.
pub fn collection_path(kind: Kind) -> String {
    format!("/v1/{}", kind.plural())
}

/// Returns the path of a resource.
pub fn resource_path(kind: Kind, name: &str) -> String {
    format!("/v1/{}/{}", kind.plural(), percent_encode(name))
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

/// Returns the names of the items of a list.
pub fn item_names(items: &[Box<RawValue>]) -> Result<Vec<String>, CliError> {
    items
        .iter()
        .map(|item| Ok(serde_json::from_str::<Named>(item.get())?.name))
        .collect()
}

/// Prints a list of resources.
pub async fn list_resources<R: ShowInTable>(
    context: &Context,
    filter: &Filter,
) -> Result<(), CliError> {
    let list = context
        .api
        .list(&collection_path(R::KIND), &filter.query())
        .await?;
    match context.format {
        Format::Json => print_line(&list.body),
        Format::Yaml => print_text(to_yaml(&list.body)?),
        Format::Name => {
            let mut names = item_names(&list.items)?;
            names.sort_by(|a, b| compare_natural(a, b));
            names.into_iter().try_for_each(print_line)
        }
        Format::Table => {
            let mut rows = Vec::new();
            for item in &list.items {
                rows.push(R::row(&serde_json::from_str(item.get())?));
            }
            rows.sort_by(|a, b| compare_natural(&a[0], &b[0]));
            print_text(format_table(R::COLUMNS, rows))
        }
    }
}

/// Prints one resource, or lists all of its kind.
pub async fn show_or_list<R: ShowInTable>(
    context: &Context,
    name: Option<&str>,
) -> Result<(), CliError> {
    match name {
        Some(name) => show_resource::<R>(context, name).await,
        None => list_resources::<R>(context, &Filter::default()).await,
    }
}

/// Prints one resource.
pub async fn show_resource<R: ShowInTable>(context: &Context, name: &str) -> Result<(), CliError> {
    let body = context.api.get(&resource_path(R::KIND, name)).await?;
    match context.format {
        Format::Json => print_line(&body),
        Format::Yaml => print_text(to_yaml(&body)?),
        Format::Name => print_line(name),
        Format::Table => print_text(format_fields::<R>(serde_json::from_slice(&body)?)),
    }
}

/// Returns a table of the fields of a resource.
fn format_fields<R: ShowInTable>(stored: Stored<R>) -> String {
    let mut fields = vec![
        ("name", stored.spec.name().to_string()),
        ("state", stored.status.state.to_string()),
        ("reason", stored.status.reason.clone().unwrap_or_default()),
        ("labels", format_labels(stored.spec.labels())),
    ];
    fields.extend(R::fields(&stored));
    fields.extend([
        ("uid", stored.uid),
        ("generation", stored.generation.to_string()),
        ("created", stored.created_at),
        ("updated", stored.updated_at),
    ]);
    let rows = fields
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(field, value)| vec![field.to_owned(), value]);
    format_table(&[], rows.collect())
}

/// Fields of the answer to a write; an end of a pair has no name.
#[derive(Debug, Deserialize)]
struct WriteAnswer {
    name: Option<String>,
    status: Status<Value>,
}

/// Sends a write, and prints its answer.
///
/// With `print_name` the name is printed also as a table: netnsd chose it.
async fn send_write(
    context: &Context,
    method: Method,
    target: &ResourcePath,
    query: &[(&str, &str)],
    body: Option<&Value>,
    print_name: bool,
) -> Result<(), CliError> {
    let query: Vec<(&str, &str)> = query
        .iter()
        .copied()
        .chain(context.write_params())
        .collect();
    let path = with_query(&target.path, &query);
    let body = body.map(RequestBody::Json);
    let answer = context.api.send(method, &path, body.as_ref()).await?;
    print_written(context, target, &answer, print_name)
}

/// Prints the answer to a write.
///
/// With `print_name` the name is printed also as a table: netnsd chose it.
pub fn print_written(
    context: &Context,
    target: &ResourcePath,
    answer: &[u8],
    print_name: bool,
) -> Result<(), CliError> {
    if context.dry_run {
        return print_dry_run(context.format, answer);
    }
    if answer.is_empty() {
        return Ok(());
    }

    let written: WriteAnswer = serde_json::from_slice(answer)?;
    let name = written
        .name
        .as_deref()
        .or(target.name.as_deref())
        .unwrap_or_default();
    if let (State::Pending, Some(reason), true) =
        (written.status.state, &written.status.reason, context.wait)
    {
        eprintln!("netnsctl: {} {name} is pending: {reason}", target.kind);
    }
    match context.format {
        Format::Json => print_line(answer),
        Format::Yaml => print_text(to_yaml(answer)?),
        Format::Name => print_line(name),
        Format::Table if print_name => print_line(name),
        Format::Table => Ok(()),
    }
}

/// Creates a resource; it is no error if it exists and is exactly so.
pub async fn add_resource<R: Resource>(context: &Context, body: &Value) -> Result<(), CliError> {
    let collection = ResourcePath::collection::<R>();
    let name = body["name"].as_str();
    let is_unnamed = name.is_none();
    let sent = send_write(
        context,
        Method::POST,
        &collection,
        &[],
        Some(body),
        is_unnamed,
    )
    .await;
    match (sent, name) {
        (Err(CliError::Problem { problem, hint }), Some(name))
            if problem.code == Code::AlreadyExists =>
        {
            let target = ResourcePath::resource::<R>(name);
            if is_recorded(context, &target, body).await.unwrap_or(false) {
                return Ok(());
            }
            Err(CliError::Problem { problem, hint })
        }
        (sent, _) => sent,
    }
}

/// Returns true if a PUT of this body would change nothing.
async fn is_recorded(
    context: &Context,
    target: &ResourcePath,
    body: &Value,
) -> Result<bool, CliError> {
    let generation = |resource: &Value| resource["generation"].clone();
    let recorded: Value = serde_json::from_slice(&context.api.get(&target.path).await?)?;
    let path = with_query(&target.path, &[("dry_run", "true")]);
    let answer = context
        .api
        .send(Method::PUT, &path, Some(&RequestBody::Json(body)))
        .await?;
    let dry_run: DryRun = serde_json::from_slice(&answer)?;
    Ok(generation(&dry_run.result) == generation(&recorded))
}

/// Changes the fields of a resource, or of a part of it, and single entries of its lists; others
/// stay. `find` reads what is recorded, for the edits.
pub async fn set_fields(
    context: &Context,
    target: &ResourcePath,
    body: BodyBuilder,
    edits: &[Edit],
    find: impl AsyncFn() -> Result<Recorded, CliError>,
) -> Result<(), CliError> {
    if body.is_empty() && edits.is_empty() {
        return Err(CliError::Usage("no options given; see --help".into()));
    }
    let merge = body.build();
    if edits.is_empty() {
        return send_write(context, Method::PATCH, target, &[], Some(&merge), false).await;
    }
    if let Some(edit) = edits.iter().find(|edit| merge.get(edit.field()).is_some()) {
        return Err(CliError::Usage(format!(
            "all {} are replaced, and single ones are edited: give only one of both",
            edit.field()
        )));
    }
    patch_recorded(context, find, async |recorded| {
        let mut operations = merge_operations("", &recorded.fields, &merge);
        operations.extend(edit_operations(&recorded.fields, edits)?);
        Ok(operations)
    })
    .await
}

/// Calls a function for each name: continues after a refusal, and fails in the end.
pub async fn for_each_name(
    names: &[String],
    mut action: impl AsyncFnMut(&str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut exit_code = 0;
    for name in names {
        match action(name).await {
            Ok(()) => {}
            Err(
                error @ (CliError::Problem { .. }
                | CliError::Refused(_)
                | CliError::NotExecuted(..)
                | CliError::Exit(_)),
            ) => {
                exit_code = exit_code.max(error.report());
            }
            Err(other) => return Err(other),
        }
    }
    if exit_code == 0 {
        Ok(())
    } else {
        Err(CliError::Exit(exit_code))
    }
}

/// Deletes the resource of a path; a bridge lets its ports go.
pub async fn delete_resource(context: &Context, target: &ResourcePath) -> Result<(), CliError> {
    let resource = ResourcePath::of(target.kind, target.name());
    let query = [("cascade", "true")];
    send_write(context, Method::DELETE, &resource, &query, None, false).await
}

/// Deletes resources.
pub async fn delete_resources<R: Resource>(
    context: &Context,
    args: &DeleteArgs,
) -> Result<(), CliError> {
    if args.all {
        return topology::delete_all(context, R::KIND).await;
    }
    let query: &[_] = if args.cascade {
        &[("cascade", "true")]
    } else {
        &[]
    };
    for_each_name(&args.names, async |name| {
        let target = ResourcePath::resource::<R>(name);
        send_write(context, Method::DELETE, &target, query, None, false).await
    })
    .await
}

/// Returns labels as text.
pub fn format_labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// Returns values as text, one on each line.
pub fn join_lines<T: ToString>(values: &[T]) -> String {
    let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
    texts.join("\n")
}
