//! At the door: who calls, whether the route is for them, and the audit log.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use netnsd_api::{AuditEntry, Code, Kind, Problem};

use super::{App, headers::REQUEST_ID, problem::Failure, resource};
use crate::{
    access::{AuditDraft, Authenticator, Caller, SocketPeer, forbidden, network_of, rules},
    model::format_rfc3339,
    store::AuxRecord,
};

/// Wrong tokens of one source that are answered as such in a time; further ones are refused without
/// a word about them.
const WRONG_TOKENS: (u32, Duration) = (20, Duration::from_secs(60));
/// Sources whose wrong tokens are counted by themselves; further ones count as one.
const SOURCES: usize = 1024;

/// Counts wrong tokens, by the networks that they come from. A right one is let in whatever was
/// sent before it: secrets that netnsd makes have 256 bits, and are not found by trying.
#[derive(Debug, Default)]
pub struct FailedAuthLimiter {
    counts: Mutex<HashMap<Option<IpAddr>, (Instant, u32)>>,
}

impl FailedAuthLimiter {
    /// Counts one from an address; returns true if there were too many of that source.
    fn count(&self, from: IpAddr) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut source = Some(network_of(from));
        if !counts.contains_key(&source) && counts.len() >= SOURCES {
            counts.retain(|_, (since, _)| since.elapsed() < WRONG_TOKENS.1);
            if counts.len() >= SOURCES {
                source = None;
            }
        }
        let (since, count) = counts.entry(source).or_insert((Instant::now(), 0));
        if since.elapsed() >= WRONG_TOKENS.1 {
            (*since, *count) = (Instant::now(), 0);
        }
        *count = count.saturating_add(1);
        *count > WRONG_TOKENS.0
    }
}

/// Lets a request in, or refuses it; what is to be recorded is durable before it is answered.
pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("", MatchedPath::as_str);
    let peer = request.extensions().get::<SocketPeer>().cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let id = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok())
        .unwrap_or("-")
        .to_owned();
    // A dry run changes nothing.
    let dry_run = request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair == "dry_run=true"));
    let is_audited = rules::is_audited(&method, route) && !dry_run;
    let entry = |caller: Option<&Caller>| AuditEntry {
        id: 0,
        time: format_rfc3339(Timestamp::now()),
        caller: caller.map(|caller| caller.name.clone()),
        role: caller.map(|caller| caller.role),
        from: match &peer {
            Some(SocketPeer::Tcp { address, .. }) => address.to_string(),
            _ => "unix".into(),
        },
        method: method.to_string(),
        path: path.chars().take(1024).collect(),
        argv: None,
        status: 0,
        count: 1,
        request_id: id.clone(),
    };
    let caller =
        identify(&app, peer.as_ref(), request.headers(), request.uri().host()).map(|mut caller| {
            caller.audit = is_audited.then(|| Arc::new(AuditDraft::new(entry(Some(&caller)))));
            Arc::new(caller)
        });
    let mut response = match &caller {
        Err(failure) => refuse(failure.clone()),
        Ok(caller) => match admit(caller, &method, route, &path) {
            Err(failure) => refuse(failure),
            Ok(()) => {
                request.extensions_mut().insert(caller.clone());
                next.run(request).await
            }
        },
    };
    let status = response.status();
    let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let caller = caller.as_deref().ok();
    let recorded = match caller.and_then(|caller| caller.audit.as_deref()) {
        Some(_) if response.extensions().get::<Unfinished>().is_some() => Ok(()),
        Some(audit) => record(&app, audit, status.as_u16()).await,
        None if refused || is_audited => {
            keep(
                &app,
                AuditEntry {
                    status: status.as_u16(),
                    ..entry(caller)
                },
            )
            .await
        }
        None => Ok(()),
    };
    if let Err(problem) = recorded
        && problem.code == Code::ShuttingDown
        && refused
    {
        response = Failure::from(problem).into_response();
    }
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Marks an answer whose head goes out before its request is carried out: whoever writes its end
/// records it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unfinished;

/// Records in the audit log how a request was answered, unless that is recorded already.
///
/// # Errors
/// Why it is not recorded; the log has that too.
pub(super) async fn record(app: &App, audit: &AuditDraft, status: u16) -> Result<(), Problem> {
    if audit.is_recorded_with(status) {
        Ok(())
    } else {
        keep(app, audit.with_status(status)).await
    }
}

