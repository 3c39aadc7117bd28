//! Tokens and the audit log.

use netnsd_api::{AuditEntry, Code, IssuedToken, Items, NewToken, Token};
use serde_json::json;
use utoipa::openapi::{
    HttpMethod, ResponseBuilder,
    schema::{Object, Type},
};

use super::{BODY, Description, body, json_response, path_parameter, query, with_header};

impl Description {
    pub(super) fn access(&mut self) {
        let token = || {
            path_parameter(
                "name",
                "the token's name",
                Object::with_type(Type::String).into(),
            )
        };
        let all = self.inline::<Items<Token>>();
        let operation = self.operation(
            "list_tokens",
            "Tokens, without their secrets (for admins)",
            "access",
            &[],
        );
        let operation = operation.response("200", json_response("every token", all));
        self.add(HttpMethod::Get, "/v1/tokens", operation.build());

        let (new, issued) = (self.schema::<NewToken>(), self.schema::<IssuedToken>());
        let example = json!({"name": "ci", "role": "operator", "prefix": "ci-", "expires_at": "2099-01-31T12:00:00Z"});
        let codes: Vec<Code> = BODY
            .into_iter()
            .chain([Code::AlreadyExists, Code::StoreUnavailable])
            .collect();
        let created = with_header(
            json_response("the only time that its secret is told", issued),
            "Location",
            "the token's path",
        );
        let operation = self
            .operation(
                "create_token",
                "Makes a bearer token (for admins)",
                "access",
                &codes,
            )
            .request_body(Some(body(&new, &example)))
            .response("201", created);
        self.add(HttpMethod::Post, "/v1/tokens", operation.build());

        let one = self.schema::<Token>();
        let operation = self
            .operation(
                "get_token",
                "A token, without its secret (for admins)",
                "access",
                &[Code::NotFound],
            )
            .parameter(token())
            .response("200", json_response("the token", one));
        self.add(HttpMethod::Get, "/v1/tokens/{name}", operation.build());
        let operation = self
            .operation(
                "delete_token",
                "Revokes a token at once, for open streams too (for admins)",
                "access",
                &[Code::NotFound, Code::StoreUnavailable],
            )
            .parameter(token())
            .response(
                "204",
                ResponseBuilder::new()
                    .description("it is no longer valid")
                    .build(),
            );
        self.add(HttpMethod::Delete, "/v1/tokens/{name}", operation.build());

        self.schema::<AuditEntry>();
        let entries = self.inline::<Items<AuditEntry>>();
        let operation = self
            .operation(
                "audit",
                "Who did what, with what answer: the newest, in their order (for admins)",
                "access",
                &[],
            )
            .parameter(query(
                "since",
                "only entries after this number, the oldest of them first",
                Type::Integer,
            ))
            .parameter(query(
                "limit",
                "at most so many: 1 to 10000, default 1000",
                Type::Integer,
            ))
            .response("200", json_response("entries", entries));
        self.add(HttpMethod::Get, "/v1/audit", operation.build());
    }
}
