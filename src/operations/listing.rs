//! What is known of operations: one with its targets, lists of them, the records of commands.

use std::collections::HashMap;

use super::{OperationError, OperationView, Operations, TargetView};
use crate::auth;
use crate::model::{Caller, OperationId, OperationStatus, Role, Timestamp, shown};
use crate::store::StoreError;
use crate::store::operations::{self as rows, CommandRecord, OperationFilter};

/// Words of one condition at most; there are fewer states and kinds than that.
const WORDS: usize = 20;
/// Longest word that is repeated in a refusal.
const SHOWN_CHARS: usize = 40;

/// Which operations are meant, in the words of the one who asks; everything that is given has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationQuery {
    /// Any of these.
    pub statuses: Vec<OperationStatus>,
    /// Any of these: `run_command`.
    pub kinds: Vec<String>,
    /// Id or name; the id of one that was removed too.
    pub server: Option<String>,
    /// As operations name it: `anna`, `token:deploy`.
    pub initiated_by: Option<String>,
    /// Begun at or after this.
    pub from: Option<Timestamp>,
    /// Begun before this.
    pub to: Option<Timestamp>,
}

impl OperationQuery {
    /// From words as addresses and forms name them: `status` and `action` (several with commas), `server`, `initiated_by`,
    /// `from`, `to`. What is empty is not given.
    ///
    /// # Errors
    /// [`OperationError::InvalidQuery`] names the word and what would be accepted.
    pub fn parse<'a>(given: impl Fn(&str) -> Option<&'a str>) -> Result<Self, OperationError> {
        let text = |name: &str| given(name).map(str::trim).filter(|text| !text.is_empty());
        let words = |name: &'static str| -> Result<Vec<&str>, OperationError> {
            let words: Vec<&str> =
                text(name).unwrap_or_default().split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
            if words.len() > WORDS {
                return Err(invalid(name, format!("name at most {WORDS}")));
            }
            Ok(words)
        };
        let time = |name: &'static str| {
            let wrong = || invalid(name, "use RFC 3339 such as 2026-01-31T08:00:00Z, or Unix time");
            text(name).map(|text| Timestamp::parse(text).ok_or_else(wrong)).transpose()
        };
        let statuses = words("status")?.into_iter().map(|word| {
            word.parse().map_err(|_| {
                let known: Vec<&str> = OperationStatus::ALL.iter().map(|status| status.name()).collect();
                invalid("status", format!("'{}' is none; use {}", shown(word, SHOWN_CHARS), known.join(", ")))
            })
        });
        let query = Self {
            statuses: statuses.collect::<Result<_, _>>()?,
            kinds: words("action")?.into_iter().map(kind).collect(),
            server: text("server").map(ToOwned::to_owned),
            initiated_by: text("initiated_by").map(ToOwned::to_owned),
            from: time("from")?,
            to: time("to")?,
        };
        match (query.from, query.to) {
            (Some(from), Some(to)) if to <= from => Err(invalid(
                "from",
                format!("the span ends ({to}) before it begins ({from}); swap from and to"),
            )),
            _ => Ok(query),
        }
    }
}

fn invalid(field: &'static str, message: impl Into<String>) -> OperationError {
    OperationError::InvalidQuery { field, message: message.into() }
}

/// Older words name several services where one is meant.
fn kind(word: &str) -> String {
    match word.strip_suffix("_services") {
        Some(verb) => format!("{verb}_service"),
        None => word.to_owned(),
    }
}

