//! Authentication and authorisation of every request, by the policy of its route.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use netnsd_api::Code;

use super::{
    App,
    audit::{self, RequestInfo, Unfinished},
    origin::{check_loopback, check_same_origin},
    problem::Failure,
    resource,
    routes::{self, RoutePolicy, RouteScope},
};
use crate::{
    access::{AuditDraft, Authenticator, Caller, SocketPeer, network_of},
    engine::RecordError,
};

/// Name of an authenticated caller, for the log line of its request.
#[derive(Debug, Clone)]
pub(super) struct CallerName(pub Arc<Caller>);

/// Authenticates the caller, checks the policy of the route that the request matched, and runs the
/// handler. The audit entry is durable before the response is returned.
pub(super) async fn auth_middleware(
    State(app): State<App>,
    path_params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let info = RequestInfo::new(&request);
    let matched = request.extensions().get::<MatchedPath>();
    let policy = routes::index().policy(&info.method, matched.map(MatchedPath::as_str));
    let audited = policy.audit.applies(request.uri().query());
    let caller = authenticate(&app, &request).map(|mut caller| {
        if audited {
            let draft = AuditDraft::new(info.audit_entry(Some(&caller)));
            caller.audit = Some(Arc::new(draft));
        }
        Arc::new(caller)
    });

    let allowed = match &caller {
        Ok(caller) => authorize(caller, &policy, &info, name_of(&path_params)).map(|()| caller),
        Err(failure) => Err(failure.clone()),
    };
    let mut response = match allowed {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            request.extensions_mut().insert(policy);
            next.run(request).await
        }
        Err(failure) => refuse(failure),
    };

    if response.extensions().get::<Unfinished>().is_none() {
        let (caller, status) = (caller.as_deref().ok(), response.status());
        let recorded = audit::record_answer(&app, &info, caller, audited, status).await;
        if let Err(RecordError::Stopping(error)) = recorded
            && audit::is_refusal(status)
        {
            response = Failure::from(error).into_response();
        }
    }
    if let Ok(caller) = caller {
        response.extensions_mut().insert(CallerName(caller));
    }
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Returns the decoded `{name}` of a path.
fn name_of(params: &Result<RawPathParams, RawPathParamsRejection>) -> Option<&str> {
    let mut params = params.as_ref().ok()?.iter();
    params.find_map(|(key, value)| (key == "name").then_some(value))
}

fn refuse(failure: Failure) -> Response {
    let unauthenticated = failure.0.code == Code::Unauthenticated;
    let mut response = failure.into_response();
    if unauthenticated {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn authenticate(app: &App, request: &Request) -> Result<Caller, Failure> {
    let headers = request.headers();
    check_single(headers, header::HOST, "Host")?;
    check_single(headers, header::ORIGIN, "Origin")?;
    match request.extensions().get::<SocketPeer>() {
        Some(SocketPeer::Unix(Some(identity))) => {
            app.access.authenticate_unix(identity).ok_or_else(|| {
                let detail = format!(
                    "uid {} is not authorised: use root, a member of group netnsd, or add an [[access]] rule",
                    identity.uid
                );
                Failure::new(Code::Forbidden, detail)
            })
        }
        Some(SocketPeer::Tcp {
            address,
            to_loopback,
            certificate,
        }) => {
            if *to_loopback {
                check_loopback(headers, request.uri().host())?;
            }
            let by_certificate = app.access.authenticate_certificate(certificate);
            if let (Some(caller), None) = (by_certificate, headers.get(header::AUTHORIZATION)) {
                check_same_origin(headers)?;
                return Ok(caller);
            }
            authenticate_token(&app.access, headers).map_err(|failure| {
                if !app.failed_auth.count(address.ip()) {
                    return failure;
                }
                let detail = format!(
                    "too many requests without a valid token from {}: send a valid one, or wait a minute",
                    network_of(address.ip())
                );
                Failure::new(Code::TooManyRequests, detail)
            })
        }
        Some(SocketPeer::Unix(None)) | None => Err(Failure::new(
            Code::Unauthenticated,
            "the kernel did not return the credentials of the socket's peer",
        )),
    }
}

fn check_single(headers: &HeaderMap, name: HeaderName, shown: &str) -> Result<(), Failure> {
    match headers.get_all(name).iter().count() {
        0 | 1 => Ok(()),
        count => Err(Failure::new(
            Code::InvalidQuery,
            format!("the request has {count} {shown} headers: send one"),
        )),
    }
}

/// Authenticates a caller by the bearer token of its request (RFC 6750, section 2.1).
fn authenticate_token(access: &Authenticator, headers: &HeaderMap) -> Result<Caller, Failure> {
    let secret = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, secret)| secret.trim());
    let caller = secret.and_then(|secret| access.authenticate_token(secret));
    caller.ok_or_else(|| {
        Failure::new(
            Code::Unauthenticated,
            "missing or invalid bearer token: send Authorization: Bearer TOKEN",
        )
    })
}

/// Checks that a caller may use a route; `name` is that of the resource in the path, if it has one.
fn authorize(
    caller: &Caller,
    policy: &RoutePolicy,
    info: &RequestInfo,
    name: Option<&str>,
) -> Result<(), Failure> {
    let (method, path) = (&info.method, &info.path);
    if caller.role < policy.role {
        let detail = format!(
            "{method} {path} requires role {}; {} has role {}",
            policy.role, caller.name, caller.role
        );
        return Err(Failure::new(Code::Forbidden, detail));
    }
    if !caller.is_scoped() {
        return Ok(());
    }
    match (policy.scope, name) {
        (RouteScope::Unscoped, _) => {
            let detail = format!(
                "{path} requires access to all names; {} is restricted to names that start with {:?}",
                caller.name, caller.prefix
            );
            Err(Failure::new(Code::Forbidden, detail))
        }
        (RouteScope::Resource(kind), Some(name)) if !caller.can_access(name) => {
            // Resources out of scope look as if they did not exist; only creating one is refused.
            match (method, resource::existing(kind, name)) {
                (&Method::PUT, Ok(resource)) => Err(caller.out_of_scope(&resource).into()),
                _ => Err(resource::missing(kind, name)),
            }
        }
        (RouteScope::Resource(_) | RouteScope::Filtered, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_needs_a_valid_bearer_token() {
        let access = Authenticator::new(Vec::new(), Some("secret"));
        let code = |value: Option<&'static str>| {
            let value = value.map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value)));
            authenticate_token(&access, &HeaderMap::from_iter(value))
                .map_err(|failure| failure.0.code)
                .err()
        };
        assert_eq!(code(Some("Bearer secret")), None);
        assert_eq!(code(Some("bearer  secret ")), None);
        for wrong in [
            None,
            Some("Bearer secre"),
            Some("Basic secret"),
            Some("secret"),
        ] {
            assert_eq!(code(wrong), Some(Code::Unauthenticated), "{wrong:?}");
        }
    }
}
