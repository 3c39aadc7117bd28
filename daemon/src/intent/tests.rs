//! Tests of the intent.

use netnsd_api::{Code, Kind};
use serde_json::{Value, json};

use super::*;
use crate::{
    access::Caller,
    model::{Change, Decision},
};

/// Makes a document's changes.
fn put(intent: &mut Intent, document: &Value) -> Result<Decision, IntentError> {
    let now = "2026-11-24T20:11:04.512Z".parse().unwrap();
    let write = Proposal {
        change: &Change::topology(true, document),
        preconditions: &[],
        adopt: false,
        caller: &Caller::admin("a test"),
    };
    let decision = intent.validate_write(&write, now, &|| "uid".into())?;
    for (resource, record) in &decision.changes {
        intent.set(resource, record.clone());
    }
    Ok(decision)
}

fn pair(name: &str, a: &str, b: &str) -> Value {
    json!({"name": name, "endpoints": [{"interface": a}, {"interface": b}]})
}

#[test]
fn a_document_is_weighed_as_it_will_be() {
    let mut intent = Intent::default();
    put(
        &mut intent,
        &json!({"veths": [pair("v", "a0", "a1"), pair("w", "b0", "b1")]}),
    )
    .unwrap();
    // Names change hands, and one is left to choose.
    let swapped = json!({"veths": [pair("v", "b0", "a1"), pair("w", "a0", "b1"),
        {"name": "x", "endpoints": [{}, {"interface": "veth0"}]}]});
    let decision = put(&mut intent, &swapped).unwrap();
    assert_eq!(decision.changes.len(), 3);
    let Some(Spec::Veth(chosen)) = intent
        .get(&ResourceRef::new(Kind::Veth, "x".parse().unwrap()))
        .map(|of| &*of.spec)
    else {
        panic!("x is a veth")
    };
    assert_eq!(chosen.endpoints[0].device(), "veth1");
}

#[test]
fn a_refused_document_leaves_no_trace_in_the_intent() {
    let mut intent = Intent::default();
    let good = json!({"namespaces": [{"name": "n"}], "veths": [pair("v", "a0", "a1"),
        {"name": "w", "endpoints": [{"namespace": "n", "interface": "eth0"}, {"interface": "a2"}]}]});
    put(&mut intent, &good).unwrap();
    for (bad, code, pointer) in [
        (
            json!({"veths": [pair("v", "a0", "a1"), pair("x", "a1", "c")]}),
            Code::Duplicate,
            "/veths/1/endpoints/0/interface",
        ),
        (
            json!({"veths": [pair("v", "c0", "c1"), pair("v", "d0", "d1")]}),
            Code::Duplicate,
            "/veths/1/name",
        ),
        (
            json!({"veths": [{"name": "w", "endpoints": [{"namespace": "n"}, {}]}]}),
            Code::UnknownReference,
            "/veths/0/endpoints/0/namespace",
        ),
    ] {
        let before = format!("{intent:?}");
        let problem = netnsd_api::Problem::from(put(&mut intent, &bad).unwrap_err());
        assert_eq!(problem.code, code, "{problem:?}");
        assert_eq!(problem.pointer.as_deref(), Some(pointer), "{problem:?}");
        assert_eq!(format!("{intent:?}"), before);
    }
    let again = put(&mut intent, &good).unwrap();
    assert!(again.changes.is_empty(), "{again:?}");
}

#[test]
fn what_leads_and_what_lives_in_it_is_everything() {
    let mut intent = Intent::default();
    let end =
        |namespace: &str, interface: &str| json!({"namespace": namespace, "interface": interface});
    let veth = |name: &str, ends: [Value; 2]| json!({"name": name, "endpoints": ends});
    put(
        &mut intent,
        &json!({
            "namespaces": [{"name": "a"}, {"name": "b"}],
            "bridges": [{"name": "br0"}, {"name": "inside", "namespace": "a"}],
            "veths": [
                pair("host", "h0", "h1"),
                veth("port", [end("a", "eth0"), json!({"interface": "p0", "bridge": "br0"})]),
                veth("between", [end("a", "eth1"), end("b", "eth0")]),
            ],
        }),
    )
    .unwrap();
    let leading: Vec<ResourceRef> = intent
        .leading()
        .map(|(kind, name)| ResourceRef::new(kind, name.clone()))
        .collect();
    let names: Vec<&str> = leading
        .iter()
        .map(|resource| resource.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b", "br0", "host"]);
    assert!(leading.is_sorted());
    let namespaces = leading
        .iter()
        .filter(|resource| resource.kind == Kind::Namespace);
    let inside = namespaces.flat_map(|resource| intent.dependents(resource));
    let mut everything: Vec<ResourceRef> = leading.iter().cloned().chain(inside).collect();
    everything.sort();
    everything.dedup();
    assert!(
        everything
            .into_iter()
            .eq(intent.all().map(|(resource, _)| resource))
    );
}
