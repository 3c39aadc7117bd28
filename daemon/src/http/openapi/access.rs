//! Tokens and the audit log.

use netnsd_api::{AuditEntry, Code, IssuedToken, Items, NewToken, Token};
use serde_json::json;
use utoipa::openapi::{
    Object, Response,
    path::{OperationBuilder, Parameter},
    schema::Type,
};

use super::components::{
    BODY, Components, body, json_response, path_parameter, query, with_header,
};

pub(in crate::http) fn list_tokens(api: &mut Components) -> OperationBuilder {
    let tokens = api.inline::<Items<Token>>();
    api.operation(
        "list_tokens",
        "List tokens, without their secrets (for admins)",
        "access",
        &[],
    )
    .response("200", json_response("all tokens", tokens))
}

pub(in crate::http) fn create_token(api: &mut Components) -> OperationBuilder {
    let (new, issued) = (api.schema::<NewToken>(), api.schema::<IssuedToken>());
    let example = json!({"name": "ci", "role": "operator", "prefix": "ci-", "expires_at": "2099-01-31T12:00:00Z"});
    let codes = [&BODY[..], &[Code::AlreadyExists, Code::StoreUnavailable]].concat();
    let created = with_header(
        json_response(
            "the token with its secret, which is shown only here",
            issued,
        ),
        "Location",
        "path of the token",
    );
    api.operation(
        "create_token",
        "Create a bearer token (for admins)",
        "access",
        &codes,
    )
    .request_body(Some(body(&new, &example)))
    .response("201", created)
}

pub(in crate::http) fn get_token(api: &mut Components) -> OperationBuilder {
    let token = api.schema::<Token>();
    api.operation(
        "get_token",
        "Show a token, without its secret (for admins)",
        "access",
        &[Code::NotFound],
    )
    .parameter(name())
    .response("200", json_response("the token", token))
}

pub(in crate::http) fn delete_token(api: &mut Components) -> OperationBuilder {
    api.operation(
        "delete_token",
        "Revoke a token at once, also for open streams (for admins)",
        "access",
        &[Code::NotFound, Code::StoreUnavailable],
    )
    .parameter(name())
    .response("204", Response::new("revoked"))
}

pub(in crate::http) fn audit(api: &mut Components) -> OperationBuilder {
    api.schema::<AuditEntry>();
    let entries = api.inline::<Items<AuditEntry>>();
    api.operation(
        "audit",
        "List entries of the audit log: the newest, in order (for admins)",
        "access",
        &[],
    )
    .parameter(query(
        "since",
        "only entries after this id, the oldest of them first",
        Type::Integer,
    ))
    .parameter(query(
        "limit",
        "maximum number of entries, 1 to 10000, default 1000",
        Type::Integer,
    ))
    .response("200", json_response("entries", entries))
}

fn name() -> Parameter {
    path_parameter(
        "name",
        "name of the token",
        Object::with_type(Type::String).into(),
    )
}
