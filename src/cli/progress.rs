//! How far long work is: one line on a terminal, and nothing at all elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done by then needs no line, which would only flash.
const PATIENCE: Duration = Duration::from_millis(400);
/// Draws a second; more is only work for a terminal at the other end of a slow line.
const DRAWS_A_SECOND: u8 = 5;

/// A line that says how far something is. It is gone with its value.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    begun: Instant,
    is_shown: bool,
}

impl Progress {
    /// Of so many servers.
    pub(super) fn of_servers(total: usize) -> Self {
        Self::new(
            ProgressBar::hidden().with_style(style("{bar:30} {pos} of {len} servers{msg}")),
            u64::try_from(total).ok(),
        )
    }

    /// Of a file. None: its size is not known.
    pub(super) fn of_bytes(total_bytes: Option<u64>) -> Self {
        let form = match total_bytes {
            Some(_) => "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}{msg}",
            None => "{binary_bytes}, {binary_bytes_per_sec}{msg}",
        };
        Self::new(ProgressBar::hidden().with_style(style(form)), total_bytes)
    }

    fn new(bar: ProgressBar, total: Option<u64>) -> Self {
        if let Some(total) = total {
            bar.set_length(total);
        }
        Self { bar, begun: Instant::now(), is_shown: false }
    }

    /// So much is done; `remark` stands behind it.
    pub(super) fn at(&mut self, done: u64, remark: String) {
        if !self.is_shown {
            if self.begun.elapsed() < PATIENCE || !is_wanted() {
                return;
            }
            self.is_shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND));
        }
        self.bar.set_message(remark);
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A person looks, and the terminal can move its cursor.
fn is_wanted() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
    io::stderr().is_terminal() && io::stdout().is_terminal() && !is_dumb
}

/// The forms are this file's own; one that is wrong shows as the usual bar.
fn style(form: &str) -> ProgressStyle {
    ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_one_that_the_library_reads() {
        for form in [
            "{bar:30} {pos} of {len} servers{msg}",
            "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}{msg}",
            "{binary_bytes}, {binary_bytes_per_sec}{msg}",
        ] {
            assert!(ProgressStyle::with_template(form).is_ok(), "{form}");
        }
    }
}
