//! Metrics, as Prometheus reads them.

mod common;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::Host;
use serde_json::json;

/// The samples of `GET /metrics`: what stands before the value, and the value. Each line is checked
/// for its form.
fn samples(host: &Host) -> Vec<(String, f64)> {
    let (head, body) = host.whole("GET", "/metrics", &[], "");
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(
            (name.starts_with("netnsd_") || name.starts_with("process_")) && name.is_ascii(),
            "{line}"
        );
        (
            name.to_owned(),
            value.parse().unwrap_or_else(|_| panic!("{line}")),
        )
    };
    body.lines()
        .filter(|line| !line.starts_with('#'))
        .map(sample)
        .collect()
}

fn value(samples: &[(String, f64)], name: &str) -> f64 {
    samples
        .iter()
        .find(|(known, _)| known == name)
        .map_or(0.0, |(_, value)| *value)
}

#[test]
fn metrics_count_requests_and_changes() {
    let host = Host::started();
    let before = samples(&host);
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.put("/v1/bridges/br0", json!({"addresses": ["10.0.0.1/24"]}))
        .ok();
    host.put("/v1/bridges/br0", json!({"mtu": 1}))
        .refused(422, "invalid_field", None);
    host.get("/v1/nowhere").refused(404, "no_such_path", None);
    host.raw("PURR", "/v1", &[], Vec::new())
        .refused(405, "method_not_allowed", None);
    host.put(
        "/v1/namespaces/net0",
        json!({"sysctls": {"net.ipv4.ip_default_ttl": 100_000}}),
    )
    .refused(422, "kernel_rejected", None);
    host.run(&["ip", "address", "del", "10.0.0.1/24", "dev", "br0"]);
    host.until("it is repaired", || {
        value(&samples(&host), "netnsd_repairs_total") == 1.0
    });
    let after = samples(&host);
    let grown = |name: &str| value(&after, name) - value(&before, name);
    for (name, count) in [
        (
            "netnsd_http_requests_total{method=\"PUT\",route=\"/v1/bridges/{name}\",code=\"200\"}",
            0.0,
        ),
        (
            "netnsd_http_requests_total{method=\"PUT\",route=\"/v1/bridges/{name}\",code=\"201\"}",
            1.0,
        ),
        (
            "netnsd_http_requests_total{method=\"PUT\",route=\"/v1/bridges/{name}\",code=\"422\"}",
            1.0,
        ),
        (
            "netnsd_http_requests_total{method=\"GET\",route=\"none\",code=\"404\"}",
            1.0,
        ),
        (
            "netnsd_http_requests_total{method=\"other\",route=\"/v1\",code=\"405\"}",
            1.0,
        ),
        (
            "netnsd_http_request_duration_seconds_count{method=\"PUT\",route=\"/v1/bridges/{name}\"}",
            2.0,
        ),
        (
            "netnsd_kernel_operations_total{op=\"namespace_add\",result=\"ok\"}",
            1.0,
        ),
        (
            "netnsd_kernel_operations_total{op=\"sysctl_set\",result=\"EINVAL\"}",
            1.0,
        ),
        ("netnsd_resources{kind=\"bridge\",state=\"in_sync\"}", 1.0),
        ("netnsd_resources{kind=\"veth\",state=\"in_sync\"}", 0.0),
    ] {
        assert_eq!(grown(name), count, "{name} in {after:#?}");
    }
    assert!(
        grown("netnsd_store_commits_total") >= 2.0
            && grown("netnsd_store_commit_duration_seconds_count") >= 2.0
    );
    assert_eq!(value(&after, "netnsd_ready"), 1.0);
    host.raw("GET", "/metrics?x=1", &[], Vec::new())
        .refused(400, "invalid_query", None);
}

#[test]
fn process_metrics_have_standard_names() {
    let before = SystemTime::now();
    let host = Host::started();
    let samples = samples(&host);
    let value = |name: &str| value(&samples, name);
    let memory = value("process_resident_memory_bytes");
    assert!(
        memory > 1e6 && value("process_virtual_memory_bytes") > memory,
        "{samples:#?}"
    );
    assert!(
        value("process_open_fds") > 5.0
            && value("process_max_fds") > value("process_open_fds")
            && value("process_cpu_seconds_total") >= 0.0,
        "{samples:#?}"
    );
    // The kernel counts the start in ticks since the boot, and tells the boot's time in seconds.
    let start = UNIX_EPOCH + Duration::from_secs_f64(value("process_start_time_seconds"));
    let margin = Duration::from_secs(2);
    assert!(
        start > before - margin && start < SystemTime::now() + margin,
        "{start:?} is not after {before:?}"
    );
}

