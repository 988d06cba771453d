//! Files to and from a server, over the connection of its actions.
//!
//! Never runs anything but the transfer's own script, and never touches a file of this machine.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Fleet, FleetError, Hand};
use crate::auth;
use crate::model::{Caller, Direction, Event, Role, ServerId, ServerName};
use crate::ssh::Connection;
use crate::ssh::transfer::{Progress, TransferError, Transferred, Upload};
use crate::store::audit::{self, Entry};

/// Longest path that is sent; PATH_MAX of Linux.
const PATH_BYTES: usize = 4096;

impl Fleet {
    /// Stores what comes from `source` as a file of the server; listeners hear of the progress.
    ///
    /// # Errors
    /// [`FleetError::Unavailable`] without a connection, [`FleetError::Transfer`]; the file on the server is then as it was.
    pub async fn upload(
        &self,
        caller: &Caller,
        reference: &str,
        source: &mut (dyn AsyncRead + Send + Unpin),
        upload: &Upload,
    ) -> Result<Transferred, FleetError> {
        let (server, name, hand) = self.hand_for_files(caller, reference, &upload.path).await?;
        let mut tell = self.teller(caller, server, Direction::Up, &upload.path);
        let outcome = Box::pin(connection(&hand)?.upload(source, upload, &mut tell)).await;
        self.record(caller, &name, "file.upload", &upload.path, &outcome).await?;
        Ok(outcome?)
    }

    /// Brings a file of the server, of at most `limit_bytes`, into `sink`.
    ///
    /// # Errors
    /// As [`Self::upload`]; what is in `sink` by then is incomplete.
    pub async fn download(
        &self,
        caller: &Caller,
        reference: &str,
        path: &str,
        limit_bytes: u64,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<Transferred, FleetError> {
        let (server, name, hand) = self.hand_for_files(caller, reference, path).await?;
        let mut tell = self.teller(caller, server, Direction::Down, path);
        let outcome = Box::pin(connection(&hand)?.download(path, limit_bytes, sink, &mut tell)).await;
        self.record(caller, &name, "file.download", path, &outcome).await?;
        Ok(outcome?)
    }

    async fn hand_for_files(
        &self,
        caller: &Caller,
        reference: &str,
        path: &str,
    ) -> Result<(ServerId, ServerName, Hand), FleetError> {
        auth::require(caller, Role::Admin)?;
        if path.is_empty() || path.len() > PATH_BYTES || path.contains('\0') {
            return Err(FleetError::invalid("path", format!("give a path of 1 to {PATH_BYTES} bytes")));
        }
        let entry = self.find(caller, reference)?;
        let name = entry.server().name.clone();
        let hand = self.hand(caller, entry.id).await.map_err(FleetError::Unavailable)?;
        Ok((entry.id, name, hand))
    }

    fn teller(
        &self,
        caller: &Caller,
        server: ServerId,
        direction: Direction,
        path: &str,
    ) -> impl FnMut(Progress) {
        let (fleet, organization, path) = (self.clone(), caller.organization, crate::model::shown(path, 200));
        move |Progress { done_bytes, total_bytes }| {
            let path = path.clone();
            fleet.publish(Event::Transfer { organization, server, direction, path, done_bytes, total_bytes });
        }
    }

    async fn record(
        &self,
        caller: &Caller,
        server: &ServerName,
        action: &str,
        path: &str,
        outcome: &Result<Transferred, TransferError>,
    ) -> Result<(), FleetError> {
        let path = crate::model::shown(path, 1000);
        let entry = Entry::by(caller, action, server.as_str());
        let entry = match outcome {
            Ok(done) => entry.detail(format!("{path}, {} bytes, SHA-256 {}", done.size_bytes, done.sha256)),
            Err(error) => entry.refused(format!("{path}: {error}")),
        };
        let now = self.inner.clock.now();
        self.inner.store.write(move |tx| audit::append(tx, now, &entry)).await?;
        Ok(())
    }
}

fn connection(hand: &Hand) -> Result<&Connection, FleetError> {
    match hand {
        Hand::Ssh(connection, _) => Ok(connection),
        Hand::Local => Err(FleetError::Unavailable(
            "files of the machine that Roundsman runs on are not moved through Roundsman; use cp there"
                .to_owned(),
        )),
    }
}
