//! Other tools, each applying W(N) in its intended way.

use std::{
    fmt::Write,
    fs,
    io::{self, Write as _},
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
};

/// A tool that applies W(N).
pub struct Baseline {
    /// Its name in tables.
    pub name: &'static str,
    /// Maximum number of namespaces; more take minutes.
    pub max_n: u32,
    /// A program that it requires.
    program: &'static str,
    apply: fn(u32) -> io::Result<()>,
    /// True if it takes the desired state, so that it can be applied again.
    pub is_declarative: bool,
}

pub const BASELINES: &[Baseline] = &[
    Baseline {
        name: "ip-script",
        max_n: 100,
        program: "ip",
        apply: apply_by_script,
        is_declarative: false,
    },
    Baseline {
        name: "ip-batch",
        max_n: 1_000,
        program: "ip",
        apply: apply_by_ip_batch,
        is_declarative: false,
    },
    Baseline {
        name: "cni-bridge",
        max_n: 500,
        program: "/usr/lib/cni/bridge",
        apply: apply_by_cni,
        is_declarative: false,
    },
    Baseline {
        name: "netavark",
        max_n: 500,
        program: "/usr/lib/podman/netavark",
        apply: apply_by_netavark,
        is_declarative: false,
    },
    Baseline {
        name: "pyroute2",
        max_n: 500,
        program: "python3",
        apply: apply_by_pyroute2,
        is_declarative: false,
    },
    Baseline {
        name: "ifstate",
        max_n: 100,
        program: "ifstatecli",
        apply: apply_by_ifstate,
        is_declarative: true,
    },
];

impl Baseline {
    /// Returns true if it is installed.
    pub fn is_installed(&self) -> bool {
        has_program(self.program) && (self.name != "pyroute2" || has_python_module("pyroute2"))
    }

    /// Applies W(N).
    ///
    /// # Errors
    /// If the tool fails.
    pub fn apply(&self, n: u32) -> io::Result<()> {
        (self.apply)(n)
    }
}

/// Returns true if a program is at its absolute path or in `PATH`.
fn has_program(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

fn has_python_module(module: &str) -> bool {
    Command::new("python3")
        .args(["-c", &format!("import {module}")])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Returns the address of the `i`th namespace.
pub fn namespace_address(i: u32) -> String {
    Ipv4Addr::from(crate::bridge_and_address(i).1).to_string()
}

/// Runs a program with a text on its standard input.
fn run_command(command: &mut Command, input: &str) -> io::Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()))?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(io::Error::other(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&text)
    )))
}

/// A shell script as in a tutorial.
fn apply_by_script(n: u32) -> io::Result<()> {
    let mut script =
        "set -e\nip link add br0 type bridge\nip addr add 10.0.0.254/16 dev br0\nip link set br0 up\n".to_owned();
    for i in 0..n {
        let address = namespace_address(i);
        let _ = write!(
            script,
            "ip netns add n{i}\nip netns exec n{i} ip link set lo up\nip link add p{i} type veth peer name e{i}\n\
             ip link set e{i} netns n{i}\nip netns exec n{i} ip link set e{i} name eth0\n\
             ip netns exec n{i} ip addr add {address}/16 dev eth0\nip netns exec n{i} ip link set eth0 up\n\
             ip netns exec n{i} ip route add default via 10.0.0.254\nip link set p{i} master br0\nip link set p{i} up\n"
        );
    }
    run_command(&mut Command::new("sh"), &script)
}

/// `ip -batch` with as few processes as possible: three on the host and one for each namespace.
fn apply_by_ip_batch(n: u32) -> io::Result<()> {
    let bridge = "link add br0 type bridge\naddr add 10.0.0.254/16 dev br0\nlink set br0 up\n";
    let namespaces: String = (0..n).map(|i| format!("netns add n{i}\n")).collect();
    let pairs: String = (0..n)
        .map(|i| format!("link add p{i} type veth peer name eth0 netns n{i}\n"))
        .collect();
    run_command(
        Command::new("ip").args(["-batch", "-"]),
        &format!("{bridge}{namespaces}{pairs}"),
    )?;
    for i in 0..n {
        let address = namespace_address(i);
        let commands = format!(
            "link set lo up\naddr add {address}/16 dev eth0\nlink set eth0 up\nroute add default via 10.0.0.254\n"
        );
        run_command(
            Command::new("ip").args(["-n", &format!("n{i}"), "-batch", "-"]),
            &commands,
        )?;
    }
    let ports: String = (0..n)
        .map(|i| format!("link set p{i} addrgenmode none\nlink set p{i} master br0 up\n"))
        .collect();
    run_command(Command::new("ip").args(["-batch", "-"]), &ports)
}

