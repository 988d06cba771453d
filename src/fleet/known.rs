//! Imported known_hosts lines: what an administrator trusts, or refuses, beyond the pinned keys.

use std::sync::Arc;

use serde::Serialize;

use super::registry::Entry;
use super::ways::{Purpose, Trust};
use super::{Fleet, FleetError};
use crate::auth;
use crate::model::{Caller, KnownHostId, OrganizationId, Port, Role, Timestamp};
use crate::ssh::known_hosts::{self, KnownLine, Mark};
use crate::ssh::{HostKey, Target};
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::known_hosts::{self as lines, StoredLine};
use crate::store::{StoreError, Transaction};

/// Servers that one line of a report names; a pattern may mean them all.
const SERVERS_NAMED: usize = 20;
const HOSTS_CHARS: usize = 200;
/// Imported lines that an organization keeps: each is compared with a server whenever one is enrolled.
const LINES_KEPT: usize = 20_000;

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineOutcome {
    Added,
    AlreadyThere,
    /// A server showed this key and waited for approval: it is approved now, and the line is kept.
    Approved,
    /// It contradicts the approved key of a server; nothing was changed.
    Conflict,
    Unreadable,
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineReport {
    /// From 1.
    pub line: usize,
    pub outcome: LineOutcome,
    /// Empty, `cert-authority` or `revoked`.
    pub marker: &'static str,
    /// The first field, shortened; a hashed name stays hashed.
    pub hosts: String,
    pub algorithm: String,
    pub fingerprint: String,
    /// Enrolled servers that the line concerns, by name.
    pub servers: Vec<String>,
    /// A sentence for a person.
    pub detail: String,
}

/// What an import did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    pub dry_run: bool,
    pub added: usize,
    pub already_there: usize,
    pub approved: usize,
    pub conflicts: usize,
    pub unreadable: usize,
    pub lines: Vec<LineReport>,
}

/// A kept line as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownHostLine {
    pub id: KnownHostId,
    /// Empty, `cert-authority` or `revoked`.
    pub marker: String,
    pub hosts: String,
    pub host_key: String,
    pub algorithm: String,
    pub fingerprint: String,
    /// Enrolled servers that it concerns, by name.
    pub servers: Vec<String>,
    pub created_at: Timestamp,
    pub created_by: String,
}

/// A kept line, read.
struct Known {
    mark: Mark,
    hosts: String,
    key: HostKey,
}

impl Known {
    fn of(stored: &StoredLine) -> Result<Self, StoreError> {
        let corrupt = |what: String| StoreError::Corrupt(format!("known host {}: {what}", stored.id));
        Ok(Self {
            mark: Mark::parse(&stored.marker).ok_or_else(|| corrupt(format!("marker {}", stored.marker)))?,
            hosts: stored.hosts.clone(),
            key: HostKey::parse(&stored.host_key).map_err(|error| corrupt(error.to_string()))?,
        })
    }

    fn is_about(&self, host: &str, port: Port) -> bool {
        known_hosts::matches(&self.hosts, self.mark, host, port)
    }
}

/// The lines of an organization that mark authorities and revoked keys.
#[derive(Clone)]
pub(super) struct Marked(Arc<Vec<Known>>);

impl Marked {
    /// What is trusted or refused at a place beyond the pinned key.
    pub(super) async fn trust_at(&self, host: &str, port: Port) -> Result<Trust, FleetError> {
        let host = host.trim_matches(['[', ']']).to_owned();
        if self.0.is_empty() {
            return Ok(trust_in(&[], &host, port));
        }
        let lines = Arc::clone(&self.0);
        aside(move || trust_in(&lines, &host, port)).await
    }
}

/// An enrolled server as far as a line concerns it.
struct Place {
    entry: Arc<Entry>,
    name: String,
    host: String,
    port: Port,
    pinned: Option<HostKey>,
    offered: Option<HostKey>,
}

