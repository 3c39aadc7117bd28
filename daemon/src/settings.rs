//! Settings of the daemon: flags take precedence over the environment, the environment over the
//! configuration file.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{CommandFactory, Parser, Subcommand};
use netnsd_api::{HostAccess, InvalidValue, check_prefix};
use nix::unistd::{Gid, Group, Uid, User};
use serde::Deserialize;
use tracing_subscriber::filter::Targets;

use crate::{
    access::{AccessRule, Subject, Uplink},
    engine::{DriftPolicy, ScanInterval},
};

/// Configuration file that is read if no other is named; it need not exist.
pub const DEFAULT_CONFIG: &str = "/etc/netnsd/netnsd.toml";
/// Longest path of a Unix socket in bytes (`sun_path`, unix(7)), without the final NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Command line.
#[derive(Debug, Parser)]
#[command(
    name = "netnsd",
    version,
    about,
    after_help = "Environment:\n  NETNSD_LOG  Log filter: error, warn, info (the default), debug, trace, or \
                  MODULE=LEVEL pairs\n\nManual pages: netnsd(8), netnsd.toml(5), netnsctl(1)",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// Command other than running the daemon.
    #[command(subcommand)]
    pub command: Option<Verb>,
    /// Settings of the daemon.
    #[command(flatten)]
    pub flags: Flags,
}

/// Commands of the program other than running the daemon.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a demo: a daemon with a small network in a sandbox; changes nothing on this machine and
    /// needs no root
    Try {
        /// Exit after the pings: with 0 only if all were answered
        #[arg(long)]
        exit: bool,
        /// Print each request as a curl line, and each ping
        #[arg(short, long)]
        verbose: bool,
    },
    /// Replace the database by a backup of it, as `netnsctl backup` makes it; netnsd must not run
    Restore {
        /// Backup
        file: PathBuf,
        /// As of the daemon
        #[arg(long, value_name = "FILE")]
        config: Option<String>,
        /// As of the daemon
        #[arg(long, value_name = "DIR")]
        state_dir: Option<String>,
    },
    /// Write the manual pages of this program
    #[command(hide = true)]
    Man {
        /// Directory to write to
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Flags as they were given; [`Settings::resolve`] validates them.
#[derive(Debug, Default, Parser)]
pub struct Flags {
    /// TOML file with these settings [env: NETNSD_CONFIG] [default: /etc/netnsd/netnsd.toml if it
    /// exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Directory of the database and of the lock file [env: NETNSD_STATE_DIR] [default: /var/lib/netnsd]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// Unix socket to serve [env: NETNSD_SOCKET] [default: /run/netnsd/netnsd.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// TCP address to serve as well, repeatable; needs --token-file or --tls-client-ca [env:
    /// NETNSD_LISTEN, separated by commas]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<String>,
    /// File with the bearer token for TCP [env: NETNSD_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<String>,
    /// Certificate chain for TLS on TCP (PEM) [env: NETNSD_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// Private key of the certificate (PEM) [env: NETNSD_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// CA for client certificates (PEM); clients that present one need no token [env:
    /// NETNSD_TLS_CLIENT_CA]
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<String>,
    /// Reaction to changes made outside netnsd: auto = repair, report = only report [env: NETNSD_REPAIR] [default: auto]
    #[arg(long, value_name = "HOW")]
    pub repair: Option<String>,
    /// Seconds between full comparisons with the kernel, in addition to its notifications [env:
    /// NETNSD_RECONCILE_INTERVAL_S] [default: 60, up to 600 where a comparison takes long]
    #[arg(long, value_name = "SECONDS")]
    pub reconcile_interval_s: Option<String>,
    /// Format of the log on stderr: text or json [env: NETNSD_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state_dir: Option<String>,
    socket: Option<String>,
    listen: Option<Vec<String>>,
    token_file: Option<String>,
    repair: Option<String>,
    #[serde(default, deserialize_with = "deserialize_number")]
    reconcile_interval_s: Option<String>,
    log_format: Option<String>,
    tls_cert: Option<String>,
    tls_key: Option<String>,
    tls_client_ca: Option<String>,
    #[serde(default)]
    access: Vec<AccessEntry>,
    #[serde(default)]
    uplink: Vec<UplinkEntry>,
}

/// Device of the host that is lent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UplinkEntry {
    interface: String,
    role: String,
    prefix: Option<String>,
}

/// Access rule: a user, a group or a certificate, its role, and optionally a prefix of names and
/// rights on the host.
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

