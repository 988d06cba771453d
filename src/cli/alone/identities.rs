//! What a command without a Roundsman may log in with: keys of the ssh-agent and key files, in the order of OpenSSH.
//!
//! Keys that somebody named are the only ones that are offered, as with `IdentitiesOnly`: a full agent otherwise uses up the
//! attempts that a server allows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::super::error::CliError;
use super::super::import::files::{KeyFile, Machine};
use super::super::machine::small_file;
use super::super::output::Output;
use super::super::private_key;
use crate::fleet::import::Candidate;
use crate::model::Secret;
use crate::ssh::keyring::PublicFacts;
use crate::ssh::{AgentKey, Identity, agent_keys};

/// Keys that ssh tries by itself, in its order.
const USUAL: [&str; 5] = ["id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk"];
/// Logins with one server at most; more attempts than this are refused by sshd (MaxAuthTries) and noticed by fail2ban.
const OFFERS: usize = 6;

/// Something to log in with.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    /// Tells it from others; for a person too.
    pub(super) label: String,
    pub(super) identity: Identity,
}

/// What the options say of logging in.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Files that `--identity` names.
    pub(super) files: Vec<PathBuf>,
    pub(super) passphrase_file: Option<PathBuf>,
    /// Offered alone.
    pub(super) password: Option<Secret<String>>,
}

/// What this user can log in with.
pub(super) struct Identities<'a> {
    machine: &'a Machine,
    named: Named,
    agent: Option<(PathBuf, Vec<AgentKey>)>,
    /// Why there is no agent although one is named.
    agent_problem: Option<String>,
    /// Passphrases that were asked for; None: the file cannot be used.
    passphrases: HashMap<String, Option<Secret<String>>>,
    /// Lists that were made already, by the files that they are made of.
    made: HashMap<Vec<String>, Vec<Offer>>,
    output: &'a Output,
}