async fn keep(app: &App, entry: AuditEntry) -> Result<(), Problem> {
    let AuditEntry {
        method,
        path,
        status,
        from,
        ..
    } = entry.clone();
    let kept = if status < 400 {
        app.engine.record_aux(AuxRecord::PutAudit(entry)).await
    } else {
        let place = from.parse().map_or(from, |address: SocketAddr| {
            network_of(address.ip()).to_string()
        });
        app.engine.record_refusal(entry, place).await
    };
    kept.inspect_err(|problem| {
        tracing::error!(%problem, method, path, status, "the audit log cannot be written");
    })
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

/// Who calls.
fn identify(
    app: &App,
    peer: Option<&SocketPeer>,
    headers: &HeaderMap,
    host: Option<&str>,
) -> Result<Caller, Failure> {
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 {
        return Err(Failure::new(
            Code::InvalidQuery,
            format!("the request has {hosts} Host headers: send one"),
        ));
    }
    let origins = headers.get_all(header::ORIGIN).iter().count();
    if origins > 1 {
        return Err(Failure::new(
            Code::InvalidQuery,
            format!("the request has {origins} Origin headers: send one"),
        ));
    }
    match peer {
        Some(SocketPeer::Unix(Some(identity))) => app.access.authenticate_unix(identity).ok_or_else(|| {
            let uid = identity.uid;
            forbidden(format!("uid {uid} has no role here: root and members of the group netnsd have, and whom the configuration names")).into()
        }),
        Some(SocketPeer::Tcp { address, to_loopback, certificate }) => {
            if *to_loopback {
                check_loopback(headers, host)?;
            }
            if let (Some(caller), None) = (app.access.authenticate_certificate(certificate), headers.get(header::AUTHORIZATION)) {
                check_same_origin(headers)?;
                return Ok(caller);
            }
            by_token(&app.access, headers).map_err(|wrong| {
                if !app.failed_auth.count(address.ip()) {
                    return wrong;
                }
                let detail = format!(
                    "too many requests without a valid token from {}: send one that is valid, or wait a minute",
                    network_of(address.ip())
                );
                Failure::new(Code::TooManyRequests, detail)
            })
        }
        Some(SocketPeer::Unix(None)) | None => {
            Err(Failure::new(Code::Unauthenticated, "the kernel does not say who is on the other side of the socket"))
        }
    }
}

fn by_token(access: &Authenticator, headers: &HeaderMap) -> Result<Caller, Failure> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let secret = given
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let wrong = || {
        Failure::new(
            Code::Unauthenticated,
            "send a token that is valid: Authorization: Bearer TOKEN",
        )
    };
    access
        .authenticate_token(secret.ok_or_else(wrong)?.1.trim())
        .ok_or_else(wrong)
}

/// Refuses a web page of elsewhere behind a request to a loopback address.
fn check_loopback(headers: &HeaderMap, host: Option<&str>) -> Result<(), Failure> {
    let host = text_of(headers, header::HOST).or(host).unwrap_or_default();
    if !is_loopback(host) {
        let detail = format!("Host {host:?} is not a loopback name: use localhost or 127.0.0.1");
        return Err(Failure::new(Code::Forbidden, detail));
    }
    let elsewhere = |origin: &&str| {
        !origin
            .split_once("://")
            .is_some_and(|(_, place)| is_loopback(place))
    };
    text_of(headers, header::ORIGIN)
        .filter(elsewhere)
        .map_or(Ok(()), |origin| Err(foreign_origin(origin)))
}

/// Refuses a web page of elsewhere that is known by a certificate: a browser sends that along on
/// its own, and opens a WebSocket to anywhere without asking first (RFC 6455, section 10.2).
fn check_same_origin(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(origin) = text_of(headers, header::ORIGIN) else {
        return Ok(());
    };
    let host = text_of(headers, header::HOST).filter(|host| host_of(host).is_some());
    let own = host.zip(origin.strip_prefix("https://"));
    if own.is_some_and(|(host, place)| place.eq_ignore_ascii_case(host)) {
        Ok(())
    } else {
        Err(foreign_origin(origin))
    }
}

fn foreign_origin(origin: &str) -> Failure {
    Failure::new(
        Code::Forbidden,
        format!("Origin {origin:?} is from elsewhere"),
    )
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers
        .get(name)
        .map(|value| value.to_str().unwrap_or("\u{fffd}"))
}

/// Returns the host of `host[:port]` (RFC 9110, section 7.2), without the brackets of an IPv6
/// address; `None` if there is anything else, as a user's name.
fn host_of(place: &str) -> Option<&str> {
    let (host, rest) = match place.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_sound = !host.is_empty() && !host.contains(['@', '/', '?', '#', ' ', ',']);
    (is_sound && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))).then_some(host)
}

