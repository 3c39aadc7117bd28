//! netnsctl over the whole network, what happens, and terminals; judged by `ip -j`.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Stdio},
};

use common::{Host, NETNSCTL};
use nix::pty::{Winsize, openpty};
use serde_json::{Value, json};

const LAB: &str = "
namespaces:
- {name: left, labels: {lab: one}}
- {name: right, labels: {lab: one}}
veths:
- name: lan
  labels: {lab: one}
  endpoints:
  - {namespace: left, interface: eth0, addresses: [10.1.0.1/24]}
  - {namespace: right, interface: eth0, addresses: [10.1.0.2/24]}
";

fn write(host: &Host, text: &str) {
    fs::write(host.dir.path().join("lab.yaml"), text).unwrap();
}

#[test]
fn a_document_is_planned_applied_compared_and_exported() {
    let host = host!();
    write(&host, LAB);
    let plan = host.ok(&["plan", "-f", "lab.yaml"]);
    assert!(
        plan.starts_with("+ namespace/left\n+ namespace/right\n+ veth/lan\n3 created, 0 updated"),
        "{plan}"
    );
    assert!(plan.contains("\n(ip netns add left && "), "{plan}");
    let dry = host.ok(&["apply", "-f", "lab.yaml", "--dry-run"]);
    assert_eq!(
        dry.lines().count(),
        plan.lines().count(),
        "it is the same but for the uids: {dry}"
    );
    assert_eq!(host.namespaces(), Vec::<String>::new());
    let diff = host.run(&["diff", "-f", "lab.yaml"]);
    assert_eq!(diff.code, Some(1));
    assert!(
        diff.out.contains("+namespace/left:\n") && !diff.out.contains("\n-"),
        "{}",
        diff.out
    );

    let applied = host.ok(&["apply", "-f", "lab.yaml"]);
    assert!(
        applied.ends_with("3 created, 0 updated, 0 deleted, 0 unchanged\n"),
        "{applied}"
    );
    assert_eq!(host.namespaces(), ["left", "right"]);
    host.ok(&["netns", "ping", "left", "10.1.0.2", "-W", "20"]);
    assert_eq!(host.ok(&["diff", "-f", "lab.yaml"]), "");
    let exported = host.ok(&["export"]);
    assert_eq!(
        host.sh("netnsctl export | netnsctl apply -f - --prune").out,
        "0 created, 0 updated, 0 deleted, 3 unchanged\n"
    );
    assert!(
        exported.contains("addresses:\n    - 10.1.0.1/24\n") && !exported.contains("uid"),
        "{exported}"
    );
    assert_eq!(host.json(&["export"])["veths"][0]["name"], "lan");

    write(&host, &LAB.replace("10.1.0.2/24", "10.1.0.3/24"));
    let coloured = host
        .run(&["diff", "-f", "lab.yaml", "--color", "always"])
        .out;
    assert!(
        coloured.contains("\u{1b}[31m-") && coloured.contains("10.1.0.3/24"),
        "{coloured}"
    );
    assert!(
        host.ok(&["apply", "-f", "lab.yaml"])
            .starts_with("~ veth/lan\n")
    );
    write(&host, "namespaces: [{name: left, labels: {lab: one}}]");
    let pruned = host.ok(&["apply", "-f", "lab.yaml", "--prune", "--label", "lab=one"]);
    assert!(
        pruned.contains("- veth/lan\n") && pruned.contains("2 deleted, 1 unchanged"),
        "{pruned}"
    );
    assert_eq!(host.namespaces(), ["left"]);
}

#[test]
fn a_wrong_document_is_told_with_its_place_and_changes_nothing() {
    let host = host!();
    write(&host, "namespaces: [{name: a}, {name: b, colour: red}]");
    host.run(&["apply", "-f", "lab.yaml"])
        .failed(1, &["/namespaces/1/colour"]);
    write(
        &host,
        "namespaces: [{name: a, sysctls: {net.ipv4.ip_default_ttl: 100000}}, {name: b}]",
    );
    host.run(&["apply", "-f", "lab.yaml"])
        .failed(1, &["ip_default_ttl", "EINVAL"]);
    host.run(&["apply", "-f", "nowhere.yaml"])
        .failed(2, &["nowhere.yaml"]);
    assert_eq!(host.namespaces(), Vec::<String>::new());
}

