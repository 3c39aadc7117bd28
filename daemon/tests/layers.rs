//! Modules of the daemon import only modules below them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Modules from the bottom up; what `docs/architecture.md` draws.
const LAYERS: [&str; 21] = [
    "model",
    "links",
    "access",
    "shares",
    "memory",
    "liveness",
    "metrics",
    "service_manager",
    "watchdog",
    "sandbox",
    "store",
    "kernel",
    "intent",
    "plan",
    "process",
    "engine",
    "settings",
    "http",
    "daemon",
    "tryout",
    "main",
];

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Returns the Rust files below a directory.
fn source_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Returns the top-level module of a file.
fn module_of(file: &Path) -> String {
    let path = file.strip_prefix(source_root()).unwrap();
    let first = path.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Returns the modules that a source imports with `use crate::…` or names as `crate::…`.
fn imported_modules(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in source.match_indices("crate::") {
        let rest = &source[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(first_word(rest)),
        }
    }
    found
}

/// Returns the first word of each item of an import group, up to the group's closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut is_start, mut heads) = (0, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            c if is_start && !c.is_whitespace() => {
                heads.extend(first_word(&group[at..]));
                is_start = false;
            }
            _ => {}
        }
    }
    heads
}

fn first_word(text: &str) -> Option<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let word: String = text.chars().take_while(|c| is_part(*c)).collect();
    (!word.is_empty()).then_some(word)
}

/// Returns a file's source without comments and its tests.
fn production_source(file: &Path) -> String {
    let source = fs::read_to_string(file).unwrap();
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    code.collect::<Vec<_>>().join("\n")
}

#[test]
fn modules_import_only_modules_below_them() {
    let rank = |module: &str| LAYERS.iter().position(|layer| *layer == module);
    let mut upward = Vec::new();
    for file in source_files(&source_root()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let module = module_of(&file);
        if ["tests.rs", "fuzz.rs"].contains(&name) || module == "lib" {
            continue;
        }
        let own = rank(&module).unwrap_or_else(|| panic!("{module} is in no layer"));
        for other in imported_modules(&production_source(&file)) {
            if rank(&other).is_some_and(|other| other > own) {
                upward.push(format!("{} imports {other}", file.display()));
            }
        }
    }
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

/// Modules that may know the answer to a request.
const ABOVE_ERRORS: [&str; 4] = ["http", "daemon", "tryout", "main"];

#[test]
fn only_http_makes_problems() {
    let is_word = |text: &str| {
        text.split(|c: char| !c.is_alphanumeric())
            .any(|w| w == "Problem")
    };
    let mut found = Vec::new();
    for file in source_files(&source_root()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name != "tests.rs" && !ABOVE_ERRORS.contains(&&*module_of(&file)) {
            let source = production_source(&file);
            found.extend(is_word(&source).then(|| file.display().to_string()));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn imports_are_found_in_groups_and_paths() {
    let source = "use crate::{engine::{Write, View}, model::Spec};\nfn f() { crate::plan::plan() }";
    let expected = ["engine", "model", "plan"].map(str::to_owned);
    assert_eq!(imported_modules(source), BTreeSet::from(expected));
}
