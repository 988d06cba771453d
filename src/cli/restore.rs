//! `restore`: a backup becomes a data directory, while no Roundsman runs on it.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Global;
use super::connect::data_of;
use super::error::CliError;
use super::machine::password_file;
use super::output::Output;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, ENVIRONMENT};
use crate::export::restore::{Restore, RestoreError};

#[derive(Debug, Args)]
pub struct RestoreCommand {
    /// Backup to restore; --data says where to
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Take the place of a directory that is not empty; what is there is kept beside it
    #[arg(long)]
    force: bool,
    /// File whose first line is the passphrase of the master key in the backup
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl RestoreCommand {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), CliError> {
        let data = data_of(global)?.ok_or_else(|| {
            CliError::usage("a backup is restored on the machine itself; use --data, not --url")
        })?;
        let master_key = config::secret(ENVIRONMENT, "ROUNDSMAN_MASTER_KEY")
            .map_err(|error| CliError::usage(error.to_string()))?;
        let restore = Restore {
            file: self.file,
            data: data.clone(),
            force: self.force,
            passphrase: self.passphrase_file.as_deref().map(password_file).transpose()?,
            master_key,
        };
        let restoring = tokio::task::spawn_blocking(move || restore.run(SystemClock.now()));
        let restored = restoring.await.map_err(|error| CliError::failed(error.to_string()))?;
        let restored = restored.map_err(|error| match error {
            RestoreError::NoPassphrase => CliError::usage(error.to_string()),
            error => CliError::failed(error.to_string()),
        })?;
        let manifest = restored.manifest;
        if output.json {
            return output.value(&json!({
                "data": data,
                "created_at": manifest.created_at,
                "servers": manifest.servers,
                "kept": restored.kept,
            }));
        }
        let shown = data.display();
        output.line(&format!(
            "{shown} is as it was at {} ({} servers). Start it with: roundsman serve --data {shown}",
            manifest.created_at, manifest.servers
        ))?;
        match restored.kept {
            Some(kept) => output.line(&format!(
                "What was there before is kept in {}; remove it when all is well.",
                kept.display()
            )),
            None => Ok(()),
        }
    }
}
