//! What the operator decides: flags over environment over file, validated once.
//!
//! A [`Config`] that exists is valid. Nothing here touches the data directory.

mod remote_write;
mod retention;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::model::{Retention, Secret};
pub use remote_write::{RemoteAuth, RemoteWrite};

/// Where the file is looked for when `--config` does not name one.
pub const DEFAULT_FILE: &str = "/etc/roundsman/config.toml";
const DEFAULT_LISTEN: &str = "127.0.0.1:9083";
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest and longest time between two readings (SPEC 4.1).
pub const INTERVAL_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Why the configuration was refused; the text says where and what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}: {cause}")]
    Unreadable { path: PathBuf, cause: String },
    #[error("{path}, line {line}: {message}")]
    Invalid { path: PathBuf, line: usize, message: String },
    #[error("{source}: {message}", source = .origin)]
    Value { origin: String, message: String },
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The validated configuration of `roundsman serve`.
#[derive(Debug, Clone)]
pub struct Config {
    pub data: PathBuf,
    /// At least one address.
    pub listen: Vec<SocketAddr>,
    /// Actions on the machine that Roundsman runs on; whoever acts there owns every key.
    pub allow_local_actions: bool,
    /// Default time between two readings of a server.
    pub interval: Duration,
    pub log_format: LogFormat,
    /// The first administrator's password, for unattended set-up.
    pub admin_password: Option<Secret<String>>,
    /// Replaces the master key file of the data directory.
    pub master_key: Option<Secret<String>>,
    /// Socket of the ssh-agent whose keys servers may use. None: no server logs in with an agent.
    pub ssh_agent: Option<PathBuf>,
    /// Directory of the agents that can be deployed.
    pub agents: PathBuf,
    /// `/metrics` answers whoever asks from this machine itself, without login.
    pub metrics_without_login: bool,
    /// None: readings are passed on to nobody.
    pub remote_write: Option<RemoteWrite>,
    /// How long rows are kept until an administrator sets it on the settings page. None: the defaults.
    pub retention: Option<Retention>,
}

/// What the command line said; `None` leaves it to the environment and the file.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub data: Option<PathBuf>,
    pub listen: Vec<String>,
    pub insecure_listen: bool,
    pub interval: Option<String>,
    pub log_format: Option<String>,
    pub agents: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    listen: Option<Vec<String>>,
    insecure_listen: Option<bool>,
    allow_local_actions: Option<bool>,
    interval: Option<String>,
    log_format: Option<LogFormat>,
    ssh_agent: Option<PathBuf>,
    agents: Option<PathBuf>,
    metrics_without_login: Option<bool>,
    remote_write: Option<remote_write::Table>,
    retention: Option<toml::Spanned<retention::Table>>,
    /// [`Self::retention`] once it is validated.
    #[serde(skip)]
    kept: Option<Retention>,
}

/// Reads one variable of the environment; tests pass a table.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
pub const ENVIRONMENT: Environment<'static> = &|name| std::env::var(name).ok();

/// Where a running server leaves the path of its control socket: in `ROUNDSMAN_RUNTIME_DIR`, else in `/run/roundsman` for
/// root and in `$XDG_RUNTIME_DIR/roundsman` for others. None: there is no such directory.
#[must_use]
pub fn runtime_pointer(environment: Environment<'_>) -> Option<PathBuf> {
    let named = environment("ROUNDSMAN_RUNTIME_DIR").map(PathBuf::from);
    let of_user = || {
        let base =
            if is_root() { PathBuf::from("/run") } else { PathBuf::from(environment("XDG_RUNTIME_DIR")?) };
        Some(base.join("roundsman"))
    };
    Some(named.or_else(of_user)?.join("control"))
}

