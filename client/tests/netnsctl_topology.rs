//! netnsctl with documents, adoption, events, TCP, completions and terminals; verified by `ip -j`.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Stdio},
};

use common::{NETNSCTL, TestHost};
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

fn write_document(host: &TestHost, text: &str) {
    fs::write(host.dir.path().join("lab.yaml"), text).unwrap();
}

#[test]
fn document_is_planned_applied_diffed_and_exported() {
    let host = host!();
    write_document(&host, LAB);
    let plan = host.run_ok(&["plan", "-f", "lab.yaml"]);
    let expected = "\
+ namespace/left
  + labels:
    + lab: one
+ namespace/right
  + labels:
    + lab: one
+ veth/lan
  + end 0:
    + addresses: 10.1.0.1/24
    + interface: eth0
    + namespace: left
  + end 1:
    + addresses: 10.1.0.2/24
    + interface: eth0
    + namespace: right
  + labels:
    + lab: one
3 to create, 0 to update, 0 to delete, 0 unchanged
";
    assert_eq!(plan, expected);
    let commands = host.run_ok(&["plan", "-f", "lab.yaml", "--commands"]);
    assert!(commands.starts_with("(ip netns add left && "), "{commands}");
    assert_eq!(
        host.run_ok(&["apply", "-f", "lab.yaml", "--dry-run"]),
        plan,
        "plan and dry run differ"
    );
    assert_eq!(host.list_namespaces(), Vec::<String>::new());
    let diff = host.run(&["diff", "-f", "lab.yaml"]);
    assert_eq!(diff.code, Some(1));
    assert!(
        diff.out.contains("+namespace/left:\n") && !diff.out.contains("\n-"),
        "{}",
        diff.out
    );

    let applied = host.run_ok(&["apply", "-f", "lab.yaml"]);
    assert!(
        applied.ends_with("3 created, 0 updated, 0 deleted, 0 unchanged\n"),
        "{applied}"
    );
    assert_eq!(host.list_namespaces(), ["left", "right"]);
    host.run_ok(&["netns", "ping", "left", "10.1.0.2", "-W", "20"]);
    assert_eq!(host.run_ok(&["diff", "-f", "lab.yaml"]), "");
    let exported = host.run_ok(&["export"]);
    assert_eq!(
        host.run_script("netnsctl export | netnsctl apply -f - --prune")
            .out,
        "0 created, 0 updated, 0 deleted, 3 unchanged\n"
    );
    assert!(
        exported.contains("interface: eth0, addresses: [10.1.0.1/24]}\n")
            && !exported.contains("uid"),
        "{exported}"
    );
    assert_eq!(host.run_json(&["export"])["veths"][0]["name"], "lan");

    write_document(&host, &LAB.replace("10.1.0.2/24", "10.1.0.3/24"));
    let coloured = host
        .run(&["diff", "-f", "lab.yaml", "--color", "always"])
        .out;
    assert!(
        coloured.contains("\u{1b}[31m-") && coloured.contains("10.1.0.3/24"),
        "{coloured}"
    );
    assert!(
        host.run_ok(&["apply", "-f", "lab.yaml"])
            .starts_with("~ veth/lan\n")
    );
    write_document(&host, "namespaces: [{name: left, labels: {lab: one}}]");
    let pruned = host.run_ok(&["apply", "-f", "lab.yaml", "--prune", "--label", "lab=one"]);
    assert!(
        pruned.contains("- veth/lan\n") && pruned.contains("2 deleted, 1 unchanged"),
        "{pruned}"
    );
    assert_eq!(host.list_namespaces(), ["left"]);
}

