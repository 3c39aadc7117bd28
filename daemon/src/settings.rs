//! What the daemon was asked to be: flags over environment over file.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Parser, Subcommand};
use netnsd_api::{HostAccess, InvalidValue, check_prefix};
use nix::unistd::{Gid, Group, Uid, User};
use serde::Deserialize;
use tracing_subscriber::filter::Targets;

use crate::{
    access::{AccessRule, Subject},
    engine::{Interval, Policy},
};

/// Where the configuration is read from if it exists and no other is named.
pub const CONFIG: &str = "/etc/netnsd/netnsd.toml";
/// What a Unix socket's path may have at the most, in bytes.
const SOCKET_PATH_MAX: usize = 107;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "netnsd",
    version,
    about,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to do, if not to be the daemon.
    #[command(subcommand)]
    pub command: Option<Verb>,
    /// The daemon's settings.
    #[command(flatten)]
    pub flags: Flags,
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Try it: a daemon with a small network in a sandbox of its own; changes nothing on this
    /// machine, needs no root
    Try {
        /// End after the pings: with 0 only if all were answered
        #[arg(long)]
        exit: bool,
    },
}

/// Each flag as it was written; [`Settings::resolve`] judges it.
#[derive(Debug, Default, Parser)]
pub struct Flags {
    /// TOML file with these settings [env: NETNSD_CONFIG] [default: /etc/netnsd/netnsd.toml if it
    /// exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Where everything recorded is kept [env: NETNSD_STATE_DIR] [default: /var/lib/netnsd]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// The Unix socket to serve [env: NETNSD_SOCKET] [default: /run/netnsd/netnsd.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// A TCP address to serve as well, repeatable; needs --token-file [env: NETNSD_LISTEN,
    /// separated by commas]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<String>,
    /// File with the bearer token that TCP asks for [env: NETNSD_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<String>,
    /// File with the certificate (PEM, with those that vouch for it) that TCP is served with by TLS
    /// [env: NETNSD_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// File with its private key (PEM) [env: NETNSD_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// File with the certificates (PEM) that vouch for those of clients, who then need no token
    /// [env: NETNSD_TLS_CLIENT_CA]
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<String>,
    /// What is done about changes by others: auto repairs them, report only tells of them [env:
    /// NETNSD_REPAIR] [default: auto]
    #[arg(long, value_name = "HOW")]
    pub repair: Option<String>,
    /// In how many seconds everything is compared with the kernel once, besides what is heard of
    /// changes; where that takes long, and nothing is said, up to 600 [env:
    /// NETNSD_RECONCILE_INTERVAL_S] [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub reconcile_interval_s: Option<String>,
    /// How the log on stderr is written: text or json [env: NETNSD_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state_dir: Option<String>,
    socket: Option<String>,
    listen: Option<Vec<String>>,
    token_file: Option<String>,
    repair: Option<String>,
    #[serde(default, deserialize_with = "number")]
    reconcile_interval_s: Option<String>,
    log_format: Option<String>,
    tls_cert: Option<String>,
    tls_key: Option<String>,
    tls_client_ca: Option<String>,
    #[serde(default)]
    access: Vec<AccessEntry>,
}

/// An access rule: a user, a group or a certificate, a role, and perhaps a prefix and rights on the
/// host.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessEntry {
    user: Option<String>,
    group: Option<String>,
    certificate: Option<String>,
    role: String,
    prefix: Option<String>,
    host: Option<String>,
}

/// A number, as the flag and the environment have it: as text.
fn number<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<String>, D::Error> {
    u64::deserialize(from).map(|number| Some(number.to_string()))
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What the daemon was asked to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where everything recorded is kept.
    pub state_dir: PathBuf,
    /// The Unix socket.
    pub socket: PathBuf,
    /// The TCP addresses.
    pub listen: Vec<SocketAddr>,
    /// The file with the bearer token; it or `tls.client_ca` is there if `listen` is not empty.
    pub token_file: Option<PathBuf>,
    /// What TCP is served with; without it only on loopback.
    pub tls: Option<TlsFiles>,
    /// Who may do what, beside root and the members of the group netnsd.
    pub access: Vec<AccessRule>,
    /// What is done about changes by others.
    pub policy: Policy,
    /// How the log is written.
    pub log_format: LogFormat,
    /// What the log lets through (`NETNSD_LOG`).
    pub log: Targets,
}

