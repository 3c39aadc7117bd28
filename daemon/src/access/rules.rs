//! Which role each route needs.

use axum::http::Method;
use netnsd_api::Role;

/// Paths whose GET is not for every viewer, or whose writes are not for every operator: all of them
/// are admins'.
const ADMINS: [&str; 3] = ["/v1/tokens", "/v1/tokens/{name}", "/v1/audit"];
/// Paths whose GET does something.
const DOING: [&str; 1] = ["/v1/namespaces/{name}/exec"];
/// Paths that tell of, or touch, what bears no resource's name: not for who is confined to a
/// prefix.
const WHOLE: [&str; 6] = [
    "/v1/host/links",
    "/v1/host/addresses",
    "/v1/host/routes",
    "/v1/host/neighbours",
    "/v1/reconcile",
    "/metrics",
];

/// Whether a request only looks; its path as the route is written.
fn looks(method: &Method, route: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && !DOING.contains(&route)
}

/// The role that a request needs.
pub fn needs(method: &Method, route: &str) -> Role {
    match looks(method, route) {
        _ if ADMINS.contains(&route) => Role::Admin,
        true => Role::Viewer,
        false => Role::Operator,
    }
}

/// Whether it is for those only who are not confined to a prefix.
pub fn is_whole(route: &str) -> bool {
    WHOLE.contains(&route) || ADMINS.contains(&route)
}

/// Whether it is recorded in the audit log when it is answered.
pub fn is_audited(method: &Method, route: &str) -> bool {
    !looks(method, route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_looks_is_not_on_record() {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(
                !is_audited(&method, "/v1/audit") && !is_audited(&method, "/v1/veths"),
                "{method}"
            );
        }
        assert!(
            is_audited(&Method::GET, DOING[0]) && is_audited(&Method::DELETE, "/v1/veths/{name}")
        );
    }
}
