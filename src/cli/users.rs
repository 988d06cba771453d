//! `user`: people who log in.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use rand::Rng;
use serde_json::json;

use super::client::{Client, segment};
use super::error::CliError;
use super::machine::{hidden_answer, password_file};
use super::output::Output;
use crate::model::Secret;

/// 144 bits: cannot be guessed, and 24 characters can still be typed.
const RANDOM_BYTES: usize = 18;

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Set a new password; whoever is logged in as this user is logged out
    ResetPassword(ResetPassword),
}

#[derive(Debug, Args)]
pub struct ResetPassword {
    /// Name of the user
    #[arg(default_value = "admin")]
    name: String,
    /// File whose first line is the new password; - is standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl UserCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let Self::ResetPassword(command) = self;
        command.run(client, output).await
    }
}

impl ResetPassword {
    async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let path = format!("/api/v1/users/{}/password", segment(&self.name)?);
        let (password, made) = match &self.password_file {
            Some(file) => (password_file(file)?, false),
            None if output.interactive => (asked_twice(&self.name)?, false),
            None => (random_password(), true),
        };
        client.post(&path, &json!({ "password": password.expose() })).await?;
        match (output.json, made) {
            (true, true) => output.value(&json!({ "user": self.name, "password": password.expose() })),
            (true, false) => output.value(&json!({ "user": self.name })),
            // Only the password: scripts take it with $(…).
            (false, true) => output.line(password.expose()),
            (false, false) => output.line(&format!("The password of {} is changed.", self.name)),
        }
    }
}

fn asked_twice(name: &str) -> Result<Secret<String>, CliError> {
    let first = hidden_answer(&format!("New password of {name}: "))?;
    let second = hidden_answer("Once more: ")?;
    if first == second {
        Ok(first)
    } else {
        Err(CliError::failed("the two passwords differ; nothing was changed"))
    }
}

fn random_password() -> Secret<String> {
    let mut bytes = [0_u8; RANDOM_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    Secret::new(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_password_is_long_and_never_the_same() {
        assert_eq!(random_password().expose().len(), 24);
        assert_ne!(random_password().expose(), random_password().expose());
    }
}
