//! What this process uses, as the client libraries of Prometheus name it.
//!
//! Source: proc(5).

use super::exposition::{Family, Sink};

/// `USER_HZ`, in which the kernel tells every process its times, is 100 on all architectures that Roundsman runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Use of this process. None: `/proc` does not say.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub threads: Option<u64>,
}

impl Usage {
    /// Reads `/proc/self`; some microseconds.
    #[must_use]
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let open_files =
            std::fs::read_dir("/proc/self/fd").ok().and_then(|files| u64::try_from(files.count()).ok());
        Self { open_files, ..Self::parse(&stat, &status) }
    }

    fn parse(stat: &str, status: &str) -> Self {
        // The name in brackets may hold anything; what counts comes after the last bracket.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or_else(Vec::new, |(_, rest)| rest.split_ascii_whitespace().collect());
        let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
        let row = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        Self {
            cpu_seconds: ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            resident_bytes: row("VmRSS").and_then(|kibibytes| kibibytes.checked_mul(1024)),
            open_files: None,
            threads: row("Threads"),
        }
    }

    pub(super) fn write(&self, sink: &mut impl Sink) {
        #[expect(clippy::cast_precision_loss, reason = "a sample of Prometheus is a double")]
        let number = |value: Option<u64>| value.map(|value| value as f64);
        let rows = [
            (
                Family::counter(
                    "process_cpu_seconds_total",
                    "Total user and system CPU time spent in seconds.",
                ),
                self.cpu_seconds,
            ),
            (
                Family::gauge("process_resident_memory_bytes", "Resident memory size in bytes."),
                number(self.resident_bytes),
            ),
            (Family::gauge("process_open_fds", "Number of open file descriptors."), number(self.open_files)),
            (Family::gauge("process_threads", "Number of threads."), number(self.threads)),
        ];
        for (family, value) in rows {
            if let Some(value) = value {
                sink.sample(&family, &[], value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_s_own_use_is_read_past_a_strange_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 100";
        let usage = Usage::parse(stat, "Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t7\n");
        assert_eq!(usage.cpu_seconds, Some(3.0));
        assert_eq!(usage.resident_bytes, Some(2 << 20));
        assert_eq!(usage.threads, Some(7));
        assert!(Usage::now().open_files.is_some_and(|files| files > 2));
    }
}
