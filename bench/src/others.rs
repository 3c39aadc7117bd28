//! What people use today, each asked for W(N) in the way that it is meant to be used.

use std::{
    fmt::Write,
    fs,
    io::{self, Write as _},
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
};

/// A way of making W(N) with somebody else's tool.
pub struct Other {
    /// What it is called in tables.
    pub name: &'static str,
    /// The most namespaces that it is asked for: beyond, it takes minutes.
    pub most: u32,
    /// A program that it cannot do without.
    needs: &'static str,
    make: fn(u32) -> io::Result<()>,
    /// Whether it is told what there is to be, and may be told so again.
    pub declares: bool,
}

pub const OTHERS: [Other; 6] = [
    Other {
        name: "ip-script",
        most: 100,
        needs: "ip",
        make: script,
        declares: false,
    },
    Other {
        name: "ip-batch",
        most: 1_000,
        needs: "ip",
        make: batch,
        declares: false,
    },
    Other {
        name: "cni-bridge",
        most: 500,
        needs: "/usr/lib/cni/bridge",
        make: cni,
        declares: false,
    },
    Other {
        name: "netavark",
        most: 500,
        needs: "/usr/lib/podman/netavark",
        make: netavark,
        declares: false,
    },
    Other {
        name: "pyroute2",
        most: 500,
        needs: "python3",
        make: pyroute2,
        declares: false,
    },
    Other {
        name: "ifstate",
        most: 100,
        needs: "ifstatecli",
        make: ifstate,
        declares: true,
    },
];

impl Other {
    /// Whether what it needs is installed.
    pub fn is_there(&self) -> bool {
        let found = |program: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            program.starts_with('/') && Path::new(program).exists()
                || std::env::split_paths(&path).any(|dir| dir.join(program).exists())
        };
        let module = || {
            Command::new("python3")
                .args(["-c", "import pyroute2"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        };
        found(self.needs) && (self.name != "pyroute2" || module())
    }

    /// Makes W(N).
    ///
    /// # Errors
    /// When the tool fails.
    pub fn make(&self, n: u32) -> io::Result<()> {
        (self.make)(n)
    }
}

/// The address of the `i`th namespace.
pub fn address(i: u32) -> String {
    Ipv4Addr::from(crate::place(i).1).to_string()
}

/// Runs a program with this on its standard input.
fn run(command: &mut Command, input: &str) -> io::Result<()> {
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
    let said = [output.stdout, output.stderr].concat();
    Err(io::Error::other(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&said)
    )))
}

/// A tutorial's shell script.
fn script(n: u32) -> io::Result<()> {
    let mut script =
        "set -e\nip link add br0 type bridge\nip addr add 10.0.0.254/16 dev br0\nip link set br0 up\n".to_owned();
    for i in 0..n {
        let address = address(i);
        let _infallible = write!(
            script,
            "ip netns add n{i}\nip netns exec n{i} ip link set lo up\nip link add p{i} type veth peer name e{i}\n\
             ip link set e{i} netns n{i}\nip netns exec n{i} ip link set e{i} name eth0\n\
             ip netns exec n{i} ip addr add {address}/16 dev eth0\nip netns exec n{i} ip link set eth0 up\n\
             ip netns exec n{i} ip route add default via 10.0.0.254\nip link set p{i} master br0\nip link set p{i} up\n"
        );
    }
    run(&mut Command::new("sh"), &script)
}

/// As few processes as `ip` allows: one for the host's side at a time, one inside each namespace.
fn batch(n: u32) -> io::Result<()> {
    let ip = || Command::new("ip");
    let lines = |line: &dyn Fn(u32) -> String| (0..n).map(line).collect::<String>();
    let bridge = "link add br0 type bridge\naddr add 10.0.0.254/16 dev br0\nlink set br0 up\n";
    let namespaces = lines(&|i| format!("netns add n{i}\n"));
    let pairs = lines(&|i| format!("link add p{i} type veth peer name eth0 netns n{i}\n"));
    run(
        ip().args(["-batch", "-"]),
        &format!("{bridge}{namespaces}{pairs}"),
    )?;
    for i in 0..n {
        let address = address(i);
        let inside = format!(
            "link set lo up\naddr add {address}/16 dev eth0\nlink set eth0 up\nroute add default via 10.0.0.254\n"
        );
        run(ip().args(["-n", &format!("n{i}"), "-batch", "-"]), &inside)?;
    }
    run(
        ip().args(["-batch", "-"]),
        &lines(&|i| format!("link set p{i} addrgenmode none\nlink set p{i} master br0 up\n")),
    )
}

