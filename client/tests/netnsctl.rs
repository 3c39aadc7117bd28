//! netnsctl with a daemon on a sandboxed host; verified by `ip -j`.

mod common;

use std::{
    fs,
    io::Write,
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{NETNSCTL, Outcome, TOKEN};
use serde_json::{Value, json};

/// Returns the lines of a table with single spaces.
fn table_lines(table: &str) -> Vec<String> {
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn namespace_is_added_listed_set_and_deleted() {
    let host = host!();
    assert_eq!(host.run_ok(&["netns", "list"]), "");
    assert_eq!(
        host.run_ok(&["netns", "add", "net0", "net1", "--label", "team=lab"]),
        "",
        "prints nothing, like ip"
    );
    assert_eq!(host.list_namespaces(), ["net0", "net1"]);
    assert_eq!(
        host.run_ok(&["net", "l", "-o", "name"]),
        "net0\nnet1\n",
        "commands can be abbreviated"
    );
    let table = host.run_ok(&["netns", "list", "--label", "team=lab"]);
    assert_eq!(
        table_lines(&table)[..2],
        [
            "NAME NETNSID LINKS STATE LABELS",
            "net0 - 1 in_sync team=lab"
        ]
    );
    assert_eq!(host.run_ok(&["netns", "list", "--label", "team=other"]), "");

    host.run_ok(&[
        "netns",
        "set",
        "net0",
        "100",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--loopback",
        "off",
    ]);
    let list = host.ip_json(&["netns", "list"]);
    let net0 = list
        .as_array()
        .unwrap()
        .iter()
        .find(|ns| ns["name"] == "net0")
        .unwrap();
    assert_eq!(net0["id"], 100);
    assert_eq!(
        host.run_ok(&["netns", "list-id"]),
        "nsid 100 (iproute2 netns name: net0)\n"
    );
    assert_eq!(
        host.run_script("ip netns exec net0 cat /proc/sys/net/ipv4/ip_forward")
            .out,
        "1\n"
    );
    assert_eq!(
        host.ip_json(&["-n", "net0", "link"])[0]["operstate"],
        "DOWN"
    );
    let shown = host.run_ok(&["netns", "show", "net0"]);
    for text in [
        "net.ipv4.ip_forward=1",
        "team=lab",
        "/run/netns/net0",
        "in_sync",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    host.run_ok(&[
        "netns",
        "set",
        "net0",
        "--netnsid",
        "none",
        "--no-label",
        "team",
    ]);
    let now = host.run_json(&["netns", "show", "net0"]);
    assert_eq!(
        (&now["netnsid"], &now["labels"]),
        (&Value::Null, &json!({}))
    );

    host.run_script("ip netns add other");
    assert_eq!(
        host.run_ok(&["netns", "list", "--unmanaged", "-o", "name"]),
        "net0\nnet1\nother\n"
    );
    host.run_ok(&["netns", "delete", "net1"]);
    assert_eq!(host.list_namespaces(), ["net0", "other"]);
}

#[test]
fn control_characters_in_names_are_escaped() {
    let host = host!();
    host.run_script("ip link add \"$(printf 'e\\033[2Jx')\" type bridge");
    for format in ["table", "name", "json"] {
        let shown = host.run_ok(&["link", "-o", format]);
        assert!(
            shown.contains("e\\u001b[2Jx") && !shown.contains('\u{1b}'),
            "{shown:?}"
        );
    }
}

#[test]
fn routes_neighbours_and_dns_have_syntax_of_ip() {
    let host = host!();
    host.add_connected_namespaces();
    let mac = "02:00:00:00:00:09";
    let neighbour = format!("10.1.1.9 lladdr {mac} dev eth0");
    let line = [
        "netns",
        "set",
        "net0",
        "--route",
        "default via 10.1.1.2",
        "--route",
        "blackhole 10.9.0.0/16",
    ];
    let more = [
        "--route",
        "192.0.2.7 via 10.1.1.2 dev eth0 metric 5",
        "--neighbour",
        &neighbour,
    ];
    let table = ["--route", "192.0.2.8 via 10.1.1.2 table 100"];
    let dns = ["--dns-server", "10.1.1.53", "--dns-search", "lab.example"];
    host.run_ok(&[&line[..], &more, &table, &dns].concat());
    let routes = host.ip_json(&["-n", "net0", "route"]);
    let find = |to: &str| {
        routes
            .as_array()
            .unwrap()
            .iter()
            .find(|route| route["dst"] == to)
            .unwrap()
            .clone()
    };
    assert_eq!(find("default")["gateway"], "10.1.1.2");
    assert_eq!(find("10.9.0.0/16")["type"], "blackhole");
    assert_eq!(find("192.0.2.7")["metric"], 5);
    assert_eq!(
        host.ip_json(&["-n", "net0", "neigh", "show", "nud", "permanent"])[0]["lladdr"],
        mac
    );
    let resolv = host.run_script("cat /etc/netns/net0/resolv.conf").out;
    assert!(
        resolv.contains("nameserver 10.1.1.53") && resolv.contains("search lab.example"),
        "{resolv}"
    );

    let printed = host.run_ok(&["-n", "net0", "route"]);
    assert!(
        printed.contains("default via 10.1.1.2 dev eth0"),
        "{printed}"
    );
    assert!(
        printed.contains("10.1.1.0/24 dev eth0 proto kernel scope link src 10.1.1.1"),
        "{printed}"
    );
    assert!(printed.contains("blackhole 10.9.0.0/16"), "{printed}");
    assert!(
        printed.contains("192.0.2.7 via 10.1.1.2 dev eth0 proto netnsd metric 5\n"),
        "{printed}"
    );
    assert!(
        !printed.contains("192.0.2.8"),
        "a route of another table is printed: {printed}"
    );
    for table in ["all", "100"] {
        let printed = host.run_ok(&["-n", "net0", "route", "show", "table", table]);
        assert!(
            printed.contains("192.0.2.8 via 10.1.1.2 dev eth0 table 100"),
            "{printed}"
        );
    }
    let neighbours = host.run_ok(&["-n", "net0", "neigh"]);
    assert!(
        neighbours.contains(&format!("10.1.1.9 dev eth0 lladdr {mac} PERMANENT")),
        "{neighbours}"
    );
    let shown = host.run_ok(&["netns", "show", "net0"]);
    assert!(
        shown.contains("192.0.2.7/32 via 10.1.1.2 dev eth0 metric 5") && shown.contains(&neighbour),
        "{shown}"
    );

    host.run_ok(&["netns", "set", "net0", "--route", "none", "--no-dns"]);
    let left = host.ip_json(&["-n", "net0", "route"]);
    assert_eq!(
        left.as_array().unwrap().len(),
        1,
        "only the kernel's route is left: {left}"
    );
    host.run(&["netns", "set", "net0"])
        .assert_failed(2, &["no options given"]);
    assert_eq!(
        host.run(&["netns", "set", "net0", "--route", "default gw 10.1.1.2"])
            .code,
        Some(2)
    );
}

#[test]
fn bridge_has_ports_and_learns_addresses() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0", "net1"]);
    host.run_ok(&[
        "bridge",
        "add",
        "br0",
        "--address",
        "10.1.2.254/24",
        "--ageing-time",
        "60",
        "--priority",
        "4096",
    ]);
    for i in ["0", "1"] {
        let inside = format!("net{i}:eth0,addr=10.1.2.1{i}/24");
        let port = format!("port{i},bridge=br0,hairpin");
        host.run_ok(&["veth", "add", &format!("lan{i}"), &inside, &port]);
    }
    let info = host.ip_json(&["-d", "link", "show", "br0"])[0]["linkinfo"]["info_data"].clone();
    assert_eq!(
        (&info["ageing_time"], &info["priority"]),
        (&json!(6000), &json!(4096))
    );
    host.run_ok(&[
        "wait",
        "veth/lan0",
        "veth/lan1",
        "bridge/br0",
        "--for",
        "ready",
        "--timeout",
        "20",
    ]);
    let pinged = host.run_ok(&["netns", "ping", "net0", "10.1.2.11", "-c", "2"]);
    assert!(
        pinged.contains("from 10.1.2.11: icmp_seq=1") && pinged.contains("2 received, 0% loss"),
        "{pinged}"
    );
    let silence = host.run(&["netns", "ping", "net0", "10.1.2.99", "-W", "0.1"]);
    assert_eq!(silence.code, Some(1));
    assert!(silence.out.contains("100% loss"), "{silence:?}");

    let ports = table_lines(&host.run_ok(&["bridge", "link"]));
    assert!(
        ports[1].starts_with("port0 lan0/1 forwarding") && ports[1].ends_with("hairpin"),
        "{ports:?}"
    );
    let mac = host.ip_json(&["-n", "net1", "link", "show", "eth0"])[0]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let fdb = table_lines(&host.run_ok(&["bridge", "fdb", "show", "br", "br0"]));
    assert!(
        fdb.iter()
            .any(|line| line.starts_with(&format!("{mac} port1 no "))),
        "{mac}: {fdb:?}"
    );
    host.run_ok(&[
        "bridge",
        "set",
        "br0",
        "--ageing-time",
        "none",
        "--address",
        "none",
    ]);
    assert_eq!(host.ip_json(&["-4", "addr", "show", "br0"]), json!([]));
    let listed = table_lines(&host.run_ok(&["bridge", "list"]));
    assert_eq!(listed[1], "br0 - yes off - 2 in_sync");
    assert!(
        host.run_ok(&["bridge", "show", "br0"])
            .contains("port0 forwarding")
    );

    host.run(&["bridge", "delete", "br0"])
        .assert_failed(1, &["veth lan0", "--cascade"]);
    host.run_ok(&["bridge", "delete", "br0", "--cascade"]);
    assert_eq!(
        host.ip_json(&["link", "show", "port0"])[0]["master"],
        Value::Null,
        "the port was not detached"
    );
}

#[test]
fn veth_is_added_moved_and_shown_in_same_syntax() {
    let host = host!();
    assert_eq!(
        host.run_ok(&["veth", "add"]),
        "veth0\n",
        "the chosen name is not printed"
    );
    assert_eq!(
        host.ip_json(&["link", "show", "veth1"])[0]["ifname"],
        "veth1"
    );
    host.add_connected_namespaces();
    host.run_ok(&["wait", "veth/lan0", "--for", "ready"]);
    let listed = table_lines(&host.run_ok(&["veth", "list"]));
    assert_eq!(
        listed[1],
        "lan0 net0:eth0,addr=10.1.1.1/24 net1:eth0,addr=10.1.1.2/24 yes in_sync"
    );
    host.run_ok(&[
        "veth",
        "set",
        "lan0/1",
        "--host",
        "--interface",
        "port0",
        "--mtu",
        "1400",
        "--address",
        "10.1.1.3/24",
    ]);
    let port = host.ip_json(&["-4", "addr", "show", "port0"])[0].clone();
    assert_eq!(
        (&port["mtu"], &port["addr_info"][0]["local"]),
        (&json!(1400), &json!("10.1.1.3"))
    );
    host.run_ok(&["veth", "set", "lan0/0", "--down"]);
    assert_eq!(
        host.ip_json(&["-n", "net0", "link", "show", "eth0"])[0]["operstate"],
        "DOWN"
    );
    host.run(&["wait", "veth/lan0", "--for", "ready", "--timeout", "0.1"])
        .assert_failed(1, &["veth lan0", "not ready"]);
    host.run_ok(&["veth", "set", "lan0/0", "--up"]);
    host.run_ok(&["wait", "veth/lan0", "--for", "ready", "--timeout", "20"]);

    host.run_ok(&["bridge", "add", "br0"]);
    host.run_ok(&[
        "veth",
        "set",
        "lan0/1",
        "--bridge",
        "br0",
        "--isolated",
        "on",
        "--address",
        "none",
    ]);
    assert_eq!(host.ip_json(&["link", "show", "port0"])[0]["master"], "br0");
    host.run_ok(&["veth", "set", "lan0/1", "--no-bridge"]);
    assert_eq!(
        host.ip_json(&["link", "show", "port0"])[0]["master"],
        Value::Null
    );
    host.run_ok(&["veth", "set", "lan0", "--label", "team=lab"]);
    assert_eq!(
        host.run_ok(&["veth", "list", "--label", "team", "-o", "name"]),
        "lan0\n"
    );
    assert!(
        host.run_ok(&["veth", "show", "lan0"])
            .contains("net0:eth0,addr=10.1.1.1/24")
    );
    host.run(&["veth", "set", "lan0", "--down"])
        .assert_failed(2, &["lan0/0"]);
    host.run(&["veth", "set", "lan0/2", "--down"])
        .assert_failed(2, &["lan0/1"]);
    host.run(&["veth", "add", "x,colour=red", "z"])
        .assert_failed(2, &["colour", "bridge="]);
    host.run_ok(&["veth", "delete", "lan0", "veth0"]);
    assert_eq!(host.run_ok(&["link", "-o", "name"]), "lo\nbr0\n");
    host.run_ok(&["wait", "veth/lan0", "--for", "deleted"]);
}

#[test]
fn live_state_is_printed_like_ip() {
    let host = host!();
    host.add_connected_namespaces();
    let addresses = host.run_ok(&["-4", "-n", "net0", "addr", "show", "dev", "eth0"]);
    let index = host.ip_json(&["-n", "net0", "link", "show", "eth0"])[0]["ifindex"].clone();
    assert!(
        addresses.starts_with(&format!("{index}: eth0@net1:eth0: <UP,LOWER_UP> mtu 1500")),
        "{addresses}"
    );
    assert!(
        addresses.contains("    inet 10.1.1.1/24 scope global eth0\n"),
        "{addresses}"
    );
    let links = host.run_ok(&["link"]);
    assert!(
        links.starts_with("1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536"),
        "{links}"
    );
    assert!(
        links.contains("    link/loopback 00:00:00:00:00:00\n"),
        "{links}"
    );
    let live = host.run_json(&["-n", "net0", "addr"]);
    assert!(
        live["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|item| item["address"] == "10.1.1.1/24")
    );
    host.run(&["-n", "nowhere", "addr"])
        .assert_failed(1, &["nowhere"]);
}

#[test]
fn exec_passes_output_and_exit_code() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0", "net1"]);
    let exec = |line: &[&str]| host.run(&[&["netns", "exec"], line].concat());
    let outcome = exec(&["net0", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (outcome.code, outcome.out.as_str(), outcome.err.as_str()),
        (Some(7), "out\n", "err\n")
    );
    assert_eq!(
        exec(&["net0", "ip", "netns", "identify"]).out,
        "net0\n",
        "-- is not optional"
    );
    assert_eq!(
        exec(&[
            "--env",
            "A=b",
            "--cwd",
            "/tmp",
            "net0",
            "sh",
            "-c",
            "echo $A; pwd"
        ])
        .out,
        "b\n/tmp\n"
    );
    assert_eq!(
        exec(&["net0", "echo", "-v", "--", "-o"]).out,
        "-v -- -o\n",
        "options after the command were not passed to it"
    );
    assert_eq!(
        exec(&["net0", "sh", "-c", "kill -TERM $$"]).code,
        Some(128 + 15)
    );
    exec(&["--timeout", "0.1", "net0", "sleep", "1000"]).assert_failed(128 + 9, &["--timeout"]);
    let bytes = host.run_script("netnsctl netns exec net0 -- printf '\\377\\000x' | od -An -tx1");
    assert_eq!(bytes.out.trim(), "ff 00 78");
    assert_eq!(
        host.run_script("echo hello | netnsctl netns exec net0 cat")
            .out,
        "hello\n"
    );

    let all = exec(&[
        "--all",
        "--",
        "sh",
        "-c",
        "ip netns identify; test $(ip netns identify) = net1",
    ]);
    let printed = "\nnetns: net0\nnet0\n\nnetns: net1\nnet1\n";
    assert_eq!(
        (all.code, all.out.as_str()),
        (Some(1), printed),
        "stopped after a failure"
    );
    exec(&["net0", "no-such-program"]).assert_failed(127, &["no-such-program"]);
    exec(&["net0", "/etc/passwd"]).assert_failed(126, &["/etc/passwd", "chmod +x"]);
    exec(&["net0", "-it", "true"])
        .assert_failed(2, &["\"-it\" is neither a command nor an option"]);
    exec(&["net0"]).assert_failed(2, &["no command"]);

    // A program of this directory, and variables of netnsctl.
    let script = "printf '#!/bin/sh\\necho $GREETING $1\\n' > hello.sh; chmod +x hello.sh";
    assert_eq!(host.run_script(script).code, Some(0));
    exec(&["net0", "./hello.sh"]).assert_failed(127, &["./hello.sh", "give --cwd ."]);
    let ran = host
        .run_script("GREETING=hello netnsctl netns exec -e GREETING -C . net0 ./hello.sh world");
    assert_eq!(ran.out, "hello world\n", "{ran:?}");
    exec(&["-e", "NOT_SET", "net0", "env"])
        .assert_failed(2, &["\"NOT_SET\" is not set here: write NOT_SET=VALUE"]);
    assert_eq!(
        exec(&["--workdir", "/usr/bin", "net0", "pwd"]).out,
        "/usr/bin\n"
    );
}

#[test]
fn processes_are_listed_and_identified() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0"]);
    let mut sleeper = host
        .command("ip")
        .args(["netns", "exec", "net0", "sleep", "1000"])
        .spawn()
        .unwrap();
    let pid = sleeper.id().to_string();
    host.wait_until("sleep runs", || {
        host.run_ok(&["netns", "pids", "net0", "--long"])
            .contains("sleep")
    });
    assert_eq!(host.run_ok(&["netns", "pids", "net0"]), format!("{pid}\n"));
    assert_eq!(host.run_ok(&["netns", "identify", &pid]), "net0\n");
    assert_eq!(
        host.run_ok(&["netns", "identify"]),
        "",
        "the host's namespace has a name"
    );
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    host.run(&["netns", "identify", "4000000"])
        .assert_failed(1, &["4000000"]);
}

#[test]
fn dry_run_prints_commands_without_changes() {
    let host = host!();
    let plan = table_lines(&host.run_ok(&["netns", "add", "net0", "--dry-run"]));
    assert!(
        plan[0].starts_with("(ip netns add net0 && ip -n net0 link property add dev lo altname "),
        "{plan:?}"
    );
    assert_eq!(host.list_namespaces(), Vec::<String>::new());
    host.add_connected_namespaces();
    let plan = host.run_json(&["netns", "delete", "net0", "--cascade", "--dry-run"]);
    assert!(
        plan["plan"].as_array().is_some_and(|plan| !plan.is_empty()) && plan["result"].is_null(),
        "{plan}"
    );
    host.run_ok(&["netns", "delete", "--all", "--dry-run"]);
    host.run_ok(&["veth", "set", "lan0/0", "--down", "--dry-run"]);
    assert_eq!(host.list_namespaces(), ["net0", "net1"]);
    assert_eq!(host.run_json(&["veth", "show", "lan0"])["generation"], 1);
    host.run(&["netns", "list", "--dry-run"])
        .assert_failed(2, &["--dry-run"]);
}

#[test]
fn delete_all_removes_dependents() {
    let host = host!();
    host.add_connected_namespaces();
    host.run(&["netns", "delete", "net0"])
        .assert_failed(1, &["veth lan0", "--cascade"]);
    host.run(&["netns", "delete", "nowhere", "net0", "--cascade"])
        .assert_failed(1, &["nowhere"]);
    assert_eq!(host.list_namespaces(), ["net1"], "stopped after a failure");
    host.run_ok(&["netns", "add", "net0"]);
    host.run_ok(&["netns", "delete", "--all"]);
    assert_eq!(host.list_namespaces(), Vec::<String>::new());
    assert_eq!(host.run_ok(&["veth", "list"]), "");
    host.run_ok(&["netns", "delete", "--all"]);
}

/// Passes connections on to a socket, and calls `before` with the number of each before anything of
/// it is passed on.
fn forward(
    listener: UnixListener,
    target: PathBuf,
    mut before: impl FnMut(usize) + Send + 'static,
) {
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            before(number);
            let (Ok(client), Ok(daemon)) = (client, UnixStream::connect(&target)) else {
                return;
            };
            let (mut from_client, mut to_daemon) =
                (client.try_clone().unwrap(), daemon.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut to_daemon);
                let _ = to_daemon.shutdown(Shutdown::Write);
            });
            let (mut from_daemon, mut to_client) = (daemon, client);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_daemon, &mut to_client);
                let _ = to_client.shutdown(Shutdown::Both);
            });
        }
    });
}