/// Deserializes a number into text, as the flag and the environment have it.
fn deserialize_number<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<String>, D::Error> {
    u64::deserialize(from).map(|number| Some(number.to_string()))
}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

/// Validated settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Directory of the database and the lock.
    pub state_dir: PathBuf,
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// TCP addresses.
    pub listen: Vec<SocketAddr>,
    /// File with the bearer token; it or `tls.client_ca` is set if `listen` is not empty.
    pub token_file: Option<PathBuf>,
    /// TLS for TCP; without it TCP is served on loopback only.
    pub tls: Option<TlsFiles>,
    /// Access rules, besides those of root and of members of the group netnsd.
    pub access: Vec<AccessRule>,
    /// Devices of the host that are lent.
    pub uplinks: Vec<Uplink>,
    /// Drift policy.
    pub policy: DriftPolicy,
    /// Format of the log.
    pub log_format: LogFormat,
    /// Filter of the log (`NETNSD_LOG`).
    pub log: Targets,
}

/// Files of TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
    /// CA for client certificates.
    pub client_ca: Option<PathBuf>,
}

/// Invalid setting, described in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

type Result<T> = std::result::Result<T, SettingsError>;

/// Value of a setting, and its source as the user spells it.
struct Given<T> {
    source: String,
    value: T,
}

impl Given<&str> {
    fn invalid(&self, expected: &str) -> SettingsError {
        let Self { source, value } = self;
        SettingsError(format!("{source} is \"{value}\": {expected}"))
    }
}

/// Parses the command line; prints help or version and exits if they are asked for.
///
/// # Errors
/// If the command line is invalid.
pub fn parse_command_line() -> Result<Cli> {
    Cli::try_parse().map_err(|error| {
        if !error.use_stderr() {
            // Help or version.
            error.exit();
        }
        let text = error.to_string();
        let first: Vec<_> = text
            .lines()
            .take_while(|line| !line.is_empty())
            .map(str::trim)
            .collect();
        let first = first.join(" ");
        let tip = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("tip: "))
            .map_or_else(String::new, |tip| format!(" ({tip})"));
        SettingsError(format!(
            "{}{tip}; see netnsd --help",
            first.strip_prefix("error: ").unwrap_or(&first)
        ))
    })
}

/// Sections of netnsd(8) besides those of the command line.
const MANUAL_FILES: &str = r#".SH FILES
.TP
.I /etc/netnsd/netnsd.toml
Settings, see
.BR netnsd.toml (5).
.TP
.I /var/lib/netnsd
Database (SQLite) and lock.
.TP
.I /run/netnsd/netnsd.sock
Unix socket, for root and members of the group netnsd.
.TP
.I /run/netns
Network namespaces, in the place where
.BR ip-netns (8)
has them.
.SH SIGNALS
SIGTERM and SIGINT stop the daemon and leave the network as it is. SIGHUP reloads the files of TLS.
.SH EXIT STATUS
0 after a stop, 2 if a setting is invalid, 1 after any other error.
.SH SEE ALSO
.BR netnsd.toml (5),
.BR netnsctl (1),
.BR ip-netns (8)
"#;

/// Writes netnsd(8) and the pages of its commands to a directory.
///
/// # Errors
/// If the directory or a file cannot be written.
pub fn write_manual(dir: &Path) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    fs::create_dir_all(dir)?;
    let shown = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    let verbs: Vec<_> = shown.cloned().collect();
    for command in verbs.into_iter().chain([command]) {
        let name = command
            .get_display_name()
            .unwrap_or(command.get_name())
            .to_owned();
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .section("8")
            .render(&mut page)?;
        page.extend_from_slice(MANUAL_FILES.as_bytes());
        fs::write(dir.join(format!("{name}.8")), page)?;
    }
    Ok(())
}

impl Settings {
    /// Returns the path of the database.
    pub fn database(&self) -> PathBuf {
        self.state_dir.join("netnsd.db")
    }

    /// Merges flags, environment and configuration file.
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn resolve(flags: &Flags, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        Self::from_sources(Sources {
            flags,
            env: &env,
            file: read_file(flags.config.as_deref(), &env)?,
        })
    }

