//! Replacing a key on servers without ever locking Roundsman out.
//!
//! On each server, for each login that uses the key: the new key is put beside the old one, has to open the door alone and
//! bring a reading, is kept for the login; only then the old one is taken away. Whatever fails, one of the two opens the
//! door and Roundsman knows which. Every step can be done again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::acting::Lease;
use super::registry::Entry;
use super::ways::Purpose;
use super::{Fleet, FleetError};
use crate::actions::KeyRotation;
use crate::auth;
use crate::collect::shell::{self, ShellProbe};
use crate::model::{Caller, KeyId, Login, LoginMethod, Role, Sections, ServerId, TargetStatus};
use crate::quote::quote;
use crate::ssh::authorized::{self, Account};
use crate::ssh::{Connection, ExecRequest, Identity, Output, Piece, SshError, connect, printable};
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::keys::{self, KeptKey, LoginOf};
use crate::store::{StoreError, operations};

/// A file of a few kilobytes is written anew; a home directory on a network may have to be mounted first.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// What of a failed command's words goes into the sentence.
const SAID_CHARS: usize = 300;

/// On which servers a key is to be replaced.
#[derive(Debug, Clone, Default)]
pub struct RotationScope {
    /// Ids or names. Empty: every server that uses the key, and where a replacement was not brought to its end.
    pub servers: Vec<String>,
    /// Only those with this tag.
    pub tag: Option<String>,
    pub verify_old: bool,
}

/// One login of a server that takes part.
struct Turn {
    login: LoginOf,
    username: String,
    /// The new key is its key already; only the old line may be left.
    has_new_key: bool,
}

/// Where a key's line is written, and with whose rights.
struct Writer {
    connection: Connection,
    _lease: Option<Lease>,
    account: Account,
    sudo: bool,
}

/// What the new key alone opened in this run.
struct Proof {
    connection: Connection,
    /// So it needs no line in any file.
    by_certificate: bool,
}

/// Why a server keeps its old key, or has both.
struct Stuck(String);

impl Turn {
    fn purpose(&self) -> Purpose {
        match self.login {
            LoginOf::Main => Purpose::Readings,
            LoginOf::Actions => Purpose::Actions,
        }
    }

    fn name(&self) -> String {
        match self.login {
            LoginOf::Main => format!("as {}", self.username),
            LoginOf::Actions => format!("as {} (actions)", self.username),
        }
    }

    fn stuck(&self, step: &str, cause: impl std::fmt::Display, then: &str) -> Stuck {
        Stuck(format!("{}: {step}: {cause} {then}", self.name()))
    }
}

const OLD_OPENS: &str = "The old key still opens it. Put the cause right, then replace the key again.";
const NEW_UNPROVED: &str =
    "The old key's line is left where it is. Put the cause right, then replace the key again to finish.";
const NEW_OPENS: &str = "The new key opens it and is in use; the old one may, too. Put the cause right, then replace the key again to finish.";

/// What was done, told as it happens.
struct Report {
    tap: mpsc::Sender<Piece>,
    text: String,
}

impl Report {
    fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        // A slow page misses a line; the record has them all.
        drop(self.tap.try_send(Piece::Stdout(line.clone().into_bytes())));
        self.text.push_str(&line);
    }
}

fn explained(error: &SshError) -> String {
    format!("{error} {}", error.advice())
}

impl Fleet {
    /// The replacement of one key by another, and the servers on which it is to be done.
    ///
    /// # Errors
    /// [`FleetError::NoSuchKey`], [`FleetError::NoSuchServer`]; [`FleetError::Invalid`] where nothing is to be done.
    pub async fn plan_rotation(
        &self,
        caller: &Caller,
        from: &str,
        to: &str,
        scope: &RotationScope,
    ) -> Result<(KeyRotation, Vec<String>), FleetError> {
        auth::require(caller, Role::Admin)?;
        let old = self.key_by_reference(caller, from).await?;
        let new = self.key_by_reference(caller, to).await?;
        if old.id == new.id {
            return Err(FleetError::invalid("to", "a key cannot take its own place; choose another one"));
        }
        let organization = caller.organization;
        let uses = self.inner.store.read(move |c| keys::uses(c, organization)).await?;
        let unfinished = self.unfinished_rotations(caller, old.id).await?;
        let using = uses.iter().filter(|of| of.key == old.id).map(|of| of.server);
        let mut chosen: Vec<Arc<Entry>> = Vec::new();
        if scope.servers.is_empty() {
            let mut ids: Vec<ServerId> = using.chain(unfinished.iter().map(|(id, _)| *id)).collect();
            ids.sort();
            ids.dedup();
            chosen.extend(ids.into_iter().filter_map(|id| self.inner.registry.get(id)));
        } else {
            for reference in &scope.servers {
                chosen.push(self.find(caller, reference)?);
            }
        }
        let tag = scope.tag.as_deref().map(str::trim).filter(|tag| !tag.is_empty());
        chosen
            .retain(|entry| tag.is_none_or(|tag| entry.server().tags.iter().any(|own| own.as_str() == tag)));
        if chosen.is_empty() {
            let message = format!("no server of this choice logs in with the key '{}'", old.name);
            return Err(FleetError::invalid("servers", message));
        }
        let rotation = KeyRotation {
            from: old.id,
            to: new.id,
            old_key: old.name,
            new_key: new.name,
            old_public_key: old.public_line,
            new_public_key: new.public_line,
            verify_old: scope.verify_old,
        };
        Ok((rotation, chosen.iter().map(|entry| entry.id.to_string()).collect()))
    }

