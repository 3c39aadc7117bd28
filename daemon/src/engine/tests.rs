//! Tests of the engine over the simulated kernel and a real database.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, sync::Arc, task::Poll};

use http::StatusCode;
use netnsd_api::{
    AuditEntry, Code, Kind, LinkType, Name, Problem, ResourceRef, Role, State, is_link_local,
};
use nix::errno::Errno;
use serde_json::{Value, json};
use sqlx::Connection;

use super::*;
use crate::{
    access::{AuditDraft, Caller},
    kernel::{
        AddressChange, DnsFile, LinkAt, LinkChange, LinkOp, NamespaceChange, NamespaceOp, NewEnd,
        NewLink, Ns, ObservedAddress, ObservedLink, Op, RouteChange, RouteExtras, sim::SimKernel,
    },
    links::{BridgeSettings, LinkSettings, example_fields},
    model::{Change, ChangeKind, Document, DocumentItem, Spec},
    store::{AuditLog, AuxRecord, EventFilter, History},
};

struct TestHost {
    dir: tempfile::TempDir,
    kernel: SimKernel,
    view: Arc<View>,
    engine: Option<(Engine, std::thread::JoinHandle<()>)>,
    history: Option<History>,
}

impl TestHost {
    fn new() -> Self {
        let mut host = Self {
            dir: tempfile::tempdir().unwrap(),
            kernel: SimKernel::default(),
            view: Arc::default(),
            engine: None,
            history: None,
        };
        host.start();
        host
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

    /// Restarts on an empty kernel.
    async fn reboot(&mut self) {
        self.stop();
        self.kernel = SimKernel::default();
        self.start();
        self.view.wait_ready().await;
    }

    async fn write(&self, change: Change) -> Result<Written, Problem> {
        self.engine
            .as_ref()
            .unwrap()
            .0
            .write(Write::by_admin(change))
            .await
            .map_err(Problem::from)
    }

    async fn put(&self, kind: Kind, body: Value) -> Result<Written, Problem> {
        self.write(Change::Put(Spec::from_json(kind, body).unwrap()))
            .await
    }

    async fn delete(&self, kind: Kind, name: &str, cascade: bool) -> Result<Written, Problem> {
        self.write(Change::Delete {
            resource: ResourceRef::new(kind, name.parse().unwrap()),
            cascade,
        })
        .await
    }

    /// Creates a bridge, and a namespace with routes that is connected to it.
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
async fn network_is_applied_and_restart_changes_nothing() {
    let mut host = TestHost::new();
    host.network().await;
    for (kind, name) in [
        (Kind::Namespace, "net0"),
        (Kind::Bridge, "br0"),
        (Kind::Veth, "lan0"),
    ] {
        assert_eq!(
            host.state(kind, name),
            State::InSync,
            "{kind} {name} is not in sync"
        );
    }
    assert!(!host.kernel.executed().is_empty());
    host.stop();
    host.start();
    while !host.view.ready() {
        tokio::task::yield_now().await;
    }
    assert_eq!(host.kernel.executed(), []);
}

#[tokio::test]
async fn reboot_restores_everything() {
    let mut host = TestHost::new();
    host.network().await;
    let before = host.kernel.everything();
    host.stop();
    host.kernel = SimKernel::default();
    host.start();
    while !host.view.ready() {
        tokio::task::yield_now().await;
    }
    let names = |all: &std::collections::BTreeMap<Ns, crate::kernel::ObservedNs>| -> Vec<(Ns, Vec<String>, usize)> {
        all.iter().map(|(ns, known)| (ns.clone(), known.links.keys().cloned().collect(), known.routes.len())).collect()
    };
    assert_eq!(names(&host.kernel.everything()), names(&before));
}

/// Returns the MAC addresses of all links.
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

impl TestHost {
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

    /// Stops, and turns the database into one from before MAC addresses were recorded.
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
async fn macs_survive_repair_reboot_and_recreation() {
    let mut host = TestHost::new();
    host.network().await;
    let before = macs(&host.kernel);
    host.kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "port0"))))
        .unwrap();
    host.kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "br0"))))
        .unwrap();
    assert_eq!(host.reconcile().await.len(), 3);
    assert_eq!(macs(&host.kernel), before);
    // A foreign MAC address is repaired; one that was asked for gives way to the earlier one.
    let other = "02:00:00:00:00:aa".parse().unwrap();
    host.kernel
        .apply(&LinkAt::new(Ns::Host, "br0").set(LinkChange::Mac(other)))
        .unwrap();
    host.reconcile().await;
    assert_eq!(macs(&host.kernel), before);
    host.put(Kind::Bridge, json!({"name": "br0", "mac": other}))
        .await
        .unwrap();
    assert_ne!(macs(&host.kernel), before);
    host.network().await;
    assert_eq!(macs(&host.kernel), before);
    host.delete(Kind::Namespace, "net0", true).await.unwrap();
    host.delete(Kind::Bridge, "br0", true).await.unwrap();
    host.network().await;
    assert_eq!(macs(&host.kernel), before);
    host.reboot().await;
    assert_eq!(macs(&host.kernel), before);
}

