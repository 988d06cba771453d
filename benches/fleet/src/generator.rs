//! Thousands of SSH servers in one process: each has an address of its own and answers the probe with the recording.
//!
//! Checks everything that it is sent, and reports it to the [`Ledger`]. Runs no command and opens no file; two commands it
//! knows by name, [`ANSWERS`] and [`HANGS`].

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use tokio::net::TcpListener;

use crate::ledger::Ledger;
use crate::recording::{Letters, Moment, Recording};

/// The script is about 4 KB; more before its end is not the script.
const SCRIPT_BYTES: usize = 64 * 1024;
/// A request names at most some dozens of mounts.
const REQUEST_BYTES: usize = 16 * 1024;
/// How the script ends.
const LAST_LINE: &[u8] = b"main; exit 0\n";
/// Process id that every loop gives for its own; nothing is ever sent to it.
const SHELL_PID: u32 = 4242;

/// The command that prints a line and succeeds.
pub const ANSWERS: &str = "bench-answers";
/// The command that goes on until it is ended.
pub const HANGS: &str = "bench-hangs";
/// What [`ANSWERS`] prints.
const LINE: &[u8] = b"as ever\n";
/// By which the program finds out that commands run at all, and the answer.
const SHELL_LOOK: &str = "echo $((6*7)); uname -sr";
const SHELL_SAYS: &[u8] = b"42\nLinux 6.1.0\n";
/// Exit status of a command that TERM ended, as shells say it.
const TERMINATED: u32 = 143;

/// What all servers share.
#[derive(Debug)]
struct Shared {
    ledger: Arc<Ledger>,
    recording: Recording,
    accepted: PublicKey,
    started: Instant,
    /// Bytes of the last answers, so that the next is allocated once.
    base_bytes: AtomicUsize,
    full_bytes: AtomicUsize,
}

/// The running generator; its servers end with the process.
#[derive(Debug)]
pub struct Generator {
    /// Where each server listens.
    pub addresses: Vec<SocketAddr>,
    /// The host key of all of them as an OpenSSH line.
    pub host_key: String,
}

impl Generator {
    /// Starts as many servers as the ledger has accounts. `accepted` is the public key that may log in.
    ///
    /// # Errors
    /// When the recording is broken or the system gives no more sockets.
    pub async fn start(ledger: Arc<Ledger>, servers: usize, accepted: &str) -> anyhow::Result<Self> {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)?;
        let host_key = key.public_key().to_openssh()?;
        let methods: &[MethodKind] = &[MethodKind::PublicKey];
        let config = Arc::new(Config {
            methods: MethodSet::from(methods),
            auth_rejection_time: Duration::ZERO,
            keys: vec![key],
            inactivity_timeout: None,
            ..Config::default()
        });
        let shared = Arc::new(Shared {
            ledger,
            recording: Recording::debian()?,
            accepted: PublicKey::from_openssh(accepted).context("the public key that the API names")?,
            started: Instant::now(),
            base_bytes: AtomicUsize::new(0),
            full_bytes: AtomicUsize::new(0),
        });
        let mut addresses = Vec::with_capacity(servers);
        for server in 0..servers {
            let listener = TcpListener::bind((address(server), 0))
                .await
                .with_context(|| format!("listening for server {server}; see ulimit -n"))?;
            addresses.push(listener.local_addr()?);
            tokio::spawn(serve(server, listener, Arc::clone(&config), Arc::clone(&shared)));
        }
        Ok(Self { addresses, host_key })
    }
}

/// An address of its own for each server, all on the loopback interface.
fn address(server: usize) -> Ipv4Addr {
    let octet = |value: usize| u8::try_from(value % 250 + 1).unwrap_or(1);
    Ipv4Addr::new(127, octet(server / 62_500), octet(server / 250), octet(server))
}

async fn serve(server: usize, listener: TcpListener, config: Arc<Config>, shared: Arc<Shared>) {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                shared.ledger.complain(server, &format!("accept: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let host = Host {
            server,
            shared: Arc::clone(&shared),
            stage: Stage::Login,
            probe: None,
            hanging: Vec::new(),
        };
        let config = Arc::clone(&config);
        tokio::spawn(async move {
            let nodelay = socket.set_nodelay(true);
            let ledger = Arc::clone(&host.shared.ledger);
            let ended = match nodelay {
                Ok(()) => match Box::pin(russh::server::run_stream(config, socket, host)).await {
                    Ok(session) => session.await,
                    Err(error) => Err(error),
                },
                Err(error) => Err(error.into()),
            };
            if let Err(error) = ended {
                ledger.complain(server, &format!("the connection broke: {error}"));
            }
        });
    }
}