fn is_loopback(place: &str) -> bool {
    host_of(place).is_some_and(|host| {
        host.eq_ignore_ascii_case("localhost")
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

/// Whether the route is for the caller.
fn admit(caller: &Caller, method: &Method, route: &str, path: &str) -> Result<(), Failure> {
    let needed = rules::needs(method, route);
    if caller.role < needed {
        return Err(forbidden(format!(
            "{method} {path} needs the role {needed}, and {} is {}",
            caller.name, caller.role
        ))
        .into());
    }
    if !caller.is_scoped() {
        return Ok(());
    }
    if rules::is_whole(route) {
        return Err(forbidden(format!(
            "{path} is for those who reach everything, and {} reaches {}…",
            caller.name, caller.prefix
        ))
        .into());
    }
    // What is out of reach is not there; only what is to be made there is refused.
    let mut parts = path.split('/').skip(2);
    let kind = parts
        .next()
        .and_then(|plural| Kind::ALL.into_iter().find(|kind| kind.plural() == plural));
    if let (Some(kind), Some(name)) = (kind, parts.next().filter(|name| !name.is_empty()))
        && !caller.can_access(name)
    {
        return match (method, resource::existing(kind, name)) {
            (&Method::PUT, Ok(resource)) => Err(caller.out_of_scope(&resource).into()),
            _ => Err(resource::missing(kind, name)),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(headers: &[(&str, &str)]) -> Result<(), Code> {
        let headers = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        let headers = HeaderMap::from_iter(headers);
        let access = Authenticator::new(Vec::new(), Some("secret"));
        check_loopback(&headers, None)
            .and_then(|()| by_token(&access, &headers).map(drop))
            .map_err(|failure| failure.0.code)
    }

    #[test]
    fn tcp_needs_a_token_and_on_loopback_a_loopback_name() {
        let token = ("authorization", "Bearer secret");
        for host in ["localhost:80", "127.0.0.1", "[::1]:99"] {
            assert_eq!(checked(&[("host", host), token]), Ok(()));
        }
        for host in [
            "evil.example",
            "localhost:80@evil.example",
            "localhost@evil.example",
            "[::1]evil",
            "[::1",
            "",
        ] {
            assert_eq!(
                checked(&[("host", host), token]),
                Err(Code::Forbidden),
                "{host}"
            );
        }
        assert_eq!(
            checked(&[
                ("host", "localhost"),
                ("origin", "http://evil.example"),
                token
            ]),
            Err(Code::Forbidden)
        );
        assert_eq!(
            checked(&[
                ("host", "localhost"),
                ("origin", "http://localhost:3000"),
                token
            ]),
            Ok(())
        );
        assert_eq!(
            checked(&[("host", "localhost")]),
            Err(Code::Unauthenticated)
        );
        assert_eq!(
            checked(&[("host", "localhost"), ("authorization", "Bearer secre")]),
            Err(Code::Unauthenticated)
        );
    }

    #[test]
    fn certificate_needs_same_origin() {
        let checked = |host: &str, origin: &str| {
            let (host, origin) = (
                HeaderValue::from_str(host).unwrap(),
                HeaderValue::from_str(origin).unwrap(),
            );
            check_same_origin(&HeaderMap::from_iter([
                (header::HOST, host),
                (header::ORIGIN, origin),
            ]))
            .is_ok()
        };
        assert!(
            checked("lab.example:8443", "https://lab.example:8443")
                && checked("Lab.example", "https://lab.example")
        );
        for origin in [
            "https://evil.example",
            "http://lab.example",
            "https://lab.example:1",
            "null",
            "",
        ] {
            assert!(!checked("lab.example", origin), "{origin}");
        }
        assert!(!checked("a@lab.example", "https://a@lab.example"));
        assert!(check_same_origin(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn wrong_tokens_are_counted_by_network_and_bounded() {
        let refused = |counts: &FailedAuthLimiter, from: &str| counts.count(from.parse().unwrap());
        for (from, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"),
            ("127.0.0.1", "127.9.9.9", "::1"),
        ] {
            let counts = FailedAuthLimiter::default();
            assert!((0..WRONG_TOKENS.0).all(|_| !refused(&counts, from)));
            assert!(
                refused(&counts, from) && refused(&counts, same) && !refused(&counts, other),
                "{from}"
            );
        }
        let counts = FailedAuthLimiter::default();
        let address = |i: u32| IpAddr::from((0x0a00_0000 + i).to_be_bytes());
        let most = SOURCES as u32 + WRONG_TOKENS.0;
        assert!((0..most).all(|i| !counts.count(address(i))));
        assert!(
            counts.count(address(most)) && counts.count(address(most + 1)),
            "those beyond count as one"
        );
        assert!(!counts.count(address(0)) && counts.counts.lock().unwrap().len() == SOURCES + 1);
    }
}
