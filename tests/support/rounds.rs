//! Whether readings arrive, and arrive on time.

use std::time::Duration;

use roundsman::fleet::ServerState;
use roundsman::model::{Event, Timestamp};
use tokio::sync::broadcast::Receiver;

use super::app::TestApp;
use super::in_time;

/// A reading may be this late on a loaded machine before it counts as disturbed.
const LATE: Duration = Duration::from_millis(1500);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// When readings of this server arrived, among what the receiver has kept.
fn readings(events: &mut Receiver<Event>, of: &ServerState) -> Vec<Timestamp> {
    let mut found = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::Reading { server, at, .. } = event
            && server == of.server.id
        {
            found.push(at);
        }
    }
    found
}

/// Readings came every second, from the first to now.
pub(crate) fn assert_on_time(app: &TestApp, events: &mut Receiver<Event>, of: &ServerState) {
    let mut times = readings(events, of);
    times.push(app.services.clock.now());
    assert!(times.len() > 2, "{times:?}");
    for pair in times.windows(2) {
        assert!(pair[1].since(pair[0]) <= SECOND + LATE, "{times:?}");
    }
}

/// Waits for `count` more readings of the server.
pub(crate) async fn rounds(app: &TestApp, of: &ServerState, count: usize) {
    let mut events = app.services.fleet.subscribe();
    let mut seen = 0;
    in_time("readings", async {
        while seen < count {
            if let Ok(Event::Reading { server, .. }) = events.recv().await
                && server == of.server.id
            {
                seen += 1;
            }
        }
    })
    .await;
}
