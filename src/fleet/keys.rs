//! SSH keys that Roundsman keeps: the default one is made at the first start, others are made or imported. The secret
//! half goes into the store sealed and leaves it only to log in; nothing here gives it to anybody.

use std::sync::Arc;

use super::key_view::{CertificateView, KeyDetail, KeySummary, Validity};
use super::registry::Entry as ServerEntry;
use super::{Fleet, FleetError};
use crate::auth;
use crate::model::{Caller, KeyId, LoginMethod, OrganizationId, Role, Secret, Transport};
use crate::ssh::keyring::{self, KeyKind, PublicFacts, UserCertificate};
use crate::ssh::{Identity, keys as ssh_keys};
use crate::store::audit::{self, Entry};
use crate::store::keys::{self, KeptKey};
use crate::store::{StoreError, Transaction};

const DEFAULT_NAME: &str = "default";
const NAME_CHARS: usize = 63;
/// Servers that a refusal names.
const PLACES_NAMED: usize = 10;

/// A private key from outside, opened and not kept yet.
#[derive(Debug)]
pub(super) struct BroughtKey {
    pub private: Secret<String>,
    pub public_line: String,
    pub source_path: Option<String>,
}

impl BroughtKey {
    /// # Errors
    /// [`FleetError::Invalid`] when it is no private key, its passphrase is missing or wrong, or it needs a device.
    fn open(
        text: &Secret<String>,
        passphrase: Option<&Secret<String>>,
        source_path: Option<String>,
    ) -> Result<Self, FleetError> {
        let (private, public_line) = ssh_keys::unlock(text, passphrase)
            .map_err(|error| FleetError::invalid("private_key", format!("{error} {}", error.advice())))?;
        if PublicFacts::of(&public_line).is_some_and(|facts| facts.needs_hardware) {
            return Err(FleetError::invalid(
                "private_key",
                "this key lives in a security key, which has to be touched at every login; give Roundsman a key of its own",
            ));
        }
        Ok(Self { private, public_line: keyring::clean_public_line(&public_line), source_path })
    }
}

/// A private key to be kept, with the name that a person gave it.
#[derive(Debug)]
pub struct ImportedKey {
    /// Made from the path or the key's comment when it is missing.
    pub name: Option<String>,
    pub text: Secret<String>,
    pub passphrase: Option<Secret<String>>,
    /// Where it was read, by whoever read it.
    pub source_path: Option<String>,
}

impl Fleet {
    /// Makes the SSH identity of a new installation.
    pub(super) async fn ensure_default_key(&self) -> Result<(), FleetError> {
        let organization = OrganizationId::DEFAULT;
        if let Some(kept) = self.inner.store.read(move |c| keys::default_of(c, organization)).await? {
            // Under another master key nothing that is stored would open, and new secrets would not open under the old.
            drop(self.inner.vault.open_sealed(&kept.id.to_string(), &kept.sealed_private)?);
            return Ok(());
        }
        let (private, public_line) = ssh_keys::generate_ed25519("roundsman")
            .map_err(|error| FleetError::Unavailable(error.to_string()))?;
        let brought = BroughtKey { private, public_line, source_path: None };
        let mut key = self.sealed(organization, DEFAULT_NAME.to_owned(), brought)?;
        key.is_default = true;
        self.insert_key(&Caller::roundsman(), "key.create", key).await.map(drop)
    }

    fn sealed(
        &self,
        organization: OrganizationId,
        name: String,
        brought: BroughtKey,
    ) -> Result<KeptKey, FleetError> {
        let id = KeyId::new(self.inner.clock.new_uuid());
        let sealed_private = self.inner.vault.seal(&id.to_string(), &brought.private)?;
        Ok(KeptKey {
            id,
            organization,
            name,
            public_line: brought.public_line,
            sealed_private,
            source_path: brought.source_path,
            is_default: false,
            certificate: None,
            created_at: self.inner.clock.now(),
        })
    }

    async fn insert_key(&self, caller: &Caller, action: &str, key: KeptKey) -> Result<KeptKey, FleetError> {
        let fingerprint =
            PublicFacts::of(&key.public_line).map(|facts| facts.fingerprint).unwrap_or_default();
        let entry = Entry::by(caller, action, &key.name).detail(fingerprint);
        let stored = key.clone();
        self.change_keys(&key.name, entry, move |tx| keys::insert(tx, &stored)).await?;
        Ok(key)
    }

