//! Who is logged in: the session files of systemd-logind, or utmp.

use crate::limits;
use crate::snapshot::LoggedInUser;
use crate::text::{clean_some, lines};

/// One file of `/run/systemd/sessions`. `None`: not a person's session (a greeter, a manager), or closing.
/// The files are logind's own, but their shape has been the same since systemd 38.
#[must_use]
pub fn session(bytes: &[u8]) -> Option<LoggedInUser> {
    let value = |key: &str| {
        lines(bytes)
            .find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim_matches('"').to_owned()))
    };
    let text = |key: &str| value(key).and_then(|value| clean_some(value.as_bytes(), limits::TEXT_BYTES));
    let class = value("CLASS").unwrap_or_default();
    if !matches!(class.as_str(), "user" | "user-early" | "user-light" | "user-incomplete")
        || value("STATE").as_deref() == Some("closing")
    {
        return None;
    }
    Some(LoggedInUser {
        name: text("USER")?,
        terminal: text("TTY"),
        remote_host: text("REMOTE_HOST"),
        since_ms: value("REALTIME").and_then(|us| us.parse::<u64>().ok()).map(|us| us / 1000),
    })
}

/// Bytes of one utmp record where `ut_session` and the time have 32 bits (x86 and others, utmp(5)).
const RECORD_BYTES: usize = 384;
/// The same where they have 64 bits (aarch64, riscv64).
const RECORD_BYTES_64: usize = 400;
/// `ut_type` of a person's session.
const USER_PROCESS: u16 = 7;

/// Parses utmp, little-endian. The record's size is told from the file's: both sizes divide only files of
/// 24 records and more of one and the other, where 384 is taken.
#[must_use]
pub fn utmp(bytes: &[u8]) -> Vec<LoggedInUser> {
    let wide = bytes.len() % RECORD_BYTES != 0 && bytes.len() % RECORD_BYTES_64 == 0;
    let size = if wide { RECORD_BYTES_64 } else { RECORD_BYTES };
    bytes.chunks_exact(size).filter_map(|record| login(record, wide)).take(limits::USERS).collect()
}

fn login(record: &[u8], wide: bool) -> Option<LoggedInUser> {
    let kind = u16::from_le_bytes(record.get(..2)?.try_into().ok()?);
    let text = |from: usize, bytes: usize| {
        let field = record.get(from..from + bytes)?;
        clean_some(field.split(|&byte| byte == 0).next()?, limits::TEXT_BYTES)
    };
    let seconds = if wide {
        u64::from_le_bytes(record.get(344..352)?.try_into().ok()?)
    } else {
        u64::from(u32::from_le_bytes(record.get(340..344)?.try_into().ok()?))
    };
    if kind != USER_PROCESS {
        return None;
    }
    Some(LoggedInUser {
        name: text(44, 32)?,
        terminal: text(8, 32),
        remote_host: text(76, 256),
        since_ms: seconds.checked_mul(1000).filter(|&ms| ms > 0),
    })
}
