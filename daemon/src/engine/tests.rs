//! Tests of the engine over the simulated kernel and a real database.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, task::Poll};

use netnsd_api::{AuditEntry, Code, Kind, Name, ResourceRef, Role, State, is_link_local};
use nix::errno::Errno;
use serde_json::{Value, json};
use sqlx::Connection;

use super::*;
use crate::{
    access::{AuditDraft, Caller},
    kernel::{
        AddressChange, DnsFile, LinkAt, LinkChange, LinkOp, NamespaceChange, NamespaceOp, NewEnd,
        NewLink, Ns, ObservedAddress, Op, RouteChange, RouteExtras, sim::SimKernel,
    },
    links::BridgeSettings,
    model::{Change, ChangeKind, Document, DocumentItem, Spec},
    store::{AuditLog, AuxRecord, EventFilter, History},
};

struct House {
    dir: tempfile::TempDir,
    kernel: SimKernel,
    view: Arc<View>,
    engine: Option<(Engine, std::thread::JoinHandle<()>)>,
    history: Option<History>,
}

impl House {
    fn new() -> Self {
        let mut house = Self {
            dir: tempfile::tempdir().unwrap(),
            kernel: SimKernel::default(),
            view: Arc::default(),
            engine: None,
            history: None,
        };
        house.start();
        house
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("netnsd.db")
    }

    fn start(&mut self) {
        self.view = Arc::default();
        let kernel = self.kernel.clone();
        let (shown, newest) = watch::channel(0);
        self.engine = Some(
            Engine::start(
                &self.database(),
                self.view.clone(),
                shown,
                DriftPolicy::default(),
                Arc::default(),
                Arc::default(),
                || Ok(kernel),
            )
            .unwrap(),
        );
        self.history = Some(History::new(&self.database(), newest));
    }

    fn stop(&mut self) {
        let (engine, thread) = self.engine.take().unwrap();
        drop(engine);
        thread.join().unwrap();
    }

    /// Starts again on a kernel that has nothing.
    async fn reboot(&mut self) {
        self.stop();
        self.kernel = SimKernel::default();
        self.start();
        self.view.wait_ready().await;
    }

    async fn write(&self, change: Change) -> Result<Written, netnsd_api::Problem> {
        self.engine
            .as_ref()
            .unwrap()
            .0
            .write(Write::by_admin(change))
            .await
    }

    async fn put(&self, kind: Kind, body: Value) -> Result<Written, netnsd_api::Problem> {
        self.write(Change::Put(Spec::from_json(kind, body).unwrap()))
            .await
    }

    async fn delete(
        &self,
        kind: Kind,
        name: &str,
        cascade: bool,
    ) -> Result<Written, netnsd_api::Problem> {
        self.write(Change::Delete {
            resource: ResourceRef::new(kind, name.parse().unwrap()),
            cascade,
        })
        .await
    }

    /// A bridge, a namespace on it, a router with routes, a second pair.
    async fn network(&self) {
        self.put(
            Kind::Namespace,
            json!({"name": "net0", "netnsid": 7, "routes": [{"destination": "default", "via": "10.0.0.254"}],
            "sysctls": {"net.ipv4.ip_forward": 1}, "dns": {"nameservers": ["10.0.0.254"]}}),
        )
        .await
        .unwrap();
        self.put(
            Kind::Bridge,
            json!({"name": "br0", "addresses": ["10.0.0.254/24"], "stp": true}),
        )
        .await
        .unwrap();
        self.put(
            Kind::Veth,
            json!({"name": "lan0", "endpoints": [
            {"namespace": "net0", "interface": "eth0", "addresses": ["10.0.0.1/24", "10.0.0.2/24", "fd00::1/64"]},
            {"interface": "port0", "bridge": "br0", "port": {"hairpin": true}}]}),
        )
        .await
        .unwrap();
    }

    fn state(&self, kind: Kind, name: &str) -> State {
        self.view.get(kind, &name.parse().unwrap()).unwrap().state
    }
}

#[tokio::test]
async fn what_is_asked_for_is_made_and_a_restart_does_nothing() {
    let mut house = House::new();
    house.network().await;
    for (kind, name) in [
        (Kind::Namespace, "net0"),
        (Kind::Bridge, "br0"),
        (Kind::Veth, "lan0"),
    ] {
        assert_eq!(house.state(kind, name), State::InSync, "{kind} {name}");
    }
    assert!(!house.kernel.executed().is_empty());
    house.stop();
    house.start();
    while !house.view.ready() {
        tokio::task::yield_now().await;
    }
    assert_eq!(house.kernel.executed(), []);
}

#[tokio::test]
async fn a_reboot_brings_everything_back() {
    let mut house = House::new();
    house.network().await;
    let before = house.kernel.everything();
    house.stop();
    house.kernel = SimKernel::default();
    house.start();
    while !house.view.ready() {
        tokio::task::yield_now().await;
    }
    let names = |all: &std::collections::BTreeMap<Ns, crate::kernel::ObservedNs>| -> Vec<(Ns, Vec<String>, usize)> {
        all.iter().map(|(ns, known)| (ns.clone(), known.links.keys().cloned().collect(), known.routes.len())).collect()
    };
    assert_eq!(names(&house.kernel.everything()), names(&before));
}

/// The MAC addresses of all links, by where they are.
fn macs(kernel: &SimKernel) -> Vec<(Ns, String, Option<netnsd_api::Mac>)> {
    let all = kernel.everything();
    let of = |(ns, known): (&Ns, &crate::kernel::ObservedNs)| {
        known
            .links
            .iter()
            .map(|(name, link)| (ns.clone(), name.clone(), link.mac))
            .collect::<Vec<_>>()
    };
    all.iter().flat_map(of).collect()
}

impl House {
    async fn reconcile(&self) -> Vec<ResourceRef> {
        self.engine
            .as_ref()
            .unwrap()
            .0
            .reconcile()
            .await
            .unwrap()
            .repaired
    }

    /// Stops, and makes the database one from before addresses were recorded.
    async fn forget_macs(&mut self) {
        self.stop();
        let url = format!("sqlite://{}", self.database().display());
        let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::query("UPDATE resources SET macs = '[]'")
            .execute(&mut database)
            .await
            .unwrap();
        database.close().await.unwrap();
    }
}