/// The files of TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those that vouch for it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Those that vouch for clients' certificates.
    pub client_ca: Option<PathBuf>,
}

/// A wrong setting, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(String);

type Result<T> = std::result::Result<T, Wrong>;

/// A value and where it came from, as its user would spell that.
struct Given<T> {
    from: String,
    value: T,
}

impl Given<&str> {
    fn wrong(&self, right: &str) -> Wrong {
        Wrong(format!("{} is \"{}\": {right}", self.from, self.value))
    }
}

/// The command line, or what is to be said instead.
///
/// # Errors
/// A command line that is not understood.
pub fn command_line() -> Result<Cli> {
    Cli::try_parse().map_err(|error| {
        if !error.use_stderr() {
            // Help and version were asked for: that is an answer, not an error.
            error.exit();
        }
        let text = error.to_string();
        let first: Vec<_> = text
            .lines()
            .take_while(|line| !line.is_empty())
            .map(str::trim)
            .collect();
        let first = first.join(" ");
        Wrong(format!(
            "{}; see netnsd --help",
            first.strip_prefix("error: ").unwrap_or(&first)
        ))
    })
}

impl Settings {
    /// Puts flags, environment and file together.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn resolve(flags: &Flags, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        Self::of(Sources {
            flags,
            env: &env,
            file: read_file(flags.config.as_deref(), &env)?,
        })
    }

    fn of(sources: Sources<'_>) -> Result<Self> {
        let listen = sources.listen()?;
        let token_file = sources.one(
            "token_file",
            |flags| &flags.token_file,
            |file| &file.token_file,
        );
        let tls = sources.tls()?;
        let by_certificate = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if let (Some(first), None, false) = (listen.first(), &token_file, by_certificate) {
            return Err(Wrong(format!(
                "listen is \"{first}\" but token_file is not set: TCP is served only to who knows a token, so name the \
                 file that holds it by --token-file FILE"
            )));
        }
        if let (Some(open), None) = (
            listen.iter().find(|address| !address.ip().is_loopback()),
            &tls,
        ) {
            return Err(Wrong(format!(
                "listen is \"{open}\": beyond loopback TCP needs TLS, so name its files by --tls-cert FILE and --tls-key FILE, \
                 or use a loopback address such as 127.0.0.1:8080"
            )));
        }
        Ok(Self {
            state_dir: sources.path(
                "state_dir",
                "/var/lib/netnsd",
                |flags| &flags.state_dir,
                |file| &file.state_dir,
            )?,
            socket: sources.socket()?,
            listen,
            token_file: token_file.map(|given| path(&given.as_str())).transpose()?,
            tls,
            access: sources
                .file
                .access
                .iter()
                .enumerate()
                .map(rule)
                .collect::<Result<_>>()?,
            policy: Policy {
                repair: sources.repair()?,
                interval: sources.interval()?,
            },
            log_format: sources.log_format()?,
            log: log_filter(sources.env, "info")?,
        })
    }
}

struct Sources<'a> {
    flags: &'a Flags,
    env: &'a dyn Fn(&str) -> Option<String>,
    file: File,
}

impl Given<String> {
    fn as_str(&self) -> Given<&str> {
        Given {
            from: self.from.clone(),
            value: &self.value,
        }
    }
}