#[tokio::test]
async fn devices_from_before_macs_were_recorded_keep_them() {
    let mut host = TestHost::new();
    host.network().await;
    host.forget_macs().await;
    let places = [
        (Ns::Host, "br0"),
        (Ns::Host, "port0"),
        (Ns::Named("net0".parse().unwrap()), "eth0"),
    ];
    for (i, (ns, name)) in places.into_iter().enumerate() {
        let mac = netnsd_api::Mac([2, 0, 0, 0, 1, u8::try_from(i).unwrap()]);
        host.kernel
            .apply(&LinkAt::new(ns, name).set(LinkChange::Mac(mac)))
            .unwrap();
    }
    let before = macs(&host.kernel);
    host.kernel.executed();
    host.start();
    host.view.wait_ready().await;
    let pin =
        LinkAt::new(Ns::Host, "br0").set(LinkChange::Mac(netnsd_api::Mac([2, 0, 0, 0, 1, 0])));
    assert_eq!(host.kernel.executed(), [pin]);
    assert_eq!(macs(&host.kernel), before);
    // They are recorded now: neither a restart nor a reboot changes them.
    host.stop();
    host.start();
    host.view.wait_ready().await;
    assert_eq!(host.kernel.executed(), []);
    host.reboot().await;
    assert_eq!(macs(&host.kernel), before);
}

#[tokio::test]
async fn only_recreated_links_announce_addresses() {
    let mut host = TestHost::new();
    host.network().await;
    host.put(Kind::Bridge, json!({"name": "br1"}))
        .await
        .unwrap();
    assert_eq!(host.kernel.announced(), [], "a new device is announced");
    let announced = |host: &TestHost| -> Vec<(String, usize)> {
        host.kernel
            .announced()
            .into_iter()
            .map(|link| (link.name, link.addresses.len()))
            .collect()
    };
    host.kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "port0"))))
        .unwrap();
    host.reconcile().await;
    assert_eq!(announced(&host), [("eth0".to_owned(), 3)]);
    host.kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "br0"))))
        .unwrap();
    host.reconcile().await;
    assert_eq!(
        announced(&host),
        [("br0".to_owned(), 1), ("eth0".to_owned(), 3)]
    );
    // Moved to another bridge, and announced only once there is carrier.
    let ends = |bridge: &str, up: bool| {
        json!({"name": "lan0", "endpoints": [{"namespace": "net0", "interface": "eth0", "addresses": ["10.0.0.1/24"]},
            {"interface": "port0", "bridge": bridge, "up": up}]})
    };
    host.put(Kind::Veth, ends("br1", false)).await.unwrap();
    assert_eq!(announced(&host), []);
    host.put(Kind::Veth, ends("br1", true)).await.unwrap();
    assert_eq!(announced(&host), [("eth0".to_owned(), 1)]);
    host.put(
        Kind::Namespace,
        json!({"name": "net0", "labels": {"a": "b"}}),
    )
    .await
    .unwrap();
    assert_eq!(announced(&host), []);
    host.reboot().await;
    assert_eq!(announced(&host), [], "announcements at boot");
}

#[tokio::test]
async fn refused_setting_at_boot_stops_nothing_else() {
    let mut host = TestHost::new();
    host.network().await;
    let mut all = Vec::new();
    let mut count = 0;
    loop {
        host.stop();
        host.kernel = SimKernel::default();
        // First without a fault.
        if count > 0 {
            host.kernel.fail(count - 1, Errno::EPERM);
        }
        host.start();
        host.view.wait_ready().await;
        let done = host.kernel.executed();
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
                .filter(|(kind, name)| host.state(*kind, name) == State::Failed);
            assert_eq!(failed.count(), 1, "{:?}", all[count - 1]);
        }
        count += 1;
        if count > all.len() {
            break;
        }
    }
    assert!(count > 15, "{all:#?}");
}

/// Errors that any operation may have (`netlink(7)`, `mount(2)`, `setns(2)`), and some that mean
/// that a dependency is missing.
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

