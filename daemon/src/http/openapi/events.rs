//! Events.

use netnsd_api::{Event, Items};
use utoipa::openapi::{path::OperationBuilder, schema::Type};

use super::components::{Components, header, json_response, or_as, query};

pub(in crate::http) fn events(api: &mut Components) -> OperationBuilder {
    let (event, items) = (api.schema::<Event>(), api.inline::<Items<Event>>());
    let response = json_response(
        "a stream of Server-Sent Events (`id`, `event`, and `data`: an Event); with `Accept: application/json` the list of stored events",
        items,
    );
    api.operation("events", "List or follow events", "events", &[])
        .parameter(query("since", "only events after this id", Type::Integer))
        .parameter(query(
            "kind",
            "only events of resources of this kind; repeatable",
            Type::String,
        ))
        .parameter(query(
            "name",
            "only events of resources of this name; repeatable",
            Type::String,
        ))
        .parameter(query(
            "type",
            "only events of this type; repeatable",
            Type::String,
        ))
        .parameter(header(
            "Last-Event-ID",
            "id of the last event received",
            Type::Integer,
        ))
        .response("200", or_as(response, "text/event-stream", event))
}