    /// Servers on which a replacement of this key began and was not brought to its end, with their names.
    pub(super) async fn unfinished_rotations(
        &self,
        caller: &Caller,
        key: KeyId,
    ) -> Result<Vec<(ServerId, String)>, FleetError> {
        let organization = caller.organization;
        let legs = self.inner.store.read(move |c| operations::legs_of(c, organization, "rotate_key")).await?;
        let from = key.to_string();
        let mut open = BTreeMap::new();
        for leg in legs {
            if leg.parameters.get("from").and_then(serde_json::Value::as_str) != Some(from.as_str()) {
                continue;
            }
            match leg.status {
                TargetStatus::Succeeded => drop(open.remove(&leg.server)),
                _ if leg.was_sent => drop(open.insert(leg.server, ())),
                _ => {}
            }
        }
        let entries = open.into_keys().filter_map(|id| self.inner.registry.get(id));
        let mut named: Vec<(ServerId, String)> =
            entries.map(|entry| (entry.id, entry.server().name.to_string())).collect();
        named.sort_by(|left, right| left.1.cmp(&right.1));
        Ok(named)
    }

    /// Replaces a key on one server. The output tells every step; exit status 0: done, 1: stderr says which step failed
    /// and what to do. Dropping the future stops between two steps or ends the command that runs: a key opens the
    /// server in either case.
    pub async fn rotate_key(
        &self,
        caller: &Caller,
        server: ServerId,
        rotation: &KeyRotation,
        tap: mpsc::Sender<Piece>,
    ) -> Output {
        let started = Instant::now();
        let mut report = Report { tap, text: String::new() };
        let outcome = self.rotate(caller, server, rotation, &mut report).await;
        let mut output =
            Output { exit_status: Some(0), stdout: report.text.into_bytes(), ..Output::default() };
        if let Err(Stuck(reason)) = outcome {
            output.exit_status = Some(1);
            output.stderr = format!("{}\n", reason.trim_end()).into_bytes();
        }
        output.wall = started.elapsed();
        output
    }

    async fn rotate(
        &self,
        caller: &Caller,
        server: ServerId,
        rotation: &KeyRotation,
        report: &mut Report,
    ) -> Result<(), Stuck> {
        let plain = |error: FleetError| Stuck(error.to_string());
        auth::require(caller, Role::Admin).map_err(|error| plain(error.into()))?;
        let entry = self.find(caller, &server.to_string()).map_err(plain)?;
        let new = self.key_by_reference(caller, &rotation.to.to_string()).await.map_err(plain)?;
        let turns = self.turns(caller, &entry, rotation).await.map_err(plain)?;
        if turns.is_empty() {
            let old = &rotation.old_key;
            return Err(Stuck(format!("it logs in with other keys than {old}; nothing was done.")));
        }
        let mut opened = Vec::with_capacity(turns.len());
        for turn in &turns {
            opened.push(if turn.has_new_key {
                report.say(&format!("{}: {} is its key already", turn.name(), rotation.new_key));
                let proof = self.log_in(caller, &entry, turn, rotation.to).await;
                proof.map_err(|cause| {
                    turn.stuck("logging in with the new key alone failed", cause, NEW_UNPROVED)
                })?
            } else {
                self.bring_in(caller, &entry, turn, rotation, &new, report).await?
            });
        }
        for (turn, proof) in turns.iter().zip(opened) {
            self.nobody_else_needs_it(caller, &entry, turn, rotation).await?;
            self.take_out(&entry, turn, rotation, proof, report).await?;
        }
        if rotation.verify_old {
            for turn in &turns {
                self.must_be_refused(caller, &entry, turn, rotation, report).await?;
            }
        }
        Ok(())
    }

