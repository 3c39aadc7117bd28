//! Checks a caller's rights on the host itself: outside every namespace, beside the machine's own
//! interfaces and addresses.

use netnsd_api::{Bridge, Cidr, Code, Endpoint, FieldError, HostAccess, Veth};

use super::{AccessError, Caller};
use crate::model::{Spec, auto_name};

/// Checks the part of a new or changed resource that is on the host.
///
/// # Errors
/// `forbidden`, with the field that puts it there.
pub fn check_host_use(caller: &Caller, spec: &Spec) -> Result<(), AccessError> {
    match (caller.host, spec) {
        (HostAccess::Any, _) | (_, Spec::Namespace(_)) => Ok(()),
        (_, Spec::Bridge(bridge)) => Ok(check_bridge(caller, bridge)?),
        (_, Spec::Veth(veth)) => Ok(check_ends(caller, veth)?),
    }
}

fn check_bridge(caller: &Caller, bridge: &Bridge) -> Result<(), FieldError> {
    if bridge.namespace.is_some() {
        return Ok(());
    }
    check_location(caller, "")?;
    check_addresses(caller, &bridge.addresses, "")?;
    check_device_name(caller, bridge.device(), "")
}

fn check_ends(caller: &Caller, veth: &Veth) -> Result<(), FieldError> {
    let ends = (0..).zip(&veth.endpoints);
    ends.filter(|(_, end)| end.namespace.is_none())
        .try_for_each(|(i, end)| check_end(caller, end, &format!("/endpoints/{i}")))
}

fn check_end(caller: &Caller, end: &Endpoint, at: &str) -> Result<(), FieldError> {
    check_location(caller, at)?;
    check_addresses(caller, &end.addresses, at)?;
    if end.bridge.is_none() {
        let detail = format!(
            "bridge is null, and an end on the host is a port of a bridge of its own for {}: write the name of one, {}",
            caller.name,
            admin_hint(caller)
        );
        return Err(FieldError::new(
            Code::Forbidden,
            format!("{at}/bridge"),
            detail,
        ));
    }
    check_device_name(caller, end.device(), at)
}

fn check_location(caller: &Caller, at: &str) -> Result<(), FieldError> {
    if caller.host > HostAccess::None {
        return Ok(());
    }
    let detail = format!(
        "namespace is null, which is the host, and {} may have nothing there: write the name of a namespace, {}",
        caller.name,
        admin_hint(caller)
    );
    Err(FieldError::new(
        Code::Forbidden,
        format!("{at}/namespace"),
        detail,
    ))
}

fn check_addresses(caller: &Caller, addresses: &[Cidr], at: &str) -> Result<(), FieldError> {
    let Some(first) = addresses.first() else {
        return Ok(());
    };
    let detail = format!(
        "{first} is for the host, and {} may have interfaces without addresses there: leave addresses out, {}",
        caller.name,
        admin_hint(caller)
    );
    Err(FieldError::new(
        Code::Forbidden,
        format!("{at}/addresses/0"),
        detail,
    ))
}

fn check_device_name(caller: &Caller, device: &str, at: &str) -> Result<(), FieldError> {
    if caller.can_access(device) {
        return Ok(());
    }
    // The number in a name that netnsd chose reveals how many such interfaces others have.
    let device = if auto_name::is_automatic(device) {
        "a name chosen by netnsd"
    } else {
        &format!("{device:?}")
    };
    let detail = format!(
        "the interface has {device} on the host, where {} has only what is called {}…: write such a name, {}",
        caller.name,
        caller.prefix,
        admin_hint(caller)
    );
    Err(FieldError::new(
        Code::Forbidden,
        format!("{at}/interface"),
        detail,
    ))
}

/// Returns the end of a detail: the way out that needs an admin.
fn admin_hint(caller: &Caller) -> String {
    format!(
        "or have an admin give it more than host \"{}\"",
        caller.host
    )
}