impl Operations {
    /// One operation of the caller's organization.
    ///
    /// # Errors
    /// [`OperationError::NoSuchOperation`].
    pub async fn get(&self, caller: &Caller, id: &str) -> Result<OperationView, OperationError> {
        auth::require(caller, Role::Viewer)?;
        let unknown = || OperationError::NoSuchOperation(id.chars().take(80).collect());
        let wanted: OperationId = id.parse().map_err(|_| unknown())?;
        let organization = caller.organization;
        // Taken before the rows are read: if it ends in between, the rows are complete.
        let running = self.find_running(wanted);
        let found = self
            .inner
            .store
            .read(move |c| {
                let Some(operation) = rows::by_id(c, organization, wanted)? else {
                    return Ok::<_, StoreError>(None);
                };
                let targets = rows::targets(c, wanted)?;
                let records = rows::records_of_operation(c, &targets)?;
                Ok(Some((operation, targets, records)))
            })
            .await?;
        let (operation, targets, records) = found.ok_or_else(unknown)?;
        let mut records: HashMap<_, _> = records.into_iter().map(|record| (record.id, record)).collect();
        let mut views: Vec<TargetView> = targets
            .into_iter()
            .map(|target| TargetView { record: target.record.and_then(|id| records.remove(&id)), target })
            .collect();
        if let Some(running) = running {
            running.ledger.add_live_output(&mut views);
        }
        let archived = self.archived(&operation).await?;
        Ok(OperationView { operation, targets: views, archived })
    }

    /// The operations of the caller's organization, newest first.
    ///
    /// # Errors
    /// [`OperationError::Store`].
    pub async fn list(
        &self,
        caller: &Caller,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<OperationView>, OperationError> {
        self.find(caller, &OperationQuery::default(), limit, offset).await
    }

    /// As [`Self::list`], of those that are meant.
    ///
    /// # Errors
    /// [`OperationError::Fleet`] for a server that never was; [`OperationError::Store`].
    pub async fn find(
        &self,
        caller: &Caller,
        query: &OperationQuery,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<OperationView>, OperationError> {
        auth::require(caller, Role::Viewer)?;
        let organization = caller.organization;
        let server = match query.server.as_deref() {
            None => None,
            Some(reference) => Some(match (self.inner.fleet.get(caller, reference), reference.parse()) {
                (Ok(state), _) => state.server.id,
                (Err(_), Ok(removed)) => removed,
                (Err(error), Err(_)) => return Err(error.into()),
            }),
        };
        let filter = OperationFilter {
            statuses: query.statuses.clone(),
            kinds: query.kinds.clone(),
            server,
            initiated_by: query.initiated_by.clone(),
            from: query.from,
            to: query.to,
        };
        let found = self
            .inner
            .store
            .read(move |c| {
                let operations = rows::list(c, organization, &filter, limit, offset)?;
                operations
                    .into_iter()
                    .map(|operation| {
                        let targets = rows::targets(c, operation.id)?
                            .into_iter()
                            .map(|target| TargetView { target, record: None })
                            .collect();
                        Ok(OperationView { operation, targets, archived: Vec::new() })
                    })
                    .collect::<Result<Vec<_>, StoreError>>()
            })
            .await?;
        Ok(found)
    }

    /// The records of the commands that a server got, newest first.
    ///
    /// # Errors
    /// [`OperationError::Fleet`] for an unknown server.
    pub async fn records(
        &self,
        caller: &Caller,
        reference: &str,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<CommandRecord>, OperationError> {
        auth::require(caller, Role::Viewer)?;
        let server = self.inner.fleet.get(caller, reference)?.server.id;
        let organization = caller.organization;
        Ok(self
            .inner
            .store
            .read(move |c| rows::records_of_server(c, organization, server, limit, offset))
            .await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &'static str)]) -> Result<OperationQuery, OperationError> {
        OperationQuery::parse(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, text)| *text))
    }

    #[test]
    fn conditions_are_read_as_addresses_and_forms_write_them() {
        let query =
            parse(&[("status", "failed, partial"), ("action", "restart_services"), ("server", " ")]).unwrap();
        assert_eq!(query.statuses, [OperationStatus::Failed, OperationStatus::Partial]);
        assert_eq!((query.kinds.as_slice(), query.server), (&["restart_service".to_owned()][..], None));
        assert_eq!(parse(&[]).unwrap(), OperationQuery::default());
    }

    #[test]
    fn what_is_no_condition_is_named_with_what_would_be() {
        for (field, text, words) in [
            ("status", "done", "use pending, running"),
            ("from", "yesterday", "RFC 3339"),
            ("action", "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a", "at most 20"),
        ] {
            let refused = parse(&[(field, text)]).unwrap_err().to_string();
            assert!(refused.contains(field) && refused.contains(words), "{refused}");
        }
        assert!(parse(&[("from", "20"), ("to", "10")]).unwrap_err().to_string().contains("swap"));
    }
}