#[test]
fn writes_that_do_not_wait_return_at_once() {
    let host = host!();
    host.ok(&["netns", "add", "net0", "--wait=false"]);
    host.ok(&["wait", "netns/net0"]);
    write(&host, LAB);
    assert!(
        host.ok(&["apply", "-f", "lab.yaml", "--wait=false"])
            .contains("3 created")
    );
    host.ok(&["wait", "veth/lan", "--for", "ready"]);
    host.run(&["netns", "list", "--wait=false"])
        .failed(2, &["--wait=false"]);
    let yaml = host.ok(&["netns", "show", "net0", "-o", "yaml"]);
    assert!(
        yaml.contains("\nstatus:\n") && yaml.contains("state: in_sync"),
        "{yaml}"
    );
}

/// What a script made: a bridge, two namespaces, a pair between them, and what netnsd leaves out.
const BY_HAND: &str = "set -e
ip link add lan type bridge stp_state 1 priority 4096 forward_delay 200
ip addr add 10.1.0.254/24 dev lan
ip link set lan up
ip netns add net0; ip netns add net1
for i in 0 1; do
    ip -n net$i link set lo up
    ip link add port$i type veth peer name eth0 netns net$i
    ip -n net$i addr add 10.1.0.$i/24 dev eth0
    ip link set port$i master lan mtu 1400 up
    ip -n net$i link set eth0 mtu 1400 up
    ip -n net$i route add default via 10.1.0.254
done
ip -n net0 addr add 192.0.2.1 peer 192.0.2.100/32 dev eth0
ip link set port0 type bridge_slave hairpin on cost 7
ip -n net1 route add blackhole 10.9.0.0/16 metric 7
ip -n net1 route add 10.8.0.0/16 nexthop via 10.1.0.7 nexthop via 10.1.0.8
ip -n net1 neigh add 10.1.0.7 lladdr 02:00:00:00:00:07 dev eth0
ip -n net0 link add x type veth peer name y netns net1
ip netns add nameless
ip link add lost type veth peer name eth0 netns nameless
touch /run/held
mount --bind /run/netns/nameless /run/held
ip netns delete nameless
";

#[test]
fn what_others_made_is_taken_over_whole() {
    let host = host!();
    let made = host.sh(BY_HAND);
    assert_eq!(made.code, Some(0), "{}", made.err);
    assert_eq!(host.run(&["adopt"]).code, Some(2));
    host.run(&["adopt", "bridge/none"])
        .failed(2, &["bridge/none", "--dry-run"]);
    let plan = host.run(&["adopt", "--all", "--dry-run"]);
    for said in [
        "+ namespace/net0\n",
        "+ bridge/lan\n",
        "+ veth/port1\n",
        "+ veth/net0-x\n",
        "\n6 created",
    ] {
        assert!(plan.out.contains(said), "{said:?} in {}", plan.out);
    }
    for said in [
        "lost in the host is left out",
        "a route to 10.8.0.0/16 in namespace net1 is left out",
        "the address 192.0.2.1/32 peer 192.0.2.100/32 of eth0 in namespace net0 is left out",
    ] {
        assert!(plan.err.contains(said), "{said:?} in {}", plan.err);
    }
    host.ok(&["adopt", "bridge/lan"]);
    assert_eq!(
        host.ip(&["-d", "link", "show", "lan"])[0]["linkinfo"]["info_data"]["stp_state"],
        1
    );
    let all = host.run(&["adopt", "--all"]);
    assert!(
        all.out.contains("+ veth/port0\n") && !all.out.contains("lan\n"),
        "{all:?}"
    );
    let again = host.run(&["adopt", "--all"]);
    assert!(
        again.out.starts_with("0 created"),
        "nothing is left: {again:?}"
    );
    let json = host.json(&["export"]);
    let of = |kind: &str, name: &str| -> Value {
        json[kind]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["name"] == name)
            .cloned()
            .unwrap()
    };
    assert_eq!(
        of("bridges", "lan"),
        json!({"name": "lan", "addresses": ["10.1.0.254/24"], "stp": true, "priority": 4096, "forward_delay_s": 2})
    );
    let port0 = json!({"interface": "port0", "mtu": 1400, "bridge": "lan", "port": {"hairpin": true, "path_cost": 7}});
    let eth0 = json!({"namespace": "net0", "interface": "eth0", "mtu": 1400, "addresses": ["10.1.0.0/24"]});
    assert_eq!(of("veths", "port0")["endpoints"], json!([port0, eth0]));
    assert_eq!(of("veths", "net0-x")["endpoints"][1]["up"], false);
    assert_eq!(
        of("namespaces", "net1")["routes"],
        json!([{"destination": "default", "via": "10.1.0.254", "interface": "eth0"},
            {"destination": "10.9.0.0/16", "metric": 7, "type": "blackhole"}])
    );
    assert_eq!(
        of("namespaces", "net1")["neighbours"][0]["mac"],
        "02:00:00:00:00:07"
    );
    assert!(
        host.ok(&["status"]).contains("in_sync"),
        "{}",
        host.ok(&["status"])
    );
    assert_eq!(
        host.ok(&["netns", "delete", "net0", "net1", "--cascade"]),
        ""
    );
    assert_eq!(host.namespaces(), Vec::<String>::new());
}