#[test]
fn invalid_document_is_located_and_changes_nothing() {
    let host = host!();
    write_document(&host, "namespaces: [{name: a}, {name: b, colour: red}]");
    host.run(&["apply", "-f", "lab.yaml"]).assert_failed(
        1,
        &["lab.yaml:1: namespace b, colour: unknown field colour. Expected "],
    );
    for (text, code, said) in [
        ("", 2, "lab.yaml is empty"),
        ("namespaces:\n\t- name: a\n", 2, "lab.yaml: "),
        (
            "namespaces:\n- name: a\n  lables: {a: b}\n",
            1,
            "lab.yaml:3: namespace a, lables: unknown field lables: did you mean labels?",
        ),
        (
            "namespaces:\n- name: left\nveths:\n- name: lan\n  endpoints:\n  - {namespace: left}\n  - namespace: right\n",
            1,
            "lab.yaml:7: veth lan, end 1, namespace: ",
        ),
        (
            "veths:\n- {name: q, endpoints: [{}]}\n",
            1,
            "lab.yaml:2: veth q, endpoints: it has 1, and needs 2",
        ),
        (
            "{\"bridges\": [\n  {\"name\": \"br0\",\n   \"addresses\": [\"10.0.0.1\"]}]}",
            1,
            "lab.yaml:3: bridge br0, address: \"10.0.0.1\" has no prefix length",
        ),
    ] {
        write_document(&host, text);
        host.run(&["apply", "-f", "lab.yaml"])
            .assert_failed(code, &[said]);
        host.run(&["plan", "-f", "lab.yaml"])
            .assert_failed(code, &[said]);
    }
    write_document(
        &host,
        "namespaces: [{name: a, sysctls: {net.ipv4.ip_default_ttl: 100000}}, {name: b}]",
    );
    host.run(&["apply", "-f", "lab.yaml"])
        .assert_failed(1, &["ip_default_ttl", "EINVAL"]);
    host.run(&["apply", "-f", "nowhere.yaml"])
        .assert_failed(2, &["nowhere.yaml"]);
    assert_eq!(host.list_namespaces(), Vec::<String>::new());
}

#[test]
fn write_without_wait_returns_immediately() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0", "--wait=false"]);
    host.run_ok(&["wait", "netns/net0"]);
    write_document(&host, LAB);
    assert!(
        host.run_ok(&["apply", "-f", "lab.yaml", "--wait=false"])
            .contains("3 created")
    );
    host.run_ok(&["wait", "veth/lan", "--for", "ready"]);
    host.run(&["netns", "list", "--wait=false"])
        .assert_failed(2, &["--wait=false"]);
    let yaml = host.run_ok(&["netns", "show", "net0", "-o", "yaml"]);
    assert!(
        yaml.contains("\nstatus:\n") && yaml.contains("state: in_sync"),
        "{yaml}"
    );
}

/// Creates a bridge with two connected namespaces, and objects that cannot be adopted.
const UNMANAGED_NETWORK: &str = "set -e
ip link add lan type bridge stp_state 1 priority 4096 forward_delay 200 mcast_querier 1
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
ip link set port0 type bridge_slave hairpin on cost 7 bcast_flood off
ip -n net1 route add blackhole 10.9.0.0/16 metric 7
ip -n net1 route add 10.8.0.0/16 nexthop via 10.1.0.7 nexthop via 10.1.0.8
ip -n net1 route add 10.7.0.0/16 via inet6 fe80::1 dev eth0
ip -n net1 neigh add 10.1.0.7 lladdr 02:00:00:00:00:07 dev eth0
ip -n net0 link add x type veth peer name y netns net1
ip netns add nameless
ip link add lost type veth peer name eth0 netns nameless
touch /run/held
mount --bind /run/netns/nameless /run/held
ip netns delete nameless
";

