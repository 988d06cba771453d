//! The agent program: arguments, environment, and which of its ways of working they mean.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use roundsman_agent::http::Url;
use roundsman_agent::local::{self, Reader};
use roundsman_agent::push::{self, Options};
use roundsman_agent::send::{Sender, Token};
use roundsman_agent::serve::{self, Server};
use roundsman_agent::{Sections, json, stream};

const USAGE: &str = "usage: roundsman-agent COMMAND [OPTIONS]

  snapshot   print one reading as JSON
  stream     answer request lines until standard input ends
  serve      answer HTTP on 127.0.0.1
               --port N            default 8083
               --token-file FILE   who sends this token sees command lines
  push       register with a central server and send readings to it
               --url URL           or ROUNDSMAN_URL; https, or http on this machine
               --token-file FILE   or ROUNDSMAN_TOKEN, ROUNDSMAN_TOKEN_FILE
               --name NAME         default: the host's name
               --interval SECONDS  default 5
               --state-file FILE   keeps what the registration gave
               --insecure-http     allow http to another machine: everybody on the way can read it
  version    print the version and the SHA-256 of this file";

/// Readings come after whatever the machine is there for.
const NICE: u8 = 10;

/// Bytes of a token file.
const TOKEN_FILE_BYTES: u64 = 4096;

/// Why nothing was done.
enum Failure {
    /// The command line or the environment is wrong.
    Use(String),
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> =
        env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Use(what)) => {
            let _ = writeln!(io::stderr(), "roundsman-agent: {what}\n{USAGE}");
            ExitCode::from(2)
        }
        Err(Failure::Broken(error)) => {
            log(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let (command, rest) =
        arguments.split_first().ok_or_else(|| Failure::Use("what to do is missing".to_owned()))?;
    let known: &[&str] = match command.as_str() {
        "serve" => &["--port", "--token-file"],
        "push" => &["--url", "--token-file", "--name", "--interval", "--state-file", "--insecure-http"],
        _ => &[],
    };
    match command.as_str() {
        "snapshot" | "stream" | "version" | "serve" | "push" => {}
        "help" | "--help" | "-h" => return Ok(print(USAGE)?),
        _ => return Err(Failure::Use(format!("unknown command {command:?}"))),
    }
    let given = options(rest, known)?;
    match command.as_str() {
        "snapshot" => print(&json::to_json(&Reader::default().read(Sections::DETAILS)))?,
        "version" => print(&version())?,
        "serve" => serve(&given)?,
        "push" => push(&given)?,
        _ => {
            local::be_nice(NICE);
            stream::run(&Reader::default(), &mut io::stdin().lock(), &mut io::stdout().lock())?;
        }
    }
    Ok(())
}

/// `--name value`, `--name=value`, and `--insecure-http`, which has none.
fn options(words: &[String], known: &[&str]) -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word.as_str(), None),
        };
        if !known.contains(&name) {
            return Err(Failure::Use(format!("unexpected argument {word:?}")));
        }
        let value = match (name, value) {
            ("--insecure-http", None) => "",
            ("--insecure-http", Some(_)) => {
                return Err(Failure::Use("--insecure-http takes no value".to_owned()));
            }
            (_, Some(value)) => value,
            (_, None) => words.next().ok_or_else(|| Failure::Use(format!("{name} needs a value")))?.as_str(),
        };
        if found.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::Use(format!("{name} is given twice")));
        }
    }
    Ok(found)
}

fn serve(given: &BTreeMap<String, String>) -> Result<(), Failure> {
    let port = match given.get("--port") {
        Some(text) => text.parse().map_err(|_| Failure::Use(format!("{text:?} is no port")))?,
        None => serve::DEFAULT_PORT,
    };
    let token = given.get("--token-file").map(|path| token_file(Path::new(path))).transpose()?;
    local::be_nice(NICE);
    let ready = |port| log(&format!("listening on 127.0.0.1:{port}"));
    Ok(Server::new(Reader::default(), token).run(port, ready)?)
}

