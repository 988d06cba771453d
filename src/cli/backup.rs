//! `backup`: everything that the instance keeps, in one file; it goes on meanwhile.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::client::Client;
use super::error::CliError;
use super::machine::password_file;
use super::output::{Output, bytes};
use crate::export::manifest::{Manifest, MasterKey};
use crate::export::restore;

#[derive(Debug, Args)]
pub struct Backup {
    /// File to write; it must not exist yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Put the master key into the backup, sealed under a passphrase; without it, keep a copy of master.key elsewhere
    #[arg(long, requires = "passphrase_file")]
    include_master_key: bool,
    /// File whose first line is the passphrase, at least 12 characters
    #[arg(long, value_name = "FILE", requires = "include_master_key")]
    passphrase_file: Option<PathBuf>,
}

impl Backup {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        if self.file.exists() {
            let shown = self.file.display();
            return Err(CliError::usage(format!("{shown} exists already; a backup overwrites nothing")));
        }
        let passphrase = self.passphrase_file.as_deref().map(password_file).transpose()?;
        let body = json!({
            "include_master_key": self.include_master_key,
            "passphrase": passphrase.as_ref().map(|passphrase| passphrase.expose()),
        });
        let part = Part::beside(&self.file)?;
        let manifest = self.fetch(client, &body, &part.0).await?;
        fs::rename(&part.0, &self.file).map_err(|error| cannot_write(&self.file, &error))?;
        self.tell(&manifest, output)
    }

    /// Writes the backup and reads it again: what is kept has been checked.
    async fn fetch(
        &self,
        client: &Client,
        body: &serde_json::Value,
        part: &Path,
    ) -> Result<Manifest, CliError> {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(part)
            .map_err(|error| cannot_write(part, &error))?;
        client.download("/api/v1/backup", Some(body), &mut file).await?;
        file.flush().and_then(|()| file.sync_all()).map_err(|error| cannot_write(part, &error))?;
        restore::check(part).map_err(|error| CliError::failed(error.to_string()))
    }

    fn tell(&self, manifest: &Manifest, output: &Output) -> Result<(), CliError> {
        let size = fs::metadata(&self.file).map_or(0, |meta| meta.len());
        if output.json {
            return output.value(&json!({
                "file": self.file,
                "size_bytes": size,
                "created_at": manifest.created_at,
                "servers": manifest.servers,
                "master_key": manifest.master_key,
            }));
        }
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        let shown = bytes(size as f64);
        let servers = match manifest.servers {
            1 => "1 server".to_owned(),
            servers => format!("{servers} servers"),
        };
        output.line(&format!("{}: {shown}, {servers}, checked.", self.file.display()))?;
        match manifest.master_key {
            MasterKey::UnderPassphrase => {
                output.line("The master key is in it, under the passphrase: keep both apart.")
            }
            MasterKey::LeftOut => output.line(
                "The master key is NOT in it. Without it no stored key or password opens: keep a copy of master.key \
                 elsewhere, or use --include-master-key.",
            ),
        }
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(format!("cannot write {}: {error}", path.display()))
}

/// A file that is not complete yet; it goes unless it was renamed.
pub(super) struct Part(pub(super) PathBuf);

impl Part {
    pub(super) fn beside(file: &Path) -> Result<Self, CliError> {
        let name = file.file_name().ok_or_else(|| CliError::usage("the file needs a name"))?;
        Ok(Self(file.with_file_name(format!(".{}.part-{}", name.to_string_lossy(), std::process::id()))))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already when all went well.
        drop(fs::remove_file(&self.0));
    }
}
