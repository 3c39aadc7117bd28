//! Metrics, as Prometheus reads them.

mod common;

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
        assert!(name.starts_with("netnsd_") && name.is_ascii(), "{line}");
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
    assert!(value(&after, "netnsd_process_resident_memory_bytes") > 1e6);
    assert!(value(&after, "netnsd_process_open_fds") > 5.0);
    host.raw("GET", "/metrics?x=1", &[], Vec::new())
        .refused(400, "invalid_query", None);
}
