//! Dummy devices (drivers/net/dummy.c).

use netnsd_api::DummyFields;
use rtnetlink::packet_route::link::InfoData;

use super::driver::{LinkDriver, NoSettings};

/// Driver of dummy devices.
#[derive(Debug)]
pub struct Driver;

impl LinkDriver for Driver {
    type Spec = DummyFields;
    type Settings = NoSettings;

    const KIND: &'static str = "dummy";
    const CREATE_LABEL: &'static str = "dummy_add";
    const SET_LABEL: &'static str = "dummy_set";

    fn settings(_spec: &DummyFields) -> NoSettings {
        NoSettings
    }

    fn encode(_settings: &NoSettings) -> Option<InfoData> {
        None
    }

    fn ip_args(_settings: &NoSettings) -> String {
        String::new()
    }
}