impl Place {
    fn of(entry: Arc<Entry>) -> Option<Self> {
        let (name, host, port, pinned, offered) = {
            let live = entry.live();
            let host = live.server.ssh_host()?;
            let host = host.trim_matches(['[', ']']).to_owned();
            let name = live.server.name.to_string();
            (name, host, live.server.port, live.host_key.clone(), live.offered_host_key.clone())
        };
        Some(Self { entry, name, host, port, pinned, offered })
    }
}

impl Fleet {
    /// What is trusted or refused at a place beyond the pinned key.
    pub(super) async fn trust_of(
        &self,
        organization: OrganizationId,
        host: &str,
        port: Port,
    ) -> Result<Trust, FleetError> {
        self.marked(organization).await?.trust_at(host, port).await
    }

    pub(super) async fn marked(&self, organization: OrganizationId) -> Result<Marked, FleetError> {
        let stored = self.inner.store.read(move |c| lines::marked(c, organization)).await?;
        if stored.is_empty() {
            return Ok(Marked(Arc::default()));
        }
        Ok(Marked(Arc::new(aside(move || read(&stored)).await??)))
    }

    /// What is revoked at each of these places, in their order: one read of the lines for all of them.
    pub(super) async fn revoked_at(
        &self,
        organization: OrganizationId,
        places: Vec<(String, Port)>,
    ) -> Result<Vec<Arc<[HostKey]>>, FleetError> {
        let stored = self.inner.store.read(move |c| lines::marked(c, organization)).await?;
        aside(move || {
            let marked = read(&stored)?;
            let at =
                |(host, port): (String, Port)| trust_in(&marked, host.trim_matches(['[', ']']), port).revoked;
            Ok(places.into_iter().map(at).collect())
        })
        .await?
    }

    /// # Errors
    /// [`FleetError::Invalid`] for a key that an imported line marks as revoked.
    pub(super) async fn refuse_revoked(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        key: &HostKey,
    ) -> Result<(), FleetError> {
        let Some(place) = Place::of(Arc::clone(entry)) else { return Ok(()) };
        let trust = self.trust_of(caller.organization, &place.host, place.port).await?;
        if trust.revoked.contains(key) {
            return Err(FleetError::invalid(
                "host_key",
                "an imported known_hosts line marks this key as revoked; whoever shows it cannot be trusted",
            ));
        }
        Ok(())
    }

    /// The kept lines about a target, as a file would hold them. Empty: there are none.
    pub(super) async fn imported_lines(
        &self,
        organization: OrganizationId,
        target: &Target,
    ) -> Result<String, FleetError> {
        let stored = self.inner.store.read(move |c| lines::all(c, organization)).await?;
        let (host, port) = (target.bare_host().to_owned(), target.port);
        aside(move || {
            let mut text = String::new();
            for line in &stored {
                let known = Known::of(line)?;
                if known.is_about(&host, port) {
                    let marker =
                        if line.marker.is_empty() { String::new() } else { format!("@{} ", line.marker) };
                    text.push_str(&format!("{marker}{} {}\n", line.hosts, line.host_key));
                }
            }
            Ok(text)
        })
        .await?
    }

    fn places(&self, caller: &Caller) -> Vec<Place> {
        self.inner.registry.of(caller).into_iter().filter_map(Place::of).collect()
    }

    /// The imported lines, newest first, from `start` on and at most `limit`; and how many there are in all. Only these are
    /// compared with the servers.
    ///
    /// # Errors
    /// [`FleetError::Auth`] below viewer.
    pub async fn known_hosts(
        &self,
        caller: &Caller,
        start: usize,
        limit: usize,
    ) -> Result<(Vec<KnownHostLine>, usize), FleetError> {
        auth::require(caller, Role::Viewer)?;
        let organization = caller.organization;
        let stored = self.inner.store.read(move |c| lines::all(c, organization)).await?;
        let places = self.places(caller);
        let total = stored.len();
        let shown = move |line: StoredLine| -> Result<KnownHostLine, FleetError> {
            let known = Known::of(&line)?;
            let about = places.iter().filter(|place| known.is_about(&place.host, place.port));
            Ok(KnownHostLine {
                servers: about.take(SERVERS_NAMED).map(|place| place.name.clone()).collect(),
                algorithm: known.key.algorithm().to_owned(),
                fingerprint: known.key.fingerprint(),
                id: line.id,
                marker: line.marker,
                hosts: line.hosts,
                host_key: line.host_key,
                created_at: line.created_at,
                created_by: line.created_by,
            })
        };
        aside(move || {
            let lines = stored.into_iter().skip(start).take(limit).map(shown);
            Ok((lines.collect::<Result<_, FleetError>>()?, total))
        })
        .await?
    }