impl Sources<'_> {
    fn one(
        &self,
        key: &str,
        flag: impl Fn(&Flags) -> &Option<String>,
        file: impl Fn(&File) -> &Option<String>,
    ) -> Option<Given<String>> {
        let given = |from, value: &Option<String>| value.clone().map(|value| Given { from, value });
        given(flag_name(key), flag(self.flags))
            .or_else(|| given(env_name(key), &(self.env)(&env_name(key))))
            .or_else(|| given(format!("{key} in the configuration file"), file(&self.file)))
    }

    fn path(
        &self,
        key: &str,
        default: &str,
        flag: impl Fn(&Flags) -> &Option<String>,
        file: impl Fn(&File) -> &Option<String>,
    ) -> Result<PathBuf> {
        self.one(key, flag, file)
            .map_or_else(|| Ok(default.into()), |given| path(&given.as_str()))
    }

    fn tls(&self) -> Result<Option<TlsFiles>> {
        let cert = self.one("tls_cert", |flags| &flags.tls_cert, |file| &file.tls_cert);
        let key = self.one("tls_key", |flags| &flags.tls_key, |file| &file.tls_key);
        let client_ca = self.one(
            "tls_client_ca",
            |flags| &flags.tls_client_ca,
            |file| &file.tls_client_ca,
        );
        match (cert, key) {
            (Some(cert), Some(key)) => Ok(Some(TlsFiles {
                cert: path(&cert.as_str())?,
                key: path(&key.as_str())?,
                client_ca: client_ca.map(|given| path(&given.as_str())).transpose()?,
            })),
            (None, None) if client_ca.is_none() => Ok(None),
            (given, other) => {
                let given = given
                    .or(other)
                    .or(client_ca)
                    .map(|given| given.from)
                    .unwrap_or_default();
                Err(Wrong(format!(
                    "{given} is set, but TLS needs both --tls-cert FILE and --tls-key FILE"
                )))
            }
        }
    }

    fn repair(&self) -> Result<bool> {
        let Some(given) = self.one("repair", |flags| &flags.repair, |file| &file.repair) else {
            return Ok(true);
        };
        match given.value.as_str() {
            "auto" => Ok(true),
            "report" => Ok(false),
            _ => Err(given.as_str().wrong("it must be auto or report")),
        }
    }

    fn interval(&self) -> Result<Interval> {
        let key = "reconcile_interval_s";
        let given = self.one(
            key,
            |flags| &flags.reconcile_interval_s,
            |file| &file.reconcile_interval_s,
        );
        let Some(given) = given else {
            return Ok(Policy::default().interval);
        };
        let seconds = given
            .value
            .parse()
            .ok()
            .filter(|seconds| (1..=86_400).contains(seconds));
        seconds
            .map(|seconds| Interval::Every(Duration::from_secs(seconds)))
            .ok_or_else(|| given.as_str().wrong("it must be 1 to 86400 seconds"))
    }

    fn socket(&self) -> Result<PathBuf> {
        let socket = self.path(
            "socket",
            "/run/netnsd/netnsd.sock",
            |flags| &flags.socket,
            |file| &file.socket,
        )?;
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_MAX || socket.file_name().is_none() {
            let text = format!(
                "socket is \"{}\": it must be the path of a file, of at most {SOCKET_PATH_MAX} bytes (it has {length})",
                socket.display()
            );
            return Err(Wrong(text));
        }
        Ok(socket)
    }

    fn listen(&self) -> Result<Vec<SocketAddr>> {
        let (from, values) = if !self.flags.listen.is_empty() {
            (flag_name("listen"), self.flags.listen.clone())
        } else if let Some(list) = (self.env)(&env_name("listen")) {
            (
                env_name("listen"),
                list.split(',')
                    .map(|one| one.trim().to_owned())
                    .filter(|one| !one.is_empty())
                    .collect(),
            )
        } else {
            (
                "listen in the configuration file".into(),
                self.file.listen.clone().unwrap_or_default(),
            )
        };
        values
            .iter()
            .map(|value| {
                address(&Given {
                    from: from.clone(),
                    value,
                })
            })
            .collect()
    }

    fn log_format(&self) -> Result<LogFormat> {
        let Some(given) = self.one(
            "log_format",
            |flags| &flags.log_format,
            |file| &file.log_format,
        ) else {
            return Ok(LogFormat::default());
        };
        match given.value.as_str() {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(given.as_str().wrong("it must be text or json")),
        }
    }
}