#[tokio::test]
async fn macs_last_through_repair_reboot_and_remaking() {
    let mut house = House::new();
    house.network().await;
    let before = macs(&house.kernel);
    house
        .kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "port0"))))
        .unwrap();
    house
        .kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "br0"))))
        .unwrap();
    assert_eq!(house.reconcile().await.len(), 3);
    assert_eq!(macs(&house.kernel), before);
    // Another device is set right; one that is set and taken back is the one before.
    let other = "02:00:00:00:00:aa".parse().unwrap();
    house
        .kernel
        .apply(&LinkAt::new(Ns::Host, "br0").set(LinkChange::Mac(other)))
        .unwrap();
    house.reconcile().await;
    assert_eq!(macs(&house.kernel), before);
    house
        .put(Kind::Bridge, json!({"name": "br0", "mac": other}))
        .await
        .unwrap();
    assert_ne!(macs(&house.kernel), before);
    house.network().await;
    assert_eq!(macs(&house.kernel), before);
    house.delete(Kind::Namespace, "net0", true).await.unwrap();
    house.delete(Kind::Bridge, "br0", true).await.unwrap();
    house.network().await;
    assert_eq!(macs(&house.kernel), before);
    house.reboot().await;
    assert_eq!(macs(&house.kernel), before);
}

#[tokio::test]
async fn what_is_there_before_macs_are_recorded_keeps_them() {
    let mut house = House::new();
    house.network().await;
    house.forget_macs().await;
    let places = [
        (Ns::Host, "br0"),
        (Ns::Host, "port0"),
        (Ns::Named("net0".parse().unwrap()), "eth0"),
    ];
    for (i, (ns, name)) in places.into_iter().enumerate() {
        let mac = netnsd_api::Mac([2, 0, 0, 0, 1, u8::try_from(i).unwrap()]);
        house
            .kernel
            .apply(&LinkAt::new(ns, name).set(LinkChange::Mac(mac)))
            .unwrap();
    }
    let before = macs(&house.kernel);
    house.kernel.executed();
    house.start();
    house.view.wait_ready().await;
    let pin =
        LinkAt::new(Ns::Host, "br0").set(LinkChange::Mac(netnsd_api::Mac([2, 0, 0, 0, 1, 0])));
    assert_eq!(house.kernel.executed(), [pin]);
    assert_eq!(macs(&house.kernel), before);
    // They are recorded by now: neither the next start nor a reboot changes them.
    house.stop();
    house.start();
    house.view.wait_ready().await;
    assert_eq!(house.kernel.executed(), []);
    house.reboot().await;
    assert_eq!(macs(&house.kernel), before);
}

#[tokio::test]
async fn addresses_are_announced_where_links_were_remade_only() {
    let mut house = House::new();
    house.network().await;
    house
        .put(Kind::Bridge, json!({"name": "br1"}))
        .await
        .unwrap();
    assert_eq!(house.kernel.announced(), [], "nobody knew another one");
    let announced = |house: &House| -> Vec<(String, usize)> {
        house
            .kernel
            .announced()
            .into_iter()
            .map(|link| (link.name, link.addresses.len()))
            .collect()
    };
    house
        .kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "port0"))))
        .unwrap();
    house.reconcile().await;
    assert_eq!(announced(&house), [("eth0".to_owned(), 3)]);
    house
        .kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "br0"))))
        .unwrap();
    house.reconcile().await;
    assert_eq!(
        announced(&house),
        [("br0".to_owned(), 1), ("eth0".to_owned(), 3)]
    );
    // To another bridge; and one without carrier once it has one.
    let ends = |bridge: &str, up: bool| {
        json!({"name": "lan0", "endpoints": [{"namespace": "net0", "interface": "eth0", "addresses": ["10.0.0.1/24"]},
            {"interface": "port0", "bridge": bridge, "up": up}]})
    };
    house.put(Kind::Veth, ends("br1", false)).await.unwrap();
    assert_eq!(announced(&house), []);
    house.put(Kind::Veth, ends("br1", true)).await.unwrap();
    assert_eq!(announced(&house), [("eth0".to_owned(), 1)]);
    house
        .put(
            Kind::Namespace,
            json!({"name": "net0", "labels": {"a": "b"}}),
        )
        .await
        .unwrap();
    assert_eq!(announced(&house), []);
    house.reboot().await;
    assert_eq!(announced(&house), [], "at boot nothing is where it was not");
}

#[tokio::test]
async fn refused_setting_at_boot_stops_nothing_else() {
    let mut house = House::new();
    house.network().await;
    let mut all = Vec::new();
    let mut count = 0;
    loop {
        house.stop();
        house.kernel = SimKernel::default();
        // First without a fault.
        if count > 0 {
            house.kernel.fail(count - 1, Errno::EPERM);
        }
        house.start();
        house.view.wait_ready().await;
        let done = house.kernel.executed();
        if all.is_empty() {
            all = done;
        } else if all[count - 1].is_setting() {
            let left: Vec<&Op> = all.iter().filter(|op| !done.contains(op)).collect();
            assert!(
                left.is_empty(),
                "{:?} failed, and with it {left:?}",
                all[count - 1]
            );
            let states = [
                (Kind::Namespace, "net0"),
                (Kind::Bridge, "br0"),
                (Kind::Veth, "lan0"),
            ];
            let failed = states
                .iter()
                .filter(|(kind, name)| house.state(*kind, name) == State::Failed);
            assert_eq!(failed.count(), 1, "{:?}", all[count - 1]);
        }
        count += 1;
        if count > all.len() {
            break;
        }
    }
    assert!(count > 15, "{all:#?}");
}

/// What the kernel may say to any operation (`netlink(7)`, `mount(2)`, `setns(2)`), and some that
/// mean "not yet".
const ERRNOS: [Errno; 10] = [
    Errno::EPERM,
    Errno::ENOMEM,
    Errno::ENOBUFS,
    Errno::EMFILE,
    Errno::EBUSY,
    Errno::EEXIST,
    Errno::EINVAL,
    Errno::EOPNOTSUPP,
    Errno::ENODEV,
    Errno::ENETUNREACH,
];

