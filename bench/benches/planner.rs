//! Planning time by the size of the network: W(N) from nothing, and when it is in sync already.
//!
//! `cargo bench -p netnsd-bench`

use std::{collections::BTreeMap, hint::black_box};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use netnsd::{
    kernel::{Observed, sim::SimKernel},
    model::Spec,
    plan::{Ownership, Task, plan},
};
use netnsd_api::Kind;
use serde_json::json;

/// Returns the specs of W(n): a bridge, `n` namespaces, and `n` pairs.
fn network(n: usize) -> Vec<Spec> {
    let spec = |kind, json| Spec::from_json(kind, json).expect("a valid spec");
    let namespace = |i| {
        let routes = json!([{"destination": "default", "via": "10.255.255.254"}]);
        spec(
            Kind::Namespace,
            json!({"name": format!("n{i}"), "routes": routes}),
        )
    };
    let veth = |i| {
        let address = format!("10.{}.{}.{}/8", i / 62_500, i / 250 % 250, i % 250 + 1);
        let ends = json!([{"namespace": format!("n{i}"), "interface": "eth0", "addresses": [address]},
            {"interface": format!("p{i}"), "bridge": "br0"}]);
        spec(
            Kind::Veth,
            json!({"name": format!("v{i}"), "endpoints": ends}),
        )
    };
    let bridge = spec(
        Kind::Bridge,
        json!({"name": "br0", "interface": "br0", "addresses": ["10.255.255.254/8"]}),
    );
    std::iter::once(bridge)
        .chain((0..n).map(namespace))
        .chain((0..n).map(veth))
        .collect()
}

fn bench_planning(criterion: &mut Criterion) {
    let prior = BTreeMap::new();
    for (case, new) in [("from nothing", true), ("nothing to do", false)] {
        let mut group = criterion.benchmark_group(case);
        group.sample_size(10);
        for n in [10, 100, 1_000, 10_000] {
            let specs = network(n);
            let task = |spec| Task {
                resource: Spec::resource(spec),
                uid: "019403b0-0000-7000-8000-000000000000",
                desired: Some(spec),
                applied: &[],
                prior: &prior,
                devices: &[],
                interfaces: Vec::new(),
                is_new: new,
                macs: &[],
                keep_macs: false,
                ownership: Ownership::Keep,
            };
            let tasks: Vec<Task<'_>> = specs.iter().map(task).collect();
            let bridge = |name: &netnsd_api::Name| {
                Some(netnsd::model::BridgeDevice::with_default_pvid(
                    name.as_str(),
                ))
            };
            let kernel = SimKernel::default();
            if !new {
                for step in plan(&tasks, &bridge, &Observed::default()).steps {
                    kernel
                        .apply(&step.op)
                        .expect("the simulated kernel accepts the plan");
                }
            }
            let observed = Observed {
                namespaces: kernel.everything(),
                ..Observed::default()
            };
            let steps = plan(&tasks, &bridge, &observed).steps.len();
            assert_eq!(steps == 0, !new, "{case}: {steps} operations");
            group.throughput(Throughput::Elements(specs.len() as u64));
            let mut run = |criterion: &mut criterion::Bencher<'_>, tasks: &Vec<Task<'_>>| {
                criterion.iter(|| plan(black_box(tasks), &bridge, &observed));
            };
            group.bench_with_input(BenchmarkId::from_parameter(n), &tasks, &mut run);
        }
        group.finish();
    }
}

criterion_group!(benches, bench_planning);
criterion_main!(benches);