#[test]
fn delete_all_keeps_what_others_add_meanwhile() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0"]);
    let path = host.dir.path().join("between.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut add = host.command(common::NETNSCTL);
    add.args(["bridge", "add", "other"]);
    // The first connection reads the network, the second deletes: in between comes a bridge.
    forward(
        listener,
        host.dir.path().join("netnsd.sock"),
        move |number| {
            if number == 1 {
                assert!(add.status().unwrap().success());
            }
        },
    );
    let url = format!("unix://{}", path.display());
    let deleted = host.run(&["-v", "--url", &url, "netns", "delete", "--all"]);
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    let puts = deleted.err.lines().filter(|line| line.contains("-X PUT"));
    assert_eq!(puts.count(), 2, "{deleted:?}");
    assert_eq!(host.list_namespaces(), Vec::<String>::new());
    assert_eq!(host.run_ok(&["bridge", "list", "-o", "name"]), "other\n");
    let link = host.ip_json(&["link", "show", "other"]);
    assert_eq!(link[0]["ifname"], "other", "{link}");
}

#[test]
fn backup_is_written_whole_or_not_at_all() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0"]);
    let file = host.dir.path().join("backup.db");
    fs::write(&file, "an older one").unwrap();
    assert_eq!(host.run_ok(&["backup", "backup.db"]), "");
    let copy = fs::read(&file).unwrap();
    assert!(copy.starts_with(b"SQLite format 3\0") && copy.len() > 10_000);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it has hashes of tokens");
    let audit = host.run_json(&["audit"]);
    let newest = &audit["items"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&newest["path"], &newest["status"]),
        (&json!("/v1/backup"), &json!(200))
    );

    host.run_ok(&["token", "add", "ops", "--role", "operator"]);
    host.run(&["backup", "missing/backup.db"])
        .assert_failed(1, &["cannot write missing/backup.db", "No such file"]);
    host.run(&["backup"]).assert_failed(2, &["FILE"]);
    host.run(&["restore", "backup.db"])
        .assert_failed(2, &["netnsd restore FILE", "apply --prune"]);
    let others = |name: &std::ffi::OsString| name.to_string_lossy().starts_with(".tmp");
    let left: Vec<_> = fs::read_dir(host.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(others)
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn json_is_unchanged_and_curl_lines_work() {
    let host = host!();
    host.add_connected_namespaces();
    if !common::skip::has("curl") {
        return;
    }
    let read = host.run(&["-v", "netns", "list", "-o", "json"]);
    assert!(
        read.err.starts_with("curl ") && read.err.lines().count() == 1,
        "{read:?}"
    );
    assert_eq!(host.run_script(read.err.trim_end()).out, read.out);
    let write = host.run(&[
        "-v",
        "netns",
        "set",
        "net0",
        "--label",
        "a=it's",
        "--dry-run",
        "-o",
        "json",
    ]);
    let plan = |text: &str| serde_json::from_str::<Value>(text).unwrap()["plan"].clone();
    assert_eq!(
        plan(&host.run_script(write.err.trim_end()).out),
        plan(&write.out)
    );
    let delete = host.run(&["-v", "veth", "delete", "lan0", "--dry-run", "-o", "json"]);
    assert_eq!(host.run_script(delete.err.trim_end()).out, delete.out);
    let create = host.run(&["-v", "netns", "add", "net2", "--dry-run"]);
    assert_eq!(
        host.run_script(&create.err.replace("?dry_run=true", ""))
            .code,
        Some(0)
    );
    assert_eq!(host.list_namespaces(), ["net0", "net1", "net2"]);
}

#[test]
fn list_joins_all_pages() {
    let host = host!();
    let names: Vec<String> = (0..1003).map(|i| format!("net{i:04}")).collect();
    let line: Vec<&str> = ["netns", "add"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    host.run_ok(&line);
    let listed = host.run(&["-v", "netns", "list", "-o", "name"]);
    assert_eq!(listed.out.lines().collect::<Vec<_>>(), names);
    assert_eq!(listed.err.lines().count(), 2, "two pages");
    let all = host.run_json(&["netns", "list"]);
    assert_eq!(
        (all["items"].as_array().unwrap().len(), &all["next"]),
        (1003, &Value::Null)
    );
}

#[test]
fn refusals_name_cause_and_remedy() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0"]);
    host.run(&["netns", "add", "net0", "--loopback", "off"])
        .assert_failed(1, &["net0", "netnsctl netns set net0"]);
    host.run(&["netns", "show", "nowhere"])
        .assert_failed(1, &["nowhere"]);
    host.run(&["netns", "show", "nte0"])
        .assert_failed(1, &["nte0", "did you mean net0?"]);
    host.run(&["netns", "show", "../x"])
        .assert_failed(1, &["../x"]);
    host.run(&["veth", "add", "net0:e0,addr=10.1.1.1", "e1"])
        .assert_failed(1, &["netnsctl: end 0, address: ", "10.1.1.1/24"]);
    host.run(&["veth", "add", "net1:e0", "e1"])
        .assert_failed(1, &["end 0, namespace", "net1", "did you mean net0?"]);
    for usage in [
        &["netns", "add", "-x"][..],
        &["netns", "set", "net0", "x"],
        &["wait", "net0"],
        &["netns", "delete"],
        &[],
    ] {
        assert_eq!(host.run(usage).code, Some(2), "{usage:?}");
    }
    let pending = host.run(&["netns", "set", "net0", "--route", "default via 10.1.1.254"]);
    assert_eq!(pending.code, Some(0));
    assert!(
        pending.err.contains("namespace net0 is pending"),
        "{pending:?}"
    );
    let status = host.run(&["status"]);
    assert!(
        status.code == Some(1)
            && status.out.contains("resources  1 pending\n")
            && status.out.contains("namespace/net0"),
        "{status:?}"
    );
    host.run(&["wait", "netns/net0", "--timeout", "0.1"])
        .assert_failed(1, &["namespace net0 is pending"]);
}

#[test]
fn unreachable_daemon_is_reported_with_hint() {
    let dir = tempfile::tempdir().unwrap();
    let run = |socket: &Path, line: &[&str]| {
        Outcome::of(
            Command::new(NETNSCTL)
                .args(line)
                .arg("--url")
                .arg(format!("unix://{}", socket.display()))
                .output()
                .unwrap(),
        )
    };
    let nowhere = dir.path().join("nowhere.sock");
    run(&nowhere, &["netns", "list"])
        .assert_failed(3, &["nowhere.sock", "is netnsd running?", "NETNSCTL_URL"]);
    // A path alone is that of a socket.
    let path = nowhere.to_str().unwrap();
    Outcome::of(
        Command::new(NETNSCTL)
            .args(["--url", path, "netns", "list"])
            .output()
            .unwrap(),
    )
    .assert_failed(3, &["nowhere.sock", "is netnsd running?"]);
    run(&nowhere, &["netns", "delete", "a", "b"]).assert_failed(3, &["is netnsd running?"]);
    run(&nowhere, &["wait", "netns/a", "--timeout", "0.1"])
        .assert_failed(3, &["is netnsd running?"]);
    let left_over = dir.path().join("left.sock");
    drop(UnixListener::bind(&left_over).unwrap());
    run(&left_over, &["status"]).assert_failed(3, &["start netnsd"]);
    let version = run(&nowhere, &["version"]);
    assert_eq!(version.code, Some(0));
    assert!(version.out.contains("netnsd cannot be reached"));
}

#[test]
fn closed_output_pipe_is_not_an_error() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0"]);
    let script =
        "netnsctl netns exec net0 -- seq 200000 | head -n 1; netnsctl completion bash | head -n 0";
    let outcome = host.run_script(script);
    assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("1\n", ""));
}

