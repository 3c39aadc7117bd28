//! `netnsctl netns identify` and `netnsctl netns pids`.

use netnsd_api::{Items, Namespace, Process, ProcessNamespace};

use crate::{
    cli::Context,
    error::CliError,
    output::{Format, format_table, print_json_or_yaml, print_line, print_text},
    resource::ResourcePath,
};

/// Prints the namespace of a process; nothing, if it has no name.
pub async fn show_process_namespace(context: &Context, pid: Option<u32>) -> Result<(), CliError> {
    let pid = pid.unwrap_or_else(std::process::id);
    let answer = context
        .api
        .get(&format!("/v1/processes/{pid}/namespace"))
        .await?;
    if print_json_or_yaml(context.format, &answer)? {
        return Ok(());
    }
    serde_json::from_slice::<ProcessNamespace>(&answer)?
        .namespace
        .map_or(Ok(()), print_line)
}

/// Returns the managed namespace that a process is in; `None` for the host's.
pub async fn find_process_namespace(
    context: &Context,
    pid: u32,
) -> Result<Option<String>, CliError> {
    // As in `ip link set … netns 1`, from within a namespace.
    if pid == 1 {
        return Ok(None);
    }
    let identify = async |pid: u32| -> Result<ProcessNamespace, CliError> {
        let path = format!("/v1/processes/{pid}/namespace");
        Ok(serde_json::from_slice(&context.api.get(&path).await?)?)
    };
    let found = identify(pid).await?;
    if found.namespace.is_some() || found.inode == identify(std::process::id()).await?.inode {
        return Ok(found.namespace);
    }
    Err(CliError::Refused(format!(
        "process {pid} is in a namespace without a name: netnsctl netns attach NAME {pid} names it"
    )))
}

/// Lists the processes of a namespace; with `long` their users and commands too.
pub async fn list_processes(
    context: &Context,
    namespace: &str,
    long: bool,
) -> Result<(), CliError> {
    let path = ResourcePath::resource::<Namespace>(namespace).child("processes");
    let answer = context.api.get(&path.to_string()).await?;
    if print_json_or_yaml(context.format, &answer)? {
        return Ok(());
    }

    let processes = serde_json::from_slice::<Items<Process>>(&answer)?.items;
    if !long || context.format == Format::Name {
        return processes
            .into_iter()
            .try_for_each(|process| print_line(process.pid.to_string()));
    }
    let rows = processes.into_iter().map(|process| {
        vec![
            process.pid.to_string(),
            process.uid.to_string(),
            process.command,
        ]
    });
    print_text(format_table(&["PID", "UID", "COMMAND"], rows.collect()))
}