/// Where the one channel of a connection stands.
#[derive(Debug)]
enum Stage {
    Login,
    /// The script comes in.
    Script(Vec<u8>),
    Loop {
        word: String,
        line: Vec<u8>,
        requests: u64,
    },
    /// Something came that is none of it; every request from now on stays unanswered and counts as missed.
    Lost,
}

/// One connection.
struct Host {
    server: usize,
    shared: Arc<Shared>,
    stage: Stage,
    /// The channel of the loop.
    probe: Option<ChannelId>,
    /// Channels on which [`HANGS`] runs.
    hanging: Vec<ChannelId>,
}

impl Host {
    fn lose(&mut self, why: &str) {
        self.shared.ledger.complain(self.server, why);
        self.stage = Stage::Lost;
    }

    fn moment<'a>(&self, word: &'a str, request: u64) -> Moment<'a> {
        Moment { server: self.server, request, seconds: self.shared.started.elapsed().as_secs_f64(), word }
    }

    /// Takes what came on the channel; what is to be sent back, if anything.
    fn take(&mut self, data: &[u8], at: Instant) -> Vec<u8> {
        match std::mem::replace(&mut self.stage, Stage::Lost) {
            Stage::Script(mut script) => {
                script.extend_from_slice(data);
                if script.len() > SCRIPT_BYTES {
                    self.lose("a script without an end");
                    return Vec::new();
                }
                if !script.ends_with(LAST_LINE) {
                    self.stage = Stage::Script(script);
                    return Vec::new();
                }
                let Some(word) = word_of(&script) else {
                    self.lose("a script without its word");
                    return Vec::new();
                };
                let hello = self.shared.recording.hello(&self.moment(&word, 0));
                self.stage = Stage::Loop { word, line: Vec::new(), requests: 0 };
                hello
            }
            Stage::Loop { word, mut line, mut requests } => {
                let mut answers = Vec::new();
                for &byte in data {
                    if byte != b'\n' {
                        line.push(byte);
                        continue;
                    }
                    match self.request(&line, &word, requests, at) {
                        Ok(Some(answer)) => {
                            requests += 1;
                            answers.extend(answer);
                        }
                        Ok(None) => {}
                        Err(()) => {
                            let shown = String::from_utf8_lossy(&line).into_owned();
                            self.lose(&format!("not a request: {shown:?}"));
                            return answers;
                        }
                    }
                    line.clear();
                }
                if line.len() > REQUEST_BYTES {
                    self.lose("a request without an end");
                } else {
                    self.stage = Stage::Loop { word, line, requests };
                }
                answers
            }
            Stage::Login | Stage::Lost => {
                self.lose("input without a shell");
                Vec::new()
            }
        }
    }

    /// One line, as the script would read it.
    fn request(&self, line: &[u8], word: &str, before: u64, at: Instant) -> Result<Option<Vec<u8>>, ()> {
        let line = std::str::from_utf8(line).map_err(|_| ())?;
        if line == "m" {
            return Ok(None);
        }
        if let Some(path) = line.strip_prefix('+') {
            return if self.shared.recording.has_mount(path) { Ok(None) } else { Err(()) };
        }
        let (number, letters) = line.strip_prefix("r ").and_then(|rest| rest.split_once(' ')).ok_or(())?;
        let number: u64 = number.parse().map_err(|_| ())?;
        let letters = Letters::parse(letters).ok_or(())?;
        if number != before + 1 {
            return Err(());
        }
        let hint = if letters.processes { &self.shared.full_bytes } else { &self.shared.base_bytes };
        let size = hint.load(Ordering::Relaxed);
        let answer = self.shared.recording.answer(&self.moment(word, number), letters, size + 1024);
        if answer.len() > size {
            hint.store(answer.len(), Ordering::Relaxed);
        }
        self.shared.ledger.request(self.server, at, answer.len());
        Ok(Some(answer))
    }
}

/// The word that frames the answers.
fn word_of(script: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(script).ok()?;
    let word = text.lines().find_map(|line| line.strip_prefix("n="))?;
    (word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| word.to_owned())
}

/// What the start of the shell prints: its marker and its process id. None: another command.
fn greeting_of(command: &[u8]) -> Option<String> {
    let words = shlex::split(std::str::from_utf8(command).ok()?)?;
    let [exec, shell, flag, script] = <[String; 4]>::try_from(words).ok()?;
    if [exec.as_str(), shell.as_str(), flag.as_str()] != ["exec", "/bin/sh", "-c"] {
        return None;
    }
    let (first, second) = script.split_once('\n')?;
    let first = shlex::split(first)?;
    let [echo, marker, pid] = <[String; 3]>::try_from(first).ok()?;
    let loops = echo == "echo" && pid == "$$" && second.trim() == "exec /bin/sh";
    loops.then(|| format!("{marker} {SHELL_PID}\n"))
}

/// What a command line of the program asks for, beside the loop.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// With the marker that stands before its output, and the output.
    Answer(String, &'static [u8]),
    Hang(String),
    /// The script that ends a command.
    End,
}