/// Changes of the network, of every kind.
fn changes() -> Vec<Change> {
    let put = |kind, body| Change::Put(Spec::from_json(kind, body).unwrap());
    let delete = |kind, name: &str| Change::Delete {
        resource: ResourceRef::new(kind, name.parse().unwrap()),
        cascade: true,
    };
    let ends = json!([{"namespace": "net0", "interface": "eth1", "addresses": ["10.0.0.3/24"], "mtu": 1400},
        {"interface": "port0", "bridge": "br0", "up": false, "port": {"path_cost": 7}}]);
    let moved = json!([{"interface": "eth0", "addresses": ["10.0.0.1/24"]},
        {"namespace": "net0", "interface": "port0", "mac": "02:00:00:00:00:01"}]);
    let whole = [
        (Kind::Namespace, json!({"name": "net1"})),
        (Kind::Bridge, json!({"name": "br0", "namespace": "net1"})),
        (
            Kind::Veth,
            json!({"name": "other", "endpoints": [{"namespace": "net1", "interface": "eth0", "bridge": "br0"}, {}]}),
        ),
    ];
    let specs = whole.map(|(kind, body)| DocumentItem {
        spec: Spec::from_json(kind, body).unwrap(),
        index: 0,
    });
    vec![
        put(Kind::Veth, json!({"name": "lan0", "endpoints": ends})),
        put(Kind::Veth, json!({"name": "lan0", "endpoints": moved})),
        put(
            Kind::Veth,
            json!({"name": "two", "endpoints": [{"namespace": "net0"}, {"bridge": "br0", "addresses": ["fd01::1/64"]}]}),
        ),
        put(
            Kind::Bridge,
            json!({"name": "br0", "interface": "br1", "priority": 5}),
        ),
        put(
            Kind::Namespace,
            json!({"name": "net0", "sysctls": {"net.ipv4.ip_forward": 0}, "loopback": false,
                "routes": [{"destination": "10.8.0.0/16", "via": "10.0.0.254"}],
                "neighbours": [{"address": "10.0.0.9", "mac": "02:00:00:00:00:09", "interface": "eth0"}]}),
        ),
        delete(Kind::Bridge, "br0"),
        delete(Kind::Veth, "lan0"),
        delete(Kind::Namespace, "net0"),
        Change::Topology(Document {
            specs: specs.into(),
            prune: true,
            cascade: false,
            selects: Arc::new(|_| true),
        }),
    ]
}

#[tokio::test]
async fn every_refusal_of_the_kernel_leaves_everything_as_it_was() {
    let mut faults = 0;
    for change in changes() {
        for errno in ERRNOS {
            // One database serves for all: a change that is refused leaves nothing.
            let mut house = House::new();
            house.network().await;
            for after in 0.. {
                house.kernel.executed();
                let (kernel, json) = (house.kernel.shape(), all_json(&house.view));
                house.kernel.fail(after, errno);
                let what = format!("{change:?}, the operation {after} failed with {errno}");
                match house.write(change.clone()).await {
                    Err(problem) => {
                        faults += 1;
                        assert_eq!(
                            problem.errno,
                            Some(format!("{errno:?}")),
                            "{what}: {problem:?}"
                        );
                        assert_eq!(house.kernel.shape(), kernel, "{what}");
                        assert_eq!(all_json(&house.view), json, "{what}");
                    }
                    // What may wait was done at the next try.
                    Ok(_) if house.kernel.failed() => {
                        faults += 1;
                        house = House::new();
                        house.network().await;
                    }
                    Ok(_) => {
                        assert!(after > 0, "{what}: some operation was tried");
                        break;
                    }
                }
            }
        }
    }
    println!("{faults} faults");
}

fn all_json(view: &View) -> Vec<Value> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for entry in view.list(kind, None, 100, |_| true).0 {
            let mut value: Value = serde_json::from_slice(&entry.json).unwrap();
            // What is made again has another number.
            ["index", "inode"]
                .iter()
                .for_each(|key| strip(&mut value, key));
            all.push(value);
        }
    }
    all
}

fn strip(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => {
            map.remove(key);
            map.values_mut().for_each(|value| strip(value, key));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| strip(value, key)),
        _ => {}
    }
}

#[tokio::test]
async fn removing_a_setting_gives_the_earlier_one_back() {
    let house = House::new();
    house.network().await;
    house
        .put(Kind::Namespace, json!({"name": "net0", "netnsid": 7}))
        .await
        .unwrap();
    let ns = &house.kernel.everything()[&Ns::Named("net0".parse::<Name>().unwrap())];
    assert!(
        !ns.sysctls.is_empty() && ns.sysctls.values().all(|value| value == "0"),
        "{ns:?}"
    );
    assert_eq!((ns.dns.len(), ns.routes.len()), (0, 0));
}

#[tokio::test]
async fn nsswitch_follows_the_hosts() {
    let house = House::new();
    house.kernel.set_nsswitch(Some(
        "hosts: mymachines resolve [!UNAVAIL=return] files dns\n",
    ));
    house
        .put(
            Kind::Namespace,
            json!({"name": "net0", "dns": {"nameservers": ["10.0.0.254"]}}),
        )
        .await
        .unwrap();
    let hosts = || {
        let ns = &house.kernel.everything()[&Ns::Named("net0".parse::<Name>().unwrap())];
        ns.dns[&DnsFile::Nsswitch].lines().nth(1).map(str::to_owned)
    };
    assert_eq!(hosts().as_deref(), Some("hosts: files dns"));
    house.kernel.executed();
    let reconcile = async || house.engine.as_ref().unwrap().0.reconcile().await.unwrap();
    reconcile().await;
    assert_eq!(house.kernel.executed(), []);
    house.kernel.set_nsswitch(Some("hosts: files resolve\n"));
    reconcile().await;
    assert_eq!(house.kernel.executed(), [], "it comes to the same");
    house.kernel.set_nsswitch(Some("hosts: files\n"));
    reconcile().await;
    assert_eq!(house.kernel.executed().len(), 1, "resolv.conf is as it was");
    assert_eq!(hosts().as_deref(), Some("hosts: files"));
}

#[tokio::test]
async fn a_namespace_takes_its_links_along_and_a_bridge_lets_its_ports_go() {
    let house = House::new();
    house.network().await;
    let refused = house.delete(Kind::Bridge, "br0", false).await.unwrap_err();
    assert_eq!((refused.code, refused.resources.len()), (Code::InUse, 1));
    house.delete(Kind::Bridge, "br0", true).await.unwrap();
    assert_eq!(
        house.kernel.everything()[&Ns::Host].links["port0"].master,
        None
    );
    house.delete(Kind::Namespace, "net0", true).await.unwrap();
    let left = house.kernel.everything();
    assert_eq!((left.len(), left[&Ns::Host].links.len()), (1, 0));
}

