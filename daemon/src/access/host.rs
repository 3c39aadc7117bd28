//! Rights on the host itself: in no namespace, beside the machine's own interfaces and addresses.

use netnsd_api::{Bridge, Cidr, Code, Endpoint, FieldError, HostAccess, Problem, Veth};

use super::Caller;
use crate::model::{Spec, auto_name};

impl Caller {
    /// Checks what a resource that is made or changed would have on the host.
    ///
    /// # Errors
    /// `forbidden`, with the field that puts it there.
    pub fn may_place(&self, spec: &Spec) -> Result<(), Problem> {
        match (self.host, spec) {
            (HostAccess::Any, _) | (_, Spec::Namespace(_)) => Ok(()),
            (_, Spec::Bridge(bridge)) => self.may_place_bridge(bridge).map_err(Problem::from),
            (_, Spec::Veth(veth)) => self.may_place_ends(veth).map_err(Problem::from),
        }
    }

    fn may_place_bridge(&self, bridge: &Bridge) -> Result<(), FieldError> {
        if bridge.namespace.is_some() {
            return Ok(());
        }
        let at = |field: &str| format!("/{field}");
        self.may_be_on_host(&at)?;
        self.check_host_addresses(&bridge.addresses, &at)?;
        self.check_host_device(bridge.device(), &at)
    }

    fn may_place_ends(&self, veth: &Veth) -> Result<(), FieldError> {
        let ends = (0..).zip(&veth.endpoints);
        ends.filter(|(_, end)| end.namespace.is_none())
            .try_for_each(|(i, end)| self.may_place_end(i, end))
    }

    fn may_place_end(&self, i: usize, end: &Endpoint) -> Result<(), FieldError> {
        let at = |field: &str| format!("/endpoints/{i}/{field}");
        self.may_be_on_host(&at)?;
        self.check_host_addresses(&end.addresses, &at)?;
        if end.bridge.is_none() {
            let detail = format!(
                "bridge is null, and an end on the host is a port of a bridge of its own for {}: write the name of one, {}",
                self.name,
                self.rule()
            );
            return Err(forbidden_field(at("bridge"), detail));
        }
        self.check_host_device(end.device(), &at)
    }

    fn may_be_on_host(&self, at: &impl Fn(&str) -> String) -> Result<(), FieldError> {
        if self.host > HostAccess::None {
            return Ok(());
        }
        let detail = format!(
            "namespace is null, which is the host, and {} may have nothing there: write the name of a namespace, {}",
            self.name,
            self.rule()
        );
        Err(forbidden_field(at("namespace"), detail))
    }

    fn check_host_addresses(
        &self,
        addresses: &[Cidr],
        at: &impl Fn(&str) -> String,
    ) -> Result<(), FieldError> {
        let Some(first) = addresses.first() else {
            return Ok(());
        };
        let detail = format!(
            "{first} is for the host, and {} may have interfaces without addresses there: leave addresses out, {}",
            self.name,
            self.rule()
        );
        Err(forbidden_field(at("addresses/0"), detail))
    }

    fn check_host_device(
        &self,
        device: &str,
        at: &impl Fn(&str) -> String,
    ) -> Result<(), FieldError> {
        if device.starts_with(&self.prefix) {
            return Ok(());
        }
        // The name that netnsd chose tells how many others have such ones.
        let device = if auto_name::is_automatic(device) {
            "a name chosen by netnsd"
        } else {
            &format!("{device:?}")
        };
        let detail = format!(
            "the interface has {device} on the host, where {} has only what is called {}…: write such a name, {}",
            self.name,
            self.prefix,
            self.rule()
        );
        Err(forbidden_field(at("interface"), detail))
    }

    /// The way out that is not the caller's own.
    fn rule(&self) -> String {
        format!("or have an admin give it more than host \"{}\"", self.host)
    }
}

fn forbidden_field(pointer: String, detail: String) -> FieldError {
    FieldError::new(Code::Forbidden, pointer, detail)
}