/// The bridge plugin of CNI, with addresses by host-local, as a container runtime calls it.
fn cni(n: u32) -> io::Result<()> {
    let network = r#"{"cniVersion": "0.4.0", "name": "w", "type": "bridge", "bridge": "br0", "isGateway": true, "ipam":
        {"type": "host-local", "subnet": "10.0.0.0/16", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni"}}"#;
    let loopback = r#"{"cniVersion": "0.4.0", "name": "lo", "type": "loopback"}"#;
    for i in 0..n {
        let name = format!("n{i}");
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
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
            run(&mut command, config)?;
        }
    }
    Ok(())
}

/// netavark, as podman calls it: its rules of iptables are part of the price.
fn netavark(n: u32) -> io::Result<()> {
    let config = tempfile::tempdir()?;
    for i in 0..n {
        let (name, address) = (format!("n{i}"), address(i));
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        let options = serde_json::json!({
            "container_id": name, "container_name": name,
            "networks": {"w": {"static_ips": [address], "interface_name": "eth0"}},
            "network_info": {"w": {"name": "w", "id": "0".repeat(64), "driver": "bridge", "network_interface": "br0",
                "subnets": [{"subnet": "10.0.0.0/16", "gateway": "10.0.0.254"}], "ipv6_enabled": false,
                "internal": false, "dns_enabled": false, "ipam_options": {"driver": "host-local"}}},
        });
        let mut command = Command::new("/usr/lib/podman/netavark");
        command.arg("--config").arg(config.path());
        run(
            command.args(["setup", &format!("/run/netns/{name}")]),
            &options.to_string(),
        )?;
    }
    Ok(())
}

fn pyroute2(n: u32) -> io::Result<()> {
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
    run(Command::new("python3").args(["-", &n.to_string()]), PROGRAM)
}

fn ifstate(n: u32) -> io::Result<()> {
    let mut interfaces = serde_json::Map::new();
    let bridge = serde_json::json!({"addresses": ["10.0.0.254/16"], "link": {"kind": "bridge", "state": "up"}});
    interfaces.insert("br0".to_owned(), bridge);
    let mut namespaces = serde_json::Map::new();
    for i in 0..n {
        let port = serde_json::json!({"link": {"kind": "veth", "peer": "eth0", "peer_netns": format!("n{i}"),
            "master": "br0", "state": "up"}});
        interfaces.insert(format!("p{i}"), port);
        let eth0 = serde_json::json!({"addresses": [format!("{}/16", address(i))],
            "link": {"kind": "veth", "peer": format!("p{i}"), "peer_netns": null, "state": "up"}});
        let routes = serde_json::json!({"routes": [{"to": "0.0.0.0/0", "via": "10.0.0.254", "dev": "eth0"}]});
        let lo = serde_json::json!({"link": {"state": "up"}});
        let inside = serde_json::json!({"interfaces": {"lo": lo, "eth0": eth0}, "routing": routes});
        namespaces.insert(format!("n{i}"), inside);
    }
    let config = tempfile::NamedTempFile::new()?;
    // Its YAML takes JSON.
    fs::write(
        &config,
        serde_json::json!({"interfaces": interfaces, "namespaces": namespaces}).to_string(),
    )?;
    let mut command = Command::new("ifstatecli");
    run(
        command
            .arg("--quiet")
            .arg("-c")
            .arg(config.path())
            .arg("apply"),
        "",
    )
}