#[tokio::test]
async fn what_others_made_is_a_conflict_and_stays() {
    let house = House::new();
    let theirs = Op::Link(LinkOp::Create(Box::new(NewLink::Bridge {
        end: NewEnd {
            at: LinkAt::new(Ns::Host, "br0"),
            owner_tag: "theirs".into(),
            mac: None,
            mtu: None,
        },
        settings: BridgeSettings::default(),
    })));
    house.kernel.apply(&theirs).unwrap();
    let before = house.kernel.everything();
    let refused = house
        .put(Kind::Bridge, json!({"name": "br0"}))
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert_eq!(house.kernel.everything(), before);
    assert!(
        house
            .view
            .get(Kind::Bridge, &"br0".parse().unwrap())
            .is_none()
    );
}

#[tokio::test]
async fn routes_wait_for_what_they_need() {
    let house = House::new();
    house
        .put(
            Kind::Namespace,
            json!({"name": "a", "routes": [{"destination": "default", "via": "10.9.0.1"}],
            "neighbours": [{"address": "10.9.0.7", "mac": "02:00:00:00:00:07", "interface": "eth0"}],
            "sysctls": {"net.ipv4.conf.eth0.rp_filter": 2}}),
        )
        .await
        .unwrap();
    assert_eq!(house.state(Kind::Namespace, "a"), State::Pending);
    house
        .put(Kind::Veth, json!({"name": "v", "endpoints": [{"namespace": "a", "interface": "eth0", "addresses": ["10.9.0.2/24"]}, {}]}))
        .await
        .unwrap();
    assert_eq!(house.state(Kind::Namespace, "a"), State::InSync);
    // Another address takes the route away, and going back brings it again.
    house
        .put(Kind::Veth, json!({"name": "v", "endpoints": [{"namespace": "a", "interface": "eth0", "addresses": ["10.8.0.2/24"]}, {}]}))
        .await
        .unwrap();
    assert_eq!(house.state(Kind::Namespace, "a"), State::Pending);
}

#[tokio::test]
async fn writes_that_wait_together_are_answered_together_and_truly() {
    let house = House::new();
    house
        .put(Kind::Bridge, json!({"name": "br0"}))
        .await
        .unwrap();
    let engine = house.engine.as_ref().unwrap().0.clone();
    let mut all = Vec::new();
    for i in 0..50 {
        let engine = engine.clone();
        all.push(tokio::spawn(async move {
            let put = |kind, body| {
                let change = Change::Put(Spec::from_json(kind, body).unwrap());
                engine.write(Write::by_admin(change))
            };
            put(Kind::Namespace, json!({"name": format!("n{i}")})).await.unwrap();
            let ends = json!([{"namespace": format!("n{i}"), "interface": "eth0", "addresses": [format!("10.0.0.{}/24", i + 1)]},
                {"interface": format!("p{i}"), "bridge": "br0"}]);
            put(Kind::Veth, json!({"name": format!("v{i}"), "endpoints": ends})).await.unwrap();
        }));
    }
    for one in all {
        one.await.unwrap();
    }
    assert_eq!(house.kernel.everything()[&Ns::Host].links.len(), 51);
    let bridge = house
        .view
        .get(Kind::Bridge, &"br0".parse().unwrap())
        .unwrap();
    let bridge: Value = serde_json::from_slice(&bridge.json).unwrap();
    assert_eq!(
        bridge["status"]["observed"]["ports"]
            .as_array()
            .unwrap()
            .len(),
        50
    );
}

#[tokio::test]
async fn one_that_cannot_be_applied_holds_up_nobody_and_is_tried_again() {
    let mut house = House::new();
    house.network().await;
    house.stop();
    // The machine comes back with somebody else's device under our bridge's name.
    house.kernel = SimKernel::default();
    let theirs = |name: &str| {
        Op::Link(LinkOp::Create(Box::new(NewLink::Bridge {
            end: NewEnd {
                at: LinkAt::new(Ns::Host, name),
                owner_tag: "theirs".into(),
                mac: None,
                mtu: None,
            },
            settings: BridgeSettings::default(),
        })))
    };
    house.kernel.apply(&theirs("br0")).unwrap();
    house.start();
    house.view.wait_ready().await;
    assert_eq!(house.state(Kind::Bridge, "br0"), State::Conflict);
    assert_eq!(house.kernel.everything().len(), 2, "the namespace is there");
    assert!(
        house.kernel.everything()[&Ns::Named("net0".parse().unwrap())]
            .links
            .contains_key("eth0")
    );
    assert_eq!(
        house.kernel.everything()[&Ns::Host].links["br0"]
            .owner_tag
            .as_deref(),
        Some("theirs")
    );
    // Once the name is free it is made by itself.
    house
        .kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "br0"))))
        .unwrap();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while house.state(Kind::Bridge, "br0") != State::InSync
        || house.state(Kind::Veth, "lan0") != State::InSync
    {
        assert!(std::time::Instant::now() < patience);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(
        house.kernel.everything()[&Ns::Host].links["port0"]
            .master
            .as_deref(),
        Some("br0")
    );
}

#[tokio::test]
async fn untagged_end_of_own_pair_is_tagged_in_place() {
    let mut house = House::new();
    house.network().await;
    let before = house.kernel.everything();
    house.stop();
    // As a crash between making the pair and tagging its second end leaves it.
    house.kernel.untag(&Ns::Host, "port0");
    house.start();
    house.view.wait_ready().await;
    assert_eq!(house.state(Kind::Veth, "lan0"), State::InSync);
    assert_eq!(house.kernel.everything(), before);
}

#[tokio::test]
async fn legacy_tags_are_replaced_in_place() {
    let mut house = House::new();
    house.network().await;
    let before = house.kernel.everything();
    house.stop();
    house.kernel.make_tags_legacy();
    house.kernel.executed();
    house.start();
    house.view.wait_ready().await;
    assert_eq!(house.kernel.everything(), before);
    let executed = house.kernel.executed();
    assert!(!executed.is_empty());
    assert!(
        executed.iter().all(|op| matches!(
            op,
            Op::Link(LinkOp::Set {
                change: LinkChange::Owner { .. },
                ..
            })
        )),
        "{executed:#?}"
    );
}

