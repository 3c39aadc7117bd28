//! `netnsctl edit`.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::Path,
    process::Command,
};

use http::Method;
use netnsd_api::{READ_ONLY, read_yaml, sparse};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::{
    api::RequestBody, cli::Context, error::CliError, resource::resource_path, status::ResourceArg,
    yaml::to_yaml,
};

/// Opens a resource as YAML in an editor, and replaces it if it did not change meanwhile. On a
/// terminal a refused text is opened again, with the reason.
pub async fn edit_resource(context: &Context, resource: &ResourceArg) -> Result<(), CliError> {
    let path = resource_path(resource.kind, &resource.name);
    let mut spec: Value = serde_json::from_slice(&context.api.get(&path).await?)?;
    let etag = format!("\"{}\"", spec["generation"]);
    if let Some(fields) = spec.as_object_mut() {
        for field in READ_ONLY {
            fields.remove(field);
        }
    }
    let before = to_yaml(sparse(resource.kind, spec).to_string().as_bytes())?;

    let mut file = tempfile::Builder::new()
        .prefix("netnsctl-")
        .suffix(".yaml")
        .tempfile()?;
    file.write_all(before.as_bytes())?;
    let mut before = before;
    loop {
        run_editor(file.path())?;
        let after = fs::read_to_string(file.path())?;
        if after == before {
            eprintln!("netnsctl: no changes");
            return Ok(());
        }
        let error = match read_yaml(&after) {
            Ok(body) => {
                let (body, etag) = (RequestBody::Json(&body), Some(etag.as_str()));
                let api = &context.api;
                match api
                    .send_if_match(Method::PUT, &path, Some(&body), etag)
                    .await
                {
                    Ok(_) => return Ok(()),
                    Err(error @ (CliError::Problem { .. } | CliError::Refused(_))) => error.text(),
                    Err(other) => return Err(other),
                }
            }
            Err(error) => format!("invalid YAML: {error}"),
        };
        // An editor without a terminal cannot be asked again.
        if !io::stdin().is_terminal() {
            return Err(keep_file(file, &error));
        }
        before = with_comment(&after, &error);
        fs::write(file.path(), &before)?;
    }
}

/// Puts an error before a text as a comment, instead of an earlier one.
fn with_comment(text: &str, error: &str) -> String {
    let rest = text.lines().skip_while(|line| line.starts_with("# ! "));
    let comment = error.lines().map(|line| format!("# ! {line}\n"));
    comment
        .chain(rest.map(|line| format!("{line}\n")))
        .collect()
}

/// Runs the editor of the environment, by default vi.
fn run_editor(file: &Path) -> Result<(), CliError> {
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_else(|| "vi".into());
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$0\"")])
        .arg(file)
        .status()?;
    if !status.success() {
        return Err(CliError::Refused(format!(
            "{editor} failed ({status}): the resource was not changed"
        )));
    }
    Ok(())
}

/// Keeps the edited file; returns an error with its path.
fn keep_file(file: NamedTempFile, reason: &str) -> CliError {
    let hint = file.keep().map_or_else(
        |_| String::new(),
        |(_, path)| format!("\n  your edits are kept in {}", path.display()),
    );
    CliError::Refused(format!("{reason}{hint}"))
}