/// Returns changes of the network, of every kind.
fn changes_of_every_kind() -> Vec<Change> {
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
async fn refused_operation_leaves_everything_as_before() {
    let mut faults = 0;
    for change in changes_of_every_kind() {
        for errno in ERRNOS {
            // One database serves for all faults: a refused change leaves nothing.
            let mut host = TestHost::new();
            host.network().await;
            for after in 0.. {
                host.kernel.executed();
                let (kernel, json) = (host.kernel.shape(), render_all(&host.view));
                host.kernel.fail(after, errno);
                let what = format!("{change:?}, the operation {after} failed with {errno}");
                match host.write(change.clone()).await {
                    Err(problem) => {
                        faults += 1;
                        assert_eq!(
                            problem.errno,
                            Some(format!("{errno:?}")),
                            "{what}: {problem:?}"
                        );
                        assert_eq!(host.kernel.shape(), kernel, "{what}");
                        assert_eq!(render_all(&host.view), json, "{what}");
                    }
                    // An operation that may wait succeeded at the next try.
                    Ok(_) if host.kernel.failed() => {
                        faults += 1;
                        host = TestHost::new();
                        host.network().await;
                    }
                    Ok(_) => {
                        assert!(after > 0, "{what}: no operation was tried");
                        break;
                    }
                }
            }
        }
    }
    println!("{faults} faults");
}

fn render_all(view: &View) -> Vec<Value> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for entry in view.list(kind, None, 100, |_| true).0 {
            let mut value: Value = serde_json::from_slice(&entry.json).unwrap();
            // A recreated device has another index.
            ["index", "inode"]
                .iter()
                .for_each(|key| remove_key(&mut value, key));
            all.push(value);
        }
    }
    all
}

fn remove_key(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => {
            map.remove(key);
            map.values_mut().for_each(|value| remove_key(value, key));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| remove_key(value, key)),
        _ => {}
    }
}

#[tokio::test]
async fn removed_setting_restores_the_earlier_value() {
    let host = TestHost::new();
    host.network().await;
    host.put(Kind::Namespace, json!({"name": "net0", "netnsid": 7}))
        .await
        .unwrap();
    let ns = &host.kernel.everything()[&Ns::Named("net0".parse::<Name>().unwrap())];
    assert!(
        !ns.sysctls.is_empty() && ns.sysctls.values().all(|value| value == "0"),
        "{ns:?}"
    );
    assert_eq!((ns.dns.len(), ns.routes.len()), (0, 0));
}

#[tokio::test]
async fn nsswitch_follows_that_of_the_host() {
    let host = TestHost::new();
    host.kernel.set_nsswitch(Some(
        "hosts: mymachines resolve [!UNAVAIL=return] files dns\n",
    ));
    host.put(
        Kind::Namespace,
        json!({"name": "net0", "dns": {"nameservers": ["10.0.0.254"]}}),
    )
    .await
    .unwrap();
    let hosts = || {
        let ns = &host.kernel.everything()[&Ns::Named("net0".parse::<Name>().unwrap())];
        ns.dns[&DnsFile::Nsswitch].lines().nth(1).map(str::to_owned)
    };
    assert_eq!(hosts().as_deref(), Some("hosts: files dns"));
    host.kernel.executed();
    let reconcile = async || host.engine.as_ref().unwrap().0.reconcile().await.unwrap();
    reconcile().await;
    assert_eq!(host.kernel.executed(), []);
    host.kernel.set_nsswitch(Some("hosts: files resolve\n"));
    reconcile().await;
    assert_eq!(
        host.kernel.executed(),
        [],
        "an equivalent nsswitch.conf is rewritten"
    );
    host.kernel.set_nsswitch(Some("hosts: files\n"));
    reconcile().await;
    assert_eq!(
        host.kernel.executed().len(),
        1,
        "more than nsswitch.conf was written"
    );
    assert_eq!(hosts().as_deref(), Some("hosts: files"));
}

#[tokio::test]
async fn cascade_deletes_links_and_releases_ports() {
    let host = TestHost::new();
    host.network().await;
    let refused = host.delete(Kind::Bridge, "br0", false).await.unwrap_err();
    assert_eq!((refused.code, refused.resources.len()), (Code::InUse, 1));
    host.delete(Kind::Bridge, "br0", true).await.unwrap();
    assert_eq!(
        host.kernel.everything()[&Ns::Host].links["port0"].master,
        None
    );
    host.delete(Kind::Namespace, "net0", true).await.unwrap();
    let left = host.kernel.everything();
    assert_eq!((left.len(), left[&Ns::Host].links.len()), (1, 0));
}

#[tokio::test]
async fn foreign_device_is_a_conflict_and_stays() {
    let host = TestHost::new();
    let theirs = Op::Link(LinkOp::Create(Box::new(NewLink::bridge(
        NewEnd {
            at: LinkAt::new(Ns::Host, "br0"),
            owner_tag: "theirs".into(),
            mac: None,
            mtu: None,
        },
        BridgeSettings::default(),
    ))));
    host.kernel.apply(&theirs).unwrap();
    let before = host.kernel.everything();
    let refused = host
        .put(Kind::Bridge, json!({"name": "br0"}))
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert_eq!(host.kernel.everything(), before);
    assert!(
        host.view
            .get(Kind::Bridge, &"br0".parse().unwrap())
            .is_none()
    );
}