fn flag_name(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

fn env_name(key: &str) -> String {
    format!("NETNSD_{}", key.to_uppercase())
}

fn path(given: &Given<&str>) -> Result<PathBuf> {
    if given.value.is_empty() {
        return Err(given.wrong("it must be a path"));
    }
    // The daemon never changes its directory, yet what it prints should be good from anywhere.
    std::path::absolute(given.value)
        .map_err(|error| given.wrong(&format!("it must be a path ({error})")))
}

fn address(given: &Given<&String>) -> Result<SocketAddr> {
    let given = Given {
        from: given.from.clone(),
        value: given.value.as_str(),
    };
    let address: SocketAddr = given.value.parse().map_err(|_| {
        given.wrong("it must be an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080")
    })?;
    Ok(address)
}

/// A rule of the configuration file. Names are looked up now, and never while somebody waits.
fn rule((at, entry): (usize, &AccessEntry)) -> Result<AccessRule> {
    let wrong = |key: &str, text: String| {
        Wrong(format!(
            "access[{at}].{key} in the configuration file {text}"
        ))
    };
    let unknown = |key: &str, name: &str, what: &str| {
        wrong(key, format!("is \"{name}\": there is no such {what}"))
    };
    let subject = match (&entry.user, &entry.group, &entry.certificate) {
        (Some(name), None, None) => {
            let by_name = || User::from_name(name).ok().flatten().map(|user| user.uid);
            let uid = name.parse().ok().map(Uid::from_raw).or_else(by_name);
            Subject::User(uid.ok_or_else(|| unknown("user", name, "user"))?)
        }
        (None, Some(name), None) => {
            let by_name = || Group::from_name(name).ok().flatten().map(|group| group.gid);
            let gid = name.parse().ok().map(Gid::from_raw).or_else(by_name);
            Subject::Group(gid.ok_or_else(|| unknown("group", name, "group"))?)
        }
        (None, None, Some(name)) => Subject::Certificate(name.clone()),
        _ => {
            return Err(wrong(
                "user",
                "is needed, or group, or certificate: one of them".into(),
            ));
        }
    };
    let role = entry
        .role
        .parse()
        .map_err(|error: InvalidValue| wrong("role", error.0))?;
    let prefix = entry.prefix.as_deref().filter(|prefix| !prefix.is_empty());
    if let Some(prefix) = prefix {
        check_prefix(prefix).map_err(|error| wrong("prefix", error.0))?;
    }
    let given = entry.host.as_deref().map(str::parse).transpose();
    let host = given.and_then(|given| HostAccess::resolve(given, role, prefix));
    let host = host.map_err(|error| wrong("host", error.0))?;
    Ok(AccessRule {
        subject,
        role,
        prefix: prefix.unwrap_or_default().to_owned(),
        host,
    })
}

/// Reads a file's text, and what it comes to, for `crate::fuzz`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(text: &str) {
    let _refused = parse_file(Path::new("fuzz.toml"), text).and_then(|file| {
        Settings::of(Sources {
            flags: &Flags::default(),
            env: &|_| None,
            file,
        })
    });
}

/// What the log lets through, or this if it is not said.
///
/// # Errors
/// When what is said is no filter.
pub fn log_filter(env: &dyn Fn(&str) -> Option<String>, otherwise: &str) -> Result<Targets> {
    let value = env("NETNSD_LOG").unwrap_or_else(|| otherwise.into());
    value.parse().map_err(|_| {
        Given { from: "NETNSD_LOG".into(), value: value.as_str() }
            .wrong("it must be a level (error, warn, info, debug, trace) or module=level pairs separated by commas")
    })
}

fn read_file(flag: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> Result<File> {
    let named = match flag {
        Some(file) => Some(("--config", file.to_owned())),
        None => env("NETNSD_CONFIG").map(|file| ("NETNSD_CONFIG", file)),
    };
    let (from, name) = named
        .clone()
        .unwrap_or(("the configuration file", CONFIG.into()));
    match fs::read_to_string(&name) {
        Ok(text) => parse_file(Path::new(&name), &text),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            Ok(File::default())
        }
        Err(error) => Err(Given {
            from: from.into(),
            value: name.as_str(),
        }
        .wrong(&format!(
            "it must be a TOML file that can be read ({error})"
        ))),
    }
}