    fn from_sources(sources: Sources<'_>) -> Result<Self> {
        let listen = sources.listen()?;
        let token_file = sources.find(
            "token_file",
            |flags| &flags.token_file,
            |file| &file.token_file,
        );
        let tls = sources.tls()?;
        let has_client_ca = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if let (Some(first), None, false) = (listen.first(), &token_file, has_client_ca) {
            return Err(SettingsError(format!(
                "listen is \"{first}\" but neither token_file nor tls_client_ca is set: TCP needs \
                 authentication, so name the file of a token by --token-file FILE"
            )));
        }
        if let (Some(open), None) = (
            listen.iter().find(|address| !address.ip().is_loopback()),
            &tls,
        ) {
            return Err(SettingsError(format!(
                "listen is \"{open}\": beyond loopback TCP needs TLS, so name its files by --tls-cert \
                 FILE and --tls-key FILE, or use a loopback address such as 127.0.0.1:8080"
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
            token_file: token_file
                .map(|given| parse_path(&given.as_str()))
                .transpose()?,
            tls,
            access: sources
                .file
                .access
                .iter()
                .enumerate()
                .map(convert_rule)
                .collect::<Result<_>>()?,
            uplinks: sources
                .file
                .uplink
                .iter()
                .enumerate()
                .map(convert_uplink)
                .collect::<Result<_>>()?,
            policy: DriftPolicy {
                repair: sources.repair()?,
                scan_interval: sources.interval()?,
            },
            log_format: sources.log_format()?,
            log: log_filter(sources.env, "info")?,
        })
    }
}

/// Sources of settings.
struct Sources<'a> {
    flags: &'a Flags,
    env: &'a dyn Fn(&str) -> Option<String>,
    file: File,
}

impl Given<String> {
    fn as_str(&self) -> Given<&str> {
        Given {
            source: self.source.clone(),
            value: &self.value,
        }
    }
}

impl Sources<'_> {
    /// Returns a setting from the first source that has it.
    fn find(
        &self,
        key: &str,
        flag: impl Fn(&Flags) -> &Option<String>,
        file: impl Fn(&File) -> &Option<String>,
    ) -> Option<Given<String>> {
        let given =
            |source, value: &Option<String>| value.clone().map(|value| Given { source, value });
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
        self.find(key, flag, file)
            .map_or_else(|| Ok(default.into()), |given| parse_path(&given.as_str()))
    }

    fn tls(&self) -> Result<Option<TlsFiles>> {
        let cert = self.find("tls_cert", |flags| &flags.tls_cert, |file| &file.tls_cert);
        let key = self.find("tls_key", |flags| &flags.tls_key, |file| &file.tls_key);
        let client_ca = self.find(
            "tls_client_ca",
            |flags| &flags.tls_client_ca,
            |file| &file.tls_client_ca,
        );
        match (cert, key) {
            (Some(cert), Some(key)) => Ok(Some(TlsFiles {
                cert: parse_path(&cert.as_str())?,
                key: parse_path(&key.as_str())?,
                client_ca: client_ca
                    .map(|given| parse_path(&given.as_str()))
                    .transpose()?,
            })),
            (None, None) if client_ca.is_none() => Ok(None),
            (given, other) => {
                let given = given
                    .or(other)
                    .or(client_ca)
                    .map(|given| given.source)
                    .unwrap_or_default();
                Err(SettingsError(format!(
                    "{given} is set, but TLS needs both --tls-cert FILE and --tls-key FILE"
                )))
            }
        }
    }

    fn repair(&self) -> Result<bool> {
        let Some(given) = self.find("repair", |flags| &flags.repair, |file| &file.repair) else {
            return Ok(true);
        };
        match given.value.as_str() {
            "auto" => Ok(true),
            "report" => Ok(false),
            _ => Err(given.as_str().invalid("it must be auto or report")),
        }
    }

    fn interval(&self) -> Result<ScanInterval> {
        let key = "reconcile_interval_s";
        let given = self.find(
            key,
            |flags| &flags.reconcile_interval_s,
            |file| &file.reconcile_interval_s,
        );
        let Some(given) = given else {
            return Ok(DriftPolicy::default().scan_interval);
        };
        let seconds = given
            .value
            .parse()
            .ok()
            .filter(|seconds| (1..=86_400).contains(seconds));
        seconds
            .map(|seconds| ScanInterval::Every(Duration::from_secs(seconds)))
            .ok_or_else(|| given.as_str().invalid("it must be 1 to 86400 seconds"))
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
                "socket is \"{}\": it must be the path of a file, of at most {SOCKET_PATH_MAX} \
                 bytes (it has {length})",
                socket.display()
            );
            return Err(SettingsError(text));
        }
        Ok(socket)
    }

    fn listen(&self) -> Result<Vec<SocketAddr>> {
        let (source, values) = if !self.flags.listen.is_empty() {
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
                parse_address(&Given {
                    source: source.clone(),
                    value,
                })
            })
            .collect()
    }

    fn log_format(&self) -> Result<LogFormat> {
        let Some(given) = self.find(
            "log_format",
            |flags| &flags.log_format,
            |file| &file.log_format,
        ) else {
            return Ok(LogFormat::default());
        };
        match given.value.as_str() {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(given.as_str().invalid("it must be text or json")),
        }
    }
}