#[tokio::test]
async fn tags_taken_off_are_put_back_in_place() {
    let house = House::new();
    house.network().await;
    let before = house.kernel.everything();
    house.kernel.executed();
    for (ns, inside) in &before {
        for name in inside.links.keys().map(String::as_str).chain(["lo"]) {
            house.kernel.untag(ns, name);
        }
    }
    house.engine.as_ref().unwrap().0.reconcile().await.unwrap();
    assert_eq!(house.kernel.everything(), before);
    let executed = house.kernel.executed();
    assert!(!executed.is_empty());
    assert!(
        executed.iter().all(|op| matches!(
            op,
            Op::Link(LinkOp::Set {
                change: LinkChange::Owner { .. },
                ..
            })
        )),
        "{executed:#?}"
    );
}

fn topology(prune: bool, document: Value) -> Change {
    let mut specs = Vec::new();
    for kind in Kind::ALL {
        for (at, item) in document[kind.plural()]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            specs.push(DocumentItem {
                spec: Spec::from_json(kind, item.clone()).unwrap(),
                index: at,
            });
        }
    }
    Change::Topology(Document {
        specs,
        prune,
        cascade: false,
        selects: Arc::new(|_| true),
    })
}

/// What `network` makes, changed in every kind of way.
fn another() -> Value {
    json!({"namespaces": [{"name": "net0", "sysctls": {"net.ipv4.ip_forward": 0}}, {"name": "net1"}],
        "bridges": [{"name": "br1", "namespace": "net1", "addresses": ["10.0.0.254/24"]}],
        "veths": [{"name": "lan0", "endpoints": [
            {"namespace": "net0", "interface": "eth1", "addresses": ["10.0.0.1/24"]},
            {"namespace": "net1", "interface": "port0", "bridge": "br1"}]}]})
}