/// The bridge plugin of CNI with host-local addresses, as called by a container runtime.
fn apply_by_cni(n: u32) -> io::Result<()> {
    let network = r#"{"cniVersion": "0.4.0", "name": "w", "type": "bridge", "bridge": "br0", "isGateway": true, "ipam":
        {"type": "host-local", "subnet": "10.0.0.0/16", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni"}}"#;
    let loopback = r#"{"cniVersion": "0.4.0", "name": "lo", "type": "loopback"}"#;
    for i in 0..n {
        let name = format!("n{i}");
        run_command(Command::new("ip").args(["netns", "add", &name]), "")?;
        for (plugin, config, interface) in
            [("loopback", loopback, "lo"), ("bridge", network, "eth0")]
        {
            let mut command = Command::new(format!("/usr/lib/cni/{plugin}"));
            command
                .env("CNI_COMMAND", "ADD")
                .env("CNI_CONTAINERID", &name)
                .env("CNI_IFNAME", interface);
            command
                .env("CNI_NETNS", format!("/run/netns/{name}"))
                .env("CNI_PATH", "/usr/lib/cni");
            run_command(&mut command, config)?;
        }
    }
    Ok(())
}

/// netavark as called by podman; the time includes its iptables rules.
fn apply_by_netavark(n: u32) -> io::Result<()> {
    let config = tempfile::tempdir()?;
    for i in 0..n {
        let (name, address) = (format!("n{i}"), namespace_address(i));
        run_command(Command::new("ip").args(["netns", "add", &name]), "")?;
        let options = serde_json::json!({
            "container_id": name, "container_name": name,
            "networks": {"w": {"static_ips": [address], "interface_name": "eth0"}},
            "network_info": {"w": {"name": "w", "id": "0".repeat(64), "driver": "bridge", "network_interface": "br0",
                "subnets": [{"subnet": "10.0.0.0/16", "gateway": "10.0.0.254"}], "ipv6_enabled": false,
                "internal": false, "dns_enabled": false, "ipam_options": {"driver": "host-local"}}},
        });
        let mut command = Command::new("/usr/lib/podman/netavark");
        command.arg("--config").arg(config.path());
        run_command(
            command.args(["setup", &format!("/run/netns/{name}")]),
            &options.to_string(),
        )?;
    }
    Ok(())
}

/// The Python library pyroute2, one namespace at a time.
fn apply_by_pyroute2(n: u32) -> io::Result<()> {
    const PROGRAM: &str = r#"
import sys
from pyroute2 import IPRoute, NetNS
host = IPRoute()
host.link("add", ifname="br0", kind="bridge")
bridge = host.link_lookup(ifname="br0")[0]
host.addr("add", index=bridge, address="10.0.0.254", prefixlen=16)
host.link("set", index=bridge, state="up")
for i in range(int(sys.argv[1])):
    with NetNS(f"n{i}") as ns:
        host.link("add", ifname=f"p{i}", kind="veth", peer={"ifname": "eth0", "net_ns_fd": f"n{i}"})
        port = host.link_lookup(ifname=f"p{i}")[0]
        eth0 = ns.link_lookup(ifname="eth0")[0]
        ns.link("set", index=ns.link_lookup(ifname="lo")[0], state="up")
        ns.addr("add", index=eth0, address=f"10.0.{i // 250}.{i % 250 + 1}", prefixlen=16)
        ns.link("set", index=eth0, state="up")
        ns.route("add", dst="default", gateway="10.0.0.254")
        host.link("set", index=port, master=bridge, state="up")
"#;
    run_command(Command::new("python3").args(["-", &n.to_string()]), PROGRAM)
}

/// ifstate, with one configuration for all namespaces.
fn apply_by_ifstate(n: u32) -> io::Result<()> {
    let mut interfaces = serde_json::Map::new();
    let bridge = serde_json::json!({"addresses": ["10.0.0.254/16"], "link": {"kind": "bridge", "state": "up"}});
    interfaces.insert("br0".to_owned(), bridge);
    let mut namespaces = serde_json::Map::new();
    for i in 0..n {
        let port = serde_json::json!({"link": {"kind": "veth", "peer": "eth0", "peer_netns": format!("n{i}"),
            "master": "br0", "state": "up"}});
        interfaces.insert(format!("p{i}"), port);
        let eth0 = serde_json::json!({"addresses": [format!("{}/16", namespace_address(i))],
            "link": {"kind": "veth", "peer": format!("p{i}"), "peer_netns": null, "state": "up"}});
        let routes = serde_json::json!({"routes": [{"to": "0.0.0.0/0", "via": "10.0.0.254", "dev": "eth0"}]});
        let lo = serde_json::json!({"link": {"state": "up"}});
        let namespace =
            serde_json::json!({"interfaces": {"lo": lo, "eth0": eth0}, "routing": routes});
        namespaces.insert(format!("n{i}"), namespace);
    }
    let config = tempfile::NamedTempFile::new()?;
    // JSON is valid YAML.
    fs::write(
        &config,
        serde_json::json!({"interfaces": interfaces, "namespaces": namespaces}).to_string(),
    )?;
    let mut command = Command::new("ifstatecli");
    run_command(
        command
            .arg("--quiet")
            .arg("-c")
            .arg(config.path())
            .arg("apply"),
        "",
    )
}
