//! One process: `/proc/PID/stat`, `status`, `cmdline`. Source: proc_pid_stat(5).

use std::collections::HashMap;

use crate::limits;
use crate::snapshot::Process;
use crate::text::{clean, clean_some, lines};

/// The last field of `stat` that is wanted: resident pages.
const LAST_FIELD: usize = 24;

/// The files of one process as they were read; those that could not be are `None`.
#[derive(Debug, Clone, Copy)]
pub struct ProcessFiles<'a> {
    pub stat: &'a [u8],
    pub status: Option<&'a [u8]>,
    pub command_line: Option<&'a [u8]>,
}

/// Builds a process. `None`: `stat` is not that of a process (it ended while it was read).
#[must_use]
pub fn process(files: &ProcessFiles<'_>, page_bytes: u64, users: &HashMap<u32, String>) -> Option<Process> {
    let mut process = stat(files.stat, page_bytes)?;
    process.uid = files.status.and_then(uid);
    process.user = process.uid.and_then(|uid| users.get(&uid).cloned());
    process.command_line = files.command_line.and_then(command_line);
    Some(process)
}

/// The name stands in parentheses and may itself hold any byte but NUL, `)` and line breaks among them:
/// what follows is looked for after the last `)`.
fn stat(bytes: &[u8], page_bytes: u64) -> Option<Process> {
    let open = bytes.iter().position(|&byte| byte == b'(')?;
    let close = bytes.iter().rposition(|&byte| byte == b')')?;
    let pid = std::str::from_utf8(bytes.get(..open)?).ok()?.trim().parse().ok()?;
    let name = clean(bytes.get(open + 1..close)?, limits::TEXT_BYTES);
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    // proc_pid_stat(5) counts from 1; the state is field 3. A field that is not there stays empty, which is no number.
    let mut fields = [""; LAST_FIELD - 2];
    for (field, word) in fields.iter_mut().zip(rest.split_ascii_whitespace()) {
        *field = word;
    }
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Process {
        pid,
        parent_pid: u32::try_from(number(4)?).ok()?,
        uid: None,
        user: None,
        state: fields.first()?.chars().next().filter(char::is_ascii_graphic)?,
        name,
        command_line: None,
        user_ticks: number(14)?,
        system_ticks: number(15)?,
        threads: u32::try_from(number(20)?).ok()?,
        start_ticks: number(22)?,
        // A kernel thread, or one that is going, has 0; a broken kernel a negative number.
        rss_bytes: number(24).and_then(|pages| pages.checked_mul(page_bytes)).unwrap_or(0),
    })
}

/// The effective uid: second number of the `Uid:` line of `status`. `ps` and `top` show the same.
#[must_use]
pub fn uid(status: &[u8]) -> Option<u32> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Arguments are ended by NUL; a process may overwrite them with anything.
#[must_use]
pub fn command_line(bytes: &[u8]) -> Option<String> {
    let capped = bytes.get(..limits::COMMAND_LINE_BYTES.min(bytes.len()))?;
    let spaced: Vec<u8> = capped.iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect();
    clean_some(&spaced, limits::COMMAND_LINE_BYTES)
}

/// Names by uid out of `/etc/passwd`; the first of several wins, as in getpwuid(3).
#[must_use]
pub fn passwd(bytes: &[u8]) -> HashMap<u32, String> {
    let mut users = HashMap::new();
    for line in lines(bytes).take(limits::ACCOUNTS) {
        let mut fields = line.split(':');
        let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else { continue };
        if let (Some(name), Ok(uid)) = (clean_some(name.as_bytes(), limits::TEXT_BYTES), uid.parse()) {
            users.entry(uid).or_insert(name);
        }
    }
    users
}