fn push(given: &BTreeMap<String, String>) -> Result<(), Failure> {
    let url = given.get("--url").cloned().or_else(|| variable(&["ROUNDSMAN_URL", "MAIN_APP_URL"]));
    let url = url.ok_or_else(|| Failure::Use("--url or ROUNDSMAN_URL is missing".to_owned()))?;
    let url = Url::parse(&url)
        .map_err(|_| Failure::Use("the address is no 'https://HOST[:PORT][/PREFIX]'".to_owned()))?;
    if !url.is_tls && !url.is_loopback() && !given.contains_key("--insecure-http") {
        return Err(Failure::Use(
            "http to another machine shows the token to everybody on the way: use https, or --insecure-http"
                .to_owned(),
        ));
    }
    let interval = match given.get("--interval") {
        Some(text) => {
            let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
            let wrong = || Failure::Use(format!("{text:?} is no interval of 1 to 3600 seconds"));
            Duration::from_secs(seconds.ok_or_else(wrong)?)
        }
        None => push::DEFAULT_INTERVAL,
    };
    let state_file = match given.get("--state-file") {
        Some(path) => PathBuf::from(path),
        None => state_folder()?.join("push.state"),
    };
    // curl and wget are told the name of a file beside it in a line of their configuration.
    let plain = |text: &str| !text.chars().any(|c| c.is_control() || "\"\\'#".contains(c));
    if !state_file.to_str().is_some_and(plain) {
        return Err(Failure::Use("the state file's path holds quotes or control characters".to_owned()));
    }
    if let Some(folder) = state_file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    local::be_nice(NICE);
    let sender = Sender { url, body_file: state_file.with_extension("body") };
    let name = given.get("--name").cloned();
    let options = Options { sender, token: token(given)?, name, interval, state_file };
    Ok(push::run(&Reader::default(), options, log)?)
}

fn token(given: &BTreeMap<String, String>) -> Result<Option<Token>, Failure> {
    if let Some(path) = given.get("--token-file").cloned().or_else(|| variable(&["ROUNDSMAN_TOKEN_FILE"])) {
        return token_file(Path::new(&path)).map(Some);
    }
    let parse = |text: String| {
        Token::parse(text.trim())
            .ok_or_else(|| Failure::Use("the token in the environment is none".to_owned()))
    };
    variable(&push::SECRET_VARIABLES).map(parse).transpose()
}

/// The first of these variables that is set and not empty.
fn variable(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

fn token_file(path: &Path) -> Result<Token, Failure> {
    let wrong = |what: &str| Failure::Use(format!("token file {}: {what}", path.display()));
    let data = fs::metadata(path).map_err(|error| wrong(&error.to_string()))?;
    if data.mode() & 0o077 != 0 {
        return Err(wrong("others may read it; use chmod 600"));
    }
    if !data.is_file() || data.len() > TOKEN_FILE_BYTES {
        return Err(wrong("is not a file with one line"));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
    Token::parse(text.trim()).ok_or_else(|| wrong("holds no token of 8 to 512 visible characters"))
}

/// systemd's `StateDirectory=`, else where such files go.
fn state_folder() -> Result<PathBuf, Failure> {
    let first = |text: String| text.split(':').next().map(PathBuf::from);
    variable(&["STATE_DIRECTORY"])
        .and_then(first)
        .or_else(|| variable(&["XDG_STATE_HOME"]).map(|folder| Path::new(&folder).join("roundsman-agent")))
        .or_else(|| variable(&["HOME"]).map(|home| Path::new(&home).join(".local/state/roundsman-agent")))
        .ok_or_else(|| {
            Failure::Use("where to keep the registration is unknown: give --state-file".to_owned())
        })
}

fn version() -> String {
    let build = stream::build().unwrap_or_else(|| "unknown".to_owned());
    format!("roundsman-agent {} {build}", env!("CARGO_PKG_VERSION"))
}

fn print(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// A line on standard error, where a service manager puts it into the log.
fn log(text: &str) {
    // Nobody can be told where standard error is closed.
    let _ = writeln!(io::stderr(), "roundsman-agent: {text}");
}
