//! `docs/from-ip.md` is correct: each column of its tables runs on a host of its own, and after
//! each row `ip` and `bridge` show the same on all of them. The same for the tours of the README.

#[path = "../../daemon/tests/common/skip.rs"]
#[allow(dead_code, reason = "other test files use the rest")]
mod skip;

use std::{
    fs,
    io::Read,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    time::Duration,
};

use netnsd::sandbox::Sandbox;
use serde_json::{Value, json};

const NETNSCTL: &str = env!("CARGO_BIN_EXE_netnsctl");

/// Time that the daemon has to start, on a machine with a load of 20 too.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    ByHand,
    Netnsctl,
    Curl,
    /// The first column, with `netnsctl` in the place of `ip`, and before `bridge` and `brctl`.
    Words,
}

const COLUMNS: [Column; 4] = [
    Column::ByHand,
    Column::Netnsctl,
    Column::Curl,
    Column::Words,
];

/// brctl reads settings in `/sys`, which must be mounted in the sandbox.
const BRCTL: &str =
    r#"brctl() { unshare -m sh -c 'mount -t sysfs sysfs /sys && exec brctl "$@"' brctl "$@"; }"#;

/// A sandboxed host for one column, with netnsd if the column needs it.
struct ColumnHost {
    sandbox: Sandbox,
    _dir: tempfile::TempDir,
    /// A process in a namespace without a name.
    nameless: Child,
    daemon: Option<Child>,
    /// Shell functions for the lines of the column.
    functions: String,
}

