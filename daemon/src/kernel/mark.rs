//! The mark that netnsd leaves on what it makes: the alias of a link (`IFLA_IFALIAS`), that of `lo` for a namespace.
//!
//! `netnsd:namespace/net0:UID`, `netnsd:bridge/br0:UID`, `netnsd:veth/lan0/1:UID` (1: which end). Whoever looks with
//! `ip link` reads whose it is, and the daemon knows its own after a crash or with a new database.

use netnsd_api::{Kind, Name, ResourceRef};

/// The mark of a resource; `end` for a veth's end.
pub fn mark(resource: &ResourceRef, end: Option<usize>, uid: &str) -> String {
    let ResourceRef { kind, name } = resource;
    match end {
        Some(end) => format!("netnsd:{kind}/{name}/{end}:{uid}"),
        None => format!("netnsd:{kind}/{name}:{uid}"),
    }
}

/// Reads a mark: the resource and, for a veth, which end.
pub fn parse(mark: &str) -> Option<(ResourceRef, Option<usize>)> {
    let (path, _uid) = mark.strip_prefix("netnsd:")?.rsplit_once(':')?;
    let mut parts = path.split('/');
    let kind: Kind = parts.next()?.parse().ok()?;
    let name: Name = parts.next()?.parse().ok()?;
    let end = match parts.next() {
        Some(end) => Some(end.parse().ok().filter(|end| *end < 2)?),
        None => None,
    };
    (parts.next().is_none() && end.is_some() == (kind == Kind::Veth)).then(|| (ResourceRef::new(kind, name), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let veth = ResourceRef::new(Kind::Veth, "lan0".parse().unwrap());
        assert_eq!(parse(&mark(&veth, Some(1), "u-1")), Some((veth, Some(1))));
        let bridge = ResourceRef::new(Kind::Bridge, "br0".parse().unwrap());
        assert_eq!(parse(&mark(&bridge, None, "u")), Some((bridge, None)));
        for other in ["", "uplink", "netnsd:veth/a:u", "netnsd:veth/a/2:u", "netnsd:bridge/br0/1:u", "netnsd:x/a:u"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
