//! The state of a host as `ip` and `bridge` print it, so that two hosts can be compared.

use serde_json::{Map, Value, json};

use super::Host;

/// Everything that is compared, section by section.
const LOOK: &str = r#"
look() {
    for family in "-4" "-6"; do
        echo "== $1 ip $family"
        printf '%s\n' "link" "addr" "route show table all" "neigh show nud permanent" "neigh show proxy" "rule" | ip $2 $family -d -j -batch -
    done
    echo "== $1 bridge"; bridge $2 -d -j link
}
look host ""
for ns in $(ls /run/netns 2>/dev/null); do
    look $ns "-n $ns"
    echo "== $ns sysctl"
    ip netns exec $ns sh -c 'cd /proc/sys/net; grep -s . ipv4/ip_forward ipv4/conf/*/rp_filter ipv4/conf/*/proxy_arp ipv6/conf/*/forwarding'
    echo "== $ns files"; grep -rs . /etc/netns/$ns
done
echo "== names"; ls /run/netns /etc/netns 2>/dev/null
"#;

/// Returns the state of a host, without values that the kernel chooses or changes by itself.
pub fn look(host: &Host) -> Vec<String> {
    let output = host.sh(LOOK);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = Vec::new();
    for section in text.split("== ").skip(1) {
        let (title, body) = section.split_once('\n').unwrap();
        let values: Vec<Value> = if ["sysctl", "files", "names"]
            .iter()
            .any(|plain| title.ends_with(plain))
        {
            body.lines().map(Value::from).collect()
        } else {
            serde_json::Deserializer::from_str(body)
                .into_iter()
                .map(Result::unwrap)
                .collect()
        };
        let mut found = Vec::new();
        for mut value in values {
            normal(&mut value);
            match value {
                Value::Array(mut items) => {
                    // These take the index of a peer elsewhere for one here.
                    for item in items
                        .iter_mut()
                        .filter(|_| title.ends_with("bridge") || title.ends_with("-6"))
                    {
                        item["link"] = Value::Null;
                    }
                    // Links without an address but link-local ones; and what the kernel makes of an
                    // address in its own time (`addrconf_dad_work()`, net/ipv6/addrconf.c).
                    let comes_later = |item: &Value| {
                        item["addr_info"] == json!([])
                            || item["type"] == json!("local")
                            || item["type"] == json!("anycast")
                    };
                    items.retain(|item| !title.ends_with("-6") || !comes_later(item));
                    found.extend(items.iter().map(Value::to_string));
                }
                other => found.push(other.to_string()),
            }
        }
        // Links made in another order have other indices.
        found.sort();
        lines.extend(found.into_iter().map(|line| format!("{title}: {line}")));
    }
    lines
}

fn normal(value: &mut Value) {
    /// Indices and ids that the kernel gives, and what comes a little later by itself.
    const OTHER: [&str; 15] = [
        "ifindex",
        "link_index",
        "link_netnsid",
        "operstate",
        "state",
        "bridge_id",
        "root_id",
        "root_port",
        "designated_bridge",
        "designated_root",
        "topology_change",
        "topology_change_detected",
        "root_path_cost",
        "config_pending",
        "topology_change_ack",
    ];
    match value {
        Value::Object(map) => {
            map.retain(|key, _| {
                !OTHER.contains(&key.as_str())
                    && !key.contains("timer")
                    && !key.contains("designated")
            });
            // A peer elsewhere is told by its index.
            map.retain(|key, value| {
                key != "link" || value.as_str().is_none_or(|link| !link.starts_with("if"))
            });
            // With STP the times are those of whoever is the root by now.
            if map.get("stp_state") == Some(&json!(1)) {
                map.retain(|key, _| {
                    !["forward_delay", "hello_time", "max_age"].contains(&key.as_str())
                });
            }
            for (key, value) in map.iter_mut() {
                match (key.as_str(), value.as_str()) {
                    // Other attributes come a little later by themselves.
                    ("flags", _) => value.as_array_mut().unwrap().retain(|flag| *flag == "UP"),
                    // The last part of an owner tag is the resource's uid, which is new on each
                    // host.
                    ("altnames", _) => {
                        for name in value.as_array_mut().unwrap() {
                            *name =
                                json!(name.as_str().unwrap().rsplit_once(':').map(|(tag, _)| tag));
                        }
                    }
                    // A MAC address that nobody asked for is random.
                    ("address", Some(mac)) if !mac.starts_with("02:00:5e") => *value = json!("any"),
                    // While STP tells of a change, addresses are forgotten sooner.
                    ("ageing_time", _) => *value = json!("any"),
                    _ => normal(value),
                }
            }
        }
        Value::Array(items) => {
            items.retain(|item| {
                // Link-local addresses are made of random MAC addresses, and what hangs on them
                // comes with carrier.
                let text = [&item["local"], &item["dst"], &item["prefsrc"]]
                    .map(Value::to_string)
                    .concat();
                let empty = item.as_object().is_some_and(Map::is_empty);
                !empty && !text.contains("fe80") && !text.contains("ff00")
            });
            items.iter_mut().for_each(normal);
        }
        _ => {}
    }
}

/// The kernel's state as sorted lines, without what `strip` takes out: what is made anew is listed
/// elsewhere.
pub fn sorted(host: &Host, strip: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut all: Value = serde_json::from_str(&host.kernel().concat()).unwrap();
    strip(&mut all);
    let text = serde_json::to_string_pretty(&all).unwrap();
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| line.trim_end_matches(',').to_owned())
        .collect();
    lines.sort();
    lines
}