/// Returns the help of a command.
fn help_text(line: &[String]) -> String {
    let output = Command::new(NETNSCTL)
        .args(line)
        .arg("--help")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the subcommands in the help of a command.
fn subcommands(line: &[String]) -> Vec<String> {
    let text = help_text(line);
    let lines = text
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Returns the examples in the help of a command.
fn examples(line: &[String]) -> Vec<String> {
    let text = help_text(line);
    let after = text
        .lines()
        .skip_while(|line| !matches!(*line, "Example:" | "Examples:"))
        .skip(1);
    after
        .filter(|line| line.starts_with("  netnsctl "))
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn every_command_has_an_example_that_runs() {
    let host = host!();
    let mut lines = Vec::new();
    for command in subcommands(&[]) {
        let below = subcommands(std::slice::from_ref(&command));
        if below.is_empty() {
            lines.push(vec![command]);
        } else {
            lines.extend(below.into_iter().map(|name| vec![command.clone(), name]));
        }
    }
    assert!(lines.len() > 25, "{lines:?}");
    let mut all: Vec<(usize, String)> = Vec::new();
    for line in &lines {
        let found = examples(line);
        assert!(!found.is_empty(), "{line:?} has no example");
        // Commands that create run first; commands that delete run last, dependents first.
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        let rank = match words[..] {
            ["adopt"] => 0,
            ["netns" | "bridge", "add"] => 1,
            ["veth", "add"] => 2,
            ["export"] => 3,
            ["veth" | "bridge", "delete"] => 5,
            ["netns", "delete"] => 6,
            _ => 4,
        };
        all.extend(found.into_iter().map(|example| (rank, example)));
    }
    all.sort_by_key(|(rank, _)| *rank);
    let mut other = host
        .command("unshare")
        .args(["-n", "sleep", "1000"])
        .spawn()
        .unwrap();
    let file = format!("/proc/{}/comm", other.id());
    host.wait_until("sleep runs", || {
        fs::read_to_string(&file).is_ok_and(|name| name == "sleep\n")
    });
    // Unmanaged resources for the examples of adopt.
    host.run_script("ip netns add byhand && ip link add lan type bridge");
    for (_, example) in all {
        // Some run until they are stopped.
        let endless = example.ends_with("events -f") || example.ends_with("monitor");
        let (before, expected) = if endless {
            ("timeout 0.5 ", 124)
        } else {
            ("", 0)
        };
        let outcome = host.run_script(&format!(
            "export EDITOR=true; PID={}; {before}{example}",
            other.id()
        ));
        assert_eq!(outcome.code, Some(expected), "{example}: {outcome:?}");
    }
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn login_is_saved_until_logout() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0"]);
    let home = host.dir.path().join("home");
    fs::create_dir(&home).unwrap();
    let run = |line: &[&str], typed: &str| {
        let mut command = host.command(NETNSCTL);
        command
            .env_remove("NETNSCTL_URL")
            .env("HOME", &home)
            .args(line);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(typed.as_bytes())
            .unwrap();
        Outcome::of(child.wait_with_output().unwrap())
    };
    let (url, list) = ("http://127.0.0.1:8080", ["netns", "list", "-o", "name"]);
    run(&list, "").assert_failed(3, &["/run/netnsd/netnsd.sock"]);
    // A login that is refused is not saved.
    run(&["login", url], "wrong\n").assert_failed(1, &["token"]);
    run(&["login", url], "").assert_failed(2, &["--token-file"]);
    assert!(!home.join(".config").exists());

    let outcome = run(&["login", url], &format!("{TOKEN}\n"));
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    let file = home.join(".config/netnsctl/login.json");
    assert!(
        outcome.out.contains(url)
            && outcome.out.contains(&file.display().to_string())
            && !outcome.out.contains(TOKEN)
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    assert_eq!(run(&list, "").out, "net0\n");
    // The token is sent to no other netnsd.
    run(
        &[&["--url", "http://localhost:8080"][..], &list].concat(),
        "",
    )
    .assert_failed(1, &["token"]);
    let token = host.dir.path().join("token");
    assert_eq!(
        run(&["login", url, "--token-file", token.to_str().unwrap()], "").code,
        Some(0)
    );
    assert_eq!(run(&list, "").out, "net0\n");

    fs::write(&file, "noise").unwrap();
    run(&list, "").assert_failed(2, &["login.json", "logout"]);
    assert_eq!(run(&["logout"], "").code, Some(0));
    assert_eq!(run(&["logout"], "").code, Some(0));
    run(&list, "").assert_failed(3, &["/run/netnsd/netnsd.sock"]);
}

#[test]
fn wrong_command_lines_are_answered_with_the_nearest() {
    let run = |line: &str| {
        Outcome::of(
            Command::new(NETNSCTL)
                .args(line.split_whitespace())
                .output()
                .unwrap(),
        )
    };
    for (line, said) in [
        ("ntens list", "did you mean netnsctl netns?"),
        ("netns lst", "did you mean netnsctl netns list?"),
        ("netns list --lable a", "did you mean --label?"),
        ("netns list --outptu json", "did you mean --output?"),
        ("netns list -o jsn", "did you mean json?"),
        ("edit netn/net0", "did you mean netns?"),
        ("events --type drift", "\"drift\" is not an event type"),
        ("validate", "use netnsctl plan -f FILE"),
        ("inspect", "use netnsctl netns show NAME"),
        ("ps", "use netnsctl netns list"),
        ("bridge describe br0", "use netnsctl bridge show br0"),
        (
            "veth set lan0/0 --master br0",
            "unknown option --master: use --bridge NAME",
        ),
        ("netns list --json", "use --output json"),
        ("events --tail x", "--tail: \"x\" is not a number"),
        ("netns set", "NAME is missing: netnsctl netns set"),
        ("apply", "FILE|- is missing"),
        ("graph lab.yaml", "give a document as --file lab.yaml"),
        ("export lab.yaml", "netnsctl export > lab.yaml"),
        ("edit netns net0", "write netns/net0"),
        ("get ns net0", "use netnsctl netns show net0"),
        ("describe bridge br0", "use netnsctl bridge show br0"),
        ("delete ns net0", "use netnsctl netns delete net0"),
        ("exec net0 ip link", "use netnsctl netns exec net0 COMMAND"),
        ("map", "use netnsctl graph"),
        (
            "veth move lan0",
            "use netnsctl veth set lan0/0 --namespace NAMESPACE",
        ),
        ("netns set net0 -5", "\"-5\" is not a netnsid, auto or none"),
        (
            "netns exec -w /tmp net0 ls",
            "unknown option -w: use --cwd DIR",
        ),
        ("edit x", "\"x\" is not KIND/NAME, such as veth/lan0"),
        ("e", "\"e\" is ambiguous: it may be "),
        ("wait veth/pair/0", "pair/0"),
    ] {
        run(line).assert_failed(2, &[said, "see netnsctl"]);
    }
}

#[test]
fn kind_commands_have_words_of_other_tools() {
    let host = host!();
    host.run_ok(&["netns", "create", "net0"]);
    host.run_ok(&["bridge", "new", "br0"]);
    assert_eq!(host.list_namespaces(), ["net0"]);
    assert!(host.run_ok(&["netns", "show"]).contains("net0"));
    assert!(host.run_ok(&["bridge", "show"]).contains("br0"));
    assert_eq!(host.run_ok(&["veth", "show"]), "");
    assert!(
        host.run_ok(&["-o", "JSON", "netns", "list"])
            .starts_with('{')
    );
    host.run_ok(&["wait", "ns/net0"]);
    host.run_ok(&["bridge", "rm", "br0"]);
    host.run_ok(&["netns", "remove", "net0"]);
    assert_eq!(host.list_namespaces(), Vec::<String>::new());
}

#[test]
fn global_options_are_on_two_pages_only() {
    for page in [vec!["options".to_owned()], Vec::new()] {
        let text = help_text(&page);
        assert!(
            text.contains("--token-file") && text.contains("--dry-run"),
            "{text}"
        );
    }
    let output = Command::new(NETNSCTL).args(["help", "options"]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.contains("--token-file"), "{text}");
    for page in [&["netns"][..], &["netns", "add"], &["apply"], &["status"]] {
        let page: Vec<String> = page.iter().map(|word| (*word).to_owned()).collect();
        let text = help_text(&page);
        assert!(!text.contains("--token-file"), "{text}");
    }
}

#[test]
fn lists_are_sorted_by_number() {
    let host = host!();
    host.run_ok(&["netns", "add", "net10", "net9", "net1"]);
    assert_eq!(
        host.run_ok(&["netns", "list", "-o", "name"]),
        "net1\nnet9\nnet10\n"
    );
    let table = table_lines(&host.run_ok(&["netns", "list"]));
    let names: Vec<&str> = table[1..]
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(names, ["net1", "net9", "net10"]);
}

#[test]
fn output_format_is_honoured_by_every_reader() {
    let host = host!();
    host.add_connected_namespaces();
    host.run_ok(&["bridge", "add", "br0"]);
    fs::write(
        host.dir.path().join("lab.yaml"),
        "namespaces: [{name: new}]",
    )
    .unwrap();
    for line in [
        "status",
        "version",
        "events",
        "reconcile",
        "export",
        "plan -f lab.yaml",
        "plan -f lab.yaml --commands",
        "top net0 --interval 0.1",
        "netns list",
        "netns show net0",
        "netns identify",
        "netns pids net0",
        "netns ping net0 10.1.1.1",
        "veth list",
        "bridge list",
        "token list",
        "audit",
    ] {
        let run = |format| {
            let words = ["-o", format].into_iter().chain(line.split(' '));
            host.run_ok(&words.collect::<Vec<_>>())
        };
        let json = run("json");
        assert!(
            serde_json::from_str::<Value>(&json).is_ok_and(|json| json.is_object()),
            "{line}: {json}"
        );
        let yaml = run("yaml");
        let first = yaml.lines().next().unwrap_or_default();
        assert!(
            first.contains(':') && !first.starts_with('{'),
            "{line}: {yaml}"
        );
    }
    assert_eq!(
        host.run_ok(&["-o", "name", "export"]),
        "namespace/net0\nnamespace/net1\nbridge/br0\nveth/lan0\n"
    );
    assert_eq!(
        host.run_ok(&["-o", "name", "plan", "-f", "lab.yaml"]),
        "namespace/new\n"
    );
}

#[test]
fn top_prints_rates_of_links() {
    let host = host!();
    host.add_connected_namespaces();
    host.run_ok(&["wait", "veth/lan0", "--for", "ready"]);
    let mut ping = host
        .command("netnsctl")
        .args([
            "netns", "ping", "net0", "10.1.1.2", "-c", "1000", "-i", "0.01",
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    host.wait_until("packets are counted", || {
        let table = table_lines(&host.run_ok(&["top", "--interval", "0.2"]));
        assert!(table[0].starts_with("LINK STATE RX bit/s"), "{table:?}");
        // The busiest links come first.
        table[1].starts_with("net0:eth0 up ") && !table[1].contains("up 0 0 0 0")
            || table[1].starts_with("net1:eth0 up ") && !table[1].contains("up 0 0 0 0")
    });
    ping.kill().unwrap();
    ping.wait().unwrap();
    let only = table_lines(&host.run_ok(&["top", "net1", "--interval", "0.1"]));
    assert!(
        only[1..].iter().all(|line| line.starts_with("net1:")),
        "{only:?}"
    );
    host.run(&["top", "--interval", "0"])
        .assert_failed(2, &["--interval 0"]);
    host.run(&["top", "net2"]).assert_failed(1, &["net2"]);
}

/// Returns a transcript without times, which differ from run to run.
fn steady(transcript: &str) -> String {
    let is_time = |word: &str| {
        let word = word
            .rsplit('=')
            .next()
            .unwrap_or(word)
            .trim_matches([',', '(', ')']);
        let is_made_of = |others: &str| {
            word.chars()
                .all(|c| c.is_ascii_digit() || others.contains(c))
                && word.contains(|c: char| c.is_ascii_digit())
        };
        let is_clock = word.contains([':', '-']) && is_made_of(":.TZ-");
        let is_summary = word.matches('/').count() > 1 && is_made_of("./");
        let is_fraction = word.contains('.') && word.parse::<f64>().is_ok();
        is_clock || is_summary || is_fraction || word.ends_with("ms") && is_made_of(".ms")
    };
    let lines = transcript.lines().map(|line| {
        if line.starts_with("$ ") {
            return line.to_owned();
        }
        let words = line.split_whitespace();
        let words: Vec<&str> = words
            .map(|word| if is_time(word) { "…" } else { word })
            .collect();
        words.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The session in the README is what a terminal shows; `NETNSD_WRITE_GUIDE=1` writes it anew.
#[test]
fn session_in_the_readme_is_real() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once("```console\n").unwrap();
    let (shown, after) = rest.split_once("```\n").unwrap();
    let host = host!();
    let mut session = String::new();
    for line in shown.lines().filter(|line| line.starts_with("$ ")) {
        let command = &line[2..];
        let outcome = host.run_script(&format!("exec 2>&1; {command}"));
        session += &format!("{line}\n{}", outcome.out);
        if command.starts_with("ip ") {
            // Not a command of netnsctl: netnsd hears of it by itself.
            host.wait_until("the change is repaired", || {
                host.run_ok(&["events", "--type", "repaired"])
                    .contains("repaired")
            });
        }
    }
    if std::env::var_os("NETNSD_WRITE_GUIDE").is_some() {
        if steady(shown) != steady(&session) {
            fs::write(&path, format!("{before}```console\n{session}```\n{after}")).unwrap();
        }
        return;
    }
    assert_eq!(
        steady(shown),
        steady(&session),
        "README.md is stale (NETNSD_WRITE_GUIDE=1 cargo test --workspace --test netnsctl session)"
    );
}