    /// Takes in the lines of a known_hosts file and says what became of each. A dry run changes nothing.
    ///
    /// # Errors
    /// [`FleetError::Auth`] below admin, [`FleetError::Invalid`] for a text without any line.
    pub async fn import_known_hosts(
        &self,
        caller: &Caller,
        text: &str,
        dry_run: bool,
    ) -> Result<ImportReport, FleetError> {
        auth::require(caller, Role::Admin)?;
        let parsed = known_hosts::parse(text);
        if parsed.is_empty() {
            return Err(FleetError::invalid("text", "there is no line of a known_hosts file in it"));
        }
        let organization = caller.organization;
        let stored = self.inner.store.read(move |c| lines::all(c, organization)).await?;
        let already = stored.len();
        let mut seen: std::collections::HashSet<(String, String, String)> =
            stored.into_iter().map(|line| (line.marker, line.hosts, line.host_key)).collect();
        let places = self.places(caller);
        let (mut reports, mut kept, mut approvals) =
            (Vec::with_capacity(parsed.len()), Vec::new(), Vec::new());
        for line in parsed {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    reports.push(unreadable(error.line, error.cause));
                    continue;
                }
            };
            let fresh = seen.insert((line.mark.name().to_owned(), line.hosts.clone(), line.key.to_string()));
            let (report, approved) = judged(&line, &places, fresh);
            let (outcome, identity) =
                (report.outcome, (line.mark.name().to_owned(), line.hosts.clone(), line.key.to_string()));
            match outcome {
                LineOutcome::Added | LineOutcome::Approved => kept.push(line),
                // It is not kept, so the same line once more contradicts as well.
                LineOutcome::Conflict => drop(seen.remove(&identity)),
                LineOutcome::AlreadyThere | LineOutcome::Unreadable => {}
            }
            approvals.extend(approved);
            reports.push(report);
        }
        if already + kept.len() > LINES_KEPT {
            return Err(FleetError::invalid(
                "text",
                format!(
                    "{already} lines are kept already, and {LINES_KEPT} can be; remove some, or import fewer"
                ),
            ));
        }
        if !dry_run {
            self.keep_lines(caller, &kept).await?;
            for (name, key) in approvals {
                // It may show another key, or be gone, by now: then a person looks at it as before.
                if let Err(error) = self.approve_host_key(caller, &name, &key.to_string()).await {
                    tracing::info!(server = name, %error, "an imported key was not approved");
                }
            }
            self.trust_changed(caller, &kept.iter().map(known_of).collect::<Vec<_>>()).await?;
        }
        let count = |outcome| reports.iter().filter(|report| report.outcome == outcome).count();
        Ok(ImportReport {
            dry_run,
            added: count(LineOutcome::Added),
            already_there: count(LineOutcome::AlreadyThere),
            approved: count(LineOutcome::Approved),
            conflicts: count(LineOutcome::Conflict),
            unreadable: count(LineOutcome::Unreadable),
            lines: reports,
        })
    }

    async fn keep_lines(&self, caller: &Caller, kept: &[KnownLine]) -> Result<(), FleetError> {
        if kept.is_empty() {
            return Ok(());
        }
        let now = self.inner.clock.now();
        let stored: Vec<StoredLine> = kept
            .iter()
            .map(|line| StoredLine {
                id: KnownHostId::new(self.inner.clock.new_uuid()),
                organization: caller.organization,
                marker: line.mark.name().to_owned(),
                hosts: line.hosts.clone(),
                host_key: line.key.to_string(),
                created_at: now,
                created_by: caller.actor.to_string(),
            })
            .collect();
        let count = |mark| kept.iter().filter(|line| line.mark == mark).count();
        let record = AuditEntry::by(caller, "known-hosts.import", &format!("{} lines", kept.len()))
            .detail(format!("{} authorities, {} revoked", count(Mark::CertAuthority), count(Mark::Revoked)));
        let keep = move |tx: &Transaction<'_>| {
            for line in &stored {
                lines::insert(tx, line)?;
            }
            audit::append(tx, now, &record)
        };
        Ok(self.inner.store.write(keep).await?)
    }

    /// Forgets one imported line. Keys that were approved by it stay approved.
    ///
    /// # Errors
    /// [`FleetError::NoSuchKnownHost`].
    pub async fn remove_known_host(&self, caller: &Caller, id: &str) -> Result<(), FleetError> {
        auth::require(caller, Role::Admin)?;
        let unknown = || FleetError::NoSuchKnownHost(id.chars().take(80).collect());
        let wanted: KnownHostId = id.parse().map_err(|_| unknown())?;
        let organization = caller.organization;
        let stored = self.inner.store.read(move |c| lines::all(c, organization)).await?;
        let line = stored.into_iter().find(|line| line.id == wanted).ok_or_else(unknown)?;
        let now = self.inner.clock.now();
        let known = Known::of(&line)?;
        let record =
            AuditEntry::by(caller, "known-hosts.remove", &crate::model::shown(&line.hosts, HOSTS_CHARS))
                .detail(format!("{} {}", line.marker, known.key.fingerprint()).trim().to_owned());
        let removed = self.inner.store.write(move |tx| {
            lines::remove(tx, organization, wanted)?;
            audit::append(tx, now, &record)
        });
        removed.await.map_err(|error| match error {
            StoreError::NotFound => unknown(),
            other => FleetError::Store(other),
        })?;
        self.trust_changed(caller, &[known]).await
    }

    /// Servers that these authorities and revocations are about log in by them from now on; one whose key is revoked is
    /// left at once.
    async fn trust_changed(&self, caller: &Caller, changed: &[Known]) -> Result<(), FleetError> {
        let marked: Vec<&Known> = changed.iter().filter(|known| known.mark != Mark::None).collect();
        if marked.is_empty() {
            return Ok(());
        }
        for place in self.places(caller) {
            let entry = place.entry;
            if !marked.iter().any(|known| known.is_about(&place.host, place.port)) {
                continue;
            }
            let trust = self.trust_of(caller.organization, &place.host, place.port).await?;
            if place.pinned.as_ref().is_some_and(|pinned| trust.revoked.contains(pinned)) {
                entry.acting.close();
                self.poll(&entry, None).await?;
                continue;
            }
            for (session, purpose) in
                [(entry.session(), Purpose::Readings), (entry.acting.session(), Purpose::Actions)]
            {
                if let Some(session) = session
                    && let Some(target) = self.target_of(&entry, purpose).await?
                {
                    session.renew(target).await;
                }
            }
        }
        Ok(())
    }
}

