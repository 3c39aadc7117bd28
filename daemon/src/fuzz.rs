//! Targets of `fuzz/`: parsers of input from outside. A test runs them on the stored seeds.

use netnsd_api::{Exec, Kind, NewToken, Ping, parse};

use crate::{http, kernel::real, model::Spec, settings};

/// Fuzzes bodies, queries and frames of requests.
pub fn request(data: &[u8]) {
    http::fuzz::frame(data);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    http::fuzz::query(text);
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else {
        return;
    };
    // Invalid input is refused; it must not panic.
    let _ = (
        parse::<Exec>(&value),
        parse::<Ping>(&value),
        parse::<NewToken>(&value),
    );
    for kind in Kind::ALL {
        // A valid spec survives serialization.
        if let Some(spec) = http::fuzz::body(kind, &value).filter(|spec| !spec.name().is_unset()) {
            let again = Spec::from_json(kind, spec.to_json().expect("a spec is JSON"))
                .expect("it was read before");
            assert_eq!(again, spec);
        }
    }
}

/// Fuzzes topology documents, as JSON and as YAML.
pub fn topology(data: &[u8]) {
    http::fuzz::document(data);
}

/// Fuzzes answers and notifications of the kernel.
pub fn netlink(data: &[u8]) {
    real::fuzz::answers(data);
    real::fuzz::notices(data);
}

/// Fuzzes the configuration file.
pub fn configuration(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        settings::fuzz(text);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    type Target = fn(&[u8]);

    #[test]
    fn stored_seeds_do_not_panic() {
        let targets: [(&str, Target); 4] = [
            ("request", super::request),
            ("topology", super::topology),
            ("netlink", super::netlink),
            ("configuration", super::configuration),
        ];
        for (name, target) in targets {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../fuzz/seeds")
                .join(name);
            let mut count = 0;
            for entry in fs::read_dir(&dir).unwrap() {
                target(&fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{}", dir.display());
        }
    }
}