    /// One change with its audit entry; a conflict means that `name` is taken.
    async fn change_keys<W>(&self, name: &str, entry: Entry, change: W) -> Result<(), FleetError>
    where
        W: FnOnce(&Transaction<'_>) -> Result<(), StoreError> + Send + 'static,
    {
        let now = self.inner.clock.now();
        let written = self.inner.store.write(move |tx| {
            change(tx)?;
            audit::append(tx, now, &entry)
        });
        written.await.map_err(|error| match error {
            StoreError::Conflict => FleetError::KeyNameTaken(name.to_owned()),
            StoreError::NotFound => FleetError::NoSuchKey(name.to_owned()),
            other => FleetError::Store(other),
        })
    }

    /// The kept keys, the default one first. Their public halves are no secret.
    ///
    /// # Errors
    /// [`FleetError::Auth`] below viewer.
    pub async fn keys(&self, caller: &Caller) -> Result<Vec<KeySummary>, FleetError> {
        auth::require(caller, Role::Viewer)?;
        let (organization, now) = (caller.organization, self.inner.clock.now());
        let (kept, uses) = self
            .inner
            .store
            .read(move |c| Ok::<_, StoreError>((keys::list(c, organization)?, keys::uses(c, organization)?)))
            .await?;
        Ok(kept.into_iter().map(|key| KeySummary::of(key, &uses, now)).collect())
    }

    /// One key by id or name, with the servers that use it.
    ///
    /// # Errors
    /// [`FleetError::NoSuchKey`].
    pub async fn key(&self, caller: &Caller, reference: &str) -> Result<KeyDetail, FleetError> {
        auth::require(caller, Role::Viewer)?;
        let kept = self.key_by_reference(caller, reference).await?;
        let (organization, id, now) = (caller.organization, kept.id, self.inner.clock.now());
        let uses = self.inner.store.read(move |c| keys::uses(c, organization)).await?;
        let unfinished = self.unfinished_rotations(caller, id).await?;
        Ok(KeyDetail {
            install_command: keyring::paste_command(&kept.public_line),
            used_by: uses.iter().filter(|of| of.key == id).cloned().map(Into::into).collect(),
            unfinished: unfinished.into_iter().map(|(_, name)| name).collect(),
            key: KeySummary::of(kept, &uses, now),
        })
    }

    async fn summary_of(&self, caller: &Caller, id: KeyId) -> Result<KeySummary, FleetError> {
        self.key(caller, &id.to_string()).await.map(|detail| detail.key)
    }

    /// Makes a key. RSA takes seconds.
    ///
    /// # Errors
    /// [`FleetError::KeyNameTaken`], [`FleetError::Invalid`] for a name that cannot be one.
    pub async fn create_key(
        &self,
        caller: &Caller,
        name: &str,
        kind: KeyKind,
    ) -> Result<KeySummary, FleetError> {
        auth::require(caller, Role::Admin)?;
        let name = key_name(name)?;
        let comment = format!("roundsman-{name}");
        let made = tokio::task::spawn_blocking(move || keyring::generate(kind, &comment)).await;
        let (private, public_line) = made
            .map_err(|error| FleetError::Unavailable(format!("the key could not be made: {error}")))?
            .map_err(|error| FleetError::Unavailable(error.to_string()))?;
        let brought = BroughtKey { private, public_line, source_path: None };
        let key = self.sealed(caller.organization, name, brought)?;
        let id = self.insert_key(caller, "key.create", key).await?.id;
        self.summary_of(caller, id).await
    }

    /// Keeps a private key under a name, sealed.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] when it is no private key, its passphrase is missing or wrong, or it is kept already;
    /// [`FleetError::KeyNameTaken`].
    pub async fn import_named_key(
        &self,
        caller: &Caller,
        imported: ImportedKey,
    ) -> Result<KeySummary, FleetError> {
        auth::require(caller, Role::Admin)?;
        let ImportedKey { name, text, passphrase, source_path } = imported;
        let brought = self.open_key(&text, passphrase.as_ref(), source_path).await?;
        let organization = caller.organization;
        let kept = self.inner.store.read(move |c| keys::list(c, organization)).await?;
        let material = key_material(&brought.public_line);
        if let Some(known) = kept.iter().find(|key| key_material(&key.public_line) == material) {
            let message = format!("this key is kept already, as '{}'", known.name);
            return Err(FleetError::invalid("private_key", message));
        }
        let name = match name.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
            Some(name) => key_name(name)?,
            None => free_name(&suggested_name(&brought), |name| kept.iter().any(|key| key.name == name)),
        };
        let key = self.sealed(organization, name, brought)?;
        let id = self.insert_key(caller, "key.import", key).await?.id;
        self.summary_of(caller, id).await
    }

