//! How much disk each container takes: asked for once an hour, because the engine walks through all its files for it.
//!
//! With a command of its own, so that no reading waits for it.

use std::sync::Arc;
use std::time::Duration;

use roundsman_agent::proc::containers::sizes;
use tokio::sync::Semaphore;

use super::registry::Entry;
use super::{Fleet, Polling};
use crate::model::{Caller, Transport};
use crate::ssh::ExecRequest;

const EVERY: Duration = Duration::from_hours(1);
/// How often it is asked which servers are due.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A host with hundreds of large layers takes so long; more is not waited for.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Servers asked at the same time.
const AT_ONCE: usize = 8;
/// 100 bytes a container.
const OUTPUT_BYTES: usize = 256 * 1024;

/// For any POSIX sh; asks every engine whose socket the login may use, and prints ids and sizes only.
const COMMAND: &str = r#"for e in podman docker; do
  for d in /run /var/run "$XDG_RUNTIME_DIR"; do
    s=$d/$e.sock; [ $e = podman ] && s=$d/podman/podman.sock
    [ -S "$s" ] && [ -w "$s" ] || continue
    if command -v curl >/dev/null; then
      curl -s -m 50 --unix-socket "$s" 'http://d/containers/json?all=1&size=1'
    elif [ $e = docker ]; then
      docker -H "unix://$s" inspect --size --type container --format '{"Id":{{json .Id}},"SizeRw":{{json .SizeRw}}}' $(docker -H "unix://$s" ps -aq --no-trunc)
    fi
    break
  done
done | grep -oE '"Id":"[0-9a-f]{64}"|"SizeRw":[0-9]+'"#;

impl Fleet {
    pub(super) fn start_container_sizes(&self) {
        if self.inner.polling == Polling::Off {
            return;
        }
        let fleet = self.clone();
        self.inner.pollers.spawn(async move {
            let stop = fleet.inner.stop.clone();
            tokio::select! {
                () = fleet.ask_container_sizes() => {}
                () = stop.cancelled() => {}
            }
        });
    }

    async fn ask_container_sizes(&self) {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            for entry in self.inner.registry.all() {
                let is_due = {
                    let mut live = entry.live();
                    // A login of its own for this would be one that nobody asked for.
                    let is_at_hand = live.server.transport == Transport::Ssh && live.way.action.is_none();
                    is_at_hand && live.containers.sizes_are_due(EVERY)
                };
                if is_due {
                    let (fleet, permits) = (self.clone(), Arc::clone(&permits));
                    let stop = self.inner.stop.clone();
                    self.inner.pollers.spawn(async move {
                        tokio::select! {
                            () = fleet.ask_sizes(&entry, &permits) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Where no command can run, sizes stay unknown: the server's page says why nothing can be done there.
    async fn ask_sizes(&self, entry: &Entry, permits: &Semaphore) {
        let Ok(_permit) = permits.acquire().await else { return };
        let caller = Caller { organization: entry.server().organization, ..Caller::roundsman() };
        let asked = async {
            let hand = self.hand(&caller, entry.id).await?;
            let request = ExecRequest::new(COMMAND).timeout(TIME_LIMIT).output_limit(OUTPUT_BYTES);
            hand.exec(request).await.map_err(|error| error.to_string())
        };
        match asked.await {
            Ok(output) => entry.live().containers.set_sizes(sizes(&output.stdout)),
            Err(reason) => {
                tracing::debug!(server = %entry.server().name, reason, "the sizes of containers are not known");
            }
        }
    }
}