fn parse_file(name: &Path, text: &str) -> Result<File> {
    let wrong = |text: String| Wrong(format!("{}: {}", name.display(), text.replace('\n', " ")));
    let document =
        toml::Deserializer::parse(text).map_err(|error| wrong(error.message().to_owned()))?;
    serde_path_to_error::deserialize(document).map_err(|error| {
        let key = error.path().to_string();
        let message = error.into_inner().message().to_owned();
        // The message of an unknown key names it already.
        if key == "." || message.contains(&key) {
            wrong(message)
        } else {
            wrong(format!("{key}: {message}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(arguments: &[&str]) -> Flags {
        Cli::try_parse_from([&["netnsd"], arguments].concat())
            .unwrap()
            .flags
    }

    fn resolve(arguments: &[&str], env: &[(&str, &str)]) -> Result<Settings> {
        Settings::resolve(&flags(arguments), |key| {
            env.iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn defaults() {
        let settings = resolve(&[], &[]).unwrap();
        assert_eq!(settings.state_dir, Path::new("/var/lib/netnsd"));
        assert_eq!(settings.socket, Path::new("/run/netnsd/netnsd.sock"));
        assert_eq!((settings.listen.len(), settings.token_file), (0, None));
        assert_eq!(
            (settings.log_format, settings.log),
            (LogFormat::Text, "info".parse().unwrap())
        );
        assert_eq!(settings.policy, Policy::default());
    }

    #[test]
    fn flag_over_environment_over_file() {
        let file = file(
            "state_dir = '/file'\nsocket = '/file.sock'\nlog_format = 'json'\nrepair = 'report'\nreconcile_interval_s = 7\nlisten = ['127.0.0.1:1']\ntoken_file = '/t'",
        );
        let config = file.path().to_str().unwrap();
        let env = [
            ("NETNSD_CONFIG", config),
            ("NETNSD_SOCKET", "/env.sock"),
            ("NETNSD_STATE_DIR", "/env"),
        ];
        let settings = resolve(&["--state-dir", "/flag"], &env).unwrap();
        assert_eq!(settings.state_dir, Path::new("/flag"));
        assert_eq!(settings.socket, Path::new("/env.sock"));
        assert_eq!(settings.log_format, LogFormat::Json);
        assert_eq!(
            settings.policy,
            Policy {
                repair: false,
                interval: Interval::Every(Duration::from_secs(7))
            }
        );
        assert_eq!(settings.listen, ["127.0.0.1:1".parse().unwrap()]);
        let env = [
            ("NETNSD_CONFIG", config),
            ("NETNSD_LISTEN", "127.0.0.1:2, [::1]:3"),
        ];
        assert_eq!(resolve(&[], &env).unwrap().listen.len(), 2);
        assert_eq!(
            resolve(&["--listen", "127.0.0.1:0"], &env).unwrap().listen,
            ["127.0.0.1:0".parse().unwrap()]
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_one_sentence() {
        let unknown = file("state_dri = '/x'");
        let mistyped = file("log_format = 3");
        let broken = file("listen = [");
        let [all, unbound] = [
            "role = 'operator'\nhost = 'all'",
            "role = 'admin'\nhost = 'none'",
        ]
        .map(|rule| file(&format!("[[access]]\nuser = '1'\n{rule}")));
        for (arguments, parts) in [
            (
                vec!["--listen", "127.0.0.1"],
                vec!["--listen", "\"127.0.0.1\"", "port"],
            ),
            (vec!["--listen", "127.0.0.1:1"], vec!["token_file"]),
            (
                vec!["--listen", "10.0.0.1:80", "--token-file", "/t"],
                vec!["10.0.0.1:80", "TLS"],
            ),
            (
                vec!["--repair", "never"],
                vec!["--repair", "never", "auto or report"],
            ),
            (
                vec!["--reconcile-interval-s", "0"],
                vec!["--reconcile-interval-s", "\"0\"", "86400"],
            ),
            (
                vec!["--log-format", "xml"],
                vec!["--log-format", "xml", "text or json"],
            ),
            (vec!["--state-dir", ""], vec!["--state-dir"]),
            (
                vec!["--config", "/nowhere.toml"],
                vec!["--config", "/nowhere.toml"],
            ),
            (
                vec!["--config", unknown.path().to_str().unwrap()],
                vec!["state_dri", "state_dir"],
            ),
            (
                vec!["--config", mistyped.path().to_str().unwrap()],
                vec!["log_format", "string"],
            ),
            (
                vec!["--config", all.path().to_str().unwrap()],
                vec!["access[0].host", "all", "none, ports, any"],
            ),
            (
                vec!["--config", unbound.path().to_str().unwrap()],
                vec!["access[0].host", "none", "admin"],
            ),
            (
                vec!["--config", broken.path().to_str().unwrap()],
                vec![broken.path().to_str().unwrap()],
            ),
        ] {
            let text = resolve(&arguments, &[]).unwrap_err().to_string();
            assert_eq!(text.lines().count(), 1, "{text}");
            for part in parts {
                assert!(text.contains(part), "{text} lacks {part}");
            }
        }
        let long = format!("/{}", "x".repeat(108));
        assert!(
            resolve(&["--socket", &long], &[])
                .unwrap_err()
                .to_string()
                .contains("107")
        );
        let text = resolve(&[], &[("NETNSD_LOG", "a=b=c")])
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("NETNSD_LOG") && text.contains("warn"),
            "{text}"
        );
    }
}