fn flag_name(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

fn env_name(key: &str) -> String {
    format!("NETNSD_{}", key.to_uppercase())
}

fn parse_path(given: &Given<&str>) -> Result<PathBuf> {
    if given.value.is_empty() {
        return Err(given.invalid("it must be a path"));
    }
    // The log and messages show paths that are valid in any directory.
    std::path::absolute(given.value)
        .map_err(|error| given.invalid(&format!("it must be a path ({error})")))
}

fn parse_address(given: &Given<&String>) -> Result<SocketAddr> {
    let given = Given {
        source: given.source.clone(),
        value: given.value.as_str(),
    };
    given.value.parse().map_err(|_| {
        given.invalid("it must be an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080")
    })
}

/// Converts a rule of the configuration file. Names of users and groups are looked up now, so that
/// no request waits for that.
fn convert_rule((index, entry): (usize, &AccessEntry)) -> Result<AccessRule> {
    let subject = rule_subject(index, entry)?;
    let role = entry
        .role
        .parse()
        .map_err(|error: InvalidValue| rule_error(index, "role", &error.0))?;
    let prefix = entry.prefix.as_deref().filter(|prefix| !prefix.is_empty());
    if let Some(prefix) = prefix {
        check_prefix(prefix).map_err(|error| rule_error(index, "prefix", &error.0))?;
    }
    let host = entry.host.as_deref().map(str::parse).transpose();
    let host = host
        .and_then(|host| HostAccess::resolve(host, role, prefix))
        .map_err(|error| rule_error(index, "host", &error.0))?;
    Ok(AccessRule {
        subject,
        role,
        prefix: prefix.unwrap_or_default().to_owned(),
        host,
    })
}

fn convert_uplink((index, entry): (usize, &UplinkEntry)) -> Result<Uplink> {
    let error = |key: &str, error: &str| {
        SettingsError(format!(
            "uplink[{index}].{key} in the configuration file: {error}"
        ))
    };
    let interface = entry.interface.parse();
    let prefix = entry.prefix.clone().unwrap_or_default();
    if !prefix.is_empty() {
        check_prefix(&prefix).map_err(|wrong| error("prefix", &wrong.0))?;
    }
    Ok(Uplink {
        interface: interface
            .map_err(|wrong: netnsd_api::InvalidValue| error("interface", &wrong.0))?,
        role: entry
            .role
            .parse()
            .map_err(|wrong: netnsd_api::InvalidValue| error("role", &wrong.0))?,
        prefix,
    })
}

/// Returns the user, group or certificate of a rule; users and groups are names or numbers.
fn rule_subject(index: usize, entry: &AccessEntry) -> Result<Subject> {
    match (&entry.user, &entry.group, &entry.certificate) {
        (Some(name), None, None) => {
            let uid = match name.parse() {
                Ok(number) => Some(Uid::from_raw(number)),
                Err(_) => User::from_name(name).ok().flatten().map(|user| user.uid),
            };
            uid.map(Subject::User).ok_or_else(|| {
                let text = format!("is \"{name}\": there is no such user");
                rule_error(index, "user", &text)
            })
        }
        (None, Some(name), None) => {
            let gid = match name.parse() {
                Ok(number) => Some(Gid::from_raw(number)),
                Err(_) => Group::from_name(name).ok().flatten().map(|group| group.gid),
            };
            gid.map(Subject::Group).ok_or_else(|| {
                let text = format!("is \"{name}\": there is no such group");
                rule_error(index, "group", &text)
            })
        }
        (None, None, Some(name)) => Ok(Subject::Certificate(name.clone())),
        _ => {
            let text = "is needed, or group, or certificate: one of them";
            Err(rule_error(index, "user", text))
        }
    }
}

fn rule_error(index: usize, key: &str, text: &str) -> SettingsError {
    SettingsError(format!(
        "access[{index}].{key} in the configuration file {text}"
    ))
}

/// Resolves the settings of a configuration file, for `crate::fuzz`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(text: &str) {
    let _ = parse_file(Path::new("fuzz.toml"), text).and_then(|file| {
        Settings::from_sources(Sources {
            flags: &Flags::default(),
            env: &|_| None,
            file,
        })
    });
}

