//! What tests of the whole stand on: real SSH daemons, the program in this process, the program as a child.
//!
//! Each test program uses a part of this, so it says
//! `#[expect(dead_code, reason = "this program uses a part of the harness")] mod support;`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a harness that cannot do its work fails the test, and shows the daemon's log"
)]

pub(crate) mod agent;
pub(crate) mod app;
pub(crate) mod credentials;
pub(crate) mod namespaces;
pub(crate) mod processes;
pub(crate) mod program;
pub(crate) mod reach;
pub(crate) mod rounds;
pub(crate) mod socket;
pub(crate) mod sshd;

use std::future::Future;
use std::time::Duration;

/// Longer than anything may take on a loaded two-core machine; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, for things that nobody announces: a process that goes, a line in a log.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `future`, or a failed test.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for: {what}"),
    }
}
