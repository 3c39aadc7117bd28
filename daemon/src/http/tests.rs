//! Tests of the routes as a whole.

use std::collections::BTreeSet;

use super::{openapi, table};

#[test]
fn every_path_is_described_and_none_else() {
    let served: BTreeSet<String> = table().into_iter().map(|(path, _)| path.to_owned()).collect();
    let described: BTreeSet<String> = openapi().paths.paths.into_keys().collect();
    assert_eq!(served, described);
}