impl Config {
    /// # Errors
    /// [`ConfigError`] names the flag, variable or line and what would be accepted.
    pub fn load(flags: &Flags, environment: Environment<'_>) -> Result<Self, ConfigError> {
        let file = read_file(flags, environment)?;
        let listen = listen(flags, environment, file.listen)?;
        let insecure = flags.insecure_listen
            || boolean(environment, "ROUNDSMAN_INSECURE_LISTEN")?
                .or(file.insecure_listen)
                .unwrap_or_default();
        require_loopback(&listen, insecure)?;
        let interval = match flags
            .interval
            .clone()
            .map(|text| ("--interval", text))
            .or_else(|| environment("ROUNDSMAN_INTERVAL").map(|text| ("ROUNDSMAN_INTERVAL", text)))
            .or_else(|| file.interval.map(|text| ("interval", text)))
        {
            Some((source, text)) => parse_interval(&text).map_err(|message| value(source, message))?,
            None => DEFAULT_INTERVAL,
        };
        let log_format =
            match flags.log_format.clone().or_else(|| environment("ROUNDSMAN_LOG_FORMAT")).as_deref() {
                None => file.log_format.unwrap_or_default(),
                Some("text") => LogFormat::Text,
                Some("json") => LogFormat::Json,
                Some(other) => {
                    return Err(value(
                        "--log-format",
                        format!("'{other}' is not a format; use text or json"),
                    ));
                }
            };
        Ok(Self {
            data: flags
                .data
                .clone()
                .or_else(|| environment("ROUNDSMAN_DATA").map(PathBuf::from))
                .or(file.data)
                .unwrap_or_else(default_data),
            listen,
            allow_local_actions: boolean(environment, "ROUNDSMAN_ALLOW_LOCAL_ACTIONS")?
                .or(file.allow_local_actions)
                .unwrap_or(false),
            interval,
            log_format,
            admin_password: secret(environment, "ROUNDSMAN_ADMIN_PASSWORD")?,
            master_key: secret(environment, "ROUNDSMAN_MASTER_KEY")?,
            ssh_agent: ssh_agent(environment, file.ssh_agent)?,
            agents: flags
                .agents
                .clone()
                .or_else(|| environment("ROUNDSMAN_AGENTS").map(PathBuf::from))
                .or(file.agents)
                .unwrap_or_else(agents_beside_program),
            metrics_without_login: boolean(environment, "ROUNDSMAN_METRICS_WITHOUT_LOGIN")?
                .or(file.metrics_without_login)
                .unwrap_or(false),
            remote_write: file.remote_write.map(remote_write::Table::validated).transpose()?,
            retention: file.kept,
        })
    }
}

/// The data directory: as given, else `ROUNDSMAN_DATA`, else `/var/lib/roundsman` for root and `./data` for others.
#[must_use]
pub fn data_directory(given: Option<PathBuf>, environment: Environment<'_>) -> PathBuf {
    given.or_else(|| environment("ROUNDSMAN_DATA").map(PathBuf::from)).unwrap_or_else(default_data)
}

fn default_data() -> PathBuf {
    if is_root() { PathBuf::from("/var/lib/roundsman") } else { PathBuf::from("data") }
}

/// Whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// `agents` beside the executable; a program that cannot say where it lies has none.
fn agents_beside_program() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("agents")));
    beside.unwrap_or_else(|| PathBuf::from("agents"))
}

fn value(origin: &str, message: impl Into<String>) -> ConfigError {
    ConfigError::Value { origin: origin.to_owned(), message: message.into() }
}

fn named_file(flags: &Flags, environment: Environment<'_>) -> Option<PathBuf> {
    flags.config.clone().or_else(|| environment("ROUNDSMAN_CONFIG").map(PathBuf::from))
}

/// The configuration file that is read; one that nobody named need not exist.
#[must_use]
pub fn file_of(flags: &Flags, environment: Environment<'_>) -> PathBuf {
    named_file(flags, environment).unwrap_or_else(|| PathBuf::from(DEFAULT_FILE))
}

