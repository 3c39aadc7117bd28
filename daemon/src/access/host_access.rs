//! Checks a caller's rights on the host itself: outside every namespace, beside the machine's own
//! interfaces and addresses.

use netnsd_api::{Code, FieldError, HostAccess, Kind};

use super::{AccessError, Caller};
use crate::model::{DeviceSpec, Spec, auto_name};

/// Checks the part of a new or changed resource that is on the host.
///
/// # Errors
/// `forbidden`, with the field that puts it there.
pub fn check_host_use(caller: &Caller, spec: &Spec) -> Result<(), AccessError> {
    if caller.host == HostAccess::Any {
        return Ok(());
    }
    let mut on_host = spec.devices().filter(|device| device.namespace.is_none());
    Ok(on_host.try_for_each(|device| check_device(caller, spec, &device))?)
}

fn check_device(caller: &Caller, spec: &Spec, device: &DeviceSpec<'_>) -> Result<(), FieldError> {
    check_location(caller, device)?;
    check_addresses(caller, device)?;
    if device.port.is_none() && spec.kind() != Kind::Bridge {
        let detail = format!(
            "bridge is null, and an end on the host is a port of a bridge of its own for {}: write the name of one, {}",
            caller.name,
            admin_hint(caller)
        );
        return Err(FieldError::new(
            Code::Forbidden,
            device.pointer("bridge"),
            detail,
        ));
    }
    check_device_name(caller, device)
}

fn check_location(caller: &Caller, device: &DeviceSpec<'_>) -> Result<(), FieldError> {
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
        device.pointer("namespace"),
        detail,
    ))
}

fn check_addresses(caller: &Caller, device: &DeviceSpec<'_>) -> Result<(), FieldError> {
    let Some(first) = device.addresses.first() else {
        return Ok(());
    };
    let detail = format!(
        "{first} is for the host, and {} may have interfaces without addresses there: leave addresses out, {}",
        caller.name,
        admin_hint(caller)
    );
    Err(FieldError::new(
        Code::Forbidden,
        device.pointer("addresses/0"),
        detail,
    ))
}

fn check_device_name(caller: &Caller, device: &DeviceSpec<'_>) -> Result<(), FieldError> {
    if caller.can_access(device.name) {
        return Ok(());
    }
    // The number in a name that netnsd chose reveals how many such interfaces others have.
    let name = if auto_name::is_automatic(device.name) {
        "a name chosen by netnsd"
    } else {
        &format!("{:?}", device.name)
    };
    let detail = format!(
        "the interface has {name} on the host, where {} has only what is called {}…: write such a name, {}",
        caller.name,
        caller.prefix,
        admin_hint(caller)
    );
    Err(FieldError::new(
        Code::Forbidden,
        device.pointer("interface"),
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
