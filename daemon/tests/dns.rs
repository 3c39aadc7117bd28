//! Name resolution of a namespace: its files, and what a command in it asks.

mod common;

use std::{
    io::{BufRead, Read},
    os::unix::net::UnixListener,
    path::PathBuf,
};

use common::Host;
use serde_json::{Value, json};

const NET0: &str = "/v1/namespaces/net0";
const SWITCH: &str = "/etc/netns/net0/nsswitch.conf";

fn dns() -> Value {
    json!({"dns": {"nameservers": ["192.0.2.53"], "options": ["timeout:1"]}})
}

/// A host with this `/etc/nsswitch.conf`, and a namespace with `dns`.
fn host(nsswitch: &str) -> Host {
    let host = Host::started();
    on_host(
        &host,
        &format!("rm -f /etc/nsswitch.conf; printf %s '{nsswitch}' >/etc/nsswitch.conf"),
    );
    host.put(NET0, dns()).ok();
    host
}

#[track_caller]
fn on_host(host: &Host, script: &str) -> String {
    let output = host.sh(script);
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a script in the namespace: what it wrote. Nothing of netnsd's is among its messages.
#[track_caller]
fn inside(host: &Host, script: &str) -> String {
    let result = host
        .post(
            &format!("{NET0}/exec"),
            json!({"argv": ["sh", "-c", script]}),
        )
        .ok();
    assert_eq!(
        (&result["exit_code"], &result["stderr"]),
        (&json!(0), &json!("")),
        "{script}: {result}"
    );
    result["stdout"].as_str().unwrap().to_owned()
}

fn operations(plan: &Value) -> Vec<&str> {
    plan["plan"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["op"].as_str().unwrap())
        .collect()
}

#[test]
fn nsswitch_drops_services_outside_the_namespace() {
    let host = host(
        "passwd: files systemd\nhosts: mymachines resolve [!UNAVAIL=return] files mdns4 [NOTFOUND=return] dns\n",
    );
    let text = on_host(&host, &format!("cat {SWITCH}"));
    assert!(text.starts_with("# written by netnsd"), "{text}");
    assert!(
        text.ends_with("\npasswd: files systemd\nhosts: files dns\n"),
        "{text}"
    );
    assert_eq!(inside(&host, "cat /etc/nsswitch.conf"), text);
    // The same again changes nothing; what somebody broke is mended; a change of the host's is
    // taken over.
    let same = host.put(&format!("{NET0}?dry_run=true"), dns()).ok();
    assert_eq!(operations(&same), [""; 0], "{same}");
    for damage in [
        format!("echo hosts: resolve >>{SWITCH}"),
        format!("rm {SWITCH}"),
    ] {
        on_host(&host, &damage);
        assert_eq!(
            host.post("/v1/reconcile", json!({})).ok()["repaired"][0]["name"],
            "net0",
            "{damage}"
        );
        assert_eq!(on_host(&host, &format!("cat {SWITCH}")), text, "{damage}");
    }
    on_host(&host, "echo hosts: myhostname resolve >/etc/nsswitch.conf");
    host.post("/v1/reconcile", json!({})).ok();
    assert!(on_host(&host, &format!("cat {SWITCH}")).ends_with("\nhosts: myhostname dns\n"));
    on_host(&host, "rm /etc/nsswitch.conf");
    host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(
        on_host(&host, &format!("cat {SWITCH}")),
        "# written by netnsd\nhosts: files dns\n"
    );
    // Without it on the host the C library's own order holds, and nothing is in the way of the
    // command.
    assert_eq!(
        inside(&host, "test -e /etc/nsswitch.conf || echo none"),
        "none\n"
    );
}

#[test]
fn nsswitch_is_removed_with_dns_and_namespace() {
    let mut host = host("hosts: files resolve\n");
    let restored = on_host(&host, &format!("cat {SWITCH}"));
    host.restart();
    assert_eq!(on_host(&host, &format!("cat {SWITCH}")), restored);
    let plan = host.put(&format!("{NET0}?dry_run=true"), json!({})).ok();
    assert_eq!(operations(&plan), ["dns_set", "dns_set"]);
    host.put(NET0, json!({})).ok();
    assert!(!host.sh("test -e /etc/netns/net0").status.success());
    host.put(NET0, dns()).ok();
    assert_eq!(host.delete(NET0).status, 204);
    assert!(!host.sh("test -e /etc/netns/net0").status.success());
}

#[test]
fn foreign_files_are_a_conflict_and_stay() {
    let host = Host::started();
    host.put(NET0, json!({})).ok();
    for file in ["nsswitch.conf", "resolv.conf"] {
        on_host(
            &host,
            &format!("mkdir -p /etc/netns/net0; echo '# mine' >/etc/netns/net0/{file}"),
        );
        let refused = host.put(NET0, dns());
        assert!(
            refused.json["detail"].as_str().unwrap().contains(file),
            "{}",
            refused.json
        );
        refused.refused(409, "conflict", Some("/dns"));
        host.put(NET0, json!({"labels": {"a": file}})).ok();
        assert_eq!(
            on_host(&host, "cat /etc/netns/net0/*; ls -A /etc/netns/net0"),
            format!("# mine\n{file}\n")
        );
        on_host(&host, &format!("rm /etc/netns/net0/{file}"));
    }
    host.put(NET0, dns()).ok();
}

/// Runs `cat /etc/resolv.conf` in the namespace before and after this was done on the host.
fn across(host: &Host, change: &str) -> [String; 2] {
    let fifo = host.dir().join("fifo");
    on_host(host, &format!("rm -f {0}; mkfifo {0}", fifo.display()));
    let script = "cat /etc/resolv.conf; echo; read x <$0; cat /etc/resolv.conf";
    let body = json!({"argv": ["sh", "-c", script, fifo]});
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/x-ndjson"),
    ];
    let mut stream = host.open("POST", &format!("{NET0}/exec"), &headers, &body.to_string());
    let mut read = |last: &str| {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            assert!(
                stream.read_line(&mut line).unwrap() > 0,
                "the answer ended early: {text}"
            );
            let value: Value = serde_json::from_str(&line).unwrap_or_default();
            assert_ne!(value["stream"], "stderr", "{value}");
            text += value["data"].as_str().unwrap_or_default();
            if text.ends_with(last) || value.get("exit_code").is_some() {
                return text.trim_end().to_owned();
            }
        }
    };
    let before = read("\n\n");
    on_host(host, change);
    std::fs::write(&fifo, "go\n").unwrap();
    [before, read("no such end")]
}

