//! TCP sockets by their state: `/proc/net/tcp` and `/proc/net/tcp6`, counted while they are read, so that nothing of
//! them stands in memory. Pure.
//!
//! The kernel goes through its whole table for each of the two files (some milliseconds on a large machine, with or without
//! sockets) and writes 150 bytes a socket, so they are read seldom, and not at all where there are very many sockets.

use super::network::socket_field;
use crate::limits;
use crate::snapshot::TcpStates;
use crate::text::lines;

/// What is walked. Source: proc_pid_net(5); Documentation/networking/proc_net_tcp.rst.
pub const FILES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// Before the walk: how many sockets there are about.
pub const SUMMARIES: [&str; 2] = ["/proc/net/sockstat", "/proc/net/sockstat6"];

/// There is no such file, or no leave to read it.
pub const UNREADABLE: &str = "the states of its TCP sockets are not known: /proc/net/tcp cannot be read";

const NO_AWK: &str = "the states of its TCP sockets are not counted: there is no awk; deploy the agent, or install mawk, gawk or \
                      BusyBox";

/// What a walk came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Walk {
    Counted(TcpStates),
    /// More than [`limits::SOCKETS`]; they were not counted.
    TooMany,
    /// Why nothing was counted, in a sentence.
    Unknown(String),
}

impl Walk {
    /// The states, or why they are not known.
    ///
    /// # Errors
    /// One sentence for a person.
    pub fn states(&self) -> Result<TcpStates, String> {
        match self {
            Self::Counted(states) => Ok(states.clone()),
            Self::TooMany => Err(format!(
                "the states of its TCP sockets are not counted: there are more than {}, and going through all of them would cost \
                 the server too much; established, TIME-WAIT and in use are known nevertheless",
                limits::SOCKETS
            )),
            Self::Unknown(reason) => Err(reason.clone()),
        }
    }
}

/// Sockets in use and in TIME-WAIT, as the two files of [`SUMMARIES`] say. What waits for its handshake is not among
/// them. `None`: they say nothing.
#[must_use]
pub fn expected(sockstat: Option<&[u8]>, sockstat6: Option<&[u8]>) -> Option<u64> {
    let of = |file: Option<&[u8]>, family: &str, name: &str| socket_field(file?, family, name);
    // TIME-WAIT of both families stands with the older one.
    let found = [of(sockstat, "TCP:", "inuse"), of(sockstat, "TCP:", "tw"), of(sockstat6, "TCP6:", "inuse")];
    found.into_iter().flatten().reduce(u64::saturating_add)
}

/// Adds `count` sockets in the state of this number. False: there is no such state.
/// Source: include/net/tcp_states.h.
fn add(states: &mut TcpStates, number: u8, count: u64) -> bool {
    let counter = match number {
        0x01 => &mut states.established,
        0x02 => &mut states.syn_sent,
        // The second is a handshake under way that has no socket yet; the kernel shows it as the first.
        0x03 | 0x0C => &mut states.syn_recv,
        0x04 => &mut states.fin_wait1,
        0x05 => &mut states.fin_wait2,
        0x06 => &mut states.time_wait,
        0x07 => &mut states.close,
        0x08 => &mut states.close_wait,
        0x09 => &mut states.last_ack,
        0x0A => &mut states.listen,
        0x0B => &mut states.closing,
        _ => return false,
    };
    *counter = counter.saturating_add(count);
    true
}

/// Counts the lines of the files, piece by piece as they are read.
#[derive(Debug, Clone, Default)]
pub struct Counter {
    states: TcpStates,
    sockets: u64,
    /// The word of the line that is under way: 0 is the space before the first.
    word: u8,
    in_word: bool,
    /// Hexadecimal digits of the fourth word so far. None: it is no number.
    state: Option<u8>,
}

/// The word of a line that is the state: after number, local and remote address.
const STATE_WORD: u8 = 4;