/// Does what takes long, such as an HMAC for each hashed name, where it holds up no request.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FleetError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| FleetError::Unavailable(format!("the lines could not be looked at: {error}")))
}

fn read(stored: &[StoredLine]) -> Result<Vec<Known>, FleetError> {
    Ok(stored.iter().map(Known::of).collect::<Result<_, _>>()?)
}

fn trust_in(marked: &[Known], host: &str, port: Port) -> Trust {
    let keys = |mark: Mark| -> Vec<HostKey> {
        let about = marked.iter().filter(|known| known.mark == mark && known.is_about(host, port));
        about.map(|known| known.key.clone()).collect()
    };
    Trust { authorities: keys(Mark::CertAuthority).into(), revoked: keys(Mark::Revoked).into() }
}

fn known_of(line: &KnownLine) -> Known {
    Known { mark: line.mark, hosts: line.hosts.clone(), key: line.key.clone() }
}

/// Whether imported lines know this very key for a target.
pub(super) fn knows(imported: &str, target: &Target, seen: &HostKey) -> bool {
    let known = known_hosts::lookup(imported, target.bare_host(), target.port);
    known.iter().any(|entry| !entry.revoked && entry.key == *seen)
        && !known.iter().any(|entry| entry.revoked && entry.key == *seen)
}