#[tokio::test]
async fn routes_wait_for_their_interface() {
    let host = TestHost::new();
    host
        .put(
            Kind::Namespace,
            json!({"name": "a", "routes": [{"destination": "default", "via": "10.9.0.1"}],
            "neighbours": [{"address": "10.9.0.7", "mac": "02:00:00:00:00:07", "interface": "eth0"}],
            "sysctls": {"net.ipv4.conf.eth0.rp_filter": 2}}),
        )
        .await
        .unwrap();
    assert_eq!(host.state(Kind::Namespace, "a"), State::Pending);
    host
        .put(Kind::Veth, json!({"name": "v", "endpoints": [{"namespace": "a", "interface": "eth0", "addresses": ["10.9.0.2/24"]}, {}]}))
        .await
        .unwrap();
    assert_eq!(host.state(Kind::Namespace, "a"), State::InSync);
    // Without the address the kernel deletes the route.
    host
        .put(Kind::Veth, json!({"name": "v", "endpoints": [{"namespace": "a", "interface": "eth0", "addresses": ["10.8.0.2/24"]}, {}]}))
        .await
        .unwrap();
    assert_eq!(host.state(Kind::Namespace, "a"), State::Pending);
}

#[tokio::test]
async fn concurrent_writes_are_all_applied() {
    let host = TestHost::new();
    host.put(Kind::Bridge, json!({"name": "br0"}))
        .await
        .unwrap();
    let engine = host.engine.as_ref().unwrap().0.clone();
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
    assert_eq!(host.kernel.everything()[&Ns::Host].links.len(), 51);
    let bridge = host
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
async fn failed_resource_does_not_block_others() {
    let mut host = TestHost::new();
    host.network().await;
    host.stop();
    // After the reboot a foreign device has the name of the bridge.
    host.kernel = SimKernel::default();
    let theirs = |name: &str| {
        Op::Link(LinkOp::Create(Box::new(NewLink::bridge(
            NewEnd {
                at: LinkAt::new(Ns::Host, name),
                owner_tag: "theirs".into(),
                mac: None,
                mtu: None,
            },
            BridgeSettings::default(),
        ))))
    };
    host.kernel.apply(&theirs("br0")).unwrap();
    host.start();
    host.view.wait_ready().await;
    assert_eq!(host.state(Kind::Bridge, "br0"), State::Conflict);
    assert_eq!(
        host.kernel.everything().len(),
        2,
        "the namespace is missing"
    );
    assert!(
        host.kernel.everything()[&Ns::Named("net0".parse().unwrap())]
            .links
            .contains_key("eth0")
    );
    assert_eq!(
        host.kernel.everything()[&Ns::Host].links["br0"]
            .owner_tag
            .as_deref(),
        Some("theirs")
    );
    // Once the name is free, a retry creates the bridge.
    host.kernel
        .apply(&Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "br0"))))
        .unwrap();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while host.state(Kind::Bridge, "br0") != State::InSync
        || host.state(Kind::Veth, "lan0") != State::InSync
    {
        assert!(std::time::Instant::now() < patience);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(
        host.kernel.everything()[&Ns::Host].links["port0"]
            .master
            .as_deref(),
        Some("br0")
    );
}

#[tokio::test]
async fn untagged_end_of_own_pair_is_tagged_in_place() {
    let mut host = TestHost::new();
    host.network().await;
    let before = host.kernel.everything();
    host.stop();
    // As a crash between making the pair and tagging its second end leaves it.
    host.kernel.untag(&Ns::Host, "port0");
    host.start();
    host.view.wait_ready().await;
    assert_eq!(host.state(Kind::Veth, "lan0"), State::InSync);
    assert_eq!(host.kernel.everything(), before);
}

