//! What `systemctl show` says of services. Source: systemctl(1), org.freedesktop.systemd1(5).

use super::init::Clock;
use crate::limits;
use crate::snapshot::Service;
use crate::text::{clean, clean_some, lines};

/// Why there are no services where neither systemd, OpenRC nor SysV init runs.
pub const NO_MANAGER: &str = "no service manager runs here: neither systemd nor OpenRC nor SysV init";

/// Properties that are asked for; [`systemctl_show`] reads them in any order.
pub const PROPERTIES: &str = "Id,Description,LoadState,ActiveState,SubState,UnitFileState,MainPID,\
                              MemoryCurrent,NRestarts,StateChangeTimestampMonotonic";

/// Parses blocks of `Key=value` lines parted by blank lines. Units that are not loaded (only mentioned by
/// others) are left out. `boot_at_ms` is the Unix time of the boot, for "since".
#[must_use]
pub fn systemctl_show(bytes: &[u8], boot_at_ms: Option<u64>) -> Vec<Service> {
    let mut services = Vec::new();
    let mut block = Block::default();
    for line in lines(bytes) {
        if line.trim().is_empty() {
            services.extend(std::mem::take(&mut block).finish());
        } else if let Some((key, value)) = line.split_once('=') {
            block.set(key, value, boot_at_ms);
        }
        if services.len() >= limits::SERVICES {
            return services;
        }
    }
    services.extend(block.finish());
    services.shrink_to_fit();
    services
}

/// When a process that started so many ticks after the boot did so, Unix time in milliseconds.
#[must_use]
pub fn since(start_ticks: u64, clock: Clock) -> Option<u64> {
    let ticks_per_second = u64::from(clock.ticks_per_second.filter(|&ticks| ticks > 0)?);
    clock.boot_at_ms?.checked_add(start_ticks.checked_mul(1000)? / ticks_per_second)
}

#[derive(Debug, Default)]
struct Block {
    service: Service,
    loaded: bool,
}

impl Block {
    fn set(&mut self, key: &str, value: &str, boot_at_ms: Option<u64>) {
        let text = || clean(value.as_bytes(), limits::TEXT_BYTES);
        let service = &mut self.service;
        match key {
            "Id" => {
                service.name = value
                    .strip_suffix(".service")
                    .map_or_else(text, |stem| clean(stem.as_bytes(), limits::TEXT_BYTES))
            }
            "Description" => service.description = text(),
            "LoadState" => self.loaded = matches!(value, "loaded" | "masked" | "error" | "bad-setting"),
            "ActiveState" => service.state = text(),
            "SubState" => service.sub_state = text(),
            "UnitFileState" => service.enabled = clean_some(value.as_bytes(), limits::TEXT_BYTES),
            "MainPID" => service.main_pid = value.parse().ok().filter(|&pid| pid != 0),
            // Where accounting is off, systemd says "[not set]" or 2^64 - 1.
            "MemoryCurrent" => service.memory_bytes = value.parse().ok().filter(|&bytes| bytes != u64::MAX),
            "NRestarts" => service.restarts = value.parse().ok(),
            "StateChangeTimestampMonotonic" => {
                let after_boot_us: Option<u64> = value.parse().ok().filter(|&us| us > 0);
                service.since_ms =
                    after_boot_us.zip(boot_at_ms).and_then(|(us, boot)| boot.checked_add(us / 1000));
            }
            _ => {}
        }
    }

    fn finish(self) -> Option<Service> {
        (self.loaded && !self.service.name.is_empty() && !self.service.state.is_empty())
            .then_some(self.service)
    }
}
