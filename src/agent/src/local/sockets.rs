//! Goes through the TCP sockets of this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};

use super::Reader;
use crate::limits;
use crate::proc::sockets;

impl Reader {
    /// TCP sockets by state, unless the summaries among `files` say that there are too many.
    pub(super) fn tcp_sockets(&self, files: &BTreeMap<String, Vec<u8>>) -> sockets::Walk {
        let [v4, v6] = sockets::SUMMARIES.map(|path| files.get(path).map(Vec::as_slice));
        if sockets::expected(v4, v6).is_some_and(|expected| expected > limits::SOCKETS) {
            return sockets::Walk::TooMany;
        }
        let mut counter = sockets::Counter::default();
        let mut is_known = false;
        for path in sockets::FILES {
            // The second is missing where IPv6 is off.
            let Ok(mut file) = File::open(self.path(path)) else { continue };
            let mut scratch = [0; 4096];
            loop {
                match file.read(&mut scratch) {
                    Ok(0) => break,
                    Ok(count) if counter.feed(scratch.get(..count).unwrap_or_default()) => {}
                    Ok(_) => return counter.walk(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return sockets::Walk::Unknown(format!("{path} cannot be read: {error}")),
                }
            }
            is_known = true;
            counter.end_file();
        }
        if is_known { counter.walk() } else { sockets::Walk::Unknown(sockets::UNREADABLE.to_owned()) }
    }
}