/// None: it is none of those that are known here.
fn asked_of(command: &[u8]) -> Option<Asked> {
    let words = shlex::split(std::str::from_utf8(command).ok()?)?;
    let [exec, shell, flag, script] = <[String; 4]>::try_from(words).ok()?;
    if [exec.as_str(), shell.as_str(), flag.as_str()] != ["exec", "/bin/sh", "-c"] {
        return None;
    }
    if script.starts_with("k() {") {
        return Some(Asked::End);
    }
    let (first, rest) = script.split_once('\n')?;
    let announced = first.split(';').next().and_then(shlex::split)?;
    let [echo, marker, pid] = <[String; 3]>::try_from(announced).ok()?;
    if echo != "echo" || pid != "$$" {
        return None;
    }
    match rest.lines().last()? {
        ANSWERS => Some(Asked::Answer(marker, LINE)),
        SHELL_LOOK => Some(Asked::Answer(marker, SHELL_SAYS)),
        HANGS => Some(Asked::Hang(marker)),
        _ => None,
    }
}

impl Host {
    /// Does what a command line asks for, and answers.
    fn act(&mut self, channel: ChannelId, asked: Asked, session: &mut Session) -> Result<(), russh::Error> {
        let greet = |session: &mut Session, marker: &str| {
            session.data(channel, format!("{marker} {SHELL_PID}\n").into_bytes())?;
            session.extended_data(channel, 1, format!("{marker}\n").into_bytes())
        };
        match asked {
            Asked::Answer(marker, output) => {
                greet(session, &marker)?;
                session.data(channel, output)?;
                session.exit_status_request(channel, 0)?;
                session.close(channel)
            }
            Asked::Hang(marker) => {
                self.hanging.push(channel);
                greet(session, &marker)
            }
            Asked::End => {
                for hanging in self.hanging.drain(..) {
                    session.exit_status_request(hanging, TERMINATED)?;
                    session.close(hanging)?;
                }
                session.exit_status_request(channel, 0)?;
                session.close(channel)
            }
        }
    }
}

impl Handler for Host {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let offered = key.public_key.fingerprint(HashAlg::Sha256);
        if offered == self.shared.accepted.fingerprint(HashAlg::Sha256) {
            self.shared.ledger.login(self.server);
            Ok(Auth::Accept)
        } else {
            self.shared.ledger.complain(self.server, "a login with another key");
            Ok(Auth::reject())
        }
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        match greeting_of(data) {
            Some(greeting) => {
                self.stage = Stage::Script(Vec::new());
                self.probe = Some(channel);
                session.data(channel, greeting.into_bytes())
            }
            None => {
                self.shared.ledger.other_command(self.server);
                if let Some(asked) = asked_of(data) {
                    return self.act(channel, asked, session);
                }
                session.exit_status_request(channel, 127)?;
                session.close(channel)
            }
        }
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let answer = self.take(data, Instant::now());
        if answer.is_empty() { Ok(()) } else { session.data(channel, answer) }
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        // Commands read no input; only the loop ends with it.
        if self.probe != Some(channel) {
            return Ok(());
        }
        session.exit_status_request(channel, 0)?;
        session.close(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_a_loopback_address_of_its_own() {
        let all: std::collections::BTreeSet<_> = (0..5000).map(address).collect();
        assert_eq!(all.len(), 5000);
        assert!(all.iter().all(Ipv4Addr::is_loopback));
    }

    #[test]
    fn only_the_start_of_the_probe_is_a_command() {
        let line = br#"exec /bin/sh -c 'echo Rab'"''"'cd $$
exec /bin/sh'"#;
        assert_eq!(greeting_of(line).as_deref(), Some("Rabcd 4242\n"));
        assert_eq!(asked_of(line), None);
        assert_eq!(greeting_of(b"exec /bin/sh"), None);
        assert_eq!(greeting_of(b"rm -rf /"), None);
    }

    #[test]
    fn the_two_commands_and_what_ends_them_are_known() {
        let line = |command: &str| {
            let script = format!(
                "echo Rab''cd $$; echo Rab''cd >&2\nROUNDSMAN_RUN=x; export ROUNDSMAN_RUN\n{command}"
            );
            format!("exec /bin/sh -c {}", shlex::try_quote(&script).unwrap())
        };
        assert_eq!(asked_of(line(ANSWERS).as_bytes()), Some(Asked::Answer("Rabcd".to_owned(), LINE)));
        assert_eq!(asked_of(line(HANGS).as_bytes()), Some(Asked::Hang("Rabcd".to_owned())));
        assert_eq!(asked_of(line("rm -rf /").as_bytes()), None);
        assert_eq!(asked_of(b"exec /bin/sh -c 'k() { true; }; k TERM'"), Some(Asked::End));
    }
}