#[test]
fn a_resource_is_edited() {
    let host = host!();
    host.ok(&["bridge", "add", "br0", "--address", "10.0.0.1/24"]);
    let edit = |editor: &str| {
        host.sh(&format!(
            "export EDITOR=\"{editor}\"; netnsctl edit bridge/br0"
        ))
    };
    assert_eq!(edit("sed -i s/10.0.0.1/10.0.0.2/").code, Some(0));
    assert!(
        host.ip(&["addr", "show", "dev", "br0"])
            .to_string()
            .contains("10.0.0.2")
    );
    assert!(edit("true").err.contains("nothing was changed"));
    let refused = edit("sed -i s/10.0.0.2/10.0.0.2x/");
    assert!(
        refused.code == Some(1) && refused.err.contains("/addresses/0"),
        "{refused:?}"
    );
    let kept = refused.err.split("is kept in ").nth(1).unwrap().trim();
    assert!(fs::read_to_string(kept).unwrap().contains("10.0.0.2x"));
    fs::remove_file(kept).unwrap();
}

#[test]
fn damage_is_repaired_on_demand() {
    let host = host!();
    host.ok(&["bridge", "add", "br0"]);
    assert_eq!(host.ok(&["reconcile"]), "");
    assert_eq!(host.json(&["reconcile"])["failed"], serde_json::json!([]));
}

/// The lines of a command that goes on.
struct Lines(Child, BufReader<std::process::ChildStdout>);

