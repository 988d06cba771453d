//! The report on host keys: what every server proved to be, by whose word it is trusted, and what is weak about it.

use std::collections::HashMap;

use futures_util::FutureExt as _;
use serde::Serialize;

use super::registry::Entry;
use super::state::HostKeyView;
use super::{Fleet, FleetError};
use crate::auth;
use crate::model::{Caller, Role, ServerId};
use crate::ssh::HostKey;
use crate::ssh::keyring::PublicFacts;

/// Names of servers with the same key that a row shows.
const SHARED_NAMED: usize = 20;

/// By whose word a host key is trusted, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKeyState {
    /// The server shows another key than the approved one.
    Changed,
    /// Its key, or its authority's, is marked as revoked.
    Revoked,
    /// It shows a key that nobody approved yet.
    Unapproved,
    /// Nothing was seen yet.
    Unknown,
    /// An imported authority vouches for it.
    Authority,
    /// A person approved it.
    Approved,
}

impl HostKeyState {
    /// As the API spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Revoked => "revoked",
            Self::Unapproved => "unapproved",
            Self::Unknown => "unknown",
            Self::Authority => "authority",
            Self::Approved => "approved",
        }
    }
}

/// One server in the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostKeyReport {
    pub server_id: ServerId,
    pub server_name: String,
    /// `host:port`.
    pub address: String,
    pub state: HostKeyState,
    /// The approved key, or the one that an authority vouches for.
    pub host_key: Option<HostKeyView>,
    /// Of `host_key`, else of the offered one.
    pub bits: Option<u32>,
    /// The key that waits for approval.
    pub offered: Option<HostKeyView>,
    /// Of the connection that is open now; None: there is none.
    pub kex: Option<String>,
    pub host_key_algorithm: Option<String>,
    pub cipher: Option<String>,
    pub mac: Option<String>,
    /// How the daemon names itself.
    pub daemon: Option<String>,
    /// Other servers with the same key: cloned machines, or one machine enrolled twice.
    pub shared_with: Vec<String>,
    /// A sentence each.
    pub weaknesses: Vec<String>,
}

impl HostKeyReport {
    /// Something that a person should look at.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        !self.weaknesses.is_empty()
            || !self.shared_with.is_empty()
            || matches!(self.state, HostKeyState::Changed | HostKeyState::Revoked | HostKeyState::Unapproved)
    }
}

impl Fleet {
    /// Every server that is reached over SSH, by name.
    ///
    /// # Errors
    /// [`FleetError::Auth`] below viewer.
    pub async fn host_keys(&self, caller: &Caller) -> Result<Vec<HostKeyReport>, FleetError> {
        auth::require(caller, Role::Viewer)?;
        let entries = self.inner.registry.of(caller);
        let (mut places, mut reached) = (Vec::new(), Vec::new());
        for entry in &entries {
            let host = {
                let live = entry.live();
                live.server.ssh_host().map(|host| (host.to_owned(), live.server.port))
            };
            let Some((host, port)) = host else { continue };
            places.push((host, port));
            reached.push(entry);
        }
        let revoked = self.revoked_at(caller.organization, places.clone()).await?;
        let mut rows: Vec<HostKeyReport> = reached
            .into_iter()
            .zip(&places)
            .zip(&revoked)
            .map(|((entry, (host, _)), revoked)| row(entry, host, revoked))
            .collect();
        mark_shared(&mut rows);
        Ok(rows)
    }
}

fn row(entry: &Entry, host: &str, revoked: &[HostKey]) -> HostKeyReport {
    // What is there now; a connection that is being made is not waited for.
    let connection = entry
        .session()
        .and_then(|session| session.connection().now_or_never())
        .and_then(Result::ok)
        .filter(|connection| !connection.is_closed());
    let shown = connection.as_ref().and_then(|connection| connection.host_key().cloned());
    let (server, pinned, offered) = {
        let live = entry.live();
        (live.server.clone(), live.host_key.clone(), live.offered_host_key.clone())
    };
    let is_revoked = |key: &Option<HostKey>| key.as_ref().is_some_and(|key| revoked.contains(key));
    let by_authority = shown.is_some() && shown != pinned;
    let state = if is_revoked(&pinned) || is_revoked(&offered) || is_revoked(&shown) {
        HostKeyState::Revoked
    } else if by_authority {
        HostKeyState::Authority
    } else {
        match (&pinned, &offered) {
            (Some(_), Some(_)) => HostKeyState::Changed,
            (Some(_), None) => HostKeyState::Approved,
            (None, Some(_)) => HostKeyState::Unapproved,
            (None, None) => HostKeyState::Unknown,
        }
    };
    let trusted = if by_authority { shown } else { pinned };
    let judged = trusted.as_ref().or(offered.as_ref());
    let mut weaknesses = judged.map(HostKey::weaknesses).unwrap_or_default();
    let algorithms = connection.as_ref().map(crate::ssh::Connection::algorithms);
    weaknesses
        .extend(algorithms.as_ref().map(crate::ssh::algorithms::Algorithms::weaknesses).unwrap_or_default());
    let named = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let of = |pick: fn(&crate::ssh::algorithms::Algorithms) -> &String| {
        algorithms.as_ref().and_then(|algorithms| named(pick(algorithms)))
    };
    HostKeyReport {
        server_id: server.id,
        server_name: server.name.to_string(),
        address: if host.contains(':') {
            format!("[{host}]:{}", server.port)
        } else {
            format!("{host}:{}", server.port)
        },
        state,
        bits: judged.and_then(|key| PublicFacts::of(&key.to_string())).and_then(|facts| facts.bits),
        host_key: trusted.as_ref().map(HostKeyView::of),
        offered: offered.as_ref().map(HostKeyView::of),
        kex: of(|algorithms| &algorithms.kex),
        host_key_algorithm: of(|algorithms| &algorithms.host_key),
        cipher: of(|algorithms| &algorithms.cipher_out),
        mac: of(|algorithms| &algorithms.mac_out),
        daemon: connection.as_ref().and_then(|connection| named(connection.server_id())),
        shared_with: Vec::new(),
        weaknesses,
    }
}

/// Names the servers that show one key.
fn mark_shared(rows: &mut [HostKeyReport]) {
    let mut holders: HashMap<String, Vec<String>> = HashMap::new();
    let of = |row: &HostKeyReport| {
        row.host_key.as_ref().or(row.offered.as_ref()).map(|key| key.fingerprint.clone())
    };
    for row in rows.iter() {
        if let Some(fingerprint) = of(row) {
            holders.entry(fingerprint).or_default().push(row.server_name.clone());
        }
    }
    for row in rows {
        let Some(names) = of(row).and_then(|fingerprint| holders.get(&fingerprint)) else { continue };
        let others = names.iter().filter(|name| **name != row.server_name);
        row.shared_with = others.take(SHARED_NAMED).cloned().collect();
    }
}
