//! Tells listeners which targets of an operation changed, many at a time: a thousand targets are no thousand events.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Operations;
use crate::model::{Event, OperationId, ServerId};
use crate::store::operations::Operation;

/// Changes within so long travel together; pages gather for longer still.
const GATHER: Duration = Duration::from_millis(50);

/// What changed and was not told yet.
#[derive(Debug, Default)]
pub(super) struct News(Mutex<HashMap<OperationId, HashSet<ServerId>>>);

impl News {
    /// True: nobody is about to tell it.
    fn add(&self, operation: OperationId, server: ServerId) -> bool {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = changed.entry(operation).or_default();
        servers.insert(server) && servers.len() == 1
    }

    fn take(&self, operation: OperationId) -> HashSet<ServerId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&operation).unwrap_or_default()
    }
}

/// Notes that a target changed; listeners hear of it within [`GATHER`].
pub(super) fn tell(operations: &Operations, operation: &Operation, server: ServerId) {
    if !operations.inner.news.add(operation.id, server) {
        return;
    }
    let (own, organization, id) = (operations.clone(), operation.organization, operation.id);
    operations.inner.tasks.spawn(async move {
        tokio::time::sleep(GATHER).await;
        let servers = own.inner.news.take(id).into_iter().collect();
        own.inner.fleet.publish(Event::Operation { organization, operation: id, servers });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn changes_are_gathered_until_somebody_tells_them() {
        let (news, operation) = (News::default(), OperationId::new(Uuid::from_u128(1)));
        let server = |number| ServerId::new(Uuid::from_u128(number));
        assert!(news.add(operation, server(1)));
        assert!(!news.add(operation, server(2)) && !news.add(operation, server(1)));
        assert_eq!(news.take(operation).len(), 2);
        assert!(news.take(operation).is_empty() && news.add(operation, server(1)));
    }
}
