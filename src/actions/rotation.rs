//! Replacing a key by another one on a server: what is asked, and the commands that are part of it.
//!
//! The order of the steps, and the logins between the commands, are the fleet's business.

use std::time::Duration;

use serde::Serialize;

use super::{ActionError, Plan, invalid};
use crate::model::KeyId;
use crate::ssh::authorized::{self, Account, Replacement};

/// All steps of one server together: four logins at most, and two short commands.
const TIMEOUT: Duration = Duration::from_secs(300);

/// One key in place of another. Both public lines stand here, so that an operation says what it did when the keys are gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct KeyRotation {
    pub from: KeyId,
    pub to: KeyId,
    pub old_key: String,
    pub new_key: String,
    pub old_public_key: String,
    pub new_public_key: String,
    /// Try the old key at the end, which has to be refused. A refused login may count for whoever watches them there.
    pub verify_old: bool,
}

impl KeyRotation {
    /// The two public lines.
    #[must_use]
    pub fn keys(&self) -> Replacement<'_> {
        Replacement { old: &self.old_public_key, new: &self.new_public_key }
    }

    pub(super) fn title(&self) -> String {
        format!("Replace the key {} by {}", self.old_key, self.new_key)
    }

    /// What is sent, for a person: the steps between the commands stand between them.
    pub(super) fn plan(&self) -> Result<Plan, ActionError> {
        let failed = |error: crate::ssh::SshError| invalid("to", error.to_string());
        let add = authorized::add_command(self.keys(), &Account::Own, false).map_err(failed)?;
        let remove = authorized::remove_command(self.keys(), &Account::Own, false).map_err(failed)?;
        let then = "# Then Roundsman logs in with the new key alone, takes a reading, and keeps it for this server. \
                    Only then, over that login:";
        let end =
            if self.verify_old { "# At last the old key is tried; it has to be refused.\n" } else { "" };
        Ok(Plan::of_text(format!("{add}\n{then}\n\n{remove}{end}"), TIMEOUT))
    }
}
