//! `netnsctl login` and `netnsctl logout`: the saved URL and credentials.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use netnsd_client::{Server, Tls};
use nix::sys::termios::LocalFlags;
use serde::{Deserialize, Serialize};

use crate::{api::Api, cli::Globals, error::CliError, output::print_line, terminal::TermiosGuard};

/// The URL of a netnsd and the credentials for it, saved in a file that only its owner can read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Login {
    /// The URL.
    pub url: String,
    /// The bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The files of the options, as absolute paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// Returns the path of the saved login (XDG Base Directory Specification); `None` without a home.
fn login_file() -> Option<PathBuf> {
    let config =
        dir_from_env("XDG_CONFIG_HOME").or_else(|| Some(dir_from_env("HOME")?.join(".config")))?;
    Some(config.join("netnsctl").join("login.json"))
}

/// Returns the absolute path in an environment variable.
fn dir_from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

fn file_error(path: &Path, error: impl std::fmt::Display) -> CliError {
    CliError::Usage(format!("{}: {error}", path.display()))
}

impl Login {
    /// Reads the saved login, if there is one.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn load() -> Result<Option<Self>, CliError> {
        let Some(path) = login_file() else {
            return Ok(None);
        };
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| file_error(&path, format!("{error}; netnsctl logout deletes it"))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(file_error(&path, error)),
        }
    }

    /// Returns the address and the credentials for a client.
    ///
    /// # Errors
    /// An invalid URL, certificates that cannot be read.
    pub fn server(&self) -> Result<Server, CliError> {
        // A path alone can only be that of a socket.
        let path = self.url.strip_prefix("unix://").unwrap_or(&self.url);
        if path.starts_with('/') {
            return Ok(Server::Unix(path.into()));
        }
        let (rest, tls) = match (
            self.url.strip_prefix("http://"),
            self.url.strip_prefix("https://"),
        ) {
            (Some(rest), _) => (rest, None),
            (_, Some(rest)) => {
                let own = self.cert_file.as_deref().zip(self.key_file.as_deref());
                (
                    rest,
                    Some(
                        Tls::new(self.ca_file.as_deref(), own)
                            .map_err(|error| CliError::Usage(error.to_string()))?,
                    ),
                )
            }
            _ => {
                let detail = "expected unix:///PATH, http://HOST:PORT or https://HOST:PORT";
                return Err(CliError::Usage(format!("--url {:?}: {detail}", self.url)));
            }
        };
        let address = rest.trim_end_matches('/');
        let port = if tls.is_some() { 443 } else { 80 };
        let has_port = address
            .rsplit(']')
            .next()
            .is_some_and(|rest| rest.contains(':'));
        let address = if has_port {
            address.to_owned()
        } else {
            format!("{address}:{port}")
        };
        Ok(Server::Tcp {
            address,
            token: self.token.clone(),
            tls,
        })
    }

    /// Saves the login atomically; returns the path of the file.
    fn save(&self) -> Result<PathBuf, CliError> {
        let path = login_file()
            .ok_or_else(|| CliError::Usage("cannot save login: HOME is not set".into()))?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        self.write_to(&path, dir)
            .map_err(|error| file_error(&path, error))?;
        Ok(path)
    }

    fn write_to(&self, path: &Path, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        // Only the owner can read a temporary file, from its creation on.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(0o600))?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }
}

/// Checks the URL and the credentials with a request, and saves them.
pub async fn log_in(mut globals: Globals, url: String) -> Result<(), CliError> {
    globals.url = Some(url.clone());
    let has_certificate = globals.cert_file.is_some();
    let token = match &globals.token_file {
        Some(_) => globals.read_token()?,
        None if has_certificate || url.starts_with("unix://") || url.starts_with('/') => None,
        None => Some(read_token_from_stdin()?),
    };
    let login = Login {
        url,
        token,
        ca_file: absolute_path(globals.ca_file.take())?,
        cert_file: absolute_path(globals.cert_file.take())?,
        key_file: absolute_path(globals.key_file.take())?,
    };
    Api::new(login.server()?, globals.verbose)
        .get("/v1")
        .await?;
    let path = login.save()?;
    print_line(format!(
        "Logged in to {} (saved in {})",
        login.url,
        path.display()
    ))
}

/// Deletes the saved login.
pub fn log_out() -> Result<(), CliError> {
    let Some(path) = login_file() else {
        return Ok(());
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(&path, error)),
        _ => Ok(()),
    }
}

fn absolute_path(file: Option<PathBuf>) -> io::Result<Option<PathBuf>> {
    file.map(std::path::absolute).transpose()
}

/// Reads the token from stdin; a terminal does not echo it.
fn read_token_from_stdin() -> Result<String, CliError> {
    let is_terminal = io::stdin().is_terminal();
    let no_echo_guard = is_terminal
        .then(|| TermiosGuard::change(|terminal| terminal.local_flags.remove(LocalFlags::ECHO)))
        .transpose()?;
    if is_terminal {
        eprint!("Token: ");
    }
    let mut token = String::new();
    let read = io::stdin().read_line(&mut token);
    drop(no_echo_guard);
    if is_terminal {
        eprintln!();
    }
    read?;
    match token.trim() {
        "" => Err(CliError::Usage(
            "a token is required: type it, or give a file (--token-file FILE)".into(),
        )),
        token => Ok(token.to_owned()),
    }
}
