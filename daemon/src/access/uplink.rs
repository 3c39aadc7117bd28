//! Uplinks: devices of the host that no resource has, and that the configuration lends.

use netnsd_api::{Code, FieldError, HostAccess, InterfaceName, Name, ResourceRef, Role};
use netnsd_netlink::Ns;

use super::{AccessError, Caller};
use crate::model::Spec;

/// Device of the host that is lent (`[[uplink]]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Name of the device.
    pub interface: InterfaceName,
    /// Least role of those that may use it.
    pub role: Role,
    /// Prefix of the names of the resources that may be on it; empty: all.
    pub prefix: String,
}

impl Uplink {
    fn is_lent(&self, device: &str, caller: &Caller, resource: &Name) -> bool {
        self.interface.as_str() == device
            && caller.role >= self.role
            && resource.as_str().starts_with(&self.prefix)
    }
}

/// Checks that a caller may create a link on its base; `owner` is the resource that has the device
/// that it is on.
///
/// # Errors
/// `forbidden`, with the field that names the base.
pub fn check_base_use(
    caller: &Caller,
    spec: &Spec,
    owner: Option<&ResourceRef>,
) -> Result<(), AccessError> {
    let has_host = caller.host == HostAccess::Any;
    if caller.role == Role::Admin && has_host {
        return Ok(());
    }
    let forbidden =
        |field: &str, detail: String| Err(FieldError::at(Code::Forbidden, &[field], detail).into());
    let on_host = spec.base_ns() == Some(Ns::Host);
    let Some((_, device)) = spec.lower() else {
        if on_host && !has_host {
            let detail = format!(
                "underlay is null, which is the host, whose addresses {} may not use: write the name of a namespace",
                caller.name
            );
            return forbidden("underlay", detail);
        }
        return Ok(());
    };
    let is_own = owner.is_some_and(|owner| caller.can_access(owner.name.as_str()));
    let mut uplinks = caller.uplinks.iter();
    let is_lent = on_host && uplinks.any(|lent| lent.is_lent(device, caller, spec.name()));
    // Devices of others in a namespace are for whoever may use the namespace.
    if is_own || is_lent || !on_host && owner.is_none() {
        return Ok(());
    }
    let detail = format!(
        "{device} is a device of the host that {} may not use: an admin may, or lends it in the configuration, by [[uplink]]",
        caller.name
    );
    forbidden("lower", detail)
}