/// Two texts of lines as one. None: both are empty.
pub(super) fn joined(own: Option<&str>, imported: &str) -> Option<String> {
    match (own, imported) {
        (None, "") => None,
        (None, imported) => Some(imported.to_owned()),
        (Some(own), imported) => Some(format!("{own}\n{imported}")),
    }
}

fn unreadable(line: usize, cause: &str) -> LineReport {
    LineReport {
        line,
        outcome: LineOutcome::Unreadable,
        marker: "",
        hosts: String::new(),
        algorithm: String::new(),
        fingerprint: String::new(),
        servers: Vec::new(),
        detail: cause.to_owned(),
    }
}

/// What becomes of a line, and which waiting servers it approves.
fn judged(line: &KnownLine, places: &[Place], fresh: bool) -> (LineReport, Vec<(String, HostKey)>) {
    let about: Vec<&Place> = places
        .iter()
        .filter(|place| known_hosts::matches(&line.hosts, line.mark, &place.host, place.port))
        .collect();
    let names = |places: &[&Place]| -> Vec<String> {
        places.iter().take(SERVERS_NAMED).map(|place| place.name.clone()).collect()
    };
    let has_key =
        |place: &&&Place| [&place.pinned, &place.offered].into_iter().flatten().any(|key| *key == line.key);
    let mut approved = Vec::new();
    let (outcome, servers, detail) = match line.mark {
        Mark::Revoked => {
            let hit: Vec<&Place> = about.iter().filter(has_key).copied().collect();
            let detail = match names(&hit).as_slice() {
                [] => "no enrolled server has this key".to_owned(),
                names => format!("the key of {}: refused from now on", names.join(", ")),
            };
            (LineOutcome::Added, hit, detail)
        }
        Mark::CertAuthority => {
            let detail = format!("an authority for {} enrolled servers", about.len());
            (LineOutcome::Added, about, detail)
        }
        Mark::None => {
            let conflicts: Vec<&Place> = about
                .iter()
                .filter(|place| {
                    place.pinned.as_ref().is_some_and(|pinned| {
                        *pinned != line.key && pinned.algorithm() == line.key.algorithm()
                    })
                })
                .copied()
                .collect();
            let waiting: Vec<&Place> = about
                .iter()
                .filter(|place| place.pinned.is_none() && place.offered.as_ref() == Some(&line.key))
                .copied()
                .collect();
            let pinned: Vec<&Place> =
                about.iter().filter(|place| place.pinned.as_ref() == Some(&line.key)).copied().collect();
            if !conflicts.is_empty() {
                let detail = format!(
                    "another key is approved for {}; nothing was changed",
                    names(&conflicts).join(", ")
                );
                (LineOutcome::Conflict, conflicts, detail)
            } else if !waiting.is_empty() {
                approved.extend(waiting.iter().map(|place| (place.name.clone(), line.key.clone())));
                let detail = format!("the key that {} shows: approved", names(&waiting).join(", "));
                (LineOutcome::Approved, waiting, detail)
            } else if !pinned.is_empty() {
                let detail = format!("the approved key of {}", names(&pinned).join(", "));
                (LineOutcome::Added, pinned, detail)
            } else {
                (LineOutcome::Added, about, "counts as approved when such a server is enrolled".to_owned())
            }
        }
    };
    let outcome = if !fresh && outcome == LineOutcome::Added { LineOutcome::AlreadyThere } else { outcome };
    let report = LineReport {
        line: line.line,
        outcome,
        marker: line.mark.name(),
        hosts: crate::model::shown(&line.hosts, HOSTS_CHARS),
        algorithm: line.key.algorithm().to_owned(),
        fingerprint: line.key.fingerprint(),
        servers: names(&servers),
        detail,
    };
    (report, approved)
}
