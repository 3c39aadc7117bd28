//! Tests of the real kernel, each on a thread with namespaces of its own; as root (others come by
//! `daemon/tests/`).

use std::{future::Future, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use netnsd_api::{NetnsId, Port};
use netnsd_netlink::{Error, netns::file::THREAD_NETNS};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::{fstat, stat},
};
use serde_json::Value;

use super::*;
use crate::kernel::{
    AddressChange, FeatureOp, LOOPBACK, LinkAt, LinkChange, LinkOp, NamespaceChange, NamespaceOp,
    NewEnd, NewLink, Ns, NsChange, ObservedAddress, Op, ROUTE_PROTOCOL, RouteChange, RouteExtras,
};
use crate::links::BridgeSettings;

/// Runs a test on a thread that has a host of its own.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(RealKernel) -> F + Send + 'static) {
    if !crate::skip::is_root() {
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { test(RealKernel::start().unwrap()).await });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip -j`, and returns its output.
fn ip(args: &[&str]) -> Value {
    let output = Command::new("ip").arg("-j").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "ip {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Executes operations one by one, each twice, and expects success.
async fn execute_twice(kernel: &mut RealKernel, ops: &[Op]) {
    for op in ops {
        for _ in 0..2 {
            let batch = BatchOp {
                op: op.clone(),
                part: 0,
                optional: false,
            };
            assert_eq!(
                kernel.execute(&[batch], Box::new(|_| ())).await,
                [Some(Ok(()))],
                "{op:?}"
            );
        }
    }
}

fn named(name: &str) -> Ns {
    Ns::Named(name.parse().unwrap())
}

fn added(ns: Ns) -> WatchChange {
    WatchChange::Add { ns, inode: None }
}

fn add(name: &str) -> Op {
    Op::Namespace(NamespaceOp {
        name: name.parse().unwrap(),
        change: NamespaceChange::Create {
            owner_tag: format!("netnsd:namespace:{name}:u"),
        },
    })
}

fn pair(ns: &str) -> Op {
    let end = |ns: Ns, name: &str, end: usize| NewEnd {
        at: LinkAt::new(ns, name),
        owner_tag: format!("netnsd:veth:v:{end}:u"),
        mac: None,
        mtu: Some(1400),
    };
    Op::Link(LinkOp::Create(Box::new(NewLink::veth([
        end(named(ns), "eth0", 0),
        end(Ns::Host, "port0", 1),
    ]))))
}

#[test]
fn namespace_pair_and_addresses_are_observed() {
    on_a_host(|mut kernel| async move {
        let name: Name = "a".parse().unwrap();
        let (ns, eth0) = (named("a"), String::from("eth0"));
        let address = |address: &str| {
            LinkAt::new(ns.clone(), eth0.clone()).change_addresses(AddressChange::Add {
                address: ObservedAddress::new(address.parse().unwrap()),
                replace: false,
            })
        };
        execute_twice(
            &mut kernel,
            &[
                add("a"),
                Op::Namespace(NamespaceOp {
                    name: name.clone(),
                    change: NamespaceChange::SetId(NetnsId::Id(77)),
                }),
                Op::Namespace(NamespaceOp {
                    name: name.clone(),
                    change: NamespaceChange::SetLoopbackUp(true),
                }),
                pair("a"),
                LinkAt::new(ns.clone(), eth0.clone()).set(LinkChange::Up(true)),
                LinkAt::new(Ns::Host, "port0").set(LinkChange::Up(true)),
                address("10.0.0.1/24"),
                address("fd00::1/64"),
                Op::route(
                    &Ns::Named(name.clone()),
                    RouteChange::Add {
                        route: serde_json::from_value(
                            serde_json::json!({"destination": "default", "via": "10.0.0.254"}),
                        )
                        .unwrap(),
                        extras: RouteExtras::default(),
                        protocol: ROUTE_PROTOCOL,
                        replace: false,
                    },
                ),
                Op::Feature(FeatureOp::Sysctl {
                    name: name.clone(),
                    key: "net.ipv4.ip_forward".parse().unwrap(),
                    value: "1".into(),
                }),
            ],
        )
        .await;
        assert_eq!(kernel.replaced_sysctls()[0].2, "0");
        let list = ip(&["netns", "list"]);
        assert_eq!(
            (&list[0]["name"], &list[0]["id"]),
            (&"a".into(), &77.into())
        );
        let link = &ip(&["-n", "a", "-d", "addr", "show", "eth0"])[0];
        assert_eq!(
            (&link["mtu"], &link["altnames"]),
            (&1400.into(), &serde_json::json!(["netnsd:veth:v:0:u"]))
        );
        assert_eq!(
            ip(&["-n", "a", "route", "show", "default"])[0]["gateway"],
            "10.0.0.254"
        );
        let mut scope = Scope::default();
        scope.ns(&ns).summary = true;
        scope.ns(&ns).routes = true;
        scope.ns(&ns).links.insert(eth0.clone());
        scope
            .ns(&ns)
            .sysctls
            .insert("net.ipv4.ip_forward".parse().unwrap());
        scope.ns(&Ns::Host).links.insert("port0".into());
        scope.ns(&named("none"));
        let seen = kernel.observe(&scope).await.unwrap();
        assert_eq!(seen.namespaces.len(), 2);
        let inside = &seen.namespaces[&ns];
        assert_eq!(
            (inside.netnsid, inside.loopback, inside.link_count),
            (Some(77), true, 2)
        );
        assert_eq!(inside.owner_tag.as_deref(), Some("netnsd:namespace:a:u"));
        assert_eq!(inside.sysctls.values().collect::<Vec<_>>(), ["1"]);
        assert_eq!(inside.routes.iter().filter(|route| route.ours).count(), 1);
        let link = &inside.links["eth0"];
        assert!(
            link.up
                && link.carrier
                && link
                    .addresses
                    .iter()
                    .filter(|address| address.is_ours())
                    .count()
                    == 2
        );
        assert!(
            seen.namespaces[&Ns::Host].links["port0"]
                .owner_tag
                .as_deref()
                == Some("netnsd:veth:v:1:u")
        );
        execute_twice(
            &mut kernel,
            &[
                Op::Link(LinkOp::Delete(LinkAt::new(Ns::Host, "port0"))),
                Op::Namespace(NamespaceOp {
                    name,
                    change: NamespaceChange::Delete,
                }),
            ],
        )
        .await;
        assert!(ip(&["netns", "list"]).as_array().is_none_or(Vec::is_empty));
        assert_eq!(ip(&["link"]).as_array().unwrap().len(), 1);
    });
}

/// One operation frees a name that the next one takes, through another socket.
#[test]
fn moves_between_namespaces_keep_their_order() {
    on_a_host(|mut kernel| async move {
        execute_twice(&mut kernel, &[add("a"), add("b")]).await;
        for (ns, name) in [("a", "x"), ("a", "y"), ("b", "z"), ("b", "y")] {
            let end = |name: &str| NewEnd {
                at: LinkAt::new(named(ns), name),
                owner_tag: format!("netnsd:veth:{name}-{ns}:0:u"),
                mac: None,
                mtu: None,
            };
            execute_twice(
                &mut kernel,
                &[Op::Link(LinkOp::Create(Box::new(NewLink::veth([
                    end(name),
                    end(&format!("{name}-peer")),
                ]))))],
            )
            .await;
        }
        let moved = |ns: &str, name: &str, to: Ns| BatchOp {
            op: Op::Link(LinkOp::Move {
                from: LinkAt::new(named(ns), name),
                to: LinkAt::new(to, name),
            }),
            part: 0,
            optional: false,
        };
        let ops = [
            moved("a", "x", Ns::Host),
            moved("b", "z", Ns::Host),
            moved("b", "y", Ns::Host),
            moved("a", "y", named("b")),
        ];
        assert_eq!(
            kernel.execute(&ops, Box::new(|_| ())).await,
            vec![Some(Ok(())); 4]
        );
        assert_eq!(
            ip(&["-n", "b", "link", "show", "y"])[0]["altnames"],
            serde_json::json!(["netnsd:veth:y-a:0:u"])
        );
    });
}

#[test]
fn bridge_with_port_is_observed() {
    on_a_host(|mut kernel| async move {
        let (br0, port0) = (String::from("br0"), String::from("port0"));
        let set = BridgeSettings {
            stp: Some(true),
            priority: Some(4096),
            forward_delay: Some(netnsd_api::Centiseconds(400)),
            ..BridgeSettings::default()
        };
        let port = Port {
            path_cost: Some(9),
            hairpin: Some(true),
            isolated: Some(true),
            ..Port::default()
        };
        execute_twice(
            &mut kernel,
            &[
                add("a"),
                pair("a"),
                Op::Link(LinkOp::Create(Box::new(NewLink::bridge(
                    NewEnd {
                        at: LinkAt::new(Ns::Host, br0.clone()),
                        owner_tag: "netnsd:bridge:br0:u".into(),
                        mac: None,
                        mtu: Some(1300),
                    },
                    set,
                )))),
                LinkAt::new(Ns::Host, port0.clone()).set(LinkChange::AddrGenModeNone(true)),
                LinkAt::new(Ns::Host, port0.clone()).set(LinkChange::Master(Some(br0.clone()))),
                LinkAt::new(Ns::Host, port0.clone()).set(LinkChange::Port(port)),
                LinkAt::new(Ns::Host, port0.clone()).set(LinkChange::Up(true)),
            ],
        )
        .await;
        let data = ip(&["-d", "link", "show", "br0"])[0]["linkinfo"]["info_data"].clone();
        assert_eq!(
            (
                &data["stp_state"],
                &data["priority"],
                &data["forward_delay"]
            ),
            (&1.into(), &4096.into(), &400.into())
        );
        let mut scope = Scope::default();
        scope
            .ns(&Ns::Host)
            .links
            .extend([br0.clone(), port0.clone()]);
        let seen = kernel.observe(&scope).await.unwrap();
        let link = seen.link(&Ns::Host, "port0").unwrap();
        assert_eq!(
            (link.master.as_deref(), link.addr_gen_none),
            (Some("br0"), true)
        );
        let known = link.port.as_ref().unwrap();
        let known = &known.attrs;
        assert!(known.hairpin && known.isolated && known.path_cost == 9 && known.learning);
        assert_eq!(
            seen.link(&Ns::Host, "br0")
                .unwrap()
                .bridge
                .as_ref()
                .unwrap()
                .attrs
                .priority,
            4096
        );
        // Moved into the namespace, it is no longer a port.
        let moved = Op::Link(LinkOp::Move {
            from: LinkAt::new(Ns::Host, port0),
            to: LinkAt::new(named("a"), "eth1"),
        });
        let outcome = kernel
            .execute(
                &[BatchOp {
                    op: moved,
                    part: 0,
                    optional: false,
                }],
                Box::new(|_| ()),
            )
            .await;
        assert_eq!(outcome, [Some(Ok(()))]);
        assert_eq!(
            ip(&["-n", "a", "link", "show", "eth1"])[0]["operstate"],
            "DOWN"
        );
    });
}

#[test]
fn refusal_skips_only_its_part() {
    on_a_host(|mut kernel| async move {
        let up = |name: &str, part| BatchOp {
            op: LinkAt::new(Ns::Host, name).set(LinkChange::Up(true)),
            part,
            optional: false,
        };
        let wrong = BatchOp {
            op: Op::Link(LinkOp::Create(Box::new(NewLink::veth(["x", "x"].map(
                |name| NewEnd {
                    at: LinkAt::new(Ns::Host, name),
                    owner_tag: "netnsd:veth:m:0:u".into(),
                    mac: None,
                    mtu: None,
                },
            ))))),
            part: 0,
            optional: false,
        };
        let outcomes = kernel
            .execute(&[wrong, up("lo", 0), up("lo", 1)], Box::new(|_| ()))
            .await;
        assert_eq!(
            outcomes[0].clone().unwrap().unwrap_err().errno(),
            Some(Errno::EEXIST)
        );
        assert_eq!((&outcomes[1], &outcomes[2]), (&None, &Some(Ok(()))));
        let route = serde_json::from_value(
            serde_json::json!({"destination": "default", "via": "10.9.9.9"}),
        )
        .unwrap();
        let name: Name = "a".parse().unwrap();
        let ops = [
            add("a"),
            Op::route(
                &Ns::Named(name),
                RouteChange::Add {
                    route,
                    extras: RouteExtras::default(),
                    protocol: ROUTE_PROTOCOL,
                    replace: false,
                },
            ),
        ];
        let batch: Vec<BatchOp> = ops
            .into_iter()
            .map(|op| BatchOp {
                op,
                part: 0,
                optional: true,
            })
            .collect();
        let outcome = kernel.execute(&batch, Box::new(|_| ())).await[1]
            .clone()
            .unwrap()
            .unwrap_err();
        assert_eq!(
            outcome,
            KernelError::refused(Errno::ENETUNREACH, "Nexthop has invalid gateway")
        );
    });
}

#[test]
fn stale_pin_is_observed_and_reused() {
    on_a_host(|mut kernel| async move {
        std::fs::create_dir_all("/run/netns").unwrap();
        std::fs::write("/run/netns/a", "").unwrap();
        std::fs::set_permissions("/run/netns/a", PermissionsExt::from_mode(0o0)).unwrap();
        let mut scope = Scope::default();
        scope.ns(&named("a"));
        assert_eq!(
            kernel.observe(&scope).await.unwrap().namespaces[&named("a")].inode,
            0
        );
        execute_twice(&mut kernel, &[add("a")]).await;
        assert_eq!(ip(&["netns", "list"])[0]["name"], "a");
    });
}

#[test]
fn pin_of_another_namespace_type_is_closed() {
    on_a_host(|mut kernel| async move {
        std::fs::create_dir_all("/run/netns").unwrap();
        std::fs::write("/run/netns/uts", "").unwrap();
        let none: Option<&str> = None;
        mount(
            Some("/proc/self/ns/uts"),
            "/run/netns/uts",
            none,
            MsFlags::MS_BIND,
            none,
        )
        .unwrap();
        execute_twice(&mut kernel, &[add("a")]).await;
        let mut scope = Scope::default();
        scope.ns(&named("a"));
        scope.ns(&named("uts"));
        let seen = kernel.observe(&scope).await.unwrap();
        assert!(
            seen.namespaces[&named("a")].owner_tag.is_some()
                && seen.namespaces[&named("uts")].owner_tag.is_none()
        );
        assert!(
            seen.namespaces[&named("uts")].inaccessible,
            "the pin is not reported as inaccessible"
        );
    });
}

/// More than one thread creates, one of them under a name that is in use.
#[test]
fn namespaces_and_links_are_created_in_parallel() {
    on_a_host(|mut kernel| async move {
        assert!(
            Command::new("ip")
                .args(["netns", "add", "n7"])
                .status()
                .unwrap()
                .success()
        );
        let names: Vec<String> = (0..40).map(|i| format!("n{i}")).collect();
        let batch = |op: fn(&str) -> Op| {
            let op = move |(part, name): (usize, &String)| BatchOp {
                op: op(name),
                part,
                optional: false,
            };
            names.iter().enumerate().map(op).collect::<Vec<_>>()
        };
        let mut ops = batch(add);
        ops.extend(batch(|name| {
            let end = |ns, name: &str| {
                let owner_tag = format!("netnsd:veth:{name}:0:u");
                NewEnd {
                    at: LinkAt::new(ns, name),
                    owner_tag,
                    mac: None,
                    mtu: None,
                }
            };
            Op::Link(LinkOp::Create(Box::new(NewLink::veth([
                end(named(name), "eth0"),
                end(Ns::Host, &format!("p-{name}")),
            ]))))
        }));
        let told = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tell = told.clone();
        let done = Box::new(move |done| tell.store(done, std::sync::atomic::Ordering::Relaxed));
        let outcomes = kernel.execute(&ops, done).await;
        assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), ops.len());
        for (op, outcome) in ops.iter().zip(&outcomes) {
            match (op.part, outcome) {
                // The pair does not go into the other namespace.
                (7, Some(Err(error))) => {
                    assert_eq!(*error, KernelError::Netlink(Error::NameInUse), "{op:?}")
                }
                (7, None) => assert_eq!(op.op.label(), "veth_add"),
                (part, outcome) => {
                    assert!(part != 7 && *outcome == Some(Ok(())), "{op:?}: {outcome:?}")
                }
            }
        }
        for name in names.iter().filter(|name| *name != "n7") {
            assert_eq!(
                ip(&["-n", name, "link", "show", "eth0"])[0]["altnames"],
                serde_json::json!(["netnsd:veth:eth0:0:u"])
            );
        }
    });
}

#[test]
fn panic_leaves_threads_in_host_namespace() {
    on_a_host(|mut kernel| async move {
        fn go_astray(_: &mut NamespaceSwitcher) {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            panic!("as a test wants it");
        }
        fn is_at_home(switcher: &mut NamespaceSwitcher) -> bool {
            let here = stat(THREAD_NETNS).unwrap().st_ino;
            here == fstat(switcher.host()).unwrap().st_ino
        }
        let (switcher, helper) = (&mut kernel.switcher, &kernel.helper);
        assert_eq!(switcher.catch_panic(go_astray), Err(Error::Panicked));
        assert_eq!(helper.spawn(go_astray).wait(), Err(Error::Panicked));
        assert_eq!(switcher.catch_panic(is_at_home), Ok(true));
        assert_eq!(helper.spawn(is_at_home).wait(), Ok(true));
    });
}

/// Waits until a change is reported.
async fn wait_for_change(kernel: &mut RealKernel, ns: &str, what: NsChange) {
    let wanted = KernelEvent::Changed(named(ns), what);
    let wait = async { while kernel.next_event().await != wanted {} };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap_or_else(|_| panic!("not told: {wanted:?}"));
}

#[test]
fn namespace_with_two_names_is_watched() {
    on_a_host(|mut kernel| async move {
        execute_twice(&mut kernel, &[add("a")]).await;
        std::fs::write("/run/netns/b", "").unwrap();
        let none: Option<&str> = None;
        mount(
            Some("/run/netns/a"),
            "/run/netns/b",
            none,
            MsFlags::MS_BIND,
            none,
        )
        .unwrap();
        kernel.watch(vec![
            added(named("a")),
            added(named("b")),
            added(named("none")),
        ]);
        ip(&["-n", "a", "address", "add", "10.0.0.1/24", "dev", "lo"]);
        wait_for_change(&mut kernel, "a", NsChange::Address(LOOPBACK)).await;
        wait_for_change(&mut kernel, "b", NsChange::Address(LOOPBACK)).await;
        assert!(
            ip(&["netns", "list-id"])
                .as_array()
                .is_none_or(Vec::is_empty),
            "the host's ids are its own"
        );
        kernel.watch(vec![WatchChange::Remove(named("b"))]);
        ip(&["-n", "a", "address", "add", "10.0.0.2/24", "dev", "lo"]);
        assert_eq!(
            kernel.drain_events(),
            [KernelEvent::Changed(
                named("a"),
                NsChange::Address(LOOPBACK)
            )]
        );
        kernel.watch(vec![added(named("b"))]);
        ip(&["-n", "b", "address", "add", "10.0.0.3/24", "dev", "lo"]);
        wait_for_change(&mut kernel, "b", NsChange::Address(LOOPBACK)).await;
    });
}

/// Its successor may get the same inode.
#[test]
fn recreated_namespace_is_watched() {
    on_a_host(|mut kernel| async move {
        execute_twice(&mut kernel, &[add("a")]).await;
        kernel.watch(vec![added(named("a"))]);
        kernel.release_idle();
        for _ in 0..3 {
            ip(&["netns", "delete", "a"]);
            wait_for_change(&mut kernel, "a", NsChange::Everything).await;
            ip(&["netns", "add", "a"]);
            kernel.watch(vec![added(named("a"))]);
            ip(&["-n", "a", "link", "set", "lo", "up"]);
            wait_for_change(
                &mut kernel,
                "a",
                NsChange::Link {
                    index: LOOPBACK,
                    name: "lo".into(),
                    presence_changed: true,
                },
            )
            .await;
        }
    });
}

/// The monitor is reopened when most namespaces are no longer watched: no event of the others is
/// lost.
#[test]
fn events_survive_mass_unwatch() {
    on_a_host(|mut kernel| async move {
        let names: Vec<String> = (0..20).map(|i| format!("n{i}")).collect();
        for name in &names {
            execute_twice(&mut kernel, &[add(name)]).await;
        }
        kernel.watch(
            names
                .iter()
                .map(|name| added(named(name)))
                .chain([added(Ns::Host)])
                .collect(),
        );
        ip(&["-n", "n0", "address", "add", "10.0.0.1/24", "dev", "lo"]);
        kernel.watch(
            names[1..]
                .iter()
                .map(|name| WatchChange::Remove(named(name)))
                .collect(),
        );
        ip(&["-n", "n1", "address", "add", "10.0.0.1/24", "dev", "lo"]);
        ip(&["-n", "n0", "link", "set", "lo", "mtu", "9000"]);
        ip(&["-n", "n0", "route", "add", "blackhole", "10.1.0.0/24"]);
        ip(&["address", "add", "10.0.0.1/24", "dev", "lo"]);
        // Routes of the host are not watched.
        ip(&["route", "add", "blackhole", "10.1.0.0/24"]);
        let of_lo = NsChange::Link {
            index: LOOPBACK,
            name: "lo".into(),
            presence_changed: false,
        };
        let mut heard = kernel.drain_events();
        heard.retain(|notice| !matches!(notice, KernelEvent::Appeared(_)));
        let expected = [
            (Ns::Host, NsChange::Address(LOOPBACK)),
            (named("n0"), of_lo),
            (named("n0"), NsChange::Address(LOOPBACK)),
            (named("n0"), NsChange::Routes),
        ];
        assert_eq!(
            heard,
            expected.map(|(ns, what)| KernelEvent::Changed(ns, what))
        );
    });
}

#[test]
fn prefetched_namespaces_are_tagged() {
    on_a_host(|mut kernel| async move {
        kernel.prefetch_namespaces(1);
        execute_twice(&mut kernel, &[add("a"), add("b")]).await;
        for ns in ["a", "b"] {
            assert_eq!(
                ip(&["-n", ns, "link", "show", "lo"])[0]["altnames"],
                serde_json::json!([format!("netnsd:namespace:{ns}:u")])
            );
        }
        // Those that no operation takes have no name.
        kernel.prefetch_namespaces(2);
        kernel.release_idle();
        assert_eq!(ip(&["netns", "list"]).as_array().unwrap().len(), 2);
    });
}

#[test]
fn refused_creation_leaves_foreign_link_untagged() {
    on_a_host(|mut kernel| async move {
        let theirs = |host: &str| ip(&["-d", "link", "show", "dev", host]);
        ip(&["link", "add", "port0", "type", "bridge"]);
        ip(&["link", "add", "br0", "type", "bridge"]);
        let before = (theirs("port0"), theirs("br0"));
        let set = BridgeSettings {
            ageing_time: Some(netnsd_api::Centiseconds(77)),
            ..BridgeSettings::default()
        };
        let bridge = Op::Link(LinkOp::Create(Box::new(NewLink::bridge(
            NewEnd {
                at: LinkAt::new(Ns::Host, "br0"),
                owner_tag: "netnsd:bridge:br0:u".into(),
                mac: None,
                mtu: Some(1300),
            },
            set,
        ))));
        let Op::Link(LinkOp::Create(new)) = pair("a") else {
            panic!("a pair")
        };
        let ends = [new.peer.clone().unwrap(), new.end];
        let pair = Op::Link(LinkOp::Create(Box::new(NewLink::veth(ends))));
        let ops = [add("a"), bridge, pair];
        let ops: Vec<BatchOp> = (0..)
            .zip(ops)
            .map(|(part, op)| BatchOp {
                op,
                part,
                optional: false,
            })
            .collect();
        let outcomes = kernel.execute(&ops, Box::new(|_| ())).await;
        for refused in &outcomes[1..] {
            assert_eq!(
                refused.as_ref().unwrap().as_ref().unwrap_err().errno(),
                Some(Errno::EEXIST)
            );
        }
        assert_eq!((theirs("port0"), theirs("br0")), before);
    });
}