impl Lines {
    fn of(host: &Host, line: &[&str]) -> Self {
        let mut child = host
            .command(NETNSCTL)
            .args(line)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn events_are_told_and_followed() {
    let host = host!();
    host.ok(&["netns", "add", "net0"]);
    host.until("it is told", || host.ok(&["events"]).lines().count() == 2);
    let all = host.ok(&["events", "--kind", "namespace", "--name", "net0"]);
    assert!(
        all.contains("Z created namespace/net0\n") && all.contains("Z applied namespace/net0\n"),
        "{all}"
    );
    let wrong = host.run(&["events", "--type", "made"]);
    assert!(
        wrong.code == Some(2) && wrong.err.contains("created, updated"),
        "{wrong:?}"
    );
    let mut lines = Lines::of(
        &host,
        &["events", "-f", "--since", "0", "--type", "created"],
    );
    assert!(lines.next().ends_with("created namespace/net0\n"));
    host.ok(&["netns", "add", "net1"]);
    assert!(lines.next().ends_with("created namespace/net1\n"));
    // What others do, in the words of ip netns monitor. It has begun once it tells of the first.
    let mut monitor = Lines::of(&host, &["netns", "monitor"]);
    let mut made = 0;
    let first = std::thread::scope(|scope| {
        let line = scope.spawn(|| monitor.next());
        host.until("it has begun", || {
            host.sh(&format!(
                "ip netns add theirs{made}; ip netns delete theirs{made}"
            ));
            made += 1;
            line.is_finished()
        });
        line.join().unwrap()
    });
    assert!(
        first.starts_with("add theirs") || first.starts_with("delete theirs"),
        "{first}"
    );
}

#[test]
fn it_works_over_tcp_with_a_token() {
    let host = host!();
    let token = host.dir.path().join("token");
    fs::write(&token, "secret\n").unwrap();
    // A second daemon on the same host, for a moment.
    let script = format!(
        "netnsd --state-dir $PWD/other --socket $PWD/other.sock --listen 127.0.0.1:0 --token-file {} 2>$PWD/other.log & \
         while ! grep -q ready $PWD/other.log; do sleep 0.05; done; \
         url=$(netnsctl --url unix://$PWD/other.sock -o json version | grep -o 'http://127[^\"]*'); \
         netnsctl --url $url --token-file {0} netns add net7 && netnsctl --url $url --token-file {0} netns exec net7 -- sh -c 'exit 9'; \
         echo $?; netnsctl --url $url netns list; echo $?; kill %1; wait",
        token.display()
    );
    let output = host
        .command("bash")
        .args(["-c", &format!("ip link set lo up; set -m; {script}")])
        .output();
    let Ok(output) = output else {
        return eprintln!("skipped: bash is not installed");
    };
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(out, "9\n1\n", "{err}");
    assert!(err.contains("--token-file FILE"), "{err}");
    host.run(&["--url", "ftp://x", "netns", "list"])
        .failed(2, &["unix:///PATH"]);
}

/// A certificate that vouches for itself, as `NAME.pem` and `NAME.key`.
fn certificate(dir: &Path, name: &str) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    fs::write(dir.join(format!("{name}.pem")), made.cert.pem()).unwrap();
    fs::write(
        dir.join(format!("{name}.key")),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
}

#[test]
fn it_works_over_https_with_a_certificate() {
    let host = host!();
    let dir = host.dir.path();
    certificate(dir, "localhost");
    certificate(dir, "ci.example");
    let config = "[[access]]\ncertificate = 'ci.example'\nrole = 'operator'\n";
    fs::write(dir.join("tls.toml"), config).unwrap();
    let script = "ip link set lo up; set -m; \
         netnsd --config tls.toml --state-dir $PWD/other --socket $PWD/other.sock --listen 127.0.0.1:0 --tls-cert localhost.pem \
         --tls-key localhost.key --tls-client-ca ci.example.pem 2>$PWD/other.log & \
         while ! grep -q ready $PWD/other.log; do sleep 0.05; done; \
         export NETNSCTL_URL=$(netnsctl --url unix://$PWD/other.sock -o json version | grep -o 'https://127[^\"]*' | sed s/127.0.0.1/localhost/); \
         own='--cert-file ci.example.pem --key-file ci.example.key'; \
         netnsctl --ca-file localhost.pem $own netns add net7; echo $?; \
         netnsctl --ca-file localhost.pem netns list; echo $?; netnsctl $own netns list; echo $?; \
         netnsctl --ca-file localhost.pem $own -o name netns list; \
         netnsctl --ca-file localhost.pem $own netns exec net7 true; echo $?; kill %1; wait";
    let output = host
        .command("bash")
        .args(["-c", script])
        .current_dir(dir)
        .output();
    let Ok(output) = output else {
        return eprintln!("skipped: bash is not installed");
    };
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(out, "0\n1\n3\nnet7\n1\n", "{err}");
    for part in ["Bearer", "UnknownIssuer", "run as its own user"] {
        assert!(err.contains(part), "{err} lacks {part}");
    }
    host.run(&[
        "--url",
        "https://localhost",
        "--ca-file",
        "/nowhere",
        "netns",
        "list",
    ])
    .failed(2, &["/nowhere"]);
}

#[test]
fn completions_know_the_names() {
    let host = host!();
    host.ok(&["netns", "add", "net0", "net1", "lab"]);
    host.ok(&["bridge", "add", "net-br"]);
    // As the script that `netnsctl completion bash` prints asks.
    let complete = |words: &[&str]| -> Vec<String> {
        let index = (words.len()).to_string();
        let mut command = host.command(NETNSCTL);
        command
            .env("COMPLETE", "bash")
            .env("_CLAP_IFS", "\n")
            .env("_CLAP_COMPLETE_INDEX", index);
        let output = command
            .args(["--", "netnsctl"])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(complete(&["netns", "delete", "ne"]), ["net0", "net1"]);
    assert_eq!(complete(&["bridge", "show", "ne"]), ["net-br"]);
    assert_eq!(complete(&["route", "l"]), ["lab"]);
    assert_eq!(complete(&["wait", "bridge/"]), ["bridge/net-br"]);
    assert!(complete(&["netns", "mon"]).contains(&"monitor".to_owned()));
    let script = host.ok(&["completion", "bash"]);
    assert!(script.contains("COMPLETE=\"bash\""), "{script}");
    // Without netnsd there are none, and no complaint.
    let mut command = host.command(NETNSCTL);
    command
        .env("COMPLETE", "bash")
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_INDEX", "3");
    command
        .env("NETNSCTL_URL", "unix:///nowhere.sock")
        .args(["--", "netnsctl", "netns", "show", "ne"]);
    let output = command.output().unwrap();
    assert_eq!(
        (output.stdout.trim_ascii(), &output.stderr[..]),
        (&b""[..], &b""[..])
    );
}

#[test]
fn each_command_has_a_manual_page() {
    let host = host!();
    let dir = host.dir.path().join("man1");
    host.ok(&["man", dir.to_str().unwrap()]);
    for page in [
        "netnsctl",
        "netnsctl-netns-add",
        "netnsctl-veth-set",
        "netnsctl-token-delete",
        "netnsctl-apply",
    ] {
        let text = fs::read_to_string(dir.join(format!("{page}.1"))).unwrap();
        for part in [".SH NAME", ".SH SYNOPSIS", "Example"] {
            assert!(text.contains(part), "{page} lacks {part}");
        }
    }
}

#[test]
fn much_goes_in_and_comes_out_at_the_same_time() {
    let host = host!();
    host.ok(&["netns", "add", "net0"]);
    let sums =
        host.sh("head -c 8000000 /dev/urandom >in; netnsctl netns exec net0 cat <in >out; cmp in out && echo same");
    assert_eq!((sums.out.as_str(), sums.err.as_str()), ("same\n", ""));
}

/// netnsctl in a terminal, as a user sits before it.
struct Terminal {
    child: Child,
    master: fs::File,
    seen: String,
}

impl Terminal {
    fn of(host: &Host, line: &[&str]) -> Self {
        let size = Winsize {
            ws_row: 33,
            ws_col: 99,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&size, None).unwrap();
        let side = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut command = host.command("setsid");
        command
            .arg("-c")
            .arg(NETNSCTL)
            .args(line)
            .env("SHELL", "/bin/sh")
            .env("TERM", "dumb");
        let child = command
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        drop(pair.slave);
        Self {
            child,
            master: fs::File::from(pair.master),
            seen: String::new(),
        }
    }

    fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until this was shown.
    #[track_caller]
    fn until(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.seen.contains(text) {
            let count = self.master.read(&mut buffer).unwrap_or(0);
            assert!(count > 0, "no {text:?} in {:?}", self.seen);
            self.seen += &String::from_utf8_lossy(&buffer[..count]);
        }
        // What came along with it may be awaited next.
        self.seen = self
            .seen
            .split_once(text)
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default();
    }
}

#[test]
fn a_shell_is_used_as_by_a_user() {
    let host = host!();
    host.ok(&["netns", "add", "net0"]);
    let mut terminal = Terminal::of(&host, &["netns", "shell", "net0"]);
    terminal.until("# ");
    terminal.types("ip netns identify; stty size; tty\r");
    terminal.until("net0\r\n33 99\r\n/dev/pts/");
    terminal.types("sh -c 'echo rea''dy; exec sleep 1000'\r");
    terminal.until("ready");
    terminal.types("\u{3}");
    terminal.until("# ");
    terminal.types("cat\r");
    terminal.types("meow\r");
    terminal.until("meow\r\nmeow");
    terminal.types("\u{4}");
    terminal.until("# ");
    terminal.types("exit 5\r");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(5));
}

#[test]
fn adopt_leaves_out_second_names_and_what_is_no_namespace() {
    let host = host!();
    let script = "ip netns add byhand && ip link add lan type bridge && cd /run/netns && ln -s /proc/4000000/ns/net dangling && \
        touch host zagain && mount --bind /proc/self/ns/net host && mount --bind byhand zagain";
    assert_eq!(host.sh(script).code, Some(0));
    let all = host.run(&["adopt", "--all"]);
    assert_eq!(all.code, Some(0), "{all:?}");
    for reason in [
        "namespace dangling is left out: /run/netns/dangling is no network namespace",
        "namespace host is left out: /run/netns/host is the host's own network namespace",
        "namespace zagain is left out: it is namespace byhand already",
    ] {
        assert!(all.err.contains(reason), "{all:?}");
    }
    assert_eq!(host.ok(&["netns", "list", "-o", "name"]), "byhand\n");
    assert_eq!(host.ok(&["bridge", "list", "-o", "name"]), "lan\n");
    // And where they are netnsd's already.
    let again = host.run(&["adopt", "--all"]);
    assert!(
        again.code == Some(0) && again.err.contains("zagain is left out"),
        "{again:?}"
    );
    assert_eq!(host.ok(&["netns", "list", "-o", "name"]), "byhand\n");
}