#[test]
fn running_command_keeps_its_resolv_conf() {
    let host = host("hosts: files dns\n");
    let own = "# written by netnsd\nnameserver 192.0.2.53\noptions timeout:1";
    // As with systemd-resolved, which replaces what the link leads to.
    let linked = "mkdir -p /run/resolve; echo nameserver 192.0.2.1 >/run/resolve/stub; rm -f /etc/resolv.conf
        ln -s ../run/resolve/stub /etc/resolv.conf";
    on_host(&host, linked);
    let replace =
        "echo nameserver 192.0.2.2 >/run/resolve/new; mv /run/resolve/new /run/resolve/stub";
    assert_eq!(across(&host, replace), [own, own]);
    assert_eq!(across(&host, "rm /run/resolve/stub"), [own, own]);
    // Now it leads nowhere.
    assert_eq!(across(&host, "true"), [own, own]);
    on_host(&host, "rm /etc/resolv.conf");
    let absent = across(&host, "echo nameserver 192.0.2.1 >/etc/resolv.conf");
    assert_eq!(absent, [own, own]);
    assert_eq!(inside(&host, "cat /etc/resolv.conf").trim_end(), own);
    // Nothing of it was done to the host.
    assert_eq!(
        on_host(&host, "cat /etc/resolv.conf"),
        "nameserver 192.0.2.1\n"
    );
    on_host(&host, "touch /etc/to-write; rm /etc/resolv.conf");
    assert!(inside(&host, "ls /etc").contains("to-write"));
    assert!(!host.sh("test -e /etc/resolv.conf").status.success());
}

