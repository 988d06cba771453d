//! Enrolment by password: installs the public key over a connection that logged in with it.
//!
//! Whether the key then works is for the caller to try, by connecting with it.

use std::time::Duration;

use super::connect::connect;
use super::connection::Connection;
use super::error::SshError;
use super::keys;
use super::printable;
use super::request::ExecRequest;
use super::target::Target;

/// Writing one line takes no time; a home directory on a network may have to be mounted first.
const INSTALL_LIMIT: Duration = Duration::from_secs(30);

/// Puts `public_line` into the `authorized_keys` of the user that `connection` is logged in as. Safe to repeat.
///
/// # Errors
/// What [`exec`](Connection::exec) answers; [`SshError::RemoteFailed`] when the file could not be
/// written; [`SshError::KeyUnreadable`] when `public_line` is not a public key.
pub async fn install_public_key(connection: &Connection, public_line: &str) -> Result<(), SshError> {
    let command = keys::authorized_keys_install_command(public_line)?;
    let output = connection.exec(ExecRequest::new(command).timeout(INSTALL_LIMIT)).await?;
    if output.success() {
        return Ok(());
    }
    Err(SshError::RemoteFailed {
        what: "Installing the public key",
        exit_status: output.exit_status.map_or_else(|| "unknown".to_owned(), |status| status.to_string()),
        said: printable::line(&output.stderr, 300),
    })
}

/// Logs in as `target` says (with a password, and with the host key that a person approved) and installs `public_line`.
///
/// # Errors
/// As [`connect`] and [`install_public_key`].
pub async fn enrol_with_password(target: &Target, public_line: &str) -> Result<(), SshError> {
    let connection = connect(target, &mut |_| {}).await?;
    let installed = install_public_key(&connection, public_line).await;
    connection.close().await;
    installed
}
