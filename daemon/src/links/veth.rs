//! Veth pairs (drivers/net/veth.c).

use netnsd_api::Veth;
use rtnetlink::packet_route::link::InfoData;

use super::driver::{LinkDriver, NoSettings};

/// Driver of veth pairs. The peer is part of the operation that creates a pair.
#[derive(Debug)]
pub struct Driver;

impl LinkDriver for Driver {
    type Spec = Veth;
    type Settings = NoSettings;

    const KIND: &'static str = "veth";
    const CREATE_LABEL: &'static str = "veth_add";
    const SET_LABEL: &'static str = "veth_set";

    fn settings(_spec: &Veth) -> NoSettings {
        NoSettings
    }

    fn encode(_settings: &NoSettings) -> Option<InfoData> {
        None
    }

    fn ip_args(_settings: &NoSettings) -> String {
        String::new()
    }
}