    /// The logins of a server that use the old key, or the new one already.
    async fn turns(
        &self,
        caller: &Caller,
        entry: &Entry,
        rotation: &KeyRotation,
    ) -> Result<Vec<Turn>, FleetError> {
        let organization = caller.organization;
        let default = self.inner.store.read(move |c| keys::default_of(c, organization)).await?;
        let default = default.map(|kept| kept.id);
        let (server, way) = {
            let live = entry.live();
            (Arc::clone(&live.server), Arc::clone(&live.way))
        };
        let main = server.username.clone().unwrap_or_else(|| "root".to_owned());
        let logins = std::iter::once((LoginOf::Main, main, &way.login)).chain(
            way.action.as_ref().map(|action| (LoginOf::Actions, action.username.clone(), &action.login)),
        );
        Ok(logins
            .filter(|(.., login)| login.method == LoginMethod::Key)
            .filter_map(|(of, username, login)| match login.key.or(default) {
                Some(key) if key == rotation.from => Some(Turn { login: of, username, has_new_key: false }),
                Some(key) if key == rotation.to => Some(Turn { login: of, username, has_new_key: true }),
                _ => None,
            })
            .collect())
    }

    /// Puts the new key beside the old one, proves that it opens the login, and keeps it there.
    async fn bring_in(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        turn: &Turn,
        rotation: &KeyRotation,
        new: &KeptKey,
        report: &mut Report,
    ) -> Result<Proof, Stuck> {
        let (name, key) = (turn.name(), &rotation.new_key);
        if new.certificate.is_none() {
            let said = self.add_line(entry, turn, rotation).await;
            let said = said.map_err(|cause| turn.stuck("installing the new key failed", cause, OLD_OPENS))?;
            report.say(&format!("{name}: {key} is installed: {said}"));
        }
        // A certificate opens the login without a line, and a line does not help where it is refused; the bare key
        // proves nothing, because every later login offers the certificate.
        let proof = self
            .log_in(caller, entry, turn, rotation.to)
            .await
            .map_err(|cause| turn.stuck("logging in with the new key alone failed", cause, OLD_OPENS))?;
        if proof.by_certificate {
            report.say(&format!("{name}: the certificate of {key} opens it"));
        }
        report.say(&format!("{name}: logged in with {key} alone"));
        if turn.login == LoginOf::Main {
            let read = read_once(&proof.connection).await;
            read.map_err(|cause| turn.stuck("a reading with the new key failed", cause, OLD_OPENS))?;
            report.say(&format!("{name}: a reading over this login arrived"));
        }
        let switched = self.switch(caller, entry, turn, rotation).await;
        switched
            .map_err(|cause| turn.stuck("keeping the new key for this server failed", cause, OLD_OPENS))?;
        report.say(&format!("{name}: {key} is its key from now on"));
        Ok(proof)
    }

    async fn add_line(
        &self,
        entry: &Arc<Entry>,
        turn: &Turn,
        rotation: &KeyRotation,
    ) -> Result<String, String> {
        let writer = self.writer(entry, turn).await?;
        let restricted = matches!(writer.account, Account::Of(_)) || entry.live().findings.readings_only;
        let command = authorized::add_command(rotation.keys(), &writer.account, restricted);
        writer.run("Writing authorized_keys", &command.map_err(|error| explained(&error))?).await
    }

    /// The account may be enrolled twice; taking the key away here would lock the other entry out.
    async fn nobody_else_needs_it(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        turn: &Turn,
        rotation: &KeyRotation,
    ) -> Result<(), Stuck> {
        let place = |entry: &Entry| {
            let live = entry.live();
            (live.host_key.clone(), live.server.hostname.clone().map(|host| (host, live.server.port)))
        };
        let (host_key, address) = place(entry);
        for other in self.inner.registry.of(caller).into_iter().filter(|other| other.id != entry.id) {
            let (its_key, its_address) = place(&other);
            // Behind two jump hosts one address may be two machines, which their host keys tell apart.
            let same = match (&host_key, &its_key) {
                (Some(key), Some(its)) => key == its,
                _ => address.is_some() && its_address == address,
            };
            if !same {
                continue;
            }
            let turns =
                self.turns(caller, &other, rotation).await.map_err(|error| Stuck(error.to_string()))?;
            if turns.iter().any(|its| !its.has_new_key && its.username == turn.username) {
                let name = other.server().name.clone();
                let cause = format!(
                    "{name} shows the same host key or address and still logs in to this account with it; replace it there too."
                );
                return Err(turn.stuck("the old key is left", cause, NEW_OPENS));
            }
        }
        Ok(())
    }