#[tokio::test]
async fn a_topology_is_all_or_nothing() {
    for prune in [true, false] {
        for after in 0.. {
            let house = House::new();
            house.network().await;
            house.kernel.executed();
            let (kernel, json) = (house.kernel.shape(), all_json(&house.view));
            house.kernel.fail(after, Errno::EPERM);
            match house.write(topology(prune, another())).await {
                Err(problem) => {
                    assert_eq!(problem.code, Code::KernelRejected, "{problem:?}");
                    assert_eq!(house.kernel.shape(), kernel, "the operation {after} failed");
                    assert_eq!(all_json(&house.view), json);
                }
                Ok(written) => {
                    let of = |what| written.named.iter().filter(|(_, did)| *did == what).count();
                    let counts = [
                        ChangeKind::Created,
                        ChangeKind::Updated,
                        ChangeKind::Deleted,
                        ChangeKind::Unchanged,
                    ]
                    .map(of);
                    assert_eq!(counts, [2, 2, usize::from(prune), 0]);
                    assert!(after > 5, "some operations were tried");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_topology_again_changes_nothing() {
    let house = House::new();
    house.write(topology(true, another())).await.unwrap();
    house.kernel.executed();
    let again = house.write(topology(true, another())).await.unwrap();
    assert!(
        again
            .named
            .iter()
            .all(|(_, did)| *did == ChangeKind::Unchanged),
        "{again:?}"
    );
    assert_eq!(house.kernel.executed(), []);
}

#[tokio::test]
async fn events_tell_what_happened_and_not_what_was_refused() {
    let mut house = House::new();
    house.network().await;
    house.kernel.fail(3, Errno::EPERM);
    house.write(topology(true, another())).await.unwrap_err();
    house
        .put(Kind::Namespace, json!({"name": "net0", "netnsid": 7}))
        .await
        .unwrap();
    house.delete(Kind::Namespace, "net0", true).await.unwrap();
    house.stop();
    house.start();
    house.view.wait_ready().await;
    let (events, _) = house
        .history
        .as_ref()
        .unwrap()
        .read_after(0, &EventFilter::default(), 1000)
        .await
        .unwrap();
    let told: Vec<String> = events
        .iter()
        .map(|event| format!("{} {}", event.kind, event.resource.name))
        .collect();
    let expected = [
        "created net0",
        "applied net0",
        "created br0",
        "applied br0",
        "created lan0",
        // Its route waited for the pair.
        "applied net0",
        "applied lan0",
        "updated net0",
        "applied net0",
        "deleted lan0",
        "deleted net0",
    ];
    assert_eq!(told, expected);
    assert!(events.is_sorted_by_key(|event| event.id));
}

#[tokio::test]
async fn id_of_a_dying_namespace_is_waited_for_beside_the_engine() {
    let house = House::new();
    // The namespace is made first.
    house.kernel.fail(1, Errno::EAGAIN);
    house
        .put(Kind::Namespace, json!({"name": "net0", "netnsid": 7}))
        .await
        .unwrap();
    assert!(house.kernel.failed());
    assert_eq!(house.state(Kind::Namespace, "net0"), State::Pending);
    house.kernel.fail(1, Errno::EEXIST);
    house
        .put(Kind::Namespace, json!({"name": "net1", "netnsid": 8}))
        .await
        .unwrap_err();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while house.state(Kind::Namespace, "net0") != State::InSync {
        assert!(std::time::Instant::now() < patience);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let ns = &house.kernel.everything()[&Ns::Named("net0".parse::<Name>().unwrap())];
    assert_eq!(ns.netnsid, Some(7));
}

#[tokio::test]
async fn a_pass_repairs_and_tells_so() {
    let house = House::new();
    house.network().await;
    let engine = &house.engine.as_ref().unwrap().0;
    assert_eq!(
        engine.reconcile().await.unwrap(),
        netnsd_api::Reconciled::default()
    );
    house
        .kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "port0"))))
        .unwrap();
    let reconciled = engine.reconcile().await.unwrap();
    assert!(reconciled.failed.is_empty(), "{reconciled:?}");
    assert!(
        reconciled
            .repaired
            .contains(&ResourceRef::new(Kind::Veth, "lan0".parse().unwrap())),
        "{reconciled:?}"
    );
    let types = vec![
        netnsd_api::EventType::Drifted,
        netnsd_api::EventType::Repaired,
    ];
    let filter = EventFilter {
        types,
        names: vec!["lan0".into()],
        ..EventFilter::default()
    };
    let (events, _) = house
        .history
        .as_ref()
        .unwrap()
        .read_after(0, &filter, 1000)
        .await
        .unwrap();
    assert_eq!(events.len(), 2, "{events:?}");
}

#[tokio::test]
async fn a_write_that_does_not_wait_is_durable_and_its_failure_shows_in_its_state() {
    let house = House::new();
    house.network().await;
    house.kernel.fail(0, Errno::EPERM);
    let bridge = Change::Put(Spec::from_json(Kind::Bridge, json!({"name": "br7"})).unwrap());
    let written = house
        .engine
        .as_ref()
        .unwrap()
        .0
        .write(Write {
            wait: false,
            ..Write::by_admin(bridge)
        })
        .await
        .unwrap();
    assert!(
        !written.applied && written.change_kind() == ChangeKind::Created,
        "{written:?}"
    );
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while house.state(Kind::Bridge, "br7") != State::InSync {
        assert!(std::time::Instant::now() < patience);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let (events, _) = house
        .history
        .as_ref()
        .unwrap()
        .read_after(
            0,
            &EventFilter {
                names: vec!["br7".into()],
                ..EventFilter::default()
            },
            9,
        )
        .await
        .unwrap();
    let told: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        told[..2],
        ["created", "failed"],
        "and `applied`, once it is recorded"
    );
}

/// What others made by hand: a namespace with a pair to a bridge, addresses, a route.
fn by_hand(kernel: &SimKernel) {
    let (net0, eth0, port0, br0) = (Ns::Named("net0".parse().unwrap()), "eth0", "port0", "br0");
    let own = |name: &str| name.to_owned();
    let mac = "02:00:00:00:00:fe".parse().ok();
    let end = |ns: &Ns, name: &str| NewEnd {
        at: LinkAt::new(ns.clone(), own(name)),
        owner_tag: own("by hand"),
        mac,
        mtu: None,
    };
    let address = |ns: &Ns, name: &str, address: &str| {
        let (address, peer) = address
            .split_once(" peer ")
            .map_or((address, None), |(one, two)| (one, two.parse().ok()));
        let address = ObservedAddress {
            peer,
            protocol: 7,
            broadcast: Some(Ipv4Addr::new(10, 0, 0, 255)),
            label: Some("by:hand".into()),
            metric: 9,
            lifetimes: Some((300, 600)),
            ..ObservedAddress::new(address.parse().unwrap())
        };
        LinkAt::new(ns.clone(), own(name)).change_addresses(AddressChange::Add {
            address: address,
            replace: false,
        })
    };
    let up = |ns: &Ns, name: &str| LinkAt::new(ns.clone(), own(name)).set(LinkChange::Up(true));
    let set = BridgeSettings {
        stp: Some(true),
        hello_time: Some(netnsd_api::Centiseconds(300)),
        ..BridgeSettings::default()
    };
    let route =
        serde_json::from_value(json!({"destination": "default", "via": "10.0.0.254"})).unwrap();
    for op in [
        Op::Namespace(NamespaceOp {
            name: "net0".parse().unwrap(),
            change: NamespaceChange::Create {
                owner_tag: own("by hand"),
            },
        }),
        Op::Link(LinkOp::Create(Box::new(NewLink::Bridge {
            end: NewEnd {
                at: LinkAt::new(Ns::Host, own(br0)),
                owner_tag: own("by hand"),
                mac: mac,
                mtu: None,
            },
            settings: set,
        }))),
        Op::Link(LinkOp::Create(Box::new(NewLink::Veth {
            ends: [end(&net0, eth0), end(&Ns::Host, port0)],
        }))),
        address(&net0, eth0, "10.0.0.2/24"),
        address(&net0, eth0, "10.0.0.1/24"),
        address(&net0, eth0, "192.0.2.1/32 peer 192.0.2.100"),
        address(&Ns::Host, br0, "10.0.0.254/24"),
        LinkAt::new(Ns::Host, own(port0)).set(LinkChange::Master(Some(own(br0)))),
        up(&Ns::Host, br0),
        up(&Ns::Host, port0),
        up(&net0, eth0),
        Op::route(
            &Ns::Named("net0".parse().unwrap()),
            RouteChange::Add {
                route: route,
                extras: RouteExtras::default(),
                protocol: 4,
                replace: false,
            },
        ),
    ] {
        kernel.apply(&op).unwrap();
    }
    for (ns, name) in [
        (&net0, "lo"),
        (&net0, eth0),
        (&Ns::Host, port0),
        (&Ns::Host, br0),
    ] {
        kernel.untag(ns, name);
    }
}

/// The same as a document that changes a little of everything.
fn taken_over() -> Change {
    let specs = [
        (
            Kind::Namespace,
            json!({"name": "net0", "sysctls": {"net.ipv4.ip_forward": 1},
            "routes": [{"destination": "default", "via": "10.0.0.254"}, {"destination": "10.7.0.0/16", "via": "10.0.0.253"}],
            "neighbours": [{"address": "10.0.0.9", "mac": "02:00:00:00:00:09", "interface": "eth0"}]}),
        ),
        (
            Kind::Bridge,
            json!({"name": "lan", "interface": "br0", "addresses": ["10.0.0.254/24", "10.0.9.1/24"], "mtu": 1400}),
        ),
        (
            Kind::Veth,
            json!({"name": "lan0", "endpoints": [
            {"namespace": "net0", "interface": "eth0", "addresses": ["10.0.0.1/24", "fd00::1/64", "10.0.0.2/24"], "mac": "02:00:00:00:00:01"},
            {"interface": "port0", "bridge": "lan", "port": {"hairpin": true}}]}),
        ),
        (
            Kind::Veth,
            json!({"name": "new", "endpoints": [{"interface": "one"}, {"interface": "two"}]}),
        ),
    ];
    let specs = specs.into_iter().map(|(kind, body)| DocumentItem {
        spec: Spec::from_json(kind, body).unwrap(),
        index: 0,
    });
    Change::Topology(Document {
        specs: specs.collect(),
        prune: false,
        cascade: false,
        selects: Arc::new(|_| true),
    })
}

#[tokio::test]
async fn what_is_taken_over_is_kept_in_place_or_given_back_as_it_was() {
    for after in 0.. {
        let house = House::new();
        by_hand(&house.kernel);
        let before = house.kernel.shape();
        let write = Write {
            adopt: true,
            ..Write::by_admin(taken_over())
        };
        let refused = house
            .engine
            .as_ref()
            .unwrap()
            .0
            .write(Write {
                adopt: false,
                ..write.clone()
            })
            .await
            .unwrap_err();
        assert_eq!(refused.code, Code::Conflict);
        house.kernel.executed();
        house.kernel.fail(after, Errno::EPERM);
        match house.engine.as_ref().unwrap().0.write(write).await {
            Err(problem) => {
                assert_eq!(problem.errno.as_deref(), Some("EPERM"), "{problem:?}");
                assert_eq!(house.kernel.shape(), before, "the operation {after} failed");
                assert_eq!(all_json(&house.view), Vec::<Value>::new());
            }
            Ok(_) => {
                let done = house.kernel.executed();
                let apart = |op: &Op| {
                    matches!(
                        op,
                        Op::Link(LinkOp::Delete(_))
                            | Op::Link(LinkOp::Set {
                                change: LinkChange::Up(false),
                                ..
                            })
                            | Op::Namespace(NamespaceOp {
                                change: NamespaceChange::Create { .. },
                                ..
                            })
                    )
                };
                assert!(after > 10 && !done.iter().any(apart), "{after}: {done:#?}");
                let net0 = house
                    .kernel
                    .everything()
                    .remove(&Ns::Named("net0".parse().unwrap()))
                    .unwrap();
                assert!(net0.routes.iter().all(|route| route.ours), "{net0:#?}");
                let theirs = |address: &&ObservedAddress| {
                    !address.is_ours() && !is_link_local(address.net.addr())
                };
                let theirs: Vec<_> = net0.links["eth0"]
                    .addresses
                    .iter()
                    .filter(theirs)
                    .map(ToString::to_string)
                    .collect();
                assert_eq!(theirs, ["192.0.2.1 peer 192.0.2.100/32"], "{net0:#?}");
                let taken = |address: &&ObservedAddress| address.is_ours() && address.metric == 9;
                assert_eq!(
                    net0.links["eth0"].addresses.iter().filter(taken).count(),
                    2,
                    "{net0:#?}"
                );
                house.kernel.fail(usize::MAX, Errno::EPERM);
                // They are netnsd's: what is no longer asked for goes.
                house.delete(Kind::Namespace, "net0", true).await.unwrap();
                house.delete(Kind::Bridge, "lan", true).await.unwrap();
                house.delete(Kind::Veth, "new", false).await.unwrap();
                assert_eq!(house.kernel.shape(), SimKernel::default().shape());
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_recorded_resource_in_conflict_takes_over_what_is_in_its_way() {
    let mut house = House::new();
    house
        .put(
            Kind::Bridge,
            json!({"name": "br0", "addresses": ["10.0.0.254/24"]}),
        )
        .await
        .unwrap();
    house.stop();
    house.kernel = SimKernel::default();
    by_hand(&house.kernel);
    house.start();
    house.view.wait_ready().await;
    assert_eq!(house.state(Kind::Bridge, "br0"), State::Conflict);
    let before = house.kernel.shape();
    let body = json!({"name": "br0", "addresses": ["10.0.0.254/24"]});
    let change = Change::Put(Spec::from_json(Kind::Bridge, body).unwrap());
    let write = Write {
        adopt: true,
        ..Write::by_admin(change)
    };
    house.kernel.fail(1, Errno::EPERM);
    house
        .engine
        .as_ref()
        .unwrap()
        .0
        .write(write.clone())
        .await
        .unwrap_err();
    assert_eq!(
        (house.kernel.shape(), house.state(Kind::Bridge, "br0")),
        (before, State::Conflict)
    );
    let written = house.engine.as_ref().unwrap().0.write(write).await.unwrap();
    assert_eq!(
        (written.change_kind(), written.entry.unwrap().generation),
        (ChangeKind::Unchanged, 1)
    );
    assert_eq!(house.state(Kind::Bridge, "br0"), State::InSync);
    assert!(
        !house.kernel.everything()[&Ns::Host].links["br0"]
            .bridge
            .as_ref()
            .unwrap()
            .attrs
            .stp
    );
}

fn audit_draft() -> AuditEntry {
    AuditEntry {
        id: 0,
        time: "2026-11-27T00:00:00Z".into(),
        caller: None,
        role: None,
        from: "unix".into(),
        method: "PUT".into(),
        path: "/v1/bridges/br0".into(),
        argv: None,
        status: 0,
        count: 1,
        request_id: String::new(),
    }
}

#[tokio::test]
async fn what_the_audit_log_says_of_a_refused_write_goes_with_the_next_commit_where_the_first_fails()
 {
    let house = House::new();
    let mut other =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", house.database().display()))
            .await
            .unwrap();
    let disturb =
        "CREATE TRIGGER disturb BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'disturbed'); END";
    sqlx::raw_sql(disturb).execute(&mut other).await.unwrap();
    let mut caller = Caller::admin("a test");
    caller.audit = Some(Arc::new(AuditDraft::new(audit_draft())));
    let change = Change::Put(Spec::from_json(Kind::Bridge, json!({"name": "br0"})).unwrap());
    house.kernel.fail(0, Errno::EPERM);
    let write = Write {
        caller: Arc::new(caller),
        status: Some(|_, _| 201),
        ..Write::by_admin(change)
    };
    house
        .engine
        .as_ref()
        .unwrap()
        .0
        .write(write)
        .await
        .unwrap_err();
    let log = AuditLog::new(&house.database());
    assert_eq!(log.read(None, 9).await.unwrap().len(), 1);
    sqlx::raw_sql("DROP TRIGGER disturb")
        .execute(&mut other)
        .await
        .unwrap();
    house
        .put(Kind::Bridge, json!({"name": "br1"}))
        .await
        .unwrap();
    assert_eq!(log.read(None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn prior_value_of_a_sysctl_is_recorded_before_it_is_replaced() {
    let mut house = House::new();
    house
        .put(Kind::Namespace, json!({"name": "net0"}))
        .await
        .unwrap();
    house
        .put(
            Kind::Namespace,
            json!({"name": "net0", "labels": {"a": "b"}}),
        )
        .await
        .unwrap();
    let mut other =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", house.database().display()))
            .await
            .unwrap();
    // The daemon dies before it can record what it has done.
    let die = "CREATE TRIGGER die BEFORE UPDATE ON resources WHEN NEW.generation = OLD.generation
        BEGIN SELECT RAISE(ABORT, 'dead'); END";
    sqlx::raw_sql(die).execute(&mut other).await.unwrap();
    let set = |house: &House| -> Vec<String> {
        let net0 = house
            .kernel
            .everything()
            .remove(&Ns::Named("net0".parse().unwrap()))
            .unwrap();
        net0.sysctls
            .into_values()
            .filter(|value| value == "1")
            .collect()
    };
    let sysctls = json!({"net.ipv4.conf.all.rp_filter": 1});
    house
        .put(Kind::Namespace, json!({"name": "net0", "sysctls": sysctls}))
        .await
        .unwrap();
    assert_eq!(set(&house).len(), 1);
    house.stop();
    sqlx::raw_sql("DROP TRIGGER die")
        .execute(&mut other)
        .await
        .unwrap();
    house.start();
    house.view.wait_ready().await;
    house
        .put(Kind::Namespace, json!({"name": "net0"}))
        .await
        .unwrap();
    assert_eq!(set(&house), Vec::<String>::new(), "it is given back");
}

#[tokio::test]
async fn admins_entries_wait_until_they_can_be_recorded() {
    let mut house = House::new();
    let mut other =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", house.database().display()))
            .await
            .unwrap();
    let disturb =
        "CREATE TRIGGER disturb BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disturbed'); END";
    sqlx::raw_sql(disturb).execute(&mut other).await.unwrap();
    let engine = house.engine.as_ref().unwrap().0.clone();
    let entry = |role, status, at: usize| AuditEntry {
        role: Some(role),
        status,
        request_id: at.to_string(),
        ..audit_draft()
    };
    let unavailable =
        |result: Result<(), Problem>| assert_eq!(result.unwrap_err().code, Code::StoreUnavailable);
    for at in 0..recorder::BACKLOG_CAPACITY {
        engine
            .record_aux(AuxRecord::PutAudit(entry(Role::Admin, 200, at)))
            .await
            .unwrap();
    }
    unavailable(
        engine
            .record_aux(AuxRecord::PutAudit(entry(Role::Admin, 200, 0)))
            .await,
    );
    unavailable(
        engine
            .record_aux(AuxRecord::PutAudit(entry(Role::Operator, 200, 0)))
            .await,
    );
    // A refusal is counted, and a second one of its kind is not even tried.
    unavailable(
        engine
            .record_refusal(entry(Role::Admin, 503, 0), "unix".into())
            .await,
    );
    engine
        .record_refusal(entry(Role::Admin, 503, 0), "unix".into())
        .await
        .unwrap();
    sqlx::raw_sql("DROP TRIGGER disturb")
        .execute(&mut other)
        .await
        .unwrap();
    // A write comes after them.
    let mut caller = Caller::admin("a test");
    caller.audit = Some(Arc::new(AuditDraft::new(audit_draft())));
    let change = Change::Put(Spec::from_json(Kind::Bridge, json!({"name": "br0"})).unwrap());
    engine
        .write(Write {
            caller: Arc::new(caller),
            status: Some(|_, _| 201),
            ..Write::by_admin(change)
        })
        .await
        .unwrap();
    drop(engine);
    house.stop();
    let kept = AuditLog::new(&house.database())
        .read(Some(0), 5000)
        .await
        .unwrap();
    let told: Vec<_> = kept
        .iter()
        .map(|entry| (entry.status, entry.count, entry.request_id.clone()))
        .collect();
    let waited = (0..recorder::BACKLOG_CAPACITY).map(|at| (200, 1, at.to_string()));
    let all: Vec<_> = waited
        .chain([(201, 1, String::new()), (503, 2, "0".to_owned())])
        .collect();
    assert_eq!(told, all);
}

#[tokio::test]
async fn what_is_deleted_while_nobody_can_look_is_gone_once_somebody_can() {
    let mut house = House::new();
    let empty = house.kernel.shape();
    let net0 = Ns::Named("net0".parse().unwrap());
    for restart in [false, true] {
        house
            .put(
                Kind::Namespace,
                json!({"name": "net0", "dns": {"nameservers": ["10.0.0.254"]}}),
            )
            .await
            .unwrap();
        let ends = json!([{"namespace": "net0", "interface": "a"}, {"namespace": "net0", "interface": "b"}]);
        house
            .put(Kind::Veth, json!({"name": "inside", "endpoints": ends}))
            .await
            .unwrap();
        house.kernel.close(&net0, true);
        house.delete(Kind::Veth, "inside", false).await.unwrap();
        house.delete(Kind::Namespace, "net0", false).await.unwrap();
        assert_eq!(house.kernel.everything()[&net0].links.len(), 2);
        if restart {
            house.stop();
            house.start();
            house.view.wait_ready().await;
        }
        house.kernel.close(&net0, false);
        house.engine.as_ref().unwrap().0.reconcile().await.unwrap();
        assert_eq!(house.kernel.shape(), empty, "{restart}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_what_it_took_is_done() {
    let house = House::new();
    let engine = house.engine.as_ref().unwrap().0.clone();
    let write = |i: usize| {
        let spec = Spec::from_json(Kind::Namespace, json!({"name": format!("n{i}")})).unwrap();
        let engine = engine.clone();
        Box::pin(async move { engine.write(Write::by_admin(Change::Put(spec))).await })
    };
    // Somebody else holds the database: what is taken waits.
    let mut other =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", house.database().display()))
            .await
            .unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let mut writes = Vec::new();
    let refused = loop {
        let mut next = write(writes.len());
        match std::future::poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await {
            Poll::Ready(answer) => break answer.unwrap_err(),
            Poll::Pending => writes.push(next),
        }
    };
    let count = writes.len();
    assert!(
        count >= QUEUE_CAPACITY && refused.code == Code::Overloaded,
        "{count}: {refused:?}"
    );
    // The audit log has a lane of its own.
    let mut entry = Box::pin(engine.record_aux(AuxRecord::PutAudit(audit_draft())));
    assert!(
        std::future::poll_fn(|context| Poll::Ready(entry.as_mut().poll(context)))
            .await
            .is_pending()
    );
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    for write in writes {
        write.await.unwrap();
    }
    entry.await.unwrap();
    assert_eq!(
        AuditLog::new(&house.database())
            .read(None, 9)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(house.kernel.everything().len(), 1 + count);
}