#[test]
fn adopt_takes_over_everything_unmanaged() {
    let host = host!();
    let made = host.run_script(UNMANAGED_NETWORK);
    assert_eq!(made.code, Some(0), "{}", made.err);
    assert_eq!(host.run(&["adopt"]).code, Some(2));
    host.run(&["adopt", "bridge/none"])
        .assert_failed(2, &["bridge/none", "--dry-run"]);
    let plan = host.run(&["adopt", "--all", "--dry-run"]);
    for said in [
        "+ namespace/net0\n",
        "+ bridge/lan\n",
        "+ veth/port1\n",
        "+ veth/net0-x\n",
        "\n6 to create",
    ] {
        assert!(plan.out.contains(said), "{said:?} in {}", plan.out);
    }
    for said in [
        "lost in the host is left out",
        "a route to 10.7.0.0/16 in namespace net1 is left out",
    ] {
        assert!(plan.err.contains(said), "{said:?} in {}", plan.err);
    }
    host.run_ok(&["adopt", "bridge/lan"]);
    assert_eq!(
        host.ip_json(&["-d", "link", "show", "lan"])[0]["linkinfo"]["info_data"]["stp_state"],
        1
    );
    let all = host.run(&["adopt", "--all"]);
    assert!(
        all.out.contains("+ veth/port0\n") && !all.out.contains("lan\n"),
        "{all:?}"
    );
    let again = host.run(&["adopt", "--all"]);
    assert!(
        again.out.starts_with("0 adopted"),
        "something was left: {again:?}"
    );
    let json = host.run_json(&["export"]);
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
        json!({"name": "lan", "addresses": ["10.1.0.254/24"], "stp": true, "priority": 4096, "forward_delay_s": 2,
            "multicast_querier": true})
    );
    let port0 = json!({"interface": "port0", "mtu": 1400, "bridge": "lan", "port": {"hairpin": true, "path_cost": 7, "bcast_flood": false}});
    let eth0 = json!({"namespace": "net0", "interface": "eth0", "mtu": 1400, "addresses":
        ["10.1.0.0/24", {"address": "192.0.2.1/32", "peer": "192.0.2.100/32"}]});
    assert_eq!(of("veths", "port0")["endpoints"], json!([port0, eth0]));
    assert_eq!(of("veths", "net0-x")["endpoints"][1]["up"], false);
    assert_eq!(
        of("namespaces", "net1")["routes"],
        json!([{"destination": "default", "via": "10.1.0.254", "interface": "eth0"},
            {"destination": "10.8.0.0/16", "nexthops": [
                {"via": "10.1.0.7", "interface": "eth0", "weight": 1},
                {"via": "10.1.0.8", "interface": "eth0", "weight": 1}]},
            {"destination": "10.9.0.0/16", "metric": 7, "type": "blackhole"}])
    );
    assert_eq!(
        of("namespaces", "net1")["neighbours"][0]["mac"],
        "02:00:00:00:00:07"
    );
    assert!(
        host.run_ok(&["status"]).contains("in_sync"),
        "{}",
        host.run_ok(&["status"])
    );
    assert_eq!(
        host.run_ok(&["netns", "delete", "net0", "net1", "--cascade"]),
        ""
    );
    assert_eq!(host.list_namespaces(), Vec::<String>::new());
}

#[test]
fn edit_replaces_resource_or_keeps_the_edits() {
    let host = host!();
    host.run_ok(&["bridge", "add", "br0", "--address", "10.0.0.1/24"]);
    let edit = |editor: &str| {
        host.run_script(&format!(
            "export EDITOR=\"{editor}\"; netnsctl edit bridge/br0"
        ))
    };
    assert_eq!(edit("sed -i s/10.0.0.1/10.0.0.2/").code, Some(0));
    assert!(
        host.ip_json(&["addr", "show", "dev", "br0"])
            .to_string()
            .contains("10.0.0.2")
    );
    assert!(edit("true").err.contains("no changes"));
    let refused = edit("sed -i s/10.0.0.2/10.0.0.2x/");
    assert!(
        refused.code == Some(1) && refused.err.contains("netnsctl: address: "),
        "{refused:?}"
    );
    let kept = refused.err.split("are kept in ").nth(1).unwrap().trim();
    assert!(fs::read_to_string(kept).unwrap().contains("10.0.0.2x"));
    fs::remove_file(kept).unwrap();
}

#[test]
fn reconcile_reports_nothing_if_in_sync() {
    let host = host!();
    host.run_ok(&["bridge", "add", "br0"]);
    assert_eq!(host.run_ok(&["reconcile"]), "");
    assert_eq!(
        host.run_json(&["reconcile"])["failed"],
        serde_json::json!([])
    );
}

/// The output of a command that keeps running.
struct OutputLines(Child, BufReader<std::process::ChildStdout>);