    /// Takes the old key's lines away, over the login that the new key made where that one may run commands.
    async fn take_out(
        &self,
        entry: &Arc<Entry>,
        turn: &Turn,
        rotation: &KeyRotation,
        proof: Proof,
        report: &mut Report,
    ) -> Result<(), Stuck> {
        let stuck = |cause: String| turn.stuck("removing the old key failed", cause, NEW_OPENS);
        let mut writer = self.writer(entry, turn).await.map_err(stuck)?;
        if writer.account == Account::Own
            && !(turn.login == LoginOf::Main && entry.live().findings.readings_only)
        {
            writer.connection = proof.connection;
        }
        let command = authorized::remove_command(rotation.keys(), &writer.account, proof.by_certificate)
            .map_err(|error| stuck(explained(&error)))?;
        let said = writer.run("Writing authorized_keys anew", &command).await.map_err(stuck)?;
        let old = &rotation.old_key;
        report.say(&format!("{}: lines of {old} in authorized_keys: {said}", turn.name()));
        Ok(())
    }

    async fn must_be_refused(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        turn: &Turn,
        rotation: &KeyRotation,
        report: &mut Report,
    ) -> Result<(), Stuck> {
        let old = &rotation.old_key;
        let target = self.target_with(caller, entry, turn, rotation.from).await;
        let target = target.map_err(|cause| turn.stuck("trying the old key failed", cause, NEW_OPENS))?;
        match connect(&target, &mut |_| {}).await {
            Err(SshError::AuthRefused { .. }) => {
                report.say(&format!("{}: {old} is refused", turn.name()));
                Ok(())
            }
            Ok(connection) => {
                connection.close().await;
                let cause = format!(
                    "{old} still opens it. Look for it in the files and commands that sshd asks \
                     (sshd -T | grep -i authorizedkeys) and remove it there."
                );
                Err(turn.stuck("the old key is not refused", cause, ""))
            }
            Err(error) => Err(turn.stuck("trying the old key failed", explained(&error), NEW_OPENS)),
        }
    }

    /// Who writes the file: the login itself, or, where its key may only take readings, the action login.
    async fn writer(&self, entry: &Arc<Entry>, turn: &Turn) -> Result<Writer, String> {
        let (readings_only, action) = {
            let live = entry.live();
            let action = live.way.action.as_ref().map(|action| action.username.clone());
            (live.findings.readings_only, action)
        };
        let own =
            |connection, lease| Writer { connection, _lease: lease, account: Account::Own, sudo: false };
        if turn.login == LoginOf::Main && !readings_only {
            let session = entry.session().ok_or("there is no connection to this server now.")?;
            return session.connection().await.map(|c| own(c, None)).map_err(|error| explained(&error));
        }
        let Some(actor) = action else {
            return Err(
                "its key may take readings and nothing else, so it cannot write its own line; give the server an \
                 action login that is root or may use sudo."
                    .to_owned(),
            );
        };
        let (session, lease) = self.acting_session(entry).await.map_err(|error| error.to_string())?;
        let connection = session.connection().await.map_err(|error| explained(&error))?;
        let mut writer = own(connection, Some(lease));
        if turn.login == LoginOf::Main && actor != turn.username {
            writer.account = Account::Of(turn.username.clone());
            writer.sudo = actor != "root";
        }
        Ok(writer)
    }

    async fn target_with(
        &self,
        caller: &Caller,
        entry: &Entry,
        turn: &Turn,
        key: KeyId,
    ) -> Result<crate::ssh::Target, String> {
        let target = self.target_of(entry, turn.purpose()).await.map_err(|error| error.to_string())?;
        let mut target = target.ok_or("it is not reached over SSH.")?;
        target.identity =
            self.identity(caller.organization, Some(key)).await.map_err(|error| error.to_string())?;
        Ok(target)
    }

    /// A login of its own with one key and nothing else.
    async fn log_in(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        turn: &Turn,
        key: KeyId,
    ) -> Result<Proof, String> {
        let target = self.target_with(caller, entry, turn, key).await?;
        let by_certificate = matches!(target.identity, Identity::Certificate { .. });
        let connection = connect(&target, &mut |_| {}).await.map_err(|error| explained(&error))?;
        let shared = &self.inner.shared;
        shared.logins.count(entry, 1, shared.clock.now());
        Ok(Proof { connection, by_certificate })
    }

