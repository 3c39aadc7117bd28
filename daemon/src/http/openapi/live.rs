//! Live kernel state: links, addresses, routes, rules, neighbours, processes, ports,
//! forwarding tables.

use netnsd_api::{
    BridgePort, Code, FdbEntry, Items, LinkAddress, LiveLink, LiveNeighbour, LiveRoute, LiveRule,
    Process, ProcessNamespace,
};
use utoipa::{
    ToSchema,
    openapi::{Object, path::OperationBuilder, schema::Type},
};

use super::components::{Components, json_response, name, path_parameter, query};

/// Begins an operation that lists kernel objects.
fn list<T: ToSchema>(api: &mut Components, id: &str, summary: &str, tag: &str) -> OperationBuilder {
    api.schema::<T>();
    let items = api.inline::<Items<T>>();
    api.operation(id, summary, tag, &[Code::NotFound, Code::KernelUnavailable])
        .response("200", json_response("live kernel state", items))
}

fn in_namespace<T: ToSchema>(api: &mut Components, id: &str, summary: &str) -> OperationBuilder {
    list::<T>(api, id, summary, "namespaces").parameter(name())
}

fn of_bridge<T: ToSchema>(api: &mut Components, id: &str, summary: &str) -> OperationBuilder {
    list::<T>(api, id, summary, "bridges").parameter(name())
}

fn on_host<T: ToSchema>(api: &mut Components, id: &str, summary: &str) -> OperationBuilder {
    list::<T>(api, id, summary, "host")
}

fn with_settings(operation: OperationBuilder) -> OperationBuilder {
    let description = "also settings of bridges and ports that differ from the kernel's defaults";
    operation.parameter(query("settings", description, Type::Boolean))
}

pub(in crate::http) fn namespace_links(api: &mut Components) -> OperationBuilder {
    with_settings(in_namespace::<LiveLink>(
        api,
        "namespace_links",
        "List the links of a namespace",
    ))
}

pub(in crate::http) fn namespace_addresses(api: &mut Components) -> OperationBuilder {
    in_namespace::<LinkAddress>(
        api,
        "namespace_addresses",
        "List the addresses in a namespace",
    )
}

pub(in crate::http) fn namespace_routes(api: &mut Components) -> OperationBuilder {
    in_namespace::<LiveRoute>(api, "namespace_routes", "List the routes of a namespace")
}

pub(in crate::http) fn namespace_rules(api: &mut Components) -> OperationBuilder {
    in_namespace::<LiveRule>(
        api,
        "namespace_rules",
        "List the policy rules of a namespace",
    )
}

pub(in crate::http) fn namespace_neighbours(api: &mut Components) -> OperationBuilder {
    in_namespace::<LiveNeighbour>(
        api,
        "namespace_neighbours",
        "List the neighbours of a namespace",
    )
}

pub(in crate::http) fn namespace_processes(api: &mut Components) -> OperationBuilder {
    in_namespace::<Process>(
        api,
        "namespace_processes",
        "List the processes in a namespace",
    )
}

pub(in crate::http) fn bridge_ports(api: &mut Components) -> OperationBuilder {
    of_bridge::<BridgePort>(
        api,
        "bridge_ports",
        "List the ports of a bridge, like `bridge link`",
    )
}

pub(in crate::http) fn bridge_fdb(api: &mut Components) -> OperationBuilder {
    of_bridge::<FdbEntry>(
        api,
        "bridge_fdb",
        "Show the forwarding table of a bridge, like `brctl showmacs`",
    )
}

pub(in crate::http) fn host_links(api: &mut Components) -> OperationBuilder {
    with_settings(on_host::<LiveLink>(
        api,
        "host_links",
        "List the links of the host",
    ))
}

pub(in crate::http) fn host_addresses(api: &mut Components) -> OperationBuilder {
    on_host::<LinkAddress>(api, "host_addresses", "List the addresses of the host")
}

pub(in crate::http) fn host_routes(api: &mut Components) -> OperationBuilder {
    on_host::<LiveRoute>(api, "host_routes", "List the routes of the host")
}

pub(in crate::http) fn host_rules(api: &mut Components) -> OperationBuilder {
    on_host::<LiveRule>(api, "host_rules", "List the policy rules of the host")
}

pub(in crate::http) fn host_neighbours(api: &mut Components) -> OperationBuilder {
    on_host::<LiveNeighbour>(api, "host_neighbours", "List the neighbours of the host")
}

pub(in crate::http) fn process_namespace(api: &mut Components) -> OperationBuilder {
    let schema = api.schema::<ProcessNamespace>();
    api.operation(
        "process_namespace",
        "Show the network namespace of a process, like `ip netns identify`",
        "processes",
        &[Code::NotFound],
    )
    .parameter(path_parameter(
        "pid",
        "process id",
        Object::with_type(Type::Integer).into(),
    ))
    .response("200", json_response("the namespace", schema))
}