impl Counter {
    /// The next bytes of a file. False: there are too many sockets to go on.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b' ' => self.in_word = false,
                _ => self.letter(byte),
            }
        }
        self.sockets <= limits::SOCKETS
    }

    /// The end of a file; a line that was cut off is none.
    pub fn end_file(&mut self) {
        (self.word, self.in_word, self.state) = (0, false, None);
    }

    /// What was counted.
    #[must_use]
    pub fn walk(self) -> Walk {
        if self.sockets > limits::SOCKETS { Walk::TooMany } else { Walk::Counted(self.states) }
    }

    fn letter(&mut self, byte: u8) {
        let begins = !std::mem::replace(&mut self.in_word, true);
        self.word = self.word.saturating_add(u8::from(begins));
        if self.word == STATE_WORD {
            let digit = char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let before = if begins { Some(0) } else { self.state };
            self.state =
                before.zip(digit).and_then(|(before, digit)| before.checked_mul(16)?.checked_add(digit));
        }
    }

    /// The heading is a line whose fourth word is no number.
    fn end_line(&mut self) {
        if self.word >= STATE_WORD && self.state.is_some_and(|number| add(&mut self.states, number, 1)) {
            self.sockets = self.sockets.saturating_add(1);
        }
        self.end_file();
    }
}

/// What the shell probe's awk prints: `read`, then `0A 12`, a state and how many a line; or `over`; or `no-awk`.
#[must_use]
pub fn counted(printed: &[u8]) -> Walk {
    let mut states = TcpStates::default();
    let mut is_known = false;
    for line in lines(printed) {
        match line.split_once(' ') {
            None if line == "over" => return Walk::TooMany,
            None if line == "no-awk" => return Walk::Unknown(NO_AWK.to_owned()),
            // Says that the files were read, of which either may have no socket.
            None if line == "read" => is_known = true,
            None => {}
            Some((state, count)) => {
                if let (Ok(state), Ok(count)) = (u8::from_str_radix(state, 16), count.parse()) {
                    add(&mut states, state, count);
                }
            }
        }
    }
    if is_known { Walk::Counted(states) } else { Walk::Unknown(UNREADABLE.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn socket(state: &str) -> String {
        format!(
            "   0: 0100007F:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 17412 1 \
             0000000000000000 100 0 0 10 0                     \n"
        )
    }

    #[test]
    fn sockets_are_counted_by_state_however_the_file_is_cut() {
        let file: String = [HEAD.to_owned()]
            .into_iter()
            .chain(["0A", "0A", "01", "08", "08", "08", "0C", "06"].map(socket))
            .collect();
        let expected = TcpStates {
            listen: 2,
            established: 1,
            close_wait: 3,
            syn_recv: 1,
            time_wait: 1,
            ..TcpStates::default()
        };
        for size in [1, 7, 149, 150, 4096] {
            let mut counter = Counter::default();
            assert!(file.as_bytes().chunks(size).all(|piece| counter.feed(piece)));
            assert_eq!(counter.walk(), Walk::Counted(expected.clone()), "{size}");
        }
    }

    #[test]
    fn a_heading_a_cut_line_and_nonsense_are_no_sockets() {
        let mut counter = Counter::default();
        assert!(counter.feed(HEAD.as_bytes()) && counter.feed(b"a b c 0D\na b c 10A\na b c\n\n1: 2 3 01"));
        counter.end_file();
        assert!(counter.feed(b"\nx x x zz\n"));
        assert_eq!(counter.walk(), Walk::Counted(TcpStates::default()));
    }

    #[test]
    fn what_awk_prints_is_the_same_and_too_many_are_not_counted() {
        let expected = TcpStates { listen: 12, close_wait: 3, ..TcpStates::default() };
        assert_eq!(counted(b"read\n0A 12\n08 3\n0D 9\nx y\n"), Walk::Counted(expected));
        assert_eq!(counted(b"read\n"), Walk::Counted(TcpStates::default()), "none is known to be none");
        assert_eq!(counted(b"read\nover\n"), Walk::TooMany);
        assert!(counted(b"").states().unwrap_err().contains("cannot be read"));
        assert!(counted(b"no-awk\n").states().unwrap_err().contains("no awk"));
        let mut counter = Counter::default();
        let line = socket("01");
        let fed = (0..=limits::SOCKETS).take_while(|_| counter.feed(line.as_bytes())).count();
        assert_eq!(u64::try_from(fed).unwrap(), limits::SOCKETS);
        assert!(counter.walk().states().unwrap_err().contains("more than"));
    }

    #[test]
    fn the_number_of_sockets_is_expected_before_they_are_walked() {
        let v4 = b"sockets: used 9\nTCP: inuse 7 orphan 0 tw 2 alloc 31 mem 169\n";
        assert_eq!(expected(Some(v4), Some(b"TCP6: inuse 4\n")), Some(13));
        assert_eq!(expected(Some(v4), None), Some(9));
        assert_eq!(expected(None, None), None);
    }
}