#[test]
fn plain_text_has_the_prometheus_format() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    let get = |accept: &str| host.whole("GET", "/metrics", &[("accept", accept)], "");
    let (head, plain) = get("text/plain");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{head}"
    );
    assert!(
        !plain.contains("# EOF") && !plain.contains("# UNIT"),
        "{plain}"
    );
    for line in [
        "# HELP netnsd_build_info Version of the daemon.",
        "# TYPE netnsd_build_info gauge",
        "# TYPE netnsd_http_requests_total counter",
        "# TYPE netnsd_http_request_duration_seconds histogram",
        "# TYPE netnsd_ready gauge",
        "# TYPE process_cpu_seconds_total counter",
    ] {
        assert!(plain.lines().any(|known| known == line), "{line}\n{plain}");
    }
    // A scrape changes the metrics of requests; all others are the same.
    let others = |text: &str| {
        let names = text.lines().filter(|line| !line.starts_with('#'));
        let names = names.filter_map(|line| line.rsplit_once(' ').map(|(name, _)| name.to_owned()));
        names
            .filter(|name| !name.contains("_http_"))
            .collect::<Vec<_>>()
    };
    // Prometheus accepts both.
    let (head, open) = get(
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    );
    assert!(
        head.contains("content-type: application/openmetrics-text"),
        "{head}"
    );
    assert_eq!(others(&plain), others(&open));
}

/// Each link's counters by its labels, and `ip -s` says the same.
#[test]
fn counters_of_links_come_on_request() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    let ends = json!({"endpoints": [
        {"namespace": "net0", "interface": "eth0", "addresses": ["10.0.0.1/24"]},
        {"interface": "port0", "addresses": ["10.0.0.2/24"]}]});
    host.put("/v1/veths/lan0", ends).ok();
    host.run(&[
        "ip", "link", "add", "foreign0", "type", "veth", "peer", "foreign1",
    ]);
    host.post("/v1/namespaces/net0/ping", json!({"address": "10.0.0.2"}))
        .ok();
    let names = [
        ("receive_bytes", "rx", "bytes"),
        ("receive_packets", "rx", "packets"),
        ("receive_errs", "rx", "errors"),
        ("receive_drop", "rx", "dropped"),
        ("transmit_bytes", "tx", "bytes"),
        ("transmit_packets", "tx", "packets"),
        ("transmit_errs", "tx", "errors"),
        ("transmit_drop", "tx", "dropped"),
    ];
    let kernel = |namespace: &str, interface: &str| {
        let prefix = if namespace.is_empty() {
            vec![]
        } else {
            vec!["-n", namespace]
        };
        let shown = host.ip(&[&prefix[..], &["-s", "link", "show", interface]].concat());
        let counters = shown[0]["stats64"].clone();
        names.map(|(_, way, what)| counters[way][what].as_f64().unwrap())
    };
    let scraped = |namespace: &str, interface: &str, resource: &str| {
        let (_, text) = host.whole("GET", "/metrics?links=true", &[], "");
        assert!(
            !text.contains("foreign") && text.ends_with("# EOF\n"),
            "{text}"
        );
        names.map(|(name, ..)| {
            let series = format!(
                "netnsd_link_{name}_total{{namespace=\"{namespace}\",interface=\"{interface}\",resource=\"{resource}\"}} "
            );
            let mut values = text.lines().filter_map(|line| line.strip_prefix(&series));
            values.next().unwrap_or_else(|| panic!("{series}\n{text}")).parse::<f64>().unwrap()
        })
    };
    for (namespace, interface, resource) in [
        ("net0", "eth0", "veth/lan0"),
        ("", "port0", "veth/lan0"),
        ("net0", "lo", "namespace/net0"),
    ] {
        // The kernel sends a little by itself.
        host.until("the counters agree", || {
            let before = kernel(namespace, interface);
            let own = scraped(namespace, interface, resource);
            before == own && own == kernel(namespace, interface)
        });
    }
    assert!(scraped("net0", "eth0", "veth/lan0")[1] >= 1.0);
    // Nobody pays for them who does not ask.
    let (_, text) = host.whole("GET", "/metrics", &[], "");
    assert!(!text.contains("netnsd_link_"), "{text}");
    let (_, plain) = host.whole(
        "GET",
        "/metrics?links=true",
        &[("accept", "text/plain")],
        "",
    );
    let kind = "# TYPE netnsd_link_receive_bytes_total counter";
    assert!(plain.lines().any(|line| line == kind), "{plain}");
    host.get("/metrics?links=1")
        .refused(400, "invalid_query", None);
}