    /// Keeps the new key for the login. A task of its own: what is stored and what is live must not part.
    async fn switch(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        turn: &Turn,
        rotation: &KeyRotation,
    ) -> Result<(), String> {
        let (fleet, caller, entry) = (self.clone(), caller.clone(), Arc::clone(entry));
        let (login, purpose, rotation) = (turn.login, turn.purpose(), rotation.clone());
        let switching =
            tokio::spawn(async move { fleet.switch_login(&caller, &entry, login, purpose, &rotation).await });
        match switching.await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn switch_login(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        login: LoginOf,
        purpose: Purpose,
        rotation: &KeyRotation,
    ) -> Result<(), FleetError> {
        let _alone = entry.changing.lock().await;
        // It may have been removed, or given another key, meanwhile.
        self.find(caller, &entry.id.to_string())?;
        let turns = self.turns(caller, entry, rotation).await?;
        if !turns.iter().any(|turn| turn.login == login && !turn.has_new_key) {
            return Err(FleetError::Unavailable("the login was changed meanwhile".to_owned()));
        }
        let (organization, server, to, now) =
            (caller.organization, entry.id, rotation.to, self.inner.clock.now());
        let record = AuditEntry::by(caller, "server.key", entry.server().name.as_str())
            .detail(format!("{} in place of {}", rotation.new_key, rotation.old_key));
        self.inner
            .store
            .write(move |tx| {
                keys::set_key_of_login(tx, organization, server, login, Some(to))?;
                audit::append(tx, now, &record)?;
                Ok::<_, StoreError>(())
            })
            .await?;
        {
            let mut live = entry.live();
            let way = Arc::make_mut(&mut live.way);
            match (login, &mut way.action) {
                (LoginOf::Main, _) => way.login.key = Some(to),
                (LoginOf::Actions, Some(action)) => action.login.key = Some(to),
                (LoginOf::Actions, None) => {}
            }
        }
        // The connections that are there live on, also those of servers behind this one.
        let session = match login {
            LoginOf::Main => entry.session(),
            LoginOf::Actions => entry.acting.session(),
        };
        if let (Some(session), Some(target)) = (session, self.target_of(entry, purpose).await?) {
            session.renew(target).await;
        }
        self.server_changed(caller, entry.id);
        Ok(())
    }

    /// What logs in with this key takes its present form (with or without certificate) from the next login on; who
    /// waits because the old form was refused tries at once.
    pub(super) async fn identity_changed(&self, caller: &Caller, key: KeyId) -> Result<(), FleetError> {
        let organization = caller.organization;
        let default = self.inner.store.read(move |c| keys::default_of(c, organization)).await?;
        let default = default.map(|kept| kept.id);
        for entry in self.inner.registry.of(caller) {
            let way = Arc::clone(&entry.live().way);
            let uses = |login: &Login| login.method == LoginMethod::Key && login.key.or(default) == Some(key);
            if uses(&way.login)
                && let Some(session) = entry.session()
                && let Some(target) = self.target_of(&entry, Purpose::Readings).await?
            {
                session.renew(target).await;
            }
            if way.action.as_ref().is_some_and(|action| uses(&action.login))
                && let Some(session) = entry.acting.session()
                && let Some(target) = self.target_of(&entry, Purpose::Actions).await?
            {
                session.renew(target).await;
            }
        }
        Ok(())
    }
}

impl Writer {
    /// The last line that the command printed.
    async fn run(&self, what: &'static str, command: &str) -> Result<String, String> {
        let command = if self.sudo {
            format!("sudo -n -- sh -c {}", quote(command).map_err(|error| error.to_string())?)
        } else {
            command.to_owned()
        };
        let output = self.connection.exec(ExecRequest::new(command).timeout(COMMAND_LIMIT)).await;
        let output = output.map_err(|error| explained(&error))?;
        if output.success() {
            return Ok(printable::line(&output.stdout, SAID_CHARS));
        }
        Err(explained(&SshError::RemoteFailed {
            what,
            exit_status: output.exit_status.map_or_else(|| "unknown".to_owned(), |status| status.to_string()),
            said: printable::line(&output.stderr, SAID_CHARS),
        }))
    }
}

/// One reading over a connection that nothing else uses yet.
async fn read_once(connection: &Connection) -> Result<(), String> {
    let stream = connection.open(shell::COMMAND).await.map_err(|error| explained(&error))?;
    let mut probe = ShellProbe::start(stream).await.map_err(|error| error.to_string())?;
    probe.read(Sections::BASE).await.map(drop).map_err(|error| error.to_string())
}
