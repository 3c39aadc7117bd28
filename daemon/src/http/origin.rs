//! Refuses requests that a browser sends for a web page of another site.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, header};
use netnsd_api::Code;

use super::problem::Failure;

/// Checks a request to a loopback address: its `Host` must be a loopback name, against DNS
/// rebinding, and its `Origin`, if any, a page of this host. `authority` is the host in the request
/// line, if there is one.
///
/// # Errors
/// `forbidden`.
pub(super) fn check_loopback(headers: &HeaderMap, authority: Option<&str>) -> Result<(), Failure> {
    let host = text_of(headers, header::HOST)
        .or(authority)
        .unwrap_or_default();
    if !is_loopback(host) {
        let detail = format!("Host {host:?} is not a loopback name: use localhost or 127.0.0.1");
        return Err(Failure::new(Code::Forbidden, detail));
    }
    match text_of(headers, header::ORIGIN) {
        Some(origin) if !is_loopback_page(origin) => Err(cross_origin(origin)),
        Some(_) | None => Ok(()),
    }
}

/// Checks a request that is authenticated by a certificate: a browser sends that with requests of
/// any page, and opens a WebSocket to anywhere without asking first (RFC 6455, section 10.2).
///
/// # Errors
/// `forbidden`.
pub(super) fn check_same_origin(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(origin) = text_of(headers, header::ORIGIN) else {
        return Ok(());
    };
    let host = text_of(headers, header::HOST).filter(|host| host_of(host).is_some());
    let own = host.zip(origin.strip_prefix("https://"));
    if own.is_some_and(|(host, authority)| authority.eq_ignore_ascii_case(host)) {
        Ok(())
    } else {
        Err(cross_origin(origin))
    }
}

fn cross_origin(origin: &str) -> Failure {
    Failure::new(
        Code::Forbidden,
        format!("cross-origin requests are not allowed (Origin: {origin:?})"),
    )
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers
        .get(name)
        .map(|value| value.to_str().unwrap_or("\u{fffd}"))
}

fn is_loopback_page(origin: &str) -> bool {
    let authority = origin.split_once("://");
    authority.is_some_and(|(_, authority)| is_loopback(authority))
}

fn is_loopback(authority: &str) -> bool {
    host_of(authority).is_some_and(|host| {
        let address = host.parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback())
    })
}

/// Returns the host of `host[:port]` (RFC 9110, section 7.2), without the brackets of an IPv6
/// address; `None` if there is anything else, like a user's name.
fn host_of(authority: &str) -> Option<&str> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_valid = !host.is_empty() && !host.contains(['@', '/', '?', '#', ' ', ',']);
    (is_valid && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))).then_some(host)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        });
        HeaderMap::from_iter(pairs)
    }

    #[test]
    fn loopback_needs_a_loopback_name_and_page() {
        let allowed =
            |pairs: &[(&'static str, &str)]| check_loopback(&headers(pairs), None).is_ok();
        for host in ["localhost:80", "127.0.0.1", "[::1]:99"] {
            assert!(allowed(&[("host", host)]), "{host}");
        }
        for host in [
            "evil.example",
            "localhost:80@evil.example",
            "localhost@evil.example",
            "[::1]evil",
            "[::1",
            "",
        ] {
            assert!(!allowed(&[("host", host)]), "{host}");
        }
        let from = |origin: &str| allowed(&[("host", "localhost"), ("origin", origin)]);
        assert!(from("http://localhost:3000") && !from("http://evil.example"));
    }

    #[test]
    fn certificate_needs_same_origin() {
        let allowed = |host: &str, origin: &str| {
            check_same_origin(&headers(&[("host", host), ("origin", origin)])).is_ok()
        };
        assert!(
            allowed("lab.example:8443", "https://lab.example:8443")
                && allowed("Lab.example", "https://lab.example")
        );
        for origin in [
            "https://evil.example",
            "http://lab.example",
            "https://lab.example:1",
            "null",
            "",
        ] {
            assert!(!allowed("lab.example", origin), "{origin}");
        }
        assert!(!allowed("a@lab.example", "https://a@lab.example"));
        assert!(check_same_origin(&HeaderMap::new()).is_ok());
    }
}