impl OutputLines {
    fn start(host: &TestHost, line: &[&str]) -> Self {
        let mut child = host
            .command(NETNSCTL)
            .args(line)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for OutputLines {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It may have ended.
        let _ = self.0.wait();
    }
}

#[test]
fn events_are_listed_and_followed() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0"]);
    host.wait_until("both events are listed", || {
        host.run_ok(&["events"]).lines().count() == 2
    });
    let all = host.run_ok(&["events", "--kind", "netns", "--name", "net0"]);
    assert!(
        all.contains("Z  created      namespace/net0\n")
            && all.contains("Z  applied      namespace/net0\n"),
        "{all}"
    );
    let last = host.run_ok(&["events", "--tail", "1"]);
    assert_eq!(all.lines().last(), last.lines().next());
    assert_eq!(last.lines().count(), 1);
    assert_eq!(host.run_ok(&["events", "--since", "1h"]), all);
    assert_eq!(host.run_ok(&["events", "--since", "0s"]), "");
    assert_eq!(
        host.run_ok(&["events", "--since", "2020-01-01T00:00:00Z"]),
        all
    );
    host.run(&["events", "--since", "yesterday"])
        .assert_failed(2, &["\"yesterday\"", "10m"]);
    let wrong = host.run(&["events", "--type", "made"]);
    assert!(
        wrong.code == Some(2) && wrong.err.contains("created, updated"),
        "{wrong:?}"
    );
    let mut lines = OutputLines::start(
        &host,
        &["events", "-f", "--since", "0", "--type", "created"],
    );
    assert!(lines.next_line().ends_with("created      namespace/net0\n"));
    host.run_ok(&["netns", "add", "net1"]);
    assert!(lines.next_line().ends_with("created      namespace/net1\n"));
    // The monitor shows changes by others. Repeat them until it has connected.
    let mut monitor = OutputLines::start(&host, &["netns", "monitor"]);
    let mut made = 0;
    let first = std::thread::scope(|scope| {
        let line = scope.spawn(|| monitor.next_line());
        host.wait_until("the monitor prints an event", || {
            host.run_script(&format!(
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
fn tcp_with_token_works() {
    let host = host!();
    let token = host.dir.path().join("token");
    fs::write(&token, "secret\n").unwrap();
    // Starts a second daemon on the same host.
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
        return common::skip::skip("bash is not installed");
    };
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(out, "9\n1\n", "{err}");
    assert!(err.contains("--token-file FILE"), "{err}");
    host.run(&["--url", "ftp://x", "netns", "list"])
        .assert_failed(2, &["unix:///PATH"]);
}

/// Writes a self-signed certificate to `NAME.pem` and `NAME.key`.
fn write_certificate(dir: &Path, name: &str) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    fs::write(dir.join(format!("{name}.pem")), made.cert.pem()).unwrap();
    fs::write(
        dir.join(format!("{name}.key")),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
}

#[test]
fn https_with_client_certificate_works() {
    let host = host!();
    let dir = host.dir.path();
    write_certificate(dir, "localhost");
    write_certificate(dir, "ci.example");
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
        return common::skip::skip("bash is not installed");
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
    .assert_failed(2, &["/nowhere"]);
}

#[test]
fn completion_offers_names_of_resources() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0", "net1", "lab"]);
    host.run_ok(&["bridge", "add", "net-br"]);
    // As in the script of `netnsctl completion bash`.
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
    assert_eq!(complete(&["-n", "l"]), ["lab"]);
    assert_eq!(complete(&["wait", "bridge/"]), ["bridge/net-br"]);
    host.run_ok(&["veth", "add", "lan0", "net0:eth0", "net1:eth0"]);
    fs::write(host.dir.path().join("lab.yaml"), "").unwrap();
    assert_eq!(complete(&["apply", "-f", "la"]), ["lab.yaml"]);
    assert_eq!(complete(&["apply", "--file", "./la"]), ["./lab.yaml"]);
    assert_eq!(
        complete(&["veth", "set", "la"]),
        ["lan0/0", "lan0/1", "lan0"]
    );
    assert_eq!(complete(&["veth", "add", "x", "net"]), ["net0:", "net1:"]);
    assert_eq!(
        complete(&["veth", "add", "x", "net0:eth0,m"]),
        ["net0:eth0,mac=", "net0:eth0,mtu="]
    );
    assert_eq!(
        complete(&["veth", "add", "x", "port0,bridge=n"]),
        ["port0,bridge=net-br"]
    );
    assert_eq!(
        complete(&["veth", "set", "lan0/0", "--namespace", "n"]),
        ["net0", "net1"]
    );
    assert_eq!(
        complete(&["veth", "set", "lan0/0", "--bridge", ""]),
        ["net-br"]
    );
    assert_eq!(
        complete(&["bridge", "set", "net-br", "--stp", "o"]),
        ["on", "off"]
    );
    assert_eq!(complete(&["netns", "list", "--state", "in"]), ["in_sync"]);
    assert_eq!(complete(&["events", "--type", "dr"]), ["drifted"]);
    assert_eq!(complete(&["token", "add", "x", "--role", "v"]), ["viewer"]);
    assert_eq!(complete(&["-o", "js"]), ["json"]);
    assert_eq!(
        complete(&["netns", "exec", "net0", "netnsct"]),
        ["netnsctl"]
    );
    assert!(complete(&["netns", "exec", "net0", "cat", "la"]).contains(&"lab.yaml".to_owned()));
    assert_eq!(
        complete(&["netns", "exec", "net0", "cat", "-n", "lab"]),
        ["lab.yaml"]
    );
    let options = complete(&["netns", "show", "-"]);
    assert!(!options.contains(&"--token-file".to_owned()), "{options:?}");
    assert!(complete(&["netns", "mon"]).contains(&"monitor".to_owned()));
    let script = host.run_ok(&["completion", "bash"]);
    assert!(script.contains("COMPLETE=bash"), "{script}");
    // Without netnsd there are no candidates and no errors.
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

/// Completes a command line in a shell, with the script of netnsctl.
fn complete_in_shell(host: &TestHost, shell: &str, line: &str) -> Option<Vec<String>> {
    if !common::skip::has(shell) {
        return None;
    }
    let script = match shell {
        "bash" => {
            "source <(netnsctl completion bash); COMP_LINE=$0; COMP_POINT=${#0}; COMP_WORDS=($0); \
             [[ $0 == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); \
             complete=($(complete -p netnsctl)); \
             for ((i = 0; i < ${#complete[@]}; i++)); do \
                 [[ ${complete[i]} == -F ]] && function=${complete[i + 1]}; done; \
             $function netnsctl \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"; \
             printf '%s\\n' \"${COMPREPLY[@]}\""
        }
        // The functions of its completion system are only there while a line is edited.
        "zsh" => {
            "compdef() { completer=$1 }; \
             _describe() { local -a v=(${${(P)3}//\\\\:/;}); print -rl -- ${${v%%:*}//;/:} }; \
             eval \"$(netnsctl completion zsh)\"; words=(${(z)0}); \
             [[ $0 == *' ' ]] && words+=(''); CURRENT=$#words; $completer; true"
        }
        // Prints descriptions after a tab.
        _ => "netnsctl completion fish | source; complete -C $argv[1] | string split -f1 \\t; true",
    };
    let mut command = host.command(shell);
    let output = command.args(["-c", script, line]).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{line}: {out}{err}");
    let mut words: Vec<String> = out.lines().map(|word| word.trim_end().to_owned()).collect();
    words.sort();
    Some(words)
}

#[test]
fn completion_works_in_real_shells() {
    let host = host!();
    host.add_connected_namespaces();
    fs::write(host.dir.path().join("lab.yaml"), "").unwrap();
    for shell in ["bash", "fish", "zsh"] {
        for (line, expected) in [
            ("netnsctl netns delete n", &["net0", "net1"][..]),
            ("netnsctl netns mon", &["monitor"]),
            ("netnsctl apply -f la", &["lab.yaml"]),
            ("netnsctl veth set la", &["lan0", "lan0/0", "lan0/1"]),
            ("netnsctl veth set lan0/0 --namespace n", &["net0", "net1"]),
            ("netnsctl netns exec net0 netnsct", &["netnsctl"]),
            ("netnsctl netns list --out", &["--output"]),
            ("netnsctl veth add x net", &["net0:", "net1:"]),
        ] {
            let Some(words) = complete_in_shell(&host, shell, line) else {
                break;
            };
            assert_eq!(words, expected, "{shell}: {line}");
        }
    }
}

#[test]
fn events_go_on_after_a_restart() {
    let mut host = host!();
    host.run_ok(&["netns", "add", "net0"]);
    let mut lines = OutputLines::start(
        &host,
        &["events", "-f", "--since", "0", "--type", "created"],
    );
    assert!(lines.next_line().contains("namespace/net0"));
    host.restart();
    host.run_ok(&["netns", "add", "net1"]);
    assert!(lines.next_line().contains("namespace/net1"));
}

#[test]
fn plan_shows_fields_that_change() {
    let host = host!();
    write_document(&host, LAB);
    host.run_ok(&["apply", "lab.yaml"]);
    assert_eq!(
        host.run_ok(&["plan", "-f", "lab.yaml"]),
        "no changes, 3 unchanged\n"
    );
    write_document(
        &host,
        "
namespaces:
- {name: left, labels: {lab: two}, routes: [{destination: default, via: 10.1.0.2}]}
veths:
- name: lan
  labels: {lab: one}
  endpoints:
  - {namespace: left, interface: eth0, addresses: [10.1.0.3/24], mtu: 1400}
  - {interface: eth1, addresses: [10.1.0.2/24]}
",
    );
    let expected = "\
~ namespace/left
  ~ labels:
    ~ lab: one -> two
  + routes: {destination: default, via: 10.1.0.2}
~ veth/lan
  ~ end 0:
    - addresses: 10.1.0.1/24
    + addresses: 10.1.0.3/24
    + mtu: 1400
  ~ end 1:
    ~ interface: eth0 -> eth1
    - namespace: right
- namespace/right
  - labels:
    - lab: one
0 to create, 2 to update, 1 to delete, 0 unchanged
";
    assert_eq!(
        host.run_ok(&["plan", "-f", "lab.yaml", "--prune"]),
        expected
    );
    let colored = host.run_ok(&["plan", "-f", "lab.yaml", "--color", "always"]);
    assert!(
        colored.contains("\u{1b}[33m    ~ lab: one -> two\u{1b}[0m\n")
            && colored.contains("\u{1b}[32m    + mtu: 1400\u{1b}[0m\n"),
        "{colored:?}"
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let host = host!();
    let dir = host.dir.path().join("man1");
    host.run_ok(&["man", dir.to_str().unwrap()]);
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
fn large_input_and_output_flow_concurrently() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0"]);
    let sums =
        host.run_script("head -c 8000000 /dev/urandom >in; netnsctl netns exec net0 cat <in >out; cmp in out && echo same");
    assert_eq!((sums.out.as_str(), sums.err.as_str()), ("same\n", ""));
}

/// netnsctl in a terminal.
struct Terminal {
    child: Child,
    master: fs::File,
    unread: String,
    /// All that was shown.
    shown: String,
}

impl Terminal {
    fn start(host: &TestHost, line: &[&str]) -> Self {
        Self::start_with(host, line, &[("TERM", "dumb")])
    }

    /// Starts netnsctl with variables of its environment.
    fn start_with(host: &TestHost, line: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_program(host, NETNSCTL, line, variables)
    }

    /// Starts a program with variables of its environment.
    fn start_program(
        host: &TestHost,
        program: &str,
        line: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
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
            .arg(program)
            .args(line)
            .env("SHELL", "/bin/sh")
            // With it, clap's output has colours on every terminal.
            .env_remove("CI")
            .envs(variables.iter().copied());
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
            unread: String::new(),
            shown: String::new(),
        }
    }

    fn type_text(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until a text was shown.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.unread.contains(text) {
            let count = self.master.read(&mut buffer).unwrap_or(0);
            assert!(count > 0, "no {text:?} in {:?}", self.unread);
            let text = String::from_utf8_lossy(&buffer[..count]);
            self.unread += &text;
            self.shown += &text;
        }
        // Keep the rest for the next call.
        self.unread = self
            .unread
            .split_once(text)
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default();
    }
}

#[test]
fn shell_works_in_a_terminal() {
    let host = host!();
    host.run_ok(&["netns", "add", "net0"]);
    let mut terminal = Terminal::start(&host, &["netns", "shell", "net0"]);
    terminal.wait_for("# ");
    terminal.type_text("ip netns identify; stty size; tty\r");
    terminal.wait_for("net0\r\n33 99\r\n/dev/pts/");
    terminal.type_text("sh -c 'echo rea''dy; exec sleep 1000'\r");
    terminal.wait_for("ready");
    terminal.type_text("\u{3}");
    terminal.wait_for("# ");
    terminal.type_text("cat\r");
    terminal.type_text("meow\r");
    terminal.wait_for("meow\r\nmeow");
    terminal.type_text("\u{4}");
    terminal.wait_for("# ");
    terminal.type_text("exit 5\r");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(5));
}

#[test]
fn words_with_colons_are_completed_in_bash() {
    if !common::skip::has("bash") {
        return;
    }
    let host = host!();
    host.run_ok(&["netns", "add", "lab"]);
    host.run_ok(&["bridge", "add", "br0"]);
    let variables = [("TERM", "xterm"), ("INPUTRC", "/dev/null")];
    let line = ["--norc", "--noprofile", "-i"];
    let mut terminal = Terminal::start_program(&host, "bash", &line, &variables);
    terminal.type_text("source <(netnsctl completion bash); echo load''ed\r");
    terminal.wait_for("loaded");
    for (typed, completed) in [
        (
            "veth add x la\teth0,br\tb\tend",
            "veth add x lab:eth0,bridge=br0 end",
        ),
        (
            "veth add x lab:eth0,bridge=\tend",
            "veth add x lab:eth0,bridge=br0 end",
        ),
        (
            "netns list --state=in\tend",
            "netns list --state=in_sync end",
        ),
        ("netns delete la\tend", "netns delete lab end"),
        ("--netns=l\tlink", "--netns=lab link"),
        ("-o ya\tnetns", "-o yaml netns"),
    ] {
        // Prints the line instead of running it.
        terminal.type_text(&format!("netnsctl {typed}\u{1}echo '<' \u{5} '>'\r"));
        terminal.wait_for(&format!("\r< netnsctl {completed} >"));
    }
    terminal.type_text("exit\r");
    terminal.child.wait().unwrap();
}

#[test]
fn progress_moves_and_help_wraps_in_a_terminal() {
    let host = host!();
    let names = (0..2000).map(|i| format!("- name: net{i}\n"));
    write_document(
        &host,
        &format!("namespaces:\n{}", names.collect::<String>()),
    );
    let variables = [("TERM", "xterm")];
    let mut terminal = Terminal::start_with(&host, &["apply", "-f", "lab.yaml"], &variables);
    terminal.wait_for(" operations");
    terminal.wait_for("2000 created");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(0));

    fs::write(host.dir.path().join("none.yaml"), "{}").unwrap();
    let line = ["apply", "--prune", "-f", "none.yaml"];
    let mut terminal = Terminal::start_with(&host, &line, &variables);
    terminal.wait_for(" operations");
    terminal.type_text("\u{3}");
    terminal.wait_for("netnsd finishes a document that it has begun");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(130));

    let mut terminal = Terminal::start(&host, &["netns", "add", "--help"]);
    terminal.wait_for("Example:");
    let mut text = terminal.shown.replace("\r\n", "\n");
    text.push('\n');
    for line in text.lines() {
        assert!(line.chars().count() <= 99, "{line}");
    }
    terminal.child.wait().unwrap();
}

#[test]
fn refused_edit_is_opened_again_in_a_terminal() {
    let host = host!();
    host.run_ok(&["bridge", "add", "br0", "--address", "10.0.0.1/24"]);
    // Makes a mistake at first, and mends it when it sees the reason.
    let editor = host.dir.path().join("editor");
    fs::write(
        &editor,
        "#!/bin/sh\nif grep -q '^# ! .*10.0.0.2x' \"$1\"; then sed -i 's/2x/2/' \"$1\"; \
         else sed -i 's/10.0.0.1/10.0.0.2x/' \"$1\"; fi\n",
    )
    .unwrap();
    let mut terminal = Terminal::start_with(
        &host,
        &["edit", "bridge/br0"],
        &[("EDITOR", &format!("sh {}", editor.display()))],
    );
    assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    assert!(
        host.ip_json(&["addr", "show", "dev", "br0"])
            .to_string()
            .contains("\"10.0.0.2\"")
    );
}

#[test]
fn adopt_omits_second_names_and_other_files() {
    let host = host!();
    let script = "ip netns add byhand && ip link add lan type bridge && cd /run/netns && ln -s /proc/4000000/ns/net dangling && \
        touch host zagain && mount --bind /proc/self/ns/net host && mount --bind byhand zagain";
    assert_eq!(host.run_script(script).code, Some(0));
    let all = host.run(&["adopt", "--all"]);
    assert_eq!(all.code, Some(0), "{all:?}");
    for reason in [
        "namespace dangling is left out: /run/netns/dangling is not a network namespace",
        "namespace host is left out: /run/netns/host is the host's own network namespace",
        "namespace zagain is left out: it is the same as namespace byhand",
    ] {
        assert!(all.err.contains(reason), "{all:?}");
    }
    assert_eq!(host.run_ok(&["netns", "list", "-o", "name"]), "byhand\n");
    assert_eq!(host.run_ok(&["bridge", "list", "-o", "name"]), "lan\n");
    // The same if the others are managed already.
    let again = host.run(&["adopt", "--all"]);
    assert!(
        again.code == Some(0) && again.err.contains("zagain is left out"),
        "{again:?}"
    );
    assert_eq!(host.run_ok(&["netns", "list", "-o", "name"]), "byhand\n");
}
