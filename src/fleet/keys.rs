//! SSH keys that Roundsman keeps: the default one is made at the first start, others are imported.

use serde::Serialize;

use super::{Fleet, FleetError};
use crate::auth;
use crate::model::{Caller, KeyId, OrganizationId, Role, Secret, Timestamp};
use crate::ssh::{Identity, keys as ssh_keys};
use crate::store::audit::{self, Entry};
use crate::store::keys::{self, KeptKey};

const DEFAULT_NAME: &str = "default";

/// A kept key without its secret half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeySummary {
    pub id: KeyId,
    pub name: String,
    /// `ssh-ed25519 AAAA… comment`.
    pub public_key: String,
    pub is_default: bool,
    pub source_path: Option<String>,
    pub created_at: Timestamp,
}

impl From<KeptKey> for KeySummary {
    fn from(key: KeptKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            public_key: key.public_line,
            is_default: key.is_default,
            source_path: key.source_path,
            created_at: key.created_at,
        }
    }
}

/// A private key from outside, opened and not kept yet.
#[derive(Debug)]
pub(super) struct BroughtKey {
    pub private: Secret<String>,
    pub public_line: String,
    pub source_path: Option<String>,
}

impl BroughtKey {
    /// # Errors
    /// [`FleetError::Invalid`] when it is no private key or its passphrase is missing or wrong.
    pub fn open(
        text: &Secret<String>,
        passphrase: Option<&Secret<String>>,
        source_path: Option<String>,
    ) -> Result<Self, FleetError> {
        let (private, public_line) = ssh_keys::unlock(text, passphrase)
            .map_err(|error| FleetError::invalid("private_key", format!("{error} {}", error.advice())))?;
        Ok(Self { private, public_line, source_path })
    }
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
        let key = self.sealed(organization, DEFAULT_NAME.to_owned(), public_line, &private, None, true)?;
        let entry = Entry::by(&Caller::roundsman(), "key.create", DEFAULT_NAME);
        let now = self.inner.clock.now();
        self.inner
            .store
            .write(move |tx| {
                keys::insert(tx, &key)?;
                audit::append(tx, now, &entry)
            })
            .await?;
        Ok(())
    }

    fn sealed(
        &self,
        organization: OrganizationId,
        name: String,
        public_line: String,
        private: &Secret<String>,
        source_path: Option<String>,
        is_default: bool,
    ) -> Result<KeptKey, FleetError> {
        let id = KeyId::new(self.inner.clock.new_uuid());
        let sealed_private = self.inner.vault.seal(&id.to_string(), private)?;
        Ok(KeptKey {
            id,
            organization,
            name,
            public_line,
            sealed_private,
            source_path,
            is_default,
            created_at: self.inner.clock.now(),
        })
    }

    /// The kept keys, the default one first. Their public halves are no secret.
    ///
    /// # Errors
    /// [`FleetError::Auth`] below viewer.
    pub async fn keys(&self, caller: &Caller) -> Result<Vec<KeySummary>, FleetError> {
        auth::require(caller, Role::Viewer)?;
        let organization = caller.organization;
        let kept = self.inner.store.read(move |c| keys::list(c, organization)).await?;
        Ok(kept.into_iter().map(KeySummary::from).collect())
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
        let brought = BroughtKey::open(text, passphrase, None)?;
        self.keep_key(caller, brought).await.map(KeySummary::from)
    }

    /// Keeps a private key that the caller brought, unless it is kept already.
    pub(super) async fn keep_key(&self, caller: &Caller, brought: BroughtKey) -> Result<KeptKey, FleetError> {
        auth::require(caller, Role::Admin)?;
        let BroughtKey { private, public_line, source_path } = brought;
        let organization = caller.organization;
        let kept = self.inner.store.read(move |c| keys::list(c, organization)).await?;
        let material = key_material(&public_line);
        if let Some(known) = kept.iter().find(|key| key_material(&key.public_line) == material) {
            return Ok(known.clone());
        }
        let wanted = source_path
            .as_deref()
            .and_then(|path| path.rsplit('/').next())
            .map(|name| name.chars().filter(|c| !c.is_control()).take(60).collect::<String>())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "imported".to_owned());
        let name = free_name(&wanted, |name| kept.iter().any(|key| key.name == name));
        let key = self.sealed(organization, name.clone(), public_line, &private, source_path, false)?;
        let stored = key.clone();
        let entry = Entry::by(caller, "key.import", &name);
        let now = self.inner.clock.now();
        self.inner
            .store
            .write(move |tx| {
                keys::insert(tx, &stored)?;
                audit::append(tx, now, &entry)
            })
            .await?;
        Ok(key)
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

    /// The identity to log in with: a kept key, or the default one.
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
        let private = self.inner.vault.open_sealed(&kept.id.to_string(), &kept.sealed_private)?;
        Ok(Identity::Key(private))
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
