//! The committed `openapi.yaml` is what the code says. `NETNSD_WRITE_OPENAPI=1 cargo test -p netnsd --test openapi` writes it.

use std::{fs, path::Path};

#[test]
fn openapi_yaml_is_not_stale() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi.yaml");
    let now = netnsd::http::openapi().to_yaml().unwrap();
    if std::env::var_os("NETNSD_WRITE_OPENAPI").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == now, "openapi.yaml is stale: NETNSD_WRITE_OPENAPI=1 cargo test -p netnsd --test openapi");
}
