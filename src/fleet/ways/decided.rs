//! A way in as it is to be stored, with the secrets that change by it. Seals and opens nothing.

use crate::model::{Secret, SecretKind, ServerId, WayIn};
use crate::store::{StoreError, Transaction, logins};

/// What becomes of a kept secret.
#[derive(Debug)]
pub(in crate::fleet) enum SecretChange {
    Set(Secret<String>),
    Remove,
}

/// A way in as it is to be stored, with the secrets that change.
#[derive(Debug, Default)]
pub(in crate::fleet) struct DecidedWay {
    pub way: WayIn,
    pub secrets: Vec<(SecretKind, SecretChange)>,
}

impl DecidedWay {
    pub(in crate::fleet) fn change(&mut self, kind: SecretKind, change: SecretChange) {
        self.way.secrets.retain(|kept| *kept != kind);
        if matches!(change, SecretChange::Set(_)) {
            self.way.secrets.push(kind);
            self.way.secrets.sort();
        }
        self.secrets.push((kind, change));
    }

    /// A secret that was given just now.
    pub(in crate::fleet) fn given(&self, kind: SecretKind) -> Option<&Secret<String>> {
        self.secrets.iter().rev().find_map(|(of, change)| match change {
            SecretChange::Set(secret) if *of == kind => Some(secret),
            _ => None,
        })
    }
}

/// Secrets sealed for a server, ready for a transaction. None: the secret goes.
pub(in crate::fleet) type SealedSecrets = Vec<(SecretKind, Option<Vec<u8>>)>;

pub(in crate::fleet) fn write_secrets(
    tx: &Transaction<'_>,
    server: ServerId,
    sealed: &SealedSecrets,
) -> Result<(), StoreError> {
    sealed.iter().try_for_each(|(kind, bytes)| logins::set_secret(tx, server, *kind, bytes.as_deref()))
}