impl<'a> Identities<'a> {
    /// Asks the agent of `SSH_AUTH_SOCK`, if there is one, what it holds.
    pub(super) async fn of_user(machine: &'a Machine, named: Named, output: &'a Output) -> Self {
        let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from);
        let (mut agent, mut agent_problem) = (None, None);
        if let Some(socket) = socket.filter(|_| named.password.is_none()) {
            match agent_keys(&socket).await {
                Ok(keys) => agent = Some((socket, keys)),
                Err(problem) => agent_problem = Some(problem),
            }
        }
        let (passphrases, made) = (HashMap::new(), HashMap::new());
        Self { machine, named, agent, agent_problem, passphrases, made, output }
    }

    /// What is offered to a host, the preferred one first. Empty: there is nothing; see [`Self::nothing`].
    ///
    /// # Errors
    /// [`CliError::Failed`] when a named file cannot be used at all.
    pub(super) fn of(&mut self, host: &Candidate) -> Result<Vec<Offer>, CliError> {
        if let Some(password) = &self.named.password {
            let identity = Identity::Password(password.clone());
            return Ok(vec![Offer { label: "a password".to_owned(), identity }]);
        }
        let mut files: Vec<String> = Vec::new();
        for path in &self.named.files {
            let shown = path.display().to_string();
            if self.machine.key(&shown).is_none() {
                return Err(CliError::failed(format!("there is no key {shown}")));
            }
            files.push(shown);
        }
        files.extend(host.identities.iter().cloned());
        let certificate = host.certificate.clone();
        let key = files.iter().chain(&certificate).cloned().collect::<Vec<_>>();
        if let Some(made) = self.made.get(&key) {
            return Ok(made.clone());
        }
        let mut offers = self.offers(&files, certificate.as_deref())?;
        offers.truncate(OFFERS);
        self.made.insert(key, offers.clone());
        Ok(offers)
    }

    /// Why there is nothing to offer.
    pub(super) fn nothing(&self) -> String {
        let agent = match (&self.agent, &self.agent_problem) {
            (_, Some(problem)) => problem.clone(),
            (Some(_), _) => "the ssh-agent holds none".to_owned(),
            (None, None) => "there is no ssh-agent".to_owned(),
        };
        let locked = if self.passphrases.values().any(Option::is_none) {
            "; a key that has a passphrase needs an ssh-agent (ssh-add) or --passphrase-file"
        } else {
            ""
        };
        format!(
            "there is no key to offer: {agent}, and no key file can be used{locked}; name one with --identity"
        )
    }

    fn offers(&mut self, files: &[String], certificate: Option<&str>) -> Result<Vec<Offer>, CliError> {
        let is_named = !files.is_empty();
        let usual: Vec<String> = USUAL.iter().map(|name| format!("~/.ssh/{name}")).collect();
        // A passphrase is asked for where nothing else could be offered.
        let may_ask = is_named || self.agent.as_ref().is_none_or(|(_, keys)| keys.is_empty());
        let (mut by_agent, mut by_file) = (Vec::new(), Vec::new());
        let mut held: Vec<String> = Vec::new();
        for file in if is_named { files } else { &usual } {
            match self.machine.key(file) {
                None => {}
                Some(KeyFile::Public(line)) => by_agent.extend(self.in_agent(&line)),
                Some(KeyFile::Private(path)) => {
                    let line = small_file(Path::new(&format!("{path}.pub"))).ok();
                    if let Some(offer) = line.and_then(|line| self.in_agent(line.expose().trim())) {
                        held.push(offer.label.clone());
                        by_agent.push(offer);
                    } else {
                        by_file.extend(self.of_file(&path, certificate, may_ask)?);
                    }
                }
            }
        }
        if !is_named && let Some((socket, keys)) = &self.agent {
            let others = keys.iter().filter(|key| !held.contains(&key.line));
            by_agent.extend(others.map(|key| of_agent(socket, &key.line)));
        }
        by_agent.append(&mut by_file);
        Ok(by_agent)
    }

    /// The key of a public line, where the agent holds it.
    fn in_agent(&self, line: &str) -> Option<Offer> {
        let fingerprint = PublicFacts::of(line)?.fingerprint;
        let (socket, keys) = self.agent.as_ref()?;
        let key = keys.iter().find(|key| key.fingerprint == fingerprint)?;
        Some(of_agent(socket, &key.line))
    }

    /// A key file, and before it the certificate that belongs to it.
    fn of_file(
        &mut self,
        path: &str,
        certificate: Option<&str>,
        may_ask: bool,
    ) -> Result<Vec<Offer>, CliError> {
        let Ok(text) = small_file(Path::new(path)) else { return Ok(Vec::new()) };
        let has_passphrase = private_key::is_encrypted(text.expose());
        let passphrase = match has_passphrase.then(|| self.passphrase(path, may_ask)) {
            None => None,
            Some(Ok(Some(passphrase))) => Some(passphrase),
            Some(Ok(None)) => return Ok(Vec::new()),
            Some(Err(error)) => return Err(error),
        };
        let mut offers = Vec::new();
        let beside = self.machine.certificate_beside(path);
        if let Some(file) = certificate.map(str::to_owned).or(beside)
            && passphrase.is_none()
            && let Ok(line) = small_file(Path::new(&file))
        {
            let identity = Identity::Certificate { key: text, certificate: line.expose().trim().to_owned() };
            offers.push(Offer { label: file, identity });
        }
        let identity = Identity::KeyFile { path: PathBuf::from(path), passphrase };
        offers.push(Offer { label: path.to_owned(), identity });
        Ok(offers)
    }

    /// None: there is none to be had here.
    fn passphrase(&mut self, path: &str, may_ask: bool) -> Result<Option<Secret<String>>, CliError> {
        if let Some(known) = self.passphrases.get(path) {
            return Ok(known.clone());
        }
        let can_be_had = self.named.passphrase_file.is_some() || (self.output.interactive && may_ask);
        let passphrase = if can_be_had {
            let file = self.named.passphrase_file.as_deref();
            private_key::read(Path::new(path), file, self.output)?.passphrase
        } else {
            None
        };
        self.passphrases.insert(path.to_owned(), passphrase.clone());
        Ok(passphrase)
    }
}

fn of_agent(socket: &Path, line: &str) -> Offer {
    let identity = Identity::Agent { socket: socket.to_owned(), public_key: line.to_owned() };
    Offer { label: line.to_owned(), identity }
}
