//! Settings: flag over environment over file, each mistake told in one sentence that names the setting.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use serde::Deserialize;

/// Where settings are looked for if nobody says otherwise.
const FILE: &str = "/etc/netnsd/netnsd.toml";

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What the command line and the environment say.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// Where the recorded network is kept [default: /var/lib/netnsd]
    #[arg(long, env = "NETNSD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The Unix socket to listen on [default: /run/netnsd/netnsd.sock]
    #[arg(long, env = "NETNSD_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// A TCP address to listen on too; repeatable, needs --token-file
    #[arg(long, env = "NETNSD_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// A file with the token that TCP clients must send
    #[arg(long, env = "NETNSD_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A TOML file with any of these settings [default: /etc/netnsd/netnsd.toml, if it exists]
    #[arg(long, env = "NETNSD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How the log is written [default: text]
    #[arg(long, env = "NETNSD_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    listen: Option<Vec<SocketAddr>>,
    token_file: Option<PathBuf>,
    log_format: Option<LogFormat>,
}

/// The settings in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the recorded network is kept.
    pub state_dir: PathBuf,
    /// The Unix socket.
    pub socket: PathBuf,
    /// TCP addresses, on loopback.
    pub listen: Vec<SocketAddr>,
    /// The token of TCP clients.
    pub token: Option<String>,
    /// How the log is written.
    pub log_format: LogFormat,
}

impl Settings {
    /// Puts the settings together.
    ///
    /// # Errors
    /// A sentence that names the wrong setting, its value and what would be right.
    pub fn load(flags: Flags) -> Result<Self, String> {
        let file = match &flags.config {
            Some(path) => read(path)?,
            None if Path::new(FILE).exists() => read(Path::new(FILE))?,
            None => File::default(),
        };
        let listen = if flags.listen.is_empty() { file.listen.unwrap_or_default() } else { flags.listen };
        if let Some(address) = listen.iter().find(|address| !address.ip().is_loopback()) {
            return Err(format!(
                "--listen {address} is beyond loopback, which needs TLS, and this version has none: use 127.0.0.1 or [::1]"
            ));
        }
        let token = match flags.token_file.or(file.token_file) {
            Some(path) => Some(token(&path)?),
            None if listen.is_empty() => None,
            None => return Err("--listen needs --token-file: over TCP nobody is served without a token".into()),
        };
        Ok(Self {
            state_dir: flags.state_dir.or(file.state_dir).unwrap_or_else(|| "/var/lib/netnsd".into()),
            socket: flags.socket.or(file.socket).unwrap_or_else(|| "/run/netnsd/netnsd.sock".into()),
            listen,
            token,
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
        })
    }
}

fn read(path: &Path) -> Result<File, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("--config {}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
        format!("--config {}, line {line}: {}", path.display(), error.message().replace('\n', " "))
    })
}

fn token(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("--token-file {}: {error}", path.display()))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "--token-file {}: it holds no token: write one line of printable characters",
            path.display()
        ));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_flag_goes_over_the_file() {
        let config = file("state_dir = \"/a\"\nsocket = \"/b\"\nlog_format = \"json\"\n");
        let flags = Flags { config: Some(config.path().into()), socket: Some("/c".into()), ..Flags::default() };
        let settings = Settings::load(flags).unwrap();
        assert_eq!((settings.state_dir.to_str(), settings.socket.to_str()), (Some("/a"), Some("/c")));
        assert_eq!(settings.log_format, LogFormat::Json);
    }

    #[test]
    fn wrong_settings_are_named() {
        let refused = |text: &str| {
            let config = file(text);
            Settings::load(Flags { config: Some(config.path().into()), ..Flags::default() }).unwrap_err()
        };
        assert!(refused("state_dri = \"/a\"").contains("state_dri"));
        assert!(refused("\n\nlisten = [\"x\"]").contains("line 3"));
        assert!(refused("listen = [\"127.0.0.1:0\"]").contains("--token-file"));
        assert!(refused("listen = [\"0.0.0.0:80\"]").contains("0.0.0.0:80"));
        let empty = file("\n");
        let flags = Flags { token_file: Some(empty.path().into()), ..Flags::default() };
        assert!(Settings::load(flags).unwrap_err().contains("no token"));
        let flags = Flags { config: Some("/does/not/exist".into()), ..Flags::default() };
        assert!(Settings::load(flags).unwrap_err().contains("/does/not/exist"));
    }
}
