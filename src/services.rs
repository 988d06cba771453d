//! The plain struct of handles that the web pages, the API and the command line receive.

use std::sync::Arc;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::export::Export;
use crate::fleet::Fleet;
use crate::model::Timestamp;
use crate::operations::Operations;
use crate::tasks::Tasks;

/// Version of the program, as `Cargo.toml` says it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Handles; clones share what is behind them.
#[derive(Debug, Clone)]
pub struct Services {
    pub auth: Auth,
    pub fleet: Fleet,
    pub operations: Operations,
    pub tasks: Tasks,
    pub export: Export,
    pub clock: Arc<dyn Clock>,
    pub started_at: Timestamp,
}