fn read_file(flags: &Flags, environment: Environment<'_>) -> Result<File, ConfigError> {
    let (named, path) = (named_file(flags, environment), file_of(flags, environment));
    match std::fs::read_to_string(&path) {
        Ok(text) => parse_file(&path, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(File::default()),
        Err(error) => Err(ConfigError::Unreadable { path, cause: error.to_string() }),
    }
}

fn parse_file(path: &Path, text: &str) -> Result<File, ConfigError> {
    let invalid = |start: usize, message: String| {
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        ConfigError::Invalid { path: path.to_owned(), line, message }
    };
    let mut file: File = toml::from_str(text)
        .map_err(|error| invalid(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
    if let Some(table) = &file.retention {
        let kept = table.get_ref().validated().map_err(|(span, message)| {
            invalid(span.map_or(table.span().start, |span| span.start), message)
        })?;
        file.kept = Some(kept);
    }
    Ok(file)
}

fn listen(
    flags: &Flags,
    environment: Environment<'_>,
    file: Option<Vec<String>>,
) -> Result<Vec<SocketAddr>, ConfigError> {
    let (source, texts) = if !flags.listen.is_empty() {
        ("--listen", flags.listen.clone())
    } else if let Some(text) = environment("ROUNDSMAN_LISTEN") {
        ("ROUNDSMAN_LISTEN", text.split(',').map(|part| part.trim().to_owned()).collect())
    } else if let Some(texts) = file {
        ("listen", texts)
    } else {
        ("default", vec![DEFAULT_LISTEN.to_owned()])
    };
    if texts.is_empty() {
        return Err(value(source, "needs at least one address such as 127.0.0.1:9083"));
    }
    texts
        .iter()
        .map(|text| {
            text.parse().map_err(|_| {
                value(
                    source,
                    format!("'{text}' is not ADDRESS:PORT; use for example 127.0.0.1:9083 or [::1]:9083"),
                )
            })
        })
        .collect()
}

fn require_loopback(listen: &[SocketAddr], insecure: bool) -> Result<(), ConfigError> {
    let open =
        listen.iter().filter(|address| !address.ip().is_loopback()).fold(String::new(), |mut list, a| {
            let _ = write!(list, "{}{a}", if list.is_empty() { "" } else { ", " });
            list
        });
    if open.is_empty() || insecure {
        return Ok(());
    }
    Err(value(
        "--listen",
        format!(
            "{open} can be reached from other machines, and the connection would not be encrypted: \
             listen on 127.0.0.1 behind a proxy with TLS or an SSH tunnel, or say --insecure-listen if the network is yours"
        ),
    ))
}

/// `5s`, `500ms`, `2m`, `1h` or a plain number of seconds, 1 s to 1 h.
///
/// # Errors
/// A sentence that says what would be accepted.
pub fn parse_interval(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or("");
    let factor_ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let span = digits
        .parse::<u64>()
        .ok()
        .filter(|_| factor_ms > 0)
        .and_then(|number| number.checked_mul(factor_ms))
        .map(Duration::from_millis);
    match span {
        Some(span) if (INTERVAL_RANGE.0..=INTERVAL_RANGE.1).contains(&span) => Ok(span),
        _ => Err(format!("'{text}' is not an interval; use 1s to 1h, for example 5s or 2m")),
    }
}

/// `SSH_AUTH_SOCK` is what a shell with an agent hands down; what was written for Roundsman goes before.
fn ssh_agent(
    environment: Environment<'_>,
    from_file: Option<PathBuf>,
) -> Result<Option<PathBuf>, ConfigError> {
    let path = |name: &str| environment(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    let named = path("ROUNDSMAN_SSH_AGENT")
        .map(|path| ("ROUNDSMAN_SSH_AGENT", path))
        .or_else(|| from_file.map(|path| ("ssh_agent", path)));
    match named {
        Some((origin, path)) if path.is_relative() => {
            Err(value(origin, format!("'{}' is not an absolute path of a socket", path.display())))
        }
        Some((_, path)) => Ok(Some(path)),
        None => Ok(path("SSH_AUTH_SOCK")),
    }
}

fn boolean(environment: Environment<'_>, name: &str) -> Result<Option<bool>, ConfigError> {
    match environment(name).as_deref() {
        None | Some("") => Ok(None),
        Some("1" | "true" | "yes") => Ok(Some(true)),
        Some("0" | "false" | "no") => Ok(Some(false)),
        Some(other) => Err(value(name, format!("'{other}' is not true or false"))),
    }
}

/// The variable itself, or the first line of the file that `NAME_FILE` names.
///
/// # Errors
/// [`ConfigError::Value`] when the file cannot be read or is empty.
pub fn secret(environment: Environment<'_>, name: &str) -> Result<Option<Secret<String>>, ConfigError> {
    let file_variable = format!("{name}_FILE");
    if let Some(path) = environment(&file_variable) {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| value(&file_variable, format!("cannot read {path}: {error}")))?;
        let line = text.lines().next().unwrap_or_default();
        if line.is_empty() {
            return Err(value(&file_variable, format!("{path} is empty")));
        }
        return Ok(Some(Secret::new(line.to_owned())));
    }
    Ok(environment(name).filter(|text| !text.is_empty()).map(Secret::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &Flags, table: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(flags, &|name| {
            table.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn flags_win_over_environment_and_environment_over_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "listen = [\"127.0.0.1:1\"]\ninterval = \"9s\"\ndata = \"/file\"\n").unwrap();
        let config = path.to_str().unwrap();
        let table =
            [("ROUNDSMAN_CONFIG", config), ("ROUNDSMAN_LISTEN", "127.0.0.1:2"), ("ROUNDSMAN_DATA", "/env")];
        let flags = Flags { listen: vec!["127.0.0.1:3".to_owned()], ..Flags::default() };
        let loaded = load(&flags, &table).unwrap();
        assert_eq!(loaded.listen, ["127.0.0.1:3".parse().unwrap()]);
        assert_eq!(load(&Flags::default(), &table).unwrap().listen, ["127.0.0.1:2".parse().unwrap()]);
        assert_eq!(loaded.interval, Duration::from_secs(9));
        assert_eq!(loaded.data, Path::new("/env"));
        let only_file = [("ROUNDSMAN_CONFIG", config)];
        assert_eq!(load(&Flags::default(), &only_file).unwrap().data, Path::new("/file"));
    }

    #[test]
    fn a_mistake_in_the_file_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "data = \"/x\"\nlisten_on = 3\n").unwrap();
        let error = load(&Flags { config: Some(path), ..Flags::default() }, &[]).unwrap_err();
        assert!(matches!(&error, ConfigError::Invalid { line: 2, .. }), "{error}");
        assert!(error.to_string().contains("listen_on"), "{error}");
    }

    #[test]
    fn retention_stands_in_the_file_and_a_mistake_in_it_has_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load(&Flags { config: Some(path.clone()), ..Flags::default() }, &[])
        };
        let found = load("interval = \"9s\"\n[retention]\nraw_days = 7\narchive = \"/srv/old\"\n").unwrap();
        let kept = Retention { raw_days: 7, archive: Some("/srv/old".into()), ..Retention::default() };
        assert_eq!(found.retention, Some(kept));
        assert_eq!(load("interval = \"9s\"\n").unwrap().retention, None);
        let cases = [
            ("[retention]\naudit_days = 9\nm5_days = 7\n", 3, "m5_days"),
            ("[retention]\nraw_days = 16\n", 1, "m1_days"),
            ("[retention]\nraw_days = 16\n\nm1_days = 15\n", 4, "m1_days"),
            ("[retention]\n\nraw_dayz = 16\n", 3, "raw_dayz"),
            ("[retention]\nraw_days = -1\n", 2, "u32"),
            ("[retention]\narchive = \"old\"\n", 2, "archive"),
            ("[retention]\nd1_days = 40000\n", 2, "36500"),
        ];
        for (text, wanted, word) in cases {
            let error = load(text).unwrap_err();
            assert!(
                matches!(&error, ConfigError::Invalid { line, .. } if *line == wanted),
                "{text}: {error}"
            );
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_that_others_can_reach_needs_the_explicit_switch() {
        let mut flags = Flags { listen: vec!["0.0.0.0:9083".to_owned()], ..Flags::default() };
        assert!(load(&flags, &[]).unwrap_err().to_string().contains("--insecure-listen"));
        flags.insecure_listen = true;
        assert!(load(&flags, &[]).is_ok());
    }

    #[test]
    fn intervals_are_one_second_to_one_hour() {
        assert_eq!(parse_interval("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_interval("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_interval("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["0", "500ms", "2h", "soon", "-1s", "5 parsecs"] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_agent_of_the_shell_is_used_unless_another_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "ssh_agent = \"/run/agent\"\n").unwrap();
        let agent = |table: &[(&str, &str)]| load(&Flags::default(), table).map(|config| config.ssh_agent);
        assert_eq!(agent(&[]), Ok(None));
        let shell = ("SSH_AUTH_SOCK", "/tmp/agent.1");
        assert_eq!(agent(&[shell]).unwrap(), Some("/tmp/agent.1".into()));
        let file = ("ROUNDSMAN_CONFIG", path.to_str().unwrap());
        assert_eq!(agent(&[shell, file]).unwrap(), Some("/run/agent".into()));
        let named = ("ROUNDSMAN_SSH_AGENT", "/mine");
        assert_eq!(agent(&[shell, file, named]).unwrap(), Some("/mine".into()));
        assert!(agent(&[("ROUNDSMAN_SSH_AGENT", "mine")]).is_err());
    }

    #[test]
    fn a_secret_may_come_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "correct horse\n").unwrap();
        let table = [("ROUNDSMAN_ADMIN_PASSWORD_FILE", path.to_str().unwrap())];
        let config = load(&Flags::default(), &table).unwrap();
        assert_eq!(config.admin_password.unwrap().expose(), "correct horse");
        let missing = [("ROUNDSMAN_ADMIN_PASSWORD_FILE", "/nowhere/password")];
        assert!(load(&Flags::default(), &missing).unwrap_err().to_string().contains("/nowhere/password"));
    }
}