#[test]
fn command_without_its_resolv_conf_is_refused() {
    let host = host("hosts: files dns\n");
    on_host(&host, "rm /etc/netns/net0/resolv.conf");
    let refused = host.post(&format!("{NET0}/exec"), json!({"argv": ["true"]}));
    assert!(
        refused.json["detail"]
            .as_str()
            .unwrap()
            .contains("POST /v1/reconcile"),
        "{}",
        refused.json
    );
    refused.refused(409, "conflict", None);
    host.post("/v1/reconcile", json!({})).ok();
    assert!(inside(&host, "cat /etc/resolv.conf").contains("192.0.2.53"));
    // Somebody's own that is of no use is not passed over either.
    host.put(NET0, json!({})).ok();
    on_host(
        &host,
        "mkdir /etc/netns/net0; ln -s /nowhere /etc/netns/net0/resolv.conf",
    );
    host.post(&format!("{NET0}/exec"), json!({"argv": ["true"]}))
        .refused(409, "conflict", None);
}

#[test]
fn foreign_files_are_bound_or_refused() {
    let host = host("hosts: files dns\n");
    on_host(
        &host,
        "mkdir /etc/netns/net0/own /etc/real /etc/netns/net0/linked; ln -s real /etc/linked; echo real >/etc/real/a
        rm -f /etc/hosts; echo host >/etc/hosts; echo '192.0.2.9 inside' >/etc/netns/net0/hosts
        echo linked >/etc/netns/net0/linked/b; echo left >/etc/netns/net0/hosts.bak; ln -s /nowhere /etc/netns/net0/dangling",
    );
    assert_eq!(
        inside(&host, "cat /etc/hosts; ls /etc/linked /etc/real"),
        "192.0.2.9 inside\n/etc/linked:\nb\n\n/etc/real:\nb\n"
    );
    assert_eq!(
        inside(&host, "ls -d /etc/own /etc/hosts.bak 2>/dev/null || true"),
        ""
    );
    on_host(
        &host,
        "rm /etc/netns/net0/hosts; mkdir /etc/netns/net0/hosts",
    );
    let refused = host.post(&format!("{NET0}/exec"), json!({"argv": ["true"]}));
    assert!(
        refused.json["detail"]
            .as_str()
            .unwrap()
            .contains("/etc/netns/net0/hosts is a directory"),
        "{}",
        refused.json
    );
    refused.refused(409, "conflict", None);
}

/// Asks a socket by HTTP, which nobody there speaks: whether it could be connected to (curl's exit
/// code 7 is that it could not).
fn connects(socket: &str) -> String {
    format!(
        "curl -s --max-time 0.2 --unix-socket {socket} http://x/; test $? -ne 7 && echo connected || echo hidden"
    )
}

#[test]
fn host_resolvers_are_hidden() {
    let host = host("hosts: files dns\n");
    on_host(&host, "mkdir -p /run/nscd /run/systemd/resolve");
    let sockets = [
        "/run/nscd/socket",
        "/run/systemd/resolve/io.systemd.Resolve",
    ];
    for socket in sockets {
        let path = PathBuf::from(format!("/proc/{}/root{socket}", host.pid()));
        let listener = UnixListener::bind(path).unwrap();
        // The C library asks nscd for users too, and waits for its answer or its end.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _who_asks = stream.read(&mut [0; 512]);
            }
        });
    }
    for socket in sockets.into_iter().chain(["/var/run/nscd/socket"]) {
        assert_eq!(on_host(&host, &connects(socket)), "connected\n", "{socket}");
        assert_eq!(inside(&host, &connects(socket)), "hidden\n", "{socket}");
    }
    assert_eq!(
        inside(
            &host,
            "ls -A /run/nscd /run/systemd/resolve; touch /run/nscd/x 2>/dev/null || echo read-only"
        ),
        "/run/nscd:\n\n/run/systemd/resolve:\nread-only\n"
    );
    // Without dns of its own a namespace asks as the host does.
    host.put(NET0, json!({})).ok();
    for socket in sockets {
        assert_eq!(inside(&host, &connects(socket)), "connected\n", "{socket}");
    }
    assert_eq!(on_host(&host, "ls /run/nscd"), "socket\n");
}
