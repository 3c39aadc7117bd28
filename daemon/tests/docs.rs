//! The documents among themselves: links lead somewhere, and the API guide leaves nothing out.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

fn root() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap()
}

/// Every Markdown file of the project.
fn documents() -> Vec<PathBuf> {
    fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type().unwrap().is_dir()
                && name != "target"
                && !name.to_string_lossy().starts_with('.')
            {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    collect(&root(), &mut found);
    found
}

/// The text without its blocks of code.
fn prose(text: &str) -> String {
    text.split("\n```").step_by(2).collect()
}

/// Returns the targets in the parentheses after a bracket.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim_start_matches('#')
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_have_targets() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = prose(&fs::read_to_string(&document).unwrap());
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(file)
            };
            let there = target.exists()
                && (fragment.is_empty() || {
                    let text = prose(&fs::read_to_string(&target).unwrap());
                    text.lines()
                        .any(|line| line.starts_with('#') && anchor(line) == fragment)
                });
            if !there {
                wrong.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn readme_names_the_commands_to_run() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for line in ["cargo run --profile quick -- try", "cargo test --workspace"] {
        assert!(readme.contains(&format!("```sh\n{line}\n```")), "{line}");
    }
    assert!(readme.contains("`cargo run --release -- try`"));
    // Each document can be found from there.
    for document in documents() {
        let path = document.strip_prefix(root()).unwrap().to_str().unwrap();
        assert!(
            path == "README.md" || readme.contains(&format!("]({path})")),
            "{path} is not linked"
        );
    }
}

#[test]
fn guide_names_every_path_field_and_code() {
    let guide = fs::read_to_string(root().join("docs/api.md")).unwrap();
    let openapi: Value = serde_json::from_str(&netnsd::http::openapi().to_json().unwrap()).unwrap();
    let mut names: BTreeSet<&str> = openapi["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut words = BTreeSet::new();
    for schema in openapi["components"]["schemas"]
        .as_object()
        .unwrap()
        .values()
    {
        words.extend(
            schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.as_str()),
        );
        words.extend(
            schema["enum"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str),
        );
    }
    // A path stands there with its parameters, or with names in their place.
    let tail = |path: &str| {
        path.rsplit_once('}')
            .map_or(path.to_owned(), |(_, tail)| tail.to_owned())
    };
    names.retain(|path| !guide.contains(*path) && !guide.contains(&tail(path)));
    words.retain(|word| {
        !guide.contains(&format!("`{word}`")) && !guide.contains(&format!("\"{word}\""))
    });
    assert!(
        names.is_empty() && words.is_empty(),
        "docs/api.md does not tell of {names:?} {words:?}"
    );
}
