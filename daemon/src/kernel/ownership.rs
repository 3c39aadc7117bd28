//! Owner tags: the alternative name (`IFLA_ALT_IFNAME`; ip-link(8), `property add altname`) that
//! netnsd leaves on what it makes, for a namespace on its `lo`.
//!
//! `netnsd:namespace:net0:UID`, `netnsd:bridge:br0:UID`, `netnsd:veth:lan0:1:UID` (1: which end).
//! `ip link` shows whose a link is, and the daemon knows its own after a crash, a rename, or with a
//! new database. The kernel takes 127 bytes (`ALTIFNAMSIZ`, linux/if.h): a name has at most 64, a
//! UID 36.
//!
//! Older versions used the link's alias, `netnsd:veth/lan0/1:UID`: a legacy tag here, which the
//! next look replaces.

use std::borrow::Cow;

use netnsd_api::{Kind, Name, ResourceRef};

/// Returns the owner tag of a resource's device; `end` is 0 but for the second end of a pair.
pub fn owner_tag(resource: &ResourceRef, end: usize, uid: &str) -> String {
    let ResourceRef { kind, name } = resource;
    if has_ends(*kind) {
        format!("netnsd:{kind}:{name}:{end}:{uid}")
    } else {
        format!("netnsd:{kind}:{name}:{uid}")
    }
}

/// Returns true if the tags of a kind's devices have the number of their end.
fn has_ends(kind: Kind) -> bool {
    match kind {
        Kind::Veth => true,
        Kind::Namespace | Kind::Bridge | Kind::Link => false,
    }
}

/// Reads a tag, legacy or not: the resource, and which end of it.
pub fn parse(tag: &str) -> Option<(ResourceRef, usize)> {
    let tag = current(tag);
    let (path, _uid) = tag.strip_prefix("netnsd:")?.rsplit_once(':')?;
    let mut parts = path.split(':');
    let kind: Kind = parts.next()?.parse().ok()?;
    let name: Name = parts.next()?.parse().ok()?;
    let end = match parts.next() {
        Some(end) => Some(end.parse().ok().filter(|end| *end < 2)?),
        None => None,
    };
    (parts.next().is_none() && end.is_some() == has_ends(kind))
        .then(|| (ResourceRef::new(kind, name), end.unwrap_or_default()))
}

/// Returns true for a tag that is an alias.
pub fn is_legacy(tag: &str) -> bool {
    tag.contains('/')
}

/// Returns the tag as it is written today: neither names nor UIDs have a `/`.
pub fn current(tag: &str) -> Cow<'_, str> {
    if is_legacy(tag) {
        tag.replace('/', ":").into()
    } else {
        tag.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_tag_is_read_as_written() {
        let veth = ResourceRef::new(Kind::Veth, "lan0".parse().unwrap());
        assert_eq!(parse(&owner_tag(&veth, 1, "u-1")), Some((veth, 1)));
        let bridge = ResourceRef::new(Kind::Bridge, "br0".parse().unwrap());
        assert_eq!(
            parse(&owner_tag(&bridge, 0, "u")),
            Some((bridge.clone(), 0))
        );
        for other in [
            "",
            "uplink",
            "netnsd:veth:a:u",
            "netnsd:veth:a:2:u",
            "netnsd:bridge:br0:1:u",
            "netnsd:x:a:u",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        let legacy = "netnsd:bridge/br0:u";
        assert_eq!(
            (parse(legacy), is_legacy(legacy)),
            (Some((bridge.clone(), 0)), true)
        );
        assert_eq!(current(legacy), owner_tag(&bridge, 0, "u"));
    }

    #[test]
    fn longest_owner_tag_fits_in_an_altname() {
        let name = "n".repeat(64).parse().unwrap();
        let uid = uuid::Uuid::nil().to_string();
        for kind in Kind::ALL {
            assert!(owner_tag(&ResourceRef::new(kind, Name::clone(&name)), 1, &uid).len() < 128);
        }
    }
}