/// Returns the filter of the log (`NETNSD_LOG`), or the default.
///
/// # Errors
/// If it is not a valid filter.
pub fn log_filter(env: &dyn Fn(&str) -> Option<String>, default: &str) -> Result<Targets> {
    let value = env("NETNSD_LOG").unwrap_or_else(|| default.into());
    value.parse().map_err(|_| {
        Given { source: "NETNSD_LOG".into(), value: value.as_str() }
            .invalid("it must be a level (error, warn, info, debug, trace) or module=level pairs separated by commas")
    })
}

fn read_file(flag: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> Result<File> {
    let named = match flag {
        Some(file) => Some(("--config", file.to_owned())),
        None => env("NETNSD_CONFIG").map(|file| ("NETNSD_CONFIG", file)),
    };
    let (source, name) = named
        .clone()
        .unwrap_or(("the configuration file", DEFAULT_CONFIG.into()));
    match fs::read_to_string(&name) {
        Ok(text) => parse_file(Path::new(&name), &text),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            Ok(File::default())
        }
        Err(error) => Err(Given {
            source: source.into(),
            value: name.as_str(),
        }
        .invalid(&format!(
            "it must be a TOML file that can be read ({error})"
        ))),
    }
}

fn parse_file(name: &Path, text: &str) -> Result<File> {
    let at_line = |error: &toml::de::Error, message: &str| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or_else(String::new, |before| {
            format!("line {}: ", before.matches('\n').count() + 1)
        });
        let message = message.replace('\n', " ");
        SettingsError(format!("{}: {line}{message}", name.display()))
    };
    let document =
        toml::Deserializer::parse(text).map_err(|error| at_line(&error, error.message()))?;
    serde_path_to_error::deserialize(document).map_err(|error| {
        let key = error.path().to_string();
        let error = error.into_inner();
        let message = error.message();
        if let Some(message) = describe_unknown_key(message) {
            at_line(&error, &message)
        } else if key == "." || message.contains(&key) {
            at_line(&error, message)
        } else {
            at_line(&error, &format!("{key}: {message}"))
        }
    })
}

/// Rewrites serde's message about an unknown field, to name the known key that is most similar.
fn describe_unknown_key(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`');
    let given = quoted.nth(1)?;
    let known: Vec<&str> = quoted.skip(1).step_by(2).collect();
    let nearest = known
        .iter()
        .min_by_key(|known| strsim::levenshtein(known, given))
        .filter(|known| strsim::levenshtein(known, given) <= 3);
    let hint = nearest.map_or_else(String::new, |nearest| format!(": did you mean {nearest}?"));
    Some(format!(
        "unknown key {given}{hint} (known: {})",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_errors_name_line_and_nearest_key() {
        let error = |text: &str| {
            let parsed = parse_file(Path::new("netnsd.toml"), text);
            parsed.map(|_| ()).unwrap_err().0
        };
        for (text, start) in [
            (
                "# first\nstatedir = '/x'",
                "netnsd.toml: line 2: unknown key statedir: did you mean state_dir? (known: state_dir, ",
            ),
            (
                "colour = 'red'",
                "netnsd.toml: line 1: unknown key colour (known: state_dir, ",
            ),
            ("\n\nsocket = /run/x", "netnsd.toml: line 3: "),
            (
                "reconcile_interval_s = '5m'",
                "netnsd.toml: line 1: reconcile_interval_s: ",
            ),
            (
                "[[access]]\nuser = '0'\nrole = 'viewer'\nprefx = 'a'",
                "netnsd.toml: line 4: unknown key prefx: did you mean prefix?",
            ),
        ] {
            let error = error(text);
            assert!(error.starts_with(start), "{error}");
        }
    }

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
    fn unset_settings_have_defaults() {
        let settings = resolve(&[], &[]).unwrap();
        assert_eq!(settings.state_dir, Path::new("/var/lib/netnsd"));
        assert_eq!(settings.socket, Path::new("/run/netnsd/netnsd.sock"));
        assert_eq!((settings.listen.len(), settings.token_file), (0, None));
        assert_eq!(
            (settings.log_format, settings.log),
            (LogFormat::Text, "info".parse().unwrap())
        );
        assert_eq!(settings.policy, DriftPolicy::default());
    }

    #[test]
    fn flag_precedes_environment_and_file() {
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
            DriftPolicy {
                repair: false,
                scan_interval: ScanInterval::Every(Duration::from_secs(7))
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
    fn invalid_setting_is_one_sentence() {
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
