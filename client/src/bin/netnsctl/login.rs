//! `netnsctl login` and `netnsctl logout`: a netnsd elsewhere, remembered with what it asks for.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use netnsd_client::{Place, Tls};
use nix::sys::termios::LocalFlags;
use serde::{Deserialize, Serialize};

use crate::{cli::Globals, curl::Api, fail::Failure, output::line, terminal::Changed};

/// A netnsd, with what it asks for. What is remembered is in a file that only its owner reads.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Login {
    /// Where that netnsd serves.
    pub url: String,
    /// The token that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Files as the options name them, from the root on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// Where it is remembered (XDG Base Directory Specification); nowhere for who has no home.
fn file() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("netnsctl").join("login.json"))
}

fn failed(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("{}: {error}", path.display()))
}

impl Login {
    /// What is remembered, if something is.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn remembered() -> Result<Option<Self>, Failure> {
        let Some(path) = file() else { return Ok(None) };
        match fs::read(&path) {
            Ok(text) => {
                let wrong = |error| failed(&path, format!("{error}; netnsctl logout forgets it"));
                serde_json::from_slice(&text).map(Some).map_err(wrong)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// The place itself.
    ///
    /// # Errors
    /// A URL that is none, certificates that cannot be read.
    pub fn place(&self) -> Result<Place, Failure> {
        if let Some(path) = self
            .url
            .strip_prefix("unix://")
            .filter(|path| path.starts_with('/'))
        {
            return Ok(Place::Unix(path.into()));
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
                            .map_err(|error| Failure::Usage(error.to_string()))?,
                    ),
                )
            }
            _ => {
                let detail = "write unix:///PATH, http://HOST:PORT or https://HOST:PORT";
                return Err(Failure::Usage(format!("--url {:?}: {detail}", self.url)));
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
        Ok(Place::Tcp {
            address,
            token: self.token.clone(),
            tls,
        })
    }

    /// Remembers it, whole or not at all.
    fn remember(&self) -> Result<PathBuf, Failure> {
        let path = file()
            .ok_or_else(|| Failure::Usage("there is no home to remember it in: set HOME".into()))?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let write = || -> io::Result<()> {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
            // A temporary file is for its owner only from its first moment on.
            let mut part = tempfile::NamedTempFile::new_in(dir)?;
            part.as_file()
                .set_permissions(fs::Permissions::from_mode(0o600))?;
            serde_json::to_writer_pretty(&mut part, self)?;
            part.write_all(b"\n")?;
            part.as_file().sync_all()?;
            part.persist(&path)?;
            Ok(())
        };
        write().map_err(|error| failed(&path, error))?;
        Ok(path)
    }
}

/// Tries what is given, and remembers it.
pub async fn login(mut globals: Globals, url: String) -> Result<(), Failure> {
    let absolute = |file: Option<PathBuf>| file.map(std::path::absolute).transpose();
    globals.url = Some(url.clone());
    let has_certificate = globals.cert_file.is_some();
    let token = match &globals.token_file {
        Some(_) => globals.token()?,
        None if has_certificate || url.starts_with("unix://") => None,
        None => Some(ask()?),
    };
    let login = Login {
        url,
        token,
        ca_file: absolute(globals.ca_file.take())?,
        cert_file: absolute(globals.cert_file.take())?,
        key_file: absolute(globals.key_file.take())?,
    };
    Api::new(login.place()?, globals.verbose).get("/v1").await?;
    let path = login.remember()?;
    line(format!(
        "{} is where netnsctl goes from now on; {} remembers it",
        login.url,
        path.display()
    ))
}

/// Forgets it.
pub fn logout() -> Result<(), Failure> {
    let Some(path) = file() else { return Ok(()) };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, error)),
        _ => Ok(()),
    }
}

/// Asks for the token, which is not shown while it is typed.
fn ask() -> Result<String, Failure> {
    let is_typed = io::stdin().is_terminal();
    let quiet = is_typed
        .then(|| Changed::by(|terminal| terminal.local_flags.remove(LocalFlags::ECHO)))
        .transpose()?;
    if is_typed {
        eprint!("Token: ");
    }
    let mut typed = String::new();
    let read = io::stdin().read_line(&mut typed);
    drop(quiet);
    if is_typed {
        eprintln!();
    }
    read?;
    match typed.trim() {
        "" => Err(Failure::Usage(
            "a token is needed: type it, or name the file that holds it (--token-file FILE)".into(),
        )),
        token => Ok(token.to_owned()),
    }
}