impl ColumnHost {
    fn new(column: Column, functions: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("netnsctl-from-ip-")
            .tempdir_in("/tmp")
            .unwrap();
        let sandbox = Sandbox::new().unwrap();
        let daemon = (column != Column::ByHand).then(|| start_netnsd(&sandbox, dir.path()));
        let mut nameless = sandbox
            .command("unshare")
            .unwrap()
            .args(["-n", "sh", "-c", "echo there; exec sleep 600"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut there = [0; 5];
        nameless
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut there)
            .unwrap();
        Self {
            sandbox,
            _dir: dir,
            nameless,
            daemon,
            functions: functions.into(),
        }
    }

    fn run_script(&self, script: &str) -> Output {
        let bin = Path::new(NETNSCTL).parent().unwrap().display();
        let mut command = self.sandbox.command("sh").unwrap();
        command
            .args(["-e", "-c", &format!("{}\n{script}", self.functions)])
            .env(
                "PATH",
                format!("{bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            )
            .env("PID", self.nameless.id().to_string())
            .current_dir(repository_root())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Returns the list in JSON that a script prints.
    fn json(&self, script: &str) -> Vec<Value> {
        let output = self.run_script(script);
        // iproute2 pads some lists with empty objects, and prints nothing for an empty list.
        let list: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        list.into_iter().filter(|item| *item != json!({})).collect()
    }

    /// Returns the state of the network, without values that differ from run to run.
    fn network(&self) -> Value {
        let names = self.json("ip -j netns list");
        let mut spaces: Vec<(String, Value)> = names
            .iter()
            .map(|space| {
                (
                    space["name"].as_str().unwrap().to_owned(),
                    space["id"].clone(),
                )
            })
            // The kernel assigns small ones.
            .map(|(name, id)| {
                (
                    name,
                    if id.as_u64() >= Some(100) {
                        id
                    } else {
                        Value::Null
                    },
                )
            })
            .collect();
        spaces.push((String::new(), Value::Null));
        spaces.sort_by(|a, b| a.0.cmp(&b.0));
        spaces
            .into_iter()
            .map(|(name, id)| self.namespace_state(&name, &id))
            .collect()
    }

    fn namespace_state(&self, name: &str, id: &Value) -> Value {
        let (ip, bridge, exec) = match name {
            "" => ("ip -j".to_owned(), "bridge -j".to_owned(), String::new()),
            _ => (
                format!("ip -j -n {name}"),
                format!("bridge -j -n {name}"),
                format!("ip netns exec {name}"),
            ),
        };
        let pick = |item: &Value, keys: &[&str]| -> Value {
            keys.iter().map(|key| item[key].clone()).collect()
        };
        let mut links = self.json(&format!("{ip} -d addr"));
        // The order of creation does not matter.
        links.sort_by_key(|link| link["ifname"].to_string());
        let links = links.iter().map(|link| {
            let up = link["flags"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|flag| flag == "UP");
            let mac = link["address"]
                .as_str()
                .filter(|mac| mac.starts_with("02:00:"));
            let data = &link["linkinfo"]["info_data"];
            let times = [
                "stp_state",
                "priority",
                "ageing_time",
                "forward_delay",
                "hello_time",
                "max_age",
                "mcast_snooping",
            ];
            let addresses: Vec<Value> = link["addr_info"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|address| !address["local"].to_string().contains("fe80::"))
                .map(|address| pick(address, &["local", "prefixlen"]))
                .collect();
            json!([
                pick(link, &["ifname", "mtu", "master"]),
                up,
                mac,
                pick(data, &times),
                addresses
            ])
        });
        let links: Vec<Value> = links.collect();
        let of = |script: String, keys: &[&str]| -> Vec<Value> {
            self.json(&script)
                .iter()
                .map(|item| pick(item, keys))
                .collect()
        };
        json!({
            "name": name,
            "id": id,
            "links": links,
            "routes": of(format!("{ip} route"), &["dst", "gateway", "dev"]),
            "rules": of(format!("{ip} rule"), &["priority", "src", "srclen", "table"]),
            "neighbours": of(format!("{ip} neigh show nud permanent"), &["dst", "lladdr", "dev"]),
            "ports": of(format!("{bridge} -d link"), &["ifname", "master", "cost", "priority", "hairpin", "isolated"]),
            "forwards": String::from_utf8_lossy(&self.run_script(&format!("{exec} cat /proc/sys/net/ipv4/ip_forward")).stdout),
            "resolv": String::from_utf8_lossy(&self.run_script(&format!("grep -v '^#' /etc/netns/{name}/resolv.conf")).stdout),
        })
    }
}

impl Drop for ColumnHost {
    fn drop(&mut self) {
        for child in [Some(&mut self.nameless), self.daemon.as_mut()]
            .into_iter()
            .flatten()
        {
            let _ = child.kill(); // It may have ended.
            let _ = child.wait();
        }
    }
}

/// Starts netnsd with the default socket, which is in the sandbox's `/run`, and waits until it is
/// ready.
fn start_netnsd(sandbox: &Sandbox, dir: &Path) -> Child {
    let path = dir.join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(START_TIMEOUT)).unwrap();
    let daemon = sandbox
        .command(netnsd_path())
        .unwrap()
        .env("NETNSD_STATE_DIR", dir.join("state"))
        .env("NOTIFY_SOCKET", &path)
        .env("NETNSD_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut text = [0; 256];
    while !text.starts_with(b"READY=1") {
        text.fill(0);
        notify.recv(&mut text).expect("netnsd reports readiness");
    }
    daemon
}

/// Returns the path of the daemon, which is beside netnsctl if it was built.
fn netnsd_path() -> PathBuf {
    Path::new(NETNSCTL).with_file_name("netnsd")
}

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read_from_ip() -> String {
    fs::read_to_string(repository_root().join("docs/from-ip.md")).unwrap()
}

/// Returns the parts of a text in backquotes.
fn inline_code(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Returns the rows of the table below a heading, as the lines of each column.
fn table_rows(document: &str, heading: &str) -> Vec<[Vec<String>; 3]> {
    let (_, section) = document.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let table = section
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1);
    let rows = table.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let lines = |cell: &str| inline_code(cell).into_iter().map(str::to_owned).collect();
        <[Vec<String>; 3]>::try_from(cells.into_iter().map(lines).collect::<Vec<_>>()).unwrap()
    });
    rows.collect()
}

/// Returns a line in which netnsctl does the work of `ip`, `bridge` and `brctl`.
fn in_words_of_ip(line: &str) -> String {
    match line.split_once(' ') {
        Some(("ip", rest)) => format!("netnsctl {rest}"),
        Some(("bridge" | "brctl", _)) => format!("netnsctl {line}"),
        _ => line.to_owned(),
    }
}

/// Returns true if everything that a test needs is installed.
fn can_run(needs: &[&str]) -> bool {
    if !netnsd_path().exists() {
        skip::skip(&format!(
            "{} is not built: cargo build --workspace",
            netnsd_path().display()
        ));
        return false;
    }
    needs
        .iter()
        .chain(&["curl", "unshare"])
        .all(|program| skip::has(program))
}

/// Runs a table and compares the hosts after each row.
fn check_table(heading: &str, needs: &[&str]) {
    if !can_run(needs) {
        return;
    }
    let document = read_from_ip();
    let api = inline_code(&document)
        .into_iter()
        .find(|code| code.starts_with("api() {"))
        .expect("api() is defined in the document");
    let hosts = COLUMNS
        .map(|column| ColumnHost::new(column, if column == Column::ByHand { BRCTL } else { api }));
    let rows = table_rows(&document, heading);
    assert!(rows.len() > 5, "{heading} has no table");
    for row in &rows {
        let [by_hand, netnsctl, curl] = row;
        let words = by_hand.iter().map(|line| in_words_of_ip(line)).collect();
        let columns = [by_hand, netnsctl, curl, &words];
        for (host, lines) in hosts.iter().zip(columns) {
            let script = lines.join("\n");
            let output = host.run_script(&script);
            let said =
                String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{script}\n{}: {said}",
                output.status
            );
        }
        let [by_hand, netnsctl, curl, words] = hosts.each_ref().map(ColumnHost::network);
        for (column, network) in [(1, netnsctl), (2, curl), (3, words)] {
            let text = |network: &Value| serde_json::to_string_pretty(network).unwrap();
            assert_eq!(
                text(&network),
                text(&by_hand),
                "{:#?} differs from {:#?}",
                columns[column],
                columns[0]
            );
        }
    }
}

#[test]
fn namespaces_table_is_correct() {
    check_table("Namespaces", &["ip"]);
}

#[test]
fn veth_address_route_table_is_correct() {
    check_table("Veth pairs, addresses, routes", &["ip", "ping"]);
}

#[test]
fn bridge_table_for_ip_is_correct() {
    check_table("Bridges, from ip and bridge", &["ip", "bridge"]);
}

#[test]
fn bridge_table_for_brctl_is_correct() {
    check_table("Bridges, from brctl", &["ip", "bridge", "brctl"]);
}

/// The tours claim to do the same, and their last step deletes all that they made.
#[test]
fn readme_tours_have_the_same_effect() {
    if !can_run(&["ip"]) {
        return;
    }
    let readme = fs::read_to_string(repository_root().join("README.md")).unwrap();
    let tour = |heading: &str| {
        let (_, section) = readme.split_once(&format!("\n## {heading}\n")).unwrap();
        let script = section.split("```sh\n").nth(1).unwrap();
        let script = script.split("```").next().unwrap();
        let (tour, end) = script.split_once("# Clean up").unwrap();
        (tour.to_owned(), format!("# {end}"))
    };
    let tours = [
        (Column::Netnsctl, tour("Tour with netnsctl")),
        (Column::Curl, tour("Tour with curl")),
    ];
    let nothing = ColumnHost::new(Column::ByHand, "").network();
    let mut networks = Vec::new();
    for (column, (tour, end)) in tours {
        let functions = tour.lines().find(|line| line.starts_with("api()"));
        let end = format!("{}\n{end}", functions.unwrap_or_default());
        let host = ColumnHost::new(column, "");
        let run = |script: &str| {
            let output = host.run_script(script);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{script}\n{errors}");
            // Nothing in it waits, or looks like an error.
            assert_eq!(errors, "", "{script}");
        };
        run(&tour);
        networks.push(host.network());
        run(&end);
        assert_eq!(host.network(), nothing);
    }
    assert_eq!(networks[0], networks[1]);
}