    /// Keeps a private key, sealed, unless it is kept already.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] when it is no private key or its passphrase is missing or wrong.
    pub async fn import_key(
        &self,
        caller: &Caller,
        text: &Secret<String>,
        passphrase: Option<&Secret<String>>,
    ) -> Result<KeySummary, FleetError> {
        auth::require(caller, Role::Admin)?;
        let brought = self.open_key(text, passphrase, None).await?;
        let id = self.keep_key(caller, brought).await?.id;
        self.summary_of(caller, id).await
    }

    /// Opens a brought key, one at a time and off the runtime's threads.
    ///
    /// # Errors
    /// As [`BroughtKey::open`].
    pub(super) async fn open_key(
        &self,
        text: &Secret<String>,
        passphrase: Option<&Secret<String>>,
        source_path: Option<String>,
    ) -> Result<BroughtKey, FleetError> {
        let unavailable = |error: &dyn std::fmt::Display| FleetError::Unavailable(error.to_string());
        let turn = Arc::clone(&self.inner.opening_keys).acquire_owned();
        let turn = turn.await.map_err(|error| unavailable(&error))?;
        let (text, passphrase) = (text.clone(), passphrase.cloned());
        // The turn goes along: the work goes on when whoever asked is gone.
        let opened = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            BroughtKey::open(&text, passphrase.as_ref(), source_path)
        });
        opened.await.map_err(|error| unavailable(&error))?
    }

    /// Keeps a private key that the caller brought, unless it is kept already.
    pub(super) async fn keep_key(&self, caller: &Caller, brought: BroughtKey) -> Result<KeptKey, FleetError> {
        auth::require(caller, Role::Admin)?;
        let organization = caller.organization;
        let kept = self.inner.store.read(move |c| keys::list(c, organization)).await?;
        let material = key_material(&brought.public_line);
        if let Some(known) = kept.iter().find(|key| key_material(&key.public_line) == material) {
            return Ok(known.clone());
        }
        let name = free_name(&suggested_name(&brought), |name| kept.iter().any(|key| key.name == name));
        let key = self.sealed(organization, name, brought)?;
        self.insert_key(caller, "key.import", key).await
    }

    /// # Errors
    /// [`FleetError::NoSuchKey`], [`FleetError::KeyNameTaken`], [`FleetError::Invalid`] for a name that cannot be one.
    pub async fn rename_key(
        &self,
        caller: &Caller,
        reference: &str,
        name: &str,
    ) -> Result<KeySummary, FleetError> {
        auth::require(caller, Role::Admin)?;
        let kept = self.key_by_reference(caller, reference).await?;
        let name = key_name(name)?;
        let entry = Entry::by(caller, "key.rename", &kept.name).detail(format!("now {name}"));
        let (new_name, certificate) = (name.clone(), kept.certificate.clone());
        self.change_keys(&name, entry, move |tx| {
            keys::update(tx, kept.organization, kept.id, &new_name, certificate.as_deref())
        })
        .await?;
        self.summary_of(caller, kept.id).await
    }

    /// Makes a key the one of new servers. Servers that use the old default go on with it: they name it from now on.
    ///
    /// # Errors
    /// [`FleetError::NoSuchKey`].
    pub async fn set_default_key(&self, caller: &Caller, reference: &str) -> Result<KeySummary, FleetError> {
        auth::require(caller, Role::Admin)?;
        let kept = self.key_by_reference(caller, reference).await?;
        if kept.is_default {
            return self.summary_of(caller, kept.id).await;
        }
        let organization = caller.organization;
        let old = self.inner.store.read(move |c| keys::default_of(c, organization)).await?;
        let entry = Entry::by(caller, "key.default", &kept.name);
        self.change_keys(&kept.name, entry, move |tx| keys::set_default(tx, organization, kept.id)).await?;
        let ssh = |entry: &Arc<ServerEntry>| entry.server().transport != Transport::Local;
        for entry in self.inner.registry.of(caller).into_iter().filter(ssh) {
            let mut live = entry.live();
            let named = old.as_ref().map(|key| key.id);
            let way = Arc::make_mut(&mut live.way);
            for login in std::iter::once(&mut way.login).chain(way.action.as_mut().map(|of| &mut of.login)) {
                if login.method == LoginMethod::Key && login.key.is_none() {
                    login.key = named;
                }
            }
        }
        self.summary_of(caller, kept.id).await
    }

    /// Gives a key the certificate that is offered with it, in place of one that it may have.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] when it is no user certificate of this key or has expired.
    pub async fn attach_certificate(
        &self,
        caller: &Caller,
        reference: &str,
        line: &str,
    ) -> Result<KeySummary, FleetError> {
        auth::require(caller, Role::Admin)?;
        let kept = self.key_by_reference(caller, reference).await?;
        let invalid = |message: String| FleetError::invalid("certificate", message);
        let read = UserCertificate::of_key(line.trim(), &kept.public_line)
            .map_err(|error| invalid(error.to_string()))?;
        let shown = CertificateView::of(read.clone(), self.inner.clock.now());
        if shown.validity == Validity::Expired {
            let end = read.valid_before.map(|end| end.to_string()).unwrap_or_default();
            return Err(invalid(format!("the certificate ended at {end}; let the authority sign a new one")));
        }
        if read.principals.is_empty() {
            return Err(invalid(
                "the certificate names no principals, so no sshd takes it; sign it again with -n USER"
                    .to_owned(),
            ));
        }
        let entry = Entry::by(caller, "key.certificate", &kept.name)
            .detail(format!("key id {}, serial {}, by {}", read.key_id, read.serial, read.authority));
        self.change_certificate(caller, kept, entry, Some(read.line)).await
    }

    /// Offers the key alone from now on.
    ///
    /// # Errors
    /// [`FleetError::NoSuchKey`].
    pub async fn detach_certificate(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<KeySummary, FleetError> {
        auth::require(caller, Role::Admin)?;
        let kept = self.key_by_reference(caller, reference).await?;
        let entry = Entry::by(caller, "key.certificate", &kept.name).detail("none from now on");
        self.change_certificate(caller, kept, entry, None).await
    }

    async fn change_certificate(
        &self,
        caller: &Caller,
        kept: KeptKey,
        entry: Entry,
        certificate: Option<String>,
    ) -> Result<KeySummary, FleetError> {
        let (organization, id, name) = (kept.organization, kept.id, kept.name.clone());
        self.change_keys(&kept.name, entry, move |tx| {
            keys::update(tx, organization, id, &name, certificate.as_deref())
        })
        .await?;
        self.identity_changed(caller, id).await?;
        self.summary_of(caller, id).await
    }

    /// Forgets a key for good.
    ///
    /// # Errors
    /// [`FleetError::KeyInUse`] says where; the default key is in use by those who come.
    pub async fn delete_key(&self, caller: &Caller, reference: &str) -> Result<(), FleetError> {
        auth::require(caller, Role::Admin)?;
        let kept = self.key_by_reference(caller, reference).await?;
        if kept.is_default {
            return Err(FleetError::KeyInUse {
                name: kept.name,
                places: "new servers: it is the default key, so make another one the default first"
                    .to_owned(),
            });
        }
        let (organization, id) = (caller.organization, kept.id);
        let uses = self.inner.store.read(move |c| keys::uses(c, organization)).await?;
        let mut places: Vec<&str> =
            uses.iter().filter(|of| of.key == id).map(|of| of.server_name.as_str()).collect();
        places.dedup();
        if !places.is_empty() {
            let more = places.len().saturating_sub(PLACES_NAMED);
            let named = places.iter().take(PLACES_NAMED).copied().collect::<Vec<_>>().join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let places = format!("{named}{more}; replace it there first");
            return Err(FleetError::KeyInUse { name: kept.name, places });
        }
        let entry = Entry::by(caller, "key.delete", &kept.name);
        let removed = self.change_keys(&kept.name, entry, move |tx| keys::remove(tx, organization, id)).await;
        removed.map_err(|error| match error {
            // A server was given the key meanwhile.
            FleetError::KeyNameTaken(name) => {
                FleetError::KeyInUse { name, places: "a server that was just changed".to_owned() }
            }
            other => other,
        })
    }

    /// A kept key by id, name or the path that it was imported from.
    pub(super) async fn key_by_reference(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<KeptKey, FleetError> {
        let organization = caller.organization;
        let kept = self.inner.store.read(move |c| keys::list(c, organization)).await?;
        kept.into_iter()
            .find(|key| {
                key.id.to_string() == reference
                    || key.name == reference
                    || key.source_path.as_deref() == Some(reference)
            })
            .ok_or_else(|| FleetError::NoSuchKey(reference.chars().take(80).collect()))
    }

    /// The identity to log in with: a kept key with its certificate, or the default one.
    pub(super) async fn identity(
        &self,
        organization: OrganizationId,
        key: Option<KeyId>,
    ) -> Result<Identity, FleetError> {
        let kept = self
            .inner
            .store
            .read(move |c| match key {
                Some(id) => keys::by_id(c, organization, id),
                None => keys::default_of(c, organization),
            })
            .await?
            .ok_or_else(|| FleetError::NoSuchKey(DEFAULT_NAME.to_owned()))?;
        self.identity_of_key(&kept)
    }

    pub(super) fn identity_of_key(&self, kept: &KeptKey) -> Result<Identity, FleetError> {
        let key = self.inner.vault.open_sealed(&kept.id.to_string(), &kept.sealed_private)?;
        Ok(match &kept.certificate {
            Some(certificate) => Identity::Certificate { key, certificate: certificate.clone() },
            None => Identity::Key(key),
        })
    }

    /// The public half of the key that new servers use.
    ///
    /// # Errors
    /// [`FleetError::Store`].
    pub async fn default_public_key(&self, organization: OrganizationId) -> Result<String, FleetError> {
        self.inner
            .store
            .read(move |c| keys::default_of(c, organization))
            .await?
            .map(|key| key.public_line)
            .ok_or_else(|| FleetError::NoSuchKey(DEFAULT_NAME.to_owned()))
    }
}

/// One line for people, not too long; an id would be taken for another key's.
fn key_name(text: &str) -> Result<String, FleetError> {
    let name = text.trim();
    let invalid = |message: &str| Err(FleetError::invalid("name", message));
    if name.is_empty() || name.chars().count() > NAME_CHARS {
        return invalid("a key needs a name of 1 to 63 characters");
    }
    if crate::ssh::printable::line(name.as_bytes(), NAME_CHARS) != name {
        return invalid("the name of a key is one line of printable characters with single blanks");
    }
    if name.parse::<KeyId>().is_ok() || name.contains('/') {
        return invalid("the name of a key must not look like an id or a path");
    }
    Ok(name.to_owned())
}

/// From the file that the key was read from, else from its comment.
fn suggested_name(brought: &BroughtKey) -> String {
    let file = brought.source_path.as_deref().and_then(|path| path.rsplit('/').next());
    let comment = brought.public_line.splitn(3, ' ').nth(2);
    let first = [file, comment].into_iter().flatten().find_map(|name| {
        let short: String = name.replace('/', "-").chars().take(50).collect();
        key_name(&short).ok()
    });
    first.unwrap_or_else(|| "imported".to_owned())
}

/// Algorithm and key of a public line, without its comment.
fn key_material(line: &str) -> Vec<&str> {
    line.split_whitespace().take(2).collect()
}

/// `wanted`, or the first of `wanted-2`, `wanted-3`, … that is free.
pub(super) fn free_name(wanted: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(wanted) {
        return wanted.to_owned();
    }
    (2_u32..).map(|number| format!("{wanted}-{number}")).find(|name| !taken(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_s_name_is_one_short_line_and_no_id() {
        for good in ["default", "web servers", "id_ed25519", "clé", "a"] {
            assert_eq!(key_name(&format!(" {good} ")).unwrap(), good);
        }
        let long = "x".repeat(64);
        for bad in ["", "  ", "a\nb", "a\u{1b}[1m", "a/b", "01900000-0000-7000-8000-000000000001", &long] {
            assert!(key_name(bad).is_err(), "{bad:?}");
        }
    }
}
