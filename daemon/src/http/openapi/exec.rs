//! Commands and pings in namespaces.

use netnsd_api::{Code, Exec, ExecResult, Ping, PingResult, Problem};
use serde_json::json;
use utoipa::openapi::{Response, path::OperationBuilder, schema::Type};

use super::components::{
    BODY, Components, any_object, body, json_response, name, or_as, problem_response, query,
};

/// Codes of commands and pings, besides those of a body.
const KERNEL: [Code; 3] = [
    Code::NotFound,
    Code::KernelRejected,
    Code::KernelUnavailable,
];

pub(in crate::http) fn exec(api: &mut Components) -> OperationBuilder {
    let codes = [&BODY[..], &KERNEL].concat();
    let (exec, result) = (api.schema::<Exec>(), api.schema::<ExecResult>());
    let result = json_response(
        "the result; as lines, the output precedes the result",
        result,
    );
    let line =
        "`{\"stream\", \"data\"}` or `{\"stream\", \"data_base64\"}`; the last line is the result";
    api.operation("exec", "Run a command in a namespace", "namespaces", &codes)
        .parameter(name())
        .request_body(Some(body(&exec, &json!({"argv": ["ip", "addr"]}))))
        .response(
            "200",
            or_as(result, "application/x-ndjson", any_object(line)),
        )
}

pub(in crate::http) fn exec_socket(api: &mut Components) -> OperationBuilder {
    let codes = [
        Code::NotFound,
        Code::InvalidField,
        Code::TooManyRequests,
        Code::KernelRejected,
        Code::KernelUnavailable,
    ];
    let refused = problem_response("why the WebSocket was refused", api.schema::<Problem>());
    api.operation(
        "exec_socket",
        "Run a command with its input and output on a WebSocket",
        "namespaces",
        &codes,
    )
    .parameter(name())
    .parameter(query(
        "argv",
        "the program and its arguments, one value each; repeated",
        Type::String,
    ))
    .parameter(query("tty", "run it in a terminal", Type::Boolean))
    .parameter(query(
        "rows",
        "rows of the terminal; default 24",
        Type::Integer,
    ))
    .parameter(query(
        "cols",
        "columns of the terminal; default 80",
        Type::Integer,
    ))
    .parameter(query(
        "env",
        "environment variable, KEY=VALUE; repeatable",
        Type::String,
    ))
    .parameter(query(
        "cwd",
        "working directory; default /",
        Type::String,
    ))
    .parameter(query(
        "user",
        "user that it runs as; default root",
        Type::String,
    ))
    .parameter(query(
        "timeout_s",
        "seconds until it is killed; default 86400",
        Type::Number,
    ))
    .response(
        "101",
        Response::new(
            "a WebSocket: binary frames, the first byte is the channel (0 stdin, 1 stdout, 2 stderr, 3 control)",
        ),
    )
    .response("default", refused)
}

pub(in crate::http) fn ping(api: &mut Components) -> OperationBuilder {
    let codes = [&BODY[..], &KERNEL].concat();
    let (ping, result) = (api.schema::<Ping>(), api.schema::<PingResult>());
    api.operation("ping", "Ping from a namespace", "namespaces", &codes)
        .parameter(name())
        .request_body(Some(body(
            &ping,
            &json!({"address": "10.1.1.2", "count": 3}),
        )))
        .response("200", json_response("the replies", result))
}