#[tokio::test]
async fn legacy_tags_are_replaced_in_place() {
    let mut host = TestHost::new();
    host.network().await;
    let before = host.kernel.everything();
    host.stop();
    host.kernel.make_tags_legacy();
    host.kernel.executed();
    host.start();
    host.view.wait_ready().await;
    assert_eq!(host.kernel.everything(), before);
    let executed = host.kernel.executed();
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
    let host = TestHost::new();
    host.network().await;
    let before = host.kernel.everything();
    host.kernel.executed();
    for (ns, inside) in &before {
        for name in inside.links.keys().map(String::as_str).chain(["lo"]) {
            host.kernel.untag(ns, name);
        }
    }
    host.engine.as_ref().unwrap().0.reconcile().await.unwrap();
    assert_eq!(host.kernel.everything(), before);
    let executed = host.kernel.executed();
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

/// Returns a document that changes the network of [`TestHost::network`] in every way.
fn changed_document() -> Value {
    json!({"namespaces": [{"name": "net0", "sysctls": {"net.ipv4.ip_forward": 0}}, {"name": "net1"}],
        "bridges": [{"name": "br1", "namespace": "net1", "addresses": ["10.0.0.254/24"]}],
        "veths": [{"name": "lan0", "endpoints": [
            {"namespace": "net0", "interface": "eth1", "addresses": ["10.0.0.1/24"]},
            {"namespace": "net1", "interface": "port0", "bridge": "br1"}]}]})
}

#[tokio::test]
async fn topology_is_applied_atomically() {
    for prune in [true, false] {
        for after in 0.. {
            let host = TestHost::new();
            host.network().await;
            host.kernel.executed();
            let (kernel, json) = (host.kernel.shape(), render_all(&host.view));
            host.kernel.fail(after, Errno::EPERM);
            match host
                .write(Change::topology(prune, &changed_document()))
                .await
            {
                Err(problem) => {
                    assert_eq!(problem.code, Code::KernelRejected, "{problem:?}");
                    assert_eq!(host.kernel.shape(), kernel, "the operation {after} failed");
                    assert_eq!(render_all(&host.view), json);
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
                    assert!(after > 5, "too few operations were tried");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn repeated_topology_changes_nothing() {
    let host = TestHost::new();
    host.write(Change::topology(true, &changed_document()))
        .await
        .unwrap();
    host.kernel.executed();
    let again = host
        .write(Change::topology(true, &changed_document()))
        .await
        .unwrap();
    assert!(
        again
            .named
            .iter()
            .all(|(_, did)| *did == ChangeKind::Unchanged),
        "{again:?}"
    );
    assert_eq!(host.kernel.executed(), []);
}

#[tokio::test]
async fn refused_write_leaves_no_events() {
    let mut host = TestHost::new();
    host.network().await;
    host.kernel.fail(3, Errno::EPERM);
    host.write(Change::topology(true, &changed_document()))
        .await
        .unwrap_err();
    host.put(Kind::Namespace, json!({"name": "net0", "netnsid": 7}))
        .await
        .unwrap();
    host.delete(Kind::Namespace, "net0", true).await.unwrap();
    host.stop();
    host.start();
    host.view.wait_ready().await;
    let (events, _) = host
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
async fn netnsid_in_use_is_retried_in_the_background() {
    let host = TestHost::new();
    // Operation 0 creates the namespace.
    host.kernel.fail(1, Errno::EAGAIN);
    host.put(Kind::Namespace, json!({"name": "net0", "netnsid": 7}))
        .await
        .unwrap();
    assert!(host.kernel.failed());
    assert_eq!(host.state(Kind::Namespace, "net0"), State::Pending);
    host.kernel.fail(1, Errno::EEXIST);
    host.put(Kind::Namespace, json!({"name": "net1", "netnsid": 8}))
        .await
        .unwrap_err();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while host.state(Kind::Namespace, "net0") != State::InSync {
        assert!(std::time::Instant::now() < patience);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let ns = &host.kernel.everything()[&Ns::Named("net0".parse::<Name>().unwrap())];
    assert_eq!(ns.netnsid, Some(7));
}

#[tokio::test]
async fn reconciliation_repairs_and_reports_it() {
    let host = TestHost::new();
    host.network().await;
    let engine = &host.engine.as_ref().unwrap().0;
    assert_eq!(
        engine.reconcile().await.unwrap(),
        netnsd_api::Reconciled::default()
    );
    host.kernel
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
    let (events, _) = host
        .history
        .as_ref()
        .unwrap()
        .read_after(0, &filter, 1000)
        .await
        .unwrap();
    assert_eq!(events.len(), 2, "{events:?}");
}

#[tokio::test]
async fn async_write_failure_shows_in_the_state() {
    let host = TestHost::new();
    host.network().await;
    host.kernel.fail(0, Errno::EPERM);
    let bridge = Change::Put(Spec::from_json(Kind::Bridge, json!({"name": "br7"})).unwrap());
    let written = host
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
    while host.state(Kind::Bridge, "br7") != State::InSync {
        assert!(std::time::Instant::now() < patience);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let (events, _) = host
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
        "first two events; `applied` follows"
    );
}

/// Creates a foreign network: a namespace with a pair to a bridge, addresses, a route.
fn create_foreign_network(kernel: &SimKernel) {
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
            address,
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
        Op::Link(LinkOp::Create(Box::new(NewLink::bridge(
            NewEnd {
                at: LinkAt::new(Ns::Host, own(br0)),
                owner_tag: own("by hand"),
                mac,
                mtu: None,
            },
            set,
        )))),
        Op::Link(LinkOp::Create(Box::new(NewLink::veth([
            end(&net0, eth0),
            end(&Ns::Host, port0),
        ])))),
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
                route,
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

/// Returns a document that adopts the foreign network and changes a little of everything.
fn adoption_document() -> Change {
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
async fn adopted_devices_are_kept_or_restored() {
    for after in 0.. {
        let host = TestHost::new();
        create_foreign_network(&host.kernel);
        let before = host.kernel.shape();
        let write = Write {
            adopt: true,
            ..Write::by_admin(adoption_document())
        };
        let refused = host
            .engine
            .as_ref()
            .unwrap()
            .0
            .write(Write {
                adopt: false,
                ..write.clone()
            })
            .await
            .map_err(Problem::from)
            .unwrap_err();
        assert_eq!(refused.code, Code::Conflict);
        host.kernel.executed();
        host.kernel.fail(after, Errno::EPERM);
        let written = host.engine.as_ref().unwrap().0.write(write).await;
        match written.map_err(Problem::from) {
            Err(problem) => {
                assert_eq!(problem.errno.as_deref(), Some("EPERM"), "{problem:?}");
                assert_eq!(host.kernel.shape(), before, "the operation {after} failed");
                assert_eq!(render_all(&host.view), Vec::<Value>::new());
            }
            Ok(_) => {
                let done = host.kernel.executed();
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
                let net0 = host
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
                host.kernel.fail(usize::MAX, Errno::EPERM);
                // They are netnsd's now, and are deleted with their resources.
                host.delete(Kind::Namespace, "net0", true).await.unwrap();
                host.delete(Kind::Bridge, "lan", true).await.unwrap();
                host.delete(Kind::Veth, "new", false).await.unwrap();
                assert_eq!(host.kernel.shape(), SimKernel::default().shape());
                break;
            }
        }
    }
}

#[tokio::test]
async fn conflicting_resource_adopts_foreign_device() {
    let mut host = TestHost::new();
    host.put(
        Kind::Bridge,
        json!({"name": "br0", "addresses": ["10.0.0.254/24"]}),
    )
    .await
    .unwrap();
    host.stop();
    host.kernel = SimKernel::default();
    create_foreign_network(&host.kernel);
    host.start();
    host.view.wait_ready().await;
    assert_eq!(host.state(Kind::Bridge, "br0"), State::Conflict);
    let before = host.kernel.shape();
    let body = json!({"name": "br0", "addresses": ["10.0.0.254/24"]});
    let change = Change::Put(Spec::from_json(Kind::Bridge, body).unwrap());
    let write = Write {
        adopt: true,
        ..Write::by_admin(change)
    };
    host.kernel.fail(1, Errno::EPERM);
    host.engine
        .as_ref()
        .unwrap()
        .0
        .write(write.clone())
        .await
        .unwrap_err();
    assert_eq!(
        (host.kernel.shape(), host.state(Kind::Bridge, "br0")),
        (before, State::Conflict)
    );
    let written = host.engine.as_ref().unwrap().0.write(write).await.unwrap();
    assert_eq!(
        (written.change_kind(), written.entry.unwrap().generation),
        (ChangeKind::Unchanged, 1)
    );
    assert_eq!(host.state(Kind::Bridge, "br0"), State::InSync);
    assert!(
        !host.kernel.everything()[&Ns::Host].links["br0"]
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

/// Returns the draft of a write's entry.
fn write_draft() -> AuditDraft {
    let draft = AuditDraft::new(audit_draft());
    draft.set_statuses(|_| StatusCode::CREATED);
    draft
}

#[tokio::test]
async fn refused_write_audit_is_retracted_by_next_commit() {
    let host = TestHost::new();
    let mut other =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", host.database().display()))
            .await
            .unwrap();
    let disturb =
        "CREATE TRIGGER disturb BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'disturbed'); END";
    sqlx::raw_sql(disturb).execute(&mut other).await.unwrap();
    let mut caller = Caller::admin("a test");
    caller.audit = Some(Arc::new(write_draft()));
    let change = Change::Put(Spec::from_json(Kind::Bridge, json!({"name": "br0"})).unwrap());
    host.kernel.fail(0, Errno::EPERM);
    let write = Write {
        caller: Arc::new(caller),
        ..Write::by_admin(change)
    };
    host.engine
        .as_ref()
        .unwrap()
        .0
        .write(write)
        .await
        .unwrap_err();
    let log = AuditLog::new(&host.database());
    assert_eq!(log.read(None, 9).await.unwrap().len(), 1);
    sqlx::raw_sql("DROP TRIGGER disturb")
        .execute(&mut other)
        .await
        .unwrap();
    host.put(Kind::Bridge, json!({"name": "br1"}))
        .await
        .unwrap();
    assert_eq!(log.read(None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn sysctl_value_is_saved_before_it_is_replaced() {
    let mut host = TestHost::new();
    host.put(Kind::Namespace, json!({"name": "net0"}))
        .await
        .unwrap();
    host.put(
        Kind::Namespace,
        json!({"name": "net0", "labels": {"a": "b"}}),
    )
    .await
    .unwrap();
    let mut other =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", host.database().display()))
            .await
            .unwrap();
    // Commits of confirmations fail, as if the daemon had died before.
    let die = "CREATE TRIGGER die BEFORE UPDATE ON resources WHEN NEW.generation = OLD.generation
        BEGIN SELECT RAISE(ABORT, 'dead'); END";
    sqlx::raw_sql(die).execute(&mut other).await.unwrap();
    let set = |host: &TestHost| -> Vec<String> {
        let net0 = host
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
    host.put(Kind::Namespace, json!({"name": "net0", "sysctls": sysctls}))
        .await
        .unwrap();
    assert_eq!(set(&host).len(), 1);
    host.stop();
    sqlx::raw_sql("DROP TRIGGER die")
        .execute(&mut other)
        .await
        .unwrap();
    host.start();
    host.view.wait_ready().await;
    host.put(Kind::Namespace, json!({"name": "net0"}))
        .await
        .unwrap();
    assert_eq!(
        set(&host),
        Vec::<String>::new(),
        "the earlier value was not restored"
    );
}

#[tokio::test]
async fn admin_audit_entries_wait_for_the_database() {
    let mut host = TestHost::new();
    let mut other =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", host.database().display()))
            .await
            .unwrap();
    let disturb =
        "CREATE TRIGGER disturb BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disturbed'); END";
    sqlx::raw_sql(disturb).execute(&mut other).await.unwrap();
    let engine = host.engine.as_ref().unwrap().0.clone();
    let entry = |role, status, at: usize| AuditEntry {
        role: Some(role),
        status,
        request_id: at.to_string(),
        ..audit_draft()
    };
    let unavailable = |result| assert!(matches!(result, Err(RecordError::Store(_))), "{result:?}");
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
    // A refusal is counted; a second one of its kind is not tried.
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
    // The entry of a write comes after them.
    let mut caller = Caller::admin("a test");
    caller.audit = Some(Arc::new(write_draft()));
    let change = Change::Put(Spec::from_json(Kind::Bridge, json!({"name": "br0"})).unwrap());
    engine
        .write(Write {
            caller: Arc::new(caller),
            ..Write::by_admin(change)
        })
        .await
        .unwrap();
    drop(engine);
    host.stop();
    let kept = AuditLog::new(&host.database())
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
async fn deletion_in_closed_namespace_is_finished_later() {
    let mut host = TestHost::new();
    let empty = host.kernel.shape();
    let net0 = Ns::Named("net0".parse().unwrap());
    for restart in [false, true] {
        host.put(
            Kind::Namespace,
            json!({"name": "net0", "dns": {"nameservers": ["10.0.0.254"]}}),
        )
        .await
        .unwrap();
        let ends = json!([{"namespace": "net0", "interface": "a"}, {"namespace": "net0", "interface": "b"}]);
        host.put(Kind::Veth, json!({"name": "inside", "endpoints": ends}))
            .await
            .unwrap();
        host.kernel.close(&net0, true);
        host.delete(Kind::Veth, "inside", false).await.unwrap();
        host.delete(Kind::Namespace, "net0", false).await.unwrap();
        assert_eq!(host.kernel.everything()[&net0].links.len(), 2);
        if restart {
            host.stop();
            host.start();
            host.view.wait_ready().await;
        }
        host.kernel.close(&net0, false);
        host.engine.as_ref().unwrap().0.reconcile().await.unwrap();
        assert_eq!(host.kernel.shape(), empty, "{restart}");
    }
}

#[tokio::test]
async fn full_queue_refuses_and_drains() {
    let host = TestHost::new();
    let engine = host.engine.as_ref().unwrap().0.clone();
    let write = |i: usize| {
        let spec = Spec::from_json(Kind::Namespace, json!({"name": format!("n{i}")})).unwrap();
        let engine = engine.clone();
        Box::pin(async move { engine.write(Write::by_admin(Change::Put(spec))).await })
    };
    // Another process locks the database, so that writes wait.
    let mut other =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", host.database().display()))
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
        count >= QUEUE_CAPACITY && matches!(refused, WriteError::QueueFull { .. }),
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
        AuditLog::new(&host.database())
            .read(None, 9)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(host.kernel.everything().len(), 1 + count);
}

/// Returns the links of a namespace, or of the host, in the simulated kernel.
fn links_in(host: &TestHost, ns: Option<&str>) -> BTreeMap<String, ObservedLink> {
    let ns = ns.map_or(Ns::Host, |name| Ns::Named(name.parse().unwrap()));
    host.kernel.everything()[&ns].links.clone()
}

#[tokio::test]
async fn link_of_each_type_lives_as_its_resource_says() {
    for link_type in LinkType::ALL {
        let mut host = TestHost::new();
        host.network().await;
        let put = |body: Value| {
            let mut whole = example_fields(link_type, "port0");
            whole["name"] = "l0".into();
            whole["type"] = link_type.as_str().into();
            let fields = body.as_object().unwrap().clone();
            whole.as_object_mut().unwrap().extend(fields);
            host.put(Kind::Link, whole)
        };
        put(json!({"addresses": ["10.7.0.1/24", "fd07::1/64"], "mtu": 1400}))
            .await
            .unwrap();
        let made = links_in(&host, None)["l0"].clone();
        assert_eq!(made.kind.as_deref(), Some(link_type.as_str()));
        let own = made.addresses.iter();
        let own = own.filter(|address| !is_link_local(address.net.addr()));
        assert_eq!((made.mtu, made.up, own.count()), (1400, true, 2));

        // It moves, under another name, with the MAC address that it has.
        put(json!({"namespace": "net0", "interface": "up0", "addresses": ["10.7.0.1/24"]}))
            .await
            .unwrap();
        assert!(!links_in(&host, None).contains_key("l0"));
        let moved = links_in(&host, Some("net0"))["up0"].clone();
        assert_eq!(
            (moved.mac, moved.up, moved.addresses.len()),
            (made.mac, true, 1)
        );
        let written =
            put(json!({"namespace": "net0", "interface": "up0", "addresses": ["10.7.0.1/24"]}))
                .await
                .unwrap();
        assert!(written.plan.is_empty(), "{:?}", written.plan);

        // It is a port, and is shown as one.
        put(json!({"bridge": "br0", "port": {"path_cost": 7}}))
            .await
            .unwrap();
        let port = links_in(&host, None)["l0"].clone();
        assert_eq!(port.master.as_deref(), Some("br0"));
        assert_eq!(port.port.unwrap().attrs.path_cost, 7);
        let bridge = host
            .view
            .get(Kind::Bridge, &"br0".parse().unwrap())
            .unwrap();
        let bridge: Value = serde_json::from_slice(&bridge.json).unwrap();
        let ports = bridge["status"]["observed"]["ports"].as_array().unwrap();
        let of_link: Vec<&Value> = ports.iter().filter(|port| port["link"] == "l0").collect();
        assert_eq!(of_link.len(), 1, "{ports:?}");
        assert_eq!(of_link[0]["veth"], Value::Null);

        let before = host.kernel.shape();
        host.reboot().await;
        assert_eq!(host.kernel.shape(), before, "after a reboot");
        host.delete(Kind::Bridge, "br0", true).await.unwrap();
        assert_eq!(links_in(&host, None)["l0"].master, None);
        host.delete(Kind::Link, "l0", false).await.unwrap();
        assert!(!links_in(&host, None).contains_key("l0"));
    }
}

#[tokio::test]
async fn foreign_link_of_each_type_is_adopted_in_place() {
    for link_type in LinkType::ALL {
        let host = TestHost::new();
        host.network().await;
        let mut body = example_fields(link_type, "port0");
        for (field, value) in [("name", "l0"), ("type", link_type.as_str())] {
            body[field] = value.into();
        }
        body["addresses"] = json!(["10.7.0.1/24"]);
        let spec = Spec::from_json(Kind::Link, body.clone()).unwrap();
        let theirs = NewLink {
            settings: LinkSettings::of(&spec).unwrap(),
            birthplace: None,
            lower: spec.lower().map(|(_, name)| name.to_owned()),
            end: NewEnd {
                at: LinkAt::new(Ns::Host, "l0"),
                owner_tag: "theirs".into(),
                mac: None,
                mtu: None,
            },
            peer: None,
        };
        let theirs = Op::Link(LinkOp::Create(Box::new(theirs)));
        host.kernel.apply(&theirs).unwrap();
        host.kernel.untag(&Ns::Host, "l0");
        let before = links_in(&host, None)["l0"].clone();
        let refused = host.put(Kind::Link, body.clone()).await.unwrap_err();
        assert_eq!(refused.code, Code::Conflict);
        assert_eq!(links_in(&host, None)["l0"], before);

        let spec = Spec::from_json(Kind::Link, body).unwrap();
        let write = Write {
            adopt: true,
            ..Write::by_admin(Change::Put(spec))
        };
        host.engine.as_ref().unwrap().0.write(write).await.unwrap();
        let adopted = links_in(&host, None)["l0"].clone();
        assert_eq!((adopted.index, adopted.mac), (before.index, before.mac));
        assert_eq!(adopted.addresses.len(), 1);
    }
}

#[tokio::test]
async fn link_of_another_type_is_created_again() {
    let host = TestHost::new();
    let body = json!({"name": "l0", "type": LinkType::ALL[0], "addresses": ["10.7.0.1/24"]});
    host.put(Kind::Link, body).await.unwrap();
    let made = links_in(&host, None)["l0"].clone();
    let at = LinkAt::new(Ns::Host, "l0");
    let other = NewLink::bridge(
        NewEnd {
            at: at.clone(),
            owner_tag: made.owner_tag.clone().unwrap(),
            mac: None,
            mtu: None,
        },
        BridgeSettings::default(),
    );
    host.kernel.apply(&at.delete()).unwrap();
    let other = Op::Link(LinkOp::Create(Box::new(other)));
    host.kernel.apply(&other).unwrap();
    assert_eq!(links_in(&host, None)["l0"].kind.as_deref(), Some("bridge"));

    host.reconcile().await;
    let again = links_in(&host, None)["l0"].clone();
    assert_eq!((again.kind, again.mac), (made.kind, made.mac));
    assert_eq!(again.addresses.len(), made.addresses.len());
}
